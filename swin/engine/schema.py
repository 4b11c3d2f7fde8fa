"""What a training checkpoint holds, checked entry by entry before a run takes anything over from it."""

import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swin.engine.best import FIGURES
from swin.errors import CheckpointError
from swin.library_optim import GROUP_COUNTERS
from swin.weights.digest import is_digest, walk

# Far above any run's, and far below what overflows.
_MAX_EPOCH, _MAX_COUNT, _MAX_BATCH = 10**9, 2**53, 2**20
_PLAIN = (dict, list, tuple, str, int, float, type(None))


def check_content(content: dict[str, Any], path: str | Path) -> None:
    """Check what a run is to be continued from.

    Raises:
        CheckpointError: an entry is unknown, missing, or of another type or range than this program writes, or two of
            them contradict each other.
    """
    for key, value in content.items():
        if key not in _RULES:
            raise _refused(path, f"has the entry {_describe(key)}, which this version does not know")
        expected, holds = _RULES[key]
        if not holds(value):
            raise _refused(path, f"has {_describe(value)} as '{key}', expected {expected}")
    if "optimizer" in content and "epoch" not in content:
        raise _refused(path, "has no 'epoch', expected the number of the last one that was completed")
    position, num_samples = content.get("position", 0), content.get("num_samples", _MAX_COUNT)
    # A run that is stopped at an epoch's last update has done all of its samples.
    limit = min(num_samples, content.get("step", _MAX_COUNT) * _MAX_BATCH)
    if position > limit:
        raise _refused(path, f"has {position} as 'position', expected at most {limit} with its other entries")
    num_updates = content.get("step", content.get("epoch", -1) + 1) - content.get("skipped", 0)
    if "optimizer" in content and num_updates > 0:
        _check_moments(content["optimizer"], path)


def _check_moments(optimizer: dict[str, Any], path: str | Path) -> None:
    """Refuse an optimizer that would go on from zero moments after updates."""
    for group in optimizer["param_groups"]:
        is_adam, momentum = "betas" in group and "pieces" not in group, group.get("momentum", 0.0)  # pieces: of Muon
        needed = {"step", "exp_avg", "exp_avg_sq"} if is_adam else {"momentum_buffer"} if momentum != 0.0 else set()
        is_library, has_memory = "optimizer" in group, group.get("momentum") != 0.0
        for key in group["params"]:
            kept = {name for name, value in optimizer["state"].get(key, {}).items() if value is not None}
            if is_library:  # which keeps what it likes, but something
                needed = set() if kept or not has_memory else {"state"}
            if missing := sorted(needed - kept):
                raise _refused(path, f"has no {missing[0]} of parameter {key} in 'optimizer', though it was updated")


def _refused(path: str | Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} {what}: it was written by another version or is damaged. Use an earlier checkpoint, or "
        "--pretrained to start a new run from its weights."
    )


def _describe(value: Any) -> str:
    is_short = isinstance(value, str | int | float | None)
    return reprlib.repr(value) if is_short else f"a {type(value).__name__} of other content"


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high and math.isfinite(value)


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and isinstance(tensor, Tensor) and _is_finite(tensor) for name, tensor in value.items()
    )


def _is_finite(tensor: Tensor) -> bool:
    # In a tenth of the time that torch.isfinite takes.
    is_exact = tensor.numel() == 0 or not tensor.is_floating_point()
    return is_exact or all(math.isfinite(bound) for bound in torch.aminmax(tensor.detach()))


def _is_optimizer(value: Any) -> bool:
    match value:
        case {"state": dict(states), "param_groups": list(groups)} if all(map(_is_group, groups)):
            keys = [key for group in groups for key in group["params"]]
            holds = _is_moment_of_library if any("optimizer" in group for group in groups) else _is_moment
            are_states = all(isinstance(state, dict) for state in states.values())
            each = (item for state in states.values() for item in state.items()) if are_states else ()
            return are_states and len(set(keys)) == len(keys) > 0 and all(holds(*item) for item in each)
    return False


def _is_group(group: Any) -> bool:
    match group:
        case {"params": list(keys)}:
            # The least is that of lr_max at the beginning.
            is_counted = all(_is_count(group[name], -1) for name in GROUP_COUNTERS if name in group)
            # A library's takes any.
            is_momentum = "optimizer" in group or _is_number(group.get("momentum", 0.0), 0.0, 1.0)
            return all(type(key) is int for key in keys) and is_momentum and is_counted
    return False


def _is_count(value: Any, low: float = 0) -> bool:
    """Whether it is a number, which optimizers also keep as a tensor."""
    return _is_number(value.item() if isinstance(value, Tensor) and value.ndim == 0 else value, low, _MAX_COUNT)


def _is_moment(name: Any, value: Any) -> bool:
    """Whether an optimizer keeps such a value of one parameter."""
    if name == "step":  # a tensor since torch 1.12
        return _is_count(value)
    if value is None:
        return bool(name == "momentum_buffer")
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_moment_of_library(name: Any, value: Any) -> bool:
    return value is None or type(value) in (bool, float) or _is_moment(name, value)


def _is_scaler(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(_is_number(number, 0, 2.0**31 if type(number) is int else math.inf) for number in value.values())
        and value.get("scale", 1.0) > 0
    )


def _is_ema(value: Any) -> bool:
    match value:
        case {"model": weights, "num_updates": Tensor() as count} if _is_weights(weights):
            return count.dtype == torch.int64 and count.ndim == 0 and count.item() >= 0
    return value is None


def _is_objective(value: Any) -> bool:
    is_named = isinstance(value, dict) and all(type(name) is str for name in value)
    return is_named and all(type(part) is str or _is_weights(part) for part in value.values())


def _whole(low: int, high: int = _MAX_COUNT) -> tuple[str, Callable[[Any], bool]]:
    return f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high


# What is expected of each entry, and whether a value is that.
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("a dict of names and finite tensors", lambda value: _is_weights(value) and len(value) > 0),
    "optimizer": ("the state of an optimizer", _is_optimizer),
    "scaler": ("the state of a gradient scaler, or None", _is_scaler),
    "ema": ("averaged weights and their 'num_updates', or None", _is_ema),
    "objective": ("texts, and dicts of names and finite tensors", _is_objective),
    "epoch": _whole(-1, _MAX_EPOCH),
    **dict.fromkeys(("position", "step", "skipped", "rollbacks", "waited"), _whole(0)),
    **dict.fromkeys(("total_batch", "num_samples", "total_samples"), _whole(1)),
    "seconds": ("a number of at least 0", lambda value: _is_number(value, 0.0, math.inf)),
    "evaluated": ("True or False", lambda value: type(value) is bool),
    "lr_factor": ("a number above 0 and up to 1", lambda value: _is_number(value, 0.0, 1.0) and value > 0),
    "monitor": (f"one of {', '.join(FIGURES)}", lambda value: type(value) is str and value in FIGURES),
    "best": ("a number of at least 0, or None", lambda value: value is None or _is_number(value, 0.0, math.inf)),
    "max_accuracy": ("a number from 0 to 100", lambda value: _is_number(value, 0.0, 100.0)),  # what "best" was before
    "multi_label": ("True or False", lambda value: type(value) is bool),
    "threshold": ("a number from 0 to 1", lambda value: _is_number(value, 0.0, 1.0)),
    "classes": ("a list of names", lambda value: type(value) is list and all(type(name) is str for name in value)),
    "config": (
        "a dict of plain values",
        lambda value: isinstance(value, dict) and all(isinstance(part, _PLAIN) for part in walk(value)),
    ),
    "digest": ("what this program writes there", is_digest),
    # Of official checkpoints; not used.
    **dict.fromkeys(("lr_scheduler", "amp"), ("anything", lambda _: True)),
}
