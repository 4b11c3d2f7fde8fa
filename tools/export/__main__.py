"""Export a model for onnxruntime, OpenVINO, or torch without this project, and check the file in that engine.

python -m tools.export --checkpoint output/swin_digits/default --to onnx --output digits.onnx

Exit status: 0; 2 for an error, after which there is no new output file.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from swin.config.messages import program_name
from swin.engines import SUFFIXES, Description, Engine, check_precision, write_graph
from swin.errors import ConfigError
from swin.inference import load_torch_predictor
from swin.predictor import Predictor
from swin.records import make_folder, writing
from tools.arguments import command, positive
from tools.export.check import compare, eager_logits, read_pixels
from tools.export.labelled import Labelled, open_labelled


def describe(predictor: Predictor, options: argparse.Namespace) -> Description:
    """Describe what is exported, at the size that is asked for."""
    described = predictor.describe_graph(
        has_preprocessing=options.preprocessing,
        precision=options.precision,
        source=Path(options.checkpoint).resolve().name,
    )
    sides = options.img_size or described.size
    return replace(described, size=(sides[0], sides[-1]))


def export(options: argparse.Namespace) -> list[str]:
    """Write the file, once it has been compared with its model; returns what to tell about it.

    Raises:
        SwinError: checkpoint or images cannot be used, an engine is not installed, or the file differs from the model.
    """
    predictor = load_torch_predictor(options.checkpoint, device="cpu")
    description = describe(predictor, options)
    pixels, which = read_pixels(predictor, description, options.images)
    expected = eager_logits(predictor.model, pixels, description)
    labelled = None
    if options.precision == "int8":
        labelled = open_labelled(options.checkpoint, options.data_path, description)
    make_folder(options.output.parent)
    with writing(options.output), tempfile.TemporaryDirectory(dir=options.output.parent, prefix=".export-") as folder:
        written = write_graph(
            predictor.model,
            description,
            options.to,
            Path(folder),
            calibration=labelled.calibration() if labelled else (),
        )
        engine = Engine(written)
        comparison = compare(engine, pixels, expected)
        lines = [f"on {which}: {comparison}"]
        if labelled:
            lines.append(_compare_accuracy(labelled, predictor, engine))
        num_bytes = 0
        for part in sorted(Path(folder).iterdir()):
            num_bytes += part.stat().st_size
            part.replace(options.output.with_suffix(part.suffix))
    return [_describe_file(options.output, description, options.to, num_bytes), *lines]


def _compare_accuracy(labelled: Labelled, predictor: Predictor, engine: Engine) -> str:
    before = labelled.evaluate(predictor.model)
    after = labelled.evaluate(engine, takes_pixels=engine.description.has_preprocessing)
    return (
        f"accuracy on {before.seen:,} validation images: {before.acc1:.2f}% before, {after.acc1:.2f}% after; "
        f"loss {before.loss:.4f} before, {after.loss:.4f} after"
    )


def _describe_file(path: Path, description: Description, to: str, num_bytes: int) -> str:
    height, width = description.size
    takes = "uint8 pixels" if description.has_preprocessing else "normalised float32 values"
    gives = "probabilities" if description.has_preprocessing else "logits"
    beside = f" and {path.with_suffix('.bin').name}" if to == "openvino" else ""
    return (
        f"{path}{beside}: {to}, {description.precision}, {num_bytes / 1e6:.1f} MB; any number of images of "
        f"{description.channels} x {height} x {width}, {takes} in, {gives} out"
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        ConfigError: options that do not go together.
    """
    summary, example = (__doc__ or "").split("\n\n")[:2]
    parser = argparse.ArgumentParser(
        prog=program_name("swin-export", "python -m tools.export"),
        description=summary,
        epilog=f"example: {example}",
    )
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="F", help="a checkpoint or weight file, a run's or a model's folder")
    add("--to", required=True, choices=sorted(SUFFIXES), help="onnx (.onnx), openvino (.xml and .bin) or torch (.pt2)")
    add("--output", required=True, type=Path, metavar="PATH", help="the file to write")
    add("--precision", choices=("fp32", "bf16", "int8"), default="fp32", help="default: fp32")
    add(
        "--preprocessing",
        action="store_true",
        help="in the graph: uint8 pixels of the model's size in, probabilities out",
    )
    add("--img-size", type=positive, nargs="+", metavar="PX", help="side, or height and width; default: the model's")
    add("--images", type=Path, metavar="FOLDER", help="images to compare file and model on; default: noise")
    add(
        "--data-path",
        metavar="D",
        help="for int8: labelled images; default: the run's own",
    )
    options = parser.parse_args(argv)
    suffix = SUFFIXES[options.to]
    if options.output.suffix != suffix or not options.output.stem:
        raise ConfigError(f"--output {options.output} has to end in {suffix}, for --to {options.to}.")
    check_precision(options.to, options.precision)
    if options.img_size and len(options.img_size) > 2:
        raise ConfigError("--img-size takes a side, or height and width, in pixels.")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    torch.manual_seed(0)
    for line in export(options):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
