"""Several labels an image: the table, and its figures against scikit-learn's."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from swin.batches import Batch, Data, EvalBatches
from swin.distributed import setup_distributed
from swin.engine.evaluate import evaluate
from swin.engine.precision import Precision
from swin.errors import CheckpointError, DataError
from swin.evaluation.files import describe_classes, describe_figures, load_table, write_evaluation
from swin.evaluation.multilabel import LabelPredictions, find_threshold, measure_labels
from swin.evaluation.predictions import Predictions
from swin.evaluation.views import MultiView

CLASSES = ["cat", "dog", "fox, red", "owl", "yak"]


def make_table(count: int = 60, seed: int = 0, decimals: int = 6) -> LabelPredictions:
    """Random logits that know something of the labels; the last class is no image's, the first images have no label."""
    random = np.random.default_rng(seed)
    labels = (random.random((count, 5)) < [0.5, 0.3, 0.2, 0.1, 0]).astype(np.uint8)
    labels[:3] = 0
    logits = (random.normal(size=labels.shape) * 1.5 + 2 * labels - 1).round(decimals).astype(np.float32)
    return LabelPredictions.of(logits, labels, names=[f"{row}.png" for row in range(count)], classes=CLASSES)


@pytest.mark.parametrize("given", [None, 0.5, 0.99999])
def test_figures_are_those_of_scikit_learn(given):
    table = make_table()
    if given is not None:
        table = table.described(given_threshold=given)
    found, labels, scores = measure_labels(table), table.labels, torch.from_numpy(table.logits).sigmoid().numpy()
    preds, occurs = scores >= found["threshold"], [0, 1, 2, 3]
    assert found["threshold_is_given"] == (given is not None)
    macro = sk.precision_recall_fscore_support(labels[:, occurs], preds[:, occurs], average="macro", zero_division=0)
    micro = sk.precision_recall_fscore_support(labels, preds, average="micro", zero_division=0)
    assert [found[f"macro_{key}"] for key in ("precision", "recall", "f1")] == pytest.approx(macro[:3])
    assert [found[f"micro_{key}"] for key in ("precision", "recall", "f1")] == pytest.approx(micro[:3])
    assert found["mean_average_precision"] == pytest.approx(
        sk.average_precision_score(labels[:, occurs], scores[:, occurs])
    )
    assert found["subset_accuracy"] == pytest.approx(sk.accuracy_score(labels, preds))
    assert found["hamming_loss"] == pytest.approx(sk.hamming_loss(labels, preds))
    columns = sk.precision_recall_fscore_support(labels, preds, zero_division=np.nan)
    for label, (name, row) in enumerate(found["per_class"].items()):
        assert name == CLASSES[label]
        expected = [column[label] for column in columns]
        assert [row["support"], row["predicted"]] == [expected[3], preds[:, label].sum()]
        if label in occurs:
            ours = [np.nan if row[key] is None else row[key] for key in ("precision", "recall", "f1")]
            assert ours == pytest.approx(expected[:3], nan_ok=True)
            assert row["average_precision"] == sk.average_precision_score(labels[:, label], scores[:, label])
        else:
            assert row["average_precision"] is row["recall"] is row["f1"] is None
    assert found["loss"] == pytest.approx(sk.log_loss(labels.ravel(), scores.ravel()), rel=1e-5)
    assert (found["labels_per_image"], found["unlabelled"]) == (labels.sum() / 60, int((labels.sum(1) == 0).sum()))
    best = scores.argsort(axis=1)[:, ::-1]
    assert found["correct1"] == sum(labels[row, best[row, 0]] for row in range(60))
    assert (found["seen"], found["k"], found["correct5"]) == (60, 5, int(labels.any(axis=1).sum()))
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("decimals", [6, 0])  # the latter with many equal probabilities
@pytest.mark.parametrize("seed", range(2))
def test_no_threshold_has_a_larger_macro_f1(seed, decimals):
    table = make_table(30, seed, decimals)
    scores, occurs = table.probabilities, table.labels.any(axis=0)

    def macro_f1(threshold: float) -> float:
        return sk.f1_score(table.labels[:, occurs], scores[:, occurs] >= threshold, average="macro", zero_division=0)

    best = max(map(macro_f1, np.unique(scores)))
    assert macro_f1(table.threshold) == pytest.approx(best, abs=1e-12)
    assert table.count().macro_f1 == pytest.approx(best, abs=1e-12)
    if decimals == 0:  # it is no image's own probability, whose last bits depend on the size of a batch
        assert np.abs(scores - table.threshold).min() > 1e-3


def test_a_threshold_between_two_neighbouring_numbers_is_the_upper_one():
    for low in np.linspace(0.1, 0.9, 20, dtype=np.float32):
        table = LabelPredictions.of(np.zeros((2, 1)), [[0], [1]])
        scores = np.array([[low], [np.nextafter(low, np.float32(1))]])
        vars(table)["probabilities"] = scores  # half-way between them rounds to either
        assert scores[0, 0] < np.float32(table.threshold) == scores[1, 0]
        assert table.preds.tolist() == [[False], [True]]


def test_a_large_table_takes_its_threshold_from_some_of_the_images(monkeypatch):
    table = make_table(400)
    monkeypatch.setattr("swin.evaluation.multilabel._FITTED_VALUES", 400)
    assert find_threshold(table) == find_threshold(table.take(np.arange(0, 400, 4)))


@pytest.mark.parametrize("labels", [[[1], [0], [1]], [[0], [0], [0]]])
def test_one_class_and_no_label_at_all_are_measured(labels):
    table = LabelPredictions.of(np.array([[2.0], [-1.0], [0.5]]), labels)
    found = measure_labels(table)
    if any(map(any, labels)):
        assert (found["mean_average_precision"], found["macro_f1"], found["micro_f1"], found["subset_accuracy"]) == (
            1,
            1,
            1,
            1,
        )
        assert -1 < np.log(found["threshold"] / (1 - found["threshold"])) < 0.5
    else:
        assert found["mean_average_precision"] is found["macro_f1"] is None
        assert found["threshold"] == 0.5


def test_outputs_that_are_not_finite_have_no_figures():
    table = make_table()
    table.logits[5, 2] = np.nan
    result = table.count()
    assert np.isnan(result.mean_average_precision)
    assert result.threshold == 0.5
    with pytest.raises(CheckpointError, match="not finite"):
        measure_labels(table)


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = make_table().described(given_threshold=0.25, epoch=3)
    metrics = write_evaluation(table, tmp_path)
    again = load_table(tmp_path / "predictions.npz")
    assert isinstance(again, LabelPredictions)
    assert measure_labels(again) == measure_labels(table)
    assert (again.names, again.classes, again.about) == (list(table.names), CLASSES, table.about)
    for name in LabelPredictions.KEYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    with pytest.raises(DataError, match="Evaluate again"):
        Predictions.load(tmp_path / "predictions.npz")
    one = Predictions.of(table.logits, table.labels.argmax(axis=1))
    one.save(tmp_path / "one.npz")
    assert isinstance(load_table(tmp_path / "one.npz"), Predictions)
    for name in ("one.npz", "nowhere.npz"):
        with pytest.raises(DataError, match="Evaluate again"):
            LabelPredictions.load(tmp_path / name)
    assert json.loads((tmp_path / "metrics.json").read_text())["given_threshold"] == metrics["threshold"] == 0.25


def test_the_csv_has_the_names_and_all_probabilities(tmp_path):
    table = make_table()
    write_evaluation(table, tmp_path)
    with open(tmp_path / "predictions.csv", newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["file", "labels", "preds", *CLASSES]
    for row, (name, labels, preds, *scores) in enumerate(rows):
        assert name == f"{row}.png"
        assert [label for label in labels.split("|") if label] == table.names_of(table.labels[row])
        assert [pred for pred in preds.split("|") if pred] == table.names_of(table.preds[row])
        np.testing.assert_array_equal(np.array(scores, dtype=np.float32), table.probabilities[row])


def test_a_terminal_is_told_the_precisions_and_the_threshold():
    metrics = measure_labels(make_table())
    lines = describe_classes(metrics).splitlines()
    assert lines[0].split() == ["class", "images", "precision", "recall", "F1", "AP"]
    assert len(lines) == 5  # without the class that no image has
    assert lines[1].endswith(f"{metrics['per_class']['cat']['average_precision']:.3f}")
    assert f"threshold is {metrics['threshold']:.4f}, found on these images" in describe_figures(metrics)
    result = make_table().described(given_threshold=0.75).count()
    assert " * Acc@1 " in str(result)
    assert str(result).endswith("at threshold 0.7500")
    assert {"acc1", "acc5", "mean_average_precision", "macro_f1", "threshold"} <= result.fields().keys()


class Batches(EvalBatches):
    """Images whose first pixels are the logits, in batches of four."""

    def __init__(self, table: LabelPredictions) -> None:
        self.table, self.num_samples = table, len(table)

    def __iter__(self):
        for start in range(0, self.num_samples, 4):
            rows = slice(start, start + 4)
            images, labels = torch.from_numpy(self.table.logits[rows]), torch.from_numpy(self.table.labels[rows])
            empty = torch.zeros(0, 6, dtype=torch.int64)
            yield Batch(images, labels, empty, [], list(range(len(images))), len(images), True, start + len(images))

    def name(self, index):
        return self.table.names[index]

    def read(self, index):
        raise DataError("these have no pixels")


def test_an_evaluation_yields_the_table():
    expected = make_table()
    data = Data(CLASSES, None, Batches(expected), None, torch.nn.Identity(), [], multi_label=True)
    dist = setup_distributed("cpu", 60)
    result, table = evaluate(torch.nn.Identity(), data, Precision("cpu", None), dist)
    assert result == expected.count()
    assert isinstance(table, LabelPredictions)
    assert measure_labels(table) == measure_labels(expected)


def test_views_are_averaged_as_probabilities_of_each_class():
    class Corner(torch.nn.Module):
        def forward(self, images):
            return images[:, :, 0, 0]

    images = torch.randn(3, 5, 4, 4) * 3
    images[0, 0] = 90.0  # whose probability rounds to 1
    logits = MultiView(Corner(), size=None, flip=True, multi_label=True)(images)
    mean = (images[:, :, 0, 0].double().sigmoid() + images[:, :, 0, 3].double().sigmoid()) / 2
    torch.testing.assert_close(logits.sigmoid(), mean.float())
    assert logits[0, 0] > 80
