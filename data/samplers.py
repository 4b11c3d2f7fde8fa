"""Which sample goes where: the arithmetic of epochs, updates, micro-batches and ranks, in pure functions.

An epoch's order is a permutation of all samples. Its positions are dealt out update by update, within an update
micro-batch by micro-batch, within a micro-batch rank by rank; nothing is dropped or repeated.
"""

import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from swin.phases import grow_batch


class MicroBatch(NamedTuple):
    """One forward and backward pass of all ranks: positions [start, stop) of an epoch, as `update_rows` deals them."""

    start: int
    stop: int
    update_start: int
    update_size: int  # samples of all ranks and micro-batches in the update it belongs to
    last_of_update: bool


def derive_seed(*parts: int) -> int:
    """Mix integers into a seed of 63 bits, the same on every machine and under every library version."""
    packed = struct.pack(f"<{len(parts)}q", *parts)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def seeded_random(*parts: int) -> np.random.RandomState:
    """Return a generator seeded from integers. RandomState, since its streams are frozen across NumPy versions."""
    seed = derive_seed(*parts)
    return np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the epoch's permutation of the sample indices, int64 (num_samples,)."""
    return seeded_random(seed, epoch).permutation(num_samples)


def balanced_order(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return as many sample indices as there are labels, the same number of each class to within one, int64.

    Within a class, no sample comes again before all others have come as often.
    """
    random = seeded_random(seed, epoch)
    classes = random.permutation(np.unique(labels))
    quotas = np.full(len(classes), len(labels) // len(classes))
    quotas[: len(labels) % len(classes)] += 1
    drawn = []
    for label, quota in zip(classes, quotas.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        rounds = [random.permutation(members) for _ in range(-(-quota // len(members)))]
        drawn.append(np.concatenate([*rounds, members[:0]])[:quota])
    return random.permutation(np.concatenate(drawn))


def repeated_order(order: np.ndarray, repeats: int) -> np.ndarray:
    """Return an order of the same length in which each of the first samples comes `repeats` times in a row."""
    return np.repeat(order[: -(-len(order) // repeats)], repeats)[: len(order)]


def count_occurrences(order: np.ndarray) -> np.ndarray:
    """Return for each position how often its sample has come before, int64."""
    by_sample = np.argsort(order, kind="stable")
    is_first = np.diff(order[by_sample], prepend=-1) != 0
    starts = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    counts = np.empty_like(order)
    counts[by_sample] = np.arange(len(order)) - starts
    return counts


def plan_epoch(
    num_samples: int, *, batch_size: int, world_size: int, accumulation: int, position: int = 0, growth: float = 1.0
) -> Iterator[MicroBatch]:
    """Deal out the positions [position, num_samples) of an epoch.

    Args:
        num_samples: Samples in the epoch.
        batch_size: Samples a rank takes in one micro-batch.
        world_size: Number of ranks.
        accumulation: Micro-batches in one update.
        position: Samples already consumed, under whatever world size; the rest is laid out as if it were the epoch.
        growth: How many times as many samples an update has, see `swin.phases.grow_batch`: as many for every division
            of the same total into ranks and micro-batches.

    Yields:
        Micro-batches of batch_size * world_size samples, `accumulation` of them to an update. The last update is the
        remainder, and so is its last micro-batch. Where an update has grown, micro-batches have grown with it, rounded
        up, and the last one of an update has the rest.
    """
    update_size, unit = grow_batch(batch_size * world_size * accumulation, growth), 2 - batch_size % 2
    micro_size = -(-update_size // (accumulation * unit)) * unit
    for update_start in range(position, num_samples, update_size):
        update_stop = min(update_start + update_size, num_samples)
        for start in range(update_start, update_stop, micro_size):
            stop = min(start + micro_size, update_stop)
            yield MicroBatch(start, stop, update_start, update_stop - update_start, stop == update_stop)


def rank_slice(micro: MicroBatch, *, rank: int, world_size: int, unit: int = 1) -> slice:
    """Return the positions of a micro-batch that a rank takes: contiguous, in rank order, sizes at most a unit apart.

    The slice is empty for the last ranks when the epoch's tail has fewer units than there are ranks.
    """
    size, extra = divmod(-(-(micro.stop - micro.start) // unit), world_size)
    start = micro.start + unit * (rank * size + min(rank, extra))
    return slice(min(start, micro.stop), min(start + unit * (size + (rank < extra)), micro.stop))


def update_rows(micro: MicroBatch, *, rank: int, world_size: int, in_pairs: bool) -> np.ndarray:
    """Return which samples of the update a rank takes in a micro-batch: ascending, counted from the update's first.

    Args:
        micro, rank, world_size: Which part of which micro-batch.
        in_pairs: Whether first and last, second and last but one, ... are dealt out together. Mixing pairs a sample
            with the one as far from the other end of its batch, so that the pairs of an update do not depend on how it
            is divided. For batches of an even size.
    """
    rows = np.arange(micro.update_size)
    if in_pairs:
        rows = np.stack([rows, rows[::-1]], axis=1).ravel()[: micro.update_size]
    dealt = rank_slice(micro, rank=rank, world_size=world_size, unit=1 + in_pairs)
    return np.sort(rows[dealt.start - micro.update_start : dealt.stop - micro.update_start])
