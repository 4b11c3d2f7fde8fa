"""Ranges, choices and rules between keys: each message, and what must be accepted."""

import pytest

from swin.config import load_config
from swin.config.keys import KEYS, Key
from swin.errors import ConfigError


def errors(**values: object) -> list[str]:
    """Error lines for overrides; a double underscore stands for a dot."""
    try:
        load_config(None, (), {key.replace("__", "."): value for key, value in values.items()})
    except ConfigError as error:
        return str(error).splitlines()
    return []


def warnings(**values: object) -> tuple[str, ...]:
    return load_config(None, (), {key.replace("__", "."): value for key, value in values.items()}).warnings


@pytest.mark.parametrize("name", KEYS)
def test_a_declaration_has_a_meaning_and_allows_its_default(name: str) -> None:
    key = KEYS[name]
    assert key.deprecated or key.meaning.endswith(".")
    assert key.convert(key.default) == key.default
    assert key.refuse(key.default) == ""


def test_every_number_that_has_an_effect_has_a_range() -> None:
    for name, key in KEYS.items():
        is_number = any(kind.strip("[]") in ("int", "float") for kind in key.kind.split("|"))
        is_exempt = key.deprecated or not key.has_effect or name == "TRAIN.FREEZE"  # stages: their number is not known
        assert not is_number or is_exempt or key.between, name


def test_keys_of_families_that_are_not_trained_are_accepted() -> None:
    accepted = {name for name, key in KEYS.items() if not key.has_effect}
    groups = ("MODEL.SWIN_MOE.", "TRAIN.MOE.")
    assert accepted == {name for name in KEYS if name.startswith(groups)}
    assert all(any(name.startswith(group) for name in accepted) for group in groups)
    assert KEYS["MODEL.SWIN_MOE.EMBED_DIM"].between == "", "only the types of their values are checked"


def test_an_option_is_one_declaration() -> None:
    key = Key(0.5, between="[0, 1)", is_new=True).means("A fraction.")
    assert (key.kind, key.describe()) == ("float", "a number in [0, 1)")
    assert key.convert("2e-1") == 0.2
    assert key.refuse(1.0) == "a number in [0, 1)"


def test_defaults_give_no_warning() -> None:
    assert warnings() == ()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("DATA.VAL_SPLIT", 1.0, "expected a number in [0, 1)"),
        ("DATA.VAL_SPLIT", -0.1, "expected a number in [0, 1)"),
        ("DATA.BATCH_SIZE", 0, "expected a number of at least 1"),
        ("DATA.STD", [0.1, 0.0, 0.1], "expected numbers above 0"),
        ("DATA.MEAN", [0.1, float("nan"), 0.1], "expected numbers that are finite"),
        ("DATA.NUM_WORKERS", -1, "expected a number of at least 0"),
        ("TRAIN.EPOCHS", 0, "expected a number of at least 1"),
        ("TRAIN.ACCUMULATION_STEPS", 0, "expected a number of at least 1"),
        ("TRAIN.BASE_LR", 0.0, "expected a number above 0"),
        ("TRAIN.BASE_LR", float("nan"), "expected a number above 0"),
        ("TRAIN.BASE_LR", float("inf"), "expected a number above 0"),
        ("MODEL.LABEL_SMOOTHING", 1.0, "expected a number in [0, 1)"),
        ("AUG.MIXUP", -0.1, "expected a number of at least 0"),
        ("AUG.MIXUP_PROB", 1.1, "expected a number in [0, 1]"),
        ("AUG.SCALE", [0.0, 1.0], "expected numbers in (0, 1]"),
        ("AUG.SCALE", [0.5], "expected 2 values, not 1"),
        ("AUG.SCALE", [0.9, 0.5], "expected [low, high] with the lower value first"),
        ("AUG.CUTMIX_MINMAX", [0.5, 0.5], "expected [low, high] with the lower value first"),
        ("AUG.CUTMIX_MINMAX", [-0.5, 0.5], "expected numbers in [0, 1]"),
        ("DATA.IMG_SIZE", [224, 224, 3], "expected 2 values [height, width], not 3"),
        ("MODEL.SWIN.DEPTHS", [], "expected one value for each stage"),
        ("TRAIN.OPTIMIZER.BETAS", [0.9, 1.0], "expected numbers in [0, 1)"),
        ("SEED", 2**32, "expected a number in [0, 4294967296)"),
        ("DATA.INTERPOLATION", "bicubicc", "lanczos, random; did you mean bicubic?"),
        ("DATA.CACHE_MODE", "yes", "expected one of no, part, full"),
        ("DATA.DATASET", "imagnet", "did you mean imagenet?"),
        ("MODEL.TYPE", "swin_v2", "expected one of swin, swinv2, swin_mlp; did you mean swinv2?"),
        ("MODEL.ATTENTION", "flash", "expected one of auto, eager, sdpa"),
        ("TRAIN.OPTIMIZER.NAME", "fused_adam", "expected one of adamw, sgd"),
        ("TRAIN.LR_SCHEDULER.NAME", "cosin", "did you mean cosine?"),
        ("TRAIN.LOSS", "mse", "expected one of ce, bce, asl"),
        ("AUG.AUTO_AUGMENT", "random-m9", "as in rand-m9-mstd0.5-inc1"),
        ("AUG.AUTO_AUGMENT", "v1", "as in rand-m9-mstd0.5-inc1"),
        ("DEVICE", "gpu", "expected auto, cpu, mps, cuda or cuda:N"),
        ("TAG", "../x", "it becomes a folder below OUTPUT"),
        ("MODEL.NAME", "", "it becomes a folder below OUTPUT"),
    ],
)
def test_refused_values(key: str, value: object, expected: str) -> None:
    lines = errors(**{key: value})
    assert len(lines) == 1
    assert lines[0].startswith(f"{key} = ")
    assert "(command line)" in lines[0]
    assert expected in lines[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AUG.AUTO_AUGMENT", "none"),
        ("AUG.AUTO_AUGMENT", ""),
        ("AUG.AUTO_AUGMENT", "augmix-m5-w4-d2"),
        ("AUG.AUTO_AUGMENT", "original-mstd0.5"),
        ("AUG.AUTO_AUGMENT", "3a"),
        ("DATA.DATASET", "imagenet22K"),
        ("DATA.INTERPOLATION", "random"),
        ("DEVICE", "cuda:3"),
        ("TAG", "sweep/lr-1e-3"),
        ("TRAIN.CLIP_GRAD", 0),
        ("TRAIN.LR_REFERENCE_BATCH", 0),
        ("AUG.RATIO", [1.0, 1.0]),
        ("AUG.MIXUP", 0),
        ("TRAIN.WARMUP_EPOCHS", 0),
        ("DATA.VAL_SPLIT", 0.2),
    ],
)
def test_allowed_values(key: str, value: object) -> None:
    assert errors(**{key: value}) == []


def test_choices_ignore_case() -> None:
    cfg = load_config(None, ["TRAIN.LR_SCHEDULER.NAME", "Cosine", "DATA.DATASET", "ImageNet22k"])
    assert (cfg.TRAIN.LR_SCHEDULER.NAME, cfg.DATA.DATASET) == ("cosine", "imagenet22K")


def test_heads_must_divide_the_width_of_their_stage() -> None:
    assert errors(MODEL__SWIN__NUM_HEADS=[3, 6, 12, 25]) == [
        "MODEL.SWIN.NUM_HEADS = [3, 6, 12, 25] (command line): the 25 heads of stage 4 do not divide its width 768 "
        "(MODEL.SWIN.EMBED_DIM = 96 (default), doubled at each stage); change one of them"
    ]
    assert errors(MODEL__SWIN__NUM_HEADS=[32, 64, 128, 256]) == []


def test_depths_and_heads_have_one_length() -> None:
    assert errors(MODEL__SWIN__DEPTHS=[2, 2, 6]) == [
        "MODEL.SWIN.DEPTHS = [2, 2, 6] (command line) has 3 stages but MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24] (default) "
        "has 4: give both the same number of values"
    ]


def test_warmup_is_shorter_than_training() -> None:
    (line,) = errors(TRAIN__EPOCHS=20)
    assert line.startswith("TRAIN.WARMUP_EPOCHS = 20 (default) must be less than TRAIN.EPOCHS = 20 (command line)")
    assert errors(TRAIN__EPOCHS=21) == []
    assert "--opts TRAIN.WARMUP_EPOCHS 0.1" in line
    assert errors(TRAIN__EPOCHS=1, TRAIN__WARMUP_EPOCHS=0.99) == []
    (line,) = errors(TRAIN__WARMUP_EPOCHS=5.0)
    assert line == (
        "TRAIN.WARMUP_EPOCHS = 5.0 (command line): expected a whole number of epochs, or a share of the run below 1, "
        "as 0.1; write 5 for epochs"
    )
    assert errors(TRAIN__WARMUP_EPOCHS=1.5)[0].endswith("as 0.1")
    steps = {"TRAIN__LR_SCHEDULER__NAME": "multistep", "TRAIN__LR_SCHEDULER__MULTISTEPS": [30], "TRAIN__EPOCHS": 100}
    assert errors(**steps, TRAIN__WARMUP_EPOCHS=0.3) == []
    assert "expected epochs after the warm-up" in errors(**steps, TRAIN__WARMUP_EPOCHS=0.31)[0]
    assert "nothing would be trained" in errors(TRAIN__EPOCHS=30, TRAIN__START_EPOCH=30)[0]


def test_channel_statistics() -> None:
    lines = errors(MODEL__SWIN__IN_CHANS=1)
    assert lines[0].endswith(
        "has 3 values but MODEL.SWIN.IN_CHANS = 1 (command line): give DATA.MEAN 1 value, one for each channel"
    )
    assert "DATA.STD" in lines[1]
    assert errors(MODEL__SWIN__IN_CHANS=1, DATA__MEAN=[0.5], DATA__STD=[0.5]) == []


def test_patch_and_image() -> None:
    assert "smaller than one patch" in errors(DATA__IMG_SIZE=[224, 3])[0]


def test_validation_data_have_one_source() -> None:
    digits = {"DATA__DATASET": "digits"}
    assert "set False" in errors(**digits, DATA__ZIP_MODE=True)[0]
    assert "set VAL_SPLIT to 0" in errors(**digits, DATA__VAL_SPLIT=0.1)[0]
    assert not errors(DATA__ZIP_MODE=True, DATA__VAL_SPLIT=0.1)
    assert "set DATASET to folder" in warnings(**digits, DATA__DATA_PATH="x")[0]


def test_milestones() -> None:
    multistep = {"TRAIN__LR_SCHEDULER__NAME": "multistep"}
    assert "needs at least one epoch" in errors(**multistep)[0]
    assert "expected increasing epochs" in errors(TRAIN__LR_SCHEDULER__MULTISTEPS=[30, 30])[0]
    assert "expected epochs after the warm-up" in errors(**multistep, TRAIN__LR_SCHEDULER__MULTISTEPS=[10, 30])[0]
    assert errors(**multistep, TRAIN__LR_SCHEDULER__MULTISTEPS=[20, 30]) == []
    assert "training ends before" in warnings(**multistep, TRAIN__LR_SCHEDULER__MULTISTEPS=[30, 300])[0]


def test_rules_between_keys_wait_for_allowed_values() -> None:
    # A width of 0 must not also be reported as not divisible, nor divide by zero where the window is 0.
    assert len(errors(MODEL__SWIN__EMBED_DIM=0, MODEL__SWIN__WINDOW_SIZE=0, MODEL__SWIN__PATCH_SIZE=0)) == 3
    # Text for EPOCHS is one error; the default in its place is not compared with the warm-up.
    assert len(errors(TRAIN__EPOCHS="x", TRAIN__WARMUP_EPOCHS=400)) == 1


@pytest.mark.parametrize(
    ("values", "fitting"),
    [
        ({"DATA__IMG_SIZE": 200}, "is 224"),
        ({"DATA__IMG_SIZE": 300}, "is 224 or 448"),
        ({"DATA__IMG_SIZE": [224, 448]}, None),
        ({"DATA__IMG_SIZE": [200, 333]}, "is height 224, width 224 or 448"),
        ({"DATA__IMG_SIZE": [224, 333]}, "is height 224, width 224 or 448"),
        ({"DATA__IMG_SIZE": 384}, "is 224 or 448"),
        ({"DATA__IMG_SIZE": 384, "MODEL__SWIN__WINDOW_SIZE": 12}, None),
        ({"MODEL__SWIN__WINDOW_SIZE": 12}, "is 384"),
        ({"DATA__IMG_SIZE": 256, "MODEL__SWIN__WINDOW_SIZE": 8}, None),
        ({"DATA__IMG_SIZE": 240, "MODEL__SWIN__PATCH_SIZE": 2}, "is 224 or 336"),
        (
            {"DATA__IMG_SIZE": 28, "MODEL__SWIN__DEPTHS": [2, 2], "MODEL__SWIN__NUM_HEADS": [3, 3]},
            "is 56",
        ),
    ],
)
def test_sizes_that_fit_the_windows(values: dict[str, object], fitting: str | None) -> None:
    found = warnings(**values)
    assert len(found) == (fitting is not None)
    if fitting is not None:
        assert found[0].startswith("DATA.IMG_SIZE = ")
        assert found[0].endswith(f"the nearest that fits {fitting}")


def test_suggested_sizes_fill_every_window() -> None:
    # Independent of the formula: halve the grid stage by stage and look for a remainder.
    for patch, window, stages in [(4, 7, 4), (2, 4, 3), (4, 12, 4), (4, 5, 1), (3, 6, 2)]:
        (line,) = load_config(
            None,
            (),
            {
                "DATA.IMG_SIZE": 499,
                "MODEL.SWIN.PATCH_SIZE": patch,
                "MODEL.SWIN.WINDOW_SIZE": window,
                "MODEL.SWIN.DEPTHS": [2] * stages,
                "MODEL.SWIN.NUM_HEADS": [3] * stages,
            },
        ).warnings
        for size in map(int, line.rpartition("fits is ")[2].split(" or ")):
            grid, rest = divmod(size, patch)
            assert rest == 0
            for stage in range(stages):
                assert grid % window == 0
                assert stage == stages - 1 or grid % 2 == 0
                grid //= 2


def test_learning_rates_that_go_the_wrong_way_are_pointed_out() -> None:
    lines = warnings(TRAIN__BASE_LR=1e-7)
    assert len(lines) == 2
    assert "will rise, not fall" in lines[0]
    assert "the warm-up will lower the rate" in lines[1]


def test_deprecated_keys_are_accepted_and_warn() -> None:
    cfg = load_config(None, ["AMP_OPT_LEVEL", "O1", "TEST.SEQUENTIAL", "False", "LOCAL_RANK", "0"])
    assert len(cfg.warnings) == 3
    assert cfg.warnings[0].startswith("AMP_OPT_LEVEL = 'O1' (--opts) is deprecated and has no effect: ")
    assert "AMP_ENABLE" in cfg.warnings[0]


def test_keys_of_other_methods_warn_when_changed() -> None:
    (line,) = warnings(TRAIN__MOE__SAVE_MASTER=True, MODEL__SWIN_MOE__EMBED_DIM=96)
    assert line.startswith("TRAIN.MOE.SAVE_MASTER = True (command line) has no effect")


@pytest.mark.parametrize(
    "given", [{"DATA__MASK_RATIO": 0.6}, {"DATA__MASK_PATCH_SIZE": 4}, {"MODEL__SIMMIM__NORM_TARGET__ENABLE": True}]
)
def test_keys_of_a_pretraining_without_its_loss_are_doubted(given) -> None:
    (line,) = warnings(**given)
    key = next(iter(given)).replace("__", ".")
    assert line == f"command line: {key} is of a pre-training without labels: for one, --opts TRAIN.LOSS simmim"
    assert warnings(**given, TRAIN__LOSS="ce") == ()


def test_keys_of_another_family_warn_when_changed() -> None:
    (line,) = warnings(MODEL__SWINV2__EMBED_DIM=64, MODEL__SWINV2__WINDOW_SIZE=7)
    assert line == (
        "MODEL.SWINV2.EMBED_DIM = 64 (command line) has no effect: MODEL.TYPE = 'swin' (default) is another family"
    )
    (line,) = warnings(MODEL__TYPE="swin_mlp", MODEL__SWIN__DEPTHS=[2, 2])
    assert line.startswith("MODEL.SWIN.DEPTHS = [2, 2] (command line) has no effect")


def test_swin_v2s_windows_are_no_larger_than_the_grid_and_pad_nothing_there() -> None:
    assert warnings(MODEL__TYPE="swinv2", DATA__IMG_SIZE=256, MODEL__SWINV2__WINDOW_SIZE=16) == ()
    (line,) = warnings(MODEL__TYPE="swinv2", DATA__IMG_SIZE=260, MODEL__SWINV2__WINDOW_SIZE=16)
    assert "wastes time on padding" in line


def test_pretrained_windows_have_a_value_for_each_stage() -> None:
    values = {"MODEL.TYPE": "swinv2", "MODEL.SWINV2.PRETRAINED_WINDOW_SIZES": [12, 12]}
    (line,) = errors(**values)
    assert "MODEL.SWINV2.PRETRAINED_WINDOW_SIZES = [12, 12] (command line) has 2 stages but" in line
    assert errors(**{"MODEL.TYPE": "swinv2", "MODEL.SWINV2.DEPTHS": [2, 2], "MODEL.SWINV2.NUM_HEADS": [1, 2]}) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"TRAIN__LOSS": "ce"}, "TRAIN.LOSS = 'ce' (command line) takes each image to have one label"),
        ({}, "set TRAIN.LOSS to bce"),
        ({"TRAIN__LOSS": "bce", "TRAIN__CLASS_WEIGHTS": "balanced"}, "TRAIN.CLASS_WEIGHTS = 'balanced' (command line)"),
        (
            {"TRAIN__LOSS": "asl", "DATA__SAMPLER": "balanced"},
            "DATA.SAMPLER = 'balanced' (command line) draws an image",
        ),
    ],
)
def test_what_needs_one_label_an_image_is_refused_with_several(values: dict[str, object], said: str) -> None:
    (line,) = errors(DATA__MULTI_LABEL=True, **values)
    assert said in line
    assert "DATA.MULTI_LABEL = True" in line
    assert not errors(DATA__MULTI_LABEL=False, **values)
