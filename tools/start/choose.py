"""From what is known to one config: candidates, which of them fits into the time, and how long it is trained."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple

from swin.config import Config, config_from_dict, load_config
from swin.config.keys.model import GROUP_OF_TYPE
from swin.distributed import Distributed
from swin.weights import read_weights
from swin.weights.files import find_weight_file, read_weight_file
from swin.weights.shapes import model_arguments
from swin.weights.source import Weights
from tools.start.look import Facts
from tools.start.measure import Cost, Speed, find_cost, find_memory, measure
from tools.start.rules import DERIVED, PARTS, SEEN_A_PARAMETER, SIZES, VAL_SPLIT_REASON, settle

_MOST_MEASURED = 3
_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.85}  # of what is there, for training
_EVALUATION_SHARE = 0.15  # of the time, at most


class Setting(NamedTuple):
    """The value of a key, and why it has it."""

    value: Any
    reason: str


Settings = dict[str, Setting]


@dataclass(frozen=True)
class Candidate:
    """A model that might be trained, and how the rules would train it.

    Attributes:
        settings: by config key.
        derived: by the names of `tools.start.rules.DERIVED`.
        cost: what its model takes; `work`: of an image in training, as multiply-adds of an inference.
    """

    settings: Settings
    derived: dict[str, float]
    work: float
    cost: Cost


@dataclass(frozen=True)
class Choice:
    """The config that was chosen, and what it will take.

    Attributes:
        settings: all of it, with reasons.
        cfg: the same, loaded.
        seconds: that training takes, evaluations and all.
        updates: of the weights.
        tried: a line for each model that was measured.
        warnings: what the run will begin with.
    """

    settings: Settings
    cfg: Config
    seconds: float
    updates: int
    memory_bytes: int
    tried: list[str]
    warnings: list[str] = field(default_factory=list)


def load(settings: Settings, opts: Sequence[str]) -> Config:
    """Load settings as a config, and what the user has given over them."""
    return load_config(None, [*(item for key, each in settings.items() for item in (key, each.value)), *opts])


def choose(
    facts: Facts,
    weights: str | None,
    dist: Distributed,
    minutes: float,
    name: str,
    opts: Sequence[str],
    say: Callable[[str], None],
) -> Choice:
    """Choose the dearest model that manages the passes it needs in the time, and plan its training.

    Args:
        facts: Of the data set.
        weights: A file to start from; None for none.
        minutes: That training may take.
        name: Of the run.
        opts: KEY, VALUE, ... that the user has given, which win.
        say: Is told what is done, which takes seconds.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: `opts` cannot be.
    """
    read = read_weights(weights) if weights else None
    if read and weights and (seen := count_seen(weights)) is not None:
        needed = int(SEEN_A_PARAMETER * sum(tensor.numel() for tensor in read.tensors.values()))
        if seen < needed:
            say(
                f"{weights} is not used: it is from scratch and has seen {seen:,} images in training, where fewer than "
                f"{needed:,} teach a model of its size little. A small model from scratch learns more in the same time."
            )
            read = None
    models = list(_models_with(read, weights, facts) if read and weights else _models_from_scratch(facts))
    known = {
        "pretrained": float(read is not None),
        "weights_classes": _count_rows(read),
        **_facts_for_rules(facts, dist),
    }
    candidates = [_settle(model, part, facts, known, dist, name, opts) for model, part in models]
    speeds: dict[int, Speed] = {}
    warnings: dict[int, list[str]] = {}
    index = 0
    while index not in speeds and len(speeds) < _MOST_MEASURED:
        say(f"measuring {_describe(candidates[index])} ...")
        speeds[index], warnings[index] = measure(load(candidates[index].settings, opts), dist)
        index = _guess(candidates, speeds, facts, minutes)
    index = max((each for each in speeds if _fits(candidates[each], speeds[each], facts, minutes)), default=min(speeds))
    tried = [
        f"{_describe(candidates[each])}: {speed.train:.0f} images/s in training, loading included, "
        f"{_count_epochs(candidates[each], speed, facts, minutes):.1f} passes in {minutes:g} min"
        for each, speed in sorted(speeds.items())
    ]
    chosen = _plan(candidates[index], speeds[index], facts, minutes, opts)
    return replace(chosen, tried=tried, warnings=warnings[index])


def count_seen(weights: str) -> int | None:
    """Return the images that a checkpoint's training has shown the model, as often as it has.

    None where that is not known, and where the training itself began with other weights.
    """
    content = read_weight_file(find_weight_file(weights))
    try:
        if content["config"]["MODEL"].get("PRETRAINED"):
            return None
        return int((content["epoch"] + 1) * content["num_samples"] + content["position"])
    except (KeyError, TypeError, AttributeError):
        return None


def _models_from_scratch(facts: Facts) -> Iterator[tuple[Settings, float]]:
    """Yield models whose images are no larger than the data's, from the cheapest to the dearest; all are trained."""
    for size in SIZES:
        if not size.least_px <= facts.side_px < size.most_px:
            continue
        why = f"the data's shorter side is {facts.side_px:.0f} px in the median; {size.backing}"
        values = {"EMBED_DIM": size.embed_dim, "DEPTHS": [*size.depths], "NUM_HEADS": [*size.num_heads]}
        settings = {
            "DATA.IMG_SIZE": Setting(size.img_size, why),
            "MODEL.SWIN.PATCH_SIZE": Setting(size.patch, "with the window below, whole windows in every stage"),
            "MODEL.SWIN.WINDOW_SIZE": Setting(size.window, "divides the grids of all stages"),
            **{f"MODEL.SWIN.{key}": Setting(value, "the model of this size") for key, value in values.items()},
        }
        yield settings, 1.0


def _models_with(weights: Weights, file: str, facts: Facts) -> Iterator[tuple[Settings, float]]:
    """Yield the model of some weights, trained in part and then as a whole, and last for larger images."""
    family, arguments = model_arguments(weights.tensors, weights.windows)
    own = config_from_dict(weights.config or {})
    native = own.DATA.IMG_SIZE if weights.config is not None else arguments["img_size"]
    names = (
        "patch_size",
        "window_size",
        "embed_dim",
        "depths",
        "num_heads",
        "mlp_ratio",
        "qkv_bias",
        "ape",
        "patch_norm",
        "pretrained_window_sizes",
        "extra_norm_every",
    )
    known = {key: arguments[key] for key in names if key in arguments}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}
    reason, group = f"as the weights have it ({weights.format})", GROUP_OF_TYPE[family]
    settings = {f"MODEL.{group}.{key.upper()}": Setting(value, reason) for key, value in values.items()}
    settings["MODEL.TYPE"] = Setting(family, reason)
    settings["MODEL.PRETRAINED"] = Setting(file, "the weights that were given" + _shared_classes(weights, facts))
    settings["DATA.IMG_SIZE"] = Setting(native, "the size that the weights were trained with")
    if isinstance(native, int) and native >= 384:
        settings["TEST.CROP"] = Setting(False, "as published models for 384 px and more are evaluated")
    if arguments["in_chans"] == 3 and weights.config is not None:
        settings |= {key: Setting(list(own.DATA[key[5:]]), reason) for key in ("DATA.MEAN", "DATA.STD")}
    stages = len(values["depths"])
    for part in PARTS:
        frozen = [f"layers.{stage}" for stage in range(round(stages * (1 - part.trained)))]
        freeze = Setting(
            ["patch_embed", *frozen], "training all of it would take too long: the lower stages stay as they are"
        )
        yield {**settings, **({"TRAIN.FREEZE": freeze} if frozen else {})}, part.cost
    if isinstance(native, int) and 2 * native <= min(1.15 * facts.side_px, 224) and not values["ape"]:
        size = Setting(2 * native, f"twice the weights' own {native} px, since the data has more to see")
        yield {**settings, "DATA.IMG_SIZE": size}, 1.0


def _shared_classes(weights: Weights, facts: Facts) -> str:
    shared = len(set(weights.classes or ()) & set(facts.classes))
    return f"; the rows of the head are kept for the {shared} classes that they know" if shared else ""


def _count_rows(weights: Weights | None) -> int:
    """Return how many classes the head of some weights knows."""
    return len(weights.tensors.get("head.bias", ())) if weights else 0


def _facts_for_rules(facts: Facts, dist: Distributed) -> dict[str, float]:
    images = facts.num_train
    return {
        "images": images,
        "images_a_class": images / len(facts.classes),
        "side_px": facts.side_px,
        "imbalance": facts.imbalance,
        "grey": float(facts.is_grey),
        "signs": float(facts.has_signs),
        "unreadable": facts.num_unreadable,
        "gpu": float(dist.device.type != "cpu"),
    }


def _settle(
    model: Settings,
    part: float,
    facts: Facts,
    known: Mapping[str, float],
    dist: Distributed,
    name: str,
    opts: Sequence[str],
) -> Candidate:
    """Have the rules decide all that a model leaves open, but for what follows from its speed."""
    size = model["DATA.IMG_SIZE"].value
    settled = settle({**known, "img_size": max(size) if isinstance(size, list) else size})
    rules = {key: Setting(value, rule.reason) for key, (value, rule) in settled.items() if key not in DERIVED}
    derived = {key: value for key, (value, _) in settled.items() if key in DERIVED}
    reasons = {"DATA.VAL_SPLIT": VAL_SPLIT_REASON}
    layout = {key: Setting(value, reasons.get(key, "the data, as it was found")) for key, value in facts.keys.items()}
    settings = {**layout, "MODEL.NAME": Setting(name, "the run's folder is output/NAME/TAG"), **rules, **model}
    settings["DEVICE"] = Setting(dist.device.type, "what was measured")
    cost = find_cost(load(settings, opts), len(facts.classes), dist)
    settings |= _fit_memory(settings, cost, dist)
    return Candidate(settings, derived, cost.flops * part, cost)


def _fit_memory(settings: Settings, cost: Cost, dist: Distributed) -> Settings:
    """Return a batch that the device's memory holds, accumulated to the one that the rules want."""
    room = find_memory(dist.device) * _MEMORY_SHARE.get(dist.device.type, 0.5)
    batch = wanted = settings["DATA.BATCH_SIZE"].value
    while batch > 1 and cost.bytes_for(batch) > room:
        batch //= 2
    if batch == wanted:
        return {}
    return {
        "DATA.BATCH_SIZE": Setting(batch, f"what {room / 1e9:.1f} GB of memory hold"),
        "TRAIN.ACCUMULATION_STEPS": Setting(wanted // batch, f"{wanted} images an update, as the rates are meant for"),
    }


def _describe(candidate: Candidate) -> str:
    values = {key.rpartition(".")[2]: setting.value for key, setting in candidate.settings.items()}
    frozen = f", frozen {' '.join(values['FREEZE'])}" if "FREEZE" in values else ""
    return f"width {values['EMBED_DIM']}, blocks {values['DEPTHS']} at {values['IMG_SIZE']} px{frozen}"


def _count_epochs(candidate: Candidate, speed: Speed, facts: Facts, minutes: float) -> float:
    """Return the passes over the training set that the time allows, evaluations and checkpoints taken off."""
    budget = 60 * minutes
    spent = min(_EVALUATION_SHARE * budget, candidate.derived["evaluations"] * _evaluation_sec(speed, facts))
    return (budget - spent) * speed.train / facts.num_train


def _evaluation_sec(speed: Speed, facts: Facts) -> float:
    return facts.num_val / speed.val + 2 * speed.save_sec


def _fits(candidate: Candidate, speed: Speed, facts: Facts, minutes: float) -> bool:
    return _count_epochs(candidate, speed, facts, minutes) >= candidate.derived["wanted_epochs"]


def _guess(candidates: Sequence[Candidate], speeds: dict[int, Speed], facts: Facts, minutes: float) -> int:
    """Return the dearest candidate that may manage its passes, going by the measured one that is nearest to it."""
    best = 0
    for index, candidate in enumerate(candidates):
        nearest = min(speeds, key=lambda known: abs(known - index))
        known, speed = candidates[nearest], speeds[nearest]
        load_sec, compute_sec = 1 / speed.train - 1 / speed.compute, 1 / speed.compute
        guess = replace(speed, train=1 / (load_sec + compute_sec * candidate.work / known.work))
        if _fits(candidate, speed if nearest == index else guess, facts, minutes):
            best = index
    return best


def _plan(candidate: Candidate, speed: Speed, facts: Facts, minutes: float, opts: Sequence[str]) -> Choice:
    """Add the epochs that the time allows, and what follows from their number."""
    derived, images = candidate.derived, facts.num_train
    possible = _count_epochs(candidate, speed, facts, minutes)
    epochs = max(1, min(int(possible), int(derived["most_epochs"])))
    why = f"what {minutes:g} min allow at {speed.train:.0f} images/s, evaluations included"
    if possible > derived["most_epochs"]:
        why = f"more passes would hardly help, though {minutes:g} min allow {possible:.0f}"
    evaluation_sec = _evaluation_sec(speed, facts)
    affordable = int(_EVALUATION_SHARE * 60 * minutes / evaluation_sec)
    every = math.ceil(epochs / max(1, min(epochs, affordable, derived["evaluations"])))
    cfg = load(candidate.settings, opts)
    updates_per_epoch = math.ceil(images / (cfg.DATA.BATCH_SIZE * cfg.TRAIN.ACCUMULATION_STEPS))
    updates = epochs * updates_per_epoch
    decay = 1 - 1 / max(10.0, derived["ema_share"] * updates)
    settings = {
        **candidate.settings,
        "TRAIN.EPOCHS": Setting(epochs, why),
        "TRAIN.EMA.DECAY": Setting(
            round(min(decay, 0.9999), 4), "looks back over a part of the run, whatever its length"
        ),
        "EVAL_FREQ": Setting(every, f"epochs; an evaluation takes {evaluation_sec:.1f} s"),
        "SAVE_FREQ": Setting(every, "a checkpoint with each evaluation"),
        "PRINT_FREQ": Setting(max(10, updates // 300), "updates between two lines of the log"),
    }
    settings = _given(settings, opts)
    seconds = epochs * images / speed.train + math.ceil(epochs / every) * evaluation_sec
    memory = candidate.cost.bytes_for(cfg.DATA.BATCH_SIZE)
    return Choice(settings, load(settings, ()), seconds, updates, memory, [])


def _given(settings: Settings, opts: Sequence[str]) -> Settings:
    """Put what the user has given in place of what was chosen."""
    cfg = load(settings, opts)
    values = {key: reduce(getattr, key.split("."), cfg) for key in opts[::2]}
    return {**settings, **{key: Setting(_plain(value), "as it was given") for key, value in values.items()}}


def _plain(value: Any) -> Any:
    """Return a value as YAML writes it."""
    return dict(value) if isinstance(value, Mapping) else [*value] if isinstance(value, tuple) else value
