"""Publish a checkpoint as a folder: weights, config, classes, preprocessing, figures, sums and a page about them.

python -m tools.publish --checkpoint output/swin_tiny/default --output swin_tiny --license mit

The folder is read by all tools of this project, and with --format also by transformers or timm. Nothing is uploaded:
`hf upload OWNER/NAME FOLDER` of huggingface_hub does that. Exit status: 0; 2 for an error, after which there is no
folder.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from swin.config import Config, config_from_dict, dump_config
from swin.config.keys import KEYS
from swin.config.messages import program_name
from swin.create import build_model, config_tree
from swin.engine.best import FIGURES, choose_figure
from swin.errors import CheckpointError, ConfigError
from swin.inference import load_predictor
from swin.models import Backbone
from swin.models.flops import count_parameters
from swin.preprocess import build_eval_resize, build_eval_transform, describe_eval_transform
from swin.records import encode, write_atomically, write_json, writing
from swin.weights import Weights, load_weights, read_weights
from swin.weights.files import CLASSES as IN_METADATA
from swin.weights.files import find_weight_file
from swin.weights.folder import CLASSES, CONFIG, PREPROCESSING, RESAMPLING, SUMS
from swin.weights.formats import from_native
from swin.weights.labels import imagenet_classes, imagenet_names
from tools.arguments import command
from tools.model_card import make_card

_TOLERANCE = 1e-4  # of logits, relative to the largest: programs add up in another order
# By MODEL.TYPE; their arguments are then given one by one.
_TIMM_MODELS = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}
_PAPERS = {
    "swin": "[Swin Transformer](https://arxiv.org/abs/2103.14030)",
    "swinv2": "[Swin Transformer V2](https://arxiv.org/abs/2111.09883)",
    "swin_mlp": "[Swin-MLP](https://github.com/microsoft/Swin-Transformer)",
}
_PARTS = ("validation", "test", "evaluation")  # of metrics.json
_Metrics = dict[str, dict[str, Any]]


def publish(source: str, output: Path, to: str = "swin", license_id: str | None = None) -> str:
    """Publish what `read_weights` takes, and check what was written with all that is there to read it.

    Args:
        output: folder that is made, or is empty.
        to: `swin`, `transformers` or `timm`: whose loader the folder is for.
        license_id: as the hub has them, such as `mit`.

    Returns:
        A description for people.

    Raises:
        CheckpointError: the weights cannot be read, or not be published so.
        ConfigError: the folder cannot be written, or is not empty.
    """
    if license_id is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", license_id):
        raise ConfigError(f"--license {license_id!r} is no licence's id: expected one as mit, apache-2.0 or other.")
    weights = read_weights(source)
    num_classes = weights.count_classes()
    here = {name: key.default for name, key in KEYS.items() if key.is_path}  # paths of this machine stay on it
    cfg = config_from_dict(config_tree(weights), (), here)
    model = build_model(cfg, num_classes)
    load_weights(model, weights, strict=True)
    how = describe_images(cfg)
    metrics = find_metrics(find_weight_file(source), cfg, weights)
    with new_folder(output) as folder, writing(f"--output {output}"):
        write = {"swin": _write_ours, "transformers": _write_transformers, "timm": _write_timm}[to]
        names, notes = write(folder, model, cfg, weights, how)
        write_json(folder / "metrics.json", metrics)
        card = make_card(
            cfg.MODEL.NAME,
            to,
            license_id=license_id,
            model=_describe_model(model, cfg, weights),
            images="\n\n".join([f"In prediction {describe_eval_transform(how)}.", *notes]),
            classes=names,
            outputs=_describe_outputs(weights.threshold),
            metrics=metrics,
        )
        write_atomically(folder / "README.md", encode(card))
        _write_sums(folder)
        checks = check_folder(folder, to, model, cfg)
    return "\n".join([f"{weights.name} -> {output}", *checks])


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes `output` if all goes well, and else is removed."""
    output = output.absolute()
    if output.is_symlink() or (output.exists() and not (output.is_dir() and not any(output.iterdir()))):
        raise ConfigError(f"--output {output} is there and is no empty folder; give a new one.")
    with writing(f"--output {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        folder = beside / "model"
        folder.mkdir()
        yield folder
        with writing(f"--output {output}"):
            folder.replace(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def describe_images(cfg: Config) -> dict[str, Any]:
    """Return how images become the input of a config's model, as `Weights.preprocessing`."""
    resize = build_eval_resize(cfg)
    crop = {"crop": resize.crop, **({"crop_pct": resize.crop_pct} if resize.crop else {})}
    normalised = {"mean": list(cfg.DATA.MEAN), "std": list(cfg.DATA.STD), "channels": cfg.architecture.IN_CHANS}
    return {"img_size": list(resize.size), **crop, "interpolation": resize.interpolation, **normalised}


def find_metrics(file: Path, cfg: Config, weights: Weights) -> _Metrics:
    """Collect the figures that the folder of a checkpoint has of it, by what they were measured on."""
    if file.parent.name != "checkpoints":
        published = _read(file.parent / "metrics.json") if (file.parent / SUMS).exists() else {}
        return {part: _numbers(published[part]) for part in _PARTS if isinstance(published.get(part), dict)}
    run = file.parent.parent
    metrics: _Metrics = {}
    rows = [row for row in map(_parse, _read_text(run / "metrics.jsonl").splitlines()) if row.get("kind") == "eval"]
    if chosen := _row_of(file.stem, rows, cfg, weights):
        metrics["validation"] = _numbers(chosen)
    if file.stem == "best":
        metrics["test"] = _numbers(_read(run / "test" / "metrics.json"))
    about = _read(run / "eval.json")
    if Path(str(about.get("checkpoint", ""))).absolute() == file.absolute():
        metrics["evaluation"] = _numbers(about)
    return {on: figures for on, figures in metrics.items() if figures}


def _row_of(stem: str, rows: Sequence[dict[str, Any]], cfg: Config, weights: Weights) -> dict[str, Any]:
    """Return the evaluation of a run's checkpoint of this name; {} where there is none."""
    figure = FIGURES[choose_figure(cfg.TRAIN.MONITOR, multi_label=weights.threshold is not None)]
    rows = [row for row in rows if isinstance(row.get(figure.field), int | float)]
    if stem == "best" and cfg.TRAIN.MONITOR != "last" and rows:
        sign = -1 if figure.is_better_lower else 1
        return max(rows, key=lambda row: sign * row[figure.field])
    return rows[-1] if rows and stem in ("best", "last") else {}


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read(path: Path) -> dict[str, Any]:
    return _parse(_read_text(path))


def _parse(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if type(value) in (int, float)}


def _write_ours(
    folder: Path, model: Backbone, cfg: Config, weights: Weights, how: dict[str, Any]
) -> tuple[Sequence[str] | None, list[str]]:
    outputs = {"activation": "softmax" if weights.threshold is None else "sigmoid", "threshold": weights.threshold}
    named = {IN_METADATA: json.dumps(weights.classes)} if weights.classes else {}
    _save(folder, model.state_dict(), named)
    write_atomically(folder / CONFIG, encode(dump_config(cfg)))
    write_json(folder / PREPROCESSING, {**how, "exif": cfg.DATA.EXIF, **outputs})
    if weights.classes:
        write_json(folder / CLASSES, weights.classes)
    return _names_of(weights, model.num_classes), []


def _write_transformers(
    folder: Path, model: Backbone, cfg: Config, weights: Weights, how: dict[str, Any]
) -> tuple[Sequence[str] | None, list[str]]:
    swin, names = cfg.architecture, _names_of(weights, model.num_classes)
    height, width = how["img_size"]
    _check_peer(model, cfg, "transformers")
    labels = names or [f"LABEL_{row}" for row in range(model.num_classes)]
    is_v2 = cfg.MODEL.TYPE == "swinv2"
    config = {
        "architectures": ["Swinv2ForImageClassification" if is_v2 else "SwinForImageClassification"],
        "model_type": cfg.MODEL.TYPE,
        **({"pretrained_window_sizes": _pretrained_windows(cfg)} if is_v2 else {}),
        "image_size": height if height == width else [height, width],
        "num_channels": swin.IN_CHANS,
        "patch_size": swin.PATCH_SIZE,
        "embed_dim": swin.EMBED_DIM,
        "window_size": swin.WINDOW_SIZE,
        "depths": list(swin.DEPTHS),
        "num_heads": list(swin.NUM_HEADS),
        "mlp_ratio": swin.MLP_RATIO,
        "qkv_bias": swin.QKV_BIAS,
        "use_absolute_embeddings": swin.APE,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "drop_path_rate": cfg.MODEL.DROP_PATH_RATE,
        "id2label": dict(enumerate(labels)),
        "label2id": {name: row for row, name in enumerate(labels)},
        "problem_type": "single_label_classification",
    }
    if weights.threshold is not None:
        config |= {"problem_type": "multi_label_classification", "threshold": weights.threshold}
    resample = next(number for number, name in RESAMPLING.items() if name == how["interpolation"])
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": how["mean"],
        "image_std": how["std"],
    }
    _save(folder, from_native(model.state_dict(), "transformers"), {})
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)
    note = f"The image processor of transformers has no such crop: it squashes the whole image to {height} x {width}."
    if how["crop"]:
        sides = [int(side / how["crop_pct"]) for side in (height, width)]
        note += f" What it shows has the scale of training where its size is set to {sides[0]} x {sides[1]}."
    return names, [note] if how["crop"] else []


def _write_timm(
    folder: Path, model: Backbone, cfg: Config, weights: Weights, how: dict[str, Any]
) -> tuple[Sequence[str] | None, list[str]]:
    swin, names = cfg.architecture, _names_of(weights, model.num_classes)
    _check_peer(model, cfg, "timm")
    arguments = {name: swin[name.upper()] for name in ("patch_size", "in_chans", "embed_dim", "window_size")}
    arguments |= {"img_size": how["img_size"], "depths": list(swin.DEPTHS), "num_heads": list(swin.NUM_HEADS)}
    arguments |= {"mlp_ratio": swin.MLP_RATIO, "qkv_bias": swin.QKV_BIAS}
    if cfg.MODEL.TYPE == "swinv2":
        arguments["pretrained_window_sizes"] = _pretrained_windows(cfg)
    crop = {"crop_pct": how.get("crop_pct", 1.0), "crop_mode": "center" if how["crop"] else "squash"}
    pretrained = {
        "input_size": [swin.IN_CHANS, *how["img_size"]],
        "fixed_input_size": True,
        **crop,
        **{name: how[name] for name in ("interpolation", "mean", "std")},
        "num_classes": model.num_classes,
        "first_conv": "patch_embed.proj",
        "classifier": "head.fc",
    }
    config = {
        "architecture": _TIMM_MODELS[cfg.MODEL.TYPE],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": pretrained,
        **({"label_names": names} if names else {}),
        **({} if weights.threshold is None else {"threshold": weights.threshold}),
    }
    _save(folder, from_native(model.state_dict(), "timm"), {})
    write_json(folder / "config.json", config)
    return names, []


def _check_peer(model: Backbone, cfg: Config, program: str) -> None:
    """Refuse a model that another program's cannot be."""
    swin, num_stages = cfg.architecture, len(cfg.architecture.DEPTHS)
    grids = [side // 2 ** (num_stages - 1) for side in model.grid_size]
    is_v2 = cfg.MODEL.TYPE == "swinv2"
    reasons = {
        "the blocks of Swin-MLP": cfg.MODEL.TYPE == "swin_mlp",
        "extra norms (EXTRA_NORM_EVERY)": bool(swin.get("EXTRA_NORM_EVERY")),
        "an absolute position embedding": swin.APE and program == "timm",
        "no norm after the patch embedding": not swin.PATCH_NORM,
        "a scale of attention of its own (QK_SCALE)": swin.get("QK_SCALE") is not None,
        f"windows of {swin.WINDOW_SIZE} tokens for a last stage of {grids[0]} x {grids[1]}": (
            min(grids) < swin.WINDOW_SIZE and not is_v2
        ),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise CheckpointError(f"{program}'s model cannot have {' and '.join(found)}: publish without --format.")


def _pretrained_windows(cfg: Config) -> list[int]:
    given: list[int] = cfg.architecture.PRETRAINED_WINDOW_SIZES
    return list(given) if any(given) else [0] * len(cfg.architecture.DEPTHS)


def _names_of(weights: Weights, num_classes: int) -> Sequence[str] | None:
    """Names that people read: those of the weights, or ImageNet's where the number of rows says so."""
    synsets = imagenet_classes(num_classes) or ()
    return weights.classes or [imagenet_names()[synset] for synset in synsets] or None


def _save(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }
    try:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", **metadata})
    except SafetensorError as error:  # its words for a full disk
        raise OSError(str(error).splitlines()[0]) from None


def _write_sums(folder: Path) -> None:
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    write_atomically(folder / SUMS, encode("".join(lines)))


def _describe_model(model: Backbone, cfg: Config, weights: Weights) -> str:
    swin = cfg.architecture
    shape = f"embed_dim {swin.EMBED_DIM}, depths {list(swin.DEPTHS)}, num_heads {list(swin.NUM_HEADS)}"
    averaged = " The weights are the average over training (EMA)." if weights.is_averaged else ""
    return (
        f"A {_PAPERS[cfg.MODEL.TYPE]} of {count_parameters(model):,} parameters ({shape}, "
        f"windows of {swin.WINDOW_SIZE}, patches of {swin.PATCH_SIZE} pixels) that tells {model.num_classes} classes "
        f"apart, published by swin-trainer.{averaged} `sha256sum -c {SUMS}` compares the files with their sums."
    )


def _describe_outputs(threshold: float | None) -> str:
    if threshold is None:
        return "Logits, one a class; softmax makes probabilities of them. An image has one class."
    return (
        "Logits, one a class; a sigmoid makes probabilities of them. An image has any number of classes: those with a "
        f"probability of at least {threshold:g}, as found on the validation images."
    )


@torch.no_grad()
def check_folder(folder: Path, to: str, model: Backbone, cfg: Config) -> list[str]:
    """Compare the logits of all that reads the folder with the model's, on one batch; return them in words.

    Raises:
        CheckpointError: they differ by more than rounding.
    """
    images = torch.randn(3, cfg.architecture.IN_CHANS, *model.img_size, generator=torch.Generator().manual_seed(0))
    expected, lines = model.eval()(images), []
    predictor = load_predictor(folder, device="cpu")
    pixels = images[0].mul(50).add(128).clamp(0, 255).to(torch.uint8)
    if to != "transformers" and not torch.equal(predictor.transform(pixels), build_eval_transform(cfg)(pixels)):
        raise CheckpointError(
            "what was written prepares images in another way than the checkpoint. Nothing was written."
        )
    readers = {"swin-trainer": predictor.model, to: None if to == "swin" else _load_peer(folder, to)}
    for reader, other in readers.items():
        if other is None:
            lines += [f"{reader} is not installed, and has not read it"] if reader != "swin" else []
            continue
        found = other.eval()(images)
        difference = float((getattr(found, "logits", found) - expected).abs().max())
        if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise CheckpointError(f"logits of {reader} differ by {difference:.1e}. Nothing was written.")
        lines.append(f"read by {reader}, whose logits differ by {difference:.1e} at most")
    return lines


def _load_peer(folder: Path, program: str) -> nn.Module | None:
    """Read a folder as its program does; None where that is not installed."""
    if program == "timm":
        import timm

        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return model
    if not find_spec(program):
        return None
    transformers = import_module(program)
    transformers.utils.logging.disable_progress_bar()
    peer: nn.Module = transformers.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True)
    return peer


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    summary, example = (__doc__ or "").split("\n\n")[:2]
    parser = argparse.ArgumentParser(
        prog=program_name("swin-publish", "python -m tools.publish"), description=summary, epilog=f"example: {example}"
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="F", help="a checkpoint or weight file, a run's or a model's folder")
    add("--output", required=True, type=Path, metavar="FOLDER", help="a new folder, or an empty one")
    add("--format", choices=("transformers", "timm"), default="swin", help="for another program's loader")
    add("--license", metavar="ID", help="the licence that you give it, by the hub's names: mit, apache-2.0, other, ...")
    options = parser.parse_args(argv)
    print(publish(options.checkpoint, options.output, options.format, options.license))
    return 0


if __name__ == "__main__":
    sys.exit(main())
