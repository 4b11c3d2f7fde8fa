"""Class folders, label maps and held-out shares, and what users are told when something is wrong."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.sources import Names
from data.splits import stratified_split
from swin.errors import ConfigError, DataError
from swin.images import open_input
from tests.unit.data_layouts import open_folders


def make_files(root: Path, *names: str) -> Path:
    """Writes a file for each name, an image where the name says so."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            Image.new("RGB", (4, 4)).save(path)
        else:
            path.write_bytes(b"")
    return root


def make_classes(root: Path, **counts: int) -> Path:
    return make_files(root, *(f"{name}/{index}.png" for name, count in counts.items() for index in range(count)))


def names_of(source: object, root: Path) -> list[str]:
    return [str(Path(source.name(index)).relative_to(root)) for index in range(len(source.labels))]


def test_labels_come_from_train_and_go_to_val_by_name(tmp_path: Path) -> None:
    make_files(tmp_path, "train/cat/1.png", "train/ant/deep/er/2.JPG", "train/ant/1.jpeg", "train/bee/1.png")
    make_files(tmp_path, "val/cat/9.png", "val/bee/9.png")
    sets = open_folders(tmp_path)
    assert sets.classes == ["ant", "bee", "cat"]
    assert names_of(sets.train, tmp_path / "train") == ["ant/1.jpeg", "ant/deep/er/2.JPG", "bee/1.png", "cat/1.png"]
    assert sets.train.labels.tolist() == [0, 0, 1, 2]
    assert sets.val.labels.tolist() == [1, 2]  # "ant" is missing from val, and nothing shifts
    assert sets.val.labels.dtype == np.int64
    assert open_input(sets.train.read(1)).shape == (3, 4, 4)


def test_clutter_is_skipped(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", ant=1, bee=1)
    make_classes(tmp_path / "val", ant=1, bee=1)
    for folder in (tmp_path / "train", tmp_path / "val"):
        make_files(folder, ".ipynb_checkpoints/1.png", "__MACOSX/1.png", "readme.txt", "loose.png", ".DS_Store")
        make_files(folder, "ant/.hidden.png", "ant/._1.png", "ant/Thumbs.db", "ant/.cache/2.png", "ant/notes.txt")
    sets = open_folders(tmp_path)
    assert sets.classes == ["ant", "bee"]
    assert len(sets.train.labels) == len(sets.val.labels) == 2


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    make_files(tmp_path, "train/ant/1.png", "train/bee/notes.txt", "val/ant/1.png")
    with pytest.raises(DataError, match="1 of 2 class folders hold no images: bee"):
        open_folders(tmp_path)


def test_an_unknown_val_class_is_named_with_the_nearest(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", daisy=1, tulips=1)
    make_classes(tmp_path / "val", daisy=1, tulip=1)
    with pytest.raises(DataError, match=r"val: class 'tulip' is unknown to .*train; the nearest .* is 'tulips'"):
        open_folders(tmp_path)


def test_an_empty_folder_in_val_does_not_matter(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", ant=1, bee=1)
    make_classes(tmp_path / "val", ant=1)
    (tmp_path / "val" / "unknown").mkdir()
    assert open_folders(tmp_path).val.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"found 0 folders \(none\) and 0 files"),
        (("ant/1.png", "bee/1.png"), r"2 folders \(ant, bee\).* set DATA\.VAL_SPLIT, to 0\.1"),
        (("1.png", "2.png"), r"0 folders \(none\) and 2 files \(1\.png, 2\.png\)"),
        (("train.zip", "val.zip"), r"DATA\.ZIP_MODE True"),
        (("train/ant/1.png",), r"1 folders \(train\)"),
        (("val/ant/1.png",), r"1 folders \(val\)"),
    ],
)
def test_other_layouts_are_described(tmp_path: Path, files: Iterable[str], message: str) -> None:
    make_files(tmp_path, *files)
    with pytest.raises(DataError, match=message) as raised:
        open_folders(tmp_path)
    assert "Expected {train,val}/<class>/" in str(raised.value)


def test_missing_paths_are_described(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist. Expected"):
        open_folders(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a\.png is a file. Expected"):
        open_folders(make_files(tmp_path, "a.png") / "a.png")


def test_evaluation_needs_only_val(tmp_path: Path) -> None:
    make_classes(tmp_path / "val", bee=2)
    sets = open_folders(tmp_path, need_train=False)
    assert (sets.train, sets.classes, sets.val.labels.tolist()) == (None, ["bee"], [0, 0])
    sets = open_folders(tmp_path, need_train=False, classes=["wasp", "ant", "bee"])
    assert sets.classes == ["wasp", "ant", "bee"]
    assert sets.val.labels.tolist() == [2, 2]
    with pytest.raises(DataError, match="'bee' is unknown to the label map that was given"):
        open_folders(tmp_path, need_train=False, classes=["ant", "wasp"])
    make_classes(tmp_path / "train", ant=1, bee=1)
    assert open_folders(tmp_path, need_train=False).val.labels.tolist() == [1, 1]


def test_a_given_label_map_also_holds_for_training(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", ant=1, bee=1)
    make_classes(tmp_path / "val", bee=1)
    sets = open_folders(tmp_path, classes=["bee", "ant"])
    assert (sets.train.labels.tolist(), sets.val.labels.tolist()) == ([1, 0], [0])


def test_a_share_is_held_out_of_each_class(tmp_path: Path) -> None:
    make_classes(tmp_path, ant=20, bee=3, cat=1, dog=10)
    sets = open_folders(tmp_path, val_split=0.2)
    assert np.bincount(sets.val.labels, minlength=4).tolist() == [4, 1, 0, 2]
    assert np.bincount(sets.train.labels, minlength=4).tolist() == [16, 2, 1, 8]
    everything = names_of(sets.train, tmp_path) + names_of(sets.val, tmp_path)
    assert len(set(everything)) == len(everything) == 34
    assert names_of(open_folders(tmp_path, val_split=0.2).val, tmp_path) == names_of(sets.val, tmp_path)
    assert names_of(open_folders(tmp_path, val_split=0.2, seed=1).val, tmp_path) != names_of(sets.val, tmp_path)


def test_a_train_folder_alone_can_be_split_and_a_val_folder_is_never_hidden(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", ant=4, bee=4)
    assert open_folders(tmp_path, val_split=0.25).classes == ["ant", "bee"]
    make_classes(tmp_path / "val", ant=4, bee=4)
    sets = open_folders(tmp_path, val_split=0.25)
    assert names_of(sets.val, tmp_path / "val") == [
        f"{name}/{index}.png" for name in ("ant", "bee") for index in range(4)
    ]
    assert (len(sets.train.labels), sets.split) == (8, None)
    assert sets.notes == ("DATA.VAL_SPLIT 0.25 is not used: val/ is there to validate on.",)


def test_a_run_remembers_the_split(tmp_path: Path) -> None:
    data, run = make_classes(tmp_path / "data", ant=10, bee=10), tmp_path / "run"
    run.mkdir()
    first = open_folders(data, val_split=0.2, runs=[run])
    assert list(run.iterdir()) == []  # it is the run's to write
    (run / "split.json").write_text(json.dumps(first.split))
    saved = json.loads((run / "split.json").read_text())
    assert saved["val"] == names_of(first.val, data)
    # Neither another seed nor new files change it, and the new files are reported.
    make_files(data, "ant/new.png")
    again = open_folders(data, val_split=0.2, seed=5, runs=[tmp_path / "other", run])
    assert names_of(again.val, data) == names_of(first.val, data)
    assert names_of(again.train, data) == names_of(first.train, data)
    assert np.array_equal(again.val.labels, first.val.labels)
    assert first.notes == ()
    assert "1 images are newer than the split" in again.notes[0]
    with pytest.raises(ConfigError, match=r"VAL_SPLIT 0\.3, but .*split\.json was made with DATA.VAL_SPLIT 0\.2"):
        open_folders(data, val_split=0.3, runs=[tmp_path / "other", run])
    (data / saved["val"][0]).unlink()
    with pytest.raises(
        DataError, match=f"1 of the 20 images of this run's split are gone, the first '{saved['val'][0]}'"
    ):
        open_folders(data, val_split=0.2, runs=[tmp_path / "other", run])
    (run / "split.json").write_text("{")
    with pytest.raises(DataError, match="is not a saved split"):
        open_folders(data, val_split=0.2, runs=[tmp_path / "other", run])


def test_classes_of_one_image_cannot_be_held_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class has the two images"):
        open_folders(make_classes(tmp_path, ant=1, bee=1), val_split=0.5)


@pytest.mark.parametrize("num_val", [2, 7, 30, 59])
def test_splits_are_exact_where_every_class_is_large(num_val: int) -> None:
    labels = np.repeat([0, 1, 2], [20, 25, 15])
    split = stratified_split(labels, num_val=num_val, seed=0)
    assert sorted([*split.train, *split.val]) == list(range(60))
    share = np.bincount(labels[split.val], minlength=3) - num_val * np.array([20, 25, 15]) / 60
    assert np.abs(share).max() < 1 or num_val in (2, 59)  # there each class has to keep one on either side


def test_names_come_back_whatever_their_bytes() -> None:
    names = ["", "a.png", "Blüte/花.jpg", "latin\udce9.png", "b"]
    assert list(Names.of(names)) == names
    assert len(Names.of([])) == 0
