"""Names and layouts of Swin V1 weights in the programs that publish them, to and from the official ones.

The official names, without derived buffers, are this project's own ("native"). All four programs agree on the order of
the qkv rows and on the numbering of relative positions; mmpretrain alone orders the merged channels differently.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from swin.errors import CheckpointError
from swin.kernels.windows import relative_position_index, shift_mask

FORMATS = ("official", "timm", "torchvision", "mmpretrain")
# Buffers that programs save although they follow from the configuration.
DERIVED_BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")

_OFFICIAL_MASKED = -100.0  # what official files hold in place of `swin.kernels.windows.MASKED`


class _Part(NamedTuple):
    """How the names of one part of the model begin. `#` is a stage: i natively, `scale * i + offset` there."""

    native: str
    foreign: str
    scale: int = 1
    offset: int = 0


def _parts(format_name: str, num_stages: int) -> tuple[_Part, ...]:
    return {
        "official": (),
        "timm": (_Part("layers.#.downsample", "layers.#.downsample", 1, 1), _Part("head", "head.fc")),
        "torchvision": (
            _Part("patch_embed.proj", "features.0.0"),
            _Part("patch_embed.norm", "features.0.2"),
            _Part("layers.#.blocks", "features.#", 2, 1),
            _Part("layers.#.downsample", "features.#", 2, 2),
        ),
        "mmpretrain": (
            _Part("patch_embed.proj", "patch_embed.projection"),
            _Part("layers.#", "stages.#"),
            _Part("norm", f"norm{num_stages - 1}"),
            _Part("head", "head.fc"),
        ),
    }[format_name]


# Names inside a block, native and foreign.
_INSIDE: dict[str, tuple[tuple[str, str], ...]] = {
    "official": (),
    "timm": (),
    "torchvision": ((".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3.")),
    "mmpretrain": ((".attn.", ".attn.w_msa."), (".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1.")),
}


def detect_format(names: Iterable[str]) -> str | None:
    """The format that names, without prefixes, are written in; None if they are no Swin Transformer's.

    Files of timm before 0.9 and of the tutorial repository have the official names.
    """
    text = "\n".join(sorted(names))
    if ".attn.w_msa." in text:
        return "mmpretrain"
    if re.search(r"^features\.\d+\.\d+\.attn\.", text, re.MULTILINE):
        return "torchvision"
    if not re.search(r"^layers\.\d+\.blocks\.\d+\.attn\.", text, re.MULTILINE):
        return None
    starts_with_merging = ".downsample." in text and not re.search(r"^layers\.0\.downsample\.", text, re.MULTILINE)
    has_timm_head = re.search(r"^head\.fc\.", text, re.MULTILINE) is not None
    return "timm" if starts_with_merging or has_timm_head else "official"


def to_native(weights: Mapping[str, Tensor], format_name: str) -> dict[str, Tensor]:
    """Weights of another program under native names and in native layout, without derived buffers.

    Args:
        weights: tensors by name, prefixes such as `backbone.` removed.
        format_name: one of `FORMATS`.
    """
    stages = {int(match[1]) for name in weights if (match := re.match(r"stages\.(\d+)\.", name))}
    parts = _parts(format_name, len(stages))
    native = {}
    for name, value in weights.items():
        if name.endswith(DERIVED_BUFFERS):
            continue
        own = _rename(name, parts, _INSIDE[format_name], to_native=True)
        reordered = own != name and _is_reordered(own, format_name)
        native[own] = _merged_channels(value, to_native=True) if reordered else value
    return native


def from_native(
    weights: Mapping[str, Tensor], format_name: str, *, img_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Native weights as another program's state dict, with the buffers that its strict loading asks for.

    Args:
        weights: tensors by native name.
        format_name: one of `FORMATS`.
        img_size: height and width in pixels that the official model is built for: its masks depend on them. None
            stands for the size whose last stage is one window.

    Raises:
        CheckpointError: `img_size` does not fill whole windows, which the official model needs.
    """
    num_stages = 1 + max(int(match[1]) for name in weights if (match := re.match(r"layers\.(\d+)\.", name)))
    parts = _parts(format_name, num_stages)
    foreign: dict[str, Tensor] = {}
    for name, value in {**weights, **_buffers(weights, format_name, num_stages, img_size)}.items():
        theirs = _rename(name, parts, _INSIDE[format_name], to_native=False)
        if format_name == "mmpretrain" and not name.startswith("head."):
            theirs = f"backbone.{theirs}"
        reordered = _is_reordered(name, format_name)
        foreign[theirs] = _merged_channels(value, to_native=False) if reordered else value
    return foreign


def table_window(rows: int) -> int | None:
    """The window side M whose bias table has this many rows, (2M-1)^2; None if there is none."""
    side = round(rows**0.5)
    return (side + 1) // 2 if side * side == rows and side % 2 else None


def _rename(name: str, parts: tuple[_Part, ...], inside: tuple[tuple[str, str], ...], *, to_native: bool) -> str:
    for part in parts:
        here, there = (part.foreign, part.native) if to_native else (part.native, part.foreign)
        match = re.match(re.escape(here).replace(r"\#", r"(\d+)") + r"(?=\.|$)", name)
        if not match:
            continue
        stage = int(match[1]) if match.groups() else 0
        if to_native and "#" in part.foreign:
            stage, rest = divmod(stage - part.offset, part.scale)
            if rest or stage < 0:
                continue
        else:
            stage = part.scale * stage + part.offset
        name = there.replace("#", str(stage)) + name[match.end() :]
        break
    if re.match(r"(layers|stages|features)\.", name):
        for native, foreign in inside:
            name = name.replace(foreign, native) if to_native else name.replace(native, foreign)
    return name


def _is_reordered(native_name: str, format_name: str) -> bool:
    return format_name == "mmpretrain" and ".downsample." in native_name


def _merged_channels(value: Tensor, *, to_native: bool) -> Tensor:
    """Reorder the last axis, 4C merged channels, between mmpretrain's layout and the native one.

    mmpretrain merges with nn.Unfold: channel by channel, each with its tokens (row, column) 00, 01, 10, 11. Natively it
    is token by token in the order 00, 10, 01, 11, each with all its channels. The swap of the two inner tokens is its
    own inverse.
    """
    rest, merged = value.shape[:-1], value.shape[-1] if value.ndim else 1
    if merged % 4:
        raise CheckpointError(
            f"a patch merging of {merged} channels is not one of 2 x 2 tokens, which is all that mmpretrain has; "
            "convert to another format."
        )
    swap = [0, 2, 1, 3]
    if to_native:
        return value.reshape(*rest, merged // 4, 4)[..., swap].transpose(-1, -2).reshape(value.shape)
    return value.reshape(*rest, 4, merged // 4).transpose(-1, -2)[..., swap].reshape(value.shape)


def _buffers(
    weights: Mapping[str, Tensor], format_name: str, num_stages: int, img_size: tuple[int, int] | None
) -> dict[str, Tensor]:
    """Derived buffers, by native name, that the program's own model saves."""
    buffers: dict[str, Tensor] = {}
    patch = weights["patch_embed.proj.weight"].shape[-1]
    for name, table in weights.items():
        match = re.fullmatch(r"(layers\.(\d+)\.blocks\.(\d+)\.attn)\.relative_position_bias_table", name)
        window = table_window(len(table)) if match else None
        if match is None or window is None or format_name == "timm":
            continue
        index = relative_position_index(window)
        buffers[f"{match[1]}.relative_position_index"] = index.flatten() if format_name == "torchvision" else index
        if format_name != "official" or int(match[3]) % 2 == 0:
            continue
        stride = patch * 2 ** int(match[2])
        height, width = img_size or (patch * 2 ** (num_stages - 1) * window,) * 2
        if height % (stride * window) or width % (stride * window):
            raise CheckpointError(
                f"an image of {height} x {width} pixels does not fill windows of {window} tokens at stage {match[2]}, "
                f"which the official model needs; give a multiple of {patch * 2 ** (num_stages - 1) * window}."
            )
        grid = (height // stride, width // stride)
        if min(grid) > window:  # otherwise the official model does not shift
            mask = shift_mask(*grid, window, (window // 2, window // 2), torch.device("cpu"))
            buffers[f"{match[1].removesuffix('.attn')}.attn_mask"] = mask.clamp(min=_OFFICIAL_MASKED)
    return buffers
