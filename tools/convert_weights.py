"""Convert weights of Swin Transformers between programs, and check the result in the programs' own models.

python -m tools.convert_weights --input swin_tiny.pth --to timm --output swin_tiny.safetensors

Exit status: 0; 2 for an error, after which there is no new output file.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from swin.errors import CheckpointError, SwinError
from swin.models import CLASSES
from swin.variants import find_variant
from swin.weights import Weights, model_arguments, read_weights
from swin.weights.buffers import DERIVED_BUFFERS
from swin.weights.files import CLASSES as IN_METADATA
from swin.weights.formats import FORMATS, file_name, from_native, without_reconstruction
from swin.weights.shapes import windows_of
from swin.weights.source import strip_prefixes

# Programs add up in another order, which changes float32 logits by about 1e-6 of the largest. A misplaced tensor
# changes them by 1e-2 and more.
_TOLERANCE = 1e-4


def convert(source: Weights, to: str, output: Path, img_size: tuple[int, int] | None = None) -> str:
    """Write weights in another format, and compare both programs' logits on one image.

    Of a pre-training by SimMIM the encoder is converted.

    Args:
        to: one of `FORMATS`.
        output: `.pth` or `.safetensors` file; it is replaced only when all went well.
        img_size: height and width in pixels of the official model, whose masks depend on them, and of the image.

    Returns:
        A description for people, with the largest difference.

    Raises:
        CheckpointError: the weights are not convertible, or the file cannot be written.
    """
    tensors, original = map(without_reconstruction, (source.tensors, source.original))
    source = replace(source, tensors=tensors, original=original)
    family, arguments = model_arguments(source.tensors, source.windows)
    size = img_size or (arguments["img_size"],) * 2
    if arguments["ape"] and to in ("timm", "torchvision"):
        raise CheckpointError(f"{source.name} has an absolute position embedding, which {to}'s model lacks.")
    if not arguments["ape"]:
        arguments["img_size"] = size
    temporary = output.with_name(f".{output.stem}.tmp{output.suffix}")
    try:
        _write(temporary, from_native(source.tensors, to, img_size=size, windows=source.windows), to, source.classes)
        comparison = _compare(source, read_weights(temporary, source_format=to), family, arguments, size)
        temporary.replace(output)
    except OSError as error:
        raise CheckpointError(
            f"{output} cannot be written: {error.strerror or error}; choose a folder that exists and has space."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    shape = ", ".join(f"{name} {arguments[name]}" for name in ("embed_dim", "depths", "num_heads", "window_size"))
    numbers = sum(value.numel() for value in source.tensors.values())
    return (
        f"{source.name} ({source.format}{', averaged weights' if source.is_averaged else ''}) -> {output} ({to})\n"
        f"{numbers:,} parameters: {shape}, {arguments['in_chans']} channels, {arguments['num_classes']} classes\n"
        f"{comparison}"
    )


def _compare(
    source: Weights, written: Weights, family: str, arguments: Mapping[str, Any], size: tuple[int, int]
) -> str:
    image = torch.randn(1, arguments["in_chans"], *size, generator=torch.Generator().manual_seed(0))
    (logits, before), (converted, after) = (_logits(each, family, arguments, image) for each in (source, written))
    difference, largest = float((logits - converted).abs().max()), float(logits.abs().max())
    if difference > _TOLERANCE * max(largest, 1e-6):
        raise CheckpointError(
            f"logits differ by {difference:.1e}, the largest being {largest:.1e}: {source.name} is not the "
            f"{source.format} model that it seems to be. Nothing was written."
        )
    return (
        f"largest logit difference on a {size[0]} x {size[1]} image, {before} against {after}: "
        f"{difference:.1e} (largest logit {largest:.1e})"
    )


def make_peer(format_name: str, family: str, arguments: Mapping[str, Any]) -> nn.Module | None:
    """A program's own model for arguments of a family's class, without stochastic depth.

    None stands for a program that is not installed.

    Raises:
        ValueError: the program has no such model.
    """
    if family == "swin_mlp":
        raise ValueError("no other program has a Swin-MLP")
    # The programs are imported late: each takes seconds, and only one is needed.
    shared = {name: arguments[name] for name in ("embed_dim", "depths", "num_heads", "mlp_ratio", "num_classes")}
    is_v2 = family == "swinv2"
    if format_name == "timm":
        from timm.models import swin_transformer, swin_transformer_v2

        more = {name: arguments[name] for name in ("img_size", "patch_size", "in_chans", "window_size", "qkv_bias")}
        if not is_v2:
            return swin_transformer.SwinTransformer(**shared, **more, drop_path_rate=0.0)
        more["pretrained_window_sizes"] = arguments["pretrained_window_sizes"]
        return swin_transformer_v2.SwinTransformerV2(**shared, **more, drop_path_rate=0.0)
    if format_name == "torchvision":
        from torchvision.models import swin_transformer as theirs

        parts = {"block": theirs.SwinTransformerBlockV2, "downsample_layer": theirs.PatchMergingV2} if is_v2 else {}
        shared = {name: list(value) if isinstance(value, tuple) else value for name, value in shared.items()}
        sides = {name: [arguments[name]] * 2 for name in ("patch_size", "window_size")}
        peer: nn.Module = theirs.SwinTransformer(**shared, **sides, **parts, stochastic_depth_prob=0.0)
        if not arguments["num_classes"]:
            peer.head = nn.Identity()
        return peer
    if not find_spec(format_name):
        return None
    make = _make_mmpretrain if format_name == "mmpretrain" else _make_transformers
    return make(arguments, is_v2)


def _make_mmpretrain(arguments: Mapping[str, Any], is_v2: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about parts that are not used
        models = import_module("mmpretrain.models")
    channels, depths, num_classes = (arguments[name] for name in ("embed_dim", "depths", "num_classes"))
    backbone: dict[str, Any] = {
        "type": "SwinTransformer",
        "arch": {"embed_dims": channels, "depths": depths, "num_heads": arguments["num_heads"]},
        **{name: arguments[name] for name in ("img_size", "patch_size", "window_size")},
        "in_channels": arguments["in_chans"],
        "use_abs_pos_embed": arguments["ape"],
        "drop_path_rate": 0.0,
        "out_indices": (len(depths) - 1,),
        "stage_cfgs": {"block_cfgs": {"ffn_ratio": arguments["mlp_ratio"]}},
    }
    if is_v2:
        grids = [arguments["img_size"] // arguments["patch_size"] // 2**stage for stage in range(len(depths))]
        backbone |= {
            "type": "SwinTransformerV2",
            "window_size": [min(arguments["window_size"], grid) for grid in grids],
            "pretrained_window_sizes": list(arguments["pretrained_window_sizes"]),
        }
        backbone["arch"]["extra_norm_every_n_blocks"] = arguments["extra_norm_every"]
    head = {"type": "LinearClsHead", "num_classes": num_classes, "in_channels": channels * 2 ** (len(depths) - 1)}
    neck = {"type": "GlobalAveragePooling"}
    peer: nn.Module = models.ImageClassifier(backbone=backbone, neck=neck, head=head if num_classes else None)
    return peer


def _make_transformers(arguments: Mapping[str, Any], is_v2: bool) -> nn.Module:
    transformers = import_module("transformers")
    more = {"pretrained_window_sizes": list(arguments["pretrained_window_sizes"])} if is_v2 else {}
    config = (transformers.Swinv2Config if is_v2 else transformers.SwinConfig)(
        **more,
        **{name: arguments[name] for name in ("patch_size", "embed_dim", "window_size", "mlp_ratio", "qkv_bias")},
        **{name: list(arguments[name]) for name in ("depths", "num_heads")},
        image_size=arguments["img_size"],
        num_channels=arguments["in_chans"],
        num_labels=arguments["num_classes"],
        use_absolute_embeddings=arguments["ape"],
        drop_path_rate=0.0,
    )
    kind = transformers.Swinv2ForImageClassification if is_v2 else transformers.SwinForImageClassification
    peer: nn.Module = kind(config)
    return peer


@torch.no_grad()
def _logits(weights: Weights, family: str, arguments: Mapping[str, Any], image: Tensor) -> tuple[Tensor, str]:
    """What the weights' own program makes of the image, (1, num_classes), and the model in words.

    This project's model has the official format, and stands in for a program that is not installed.
    """
    tensors, words = weights.original, f"{weights.format}'s model"
    try:
        peer = None if weights.format == "official" else make_peer(weights.format, family, arguments)
        if peer is None:
            absent = "" if weights.format == "official" else f" ({weights.format} is not installed)"
            tensors, words = weights.tensors, f"this project's model{absent}"
            peer = CLASSES[family](**{**arguments, "drop_path_rate": 0.0})
        # Strictly, derived buffers aside, which some versions of the programs save and others do not.
        names = {file_name(strip_prefixes(name)): name for name in peer.state_dict()}
        given = {names.get(file_name(strip_prefixes(name)), name): value for name, value in tensors.items()}
        given = {name: value for name, value in given.items() if not name.endswith(DERIVED_BUFFERS)}
        missing, unexpected = peer.load_state_dict(given, strict=False)
        if problems := [name for name in missing if not name.endswith(DERIVED_BUFFERS)] + unexpected:
            raise ValueError(f"missing or unexpected are {', '.join(problems[:3])}")
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CheckpointError(
            f"{words} cannot hold the weights of {weights.name}: {' '.join(str(error).split())[:300]}. "
            "Choose a program that has this architecture."
        ) from None
    output = peer.eval()(image, **({"mode": "tensor"} if words == "mmpretrain's model" else {}))
    output = output[-1] if isinstance(output, tuple) else output
    return getattr(output, "logits", output), words


def _write(path: Path, tensors: Mapping[str, Tensor], format_name: str, classes: Sequence[str] | None) -> None:
    """Write a state dict in the wrapper that its program expects.

    Raises:
        OSError: the file cannot be written.
    """
    state = {name: value.contiguous() for name, value in tensors.items()}
    named = {"classes": list(classes)} if classes else {}
    wrapped = {
        "official": {"model": state, **named},
        "mmpretrain": {"state_dict": state, "meta": {"dataset_meta": named} if classes else {}},
    }
    try:
        if path.suffix == ".safetensors":
            metadata = {"format": "pt", **({IN_METADATA: json.dumps(list(classes))} if classes else {})}
            save_file({name: value.clone() for name, value in state.items()}, path, metadata=metadata)
        else:
            torch.save(wrapped.get(format_name, state), path)
    except (RuntimeError, SafetensorError) as error:  # their words for a full disk or a missing folder
        raise OSError(str(error).splitlines()[0]) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; every error is one message."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.convert_weights", description="Convert weights of Swin Transformers between programs."
    )
    for flag in ("--input", "--output"):
        parser.add_argument(flag, required=True, type=Path, metavar="FILE", help=".pth or .safetensors file")
    parser.add_argument("--from", dest="source", choices=FORMATS, help="format of the input; detected by default")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of the output")
    size_help = "side, or height and width, of the images; by default the side that makes the last stage one window"
    variant_help = "the model's name, where the file does not say its windows: a Swin V2 of timm or transformers"
    parser.add_argument("--variant", metavar="NAME", help=variant_help)
    parser.add_argument("--img-size", type=int, nargs="+", metavar="PIXELS", default=[], help=size_help)
    arguments = parser.parse_args(argv)
    sides: list[int] = arguments.img_size
    try:
        if arguments.output.suffix not in (".pth", ".safetensors"):
            raise CheckpointError(f"--output {arguments.output} ends in neither .pth nor .safetensors.")
        if len(sides) > 2 or any(side < 1 for side in sides):
            raise CheckpointError(f"--img-size takes a side, or height and width, in pixels, not {sides}.")
        source = read_weights(arguments.input, source_format=arguments.source)
        if arguments.variant and source.windows is None:
            source = replace(source, windows=windows_of(find_variant(arguments.variant)))
        print(convert(source, arguments.to, arguments.output, (sides[0], sides[-1]) if sides else None))
    except SwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
