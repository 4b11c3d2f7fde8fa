"""Predict the classes of image files with a training checkpoint.

python -m tools.predict --checkpoint output/swin_tiny/default --input photo.jpg 'photos/*.png' FOLDER

Exit status: 0; 2 for an error, which includes files that could not be read, while the others are still predicted.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from glob import has_magic
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from swin.config.messages import program_name
from swin.errors import ConfigError, DataError, printable
from swin.files import read_file, read_stream
from swin.inference import load_predictor
from swin.inputs import find_files
from swin.predictor import EXPORTED_FOR, Predictor
from swin.records import encode, replacing, write_atomically, writing
from swin.weights.files import find_weight_file
from tools.arguments import command, positive

Row = dict[str, Any]

_STDIN = "-"
_KEYS = ("file", "pred_label", "pred_class", "pred_score", "pred_labels", "pred_classes", "top_k", "error")
_ROWS_IN_GROUP = 1024  # of a Parquet file


def find_inputs(names: Sequence[str], channels: int) -> list[str]:
    """Return the files that the values of --input stand for, in their order.

    Args:
        names: Files; folders, of which all images are taken; patterns; `-`, an image on standard input; `@FILE`, a text
            file with the path of an image on each line, and `@-` for such lines on standard input.
        channels: Of the model.

    Raises:
        DataError: One stands for no images.
    """
    files: list[str] = []
    for name in names:
        if name.startswith("@"):
            files += _read_names(name[1:])
        elif name == _STDIN or (found := find_files(name, channels)) is None:
            files.append(name)
        else:
            files += map(str, found)
    return files


def check_inputs(names: Sequence[str]) -> None:
    """Raise a DataError for a value of --input that is not there, or is a run: before a model is loaded."""
    for name in names:
        if (Path(name) / "config.yaml").is_file():
            raise DataError(f"--input {name} is the folder of a run: give that as --checkpoint, and images as --input.")
        is_name = name != _STDIN and not name.startswith("@") and not has_magic(name)
        if is_name and not os.path.exists(name):
            raise DataError(f"--input {name} does not exist: give an image file or a folder of images.")


def _read_names(file: str) -> list[str]:
    content = read_stream(sys.stdin.buffer, "stdin") if file == _STDIN else read_file(file)
    lines = [line.strip() for line in os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).splitlines()]
    if not any(lines):
        raise DataError(f"--input @{file} names no files: expected the path of an image on each line.")
    return [line for line in lines if line]


def predict_files(
    predictor: Predictor, files: Sequence[str], batch_size: int, top_k: int, errors: list[str]
) -> Iterator[Row]:
    """Yield one row a file, in order: `file` with the keys of `inference_model`, or with `error`, added to `errors`."""
    sources = (sys.stdin.buffer if name == _STDIN else name for name in files)
    results = predictor.predict(sources, top_k=top_k, batch_size=batch_size, on_error="report")
    for name, result in zip(files, results, strict=True):
        if "error" in result:
            errors.append(result["error"])
        yield {"file": name, **result}


def write_text(rows: Iterator[Row], file: TextIO) -> None:
    """Write one line a file: its name, its labels where it may have several, then classes with their probabilities."""
    for row in rows:
        if "error" in row:
            print(f"{row['file']}  error: {row['error']}", file=file, flush=True)
            continue
        labels = ["|".join(row["pred_classes"]) or "(none)"] if "pred_classes" in row else []
        best = (f"{best['class']} {100 * best['score']:.2f}%" for best in row["top_k"])
        print(row["file"], *labels, *best, sep="  ", file=file, flush=True)


def _select(row: Row) -> Row:
    return {key: row[key] for key in _KEYS if key in row}


def write_json(rows: Iterator[Row], file: TextIO) -> None:
    """Write one JSON list with an object a file: the predicted class or classes and the best ones, or the error."""
    print(json.dumps([_select(row) for row in rows], indent=2), file=file)


def write_jsonl(rows: Iterator[Row], file: TextIO) -> None:
    """Write the objects of `write_json` as they come, one a line."""
    for row in rows:
        print(json.dumps(_select(row)), file=file, flush=True)


def write_csv(rows: Iterator[Row], file: TextIO) -> None:
    """Write a header, then a line for each of a file's best classes, or one with its error."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", "rank", "label", "class", "score", "error"])
    for row in rows:
        if "error" in row:
            writer.writerow([row["file"], "", "", "", "", row["error"]])
        for rank, best in enumerate(row.get("top_k", ()), start=1):
            writer.writerow([row["file"], rank, best["label"], best["class"], best["score"], ""])
        file.flush()


def write_label_csv(rows: Iterator[Row], file: TextIO) -> None:
    """Write as `write_csv`, of several labels an image: all of them and the best classes, and which are labels."""
    writer = csv.writer(file, lineterminator="\n")
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
        file.flush()


def write_parquet(rows: Iterator[Row], path: Path) -> None:
    """Write the objects of `write_json` as the rows of a table, with null where a key is not there."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    best = pa.struct([("label", pa.int64()), ("class", pa.string()), ("score", pa.float64())])
    types = (pa.string(), pa.int64(), pa.string(), pa.float64(), pa.list_(pa.int64()), pa.list_(pa.string()))
    schema = pa.schema(list(zip(_KEYS, (*types, pa.list_(best), pa.string()), strict=True)))
    with ParquetWriter(str(path), schema) as writer:
        while group := [{**_select(row), "file": printable(row["file"])} for row in islice(rows, _ROWS_IN_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema))


_WRITERS: dict[str, Callable[[Iterator[Row], TextIO], None]] = {
    "text": write_text,
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}
_FORMATS = (*_WRITERS, "parquet")


def choose_format(given: str | None, output: Path | None) -> str:
    """Return the format that --format names, or the end of the name of --output, or text.

    Raises:
        ConfigError: It is Parquet without a file to write or the package that writes it.
    """
    ending = output.suffix.lower()[1:] if output else ""
    chosen = given or (ending if ending in _FORMATS else "text")
    if chosen == "parquet" and output is None:
        raise ConfigError("--format parquet is written to a file only: add --output FILE.")
    if chosen == "parquet" and find_spec("pyarrow") is None:
        raise ConfigError('pyarrow is not installed, which Parquet needs: pip install "swin-trainer[parquet]"')
    return chosen


def write_rows(rows: Iterator[Row], style: str, output: Path | None, is_multi_label: bool) -> None:
    """Write rows to the standard output or a file: as they come, but for JSON and Parquet, which appear when whole."""
    if style == "parquet" and output:
        with replacing(output) as temporary:
            write_parquet(rows, temporary)
        return
    write = write_label_csv if style == "csv" and is_multi_label else _WRITERS[style]
    if output is None:
        write(rows, sys.stdout)
    elif style == "json":
        content = io.StringIO()
        write(rows, content)
        write_atomically(output, encode(content.getvalue()))
    else:
        with writing(output), output.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            write(rows, file)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=program_name("swin-predict", "python -m tools.predict"), description="Predict the classes of image files."
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FILE",
        help="checkpoint of a training run, its folder, other weights, or a file of tools.export",
    )
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="images; folders of images; patterns in quotes, as 'photos/**/*.jpg'; - for an image on standard input; "
        "@FILE for a text file with the path of an image on each line, @- for such lines on standard input",
    )
    parser.add_argument("--top-k", type=positive, default=5, help="classes to show, at most all (default: 5)")
    parser.add_argument(
        "--format", choices=_FORMATS, help="output (default: as --output ends, else text); jsonl: an object a line"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write in place of the standard output")
    parser.add_argument("--flip", action="store_true", help="mean of each image and its mirror image; twice the time")
    parser.add_argument("--batch-size", type=positive, default=32, help="images per forward pass (default: 32)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        help="of the weights; bf16 is fast where the processor has it, else slow (default: fp32)",
    )
    parser.add_argument(
        "--engine",
        choices=EXPORTED_FOR,
        help="export the model for this engine first, which pays for many images; extras onnx and openvino",
    )
    parser.add_argument("--quiet", action="store_true", help="neither a progress bar nor notes; errors are still said")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; every error is one message."""
    # File names may hold bytes that are no text in the console's encoding.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = make_parser().parse_args(argv)
    style = choose_format(options.format, options.output)
    check_inputs(options.input)
    how = {"device": options.device, "dtype": options.dtype, "engine": options.engine}
    predictor = load_predictor(options.checkpoint, **how)
    used = find_weight_file(options.checkpoint)
    if used != Path(options.checkpoint) and used.name == "last.pth" and not options.quiet:
        print(f"note: there is no best.pth in {used.parent} yet, so that last.pth is used", file=sys.stderr)
    files = find_inputs(options.input, predictor.channels)
    errors: list[str] = []
    flipped = predictor.with_flips() if options.flip else predictor
    rows = predict_files(flipped, files, options.batch_size, options.top_k, errors)
    # Only a terminal gets the bar, and not among rows that it shows as they come.
    is_among_rows = options.output is None and sys.stdout.isatty() and style != "json"
    is_hidden = True if is_among_rows or options.quiet else None
    bar = tqdm(rows, total=len(files), unit="images", desc="predicting", leave=False, disable=is_hidden)
    write_rows(iter(bar), style, options.output, predictor.threshold is not None)
    if errors:
        problem = f"{len(errors)} of {len(files)} files could not be read; the output names them."
        print(f"error: {problem}", file=sys.stderr)
    return DataError.exit_code if errors else 0


if __name__ == "__main__":
    sys.exit(main())
