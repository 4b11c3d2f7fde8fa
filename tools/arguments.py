"""The options that tools share, and how they end."""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec

from swin.config import Config, load_config
from swin.errors import ConfigError, InterruptedRunError, SwinError

P = ParamSpec("P")


def data_parser(tool: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Make a parser of the options that say which data set; `example` is a key and value for --opts."""
    parser = argparse.ArgumentParser(prog=f"python -m tools.{tool}", description=description)
    parser.add_argument("--data-path", help="the data set, in any layout that training reads")
    parser.add_argument("--cfg", help="a config, where the data set needs more than its path")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help=f"config keys, as {example}")
    return parser


def model_parser(tool: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Make a parser of the options of a tool that runs a model; its help ends with an `example` of options."""
    prog = f"python -m tools.{tool}"
    parser = argparse.ArgumentParser(prog=prog, description=description, epilog=f"example: {prog} {example}")
    parser.add_argument("--checkpoint", required=True, type=Path, metavar="FILE", help="checkpoint of a training run")
    parser.add_argument("--batch-size", type=positive, default=16, help="images per forward pass (default: 16)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    return parser


def with_data_path(tree: Mapping[str, Any], data_path: str) -> dict[str, Any]:
    """Return a checkpoint's config, nested, with another data set: also in place of the digits, which have no path."""
    data: dict[str, Any] = {**tree.get("DATA", {}), "DATA_PATH": data_path}
    if data.get("DATASET") == "digits":
        data["DATASET"] = "folder"
    return {**tree, "DATA": data}


def command(main: Callable[P, int]) -> Callable[P, int]:
    """Have a tool's `main` end as users expect, whatever ends it, with an exit status.

    An error of theirs is one line, and its own status. Where the reader of the output has gone, as `head` when it has
    seen enough, the rest goes nowhere, and the status is 0. Ctrl-C is a word, and the status that shells give it.
    """

    @functools.wraps(main)
    def run(*arguments: P.args, **options: P.kwargs) -> int:
        try:
            status = main(*arguments, **options)
            sys.stdout.flush()
            return status
        except SwinError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return InterruptedRunError.exit_code

    return run


def check_page(page: Path) -> None:
    """Raise a ConfigError for the name of a page of HTML that does not say so; what it shows goes beside it."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--output {page} does not end with .html, as the page's name has to.")


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


positive.__name__ = "whole number of at least 1"  # argparse names the type in its message


def number_type(expected: str, is_allowed: Callable[[float], bool]) -> Callable[[str], float]:
    """Make a type of numbers for argparse, whose message says what is `expected` of those that are not allowed."""

    def read(text: str) -> float:
        if not is_allowed(number := float(text)):
            raise ValueError
        return number

    read.__name__ = expected
    return read


def load_data_config(options: argparse.Namespace, **keys: Any) -> Config:
    """Load the config that the options of `data_parser` describe, with values of DATA; files are not kept in memory."""
    given = {"CACHE_MODE": "no", "DATA_PATH": options.data_path, **keys}
    return load_config(options.cfg, options.opts, {f"DATA.{name}": value for name, value in given.items()})
