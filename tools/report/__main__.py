"""Writes the page about a run, or about several side by side: `python -m tools.report RUN [RUN ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.arguments import check_page, command
from tools.report.comparison import compare_runs, write_comparison
from tools.report.folder import report_folder
from tools.report.sources import open_folder


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.report",
        description="Write what a run learned as one HTML page, or several runs side by side.",
        epilog="Example: python -m tools.report output/swin_digits/default",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or one of tools.evaluate")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="page to write (default: RUN/report.html; report.html of several)",
    )
    options = parser.parse_args(argv)
    several = len(options.runs) > 1
    page: Path = options.output or (Path() if several else options.runs[0]) / "report.html"
    folder = page.with_suffix("")
    check_page(page)
    if several:
        opened = [open_folder(run) for run in options.runs]
        write_comparison(compare_runs(opened), opened, page, folder)
    else:
        report_folder(options.runs[0], page)
    print(f"{page}: the report; its figures and report.json are in {folder}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
