"""Whenever a run dies, what it had saved is there, and the same command ends where it would have ended."""

import json
import signal
from pathlib import Path

import pytest

OPTIONS = ["--batch-size", "16", "--opts", "TRAIN.EPOCHS", "3", "TRAIN.EMA.ENABLE", "True", "TRAIN.EMA.DECAY", "0.9"]
NUM_VAL = 101


def checkpoints(runner, tag: str) -> list[str]:
    return sorted(path.name for path in (runner.run_dir(tag) / "checkpoints").iterdir())


def assert_same_run(runner, tag: str, assert_equal_state) -> None:
    """Finish a struck run, and compare all that it leaves with a run that nothing happened to."""
    assert runner("whole", *OPTIONS) == 0
    assert runner(tag, *OPTIONS) == 0
    assert checkpoints(runner, "whole") == checkpoints(runner, tag)  # and so no temporary files
    for name in checkpoints(runner, "whole"):
        assert_equal_state(runner.checkpoint("whole", name), runner.checkpoint(tag, name))
    for kind in ("train", "eval"):
        whole, struck = ([(row["step"], row["loss"]) for row in runner.rows(name, kind)] for name in ("whole", tag))
        assert whole == struck


@pytest.mark.parametrize(
    ("at", "left", "temporary"),
    [
        # In the second evaluation: the second epoch is saved, without its accuracy.
        pytest.param(("open", "/val/", NUM_VAL + 40), (1, False), None, id="in-an-evaluation"),
        # Evaluated, but nothing of it saved; the whole file lies there under a temporary name.
        pytest.param(("os.rename", "best.pth", 1), (0, False), ".best.pth", id="between-the-two-saves"),
        pytest.param(("os.rename", "last.pth", 2), (0, False), ".last.pth", id="between-best-and-last"),
        pytest.param(("os.link", "ckpt_epoch_0.pth", 1), None, None, id="before-the-first-last"),
    ],
)
def test_a_sigkill_while_saving_or_evaluating_loses_nothing(
    runner, strike, assert_equal_state, at, left, temporary
) -> None:
    status, output = strike("struck", *OPTIONS, at=at)
    assert status == -signal.SIGKILL, output
    found = checkpoints(runner, "struck")
    if left:
        last = runner.checkpoint("struck")
        assert (last["epoch"], last["evaluated"]) == left
    if temporary:
        assert [name for name in found if name.startswith(temporary)], found
    assert_same_run(runner, "struck", assert_equal_state)


def test_a_best_checkpoint_that_a_kill_left_ahead_is_made_right(runner, strike, assert_equal_state) -> None:
    status, output = strike("struck", *OPTIONS, at=("os.rename", "last.pth", 2))
    assert status == -signal.SIGKILL, output
    assert "best.pth" in checkpoints(runner, "struck")
    last, best = runner.checkpoint("struck"), runner.checkpoint("struck", "best.pth")
    assert (last["evaluated"], best["evaluated"]) == (False, True)
    runner.text()
    assert_same_run(runner, "struck", assert_equal_state)
    assert runner.text().count("epoch 0 * Acc@1") == 2  # the undisturbed run's, and the one made anew


@pytest.mark.parametrize("processes", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_signal_in_an_evaluation_ends_it_and_a_restart_makes_it_anew(runner, strike, assert_equal_state, processes):
    # The first process reads every second image of the set under two processes.
    at = ("open", "/val/", (NUM_VAL + 20) // max(1, processes))
    status, output = strike("stopped", *OPTIONS, at=at, number=signal.SIGTERM, processes=processes)
    assert status == (1 if processes else 3), output  # torchrun has a status of its own
    assert "stopped by SIGTERM during an evaluation, which will be made anew; everything is saved in" in output
    assert processes or "Traceback" not in output  # torchrun prints one of its own
    last = runner.checkpoint("stopped")
    assert (last["epoch"], last["evaluated"]) == (1, False)
    if not processes:
        assert [row["epoch"] for row in runner.rows("stopped", "eval")] == [0]
        assert_same_run(runner, "stopped", assert_equal_state)


def test_a_signal_to_a_run_that_is_done_does_not_undo_it(runner, strike) -> None:
    # The lock goes last of all.
    status, output = strike("done", "--opts", "TRAIN.EPOCHS", "1", at=("os.remove", ".lock", 1), number=signal.SIGTERM)
    assert status == 0, output
    assert "stopped" not in output
    assert json.loads((runner.run_dir("done") / "status.json").read_text())["state"] == "done"


def test_temporary_files_of_dead_processes_go_and_other_files_stay(runner) -> None:
    assert runner("run") == 0
    folder = runner.run_dir("run")
    dead = [folder / ".status.json.999999.tmp", folder / "checkpoints" / ".last.pth.999999.tmp"]
    others = [folder / "notes.tmp", folder / "checkpoints" / ".mine.tmp"]
    for path in dead + others:
        path.write_text("x")
    assert runner("run", "--opts", "TRAIN.EPOCHS", "3") == 0
    assert [path for path in dead + others if path.exists()] == others


def test_a_file_system_without_links_keeps_all_names(runner, monkeypatch, assert_equal_state) -> None:
    assert runner("whole", *OPTIONS) == 0

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    assert runner("copied", *OPTIONS) == 0
    assert checkpoints(runner, "whole") == checkpoints(runner, "copied")
    for name in checkpoints(runner, "whole"):
        assert_equal_state(runner.checkpoint("whole", name), runner.checkpoint("copied", name))


@pytest.mark.parametrize("every", [["SAVE_FREQ_STEPS", "5"], ["SAVE_MINUTES", "0.00001"]])
def test_saves_between_epochs_are_made_though_they_fall_on_an_epochs_end(runner, every) -> None:
    # 5 updates an epoch: every fifth is the last of its epoch.
    rare = ["--batch-size", "16", "--opts", "SAVE_FREQ", "100", "EVAL_FREQ", "100", "TRAIN.EPOCHS", "4"]
    saved: list[tuple[int, int]] = []

    def record(writer, content, **names) -> None:
        saved.append((content["epoch"], content["position"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swin.engine.checkpoint.CheckpointWriter.write", record)
        assert runner("run", *rare, *every) == 0
    assert {(0, 0), (1, 0), (2, 0)} <= set(saved)


def test_memory_that_runs_out_while_writing_is_an_error_and_not_a_loss(runner, monkeypatch) -> None:
    def exhaust(content: object) -> None:
        raise MemoryError("cannot allocate")

    monkeypatch.setattr("swin.engine.checkpoint.digest", exhaust)
    assert runner("run") == 2
    text = runner.text()
    assert "could not be written (cannot allocate)" in text
    assert "Traceback" not in text
