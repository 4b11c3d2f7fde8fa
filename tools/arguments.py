"""The options that the tools for data sets share."""

import argparse
from typing import Any

from swin.config import Config, load_config


def data_parser(tool: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Make a parser of the options that say which data set; `example` is a key and value for --opts."""
    parser = argparse.ArgumentParser(prog=f"python -m tools.{tool}", description=description)
    parser.add_argument("--data-path", help="the data set, in any layout that training reads")
    parser.add_argument("--cfg", help="a config, where the data set needs more than its path")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help=f"config keys, as {example}")
    return parser


def load_data_config(options: argparse.Namespace, **keys: Any) -> Config:
    """Load the config that the options of `data_parser` describe, with values of DATA; files are not kept in memory."""
    given = {"CACHE_MODE": "no", "DATA_PATH": options.data_path, **keys}
    return load_config(options.cfg, options.opts, {f"DATA.{name}": value for name, value in given.items()})
