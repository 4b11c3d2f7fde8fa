"""Packs a data set into tar shards with an index, for fast random access: `python -m tools.pack_dataset --help`.

Run again after an interruption, it goes on where it stopped; the shards do not depend on interruptions or workers.
"""

import ctypes
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.build import open_sets
from data.shards import CLASSES_FILE, INDEX_FILE, shard_name
from data.sources import Names, Source
from data.splits import SPLIT_FILE
from swin.errors import ConfigError, DataError, RunStoppedError, SwinError
from swin.images import MODES, Content, as_file, encode, open_input, to_image
from tools.arguments import data_parser, load_data_config

_RECIPE_FILE, _PART_SUFFIX, _PARTIAL = "packing.json", ".part.npy", ".partial"
_worker: dict[str, Source] = {}  # of a worker: its source, too large to be sent with each task
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
_SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


@dataclass(frozen=True)
class Recipe:
    """How images are packed; what a folder of shards was made with, and has to be continued with."""

    short_side_px: int = 0  # larger images are shrunk to this short side and encoded anew; 0 keeps files as they are
    quality: int = 90  # of JPEGs encoded anew
    shard_size: int = 5000  # images in a shard
    channels: int = 3  # see `swin.images.open_input`
    digest: str = ""  # of the names and labels to pack

    def members(self, shard: int, num_images: int) -> range:
        """Return the indices of a shard's images."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, num_images))


def pack(source: Source, folder: Path, *, workers: int = 1, **settings: int) -> None:
    """Pack images into a folder of shards, then read all of it back and write the index.

    Args:
        source: The images.
        folder: Where to.
        workers: Processes that encode.
        settings: See `Recipe`.

    Raises:
        DataError: An image cannot be read, the folder was packed differently, or what is read back differs.
    """
    if source.labels.ndim > 1:
        raise DataError("images with several labels each cannot be packed: train on them as they are.")
    num_images = len(source.labels)
    recipe = Recipe(digest=_digest(source), **settings)
    folder.mkdir(parents=True, exist_ok=True)
    _agree(folder / _RECIPE_FILE, recipe)
    for leftover in folder.glob(f"*{_PARTIAL}"):
        leftover.unlink(missing_ok=True)  # a worker of a killed process may be a moment behind it
    shards = range(-(-num_images // recipe.shard_size))
    if not (folder / INDEX_FILE).exists():
        _write_shards(source, folder, recipe, shards, workers)
        _write_index(source, folder, shards)
    for shard in shards:
        _part_file(folder / shard_name(shard)).unlink(missing_ok=True)


def _write_shards(source: Source, folder: Path, recipe: Recipe, shards: Sequence[int], workers: int) -> None:
    """Write the shards that are missing, then verify all."""
    num_images = len(source.labels)
    missing = [shard for shard in shards if not (folder / shard_name(shard)).exists()]
    done = num_images - sum(len(recipe.members(shard, num_images)) for shard in missing)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start_worker, (os.getpid(), source))
    try:
        about: dict[str, Any] = {"initial": done, "unit": "images", "desc": f"packing {folder.name}"}
        with tqdm(total=2 * num_images, disable=None, **about) as bar:
            for count in pool.map(partial(_write_shard, folder, recipe), missing):
                bar.update(count)
            bar.set_description(f"verifying {folder.name}")
            for count in pool.map(partial(_verify_shard, folder), shards):
                bar.update(count)
    except BrokenProcessPool:
        raise DataError(
            f"{folder}: a packing process died; most often memory ran out. Run again with fewer --workers: what is "
            "packed is kept."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _digest(source: Source) -> str:
    digest = hashlib.sha256(source.labels.tobytes())
    for index in range(len(source.labels)):
        digest.update(source.name(index).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _agree(file: Path, recipe: Recipe) -> None:
    if not file.exists():
        _write_json(file, asdict(recipe), indent=1)
    elif json.loads(file.read_text()) != asdict(recipe):
        raise DataError(
            f"{file.parent}: was packed from other images or with other settings, see {file.name}. Pack into another "
            "folder, or remove this one."
        )


@contextmanager
def _replaced(file: Path) -> Iterator[BinaryIO]:
    """Write a file so that it is there as a whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}{_PARTIAL}")
    with open(temporary, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


def _write_json(file: Path, content: Any, **options: Any) -> None:
    with _replaced(file) as stream:
        stream.write(json.dumps(content, **options).encode())


def _start_worker(parent_pid: int, source: Source) -> None:
    """End this worker with its parent, which may be killed, and leave Ctrl-C to the parent."""
    _worker["source"] = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def _write_shard(folder: Path, recipe: Recipe, shard: int) -> int:
    """Write a shard and beside it where its images are: rows of offset, size and checksum."""
    source = _worker["source"]
    file = folder / shard_name(shard)
    members = recipe.members(shard, len(source.labels))
    rows = []
    with _replaced(file) as stream:  # the outer one, as a shard that is there is complete
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index in members:
                content, extension = _encode(source.read(index), source.name(index), recipe)
                rows.append((tar.offset + tarfile.BLOCKSIZE, len(content), zlib.crc32(content)))  # after its header
                _add(tar, f"{index:09d}.{extension}", content)
                _add(tar, f"{index:09d}.cls", str(source.labels[index]).encode())
        with _replaced(_part_file(file)) as part:
            np.save(part, np.array(rows, dtype=np.int64))
    return len(members)


def _part_file(shard_file: Path) -> Path:
    return shard_file.with_suffix(_PART_SUFFIX)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # its times and owners are zero: equal images make equal shards
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _encode(content: Content, name: str, recipe: Recipe) -> tuple[bytes, str]:
    """Return an image's file and its extension."""
    # Decoded in any case: what cannot be read must not be packed.
    pixels = open_input(content, channels=recipe.channels, name=name)
    file = as_file(content)
    height, width = pixels.shape[1:]
    scale = recipe.short_side_px / min(height, width)
    if not 0 < scale < 1:
        unknown = "img" if recipe.channels in MODES else "npy"
        return file, next((ext for signature, ext in _SIGNATURES.items() if file.startswith(signature)), unknown)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = to_image(pixels).resize(size, Image.Resampling.BICUBIC)
    if image.mode == "RGBA":  # JPEG has no transparency
        return encode(image, "PNG"), "png"
    return encode(image, "JPEG", quality=recipe.quality), "jpg"


def _verify_shard(folder: Path, shard: int) -> int:
    """Read every image of a shard back by its offset; raise a DataError where a checksum differs."""
    file = folder / shard_name(shard)
    rows = np.load(_part_file(file)).tolist()
    with open(file, "rb") as stream:
        for index, (offset, size, checksum) in enumerate(rows):
            stream.seek(offset)
            if zlib.crc32(stream.read(size)) != checksum:
                raise DataError(
                    f"{file}: image {index} of the shard is not what was written. Remove it and pack again."
                )
    return len(rows)


def _write_index(source: Source, folder: Path, shards: Sequence[int]) -> None:
    parts = [np.load(_part_file(folder / shard_name(shard)))[:, :2] for shard in shards]
    shard_of = np.repeat(np.arange(len(parts), dtype=np.int64), [len(part) for part in parts])
    names = Names.of(source.names)
    index: dict[str, Any] = {
        "labels": source.labels.astype(np.int32),
        "places": np.column_stack([shard_of, np.concatenate(parts)]),
        "name_bytes": names.bytes,
        "name_stops": names.stops,
    }
    with _replaced(folder / INDEX_FILE) as stream:
        np.savez(stream, **index)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status."""
    parser = data_parser("pack_dataset", __doc__, "DATA.ZIP_MODE True")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; DATA.DATA_PATH of later runs")
    parser.add_argument("--short-side", type=int, default=0, metavar="PX", help="shrink to it (default: keep files)")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality of what is shrunk (default: 90)")
    parser.add_argument("--shard-size", type=int, default=5000, help="images in a shard (default: 5000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    options = parser.parse_args(arguments)
    output: Path = options.output
    try:
        cfg = load_data_config(options)
        channels = cfg.architecture.IN_CHANS
        if options.short_side and channels not in MODES:
            raise ConfigError(
                f"--short-side shrinks pictures, and images of {channels} channels are arrays: leave it out."
            )
        output.mkdir(parents=True, exist_ok=True)
        sets = open_sets(cfg, runs=[output])
        if sets.split:
            _write_json(output / SPLIT_FILE, sets.split, indent=1)
        _write_json(output / CLASSES_FILE, sets.classes, ensure_ascii=False)
        settings = {"short_side_px": options.short_side, "quality": options.quality, "shard_size": options.shard_size}
        for split, source in (("train", sets.train), ("val", sets.val), ("test", sets.test)):
            if source is None:  # as there is not always a test part
                continue
            pack(source, output / split, channels=channels, workers=options.workers, **settings)
    except SwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped: run the same command again to go on", file=sys.stderr)
        return RunStoppedError.exit_code
    size = sum(file.stat().st_size for file in output.rglob("*.tar"))
    free = shutil.disk_usage(output).free
    print(f"{output}: {size / 1e9:.2f} GB ({free / 1e9:.0f} GB free); train with --data-path on it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
