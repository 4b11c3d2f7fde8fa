"""What there is to know of a data set before a config is written for it, and the questions that it may leave open."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.archives import find_zips
from data.build import open_sets
from data.folders import class_folders, describe_folder
from data.layouts import USUAL
from data.sources import Sets, Source, Subset, count_labels
from data.twins import stems_by_class
from swin.config import load_config
from swin.errors import ConfigError, DataError
from swin.images import open_input
from tools.check_dataset import Finding, check

_MOST_IMAGES, _MOST_SECONDS, _FIRST_IMAGES = 2000, 10.0, 16  # to read at most, and to see how long that takes
_PARTS = {name for names in USUAL.values() for name in names}
_MASKS = {"mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations", "gt"}
_PHOTOS = {"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "original", "originals", "input"}
_MASK_OF = re.compile(r"(.+?)[ _-](?:mask|seg|segmentation|gt|annotation)(?:[ _-]?\d+)?")
_SIDED = re.compile(r"(?i)\b(left|right|clockwise|east|west)\b")


@dataclass(frozen=True)
class Facts:
    """What was found of a data set.

    Attributes:
        keys: config keys that say how to read it.
        classes: names in the order of the labels.
        class_counts: training images of each class.
        num_train, num_val, num_test: images of the parts, 0 for one that is not there.
        num_read: images that were read, in whole or in part of the set.
        side_px: median of the shorter side, in pixels.
        is_grey: whether all images that were read have one channel.
        num_unreadable: training images, of those that were read, which cannot be.
        findings: what tools.check_dataset says of the images that were read.
    """

    keys: dict[str, Any]
    classes: list[str]
    class_counts: list[int]
    num_train: int
    num_val: int
    num_test: int
    num_read: int
    side_px: float
    is_grey: bool
    num_unreadable: int
    findings: list[Finding]

    @property
    def imbalance(self) -> float:
        """Images of the largest training class for each of the smallest that has any; 1 of several labels an image."""
        if self.keys.get("DATA.MULTI_LABEL"):
            return 1.0  # none could be drawn without the others
        counts = [count for count in self.class_counts if count]
        return max(counts) / min(counts)

    @property
    def has_signs(self) -> bool:
        """Whether the names of the classes tell that left and right matter: single letters or digits, or sides."""
        return all(len(name) == 1 for name in self.classes) or any(map(_SIDED.search, self.classes))


def look_at(data_path: str, opts: Sequence[str], val_split: float, workers: int) -> Facts:
    """Open a data set, and read as many of its images as seconds allow.

    Args:
        data_path: As DATA.DATA_PATH.
        opts: KEY, VALUE, ... that the user has given, which win.
        val_split: What to hold out where the set has no part to validate on.
        workers: Processes that read.

    Raises:
        DataError: It cannot be used for training, or a person has to say how; the message is one line.
    """
    keys, sets = _open(data_path, opts, val_split)
    assert sets.train is not None
    _refuse(Path(data_path), sets)
    sample = _sample(sets, workers)
    assert sample.train is not None
    found, summary = check(sample, workers=workers)
    if sample.test is not None:
        # The check calls whatever is beside the training images val.
        for finding in check(Sets(sets.classes, None, sample.test), workers=workers)[0]:
            found.append(replace(finding, message=re.sub("^val(?=:)", "test", finding.message)))
    # What a sample says of classes and parts is not so of the whole.
    found = [finding for finding in found if finding.kind not in ("empty classes", "untrained classes")]
    modes = {mode for part in ("train", "val") for mode in summary[part]["modes"]}
    sides = [summary["train"][f"{side}_percentiles"][50] for side in ("width", "height")]
    return Facts(
        keys,
        sets.classes,
        count_labels(sets.train.labels, len(sets.classes)),
        len(sets.train.labels),
        len(sets.val.labels),
        len(sets.test.labels) if sets.test else 0,
        num_read=len(sample.train.labels) + len(sample.val.labels),
        side_px=float(min(sides)),
        is_grey=modes == {"L"},
        num_unreadable=_count_unreadable(found),
        findings=found,
    )


def _open(data_path: str, opts: Sequence[str], val_split: float) -> tuple[dict[str, Any], Sets]:
    """Open a set in whichever layout it has; return the keys that say which, too."""
    root = Path(data_path)
    keys: dict[str, Any] = {"DATA.DATASET": "folder", "DATA.DATA_PATH": data_path}
    if load_config(None, [*opts, "TRAIN.LOSS", "bce"]).DATA.MULTI_LABEL:
        keys |= {"DATA.MULTI_LABEL": True, "TRAIN.LOSS": "asl"}
    if find_zips(root) and not class_folders(root):
        keys |= {"DATA.ZIP_MODE": True, "DATA.CACHE_MODE": "no"}
    try:
        return keys, _read(keys, opts)
    except DataError as error:
        if "DATA.VAL_SPLIT" in opts or keys.get("DATA.ZIP_MODE"):
            raise
        _ask(root, opts)
        keys["DATA.VAL_SPLIT"] = val_split
        try:
            return keys, _read(keys, opts)
        except (DataError, ConfigError) as other:
            raise (other if isinstance(other, DataError) and class_folders(root) else error) from None


def _read(keys: Mapping[str, Any], opts: Sequence[str]) -> Sets:
    defaults = [item for key, value in keys.items() for item in (key, value)]
    return open_sets(load_config(None, [*defaults, *opts]))


def _ask(root: Path, opts: Sequence[str]) -> None:
    """Raise a DataError with the question that a folder without a part to validate on may leave open."""
    folders = class_folders(root)
    lower = {name.lower() for name in folders}
    if lower and lower <= {*USUAL["test"]}:
        raise DataError(
            f"{root}: has a test part only, and nothing to train on. Give the folder of the training images, or "
            "evaluate a model on this one: python -m tools.evaluate --checkpoint FILE --data-path FOLDER"
        )
    if "DATA.SPLITS" not in opts and (parts := _unnamed_parts(root, folders)):
        raise DataError(
            f"{root}: {describe_folder(root)}. Which part is for what? Say so, as --opts DATA.SPLITS "
            f"'{{train: {parts[0]}, val: {parts[1]}}}'"
        )
    if len(folders) == 1 and class_folders(root / folders[0]) and not lower & _PARTS:
        raise DataError(f"{root}: holds one folder, which holds others. Give that: --data-path {root / folders[0]}")


def _unnamed_parts(root: Path, folders: Sequence[str]) -> list[str]:
    """Return two of the folders if they look like parts, none of which is called as training's is; else none."""
    if any(name.lower() in USUAL["train"] for name in folders):
        return []
    classes = {name: {*class_folders(root / name)} for name in folders}
    known = [name for name in folders if name.lower() in _PARTS and classes[name]]
    others = [name for name in folders if name not in known and classes[name]]
    if known:
        return [others[0], known[0]] if others else [known[-1], known[0]] if len(known) > 1 else []
    first = max(others, key=lambda name: len(classes[name]), default="")
    same = [name for name in others if name != first and len(classes[name] & classes[first]) > 1]
    return [first, same[0]] if same else []


def _refuse(root: Path, sets: Sets) -> None:
    """Raise a DataError for a set that opens, but does not make a classifier."""
    assert sets.train is not None
    if len(sets.classes) == 1:
        raise DataError(
            f"{root}: has one class only, {sets.classes[0]!r}, and a classifier tells classes apart. Put images of "
            "what is not one into another folder beside it."
        )
    if sets.train.labels.ndim == 1:
        _refuse_masks(root, sets.train, sets.classes)


def _refuse_masks(root: Path, train: Source, classes: Sequence[str]) -> None:
    """Tell a set for segmentation by its names: masks as a class beside photographs, or beside each image."""
    advice = "that is for segmentation, not for classes: move the masks out of the folder"
    stems = stems_by_class(train, classes)
    for name, own in zip(classes, stems, strict=True):
        photos = [
            other for other, names in zip(classes, stems, strict=True) if other.lower() in _PHOTOS and names & own
        ]
        if name.lower() in _MASKS and photos:
            raise DataError(
                f"{root}: {name} and {photos[0]} hold files of the same names, as masks and photos do; {advice}."
            )
    num_masks = sum(bool((match := _MASK_OF.fullmatch(stem)) and match[1] in own) for own in stems for stem in own)
    if num_masks > 0.2 * sum(map(len, stems)):
        raise DataError(f"{root}: {num_masks} files are masks by their names, as x_mask.png beside x.png; {advice}.")


def _sample(sets: Sets, workers: int) -> Sets:
    """Take images from all over a set, so many that reading them takes seconds."""
    assert sets.train is not None
    seconds = _seconds_an_image(sets.train) / workers
    most = min(_MOST_IMAGES, int(_MOST_SECONDS / seconds) + _FIRST_IMAGES)
    total = sum(len(part.labels) for part in (sets.train, sets.val, sets.test) if part)

    def take(source: Source) -> Source:
        count = min(len(source.labels), max(_FIRST_IMAGES, most * len(source.labels) // total))
        return Subset(source, np.linspace(0, len(source.labels) - 1, count).astype(np.int64))

    return Sets(sets.classes, take(sets.train), take(sets.val), test=take(sets.test) if sets.test else None)


def _seconds_an_image(source: Source) -> float:
    chosen = np.linspace(0, len(source.labels) - 1, min(_FIRST_IMAGES, len(source.labels))).astype(np.int64)
    begin = time.perf_counter()
    for index in chosen.tolist():
        try:
            open_input(source.read(index), name=source.name(index))
        except DataError:
            continue
    return max(time.perf_counter() - begin, 1e-6) / len(chosen)


def _count_unreadable(findings: Sequence[Finding]) -> int:
    """Count training images that cannot be read; raise a DataError if another part, which is taken whole, has one."""
    count = 0
    for finding in (each for each in findings if each.kind == "unreadable"):
        if not finding.message.startswith("train"):
            raise DataError(
                f"{len(finding.images)} validation or test images cannot be read, the first is {finding.images[0]}. "
                "Remove or replace them: accuracy is counted over all of them."
            )
        count += len(finding.images)
    return count
