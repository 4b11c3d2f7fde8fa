"""Which epoch has images of which size, how batches grow, and what rates they get."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.samplers import plan_epoch, update_rows
from data.transforms import build_resized_transforms
from swin.config import load_config
from swin.create import build_model
from swin.engine.progress import Progress
from swin.errors import ConfigError
from swin.phases import Phase, Phases, build_phases, grow_batch
from swin.schedule import build_schedule


def make_phases(schedule: str, *options: object, batch: int = 32, num_samples: int = 100_000) -> Phases:
    cfg = load_config(opts=["DATA.IMG_SIZE_SCHEDULE", schedule, *options])
    samples = {"num_samples": num_samples, "total_samples": cfg.TRAIN.EPOCHS * num_samples}
    return build_phases(cfg, total_batch=batch, **samples)


def sizes_of(phases: Phases, epochs: int) -> list[int]:
    return [phases.of_epoch(epoch).img_size[0] for epoch in range(epochs)]


def test_an_epoch_has_the_size_of_the_phase_that_its_first_sample_lies_in():
    epochs = ("TRAIN.EPOCHS", 10, "TRAIN.WARMUP_EPOCHS", 0)
    phases = make_phases("[[0.5, 112], [0.25, 160]]", *epochs)
    assert sizes_of(phases, 10) == [112] * 5 + [160] * 3 + [224] * 2  # epoch 7 begins at 0.7, before 0.75
    assert [(list(span), phase.img_size) for span, phase in phases.spans()] == [
        ([0, 1, 2, 3, 4], (112, 112)),
        ([5, 6, 7], (160, 160)),
        ([8, 9], (224, 224)),
    ]
    # 0.1 + 0.2 is a little more than 0.3, which no epoch may notice; nor that of a shorter run's part.
    assert sizes_of(make_phases("[[0.1, 32], [0.2, 64]]", *epochs), 10) == [32] + [64] * 2 + [224] * 7
    assert sizes_of(make_phases("[[0.01, 32]]", *epochs), 3) == [32, 224, 224]
    assert sizes_of(make_phases("[[0.75, 160], [0.25, 192]]", *epochs), 11) == [160] * 8 + [192] * 3
    assert sizes_of(make_phases("[]", *epochs), 3) == [224] * 3
    # A run that ends within its third epoch.
    assert sizes_of(Phases([Phase(0.0, (32, 32)), Phase(0.5, (64, 64))], 100, 250, 8), 3) == [32, 32, 64]


@given(
    st.lists(st.floats(0.001, 0.4), max_size=5), st.integers(1, 40), st.integers(1, 2000).map(lambda tens: 10 * tens)
)
def test_the_spans_of_phases_are_those_of_the_epochs(shares, num_samples, total_samples):
    begins = [0.0, *(begin for begin in itertools.accumulate(shares) if begin < 1)]
    phases = Phases([Phase(begin, (8, 8)) for begin in begins], num_samples, total_samples, 8)
    epochs = [(epoch, phase) for span, phase in phases.spans() for epoch in span]
    assert epochs == [(epoch, phases.of_epoch(epoch)) for epoch in range(-(-total_samples // num_samples))]


def test_batches_grow_by_the_pixels_in_quarters_and_to_an_epoch_at_most():
    def growths(schedule: str, **sizes: int) -> list[float]:
        return [phase.growth for phase in make_phases(schedule, **sizes).phases]

    assert growths("[[0.2, 112], [0.2, 128], [0.2, 160], [0.2, [224, 112]], [0.1, 208]]") == [4, 3, 1.75, 2, 1, 1]
    assert growths("[[0.5, 32]]") == [49, 1]
    assert growths("[[0.5, 32]]", num_samples=330) == [10.25, 1]  # 330 / 32 = 10.3
    assert growths("[[0.5, 32]]", num_samples=20) == [1, 1]
    assert growths("[]") == [1]


def test_a_grown_update_keeps_no_more_in_memory():
    """What the backward pass needs of the forward pass, where all the grids are of whole windows."""
    swin = ["MODEL.SWIN.WINDOW_SIZE", 2, "MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", "[2, 2]"]
    options = [*swin, "MODEL.SWIN.NUM_HEADS", "[1, 2]", "DATA.IMG_SIZE", 64]
    cfg = load_config(opts=[*options, "DATA.IMG_SIZE_SCHEDULE", "[[0.3, 16], [0.3, [32, 48]]]"])
    model, kept = build_model(cfg, 5), []
    for phase in build_phases(cfg, total_batch=8, num_samples=10_000, total_samples=100_000).phases:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.zeros(grow_batch(8, phase.growth), 3, *phase.img_size)).sum()
        kept.append(sum(sizes.values()))
    assert 0.8 * kept[-1] < min(kept[:-1]) <= max(kept[:-1]) < 1.05 * kept[-1]


@given(st.integers(1, 200), st.integers(4, 200).map(lambda quarters: quarters / 4))
def test_a_grown_batch_is_of_the_kind_of_the_first(batch: int, growth: float):
    grown = grow_batch(batch, growth)
    assert batch <= grown <= batch * growth < grown + 2
    assert grow_batch(batch, 1.0) == batch
    assert batch % 2 or grown % 2 == 0


LAYOUTS = [(12, 1, 1), (6, 2, 1), (4, 3, 1), (3, 4, 1), (4, 1, 3), (2, 3, 2), (1, 2, 6)]


@pytest.mark.parametrize("growth", [1.0, 1.25, 1.75, 3.0, 9.75, 49.0])
def test_updates_grow_alike_however_they_are_divided(growth):
    """Each sample is dealt once, to the same update, and no process takes more than two of them above its share."""
    expected = None
    for batch_size, world_size, accumulation in LAYOUTS:
        layout = {"batch_size": batch_size, "world_size": world_size, "accumulation": accumulation}
        plan, in_pairs = list(plan_epoch(500, **layout, growth=growth)), batch_size % 2 == 0
        updates = [(micro.update_start, micro.update_size) for micro in plan if micro.last_of_update]
        expected = expected or updates
        assert updates == expected
        assert updates[0] == (0, min(500, grow_batch(12, growth)))
        taken = []
        for micro in plan:
            for rank in range(world_size):
                rows = update_rows(micro, rank=rank, world_size=world_size, in_pairs=in_pairs)
                assert len(rows) < batch_size * growth + 2
                taken += (micro.update_start + rows).tolist()
        assert sorted(taken) == list(range(500))
        counts = [sum(micro.update_start == start for micro in plan) for start, _ in updates]
        assert max(counts) <= accumulation


@pytest.mark.parametrize(("reference", "scaling", "expected"), [
    (0, "linear", [1, 1, 1]), (64, "linear", [4, 1.75, 1]), (64, "sqrt", [2, math.sqrt(1.75), 1])
])  # fmt: skip
def test_rates_follow_the_batch_at_the_same_samples(reference, scaling, expected):
    options = ["TRAIN.EPOCHS", 8, "TRAIN.WARMUP_EPOCHS", 1, "TRAIN.LR_REFERENCE_BATCH", reference]
    cfg = load_config(
        opts=[*options, "TRAIN.LR_SCALING", scaling, "DATA.IMG_SIZE_SCHEDULE", "[[0.5, 112], [0.25, 160]]"]
    )
    progress = Progress(100, 16, 800)
    layout = {"effective_batch": 16, "total_updates": progress.total_updates}
    plain = build_schedule(cfg, **layout)
    grown = build_schedule(cfg, **layout, phases=build_phases(cfg, total_batch=16, num_samples=100, total_samples=800))
    for epoch in range(8):
        factor = expected[0 if epoch < 4 else 1 if epoch < 6 else 2]
        for position in (0, 16, 64, 96, 99):
            progress.epoch, progress.position = epoch, position
            assert grown(progress.update) == pytest.approx(factor * plain(progress.update), rel=1e-12)


def test_the_updates_of_a_run_are_counted():
    def count(num_samples: int, **changes: int) -> int:
        options = ("TRAIN.EPOCHS", 4, "TRAIN.WARMUP_EPOCHS", 0)
        return replace(make_phases("[[0.5, 112]]", *options, num_samples=num_samples), **changes).count_updates(10)

    assert count(1000) == 2 * 25 + 2 * 100
    assert count(1001) == 2 * 26 + 2 * 101
    assert count(1000, total_samples=3500) == 2 * 25 + 100 + 50


@given(
    st.lists(st.tuples(st.floats(0.01, 0.3), st.sampled_from([32, 64, 224])), max_size=3),
    st.integers(1, 50),
    st.integers(1, 700),
)
def test_spans_and_updates_are_those_of_the_epochs_one_by_one(schedule, num_samples, total_samples):
    phases = make_phases(str([list(pair) for pair in schedule]), num_samples=num_samples, batch=4)
    phases = replace(phases, total_samples=total_samples)
    by_phase, count = {}, 0
    for epoch in range(-(-total_samples // num_samples)):
        phase = phases.of_epoch(epoch)
        by_phase.setdefault(phase, []).append(epoch)
        left = min(num_samples, total_samples - epoch * num_samples)
        count += -(-left // grow_batch(6, phase.growth))
    assert [(phase, list(span)) for span, phase in phases.spans()] == list(by_phase.items())
    assert phases.count_updates(6) == count


def test_a_run_of_any_length_is_described_at_once():
    epochs = 10**13
    phases = replace(make_phases("[[0.25, 112]]", num_samples=3), total_samples=3 * epochs)
    lengths = [len(span) for span, _ in phases.spans()]
    assert lengths == pytest.approx([epochs / 4, 3 * epochs / 4], rel=1e-6)
    assert sum(lengths) == epochs
    assert phases.count_updates(2) == 2 * epochs


def test_each_size_has_its_transform():
    schedule = ["DATA.IMG_SIZE", "[96, 64]", "DATA.IMG_SIZE_SCHEDULE", "[[0.2, 32], [0.2, [48, 32]], [0.2, 32]]"]
    transforms = build_resized_transforms(load_config(opts=schedule))
    assert {size: transform.size for size, transform in transforms.items()} == {(32, 32): (32, 32), (48, 32): (48, 32)}


@pytest.mark.parametrize(("value", "message"), [
    ("[[0.5, 0.5]]", "expected a list of pairs"),
    ("[0.5, 112]", "expected a list of pairs"),
    ("[[0.5, 112, 3]]", "expected a list of pairs"),
    ("[[half, 112]]", "expected a list of pairs"),
    ("112", "expected a list of pairs"),
    ("[[0.5, [112]]]", r"expected a size in pixels or \[height, width\], not \[112\]"),
    ("[[0.5, [112, 96, 80]]]", r"expected a size in pixels or \[height, width\]"),
    ("[[0.0, 112]]", "above 0 and add up to 1 at most"),
    ("[[-0.5, 112]]", "above 0 and add up to 1 at most"),
    ("[[.nan, 112]]", "above 0 and add up to 1 at most"),
    ("[[0.6, 112], [0.5, 160]]", "above 0 and add up to 1 at most"),
    ("[[0.5, 3]]", "3 is smaller than one patch"),
    ("[[0.5, 0]]", "0 is smaller than one patch"),
    ("[[0.5, -112]]", "-112 is smaller than one patch"),
    ("[[0.5, [112, 2]]]", r"\[112, 2\] is smaller than one patch"),
    ("[[0.5, 256]]", "256 has more pixels than DATA.IMG_SIZE = 224"),
])  # fmt: skip
def test_what_no_run_can_have_is_refused(value, message):
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(opts=["DATA.IMG_SIZE_SCHEDULE", value])
    assert "DATA.IMG_SIZE_SCHEDULE" in str(raised.value)


def test_a_batch_that_grows_out_of_any_device_is_refused():
    options = ["DATA.BATCH_SIZE", 4096, "MODEL.SWIN.WINDOW_SIZE", 50, "DATA.IMG_SIZE", 200]
    load_config(opts=options)
    with pytest.raises(ConfigError, match=r"at 4 DATA.BATCH_SIZE = 4096 .* grows 2,500 times and takes .* GB"):
        load_config(opts=[*options, "DATA.IMG_SIZE_SCHEDULE", "[[0.5, 4]]"])
