"""Class folders: one folder a class, with images at any depth."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.datasets import FolderImages, Sets, check_known
from data.splits import remembered_split
from swin.errors import ConfigError, DataError
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
    run_dir: Path | None = None,
    is_main: bool = True,
    need_train: bool = True,
    classes: Sequence[str] | None = None,
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
) -> Sets:
    """Opens {train,val}/<class>/ folders, or <class>/ folders of which a share is held out.

    Labels count the names of the training folders in sorted order; val folders get theirs by name.

    Args:
        root: The folder that holds either layout.
        val_split: Share to hold out; 0 for the train/val layout.
        seed: Decides what is held out.
        run_dir: Where the split is remembered.
        is_main: Whether this process writes it.
        need_train: False to evaluate; then a train folder may be missing.
        classes: A label map to use instead, such as a checkpoint's.
        extensions: How the files to take end; others are left out.

    Raises:
        ConfigError: `val_split` contradicts what is there.
        DataError: Nothing of either layout is there, or a class is empty, or unknown to the label map.
    """
    train_root, val_root = root / "train", root / "val"
    train_names, val_names = _class_folders(train_root), _class_folders(val_root)
    if val_split > 0:
        if val_names:
            raise ConfigError(
                f"DATA.VAL_SPLIT is {val_split}, but {val_root} has images to validate on. Set it to 0 to use them."
            )
        undivided = train_root if train_names else root
        return _open_undivided(undivided, val_split, seed, run_dir, is_main, classes, extensions)
    if not val_names or (need_train and not train_names):
        raise DataError(_nothing_here(root))

    origin = "the label map that was given"
    if classes is None:
        classes, origin = (train_names, str(train_root)) if train_names else (val_names, str(val_root))
    train = None
    if need_train:
        train = _label(train_root, _scan(train_root, train_names, extensions, refuse_empty=True), classes, origin)
    val = _label(val_root, _scan(val_root, val_names, extensions, refuse_empty=False), classes, origin)
    if not len(val.labels):
        raise DataError(f"{val_root}: its class folders hold no images. {_LAYOUTS}.")
    return Sets(list(classes), train, val)


def _open_undivided(
    root: Path,
    val_split: float,
    seed: int,
    run_dir: Path | None,
    is_main: bool,
    classes: Sequence[str] | None,
    extensions: tuple[str, ...],
) -> Sets:
    found = _class_folders(root)
    if not found:
        raise DataError(_nothing_here(root))
    origin = "the label map that was given" if classes is not None else str(root)
    everything = _label(root, _scan(root, found, extensions, refuse_empty=True), classes or found, origin)
    split = remembered_split(
        everything.names, everything.labels, share=val_split, seed=seed, run_dir=run_dir, is_main=is_main
    )
    train, val = (
        FolderImages(root, (everything.names[index] for index in half), everything.labels[half])
        for half in (split.train, split.val)
    )
    return Sets(list(classes or found), train, val, split.notes)


def _class_folders(root: Path) -> list[str]:
    """Returns the sorted names of the visible folders in a folder; none where there is no such folder."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if _is_visible(entry.name) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{root}: cannot be listed: {error.strerror}. Check its permissions.") from None


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _scan(
    root: Path, classes: Sequence[str], extensions: tuple[str, ...], *, refuse_empty: bool
) -> dict[str, list[str]]:
    """Returns the sorted paths, relative to the root, of each class's images; classes without any are left out."""
    found = {name: sorted(_images_below(root, name, extensions)) for name in classes}
    empty = [name for name, files in found.items() if not files]
    if empty and refuse_empty:
        raise DataError(
            f"{root}: {len(empty)} of {len(classes)} class folders hold no images: {_some(empty)}. Fill or remove "
            f"them; images end in {' '.join(extensions)}."
        )
    return {name: files for name, files in found.items() if files}


def _images_below(root: Path, class_name: str, extensions: tuple[str, ...]) -> list[str]:
    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}. Check its permissions.") from None

    images: list[str] = []
    for folder, subfolders, files in os.walk(root / class_name, onerror=fail, followlinks=True):
        subfolders[:] = filter(_is_visible, subfolders)
        inside = os.path.relpath(folder, root)
        wanted = (name for name in files if name.lower().endswith(extensions) and _is_visible(name))
        images += [f"{inside}{os.sep}{name}" for name in wanted]
    return images


def _label(root: Path, files: dict[str, list[str]], classes: Sequence[str], origin: str) -> FolderImages:
    check_known(files, classes, where=root, origin=origin)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.repeat(
        np.array([label_of[name] for name in files], dtype=np.int64), [len(images) for images in files.values()]
    )
    return FolderImages(root, (path for images in files.values() for path in images), labels)


def _nothing_here(root: Path) -> str:
    """Says what is at a path that holds none of the layouts."""
    if not root.exists():
        return f"DATA.DATA_PATH {root} does not exist. {_LAYOUTS}."
    if not root.is_dir():
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
