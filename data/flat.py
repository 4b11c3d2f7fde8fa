"""Flat folders, where the names of the files say the classes, as cat_001.jpg and dog_7.jpg."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data.folders import class_folders
from data.labels import Labels, number_labels
from data.listings import list_folder
from data.sources import FolderImages, Names, Opened
from swin.errors import ConfigError, DataError
from swin.images import IMAGE_EXTENSIONS

USUAL_PATTERN = r"([^/]+?)[_-]?\d+\.\w+"  # a name, then a number: what errors propose for DATA.CLASS_PATTERN


def find_flat(
    root: Path, usual: Sequence[str], extensions: tuple[str, ...] = IMAGE_EXTENSIONS, *, is_deep: bool = False
) -> list[str]:
    """Return the parts of a data set of flat folders: those that hold images themselves rather than class folders.

    They are the folders below, if these are called as parts are, else the folder itself as the one part "".

    Args:
        root: The folder.
        usual: What parts are called, in lower case.
        extensions: How the names of images end.
        is_deep: Whether images in folders of theirs count too, and folders of other names are parts beside them.
    """

    def holds_images(folder: Path) -> bool:
        found = _files(folder) if is_deep else (entry.name for entry in list_folder(folder, missing_ok=True))
        return any(name.lower().endswith(extensions) for name in found)

    folders = [name for name in class_folders(root) if holds_images(root / name)]
    called = [name.lower() in usual for name in folders]
    if any(called) and (is_deep or all(called)):  # else they are classes, one of which is called train
        return folders
    return [""] if holds_images(root) else []


def open_flat(
    root: Path,
    parts: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    pattern: str,
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
) -> Opened:
    """Open folders of images whose paths say their classes; these are sorted to number them.

    Args:
        root: The folder that holds the parts.
        parts: Their names; "" for the folder itself.
        classes: A label map to use instead of the first part's.
        pattern: Regular expression with one group, the class, that is searched in each path relative to its part.
        extensions: How the names of images end.

    Raises:
        ConfigError: The pattern is none, or has not one group.
        DataError: There is no pattern, or files that it does not match, or a class that the label map does not have.
    """
    names = _image_names(root, parts, extensions)
    if not pattern:
        raise DataError(_ask_for_pattern(root / parts[0], names[parts[0]]))
    expression = _compile(pattern)
    found = {part: _classes_of(root / part, names[part], expression) for part in parts}
    classes, labels = number_labels(found, classes)
    return Opened(classes, {part: FolderImages(root / part, names[part], labels[part]) for part in parts})


def open_unlabelled(
    root: Path,
    parts: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    extensions: tuple[str, ...] = IMAGE_EXTENSIONS,
) -> Opened:
    """Open all images in folders and below them, whatever their paths are; they are of one class without a meaning."""
    names = _image_names(root, parts, extensions)
    labels = {part: np.zeros(len(names[part]), dtype=np.int64) for part in parts}
    return Opened(["image"], {part: FolderImages(root / part, names[part], labels[part]) for part in parts})


def _image_names(root: Path, parts: Sequence[str], extensions: tuple[str, ...]) -> dict[str, Names]:
    return {
        part: Names.of(sorted(name for name in _files(root / part) if name.lower().endswith(extensions)))
        for part in parts
    }


def _files(folder: Path) -> Iterator[str]:
    """Yield the paths of visible files in a folder at any depth, relative to it; links to folders are not followed."""
    for entry in list_folder(folder, missing_ok=True):
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{name}" for name in _files(folder / entry.name))
        else:
            yield entry.name


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"DATA.CLASS_PATTERN '{pattern}' is no regular expression: {error}.") from None
    if expression.groups != 1:
        raise ConfigError(
            f"DATA.CLASS_PATTERN '{pattern}' has {expression.groups} groups. Expected one in parentheses, the class; "
            "others can be written as (?:...)."
        )
    return expression


def _classes_of(folder: Path, names: Names, expression: re.Pattern[str]) -> Labels:
    code_of: dict[str, int] = {}
    codes, unmatched = np.empty(len(names), dtype=np.int64), []
    for index, name in enumerate(names):
        match = expression.search(name)
        if match and match[1]:
            codes[index] = code_of.setdefault(match[1], len(code_of))
        else:
            unmatched.append(name)
    if unmatched:
        raise DataError(
            f"{folder}: DATA.CLASS_PATTERN '{expression.pattern}' finds no class in the names of {len(unmatched)} of "
            f"{len(names)} images, as {', '.join(unmatched[:3])}. Change it, or move these files."
        )
    return Labels(str(folder), names, list(code_of), codes, declared=sorted(code_of))


def _ask_for_pattern(folder: Path, names: Names) -> str:
    """Say how the class can be told from the names of files, if that is easily seen."""
    examples: dict[str, str] = {}
    num_matched = 0
    for name in names:
        if match := re.search(USUAL_PATTERN, name):
            examples.setdefault(match[1], name)
            num_matched += 1
    if not 1 < len(examples) <= num_matched / 2:
        shown = ", ".join(names[index] for index in range(min(3, len(names))))
        return (
            f"{folder}: found {len(names)} images and no class folders, and no classes in the names, as {shown}. Move "
            "them into <class>/ folders; or list them in a table of path,label; or set DATA.CLASS_PATTERN to a regular "
            "expression with one group, the class."
        )
    shown = ", ".join(f"{name} as in {example}" for name, example in sorted(examples.items())[:3])
    others = "" if num_matched == len(names) else f" {len(names) - num_matched} names are otherwise: move these files."
    return (
        f"{folder}: found {len(names)} images and no class folders, but their names look like CLASS_NUMBER with "
        f"{len(examples)} classes ({shown}). If these are the classes, add --opts DATA.CLASS_PATTERN "
        f"'{USUAL_PATTERN}'.{others}"
    )
