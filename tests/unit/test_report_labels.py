"""The page about several labels an image."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from swin.evaluation.files import write_evaluation
from swin.evaluation.multilabel import measure_labels
from tests.unit.test_multilabel import make_table
from tests.unit.test_report import Page, random_image
from tools.report import __main__ as report_tool
from tools.report import report_folder, write_report


def test_the_page_has_the_figures_of_the_metrics(tmp_path):
    table = make_table()
    metrics = measure_labels(table)
    page = Page(write_report(table, None, tmp_path / "report", page=tmp_path / "report.html", images=random_image))
    flat = "".join(page.text.split())
    for label, value in (
        ("meanaverageprecision", metrics["mean_average_precision"]),
        ("macroF1", metrics["macro_f1"]),
        ("microF1", metrics["micro_f1"]),
        ("threshold", metrics["threshold"]),
        ("subsetaccuracy", metrics["subset_accuracy"]),
        ("Hammingloss", metrics["hamming_loss"]),
        ("loss", metrics["loss"]),
    ):
        assert f"{label}{value:.4f}" in flat
    assert "foundontheseimages" in flat
    assert "onfusion" not in flat
    _, *rows = page.tables["per-class"]
    for label, ((name, figures), row) in enumerate(zip(metrics["per_class"].items(), rows, strict=True)):
        shown = [figures[key] for key in ("average_precision", "precision", "recall", "f1")]
        counts = [str(label), name, str(figures["support"]), str(figures["predicted"])]
        assert row == [*counts, *("–" if value is None else f"{value:.4f}" for value in shown)]
    numbers = json.loads((tmp_path / "report/report.json").read_text())
    assert numbers["metrics"] == metrics
    worst = np.argsort(-table.losses, kind="stable")[:24]
    assert [hit["file"] for hit in numbers["worst"]] == [table.names[row] for row in worst]
    for row, hit in zip(worst, numbers["worst"], strict=True):
        assert sorted(hit["right"] + hit["missed"]) == sorted(table.names_of(table.labels[row]))
        assert sorted(hit["right"] + hit["wrong"]) == sorted(table.names_of(table.preds[row]))


def test_a_folder_of_an_evaluation_says_whose_threshold_it_is(tmp_path):
    write_evaluation(make_table().described(given_threshold=0.7), tmp_path)
    page = Page(report_folder(tmp_path))
    assert "threshold0.7000ofthecheckpoint" in "".join(page.text.split())
    assert "There are no pictures of single images" in page.text


def test_names_are_text_and_a_class_without_images_has_no_figures(tmp_path):
    table = replace(make_table(), classes=["<script>alert(1)</script>", "图像", "a|b", "עברית", "none"])
    page = Page(write_report(table, None, tmp_path / "report", page=tmp_path / "report.html"))
    assert page.scripts == 1
    assert page.tables["per-class"][1][1] == "<script>alert(1)</script>"


def test_two_evaluations_are_compared_without_a_test_of_hits(tmp_path):
    for seed in range(2):
        write_evaluation(make_table(seed=seed), tmp_path / str(seed))
    page = tmp_path / "both.html"
    assert report_tool.main([str(tmp_path / "0"), str(tmp_path / "1"), "--output", str(page)]) == 0
    numbers = json.loads((tmp_path / "both" / "report.json").read_text())
    assert "several labels" in numbers["pairs"][0]["problem"]
    found = [run["mean_average_precision"] for run in numbers["runs"]]
    assert found == [make_table(seed=seed).count().mean_average_precision for seed in range(2)]
    assert f"{found[0]:.4f}" in page.read_text()


def test_in_a_browser(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    page = write_report(make_table(), None, tmp_path / "report", page=tmp_path / "report.html", images=random_image)
    problems = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(page.as_uri())
        tab.locator("#per-class th:nth-child(5) button").click()
        cells = "[...document.querySelectorAll('#per-class tbody td:nth-child(5)')].map(cell => cell.dataset.value)"
        *values, last = tab.evaluate(cells)
        is_narrow = tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert problems == []
    assert last == ""  # of the class that no image has
    assert [float(value) for value in values] == sorted(map(float, values))
    assert is_narrow
