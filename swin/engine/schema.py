"""What a training checkpoint holds, checked entry by entry before a run takes anything over from it."""

import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swin.errors import CheckpointError
from swin.weights.digest import is_digest, walk

# Far above any run's, and far below what overflows.
_MAX_EPOCH, _MAX_COUNT, _MAX_BATCH = 10**6, 2**53, 2**20
_PLAIN = (dict, list, tuple, str, int, float, type(None))


class _Rule(NamedTuple):
    expected: str
    holds: Callable[[Any], bool]


def check_content(content: dict[str, Any], path: str | Path) -> None:
    """Check what a run is to be continued from.

    Raises:
        CheckpointError: an entry is unknown, missing, or of another type or range than this program writes, or two of
            them contradict each other.
    """
    for key, value in content.items():
        if key not in _RULES:
            raise _refused(path, f"has the entry {_describe(key)}, which this version does not know")
        if not _RULES[key].holds(value):
            raise _refused(path, f"has {_describe(value)} as '{key}', expected {_RULES[key].expected}")
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
        adam, momentum = "betas" in group, group.get("momentum", 0.0)
        needed = {"step", "exp_avg", "exp_avg_sq"} if adam else {"momentum_buffer"} if momentum != 0.0 else set()
        for key in group["params"]:
            kept = {name for name, value in optimizer["state"].get(key, {}).items() if value is not None}
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


def _whole(low: int, high: int = _MAX_COUNT) -> _Rule:
    return _Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _is_number(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and low <= value <= high and math.isfinite(value)


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and isinstance(tensor, Tensor) and _is_finite(tensor) for name, tensor in value.items()
    )


def _is_finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0 or not tensor.is_floating_point():
        return True
    # In a tenth of the time that torch.isfinite takes.
    return all(math.isfinite(bound) for bound in torch.aminmax(tensor.detach()))


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    if not isinstance(groups, list) or not all(map(_is_group, groups)):
        return False
    keys = [key for group in groups for key in group["params"]]
    return len(set(keys)) == len(keys) > 0 and all(map(_is_state_of_parameter, value["state"].values()))


def _is_group(group: Any) -> bool:
    return (
        isinstance(group, dict)
        and isinstance(group.get("params"), list)
        and all(type(key) is int for key in group["params"])
        and _is_number(group.get("momentum", 0.0), 0.0, 1.0)
    )


def _is_state_of_parameter(state: Any) -> bool:
    """Whether these are values that AdamW or SGD keeps of one parameter."""
    if not isinstance(state, dict):
        return False
    for name, value in state.items():
        if name == "step":  # a tensor since torch 1.12
            number = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
            holds = _is_number(number, 0, _MAX_COUNT)
        elif value is None:
            holds = name == "momentum_buffer"
        else:
            holds = isinstance(value, Tensor) and value.is_floating_point()
        if not holds:
            return False
    return True


def _is_scaler(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(_is_number(number, 0, 2.0**31 if type(number) is int else math.inf) for number in value.values())
        and value.get("scale", 1.0) > 0
    )


def _is_ema(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not _is_weights(value.get("model")):
        return False
    count = value.get("num_updates")
    return isinstance(count, Tensor) and count.dtype == torch.int64 and count.ndim == 0 and count.item() >= 0


_RULES = {
    "model": _Rule("a dict of names and finite tensors", lambda value: _is_weights(value) and len(value) > 0),
    "optimizer": _Rule("the state of AdamW or SGD", _is_optimizer),
    "scaler": _Rule("the state of a gradient scaler, or None", _is_scaler),
    "ema": _Rule("averaged weights and their 'num_updates', or None", _is_ema),
    "epoch": _whole(-1, _MAX_EPOCH),
    "position": _whole(0),
    "step": _whole(0),
    "skipped": _whole(0),
    "rollbacks": _whole(0),
    "total_batch": _whole(1),
    "num_samples": _whole(1),
    "evaluated": _Rule("True or False", lambda value: type(value) is bool),
    "lr_factor": _Rule("a number above 0 and up to 1", lambda value: _is_number(value, 0.0, 1.0) and value > 0),
    "max_accuracy": _Rule("a number from 0 to 100", lambda value: _is_number(value, 0.0, 100.0)),
    "classes": _Rule("a list of names", lambda value: type(value) is list and all(type(name) is str for name in value)),
    "config": _Rule(
        "a dict of plain values",
        lambda value: isinstance(value, dict) and all(isinstance(part, _PLAIN) for part in walk(value)),
    ),
    "digest": _Rule("what this program writes there", is_digest),
    # Of official checkpoints; not used.
    "lr_scheduler": _Rule("anything", lambda _: True),
    "amp": _Rule("anything", lambda _: True),
}
