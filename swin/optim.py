"""Optimizers with the official weight-decay groups, and updates that can be skipped without asking the device."""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from swin.config import Config
from swin.errors import CheckpointError, ConfigError
from swin.library_optim import GROUP_COUNTERS, is_of_library, make_library_optimizer
from swin.muon import Muon

NO_DECAY_NAMES = ("relative_position_bias_table", "absolute_pos_embed", "cpb_mlp", "logit_scale", "mask_token")
_THREE_IN_ONE = ("qkv.weight", "qkv.lora_B.default.weight")  # matrices of queries, keys and values, by their rows
_NO_MATRICES = ("head.",)  # each row is a class by itself, which orthogonal updates would mix up


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, *, momentum: float | None = None
) -> list[dict[str, Any]]:
    """Split the trainable parameters into groups with and without weight decay, and by depth where that counts.

    Without weight decay are 1-D parameters (norms), biases and the tables of `NO_DECAY_NAMES`. The groups and their
    order are the official ones, so optimizer states of official checkpoints fit: two of them, or with a `layer_decay`
    other than 1 two for each depth, in the order in which the model names them, with their `lr_scale`: a factor
    `layer_decay` for each step of `parameter_depths` below the greatest.

    With a `momentum`, which is that of `swin.muon.Muon`, the matrices are taken out of the groups with weight decay
    into groups of their own, with what Muon needs; not the head's.
    """
    by_depth, depths = layer_decay != 1.0, parameter_depths(model)
    groups: dict[tuple[int, bool, bool], dict[str, Any]] = {}
    if not by_depth:
        groups = {
            (0, False, False): {"params": [], "weight_decay": weight_decay},
            (0, True, False): {"params": [], "weight_decay": 0.0},
        }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim == 1 or name.endswith(".bias") or any(part in name for part in NO_DECAY_NAMES)
        is_matrix = momentum is not None and not exempt and not name.startswith(_NO_MATRICES)
        depth = depths[name] if by_depth else 0
        new = {"params": [], "weight_decay": 0.0 if exempt else weight_decay}
        if by_depth:
            new["lr_scale"] = layer_decay ** (max(depths.values()) - depth)
        if is_matrix:
            new |= {"pieces": [], "momentum": momentum}
        group = groups.setdefault((depth, exempt, is_matrix), new)
        group["params"].append(parameter)
        if is_matrix:
            group["pieces"].append(_count_matrices(name, parameter))
    return list(groups.values())


def _count_matrices(name: str, parameter: Tensor) -> int:
    """As how many matrices, one below the other, Muon takes a parameter: of Swin-MLP's windows one for each head."""
    if name.endswith("spatial_mlp.weight"):
        return parameter.shape[0] // parameter.shape[1]
    return 3 if name.endswith(_THREE_IN_ONE) else 1


def parameter_depths(model: nn.Module) -> dict[str, int]:
    """Give each parameter of a Swin model its depth, by name.

    The embeddings are at 0, the blocks at 1, 2, 3, ... through all stages, each merging at the depth of the block
    before it, final norm and head one above the last block. An absolute position embedding counts as an embedding,
    while the official code, which has no recipe with one, would train it at the head's rate.
    """
    depths: dict[str, int] = {}
    blocks: set[str] = set()
    for name, _ in model.named_parameters():
        if name.startswith("layers."):
            if ".blocks." in name:
                blocks.add(".".join(name.split(".")[:4]))  # layers.I.blocks.J
            depths[name] = len(blocks)
        else:
            depths[name] = 0 if name.startswith(("patch_embed.", "absolute_pos_embed")) else len(blocks) + 1
    return depths


def make_optimizer(
    model: nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum: float = 0.9,
    muon_momentum: float = 0.95,
    layer_decay: float = 1.0,
    auxiliary: nn.Module | None = None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """Make an optimizer for a model on its device, not wrapped for several processes; fused, unless a library's.

    A loaded state brings the moments and counters only; learning rate, decay and the other settings stay those given
    here, and so does the fused implementation, which `step_if` relies on.

    Args:
        model: What is trained.
        name: `adamw`, which uses `betas` and `eps`; `sgd`, with Nesterov's `momentum`; `muon`, with `muon_momentum` for
            matrices, and AdamW's settings for the rest; or one of `swin.library_optim`.
        lr: First learning rate.
        weight_decay: Decoupled for `adamw` and `muon`, an L2 term for `sgd`.
        layer_decay: As for `parameter_groups`.
        auxiliary: What else is trained, at the full rate, in groups of its own after the model's; by AdamW for `muon`.
        arguments: More of them, for an optimizer of a library.

    Raises:
        ConfigError: The name is unknown, or a library's optimizer cannot be used.
    """
    groups = parameter_groups(model, weight_decay, layer_decay, momentum=muon_momentum if name == "muon" else None)
    groups += parameter_groups(auxiliary, weight_decay) if auxiliary else []
    if name == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    elif name == "muon":
        optimizer = Muon(groups, lr=lr, betas=betas, eps=eps, fused=True)
    elif name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
        if momentum > 0:
            _fill_momentum(optimizer)
            optimizer.register_load_state_dict_post_hook(_fill_momentum)
    elif is_of_library(name):
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps}
        optimizer = make_library_optimizer(groups, name=name, **options, arguments=arguments)
    else:
        raise ConfigError(f"TRAIN.OPTIMIZER.NAME is {name!r}; use adamw, sgd, muon, schedulefree or timm:NAME.")
    optimizer.register_load_state_dict_pre_hook(_keep_settings)
    return optimizer


def build_optimizer(cfg: Config, model: nn.Module, auxiliary: nn.Module | None = None) -> torch.optim.Optimizer:
    """Make the configured optimizer; its learning rate is then set before each update by `set_lr`.

    The `auxiliary` module is as for `make_optimizer`.
    """
    options = cfg.TRAIN.OPTIMIZER
    return make_optimizer(
        model,
        name=options.NAME,
        lr=cfg.TRAIN.BASE_LR,
        weight_decay=cfg.TRAIN.WEIGHT_DECAY,
        betas=tuple(options.BETAS),
        eps=options.EPS,
        momentum=options.MOMENTUM,
        muon_momentum=options.MUON_MOMENTUM,
        layer_decay=cfg.TRAIN.LAYER_DECAY,
        auxiliary=auxiliary,
        arguments=options.ARGS,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times the group's `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def step_if(optimizer: torch.optim.Optimizer, ok: Tensor) -> None:
    """Update the parameters if `ok`, else leave parameters, moments and step counters as they are.

    The flag is 0-d, on the parameters' device. Fused kernels read it themselves, so that the host does not wait for the
    device. For the optimizers of libraries the host reads it, and a GPU waits once in an update.
    """
    # The kernels for Apple GPUs are not known to read the flag.
    if ok.device.type == "mps" or not optimizer.defaults.get("fused"):
        if ok:
            optimizer.step()
        return
    optimizer.found_inf = 1.0 - ok.float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def _fill_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD zero momentum where it has none.

    The fused kernel otherwise allocates the buffers uninitialised, and a skipped first update leaves them so.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def _keep_settings(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Check that a state fits, replace its settings by the optimizer's own and copy its tensors before it is loaded.

    What a library's optimizer counts in a group is no setting.

    Without the copies torch keeps the tensors that it is given, which may be views of a mapped file.
    """
    groups, saved_groups = optimizer.param_groups, state_dict["param_groups"]
    sizes, saved_sizes = ([len(group["params"]) for group in each] for each in (groups, saved_groups))
    if saved_sizes != sizes:
        raise CheckpointError(
            f"The saved optimizer state has parameter groups of {saved_sizes} tensors, this model has {sizes}: "
            "it belongs to another model. Resume with that model's config, or take only its weights with --pretrained."
        )
    kinds, saved_kinds = (
        [("betas" in group, "pieces" in group, group.get("optimizer")) for group in each]
        for each in (groups, saved_groups)
    )
    if saved_kinds != kinds:
        raise CheckpointError(
            "The saved optimizer state is of another optimizer than TRAIN.OPTIMIZER.NAME. Resume with that one, or "
            "take only the weights with --pretrained."
        )
    parameters = [parameter for group in groups for parameter in group["params"]]
    keys = [key for group in saved_groups for key in group["params"]]
    pairs = zip(keys, parameters, strict=True)
    state = {
        key: _copy_state(parameter, state_dict["state"][key], may_differ="optimizer" in groups[0])
        for key, parameter in pairs
        if key in state_dict["state"]
    }
    settings = [
        {key: value for key, value in group.items() if key not in GROUP_COUNTERS}
        | {key: copy.deepcopy(saved[key]) for key in ("params", *GROUP_COUNTERS) if key in saved}
        for group, saved in zip(groups, saved_groups, strict=True)
    ]
    return {**state_dict, "state": state, "param_groups": settings}


def _copy_state(parameter: Tensor, state: dict[str, Any], *, may_differ: bool) -> dict[str, Any]:
    """Copy what is kept of a parameter, in its layout; a fused kernel reads moments of another past their end.

    Where shapes `may_differ`, a tensor of another is copied as it is.
    """
    copied = dict(state)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        if value.shape == parameter.shape:
            copied[name] = torch.empty_like(parameter).copy_(value.detach())
        elif name == "step" or may_differ:
            copied[name] = value.detach().clone()
        else:
            raise CheckpointError(
                f"The saved optimizer state has {name} of shape {tuple(value.shape)} for a parameter of shape "
                f"{tuple(parameter.shape)}: it belongs to another model. Resume with the model's own config."
            )
    return copied
