"""What is held out: shares, folds and whole groups, against scikit-learn; and that a run keeps its own."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

from data import build_data
from data.build import open_sets
from data.splits import Rule, hold_out
from swin.config import dump_config, load_config
from swin.errors import ConfigError, DataError
from tests.unit.test_data_folders import make_classes, make_files
from tests.unit.test_data_splits_of_evaluation import config

RANDOM = np.random.RandomState(0)
LABELS = RANDOM.choice(3, 200, p=[0.6, 0.3, 0.1])
GROUPS = [f"p{number}" for number in RANDOM.randint(0, 40, 200)]
NAMES = [f"{index}.png" for index in range(200)]


def held(source: object) -> list[str]:
    return list(source.names)


@pytest.mark.parametrize("seed", [0, 7, 2**40])
def test_folds_are_scikit_learns(seed: int) -> None:
    expected = StratifiedKFold(5, shuffle=True, random_state=seed % 2**32).split(np.zeros(200), LABELS)
    for fold, (train, val) in enumerate(expected):
        split = hold_out(NAMES, LABELS, Rule(folds=5, fold=fold, seed=seed))
        assert split.train.tolist() == train.tolist()
        assert split.val.tolist() == val.tolist()


def test_folds_of_groups_are_scikit_learns() -> None:
    expected = StratifiedGroupKFold(4, shuffle=True, random_state=3).split(np.zeros(200), LABELS, GROUPS)
    everything = []
    for fold, (train, val) in enumerate(expected):
        split = hold_out(NAMES, LABELS, Rule(folds=4, fold=fold, seed=3), groups=GROUPS)
        assert (split.train.tolist(), split.val.tolist()) == (train.tolist(), val.tolist())
        assert not {GROUPS[i] for i in split.train} & {GROUPS[i] for i in split.val}
        everything += split.val.tolist()
    assert sorted(everything) == list(range(200))


def test_folds_of_several_labels_an_image_are_plain() -> None:
    labels = RANDOM.randint(0, 2, (200, 4)).astype(np.uint8)
    for fold, (train, val) in enumerate(KFold(5, shuffle=True, random_state=1).split(np.zeros(200))):
        split = hold_out(NAMES, labels, Rule(folds=5, fold=fold, seed=1))
        assert (split.train.tolist(), split.val.tolist()) == (train.tolist(), val.tolist())
        whole = hold_out(NAMES, labels, Rule(folds=5, fold=fold, seed=1), groups=GROUPS)
        assert not {GROUPS[i] for i in whole.train} & {GROUPS[i] for i in whole.val}
        assert len(whole.train) + len(whole.val) == 200
    split = hold_out(NAMES, labels, Rule(0.25, seed=1))
    assert (len(split.val), sorted([*split.train, *split.val])) == (50, list(range(200)))
    assert split.val.tolist() != hold_out(NAMES, labels, Rule(0.25, seed=2)).val.tolist()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_share_of_groups_is_as_even_as_folds_of_them(fraction: float, seed: int) -> None:
    split = hold_out(NAMES, LABELS, Rule(fraction, seed=seed), groups=GROUPS)
    assert not {GROUPS[i] for i in split.train} & {GROUPS[i] for i in split.val}
    assert sorted([*split.train, *split.val]) == list(range(200))

    def unevenness(val: Sequence[int]) -> float:
        return float(np.abs(np.bincount(LABELS[val], minlength=3) - fraction * np.bincount(LABELS)).sum())

    folds = StratifiedGroupKFold(round(1 / fraction), shuffle=True, random_state=seed)
    theirs = [unevenness(val) for _, val in folds.split(np.zeros(200), LABELS, GROUPS)]
    assert unevenness(split.val) <= np.mean(theirs) + 1
    assert set(LABELS[split.train]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("rule", "labels", "groups", "message"),
    [
        (Rule(folds=5), [0] * 9 + [1] * 3, None, "FOLDS 5 .*class 'bee' has 3 images.* Lower FOLDS to at most 3"),
        (Rule(folds=3), [0, 1] * 6, ["a", "b"] * 6, "the images are of 2 groups .* At least 3 are needed"),
        (Rule(0.2), [0, 1] * 6, ["a"] * 12, "the images are of 1 groups .* At least 2 are needed"),
        (Rule(0.5), [0, 1], None, "VAL_SPLIT 0.5: no class has the two images"),
        (Rule(0.99), [0, 1] * 2, ["a", "b", "b", "a"], "of 2 groups by DATA.GROUP_BY that is none, or all"),
    ],
)
def test_what_cannot_be_divided_says_why(rule: Rule, labels: list[int], groups: list[str] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hold_out([str(i) for i in labels], np.array(labels), rule, groups=groups, classes=["ant", "bee"])


@pytest.mark.parametrize("rule", [Rule(0.5), Rule(folds=2)])
def test_groups_that_are_the_classes_are_told_of(rule: Rule) -> None:
    labels = np.array([0, 1] * 4)
    notes = hold_out([str(i) for i in range(8)], labels, rule, groups=["a", "b"] * 4, classes=["ant", "bee"]).notes
    assert "1 classes have no images left to train on, as '" in notes[0]
    both = hold_out([str(i) for i in range(8)], labels, rule, groups=[*"aabbccdd"], classes=["ant", "bee"])
    assert both.notes == ()


def test_a_run_of_a_fold_keeps_it(tmp_path: Path) -> None:
    data, run = make_classes(tmp_path / "data", ant=9, bee=9), tmp_path / "run"
    cfg = config(data, FOLDS=3, FOLD=1)
    first = open_sets(cfg)
    run.mkdir()
    (run / "split.json").write_text(json.dumps(first.split))
    make_files(data, "ant/new.png")
    again = open_sets(
        load_config(overrides={"SEED": 5, "DATA.DATA_PATH": str(data), "DATA.FOLDS": 3, "DATA.FOLD": 1}), runs=[run]
    )
    assert held(again.val) == held(first.val) == first.split["val"]
    assert "1 images are newer" in again.notes[0]
    with pytest.raises(ConfigError, match=r"FOLDS 3 and FOLD 2, but .* was made with DATA\.FOLDS 3 and FOLD 1"):
        open_sets(config(data, FOLDS=3, FOLD=2), runs=[run])
    with pytest.raises(ConfigError, match=r"VAL_SPLIT 0\.2, but .* was made with DATA\.FOLDS 3 and FOLD 1"):
        open_sets(config(data, VAL_SPLIT=0.2), runs=[run])
    # An evaluation takes what the run has held out, also where the data were moved.
    (run / "config.yaml").write_text(dump_config(cfg))
    (data / "ant" / "new.png").unlink()
    for root in (data, tmp_path / "moved"):
        if root != data:
            data.rename(root)
        found = build_data(config(root, FOLDS=3, FOLD=1), need_train=False, split=None, runs=[run])
        assert (found.part, found.val.num_samples) == ("val", 6)


def test_the_folds_of_a_run_are_each_image_once(tmp_path: Path) -> None:
    make_classes(tmp_path, ant=9, bee=10)
    folds = [open_sets(config(tmp_path, FOLDS=3, FOLD=fold)) for fold in range(3)]
    assert sorted(name for sets in folds for name in held(sets.val)) == sorted(
        held(folds[0].train) + held(folds[0].val)
    )
    assert held(open_sets(config(tmp_path, FOLDS=3)).val) == held(folds[0].val)


def test_folds_leave_given_parts_alone(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        make_classes(tmp_path / part, ant=4, bee=4)
    sets = open_sets(config(tmp_path, FOLDS=4, FOLD=3))
    assert (len(sets.train.labels), len(sets.val.labels), len(sets.test.labels)) == (6, 2, 8)
    assert sets.val.name(0).startswith(str(tmp_path / "train"))
    assert sets.notes == ("val/ is left alone: the folds are made of train/.",)


def patients(root: Path, *parts: str) -> Path:
    """Ten patients of three images in each part, each of one class."""
    for part in parts:
        make_files(
            root,
            *(f"{part}/{'ab'[number % 2]}/{part}{number}_{i}.png" for number in range(10) for i in range(3)),
        )
    return root


def test_groups_by_their_paths_are_never_divided(tmp_path: Path) -> None:
    patients(tmp_path, "x")
    cfg = config(tmp_path / "x", VAL_SPLIT=0.2, GROUP_BY=r"(x\d+)_")
    sets = open_sets(cfg)
    train, val = ({name.rpartition("_")[0] for name in held(source)} for source in (sets.train, sets.val))
    assert not train & val
    assert (len(train), len(val), len(sets.val.labels)) == (8, 2, 6)
    assert np.bincount(sets.val.labels).tolist() == [3, 3]
    folds = open_sets(config(tmp_path / "x", FOLDS=5, FOLD=0, GROUP_BY=r"(x\d+)_"))
    assert len({name.rpartition("_")[0] for name in held(folds.val)}) == 2


def test_given_parts_must_not_share_a_group(tmp_path: Path) -> None:
    patients(tmp_path, "train", "val", "test")
    pattern = r"(?:train|val|test)(\d+)_"
    with pytest.raises(DataError, match=r"10 groups by DATA.GROUP_BY .* in val/ and in train/, as 0, 1, 2: accuracy"):
        open_sets(config(tmp_path, GROUP_BY=pattern))
    assert open_sets(config(tmp_path, GROUP_BY=r"((?:train|val|test)\d+)_")).split is None
    with pytest.raises(DataError, match=r"10 groups .* in test/ and in train/"):
        open_sets(config(patients(tmp_path / "b", "train", "test"), VAL_SPLIT=0.2, GROUP_BY=pattern))


def test_a_pattern_has_to_match_all_images(tmp_path: Path) -> None:
    patients(tmp_path, "x")
    make_files(tmp_path, *(f"x/a/odd{i}.png" for i in range(4)))
    message = r"does not match 4 of 34 images, as a/odd0\.png, a/odd1\.png, a/odd2\.png\. Change it"
    with pytest.raises(DataError, match=message):
        open_sets(config(tmp_path / "x", VAL_SPLIT=0.2, GROUP_BY=r"(x\d+)_"))
    with pytest.raises(DataError, match="'patient', which is no column of the data, nor a regular expression"):
        open_sets(config(tmp_path / "x", VAL_SPLIT=0.2, GROUP_BY="patient"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"FOLD": 1}, "DATA.FOLD = 1 .* is one of DATA.FOLDS = 0"),
        ({"FOLDS": 3, "FOLD": 3}, "expected a number from 0 to 2"),
        ({"FOLDS": 1}, "one fold leaves nothing to train on"),
        ({"FOLDS": 3, "VAL_SPLIT": 0.1}, "both say what is held out"),
        ({"GROUP_BY": "(a"}, "is no regular expression"),
        ({"GROUP_BY": "(a)(b)"}, "expected one group in parentheses"),
    ],
)
def test_keys_that_contradict_each_other(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides={f"DATA.{key}": value for key, value in keys.items()})
