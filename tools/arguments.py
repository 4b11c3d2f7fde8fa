"""The options that the tools for data sets share."""

import argparse


def data_parser(tool: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Make a parser of the options that say which data set; `example` is a key and value for --opts."""
    parser = argparse.ArgumentParser(prog=f"python -m tools.{tool}", description=description)
    parser.add_argument("--data-path", help="the data set, in any layout that training reads")
    parser.add_argument("--cfg", help="a config, where the data set needs more than its path")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help=f"config keys, as {example}")
    return parser
