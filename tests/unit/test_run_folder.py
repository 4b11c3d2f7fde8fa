"""The folder of a run: who owns it, and what is left in it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from swin import run_lock
from swin.errors import ConfigError
from swin.run_folder import RunFolder, describe_environment

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from swin.errors import ConfigError
from swin.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
print("ready", flush=True)
for command in sys.stdin:
    try:
        folder.lock() if command == "lock\\n" else folder.release()
        print(f"{command.strip()} done", flush=True)
    except ConfigError as error:
        print(error, flush=True)
"""


class Other:
    """A process that locks and releases a folder when told so."""

    def __init__(self, path: Path, script: str = HOLD):
        command = [sys.executable, "-W", "ignore", "-c", script, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.pid = self.process.pid
        assert self.answer() == "ready"

    def tell(self, command: str) -> None:
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_other(folder):
    started = []

    def start(script=HOLD) -> Other:
        started.append(Other(folder.path, script))
        return started[-1]

    yield start
    for other in started:
        other.kill()


@pytest.fixture
def folder(tmp_path):
    opened = RunFolder(tmp_path / "output" / "tiny" / "tag")
    yield opened
    opened.release()


def contents(root: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def begin(folder: RunFolder) -> None:
    folder.begin("TAG: é\n", ["daisy", "löwenzahn"], ["main.py", "--data-path", "my images"])


def test_a_second_process_is_refused_and_told_who_has_the_folder_since_when(folder, start_other):
    other = start_other()
    assert other.ask("lock") == "lock done"
    owner = json.loads((folder.path / ".lock").read_text())
    with pytest.raises(ConfigError) as caught:
        folder.lock()
    assert str(caught.value) == (
        f"the run's folder {folder.path} is in use by process {other.pid} on {owner['host']} since {owner['since']}; "
        "wait for it, stop it, or choose another --tag."
    )
    assert abs((datetime.now().astimezone() - datetime.fromisoformat(owner["since"])).total_seconds()) < 60


def test_a_refused_process_leaves_the_lock_with_its_owner(folder, start_other):
    folder.lock()
    other = start_other()
    for _ in range(2):
        assert f"in use by process {os.getpid()} " in other.ask("lock")
        assert other.ask("release") == "release done"


@pytest.mark.parametrize("end", ["release", "kill"])
def test_the_lock_is_free_once_its_owner_released_it_or_was_killed(folder, start_other, end):
    other = start_other()
    assert other.ask("lock") == "lock done"
    other.ask("release") if end == "release" else other.kill()
    assert folder.lock()


def test_a_forked_worker_does_not_keep_the_lock_of_a_dead_process(folder, start_other):
    fork = "import os, time; worker = os.fork(); worker or time.sleep(60); print(worker, flush=True)"
    owner = start_other(HOLD.replace("folder.lock() if", f"folder.lock(); {fork}; None if"))
    worker = int(owner.ask("lock"))
    try:
        owner.process.kill()
        owner.process.wait()
        os.kill(worker, 0)  # still lives
        assert folder.lock()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_of_processes_that_start_at_the_same_moment_one_wins(folder, start_other):
    several = [start_other() for _ in range(3)]
    for _ in range(10):
        for other in several:
            other.tell("lock")
        answers = [other.answer() for other in several]
        assert answers.count("lock done") == 1
        winner = several[answers.index("lock done")].pid
        assert sum(f"in use by process {winner} " in answer for answer in answers) == 2
        assert [other.ask("release") for other in several] == ["release done"] * 3
        # An empty folder may stay: made by one process, and found by the one that locked it first.
        assert not list(folder.path.glob("*"))
        shutil.rmtree(folder.path.parents[1], ignore_errors=True)


def test_a_lock_file_that_its_owner_removes_while_another_opens_it_is_not_what_is_locked(folder, monkeypatch):
    real, removed = os.open, []

    def open_and_lose(path, *args, **kwargs):
        descriptor = real(path, *args, **kwargs)
        if not removed:
            removed.append(Path(path))
            Path(path).unlink()
            Path(path).parent.rmdir()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    assert folder.lock()
    assert removed
    assert json.loads((folder.path / ".lock").read_text())["pid"] == os.getpid()


def test_a_file_system_without_locks_is_used_without_one(folder, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_lock.fcntl, "lockf", refuse)
    assert not folder.lock()
    assert not list(folder.path.iterdir())


def test_a_system_without_fcntl_has_no_lock(folder, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    assert not folder.lock()
    begin(folder)
    folder.release()
    assert (folder.path / "config.yaml").exists()


def test_a_refused_start_leaves_nothing(folder, tmp_path):
    (tmp_path / "output").mkdir()
    folder.lock()
    folder.write_status("failed", exit_code=2, message="a typo")
    folder.release()
    assert list(tmp_path.rglob("*")) == [tmp_path / "output"]


def test_a_refused_start_keeps_what_others_put_beside_it(folder, tmp_path):
    folder.lock()
    (folder.path.parent / "other").mkdir()
    folder.release()
    assert not folder.path.exists()
    assert (folder.path.parent / "other").is_dir()


def test_a_refused_start_leaves_an_earlier_run_byte_for_byte(folder):
    folder.lock()
    begin(folder)
    folder.write_status("stopped", exit_code=3, message="by a signal")
    (folder.path / "checkpoints").mkdir()
    folder.release()
    before = contents(folder.path)
    again = RunFolder(folder.path)
    again.lock()
    again.write_status("failed", exit_code=2, message="a typo")
    again.release()
    assert contents(folder.path) == before


def test_run_files(folder):
    folder.lock()
    begin(folder)
    assert (folder.path / "config.yaml").read_text(encoding="utf-8") == "TAG: é\n"
    assert json.loads((folder.path / "classes.json").read_text(encoding="utf-8")) == ["daisy", "löwenzahn"]
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["command"] == "main.py --data-path 'my images'"
    assert environment["torch"] == torch.__version__
    assert environment["cpus"] >= environment["cpus_usable"] >= 1


def test_names_that_are_not_utf_8_are_kept_as_escapes(folder):
    folder.lock()
    folder.begin("", ["caf\udce9"], [])
    assert json.loads((folder.path / "classes.json").read_text(encoding="utf-8")) == ["caf\udce9"]


def test_environment_outside_a_checkout_has_no_git(monkeypatch, tmp_path):
    monkeypatch.setattr("swin.run_folder.__file__", str(tmp_path / "site-packages" / "swin" / "run_folder.py"))
    assert describe_environment([])["git"] is None


def test_the_status_keeps_the_last_known_progress_and_the_start(folder):
    folder.lock()
    begin(folder)
    folder.write_status("running", epoch=1, position=10, samples=90, step=9, seconds=1.5)
    running = json.loads((folder.path / "status.json").read_text())
    folder.write_status("failed", exit_code=2, message="the disk is full")
    failed = json.loads((folder.path / "status.json").read_text())
    where = {"epoch": 1, "position": 10, "samples": 90, "step": 9, "seconds": 1.5}
    known = {**where, "started": running["started"]}
    assert running == {"state": "running", "exit_code": None, "message": "", **known, "updated": running["updated"]}
    assert failed == {
        "state": "failed",
        "exit_code": 2,
        "message": "the disk is full",
        **known,
        "updated": failed["updated"],
    }
    for name in ("started", "updated"):
        assert datetime.fromisoformat(failed[name]).tzinfo is not None


def test_an_earlier_run_is_set_aside_under_a_dated_name_even_twice_in_a_second(folder, start_other, monkeypatch):
    moved, other = [], start_other()
    monkeypatch.setattr("time.strftime", lambda _: "2030-01-02_03-04-05")
    for number in range(3):
        folder.lock()
        begin(folder)
        (folder.path / "checkpoints").mkdir()
        (folder.path / "checkpoints" / "last.pth").write_text(str(number))
        before = {path.relative_to(folder.path): text for path, text in contents(folder.path).items()}
        moved.append(folder.set_aside())
        after = {path.relative_to(moved[-1]): text for path, text in contents(moved[-1]).items()}
        assert after == {path: text for path, text in before.items() if path.name != ".lock"}
        assert [path.name for path in folder.path.iterdir()] == [".lock"]
        assert "in use by process" in other.ask("lock")
        folder.release()
    assert [path.name for path in moved] == [f"tag.2030-01-02_03-04-05{end}" for end in ("", ".1", ".2")]


def test_the_date_of_what_is_set_aside_is_now(folder):
    folder.lock()
    begin(folder)
    match = re.fullmatch(r"tag\.(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)", folder.set_aside().name)
    assert abs((datetime.now() - datetime.strptime(match.group(1), "%Y-%m-%d_%H-%M-%S")).total_seconds()) < 60


def test_a_folder_with_nothing_in_it_is_not_set_aside(folder):
    folder.lock()
    assert folder.set_aside() is None
    assert [path.name for path in folder.path.parent.iterdir()] == ["tag"]


def test_files_that_dead_processes_left_are_removed_and_no_others(folder):
    folder.lock()
    checkpoints = folder.path / "checkpoints"
    checkpoints.mkdir()
    dead = [checkpoints / ".last.pth.1234567.tmp", folder.path / ".status.json.1234567.tmp"]
    kept = [
        checkpoints / f".last.pth.{os.getpid()}.tmp",
        checkpoints / "last.pth",
        checkpoints / ".mine.tmp",
        folder.path / "notes.12.tmp",
    ]
    for path in dead + kept:
        path.touch()
    assert sorted(folder.remove_leftovers()) == sorted(dead)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in kept)


def test_impossible_folders_are_one_line(folder):
    folder.path.parent.parent.mkdir()
    folder.path.parent.touch()
    with pytest.raises(ConfigError, match=r"the run's folder .*tag cannot be written \(.+\); change --output\."):
        folder.lock()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere"])
def test_a_lock_file_of_another_kind_is_one_line(folder, kind):
    folder.path.mkdir(parents=True)
    lock = folder.path / ".lock"
    make = {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock), "link to nowhere": lambda: lock.symlink_to("no/no")}
    make[kind]()
    with pytest.raises(ConfigError, match=re.escape(str(folder.path))):
        folder.lock()


@pytest.mark.parametrize("name", ["config.yaml", "classes.json", "environment.json"])
def test_a_run_file_that_cannot_be_written_is_one_line_that_names_it(folder, name):
    folder.lock()
    (folder.path / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{name} cannot be written \(Is a directory\); change --output"):
        begin(folder)
    assert not list(folder.path.glob(".*.tmp"))


def test_a_full_disk_says_to_free_space_and_keeps_the_old_status(folder, monkeypatch):
    folder.lock()
    begin(folder)
    folder.write_status("running", step=1)
    before = (folder.path / "status.json").read_bytes()

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        ConfigError, match=r"status\.json cannot be written \(No space left on device\); free disk space"
    ):
        folder.write_status("running", step=2)
    assert (folder.path / "status.json").read_bytes() == before
