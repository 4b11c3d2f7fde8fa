"""Looks through a data set for what would spoil a training: `python -m tools.check_dataset --data-path FOLDER`.

Exits with 1 if there are errors: unreadable images, the same image in train and val, or labels that do not fit.
"""

import argparse
import base64
import hashlib
import html
import io
import json
import multiprocessing
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from data.build import open_sets
from data.datasets import Sets, Source
from swin.config import load_config
from swin.errors import ConfigError, DataError, printable
from swin.preprocess import open_image, open_input

_worker: dict[str, Source] = {}  # of a worker: its source, too large to be sent with each task
_ORIENTATION = 0x0112  # EXIF tag
_USUAL_MODES = ("RGB", "L")
_SHOWN, _THUMBNAILS, _THUMBNAIL_PX = 10, 300, 128


class Facts(NamedTuple):
    """What there is to know about one image."""

    digest: bytes
    width: int = 0
    height: int = 0
    mode: str = ""
    orientation: int = 1
    error: str = ""


@dataclass
class Finding:
    """Images that have something in common.

    Attributes:
        kind: What it is, in a word or two.
        is_error: Whether it spoils a training, rather than being worth a look.
        message: What was found and what to do.
        images: The names concerned.
    """

    kind: str
    is_error: bool
    message: str
    images: list[str] = field(default_factory=list)


def check(sets: Sets, *, channels: int = 3, workers: int = 1) -> tuple[list[Finding], dict[str, Any]]:
    """Reads every image of a data set.

    Args:
        sets: The data set.
        channels: What images are read with; see `swin.preprocess.open_input`.
        workers: Processes that read.

    Returns:
        What was found, errors first, and a summary: classes, counts and sizes by half.
    """
    halves: dict[str, Source] = {"train": sets.train, "val": sets.val} if sets.train else {"val": sets.val}
    facts = {half: _read_all(source, half, channels, workers) for half, source in halves.items()}
    findings: list[Finding] = []
    for half, source in halves.items():
        findings += _findings_of(half, source, facts[half], sets.classes)
    if sets.train:
        findings += _shared(sets, facts)
    summary = {
        "classes": len(sets.classes),
        **{half: _summary(source, facts[half], sets.classes) for half, source in halves.items()},
    }
    return sorted((each for each in findings if each.images), key=lambda each: not each.is_error), summary


def _read_all(source: Source, half: str, channels: int, workers: int) -> list[Facts]:
    indices = range(len(source.labels))
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _worker.update, ({"source": source},)) as pool:
        facts = pool.map(partial(_read, channels), indices, chunksize=64)
        return list(tqdm(facts, total=len(indices), unit="images", desc=f"reading {half}"))


def _read(channels: int, index: int) -> Facts:
    source = _worker["source"]
    try:
        content = source.read(index)
        if isinstance(content, Image.Image):
            return Facts(hashlib.sha1(content.tobytes()).digest(), *content.size, content.mode)
        digest = hashlib.sha1(content).digest()
    except DataError as error:
        return Facts(b"", error=str(error))
    try:
        read = open_input(content, channels=channels, name=source.name(index))
    except DataError as error:
        return Facts(digest, error=str(error))
    if isinstance(read, torch.Tensor):
        return Facts(digest, read.shape[2], read.shape[1])
    with Image.open(io.BytesIO(content)) as image:
        return Facts(digest, *image.size, image.mode, image.getexif().get(_ORIENTATION, 1))


def _findings_of(half: str, source: Source, facts: Sequence[Facts], classes: Sequence[str]) -> Iterator[Finding]:
    def names(indices: Sequence[int] | np.ndarray) -> list[str]:
        return [source.name(int(index)) for index in indices]

    bad = [index for index, fact in enumerate(facts) if fact.error]
    yield Finding("unreadable", True, f"{half}: remove or replace them, or set DATA.ON_ERROR skip", names(bad))
    odd = [index for index, fact in enumerate(facts) if fact.mode and fact.mode not in _USUAL_MODES]
    modes = Counter(facts[index].mode for index in odd)
    yield Finding("odd modes", False, f"{half}: converted to RGB; they are {dict(modes)}", names(odd))
    turned = [index for index, fact in enumerate(facts) if fact.orientation not in (0, 1)]
    yield Finding("rotated", False, f"{half}: EXIF says so, which only DATA.EXIF True follows", names(turned))
    small = [index for index, fact in enumerate(facts) if 0 < min(fact.width, fact.height) < 32]
    yield Finding("tiny", False, f"{half}: a side is below 32 pixels", names(small))
    by_digest = defaultdict(list)
    for index, fact in enumerate(facts):
        if fact.digest and not fact.error:
            by_digest[fact.digest].append(index)
    same = [group for group in by_digest.values() if len(group) > 1]
    agreeing = [index for group in same for index in group if len(set(source.labels[group])) == 1]
    yield Finding("duplicates", False, f"{half}: the same file several times in a class", names(agreeing))
    torn = [index for group in same for index in group if len(set(source.labels[group])) > 1]
    yield Finding("contradicting", True, f"{half}: the same file in several classes", names(torn))
    counts = np.bincount(source.labels, minlength=len(classes))
    empty = [classes[label] for label in np.flatnonzero(counts == 0).tolist()]
    yield Finding("empty classes", False, f"{half}: no image of them", empty)


def _shared(sets: Sets, facts: dict[str, list[Facts]]) -> Iterator[Finding]:
    assert sets.train is not None
    in_train = {fact.digest for fact in facts["train"] if fact.digest and not fact.error}
    shared = [sets.val.name(index) for index, fact in enumerate(facts["val"]) if fact.digest in in_train]
    yield Finding("in train and val", True, "val: the same file is trained on, so accuracy would be too good", shared)
    lacking = set(np.unique(sets.val.labels).tolist()) - set(np.unique(sets.train.labels).tolist())
    names = [sets.classes[label] for label in sorted(lacking)]
    yield Finding("untrained classes", True, "val has images of classes that train has none of", names)


def _summary(source: Source, facts: Sequence[Facts], classes: Sequence[str]) -> dict[str, Any]:
    counts = np.bincount(source.labels, minlength=len(classes))
    sides = np.array([(fact.width, fact.height) for fact in facts if fact.width] or [(0, 0)])
    return {
        "images": len(facts),
        "class_counts": dict(zip(classes, counts.tolist(), strict=True)),
        "modes": dict(Counter(fact.mode for fact in facts if fact.mode)),
        "width_percentiles": dict(
            zip((0, 5, 50, 95, 100), np.percentile(sides[:, 0], (0, 5, 50, 95, 100)), strict=True)
        ),
        "height_percentiles": dict(
            zip((0, 5, 50, 95, 100), np.percentile(sides[:, 1], (0, 5, 50, 95, 100)), strict=True)
        ),
    }


def as_text(findings: Sequence[Finding], summary: dict[str, Any]) -> str:
    """Findings and summary in lines."""
    lines = [f"{summary['classes']} classes"]
    for half in ("train", "val"):
        if half in summary:
            counts = list(summary[half]["class_counts"].values())
            widths, heights = summary[half]["width_percentiles"], summary[half]["height_percentiles"]
            lines.append(
                f"{half}: {summary[half]['images']} images, {min(counts)} to {max(counts)} a class, "
                f"median {widths[50]:.0f} x {heights[50]:.0f}, from {widths[0]:.0f} x {heights[0]:.0f} "
                f"to {widths[100]:.0f} x {heights[100]:.0f}"
            )
    for finding in findings:
        lines.append(
            f"{'ERROR' if finding.is_error else 'note'}: {len(finding.images)} {finding.kind}: {finding.message}"
        )
        lines += [f"    {name}" for name in finding.images[:_SHOWN]]
        if len(finding.images) > _SHOWN:
            lines.append(f"    and {len(finding.images) - _SHOWN} more")
    return "\n".join(lines if findings else [*lines, "nothing to report"])


def as_html(findings: Sequence[Finding], summary: dict[str, Any], sets: Sets | None) -> str:
    """A page with a thumbnail of each image concerned, as far as it can be read."""
    sources = [source for source in (sets.train, sets.val) if source] if sets else []
    wanted = {name for finding in findings for name in finding.images[:_THUMBNAILS]}
    places = {
        name: (source, index)
        for source in sources
        for index in range(len(source.labels))
        if (name := source.name(index)) in wanted
    }
    parts = [
        f"<!doctype html><meta charset=utf-8><title>data check</title><pre>{html.escape(as_text([], summary))}</pre>"
    ]
    for finding in findings:
        parts.append(f"<h2>{len(finding.images)} {finding.kind}</h2><p>{html.escape(finding.message)}</p>")
        for name in finding.images[:_THUMBNAILS]:
            picture = _thumbnail(*places[name]) if name in places else ""  # else the name of a class
            parts.append(
                f"<figure style='display:inline-block'>{picture}<figcaption>{html.escape(name)}</figcaption></figure>"
            )
    return "\n".join(parts)


def _thumbnail(source: Source, index: int) -> str:
    try:
        content = source.read(index)
        image = content if isinstance(content, Image.Image) else open_image(content)
    except DataError:
        return "(cannot be shown)"
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, "JPEG")
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_dataset", description=__doc__)
    parser.add_argument("--data-path", default="", help="the data set, in any layout that training reads")
    parser.add_argument("--cfg", help="a config, where the data set needs more than its path")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys, as DATA.VAL_SPLIT 0.1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write findings and summary there, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails of the findings")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    options = parser.parse_args(arguments)
    given = {"DATA.CACHE_MODE": "no"} | ({"DATA.DATA_PATH": options.data_path} if options.data_path else {})
    sets = None
    try:
        cfg = load_config(options.cfg, options.opts, given)
        sets = open_sets(cfg)
        findings, summary = check(sets, channels=cfg.MODEL.SWIN.IN_CHANS, workers=options.workers)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except DataError as error:  # what keeps a data set from being opened is a finding, too
        findings, summary = [Finding("layout", True, str(error), [printable(options.data_path)])], {"classes": 0}
    print(as_text(findings, summary))
    if options.json:
        content = {"findings": [asdict(finding) for finding in findings], "summary": summary}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    if options.html:
        options.html.write_text(as_html(findings, summary, sets), encoding="utf-8")
    return int(any(finding.is_error for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
