"""What is generated from the declarations: `--help-key`, and docs/config.md."""

from pathlib import Path

import pytest

import main
from swin.config.keys import KEYS
from swin.config.reference import describe, make_page
from swin.config.tree import GROUPS

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_what_the_declarations_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run python -m swin.config.reference > docs/config.md"


def test_the_page_has_a_whole_row_for_each_key() -> None:
    rows = [line for line in make_page().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(KEYS)
    assert {row.count("|") for row in rows} == {6}  # one more would shift the cells


def test_help_on_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:  # as --help ends
        main.main(["--help_key", "DATA.VAL_SPLIT"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == (
        "DATA.VAL_SPLIT\n"
        "    default: 0.0\n"
        "    allowed: a number in [0, 1)\n"
        "    origin: new\n"
        "    Fraction of the training images that is held out for validation, where no part is there for that:\n"
        "    drawn by SEED, the same fraction of every class, and saved with the run. 0 expects a part to\n"
        "    validate on.\n"
    )


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_help_on_a_group_is_that_of_its_keys(name: str) -> None:
    below = [key for key in KEYS if key.startswith(f"{name}.")]
    assert describe(name) == "\n\n".join(map(describe, below))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("TRAIN.LOSS", "one of ce, bce, asl, simmim"),
        ("DEVICE", "auto, cpu, mps, cuda or cuda:N, as in cuda:0"),
        ("AMP_ENABLE", "True or False"),
        (
            "DATA.IMG_SIZE",
            "an integer or a list of integers of at least 1 and at most 100,000, 2 values [height, width]",
        ),
        ("DATA.MEAN", "a list of numbers that are finite"),
        ("AUG.CUTMIX_MINMAX", "null or a list of numbers in [0, 1], 2 values"),
        (
            "MODEL.SWIN.DEPTHS",
            "a list of integers of at least 1 and at most 1,000, one value for each stage, and 1 to 10 stages",
        ),
    ],
)
def test_what_is_allowed_is_said_in_words(name: str, allowed: str) -> None:
    assert f"    allowed: {allowed}\n" in describe(name)


def test_keys_without_effect_say_so() -> None:
    assert "Deprecated, without effect: set AMP_ENABLE instead." in describe("ENABLE_AMP")
    assert "Without effect in this version. " in describe("TRAIN.MOE")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("TRAIN.BASELR", "unknown key TRAIN.BASELR; did you mean TRAIN.BASE_LR"),
        ("XYZ", "unknown key XYZ; docs/config.md lists all keys"),
        ("TAG.X", "unknown key TAG.X: TAG is a value and has no keys below it"),
    ],
)
def test_help_on_an_unknown_key_names_the_nearest(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help-key", name]) == 2
    assert message in capsys.readouterr().err
