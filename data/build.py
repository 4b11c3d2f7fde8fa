"""`build_data`: from a config to everything about the data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data.archives import fill_caches
from data.groups import check_apart, find_groups
from data.labels import GIVEN
from data.layouts import (
    ALL,
    Layout,
    choose_part,
    choose_split,
    choose_train,
    find_layouts,
    part_is_missing,
    val_is_missing,
)
from data.loaders import EvalLoader, build_train_loader, build_view, loader_options
from data.prepare import build_prepare
from data.sources import Opened, Sets, Source, Subset, count_labels
from data.splits import Rule, hold_out, is_split_of, saved_split, split_record
from data.transforms import build_eval_pixels
from data.twins import find_twins
from data.unlabelled import build_unlabelled
from swin.batches import Data
from swin.config import Config
from swin.errors import ConfigError, DataError, printable


def build_data(
    cfg: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    local_world_size: int = 1,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    split: str | None = "val",
    origin: str = GIVEN,
    keep_border: bool = False,
) -> Data:
    """Build the data that a config describes.

    Args:
        local_world_size: Of the ranks, those that share this machine's CPUs.
        split: See `open_sets`; None for what an evaluation takes: the part that a run of this data has held out, else
            what `find_split` finds.
        origin: What messages call `classes`.
        keep_border: See `swin.preprocess.EvalResize`.
        cfg, rank, world_size, runs, need_train, classes: See `open_sets`.

    Raises:
        ConfigError: Keys that contradict each other or the data.
        DataError: The data cannot be used.
    """
    if cfg.TRAIN.LOSS == "simmim" and need_train:
        common = loader_options(cfg, local_world_size) | {"rank": rank, "world_size": world_size}
        return build_unlabelled(cfg, **common)
    # An evaluation takes what a run has held out, and draws nothing by itself.
    is_held_out = not need_train and _has_held_out(cfg, runs)
    notes: tuple[str, ...] = ()
    if split is None:
        split = "val" if is_held_out else find_split(cfg)
        notes += (f"{cfg.DATA.DATA_PATH} has no parts: all of its images are evaluated.",) if split == ALL else ()
    options: dict[str, Any] = {"need_train": need_train, "classes": classes, "origin": origin, "split": split}
    sets = open_sets(
        cfg, rank=rank, world_size=world_size, runs=runs, may_hold_out=need_train or is_held_out, **options
    )
    _check_count(cfg, sets.classes)
    if sets.train is not None and len(sets.classes) == 1:
        notes += (
            f"{cfg.DATA.DATA_PATH} has one class only, {printable(sets.classes[0])}: nothing can be learnt. Check that "
            "DATA.DATA_PATH is the folder right above the class folders, or above train/ and val/.",
        )
    common = loader_options(cfg, local_world_size) | {"rank": rank, "world_size": world_size}
    return _make_loaders(cfg, replace(sets, notes=(*notes, *sets.notes)), split, keep_border, common)


def _make_loaders(cfg: Config, sets: Sets, split: str, keep_border: bool, common: dict[str, Any]) -> Data:
    prepare = build_prepare(cfg, len(sets.classes))
    train, transform = sets.train, build_eval_pixels(cfg, keep_border=keep_border)

    return Data(
        classes=sets.classes,
        train=build_train_loader(cfg, train, in_pairs=prepare.mix is not None, **common) if train else None,
        val=EvalLoader(sets.val, transform=transform, **common),
        prepare=prepare,
        normalise=prepare.normalise,
        class_counts=_count(train, sets.classes),
        val_counts=_count(sets.val, sets.classes),
        notes=sets.notes,
        split=sets.split,
        part=split,
        test=EvalLoader(sets.test, transform=transform, **common) if sets.test else None,
        test_counts=_count(sets.test, sets.classes),
        view=build_view(train, transform, **common) if train else None,
        multi_label=sets.val.labels.ndim == 2,
    )


def _count(source: Source | None, classes: Sequence[str]) -> list[int]:
    return count_labels(source.labels, len(classes)) if source else []


def _check_count(cfg: Config, classes: Sequence[str]) -> None:
    if cfg.is_set("MODEL.NUM_CLASSES") and len(classes) != cfg.MODEL.NUM_CLASSES:
        raise ConfigError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}, but the data has {len(classes)} classes. Leave the key out "
            "to use the data's."
        )


def open_sets(
    cfg: Config,
    *,
    rank: int = 0,
    world_size: int = 1,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    origin: str = GIVEN,
    split: str = "val",
    may_hold_out: bool = True,
) -> Sets:
    """Open the images that a config describes.

    Args:
        cfg: The config.
        rank, world_size: Of this process among all.
        runs: Folders of runs, of which the first with a saved split decides what is held out.
        need_train: False to evaluate; then training data may be missing.
        classes: The label map of a checkpoint, which then wins over the data's own.
        origin: What messages call `classes`.
        split: What to evaluate: a part by its role, val, test or train, or its name in the layout; or all images of a
            data set without parts. See `find_split`.
        may_hold_out: Whether DATA.VAL_SPLIT and FOLDS count.
    """
    if cfg.DATA.DATASET != "digits" and not cfg.DATA.DATA_PATH:
        raise ConfigError("DATA.DATA_PATH is empty. Set it, or pass --data-path, to the folder with the images.")
    rule = build_rule(cfg) if may_hold_out else Rule()
    plan = _plan(cfg, need_train, split, rule, has_saved=saved_split(runs) is not None)
    opened = _open(plan, classes, origin)
    train, val, test = (None if part is None else opened.sources[part] for part in (plan.train, plan.val, plan.test))
    groups = _find_groups(cfg, plan, opened)
    notes, record = plan.notes, None
    if val is None:
        assert train is not None
        assert plan.train is not None
        options: dict[str, Any] = {"groups": groups.get(plan.train), "classes": opened.classes, "runs": runs}
        parts = hold_out(train.names, train.labels, rule, **options)
        notes, record = (*notes, *parts.notes), split_record(train.names, rule, parts)
        train, val = Subset(train, parts.train), Subset(train, parts.train if split == "train" else parts.val)
    train = train if need_train else None
    notes += find_twins(train, opened.classes) if train else ()
    caching: dict[str, Any] = {"cache_mode": cfg.DATA.CACHE_MODE, "rank": rank, "world_size": world_size}
    notes += fill_caches(train, [source for source in (val, test) if source], **caching)
    return Sets(opened.classes, train, val, notes, record, test)


class Plan(NamedTuple):
    """Which parts of which layout are opened, by their own names."""

    layout: Layout
    val: str | None  # None where it is held out of `train`
    train: str | None = None  # None where nothing is trained on, nor held out of it
    test: str | None = None
    notes: tuple[str, ...] = ()


def build_rule(cfg: Config) -> Rule:
    """Return what a config holds out; of folds the first, where none is named."""
    return Rule(cfg.DATA.VAL_SPLIT, cfg.DATA.FOLDS, cfg.DATA.FOLD or 0, cfg.SEED)


def _find_groups(cfg: Config, plan: Plan, opened: Opened) -> dict[str, Sequence[str]]:
    """Return the group of each image by part, of a plan with training data; a group in two parts is an error."""
    group_by = cfg.DATA.GROUP_BY
    if not group_by or plan.train is None:
        return {}
    parts = [part for part in (plan.train, plan.val, plan.test) if part is not None]
    groups = {part: find_groups(opened, part, group_by) for part in dict.fromkeys(parts)}
    check_apart({plan.layout.shown(part): own for part, own in groups.items()}, group_by)
    return groups


def _plan(cfg: Config, need_train: bool, split: str, rule: Rule, *, has_saved: bool) -> Plan:
    """Decide what is opened for which purpose."""
    where = _where(cfg)
    layouts = find_layouts(cfg, need_train=need_train, named=[split])
    is_held_out = bool(rule) and split in ("train", "val")
    if not need_train and (not is_held_out or (not has_saved and any(layout.part("val") for layout in layouts))):
        return Plan(*choose_part(layouts, split, where))
    layout, train = choose_train(layouts, where, cfg.DATA.SPLITS if need_train else {})
    val, test = layout.part("val"), layout.part("test") if need_train else None
    unused = [part for part in layout.parts if part not in (train, val, layout.part("test"))] if need_train else []
    notes: tuple[str, ...] = ()
    if unused:
        notes = (f"{where}: not used are {', '.join(map(printable, unused))}. DATA.SPLITS can say what a part is for.",)
    if rule and (val is None or has_saved or rule.folds):
        if val and rule.folds:
            notes += (f"{layout.shown(val)} is left alone: the folds are made of {layout.shown(train)}.",)
        return Plan(layout, None, train, test, notes)
    if val is None:
        raise val_is_missing(layout, train, where)
    part = layout.find(split)
    if part is None:
        raise part_is_missing([layout], split, where)
    notes += (f"{rule} is not used: {layout.shown(val)} is there to validate on.",) if rule else ()
    return Plan(layout, part, train, test, notes)


def _open(plan: Plan, classes: Sequence[str] | None, origin: str) -> Opened:
    """Open the parts of a plan; where there is training data, it names the classes."""
    layout = plan.layout
    parts = [part for part in (plan.train, plan.val, plan.test) if part is not None]
    if classes is None and plan.train is None and (train := layout.part("train")) is not None:
        if layout.class_names:
            classes, origin = layout.class_names(train), layout.shown(train)
        else:
            parts.insert(0, train)
    try:
        return layout.open(list(dict.fromkeys(parts)), classes)
    except DataError as error:
        raise DataError(str(error).replace(GIVEN, origin)) from None


def _where(cfg: Config) -> Path | str:
    return "digits" if cfg.DATA.DATASET == "digits" else Path(cfg.DATA.DATA_PATH)


def _has_held_out(cfg: Config, runs: Sequence[Path]) -> bool:
    """Tell whether a run has held out a part of these images."""

    def read_names() -> Sequence[str]:
        try:
            layout, train = choose_train(find_layouts(cfg, need_train=False), _where(cfg), {})
            is_whole = cfg.DATA.FOLDS > 0 or layout.part("val") is None
            return layout.open([train], None).sources[train].names if is_whole else ()
        except DataError:
            return ()

    return bool(build_rule(cfg)) and any(is_split_of(run, Path(cfg.DATA.DATA_PATH), read_names) for run in runs)


def find_split(cfg: Config) -> str:
    """Return what to evaluate where nobody says: the val part, else the test part, else all of what has no parts.

    Raises:
        DataError: There is no such part.
    """
    return choose_split(find_layouts(cfg, need_train=False), _where(cfg))
