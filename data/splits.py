"""Holding out a part of a data set, or a fold: stratified, in whole groups, seeded, and saved by the run."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.listings import read_json
from data.samplers import seeded_random
from data.sources import count_labels
from swin.config import load_config
from swin.errors import ConfigError, DataError

SPLIT_FILE = "split.json"
_NUM_DRAWS = 100  # of whole groups, of which the evenest counts


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


@dataclass(frozen=True)
class Rule:
    """What is held out: a fraction, or one of so many folds."""

    fraction: float = 0.0  # above 0 and below 1; 0 for folds
    folds: int = 0
    fold: int = 0  # from 0
    seed: int = 0  # decides which images

    def __bool__(self) -> bool:
        return self.fraction > 0 or self.folds > 0

    def __str__(self) -> str:
        return f"DATA.FOLDS {self.folds} and FOLD {self.fold}" if self.folds else f"DATA.VAL_SPLIT {self.fraction}"


def hold_out(
    names: Sequence[str],
    labels: np.ndarray,
    rule: Rule,
    *,
    groups: Sequence[str] | None = None,
    classes: Sequence[str] = (),
    runs: Sequence[Path] = (),
) -> Split:
    """Hold out a part, or what a run has saved, so that a resume or evaluation uses the same images.

    Args:
        names: Of all images.
        labels: int64 (N,), of which each class is divided in the same proportion; or uint8 (N, K) of several labels an
            image, by which nothing is balanced.
        rule: What to hold out.
        groups: The group of each image, of which each stays whole.
        classes: The names of the classes, for messages.
        runs: Folders of runs, of which the first with a saved split decides.

    Raises:
        ConfigError: The saved split was made by another rule.
        DataError: Images of the saved split are gone, or it cannot be read, or nothing can be held out.
    """
    names = tell_apart(names)
    if saved := saved_split(runs):
        return _read_split(saved, names, rule)
    codes = None if groups is None else np.unique(list(groups), return_inverse=True)[1].astype(np.int64)
    if codes is not None and codes.max(initial=0) + 1 < max(rule.folds, 2):
        raise DataError(
            f"{rule}: the images are of {codes.max(initial=-1) + 1} groups by DATA.GROUP_BY, and a group stays whole. "
            f"At least {max(rule.folds, 2)} are needed."
        )
    if rule.folds:
        _check_folds(labels, rule, classes)
    if codes is not None:
        split = (_one_fold if rule.folds else _split_groups)(labels, codes, rule)
        return split._replace(notes=_untrained(labels, split, rule, classes))
    if rule.folds:
        return _one_fold(labels, None, rule)
    if labels.ndim == 2:
        order = seeded_random(rule.seed, 0).permutation(len(labels))
        num_val = min(max(round(rule.fraction * len(labels)), 1), len(labels) - 1)
        return Split(np.sort(order[num_val:]), np.sort(order[:num_val]))
    split = stratified_split(labels, num_val=round(rule.fraction * len(labels)), seed=rule.seed)
    if not len(split.val):
        raise DataError(f"{rule}: no class has the two images it takes to train on one and hold out one.")
    return split


def _check_folds(labels: np.ndarray, rule: Rule, classes: Sequence[str]) -> None:
    if labels.ndim == 2:
        if len(labels) < rule.folds:
            raise DataError(f"{rule}: there are only {len(labels)} images. Lower FOLDS.")
        return
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    label = int(present[np.argmin(counts[present])])
    if counts[label] < rule.folds:
        name = repr(classes[label]) if classes else label
        raise DataError(
            f"{rule}: class {name} has {counts[label]} images, and each fold needs one of it. Lower FOLDS to at most "
            f"{counts[label]}, or add images."
        )


def _one_fold(labels: np.ndarray, groups: np.ndarray | None, rule: Rule) -> Split:
    """Return scikit-learn's folds, shuffled by the seed: stratified by class where an image has one label."""
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold  # takes a second

    options = {"n_splits": rule.folds, "shuffle": True, "random_state": rule.seed % 2**32}
    if labels.ndim == 1:
        kind = StratifiedKFold if groups is None else StratifiedGroupKFold
        parts = list(kind(**options).split(np.zeros(len(labels)), labels, groups))
        train, val = parts[rule.fold]
        return Split(np.sort(train), np.sort(val))
    units = np.arange(len(labels)) if groups is None else groups
    chosen = list(KFold(**options).split(np.arange(units.max() + 1)))[rule.fold][1]
    is_val = np.isin(units, chosen)
    return Split(np.flatnonzero(~is_val), np.flatnonzero(is_val))


def _split_groups(labels: np.ndarray, groups: np.ndarray, rule: Rule) -> Split:
    """Hold out whole groups: of scikit-learn's random choices the one in which each class is divided most evenly."""
    from sklearn.model_selection import GroupShuffleSplit  # takes a second

    num_classes = int(labels.max(initial=0)) + 1 if labels.ndim == 1 else labels.shape[1]
    wanted = np.array(count_labels(labels, num_classes))
    draws = GroupShuffleSplit(_NUM_DRAWS, test_size=rule.fraction, random_state=rule.seed % 2**32)

    def unevenness(parts: tuple[np.ndarray, np.ndarray]) -> tuple[int, float]:
        held = np.array(count_labels(labels[parts[1]], num_classes))
        untrained = int(((held == wanted) & (wanted > 0)).sum())
        return untrained, float(np.abs(held - rule.fraction * wanted).sum())

    try:
        train, val = min(draws.split(labels, groups=groups), key=unevenness)
    except ValueError:  # the share of so few groups is none of them, or all
        raise DataError(
            f"{rule}: of {groups.max() + 1} groups by DATA.GROUP_BY that is none, or all. Choose another share."
        ) from None
    return Split(np.sort(train), np.sort(val))


def _untrained(labels: np.ndarray, split: Split, rule: Rule, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the note that whole groups have left classes, of which there are images, with none to train on."""
    train, val = (count_labels(labels[part], len(classes)) for part in (split.train, split.val))
    names = [repr(name) for name, count, held in zip(classes, train, val, strict=False) if held and not count]
    if not names:
        return ()
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
        f"{rule}: {len(names)} classes have no images left to train on, as {shown}, since DATA.GROUP_BY holds out "
        "whole groups. Check that the groups are not the classes.",
    )


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


def is_split_of(run: Path, root: Path, read_names: Callable[[], Sequence[str]]) -> bool:
    """Tell whether a run has saved a split of the images in a folder, rather than of other data with such names.

    It has if its config names the folder, or if the folder has just the images of the split, as where both were moved.

    Args:
        run: The run's folder.
        root: The data set.
        read_names: Returns the names of the images there that a part would be held out of.
    """
    try:
        content = read_json(run / SPLIT_FILE)
        names = {*content["train"], *content["val"]}
        own = load_config(run / "config.yaml").DATA.DATA_PATH
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return False
    return os.path.realpath(own) == os.path.realpath(root) or names == set(tell_apart(read_names()))


def split_record(names: Sequence[str], rule: Rule, split: Split) -> dict[str, Any]:
    """Return what SPLIT_FILE holds of a split."""
    names = tell_apart(names)
    train, val = ([names[index] for index in part] for part in (split.train, split.val))
    # The rows of the fold's images among all, by which the tables of the folds are put together.
    folds = {"folds": rule.folds, "fold": rule.fold, "val_rows": split.val.tolist()} if rule.folds else {}
    return {"val_split": rule.fraction, **folds, "train": train, "val": val}


def _read_split(file: Path, names: Sequence[str], rule: Rule) -> Split:
    try:
        content = read_json(file)
        parts = (content["train"], content["val"])
        made = Rule(content["val_split"], content.get("folds", 0), content.get("fold", 0), rule.seed)
        if len({*parts[0], *parts[1]}) != len(parts[0]) + len(parts[1]):
            raise ValueError("it has an image twice")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: is not a saved split ({error!r}). Remove it to split anew.") from None
    if made != rule:
        raise ConfigError(
            f"the config says {rule}, but {file} was made with {made}. Set that, or start another run with another TAG."
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
