"""Compares runs: accuracy with its interval, best epoch, speed, size, and a test against the first.

`python -m tools.compare RUN RUN [RUN ...]`
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.arguments import check_page, command
from tools.report.comparison import compare_runs, write_comparison
from tools.report.sources import open_folder

_COLUMNS = (
    "run",
    "acc1",
    "low",
    "high",
    "best_epoch",
    "images_per_sec",
    "parameters",
    "shared",
    "difference",
    "p_value",
)
_DIGITS = {
    "acc1": ".2f",
    "low": ".2f",
    "high": ".2f",
    "images_per_sec": ".0f",
    "parameters": ",",
    "difference": "+.2f",
    "p_value": ".3g",
}


def tabulate(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a run; `low` and `high` bound `acc1`, and what comes after `parameters` is against the first run."""
    pairs = {found["run"]: found for found in comparison["pairs"]}
    rows = []
    for run in comparison["runs"]:
        low, high = run["intervals"].get("acc1", (None, None))
        values = {**run, "low": low, "high": high, **pairs.get(run["run"], {})}
        rows.append({column: values.get(column) for column in _COLUMNS})
    return rows


def print_text(comparison: dict[str, Any]) -> None:
    """Print a table with aligned columns, then what was tested."""
    lines = [list(_COLUMNS)]
    for row in tabulate(comparison):
        lines.append(["-" if row[name] is None else format(row[name], _DIGITS.get(name, "")) for name in _COLUMNS])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells))
    for found in comparison["pairs"]:
        print(f"{found['run']}: {found['test'] or found['problem']}")


def print_csv(comparison: dict[str, Any]) -> None:
    """Print a header and a line a run."""
    writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(tabulate(comparison))


def print_json(comparison: dict[str, Any]) -> None:
    """Print all that was compared, classes too."""
    print(json.dumps(comparison, indent=2))


_PRINTERS = {"text": print_text, "csv": print_csv, "json": print_json}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description="Compare runs with each other; each is tested against the first.",
        epilog="Example: python -m tools.compare output/swin_digits/one output/swin_digits/two",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs or of tools.evaluate, at least two"
    )
    parser.add_argument(
        "--format", choices=sorted(_PRINTERS), default="text", help="of what is printed (default: text)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="also write the page of tools.report")
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        parser.error("give at least two runs")
    if options.output:
        check_page(options.output)
    opened = [open_folder(run) for run in options.runs]
    comparison = compare_runs(opened)
    if options.output:
        write_comparison(comparison, opened, options.output, options.output.with_suffix(""))
        print(f"{options.output}: the page", file=sys.stderr)
    _PRINTERS[options.format](comparison)
    return 0


if __name__ == "__main__":
    sys.exit(main())
