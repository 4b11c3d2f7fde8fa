"""The YAML files that the project ships."""

from pathlib import Path

import pytest

from swin.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


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
    header = [line for line in path.read_text().splitlines()[:8] if line.startswith("#")]
    assert any(f"main.py --cfg configs/{path.name}" in line for line in header)


@pytest.mark.parametrize(
    ("name", "epochs", "warmup", "decay", "rates"),
    [
        ("in1k_300e", 300, 20, 0.05, (5e-4, 5e-7, 5e-6)),
        ("in22k_90e", 90, 5, 0.05, (1.25e-4, 1.25e-7, 1.25e-6)),
        ("finetune_30e", 30, 5, 1e-8, (2e-5, 2e-8, 2e-7)),
    ],
)
def test_base_recipes_hold_the_published_numbers(
    name: str, epochs: int, warmup: int, decay: float, rates: tuple[float, float, float]
) -> None:
    cfg = load_config(CONFIGS / "_base_" / f"{name}.yaml")
    train = cfg.TRAIN
    assert (epochs, warmup, decay) == (train.EPOCHS, train.WARMUP_EPOCHS, train.WEIGHT_DECAY)
    assert rates == (train.BASE_LR, train.WARMUP_LR, train.MIN_LR)
    assert (train.CLIP_GRAD, train.LR_REFERENCE_BATCH, cfg.MODEL.LABEL_SMOOTHING) == (5.0, 512, 0.1)
    assert (cfg.AUG.MIXUP, cfg.AUG.CUTMIX, cfg.AUG.REPROB, cfg.AUG.COLOR_JITTER) == (0.8, 1.0, 0.25, 0.4)


def test_swin_tiny() -> None:
    cfg = load_config(CONFIGS / "swin_tiny.yaml")
    assert (cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.DEPTHS, cfg.MODEL.DROP_PATH_RATE) == (96, [2, 2, 6, 2], 0.2)


def test_digits_are_never_mirrored() -> None:
    cfg = load_config(CONFIGS / "swin_digits.yaml")
    assert (cfg.DATA.DATASET, cfg.MODEL.SWIN.IN_CHANS, cfg.AUG.HFLIP, cfg.AUG.VFLIP) == ("digits", 1, 0.0, 0.0)
