"""Parts of a data set as people call them, in every layout; which is for what; and what is said where none fits."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data import build_data
from data.build import find_split, open_sets
from data.digits import open_digits
from data.sources import ArrayImages, Subset, count_labels
from swin.batches import Data
from swin.config import config_from_dict, config_to_dict, dump_config, load_config
from swin.errors import ConfigError, DataError
from tests.property import test_every_source as layouts
from tests.property.test_every_source import Images
from tests.unit.test_data_folders import make_classes, make_files
from tests.unit.test_data_splits_of_evaluation import IMAGES, LAYOUTS, PARTS, classes_of, config
from tools import check_dataset, pack_dataset

Write = Callable[[Path, Images], dict[str, object]]
TEST_ONLY = (
    r"validate on\. Either .*with DATA\.VAL_SPLIT 0\.1; or .*with DATA\.SPLITS \"\{train: train, val: test\}\"\."
)


MANY = [
    (name.replace(".png", f"_{i}.png"), label, content) for i in range(5) for name, label, content in IMAGES["train"]
]


def as_given(options: dict[str, object]) -> dict[str, object]:
    return {key.removeprefix("DATA."): value for key, value in options.items()}


def counts(data: Data) -> tuple[int, int, int | None]:
    return data.train.num_samples, data.val.num_samples, data.test and data.test.num_samples


@pytest.fixture(params=LAYOUTS)
def write(request: pytest.FixtureRequest) -> Write:
    return LAYOUTS[request.param]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Train", "VALIDATION", "Testing"), ("training", "valid", "TEST"), ("train", "Dev", None)],
)
def test_usual_names_in_any_case_have_their_roles(
    write: Write, tmp_path: Path, train: str, val: str, test: str | None
) -> None:
    named = {train: IMAGES["train"], val: IMAGES["val"]} | ({test: IMAGES["test"]} if test else {})
    options = as_given(write(tmp_path, named))
    data = build_data(config(tmp_path, **options))
    assert counts(data) == (4, 2, 3 if test else None)
    assert sum(data.test_counts) == (3 if test else 0)
    for name, part in ((val, "val"), ("val", "val"), ("validation", "val"), (train, "train"), ("train", "train")):
        assert classes_of(open_sets(config(tmp_path), need_train=False, split=name)) == PARTS[part]
    if test:
        assert classes_of(open_sets(config(tmp_path), need_train=False, split="test")) == PARTS["test"]
        assert build_data(config(tmp_path, **options), need_train=False).test is None


def test_parts_are_what_the_config_says(write: Write, tmp_path: Path) -> None:
    splits = {"train": "tr", "val": "test", "test": "hidden"}
    options = write(tmp_path, {splits.get(part, part): rows for part, rows in IMAGES.items()})
    cfg = config(tmp_path, SPLITS=splits, **as_given(options))
    assert counts(build_data(cfg)) == (4, 2, 3)
    assert classes_of(open_sets(cfg, need_train=False, split="val")) == PARTS["val"]
    assert classes_of(open_sets(cfg, need_train=False, split="test")) == PARTS["test"]  # the role, which is hidden's
    assert find_split(cfg) == "val"


def test_a_role_that_is_not_said_is_found_by_its_name(tmp_path: Path) -> None:
    layouts.folders(tmp_path, {"train": IMAGES["train"], "test": IMAGES["test"]})
    assert counts(build_data(config(tmp_path, SPLITS={"val": "test"}))) == (4, 3, None)
    with pytest.raises(
        DataError, match=r"has no part 'nights', which DATA.SPLITS names: found 2 folders .test, train."
    ):
        build_data(config(tmp_path, SPLITS={"val": "nights"}))


def test_two_candidates_for_a_role_are_a_question(write: Write, tmp_path: Path) -> None:
    rows = {"train": IMAGES["train"], "val": IMAGES["val"], "validation": IMAGES["test"]}
    options = as_given(write(tmp_path, rows))
    with pytest.raises(
        DataError, match=r"val.* and .*validation.* may each be the val part.* DATA\.SPLITS \"\{val: val"
    ):
        build_data(config(tmp_path, **options))
    assert counts(build_data(config(tmp_path, SPLITS={"val": "validation"}, **options))) == (4, 3, None)
    assert classes_of(open_sets(config(tmp_path), need_train=False, split="validation")) == PARTS["test"]


def test_train_and_test_alone_offer_both_ways(write: Write, tmp_path: Path) -> None:
    options = as_given(write(tmp_path, {"train": MANY, "test": IMAGES["test"]}))
    with pytest.raises(DataError, match=TEST_ONLY):
        build_data(config(tmp_path, **options))
    if write is layouts.imagenet22k:
        options = {}  # as the maps are found by themselves to evaluate only
        return
    held = build_data(config(tmp_path, VAL_SPLIT=0.25, **options))
    assert held.test.num_samples == 3
    assert (held.train.num_samples, held.val.num_samples) == (15, 5)
    assert counts(build_data(config(tmp_path, SPLITS={"train": "train", "val": "test"}, **options))) == (20, 3, None)


def test_a_share_is_held_out_of_every_layout_and_saved(write: Write, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    options = as_given(write(data, {"train": MANY}))
    first = open_sets(config(data, VAL_SPLIT=0.4, **options))
    run.mkdir()
    (run / "split.json").write_text(json.dumps(first.split))
    again = open_sets(config(data, VAL_SPLIT=0.4, **options), runs=[run])
    assert again.split == first.split
    assert sorted(first.split["train"] + first.split["val"]) == sorted({*first.split["train"], *first.split["val"]})
    assert (len(first.train.labels), len(first.val.labels)) == (12, 8)
    assert [again.val.read(i) for i in range(len(again.val.labels))] == [
        first.val.read(i) for i in range(len(first.val.labels))
    ]


def test_a_val_part_is_never_hidden_by_a_share(write: Write, tmp_path: Path) -> None:
    options = as_given(write(tmp_path, {"training": IMAGES["train"], "validation": IMAGES["val"]}))
    data = build_data(config(tmp_path, VAL_SPLIT=0.4, **options))
    assert (counts(data), data.split) == ((4, 2, None), None)
    assert "DATA.VAL_SPLIT 0.4 is not used: " in data.notes[0]
    assert "validation" in data.notes[0]


def test_a_test_folder_is_evaluated_and_that_is_said(tmp_path: Path) -> None:
    layouts.folders(tmp_path, IMAGES)
    cfg = config(tmp_path / "test", VAL_SPLIT=0.2)
    data = build_data(cfg, need_train=False, split=None, classes=sorted({*PARTS["test"], "dog"}))
    assert (data.part, data.val.num_samples) == ("all", 3)
    assert data.notes == (f"{tmp_path / 'test'} has no parts: all of its images are evaluated.",)


def test_where_no_part_fits_it_is_said_what_to_type(tmp_path: Path) -> None:
    layouts.folders(tmp_path, {"training": IMAGES["train"]})
    with pytest.raises(DataError, match=r"no val or test part .*python -m tools\.evaluate --split train"):
        find_split(config(tmp_path))
    with pytest.raises(DataError, match=r"no part 'test'\. Choose from train, training\."):
        open_sets(config(tmp_path), need_train=False, split="test")


def test_messages_say_whose_classes_are_meant(tmp_path: Path) -> None:
    layouts.folders(tmp_path, {"test": IMAGES["test"]})
    origin = "the classes of best.pth"
    with pytest.raises(
        DataError, match=r"class '003.cat' is unknown to the classes of best.pth; the nearest .*'03.cat'"
    ):
        build_data(config(tmp_path), need_train=False, split="test", classes=["001.ant", "03.cat"], origin=origin)


def test_the_mapping_goes_through_options_files_and_checkpoints(tmp_path: Path) -> None:
    options = ["DATA.SPLITS", "{train: tr, VAL: Dev}"]
    cfg = load_config(opts=options)
    assert cfg.DATA.SPLITS == {"train": "tr", "val": "Dev"}
    (tmp_path / "a.yaml").write_text(dump_config(cfg))
    assert load_config(tmp_path / "a.yaml").DATA.SPLITS == cfg.DATA.SPLITS
    assert config_from_dict(config_to_dict(cfg)).DATA.SPLITS == cfg.DATA.SPLITS
    for wrong, message in (
        ("{tran: a}", "did you mean train"),
        ("[a]", "expected a mapping, as {train: NAME}"),
        ("{train: 3}", "expected a mapping"),
        ("{train: a, val: a}", "for one thing only"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(opts=["DATA.SPLITS", wrong])


def test_labels_are_counted_by_class_or_by_image() -> None:
    assert count_labels(np.array([0, 2, 2]), 4) == [1, 0, 2, 0]
    many = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 0]] * 100, dtype=np.uint8)  # more than fits into a byte
    assert count_labels(many, 3) == [100, 0, 200]


def test_a_subset_is_the_images_that_it_names() -> None:
    whole = open_digits(["test"]).sources["test"]
    indices = np.array([5, 3, 200])
    part = Subset(whole, indices)
    assert part.labels.tolist() == whole.labels[indices].tolist()
    assert list(part.names) == [whole.names[i] for i in indices] == [part.name(i) for i in range(3)]
    assert np.array_equal(part.read(2), whole.read(200))


def test_several_labels_an_image_are_counted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_digits()
    for part, source in opened.sources.items():
        flags = (np.arange(10) == source.labels[:, None]).astype(np.uint8)
        opened.sources[part] = ArrayImages(source.images, flags, source.names)
    monkeypatch.setattr("data.layouts.digits.open_digits", lambda parts, classes: opened)
    grey = {"MODEL.SWIN.IN_CHANS": 1, "DATA.MEAN": [0.5], "DATA.STD": [0.5], "DATA.NUM_WORKERS": 0, "DATA.IMG_SIZE": 32}
    small = {"MODEL.SWIN.WINDOW_SIZE": 4, "MODEL.SWIN.PATCH_SIZE": 2, "AUG.MIXUP": 0.0, "AUG.CUTMIX": 0.0}
    data = build_data(load_config(overrides={"DATA.DATASET": "digits"} | grey | small))
    assert data.multi_label
    assert sum(data.class_counts) == 1437


TWINS = "have images of the same names: are they photographs and their masks"


def test_masks_and_photographs_are_not_two_classes(tmp_path: Path) -> None:
    names = [f"IMG_{index * 7}" for index in range(10)]
    make_files(tmp_path, *(f"images/{name}.jpg" for name in names), *(f"masks/{name}.png" for name in names))
    data = build_data(config(tmp_path, VAL_SPLIT=0.2))
    assert [note for note in data.notes if TWINS in note]
    findings, _ = check_dataset.check(open_sets(config(tmp_path, VAL_SPLIT=0.2)))
    assert [finding.kind for finding in findings if TWINS in finding.message] == ["twin classes"]


@pytest.mark.parametrize(("one", "two", "is_found"), [("ant", "bee", False), ("images", "masks", True)])
def test_classes_that_are_numbered_alike_are_common(tmp_path: Path, one: str, two: str, is_found: bool) -> None:
    make_classes(tmp_path, **{one: 9, two: 9})
    assert any(TWINS in note for note in open_sets(config(tmp_path, VAL_SPLIT=0.2)).notes) == is_found


def test_a_third_part_is_packed_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.folders(tmp_path / "a", {part: IMAGES[part] for part in ("train", "val", "test")})
    arguments = ["--data-path", str(tmp_path / "a"), "--output", str(tmp_path / "b"), "--workers", "1"]
    assert pack_dataset.main(arguments) == 0
    sets = open_sets(config(tmp_path / "b"))
    assert [sets.classes[label] for label in sets.test.labels] == PARTS["test"]
    assert list(sets.test.names) == [name for name, _, _ in IMAGES["test"]]
    assert check_dataset.main(["--data-path", str(tmp_path / "b"), "--workers", "1"]) == 1
    assert "in train and test" in capsys.readouterr().out  # the same seeds drew the same images


def test_two_labels_a_value_are_refused_where_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several labels each cannot be packed"):
        pack_dataset.pack(ArrayImages(np.zeros((2, 4, 4), np.uint8), np.zeros((2, 3), np.uint8), ["a", "b"]), tmp_path)
