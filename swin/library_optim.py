"""Optimizers of other libraries, with the groups of `swin.optim`: timm's, and schedule-free AdamW."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from swin.ema import copy_into
from swin.errors import ConfigError

SCHEDULE_FREE, TIMM = "schedulefree", "timm:"
# What these optimizers count in a group of parameters rather than for each: progress, not settings.
GROUP_COUNTERS = ("step", "k", "weight_sum", "lr_max", "scheduled_lr")
# Arguments of timm's factory that say what the groups here say.
_OF_GROUPS = {
    *("filter_bias_and_bn", "fallback_list", "fallback_no_weight_decay", "param_group_fn"),
    *("layer_decay", "layer_decay_min_scale", "layer_decay_no_opt_scale"),
}
# Beginnings of the names in timm's list that are not offered, and why.
_REFUSED = {
    **dict.fromkeys(("adafactorbv", "cadafactorbv"), "its state holds more than tensors and numbers; adafactor can be"),
    "adahessian": "it needs second derivatives, which an update here does not compute",
    "bnb": "it needs bitsandbytes and a GPU, and that its 8-bit states resume exactly is not known",
    "fused": "it needs NVIDIA's apex; adamw and sgd are fused here already",
    "kron": "it compiles itself anew for each shape and draws random numbers that are not those of the run",
}


def is_of_library(name: str) -> bool:
    """Whether an optimizer is made here."""
    return name == SCHEDULE_FREE or name.startswith(TIMM)


def make_library_optimizer(
    groups: list[dict[str, Any]],
    *,
    name: str,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    arguments: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """Make an optimizer whose groups have its name under `optimizer`, by which saved states are told apart.

    Args:
        groups: Of `swin.optim.parameter_groups`.
        name: `timm:NAME`, which takes timm's settings; or `schedulefree`, which uses `betas` and `eps`.
        arguments: Further ones of the optimizer.

    Raises:
        ConfigError: There is no such optimizer, it is not installed, cannot do what a run needs, or does not take an
            argument.
    """
    groups = [{**group, "optimizer": name} for group in groups]
    settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if name == SCHEDULE_FREE:
        make = _find_schedule_free()
        settings |= {"betas": betas, "eps": eps, "warmup_steps": 0}
    else:
        make, settings["opt"] = _find_timms(name), name.removeprefix(TIMM)
    if taken := sorted({*settings, *_OF_GROUPS, "params", "fused"} & arguments.keys()):
        raise ConfigError(
            f"TRAIN.OPTIMIZER.ARGS: {taken[0]} of {name} is not set there. Rates, warm-up, weight decay and the decay "
            "of rates by layer are keys of TRAIN, betas and eps of schedulefree are TRAIN.OPTIMIZER.BETAS and EPS, and "
            "only adamw, sgd and muon are fused."
        )
    try:
        device = next(parameter.device for group in groups for parameter in group["params"])
        _try_updates(lambda parameters: make(parameters, **{**settings, "lr": 1e-3}, **arguments), device)
        optimizer: torch.optim.Optimizer = make(groups, **settings, **arguments)
    except Exception as error:  # a library refuses in ways of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"TRAIN.OPTIMIZER.ARGS: {name} does not take {dict(arguments)}: {reason}") from None
    if optimizer.defaults.get("corrected_weight_decay"):
        raise ConfigError(
            f"TRAIN.OPTIMIZER.NAME {name} corrects the weight decay by the rate that it is made with, and rates here "
            "follow the batch and the layer; use the optimizer of that name that does not."
        )
    if name == SCHEDULE_FREE:
        optimizer.train()  # type: ignore[attr-defined]
    return optimizer


def _try_updates(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], device: torch.device) -> None:
    """Update a few parameters of their own twice: most optimizers read their arguments only then."""
    parameters = [nn.Parameter(torch.ones(shape, device=device)) for shape in ((4, 4), (4,))]
    optimizer = make(parameters)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise ValueError("its updates are not finite")


def _find_schedule_free() -> Any:
    try:
        from schedulefree import AdamWScheduleFree
    except ImportError:
        raise ConfigError(
            'TRAIN.OPTIMIZER.NAME schedulefree needs the package of that name: pip install "swin-trainer[optim]".'
        ) from None
    return AdamWScheduleFree


def _find_timms(name: str) -> Any:
    from timm.optim import create_optimizer_v2, list_optimizers

    short = name.removeprefix(TIMM)
    known: list[str] = [str(each) for each in list_optimizers()]
    if reason := next((_REFUSED[start] for start in _REFUSED if short.startswith(start)), None):
        raise ConfigError(f"TRAIN.OPTIMIZER.NAME {name} cannot be used: {reason}.")
    if short not in known:
        near = ", ".join(difflib.get_close_matches(short, known, n=3, cutoff=0.0))
        raise ConfigError(f"TRAIN.OPTIMIZER.NAME: timm has no optimizer {short!r}; the nearest are {near}.")
    return create_optimizer_v2


class ScheduleFreeAverage:
    """The average that schedule-free AdamW evaluates, in the place of `swin.ema.Ema`.

    A model in training holds the weights that gradients are taken at. The optimizer can turn them into the average and
    back, but for rounding; here a copy is put back, so that to evaluate or to save changes no bit of a run.
    """

    def __init__(self, optimizer: Any, model: nn.Module) -> None:
        self.optimizer, self.model = optimizer, model

    def update(self, model: nn.Module, ok: torch.Tensor | bool = True) -> None:
        """Do nothing: the optimizer's update is the average's."""

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Give the model the average inside a `with` block, and its own weights back after it."""
        # What is trained beside the model is turned, too.
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        kept = [parameter.detach().clone() for parameter in parameters]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            copy_into(parameters, kept)

    def state_dict(self) -> dict[str, Any]:
        """Return `model` (name to average) and `num_updates`, in memory of their own."""
        with self.applied(self.model):
            averages = {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}
        return {"model": averages, "num_updates": torch.tensor(self.optimizer.param_groups[0]["k"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take nothing over: model and optimizer have all that the average is made of."""
