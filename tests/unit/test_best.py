"""Which evaluation is the best, and when a better one is not awaited any more."""

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as peer

from swin.engine.best import FIGURES, Best, choose_figure
from swin.errors import ConfigError
from swin.evaluation import Predictions


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("seed", range(4))
def test_the_figures_of_an_evaluation_are_those_of_scikit_learn(classes, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, max(1, classes - 1), 25)  # of 40 classes many occur nowhere, the last never as label
    logits = random.normal(size=(25, classes)) + 2 * np.eye(classes)[labels]
    table = Predictions.of(logits, labels)
    fields = table.count().fields()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class, and of classes that were only predicted
        assert fields["balanced_accuracy"] == pytest.approx(peer.balanced_accuracy_score(labels, table.preds))
        assert fields["macro_f1"] == pytest.approx(peer.f1_score(labels, table.preds, average="macro"))
    assert fields["acc1"] == pytest.approx(100 * peer.accuracy_score(labels, table.preds))
    if classes > 1:
        loss = peer.log_loss(labels, table.probabilities(), labels=range(classes))
        assert fields["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("monitor", "values", "better"),
    [
        ("acc1", [0.0, 50.0, 50.0, 40.0, 51.0], [True, True, False, False, True]),
        ("loss", [2.0, 1.0, 1.0, 3.0, 0.5], [True, True, False, False, True]),
        ("macro_f1", [math.nan, 0.2, math.inf, 0.1], [False, True, False, False]),
        ("last", [1.0, 2.0, 0.5, math.nan, 2.0], [True, True, True, False, True]),
    ],
)
def test_an_evaluation_is_the_best_where_it_is_better_than_all_before(monitor, values, better):
    best = Best(monitor)
    assert [best.take({FIGURES[monitor].field: value}) for value in values] == better
    finite = [value for value in values if math.isfinite(value)]
    assert best.value == (finite[-1] if monitor == "last" else min(finite) if monitor == "loss" else max(finite))


def test_a_better_evaluation_is_awaited_as_often_as_patience_says():
    best, over = Best("acc1", patience=2), []
    for value in (10, 9, 11, 11, 10, 12):
        best.take({"acc1": value})
        over.append(best.is_over)
    assert over == [False, False, False, False, True, False]
    assert not Best("acc1", patience=0, value=9.0, waited=1000).is_over


def test_what_is_not_saved_is_not_the_best_to_beat():
    best = Best("acc1")
    assert not best.take({"acc1": 60}, is_saved=False)
    assert best.take({"acc1": 50})


def test_a_comparison_goes_on_from_a_checkpoint_also_of_an_earlier_version():
    best = Best("loss", patience=3)
    best.take({"loss": 0.5})
    best.take({"loss": 0.6})
    again = Best("loss", patience=3)
    assert again.load_state_dict(best.state_dict()) == ""
    assert again == best
    earlier = Best("acc1")
    assert earlier.load_state_dict({"max_accuracy": 81.2}) == ""
    assert (earlier.value, earlier.waited) == (81.2, 0)
    assert earlier.load_state_dict({"max_accuracy": 0.0}) == ""
    assert earlier.value is None


def test_another_figure_begins_anew_and_says_so():
    best = Best("macro_f1", value=0.5, waited=2)
    assert "by acc1 and is by macro_f1 now (TRAIN.MONITOR)" in best.load_state_dict({"max_accuracy": 81.2})
    assert (best.value, best.waited) == (None, 0)


def test_data_without_the_figure_are_refused_with_what_to_use():
    assert [choose_figure(name, multi_label=False) for name in ("acc1", "loss")] == ["acc1", "loss"]
    assert [choose_figure(name, multi_label=True) for name in ("acc1", "macro_f1")] == ["mAP", "macro_f1"]
    with pytest.raises(ConfigError, match=r"these have one each; use one of acc1, balanced_accuracy, macro_f1, loss"):
        choose_figure("mAP", multi_label=False)
    with pytest.raises(ConfigError, match=r"balanced_accuracy, which images with several labels do not have; use"):
        choose_figure("balanced_accuracy", multi_label=True)
