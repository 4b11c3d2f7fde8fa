"""What a run leaves behind: console, log.txt, metrics.jsonl, TensorBoard events and the files that describe it."""

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import torch
from termcolor import colored
from tqdm import tqdm

from swin.errors import ConfigError

_ANSI_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PACKAGES = ("torchvision", "timm", "pillow", "numpy")


class Records:
    """Writes the records of a run from its main process; on the others every method does nothing.

    Files are appended to, so a resumed run continues them. Without a run folder only the console is written.
    """

    def __init__(self, run_dir: Path | None, *, is_main: bool) -> None:
        """Open the records.

        Args:
            run_dir: Folder of the run, made if absent; None to write no files.
            is_main: Whether this process writes at all.
        """
        self._is_main = is_main
        self._run_dir = run_dir if is_main else None
        self._is_terminal = sys.stdout.isatty()
        self._bar: tqdm | None = None
        if self._run_dir is None:
            return
        # Imported here, since it takes a second that commands without a run folder need not spend.
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the run's folder {run_dir} cannot be made ({error.strerror}); change --output."
            ) from None
        # Line-buffered: what was recorded survives a killed process.
        self._log = (self._run_dir / "log.txt").open("a", encoding="utf-8", buffering=1)
        self._metrics = (self._run_dir / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(str(self._run_dir / "tensorboard"))

    def info(self, message: str) -> None:
        """Write a message to the console and log.txt."""
        self._write(message, "INFO", None)

    def warning(self, message: str) -> None:
        """Write a message that asks for attention to the console and log.txt."""
        self._write(f"warning: {message}", "WARNING", "yellow")

    def error(self, message: str) -> None:
        """Write what ended the run to standard error and log.txt."""
        self._write(f"error: {message}", "ERROR", "red", sys.stderr)

    def metrics(self, kind: str, **fields: Any) -> None:
        """Append one line to metrics.jsonl, and its numbers to TensorBoard at `fields["step"]`.

        NaN and infinities, which JSON lacks, become null and are left out of TensorBoard.

        Args:
            kind: `train` or `eval`.
            fields: Numbers, 0-d tensors, strings, lists or dicts.
        """
        if self._run_dir is None:
            return
        row = _plain({"kind": kind, **fields})
        self._metrics.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")
        for name, value in row.items():
            if name not in ("epoch", "step") and isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, row.get("step"))

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far an epoch or evaluation is, as a bar on a terminal and not at all elsewhere.

        Args:
            done: Steps done; the bar goes away when this reaches `total`.
            total: Steps in all.
            text: What is being done.
        """
        if not (self._is_main and self._is_terminal):
            return
        if self._bar is None or self._bar.total != total or done < self._bar.n:
            self._close_bar()
            self._bar = tqdm(desc=text, total=total, initial=done, file=sys.stdout, leave=False, dynamic_ncols=True)
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self._close_bar()

    def write_run_files(self, config_yaml: str, classes: Sequence[str], argv: Sequence[str]) -> None:
        """Write config.yaml, classes.json and environment.json, replacing those of an earlier start.

        Args:
            config_yaml: The resolved config as YAML.
            classes: Names in the order of their labels.
            argv: The command line.
        """
        if self._run_dir is None:
            return
        (self._run_dir / "config.yaml").write_text(config_yaml, encoding="utf-8")
        for name, content in (("classes", list(classes)), ("environment", describe_environment(argv))):
            text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
            (self._run_dir / f"{name}.json").write_text(text, encoding="utf-8")

    def close(self) -> None:
        """Flush and close everything."""
        self._close_bar()
        if self._run_dir is None:
            return
        self._log.close()
        self._metrics.close()
        self._board.close()

    def _write(self, message: str, level: str, color: str | None, stream: TextIO | None = None) -> None:
        if not self._is_main:
            return
        plain = _ANSI_CODES.sub("", message)
        console = (colored(message, color) if color else message) if self._is_terminal else plain
        stream = stream or sys.stdout
        tqdm.write(console, file=stream)  # puts the line above a live bar
        stream.flush()
        if self._run_dir is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level} {plain}\n")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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


def _plain(value: Any) -> Any:
    """Turn tensors, NumPy values and paths into what JSON holds; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)
