"""tools.evaluate, and `main.py --eval`, on checkpoints of real runs."""

import json
import shutil

import numpy as np
import pytest

from data.digits import open_digits
from swin import create_model
from swin.evaluation import Predictions
from swin.images import to_image
from swin.weights import load_weights
from tests.conftest import CLASSES
from tools.evaluate import main


@pytest.fixture(scope="module")
def shapes_run(shapes, tmp_path_factory):
    """The folder of a run that was trained on the shapes."""
    import main as program
    from tests.conftest import CONFIG

    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(CONFIG)
    where = ["--data-path", str(shapes), "--output", str(folder)]
    opts = ["--opts", "TRAIN.EPOCHS", "3", "REPORT", "False"]
    assert program.main(["--cfg", str(folder / "tiny.yaml"), *where, *opts]) == 0
    return folder / "tiny" / "default"


def evaluate(run, output, *more):
    assert main(["--checkpoint", str(run), "--output", str(output), "--no-report", *map(str, more)]) == 0
    return json.loads((output / "metrics.json").read_text())


def best_row(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return max((row for row in rows if row["kind"] == "eval"), key=lambda row: row["acc1"])


def test_a_run_is_evaluated_as_it_was_in_training(shapes_run, shapes, tmp_path, capsys):
    metrics = evaluate(shapes_run, tmp_path / "out")
    row = best_row(shapes_run)
    assert (metrics["correct1"], metrics["seen"]) == (row["correct1"], row["seen"])
    assert metrics["checkpoint"] == str(shapes_run / "checkpoints" / "best.pth")
    assert (metrics["data"], metrics["split"]) == (str(shapes), "val")
    printed = capsys.readouterr().out
    assert f"written to {tmp_path / 'out'}" in printed
    assert all(name in printed for name in CLASSES)
    kept, made = (
        Predictions.load(shapes_run / "predictions.npz"),
        Predictions.load(tmp_path / "out" / "predictions.npz"),
    )
    assert kept.about["epoch"] == row["epoch"]
    assert list(kept.names) == list(made.names)
    assert np.allclose(kept.logits, made.logits, atol=1e-5)


def test_a_test_folder_alone_is_evaluated_whole_and_by_class_names(shapes_run, shapes, tmp_path):
    folder = tmp_path / "test_images"
    shutil.copytree(shapes / "val" / "stripes", folder / "stripes")
    shutil.copytree(shapes / "val" / "cross", folder / "cross")
    metrics = evaluate(shapes_run, tmp_path / "out", "--data-path", folder)
    assert (metrics["seen"], metrics["split"]) == (34 + 33, "all")
    whole = evaluate(shapes_run, tmp_path / "whole")
    for name in ("cross", "stripes"):  # the same images, under the label map of the checkpoint
        assert metrics["per_class"][name]["recall"] == whole["per_class"][name]["recall"]
    assert metrics["per_class"]["circle"]["support"] == 0
    # Under main.py too, whatever the run of this name once held out.
    shutil.move(folder / "cross", folder / "circles")
    assert main(["--checkpoint", str(shapes_run), "--data-path", str(folder), "--output", str(tmp_path / "x")]) == 2


def test_evaluating_never_draws_a_part_of_a_folder(runner, shapes, tmp_path):
    folder = shutil.copytree(shapes / "train", tmp_path / "mine")
    options = ["--opts", "DATA.VAL_SPLIT", "0.2", "TRAIN.EPOCHS", "1", "REPORT", "False"]
    assert runner("run", "--data-path", str(folder), *options) == 0
    run = runner.run_dir("run")
    held_out = len(json.loads((run / "split.json").read_text())["val"])
    best = str(run / "checkpoints" / "last.pth")
    assert runner("own", "--eval", "--resume", best, "--data-path", str(folder), *options) == 0
    assert runner("other", "--eval", "--resume", best, "--data-path", str(shapes / "val"), *options) == 0
    seen = {tag: json.loads((runner.run_dir(tag) / "eval.json").read_text())["seen"] for tag in ("own", "other")}
    assert seen == {"own": held_out, "other": 101}
    # The run's folder, moved elsewhere with its data, still knows what it has held out.
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert evaluate(run, tmp_path / "out", "--data-path", moved)["seen"] == held_out
    assert evaluate(run, tmp_path / "out", "--data-path", moved, "--split", "all")["seen"] == 78
    # Of other data a part that is there is taken, and one that is not there is not drawn.
    assert evaluate(run, tmp_path / "out", "--data-path", shapes)["seen"] == 101
    other = ["--checkpoint", str(run), "--data-path", str(shapes / "val"), "--split", "val", "--output", str(tmp_path)]
    assert main(other) == 2


def test_sizes_windows_and_views_in_one_table(shapes_run, tmp_path):
    arguments = ["--img-size", "32", "48", "--window", "4", "2", "--flip", "--crops", "5"]
    output = tmp_path / "out"
    assert main(["--checkpoint", str(shapes_run), "--output", str(output), "--no-report", *arguments]) == 0
    rows = json.loads((output / "sizes.json").read_text())
    assert [(row["img_size"], row["window_size"]) for row in rows] == [(32, 4), (32, 2), (48, 4), (48, 2)]
    for row in rows:
        folder = output / f"size{row['img_size']}_window{row['window_size']}"
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["acc1"] == row["acc1"]
        assert (metrics["flip"], metrics["crops"]) == (True, 5)
    assert len((output / "sizes.csv").read_text().splitlines()) == 5


def test_several_right_labels_an_image(shapes_run, tmp_path):
    plain = evaluate(shapes_run, tmp_path / "plain")
    table = Predictions.load(tmp_path / "plain" / "predictions.npz")
    # What was predicted is right as well, but for the first image, which is left out.
    labels = {
        name: [int(label), CLASSES[pred]]
        for name, label, pred in zip(table.names, table.labels, table.preds, strict=True)
    }
    labels[table.names[0]] = []
    (tmp_path / "real.json").write_text(json.dumps(labels))
    metrics = evaluate(shapes_run, tmp_path / "real", "--labels", tmp_path / "real.json")
    assert (metrics["acc1"], metrics["seen"], metrics["unlabelled"]) == (100, 100, 1)
    assert plain["acc1"] < 100
    assert 0 < metrics["mean_average_precision"] <= 1


def test_weights_of_other_programs_are_evaluated_by_their_shapes(shapes, shapes_run, tmp_path, capsys):
    import torch

    from swin.create import build_model
    from tools.evaluate import parse, read_weights

    weights = tmp_path / "bare.pth"
    torch.save(read_weights(shapes_run).tensors, weights)
    options = parse(["--checkpoint", str(weights)])
    from tools.evaluate import build_config

    cfg = build_config(read_weights(weights), options)
    assert (cfg.MODEL.SWIN.EMBED_DIM, list(cfg.MODEL.SWIN.DEPTHS), cfg.MODEL.SWIN.WINDOW_SIZE) == (16, [2, 2], 4)
    load_weights(build_model(cfg, 3), weights, strict=True)
    metrics = evaluate(
        weights, tmp_path / "out", "--data-path", shapes, "--img-size", "32", "--opts", "AMP_ENABLE", "False"
    )
    assert metrics["correct1"] == best_row(shapes_run)["correct1"]


def test_five_planted_labels_are_among_the_ten_worst_mistakes(tmp_path):
    import main as program

    opts = ["TRAIN.EPOCHS", "12", "TRAIN.WARMUP_EPOCHS", "1", "AUG.MIXUP", "0", "AUG.CUTMIX", "0", "EVAL_FREQ", "12"]
    arguments = ["--cfg", "swin_digits", "--output", str(tmp_path), "--opts", *opts, "REPORT", "False"]
    assert program.main(arguments) == 0
    test = open_digits().sources["test"]
    planted = {f"{index:03}.png" for index in (3, 50, 111, 200, 333)}
    for index in range(360):
        label, name = int(test.labels[index]), f"{index:03}.png"
        folder = tmp_path / "test" / str((label + 5) % 10 if name in planted else label)
        folder.mkdir(parents=True, exist_ok=True)
        to_image_file(test.read(index), folder / name)
    metrics = evaluate(tmp_path / "swin_digits" / "default", tmp_path / "out", "--data-path", tmp_path / "test")
    table = Predictions.load(tmp_path / "out" / "predictions.npz")
    worst = np.argsort(-table.losses)[:10]
    assert planted <= {table.names[index].rpartition("/")[2] for index in worst}
    assert metrics["seen"] == 360


def to_image_file(pixels_HW, path):
    import torch

    to_image(torch.from_numpy(pixels_HW)[None]).save(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "absent.pth"], "does not exist"),
        (["--checkpoint", "RUN", "--data-path", "absent"], "absent"),
        (["--checkpoint", "RUN", "--split", "nope"], "nope"),
        (["--checkpoint", "RUN", "--labels", "absent.json"], "absent.json"),
        (["--checkpoint", "RUN", "--img-size", "-3"], "IMG_SIZE"),
        (["--checkpoint", "RUN", "--opts", "TEST.CORP", "False"], "TEST.CROP"),
    ],
)
def test_what_cannot_be_evaluated_is_one_message(shapes_run, tmp_path, capsys, arguments, message):
    arguments = [str(shapes_run) if word == "RUN" else word for word in arguments]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--no-report"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize(("option", "words"), [("--labels", "absent.json"), ("--output", "cannot be written")])
def test_what_is_wrong_is_said_before_the_evaluation(shapes_run, tmp_path, capsys, monkeypatch, option, words):
    monkeypatch.setattr("swin.engine.run.evaluate", lambda *args, **more: pytest.fail("evaluated in vain"))
    (tmp_path / "file").touch()
    value = tmp_path / {"--labels": "absent.json", "--output": "file"}[option]
    assert main(["--checkpoint", str(shapes_run), "--output", str(tmp_path / "out"), option, str(value)]) == 2
    assert words in capsys.readouterr().err


def test_a_model_of_the_digits_is_evaluated_on_a_folder_without_a_word_of_them(digits_run, tmp_path, capsys):
    (tmp_path / "val" / "3").mkdir(parents=True)
    to_image_file(np.zeros((8, 8), np.uint8), tmp_path / "val" / "3" / "0.png")
    assert evaluate(digits_run, tmp_path / "out", "--data-path", tmp_path, "--crops", "5")["seen"] == 1
    printed = capsys.readouterr().out
    assert "is not used" not in printed
    assert "views of --crops 5 are all the same" in printed


def test_a_backbone_has_nothing_to_evaluate(tmp_path, capsys):
    import torch

    model = create_model("swin_tiny", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "backbone.pth")
    assert main(["--checkpoint", str(tmp_path / "backbone.pth"), "--data-path", str(tmp_path)]) == 2
    assert "without a head" in capsys.readouterr().err
