"""The table of rules by which tools.start chooses: what is known of data, weights and device, the settings, and why.

All is plain data, to be changed where something better is measured. `as_markdown` makes the tables of
docs/own-photos.md: `python -m tools.start.rules`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What the rules ask for, and how a condition on it reads; "{}" is a number.
FACTS = {
    "pretrained": "weights are given",
    "images": "training images",
    "images_a_class": "training images a class, on average",
    "side_px": "shorter side in the data, median, px",
    "img_size": "side that the model sees, px",
    "imbalance": "largest class / smallest",
    "grey": "all images are grey",
    "signs": "classes are single letters or digits, or sides",
    "unreadable": "training images of the sample that cannot be read",
    "gpu": "the device is a GPU",
    "weights_classes": "classes that the weights' head knows",
}
# Settings that are no keys: what they become is computed from the speed that is measured.
DERIVED = {
    "wanted_epochs": "passes over the training set that a model has to manage in the time, or a cheaper one is taken",
    "most_epochs": "passes at most, also where there is time for more",
    "ema_share": "part of the run that the average of the weights looks back over, for TRAIN.EMA.DECAY",
    "evaluations": "evaluations in the run at most, for EVAL_FREQ and SAVE_FREQ",
}


@dataclass(frozen=True)
class Rule:
    """Settings where a condition holds.

    Attributes:
        when: the range of each fact that the rule asks for, [low, high); it holds if all do.
        sets: values of config keys, or of `DERIVED`.
        reason: why, as the config's comment says it.
        backing: what was measured and where, or whose convention it is.
    """

    when: Mapping[str, tuple[float, float]]
    sets: Mapping[str, Any]
    reason: str
    backing: str

    def holds(self, facts: Mapping[str, float]) -> bool:
        """Tell whether the facts are in the rule's ranges."""
        return all(low <= facts[name] < high for name, (low, high) in self.when.items())


@dataclass(frozen=True)
class Size:
    """A model to train from scratch, for images whose shorter side is in [least_px, most_px) pixels."""

    least_px: int
    most_px: float
    img_size: int
    window: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    backing: str
    patch: int = field(default=4)


@dataclass(frozen=True)
class Part:
    """How much of a model with weights is trained: the stages from the last on, and the cost beside training all."""

    trained: float  # fraction of the stages, the last ones; 0 for the head alone
    cost: float


def above(low: float) -> tuple[float, float]:
    """Return the range from a number on."""
    return (low, math.inf)


def below(high: float) -> tuple[float, float]:
    """Return the range under a number."""
    return (-math.inf, high)


YES, NO = above(0.5), below(0.5)
_NOT_MEASURED = "a guess between measured sizes: not measured"

# From the cheapest to the dearest; windows divide the grids of all stages. The dearest that manages `wanted_epochs` in
# the time is taken.
SIZES = (
    Size(0, 40, 32, 4, 32, (2, 2), (2, 4), "measured: swin_digits, 98.7% of the digits"),
    Size(16, 64, 32, 4, 64, (2, 2), (2, 4), "measured: the like of swin_fashion_mnist, 92.9%"),
    Size(40, math.inf, 64, 4, 48, (2, 2, 2), (3, 6, 12), "measured: swin_flowers, 66% of 5 flowers from 300 images"),
    Size(64, math.inf, 64, 4, 64, (2, 2, 4), (2, 4, 8), _NOT_MEASURED),
    Size(80, math.inf, 96, 6, 64, (2, 2, 4), (2, 4, 8), _NOT_MEASURED),
    Size(110, math.inf, 128, 8, 64, (2, 2, 6), (2, 4, 8), _NOT_MEASURED),
    Size(160, math.inf, 224, 7, 96, (2, 2, 6, 2), (3, 6, 12, 24), "published: swin_tiny"),
)
# Of a model with weights: from the cheapest to the dearest, at its own size of images.
PARTS = (Part(0.0, 0.35), Part(0.5, 0.75), Part(1.0, 1.0))

# Where several rules set the same, the last that holds wins.
RULES = (
    Rule(
        {},
        {"TRAIN.LR_REFERENCE_BATCH": 0},
        "the rates are used as written, whatever the batch",
        "convention of this project's small recipes",
    ),
    # The batch.
    Rule(
        {},
        {"DATA.BATCH_SIZE": 16},
        "few images: small batches make enough updates",
        "measured: swin_flowers, tools/results/flowers.json",
    ),
    Rule(
        {"images": above(1000)},
        {"DATA.BATCH_SIZE": 32},
        "a thousand images and more: steadier gradients, still many updates",
        "convention: fine-tuning recipes of timm and of ViT (arXiv 2106.10270) use 32 to 512",
    ),
    Rule(
        {"images": above(5000)},
        {"DATA.BATCH_SIZE": 64},
        "thousands of images: a larger batch makes better use of the device",
        "measured: swin_fashion_mnist, tools/results/fashion_mnist.json",
    ),
    Rule(
        {"images": above(5000), "gpu": YES},
        {"DATA.BATCH_SIZE": 128},
        "a GPU is only busy with larger batches",
        "convention: the official repository's batch for each GPU",
    ),
    # From scratch.
    Rule(
        {"pretrained": NO},
        {"TRAIN.OPTIMIZER.NAME": "muon", "TRAIN.BASE_LR": 1e-2, "TRAIN.WARMUP_LR": 1e-5, "TRAIN.MIN_LR": 1e-5},
        "from scratch it learns far more in the same time than AdamW",
        "measured: swin_flowers, swin_fashion_mnist and swin_digits, docs/performance.md",
    ),
    Rule(
        {"pretrained": NO, "img_size": below(33), "images": below(5000)},
        {"TRAIN.BASE_LR": 2e-2, "DATA.BATCH_SIZE": 48},
        "a model this small learns faster at a large rate",
        "measured: swin_digits, tools/results/digits.json",
    ),
    Rule(
        {"pretrained": NO},
        {"TRAIN.WEIGHT_DECAY": 0.05, "MODEL.DROP_PATH_RATE": 0.1},
        "as Swin-T's recipe, with less stochastic depth for fewer blocks",
        "convention: arXiv 2103.14030, appendix A2; measured: swin_flowers",
    ),
    Rule(
        {"pretrained": NO, "img_size": below(33)},
        {"MODEL.DROP_PATH_RATE": 0.0},
        "four blocks: none to spare",
        "measured: swin_digits and swin_fashion_mnist",
    ),
    Rule(
        {"pretrained": NO},
        {"wanted_epochs": 60, "most_epochs": 600, "TRAIN.WARMUP_EPOCHS": 0.05},
        "small sets are learned in many passes; a twentieth of them to warm up",
        "measured: swin_flowers has 82 epochs, 5 of them warm-up",
    ),
    Rule(
        {"pretrained": NO, "images": above(20_000)},
        {"wanted_epochs": 8, "most_epochs": 100, "TRAIN.WARMUP_EPOCHS": 0.1},
        "many images need fewer passes",
        "measured: swin_fashion_mnist has 9 epochs for 60,000 images",
    ),
    Rule(
        {"pretrained": NO, "images": (2000, 20_000)},
        {"wanted_epochs": 30, "most_epochs": 300},
        "more images need fewer passes",
        _NOT_MEASURED,
    ),
    # With weights.
    Rule(
        {"pretrained": YES},
        {"TRAIN.BASE_LR": 3.5e-5, "TRAIN.WARMUP_LR": 1e-7, "TRAIN.MIN_LR": 1e-6},
        "small steps keep what the weights know",
        "convention: 1e-4 at a batch of 128 and its square root for others, near Hugging Face's example (2e-5 at 8)",
    ),
    Rule(
        {"pretrained": YES, "images": above(1000)},
        {"TRAIN.BASE_LR": 5e-5},
        "the same at a batch of 32",
        "convention: AdamW's rate follows the square root of the batch, arXiv 2205.10287",
    ),
    Rule(
        {"pretrained": YES, "images": above(5000)},
        {"TRAIN.BASE_LR": 7e-5},
        "the same at a batch of 64",
        "convention: AdamW's rate follows the square root of the batch, arXiv 2205.10287",
    ),
    Rule(
        {"pretrained": YES, "images": above(5000), "gpu": YES},
        {"TRAIN.BASE_LR": 1e-4},
        "the same at a batch of 128",
        "convention: AdamW's rate follows the square root of the batch, arXiv 2205.10287",
    ),
    Rule(
        {"pretrained": YES, "weights_classes": below(100)},
        {"TRAIN.BASE_LR": 5e-4},
        "weights that know few classes have much to learn still",
        _NOT_MEASURED,
    ),
    Rule(
        {"pretrained": YES},
        {"TRAIN.LAYER_DECAY": 0.9},
        "each block learns at this share of the rate of the one above: the lowest know most that is of use",
        "convention: SimMIM's fine-tuning of Swin-B, arXiv 2111.09886",
    ),
    Rule(
        {"pretrained": YES, "images": below(1000)},
        {"TRAIN.LAYER_DECAY": 0.8},
        "few images: more of what the weights know is kept",
        "convention: BEiT (arXiv 2106.08254) and ConvNeXt (arXiv 2201.03545) fine-tune with 0.65 to 0.9",
    ),
    Rule(
        {"pretrained": YES},
        {"TRAIN.WEIGHT_DECAY": 0.05, "MODEL.DROP_PATH_RATE": 0.1},
        "little regularisation: the weights are good already",
        "convention: the official fine-tuning recipes, swin_base_22kto1k",
    ),
    Rule(
        {"pretrained": YES},
        {"wanted_epochs": 8, "most_epochs": 50, "TRAIN.WARMUP_EPOCHS": 0.1},
        "weights adapt in tens of passes; where not even 8 fit, less of the model is trained",
        "convention: the official fine-tuning recipes have 30 epochs, 5 of warm-up",
    ),
    # The average of the weights.
    Rule(
        {},
        {"TRAIN.EMA.ENABLE": True, "ema_share": 0.05},
        "averaged weights are as good as a longer run",
        "measured: swin_digits (0.99) and swin_fashion_mnist (0.998)",
    ),
    # Augmentation.
    Rule(
        {},
        {"AUG.AUTO_AUGMENT": "none", "AUG.REPROB": 0.0, "AUG.MIXUP": 0.2, "AUG.CUTMIX": 0.0},
        "light mixing: ImageNet's strong augmentation is for far longer runs",
        "measured: swin_flowers, tools/results/flowers.json",
    ),
    Rule(
        {"pretrained": YES},
        {"AUG.MIXUP": 0.0},
        "fine-tuning needs no mixing",
        "convention: ConvNeXt's fine-tuning, arXiv 2201.03545",
    ),
    Rule(
        {},
        {"AUG.SCALE": [0.35, 1.0]},
        "smaller crops often miss what the image shows",
        "measured: swin_flowers, tools/results/flowers.json",
    ),
    Rule(
        {"images": above(20_000), "img_size": below(33)},
        {"AUG.MIXUP": 0.0, "AUG.CROP_PADDING": 0, "MODEL.LABEL_SMOOTHING": 0.0},
        "in few passes a small model underfits: whatever slows it down is off",
        "measured: swin_fashion_mnist, tools/results/fashion_mnist.json",
    ),
    Rule(
        {"img_size": below(33)},
        {"AUG.COLOR_JITTER": 0.0, "TEST.CROP": False, "DATA.INTERPOLATION": "bilinear"},
        "tiny images are taken whole and as they are",
        "measured: swin_digits and swin_fashion_mnist",
    ),
    Rule(
        {},
        {"AUG.HFLIP": 0.5},
        "mirror images count as the same; set 0 if left and right matter, as in text, signs and some scans",
        "convention: every ImageNet recipe; whether it is right for your images only you can know",
    ),
    Rule(
        {"signs": YES},
        {"AUG.HFLIP": 0.0},
        "by their names the classes are letters, digits or sides: a mirror image is another",
        "measured: swin_digits",
    ),
    # Channels.
    Rule(
        {"pretrained": NO, "grey": YES},
        {"MODEL.SWIN.IN_CHANS": 1, "DATA.MEAN": [0.449], "DATA.STD": [0.226]},
        "all images are grey; mean and deviation are ImageNet's in grey",
        "convention: ImageNet's, averaged over its channels",
    ),
    # Unequal classes.
    Rule(
        {"imbalance": above(10)},
        {"DATA.SAMPLER": "balanced", "TRAIN.MONITOR": "balanced_accuracy"},
        "the largest class has 10 times the images of the smallest and more: all are drawn, and count, equally",
        "convention: class-balanced sampling, arXiv 1910.09217",
    ),
    # The machine.
    Rule(
        {"unreadable": above(1)},
        {"DATA.ON_ERROR": "skip"},
        "some training images cannot be read: the next one is taken instead",
        "behaviour of DATA.ON_ERROR",
    ),
    Rule(
        {},
        {"DATA.NUM_WORKERS": 2},
        "processes that decode images",
        "measured: swin_flowers on two cores",
    ),
    Rule(
        {"gpu": YES},
        {"DATA.NUM_WORKERS": 8},
        "processes that decode images, and no more than there are CPUs",
        "convention: the official repository's",
    ),
    Rule(
        {"side_px": below(20), "images": below(5000)},
        {"DATA.NUM_WORKERS": 0},
        "one small image takes less time than handing it from process to process",
        "measured: swin_digits",
    ),
    Rule(
        {"pretrained": NO, "gpu": NO, "img_size": below(100)},
        {"AMP_ENABLE": False},
        "matrices this small gain nothing from bfloat16",
        "measured: swin_digits, swin_fashion_mnist and swin_flowers",
    ),
    Rule(
        {}, {"evaluations": 20}, "often enough to see a curve, seldom enough to cost little", "measured: swin_flowers"
    ),
)
# Images that a model from scratch has to have seen in training for each of its parameters, or its weights are left out:
# a quarter of an epoch of ImageNet for Swin-T. A guess: no such weights have been compared with a small model.
SEEN_A_PARAMETER = 0.01
VAL_SPLIT = 0.2  # held out where the data has no part to validate on
VAL_SPLIT_REASON = "the data has no part to validate on: a fifth of each class is held out"


def settle(facts: Mapping[str, float]) -> dict[str, tuple[Any, Rule]]:
    """Return each setting with its value and the rule that it follows from."""
    return {key: (value, rule) for rule in RULES if rule.holds(facts) for key, value in rule.sets.items()}


def describe_condition(when: Mapping[str, tuple[float, float]]) -> str:
    """Say in words when a rule holds."""

    def one(name: str, limits: tuple[float, float]) -> str:
        low, high = limits
        if limits in (YES, NO):
            return FACTS[name] if limits == YES else f"not: {FACTS[name]}"
        bounds = [f"at least {low:,g}"] if math.isfinite(low) else []
        bounds += [f"below {high:,g}"] if math.isfinite(high) else []
        return f"{FACTS[name]}: {', '.join(bounds)}"

    return "; ".join(one(name, limits) for name, limits in when.items()) or "always"


def _in_code(sets: Mapping[str, Any]) -> str:
    """Return settings as code: config keys as for --opts, all in one piece, then the others."""
    words = {key: str(value).replace(" ", "") for key, value in sets.items()}
    keys = " ".join(f"{key} {value}" for key, value in words.items() if key not in DERIVED)
    others = [f"{key} {value}" for key, value in words.items() if key in DERIVED]
    return ", ".join(f"`{text}`" for text in (keys, *others) if text)


def as_markdown() -> str:
    """Return the tables of the documentation."""
    lines = ["| when | settings | because | backing |", "|---|---|---|---|"]
    for rule in RULES:
        lines.append(f"| {describe_condition(rule.when)} | {_in_code(rule.sets)} | {rule.reason} | {rule.backing} |")
    lines += ["", "| name | what it is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in DERIVED.items())]
    lines += [
        "",
        "| shorter side from | below | images | patch | window | width | blocks | heads | backing |",
        "|---|" + "---|" * 8,
    ]
    for size in SIZES:
        row = (
            size.least_px,
            size.most_px,
            size.img_size,
            size.patch,
            size.window,
            size.embed_dim,
            [*size.depths],
            [*size.num_heads],
        )
        lines.append(f"| {' | '.join(map(str, (*row, size.backing)))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown())
