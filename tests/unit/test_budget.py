"""How much fits into a time, and what is made of what was timed."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from swin.config import load_config
from swin.engine import budget, measure
from swin.engine.budget import Prices, find_length
from swin.engine.measure import TrainingTime, _Span, count_turns
from swin.engine.progress import Progress, Stopwatch
from swin.phases import Phase, Phases, build_phases, grow_batch

FREE = Prices({(32, 32): TrainingTime(image_sec=0.01, epoch_sec=0.0, wait=0.0)}, evaluation_sec=0.0, save_sec=0.0)


def of_one_size(progress: Progress, total_samples: int = 1) -> Phases:
    return Phases([Phase(0.0, (32, 32))], progress.num_samples, total_samples, progress.total_batch)


def test_a_run_that_ends_in_an_epoch_has_whole_updates():
    progress = Progress(78, 8, 78 + 24)
    assert (progress.updates_per_epoch, progress.total_updates, progress.total_epochs) == (10, 13, 102 / 78)
    assert [progress.samples_after(updates) for updates in (0, 9, 10, 13, 20)] == [0, 72, 78, 102, 156]
    progress.epoch, progress.position = 1, 16
    progress.advance(24)
    progress.finish_epoch()
    assert (progress.epoch, progress.position, progress.is_over, progress.last_epoch) == (1, 24, True, 1)
    progress.advance(78)
    progress.finish_epoch()
    assert (progress.epoch, progress.position, progress.last_epoch) == (2, 0, 1)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("until", [4.5, 5.0, 5.01, 6.0, 12.25])
def test_turns_are_counted_as_a_run_takes_them(every, after, until):
    whole = range(after + 1, int(until) + 1)
    expected = sum(epoch % every == 0 or epoch == until for epoch in whole) + (until > int(until))
    assert count_turns(after, until, every) == expected


def test_the_longest_run_that_fits_is_found():
    cfg = load_config(opts=["EVAL_FREQ", "2"])
    progress = Progress(100, 10, 1)
    prices = Prices({(32, 32): TrainingTime(0.01, 0.5, 0.0)}, evaluation_sec=2.0, save_sec=0.25)

    def predict(total_samples: int, has_val: bool) -> float:
        return prices.predict(cfg, progress, of_one_size(progress, total_samples), has_val=has_val).seconds

    # Two epochs: 2 x 1 s + 2 x 0.5 s, an evaluation with its checkpoint, the last checkpoint.
    assert predict(200, True) == pytest.approx(2 + 1 + 2.25 + 0.25)
    for seconds, has_val in itertools.product((1.7, 3.5, 5.499, 5.501, 8.5, 60.0), (True, False)):
        found = find_length(prices, cfg, progress, of_one_size(progress), seconds, has_val=has_val)
        times = [predict(found + more, has_val) for more in (0, 10)]
        assert times[0] <= seconds < times[1] or (found == 10 and times[0] > seconds)
    assert find_length(prices, cfg, progress, of_one_size(progress), -1.0, has_val=True) == 10, "one update at least"


def test_the_rest_of_a_run_is_counted_from_where_it_stands():
    cfg = load_config(opts=["EVAL_FREQ", "1000"])
    progress = Progress(100, 10, 1, epoch=3, position=40)
    assert find_length(FREE, cfg, progress, of_one_size(progress), 2.0, has_val=True) == 540
    assert find_length(FREE, cfg, progress, of_one_size(progress), 0.0, has_val=True) == 350


def test_small_last_updates_of_epochs_do_not_keep_a_run_short():
    """Epochs of an update of 8 images and one of 1."""
    cfg, progress = load_config(opts=["EVAL_FREQ", "1000"]), Progress(9, 8, 1)
    assert find_length(FREE, cfg, progress, of_one_size(progress), 9.0, has_val=True) == 900


def test_what_the_first_batches_are_waited_for_longer_is_the_price_of_an_epoch():
    # Two epochs of 10 batches of 8: 0.1 s a batch, and 0.5 s for the first one of each.
    slow = _Span(images=160, epochs=2, sec=20 * 0.1 + 2 * 0.5, first_waits_sec=2 * 0.5, later_waits_sec=0.0, batches=20)
    found = slow.summarize()
    assert (found.image_sec, found.epoch_sec) == pytest.approx((0.1 / 8, 0.5))
    assert found.of_epoch(80) == pytest.approx(1.5)
    assert found.wait == pytest.approx(1 / 3)
    # Loaded in the process itself, each batch is waited for alike.
    found = _Span(160, 2, 2.0, first_waits_sec=0.1, later_waits_sec=0.9, batches=20).summarize()
    assert (found.image_sec, found.epoch_sec) == pytest.approx((2.0 / 160, 0.0))


def test_a_stopwatch_counts_in_its_blocks_alone(monkeypatch):
    now = iter([10.0, 12.0, 13.0, 20.0, 21.0])
    monkeypatch.setattr("swin.engine.progress.time.monotonic", lambda: next(now))
    clock = Stopwatch()
    with clock:
        assert clock.seconds == 2.0
    assert clock.seconds == 3.0
    clock.before_sec += 100
    with clock:
        pass
    assert clock.seconds == 104.0


class _Loader:
    """A loader with a worker that reads a batch of 8 in 0.1 s, ahead of the updates, but for the first of an epoch."""

    num_samples = 800

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def epoch(self, epoch: int, position: int, phase: Phase):
        begin = self.clock[0]
        for number, start in enumerate(range(position, self.num_samples, 8), start=1):
            self.clock[0] = max(self.clock[0], begin + 0.1 * number)
            yield start + 8


@pytest.mark.parametrize(("update_sec", "image_sec"), [(0.02, 0.1 / 8), (0.25, 0.25 / 8)])
def test_batches_that_were_read_ahead_do_not_make_a_run_look_fast(monkeypatch, update_sec, image_sec):
    clock, calls = [0.0], itertools.count()
    loader = _Loader(clock)

    def step(state, number, batches, *more):
        position = next(batches)
        clock[0] += update_sec * (5 if next(calls) < 2 else 1)  # the first updates are slow
        return position

    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(measure, "train_step", step)
    monkeypatch.setattr(measure, "StepTotals", lambda device: None)
    trainer = SimpleNamespace(
        dist=SimpleNamespace(device=SimpleNamespace(type="cpu")),
        progress=Progress(800, 8, 8000),
        phases=Phases([Phase(0.0, (32, 32))], 800, 8000, 8),
        batches=loader,
        total_batch=8,
        lr=0.1,
        state=SimpleNamespace(network=SimpleNamespace(train=lambda: None)),
    )
    found = measure.time_training(trainer, 3.0)
    assert found.image_sec == pytest.approx(image_sec, rel=0.05)
    assert 3.0 < clock[0] < 12.0


class _Machine:
    """A device on which images of each size take their own time, and each epoch half a second more."""

    num_samples, epoch_sec, image_sec = 100, 0.5, {16: 0.001, 24: 0.003, 32: 0.01}

    def __init__(self) -> None:
        self.now = 1000.0

    def epoch(self, epoch: int, position: int, phase: Phase):
        self.now += self.epoch_sec
        while position < self.num_samples:
            end = min(self.num_samples, position + grow_batch(8, phase.growth))
            yield end, (end - position) * self.image_sec[phase.img_size[0]]
            position = end

    def step(self, state, number, batches, *more):
        position, seconds = next(batches)
        self.now += seconds
        return position

    def train(self, at: Progress, phases: Phases, eval_freq: int) -> tuple[float, int]:
        """Do what a run does; return how long that takes and the samples at its end."""
        begin, epoch, position = self.now, at.epoch, at.position
        samples = at.samples
        while samples < phases.total_samples:
            batches = self.epoch(epoch, position, phases.of_epoch(epoch))
            while position < self.num_samples and samples < phases.total_samples:
                position = self.step(None, 0, batches)
                samples = epoch * self.num_samples + position
            epoch, position = epoch + 1, 0
            if epoch % eval_freq == 0 or samples >= phases.total_samples:
                self.now += 0.4 + 0.1
        self.now += 0.1
        return self.now - begin, samples


SCHEDULES = [
    "[]",
    "[[0.5, 16], [0.25, 24]]",
    "[[1.0, 16]]",
    "[[0.2, 16], [0.3, 24], [0.2, 16]]",
    "[[0.3, 24], [0.4, 16]]",  # smaller later: an update more can make an epoch dearer
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("minutes", [0.03, 0.1, 0.31, 1.0, 7.3])
@pytest.mark.parametrize("done", [(0, 0), (1, 16), (7, 96)], ids=str)
def test_runs_of_several_sizes_take_their_minutes_to_an_update(monkeypatch, schedule, minutes, done):
    """Also one that was over within an epoch and goes on with more minutes."""
    options = ["DATA.IMG_SIZE", 32, "MODEL.SWIN.WINDOW_SIZE", 4, "DATA.IMG_SIZE_SCHEDULE", schedule, "EVAL_FREQ", 3]
    cfg, machine = load_config(opts=[*options, "TRAIN.MINUTES", minutes]), _Machine()
    layout = {"total_batch": 8, "num_samples": 100}
    found, progress = [], Progress(100, 8, 3000, *done)
    trainer = SimpleNamespace(
        cfg=cfg,
        dist=SimpleNamespace(device=SimpleNamespace(type="cpu")),
        data=SimpleNamespace(val=object()),
        progress=progress,
        phases=build_phases(cfg, total_samples=3000, **layout),
        batches=machine,
        total_batch=8,
        lr=0.1,
        clock=Stopwatch(),
        logger=SimpleNamespace(info=lambda text: None, warning=lambda text: None),
        state=SimpleNamespace(network=SimpleNamespace(train=lambda: None)),
        set_length=found.append,
    )
    with monkeypatch.context() as patch:
        patch.setattr("time.perf_counter", lambda: machine.now)
        patch.setattr("time.monotonic", lambda: machine.now)
        patch.setattr(measure, "train_step", machine.step)
        patch.setattr(measure, "StepTotals", lambda device: None)
        patch.setattr(budget, "kept", lambda state: nullcontext())
        patch.setattr(budget, "time_evaluation", lambda trainer, seconds: 0.4)
        patch.setattr(budget, "time_saving", lambda trainer, folder: 0.1)
        budget.fix_length(trainer, None)
    left_sec = 60 * minutes - trainer.clock.before_sec
    seconds, samples = machine.train(progress, build_phases(cfg, total_samples=found[0], **layout), 3)
    assert samples == found[0]
    one_update = machine.train(progress, build_phases(cfg, total_samples=progress.samples + 1, **layout), 3)[1]
    assert seconds < left_sec + 1e-6 or samples == one_update
    longer = build_phases(cfg, total_samples=samples + 1, **layout)
    assert machine.train(progress, longer, 3)[0] > left_sec - 1e-6
