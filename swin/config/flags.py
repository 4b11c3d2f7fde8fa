"""The flags of main.py: those of the official repository, each a short form of a config key."""

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from swin.config.legal import readable_lines
from swin.config.load import load_config
from swin.config.tree import Config
from swin.errors import ConfigError

# Flags that set a config key, and the key. Those with a constant take no value.
_VALUE_FLAGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "batch-size": ("DATA.BATCH_SIZE", int),
    "data-path": ("DATA.DATA_PATH", str),
    "cache-mode": ("DATA.CACHE_MODE", str),
    "pretrained": ("MODEL.PRETRAINED", str),
    "resume": ("MODEL.RESUME", str),
    "accumulation-steps": ("TRAIN.ACCUMULATION_STEPS", int),
    "output": ("OUTPUT", str),
    "tag": ("TAG", str),
    "optim": ("TRAIN.OPTIMIZER.NAME", str),
    "device": ("DEVICE", str),
}
_SWITCHES: dict[str, tuple[str, bool]] = {
    "zip": ("DATA.ZIP_MODE", True),
    "use-checkpoint": ("TRAIN.USE_CHECKPOINT", True),
    "disable-amp": ("AMP_ENABLE", False),
    "eval": ("EVAL_MODE", True),
    "throughput": ("THROUGHPUT_MODE", True),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{readable_lines([message])[0]}; see python main.py --help.")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; dashes and underscores in flags are the same.

    Raises:
        ConfigError: an unknown flag (the nearest one is named), a missing value, or one of the wrong type.
    """
    parser = _Parser(prog="main.py", description="Train, evaluate or time a Swin Transformer.", allow_abbrev=False)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="YAML config file")
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="config keys to set")
    parser.add_argument("--dry-run", action="store_true", help="build everything, print the plan, run one batch, stop")
    for flag, (key, kind) in _VALUE_FLAGS.items():
        parser.add_argument(f"--{flag}", type=kind, default=None, help=f"sets {key}")
    for flag, (key, value) in _SWITCHES.items():
        parser.add_argument(f"--{flag}", action="store_const", const=value, default=None, help=f"sets {key} to {value}")
    parser.add_argument("--local-rank", type=int, help=argparse.SUPPRESS)  # old launchers pass it
    dashed = [_dashed(word) for word in arguments]
    parsed, unknown = parser.parse_known_args(dashed)
    if unknown:
        near = get_close_matches(unknown[0][:100], [*parser._option_string_actions], n=1, cutoff=0.0)
        message = f"unknown argument {unknown[0]}; did you mean {near[0]}? See python main.py --help."
        raise ConfigError(readable_lines([message])[0])
    return parsed


def _dashed(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if word.startswith("--") else word


def run_path(cfg: Config) -> Path:
    """The folder of a run; its `status.json` says how it goes and how it ended."""
    return Path(cfg.OUTPUT or "output") / cfg.MODEL.NAME / cfg.TAG


def load_command_line(arguments: Sequence[str]) -> tuple[Config, bool]:
    """The config of a command line (file, then --opts, then flags), and whether it asks for a dry run.

    Raises:
        ConfigError: see `parse_arguments` and `load_config`.
    """
    parsed = parse_arguments(arguments)
    keys = {flag: key for flag, (key, _) in (*_VALUE_FLAGS.items(), *_SWITCHES.items())}
    given = {key: getattr(parsed, flag.replace("-", "_")) for flag, key in keys.items()}
    overrides = {key: value for key, value in given.items() if value is not None}
    return load_config(parsed.cfg, parsed.opts, overrides), parsed.dry_run
