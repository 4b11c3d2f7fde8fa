"""One process at a time owns a folder: a lock file that the system frees when its owner dies."""

import errno
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from swin.errors import ConfigError
from swin.records import timestamp

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"
# What file systems without POSIX locks answer: Lustre mounted without them, NFS without its lock daemon.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def lock_folder(folder: Path) -> int | None:
    """Claim an existing folder, until `unlock_folder` or the end of this process, however that comes.

    The lock is a POSIX record lock. The kernel frees it when the process dies, and forked data workers do not inherit
    it. It is lost when any descriptor of the lock file is closed, so this process must not open it again.

    Returns:
        The descriptor that holds the lock; None where the operating or file system has no such locks.

    Raises:
        ConfigError: another process holds it.
        FileNotFoundError: the folder or its lock file was removed meanwhile: try again.
        OSError: the lock file cannot be written.
    """
    if fcntl is None:
        return None
    path = folder / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            unlock_folder(folder, descriptor)
            return None
        owner = _read_owner(descriptor)
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise ConfigError(
            f"the run's folder {folder} is in use by {owner}; wait for it, stop it, or choose another --tag."
        ) from None
    # Its last owner may have removed the file after it was opened here; whoever comes next would lock a new one.
    if not _is_open_as(path, descriptor):
        os.close(descriptor)
        raise FileNotFoundError
    owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": timestamp()})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, owner.encode(), 0)
    return descriptor


def unlock_folder(folder: Path, descriptor: int) -> None:
    """Remove a lock file while it is still held, so that nobody else's is removed, and free the lock."""
    path = folder / LOCK_NAME
    with suppress(OSError):
        if _is_open_as(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _is_open_as(path: Path, descriptor: int) -> bool:
    """Whether the path still names the opened file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_owner(descriptor: int) -> str:
    time.sleep(0.2)  # the owner writes its name right after it has locked
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
