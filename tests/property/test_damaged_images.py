"""Images with random damage are read or refused, by training and evaluation alike, and never crash or hang."""

import io
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.transforms import TrainTransform
from swin.errors import DataError
from swin.images import open_input

TRAIN = TrainTransform(img_size=48, channels=3, mean=(0.5, 0.5, 0.5))


def encode(file_format: str, **options: object) -> bytes:
    small = Image.fromarray(np.random.RandomState(0).randint(0, 256, (12, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((160, 120), Image.Resampling.BICUBIC).save(file, file_format, **options)
    return file.getvalue()


ORIGINALS = {
    "baseline": encode("JPEG"),
    "progressive": encode("JPEG", progressive=True, subsampling=0),
    "png": encode("PNG"),
}


def damage(content: bytes, draw: random.Random) -> bytes:
    mutable = bytearray(content)
    kind = draw.randrange(4)
    if kind == 0:  # flipped bits, most often in the header
        for _ in range(draw.randint(1, 8)):
            mutable[min(int(draw.expovariate(1 / 300)), len(mutable) - 1)] ^= 1 << draw.randrange(8)
    elif kind == 1:  # cut
        del mutable[draw.randrange(len(mutable)) :]
    elif kind == 2:  # a stretch overwritten
        start = draw.randrange(len(mutable))
        mutable[start : start + 50] = draw.randbytes(min(50, len(mutable) - start))
    else:  # a stretch removed
        start = draw.randrange(len(mutable))
        del mutable[start : start + draw.randint(1, 30)]
    return bytes(mutable)


def outcome(attempt: Callable[[], Any]) -> Any:
    """Returns a result, or the message of the error for users; any other error fails the test."""
    try:
        return attempt()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("name", ORIGINALS)
def test_damaged_files_are_read_or_refused(name: str) -> None:
    draw = random.Random(0)
    read = refused = 0
    slowest = 0.0
    for _ in range(400):
        content = damage(ORIGINALS[name], draw)
        begin = time.process_time()
        whole = outcome(lambda content=content: open_input(content, name="damaged"))
        part = outcome(lambda content=content: TRAIN(content, "damaged")[0])
        # What evaluation reads, training reads too, and the other way round.
        assert isinstance(whole, str) == isinstance(part, str)
        if isinstance(part, str):
            assert part.startswith("damaged: ")
            assert "\n" not in part
            refused += 1
        else:
            assert part.shape == (3, 48, 48)
            read += 1
        slowest = max(slowest, time.process_time() - begin)
    assert read > (0 if name == "png" else 20)  # PNGs have checksums
    assert refused > 100
    assert slowest < 5  # a refused bomb takes no time; a header may still promise tens of millions of pixels
