"""Data sets listed in tables, and what a table of millions of images takes."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data import build_data
from data.loaders import TrainLoader
from data.sources import FolderImages, Names
from data.transforms import EvalPixels
from swin.config import load_config
from swin.errors import DataError
from tests.unit.data_layouts import open_cub, open_imagenet22k, open_tables
from tests.unit.test_data_folders import make_files


def write(file: Path, *lines: str) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))


def listing(source: FolderImages) -> list[tuple[str, int]]:
    return list(zip(source.names, source.labels.tolist(), strict=True))


def test_named_labels_are_sorted_and_headers_skipped(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "path,label", "a/1.jpg,cat", '"a, b/2.jpg",ant', "3.jpg,cat")
    write(tmp_path / "val.tsv", "9.jpg\tcat")
    sets = open_tables(tmp_path)
    assert sets.classes == ["ant", "cat"]
    assert listing(sets.train) == [("a/1.jpg", 1), ("a, b/2.jpg", 0), ("3.jpg", 1)]
    assert listing(sets.val) == [("9.jpg", 1)]
    assert sets.val.name(0) == f"{tmp_path}/9.jpg"
    assert open_tables(tmp_path, need_train=False, classes=["cat", "dog"]).val.labels.tolist() == [0]


def test_numbered_labels_stay(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a/1.jpg,1", "b/2.jpg,0", "b/3.jpg,0")
    write(tmp_path / "val.csv", "b/9.jpg,0")
    sets = open_tables(tmp_path)
    assert sets.classes == ["b", "a"]
    assert sets.train.labels.tolist() == [1, 0, 0]
    assert open_tables(tmp_path, need_train=False).classes == ["b", "a"]


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("a.jpg,cat", "b.jpg,cats", "class 'cats' is unknown to .*train.csv; the nearest of its 1 classes is 'cat'"),
        ("a.jpg,0", "b.jpg,1", "label 1 is unknown to .*train.csv, which has 1 classes"),
        ("a.jpg,0", "b.jpg,cat", "label 'cat' is a name, but the training labels are numbers"),
        ("a.jpg", "b.jpg,cat", "train.csv: found 'a.jpg', expected a path and a label"),
        ("a.jpg,1", "b.jpg,1", "no image has label 0"),
        ("", "b.jpg,1", "train.csv: lists no images"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, train: str, val: str, message: str) -> None:
    write(tmp_path / "train.csv", train)
    write(tmp_path / "val.csv", val)
    with pytest.raises(DataError, match=message):
        open_tables(tmp_path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a.jpg,cat")
    with pytest.raises(DataError, match=r"Add val\.csv"):
        open_tables(tmp_path)


def as_json(*pairs: tuple[str, int]) -> str:
    return json.dumps([[path, label] for path, label in pairs])


def as_lines(*pairs: tuple[str, int]) -> str:
    return "".join(f"{path}\t[{label}, 3]\n" for path, label in pairs)


@pytest.mark.parametrize("encode", [as_json, as_lines])
def test_imagenet_22k_by_its_map_files(tmp_path: Path, encode: Callable[..., str]) -> None:
    pairs = [("n01/n01_1.JPEG", 0), ("n02/n02_7.JPEG", 1), ("n01/n01_2.JPEG", 0)]
    (tmp_path / "ILSVRC2011fall_whole_map_train.txt").write_text(encode(*pairs))
    (tmp_path / "ILSVRC2011fall_whole_map_val.txt").write_text(encode(("n02/n02_9.JPEG", 1)))
    sets = open_imagenet22k(tmp_path)
    assert sets.classes == ["n01", "n02"]
    assert listing(sets.train) == pairs
    assert listing(sets.val) == [("n02/n02_9.JPEG", 1)]
    (tmp_path / "ILSVRC2011fall_whole_map_val.txt").write_text("{}")
    with pytest.raises(DataError, match=r"whole_map_val\.txt"):
        open_imagenet22k(tmp_path)


def test_cub_as_it_is_distributed(tmp_path: Path) -> None:
    make_files(tmp_path / "images", "001.Albatross/a.jpg", "002.Auk/b.jpg", "002.Auk/c.jpg")
    write(tmp_path / "images.txt", "1 001.Albatross/a.jpg", "2 002.Auk/b.jpg", "3 002.Auk/c.jpg")
    write(tmp_path / "image_class_labels.txt", "1 1", "2 2", "3 2")
    write(tmp_path / "train_test_split.txt", "1 1", "2 0", "3 1")
    write(tmp_path / "classes.txt", "1 001.Albatross", "2 002.Auk")
    sets = open_cub(tmp_path)
    assert sets.classes == ["001.Albatross", "002.Auk"]
    assert listing(sets.train) == [("001.Albatross/a.jpg", 0), ("002.Auk/c.jpg", 1)]
    assert listing(sets.val) == [("002.Auk/b.jpg", 1)]
    small = {"DATA.IMG_SIZE": 32, "MODEL.SWIN.WINDOW_SIZE": 4, "MODEL.SWIN.PATCH_SIZE": 2, "DATA.NUM_WORKERS": 0}
    data = build_data(load_config(overrides=small | {"DATA.DATA_PATH": str(tmp_path)}))
    assert next(iter(data.val)).labels.tolist() == [1]
    write(tmp_path / "train_test_split.txt", "1 1")
    with pytest.raises(DataError, match="do not list the same images"):
        open_cub(tmp_path)


def test_names_take_their_bytes_and_a_number_each() -> None:
    names = Names.of(f"n{index:08d}/image.JPEG" for index in range(10_000))
    assert names.bytes.nbytes + names.stops.nbytes == 10_000 * (20 + 8)
    assert (names[0], names[9_999], len(names)) == ("n00000000/image.JPEG", "n00009999/image.JPEG", 10_000)
    assert np.shares_memory(Names.of(names).bytes, names.bytes)


class ManyImages:
    """A table of a million names and one picture."""

    def __init__(self, count: int) -> None:
        self.names = Names.of(f"n{index:08d}/image.JPEG" for index in range(count))
        self.labels = np.arange(count) % 1000

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> np.ndarray:
        return np.full((2, 2), index % 256, dtype=np.uint8)


def private_mb(pid: int) -> float:
    """Memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return (sizes["Private_Clean"] + sizes["Private_Dirty"]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of shared memory")
def test_memory_stays_flat_over_epochs_of_a_million_samples() -> None:
    transform = EvalPixels(torch.nn.Identity(), channels=1)
    loader = TrainLoader(ManyImages(1_000_000), transform=transform, seed=0, batch_size=1000, num_workers=2)
    after = []
    for epoch in range(2):
        for number, _ in enumerate(loader.epoch(epoch)):
            if number == 950:
                after.append([private_mb(worker.pid) for worker in multiprocessing.active_children()])
    assert [len(sizes) for sizes in after] == [2, 2]
    # The first epoch touches each worker's own pages; the names alone, were they copied, would be 28 MB.
    assert max(after[1]) - max(after[0]) < 10
