"""Packing: what comes back is what went in, in any order, after any interruption."""

import io
import json
import multiprocessing
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm
from webdataset.tariterators import group_by_keys, tar_file_expander

from data import build_data
from data.shards import ShardImages
from data.sources import FolderImages
from swin.config import load_config
from swin.errors import DataError
from swin.images import open_input
from tests.unit.data_layouts import open_shards
from tools import pack_dataset
from tools.pack_dataset import pack

NUM_IMAGES = 90


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderImages:
    root, noise = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    names = [f"{index}.{('png', 'jpg')[index % 2]}" for index in range(NUM_IMAGES)]
    for name in names:
        Image.fromarray(noise.randint(0, 256, (60, 90, 3), dtype=np.uint8)).save(root / name)
    return FolderImages(root, names, np.arange(NUM_IMAGES) % 7)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_files_come_back_as_they_were(source: FolderImages, tmp_path: Path) -> None:
    pack(source, tmp_path, shard_size=20, workers=2)
    packed = ShardImages(tmp_path)
    assert packed.labels.tolist() == source.labels.tolist()
    for index in np.random.RandomState(1).permutation(NUM_IMAGES).tolist():
        assert packed.read(index) == source.read(index)
    assert packed.name(41) == f"{tmp_path}/shard-000002.tar/41.jpg"
    assert sorted(contents(tmp_path)) == ["index.npz", "packing.json", *(f"shard-{n:06d}.tar" for n in range(5))]


def test_webdataset_reads_the_shards(source: FolderImages, tmp_path: Path) -> None:
    pack(source, tmp_path, shard_size=50)
    samples = []
    for number in range(2):
        with open(tmp_path / f"shard-{number:06d}.tar", "rb") as stream:  # WebDataset itself leaves files open
            files = tar_file_expander([{"url": stream.name, "stream": stream}])
            samples += list(group_by_keys(files))
    assert [int(sample["__key__"]) for sample in samples] == list(range(NUM_IMAGES))
    for index, sample in enumerate(samples):
        assert sample["jpg" if index % 2 else "png"] == source.read(index)
        assert int(sample["cls"]) == source.labels[index]


def test_large_images_are_shrunk_and_small_ones_kept(source: FolderImages, tmp_path: Path) -> None:
    pack(source, tmp_path / "shrunk", short_side_px=30)
    pack(source, tmp_path / "kept", short_side_px=60)
    assert open_input(ShardImages(tmp_path / "shrunk").read(4)).shape == (3, 30, 45)
    assert ShardImages(tmp_path / "kept").read(4) == source.read(4)


def pack_apart(*arguments: object, **options: int) -> None:
    tqdm.set_lock(threading.RLock())  # else one that is killed may hold a lock of this process for ever
    pack(*arguments, **options)


def test_ten_kills_leave_no_trace(source: FolderImages, tmp_path: Path) -> None:
    options = {"short_side_px": 50, "shard_size": 6, "workers": 2}
    begin = time.perf_counter()
    pack(source, tmp_path / "whole", **options)
    duration = time.perf_counter() - begin
    draw, context = random.Random(0), multiprocessing.get_context("fork")
    killed = 0
    for _ in range(10):
        process = context.Process(target=pack_apart, args=(source, tmp_path / "killed"), kwargs=options)
        process.start()
        process.join(draw.uniform(0, duration / 4))
        killed += process.exitcode is None
        process.kill()
        process.join()
    assert killed >= 5  # the others had finished before
    pack(source, tmp_path / "killed", **options)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_an_interruption_left_is_removed(source: FolderImages, tmp_path: Path) -> None:
    for name in (".shard-000000.tar.1.partial", ".shard-000000.part.npy.1.partial"):
        (tmp_path / name).write_bytes(b"half")
    pack(source, tmp_path, shard_size=50)
    assert sorted(contents(tmp_path)) == ["index.npz", "packing.json", "shard-000000.tar", "shard-000001.tar"]


def test_what_is_read_back_is_compared(source: FolderImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(folder: Path, shard: int) -> int:
        file = folder / "shard-000000.tar"
        content = bytearray(file.read_bytes())
        content[600] ^= 1
        file.write_bytes(content)
        return verify(folder, shard)

    verify = pack_dataset._verify_shard
    monkeypatch.setattr(pack_dataset, "_verify_shard", damage)
    monkeypatch.setattr(pack_dataset, "partial", lambda function, *some: lambda last: function(*some, last))
    monkeypatch.setattr(pack_dataset, "ProcessPoolExecutor", InOneProcess)
    with pytest.raises(DataError, match=r"shard-000000\.tar: image 0 of the shard is not what was written"):
        pack(source, tmp_path)


class InOneProcess:
    map = staticmethod(map)

    def __init__(self, workers: int, context: object, start: object, arguments: tuple[int, FolderImages]) -> None:
        pack_dataset._worker["source"] = arguments[1]

    def shutdown(self, cancel_futures: bool) -> None:
        pass


def test_other_settings_and_unreadable_images_are_refused(source: FolderImages, tmp_path: Path) -> None:
    pack(source, tmp_path / "a", shard_size=50)
    with pytest.raises(DataError, match="was packed from other images or with other settings"):
        pack(source, tmp_path / "a", shard_size=60)
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"bad\.jpg: is not an image"):
        pack(FolderImages(tmp_path, ["bad.jpg"], np.array([0])), tmp_path / "b")


def test_damaged_packs_are_named(source: FolderImages, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.npz: is not the index"):
        ShardImages(tmp_path)
    pack(source, tmp_path)
    shard = tmp_path / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    packed = ShardImages(tmp_path)
    with pytest.raises(DataError, match=r"89\.jpg: the shard ends before this image"):
        packed.read(89)


def test_training_reads_packed_sets_like_the_folders_they_came_from(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data-path", str(shapes), "--output", str(tmp_path), "--shard-size", "40", "--workers", "1"]
    assert pack_dataset.main(arguments) == 0
    small = {"DATA.IMG_SIZE": 32, "DATA.BATCH_SIZE": 16, "MODEL.SWIN.WINDOW_SIZE": 4, "MODEL.SWIN.PATCH_SIZE": 2}
    plain, packed, helped = (
        build_data(load_config(overrides=small | {"DATA.DATA_PATH": str(root), "DATA.NUM_WORKERS": workers}))
        for root, workers in ((shapes, 0), (tmp_path, 0), (tmp_path, 2))
    )
    assert packed.classes == plain.classes
    for one, two, three in zip(plain.train.epoch(1), packed.train.epoch(1), helped.train.epoch(1), strict=True):
        assert torch.equal(one.images, two.images)
        assert torch.equal(two.images, three.images)
        assert torch.equal(one.labels, two.labels)
    for one, two in zip(plain.val, packed.val, strict=True):
        assert torch.equal(one.images, two.images)
    capsys.readouterr()
    assert pack_dataset.main(["--data-path", "/nowhere", "--output", str(tmp_path / "x")]) == 2
    assert "error: DATA.DATA_PATH /nowhere does not exist" in capsys.readouterr().err


def test_a_given_label_map_renumbers_by_name(source: FolderImages, tmp_path: Path) -> None:
    pack(source, tmp_path / "val")
    (tmp_path / "classes.json").write_text(json.dumps(list("abcdefg")))
    sets = open_shards(tmp_path, need_train=False, classes=list("gfedcbaz"))
    assert sets.val.labels[:7].tolist() == [6, 5, 4, 3, 2, 1, 0]
    with pytest.raises(DataError, match="class 'g' is unknown to the label map"):
        open_shards(tmp_path, need_train=False, classes=list("abcdef"))


def test_images_without_files_are_packed_losslessly() -> None:
    image = np.full((8, 8), 77, dtype=np.uint8)
    content, extension = pack_dataset._encode(image, "digit", pack_dataset.Recipe(0, 90, 10, 3, ""))
    assert (extension, Image.open(io.BytesIO(content)).tobytes()) == ("png", image.tobytes())
