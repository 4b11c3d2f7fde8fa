"""The flags of main.py: those of the official repository, each a short form of a config key."""

import argparse
import re
import shlex
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

# What to type here, with {} for the value, instead of flags of other training programs.
_INSTEAD = {
    "--cfg {}": "-c --config --config-file --recipe",
    "--data-path {}": "--data --data-dir --data-root --dataset-path --root --train-dir",
    "--batch-size {}": "-b --batch --bs --batch-size-per-gpu --per-device-batch-size",
    "--output {}": "--output-dir --out-dir --save-dir --work-dir --log-dir --project",
    "--tag {}": "--name --exp-name --experiment --run-name",
    "--pretrained {}": "--pretrained-path --weights --finetune --initial-checkpoint",
    "--resume {}": "--checkpoint --ckpt --resume-from --load",
    "--eval": "-e --evaluate --eval-only --test --test-only --val --validate",
    "--device cuda:{}": "--gpu --gpus --gpu-id",
    "--device cpu": "--cpu",
    "--optim {}": "--opt --optimizer",
    "--accumulation-steps {}": "--accum-iter --grad-accum --grad-accum-steps --gradient-accumulation-steps",
    "--use-checkpoint": "--grad-checkpointing --gradient-checkpointing",
    "--disable-amp": "--no-amp --fp32",
    "--opts AMP_ENABLE True": "--amp --use-amp --mixed-precision",
    "--opts AMP_DTYPE fp16": "--fp16",
    "--opts AMP_DTYPE bf16": "--bf16",
    "--opts MODEL.VARIANT {}": "-a --arch --model --model-name --variant --backbone",
    "--opts MODEL.NUM_CLASSES {}": "--num-classes --nb-classes --classes",
    "--opts MODEL.DROP_RATE {}": "--drop --dropout",
    "--opts MODEL.DROP_PATH_RATE {}": "--drop-path --drop-path-rate",
    "--opts MODEL.LABEL_SMOOTHING {}": "--smoothing --label-smoothing",
    "--opts TRAIN.BASE_LR {}": "--lr --learning-rate --base-lr --blr",
    "--opts TRAIN.MIN_LR {}": "--min-lr --lr-min",
    "--opts TRAIN.WARMUP_LR {}": "--warmup-lr",
    "--opts TRAIN.EPOCHS {}": "--epochs --epoch --num-epochs --max-epochs",
    "--opts TRAIN.MINUTES {}": "--minutes --max-minutes --time-budget",
    "--opts TRAIN.WARMUP_EPOCHS {}": "--warmup-epochs --warmup --warmup-ratio",
    "--opts TRAIN.WEIGHT_DECAY {}": "--wd --weight-decay",
    "--opts TRAIN.LAYER_DECAY {}": "--layer-decay --llrd",
    "--opts TRAIN.PATIENCE {}": "--patience --early-stopping --early-stopping-patience",
    "--opts TRAIN.MONITOR {}": "--monitor --eval-metric",
    "--opts DATA.FOLDS {}": "--folds --kfold --k-folds --num-folds",
    "--opts TRAIN.LR_SCHEDULER.NAME {}": "--sched --scheduler --lr-scheduler",
    "--opts TRAIN.OPTIMIZER.MOMENTUM {}": "--momentum",
    "--opts TRAIN.CLIP_GRAD {}": "--clip-grad --grad-clip --clip --max-grad-norm",
    "--opts TRAIN.FREEZE {}": "--freeze",
    "--opts TRAIN.LOSS {}": "--loss",
    "--opts TRAIN.EMA.ENABLE True": "--ema --model-ema",
    "--opts TRAIN.EMA.DECAY {}": "--ema-decay --model-ema-decay",
    "--opts TRAIN.COMPILE default": "--compile --torchcompile",
    "--opts DATA.DATASET {}": "--dataset",
    "--opts DATA.IMG_SIZE {}": "--img-size --input-size --image-size --imgsz --resolution --crop-size",
    "--opts DATA.NUM_WORKERS {}": "-j --workers --num-workers",
    "--opts DATA.VAL_SPLIT {}": "--val-split --val-ratio",
    "--opts DATA.INTERPOLATION {}": "--interpolation",
    "--opts AUG.MIXUP {}": "--mixup",
    "--opts AUG.CUTMIX {}": "--cutmix",
    "--opts AUG.REPROB {}": "--reprob --random-erase",
    "--opts AUG.COLOR_JITTER {}": "--color-jitter",
    "--opts AUG.AUTO_AUGMENT {}": "--aa --auto-augment",
    "--opts SEED {}": "--seed",
    "--opts PRINT_FREQ {}": "--print-freq --log-interval --log-freq",
    "--opts SAVE_FREQ {}": "--save-freq --checkpoint-freq",
    "--opts EVAL_FREQ {}": "--eval-freq --eval-interval",
}
FOREIGN_FLAGS = {flag: instead for instead, flags in _INSTEAD.items() for flag in flags.split()}

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
        ConfigError: an unknown flag (what to type instead is named), a missing value, or one of the wrong type.
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
    if foreign := explain_foreign_flags(dashed):
        raise ConfigError("\n".join(readable_lines(foreign)))
    parsed, unknown = parser.parse_known_args(dashed)
    if unknown:
        near = get_close_matches(unknown[0][:100], [*parser._option_string_actions], n=1, cutoff=0.0)
        message = f"unknown argument {unknown[0]}; did you mean {near[0]}? See {program} --help."
        raise ConfigError(readable_lines([message])[0])
    return parsed


def explain_foreign_flags(words: Sequence[str]) -> list[str]:
    """Say for each flag of another program what to type here, with the value that was given; [] if there is none."""
    lines = []
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        flag, is_joined, joined = word.partition("=")
        if (instead := FOREIGN_FLAGS.get(flag)) is None:
            continue
        value = joined if is_joined else "VALUE" if following.startswith("--") else following
        what = instead.removeprefix("--opts ").split()[0]
        more = f" (--help-key {what} explains it)" if what in KEYS else ""
        lines.append(f"{flag} is {what} here: {instead.format(shlex.quote(value))}{more}")
    return lines


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
