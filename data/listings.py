"""Folders, and files that list images, read so that no content, encoding or length of theirs does harm."""

import io
import json
import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from swin.errors import DataError
from swin.files import open_regular

_MAX_LINE = 1 << 20  # characters
_MAX_DIGITS = 18  # of a label in int64


def list_folder(folder: Path, *, missing_ok: bool = False) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder.

    Args:
        folder: Its path.
        missing_ok: Whether none are returned where there is no such folder.

    Raises:
        DataError: It cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    except (OSError, ValueError) as error:
        if missing_ok and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return []
        raise DataError(f"{folder}: cannot be listed: {error}. Check its permissions.") from None


def find_stems(folder: Path, endings: Sequence[str]) -> list[str]:
    """Return the sorted names of the entries of a folder that end so, without these endings."""
    names = [entry.name for entry in list_folder(folder, missing_ok=True)]
    return sorted({name.removesuffix(end) for name in names for end in endings if name.endswith(end)})


def read_lines(file: Path, *, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a UTF-8 text, with `newline` as in `open`; bytes that are none stay as in names of files.

    Raises:
        DataError: It cannot be read, or a line holds what no text does.
    """
    try:
        stream = open(open_regular(file), "rb")  # noqa: SIM115 (closed with the text)
        with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=newline) as text:
            yield from _checked_lines(file, text)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from None


def _checked_lines(file: Path, text: TextIO) -> Iterator[str]:
    for number in count(1):
        line = text.readline(_MAX_LINE)  # of a file of zeros, all would be one line
        if "\0" in line:
            raise DataError(f"{file}: line {number} holds a NUL, as UTF-16 does. Save the file as UTF-8 text.")
        if len(line) == _MAX_LINE:
            raise DataError(f"{file}: line {number} has a million characters or more. Is this a list?")
        if not line:
            return
        yield line


def as_label(text: str) -> int | None:
    """Return a label that is written in ASCII digits and fits into int64; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def read_json(file: Path) -> Any:
    """Return the content of a JSON file; raise an OSError or ValueError where it cannot be read."""
    with open(open_regular(file), encoding="utf-8") as stream:
        try:
            return json.load(stream)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
