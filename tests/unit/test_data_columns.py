"""Tables with columns of names: which is which, one table for all parts, groups, and several labels an image."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.build import open_sets
from data.layouts import USUAL
from data.sources import Opened
from data.tables import find_tables, open_tables
from swin.config import load_config
from swin.errors import DataError

PARTS = [name for names in USUAL.values() for name in names]


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def rows(opened: Opened, part: str) -> list[tuple[str, str]]:
    source = opened.sources[part]
    return [(name, opened.classes[label]) for name, label in zip(source.names, source.labels.tolist(), strict=True)]


def test_one_table_has_its_parts_in_a_column(tmp_path: Path) -> None:
    lines = [
        "id,Patient,File Name,Class,Subset",
        "1,p1,a.jpg,cat,Training",
        "2,p2,b.jpg,dog,dev",
        "",
        "3,p1,c.jpg,dog,Training",
    ]
    file = write(tmp_path / "labels.csv", *lines)
    for root in (tmp_path, file):
        assert find_tables(root, PARTS) == ["Training", "dev"]
        opened = open_tables(root, ["Training", "dev"], group_by="patient")
        assert opened.classes == ["cat", "dog"]
        assert rows(opened, "Training") == [("a.jpg", "cat"), ("c.jpg", "dog")]
        assert rows(opened, "dev") == [("b.jpg", "dog")]
        assert {part: list(groups) for part, groups in opened.groups.items()} == {
            "Training": ["p1", "p1"],
            "dev": ["p2"],
        }
        assert rows(open_tables(root, [""]), "") == [("a.jpg", "cat"), ("b.jpg", "dog"), ("c.jpg", "dog")]
    assert open_tables(tmp_path, ["dev"], ["dog", "cat"], group_by="age").groups == {}
    assert open_tables(tmp_path, ["dev"], ["dog", "cat"]).sources["dev"].labels.tolist() == [0]
    write(file, *lines[:2], "9,p9,z.jpg,cats,dev")
    with pytest.raises(
        DataError, match=r"labels\.csv, dev: class 'cats' is unknown to .*labels\.csv, Training; .*'cat'"
    ):
        open_tables(tmp_path, ["Training", "dev"])


def test_a_table_without_a_column_for_the_split_is_divided(tmp_path: Path) -> None:
    file = write(tmp_path / "labels.csv", "image,label", *(f"{number}.jpg,{'ab'[number % 2]}" for number in range(8)))
    with pytest.raises(DataError, match=r"none of them to validate on.*DATA\.VAL_SPLIT 0\.1; or .* column `split`"):
        open_sets(load_config(overrides={"DATA.DATA_PATH": str(file)}))
    sets = open_sets(load_config(overrides={"DATA.DATA_PATH": str(file), "DATA.VAL_SPLIT": 0.25}))
    assert (len(sets.train.labels), sorted(sets.val.labels.tolist())) == (6, [0, 1])


def test_numbers_of_one_table_are_checked_between_its_parts(tmp_path: Path) -> None:
    write(tmp_path / "all.tsv", "path\tlabel\tsplit", "a.jpg\t0\ttrain", "b.jpg\t1\ttrain", "c.jpg\t5\tval")
    with pytest.raises(DataError, match=r"label 5 is unknown to .*, which has 2 classes"):
        open_tables(tmp_path, ["train", "val"])
    assert open_tables(tmp_path, ["train"]).classes == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["image,label", "1.jpg,cat"]),
        ("a.csv", ["id,label", "1.jpg,cat"]),  # of two columns the other
        ("a.csv", ["label,comment,img_path", "cat,good,1.jpg"]),
        ("a.csv", ["1.jpg,cat"]),
        ("a.csv", ["FILENAME;Category", "1.jpg;cat"]),
        ("a.csv", ["image\tlabel", "1.jpg\tcat"]),
        ("a.CSV", ["\ufeffpath,target,fold", "1.jpg,cat,3"]),
        ("a.tsv", ["file\tclass name", "1.jpg\tcat"]),
        ("metadata.jsonl", ['{"file_name": "1.jpg", "label": "cat"}', "", '{"label": "cat", "file_name": "1.jpg"}']),
    ],
)
def test_columns_are_known_by_their_names(tmp_path: Path, name: str, lines: list[str]) -> None:
    write(tmp_path / name, *lines)
    assert find_tables(tmp_path, PARTS) == [""]
    assert set(rows(open_tables(tmp_path, [""]), "")) == {("1.jpg", "cat")}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["picture,species", "a.jpg,cat"],
            r"found the columns picture, species, of which none is called image\. Rename",
        ),
        (["image,species,age", "a.jpg,cat,1"], "found the columns image, species, age, of which none is called label"),
        (
            ["image,size", "a.jpg,1"],
            r"none is called label.*If its images have none, as a contest's test\.csv, move it",
        ),
        (["image,label,Class", "a.jpg,cat,1"], "of which label and Class may each be the label. Rename all but one"),
        (["path,file,label", "a.jpg,b.jpg,cat"], "of which path and file may each be the image"),
        (["image,label,split", "a.jpg,cat,train", "b.jpg,cat,"], r"images\.csv, line 3: says no part\. Write train"),
        (["image,label,split", "a.jpg,cat"], "found 'a.jpg,cat', expected 3 columns, in line 2"),
        (["image,label", "a.jpg,"], "found 'a.jpg,', expected a path and a label, in line 2"),
    ],
)
def test_what_is_not_clear_is_said(tmp_path: Path, lines: list[str], message: str) -> None:
    write(tmp_path / "images.csv", *lines)
    with pytest.raises(DataError, match=message):
        open_tables(tmp_path, find_tables(tmp_path, PARTS))


def test_lines_that_are_no_json_are_numbered(tmp_path: Path) -> None:
    write(tmp_path / "metadata.jsonl", '{"file_name": "1.jpg", "label": "cat"}', '["2.jpg", "cat"]')
    with pytest.raises(DataError, match=r"metadata\.jsonl: found '\[.*' in line 2, expected a JSON object"):
        open_tables(tmp_path, [""])


def test_folders_of_classes_come_before_a_table_beside_them(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write(tmp_path / "classes" / name / "1.jpg")
        write(tmp_path / "parts" / "train" / name / "1.jpg")
    write(tmp_path / "classes" / "names.csv", "number,meaning", "1,Katze")
    assert find_tables(tmp_path / "classes", PARTS) == []
    write(tmp_path / "parts" / "labels.csv", "image,label", "train/cat/1.jpg,cat")
    assert find_tables(tmp_path / "parts", PARTS) == []
    assert find_tables(tmp_path, PARTS) == []
    assert find_tables(tmp_path / "nowhere", PARTS) == []
    write(tmp_path / "images" / "1.jpg")
    write(tmp_path / "labels.csv", "image,label", "images/1.jpg,cat")
    write(tmp_path / "names.csv", "number,meaning", "1,Katze")
    assert find_tables(tmp_path, PARTS) == [""]  # the one that lists images


def test_a_table_in_each_folder_as_hugging_face_has_it(tmp_path: Path) -> None:
    write(tmp_path / "train" / "metadata.csv", "file_name,label", "1.jpg,cat", "2.jpg,dog")
    write(tmp_path / "test" / "metadata.jsonl", '{"file_name": "1.jpg", "label": "dog"}')
    (tmp_path / "test" / "1.jpg").write_bytes(b"pixels")
    assert find_tables(tmp_path, PARTS) == ["test", "train"]
    opened = open_tables(tmp_path, ["train", "test"])
    assert rows(opened, "train") == [("1.jpg", "cat"), ("2.jpg", "dog")]
    assert opened.sources["test"].read(0) == b"pixels"


def test_a_missing_image_is_said_with_its_line(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    write(tmp_path / "labels.csv", "image,label", "a.png,cat", "", '"b,\nc.png",cat', "images/d.png,dog")
    source = open_tables(tmp_path, [""]).sources[""]
    assert source.read(0) == (tmp_path / "a.png").read_bytes()
    for index, message in (
        (1, "labels.csv, line 5: .*c.png: cannot be read"),
        (2, "labels.csv, line 6: .*images/d.png"),
    ):
        with pytest.raises(DataError, match=message):
            source.read(index)


MULTI = {
    "train.csv": ["image,labels", "a.jpg,cat|dog", "b.jpg,", 'c.jpg,"[""ant"", ""cat""]"', "d.jpg, dog ;cat"],
    "train.jsonl": [
        json.dumps({"image": name, "labels": labels})
        for name, labels in (
            ("a.jpg", ["cat", "dog"]),
            ("b.jpg", None),
            ("c.jpg", "ant|cat"),
            ("d.jpg", ["dog", "cat"]),
        )
    ],
}


@pytest.mark.parametrize("name", MULTI)
def test_several_labels_an_image(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, *MULTI[name])
    opened = open_tables(tmp_path, ["train"], multi_label=True)
    assert opened.classes == ["ant", "cat", "dog"]
    labels = opened.sources["train"].labels
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]]
    write(tmp_path / "val.csv", "image,labels", "e.jpg,cat|dogs")
    with pytest.raises(DataError, match=r"class 'dogs' is unknown to .*; the nearest of its 3 classes is 'dog'"):
        open_tables(tmp_path, ["train", "val"], multi_label=True)
    assert open_tables(tmp_path, ["val"], ["dogs", "cat", "emu"], multi_label=True).sources["val"].labels.tolist() == [
        [1, 1, 0]
    ]


def test_several_labels_that_are_numbers_are_sorted_as_such(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "image,labels", "a.jpg,10|9", "b.jpg,[2]")
    assert open_tables(tmp_path, [""], multi_label=True).classes == ["2", "9", "10"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.jpg,cat|dog", "b.jpg,cat"], r"label 'cat\|dog' seems to join several, as 'cat'.* DATA\.MULTI_LABEL True"),
        (["a.jpg,cat;dog", "b.jpg,dog"], r"DATA\.MULTI_LABEL True"),
    ],
)
def test_several_labels_where_one_is_expected_are_said(tmp_path: Path, lines: list[str], message: str) -> None:
    write(tmp_path / "a.csv", "image,label", *lines)
    with pytest.raises(DataError, match=message):
        open_tables(tmp_path, [""])
    write(tmp_path / "a.csv", "image,label", "a.jpg,animal|cat", "b.jpg,animal|dog")
    assert open_tables(tmp_path, [""]).classes == ["animal|cat", "animal|dog"]  # these join nothing that occurs


def test_bad_lists_of_labels_are_said(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "image,label", 'a.jpg,"[""cat"""', "b.jpg,dog")
    with pytest.raises(DataError, match=r"a\.csv, line 2: label '\[\"cat\"' cannot be read"):
        open_tables(tmp_path, [""], multi_label=True)
    write(tmp_path / "a.csv", "image,label", "a.jpg,", "b.jpg,")
    with pytest.raises(DataError, match="no image has a label"):
        open_tables(tmp_path, [""], multi_label=True)
    write(tmp_path / "a.jsonl", '{"image": "a.jpg", "label": ["cat", "dog"]}')
    (tmp_path / "a.csv").unlink()
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: .*DATA\.MULTI_LABEL True"):
        open_tables(tmp_path, [""])
