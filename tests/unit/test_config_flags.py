"""Flags that other training programs have: each says what to type here."""

import shlex

import pytest

from swin.config import load_config
from swin.config.flags import FOREIGN_FLAGS, load_command_line, parse_arguments
from swin.config.keys import KEYS
from swin.errors import ConfigError

# Of the key that a flag stands for, a value that it takes; 2 for the others.
VALUES = {
    "MODEL.VARIANT": "swin_base",
    "MODEL.DROP_RATE": "0.1",
    "MODEL.DROP_PATH_RATE": "0.3",
    "MODEL.LABEL_SMOOTHING": "0.2",
    "TRAIN.LAYER_DECAY": "0.8",
    "TRAIN.WARMUP_EPOCHS": "0.2",
    "TRAIN.LR_SCHEDULER.NAME": "linear",
    "TRAIN.OPTIMIZER.MOMENTUM": "0.8",
    "TRAIN.FREEZE": "[0]",
    "TRAIN.LOSS": "bce",
    "TRAIN.EMA.DECAY": "0.99",
    "AUG.REPROB": "0.5",
    "TRAIN.EPOCHS": "30",
    "DATA.DATASET": "folder",
    "DATA.IMG_SIZE": "96",
    "DATA.VAL_SPLIT": "0.2",
    "DATA.INTERPOLATION": "bilinear",
    "AUG.AUTO_AUGMENT": "none",
    "--cfg": "in1k_100e",
    "--optim": "sgd",
    "TRAIN.MONITOR": "loss",
}


def error_of(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_arguments(words)
    return str(caught.value)


@pytest.mark.parametrize("flag", FOREIGN_FLAGS)
def test_what_is_to_be_typed_instead_works(flag: str) -> None:
    instead = FOREIGN_FLAGS[flag]
    what = instead.removeprefix("--opts ").split()[0]
    assert what in KEYS or what.startswith("--")
    value = VALUES.get(what, "2")
    typed = instead.format(shlex.quote(value))
    assert f"{flag} is {what} here: {typed}" in error_of("--cfg", "in1k_100e", flag, value)
    before = [] if what == "--cfg" else ["--cfg", "in1k_100e"]
    cfg, _ = load_command_line([*before, *shlex.split(typed)])
    # Another config than before, but for what says that which is so anyhow.
    assert (cfg != load_config("in1k_100e")) or what in ("AMP_ENABLE", "--cfg")


def test_the_flags_of_this_program_are_not_among_them() -> None:
    parsed = parse_arguments(["--cfg", "a.yaml", "--device", "cpu", "--eval", "--pretrained", "w.pth", "--tag", "x"])
    assert parsed.cfg == "a.yaml"
    for flag in (key.flag for key in KEYS.values() if key.flag):
        assert f"--{flag}" not in FOREIGN_FLAGS


def test_all_of_a_command_line_are_told_with_their_values() -> None:
    lines = error_of("--data", "my photos", "--lr=0.001", "-j", "4", "--epochs", "--img_size", "96").splitlines()
    assert lines == [
        "--data is --data-path here: --data-path 'my photos'",
        "--lr is TRAIN.BASE_LR here: --opts TRAIN.BASE_LR 0.001 (--help-key TRAIN.BASE_LR explains it)",
        "-j is DATA.NUM_WORKERS here: --opts DATA.NUM_WORKERS 4 (--help-key DATA.NUM_WORKERS explains it)",
        "--epochs is TRAIN.EPOCHS here: --opts TRAIN.EPOCHS VALUE (--help-key TRAIN.EPOCHS explains it)",
        "--img-size is DATA.IMG_SIZE here: --opts DATA.IMG_SIZE 96 (--help-key DATA.IMG_SIZE explains it)",
    ]
    assert "did you mean --batch-size" in error_of("--cfg", "swin_tiny", "--bacth-size", "4")
