"""Links, files that are no files, and lists in any encoding: read as they were meant, or one line says what to do."""

import contextlib
import csv
import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.build import open_sets
from data.sources import Sets
from data.splits import Rule, hold_out
from swin.config import load_config
from swin.errors import ConfigError, DataError
from swin.files import read_file
from swin.images import open_input
from swin.run_folder import RunFolder
from tests.conftest import ROOT
from tests.unit.data_layouts import open_cub, open_folders, open_imagenet22k, open_shards, open_tables, open_zips
from tests.unit.test_data_folders import make_classes, make_files
from tools import check_dataset, pack_dataset

LATIN = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8


def listing(sets: Sets) -> list[tuple[str, str]]:
    """Training images with the names of their classes."""
    return [
        (name, sets.classes[label]) for name, label in zip(sets.train.names, sets.train.labels.tolist(), strict=True)
    ]


def refuses(attempt: Callable[[], object], *parts: str) -> None:
    """Asserts that the error is one printable line with the given parts."""
    with pytest.raises(DataError) as raised:
        attempt()
    message = str(raised.value)
    assert message.encode()
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


def quietly_in_time(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own, which may not take longer, and not print a traceback."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders ant and bee, two images each, and one to validate on."""
    for half, count in (("train", 2), ("val", 1)):
        make_classes(tmp_path / half, ant=count, bee=count)
    return tmp_path


ORDINARY = [("ant/0.png", "ant"), ("ant/1.png", "ant"), ("bee/0.png", "bee"), ("bee/1.png", "bee")]


# Links


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "self"])
def test_a_link_up_the_tree_is_not_followed(root: Path, target: str) -> None:
    os.symlink(target, root / "train" / "ant" / "self")
    assert listing(open_folders(root)) == ORDINARY


def test_a_class_that_is_a_link_up_the_tree_is_empty(root: Path) -> None:
    os.symlink("..", root / "train" / "again")
    refuses(lambda: open_folders(root), "class folders hold no images: again")


@pytest.mark.parametrize(("link", "target"), [("ant/more", "../bee"), ("bee/more", "../ant/deep"), ("cat", "ant")])
def test_a_link_that_gives_a_folder_two_classes_names_both(root: Path, link: str, target: str) -> None:
    make_files(root, "train/ant/deep/2.png")
    os.symlink(target, root / "train" / link)
    owner = target.removeprefix("../")
    refuses(lambda: open_folders(root), owner, link, "are one folder", "Remove the link")


def test_two_classes_cannot_link_to_one_folder_elsewhere(root: Path) -> None:
    make_files(root, "elsewhere/below/2.png")
    os.symlink("../../elsewhere", root / "train" / "ant" / "x")
    os.symlink("../../elsewhere/below", root / "train" / "bee" / "x")
    refuses(lambda: open_folders(root), "ant/x/below and bee/x are one folder")


def test_images_and_folders_elsewhere_are_linked_in_once(root: Path) -> None:
    make_files(root, "elsewhere/deep/2.png", "cats/3.png", "4.png")
    os.symlink("../../elsewhere", root / "train" / "ant" / "b")
    os.symlink("../../elsewhere", root / "train" / "ant" / "a")
    os.symlink(root / "elsewhere" / "deep", root / "train" / "ant" / "0deep")
    os.symlink("../../elsewhere", root / "elsewhere" / "deep" / "loop")
    os.symlink(root / "cats", root / "train" / "cat")
    os.symlink(root / "4.png", root / "train" / "bee" / "4.png")
    expected = [("ant/0.png", "ant"), ("ant/0deep/2.png", "ant"), ("ant/1.png", "ant")]
    assert listing(open_folders(root)) == [*expected, *ORDINARY[2:], ("bee/4.png", "bee"), ("cat/3.png", "cat")]
    # Reached by links only, the one that sorts first gives the path; what is no link keeps its own.
    os.symlink("deep", root / "train" / "bee" / "0")
    make_files(root, "train/bee/deep/5.png")
    assert ("bee/deep/5.png", "bee") in listing(open_folders(root))


def test_a_data_set_may_be_a_link_itself_and_val_a_link_to_train(root: Path) -> None:
    os.symlink(root, root.parent / f"{root.name}-link")
    shutil.rmtree(root / "val")
    os.symlink("train", root / "val")
    sets = open_folders(root.parent / f"{root.name}-link")
    assert listing(sets) == ORDINARY
    assert list(sets.val.names) == list(sets.train.names)


def test_training_tells_of_a_link_between_classes_and_ignores_one_up_the_tree(runner, shapes, tmp_path) -> None:
    linked = shutil.copytree(shapes, tmp_path / "linked")
    os.symlink("..", linked / "train" / "cross" / "up")
    assert runner("up", "--data-path", str(linked), "--dry-run") == 0
    assert "78 training and 101 validation images" in runner.text()
    os.symlink("../circle", linked / "train" / "cross" / "more")
    assert runner("across", "--data-path", str(linked), "--dry-run") == 2
    assert "circle and cross/more are one folder" in runner.text()


# What is no regular file


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{directory}/{path.name}")  # a socket's path may not be long
        os.close(directory)


def device(path: Path) -> None:
    os.symlink("/dev/zero", path)


def folder(path: Path) -> None:
    path.mkdir()


IRREGULAR = {fifo: "a FIFO", unix_socket: "a socket", device: "a character device", folder: "Is a directory"}
irregular = pytest.mark.parametrize(
    ("make", "kind"), IRREGULAR.items(), ids=lambda value: getattr(value, "__name__", "")
)


@irregular
def test_no_reader_opens_what_is_no_file(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(tmp_path / "x.jpg")
    refuses(lambda: read_file(tmp_path / "x.jpg"), "x.jpg", kind)
    refuses(lambda: open_input(tmp_path / "x.jpg"), "x.jpg", kind)


@irregular
def test_class_folders_hold_files_only(root: Path, make: Callable[[Path], None], kind: str) -> None:
    make(root / "train" / "ant" / "pipe")  # not called like an image
    make(root / "train" / "bee" / "x.jpg")
    if make is folder:  # which may be called anything
        assert listing(open_folders(root)) == ORDINARY
    else:
        refuses(lambda: open_folders(root), str(root / "train" / "bee" / "x.jpg"), f"is {kind}, not an image")


def test_broken_links_are_told_by_reading_them(root: Path) -> None:
    os.symlink("nowhere", root / "train" / "ant" / "2.png")
    os.symlink("3.png", root / "train" / "ant" / "3.png")
    sets = open_folders(root)
    refuses(lambda: sets.train.read(2), "2.png", "No such file")
    refuses(lambda: sets.train.read(3), "3.png", "symbolic links")


def layout_files(root: Path) -> dict[str, tuple[Callable[[], Sets], list[str]]]:
    """Writes a data set of each layout; returns how to open it and the files that list its images."""
    image = io.BytesIO()
    Image.new("RGB", (4, 4)).save(image, "PNG")
    (root / "a.png").write_bytes(image.getvalue())
    with zipfile.ZipFile(root / "train.zip", "w") as archive:
        archive.writestr("a.png", image.getvalue())
    shutil.copy(root / "train.zip", root / "val.zip")
    for half in ("train", "val"):
        (root / f"{half}_map.txt").write_text("a.png\t0\n")
        (root / f"{half}.csv").write_text("a.png,0\n")
        (root / f"ILSVRC2011fall_whole_map_{half}.txt").write_text('[["a.png", 0]]')
        make_classes(root / "folders" / half, ant=1)
    for name, text in (("images", "a.png"), ("image_class_labels", "1"), ("train_test_split", "1"), ("classes", "ant")):
        (root / f"{name}.txt").write_text(f"1 {text}\n")
    assert pack_dataset.main(["--data-path", str(root / "folders"), "--output", str(root), "--workers", "1"]) == 0
    return {
        "zips": (lambda: open_zips(root), ["train.zip", "val.zip", "train_map.txt", "val_map.txt"]),
        "tables": (lambda: open_tables(root), ["train.csv", "val.csv"]),
        "22k": (lambda: open_imagenet22k(root), [f"ILSVRC2011fall_whole_map_{half}.txt" for half in ("train", "val")]),
        "cub": (
            lambda: open_cub(root),
            ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"],
        ),
        "packed": (lambda: open_shards(root), ["classes.json", "train/index.npz", "val/index.npz"]),
    }


@irregular
def test_lists_and_archives_are_files(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    for attempt, files in layout_files(tmp_path).values():
        assert attempt().classes
        for name in files:
            file = tmp_path / name
            file.rename(tmp_path / "aside")
            make(file)
            refuses(attempt, name, kind)
            (file.rmdir if make is folder else file.unlink)()
            (tmp_path / "aside").rename(file)


@irregular
def test_files_may_turn_into_others_after_the_scan(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    opened = {name: attempt() for name, (attempt, _) in layout_files(tmp_path).items()}
    for name, file in (("tables", "a.png"), ("zips", "train.zip"), ("packed", "train/shard-000000.tar")):
        (tmp_path / file).unlink()
        make(tmp_path / file)
        refuses(lambda name=name: opened[name].train.read(0), file, kind)


@pytest.mark.parametrize("listed", [False, True])
def test_a_run_with_a_fifo_ends_at_once(runner, shapes, tmp_path, listed: bool) -> None:
    odd = shutil.copytree(shapes, tmp_path / "odd")
    os.mkfifo(odd / "train" / "cross" / "pipe.png")
    if listed:
        for half in ("train", "val"):
            names = sorted((odd / half).rglob("*.png"))
            (odd / f"{half}.csv").write_text("".join(f"{name.relative_to(odd)},{name.parent.name}\n" for name in names))
    arguments = runner.arguments("fifo", "--data-path", str(odd), "--opts", "TRAIN.EPOCHS", "1")
    done = quietly_in_time("main.py", *arguments)
    assert done.returncode == 2
    assert "cross/pipe.png: " in done.stderr
    assert "FIFO" in done.stderr
    done = quietly_in_time("-m", "tools.check_dataset", "--data-path", str(odd), "--html", str(tmp_path / "page.html"))
    assert done.returncode == 1
    assert "cross/pipe.png" in done.stdout
    assert ("1 unreadable" if listed else "a FIFO") in done.stdout


def test_tables_that_are_a_fifo_are_the_layout_and_refused(root: Path) -> None:
    os.mkfifo(root / "train.csv")
    (root / "val.csv").write_text("val/ant/0.png,ant\n")
    refuses(lambda: open_sets(load_config(overrides={"DATA.DATA_PATH": str(root)})), "train.csv", "a FIFO")


def test_a_file_too_large_for_an_image_is_not_read(root: Path) -> None:
    with open(root / "train" / "ant" / "2.png", "wb") as file:
        file.truncate(10_000_000_000)  # sparse
    refuses(lambda: open_folders(root).train.read(2), "ant/2.png: has 10,000,000,000 bytes", "Replace or remove")
    with zipfile.ZipFile(root / "val.zip", "w") as archive:
        archive.writestr("a.png", b"")
        archive.infolist()[0].file_size = 2_000_000_000
    (root / "val_map.txt").write_text("a.png\t0\n")
    refuses(lambda: open_zips(root, need_train=False), "val.zip: a.png is larger than")


# Lists in any encoding


TABLES: dict[str, tuple[str, Callable[[Path], Sets]]] = {
    "map": ("val_map.txt", lambda root: open_zips(root, need_train=False)),
    "csv": ("val.csv", lambda root: open_tables(root, need_train=False)),
    "22k": ("ILSVRC2011fall_whole_map_val.txt", lambda root: open_imagenet22k(root, need_train=False)),
    "cub": ("classes.txt", open_cub),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a.png\t0\r\n".encode("utf-16"), ["line 1", "UTF-16", "UTF-8"]),
        (b"1 a\0.png\n", ["line 1", "NUL"]),
        (b"\0" * (8 << 20), ["line 1", "NUL"]),
        (b"1 " + b"x" * (8 << 20), []),
        (b'"' + b"x\n" * (1 << 20), []),
        (b"\xff\xfe\xe9\n", []),
        (b"[" * (1 << 20), []),
        (b'[["a.png', []),
        (b"\n\n \r\n", []),
        (b"", []),
        (bytes(range(1, 256)) * 40, []),
    ],
    ids=["utf16", "nul", "zeros", "long", "quote", "bytes", "nested", "torn", "blank", "empty", "random"],
)
def test_what_is_no_list_of_images_is_named(tmp_path: Path, kind: str, content: bytes, parts: list[str]) -> None:
    name, attempt = TABLES[kind]
    for file in ("images", "image_class_labels", "train_test_split"):
        (tmp_path / f"{file}.txt").write_text("1 1\n")
    (tmp_path / name).write_bytes(content)
    refuses(lambda: attempt(tmp_path), *parts)


@pytest.mark.parametrize("label", ["-1", "1.0", "1e3", "²", "٣", str(10**30), "9" * 5000, "", "nan", "0x1"])
def test_labels_in_maps_are_ascii_digits(tmp_path: Path, label: str) -> None:
    (tmp_path / "val_map.txt").write_text(f"a.png\t0\nb.png\t{label}\n")
    refuses(lambda: open_zips(tmp_path, need_train=False), "val_map.txt:2: found", "`path<TAB>label`")
    file = tmp_path / "ILSVRC2011fall_whole_map_val.txt"
    for text, place in ((f"a.png\t0\nb.png\t{label}\n", "line 2"), (f'[["a.png", 0], ["b.png", {label}]]', "byte 13")):
        file.write_text(text)
        refuses(lambda: open_imagenet22k(tmp_path, need_train=False), file.name, place, "b.png", "label")


@pytest.mark.parametrize("labels", [["٠", "١"], [str(10**30), str(10**30 + 1)], ["-1", "0"], ["1.0", "0.0"]])
def test_labels_that_are_no_numbers_from_0_are_names_in_tables(tmp_path: Path, labels: list[str]) -> None:
    for half in ("train", "val"):
        (tmp_path / f"{half}.csv").write_text("".join(f"{i}.png,{label}\n" for i, label in enumerate(labels)))
    assert open_tables(tmp_path).classes == sorted(labels)


def test_pairs_of_a_json_map_are_all_read(tmp_path: Path) -> None:
    file = tmp_path / "ILSVRC2011fall_whole_map_val.txt"
    rows = [['n0/caf\xe9 "1"\\.png', 0], ["n1/花\t\n.png", "1", "x]", [3, 4], 2.5], ["n1/a/b.png", 1, None]]
    for text in (json.dumps(rows), json.dumps(rows, ensure_ascii=False, indent=2) + "\n\n"):
        file.write_text(text.replace("a/b", "a\\/b"))
        sets = open_imagenet22k(tmp_path, need_train=False)
        assert list(sets.val.names) == [row[0] for row in rows]
        assert sets.val.labels.tolist() == [0, 1, 1]
    for broken in (
        '[["a.png", 0], {}]',
        '[["a.png", 0], ["b.png"]]',
        '[["a.png", 0]',
        '[["a.png", 0]] x',
        '[["\\x", 0]]',
    ):
        file.write_text(broken)
        refuses(lambda: open_imagenet22k(tmp_path, need_train=False), file.name)


def test_lines_of_malformed_tables_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text('path,label\n\n"a\nb.png",ant\nc.png\n')
    refuses(lambda: open_tables(tmp_path, need_train=False), "val.csv: found 'c.png'", "in line 5")
    (tmp_path / "val.csv").write_text("a.png,ant\n" + "x" * 200_000 + ",ant\n")
    assert csv.field_size_limit() < 200_000
    refuses(lambda: open_tables(tmp_path, need_train=False), "val.csv: line 2 is malformed")


def test_cub_in_another_encoding_or_torn_is_refused(tmp_path: Path) -> None:
    for name, text in (("images", "a.jpg"), ("image_class_labels", "1"), ("train_test_split", "1"), ("classes", "ant")):
        (tmp_path / f"{name}.txt").write_text(f"1 {text}\n")
    (tmp_path / "classes.txt").write_bytes(b"1 caf\xe9\n")
    refuses(lambda: open_cub(tmp_path), r"class 'caf\udce9'", "not UTF-8")
    (tmp_path / "classes.txt").write_text("1 ant\n1 bee\n")
    refuses(lambda: open_cub(tmp_path), "classes.txt: found '1 bee'")
    (tmp_path / "classes.txt").write_text("1 ant\n")
    (tmp_path / "train_test_split.txt").write_text("1 2\n")
    refuses(lambda: open_cub(tmp_path), "train_test_split.txt: has values other than 0 and 1")


# Names


@pytest.mark.parametrize("name", [LATIN, "a\nb", "a\tb", "\x1b[31m", "\u2028"])
def test_classes_have_printable_names(root: Path, name: str) -> None:
    make_classes(root / "train", **{name: 1})
    refuses(lambda: open_folders(root), "class", "Rename it")
    refuses(lambda: open_folders(root, classes=["ant", "bee"]), "unknown to the label map")
    if "\n" not in name and "\u2028" not in name:
        for half in ("train", "val"):
            with open(root / f"{half}.tsv", "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                csv.writer(file, delimiter="\t").writerow(["a.png", name])
        refuses(lambda: open_tables(root), "class", "Rename it")


def test_files_of_any_name_are_trained_on_and_named_in_one_line(runner, shapes, tmp_path) -> None:
    odd = shutil.copytree(shapes, tmp_path / "odd")
    names = [
        f"{LATIN}.png",
        "a\nb.png",
        "tab\t.png",
        "\x1b[31m.png",
        "\u2028.png",
        "花.png",
        " .png",
        "-.png",
        "'\".png",
    ]
    for name in names:
        shutil.copy(odd / "train" / "cross" / "000.png", odd / "train" / "cross" / name)
    options = ["TRAIN.EPOCHS", "2", "TRAIN.BASE_LR", "1e30", "TRAIN.MAX_NONFINITE", "1", "TRAIN.CLIP_GRAD", "0"]
    assert runner("odd", "--data-path", str(odd), "--batch-size", "87", "--opts", *options) == 4
    lines = (runner.run_dir("odd") / "nonfinite_batch.txt").read_text().split("\n")
    assert len(lines) == 87 + 1
    for shown in (r"caf\udce9.png", r"a\nb.png", r"tab\t.png", r"\x1b[31m.png", r"\u2028.png", "花.png"):
        assert str(odd / "train" / "cross" / shown) in lines
    for name in names:
        (odd / "train" / "cross" / name).write_bytes(b"")
    assert runner("bad", "--data-path", str(odd), "--opts", "DATA.ON_ERROR", "skip", "TRAIN.EPOCHS", "1") == 0
    assert r"a\nb.png: is empty" in runner.text()
    assert check_dataset.main(["--data-path", str(odd), "--workers", "1", "--json", str(tmp_path / "report.json")]) == 1
    found = json.loads((tmp_path / "report.json").read_text())["findings"][0]
    assert len(found["images"]) == len(names)
    first = open_folders(odd / "train", val_split=0.2)
    RunFolder(tmp_path / "run").write_json("split", first.split)
    again = open_folders(odd / "train", val_split=0.2, seed=1, runs=[tmp_path / "run"])
    assert f"cross/{LATIN}.png" in [*first.train.names, *first.val.names]
    assert list(again.val.names) == list(first.val.names)


def test_paths_that_leave_the_folder_are_as_good_as_others(root: Path) -> None:
    (root / "list").mkdir()
    image = root / "train" / "ant" / "0.png"
    rows = f"../train/ant/0.png,ant\n{image},ant\n{image},ant\n../../../nowhere.png,ant\n/dev/zero,ant\n.,ant\n"
    for half in ("train", "val"):
        (root / "list" / f"{half}.csv").write_text(rows)
    train = open_tables(root / "list").train
    assert [train.read(index) for index in range(3)] == [image.read_bytes()] * 3
    for index, part in ((3, "No such file"), (4, "a character device"), (5, "Is a directory")):
        refuses(lambda index=index: train.read(index), part)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", "\ud800", "/dev/null", "/dev/zero/x"])
def test_no_data_path_gives_a_traceback(path: str) -> None:
    for options in ({}, {"DATA.ZIP_MODE": True}, {"DATA.VAL_SPLIT": 0.1}, {"DATA.DATASET": "imagenet22K"}):
        with pytest.raises((ConfigError, DataError)) as raised:  # by the config where no file system takes the path
            open_sets(load_config(overrides={"DATA.DATA_PATH": path, **options}))
        assert len(str(raised.value).splitlines()) == 1


# Archives and what this project wrote itself


def test_damaged_indices_zips_and_lists_are_refused_or_read(tmp_path: Path) -> None:
    draw = random.Random(0)
    for attempt, files in layout_files(tmp_path).values():
        for name in files:
            whole = (tmp_path / name).read_bytes()
            for number in range(150):
                damaged = bytearray(whole)
                if number % 3:
                    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
                else:
                    del damaged[draw.randrange(len(damaged)) :]
                (tmp_path / name).write_bytes(damaged)
                with contextlib.suppress(DataError):  # any other error fails the test
                    train = attempt().train
                    assert train.name(0).isprintable()
                    train.read(0)
            (tmp_path / name).write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([-1])},
        {"labels": np.array([7])},
        {"labels": np.array([0, 0])},
        {"places": np.array([[0, -1, 10]])},
        {"places": np.array([[0, 0, 1 << 40]])},
        {"places": np.array([0, 0, 1])},
        {"name_stops": np.array([-1])},
        {"name_stops": np.array([1 << 40])},
        {"name_bytes": np.array([1.5])},
        {"labels": np.array(["x"])},
    ],
)
def test_an_index_that_cannot_be_right_is_refused(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    layout_files(tmp_path)
    file = tmp_path / "train" / "index.npz"
    with np.load(file) as index:
        columns = dict(index)
    np.savez(file, **columns | change)
    refuses(lambda: open_shards(tmp_path), "Pack again")


@pytest.mark.parametrize("content", ["{}", "[1]", '["\\ud800"]', "[" * 100_000, "null", '["a", ["b"]]', "[]"])
def test_classes_of_packed_images_are_a_list_of_names(tmp_path: Path, content: str) -> None:
    layout_files(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    refuses(lambda: open_shards(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        "null", "[]", "{", "[" * 100_000, '{"val_split": 0.5, "train": null, "val": []}',
        '{"val_split": 0.5, "train": [["a"]], "val": ["b"]}', '{"val_split": 0.5, "train": ["a", "b"], "val": ["b"]}',
        '{"val_split": 0.5, "train": 3, "val": [1]}', '{"val_split": 0.5, "train": ["\\ud800"], "val": ["b"]}',
    ],
)  # fmt: skip
def test_no_saved_split_gives_a_traceback(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    labels = np.zeros(2, dtype=np.int64)
    refuses(lambda: hold_out(["a", "b"], labels, Rule(0.5), runs=[tmp_path]), "split.json")


def test_part_says_what_it_is_worth_to_several_processes(tmp_path: Path) -> None:
    layout_files(tmp_path)
    notes = open_zips(tmp_path, cache_mode="part", rank=1, world_size=4).notes
    assert len(notes) == 1
    assert "1 in 4" in notes[0]
    assert "full" in notes[0]
    for options in ({"cache_mode": "part"}, {"cache_mode": "full", "world_size": 4}, {"need_train": False}):
        assert open_zips(tmp_path, **options).notes == ()
