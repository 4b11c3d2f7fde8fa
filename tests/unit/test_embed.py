"""The command `python -m tools.embed`."""

import json

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from data.digits import open_digits
from swin.inference import load_predictor
from tools.embed import Features, draw_points, main, project


def run(digits_run, folder, *flags):
    arguments = ["--checkpoint", str(digits_run / "checkpoints" / "best.pth"), "--device", "cpu"]
    return main([*arguments, "--output", str(folder / "out"), *flags])


@pytest.fixture
def images(tmp_path):
    """Six digits in folders of their classes."""
    val = open_digits().sources["test"]
    for index in range(6):
        folder = tmp_path / "in" / str(val.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(val.read(index)).save(folder / f"{index}.png")
    return tmp_path / "in"


def some_features(labels, classes):
    values = np.random.default_rng(0).normal(size=(len(labels), 8)).astype(np.float32)
    names = [f"{index}.png" for index in range(len(labels))]
    return Features(values, names, np.array(labels), classes, list(range(len(labels))))


def test_the_digits_of_the_run(digits_run, tmp_path, capsys):
    """Without --input the test split of the checkpoint's own config."""
    assert run(digits_run, tmp_path, "--picture", "pca") == 0
    assert "64 numbers for each of 360 images" in capsys.readouterr().out
    content = np.load(tmp_path / "out" / "features.npz")
    val = open_digits().sources["test"]
    assert content["features"].shape == (360, 64)
    assert content["labels"].tolist() == val.labels.tolist()
    assert content["classes"].tolist() == [str(digit) for digit in range(10)]
    predictor = load_predictor(digits_run / "checkpoints" / "best.pth", device="cpu")
    logits = predictor.model.head(predictor.model.head.weight.new_tensor(content["features"][:3]))
    expected = predictor.scores([predictor.read(val.read(index)) for index in range(3)])
    np.testing.assert_allclose(logits.softmax(dim=1).detach(), expected, atol=1e-5)

    table = parquet.read_table(tmp_path / "out" / "features.parquet").to_pydict()
    assert (table["file"][1], table["label"][1], table["class"][1]) == ("digits/0008", 8, "8")
    assert table["feature"][1] == content["features"][1].tolist()
    points = json.loads((tmp_path / "out" / "pca.json").read_text())["points"]
    assert (len(points), points[1]["file"], points[1]["class"]) == (360, "digits/0008", "8")
    colours = np.asarray(Image.open(tmp_path / "out" / "pca.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours[colours.min(axis=1) < 200], axis=0)) > 10  # ten classes


def test_a_folder_and_its_neighbours(digits_run, tmp_path, images, capsys):
    query = images / "0" / "0.png"
    flags = ["--input", str(images), "--neighbours", str(query), "--top-k", "2"]
    assert run(digits_run, tmp_path, *flags) == 0
    content = np.load(tmp_path / "out" / "features.npz")
    assert content["files"].tolist() == sorted(str(path) for path in images.rglob("*.png"))
    assert content["labels"].tolist() == [int(name.split("/")[-2]) for name in content["files"].tolist()]
    units = content["features"] / np.linalg.norm(content["features"], axis=1, keepdims=True)
    likeness = units[1:] @ units[0]  # the query is the first file, and no neighbour of its own
    best = np.argsort(-likeness)[:2]
    found = json.loads((tmp_path / "out" / "neighbours.json").read_text())["neighbours"]
    assert [row["file"] for row in found] == [content["files"][1 + row] for row in best]
    assert [row["similarity"] for row in found] == pytest.approx(likeness[best].tolist(), abs=1e-5)
    assert f"1  {likeness[best[0]]:.4f}  {found[0]['class']}  {found[0]['file']}" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "neighbours.png") as picture:
        assert picture.width > 500
    assert len(json.loads((tmp_path / "out" / "tsne.json").read_text())["points"]) == 6


def test_folders_that_the_model_does_not_know(digits_run, tmp_path, images):
    images.joinpath("0").rename(images / "nought")
    assert run(digits_run, tmp_path, "--input", str(images), "--picture", "none") == 0
    content = np.load(tmp_path / "out" / "features.npz")
    assert "nought" in content["classes"]
    assert [content["classes"][label] for label in content["labels"]] == [
        name.split("/")[-2] for name in content["files"].tolist()
    ]
    assert not (tmp_path / "out" / "tsne.png").exists()


def test_a_data_set(digits_run, tmp_path, shapes):
    """Of other classes than the model's."""
    assert run(digits_run, tmp_path, "--data-path", str(shapes), "--split", "train", "--picture", "none") == 0
    content = np.load(tmp_path / "out" / "features.npz")
    assert content["classes"].tolist() == ["circle", "cross", "stripes"]
    assert np.bincount(content["labels"]).tolist() == [26, 26, 26]


def test_images_without_classes(digits_run, tmp_path, images):
    for path in list(images.rglob("*.png")):
        path.rename(images / path.name)
    (images / "bad.png").write_bytes(b"no image")
    assert run(digits_run, tmp_path, "--input", str(images)) == 2
    assert np.load(tmp_path / "out" / "features.npz")["labels"].tolist() == [-1] * 6
    table = parquet.read_table(tmp_path / "out" / "features.parquet").to_pydict()
    assert (table["label"], table["class"]) == ([None] * 6, [None] * 6)


def test_class_names_in_any_script_are_drawn_without_a_warning(tmp_path):
    features = some_features([0, 1, 1, 0], ["日本語", "\U000e0100x"])
    draw_points(np.arange(8.0).reshape(4, 2), features, "pca", tmp_path / "points.png")  # a warning would be an error
    assert (tmp_path / "points.png").is_file()


def test_many_neighbours_are_listed_and_the_first_drawn(digits_run, tmp_path, images):
    query = next(images.rglob("*.png"))
    assert run(digits_run, tmp_path, "--picture", "none", "--neighbours", str(query), "--top-k", "5000") == 0
    assert len(json.loads((tmp_path / "out" / "neighbours.json").read_text())["neighbours"]) == 360
    with Image.open(tmp_path / "out" / "neighbours.png") as picture:
        assert picture.width < 10_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input", "absent"], "absent does not exist"),
        (["--data-path", "absent"], "absent"),
        (["--neighbours", "absent.png"], "absent.png"),
        (["--checkpoint", "absent.pth"], "absent.pth"),
    ],
)
def test_errors_are_one_message(digits_run, tmp_path, capsys, flags, words):
    assert run(digits_run, tmp_path, "--picture", "none", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


@pytest.mark.parametrize(("method", "least"), [("tsne", 4), ("pca", 2)])
def test_few_images_are_few(digits_run, tmp_path, images, capsys, method, least):
    assert project(some_features([0] * least, ["a"]).values, method).shape == (least, 2)
    files = sorted(images.rglob("*.png"))
    for path in files[least - 1 :]:
        path.unlink()
    assert run(digits_run, tmp_path, "--input", str(images), "--picture", method) == 2
    assert f"takes {least} images, found {least - 1}" in capsys.readouterr().err


def test_many_classes_have_no_legend(tmp_path):
    pictures = []
    for count in (20, 21):
        classes = [f"_class ${index}" for index in range(count)]  # what matplotlib would leave out, or read as formulas
        features = some_features(list(range(count)) * 2, classes)
        draw_points(features.values[:, :2], features, "pca", tmp_path / f"{count}.png")
        pictures.append(np.asarray(Image.open(tmp_path / f"{count}.png").convert("L")))
    with_legend, without = ((picture[:, -100:] < 128).sum() for picture in pictures)
    assert with_legend > 200
    assert without < with_legend / 2
