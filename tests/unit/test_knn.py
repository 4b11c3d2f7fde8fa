"""The command `python -m tools.knn`."""

import re

import numpy as np
import pytest
from PIL import Image

from tools.embed import Features
from tools.knn import count_correct, main


def some_features(count: int, seed: int) -> Features:
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count)
    values = (generator.normal(size=(count, 6)) + np.eye(3, 6)[labels]).astype(np.float32)
    return Features(values, [""] * count, labels, ["a", "b", "c"], list(range(count)))


@pytest.mark.parametrize("num_neighbours", [1, 20, 500])
def test_the_votes_are_dinos(num_neighbours):
    train, val = some_features(200, 0), some_features(150, 1)
    units = [part.values / np.linalg.norm(part.values, axis=1, keepdims=True) for part in (train, val)]
    similarity = units[1].astype(np.float64) @ units[0].T
    correct = 0
    for row, label in zip(similarity, val.labels, strict=True):
        nearest = np.argsort(-row)[:num_neighbours]
        votes = np.bincount(train.labels[nearest], np.exp(row[nearest] / 0.07), minlength=3)
        correct += votes.argmax() == label
    assert count_correct(train, val, num_neighbours) == correct
    assert correct > 60


def test_the_digits_of_a_run(digits_run, capsys):
    assert main(["--checkpoint", str(digits_run), "--device", "cpu"]) == 0
    found = re.search(r"k-NN of 20 among 1437 training images: Acc@1 ([\d.]+) \((\d+)/360\)", capsys.readouterr().out)
    assert found
    assert float(found[1]) > 30
    assert int(found[2]) / 3.6 == pytest.approx(float(found[1]), abs=1e-3)


def test_a_folder_of_ones_own(digits_run, tmp_path, capsys):
    for part, count in (("train", 6), ("val", 2)):
        for name, level in (("dark", 40), ("light", 220)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (8, 8), level + number).save(tmp_path / part / name / f"{number}.png")
    arguments = ["--checkpoint", str(digits_run), "--data-path", str(tmp_path), "--neighbours", "3", "--device", "cpu"]
    assert main(arguments) == 0
    assert "k-NN of 3 among 12 training images: Acc@1 100.000 (4/4)" in capsys.readouterr().out
    (tmp_path / "train" / "dark" / "0.png").write_bytes(b"no image")
    assert main(arguments) == 2
    assert "1 of 16 images could not be read" in capsys.readouterr().err
