"""Prediction in other engines: of a checkpoint that is exported for it, and of an exported file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin import inference_model, load_predictor
from swin.config import config_to_dict, load_config
from swin.create import build_model
from swin.engines import ENGINES
from swin.errors import CheckpointError, ConfigError
from swin.predictor import EXPORTED_FOR
from tests.engines.extras import PACKAGES, need
from tests.numerics.peers import perturb
from tools.cam import main as cam
from tools.export.__main__ import main as export
from tools.predict import main as predict

SMALL = [
    *("DATA.IMG_SIZE", 32, "MODEL.SWIN.EMBED_DIM", 12, "MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.DROP_PATH_RATE", 0),
    *("MODEL.SWIN.DEPTHS", "[2]", "MODEL.SWIN.NUM_HEADS", "[2]"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a checkpoint and images, and later with files that were exported from it."""
    folder = tmp_path_factory.mktemp("engines")
    cfg = load_config(opts=SMALL)
    torch.manual_seed(0)
    model = build_model(cfg, 3)
    perturb(model)
    content = {"model": model.state_dict(), "config": config_to_dict(cfg), "classes": ["cat", "dog", "cow"]}
    torch.save(content, folder / "best.pth")
    for name in ("a.png", "b.png"):
        noise = np.random.default_rng(ord(name[0])).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((70, 60), Image.Resampling.BICUBIC).save(folder / name)
    return folder


def exported(name: str, *flags: str) -> str:
    """Export to ONNX, unless it has been; needs the extra."""
    need(*PACKAGES["onnx"])
    if not Path(name).exists():
        assert export(["--checkpoint", "best.pth", "--to", "onnx", "--output", name, *flags]) == 0
    return name


@pytest.fixture(autouse=True)
def work_in(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)


def scores(*arguments, **options) -> np.ndarray:
    return np.array([result["pred_scores"] for result in inference_model(*arguments, ["a.png", "b.png"], **options)])


@pytest.mark.parametrize("engine", EXPORTED_FOR)
def test_a_checkpoint_is_run_in_an_engine(engine, capsys):
    need(*PACKAGES[ENGINES[engine]])
    before = sorted(path.name for path in Path().iterdir())
    expected, of_engine = scores("best.pth"), load_predictor("best.pth", engine=engine)
    np.testing.assert_allclose(scores(of_engine), expected, atol=1e-5)
    assert type(of_engine.model).__name__ == "Engine"
    assert sorted(path.name for path in Path().iterdir()) == before, "no file stays"
    np.testing.assert_allclose(scores(of_engine, flip=True), scores("best.pth", flip=True), atol=1e-5)
    if engine == "openvino":
        flags = ["--engine", engine, "--dtype", "bf16", "--format", "json", "--top-k", "3"]
        assert predict(["--checkpoint", "best.pth", "--input", "a.png", *flags]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        best = {each["label"]: each["score"] for each in row["top_k"]}
        np.testing.assert_allclose([best[label] for label in range(3)], expected[0], atol=2e-2)
    else:
        with pytest.raises(ConfigError, match="give 'fp32' for onnxruntime"):
            load_predictor("best.pth", engine=engine, dtype="bf16")


@pytest.mark.parametrize(("name", "flags"), [("model.onnx", []), ("pixels.onnx", ["--preprocessing"])])
def test_an_exported_file_stands_for_its_checkpoint(name, flags, capsys):
    file = exported(name, *flags)
    capsys.readouterr()
    for options in ({}, {"flip": True}):
        np.testing.assert_allclose(scores(file, **options), scores("best.pth", **options), atol=1e-5)
    best, expected = (inference_model(each, "a.png", top_k=3)["top_k"] for each in (file, "best.pth"))
    assert [row["class"] for row in best] == [row["class"] for row in expected]
    assert predict(["--checkpoint", file, "--input", "a.png", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["pred_class"] == best[0]["class"]


def test_what_does_not_go_together_is_said(capsys):
    file = exported("model.onnx")
    for options, words in (
        ({"engine": "openvino"}, "runs in onnxruntime, not in openvino"),
        ({"device": "cuda"}, "runs on the CPU, not on cuda"),
        ({"dtype": "bf16"}, "dtype is fixed"),
    ):
        with pytest.raises(ConfigError, match=words):
            inference_model(file, "a.png", **options)
    with pytest.raises(ConfigError, match="give 'onnxruntime' or 'openvino'"):
        inference_model("best.pth", "a.png", engine="tensorrt")
    with pytest.raises(ConfigError, match="engine openvino runs on the CPU, not on cuda"):
        inference_model("best.pth", "a.png", engine="openvino", device="cuda")
    with pytest.raises(ConfigError, match="engine= go with a model's name or file"):
        inference_model(load_predictor("best.pth"), "a.png", engine="openvino")
    with pytest.raises(CheckpointError, match=r"absent.onnx does not exist"):
        inference_model("absent.onnx", "a.png")
    capsys.readouterr()
    assert cam(["--checkpoint", file, "--input", "a.png", "--output", "maps"]) == 2
    assert "without layers to look into" in capsys.readouterr().err
    assert export(["--checkpoint", file, "--to", "torch", "--output", "again.pt2"]) == 2
    assert "without layers to look into" in capsys.readouterr().err


def test_a_file_that_can_run_code_is_not_opened(monkeypatch):
    """torch.export.load unpickles constants and evaluates expressions."""
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("it was opened"))
    Path("model.pt2").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"a \.pt2 file can run any code"):
        inference_model("model.pt2", "a.png")


TWO_MODELS = """
import faulthandler, gc, signal, subprocess
from swin import load_predictor
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
first, second = (load_predictor("best.pth", engine="openvino") for _ in range(2))
del first
gc.collect()
del second
gc.collect()
subprocess.run(["sleep", "0.2"], check=True)
"""


def test_signals_are_handled_after_models_of_openvino_have_gone():
    need(*PACKAGES["openvino"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", TWO_MODELS], env=environment, timeout=300, check=False).returncode == 0
