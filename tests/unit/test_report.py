"""The page about a run, the statistics of several, and the commands that write them."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.build import open_sets
from swin.config import load_config
from swin.config.tree import dump_config
from swin.errors import ConfigError, DataError
from swin.evaluation.files import write_evaluation
from swin.evaluation.metrics import measure
from swin.evaluation.predictions import Predictions
from tools import compare as compare_tool
from tools.report import __main__ as report_tool
from tools.report import report_folder, write_report
from tools.report.compare import pair, recall_differences, summarise
from tools.report.figures import _order_by_confusion
from tools.report.sources import config_changes, name_folders, open_folder, open_images
from tools.report.style import Names, shorten

ODD = ["<script>alert(1)</script>", "图像分类的一个很长的中文类别名称", "a" * 60 + "b" * 60, "$x^2$ & $y", "𓀀", "עברית"]


def make_predictions(classes: list[str], count: int = 200, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(classes), count)
    logits = random.normal(size=(count, len(classes))).astype(np.float32)
    logits[np.arange(count), labels] += 2
    names = [f"val/{index:04}.png" for index in range(count)]
    return Predictions.of(logits, labels, names=names, classes=classes, about={"checkpoint": "best.pth", "epoch": 1})


def random_image(index: int) -> torch.Tensor:
    if index % 4 == 0:
        raise DataError(f"{index}: is <b>damaged</b>.")
    shape = (1, 8, 8) if index % 2 else (5, 150, 200)
    return torch.from_numpy(np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8))


def make_run(folder: Path, scale: float = 1.0) -> Path:
    """The files of a run on the digits, whose predictions come from nowhere."""
    folder.mkdir(parents=True)
    rows = []
    for epoch in range(3):
        at = {"epoch": epoch, "step": 10 * epoch + 10, "samples": 1437 * (epoch + 1)}
        speed = {"images_per_sec": 100.0 * scale + epoch, "data_wait": 0.1}
        rows.append({"kind": "train", **at, "loss": 2.0 - epoch, "lr": 1e-3, "grad_norm": None, **speed})
        rows.append({"kind": "eval", **at, "acc1": [40, 60, 50][epoch] * scale, "acc5": 90.0, "loss": 1.0, "k": 5})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "tra')
    config = load_config("swin_digits", ["MODEL.NUM_CLASSES", 10, "TRAIN.EPOCHS", 7])
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.x", "command": "main.py --cfg '<x>'"}))
    val = open_sets(config).val
    random = np.random.default_rng(round(scale * 100))
    logits = random.normal(size=(len(val.labels), 10)).astype(np.float32)
    logits[np.arange(len(val.labels)), val.labels] += 2 * scale
    names = [val.name(index) for index in range(len(val.labels))]
    Predictions.of(logits, val.labels, names=names, classes=list("0123456789")).save(folder / "predictions.npz")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "one", 1.0), make_run(root / "two", 0.9)]


class Page(HTMLParser):
    """The text of a page, the cells of its tables by id, and all addresses in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tables, self.addresses, self.scripts = "", {}, [], 0
        self._table = None
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.addresses += [found[key] for key in ("src", "href", "srcset", "data", "action") if key in found]
        self.scripts += tag == "script"
        if tag == "table":
            self._table = self.tables.setdefault(found.get("id"), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        self.text += data
        if self._table and self._table[-1]:
            self._table[-1][-1] += data.strip()


@pytest.mark.parametrize("classes", [["cat", "dog", "owl"], ["cat", "dog", "owl", "ant", "bee", "elk", "yak"]])
def test_the_numbers_of_the_page_are_those_of_the_metrics(tmp_path, classes):
    predictions = make_predictions(classes)
    metrics = measure(predictions)
    page = Page(write_report(predictions, metrics, tmp_path / "report", page=tmp_path / "report.html"))
    flat = "".join(page.text.split())
    low, high = metrics["intervals"]["acc1"]
    assert f"top-1accuracy{metrics['acc1']:.2f}%95%:{low:.2f}to{high:.2f}%" in flat.replace(" accuracy ", " accuracy")
    assert ("top-5accuracy" in flat) == (len(classes) > 5)  # of fewer classes it would always be all
    assert "top-3" not in flat
    for key in ("balanced_accuracy", "macro_f1", "ece", "loss"):
        assert f"{metrics[key]:.4f}" in flat
    assert f"{metrics['temperature']:.3f}" in flat
    _, *rows = page.tables["per-class"]
    for label, ((name, figures), row) in enumerate(zip(metrics["per_class"].items(), rows, strict=True)):
        counts = [str(label), name, str(figures["support"]), str(figures["predicted"])]
        assert row == [*counts, *(f"{figures[key]:.4f}" for key in ("precision", "recall", "f1"))]
    _, *confused = page.tables["confused"]
    assert [row[2] for row in confused] == [str(row["count"]) for row in metrics["confused"]]
    numbers = json.loads((tmp_path / "report/report.json").read_text())
    assert numbers["metrics"] == json.loads(json.dumps(metrics))
    assert {path.name for path in (tmp_path / "report").glob("*.png")} == {
        f"{name}-{theme}.png" for name in ("confusion", "reliability", "counts") for theme in ("light", "dark")
    }


def test_the_worst_mistakes_come_first(tmp_path):
    predictions = make_predictions(["a", "b", "c"])
    shown = []

    def cam(images, labels):
        shown.append((len(images), list(labels)))
        return [Image.new("RGB", (8, 8))] * len(images)

    page = tmp_path / "page.html"
    write_report(predictions, None, tmp_path / "more", page=page, images=random_image, cam=cam)
    numbers = json.loads((tmp_path / "more/report.json").read_text())
    wrong = np.flatnonzero(predictions.preds != predictions.labels)
    worst = sorted(wrong, key=lambda row: -predictions.losses[row])[:24]
    assert [found["file"] for found in numbers["mistakes"]] == [predictions.names[row] for row in worst]
    right = np.flatnonzero(predictions.preds == predictions.labels)
    unsure = sorted(right, key=lambda row: predictions.scores[row])[:12]
    assert [found["file"] for found in numbers["unsure"]] == [predictions.names[row] for row in unsure]
    readable = [row for row in worst[:12] if row % 4]
    assert shown == [(len(readable), [predictions.preds[row] for row in readable])]
    assert "is &lt;b&gt;damaged&lt;/b&gt;." in page.read_text()


@pytest.mark.parametrize("count", [2, 200, 1001])
def test_any_number_of_classes(count, tmp_path):
    classes = [f"class {label}" for label in range(count)]
    page = Page(write_report(make_predictions(classes, 300), None, tmp_path / "r", page=tmp_path / "r.html"))
    assert len(page.tables["per-class"]) == count + 1
    assert (tmp_path / "r/confusion-dark.png").exists() == (count <= 1000)
    assert ("a matrix would not be readable" in page.text) == (count > 1000)


@pytest.fixture(scope="module")
def odd(tmp_path_factory, runs) -> tuple[Path, list[str]]:
    """A page about classes and files with odd names, and the names."""
    folder = tmp_path_factory.mktemp("odd")
    names = [*ODD, 'x" onclick="alert(1)', "http://example.org/", *(f"class {label}" for label in range(8, 24))]
    table = make_predictions(names)
    files = [f"val/{index}\udcff<img src=x>.png" for index in range(len(table.labels))]
    table = Predictions.of(table.logits, table.labels, names=files, classes=names)
    page = write_report(table, None, folder / "r", page=folder / "r.html", run=runs[0], images=random_image)
    return page, names


def test_names_are_text_and_nothing_comes_from_elsewhere(odd):
    page, names = Page(odd[0]), odd[1]
    assert page.scripts == 1
    assert "<script>alert" not in page.html
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"url\(|@import", page.html)
    assert [row[1] for row in page.tables["per-class"][1:]] == names


def test_what_is_missing_is_left_out_with_a_reason(tmp_path, runs):
    (tmp_path / "empty").mkdir()
    page = Page(write_report(None, None, tmp_path / "r", page=tmp_path / "r.html", run=tmp_path / "empty"))
    for name in ("metrics.jsonl", "config.yaml", "environment.json", "batch.png", "data.json"):
        assert f"The run's folder has no {name}" in page.text
    assert "There are no predictions" in page.text
    assert not list((tmp_path / "r").glob("*.png"))

    (tmp_path / "empty/config.yaml").write_text("a: [")
    (tmp_path / "empty/environment.json").write_text("{")
    (tmp_path / "empty/metrics.jsonl").write_text("")
    page = Page(write_report(None, None, tmp_path / "r", page=tmp_path / "r.html", run=tmp_path / "empty"))
    assert "config.yaml is damaged" in page.text
    assert "environment.json is damaged" in page.text


def test_the_command_writes_the_page_of_a_run_with_all_its_files(tmp_path, runs, capsys):
    run = shutil.copytree(runs[0], tmp_path / "run")
    Image.new("RGB", (30, 30)).save(run / "batch.png")
    counts = {str(digit): 140 + digit for digit in range(10)}
    (run / "data.json").write_text(json.dumps({"train": counts, "val": {}}))
    assert report_tool.main([str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    page = Page(run / "report.html")
    assert "There are no pictures" not in page.text
    assert sum(address.startswith("data:image/png") for address in page.addresses) > 24
    assert "The run's folder has no" not in page.text
    numbers = json.loads((run / "report/report.json").read_text())
    assert numbers["class_counts"] == {"train": counts}
    changed = {change["key"]: change for group in numbers["config_changes"].values() for change in group}
    assert changed["TRAIN.EPOCHS"] == {"key": "TRAIN.EPOCHS", "value": 7, "before": 300}
    assert "MODEL.SWIN.MLP_RATIO" not in changed
    assert (run / "report/curves-light.png").exists()


def test_config_changes_of_the_defaults_are_none():
    assert config_changes(dump_config(load_config()), {}) == {}
    with pytest.raises(DataError, match="no keys"):
        config_changes("- a", {})


def test_config_changes_are_grouped_by_what_each_file_and_option_replaced(tmp_path):
    (tmp_path / "base.yaml").write_text("TRAIN: {EPOCHS: 30, BASE_LR: 0.001}\n")
    (tmp_path / "mine.yaml").write_text("BASE: base.yaml\nTRAIN: {EPOCHS: 40}\n")
    config = load_config(tmp_path / "mine.yaml", ["TRAIN.BASE_LR", "0.002", "SEED", "0"])
    layers = {key: layer._asdict() for key, layer in config.layers.items()}
    groups = config_changes(dump_config(config), layers)
    assert groups == {
        str(tmp_path / "mine.yaml"): [{"key": "TRAIN.EPOCHS", "value": 40, "before": 30}],
        "--opts": [{"key": "TRAIN.BASE_LR", "value": 0.002, "before": 0.001}],  # the seed is what it would be
    }


def test_a_report_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "swin-trainer[report]"')):
        write_report(make_predictions(["a", "b"]), None, tmp_path / "r", page=tmp_path / "r.html")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("cat", "cat"),
        ("a" * 18, "a" * 18),
        ("a" * 10 + "b" * 10, "aaaaaaaaa…bbbbbbbb"),
        ("图" * 10, "图图图图…图图图图"),
    ],
)
def test_long_names_lose_their_middle(text, short):
    assert shorten(text) == short


def test_names_without_a_font_become_numbers():
    names = Names.of(["cat", "\U000e0041"])
    assert (names.short, names.replaced) == (["cat", "#1"], [1])


def test_classes_that_are_confused_lie_side_by_side():
    matrix = np.diag([20] * 6)
    for one, other in ((0, 3), (1, 4), (2, 5)):
        matrix[one, other] = 10
    order = _order_by_confusion(matrix).tolist()
    assert all(abs(order.index(one) - order.index(one + 3)) == 1 for one in range(3))


def outcomes(hits: str, start: int = 0, label: str = "a") -> Predictions:
    """Predictions of images `start`, `start` + 1, ...; "1" is a hit."""
    logits = np.array([[1.0, 0.0] if hit == "1" else [0.0, 1.0] for hit in hits])
    names = [f"{start + index}" for index in range(len(hits))]
    return Predictions.of(logits, np.zeros(len(hits), dtype=np.int64), names=names, classes=[label, "other"])


def test_pairs_by_hand():
    found = pair(outcomes("1111110000"), outcomes("1111001000"))
    assert [found[key] for key in ("both_right", "first_right", "other_right", "both_wrong")] == [4, 2, 1, 3]
    assert found["p_value"] == pytest.approx(1.0)  # 2 of 3 or worse, two-sided: 2 x (3 + 1) / 8
    assert (found["acc1_first"], found["acc1_other"], found["difference"]) == (60, 50, -10)
    # 6 of 6: 2 / 2**6
    assert pair(outcomes("111111"), outcomes("000000"))["p_value"] == pytest.approx(2 / 64)
    assert pair(outcomes("1100"), outcomes("1100"))["p_value"] == 1


def test_only_what_is_shared_is_paired():
    found = pair(outcomes("1111"), outcomes("0011", start=2))
    assert (found["shared"], found["only_first"], found["only_other"]) == (2, 2, 2)
    assert (found["acc1_first"], found["acc1_other"]) == (100, 0)
    found = pair(outcomes("1110"), outcomes("1000", start=4))
    assert (found["shared"], "unpaired" in found["test"], found["difference"]) == (0, True, -50)
    assert found["p_value"] == pytest.approx(34 / 70)  # C(4,3) C(4,1) + C(4,4) of 70, on both sides
    assert pair(outcomes("1"), outcomes("1", label="b"))["shared"] == 0


def test_recalls_are_compared_by_class():
    def metrics(**recalls):
        return {"per_class": {name: {"recall": recall, "support": 3} for name, recall in recalls.items()}}

    rows = recall_differences([metrics(a=0.5, b=1.0, c=None), metrics(a=0.75, b=0.5, d=1.0)])
    assert [(row["class"], row["change"]) for row in rows] == [
        ("b", [-0.5]),
        ("a", [0.25]),
        ("c", [None]),
        ("d", [None]),
    ]


def test_a_run_without_predictions_is_its_best_evaluation():
    rows = [{"kind": "eval", "epoch": epoch, "acc1": acc1} for epoch, acc1 in enumerate((1.0, 3.0, 3.0, None))]
    rows += [{"kind": "train", "epoch": 0, "images_per_sec": speed} for speed in (1, 5, 100)]
    found = summarise("x", None, rows)
    assert (found["acc1"], found["best_epoch"], found["images_per_sec"], found["intervals"]) == (3.0, 1, 5, {})


def test_folders_are_named_as_short_as_can_be(tmp_path):
    assert name_folders([tmp_path / "a/x", tmp_path / "a/y"]) == ["x", "y"]
    assert name_folders([tmp_path / "a/x", tmp_path / "b/x"]) == ["a/x", "b/x"]
    assert len(set(name_folders([tmp_path, tmp_path]))) == 2


def test_an_evaluation_of_a_part_is_shown_with_the_run_it_is_of(tmp_path, runs):
    table = Predictions.load(runs[0] / "predictions.npz")
    about = {"checkpoint": str(runs[0] / "checkpoints/best.pth"), "split": "val"}
    folder = tmp_path / "evaluation"
    write_evaluation(table.take(np.arange(100, 200)).described(**about), folder, {"mean_average_precision": 0.1234})
    page = Page(report_folder(folder))
    assert "There are no pictures of single images: config.yaml" in page.text
    assert (folder / "report/curves-light.png").exists()
    assert "0.1234" in page.text

    shutil.copy(runs[0] / "config.yaml", folder)
    opened = open_folder(folder)
    expected = open_sets(opened.config).val.read(100)
    shown = open_images(opened)(0)
    assert shown.shape == (1, 32, 32)
    assert abs(shown.float().mean() - expected.mean()) < 3


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", '{"kind": "eval", "samples": "x", "epoch": null}', "holds no rows"),
        ("data.json", '{"train": 5}', "data.json is damaged"),
        ("data.json", '{"train": {"0": null}}', "data.json is damaged"),
        ("config.yaml", "[" * 3000, "config.yaml is damaged"),
    ],
)
def test_damage_of_what_describes_a_run_is_told(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    page = Page(write_report(None, None, tmp_path / "r", page=tmp_path / "r.html", run=tmp_path))
    assert words in page.text


@pytest.mark.parametrize("content", ["[1]", "{}", '{"per_class": {"a": {}}, "seen": 1}'])
def test_metrics_of_something_else_are_refused(tmp_path, runs, content, capsys):
    run = shutil.copytree(runs[0], tmp_path / "run")
    (run / "metrics.json").write_text(content)
    assert report_tool.main([str(run)]) == 2
    assert "metrics.json is not about the predictions.npz" in capsys.readouterr().err


def test_a_closed_pipe_ends_the_table(runs):
    command = [sys.executable, "-m", "tools.compare", *map(str, runs), "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before it prints
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert report_tool.main([str(tmp_path)]) == 2
    assert "neither predictions.npz nor metrics.jsonl" in capsys.readouterr().err
    assert report_tool.main([str(tmp_path), "--output", "page.txt"]) == 2
    (tmp_path / "predictions.npz").write_bytes(b"no archive")
    assert report_tool.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_runs_side_by_side(tmp_path, runs, capsys):
    page = tmp_path / "both.html"
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(runs[0] / "metrics.jsonl", bare)
    assert report_tool.main([*map(str, [*runs, bare]), "--output", str(page)]) == 0
    found = Page(page)
    assert "bare: one of the two has no predictions.npz" in found.text
    tables = [measure(Predictions.load(run / "predictions.npz")) for run in runs]
    shown = [row[1] for row in found.tables["runs-table"][1:]]
    for figure, table in zip(shown, tables, strict=False):
        assert figure.startswith(f"{table['acc1']:.2f}{table['intervals']['acc1'][0]:.2f} to")
    assert shown[2] == "60.00"
    assert len(found.tables["recalls"]) == 11
    assert "McNemar" in found.text
    assert (tmp_path / "both/curves-dark.png").exists()
    capsys.readouterr()

    assert compare_tool.main([*map(str, runs), "--format", "json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert [run["best_epoch"] for run in compared["runs"]] == [1, 1]
    assert compared["runs"][0]["parameters"] > 10_000
    assert compared["pairs"][0]["shared"] == 360
    assert compare_tool.main([*map(str, runs), "--format", "csv", "--output", str(page)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["acc1"]) for row in rows] == [table["acc1"] for table in tables]
    assert (rows[0]["p_value"], float(rows[1]["p_value"])) == ("", compared["pairs"][0]["p_value"])
    assert compare_tool.main(list(map(str, runs))) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("one")
    assert compare_tool.main([str(runs[0]), str(tmp_path / "none")]) == 2


def test_in_a_browser(odd):
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    page = odd[0]
    problems, requests = [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(page.as_uri())
        recalls = "[...document.querySelectorAll('#per-class tbody td:nth-child(6)')].map(cell => +cell.dataset.value)"
        button = tab.locator("#per-class th:nth-child(6) button")
        button.click()
        ascending = tab.evaluate(recalls)
        button.press("Enter")
        descending, state = tab.evaluate(recalls), tab.locator("#per-class th:nth-child(6)").get_attribute("aria-sort")
        tab.locator("#per-class th:nth-child(2) button").click()
        last = tab.locator("#per-class tbody tr:last-child td:nth-child(2)").inner_text()
        is_narrow = tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert problems == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert ascending == sorted(ascending)
    assert descending == sorted(descending, reverse=True)
    assert ascending != descending
    assert (state, is_narrow) == ("descending", True)
    assert last in ("עברית", "图像分类的一个很长的中文类别名称", "𓀀")
