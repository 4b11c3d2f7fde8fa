"""Looks through a data set for what would spoil a training: `python -m tools.check_dataset --data-path FOLDER`.

Exits with 1 if there are errors: unreadable images, the same image in train and val, or labels that do not fit.
"""

import base64
import hashlib
import html
import io
import json
import multiprocessing
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.build import open_sets
from data.sources import Sets, Source, count_labels
from data.twins import find_twins
from swin.engine.plan import select_extremes
from swin.errors import ConfigError, DataError, printable
from swin.images import MODES, as_file, encode, open_input, to_image
from tools.arguments import data_parser, load_data_config

_worker: dict[str, Source] = {}  # of a worker: its source, too large to be sent with each task
_ORIENTATION = 0x0112  # EXIF tag
_PARTS = ("train", "val", "test")
_USUAL_MODES = ("", "RGB", "L")
_SHOWN, _THUMBNAILS, _THUMBNAIL_PX = 10, 300, 128
_PERCENTILES = (0, 5, 50, 95, 100)


class ImageFacts(NamedTuple):
    """What there is to know about one image."""

    digest: bytes
    width: int = 0
    height: int = 0
    mode: str = ""
    orientation: int = 1
    error: str = ""


@dataclass
class Finding:
    """Images that have something in common."""

    kind: str  # what it is, in a word or two
    is_error: bool  # whether it spoils a training, rather than being worth a look
    message: str  # what was found and what to do
    images: list[str]  # the names concerned


def check(sets: Sets, *, channels: int = 3, workers: int = 1) -> tuple[list[Finding], dict[str, Any]]:
    """Read every image of a data set.

    Args:
        sets: The data set.
        channels: What images are read with; see `swin.images.open_input`.
        workers: Processes that read.

    Returns:
        What was found, errors first, and a summary: classes, counts and sizes by split.
    """
    sources = {part: source for part in _PARTS if (source := getattr(sets, part)) is not None}
    facts = {split: _read_all(source, split, channels, workers) for split, source in sources.items()}
    findings: list[Finding] = []
    summary: dict[str, Any] = {"classes": len(sets.classes)}
    for split, source in sources.items():
        counts = count_labels(source.labels, len(sets.classes))
        class_counts = dict(zip(sets.classes, counts, strict=True))
        findings += _findings_of(split, source, facts[split])
        empty = [name for name, count in class_counts.items() if not count]
        findings.append(Finding("empty classes", False, f"{split}: no image of them", empty))
        summary[split] = _summary(facts[split], class_counts)
    if sets.train:
        for split in [part for part in sources if part != "train"]:
            findings += _shared(sets.classes, sets.train, split, sources[split], facts)
        findings += [
            Finding("twin classes", False, message, sets.classes) for message in find_twins(sets.train, sets.classes)
        ]
    return sorted((each for each in findings if each.images), key=lambda each: not each.is_error), summary


def _read_all(source: Source, split: str, channels: int, workers: int) -> list[ImageFacts]:
    indices = range(len(source.labels))
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _worker.update, ({"source": source},)) as pool:
        facts = pool.map(partial(_read, channels), indices, chunksize=64)
        return list(tqdm(facts, total=len(indices), unit="images", desc=f"reading {split}", disable=None))


def _read(channels: int, index: int) -> ImageFacts:
    source = _worker["source"]
    digest = b""
    try:
        file = as_file(source.read(index))
        digest = hashlib.sha1(file).digest()
        height, width = open_input(file, channels=channels, name=source.name(index)).shape[1:]
    except DataError as error:
        return ImageFacts(digest, error=str(error))
    if channels not in MODES:
        return ImageFacts(digest, width, height)
    with Image.open(io.BytesIO(file)) as image:
        return ImageFacts(digest, *image.size, image.mode, image.getexif().get(_ORIENTATION, 1))


def _findings_of(split: str, source: Source, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    def find(kind: str, is_error: bool, message: str, indices: Sequence[int]) -> Finding:
        return Finding(kind, is_error, f"{split}: {message}", [source.name(index) for index in indices])

    def where(holds: Callable[[ImageFacts], Any]) -> list[int]:
        return [index for index, fact in enumerate(facts) if holds(fact)]

    advice = "remove or replace them, or set DATA.ON_ERROR skip"
    yield find("unreadable", True, advice, where(lambda fact: fact.error))
    odd = where(lambda fact: fact.mode not in _USUAL_MODES)
    modes = Counter(facts[index].mode for index in odd)
    yield find("odd modes", False, f"converted to RGB; they are {dict(modes)}", odd)
    turned = where(lambda fact: fact.orientation not in (0, 1))
    yield find("rotated", False, "EXIF says so, which only DATA.EXIF True follows", turned)
    small = where(lambda fact: 0 < min(fact.width, fact.height) < 32)
    yield find("tiny", False, "a side is below 32 pixels", small)
    by_digest = defaultdict(list)
    for index in where(lambda fact: not fact.error):
        by_digest[facts[index].digest].append(index)
    same: dict[bool, list[int]] = {False: [], True: []}  # by whether their labels differ
    for group in by_digest.values():
        if len(group) > 1:
            same[len(np.unique(source.labels[group], axis=0)) > 1] += group
    yield find("duplicates", False, "the same file several times in a class", same[False])
    yield find("contradicting", True, "the same file in several classes", same[True])


def _shared(
    classes: Sequence[str], train: Source, split: str, source: Source, facts: dict[str, list[ImageFacts]]
) -> Iterator[Finding]:
    in_train = {fact.digest for fact in facts["train"] if not fact.error}
    shared = [source.name(index) for index, fact in enumerate(facts[split]) if fact.digest in in_train]
    why = "the same file is trained on, so accuracy would be too good"
    yield Finding(f"in train and {split}", True, f"{split}: {why}", shared)
    trained, counts = (count_labels(each.labels, len(classes)) for each in (train, source))
    names = [name for name, before, count in zip(classes, trained, counts, strict=True) if count and not before]
    yield Finding("untrained classes", True, f"{split} has images of classes that train has none of", names)


def _summary(facts: Sequence[ImageFacts], class_counts: dict[str, int]) -> dict[str, Any]:
    sides = np.array([(fact.width, fact.height) for fact in facts if fact.width] or [(0, 0)])
    widths, heights = np.percentile(sides, _PERCENTILES, axis=0).T
    return {
        "images": len(facts),
        "class_counts": class_counts,
        "modes": dict(Counter(fact.mode for fact in facts if fact.mode)),
        "width_percentiles": dict(zip(_PERCENTILES, widths, strict=True)),
        "height_percentiles": dict(zip(_PERCENTILES, heights, strict=True)),
    }


def as_text(findings: Sequence[Finding], summary: dict[str, Any]) -> str:
    """Return findings and summary in lines."""
    lines = [f"{summary['classes']} classes"]
    for split in filter(summary.get, _PARTS):
        counts = list(summary[split]["class_counts"].values())
        widths, heights = summary[split]["width_percentiles"], summary[split]["height_percentiles"]
        lines.append(
            f"{split}: {summary[split]['images']} images, {min(counts)} to {max(counts)} a class, "
            f"median {widths[50]:.0f} x {heights[50]:.0f}, from {widths[0]:.0f} x {heights[0]:.0f} "
            f"to {widths[100]:.0f} x {heights[100]:.0f}"
        )
    lines += _class_lines({split: summary[split]["class_counts"] for split in _PARTS if split in summary})
    for finding in findings:
        kind = "ERROR" if finding.is_error else "note"
        lines.append(f"{kind}: {len(finding.images)} {finding.kind}: {finding.message}")
        lines += [f"    {name}" for name in finding.images[:_SHOWN]]
        if len(finding.images) > _SHOWN:
            lines.append(f"    and {len(finding.images) - _SHOWN} more")
    return "\n".join(lines if findings else [*lines, "nothing to report"])


def _class_lines(counts: dict[str, dict[str, int]]) -> Iterator[str]:
    """Yield the classes with their images by split, of many the largest and the smallest."""
    by_class = {name: [each[name] for each in counts.values()] for names in counts.values() for name in names}
    chosen = select_extremes([numbers[0] for numbers in by_class.values()], 2 * _SHOWN, _SHOWN)
    names = [list(by_class)[label] for label in chosen]
    if len(names) < len(by_class):
        yield f"the {_SHOWN} largest and the {_SHOWN} smallest classes, with their images in {' / '.join(counts)}:"
    elif names:
        yield f"classes with their images in {' / '.join(counts)}:"
    yield from (f"    {name}: {' / '.join(map(str, by_class[name]))}" for name in names)


def as_html(findings: Sequence[Finding], summary: dict[str, Any], sets: Sets | None) -> str:
    """Return a page with a thumbnail of each image concerned, as far as it can be read."""
    sources = [source for source in (sets.train, sets.val, sets.test) if source] if sets else []
    wanted = {name for finding in findings for name in finding.images[:_THUMBNAILS]}
    found = {
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
            picture = _thumbnail(*found[name]) if name in found else ""  # else the name of a class
            parts.append(
                f"<figure style='display:inline-block'>{picture}<figcaption>{html.escape(name)}</figcaption></figure>"
            )
    return "\n".join(parts)


def _thumbnail(source: Source, index: int) -> str:
    try:
        image = to_image(open_input(source.read(index)))
    except DataError:
        return "(cannot be shown)"
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(encode(image, 'JPEG')).decode()}'>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit status."""
    parser = data_parser("check_dataset", __doc__, "DATA.VAL_SPLIT 0.1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write findings and summary there, too")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails of the findings")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a CPU)")
    options = parser.parse_args(arguments)
    sets = None
    try:
        cfg = load_data_config(options)
        sets = open_sets(cfg)
        findings, summary = check(sets, channels=cfg.architecture.IN_CHANS, workers=options.workers)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except DataError as error:  # what keeps a data set from being opened is a finding, too
        path = printable(options.data_path or "")
        findings, summary = [Finding("layout", True, str(error), [path])], {"classes": 0}
    print(as_text(findings, summary))
    if options.json:
        content = {"findings": [asdict(finding) for finding in findings], "summary": summary}
        options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    if options.html:
        options.html.write_text(as_html(findings, summary, sets), encoding="utf-8")
    return int(any(finding.is_error for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
