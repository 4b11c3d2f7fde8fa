"""The folder of one run: owned by one process at a time, with the files that say what the run is and how it ended."""

import errno
import json
import os
import platform
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

from swin.cpu import num_cpus
from swin.errors import ConfigError
from swin.records import encode, make_folder, timestamp, write_atomically, write_json, writing
from swin.run_lock import LOCK_NAME, lock_folder, unlock_folder

_TEMPORARY_NAME = re.compile(r"\..+\.(\d+)\.tmp")
_PACKAGES = ("torchvision", "timm", "pillow", "numpy")


class RunFolder:
    """A run's folder.

    The main process uses it in this order: `lock`, `set_aside` where a new run is wanted, `begin` once nothing can
    refuse the run any more, `write_status`, `release`. Until `begin` nothing but the lock is written, and `release`
    leaves everything as it was found. Other processes take over its `status`, so that they can write why they failed.

    Attributes:
        path: The folder.
        status: Start and progress of the run; empty until it begins.
    """

    def __init__(self, path: Path) -> None:
        """Take note of the folder; nothing is made or read yet."""
        self.path = path
        self.status: dict[str, Any] = {}
        self._lock: int | None = None
        self._made: list[Path] = []  # folders that were not there before, outermost first

    def lock(self) -> bool:
        """Make the folder and claim it, see `lock_folder`; returns whether the system has such locks.

        Raises:
            ConfigError: another process holds it, or the folder cannot be made or written.
        """
        with writing(f"the run's folder {self.path}"):
            for _ in range(100):
                # A start that was refused may remove what it made, at any point here.
                with suppress(FileNotFoundError):
                    self._make_folders()
                    self._lock = lock_folder(self.path)
                    return self._lock is not None
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def set_aside(self) -> Path | None:
        """Rename the locked folder to `<name>.YYYY-MM-DD_HH-MM-SS`, and make and lock an empty one in its place.

        Returns the old folder's new path, None if it was empty and so was kept.

        Raises:
            ConfigError: it cannot be renamed, or another process claimed the new folder first.
        """
        try:
            if all(entry.name == LOCK_NAME for entry in self.path.iterdir()):
                return None
            stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
            names = (f"{self.path.name}.{stamp}" + (f".{number}" if number else "") for number in count())
            aside = next(path for path in map(self.path.with_name, names) if not path.exists())
            self.path.rename(aside)
        except OSError as error:
            raise ConfigError(
                f"the earlier run in {self.path} cannot be moved aside ({error.strerror}); choose another --tag."
            ) from None
        self._unlock(aside)
        self.lock()
        return aside

    def begin(self, config_yaml: str, classes: Sequence[str], argv: Sequence[str]) -> None:
        """Write the resolved config, the classes in the order of their labels and what the run runs on.

        Raises:
            ConfigError: one of the files cannot be written.
        """
        self.status = {
            "started": timestamp(),
            "epoch": None,
            "position": None,
            "samples": None,
            "step": None,
            "seconds": None,
        }
        write_atomically(self.path / "config.yaml", encode(config_yaml))
        self.write_json("classes", list(classes))
        self.write_json("environment", describe_environment(argv))

    def write_status(self, state: str, *, exit_code: int | None = None, message: str = "", **progress: Any) -> None:
        """Write status.json; before `begin` do nothing, since a refused start leaves an earlier run's status alone.

        The first failure stands: other processes then only tell that they have lost the one that failed.

        Args:
            state: `running`, `stopped`, `failed` or `done`.
            exit_code: Of this process, which a launcher may turn into another; None while it runs.
            message: What ended the run.
            progress: Any of `epoch position samples step seconds`; the others keep their last values.
        """
        if not self.status or self._has_failed():
            return
        self.status |= progress
        end = {"state": state, "exit_code": exit_code, "message": message}
        self.write_json("status", {**end, **self.status, "updated": timestamp()})

    def remove_leftovers(self) -> list[Path]:
        """Remove temporary files that dead processes left here and in checkpoints/, and return them; needs the lock.

        Raises:
            ConfigError: one cannot be removed.
        """
        found = (*self.path.glob(".*.tmp"), *(self.path / "checkpoints").glob(".*.tmp"))
        matches = ((path, _TEMPORARY_NAME.fullmatch(path.name)) for path in found)
        removed = [path for path, match in matches if match and int(match[1]) != os.getpid()]
        for path in removed:
            try:
                path.unlink()
            except OSError as error:
                message = f"the temporary file {path} cannot be removed ({error.strerror}); remove it."
                raise ConfigError(message) from None
        return removed

    def release(self) -> None:
        """Give up the lock; if the run never began, remove the folders that `lock` made, unless they have been used."""
        self._unlock(self.path)
        if not self.status:
            for folder in reversed(self._made):
                with suppress(OSError):
                    folder.rmdir()
        self._made = []

    def _unlock(self, path: Path) -> None:
        descriptor, self._lock = self._lock, None
        if descriptor is not None:
            unlock_folder(path, descriptor)

    def write_json(self, name: str, content: Any) -> None:
        """Write `<name>.json` atomically, in a folder that is made where there is none."""
        make_folder(self.path)
        write_json(self.path / f"{name}.json", content)

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


def describe_environment(argv: Sequence[str]) -> dict[str, Any]:
    """Describe versions, devices, CPUs, command line and git state; nothing that names the machine."""
    import torch  # by all others that look at run folders it need not be waited for

    devices = ["mps" if torch.backends.mps.is_available() else "cpu"]
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,  # tells the build, which the package's version does not
        **{name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "devices": devices,
        "cpus": os.cpu_count(),
        "cpus_usable": num_cpus(),
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
    try:
        commit, changes = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}
