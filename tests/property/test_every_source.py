"""The same images give the same batches from every layout, for any number of workers and ranks, and after a resume."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from data.build import open_sets
from data.loaders import TrainLoader
from data.sources import Source
from data.transforms import TrainTransform
from swin.batches import Batch
from swin.config import Config, load_config
from tools import pack_dataset

CLASSES = ("001.ant", "002.bee", "003.cat")
COUNTS = {"train": (8, 7, 8), "val": (2, 1, 2)}  # 23: batches of 3 by two ranks leave a remainder
EPOCH, BATCH = 5, 3
# Flips, crops, policies and erasing draw from all three generators.
AUGMENT = TrainTransform(img_size=40, channels=3, mean=(0.5,) * 3, erase_prob=0.5)

Images = dict[str, list[tuple[str, int, bytes]]]  # of each half: name, label and file


@pytest.fixture(scope="module")
def images() -> Images:
    random = np.random.RandomState(0)

    def draw() -> bytes:
        file = io.BytesIO()
        shape = (*random.randint(30, 70, 2), 3)
        Image.fromarray(random.randint(0, 256, shape, dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    return {
        half: [(f"{CLASSES[label]}/{half}_{i}.png", label, draw()) for label in range(3) for i in range(counts[label])]
        for half, counts in COUNTS.items()
    }


def write_files(root: Path, half: str, images: Images) -> None:
    for name, _, content in images[half]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def folders(root: Path, images: Images) -> dict[str, object]:
    for half in images:
        write_files(root / half, half, images)
    return {}


def undivided(root: Path, images: Images) -> dict[str, object]:
    for half in images:
        write_files(root, half, images)
    return {"DATA.VAL_SPLIT": 0.2}


def zips(cache_mode: str) -> Callable[[Path, Images], dict[str, object]]:
    def write(root: Path, images: Images) -> dict[str, object]:
        for half, rows in images.items():
            with zipfile.ZipFile(root / f"{half}.zip", "w") as archive:
                for name, _, content in reversed(rows):
                    archive.writestr(name, content)
            (root / f"{half}_map.txt").write_text("".join(f"{name}\t{label}\n" for name, label, _ in rows))
        return {"DATA.ZIP_MODE": True, "DATA.CACHE_MODE": cache_mode}

    return write


def table(delimiter: str, suffix: str) -> Callable[[Path, Images], dict[str, object]]:
    def write(root: Path, images: Images) -> dict[str, object]:
        for half, rows in images.items():
            write_files(root, half, images)
            lines = (f"{name}{delimiter}{CLASSES[label]}\n" for name, label, _ in rows)
            (root / f"{half}{suffix}").write_text("".join(lines))
        return {}

    return write


def imagenet22k(root: Path, images: Images) -> dict[str, object]:
    for half, rows in images.items():
        write_files(root, half, images)
        pairs = [[name, label] for name, label, _ in rows]
        (root / f"ILSVRC2011fall_whole_map_{half}.txt").write_text(json.dumps(pairs))
    return {"DATA.DATASET": "imagenet22K"}


def cub(root: Path, images: Images) -> dict[str, object]:
    rows = [(half, *row) for half in images for row in images[half]]
    for half in images:
        write_files(root / "images", half, images)
    columns = {
        "images.txt": [name for _, name, _, _ in rows],
        "image_class_labels.txt": [label + 1 for _, _, label, _ in rows],
        "train_test_split.txt": [int(half == "train") for half, _, _, _ in rows],
        "classes.txt": CLASSES,
    }
    for file, values in columns.items():
        (root / file).write_text("".join(f"{number} {value}\n" for number, value in enumerate(values, 1)))
    return {}


def packed(root: Path, images: Images) -> dict[str, object]:
    folders(root / "files", images)
    arguments = ["--data-path", str(root / "files"), "--output", str(root), "--shard-size", "5", "--workers", "1"]
    assert pack_dataset.main(arguments) == 0
    return {}


def one_table(root: Path, images: Images) -> dict[str, object]:
    rows = []
    for half in images:
        write_files(root / "images", half, images)
        rows += [f"{half},{CLASSES[label]},images/{name}\n" for name, label, _ in images[half]]
    (root / "labels.csv").write_text("".join(["Split,Class,File\n", *rows]))
    return {}


def metadata(root: Path, images: Images) -> dict[str, object]:
    for half, rows in images.items():
        write_files(root / half / "images", half, images)
        lines = [json.dumps({"file_name": f"images/{name}", "label": CLASSES[label]}) for name, label, _ in rows]
        (root / half / "metadata.jsonl").write_text("\n".join(lines))
    return {}


def flat(root: Path, images: Images) -> dict[str, object]:
    for half, rows in images.items():
        (root / half).mkdir()
        for name, _, content in rows:
            (root / half / name.replace("/", "_")).write_bytes(content)
    return {"DATA.CLASS_PATTERN": r"^(\d+\.[a-z]+)_"}


def columns(rows: list[tuple[str, int, bytes]]) -> pa.Table:
    images = [{"bytes": content, "path": name} for name, _, content in rows]
    return pa.table({"image": images, "label": [CLASSES[label] for _, label, _ in rows]})


def parquet(root: Path, images: Images) -> dict[str, object]:
    for half, rows in images.items():
        pq.write_table(columns(rows), root / f"{half}.parquet", row_group_size=4)
    return {}


def saved_to_disk(root: Path, images: Images) -> dict[str, object]:
    for half, rows in images.items():
        (root / half).mkdir()
        shards = [columns(rows[:3]), columns(rows[3:])]
        for number, shard in enumerate(shards):
            with (
                pa.OSFile(str(root / half / f"{number}.arrow"), "wb") as file,
                pa.ipc.new_stream(file, shard.schema) as stream,
            ):
                stream.write_table(shard)
        files = [{"filename": f"{number}.arrow"} for number in range(len(shards))]
        (root / half / "state.json").write_text(json.dumps({"_data_files": files}))
    return {}


LAYOUTS: dict[str, Callable[[Path, Images], dict[str, object]]] = {
    "folders": folders,
    "undivided": undivided,
    "zip": zips("no"),
    "zip_part": zips("part"),
    "zip_full": zips("full"),
    "csv": table(",", ".csv"),
    "tsv": table("\t", ".tsv"),
    "imagenet22k": imagenet22k,
    "cub": cub,
    "packed": packed,
    "one_table": one_table,
    "metadata": metadata,
    "flat": flat,
    "parquet": parquet,
    "saved_to_disk": saved_to_disk,
}


@pytest.fixture(scope="module", params=[*LAYOUTS, "digits"])
def config(request: pytest.FixtureRequest, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Config:
    if request.param == "digits":
        return load_config(overrides={"DATA.DATASET": "digits"})
    root = tmp_path_factory.mktemp(request.param)
    return load_config(overrides={"DATA.DATA_PATH": str(root), **LAYOUTS[request.param](root, images)})


def open_train(config: Config, rank: int = 0, world_size: int = 1) -> Source:
    source = open_sets(config, rank=rank, world_size=world_size).train
    assert source is not None
    if len(source.labels) > 100:  # the digits
        source.labels = source.labels[:23]
    return source


def epoch(config: Config, position: int = 0, **options: int) -> Iterator[Batch]:
    ranks = {key: options[key] for key in ("rank", "world_size") if key in options}
    loader = TrainLoader(open_train(config, **ranks), transform=AUGMENT, seed=1, **{"batch_size": BATCH} | options)
    return loader.epoch(EPOCH, position)


def facts(batches: Iterator[Batch]) -> list[tuple[bytes, int, bytes]]:
    """Pixels, label and what is erased of each sample, in order."""
    return [
        (image.numpy().tobytes(), label, batch.rectangles[batch.rectangles[:, 0] == place, 1:].numpy().tobytes())
        for batch in batches
        for place, (image, label) in enumerate(zip(batch.images, batch.labels.tolist(), strict=True))
        if place < batch.num_valid
    ]


def test_batches_do_not_depend_on_workers(config: Config) -> None:
    expected = list(epoch(config))
    assert len({image for image, _, _ in facts(iter(expected))}) == sum(batch.num_valid for batch in expected)
    for num_workers in (1, 2, 4):
        for ours, theirs in zip(epoch(config, num_workers=num_workers), expected, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.rectangles, theirs.rectangles)
            assert ours[3:] == theirs[3:]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_ranks_share_the_samples_of_one(config: Config, num_workers: int) -> None:
    whole = facts(epoch(config, batch_size=2 * BATCH))
    halves = [facts(epoch(config, rank=rank, world_size=2, num_workers=num_workers)) for rank in (0, 1)]
    assert sorted(halves[0] + halves[1]) == sorted(whole)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_a_resumed_epoch_goes_on_with_the_same_samples(config: Config, num_workers: int) -> None:
    begun = list(epoch(config))
    for done in (1, 4, len(begun) - 1):
        rest = facts(epoch(config, begun[done - 1].position, num_workers=num_workers))
        assert rest == facts(iter(begun[done:]))
    # Under another number of ranks, too.
    rest = [facts(epoch(config, begun[1].position, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(rest[0] + rest[1]) == sorted(facts(iter(begun[2:])))


def test_layouts_with_the_same_order_give_the_same_batches(images: Images, tmp_path: Path) -> None:
    """What a sample looks like depends on its place in the order, not on where it is read from."""
    found = {}
    for name, write in LAYOUTS.items():
        if name != "undivided":  # it holds out other images
            (tmp_path / name).mkdir()
            options = write(tmp_path / name, images)
            found[name] = facts(epoch(load_config(overrides={"DATA.DATA_PATH": str(tmp_path / name), **options})))
    assert all(samples == found["folders"] for samples in found.values())
