"""The command `python -m tools.find_batch`: the search, and real tries in processes of their own."""

import re
from pathlib import Path

import pytest

from swin.config.flags import load_command_line
from tools import find_batch
from tools.find_batch import Try, list_batches, main, search, try_batch


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class Device:
    """Memory of a program of 100 bytes, and 7 an image; `is_hard`: what is above the room runs out."""

    def __init__(self, room: int, *, is_hard: bool, bend: float = 0.0) -> None:
        self.room, self.is_hard, self.bend, self.tried = room, is_hard, bend, []

    def __call__(self, batch: int) -> Try:
        self.tried.append(batch)
        taken = int(100 + 7 * batch + self.bend * batch**2)
        return Try(batch, None if self.is_hard and taken > self.room else taken, 1.0)


@pytest.mark.parametrize("is_hard", [False, True])
@pytest.mark.parametrize("bend", [0.0, 0.01])
@pytest.mark.parametrize("room", [106, 107, 200, 555, 1000, 3000, 10**9])
@pytest.mark.parametrize("total", [1, 7, 48, 192, 1024])
def test_the_largest_that_fits_is_found_in_few_tries(total, room, bend, is_hard):
    device, batches = Device(room, is_hard=is_hard, bend=bend), list_batches(total)
    fitting = [batch for batch in batches if 100 + 7 * batch + bend * batch**2 < room + 1]
    best, tries = search(device, batches, batches[len(batches) // 2], room)
    assert best == max(fitting, default=None)
    assert len(set(device.tried)) == len(tries) <= 8


def test_what_does_not_fit_is_hardly_tried():
    """After two tries the straight line is known, so that nothing too large is tried where memory follows it."""
    device = Device(1000, is_hard=False)
    best, _ = search(device, list_batches(1024), 16, 1000)
    assert best == 128
    assert max(device.tried) == 128
    assert len(device.tried) <= 3


@pytest.mark.parametrize(
    ("total", "batches"), [(12, [2, 4, 6, 12]), (15, [1, 3, 5, 15]), (1, [1]), (2, [2]), (64, [2, 4, 8, 16, 32, 64])]
)
def test_micro_batches_divide_an_update_and_stay_even(total, batches):
    assert list_batches(total) == batches


def test_a_try_trains_and_takes_more_memory_for_more_images(runner, monkeypatch):
    """In this process, whose greatest memory never falls: the second try can only be as high or higher."""
    monkeypatch.setattr(find_batch, "TRAIN_SEC", 0.05)
    monkeypatch.setattr(find_batch, "EVAL_SEC", 0.05)
    words = runner.arguments("tried", "--opts", "MODEL.SWIN.EMBED_DIM", "64")
    small, large = (try_batch(words, batch, 64 // batch, 1.0) for batch in (2, 64))
    assert (small.batch, large.batch) == (2, 64)
    assert 1e8 < small.num_bytes <= large.num_bytes
    assert min(small.images_per_sec, large.images_per_sec) > 0
    assert not (runner.folder / "out").exists()


def test_running_out_of_memory_is_a_try_that_does_not_fit(runner, monkeypatch):
    def run_out(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(find_batch, "make_trial", run_out)
    assert try_batch(runner.arguments("tried"), 8, 1, 1.0) == Try(8, None)


def test_digits_in_processes_of_their_own(capsys, tmp_path):
    """Three starts of a process; the flags that are printed keep the images of an update."""
    flags = ["--cfg", "swin_digits", "--device", "cpu", "--accumulation-steps", "2", "--opts", "MODEL.DROP_RATE", "0.0"]
    assert main(flags) == 0
    out = capsys.readouterr().out
    found = re.search(r"^    (--batch-size (\d+) --accumulation-steps (\d+))$", out, re.MULTILINE)
    assert int(found[2]) * int(found[3]) == 96
    assert int(found[2]) == 96  # which takes a gigabyte
    cfg, _ = load_command_line([*flags, *found[1].split()])
    assert (cfg.DATA.BATCH_SIZE, cfg.TRAIN.ACCUMULATION_STEPS) == (96, 1)
    memory = [float(text) for text in re.findall(r" (\d+\.\d+) GB +\d+\.\d$", out, re.MULTILINE)]
    assert len(memory) >= 2
    assert all(0.1 < gigabytes < 20 for gigabytes in memory)
    assert not list(tmp_path.iterdir())


def test_where_nothing_fits_the_message_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr(find_batch, "try_in_process", lambda others, batch, *more: Try(batch, 10**15))
    assert main(["--cfg", "swin_digits", "--device", "cpu"]) == 2
    assert "not even 2 images at a time fit into" in capsys.readouterr().err


def test_a_faster_smaller_batch_is_named(capsys, monkeypatch):
    monkeypatch.setattr(
        find_batch, "try_in_process", lambda others, batch, *more: Try(batch, 10**8, 100.0 if batch == 12 else 80.0)
    )
    assert main(["--cfg", "swin_digits", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "--batch-size 48 --accumulation-steps 1\n" in out
    assert "--batch-size 12 --accumulation-steps 4 was the fastest, at 1.25 times the speed" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "swin_absent"], "swin_absent"),
        (["--cfg", "swin_digits", "--eval"], "leave out --eval"),
        (["--cfg", "swin_digits", "--dry-run"], "and --dry-run"),
        (["--cfg", "swin_digits", "--device", "tpu"], "tpu"),
        (["--cfg", "swin_digits", "--batch-size", "0"], "BATCH_SIZE"),
    ],
)
def test_errors_are_one_message(flags, words, capsys):
    assert main(flags) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err


def test_several_processes_are_refused(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["--cfg", "swin_digits", "--device", "cpu"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_an_error_in_a_process_is_the_tools_own(capsys):
    assert main(["--cfg", "swin_flowers", "--data-path", "absent", "--device", "cpu"]) == 2
    assert "absent" in capsys.readouterr().err
