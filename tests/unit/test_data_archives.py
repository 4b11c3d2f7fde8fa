"""The packed layout of zips and maps."""

import io
import multiprocessing
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.archives import ZipImages, read_map
from swin.errors import DataError
from tests.unit.data_layouts import open_zips


def make_png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), grey).save(file, "PNG")
    return file.getvalue()


def grey_of(source: ZipImages, index: int) -> int:
    return Image.open(io.BytesIO(source.read(index))).getpixel((0, 0))


def open_members(file: Path, names: Sequence[str]) -> ZipImages:
    return ZipImages(file, names, np.zeros(len(names), dtype=np.int64))


def make_zip(root: Path, half: str, samples: Sequence[tuple[str, int]], method: int = zipfile.ZIP_STORED) -> None:
    """Writes a zip and its map; the i-th image has grey value i."""
    with zipfile.ZipFile(root / f"{half}.zip", "w", method) as archive:
        for grey, (name, _) in reversed(list(enumerate(samples))):  # in another order than the map's
            archive.writestr(name, make_png(grey))
    (root / f"{half}_map.txt").write_text("".join(f"{name}\t{label}\n" for name, label in samples))


TRAIN = [("cat/1.png", 1), ("ant/1.png", 0), ("cat/2.png", 1), ("dog/1.png", 2)]
VAL = [("dog/9.png", 2), ("ant/9.png", 0)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_zip(tmp_path, "train", TRAIN)
    make_zip(tmp_path, "val", VAL, zipfile.ZIP_DEFLATED)
    return tmp_path


@pytest.mark.parametrize("cache_mode", ["no", "part", "full"])
@pytest.mark.parametrize("rank", [0, 1])
def test_images_and_labels_follow_the_map(root: Path, cache_mode: str, rank: int) -> None:
    sets = open_zips(root, cache_mode=cache_mode, rank=rank, world_size=2)
    assert sets.classes == ["ant", "cat", "dog"]
    for source, samples in ((sets.train, TRAIN), (sets.val, VAL)):
        assert source.labels.tolist() == [label for _, label in samples]
        assert [grey_of(source, index) for index in range(len(samples))] == list(range(len(samples)))
        source.files.close()
    assert sets.train.name(3) == f"{root}/train.zip/dog/1.png"


def test_cached_images_do_not_need_the_file(root: Path) -> None:
    full = open_zips(root, cache_mode="full")
    part = open_zips(root, cache_mode="part", rank=1, world_size=2)
    for source in (full.train, full.val, part.train, part.val):
        source.files.close()
        source.path.unlink(missing_ok=True)
    assert [grey_of(full.train, index) for index in range(4)] == [0, 1, 2, 3]
    assert [grey_of(part.train, index) for index in (1, 3)] == [1, 3]
    assert grey_of(part.val, 1) == 1
    with pytest.raises(DataError, match=r"train\.zip: the member of line 1 of its map cannot be read"):
        part.train.read(0)


def read_repeatedly(archive: ZipImages, number: int) -> bool:
    return all(archive.read(number) == make_png(number) for _ in range(300))


def test_processes_do_not_disturb_each_other(root: Path) -> None:
    archive = open_members(root / "train.zip", [name for name, _ in TRAIN])
    archive.read(0)  # opens the file before the processes start
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert all(pool.starmap(read_repeatedly, [(archive, number) for number in range(4)]))
    assert not pickle.loads(pickle.dumps(archive)).files._streams
    archive.files.close()


def test_classes_without_folders_are_called_by_their_labels(tmp_path: Path) -> None:
    make_zip(tmp_path, "train", [("a.png", 1), ("b.png", 0)])
    make_zip(tmp_path, "val", [("x/c.png", 1)])
    assert open_zips(tmp_path).classes == ["0", "1"]


def test_val_images_may_lie_flat(tmp_path: Path) -> None:
    make_zip(tmp_path, "train", TRAIN)
    make_zip(tmp_path, "val", [("ILSVRC2012_val_1.png", 2)])
    assert open_zips(tmp_path).val.labels.tolist() == [2]


def test_evaluation_needs_only_val(tmp_path: Path) -> None:
    make_zip(tmp_path, "val", [("ant/1.png", 0), ("bee/1.png", 1)])
    sets = open_zips(tmp_path, need_train=False)
    assert (sets.train, sets.classes) == (None, ["ant", "bee"])
    assert open_zips(tmp_path, need_train=False, classes=["ant", "bee", "cat"]).classes == ["ant", "bee", "cat"]
    with pytest.raises(DataError, match="folder 'ant' has label 0, which is 'bee' in the label map that was given"):
        open_zips(tmp_path, need_train=False, classes=["bee", "ant"])
    with pytest.raises(DataError, match=r"train_map\.txt: cannot be read: No such file"):
        open_zips(tmp_path)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ([("ant/9.png", 3)], "label 3 is unknown to .*train_map.txt, which has 3 classes"),
        ([("ant/9.png", 1)], "folder 'ant' has label 1, which is 'cat' in .*train_map.txt"),
        ([("cats/9.png", 1)], "class 'cats' is unknown to .*train_map.txt; the nearest of its 3 classes is 'cat'"),
    ],
)
def test_maps_that_contradict_each_other(tmp_path: Path, val: list[tuple[str, int]], message: str) -> None:
    make_zip(tmp_path, "train", TRAIN)
    make_zip(tmp_path, "val", val)
    with pytest.raises(DataError, match=message):
        open_zips(tmp_path)


def test_labels_without_images_are_named(tmp_path: Path) -> None:
    make_zip(tmp_path, "train", [("a.png", 0), ("b.png", 2)])
    make_zip(tmp_path, "val", [("a.png", 0)])
    with pytest.raises(DataError, match="labels run from 0 to 2, but no image has label 1"):
        open_zips(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lists no images"),
        ("a.png\t0\nb.png 1\n", r"map\.txt:2: found 'b\.png 1', expected `path<TAB>label`"),
        ("a.png\tcat\n", r"map\.txt:1: found 'a\.png\\tcat'"),
        ("a.png\t-1\n", r"map\.txt:1"),
    ],
)
def test_bad_maps_are_refused_with_their_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "map.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        read_map(tmp_path / "map.txt")


def test_maps_may_have_blank_lines_and_windows_ends(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_bytes(b"a b.png\t0\r\n\r\nc.png\t1")
    names, labels = read_map(tmp_path / "map.txt")
    assert (list(names), labels.tolist()) == (["a b.png", "c.png"], [0, 1])


def test_damaged_zips_are_named(root: Path) -> None:
    names = [name for name, _ in TRAIN]
    with pytest.raises(DataError, match=r"holds no missing\.png, which its map lists"):
        open_members(root / "train.zip", ["missing.png"])
    content = bytearray((root / "train.zip").read_bytes())
    content[content.index(make_png(3)) + 20] ^= 1
    (root / "flipped.zip").write_bytes(content)
    archive = open_members(root / "flipped.zip", names)
    with pytest.raises(DataError, match="line 4 of its map cannot be read: its size or checksum"):
        archive.read(3)
    archive.files.close()
    (root / "cut.zip").write_bytes(content[:200])
    with pytest.raises(DataError, match="cannot be read as a zip"):
        open_members(root / "cut.zip", names)
    make_zip(root, "packed", TRAIN, zipfile.ZIP_LZMA)
    with pytest.raises(DataError, match="is encrypted or not deflated"):
        open_members(root / "packed.zip", names)
