"""Holding out a part of a data set: stratified, seeded, and saved by the run."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.listings import read_json
from data.samplers import seeded_random
from swin.config import load_config
from swin.errors import ConfigError, DataError

SPLIT_FILE = "split.json"


class Split(NamedTuple):
    """Indices of the two parts, ascending, and what a user should be told."""

    train: np.ndarray
    val: np.ndarray
    notes: tuple[str, ...] = ()


def stratified_split(labels: np.ndarray, *, num_val: int, seed: int) -> Split:
    """Hold out `num_val` samples, from each class in proportion to its size.

    A class of two or more keeps at least one sample on either side, which may change the total; a class of one trains.

    Args:
        labels: int64 (N,).
        num_val: Samples to hold out.
        seed: Decides which.
    """
    sizes = np.bincount(labels)
    quotas = sizes * num_val / max(len(labels), 1)
    counts = np.floor(quotas).astype(np.int64)
    # The largest remainders get what rounding down left over; ties go to the first class.
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: num_val - counts.sum()]] += 1
    counts = np.clip(counts, np.minimum(1, np.maximum(sizes - 1, 0)), np.maximum(sizes - 1, 0))
    is_val = np.zeros(len(labels), dtype=bool)
    for label, count in enumerate(counts.tolist()):
        members = np.flatnonzero(labels == label)
        is_val[seeded_random(seed, label).permutation(members)[:count]] = True
    return Split(np.flatnonzero(~is_val), np.flatnonzero(is_val))


def hold_out(
    names: Sequence[str], labels: np.ndarray, *, fraction: float, seed: int, runs: Sequence[Path] = ()
) -> Split:
    """Hold out a fraction, or what a run has saved, so that a resume or evaluation uses the same images.

    Args:
        names, labels: Of all files; labels int64.
        fraction: Part held out, above 0 and below 1.
        seed: Decides which.
        runs: Folders of runs, of which the first with a saved split decides.

    Raises:
        ConfigError: The saved split has another fraction.
        DataError: Files of the saved split are gone, or it cannot be read, or nothing can be held out.
    """
    names = tell_apart(names)
    if saved := saved_split(runs):
        return _read_split(saved, names, fraction)
    split = stratified_split(labels, num_val=round(fraction * len(labels)), seed=seed)
    if not len(split.val):
        raise DataError(
            f"DATA.VAL_SPLIT is {fraction}, but no class has the two images it takes to train on one and hold out one."
        )
    return split


def saved_split(runs: Sequence[Path]) -> Path | None:
    """Return the file of the first of these runs that has saved a split."""
    return next((run / SPLIT_FILE for run in runs if (run / SPLIT_FILE).exists()), None)


def tell_apart(names: Sequence[str]) -> list[str]:
    """Return the names, those that were there before with their number, as a.png#2."""
    count: Counter[str] = Counter()
    told = []
    for name in names:
        count[name] += 1
        told.append(name if count[name] == 1 else f"{name}#{count[name]}")
    return told


def is_split_of(run: Path, root: Path) -> bool:
    """Tell whether a run has saved a split of the images in a folder, rather than of other data with such names.

    It has if its config names the folder, or if the folder has just the images of the split, as where both were moved.
    """
    try:
        content = read_json(run / SPLIT_FILE)
        names = {*content["train"], *content["val"]}
        own = load_config(run / "config.yaml").DATA.DATA_PATH
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return False
    if os.path.realpath(own) == os.path.realpath(root):
        return True
    if (root / "val").is_dir():
        return False  # these need no split
    folder = root / "train" if (root / "train").is_dir() else root
    return names == {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def split_record(names: Sequence[str], fraction: float, split: Split) -> dict[str, Any]:
    """Return what SPLIT_FILE holds of a split."""
    names = tell_apart(names)
    train, val = ([names[index] for index in part] for part in (split.train, split.val))
    return {"val_split": fraction, "train": train, "val": val}


def _read_split(file: Path, names: Sequence[str], fraction: float) -> Split:
    try:
        content = read_json(file)
        saved_fraction, parts = content["val_split"], (content["train"], content["val"])
        if len({*parts[0], *parts[1]}) != len(parts[0]) + len(parts[1]):
            raise ValueError("it has an image twice")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is not a saved split ({error!r}). Remove it to split anew.") from None
    if saved_fraction != fraction:
        raise ConfigError(
            f"DATA.VAL_SPLIT is {fraction}, but {file} was made with {saved_fraction}. Set it to {saved_fraction}, or "
            "start another run with another TAG."
        )
    index_of = {name: index for index, name in enumerate(names)}
    gone = [name for part in parts for name in part if name not in index_of]
    if gone:
        raise DataError(
            f"{file}: {len(gone)} of the {sum(map(len, parts))} images of this run's split are gone, the first "
            f"{gone[0]!r}. Bring them back, or start another run with another TAG."
        )
    train, val = (np.array(sorted(index_of[name] for name in part), dtype=np.int64) for part in parts)
    num_new = len(names) - len(train) - len(val)
    note = f"{num_new} images are newer than the split in {file} and are not used; another TAG uses them."
    return Split(train, val, (note,) if num_new else ())
