"""The data benchmark's figures, on a few small pictures."""

import json
from pathlib import Path

import pytest
import torch

from tools.benchmark import data
from tools.benchmark.__main__ import main


def test_every_baseline_gets_a_figure(shapes: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(data, "MAX_IMAGES", 6)
    command = ["data", "--data-path", str(shapes / "train" / "cross"), "--img-size", "40"]
    assert main([*command, "--rounds", "1", "--warmup", "0", "--json", str(tmp_path / "data.json")]) == 0
    torch.set_num_threads(threads)
    results = json.loads((tmp_path / "data.json").read_text())["results"]
    assert {name: (result["num_images"], result["n"]) for name, result in results.items()} == {
        "one_core": (6, 1),
        "loader": (6, 1),
    }
    assert set(results["one_core"]["figures"]) == {"timm_raw", "ours_raw", "timm_packed", "ours_packed"}
    assert set(results["loader"]["figures"]) == {"transform", "loader_1_workers", "loader_2_workers"}
    assert all(figure["median"] > 0 for result in results.values() for figure in result["figures"].values())
    assert results["one_core"]["ratios"]["timm_raw_to_timm_raw"] == 1
    text = capsys.readouterr().out
    assert "ours_packed: " in text
    assert "2_workers_to_twice_1_worker" in text


@pytest.mark.parametrize(
    ("options", "message"), [([], "add --data-path FOLDER"), (["--data-path", "."], "holds no images")]
)
def test_without_images_it_says_so(options, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *options]) == 2
    assert message in capsys.readouterr().err
