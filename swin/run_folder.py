"""The folder of one run: owned by one process at a time, with the files that say what the run is and how it ended."""

import errno
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch

from swin.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None  # type: ignore[assignment]

_LOCK_NAME = ".lock"
_TEMPORARY_NAME = re.compile(r"\..+\.(\d+)\.tmp")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What file systems without POSIX locks answer: Lustre mounted without them, NFS without its lock daemon.
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_PACKAGES = ("torchvision", "timm", "pillow", "numpy")


def cannot_write(what: Path | str, error: OSError) -> ConfigError:
    """The error for a file or folder of a run that cannot be written: which, why and what to do."""
    remedy = "free disk space or change --output" if error.errno in _NO_SPACE else "change --output"
    return ConfigError(f"{what} cannot be written ({error.strerror or error}); {remedy}.")


def encode(text: str) -> bytes:
    """Text as UTF-8; a lone surrogate, of a file name that is not UTF-8, becomes the escape that JSON has for it."""
    return text.encode("utf-8", "backslashreplace")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or a crash of this program, finds the old or the new one but no part.

    It is not synced: unlike a checkpoint it can be written again.

    Raises:
        ConfigError: it cannot be written; the old file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from None


class RunFolder:
    """A run's folder. The main process of a run uses it in this order:

    `lock`, `set_aside` where a new run is wanted, `begin` once nothing can refuse the run any more, `write_status`,
    `release`. Until `begin` nothing but the lock is written, and `release` leaves everything as it was found. Other
    processes take over its `status`, so that they can write why they failed.

    Attributes:
        path: The folder.
        status: Start and progress of the run; empty until it begins.
    """

    def __init__(self, path: Path) -> None:
        """Take note of the folder; nothing is made or read yet."""
        self.path = path
        self._lock_file: int | None = None
        self._made: list[Path] = []  # folders that were not there before, outermost first
        self.status: dict[str, Any] = {}

    def lock(self) -> bool:
        """Make the folder and claim it, until `release` or the end of this process, however that comes.

        The lock is a POSIX record lock. The kernel frees it when the process dies, and forked data workers do not
        inherit it. It is lost when any descriptor of the lock file is closed, so this process must not open it again.

        Returns:
            Whether it is locked: False where the operating or file system has no such locks.

        Raises:
            ConfigError: another process holds it, or the folder cannot be made or written.
        """
        try:
            for _ in range(100):
                # A start that was refused may remove what it made, at any point here.
                with suppress(FileNotFoundError):
                    self._make_folders()
                    if fcntl is None:
                        return False
                    is_locked = self._claim(os.open(self.path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644))
                    if is_locked is not None:
                        return is_locked
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        except OSError as error:
            raise cannot_write(f"the run's folder {self.path}", error) from None

    def set_aside(self) -> Path | None:
        """Rename the locked folder to `<name>.YYYY-MM-DD_HH-MM-SS`, and make and lock an empty one in its place.

        Returns:
            Where the old folder is now, None if it was empty and so was kept.

        Raises:
            ConfigError: it cannot be renamed, or another process claimed the new folder first.
        """
        try:
            if all(entry.name == _LOCK_NAME for entry in self.path.iterdir()):
                return None
            stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
            names = (f"{self.path.name}.{stamp}" + (f".{number}" if number else "") for number in count())
            aside = next(path for path in map(self.path.with_name, names) if not path.exists())
            self.path.rename(aside)
        except OSError as error:
            raise ConfigError(
                f"the earlier run in {self.path} cannot be moved aside ({error.strerror}); choose another --tag."
            ) from None
        old_lock, self._lock_file = self._lock_file, None
        if old_lock is not None:
            _drop_lock(aside / _LOCK_NAME, old_lock)
        self.lock()
        return aside

    def begin(self, config_yaml: str, classes: Sequence[str], argv: Sequence[str]) -> None:
        """Write config.yaml, classes.json and environment.json, replacing those of an earlier start.

        Args:
            config_yaml: The resolved config as YAML.
            classes: Names in the order of their labels.
            argv: The command line.

        Raises:
            ConfigError: one of them cannot be written.
        """
        self.status = {"started": _now(), "epoch": None, "position": None, "samples": None, "step": None}
        write_atomically(self.path / "config.yaml", encode(config_yaml))
        self.write_json("classes", list(classes))
        self.write_json("environment", describe_environment(argv))

    def write_status(self, state: str, *, exit_code: int | None = None, message: str = "", **progress: int) -> None:
        """Write status.json; before `begin` do nothing, since a refused start leaves an earlier run's status alone.

        The first failure stands: other processes then only tell that they have lost the one that failed.

        Args:
            state: `running`, `stopped`, `failed` or `done`.
            exit_code: Of this process, which a launcher may turn into another; None while it runs.
            message: What ended the run.
            progress: Any of `epoch position samples step`; the others keep their last values.

        Raises:
            ConfigError: it cannot be written.
        """
        if not self.status or self._has_failed():
            return
        self.status |= progress
        end = {"state": state, "exit_code": exit_code, "message": message}
        self.write_json("status", {**end, **self.status, "updated": _now()})

    def remove_leftovers(self) -> list[Path]:
        """Remove temporary files that dead processes left here and in checkpoints/; call it under the lock.

        Returns:
            The files removed.

        Raises:
            ConfigError: one cannot be removed.
        """
        removed = []
        for path in (*self.path.glob(".*.tmp"), *(self.path / "checkpoints").glob(".*.tmp")):
            match = _TEMPORARY_NAME.fullmatch(path.name)
            if match and int(match.group(1)) != os.getpid():
                try:
                    path.unlink()
                except OSError as error:
                    raise ConfigError(
                        f"the temporary file {path} cannot be removed ({error.strerror}); remove it."
                    ) from None
                removed.append(path)
        return removed

    def release(self) -> None:
        """Give up the lock; if the run never began, remove the folders that `lock` made, unless they have been used."""
        if self._lock_file is not None:
            _drop_lock(self.path / _LOCK_NAME, self._lock_file)
            self._lock_file = None
        if not self.status:
            for folder in reversed(self._made):
                with suppress(OSError):
                    folder.rmdir()
        self._made = []

    def write_json(self, name: str, content: Any) -> None:
        """Write `<name>.json` atomically, in a folder that is made where there is none."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / f"{name}.json", encode(text))

    def _has_failed(self) -> bool:
        """Whether a process of this very start of the run has written that it failed."""
        try:
            found = json.loads((self.path / "status.json").read_bytes())
            return bool(found["state"] == "failed" and found["started"] == self.status["started"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _make_folders(self) -> None:
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)  # another process may start at this very moment
            self._made.append(folder)

    def _claim(self, descriptor: int) -> bool | None:
        """Lock an opened lock file; None if it was removed meanwhile and a new one has to be tried."""
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _drop_lock(self.path / _LOCK_NAME, descriptor)
                return False
            owner = _read_owner(descriptor)
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise ConfigError(
                f"the run's folder {self.path} is in use by {owner}; wait for it, stop it, or choose another --tag."
            ) from None
        # Its last owner may have removed the file after it was opened here; whoever comes next would lock a new one.
        if not _names(self.path / _LOCK_NAME, descriptor):
            os.close(descriptor)
            return None
        self._lock_file = descriptor
        name = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(name).encode(), 0)
        return True


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _names(path: Path, descriptor: int) -> bool:
    """Whether the path still names the opened file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _drop_lock(path: Path, descriptor: int) -> None:
    """Remove a lock file while it is still held, so that nobody else's is removed, and free the lock."""
    with suppress(OSError):
        if _names(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _read_owner(descriptor: int) -> str:
    time.sleep(0.2)  # the owner writes its name right after it has locked
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def describe_environment(argv: Sequence[str]) -> dict[str, Any]:
    """What a run ran on: versions, devices, CPUs, command line and git state; nothing that names the machine."""
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    else:
        devices = ["mps" if torch.backends.mps.is_available() else "cpu"]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,  # tells the build, which the package's version does not
        **{name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "devices": devices,
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "command": shlex.join(argv),
        "git": _git_state(Path(__file__).parents[1]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state(root: Path) -> dict[str, Any] | None:
    """Commit and whether tracked files were changed; None outside a checkout, as when installed by pip."""
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}
