"""`python -m tools.export`: files in the engines that they are for, examples without this project, and refusals."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin import create_model
from swin.config import config_to_dict, load_config
from swin.create import build_model
from swin.engines import SUFFIXES, Description, Engine
from swin.errors import CheckpointError
from tests.engines.extras import PACKAGES, need
from tests.numerics.peers import perturb
from tools.export import __main__ as command
from tools.export.__main__ import main
from tools.predict import main as predict

CLASSES = ["a cat", "<b>", "zebra"]
SMALL = [
    *("DATA.IMG_SIZE", 64, "MODEL.SWIN.EMBED_DIM", 12, "MODEL.SWIN.WINDOW_SIZE", 4, "MODEL.DROP_PATH_RATE", 0),
    *("MODEL.SWIN.DEPTHS", "[2, 2]", "MODEL.SWIN.NUM_HEADS", "[2, 4]"),
]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """A checkpoint of a model with shifts at its first stage and none at its last."""
    monkeypatch.chdir(tmp_path)
    cfg = load_config(opts=SMALL)
    torch.manual_seed(0)
    model = build_model(cfg, 3)
    perturb(model)
    torch.save({"model": model.state_dict(), "config": config_to_dict(cfg), "classes": CLASSES}, "best.pth")
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Path("images").mkdir()
    Image.fromarray(noise).resize((160, 96), Image.Resampling.BICUBIC).save("images/one.png")
    return Path("best.pth")


def make_model(cfg_opts=SMALL) -> torch.nn.Module:
    model = build_model(load_config(opts=cfg_opts), 3)
    model.load_state_dict(torch.load("best.pth")["model"])
    return model.eval()


@pytest.mark.parametrize("to", SUFFIXES)
def test_a_file_gives_the_models_logits_at_other_batches_and_sizes(checkpoint, to, capsys):
    need(*PACKAGES[to])
    output = Path(f"new/model{SUFFIXES[to]}")
    for sizes in ((), ("48", "80")):
        flags = ["--img-size", *sizes] if sizes else []
        assert main(["--checkpoint", str(checkpoint), "--to", to, "--output", str(output), *flags]) == 0
        said = capsys.readouterr().out
        assert "changed in 0 of 12 images; in batches of 1, 3, 8" in said
        height, width = map(int, sizes or ("64", "64"))
        assert f"3 x {height} x {width}, normalised float32 values in, logits out" in said
        engine, model = Engine(output), make_model()
        for batch in (1, 2, 7):
            images = torch.randn(batch, 3, height, width)
            with torch.no_grad():
                torch.testing.assert_close(engine(images), model(images), atol=1e-4, rtol=0)
    content = output.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content, "no path of this machine"
    assert {file.suffix for file in output.parent.iterdir()} == {SUFFIXES[to], *([".bin"] if to == "openvino" else [])}
    about = engine.description
    assert (about.classes, about.size, about.crop, about.source) == (CLASSES, (48, 80), True, "best.pth")


@pytest.mark.parametrize("to", SUFFIXES)
def test_the_examples_of_the_page_classify_an_image_without_this_project(checkpoint, to, capsys):
    need(*PACKAGES[to])
    page = (Path(__file__).parents[2] / "docs/export.md").read_text()
    examples = dict(
        zip(("onnx", "openvino", "torch"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True)
    )
    flags = ["--checkpoint", str(checkpoint), "--to", to, "--output", f"model{SUFFIXES[to]}", "--preprocessing"]
    assert main([*flags, "--images", "images"]) == 0
    said = capsys.readouterr().out
    assert "uint8 pixels in, probabilities out" in said
    assert "on 1 images of images" in said
    alone = "import sys; sys.modules.update(dict.fromkeys(['swin', 'data', 'tools']))\n"  # an import of them fails
    done = subprocess.run(
        [sys.executable, "-c", alone + examples[to], "images/one.png"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert predict(["--checkpoint", "best.pth", "--input", "images/one.png", "--format", "json"]) == 0
    best = json.loads(capsys.readouterr().out)[0]["top_k"]
    found = [line.rpartition(" ") for line in done.stdout.splitlines()]
    assert [name for name, _, _ in found] == [row["class"] for row in best]
    np.testing.assert_allclose([float(score) for *_, score in found], [row["score"] for row in best], atol=5e-3)


@pytest.mark.parametrize("precision", ["int8", "bf16"])
@pytest.mark.parametrize("to", SUFFIXES)
def test_other_precisions_are_near_or_refused(digits_run, to, precision, tmp_path, capsys):
    need(*PACKAGES[to])
    if (to, precision) == ("openvino", "int8"):
        need("nncf")
    output = tmp_path / f"model{SUFFIXES[to]}"
    flags = ["--checkpoint", str(digits_run), "--to", to, "--output", str(output), "--precision", precision]
    status, said = main(flags), capsys.readouterr()
    if (to, precision) in {("onnx", "bf16"), ("torch", "int8")}:
        assert status == 2
        assert f"--to {to} has no --precision {precision}" in said.err
        assert not list(tmp_path.iterdir())
        return
    assert status == 0
    assert Engine(output).description.precision == precision
    if precision == "int8":
        before, after = map(
            float, re.search(r"validation images: ([\d.]+)% before, ([\d.]+)% after", said.out).groups()
        )
        assert "accuracy on 360" in said.out
        assert before > 20
        assert abs(before - after) < 5


def test_openvino_reports_to_nobody(checkpoint, tmp_path):
    """What its package openvino_telemetry keeps lies in the folder `intel` of the home."""
    need(*PACKAGES["openvino"])
    (tmp_path / "home").mkdir()
    words = ["-m", "tools.export", "--checkpoint", checkpoint, "--to", "openvino", "--output", "model.xml"]
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, *words], env=environment, check=True, timeout=300)
    assert not (tmp_path / "home/intel").exists()


def test_several_labels_an_image_have_their_threshold(checkpoint, tmp_path):
    content = torch.load("best.pth")
    torch.save({**content, "multi_label": True, "threshold": 0.3}, "several.pth")
    assert main(["--checkpoint", "several.pth", "--to", "torch", "--output", "model.pt2", "--preprocessing"]) == 0
    engine = Engine("model.pt2")
    assert engine.description.threshold == 0.3
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    normalise = Description(**{**vars(engine.description), "has_preprocessing": False}).transform().normalise
    with torch.no_grad():
        torch.testing.assert_close(
            engine(pixels).sigmoid(), make_model()(normalise(pixels)).sigmoid(), atol=1e-5, rtol=0
        )


def test_a_changed_model_is_refused_and_the_old_file_stays(checkpoint, monkeypatch, capsys):
    Path("model.pt2").write_bytes(b"old")
    write = command.write_graph

    def spoil(model, *arguments, **options):
        model.head.bias.data += 1e-3
        return write(model, *arguments, **options)

    monkeypatch.setattr(command, "write_graph", spoil)
    assert main(["--checkpoint", "best.pth", "--to", "torch", "--output", "model.pt2"]) == 2
    assert "logits differ by 1.0e-03" in capsys.readouterr().err
    assert Path("model.pt2").read_bytes() == b"old"
    assert not list(Path().glob(".export-*"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--to", "onnx", "--output", "model.pt2"], "has to end in .onnx"),
        (["--to", "torch", "--output", "model.pt2", "--checkpoint", "absent.pth"], "absent.pth does not exist"),
        (["--to", "torch", "--output", "model.pt2", "--img-size", "1", "2", "3"], "--img-size takes a side"),
        (["--to", "torch", "--output", "model.pt2", "--images", "absent"], "absent holds no images"),
        (["--to", "onnx", "--output", "model.onnx", "--precision", "int8"], "needs labelled images"),
        (["--to", "torch", "--output", "best.pth/model.pt2"], "cannot be written"),
    ],
)
def test_errors_are_one_message(checkpoint, flags, words, capsys):
    assert main(["--checkpoint", "best.pth", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("to", SUFFIXES)
def test_damaged_and_foreign_files_are_refused(checkpoint, to):
    need(*PACKAGES[to])
    name = f"model{SUFFIXES[to]}"
    assert main(["--checkpoint", "best.pth", "--to", to, "--output", name]) == 0
    content = Path(name).read_bytes()
    Path(name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="export it again"):
        Engine(name)
    changed = content.replace(b"bicubic", b"cubical")
    if changed != content and to == "onnx":
        Path(name).write_bytes(changed)
        with pytest.raises(CheckpointError, match="says about itself is damaged"):
            Engine(name)
    with pytest.raises(CheckpointError, match="does not exist"):
        Engine(f"absent{SUFFIXES[to]}")
    with pytest.raises(CheckpointError, match="is no exported model"):
        Engine("best.pth")


def test_models_are_captured_as_they_come(tmp_path):
    model = create_model("swin_tiny", num_classes=3, embed_dim=12, depths=(2, 2), num_heads=(2, 4), img_size=56).eval()
    images = torch.randn(2, 3, 56, 56)
    expected = model(images).detach()
    assert expected.requires_grad is False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        traced = torch.jit.trace(model, images)
    torch.testing.assert_close(traced(images[:1]).detach(), expected[:1], atol=1e-5, rtol=0)
    need(*PACKAGES["onnx"])
    runtime = pytest.importorskip("onnxruntime")
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    torch.onnx.export(model, (images,), tmp_path / "m.onnx", dynamo=True, dynamic_shapes=(batch,), verbose=False)
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    (name,) = (each.name for each in session.get_inputs())
    for number in (1, 2):
        (found,) = session.run(None, {name: images[:number].numpy()})
        np.testing.assert_allclose(found, expected[:number].numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to", "sides"),
    [
        *(("swin_tiny", to, sides) for to in SUFFIXES for sides in (("224",), ("192", "256"))),
        ("swin_tiny_c24_256", "torch", ("256",)),
        ("swin_small", "onnx", ("224",)),
        ("swin_base", "openvino", ("224",)),
        ("swin_base_384", "torch", ("384",)),
        ("swin_large_22k", "torch", ("224",)),
        ("swin_large_384", "torch", ("384",)),
    ],
)
def test_published_architectures_are_exported(name, to, sides, tmp_path, capsys):
    """With random weights: the file is compared with the model in batches of 1, 3 and 8 before it is written."""
    need(*PACKAGES[to])
    torch.manual_seed(0)
    file, output = tmp_path / "weights.pth", tmp_path / f"model{SUFFIXES[to]}"
    torch.save(create_model(name).state_dict(), file)
    flags = ["--checkpoint", str(file), "--to", to, "--output", str(output), "--img-size", *sides]
    assert main(flags) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "changed in 0 of 12 images; in batches of 1, 3, 8" in said
    print(name, said)
