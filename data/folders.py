"""Class folders: one folder a class, with images at any depth."""

import os
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path

import numpy as np

from data.datasets import FolderImages, Names, Sets, check_known
from data.splits import remembered_split, split_record
from swin.errors import ConfigError, DataError
from swin.files import file_kind
from swin.preprocess import IMAGE_EXTENSIONS

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
) -> Sets:
    """Opens {train,val}/<class>/ folders, or <class>/ folders of which a share is held out.

    Labels count the names of the training folders in sorted order; val folders get theirs by name. Links are followed,
    but for those to a folder that was entered already.

    Args:
        root: The folder that holds either layout.
        val_split: Share to hold out; 0 for the train/val layout.
        seed: Decides what is held out.
        runs: See `remembered_split`.
        need_train: False to evaluate; then a train folder may be missing.
        classes: A label map to use instead, such as a checkpoint's.
        extensions: How the files to take end; others are left out.

    Raises:
        ConfigError: `val_split` contradicts what is there.
        DataError: Nothing of either layout is there, or a class is empty, or unknown to the label map; or a link gives
            one folder two classes, or a name like an image's is a FIFO, socket or device.
    """
    train_root, val_root = root / "train", root / "val"
    train_names, val_names = _class_folders(train_root), _class_folders(val_root)
    if val_split > 0:
        if val_names:
            raise ConfigError(
                f"DATA.VAL_SPLIT is {val_split}, but {val_root} has images to validate on. Set it to 0 to use them."
            )
        undivided = train_root if train_names else root
        return _open_undivided(undivided, val_split, seed, runs, classes, extensions)
    if not val_names or (need_train and not train_names):
        raise DataError(_nothing_here(root))

    origin = "the label map that was given"
    if classes is None:
        classes, origin = (train_names, str(train_root)) if train_names else (val_names, str(val_root))
    train = _scan(train_root, train_names, extensions, classes, origin, refuse_empty=True) if need_train else None
    val = _scan(val_root, val_names, extensions, classes, origin, refuse_empty=False)
    if not len(val.labels):
        raise DataError(f"{val_root}: its class folders hold no images. {_LAYOUTS}.")
    return Sets(list(classes), train, val)


def _open_undivided(
    root: Path,
    val_split: float,
    seed: int,
    runs: Sequence[Path],
    classes: Sequence[str] | None,
    extensions: tuple[str, ...],
) -> Sets:
    found = _class_folders(root)
    if not found:
        raise DataError(_nothing_here(root))
    origin = "the label map that was given" if classes is not None else str(root)
    everything = _scan(root, found, extensions, classes or found, origin, refuse_empty=True)
    split = remembered_split(everything.names, everything.labels, share=val_split, seed=seed, runs=runs)
    train, val = (
        FolderImages(root, (everything.names[index] for index in half), everything.labels[half])
        for half in (split.train, split.val)
    )
    return Sets(list(classes or found), train, val, split.notes, split_record(everything.names, val_split, split))


def _class_folders(root: Path) -> list[str]:
    """Returns the sorted names of the visible folders in a folder; none where there is no such folder."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if _is_visible(entry.name) and _is_folder(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"{root}: cannot be listed: {error}. Check its permissions.") from None


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


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
    origin: str,
    *,
    refuse_empty: bool,
) -> FolderImages:
    """Finds the images of class folders, sorted within each, and labels them by the folders' names."""
    counts: dict[str, int] = {}
    entered = _folders_above(root)

    def paths() -> Iterator[str]:
        for name in folders:
            images = sorted(_images_below(root, name, extensions, entered))
            counts[name] = len(images)
            yield from images

    names = Names(paths())
    empty = [name for name, number in counts.items() if not number]
    if empty and refuse_empty:
        raise DataError(
            f"{root}: {len(empty)} of {len(folders)} class folders hold no images: {_some(empty)}. Fill or remove "
            f"them; images end in {' '.join(extensions)}."
        )
    check_known((name for name, number in counts.items() if number), classes, where=root, origin=origin)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.array([label_of.get(name, -1) for name in folders], dtype=np.int64)  # -1: unknown, and empty
    return FolderImages(root, names, np.repeat(labels, [counts[name] for name in folders]))


def _folders_above(root: Path) -> dict[str, str]:
    """Returns what a scan must not enter again: the real paths of its folder and of those that hold it."""
    real = Path(os.path.realpath(root))
    return {str(folder): "" for folder in (real, *real.parents)}


def _images_below(root: Path, class_name: str, extensions: tuple[str, ...], entered: dict[str, str]) -> Iterator[str]:
    """Yields the paths of a class's images, relative to the root.

    Links are followed, but each folder is entered once: else one that leads up the tree would never end.

    Args:
        root: The folder of the class folders.
        class_name: Which of them.
        extensions: How the images' names end.
        entered: Real paths of folders to the paths they were entered by; is added to.
    """
    waiting = [(False, class_name)]  # a heap: links come last, so that what is no link keeps its own path
    while waiting:
        _, folder = heappop(waiting)
        if not _enter(root, folder, entered):
            continue
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{os.sep}{entry.name}"
                    if not _is_visible(entry.name):
                        continue
                    if _is_folder(entry):
                        heappush(waiting, (entry.is_symlink(), path))
                    elif entry.name.lower().endswith(extensions):
                        _refuse_irregular(entry)
                        yield path
        except OSError as error:
            raise DataError(f"{root / folder}: cannot be listed: {error.strerror}. Check its permissions.") from None


def _enter(root: Path, folder: str, entered: dict[str, str]) -> bool:
    """Notes a folder below the root; returns whether it is entered for the first time."""
    before = entered.setdefault(os.path.realpath(root / folder), folder)
    if before and before.partition(os.sep)[0] != folder.partition(os.sep)[0]:
        raise DataError(
            f"{root}: {before} and {folder} are one folder, by a link, and its images cannot be of two classes. Remove "
            "the link."
        )
    return before == folder


def _refuse_irregular(entry: os.DirEntry[str]) -> None:
    """Raises a DataError for a FIFO, socket or device; a broken link is told by reading it."""
    try:
        if entry.is_file():
            return
        kind = file_kind(entry.stat().st_mode)
    except OSError:
        return
    raise DataError(f"{entry.path}: is {kind}, not an image. Remove it, or what links to it.")


def _nothing_here(root: Path) -> str:
    """Says what is at a path that holds none of the layouts."""
    if not os.path.exists(root):
        return f"DATA.DATA_PATH {root} does not exist. {_LAYOUTS}."
    if not os.path.isdir(root):
        return f"DATA.DATA_PATH {root} is a file. {_LAYOUTS}."
    folders = _class_folders(root)
    files = sorted(entry.name for entry in root.iterdir() if entry.is_file() and _is_visible(entry.name))
    found = f"found {len(folders)} folders ({_some(folders)}) and {len(files)} files ({_some(files)})"
    hint = ""
    if "train.zip" in files or "val.zip" in files:
        hint = " For the zips set DATA.ZIP_MODE True (or pass --zip)."
    elif folders and not {"train", "val"} & set(folders):
        hint = " If these folders are the classes, set DATA.VAL_SPLIT, to 0.1 for example."
    return f"{root}: {found}. {_LAYOUTS}.{hint}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"
