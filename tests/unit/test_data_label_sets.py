"""Several right labels an image, from a JSON file."""

import json
from pathlib import Path

import pytest

from data.label_sets import read_label_sets
from swin.errors import DataError

CLASSES = ["ant", "bee", "cat"]
NAMES = ["/data/val/ant/2.jpg", "/data/val/bee/10.jpg", "/data/val/cat/1.jpg"]


def read(folder: Path, content: object, names: list[str] = NAMES) -> list[list[int]]:
    file = folder / "real.json"
    file.write_text(json.dumps(content))
    return read_label_sets(file, names, CLASSES)


def test_a_list_is_in_the_order_of_the_sorted_base_names(tmp_path: Path) -> None:
    # The data set's own order, by class, is another: 1.jpg, 10.jpg, 2.jpg.
    assert read(tmp_path, [[2], [1, 0, 1], []]) == [[], [0, 1], [2]]
    assert read(tmp_path, ["cat", ["bee", 0], 0]) == [[0], [0, 1], [2]]


def test_imagenets_images_are_found_by_number(tmp_path: Path) -> None:
    names = [f"/in1k/val/n{label}/ILSVRC2012_val_{number:08d}.JPEG" for label, number in ((1, 4), (2, 1))]
    assert read(tmp_path, [[0], [1], [2], [1, 2], []], names) == [[1, 2], [0]]
    with pytest.raises(DataError, match=r"has 3 entries, none for image 4 of ImageNet's"):
        read(tmp_path, [[0], [1], [2]], names)


def test_an_object_names_files_by_as_much_of_their_path_as_is_needed(tmp_path: Path) -> None:
    content = {"1.jpg": "cat", "bee/10.jpg": [1, "ant"], "/data/val/ant/2.jpg": [], "not evaluated.jpg": 0}
    assert read(tmp_path, content) == [[], [0, 1], [2]]
    same = ["/data/val/ant/1.jpg", "/data/val/bee/1.jpg"]
    assert read(tmp_path, {"ant/1.jpg": 0, "bee/1.jpg": 1}, same) == [[0], [1]]
    assert read(tmp_path, {"1.jpg": 0, "bee/1.jpg": 1}, same) == [[0], [1]]  # the longest decides
    with pytest.raises(DataError, match=r"entry '1\.jpg' is that of /data/val/ant/1\.jpg and /data/val/bee/1\.jpg"):
        read(tmp_path, {"1.jpg": 0}, same)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[0], [1]], "has 2 entries for 3 images. Expected a list"),
        ({"1.jpg": 0, "2.jpg": 0}, "no entry for 1 of 3 images, the first /data/val/bee/10.jpg"),
        ({}, "no entry for 3 of 3 images"),
        ("ant", "holds str. Expected a list"),
        ([["ant"], ["cats"], []], "10.jpg: class 'cats' is unknown to the model's classes; the nearest .* is 'cat'"),
        ([[0], [3], []], "10.jpg has label '3'. Expected names of the 3 classes, or numbers from 0 to 2"),
        ([[0], [-1], []], "label '-1'"),
        ([[0], [True], []], "label 'True'"),
        ([[0], [1.0], []], "label '1.0'"),
        ([[0], [[1]], []], "label '.1.'"),
        ([[0], None, []], "label 'None'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, content)


def test_equal_names_have_no_order(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 names, as 1\.jpg, are those of several"):
        read(tmp_path, [[0], [1]], ["/val/ant/1.jpg", "/val/bee/1.jpg"])


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "real.json").write_bytes(content)
    with pytest.raises(DataError, match=r"real\.json: cannot be read as JSON"):
        read_label_sets(tmp_path / "real.json", NAMES, CLASSES)
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        read_label_sets(tmp_path / "nowhere.json", NAMES, CLASSES)
