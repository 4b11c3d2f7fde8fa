"""How much fits into a time, and what is made of what was timed."""

import itertools
from types import SimpleNamespace

import pytest

from swin.config import load_config
from swin.engine import measure
from swin.engine.budget import Prices, find_length
from swin.engine.measure import TrainingTime, _Span, count_turns
from swin.engine.progress import Progress, Stopwatch

FREE = TrainingTime(image_sec=0.01, epoch_sec=0.0, wait=0.0)


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
    prices = Prices(TrainingTime(0.01, 0.5, 0.0), evaluation_sec=2.0, save_sec=0.25)
    # Two epochs: 2 x 1 s + 2 x 0.5 s, an evaluation with its checkpoint, the last checkpoint.
    assert prices.predict(cfg, progress, 200, has_val=True) == pytest.approx(2 + 1 + 2.25 + 0.25)
    for seconds, has_val in itertools.product((1.7, 3.5, 5.499, 5.501, 8.5, 60.0), (True, False)):
        found = find_length(prices, cfg, progress, seconds, has_val=has_val)
        times = [prices.predict(cfg, progress, found + more, has_val=has_val) for more in (0, 10)]
        assert times[0] <= seconds < times[1] or (found == 10 and times[0] > seconds)
    assert find_length(prices, cfg, progress, -1.0, has_val=True) == 10, "one update at the least"


def test_the_rest_of_a_run_is_counted_from_where_it_stands():
    cfg = load_config(opts=["EVAL_FREQ", "1000"])
    progress = Progress(100, 10, 1, epoch=3, position=40)
    assert find_length(Prices(FREE, 0.0, 0.0), cfg, progress, 2.0, has_val=True) == 540
    assert find_length(Prices(FREE, 0.0, 0.0), cfg, progress, 0.0, has_val=True) == 350


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

    def epoch(self, epoch: int, position: int = 0):
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
        batches=loader,
        total_batch=8,
        lr=0.1,
        state=SimpleNamespace(network=SimpleNamespace(train=lambda: None)),
    )
    found = measure.time_training(trainer, 3.0)
    assert found.image_sec == pytest.approx(image_sec, rel=0.05)
    assert 3.0 < clock[0] < 12.0
