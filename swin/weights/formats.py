"""Names and layouts of Swin V1 weights in the programs that publish them, to and from the official ones.

The official names, without derived buffers, are this project's own ("native"). All programs agree on the order of the
qkv rows and on the numbering of relative positions; mmpretrain alone orders the merged channels differently, and
transformers alone has queries, keys and values in matrices of their own.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from swin.errors import CheckpointError
from swin.kernels.windows import relative_position_index, shift_mask

FORMATS = ("official", "timm", "torchvision", "mmpretrain", "transformers")
# Buffers that programs save although they follow from the configuration.
DERIVED_BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")

_OFFICIAL_MASKED = -100.0  # what official files hold in place of `swin.kernels.windows.MASKED`

# Names inside a block, native and foreign, in the order in which they are looked for both ways.
_INSIDE: dict[str, tuple[tuple[str, str], ...]] = {
    "torchvision": ((".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3.")),
    "mmpretrain": ((".attn.", ".attn.w_msa."), (".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1.")),
    "transformers": (
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".attn.proj.", ".attention.output.dense."),
        (".attn.", ".attention.self."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    ),
}
# What transformers from version 5.24 on has in memory, in the place of the names that it writes into files.
_IN_MEMORY = (
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.relative_position_bias.", ".attention.self."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
_QKV = ("query", "key", "value")
# What stands before all names but the head's, where a program has a classifier around its backbone.
_BEFORE = {"mmpretrain": "backbone.", "transformers": "swin."}


def _count_stages(names: Iterable[str]) -> int:
    """Stages of a model, or for torchvision's names twice as many."""
    return len({match[0] for name in names if (match := re.match(r"(layers|stages|features)\.\d+", name))})


def _beginnings(format_name: str, num_stages: int) -> dict[str, str]:
    """How names begin: native to foreign, where they differ."""
    stages = range(num_stages)
    if format_name == "timm":
        return {"head": "head.fc", **{f"layers.{i}.downsample": f"layers.{i + 1}.downsample" for i in stages}}
    if format_name == "torchvision":
        blocks = {f"layers.{i}.blocks": f"features.{2 * i + 1}" for i in stages}
        merging = {f"layers.{i}.downsample": f"features.{2 * i + 2}" for i in stages}
        return {"patch_embed.proj": "features.0.0", "patch_embed.norm": "features.0.2", **blocks, **merging}
    if format_name == "mmpretrain":
        ends = {"norm": f"norm{num_stages - 1}", "head": "head.fc"}
        return {"patch_embed.proj": "patch_embed.projection", "layers": "stages", **ends}
    if format_name == "transformers":
        embeddings = {"patch_embed.proj": "patch_embeddings.projection", "patch_embed.norm": "norm"}
        embeddings["absolute_pos_embed"] = "position_embeddings"
        begun = {native: f"embeddings.{foreign}" for native, foreign in embeddings.items()}
        return {**begun, "layers": "encoder.layers", "norm": "layernorm", "head": "classifier"}
    return {}


def detect_format(names: Iterable[str]) -> str | None:
    """The format that names, without prefixes, are written in; None if they are no Swin Transformer's.

    Files of timm before 0.9 and of the tutorial repository have the official names.
    """
    text = "\n".join(sorted(names))
    if ".attn.w_msa." in text:
        return "mmpretrain"
    if re.search(r"^features\.\d+\.\d+\.attn\.", text, re.MULTILINE):
        return "torchvision"
    if re.search(r"^layers\.\d+\.blocks\.\d+\.attention\.", text, re.MULTILINE):
        return "transformers"
    if not re.search(r"^layers\.\d+\.blocks\.\d+\.attn\.", text, re.MULTILINE):
        return None
    starts_with_merging = ".downsample." in text and not re.search(r"^layers\.0\.downsample\.", text, re.MULTILINE)
    return "timm" if starts_with_merging or re.search(r"^head\.fc\.", text, re.MULTILINE) else "official"


def to_native(weights: Mapping[str, Tensor], format_name: str) -> dict[str, Tensor]:
    """Weights of another program, whose names have no prefixes, under native names and in native layout.

    Derived buffers are left out.

    Raises:
        CheckpointError: a matrix of queries, keys or values, or a patch merging, has a shape that fits no other.
    """
    beginnings = {foreign: native for native, foreign in _beginnings(format_name, _count_stages(weights)).items()}
    inside = [(foreign, native) for native, foreign in _INSIDE.get(format_name, ())]
    native = {}
    weights = {file_name(name): value for name, value in weights.items()} if format_name == "transformers" else weights
    for name, value in weights.items():
        if name.endswith(DERIVED_BUFFERS):
            continue
        is_reordered = format_name == "mmpretrain" and name.startswith("stages.") and ".downsample." in name
        native[_rename(name, beginnings, inside)] = _merged_channels(value, to_native=True) if is_reordered else value
    return _join_qkv(native) if format_name == "transformers" else native


def from_native(
    weights: Mapping[str, Tensor], format_name: str, *, img_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Native weights as another program's state dict, with the buffers that its strict loading asks for.

    Args:
        img_size: height and width in pixels that the official model is built for: its masks depend on them. None
            stands for the size whose last stage is one window.

    Raises:
        CheckpointError: `img_size` does not fill whole windows, which the official model needs.
    """
    beginnings = _beginnings(format_name, _count_stages(weights))
    foreign: dict[str, Tensor] = {}
    weights = _split_qkv(weights) if format_name == "transformers" else weights
    for name, value in {**weights, **_buffers(weights, format_name, img_size)}.items():
        theirs = _rename(name, beginnings, _INSIDE.get(format_name, ()))
        theirs = theirs if name.startswith("head.") else _BEFORE.get(format_name, "") + theirs
        is_reordered = format_name == "mmpretrain" and ".downsample." in name
        foreign[theirs] = _merged_channels(value, to_native=False) if is_reordered else value
    return foreign


def file_name(name: str) -> str:
    """Return what transformers calls in a file what it calls by a name in memory."""
    return _rename(name, {}, _IN_MEMORY)


def table_window(rows: int) -> int | None:
    """The window side M whose bias table has this many rows, (2M-1)^2; None if there is none."""
    side = round(rows**0.5)
    return (side + 1) // 2 if side * side == rows and side % 2 else None


def _rename(name: str, beginnings: Mapping[str, str], inside: Iterable[tuple[str, str]]) -> str:
    words = name.split(".")
    for length in (1, 2, 3):
        if (beginning := beginnings.get(".".join(words[:length]))) is not None:
            name = ".".join([beginning, *words[length:]])
            break
    for here, there in inside:
        name = name.replace(here, there)
    return name


def _split_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give queries, keys and values tensors of their own."""
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        layer, is_whole, kind = name.partition(".attn.qkv.")
        parts = dict(zip(_QKV, value.chunk(3), strict=True)) if is_whole else {}
        split |= {f"{layer}.attn.{part}.{kind}": each for part, each in parts.items()} or {name: value}
    return split


def _join_qkv(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `_split_qkv`.

    Raises:
        CheckpointError: one of the three is not there, or of another shape.
    """
    joined: dict[str, Tensor] = {}
    for name, value in weights.items():
        match = re.fullmatch(r"(.*\.attn)\.(query|key|value)\.(weight|bias)", name)
        if match is None:
            joined[name] = value
        elif (whole := f"{match[1]}.qkv.{match[3]}") not in joined:
            parts = [weights.get(f"{match[1]}.{part}.{match[3]}") for part in _QKV]
            found = [part for part in parts if part is not None and part.shape == value.shape]
            if len(found) < len(parts):
                raise CheckpointError(
                    f"{match[1]} lacks one of query, key and value, or they differ in shape, so that they are not "
                    "those of a Swin Transformer V1; use a whole file."
                )
            joined[whole] = torch.cat(found)
    return joined


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


def _buffers(weights: Mapping[str, Tensor], format_name: str, img_size: tuple[int, int] | None) -> dict[str, Tensor]:
    """Derived buffers, by native name, that the program's own model saves."""
    buffers: dict[str, Tensor] = {}
    patch, num_stages = weights["patch_embed.proj.weight"].shape[-1], _count_stages(weights)
    for name, table in weights.items():
        match = re.fullmatch(r"((layers\.(\d+)\.blocks\.(\d+))\.attn)\.relative_position_bias_table", name)
        window = table_window(len(table)) if match else None
        if match is None or window is None or format_name in ("timm", "transformers"):
            continue
        attention, block, stage, index = match.groups()
        pairs = relative_position_index(window)
        buffers[f"{attention}.relative_position_index"] = pairs.flatten() if format_name == "torchvision" else pairs
        if format_name != "official" or int(index) % 2 == 0:
            continue
        stride, whole = patch * 2 ** int(stage), patch * 2 ** (num_stages - 1) * window
        height, width = img_size or (whole, whole)
        if height % (stride * window) or width % (stride * window):
            raise CheckpointError(
                f"an image of {height} x {width} pixels does not fill windows of {window} tokens at stage {stage}, "
                f"which the official model needs; give a multiple of {whole}."
            )
        grid = (height // stride, width // stride)
        if min(grid) > window:  # otherwise the official model does not shift
            mask = shift_mask(*grid, window, (window // 2, window // 2), torch.device("cpu"))
            buffers[f"{block}.attn_mask"] = mask.clamp(min=_OFFICIAL_MASKED)
    return buffers
