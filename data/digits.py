"""The embedded data set: scikit-learn's 1,797 handwritten digits, 8 x 8 grey pixels, no download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.sources import ArrayImages, Opened, Source
from data.splits import stratified_split
from swin.errors import DataError
from swin.images import open_input, to_image

NUM_TEST = 360
PARTS = ("train", "test")
_SPLIT_SEED = 0  # not the run's: all runs, whatever their seed, are tested on the same images


def open_digits(parts: Sequence[str] = PARTS, classes: Sequence[str] | None = None) -> Opened:
    """Open the digits, 360 of them for testing; classes "0" to "9".

    Args:
        parts: Of train and test.
        classes: A label map that has to agree, such as a checkpoint's.

    Raises:
        DataError: It does not agree.
    """
    from sklearn.datasets import load_digits  # takes a second to import, which other data sets need not wait for

    digits = load_digits()
    own_classes = [str(digit) for digit in range(10)]
    if classes is not None and list(classes) != own_classes:
        raise DataError(
            f"DATA.DATASET is digits, with classes 0 to 9, but the given label map is {list(classes)[:12]}."
        )
    images_NHW = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    split = stratified_split(labels, num_val=NUM_TEST, seed=_SPLIT_SEED)
    indices = {"train": split.train, "test": split.val}
    sources: dict[str, Source] = {
        part: ArrayImages(images_NHW[chosen], labels[chosen], (f"digits/{index:04d}" for index in chosen))
        for part, chosen in indices.items()
        if part in parts
    }
    return Opened(own_classes, sources)


def save_test_image(file: str | Path) -> None:
    """Save the first image of the test split, which no run trains on, and print what it shows."""
    test = open_digits(["test"]).sources["test"]
    to_image(open_input(test.read(0), channels=1)).save(file)
    print(f"{file} shows a {test.labels[0]}")
