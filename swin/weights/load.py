"""Giving a model the weights of a file: as far as they fit, with a report, or strictly."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from swin.errors import CheckpointError
from swin.models.backbone import Backbone
from swin.models.swin_v2 import SwinTransformerV2
from swin.preprocess import describe_eval_transform
from swin.variants import name_architecture
from swin.weights.buffers import DERIVED_BUFFERS
from swin.weights.labels import imagenet_classes, match_classes
from swin.weights.resize import resize_to
from swin.weights.shapes import model_arguments
from swin.weights.source import Weights, read_weights

_HEAD = ("head.weight", "head.bias")


@dataclass
class LoadReport:
    """What became of a model's tensors and a file's, by native name.

    Attributes:
        program: what wrote the file, for people; None where it does not say.
        source_format: the program whose names the file has, one of `swin.weights.formats.FORMATS`.
        loaded: tensors taken over as they are. A head whose classes are the same in another order counts as such.
        resized: tensors made to fit: another window, grid, patch or channel count, or a head of other classes of which
            some are in the file.
        dropped: the file's tensors that were not used.
        initialised: the model's tensors that kept the values they had.
        notes: lines for people: what was resized and how, and which rows of the head were mapped.
    """

    source_format: str
    program: str | None = None
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        written = f"written by {self.program}, " if self.program else ""
        counts = (
            f"{written}names of format {self.source_format}: {len(self.loaded)} tensors loaded, {len(self.resized)} "
            f"resized, {len(self.dropped)} dropped, {len(self.initialised)} initialised anew"
        )
        unused = [f"{kind}: {name}" for kind in ("dropped", "initialised") for name in getattr(self, kind)]
        return "\n  ".join([counts, *self.notes, *unused])


def load_weights(
    model: Backbone,
    source: str | Path | Mapping[str, Any] | Weights,
    *,
    source_format: str | None = None,
    prefer_ema: bool = True,
    min_matched: float = 0.95,
    strict: bool = False,
) -> LoadReport:
    """Give a model the weights of another run or program.

    The head goes by class names: the model's `classes` and those of the file, or ImageNet's where the number of rows
    says so. Without names on one side, a head with as many rows is taken as it is. A model without `classes` gets the
    file's, if it takes the whole head. A Swin V2 that was given no `pretrained_window_sizes` gets those that the file
    says, where its windows are others.

    Args:
        model: the model, on any device.
        source: what `read_weights` takes, as a `.pth` or `.safetensors` file, a folder, a state dict in any format
            and wrapper; or what it gave.
        source_format: one of `swin.weights.formats.FORMATS`; None to detect it.
        prefer_ema: take averaged weights where the file has some.
        min_matched: smallest fraction, in [0, 1], of the tensors in the model's layers that the file must have, and of
            the file's that the model must have. One tensor of each block is 8%, so that by default a file with, say,
            other numbers of heads is refused.
        strict: accept only weights of exactly this model. The head may have other rows or another order if every class
            of the model is found in it by name.

    Raises:
        CheckpointError: the file cannot be read, or does not fit; the model is then unchanged.
    """
    if not isinstance(source, Weights):
        source = read_weights(source, source_format=source_format, prefer_ema=prefer_ema)
    report = LoadReport(source.format, source.program, notes=_describe_source(source))
    sizes = find_pretrained_windows(model, source)
    rows = _head_rows(model, source)
    head = _fit_head(model, source, rows, report, strict)
    if strict:
        load_strictly(model, {**source.tensors, **head}, source.name)
        report.loaded = [name for name in model.state_dict() if name not in report.resized]
    else:
        fitted = _fit_body(model, source, report, min_matched)
        model.load_state_dict({**fitted, **head}, strict=False)
        report.initialised = [name for name in model.state_dict() if name not in fitted and name not in head]
        report.dropped = [name for name in source.tensors if name not in fitted and name not in head]
    if isinstance(model, SwinTransformerV2):
        report.notes += _settle_windows(model, sizes, source)
    if model.classes is None and source.classes and rows == list(range(len(source.classes))):
        model.classes = source.classes
    return report


def _describe_source(source: Weights) -> list[str]:
    """Say for people what is notable about weights, in lines."""
    how, notes = source.preprocessing, ["the averaged (EMA) weights of the file"] if source.is_averaged else []
    return [*notes, f"as its folder says, in prediction {describe_eval_transform(how)}"] if how else notes


def find_pretrained_windows(model: Backbone, source: Weights) -> list[int] | None:
    """The `pretrained_window_sizes` that a Swin V2 needs for weights of other windows; None where it needs none.

    Raises:
        CheckpointError: it was given others than the weights have.
    """
    if not isinstance(model, SwinTransformerV2) or not source.windows:
        return None
    wanted, found = ([reference for _, reference in windows] for windows in (source.windows, model.windows()))
    if wanted == found or len(wanted) != len(found):
        return None
    if given := model.pretrained_window_sizes:
        raise CheckpointError(
            f"{source.name} says that its weights learned in windows of {wanted}, and pretrained_window_sizes are "
            f"{given}: give those of the file (MODEL.SWINV2.PRETRAINED_WINDOW_SIZES), or leave them out."
        )
    return wanted


def _settle_windows(model: SwinTransformerV2, sizes: list[int] | None, source: Weights) -> list[str]:
    """Give a model the windows of its weights, see `find_pretrained_windows`; returns lines for people."""
    if sizes is not None:
        model.set_pretrained_windows(sizes)
        return [f"windows in which the weights learned, as their file says: {sizes}"]
    if source.windows is not None:
        return []
    taken = [reference for _, reference in model.windows()]
    return [
        f"the file does not say in which windows its weights learned; taken as these: {taken} "
        "(MODEL.SWINV2.PRETRAINED_WINDOW_SIZES)"
    ]


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights of exactly this model's names and shapes.

    Buffers that other programs save (masks and relative-position indices) are left out: they follow from the config.

    Raises:
        CheckpointError: names or shapes differ; the message lists the first of each.
    """
    weights = {name: value for name, value in weights.items() if not name.endswith(DERIVED_BUFFERS)}
    own = model.state_dict()
    problems = []
    for kind, names in (("missing", own.keys() - weights.keys()), ("unexpected", weights.keys() - own.keys())):
        if names:
            problems.append(f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}, ...)")
    for name in sorted(own.keys() & weights.keys()):
        if own[name].shape != weights[name].shape:
            problems.append(f"{name} is {tuple(weights[name].shape)} there, {tuple(own[name].shape)} here")
    if problems:
        raise CheckpointError(
            f"checkpoint {source} does not fit the model of this config: {'; '.join(problems[:6])}. "
            "Use the config it was trained with; to start from its weights in another model, use --pretrained."
        )
    model.load_state_dict(weights)


def _fit_body(model: Backbone, source: Weights, report: LoadReport, min_matched: float) -> dict[str, Tensor]:
    """The file's tensors for all but the head, resized where there is a way.

    Raises:
        CheckpointError: too few tensors of the layers go together, counted on either side.
    """
    own = model.state_dict()
    fitted: dict[str, Tensor] = {}
    changes: Counter[str] = Counter()
    is_of_simmim = "mask_token" in source.tensors
    for name in [name for name in own if name in source.tensors and name not in _HEAD]:
        value = source.tensors[name]
        if value.shape == own[name].shape:
            fitted[name] = value
            report.loaded.append(name)
        elif resized := resize_to(name, value, own[name].shape, model.grid_size, is_of_simmim=is_of_simmim):
            fitted[name], words = resized
            report.resized.append(name)
            changes[f"{name.rpartition('attn.')[2]}: {words}"] += 1
    report.notes += [f"resized {count} x {change}" for change, count in changes.items()]
    needed, offered = (
        [n for n in names if n.startswith(("patch_embed.", "layers."))] for names in (own, source.tensors)
    )
    missing = [name for name in needed if name not in fitted]
    num_fitted = len(needed) - len(missing)
    if num_fitted < min_matched * max(len(needed), len(offered)):
        missing = missing or [name for name in offered if name not in fitted]
        raise CheckpointError(
            f"{source.name} does not fit the model: {num_fitted} of the model's {len(needed)} tensors and the file's "
            f"{len(offered)} in patch embedding and layers go together; at least {min_matched:.0%} are needed. It most "
            f"likely belongs to another architecture; the first that differ: {', '.join(missing[:3])}."
            f"{_suggest_variant(source)}"
        )
    return fitted


def _suggest_variant(source: Weights) -> str:
    """Say which published model a file is of, and how to train that; nothing where it is of none."""
    try:
        name = name_architecture(*model_arguments(source.tensors, source.windows))
    except CheckpointError:
        return ""
    return f" The file is a {name}: --opts MODEL.VARIANT {name} trains this model." if name else ""


def _head_rows(model: Backbone, source: Weights) -> list[int | None]:
    """For each class of the model its row in the file, or None; [] if one of them has no head, or of another width."""
    own = model.state_dict()
    if not all(name in own and name in source.tensors for name in _HEAD):
        return []
    weight, bias = (source.tensors[name] for name in _HEAD)
    if weight.ndim != 2 or weight.shape[1] != own["head.weight"].shape[1] or bias.shape != weight.shape[:1]:
        return []
    as_it_is: list[int | None] = list(range(len(bias))) if len(bias) == model.num_classes else []
    ours = model.classes or imagenet_classes(model.num_classes)
    theirs = source.classes or imagenet_classes(len(bias))
    if ours and theirs and not (model.classes is None and as_it_is):
        return match_classes(theirs, ours)
    return as_it_is or [None] * model.num_classes


def _fit_head(
    model: Backbone, source: Weights, rows: list[int | None], report: LoadReport, strict: bool
) -> dict[str, Tensor]:
    """The head with every row that the file has for a class of the model; {} if it has none.

    Raises:
        CheckpointError: with `strict`, some classes are lacking. All may, if the file's classes are only a guess.
    """
    found = {target: row for target, row in enumerate(rows) if row is not None}
    if strict and None in rows and model.classes and (source.classes or found):
        raise CheckpointError(
            f"{rows.count(None)} of the {len(rows)} classes of the data are not in {source.name}, the first is "
            f"{model.classes[rows.index(None)]!r}; use data with its classes, or --pretrained to train a new head."
        )
    if not found:
        if rows:
            report.notes.append(f"head: none of the {len(rows)} classes is in the file")
        return {}
    num_source = len(source.tensors["head.bias"])
    is_whole = len(found) == len(rows) == num_source
    (report.loaded if is_whole else report.resized).extend(_HEAD)
    if not (is_whole and all(target == row for target, row in found.items())):
        report.notes.append(
            f"head: {len(found)} of {len(rows)} rows mapped by class name from the file's {num_source}; "
            f"{len(rows) - len(found)} initialised anew"
        )
    own = model.state_dict()
    head = {name: own[name].clone() for name in _HEAD}
    for name, value in head.items():
        value[list(found)] = source.tensors[name][list(found.values())].to(value)
    return head
