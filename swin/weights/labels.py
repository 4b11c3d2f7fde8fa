"""Rows of a class head found by the names of the classes."""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

# ImageNet-22K lacks this synset (teddy bear); the official map to ImageNet-1K gives it the row of the other "teddy".
_STAND_INS = {"n03013580": "n04399382"}
_SYNSET = re.compile(r"n\d{8}")


@lru_cache(maxsize=2)
def _imagenet_info(name: str) -> Any:
    from timm.data.imagenet_info import ImageNetInfo  # slow to import, and few loads need it

    return ImageNetInfo(name)


def imagenet_classes(count: int) -> tuple[str, ...] | None:
    """Synset ids of ImageNet's heads in their order: 1,000 rows, 21,841 (Swin) or 21,843 of ImageNet-22K; else None."""
    if count not in (1000, 21841, 21843):
        return None
    # Of timm's lists of ImageNet-22K this one has the order of the official head, whose last two rows it goes beyond.
    info = _imagenet_info("imagenet-1k" if count == 1000 else "imagenet-21k-goog")
    return tuple(info.label_names()[:count])


@lru_cache(maxsize=1)
def imagenet_names() -> dict[str, str]:
    """English names, separated by commas, of every ImageNet synset id."""
    info = _imagenet_info("imagenet-21k-goog")
    return {label: info.label_name_to_description(label) for label in (*info.label_names(), *_STAND_INS.values())}


def match_classes(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Find each target class among the source classes.

    Classes are the same if their labels are, or one of their names: a synset id has its English names, another label is
    a name itself, or several with commas between. Case, underscores and hyphens do not matter. A class's first name
    goes before others'; a name that several classes share finds none. Two different synset ids are never the same
    class. Returns for each target class its position in `source`, or None.
    """
    rows = {label: row for row, label in reversed(list(enumerate(source)))}
    first: defaultdict[str, set[int]] = defaultdict(set)
    other: defaultdict[str, set[int]] = defaultdict(set)
    for row, label in enumerate(source):
        for position, name in enumerate(_names(label)):
            (other if position else first)[name].add(row)
        if (stand_in := _STAND_INS.get(label)) and stand_in not in rows:
            rows[stand_in] = row
            for name in _names(stand_in):
                other[name].add(row)

    def find(label: str) -> int | None:
        if label in rows:
            return rows[label]
        found_by_name = (index.get(name, set()) for index in (first, other) for name in _names(label))
        if _SYNSET.fullmatch(label):
            found_by_name = ({r for r in found if not _SYNSET.fullmatch(source[r])} for found in found_by_name)
        found = next(filter(None, found_by_name), set())
        return next(iter(found)) if len(found) == 1 else None

    return [find(label) for label in target]


def _names(label: str) -> list[str]:
    """The names of a class in one spelling, the usual one first."""
    text = imagenet_names().get(label, label) if _SYNSET.fullmatch(label) else label
    spelled = (" ".join(re.split(r"[\s_-]+", name.lower())).strip() for name in text.split(","))
    return [name for name in spelled if name]
