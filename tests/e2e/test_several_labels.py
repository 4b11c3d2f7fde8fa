"""Images with any number of labels, from training to prediction."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from swin.inference import inference_model
from tools.compare import main as compare
from tools.embed import main as embed
from tools.evaluate import main as evaluate
from tools.knn import main as knn
from tools.predict import main as predict

CLASSES = ["blue", "green", "red"]
COLOURS = np.array([[30, 30, 230], [30, 200, 30], [230, 30, 30]])
OPTIONS = (
    *("DATA.MULTI_LABEL", "True", "TRAIN.LOSS", "asl", "MODEL.LABEL_SMOOTHING", "0", "TRAIN.EPOCHS", "24"),
    *("AUG.AUTO_AUGMENT", "none", "AUG.COLOR_JITTER", "0", "AUG.REPROB", "0", "AUG.MIXUP_PROB", "0.2"),
    *("EVAL_FREQ", "6", "MODEL.DROP_PATH_RATE", "0", "TRAIN.BASE_LR", "0.004"),
)


def draw(labels: np.ndarray, random: np.random.Generator) -> Image.Image:
    """A grey picture of 32 x 32 pixels with a disc in the colour of each label, which may hide another."""
    pixels = random.normal(110, 12, (32, 32, 3))
    rows, columns = np.mgrid[:32, :32]
    for label in np.flatnonzero(labels):
        row, column = random.uniform(6, 26, 2)
        pixels[np.hypot(rows - row, columns - column) < random.uniform(5, 7)] = COLOURS[label]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of 72 images to train on, 40 to validate and 24 to test; some have no label."""
    root, random = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    for part, count in (("train", 72), ("val", 40), ("test", 24)):
        (root / part).mkdir()
        labels = (random.random((count, 3)) < [0.5, 0.35, 0.6]).astype(np.uint8)
        with open(root / f"{part}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label"])
            for index, row in enumerate(labels):
                draw(row, random).save(root / part / f"{index:02}.png")
                writer.writerow([f"{part}/{index:02}.png", "|".join(CLASSES[label] for label in np.flatnonzero(row))])
    return root


@pytest.fixture
def label_runner(runner, folder):
    runner.data = folder
    return runner


def read_csv(path):
    """Labels, predictions and probabilities of a predictions.csv, by scikit-learn's conventions; and the names."""
    with open(path, newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["file", "labels", "preds", *CLASSES]
    labels, preds = (
        np.array([[name in row[column].split("|") for name in CLASSES] for row in rows]) for column in (1, 2)
    )
    return labels, preds, np.array([row[3:] for row in rows], dtype=float), [row[0] for row in rows]


def check_figures(folder, threshold, count):
    """Compare what an evaluation wrote with what scikit-learn makes of its table."""
    metrics = json.loads((folder / "metrics.json").read_text())
    labels, preds, scores, _ = read_csv(folder / "predictions.csv")
    assert len(labels) == metrics["seen"] == count
    assert metrics["threshold"] == threshold
    np.testing.assert_array_equal(preds, scores >= threshold)
    assert metrics["mean_average_precision"] == pytest.approx(sk.average_precision_score(labels, scores))
    for average in ("macro", "micro"):
        found = sk.precision_recall_fscore_support(labels, preds, average=average, zero_division=0)[:3]
        assert [metrics[f"{average}_{key}"] for key in ("precision", "recall", "f1")] == pytest.approx(found)
    assert metrics["subset_accuracy"] == pytest.approx(sk.accuracy_score(labels, preds))
    assert metrics["hamming_loss"] == pytest.approx(sk.hamming_loss(labels, preds))
    return metrics


def test_several_labels_from_training_to_prediction(label_runner, folder, tmp_path, capsys):
    runner = label_runner
    assert runner("run", "--opts", *OPTIONS, "REPORT", "True") == 0
    text, run = runner.text(), runner.run_dir("run")
    rows = runner.rows("run", "eval")
    assert f"mAP {rows[-1]['mean_average_precision']:.4f} macro F1 {rows[-1]['macro_f1']:.4f} at threshold" in text
    assert rows[-1]["mean_average_precision"] > 0.75  # by chance it is the share of the labels, 0.54
    assert rows[-1]["loss"] < rows[0]["loss"]

    # The threshold of an evaluation is in its checkpoint, and the best weights keep theirs.
    last, best = runner.checkpoint("run"), runner.checkpoint("run", "best.pth")
    assert last["multi_label"] is best["multi_label"] is True
    assert last["threshold"] == rows[-1]["threshold"]
    at_best = next(row for row in rows if row["epoch"] == best["epoch"])
    assert best["threshold"] == at_best["threshold"]
    page = (run / "report.html").read_text()
    assert f"{at_best['mean_average_precision']:.4f}" in page
    assert "found on these images" in page
    assert "no pictures" not in page

    # The test part is judged by the threshold of the validation images.
    assert check_figures(run / "test", best["threshold"], 24)["threshold_is_given"]
    with np.load(run / "test" / "predictions.npz") as table:
        assert (table["label"].shape, table["label"].dtype) == ((24, 3), np.uint8)

    # The best weights' evaluation again, and on images that had no part in the threshold.
    checkpoint = str(run)
    assert evaluate(["--checkpoint", checkpoint, "--device", "cpu", "--output", str(tmp_path / "val")]) == 0
    metrics = check_figures(tmp_path / "val", best["threshold"], 40)
    assert metrics["macro_f1"] == pytest.approx(at_best["macro_f1"])
    assert metrics["threshold_is_given"]
    arguments = ["--checkpoint", checkpoint, "--split", "test", "--device", "cpu", "--output", str(tmp_path / "test")]
    assert evaluate(arguments) == 0
    assert check_figures(tmp_path / "test", best["threshold"], 24)["mean_average_precision"] > 0.7
    assert f"the threshold is {best['threshold']:.4f}, given" in runner.text()
    assert "of the checkpoint" in (tmp_path / "test" / "report.html").read_text()
    assert runner("run", "--eval", "--resume", str(run / "checkpoints" / "best.pth"), "--opts", *OPTIONS) == 0
    assert json.loads((run / "eval.json").read_text())["threshold"] == best["threshold"]

    # Prediction gives what the evaluation predicted.
    _, preds, scores, names = read_csv(tmp_path / "test" / "predictions.csv")
    runner.text()
    status = predict(
        [
            "--checkpoint",
            str(run / "checkpoints" / "best.pth"),
            "--input",
            str(folder / "test"),
            "--format",
            "json",
            "--top-k",
            "1",
            "--device",
            "cpu",
        ]
    )
    assert status == 0
    for row, (found, name) in enumerate(zip(json.loads(capsys.readouterr().out), names, strict=True)):
        assert found["file"] == name
        assert sorted(found["pred_classes"]) == [CLASSES[label] for label in np.flatnonzero(preds[row])]
        assert found["pred_score"] == pytest.approx(scores[row].max(), abs=1e-5)
    one = inference_model(run / "checkpoints" / "best.pth", names[0], device="cpu")
    assert one["pred_scores"] == pytest.approx(scores[0], abs=1e-5)


def test_a_run_goes_on_with_its_threshold(label_runner, assert_equal_state):
    options = [*OPTIONS, "EVAL_FREQ", "2", "TRAIN.EPOCHS", "3", "TRAIN.LR_SCHEDULER.NAME", "constant"]
    assert label_runner("whole", "--opts", *options) == 0
    assert label_runner("parts", "--opts", *options, "TRAIN.EPOCHS", "2") == 0
    assert label_runner("parts", "--opts", *options) == 0
    assert_equal_state(label_runner.checkpoint("whole"), label_runner.checkpoint("parts"))


def test_folds_and_lists_in_parquet(runner, folder, tmp_path, capsys):
    """Two folds of a table whose labels are lists, and what the tools make of one of them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    with open(folder / "train.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    lists = [labels.split("|") if labels else [] for _, labels in rows]
    runner.data = tmp_path / "data"
    runner.data.mkdir()
    (runner.data / "train").symlink_to(folder / "train")
    table = {"image": [name for name, _ in rows], "labels": lists}
    parquet.write_table(pyarrow.table(table), runner.data / "train.parquet")
    options = [*OPTIONS, "EVAL_FREQ", "1", "TRAIN.EPOCHS", "2", "DATA.FOLDS", "2", "REPORT", "True"]
    assert runner("folds", "--opts", *options) == 0
    run = runner.run_dir("folds")
    summary = json.loads((run / "folds.json").read_text())
    assert [row["images"] for row in summary["folds"]] == [36, 36]
    found = [row["mean_average_precision"] for row in summary["folds"]]
    assert summary["mean"]["mean_average_precision"] == pytest.approx(np.mean(found))
    assert summary["std"]["mean_average_precision"] == pytest.approx(np.std(found, ddof=1))
    metrics = json.loads((run / "metrics.json").read_text())
    labels, _, scores, names = read_csv(run / "predictions.csv")
    assert names == [str(runner.data / name) for name in table["image"]]
    assert [[name for name, flag in zip(CLASSES, row, strict=True) if flag] for row in labels] == [
        sorted(each) for each in lists
    ]
    assert metrics["mean_average_precision"] == pytest.approx(sk.average_precision_score(labels, scores))
    assert not metrics["threshold_is_given"]
    page = (run / "report.html").read_text()
    assert all(f"{figure:.4f}" in page for figure in [*found, summary["mean"]["macro_f1"]])

    checkpoint = str(run / "fold-0" / "checkpoints" / "best.pth")
    assert embed(["--checkpoint", checkpoint, "--output", str(tmp_path / "features"), "--device", "cpu"]) == 0
    with np.load(tmp_path / "features" / "features.npz") as features:
        label_of = dict(zip(names, labels, strict=True))
        for file, label in zip(features["files"].tolist(), features["labels"].tolist(), strict=True):
            assert label == next(iter(np.flatnonzero(label_of[file]).tolist()), -1)
    capsys.readouterr()
    assert knn(["--checkpoint", checkpoint, "--device", "cpu"]) == 2
    assert "tools.embed" in capsys.readouterr().err
    runs = [str(run / "fold-0"), str(run / "fold-1")]
    assert compare([*runs, "--format", "json"]) == 0
    compared = json.loads(capsys.readouterr().out)["runs"]
    assert [each["best_epoch"] for each in compared] == [row["best_epoch"] for row in summary["folds"]]
