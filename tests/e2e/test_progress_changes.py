"""A run that changes its processes, batch or accumulation in the middle goes on where it was."""

import itertools
import os
import signal
import time

import pytest

from data.samplers import plan_epoch
from swin.config import load_config
from swin.engine.progress import Progress
from swin.logger import Logger
from swin.schedule import build_schedule

# (processes, batch of each, accumulation) before and after; in six of the nine the total batch changes.
CHANGES = [
    ((2, 24, 1), (1, 24, 1)),
    ((1, 24, 1), (2, 24, 1)),
    ((1, 8, 3), (3, 8, 1)),
    ((2, 12, 1), (1, 6, 4)),
    ((1, 24, 1), (1, 12, 2)),
    ((1, 16, 1), (1, 5, 1)),
    ((3, 4, 2), (2, 4, 1)),
    ((1, 7, 1), (1, 7, 3)),
    ((2, 8, 1), (3, 10, 2)),
]
SCHEDULES = {
    "cosine": [],
    "cosine from the start": ["TRAIN.LR_SCHEDULER.WARMUP_PREFIX", False],
    "linear": ["TRAIN.LR_SCHEDULER.NAME", "linear"],
    "step": ["TRAIN.LR_SCHEDULER.NAME", "step", "TRAIN.LR_SCHEDULER.DECAY_EPOCHS", 2],
    "multistep": ["TRAIN.LR_SCHEDULER.NAME", "multistep", "TRAIN.LR_SCHEDULER.MULTISTEPS", "[3, 4]"],
}
EPOCHS, NUM_SAMPLES = 5, 78


def total(layout: tuple[int, int, int]) -> int:
    return layout[0] * layout[1] * layout[2]


def lay_out(cfg, progress: Progress):
    return build_schedule(cfg, effective_batch=progress.total_batch, total_updates=progress.total_updates)


def walk(progress: Progress, layout: tuple[int, int, int]):
    """The updates of a run from where it stands, each by the indices that it takes."""
    world_size, batch_size, accumulation = layout
    while not progress.is_over:
        plan = list(
            plan_epoch(
                progress.num_samples,
                batch_size=batch_size,
                world_size=world_size,
                accumulation=accumulation,
                position=progress.position,
            )
        )
        for micro in plan:
            if micro.last_of_update:
                yield micro.update_start, micro.stop
                progress.advance(micro.stop)
        progress.finish_epoch()


@pytest.mark.parametrize("reference", [0, 512])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_each_sample_comes_once_at_the_rate_of_the_undisturbed_run(before, after, schedule, reference):
    options = ["TRAIN.EPOCHS", EPOCHS, "TRAIN.WARMUP_EPOCHS", 2, "TRAIN.LR_REFERENCE_BATCH", reference]
    cfg = load_config(opts=[*options, *SCHEDULES[schedule]])
    undisturbed = Progress(NUM_SAMPLES, total(before), EPOCHS * NUM_SAMPLES)
    rates = lay_out(cfg, undisturbed)
    expected = {}  # rate at which each sample of each epoch begins its update
    for start, _ in walk(undisturbed, before):
        expected[undisturbed.epoch, start] = rates(undisturbed.update)
        assert undisturbed.update == undisturbed.step, "whole updates as long as the total batch stays"
    num_updates = undisturbed.step
    for stopped_after in (1, num_updates // 3, num_updates // 2, num_updates - 2):
        changed, seen = Progress(NUM_SAMPLES, total(before), EPOCHS * NUM_SAMPLES), []
        for number, (start, stop) in enumerate(walk(changed, before), start=1):
            seen += [(changed.epoch, index) for index in range(start, stop)]
            if number == stopped_after:
                changed.advance(stop)
                break
        if changed.position == NUM_SAMPLES:
            changed.finish_epoch()
        rates = lay_out(cfg, changed)  # as a resumed run does
        for start, stop in walk(changed, after):
            seen += [(changed.epoch, index) for index in range(start, stop)]
            rate = rates(changed.epoch * changed.updates_per_epoch + start / changed.total_batch)
            assert rates(changed.update) == rate
            if (changed.epoch, start) in expected:
                assert rate == pytest.approx(expected[changed.epoch, start], rel=1e-12, abs=0)
        assert sorted(seen) == [(epoch, index) for epoch in range(EPOCHS) for index in range(NUM_SAMPLES)]


def test_a_stopped_run_goes_on_with_another_batch_at_the_same_rates(runner, monkeypatch):
    common = [
        "TRAIN.EPOCHS",
        "4",
        "TRAIN.WARMUP_EPOCHS",
        "1",
        "TRAIN.LR_REFERENCE_BATCH",
        "512",
        "TRAIN.BASE_LR",
        "0.1",
    ]
    assert runner("whole", "--batch-size", "13", "--opts", *common) == 0
    original = Logger.metrics

    def stop(self, kind, **fields):
        original(self, kind, **fields)
        if kind == "train" and fields["step"] == 8:  # the second update of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Logger, "metrics", stop)
        assert runner("changed", "--batch-size", "13", "--opts", *common) == 3
    runner.text()
    assert runner("changed", "--batch-size", "26", "--opts", *common) == 0
    text = runner.text()
    assert "the run began with 13 images an update and goes on with 26" in text
    assert "DATA.BATCH_SIZE 13 -> 26" in text
    assert "x 13/512" in text, "the plan is the run's own"
    begin = {}
    for tag in ("whole", "changed"):
        rows = runner.rows(tag, "train")
        starts = [0, *(row["samples"] for row in rows)]
        begin[tag] = {start: row["lr"] for start, row in zip(starts, rows, strict=False)}
        assert rows[-1]["samples"] == 4 * NUM_SAMPLES
    assert len(begin["changed"]) < len(begin["whole"])
    assert all(begin["changed"][start] == pytest.approx(begin["whole"][start], rel=1e-12) for start in begin["changed"])


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_real_run_keeps_the_rates_through_the_change(runner, before, after):
    options = ["TRAIN.EPOCHS", EPOCHS, "TRAIN.WARMUP_EPOCHS", 2, "TRAIN.LR_REFERENCE_BATCH", 512, "TRAIN.BASE_LR", 0.1]

    def start(layout: tuple[int, int, int]):
        sizes = ["--batch-size", layout[1], "--accumulation-steps", layout[2]]
        return runner.start("run", *map(str, [*sizes, "--opts", *options]), processes=layout[0])

    process = start(before)
    log = runner.run_dir("run") / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > NUM_SAMPLES // total(before)) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, output = runner.finish(process)
    assert "everything is saved" in output
    stopped = len(runner.rows("run", "train"))
    status, output = runner.finish(start(after))
    assert status == 0, output

    rows = runner.rows("run", "train")
    assert 0 < stopped < len(rows), "the change is in the middle"
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[-1]["samples"] == EPOCHS * NUM_SAMPLES
    undisturbed = Progress(NUM_SAMPLES, total(before), EPOCHS * NUM_SAMPLES)
    rates = lay_out(load_config(str(runner.config), opts=options), undisturbed)
    for samples, row in zip([0, *(row["samples"] for row in rows)], rows, strict=False):
        undisturbed.epoch, undisturbed.position = divmod(samples, NUM_SAMPLES)
        assert row["lr"] == pytest.approx(rates(undisturbed.update), rel=1e-12, abs=0)


def test_a_run_that_stopped_in_an_epoch_of_other_data_is_not_guessed(runner, shapes, tmp_path, monkeypatch):
    original = Logger.metrics

    def stop(self, kind, **fields):
        original(self, kind, **fields)
        if kind == "train" and fields["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Logger, "metrics", stop)
        assert runner("run") == 3
    fewer = tmp_path / "fewer"
    for path in shapes.rglob("*.png"):
        if path.name != "000.png":
            (fewer / path.relative_to(shapes)).parent.mkdir(parents=True, exist_ok=True)
            (fewer / path.relative_to(shapes)).symlink_to(path)
    assert runner("run", "--data-path", str(fewer)) == 2
    assert "after 24 samples of an epoch of 78, and the data has 75 now" in runner.text()


@pytest.mark.parametrize(
    ("batch_size", "warns"), [(8, True), (31, True), (32, False), (1024, False)], ids=lambda value: str(value)
)
def test_a_batch_that_leaves_nothing_of_the_rate_is_told(runner, batch_size, warns):
    # At a sixteenth of the reference the linear rule is four times below the square root.
    options = ["TRAIN.LR_REFERENCE_BATCH", "512", "TRAIN.EPOCHS", "1"]
    assert runner("plan", "--dry-run", "--batch-size", str(batch_size), "--opts", *options) == 0
    text = runner.text()
    assert ("set TRAIN.LR_REFERENCE_BATCH 0" in text) == warns
    if batch_size == 8:
        assert "the peak learning rate 3.1e-05 is small" in text
        assert "--accumulation-steps 64" in text
        assert "which peaks at 2.5e-04" in text
    assert runner("plan", "--dry-run", "--batch-size", "8", "--opts", *options, "TRAIN.LR_SCALING", "sqrt") == 0
    assert "x sqrt(8/512)): first" in runner.text()
    assert "set TRAIN.LR_REFERENCE_BATCH 0" not in runner.text()


def test_the_changes_are_what_they_say():
    assert sum(total(before) != total(after) for before, after in CHANGES) == 6
    assert len(set(itertools.chain(*CHANGES))) > 9
