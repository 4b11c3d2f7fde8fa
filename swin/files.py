"""Opening files that others made: a name promises nothing about what is behind it."""

import errno
import os
import stat
from typing import BinaryIO

from swin.errors import DataError

MAX_FILE_BYTES = 1 << 30  # what is larger is no image, and would fill the memory of every worker
_PART_BYTES = 1 << 22  # that are read of a stream at once
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a file to read it and return its descriptor, for `open` to take over.

    Raises:
        OSError: It cannot be opened, or is no regular file: a FIFO would wait for a writer for ever, and a device may
            never end.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # what the platform has of them
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL in the path, or what no file's name can hold
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None
    except OSError as error:
        if error.errno != errno.ENXIO:  # how a socket answers
            raise
        raise _irregular(path, os.stat(path).st_mode) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _irregular(path, mode)
    return descriptor


def _irregular(path: str | os.PathLike[str], mode: int) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    return OSError(errno.EINVAL, f"it is {file_kind(mode)}, not a regular file", os.fspath(path))


def file_kind(mode: int) -> str:
    """Say what a file with a mode of `os.stat` is, if it is no regular file."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def read_file(path: str | os.PathLike[str], name: str | None = None) -> bytes:
    """Return the bytes of a regular file of at most MAX_FILE_BYTES; raise a DataError that names it."""
    name = name or os.fspath(path)
    try:
        with open(open_regular(path), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAX_FILE_BYTES:
                return file.read() or b""  # None is what would block, as a few files of the kernel
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None
    raise DataError(f"{name}: has {size:,} bytes, and an image at most {MAX_FILE_BYTES:,}. Replace or remove the file.")


def read_stream(stream: BinaryIO, name: str) -> bytes:
    """Return what is left of a binary file, at most MAX_FILE_BYTES; raise a DataError that calls it `name`."""
    parts: list[bytes] = []
    size = 0
    try:
        while size <= MAX_FILE_BYTES and (part := stream.read(_PART_BYTES)):
            parts.append(part)
            size += len(part)
        content = b"".join(parts)
    except (OSError, ValueError, TypeError) as error:  # it failed, is closed, or was not opened as a binary file
        raise DataError(f"{name}: cannot be read as a binary file: {error}. Open it with mode 'rb'.") from None
    if size > MAX_FILE_BYTES:
        raise DataError(f"{name}: has more than {MAX_FILE_BYTES:,} bytes, too many for an image.")
    return content
