"""Class folders: one folder a class, with images at any depth."""

import os
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path

import numpy as np

from data.labels import GIVEN, relabel
from data.sources import FolderImages, Names, Sets
from data.splits import hold_out, split_record
from swin.errors import ConfigError, DataError
from swin.files import file_kind
from swin.images import IMAGE_EXTENSIONS

_LAYOUTS = (
    "Expected {train,val}/<class>/ with images; or <class>/ with images and DATA.VAL_SPLIT above 0; "
    "or train.zip, train_map.txt, val.zip, val_map.txt and DATA.ZIP_MODE True; or train.csv and val.csv; or what "
    "tools.pack_dataset wrote"
)


def open_folders(
    root: Path,
    *,
    val_split: float = 0.0,
    seed: int = 0,
    runs: Sequence[Path] = (),
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
    split: str = "val",
) -> Sets:
    """Open {train,val}/<class>/ folders, or <class>/ folders of which a part is held out.

    Labels count the names of the training folders in sorted order; val folders get theirs by name. Links are followed,
    but for those to a folder that was entered already.

    Args:
        root: The folder that holds either layout.
        val_split: Fraction to hold out; 0 for the train/val layout.
        seed, runs: See `hold_out`.
        need_train, classes, split: See `data.build.open_sets`.
        extensions: How the files to take end; others are left out.

    Raises:
        ConfigError: `val_split` contradicts what is there.
        DataError: Nothing of either layout is there, or a class is empty, or unknown to the label map; or a link gives
            one folder two classes, or a name like an image's is a FIFO, socket or device.
    """
    train_root, val_root = root / "train", root if split == "all" else root / split
    train_names = class_folders(train_root) if split != "all" else []
    val_names = class_folders(val_root)
    if val_split > 0 and split in ("train", "val"):
        if class_folders(root / "val"):
            raise ConfigError(
                f"DATA.VAL_SPLIT is {val_split}, but {root / 'val'} has images to validate on. Set it to 0 to use them."
            )
        found = train_root if train_names else root
        return _open_undivided(found, split, val_split, seed, runs, classes, extensions)
    if not val_names or (need_train and not train_names):
        raise DataError(_nothing_here(root, split))

    origin = GIVEN
    if classes is None:
        classes, origin = (train_names, str(train_root)) if train_names else (val_names, str(val_root))
    train = _scan(train_root, train_names, extensions, classes, origin) if need_train else None
    val = _scan(val_root, val_names, extensions, classes, origin, may_be_empty=True)
    if not len(val.labels):
        raise DataError(f"{val_root}: its class folders hold no images. {_LAYOUTS}.")
    return Sets(list(classes), train, val)


def _open_undivided(
    root: Path,
    split: str,
    val_split: float,
    seed: int,
    runs: Sequence[Path],
    classes: Sequence[str] | None,
    extensions: tuple[str, ...],
) -> Sets:
    found = class_folders(root)
    if not found:
        raise DataError(_nothing_here(root))
    classes = list(classes or found)
    everything = _scan(root, found, extensions, classes)
    names, labels = everything.names, everything.labels
    parts = hold_out(names, labels, fraction=val_split, seed=seed, runs=runs)
    train, val = (
        FolderImages(root, (names[index] for index in part), labels[part]) for part in (parts.train, parts.val)
    )
    record = split_record(names, val_split, parts)
    return Sets(classes, train, train if split == "train" else val, parts.notes, record)


def class_folders(root: Path) -> list[str]:
    """Return the sorted names of the visible folders in a folder; none where there is no such folder."""
    return sorted(entry.name for entry in _list(root, missing_ok=True) if _is_folder(entry))


def _list(folder: Path, *, missing_ok: bool = False) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except (OSError, ValueError) as error:
        if missing_ok and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return []
        raise DataError(f"{folder}: cannot be listed: {error}. Check its permissions.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _scan(
    root: Path,
    folders: Sequence[str],
    extensions: tuple[str, ...],
    classes: Sequence[str],
    origin: str = GIVEN,
    *,
    may_be_empty: bool = False,
) -> FolderImages:
    """Find the images of class folders, sorted within each, and label them by the folders' names."""
    counts: list[int] = []
    # What must not be entered again: the folder itself and those that hold it, to begin with.
    real = Path(os.path.realpath(root))
    entered = {str(folder): "" for folder in (real, *real.parents)}

    def paths() -> Iterator[str]:
        for name in folders:
            images = sorted(_images_below(root, name, extensions, entered))
            counts.append(len(images))
            yield from images

    names = Names.of(paths())
    empty = [name for name, count in zip(folders, counts, strict=True) if not count]
    if empty and not may_be_empty:
        raise DataError(
            f"{root}: {len(empty)} of {len(folders)} class folders hold no images: {_some(empty)}. Fill or remove "
            f"them; images end in {' '.join(extensions)}."
        )
    labels = np.repeat(np.arange(len(folders)), counts)
    return FolderImages(root, names, relabel(labels, folders, classes, where=root, origin=origin))


def _images_below(root: Path, class_name: str, extensions: tuple[str, ...], entered: dict[str, str]) -> Iterator[str]:
    """Yield the paths of a class's images, relative to the root.

    Links are followed, but each folder is entered once: else one that leads up the tree would never end. `entered`,
    which is added to, has the real paths of folders and the paths they were entered by.
    """
    waiting = [(False, class_name)]  # a heap: links come last, so that what is no link keeps its own path
    while waiting:
        _, folder = heappop(waiting)
        for entry in _list(root / folder) if _enter(root, folder, entered) else ():
            path = f"{folder}{os.sep}{entry.name}"
            if _is_folder(entry):
                heappush(waiting, (entry.is_symlink(), path))
            elif entry.name.lower().endswith(extensions):
                _refuse_irregular(entry)
                yield path


def _enter(root: Path, folder: str, entered: dict[str, str]) -> bool:
    """Note a folder below the root; tell whether it is entered for the first time."""
    before = entered.setdefault(os.path.realpath(root / folder), folder)
    if before and before.partition(os.sep)[0] != folder.partition(os.sep)[0]:
        raise DataError(
            f"{root}: {before} and {folder} are one folder, by a link, and its images cannot be of two classes. Remove "
            "the link."
        )
    return before == folder


def _refuse_irregular(entry: os.DirEntry[str]) -> None:
    """Raise a DataError for a FIFO, socket or device; a broken link is told by reading it."""
    try:
        if entry.is_file():
            return
        kind = file_kind(entry.stat().st_mode)
    except OSError:
        return
    raise DataError(f"{entry.path}: is {kind}, not an image. Remove it, or what links to it.")


def _nothing_here(root: Path, split: str = "val") -> str:
    """Say what is at a path that holds none of the layouts, or not this part."""
    if not os.path.isdir(root):
        return f"DATA.DATA_PATH {root} {describe_folder(root)}. {_LAYOUTS}."
    if split != "val":
        return (
            f"{root}: has no part {split!r}: {describe_folder(root)}. Name a part that is there, or all for <class>/."
        )
    folders, files = class_folders(root), _files(root)
    hint = ""
    if "train.zip" in files or "val.zip" in files:
        hint = " For the zips set DATA.ZIP_MODE True (or pass --zip)."
    elif folders and not {"train", "val"} & set(folders):
        hint = " If these folders are the classes, set DATA.VAL_SPLIT, to 0.1 for example."
    return f"{root}: {describe_folder(root)}. {_LAYOUTS}.{hint}"


def describe_folder(root: Path) -> str:
    """Say which folders and files are at a path."""
    if not os.path.isdir(root):
        return "is a file" if os.path.exists(root) else "does not exist"
    folders, files = class_folders(root), _files(root)
    return f"found {len(folders)} folders ({_some(folders)}) and {len(files)} files ({_some(files)})"


def _files(root: Path) -> list[str]:
    return sorted(entry.name for entry in _list(root) if not _is_folder(entry))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"
