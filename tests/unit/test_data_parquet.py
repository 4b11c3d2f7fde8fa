"""Tables in Parquet, and what Hugging Face's `datasets` writes."""

import json
import multiprocessing
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from data import parquet
from data.layouts import USUAL
from data.tables import find_tables, open_tables
from swin.errors import ConfigError, DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
PARTS = [name for names in USUAL.values() for name in names]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["zebra", "ant", "bee"], "_type": "ClassLabel"}}


def table(count: int, start: int = 0) -> Any:
    """Images as Hugging Face stores them: contents 0, 1, 2, ... and labels of three declared classes in turn."""
    numbers = range(start, start + count)
    images = [{"bytes": b"image %d" % number, "path": f"{number}.png" if number % 2 else None} for number in numbers]
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pa.table({"image": images, "label": [number % 3 for number in numbers]}).replace_schema_metadata(metadata)


def save(part: Path, *shards: Any) -> None:
    """Write what `Dataset.save_to_disk` does."""
    part.mkdir(parents=True)
    files = [f"data-{index:05d}-of-{len(shards):05d}.arrow" for index in range(len(shards))]
    for file, shard in zip(files, shards, strict=True):
        with pa.OSFile(str(part / file), "wb") as stream, pa.ipc.new_stream(stream, shard.schema) as writer:
            writer.write_table(shard, max_chunksize=2)
    (part / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))


def shards_of_parquet(root: Path) -> None:
    for index, shard in enumerate((table(7), table(4, start=7))):
        pq.write_table(shard, root / f"train-{index:05d}-of-00002.parquet", row_group_size=3)
    pq.write_table(table(3), root / "validation-00000-of-00001.parquet")


def in_a_folder_data(root: Path) -> None:
    (root / "data").mkdir()
    shards_of_parquet(root / "data")


def saved_to_disk(root: Path) -> None:
    save(root / "train", table(7), table(4, start=7))
    save(root / "validation", table(3))


@pytest.mark.parametrize("write", [shards_of_parquet, in_a_folder_data, saved_to_disk])
def test_images_in_shards(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    assert find_tables(tmp_path, PARTS) == ["train", "validation"]
    opened = open_tables(tmp_path, ["train", "validation"])
    assert opened.classes == ["zebra", "ant", "bee"]
    train = opened.sources["train"]
    assert train.labels.tolist() == [number % 3 for number in range(11)]
    assert list(train.names)[:2] == ["00000000", "00000001/1.png"]
    assert [train.read(index) for index in (10, 0, 6, 7, 3)] == [b"image %d" % index for index in (10, 0, 6, 7, 3)]
    assert pickle.loads(pickle.dumps(train)).read(9) == b"image 9"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(train.read, range(11)) == [b"image %d" % index for index in range(11)]
    other = open_tables(tmp_path, ["validation"], ["bee", "ant", "zebra"])
    assert other.sources["validation"].labels.tolist() == [2, 1, 0]


def test_one_file_with_a_column_for_the_split_and_groups(tmp_path: Path) -> None:
    columns = {"content": [b"a", b"b", b"c"], "target": [1, 0, 1], "split": ["train", "train", "val"], "who": [7, 8, 7]}
    pq.write_table(pa.table(columns), tmp_path / "all.parquet")
    for root in (tmp_path, tmp_path / "all.parquet"):
        assert find_tables(root, PARTS) == ["train", "val"]
        opened = open_tables(root, ["train", "val"], group_by="who")
        assert opened.classes == ["0", "1"]
        assert opened.sources["train"].labels.tolist() == [1, 0]
        assert opened.sources["val"].read(0) == b"c"
        assert list(opened.groups["train"]) == ["7", "8"]


def test_paths_in_parquet_and_lists_of_labels(tmp_path: Path) -> None:
    columns = {"path": ["a.jpg", "b.jpg"], "labels": [["cat", "dog"], []]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    (tmp_path / "a.jpg").write_bytes(b"pixels")
    source = open_tables(tmp_path, ["train"], multi_label=True).sources["train"]
    assert source.labels.tolist() == [[1, 1], [0, 0]]
    assert source.read(0) == b"pixels"
    with pytest.raises(DataError, match=r"train\.parquet, row 1: .*b\.jpg: cannot be read: No such file"):
        source.read(1)
    with pytest.raises(DataError, match=r"row 0: label .*DATA\.MULTI_LABEL True"):
        open_tables(tmp_path, ["train"])


def test_images_beside_the_file_and_rows_without(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "a.png"}, {"bytes": b"b", "path": None}, None]
    pq.write_table(pa.table({"image": images, "label": ["x", "y", "x"]}), tmp_path / "a.parquet")
    (tmp_path / "a.png").write_bytes(b"a")
    source = open_tables(tmp_path, [""]).sources[""]
    assert [source.read(index) for index in (0, 1)] == [b"a", b"b"]
    with pytest.raises(DataError, match="row 2 holds no image"):
        source.read(2)


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    unlabelled = table(4).set_column(1, "label", pa.array([0, 1, -1, 2]))
    pq.write_table(unlabelled.replace_schema_metadata(table(1).schema.metadata), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet: .*expected a path and a label, in row 2"):
        open_tables(tmp_path, ["test"])


def test_row_groups_are_kept_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table(100), tmp_path / "train.parquet", row_group_size=10)
    monkeypatch.setattr(parquet, "_MAX_CACHE_BYTES", 500)
    source = open_tables(tmp_path, ["train"]).sources["train"]
    assert all(source.read(index) == b"image %d" % index for index in (*range(100), *range(0, 100, 7)))
    assert 1 <= len(source._cache._chunks) < 5
    monkeypatch.setattr(parquet, "MAX_FILE_BYTES", 100)
    with pytest.raises(DataError, match=r"a row group of .* bytes.*row_group_size=100"):
        open_tables(tmp_path, ["train"])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    save(tmp_path / "saved" / "train", table(2))
    (tmp_path / "saved" / "train" / "data-00000-of-00001.arrow").write_bytes(content)
    for root, name in ((tmp_path, "train.parquet"), (tmp_path / "saved", "00001.arrow")):
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            open_tables(root, ["train"])
    (tmp_path / "saved" / "train" / "state.json").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.json cannot be read"):
        open_tables(tmp_path / "saved", ["train"])


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="extra `parquet`"):
        open_tables(tmp_path, ["train"])


def test_what_datasets_itself_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    numpy, image = pytest.importorskip("numpy"), pytest.importorskip("PIL.Image")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])})
    pictures = [{"image": image.fromarray(numpy.full((8, 8, 3), n, numpy.uint8)), "label": n % 2} for n in range(10)]
    train = datasets.Dataset.from_list(pictures, features=features)
    data = datasets.DatasetDict({"train": train, "test": train.select([1, 2])})
    data.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    train.save_to_disk(tmp_path / "one")
    (tmp_path / "parquet").mkdir()
    for part, content in data.items():
        content.to_parquet(tmp_path / "parquet" / f"{part}.parquet", batch_size=3)
    assert find_tables(tmp_path / "saved", PARTS) == find_tables(tmp_path / "parquet", PARTS) == ["test", "train"]
    assert find_tables(tmp_path / "one", PARTS) == [""]
    for root, parts in (("saved", ["train", "test"]), ("parquet", ["train", "test"]), ("one", [""])):
        opened = open_tables(tmp_path / root, parts)
        assert opened.classes == ["zebra", "ant"]
        source = opened.sources[parts[0]]
        assert source.labels.tolist() == [0, 1] * 5
        assert (
            source.read(7)
            == train.with_format(None).cast_column("image", datasets.Image(decode=False))[7]["image"]["bytes"]
        )
        if parts[1:]:
            assert opened.sources["test"].labels.tolist() == [1, 0]
            assert opened.sources["test"].read(1) == source.read(2)
