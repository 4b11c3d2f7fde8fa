"""A config as a short YAML file, each line with its reason, and the plan in words."""

import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import torch
import yaml

from swin.config.keys import KEYS
from swin.config.messages import program_name
from swin.schedule import find_lr_factor
from tools.start.choose import Choice, Settings
from tools.start.look import Facts

_COMMENT_COLUMN = 36


def as_yaml(settings: Settings, header: str) -> str:
    """Return the text of a config file; a reason stands where it is new, as a comment."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    order = {key: number for number, key in enumerate(KEYS)}
    groups: tuple[str, ...] = ()
    last = ""
    # The keys of a group together, those at the top after all groups.
    for key in sorted(settings, key=lambda key: ("." not in key, order[key])):
        *parents, name = key.split(".")
        shared = sum(1 for one, other in zip(groups, parents, strict=False) if one == other)
        lines += [f"{'  ' * depth}{parents[depth]}:" for depth in range(shared, len(parents))]
        groups = tuple(parents)
        value, reason = settings[key]
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).removesuffix("\n")
        line = f"{'  ' * len(parents)}{name}: {text.removesuffix('...').strip()}"
        lines.append(line if reason == last else f"{line.ljust(_COMMENT_COLUMN)} # {reason}")
        last = reason
    return "\n".join(lines) + "\n"


def describe_facts(facts: Facts) -> Iterator[str]:
    """Yield what was found of the data, a line each."""
    counts = facts.class_counts
    num_test = f", {facts.num_test} test" if facts.num_test else ""
    yield (
        f"{facts.num_train} training, {facts.num_val} validation{num_test} images, {len(facts.classes)} classes of "
        f"{min(counts)} to {max(counts)}, shorter side {facts.side_px:.0f} px in the median of {facts.num_read} read"
        f"{', all grey' if facts.is_grey else ''}"
    )
    pairs = list(zip_longest(facts.classes[:12], counts[:12]))
    yield f"classes: {', '.join(f'{name} ({count})' for name, count in pairs)}{', ...' if len(counts) > 12 else ''}"
    for finding in facts.findings:
        kind = "ERROR" if finding.is_error else "note"
        yield f"{kind}: {len(finding.images)} {finding.kind}: {finding.message}; the first is {finding.images[0]}"
    if min(counts) < 10:
        yield f"note: the smallest class has {min(counts)} training images; expect little of it"
    if facts.side_px > 1500:
        yield (
            "note: images this large take long to decode; once: python -m tools.pack_dataset --short-side 512 "
            "--data-path FOLDER --output PACKED, and then start from PACKED"
        )


def describe_plan(choice: Choice, device: torch.device) -> str:
    """Say what training will take, in a line."""
    cfg = choice.cfg
    effective = cfg.DATA.BATCH_SIZE * cfg.TRAIN.ACCUMULATION_STEPS
    peak = cfg.TRAIN.BASE_LR * find_lr_factor(cfg, effective)
    time = f"{choice.seconds / 60:.1f} minutes" if choice.seconds < 5400 else f"{choice.seconds / 3600:.1f} hours"
    return (
        f"plan: {time} of training on {device}, {cfg.TRAIN.EPOCHS} epochs, {choice.updates:,} updates of {effective} "
        f"images, peak rate {peak:.1e}, {choice.memory_bytes / 1e6:,.0f} MB for the model and a batch"
    )


def train_command(file: Path) -> str:
    """Return the command that trains as a file says."""
    program = "swin-train" if program_name("swin-start", "") else "python main.py"
    return f"{program} --cfg {shlex.quote(str(file))}"
