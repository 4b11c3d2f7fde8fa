"""Publishing a checkpoint as a folder of this program, of transformers and of timm; tampered folders, hostile names."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import main
from swin import create_model, inference_model
from swin.config import config_to_dict, load_config
from swin.create import build_model
from swin.errors import CheckpointError
from swin.inference import load_predictor
from swin.weights import read_weights
from tools import evaluate, predict, publish

PROGRAMS = ("swin", "transformers", "timm")
BATCHES = (1, 3, 8)
TOLERANCE = 1e-4  # absolute, of logits up to 10: rounding gives 1e-6
SHAPE = [
    *("DATA.IMG_SIZE", 64, "MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.DEPTHS", "[1, 2]", "MODEL.SWIN.NUM_HEADS", "[1, 2]"),
    *("MODEL.SWIN.WINDOW_SIZE", 4, "DATA.MEAN", "[0.4, 0.5, 0.6]", "DATA.DATA_PATH", "/home/somebody/images"),
]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "](javascript:alert(1))\n# heading",
    "---\nlicense: mit",
    "| a | `b` *c* _d_ ä",
]


@pytest.fixture
def write(tmp_path):
    """Write the checkpoint of a run with four classes of hostile names, whose average differs from its last weights."""

    def write(*opts, classes=HOSTILE, **more) -> Path:
        cfg = load_config(opts=[*SHAPE, *opts])
        torch.manual_seed(0)
        model = build_model(cfg, len(classes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        own = {name: value.clone() for name, value in model.state_dict().items()}
        averaged = {name: value * 0.9 for name, value in own.items()}
        content = {"model": own, "ema": {"model": averaged, "num_updates": torch.tensor(5)}, "classes": classes}
        path = tmp_path / "run" / "checkpoints" / "best.pth"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({**content, "config": config_to_dict(cfg), **more}, path)
        rows = [{"kind": "eval", "epoch": epoch, "acc1": acc1} for epoch, acc1 in ((1, 50.0), (2, 75.5), (3, 60.0))]
        (path.parents[1] / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\ntorn {")
        return path

    return write


def run(checkpoint, output, *more: str) -> int:
    return publish.main(["--checkpoint", str(checkpoint), "--output", str(output), *more])


def of(program: str) -> list[str]:
    return [] if program == "swin" else ["--format", program]


def open_peer(folder: Path, program: str) -> torch.nn.Module:
    """The model of a folder, by its own program's loader."""
    if program == "swin":
        return load_predictor(folder, device="cpu").model
    if program == "timm":
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    return transformers.AutoModelForImageClassification.from_pretrained(folder).eval()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("opts", [(), ("MODEL.SWIN.QKV_BIAS", "False", "DATA.IMG_SIZE", "[64, 96]")], ids=["", "wide"])
@torch.no_grad()
def test_each_program_reads_its_folder_and_gives_the_same_logits(write, tmp_path, program, opts):
    checkpoint, folder = write(*opts), tmp_path / "folder"
    assert run(checkpoint, folder, *of(program)) == 0
    predictor = load_predictor(checkpoint, device="cpu")
    theirs, size = open_peer(folder, program), predictor.model.img_size
    for batch in BATCHES:
        images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch))
        found = theirs(images)
        expected = predictor.model(images)
        assert (getattr(found, "logits", found) - expected).abs().max() < TOLERANCE
    again = read_weights(folder)
    assert (again.classes, again.program) == (HOSTILE, "this program" if program == "swin" else program)
    result, before = (
        inference_model(path, Image.new("RGB", (90, 70), "red"), top_k=4) for path in (folder, checkpoint)
    )
    if program != "transformers":  # which squashes
        assert result["pred_scores"] == pytest.approx(before["pred_scores"], abs=1e-5)
    assert result["pred_class"] == HOSTILE[result["pred_label"]]


@torch.no_grad()
def test_the_preprocessing_of_each_program_is_that_of_the_folder(write, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 130, 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    folders = {program: tmp_path / program for program in PROGRAMS}
    for program, folder in folders.items():
        assert run(write("TEST.CROP_PCT", 0.8), folder, *of(program)) == 0
    about = json.loads((folders["swin"] / "preprocessing.json").read_text())
    assert (about["crop_pct"], about["mean"], about["activation"]) == (0.8, [0.4, 0.5, 0.6], "softmax")
    model = open_peer(folders["timm"], "timm")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    assert torch.equal(transform(image), load_predictor(folders["timm"]).transform(pixels))
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    processor = transformers.AutoImageProcessor.from_pretrained(folders["transformers"])
    theirs = processor(image, return_tensors="pt")["pixel_values"][0]
    ours = load_predictor(folders["transformers"]).transform(pixels)
    # Within two levels of 256: by default it resizes tensors, and we by Pillow.
    assert (theirs - ours).abs().max() < 2.1 / 255 / 0.224
    assert "80 x 80" in (folders["transformers"] / "README.md").read_text()


def test_the_card_is_read_by_huggingface_hub_and_shows_names_as_text(write, tmp_path):
    assert run(write(), tmp_path / "folder", "--license", "apache-2.0") == 0
    text = (tmp_path / "folder" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results[0].metric_value == 0.755
    assert text.count("\n---\n") == 1
    body = text.split("---\n", 2)[2]
    assert "| Acc@1, % | 75.5 |" in body
    listed = body.split("## Classes, by row\n\n")[1].split("\n\n")[0]
    assert len(listed.splitlines()) == len(HOSTILE)
    assert not set("<>[]`*_|\\:") & set(listed)
    assert "/home/somebody" not in "".join(path.read_text() for path in (tmp_path / "folder").glob("*.[ymj]*[ldn]"))


def test_figures_are_those_of_the_checkpoint(write, tmp_path):
    checkpoint = write()
    run_folder = checkpoint.parents[1]
    (run_folder / "test").mkdir()
    (run_folder / "test" / "metrics.json").write_text(json.dumps({"acc1": 70.0, "per_class": {}, "data": "/secret"}))
    (run_folder / "eval.json").write_text(json.dumps({"acc1": 1.0, "checkpoint": "another.pth"}))
    shutil.copy(checkpoint, checkpoint.with_name("last.pth"))
    best, last, again = (tmp_path / name for name in ("best", "last", "again"))
    for source, output in ((run_folder, best), (checkpoint.with_name("last.pth"), last), (best, again)):
        assert run(source, output) == 0
    figures = json.loads((best / "metrics.json").read_text())
    assert figures == {"validation": {"epoch": 2, "acc1": 75.5}, "test": {"acc1": 70.0}}
    assert json.loads((last / "metrics.json").read_text()) == {"validation": {"epoch": 3, "acc1": 60.0}}
    for path in best.iterdir():  # publishing what is published gives the same
        if path.suffix == ".safetensors":  # whose metadata are in no order
            torch.testing.assert_close(load_file(path), load_file(again / path.name), rtol=0, atol=0)
        elif path.name not in ("README.md", "SHA256SUMS"):  # which say that it was an average
            assert path.read_bytes() == (again / path.name).read_bytes()


@pytest.mark.parametrize("program", PROGRAMS)
def test_several_labels_have_their_threshold_in_all_folders(write, tmp_path, program):
    checkpoint = write("DATA.MULTI_LABEL", "True", "TRAIN.LOSS", "bce", multi_label=True, threshold=0.35)
    assert run(checkpoint, tmp_path / "folder", *of(program)) == 0
    assert read_weights(tmp_path / "folder").threshold == 0.35
    result = inference_model(tmp_path / "folder", Image.new("RGB", (64, 64), "red"))
    assert result["pred_labels"] == [row for row in result["pred_labels"] if result["pred_scores"][row] >= 0.35]
    assert "at least 0.35" in (tmp_path / "folder" / "README.md").read_text()


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_example_of_the_card_runs(write, tmp_path, monkeypatch, program):
    if program == "transformers":
        pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    assert run(write(), "FOLDER", *of(program)) == 0
    Image.new("RGB", (90, 70), "red").save("photo.jpg")
    code = Path("FOLDER/README.md").read_text().split("```python\n")[1].split("```")[0]
    scope = {}
    exec(code, scope)
    assert program == "swin" or scope["logits"].shape == (1, 4)


@pytest.mark.parametrize(
    ("program", "opts", "expected"),
    [
        ("timm", ("MODEL.SWIN.APE", "True"), "position embedding"),
        ("transformers", ("MODEL.SWIN.PATCH_NORM", "False"), "norm"),
        ("timm", ("MODEL.SWIN.QK_SCALE", "0.5"), "QK_SCALE"),
        ("transformers", ("DATA.IMG_SIZE", "16"), "windows of 4"),
    ],
)
def test_what_a_program_cannot_have_is_refused_and_leaves_nothing(write, tmp_path, capsys, program, opts, expected):
    checkpoint = write(*opts)
    before = sorted(tmp_path.iterdir())
    assert run(checkpoint, tmp_path / "folder", *of(program)) == 2
    assert expected in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
    assert run(checkpoint, tmp_path / "folder") == 0  # its own folder holds it


def test_a_position_embedding_goes_to_transformers(write, tmp_path):
    assert run(write("MODEL.SWIN.APE", "True"), tmp_path / "folder", "--format", "transformers") == 0
    config = tmp_path / "folder" / "config.json"
    config.write_text(config.read_text().replace('"image_size": 64', '"image_size": 96'))
    (tmp_path / "folder" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="img_size 96"):
        read_weights(tmp_path / "folder")


def test_weights_of_others_are_published_as_the_published_model_that_they_are(tmp_path):
    model = create_model("swin_tiny")
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    assert run(tmp_path / "tiny.safetensors", tmp_path / "folder", "--format", "timm") == 0
    weights = read_weights(tmp_path / "folder")
    assert weights.classes[0] == "tench, Tinca tinca"
    assert weights.preprocessing["crop_pct"] == 0.875


def test_only_a_new_or_empty_folder_is_written(write, tmp_path, capsys):
    checkpoint = write()
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    for output in (checkpoint.parent, tmp_path / "link", tmp_path / "file", tmp_path / "file" / "below"):
        assert run(checkpoint, output) == 2
        assert str(output) in capsys.readouterr().err
    assert run(checkpoint, tmp_path / "empty") == 0
    assert run(checkpoint, tmp_path / "other", "--license", "mit\nx: y") == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["empty", "file", "link", "run"]
    assert (tmp_path / "empty").stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failure_in_the_middle_leaves_no_folder(write, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(publish, "_write_sums", fail)
    checkpoint = write()
    assert run(checkpoint, tmp_path / "folder") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_logits_that_differ_are_not_published(write, tmp_path, monkeypatch):
    def damage(folder, tensors, metadata):
        tensors = {**tensors, "head.bias": tensors["head.bias"] + 0.01}
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, folder / "model.safetensors")

    monkeypatch.setattr(publish, "_save", damage)
    with pytest.raises(CheckpointError, match="differ by 1"):
        publish.publish(str(write()), tmp_path / "folder")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.yaml", "classes.json", "preprocessing.json", "metrics.json"]
)
def test_a_tampered_file_is_refused(write, tmp_path, name):
    folder = tmp_path / "folder"
    run(write(), folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA256SUMS"):
        read_weights(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"lacks|folder|weights"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("SHA256SUMS", f"{'0' * 64}  ../run/checkpoints/best.pth\n", "names no file beside it"),
        ("SHA256SUMS", f"{'0' * 64}  /etc/passwd\n", "names no file beside it"),
        ("SHA256SUMS", f"{'0' * 64}  ..\n", "names no file beside it"),
        ("SHA256SUMS", None, "has no SHA256SUMS"),
        ("config.yaml", "MODEL: {SWIN: {EMBED_DIM: 96000}}\n", "that a device can hold"),
        ("config.yaml", "MODEL: {SWIN: {EMBED_DIM: 192}}\n", "embed_dim 192"),
        ("config.yaml", "MODEL: !!python/object/apply:os.system ['touch pwned']\n", "no config"),
        ("config.yaml", "BASE: [../secret.yaml]\n", "embed_dim"),
        ("config.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b, [" + "[" * 3000 + "\n", "no config"),
        ("config.yaml", "7", "no config"),
        ("classes.json", '["a", "b"]', "2 classes"),
        ("classes.json", '{"a": 1}', "expected a list"),
        ("preprocessing.json", '{"activation": "sigmoid", "threshold": 2}', "threshold"),
        ("preprocessing.json", "{}", "activation"),
    ],
)
def test_a_folder_that_lies_with_right_sums_is_refused(write, tmp_path, monkeypatch, name, content, expected):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    run(write(), folder)
    (tmp_path / "secret.yaml").write_text("MODEL: {SWIN: {EMBED_DIM: 8}}")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    if name != "SHA256SUMS":
        sums = (folder / "SHA256SUMS").read_text().splitlines()
        right = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        sums = [f"{right}  {name}" if line.endswith(f"  {name}") else line for line in sums]
        (folder / "SHA256SUMS").write_text("\n".join(sums))
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_weights(folder)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "pwned").exists()


def test_the_card_may_be_edited_and_the_file_names_its_classes_by_itself(write, tmp_path):
    folder = tmp_path / "folder"
    run(write(), folder)
    (folder / "README.md").write_text("mine")
    assert read_weights(folder).classes == HOSTILE
    assert read_weights(folder / "model.safetensors").classes == HOSTILE
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == HOSTILE


def test_a_published_run_predicts_evaluates_and_starts_another(digits_run, tmp_path, capsys):
    folder = tmp_path / "digits"
    assert run(digits_run, folder, "--license", "mit") == 0
    assert set(json.loads((folder / "metrics.json").read_text())) == {"validation"}
    Image.new("L", (8, 8), 200).save(tmp_path / "image.png")
    capsys.readouterr()
    rows = []
    for checkpoint in (digits_run, folder):
        source = ["--checkpoint", str(checkpoint), "--input", str(tmp_path / "image.png"), "--format", "json"]
        assert predict.main(source) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert rows[0] == rows[1]
    outputs = []
    for checkpoint in (digits_run, folder):
        output = tmp_path / f"evaluation-{len(outputs)}"
        assert evaluate.main(["--checkpoint", str(checkpoint), "--output", str(output), "--no-report"]) == 0
        outputs.append(json.loads((output / "metrics.json").read_text())["acc1"])
    assert outputs[0] == outputs[1]
    arguments = [
        "--cfg",
        "swin_digits",
        "--output",
        str(tmp_path / "out"),
        "--opts",
        "DEVICE",
        "cpu",
        "REPORT",
        "False",
    ]
    assert main.main(["--eval", "--resume", str(folder), *arguments]) == 0
    assert main.main(["--pretrained", str(folder), "--dry-run", *arguments]) == 0
    assert "written by this program" in capsys.readouterr().out
    # Weights alone do not continue a run.
    assert main.main(["--resume", str(folder), *arguments]) == 2
