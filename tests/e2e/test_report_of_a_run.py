"""Training ends with a page, and nothing that goes wrong with the page ends a run."""

import json
import sys

from PIL import Image

import main


def status(runner, tag):
    return json.loads((runner.run_dir(tag) / "status.json").read_text())["state"]


def test_a_run_ends_with_a_page_about_its_best_checkpoint(runner):
    assert runner("run", "--opts", "REPORT", "True") == 0
    run = runner.run_dir("run")
    text = runner.text()
    assert f"report: {run / 'report.html'}" in text
    assert (
        "classes with their training + validation images: circle (26 + 34), cross (26 + 34), stripes (26 + 33)" in text
    )
    numbers = json.loads((run / "report" / "report.json").read_text())
    best = max(runner.rows("run", "eval"), key=lambda row: row["acc1"])
    assert numbers["metrics"]["correct1"] == best["correct1"]
    assert numbers["about"]["epoch"] == best["epoch"]
    assert numbers["about"]["checkpoint"] == str(run / "checkpoints" / "best.pth")
    assert numbers["class_counts"]["train"] == {"circle": 26, "cross": 26, "stripes": 26}
    page = (run / "report.html").read_text()
    assert "There are no pictures" not in page
    assert "cannot be drawn" not in page
    with Image.open(run / "batch.png") as picture:
        assert picture.width > 100
    assert json.loads((run / "layers.json").read_text())["REPORT"] == {"where": "--opts", "before": False}
    # Again, with all epochs done: the page is made anew, of the same figures.
    assert runner("run", "--opts", "REPORT", "True") == 0
    assert json.loads((run / "report" / "report.json").read_text())["metrics"] == numbers["metrics"]


def test_a_run_without_the_packages_that_draw_says_what_to_install(runner, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert runner("run", "--opts", "REPORT", "True", "TRAIN.EPOCHS", "1") == 0
    assert status(runner, "run") == "done"
    text = runner.text()
    assert "no report was written" in text
    assert 'pip install "swin-trainer[report]"' in text


def test_a_fault_of_the_page_does_not_end_a_run(runner, monkeypatch):
    def fail(folder):
        raise RuntimeError("a fault")

    monkeypatch.setattr(main, "report_folder", fail)
    assert runner("run", "--opts", "REPORT", "True", "TRAIN.EPOCHS", "1") == 0
    assert status(runner, "run") == "done"
    assert f"python -m tools.report {runner.run_dir('run')}. The reason: RuntimeError('a fault')" in runner.text()
