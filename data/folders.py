"""Class folders: one folder a class, with images at any depth."""

import os
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path

import numpy as np

from data.labels import GIVEN, relabel
from data.listings import list_folder
from data.sources import FolderImages, Names, Opened, Source
from swin.errors import DataError
from swin.files import file_kind
from swin.images import IMAGE_EXTENSIONS


def find_folders(root: Path, usual: Sequence[str]) -> list[str]:
    """Return the parts of a data set of class folders.

    They are the folders that hold class folders, if one of them is called as parts are, whatever its case; else the
    folder itself, as the one part "", if it has any folders.

    Args:
        root: The folder.
        usual: What parts are called, in lower case.
    """
    folders = class_folders(root)
    if any(name.lower() in usual and class_folders(root / name) for name in folders):
        return [name for name in folders if class_folders(root / name)]
    return [""] if folders else []


def open_folders(
    root: Path,
    parts: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
    is_complete: bool = False,
) -> Opened:
    """Open folders of <class>/ folders.

    Labels count the names of the first part's class folders in sorted order; the others get theirs by name. Links are
    followed, but for those to a folder that was entered already.

    Args:
        root: The folder that holds the parts.
        parts: Their names; "" for the folder itself.
        classes: A label map to use instead.
        extensions: How the files to take end; others are left out.
        is_complete: Whether the first part must have images of each class, as to train on.

    Raises:
        DataError: A part has no images, or a class is empty, or unknown to the label map; or a link gives one folder
            two classes, or a name like an image's is a FIFO, socket or device.
    """
    first, origin = root / parts[0], GIVEN
    if classes is None:
        classes, origin = class_folders(first), str(first)
    sources: dict[str, Source] = {}
    for part in parts:
        may_be_empty = not is_complete or part != parts[0]
        found = _scan(root / part, extensions, classes, origin, may_be_empty=may_be_empty)
        if not len(found.labels):
            raise DataError(
                f"{root / part}: its class folders hold no images, which end in {' '.join(extensions)}. Expected "
                "<class>/ folders with images."
            )
        sources[part] = found
    return Opened(list(classes), sources)


def class_folders(root: Path) -> list[str]:
    """Return the sorted names of the visible folders in a folder; none where there is no such folder."""
    return sorted(entry.name for entry in list_folder(root, missing_ok=True) if _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _scan(
    root: Path, extensions: tuple[str, ...], classes: Sequence[str], origin: str, *, may_be_empty: bool
) -> FolderImages:
    """Find the images of class folders, sorted within each, and label them by the folders' names."""
    folders = class_folders(root)
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
        for entry in list_folder(root / folder) if _enter(root, folder, entered) else ():
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


def describe_folder(root: Path) -> str:
    """Say which folders and files are at a path."""
    if not os.path.isdir(root):
        return "is a file" if os.path.exists(root) else "does not exist"
    folders, files = class_folders(root), _files(root)
    return f"found {len(folders)} folders ({_some(folders)}) and {len(files)} files ({_some(files)})"


def _files(root: Path) -> list[str]:
    return sorted(entry.name for entry in list_folder(root) if not _is_folder(entry))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"
