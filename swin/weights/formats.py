"""Names and layouts of weights of the Swin family in the programs that publish them, to and from the official ones.

The official names, without derived buffers, are this project's own ("native"). All programs agree on the order of the
qkv rows and on the numbering of relative positions; mmpretrain alone orders the merged channels differently, and
transformers alone has queries, keys and values in matrices of their own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from swin.errors import CheckpointError
from swin.weights.buffers import DERIVED_BUFFERS, make_buffers
from swin.weights.layouts import count_stages, find_family, join_bias, join_qkv, merged_channels, split_bias, split_qkv

FORMATS = ("official", "timm", "torchvision", "mmpretrain", "transformers")
_OF_PRETRAINING = re.compile(r"(^|\.)(mask_token|decoder\.0\.(weight|bias))$")  # in every format

# Names inside a block, native and foreign, in the order in which they are looked for both ways.
_INSIDE: dict[str, tuple[tuple[str, str], ...]] = {
    "torchvision": ((".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3.")),
    "mmpretrain": ((".attn.", ".attn.w_msa."), (".mlp.fc1.", ".ffn.layers.0.0."), (".mlp.fc2.", ".ffn.layers.1.")),
    "transformers": (
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".attn.cpb_mlp.", ".attention.self.continuous_position_bias_mlp."),
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
# Names that are read besides those that are written.
_ALSO_READ = {
    "official": ((".attn.rpe_mlp.", ".attn.cpb_mlp."),),  # the released files of SimMIM's Swin V2
    "transformers": _IN_MEMORY,
}
# What stands before all names but the head's, where a program has a classifier around its backbone.
_BEFORE = {"mmpretrain": "backbone.", "transformers": "swin."}
_BEFORE_V2 = {**_BEFORE, "transformers": "swinv2."}


def _beginnings(format_name: str, num_stages: int, family: str) -> dict[str, str]:
    """How names begin: native to foreign, where they differ."""
    stages = range(num_stages)
    if format_name == "timm":
        return {"head": "head.fc", **{f"layers.{i}.downsample": f"layers.{i + 1}.downsample" for i in stages}}
    if format_name == "torchvision":
        blocks = {f"layers.{i}.blocks": f"features.{2 * i + 1}" for i in stages}
        merging = {f"layers.{i}.downsample": f"features.{2 * i + 2}" for i in stages}
        return {"patch_embed.proj": "features.0.0", "patch_embed.norm": "features.0.2", **blocks, **merging}
    if format_name == "mmpretrain":
        ends = {"norm": f"norm{num_stages - 1}", "head": "head.fc", "decoder": "neck.decoder"}
        # Downsampling ends a stage of V1, and begins the next one of V2.
        merging = {f"layers.{i}.downsample": f"stages.{i + 1}.downsample" for i in stages if family == "swinv2"}
        return {"patch_embed.proj": "patch_embed.projection", "layers": "stages", **merging, **ends}
    if format_name == "transformers":
        embeddings = {"patch_embed.proj": "patch_embeddings.projection", "patch_embed.norm": "norm"}
        embeddings |= {"absolute_pos_embed": "position_embeddings", "mask_token": "mask_token"}
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
    if not re.search(r"^layers\.\d+\.blocks\.\d+\.(attn|spatial_mlp)\.", text, re.MULTILINE):
        return None
    starts_with_merging = ".downsample." in text and not re.search(r"^layers\.0\.downsample\.", text, re.MULTILINE)
    return "timm" if starts_with_merging or re.search(r"^head\.fc\.", text, re.MULTILINE) else "official"


def to_native(weights: Mapping[str, Tensor], format_name: str, *, with_buffers: bool = False) -> dict[str, Tensor]:
    """Weights of another program, whose names have no prefixes, under native names and in native layout.

    Derived buffers are left out, unless they are asked for.

    Raises:
        CheckpointError: a matrix of queries, keys or values, or a patch merging, has a shape that fits no other.
    """
    family = find_family(weights)
    beginnings = _beginnings(format_name, count_stages(weights), family)
    beginnings = {foreign: native for native, foreign in beginnings.items()}
    inside = [(foreign, native) for native, foreign in _INSIDE.get(format_name, ())]
    native = {}
    for name, value in weights.items():
        name = _rename(name, {}, _ALSO_READ.get(format_name, ()))
        if name.endswith(DERIVED_BUFFERS) and not with_buffers:
            continue
        ours = _rename(name, beginnings, inside)
        is_reordered = format_name == "mmpretrain" and is_merged(ours, family)
        native[ours] = merged_channels(value, to_native=True) if is_reordered else value
    if format_name == "transformers":
        return join_qkv(native)
    return split_bias(native) if format_name == "torchvision" and family == "swinv2" else native


def from_native(
    weights: Mapping[str, Tensor],
    format_name: str,
    *,
    img_size: tuple[int, int] | None = None,
    windows: Sequence[tuple[int, int]] | None = None,
) -> dict[str, Tensor]:
    """Native weights as another program's state dict, with the buffers that its strict loading asks for.

    Args:
        windows: of a Swin V2, as `read_windows` gives them; the buffers of these programs are made of them.
        img_size: height and width in pixels that the official model is built for: its masks depend on them. None
            stands for the size whose last stage is one window.

    Raises:
        CheckpointError: `img_size` does not fill whole windows, which the official model needs; or the program has no
            such model.
    """
    family = find_family(weights)
    if family == "swin_mlp" and format_name != "official":
        raise CheckpointError(f"{format_name} has no Swin-MLP: only the official repository has, and this program.")
    if family == "swinv2" and format_name not in ("timm", "transformers") and not windows:
        raise CheckpointError(
            f"{format_name}'s files hold the windows of a Swin V2, and these weights do not say theirs."
        )
    beginnings = _beginnings(format_name, count_stages(weights), family)
    foreign: dict[str, Tensor] = {}
    buffers = make_buffers(weights, format_name, img_size, windows)
    if format_name == "transformers":
        weights = split_qkv(weights)
    elif format_name == "torchvision" and family == "swinv2":
        weights = join_bias(weights)
    before = (_BEFORE_V2 if family == "swinv2" else _BEFORE).get(format_name, "")
    for name, value in {**weights, **buffers}.items():
        theirs = _rename(name, beginnings, _INSIDE.get(format_name, ()))
        theirs = theirs if name.startswith("head.") else before + theirs
        is_reordered = format_name == "mmpretrain" and is_merged(name, family)
        foreign[theirs] = merged_channels(value, to_native=False) if is_reordered else value
    return foreign


def without_reconstruction(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what SimMIM's pre-training adds to a model, whatever the format."""
    return {name: value for name, value in tensors.items() if not _OF_PRETRAINING.search(name)}


def is_merged(name: str, family: str) -> bool:
    """Whether a native name is of a tensor whose last axis is the channels of merged tokens: in V2 no norm is."""
    return ".downsample." in name and (family != "swinv2" or name.endswith(".reduction.weight"))


def file_name(name: str) -> str:
    """Return what transformers calls in a file what it calls by a name in memory."""
    return _rename(name, {}, _IN_MEMORY)


def _rename(name: str, beginnings: Mapping[str, str], inside: Iterable[tuple[str, str]]) -> str:
    words = name.split(".")
    for length in (1, 2, 3):
        if (beginning := beginnings.get(".".join(words[:length]))) is not None:
            name = ".".join([beginning, *words[length:]])
            break
    for here, there in inside:
        name = name.replace(here, there)
    return name
