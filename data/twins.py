"""Classes that are the same pictures twice, as photographs in one folder and their masks in another."""

import os
import re
from collections.abc import Sequence
from itertools import combinations

from data.sources import Source, Subset

_MAX_CLASSES, _MIN_IMAGES, _SHARE = 10, 5, 0.9
_TELLING = re.compile("mask|label|annot|segment|ground|image|img|photo", re.IGNORECASE)


def find_twins(source: Source, classes: Sequence[str]) -> tuple[str, ...]:
    """Return a message for each two classes of as many images that are called the same, but for their endings.

    Images that are numbered from one on in each class are no sign of that, unless the classes are called as folders of
    images and masks are. Only data sets of up to ten classes are looked at.

    Args:
        source: The images; of a part that something was held out of, the whole counts.
        classes: Names in the order of the labels.
    """
    source = source.source if isinstance(source, Subset) else source
    if len(classes) > _MAX_CLASSES or source.labels.ndim > 1:
        return ()
    stems = stems_by_class(source, classes)
    return tuple(
        f"classes {classes[one]!r} and {classes[two]!r} have images of the same names: are they photographs and their "
        "masks? Then keep only the photographs, in a folder for each class."
        for one, two in combinations(range(len(classes)), 2)
        if len(stems[one]) == len(stems[two]) >= _MIN_IMAGES
        and len(stems[one] & stems[two]) >= _SHARE * len(stems[one])
        and (_TELLING.search(classes[one]) or _TELLING.search(classes[two]) or not _are_numbered(stems[one]))
    )


def stems_by_class(source: Source, classes: Sequence[str]) -> list[set[str]]:
    """Return what the images of each class are called, without folders and endings; of one label an image."""
    stems: list[set[str]] = [set() for _ in classes]
    for name, label in zip(source.names, source.labels.tolist(), strict=True):
        stems[label].add(os.path.splitext(os.path.basename(name))[0])
    return stems


def _are_numbered(stems: set[str]) -> bool:
    """Tell whether names are consecutive numbers."""
    if not all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
        return False
    numbers = {int(stem) for stem in stems}
    return len(numbers) == max(numbers) - min(numbers) + 1
