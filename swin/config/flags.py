"""The flags of main.py: those of the official repository, each a short form of a config key."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from swin.config.keys import KEYS
from swin.config.load import load_config
from swin.config.messages import program_name, readable_lines
from swin.config.reference import describe
from swin.config.tree import Config
from swin.errors import ConfigError

_FLAGGED = {name: key for name, key in KEYS.items() if key.flag}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{readable_lines([message])[0]}; see {self.prog} --help.")


class _HelpKey(argparse.Action):
    """As --help: prints and exits, whatever else is missing from the command line."""

    def __call__(self, parser: argparse.ArgumentParser, *arguments: Any) -> None:
        print(describe(arguments[1]))
        parser.exit()


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; dashes and underscores in flags are the same.

    Raises:
        ConfigError: an unknown flag (the nearest one is named), a missing value, or one of the wrong type.
    """
    program = program_name("swin-train", "python main.py")
    parser = _Parser(prog=program, description="Train, evaluate or time a Swin Transformer.", allow_abbrev=False)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="YAML config file, or a recipe: swin_digits")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys to set")
    parser.add_argument("--dry-run", action="store_true", help="build everything, print the plan, run one batch, stop")
    parser.add_argument("--help-key", action=_HelpKey, metavar="KEY", help="say what a config key, or a group, means")
    for name, key in _FLAGGED.items():
        if key.kind == "bool":
            how: dict[str, Any] = {"action": "store_const", "const": not key.default}
        else:
            how = {"type": int if key.kind == "int" else str, "metavar": name.rpartition(".")[2]}
        value = f" to {not key.default}" if key.kind == "bool" else ""
        parser.add_argument(f"--{key.flag}", dest=name, help=f"sets {name}{value}", **how)
    parser.add_argument("--local-rank", type=int, help=argparse.SUPPRESS)  # old launchers pass it
    dashed = [re.sub("^--[^=]+", lambda flag: flag[0].replace("_", "-"), word) for word in arguments]
    parsed, unknown = parser.parse_known_args(dashed)
    if unknown:
        near = get_close_matches(unknown[0][:100], [*parser._option_string_actions], n=1, cutoff=0.0)
        message = f"unknown argument {unknown[0]}; did you mean {near[0]}? See {program} --help."
        raise ConfigError(readable_lines([message])[0])
    return parsed


def run_path(cfg: Config) -> Path:
    """Return the folder of a run; its `status.json` says how it goes and how it ended."""
    return Path(cfg.OUTPUT or "output", run_name(cfg))


def run_name(cfg: Config) -> str:
    """Return what a run is called: its folder below OUTPUT. Each fold of a cross-validation is a run."""
    fold = "" if cfg.DATA.FOLD is None else f"/fold-{cfg.DATA.FOLD}"
    return f"{cfg.MODEL.NAME}/{cfg.TAG}{fold}"


def load_command_line(arguments: Sequence[str], opts: Sequence[Any] = ()) -> tuple[Config, bool]:
    """Load the config of a command line: file, then --opts, then flags. Also say whether it asks for a dry run.

    Args:
        arguments: The words after the program.
        opts: KEY, VALUE, ... as at the end of its --opts.

    Raises:
        ConfigError: see `parse_arguments` and `load_config`.
    """
    parsed = parse_arguments(arguments)
    given = {name: getattr(parsed, name) for name in _FLAGGED}
    return load_config(parsed.cfg, [*parsed.opts, *opts], given), parsed.dry_run
