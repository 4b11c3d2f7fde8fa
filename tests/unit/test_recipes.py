"""The project's recipes: they load, and agree with the variants, the published numbers and the official files."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from swin.config import Config, load_config
from swin.models import VARIANTS, SwinTransformer, freeze
from swin.schedule import build_schedule

CONFIGS = Path(__file__).parents[2] / "configs"
NAMED = [name for name in VARIANTS if (CONFIGS / f"{name}.yaml").is_file()]
OTHERS = [
    path.stem
    for path in sorted(CONFIGS.glob("*.yaml"))
    if path.stem.endswith(("_paper", "_mmpretrain", "_torchvision"))
]

# Epochs, warm-up epochs, weight decay; then base, warm-up and minimum learning rate for a batch of 512.
SCRATCH = (300, 20, 0.05, 5e-4, 5e-7, 5e-6)
PRETRAINING = (90, 5, 0.05, 1.25e-4, 1.25e-7, 1.25e-6)
PRETRAINING_V2 = (90, 5, 0.1, 1.25e-4, 1.25e-7, 1.25e-6)
FINETUNING = (30, 5, 1e-8, 2e-5, 2e-8, 2e-7)


def load(name: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml")


def training(cfg: Config) -> tuple[float, ...]:
    train = cfg.TRAIN
    rates = (train.BASE_LR, train.WARMUP_LR, train.MIN_LR)
    return (train.EPOCHS, train.WARMUP_EPOCHS, train.WEIGHT_DECAY, *rates)


def architecture(cfg: Config) -> tuple[Any, ...]:
    swin = cfg.architecture
    return (swin.EMBED_DIM, tuple(swin.DEPTHS), tuple(swin.NUM_HEADS), swin.WINDOW_SIZE, cfg.DATA.IMG_SIZE)


def header(name: str) -> str:
    return "".join(re.findall(r"^#.*\n", (CONFIGS / f"{name}.yaml").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_loads_without_warnings(path: Path) -> None:
    cfg = load_config(path)
    if path.stem == "swin_fashion_mnist":  # whole windows at every stage were tried, and learn more slowly
        [warning] = cfg.warnings
        assert "IMG_SIZE = 28" in warning
        assert "wastes time on padding" in warning
    else:
        assert cfg.warnings == ()
    assert not cfg.is_set("MODEL.NUM_CLASSES"), "the class count comes from the data"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_leaf_starts_with_its_command(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines()[:8] if line.startswith("#")]
    assert any(f"main.py --cfg configs/{path.name}" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "numbers"), [("in1k_300e", SCRATCH), ("in22k_90e", PRETRAINING), ("finetune_30e", FINETUNING)]
)
def test_base_recipes_hold_the_published_numbers(name: str, numbers: tuple[float, ...]) -> None:
    cfg = load(f"_base_/{name}")
    assert training(cfg) == numbers
    assert (cfg.TRAIN.CLIP_GRAD, cfg.TRAIN.LR_REFERENCE_BATCH, cfg.MODEL.LABEL_SMOOTHING) == (5.0, 512, 0.1)
    assert (cfg.AUG.MIXUP, cfg.AUG.CUTMIX, cfg.AUG.REPROB, cfg.AUG.COLOR_JITTER) == (0.8, 1.0, 0.25, 0.4)


def test_digits_are_never_mirrored() -> None:
    cfg = load("swin_digits")
    assert (cfg.DATA.DATASET, cfg.MODEL.SWIN.IN_CHANS, cfg.AUG.HFLIP, cfg.AUG.VFLIP) == ("digits", 1, 0.0, 0.0)


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_has_its_variants_numbers(name: str) -> None:
    cfg, variant = load(name), VARIANTS[name]
    numbers = (variant.embed_dim, variant.depths, variant.num_heads, variant.window_size, variant.img_size)
    assert architecture(cfg) == numbers
    dataset = "imagenet22K" if name.endswith("_22k") else "folder" if "cub" in name else "imagenet"
    found = (cfg.MODEL.NAME, cfg.MODEL.DROP_PATH_RATE, cfg.DATA.DATASET, cfg.TEST.CROP)
    assert found == (
        variant.official or name,
        variant.drop_path_rate,
        dataset,
        variant.img_size < 384 or "cub" in name,
    )
    own = cfg.architecture
    assert (own.MLP_RATIO, own.PATCH_SIZE, own.get("QKV_BIAS", True), own.APE) == (4.0, 4, True, False)
    assert own.get("PRETRAINED_WINDOW_SIZES", [0] * 4) == list(variant.more.get("pretrained_window_sizes", [0] * 4))
    assert variant.family == cfg.MODEL.TYPE


@pytest.mark.parametrize("name", NAMED)
def test_a_recipe_trains_as_published(name: str) -> None:
    if "cub" in name:
        assert training(load(name)) == (100, 5, 5e-4, 5e-6, 5e-8, 0.0)
        return
    is_finetuning = name.endswith("22kto1k") or name == "swin_base_384"
    pretraining = PRETRAINING_V2 if name.startswith("swinv2") else PRETRAINING
    assert training(load(name)) == (pretraining if name.endswith("_22k") else FINETUNING if is_finetuning else SCRATCH)


@pytest.mark.parametrize("name", [*NAMED, *OTHERS])
def test_a_header_tells_command_batch_and_result(name: str) -> None:
    text, cfg = header(name), load(name)
    total = int(re.search(r"Effective batch (\d+)", text)[1])  # type: ignore[index]
    devices = int(re.search(r"--nproc-per-node=(\d+)", text)[1])  # type: ignore[index]
    accumulated = re.search(r"--accumulation-steps (\d+)", text)
    assert total == cfg.DATA.BATCH_SIZE * devices * (int(accumulated[1]) if accumulated else 1)
    assert total == (4096 if "_22k_" in f"{name}_" else 64 if "cub" in name else 1024)
    assert ("--pretrained" in text) == (cfg.TRAIN.EPOCHS in (30, 100))
    assert "Expected: top-1 " in text or "No accuracy is published" in text or "Published by torchvision" in text
    variant = VARIANTS.get(name)
    if variant and variant.top1:
        assert f"top-1 {variant.top1}" in text
        assert variant.top5 is None or f"top-5 {variant.top5}" in text
    assert len((CONFIGS / f"{name}.yaml").read_text().splitlines()) < 50


@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_to_a_variant_have_its_architecture(name: str) -> None:
    cfg, own = load(name), load(name.rpartition("_")[0])
    assert architecture(cfg) == architecture(own)
    assert cfg.MODEL.DROP_PATH_RATE == own.MODEL.DROP_PATH_RATE
    assert name == cfg.MODEL.NAME, "two recipes must not share a run's folder"


def rates(cfg: Config, batch: int) -> list[float]:
    schedule = build_schedule(cfg, effective_batch=batch, total_updates=cfg.TRAIN.EPOCHS * 10)
    return [schedule(step) for step in range(cfg.TRAIN.EPOCHS * 10)]


def test_the_papers_finetuning_has_a_constant_rate() -> None:
    assert set(rates(load("swin_base_384_paper"), 1024)) == {1e-5}
    assert load("swin_large_22kto1k_paper").TRAIN.WEIGHT_DECAY == 1e-8


def test_the_papers_pretraining_decays_linearly() -> None:
    cfg = load("swin_large_22k_paper")
    values = rates(cfg, 4096)
    assert (cfg.TRAIN.WEIGHT_DECAY, max(values)) == (0.01, pytest.approx(1e-3))
    falls = [first - second for first, second in pairwise(values[50:])]
    assert falls == pytest.approx([falls[0]] * len(falls))


def test_mmpretrains_rates_are_the_official_ones() -> None:
    assert rates(load("swin_tiny_mmpretrain"), 1024) == pytest.approx(rates(load("swin_tiny"), 1024))


def test_torchvisions_recipe() -> None:
    cfg = load("swin_tiny_torchvision")
    values = rates(cfg, 1024)
    assert (values[0], max(values)) == (pytest.approx(1e-5), pytest.approx(1e-3))
    assert (cfg.AUG.AUTO_AUGMENT, cfg.TRAIN.EMA.ENABLE, cfg.TRAIN.WEIGHT_DECAY) == ("ta_wide", True, 0.05)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["finetune", "probe"])
def test_recipes_for_any_variant_take_each(name: str, variant: str) -> None:
    cfg, row = load_config(name, ["MODEL.VARIANT", variant, "TRAIN.EPOCHS", "1"]), VARIANTS[variant]
    numbers = (row.embed_dim, row.depths, row.num_heads, row.window_size, row.img_size)
    assert (architecture(cfg), cfg.MODEL.NAME, cfg.warnings) == (numbers, name, ())


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("finetune", {8: 2.5e-5, 32: 5e-5, 128: 1e-4, 1024: 2.83e-4}),
        ("scratch_small", {8: 3.5e-3, 32: 7e-3, 128: 1.4e-2}),
        ("probe", {16: 5e-4, 64: 1e-3, 1024: 4e-3}),
        ("in1k_100e", {1024: 1e-3, 4096: 4e-3}),
    ],
)
def test_peaks_by_batch(name: str, peaks: dict[int, float]) -> None:
    for batch, peak in peaks.items():
        assert max(rates(load(name), batch)) == pytest.approx(peak, rel=1e-3)


def test_the_probe_trains_the_head_alone() -> None:
    model = SwinTransformer(embed_dim=8, depths=(1, 1), num_heads=(1, 1), num_classes=3, ape=False)
    freeze(model, load("probe").TRAIN.FREEZE)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias"}


def test_the_short_schedule_differs_from_the_published_one_where_it_says() -> None:
    short, full = load("in1k_100e"), load("swin_tiny")
    assert training(short) == (100, 0.1, *SCRATCH[2:])
    assert architecture(short) == architecture(full)
    assert (short.AUG.MIXUP, short.AUG.CUTMIX, short.AUG.REPROB) == (0.2, 0.0, 0.0)
    assert architecture(load_config("in1k_100e", ["MODEL.VARIANT", "swin_base"])) == architecture(load("swin_base"))


@pytest.mark.parametrize("name", ["finetune", "probe", "scratch_small", "in1k_100e"])
def test_a_header_says_what_to_expect(name: str) -> None:
    assert "Expected" in header(name)
    assert len((CONFIGS / f"{name}.yaml").read_text().splitlines()) < 50


# What the official repository's configs/swin/*.yaml say: the values that follow its defaults are not in them.
OFFICIAL: dict[str, dict[str, Any]] = {
    f"swin_{size}_patch4_window{window}_{pixels}{suffix}": {"size": size, "window": window, "pixels": pixels, **values}
    for size, window, pixels, suffix, values in [
        ("tiny", 7, 224, "", {"drop_path": 0.2}),
        ("small", 7, 224, "", {"drop_path": 0.3}),
        ("base", 7, 224, "", {"drop_path": 0.5}),
        ("tiny_c24", 8, 256, "", {"drop_path": 0.2}),
        ("tiny", 7, 224, "_22k", {"drop_path": 0.1, "train": PRETRAINING}),
        *((size, 7, 224, "_22k", {"drop_path": 0.2, "train": PRETRAINING}) for size in ("small", "base", "large")),
        ("tiny", 7, 224, "_22kto1k_finetune", {"drop_path": 0.1, "train": FINETUNING}),
        *(
            (size, 7, 224, "_22kto1k_finetune", {"drop_path": 0.2, "train": FINETUNING})
            for size in ("small", "base", "large")
        ),
        ("base", 12, 384, "_finetune", {"drop_path": 0.5, "train": FINETUNING}),
        *((size, 12, 384, "_22kto1k_finetune", {"drop_path": 0.2, "train": FINETUNING}) for size in ("base", "large")),
    ]
}
FROM_192 = "[ 12, 12, 12, 6 ]"
OFFICIAL |= {
    f"swinv2_{size}_patch4_window{window}_{pixels}{suffix}": {"family": "swinv2", "size": size, **values}
    for size, window, pixels, suffix, values in [
        *(
            (size, window, 256, "", {"window": window, "pixels": 256, "drop_path": drop_path})
            for size, drop_path in (("tiny", 0.2), ("small", 0.3), ("base", 0.5))
            for window in (8, 16)
        ),
        *(
            (size, 12, 192, "_22k", {"window": 12, "pixels": 192, "drop_path": 0.2, "train": PRETRAINING_V2})
            for size in ("base", "large")
        ),
        *(
            (size, f"12to{window}", f"192to{pixels}", "_22kto1k_ft", {"window": window, "pixels": pixels, **more})
            for size in ("base", "large")
            for window, pixels in ((16, 256), (24, 384))
            for more in [{"drop_path": 0.2, "train": FINETUNING, "pretrained": FROM_192}]
        ),
    ]
}
OFFICIAL |= {
    f"swin_mlp_{name}": {"family": "swin_mlp", "size": size, "window": window, "pixels": pixels, "drop_path": drop_path}
    for name, size, window, pixels, drop_path in [
        *((f"tiny_{size}_patch4_window8_256", f"tiny_{size}", 8, 256, 0.2) for size in ("c6", "c12", "c24")),
        ("base_patch4_window7_224", "base", 7, 224, 0.5),
    ]
}
SIZES = {
    "tiny_c6": (96, "[ 2, 2, 6, 2 ]", "[ 16, 32, 64, 128 ]"),
    "tiny_c12": (96, "[ 2, 2, 6, 2 ]", "[ 8, 16, 32, 64 ]"),
    "tiny": (96, "[ 2, 2, 6, 2 ]", "[ 3, 6, 12, 24 ]"),
    "tiny_c24": (96, "[ 2, 2, 6, 2 ]", "[ 4, 8, 16, 32 ]"),
    "small": (96, "[ 2, 2, 18, 2 ]", "[ 3, 6, 12, 24 ]"),
    "base": (128, "[ 2, 2, 18, 2 ]", "[ 4, 8, 16, 32 ]"),
    "large": (192, "[ 2, 2, 18, 2 ]", "[ 6, 12, 24, 48 ]"),
}


def official_file(name: str, facts: dict[str, Any]) -> str:
    """Write an official file in its own spelling: inner spaces in lists, and 1e-8 and 2e-05 without a decimal point."""
    dim, depths, heads = SIZES[facts["size"]]
    family = facts.get("family", "swin")
    lines = ["MODEL:", f"  TYPE: {family}", f"  NAME: {name}", f"  DROP_PATH_RATE: {facts['drop_path']}"]
    lines += [f"  {family.upper()}:"]
    lines += [f"    EMBED_DIM: {dim}", f"    DEPTHS: {depths}", f"    NUM_HEADS: {heads}"]
    lines += [f"    WINDOW_SIZE: {facts['window']}"]
    lines += [f"    PRETRAINED_WINDOW_SIZES: {facts['pretrained']}"] if "pretrained" in facts else []
    data = ["  DATASET: imagenet22K"] if name.endswith("_22k") else []
    data += [f"  IMG_SIZE: {facts['pixels']}"] if facts["pixels"] != 224 else []
    lines = ["DATA:", *data, *lines] if data else lines
    if "train" in facts:
        keys = ("EPOCHS", "WARMUP_EPOCHS", "WEIGHT_DECAY", "BASE_LR", "WARMUP_LR", "MIN_LR")
        lines += ["TRAIN:", *(f"  {key}: {value}" for key, value in zip(keys, facts["train"], strict=True))]
    if facts["pixels"] == 384:
        lines += ["TEST:", "  CROP: False"]
    return "\n".join(lines)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_load_unchanged_and_say_what_ours_say(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(official_file(name, OFFICIAL[name]))
    official = load_config(path)
    assert official.warnings == ()
    (own_name,) = (own for own, variant in VARIANTS.items() if variant.official == name)
    own = load(own_name)
    assert (architecture(official), training(official)) == (architecture(own), training(own))
    assert official.architecture == own.architecture
    keys = ("NAME", "DROP_PATH_RATE", "LABEL_SMOOTHING")
    assert [official.MODEL[key] for key in keys] == [own.MODEL[key] for key in keys]
    assert (official.AUG, official.TEST) == (own.AUG, own.TEST)
    assert official.DATA.DATASET == own.DATA.DATASET


# What its configs/simmim/*.yaml say, apart from the architecture: family, window, pixels, drop path, and their own.
SIMMIM: dict[str, tuple[str, int, int, float, str]] = {
    "simmim_pretrain__swin_base__img192_window6__800ep": ("swin", 6, 192, 0.0, ""),
    "simmim_pretrain__swinv2_base__img192_window12__800ep": ("swinv2", 12, 192, 0.1, ""),
    "simmim_finetune__swin_base__img224_window7__800ep": ("swin", 7, 224, 0.1, "LAYER_DECAY: 0.8"),
    "simmim_finetune__swinv2_base__img224_window14__800ep": ("swinv2", 14, 224, 0.1, "LAYER_DECAY: 0.75"),
}
SIMMIM_TRAIN = {
    "pretrain": """{EPOCHS: 800, WARMUP_EPOCHS: 10, BASE_LR: 1e-4, WARMUP_LR: 5e-7, WEIGHT_DECAY: 0.05,
         LR_SCHEDULER: {NAME: 'multistep', GAMMA: 0.1, MULTISTEPS: [700,]}}""",
    "finetune": """{EPOCHS: 100, WARMUP_EPOCHS: 20, BASE_LR: 1.25e-3, WARMUP_LR: 2.5e-7, MIN_LR: 2.5e-7,
         WEIGHT_DECAY: 0.05, %s}""",
}


@pytest.mark.parametrize("name", SIMMIM)
def test_official_files_of_simmim_load_unchanged_and_say_what_ours_say(name: str, tmp_path: Path) -> None:
    family, window, pixels, drop_path, of_training = SIMMIM[name]
    method = name.split("__")[0].removeprefix("simmim_")
    more = ", PRETRAINED_WINDOW_SIZES: [ 12, 12, 12, 6 ]" if (method, family) == ("finetune", "swinv2") else ""
    norm = (
        ", SIMMIM: {NORM_TARGET: {ENABLE: True, PATCH_SIZE: 47}}" if (method, family) == ("pretrain", "swinv2") else ""
    )
    train = SIMMIM_TRAIN[method] % of_training if of_training else SIMMIM_TRAIN[method]
    path = tmp_path / f"{name}.yaml"
    path.write_text(
        f"""
MODEL: {{TYPE: {family}, NAME: {name}, DROP_PATH_RATE: {drop_path}{norm}, {family.upper()}: {{EMBED_DIM: 128,
    DEPTHS: [ 2, 2, 18, 2 ], NUM_HEADS: [ 4, 8, 16, 32 ], WINDOW_SIZE: {window}{more}}}}}
DATA: {{IMG_SIZE: {pixels}{", MASK_PATCH_SIZE: 32, MASK_RATIO: 0.6" if method == "pretrain" else ""}}}
TRAIN: {train}
PRINT_FREQ: 100
SAVE_FREQ: 5
TAG: {name}
"""
    )
    official = load_config(path, ["TRAIN.LOSS", "simmim"] if method == "pretrain" else [])
    assert official.warnings == ()
    own = load(f"simmim_{family}_base" + ("_finetune" if method == "finetune" else ""))
    assert (architecture(official), training(official)) == (architecture(own), training(own))
    assert official.architecture == own.architecture
    assert (name, own.MODEL.DROP_PATH_RATE) == (official.MODEL.NAME, official.MODEL.DROP_PATH_RATE)
    assert name == own.MODEL.NAME
    keys = ("LOSS", "LAYER_DECAY", "CLIP_GRAD", "LR_SCHEDULER", "OPTIMIZER", "LR_REFERENCE_BATCH")
    assert [official.TRAIN[key] for key in keys] == [own.TRAIN[key] for key in keys]
    assert (official.AUG, official.TEST, official.MODEL.SIMMIM) == (own.AUG, own.TEST, own.MODEL.SIMMIM)
    keys = ("DATASET", "INTERPOLATION", "MASK_PATCH_SIZE", "MASK_RATIO", "BATCH_SIZE")
    assert [official.DATA[key] for key in keys] == [own.DATA[key] for key in keys]
    if method == "pretrain":
        [warning] = load_config(path).warnings
        assert "for one, --opts TRAIN.LOSS simmim" in warning
