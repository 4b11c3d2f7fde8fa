"""Predict the classes of image files with a training checkpoint.

python -m tools.predict --checkpoint output/swin_tiny/default/checkpoints/best.pth --input photo.jpg

Exit status: 0; 2 for an error, which includes files that could not be read, while the others are still predicted.
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from swin.config.messages import program_name
from swin.errors import DataError
from swin.inference import Predictor, list_images, load_predictor
from swin.weights.files import find_weight_file
from tools.arguments import command, positive

Row = dict[str, Any]


def predict_files(
    predictor: Predictor, files: Sequence[Path], batch_size: int, top_k: int, errors: list[DataError]
) -> Iterator[Row]:
    """Yield one row a file, in order: `file` with the keys of `inference_model`, or with `error`, added to `errors`."""
    for start in range(0, len(files), batch_size):
        rows: list[Row] = [{"file": str(path)} for path in files[start : start + batch_size]]
        images = []
        for row in rows:
            try:
                images.append(predictor.read(row["file"]))
            except DataError as error:
                row["error"] = str(error)
                errors.append(error)
        readable = [row for row in rows if "error" not in row]
        for row, scores_K in zip(readable, predictor.scores(images) if images else (), strict=True):
            row.update(predictor.describe(scores_K, top_k))
        yield from rows


def print_text(rows: Iterator[Row]) -> None:
    """Print one line a file: its name, its labels where it may have several, then classes with their probabilities."""
    for row in rows:
        if "error" in row:
            print(f"{row['file']}  error: {row['error']}")
        else:
            labels = ["|".join(row["pred_classes"]) or "(none)"] if "pred_classes" in row else []
            print(
                row["file"],
                *labels,
                *(f"{best['class']} {100 * best['score']:.2f}%" for best in row["top_k"]),
                sep="  ",
            )


def print_json(rows: Iterator[Row]) -> None:
    """Print one JSON list with an object a file: the predicted class or classes and the best ones, or the error."""
    keys = ("file", "pred_label", "pred_class", "pred_score", "pred_labels", "pred_classes", "top_k", "error")
    print(json.dumps([{key: row[key] for key in keys if key in row} for row in rows], indent=2))


def print_csv(rows: Iterator[Row]) -> None:
    """Print a header, then a line for each of a file's best classes, or one with its error."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "label", "class", "score", "error"])
    for row in rows:
        if "error" in row:
            writer.writerow([row["file"], "", "", "", "", row["error"]])
        for rank, best in enumerate(row.get("top_k", ()), start=1):
            writer.writerow([row["file"], rank, best["label"], best["class"], best["score"], ""])


def print_label_csv(rows: Iterator[Row]) -> None:
    """Print as `print_csv`, of several labels an image: all of them and the best classes, and which are labels."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "label", "class", "score", "is_label", "error"])
    for row in rows:
        if "error" in row:
            writer.writerow([row["file"], "", "", "", "", "", row["error"]])
            continue
        labels, best = row["pred_labels"], row["top_k"]
        further = zip(labels[len(best) :], row["pred_classes"][len(best) :], strict=True)
        listed = [(each["label"], each["class"]) for each in best] + list(further)
        for rank, (label, name) in enumerate(listed, start=1):
            writer.writerow([row["file"], rank, label, name, row["pred_scores"][label], int(rank <= len(labels)), ""])


_PRINTERS: dict[str, Callable[[Iterator[Row]], None]] = {"text": print_text, "json": print_json, "csv": print_csv}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; every error is one message."""
    # File names may hold bytes that are no text in the console's encoding.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(
        prog=program_name("swin-predict", "python -m tools.predict"), description="Predict the classes of image files."
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="checkpoint of a training run, or its folder"
    )
    parser.add_argument("--input", required=True, type=Path, metavar="PATH", help="an image, or a folder of images")
    parser.add_argument("--top-k", type=positive, default=5, help="classes to show, at most all (default: 5)")
    parser.add_argument("--format", choices=sorted(_PRINTERS), default="text", help="output (default: text)")
    parser.add_argument("--batch-size", type=positive, default=32, help="images per forward pass (default: 32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    arguments = parser.parse_args(argv)
    source: Path = arguments.input
    errors: list[DataError] = []
    if not source.exists():
        raise DataError(f"--input {source} does not exist: give an image file or a folder of images.")
    if (source / "config.yaml").is_file():
        raise DataError(f"--input {source} is the folder of a run: give that as --checkpoint, and images as --input.")
    predictor = load_predictor(arguments.checkpoint, device=arguments.device)
    used = find_weight_file(arguments.checkpoint)
    if used != Path(arguments.checkpoint) and used.name == "last.pth":
        print(f"note: there is no best.pth in {used.parent} yet, so that last.pth is used", file=sys.stderr)
    files = list_images(source, predictor.channels) if source.is_dir() else [source]
    rows = predict_files(predictor, files, arguments.batch_size, arguments.top_k, errors)
    # Only a terminal gets the bar, and not among rows that it shows as they come.
    is_hidden = True if sys.stdout.isatty() and arguments.format != "json" else None
    bar = tqdm(rows, total=len(files), unit="images", desc="predicting", leave=False, disable=is_hidden)
    is_label_csv = predictor.threshold is not None and arguments.format == "csv"
    (print_label_csv if is_label_csv else _PRINTERS[arguments.format])(iter(bar))
    if errors:
        problem = f"{len(errors)} of {len(files)} files could not be read; the output names them."
        print(f"error: {problem}", file=sys.stderr)
    return DataError.exit_code if errors else 0


if __name__ == "__main__":
    sys.exit(main())
