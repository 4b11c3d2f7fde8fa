"""The arithmetic of epochs: every sample once, everywhere the same number of passes."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.samplers import (
    MicroBatch,
    balanced_order,
    count_occurrences,
    derive_seed,
    epoch_order,
    plan_epoch,
    rank_slice,
    repeated_order,
    update_rows,
)

layouts = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 9),
        "world_size": st.integers(1, 5),
        "accumulation": st.integers(1, 4),
    }
)


def places_of_ranks(plan: list[MicroBatch], world_size: int) -> list[int]:
    """Returns the places that the ranks take, one rank after the other."""
    return [
        place
        for rank in range(world_size)
        for micro in plan
        for place in range(micro.stop)[rank_slice(micro, rank=rank, world_size=world_size)]
    ]


@given(st.integers(0, 400), layouts)
def test_each_place_is_taken_exactly_once(num_samples: int, layout: dict[str, int]) -> None:
    plan = list(plan_epoch(num_samples, **layout))
    taken = places_of_ranks(plan, layout["world_size"])
    assert sorted(taken) == list(range(num_samples))


@given(st.integers(1, 400), layouts)
def test_micro_batches_are_full_and_contiguous_but_for_the_tail(num_samples: int, layout: dict[str, int]) -> None:
    plan = list(plan_epoch(num_samples, **layout))
    micro_size = layout["batch_size"] * layout["world_size"]
    assert [micro.stop for micro in plan[:-1]] == [micro.start for micro in plan[1:]]
    assert all(micro.stop - micro.start == micro_size for micro in plan[:-1])
    assert 0 < plan[-1].stop - plan[-1].start <= micro_size


@given(st.integers(1, 400), layouts)
def test_updates_add_up(num_samples: int, layout: dict[str, int]) -> None:
    plan = list(plan_epoch(num_samples, **layout))
    effective = layout["batch_size"] * layout["world_size"] * layout["accumulation"]
    updates = [list(group) for _, group in groupby(plan, key=lambda micro: micro.start // effective)]
    assert len(updates) == -(-num_samples // effective)
    for update in updates:
        assert [micro.last_of_update for micro in update] == [False] * (len(update) - 1) + [True]
        size = update[-1].stop - update[0].start
        assert {micro.update_size for micro in update} == {size}
        assert size == effective or update is updates[-1]


@given(st.integers(1, 400), layouts)
def test_ranks_share_evenly_and_in_order(num_samples: int, layout: dict[str, int]) -> None:
    world_size = layout["world_size"]
    for micro in plan_epoch(num_samples, **layout):
        slices = [rank_slice(micro, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert [part.stop for part in slices] == [part.start for part in slices[1:]] + [micro.stop]
        sizes = [part.stop - part.start for part in slices]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= layout["batch_size"]


@given(st.integers(1, 300), layouts, layouts, st.data())
def test_resuming_under_another_layout_takes_the_rest(
    num_samples: int, before: dict[str, int], after: dict[str, int], data: st.DataObject
) -> None:
    first = list(plan_epoch(num_samples, **before))
    stopped = first[: data.draw(st.integers(0, len(first)))]
    position = stopped[-1].stop if stopped else 0
    rest = list(plan_epoch(num_samples, **after, position=position))
    taken = places_of_ranks(stopped, before["world_size"]) + places_of_ranks(rest, after["world_size"])
    assert sorted(taken) == list(range(num_samples))


@given(st.integers(1, 300), layouts, st.data())
def test_resuming_after_an_update_goes_on_as_if_never_stopped(
    num_samples: int, layout: dict[str, int], data: st.DataObject
) -> None:
    whole = list(plan_epoch(num_samples, **layout))
    ends = [number + 1 for number, micro in enumerate(whole) if micro.last_of_update]
    done = data.draw(st.sampled_from([0, *ends]))
    position = whole[done - 1].stop if done else 0
    assert list(plan_epoch(num_samples, **layout, position=position)) == whole[done:]


@given(st.integers(1, 300), layouts, st.booleans())
def test_the_rows_of_an_update_are_dealt_once_and_ascending(
    num_samples: int, layout: dict[str, int], in_pairs: bool
) -> None:
    world_size, dealt = layout["world_size"], {}
    for micro in plan_epoch(num_samples, **layout):
        for rank in range(world_size):
            rows = update_rows(micro, rank=rank, world_size=world_size, in_pairs=in_pairs).tolist()
            own = rank_slice(micro, rank=rank, world_size=world_size)
            assert rows == sorted(rows)
            assert len(rows) <= layout["batch_size"] + (in_pairs and layout["batch_size"] % 2)
            if not in_pairs:
                assert rows == list(range(own.start - micro.update_start, own.stop - micro.update_start))
            dealt.setdefault(micro.update_start, []).extend(rows)
    assert all(sorted(rows) == list(range(len(rows))) for rows in dealt.values())
    assert sum(map(len, dealt.values())) == num_samples


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3))
def test_pairs_stay_together_and_meet_when_a_part_is_mirrored(half: int, world_size: int, accumulation: int) -> None:
    layout = {"batch_size": 2 * half, "world_size": world_size, "accumulation": accumulation}
    for micro in plan_epoch(70, **layout):  # with a tail that is no multiple of anything
        for rank in range(world_size):
            rows = update_rows(micro, rank=rank, world_size=world_size, in_pairs=True)
            assert len(rows) <= 2 * half
            assert (rows + rows[::-1]).tolist() == [micro.update_size - 1] * len(rows)


@given(st.integers(0, 500), st.integers(0, 2**31), st.integers(0, 1000))
def test_an_order_is_a_permutation(num_samples: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_samples, seed=seed, epoch=epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(num_samples))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.integers(0, 1000))
def test_balanced_orders_draw_classes_and_their_samples_alike(labels: list[int], epoch: int) -> None:
    order = balanced_order(np.array(labels), seed=1, epoch=epoch)
    assert len(order) == len(labels)
    per_class = np.bincount(np.array(labels)[order])[np.unique(labels)]
    assert per_class.max() - per_class.min() <= 1
    counts = np.bincount(order, minlength=len(labels))
    for label in set(labels):
        own = counts[np.array(labels) == label]
        assert own.max() - own.min() <= 1


@given(st.integers(1, 100), st.integers(1, 7))
def test_repeats_follow_one_another(num_samples: int, repeats: int) -> None:
    order = repeated_order(epoch_order(num_samples, seed=0, epoch=0), repeats)
    assert len(order) == num_samples
    assert [len(list(group)) for _, group in groupby(order.tolist())][:-1] == [repeats] * ((num_samples - 1) // repeats)


@given(st.lists(st.integers(0, 9), max_size=60))
def test_occurrences_count_from_zero(samples: list[int]) -> None:
    expected = [samples[:place].count(sample) for place, sample in enumerate(samples)]
    assert count_occurrences(np.array(samples, dtype=np.int64)).tolist() == expected


def test_orders_and_seeds_never_change() -> None:
    # Literals: another order after an upgrade would make resumed runs differ from uninterrupted ones.
    assert epoch_order(10, seed=0, epoch=0).tolist() == [1, 5, 9, 4, 8, 0, 6, 2, 3, 7]
    assert derive_seed(1, 2, 3) == 6520558355739401531


@pytest.mark.parametrize("change", [(1, 0), (0, 1)])
def test_seed_and_epoch_both_decide_the_order(change: tuple[int, int]) -> None:
    seed, epoch = change
    assert epoch_order(100, seed=seed, epoch=epoch).tolist() != epoch_order(100, seed=0, epoch=0).tolist()
