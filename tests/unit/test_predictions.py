"""The table that an evaluation yields, and what is read off it."""

import csv
import json

import numpy as np
import pytest
import sklearn.metrics as peer
import torch

from swin.errors import CheckpointError, DataError
from swin.evaluation import Predictions
from swin.evaluation.files import describe_classes, write_evaluation
from swin.evaluation.metrics import average_precisions, measure
from swin.evaluation.predictions import read_columns, storage_dtype
from swin.evaluation.views import MultiView


def random_table(count=400, classes=7, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes - 1, count)  # the last class has no images
    logits = random.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1.5
    return Predictions.of(logits, labels, classes=[f"class {label}" for label in range(classes)])


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_is_the_one_that_scikit_learn_computes_from_the_csv(tmp_path):
    metrics = write_evaluation(random_table(), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    rows = read_rows(tmp_path / "predictions.csv")
    labels, preds = ([int(row[key]) for row in rows] for key in ("label", "pred"))
    classes = list(rows[0])[6:]
    scores = np.array([[float(row[name]) for name in classes] for row in rows])
    assert metrics["seen"] == len(rows) == 400
    assert metrics["acc1"] == pytest.approx(100 * peer.accuracy_score(labels, preds))
    scores /= scores.sum(axis=1, keepdims=True)  # 9 digits were written
    top5 = peer.top_k_accuracy_score(labels, scores, k=5, labels=range(7))
    assert metrics["acc5"] == pytest.approx(100 * top5)
    assert metrics["loss"] == pytest.approx(peer.log_loss(labels, scores, labels=range(7)), rel=1e-5)
    assert metrics["macro_f1"] == pytest.approx(peer.f1_score(labels, preds, average="macro"))
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        assert metrics["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(labels, preds))
    assert metrics["confusion"] == peer.confusion_matrix(labels, preds, labels=range(7)).tolist()
    report = peer.classification_report(
        labels, preds, labels=range(7), target_names=classes, output_dict=True, zero_division=0
    )
    for name in classes:
        own = metrics["per_class"][name]
        for key, theirs in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert (own[key] or 0) == pytest.approx(report[name][theirs])
    assert metrics["per_class"]["class 6"]["recall"] is None  # it has no images
    for row, values in zip(rows, scores, strict=True):
        assert float(row["score"]) == pytest.approx(values.max(), rel=1e-5)
        assert row["pred_class"] == classes[int(row["pred"])] == classes[values.argmax()]


def test_one_class_is_measured_without_a_warning():
    metrics = measure(Predictions.of(np.zeros((4, 1)), np.zeros(4)))
    assert (metrics["acc1"], metrics["confusion"], metrics["macro_f1"]) == (100, [[4]], 1)


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    table = random_table().described(checkpoint="best.pth", epoch=3)
    table.save(tmp_path / "p.npz")
    again = Predictions.load(tmp_path / "p.npz")
    assert (again.about, again.classes, again.names) == (
        {"checkpoint": "best.pth", "epoch": 3},
        table.classes,
        table.names,
    )
    assert np.array_equal(again.logits, table.logits)
    assert measure(again) == measure(table)
    with np.load(tmp_path / "p.npz") as content:  # without pickles, under the names that the docs give
        assert {"index", "file", "label", "logits"} <= set(content.files)


@pytest.mark.parametrize("damage", ["cut", "text", "missing column", "labels", "missing"])
def test_a_damaged_table_is_refused(tmp_path, damage):
    path = tmp_path / "p.npz"
    random_table().save(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3000])
    elif damage == "text":
        path.write_text("no table")
    elif damage == "missing":
        path.unlink()
    else:
        with np.load(path) as content:
            arrays = {key.replace("file", "name"): content[key] for key in content.files}
        if damage == "labels":
            arrays["label"] = arrays["label"] + 100
        np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"p\.npz: .*Evaluate again"):
        Predictions.load(path)


def test_a_constant_added_to_the_logits_changes_no_figure():
    random = np.random.default_rng(0)
    logits = random.integers(-40, 40, (300, 5)) / 8  # with a shift of such numbers nothing is rounded
    labels = random.integers(0, 5, 300)
    shifts = random.integers(-1000, 1000, (300, 1))
    plain, shifted = (measure(Predictions.of(torch.tensor(each).float(), labels)) for each in (logits, logits + shifts))
    assert plain == shifted


def test_the_calibration_error_is_the_one_computed_by_hand():
    # Ten images at a probability of 0.9, of which six are right, and ten at 0.6, of which five are.
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = [0] * 6 + [1] * 4 + [0] * 5 + [1] * 5
    metrics = measure(Predictions.of(np.log(probabilities).astype(np.float32), labels))
    assert metrics["ece"] == pytest.approx((abs(0.9 - 0.6) * 10 + abs(0.6 - 0.5) * 10) / 20, abs=1e-6)
    assert metrics["mce"] == pytest.approx(0.3, abs=1e-6)
    assert [row["count"] for row in metrics["reliability"]] == [10, 10]


def test_calibration_agrees_with_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    table = random_table(2000)
    probabilities, labels = torch.from_numpy(table.probabilities()), torch.from_numpy(table.labels)
    for norm, key in (("l1", "ece"), ("max", "mce")):
        theirs = torchmetrics.multiclass_calibration_error(probabilities, labels, 7, n_bins=15, norm=norm)
        assert measure(table)[key] == pytest.approx(float(theirs), abs=1e-6)


def test_the_temperature_undoes_a_known_one():
    random = np.random.default_rng(0)
    logits = random.normal(size=(20000, 4)).astype(np.float32) * 2
    gumbel = -np.log(-np.log(random.uniform(size=logits.shape)))
    labels = (logits + gumbel).argmax(axis=1)  # drawn from softmax(logits): these are calibrated
    metrics = measure(Predictions.of(3 * logits, labels))
    assert metrics["temperature"] == pytest.approx(3, rel=0.03)
    assert metrics["temperature_ece"] < 0.02 < 0.1 < metrics["ece"]


def test_bootstrap_intervals_are_those_of_drawing_images():
    table, random = random_table(), np.random.default_rng(1)
    drawn = [random.integers(0, 400, 400) for _ in range(2000)]
    hits = [100 * float((table.ranks[rows] == 0).mean()) for rows in drawn]
    f1 = [peer.f1_score(table.labels[rows], table.preds[rows], average="macro") for rows in drawn[:300]]
    intervals = measure(table)["intervals"]
    # A percentile of so many draws is itself off by 0.3 points, or 0.6 points of the fewer.
    assert intervals["acc1"] == pytest.approx(np.percentile(hits, [2.5, 97.5]), abs=0.9)
    assert intervals["macro_f1"] == pytest.approx(np.percentile(f1, [2.5, 97.5]), abs=0.018)


def test_ranks_count_ties_by_the_class_number_and_nan_as_missed():
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [torch.nan, 2.0, 1.0], [0.0, torch.nan, 1.0]])
    columns = read_columns(logits, torch.tensor([0, 1, 1, 1]), torch.float32)
    assert columns.ranks.tolist()[:2] == [0, 1]
    assert (columns.ranks[2:] > 0).all()
    with pytest.raises(CheckpointError, match="not finite"):
        measure(Predictions.of(logits, [0, 1, 1, 1]))


def test_large_tables_keep_their_figures_in_less_memory(monkeypatch):
    exact = random_table()
    monkeypatch.setattr("swin.evaluation.predictions.FLOAT32_VALUES", 100)
    half = random_table()
    monkeypatch.setattr("swin.evaluation.predictions.FLOAT16_VALUES", 100)
    none = random_table()
    assert (half.logits.dtype, none.logits) == (np.float16, None)
    one, two, three = map(measure, (exact, half, none))
    for key in ("acc1", "acc5", "loss", "ece", "confusion", "per_class", "intervals"):
        assert one[key] == two[key] == three[key]
    assert two["temperature"] == pytest.approx(one["temperature"], rel=1e-2)
    assert three["temperature"] is None
    with pytest.raises(DataError, match="400 images x 7 classes are too many"):
        none.probabilities()


def test_what_is_stored_depends_on_the_size():
    assert storage_dtype(50_000, 1_000) == torch.float16
    assert storage_dtype(10_000, 10) == torch.float32
    assert storage_dtype(1_281_167, 1_000) is None


def test_an_image_with_several_labels_is_hit_by_any_of_them():
    logits = np.array([[3, 2, 1], [3, 2, 1], [1, 2, 3], [1, 3, 2]], dtype=np.float32)
    table = Predictions.of(logits, [2, 2, 0, 0], names=list("abcd"))
    sets = [[0, 2], [1], [], [0, 2]]
    chosen = table.with_label_sets(sets)
    assert (list(chosen.names), chosen.labels.tolist(), chosen.ranks.tolist()) == (
        ["a", "b", "d"],
        [0, 1, 2],
        [0, 1, 1],
    )
    assert chosen.losses == pytest.approx([0.4076, 1.4076, 1.4076], abs=1e-4)
    assert table.labels.tolist() == [2, 2, 0, 0]
    figures = average_precisions(table, sets)
    truth, scores = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]]), table.probabilities()[[0, 1, 3]]
    assert figures["mean_average_precision"] == pytest.approx(peer.average_precision_score(truth, scores))
    with pytest.raises(DataError, match="none of the images has a label"):
        table.with_label_sets([[]] * 4)


def test_the_table_on_a_terminal_shows_the_worst_of_many_classes():
    few = describe_classes(measure(random_table()))
    assert len(few.splitlines()) == 1 + 6  # the class without images is left out
    many = random_table(2000, 40)
    lines = describe_classes(measure(many)).splitlines()
    assert lines[0].startswith("the 10 classes of lowest F1, of 39")
    f1 = peer.f1_score(many.labels, many.preds, average=None, labels=range(39))
    assert [line.split("  ")[0] for line in lines[1:]] == [
        f"class {label}" for label in np.argsort(f1, kind="stable")[:10]
    ]


def test_views_are_averaged_as_probabilities():
    class Corner(torch.nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :2] * 4

    images = torch.rand(3, 1, 6, 6)
    both = MultiView(Corner(), size=None, flip=True)(images).softmax(dim=1)
    expected = (Corner()(images).softmax(1) + Corner()(images.flip(3)).softmax(1)) / 2
    assert torch.allclose(both, expected, atol=1e-6)
    crops = MultiView(Corner(), size=(4, 4), flip=False)(images).softmax(dim=1)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]
    expected = sum((images[:, 0, top, left : left + 2] * 4).softmax(1) for top, left in corners) / 5
    assert torch.allclose(crops, expected, atol=1e-6)
