"""What a data set's folder holds: which layout, and which parts are for training, validation and test."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from data import digits
from data.archives import find_zips, open_zips
from data.flat import find_flat, open_flat, open_unlabelled
from data.folders import class_folders, describe_folder, find_folders, open_folders
from data.official import find_cub, find_imagenet22k, open_cub, open_imagenet22k
from data.shards import find_shards, open_shards
from data.sources import Opened
from data.tables import find_tables, open_tables
from swin.config import Config
from swin.errors import ConfigError, DataError
from swin.images import image_extensions

# What the parts for each role are called, in any case.
USUAL = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
ALL = "all"  # what an evaluation calls all images of a data set that has no parts
_LAYOUTS = (
    "Expected {train,val}/<class>/ with images; or <class>/ with images and DATA.VAL_SPLIT above 0; "
    "or train.zip, train_map.txt, val.zip, val_map.txt and DATA.ZIP_MODE True; or train.csv and val.csv, or one "
    "table of images; or what tools.pack_dataset wrote"
)


@dataclass(frozen=True)
class Layout:
    """One way to read a data set, and the parts that are there."""

    where: Path | str  # the data set, as messages call it
    parts: Sequence[str]  # by their own names, as "Training"; "" for the whole where there are no parts
    open: Callable[[Sequence[str], Sequence[str] | None], Opened]  # of parts, the first of them to name the classes
    pattern: str = "{}"  # what there is of a part, as "{}.csv"
    roles: Mapping[str, str] = field(default_factory=dict)  # own names by role, where these are said
    class_names: Callable[[str], list[str]] | None = None  # of a part, where they are known before it is read

    def part(self, role: str) -> str | None:
        """Return the own name of the part for train, val or test; None where there is none.

        Raises:
            DataError: There are several.
        """
        if self.roles.get(role) in self.parts:
            return self.roles[role]
        said = self.roles.values()
        found = [name for name in self.parts if name.lower() in USUAL[role] and name not in said]
        if len(found) > 1:
            shown = " and ".join(self.shown(name) for name in found)
            raise DataError(
                f"{self.where}: {shown} may each be the {role} part. Say which is, as "
                f'DATA.SPLITS "{{{role}: {found[0]}}}".'
            )
        return found[0] if found else None

    def find(self, name: str) -> str | None:
        """Return the own name of a part that is called so, by its role or itself; None where there is none."""
        if self.roles.get(name) in self.parts:
            return self.roles[name]
        if name in self.parts:
            return name
        if name == ALL and "" in self.parts:
            return ""
        role = role_of(name)
        return self.part(role) if role else None

    def shown(self, part: str) -> str:
        """Return what messages call a part."""
        return self.pattern.format(part) if part else str(self.where)

    def names(self) -> list[str]:
        """Return what the parts can be called to evaluate them."""
        roles = [role for role in ("val", "test", "train") if self.find(role) is not None]
        return list(dict.fromkeys([*roles, *(name or ALL for name in self.parts)]))


def role_of(name: str) -> str | None:
    """Return the role that parts of this name have, if it is a usual one."""
    return next((role for role, usual in USUAL.items() if name.lower() in usual), None)


def find_unlabelled(cfg: Config) -> tuple[Layout, str]:
    """Return the layout of images that a pre-training takes, and its part for training: labels are not needed.

    Folders are taken with all images at any depth, in their part for training where they have parts.

    Raises:
        DataError: There are no images.
    """
    root, extensions = Path(cfg.DATA.DATA_PATH), image_extensions(cfg.architecture.IN_CHANS)
    open_all = partial(open_unlabelled, root, extensions=extensions)
    try:
        layout, train = choose_train(find_layouts(cfg, need_train=True), root, cfg.DATA.SPLITS)
        return (replace(layout, open=open_all) if layout.class_names else layout), train
    except DataError:
        usual = [name.lower() for names in (*USUAL.values(), cfg.DATA.SPLITS.values()) for name in names]
        parts = find_flat(root, usual, extensions, is_deep=True)
        if not parts:
            raise
        return choose_train([Layout(root, parts, open_all, "{}/", dict(cfg.DATA.SPLITS))], root, cfg.DATA.SPLITS)


def find_layouts(cfg: Config, *, need_train: bool, named: Iterable[str] = ()) -> list[Layout]:
    """Return the layouts in which a config's data set lies there, the first that is meant first.

    Args:
        cfg: The config. To evaluate, it may be that of a checkpoint, about other data: then what is there decides.
        need_train: Whether there has to be something to train on.
        named: What parts are called besides the usual.
    """
    roles: dict[str, str] = dict(cfg.DATA.SPLITS)
    if cfg.DATA.DATASET == "digits" and not cfg.DATA.MULTI_LABEL:
        return [Layout("digits", digits.PARTS, digits.open_digits, roles={"val": "test"})]
    root = Path(cfg.DATA.DATA_PATH)
    usual = [name.lower() for names in (*USUAL.values(), roles.values(), named) for name in names]
    if cfg.DATA.MULTI_LABEL:
        return [_tables_of_several_labels(cfg, root, roles, usual)]
    zips = Layout(root, find_zips(root), partial(open_zips, root), "{}.zip", roles)
    maps = Layout(root, find_imagenet22k(root), partial(open_imagenet22k, root), "its map of {}", roles)
    if need_train and cfg.DATA.ZIP_MODE:  # what is missing is said by opening it
        return [_with_train(zips)]
    if need_train and cfg.DATA.DATASET == "imagenet22K" and (maps.parts or cfg.DATA.VAL_SPLIT == 0):
        return [_with_train(maps)]
    extensions, groups = image_extensions(cfg.architecture.IN_CHANS), {"group_by": cfg.DATA.GROUP_BY}
    folders = partial(open_folders, root, extensions=extensions, is_complete=need_train)
    layouts = [
        Layout(root, find_cub(root), partial(open_cub, root), roles={"val": "test", **roles}),
        Layout(root, find_tables(root, usual, **groups), partial(open_tables, root, **groups), "{}.csv", roles),
        Layout(root, find_shards(root), partial(open_shards, root), "{}/", roles),
        Layout(root, find_folders(root, usual), folders, "{}/", roles, lambda part: class_folders(root / part)),
    ]
    if not need_train:
        layouts = [zips, maps, *layouts] if cfg.DATA.ZIP_MODE else [maps, *layouts, zips]
    pattern, found = cfg.DATA.CLASS_PATTERN, [layout for layout in layouts if layout.parts]
    flat_parts = find_flat(root, usual, extensions, is_deep=need_train and bool(pattern))
    flat = Layout(root, flat_parts, partial(open_flat, root, pattern=pattern, extensions=extensions), "{}/", roles)
    return _add_flat(found, flat, is_meant=bool(pattern), comes_first=need_train)


def _tables_of_several_labels(cfg: Config, root: Path, roles: dict[str, str], usual: Sequence[str]) -> Layout:
    groups = {"group_by": cfg.DATA.GROUP_BY}
    parts = find_tables(root, usual, **groups) if cfg.DATA.DATASET != "digits" else []
    if not parts:
        raise ConfigError(
            f"DATA.MULTI_LABEL is True, but {root} has no table of images, and nothing else says several labels of one."
            " Add train.csv and val.csv, with the columns image and labels, or leave the key out."
        )
    return Layout(root, parts, partial(open_tables, root, multi_label=True, **groups), "{}.csv", roles)


def _add_flat(found: list[Layout], flat: Layout, *, is_meant: bool, comes_first: bool) -> list[Layout]:
    """Add flat folders to other layouts where they are meant, by a pattern.

    Raises:
        DataError: Nothing else is there, or only train/ and val/ with images in them, which are not the classes of one
            folder; it asks for the pattern.
    """
    if not flat.parts:
        return found
    are_classes = [layout.class_names is not None and list(layout.parts) == [""] for layout in found]
    is_flat = not found or (are_classes == [True] and list(flat.parts) != [""])
    if is_flat and not is_meant:
        flat.open([flat.part("train") or flat.parts[0]], None)
    if not is_meant:
        return found
    return [flat, *found] if is_flat or comes_first else [*found, flat]


def _with_train(layout: Layout) -> Layout:
    return layout if layout.part("train") else replace(layout, parts=[*layout.parts, "train"])


def choose_train(layouts: Sequence[Layout], where: Path | str, splits: Mapping[str, str]) -> tuple[Layout, str]:
    """Return the layout to train on, and its part for that.

    Raises:
        DataError: There is none, or no part is called as DATA.SPLITS says.
    """
    fitting = [layout for layout in layouts if {*splits.values()} <= {*layout.parts}]
    for layout in fitting:
        if (train := layout.part("train")) is not None:
            return layout, train
    for layout in fitting:
        if "" in layout.parts:
            return layout, ""
    if layouts and not fitting:
        found = {name for layout in layouts for name in layout.parts}
        missing = next(name for name in splits.values() if name not in found or len(layouts) > 1)
        raise DataError(
            f"{where}: has no part {missing!r}, which DATA.SPLITS names: "
            f"{describe_folder(Path(where))}. Name parts that are there."
        )
    hint = ""
    if any(role_of(name) for name in find_zips(Path(where))):
        hint = " For the zips set DATA.ZIP_MODE True (or pass --zip)."
    raise DataError(f"{_describe(where)}. {_LAYOUTS}.{hint}")


def val_is_missing(layout: Layout, train: str, where: Path | str) -> DataError:
    """Return the error for a data set of which nothing is there to validate on, and nothing is held out."""
    if train == "" and layout.class_names is None:  # a table, or a flat folder
        return DataError(
            f"{where}: has images, and none of them to validate on. Hold out a share, with DATA.VAL_SPLIT 0.1; or say "
            "which are for what, in a table's column `split` with train and val, or by folders train/ and val/."
        )
    if train == "":
        hint = " If these folders are the classes, set DATA.VAL_SPLIT, to 0.1 for example."
        return DataError(f"{_describe(where)}. {_LAYOUTS}.{hint}")
    own = layout.shown(train)
    if (test := layout.part("test")) is not None:
        return DataError(
            f"{where}: has {own} and {layout.shown(test)}, and nothing to validate on. Either hold out a share of "
            f"{own} and keep {layout.shown(test)} for the end, with DATA.VAL_SPLIT 0.1; or validate on it, with "
            f'DATA.SPLITS "{{train: {train}, val: {test}}}".'
        )
    return DataError(
        f"{where}: has {own} and nothing to validate on: {describe_folder(Path(where))}. Hold out a share of {own}, "
        f"with DATA.VAL_SPLIT 0.1. Add {layout.shown('val')} if there is one. {_LAYOUTS}."
    )


def choose_part(layouts: Sequence[Layout], name: str, where: Path | str) -> tuple[Layout, str]:
    """Return the layout that has a part of this name or role, and the part's own name.

    Raises:
        DataError: None has it.
    """
    for layout in layouts:
        if (found := layout.find(name)) is not None:
            return layout, found
    raise part_is_missing(layouts, name, where)


def part_is_missing(layouts: Sequence[Layout], name: str, where: Path | str) -> DataError:
    """Return the error for a part that no layout has."""
    there = list(dict.fromkeys(each for layout in layouts for each in layout.names()))
    if there:
        return DataError(f"{where}: has no part {name!r}. Choose from {', '.join(there)}.")
    return DataError(f"{where}: has no part {name!r}: {describe_folder(Path(where))}. {_LAYOUTS}.")


def choose_split(layouts: Sequence[Layout], where: Path | str) -> str:
    """Return what to evaluate of a data set where nobody says: its val part, else its test part, else all of it.

    Raises:
        DataError: It has no such part, and is not one folder or table of images either.
    """
    for role in ("val", "test"):
        if any(layout.part(role) is not None for layout in layouts):
            return role
    has_train = any(layout.part("train") is not None for layout in layouts)
    if not has_train and any("" in layout.parts for layout in layouts):
        return ALL
    hint = "the training images with python -m tools.evaluate --split train" if has_train else "a folder of <class>/"
    raise DataError(f"{where}: has no val or test part to evaluate: {describe_folder(Path(where))}. Evaluate {hint}.")


def _describe(where: Path | str) -> str:
    start = f"{where}:" if Path(where).is_dir() else f"DATA.DATA_PATH {where}"
    return f"{start} {describe_folder(Path(where))}"
