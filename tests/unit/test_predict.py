"""The command `python -m tools.predict`."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from swin.config import config_to_dict, load_config
from swin.create import build_model
from tools.predict import main

CLASSES = ["cat, black", 'the "dog"', "zebra"]
TINY = [
    *("DATA.IMG_SIZE", 16, "MODEL.SWIN.PATCH_SIZE", 2, "MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.WINDOW_SIZE", 4),
    *("MODEL.SWIN.DEPTHS", "[1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 2]"),
]


@pytest.fixture
def files(tmp_path):
    """A checkpoint that prefers class 1, then 0, and a folder of two images around a bad one."""
    cfg = load_config(opts=TINY)
    model = build_model(cfg, 3)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1.0, 2.0, 0.0])
    content = {"model": model.state_dict(), "ema": None, "config": config_to_dict(cfg), "classes": CLASSES}
    torch.save(content, tmp_path / "best.pth")
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("RGB", (20, 20), "red").save(images / name)
    return tmp_path


def predict(files, capsys, *flags, source="images"):
    status = main(["--checkpoint", str(files / "best.pth"), "--input", str(files / source), *flags])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_text(files, capsys):
    status, out, err = predict(files, capsys, "--top-k", "2")
    assert (status, err) == (0, "")
    percent = torch.tensor([1.0, 2.0, 0.0]).softmax(0) * 100
    line = f'a.png  the "dog" {percent[1]:.2f}%  cat, black {percent[0]:.2f}%'
    assert out.splitlines()[0] == f"{files / 'images'}/{line}"
    assert len(out.splitlines()) == 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("style", ["text", "json", "csv"])
def test_a_terminal_sees_how_far_it_is(files, capsys, monkeypatch, style):
    _, expected, err = predict(files, capsys, "--format", style)
    assert err == ""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert predict(files, capsys, "--format", style)[1] == expected
    assert "predicting" in terminal.getvalue()
    # Where the rows themselves go to the terminal as they come, they show it.
    terminal.truncate(0)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert predict(files, capsys, "--format", style)[1] == expected
    assert ("predicting" in terminal.getvalue()) == (style == "json")


def test_many_inputs_in_their_order(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "names.txt").write_bytes("\ufeffimages/c.png\n\n  images/absent.png \r\n".encode())
    given = ["images/c.png", "images/*.png", "--input", "images", "@names.txt"]
    assert main(["--checkpoint", "best.pth", "--format", "jsonl", "--input", *given]) == 2
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["file"][7:] for row in rows] == ["c.png", *["a.png", "c.png"] * 2, "c.png", "absent.png"]
    assert ["error" in row for row in rows] == [False] * 6 + [True]
    assert "1 of 7 files could not be read" in captured.err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"images/a.png\n")))
    assert main(["--checkpoint", "best.pth", "--input", "@-"]) == 0
    assert capsys.readouterr().out.startswith("images/a.png  the")


def test_an_image_on_standard_input(files, capsys, monkeypatch):
    content = (files / "images" / "a.png").read_bytes()
    for given, status in ((content, 0), (content[:20], 2)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
        assert main(["--checkpoint", str(files / "best.pth"), "--input", "-"]) == status
        assert capsys.readouterr().out.startswith('-  the "dog" ' if status == 0 else "-  error: ")


@pytest.mark.parametrize("style", ["text", "json", "jsonl", "csv"])
def test_a_file_holds_what_would_be_printed(files, capsys, style):
    expected = predict(files, capsys, "--format", style)[1]
    for flags in (["--format", style, "--output", f"{files}/out"], ["--output", f"{files}/out.{style}"]):
        assert predict(files, capsys, *flags) == (0, "", "")
        assert Path(flags[-1]).read_text() == expected
    status, out, err = predict(files, capsys, "--format", style, "--output", str(files / "absent" / "out"))
    assert (status, out) == (2, "")
    assert "absent/out cannot be written" in err


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_parquet_holds_the_rows_of_json(files, capsys, threshold):
    parquet = pytest.importorskip("pyarrow.parquet")
    if threshold:
        content = torch.load(files / "best.pth", weights_only=True)
        torch.save({**content, "multi_label": True, "threshold": threshold}, files / "best.pth")
    (files / "images" / "b.png").write_bytes(b"not an image")
    expected = json.loads(predict(files, capsys, "--format", "json")[1])
    assert predict(files, capsys, "--output", str(files / "out.parquet"))[0] == 2
    rows = parquet.read_table(files / "out.parquet").to_pylist()
    assert [{key: value for key, value in row.items() if value is not None} for row in rows] == expected
    assert predict(files, capsys, "--format", "parquet")[2] == (
        "error: --format parquet is written to a file only: add --output FILE.\n"
    )
    assert sorted(path.name for path in files.iterdir()) == ["best.pth", "images", "out.parquet"]


def test_flips_and_number_formats_change_the_scores_a_little(files, capsys):
    content = torch.load(files / "best.pth", weights_only=True)
    torch.manual_seed(0)
    torch.nn.init.normal_(content["model"]["head.weight"])
    torch.save(content, files / "best.pth")
    Image.linear_gradient("L").rotate(90).save(files / "images" / "a.png")
    Image.linear_gradient("L").rotate(-90).save(files / "images" / "c.png")

    def scores(*flags):
        rows = json.loads(predict(files, capsys, "--format", "json", "--top-k", "3", *flags)[1])
        return [[best["score"] for best in sorted(row["top_k"], key=lambda best: best["label"])] for row in rows]

    plain, flipped, cast = (torch.tensor(scores(*flags)) for flags in ((), ("--flip",), ("--dtype", "bf16")))
    assert (plain[0] - plain[1]).abs().max() > 0.01  # each is the mirror image of the other
    torch.testing.assert_close(flipped, plain.mean(dim=0).expand(2, 3), rtol=0, atol=1e-5)
    assert 0 < (cast - plain).abs().max() < 0.05


def test_quiet_says_errors_only(files, capsys, monkeypatch):
    run = files / "run" / "checkpoints"
    run.mkdir(parents=True)
    (files / "best.pth").rename(run / "last.pth")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    given = ["--checkpoint", str(files / "run"), "--input", str(files / "images"), "--output", str(files / "a.txt")]
    assert main([*given, "--quiet"]) == 0
    assert terminal.getvalue() == ""
    assert main(given) == 0
    assert "note: there is no best.pth" in terminal.getvalue()
    (files / "images" / "b.png").write_bytes(b"not an image")
    assert main([*given, "--quiet"]) == 2
    assert terminal.getvalue().endswith("error: 1 of 3 files could not be read; the output names them.\n")


def test_json_is_one_document_and_top_k_is_clipped(files, capsys):
    status, out, _ = predict(files, capsys, "--format", "json", "--top-k", "9", source="images/a.png")
    assert status == 0
    (row,) = json.loads(out)
    assert list(row) == ["file", "pred_label", "pred_class", "pred_score", "top_k"]
    assert row["file"] == str(files / "images" / "a.png")
    assert (row["pred_label"], row["pred_class"]) == (1, CLASSES[1])
    assert [best["label"] for best in row["top_k"]] == [1, 0, 2]
    assert sum(best["score"] for best in row["top_k"]) == pytest.approx(1)


def test_csv_is_quoted(files, capsys):
    _, out, _ = predict(files, capsys, "--format", "csv", "--top-k", "2")
    header, *lines = csv.reader(io.StringIO(out))
    assert header == ["file", "rank", "label", "class", "score", "error"]
    assert [line[1:4] for line in lines] == [["1", "1", CLASSES[1]], ["2", "0", CLASSES[0]]] * 2


@pytest.mark.parametrize("style", ["text", "json", "csv"])
@pytest.mark.parametrize("batch_size", ["1", "32"])
def test_a_bad_file_is_named_and_the_others_predicted(files, capsys, style, batch_size):
    (files / "images" / "b.png").write_bytes(b"not an image")
    status, out, err = predict(files, capsys, "--format", style, "--batch-size", batch_size, "--top-k", "1")
    assert status == 2
    assert "1 of 3 files could not be read" in err
    if style == "json":
        rows = json.loads(out)
        assert ["error" in row for row in rows] == [False, True, False]
        assert "b.png" in rows[1]["error"]
    elif style == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [bool(row["error"]) for row in rows] == [False, True, False]
    else:
        assert ["  error: " in line for line in out.splitlines()] == [False, True, False]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint", "absent.pth"], "absent.pth"),
        (["--input", "absent.png"], "--input absent.png does not exist"),
        (["--device", "tpu"], "'tpu' is not supported"),
        (["--input", "absent/*.png"], "absent/*.png matches no images"),
        (["--input", "@absent.txt"], "absent.txt: cannot be read"),
        (["--input", "@/dev/null"], "/dev/null"),
    ],
)
def test_errors_are_one_message(files, capsys, flags, words):
    status, out, err = predict(files, capsys, *flags)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert words in err


def test_usage_errors(files, capsys):
    with pytest.raises(SystemExit) as info:
        predict(files, capsys, "--top-k", "0")
    assert info.value.code == 2
    assert "invalid whole number of at least 1 value: '0'" in capsys.readouterr().err


def test_as_a_command_whose_reader_leaves(files):
    command = [sys.executable, "-m", "tools.predict", "--checkpoint", files / "best.pth", "--input", files / "images"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 0


def test_the_folder_of_a_cross_validation(files, capsys):
    for folder in ("", "fold-0", "fold-1"):
        (files / "cv" / folder).mkdir()
        (files / "cv" / folder / "config.yaml").write_text("SEED: 0\n")
    assert main(["--checkpoint", str(files / "cv"), "--input", str(files / "images" / "a.png")]) == 2
    assert (
        f"each of its 2 folds has weights of its own. Give one, as {files / 'cv' / 'fold-0'}."
        in capsys.readouterr().err
    )


def test_the_folder_of_a_run(files, capsys):
    """Its checkpoint is used, the last one with a note; it is no folder of images, though it holds a picture."""
    run = files / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("SEED: 0\n")
    Image.new("RGB", (20, 20)).save(run / "batch.png")
    image = str(files / "images" / "a.png")
    assert main(["--checkpoint", str(run), "--input", image]) == 2
    assert f"{run} is the folder of a run that has saved no weights" in capsys.readouterr().err
    (files / "best.pth").rename(run / "checkpoints" / "last.pth")
    assert main(["--checkpoint", str(run), "--input", image]) == 0
    captured = capsys.readouterr()
    assert 'the "dog"' in captured.out
    assert captured.err == f"note: there is no best.pth in {run / 'checkpoints'} yet, so that last.pth is used\n"
    assert main(["--checkpoint", str(run), "--input", str(run)]) == 2
    assert "is the folder of a run: give that as --checkpoint" in capsys.readouterr().err


@pytest.fixture
def label_files(files):
    """As `files`, of several labels an image: probabilities 0.73, 0.88 and 0.5, of which 0.6 are needed."""
    content = torch.load(files / "best.pth", weights_only=True)
    torch.save({**content, "multi_label": True, "threshold": 0.6}, files / "best.pth")
    return files


SIGMOIDS = torch.tensor([1.0, 2.0, 0.0]).sigmoid().tolist()


def test_labels_from_the_threshold_on_are_shown_as_text(label_files, capsys):
    status, out, err = predict(label_files, capsys, "--top-k", "1")
    assert (status, err) == (0, "")
    assert (
        out.splitlines()[0] == f'{label_files}/images/a.png  the "dog"|cat, black  the "dog" {100 * SIGMOIDS[1]:.2f}%'
    )


def test_no_label_is_a_result_too(label_files, capsys):
    content = torch.load(label_files / "best.pth", weights_only=True)
    torch.save({**content, "threshold": 0.9}, label_files / "best.pth")
    assert "a.png  (none)  the" in predict(label_files, capsys)[1]
    found = json.loads(predict(label_files, capsys, "--format", "json")[1])[0]
    assert (found["pred_labels"], found["pred_classes"], found["pred_label"]) == ([], [], 1)


def test_labels_from_the_threshold_on_are_in_json_and_csv(label_files, capsys):
    found = json.loads(predict(label_files, capsys, "--format", "json", "--top-k", "3")[1])[0]
    assert (found["pred_labels"], found["pred_classes"]) == ([1, 0], ['the "dog"', "cat, black"])
    assert (found["pred_label"], found["pred_class"]) == (1, 'the "dog"')
    assert [best["score"] for best in found["top_k"]] == pytest.approx(sorted(SIGMOIDS, reverse=True))
    for top_k, count in (("1", 2), ("3", 3)):  # all labels are listed, and so are as many classes as were asked for
        head, *rows = csv.reader(io.StringIO(predict(label_files, capsys, "--format", "csv", "--top-k", top_k)[1]))
        assert head == ["file", "rank", "label", "class", "score", "is_label", "error"]
        assert [row[1:4] + row[5:] for row in rows[:count]] == [
            ["1", "1", 'the "dog"', "1", ""],
            ["2", "0", "cat, black", "1", ""],
            ["3", "2", "zebra", "0", ""],
        ][:count]
        assert [float(row[4]) for row in rows[:2]] == pytest.approx([SIGMOIDS[1], SIGMOIDS[0]])
        assert len(rows) == 2 * count


@pytest.mark.parametrize("threshold", [None, "0.5", 1.5, float("nan")])
def test_a_damaged_threshold_is_an_error(label_files, capsys, threshold):
    content = torch.load(label_files / "best.pth", weights_only=True)
    torch.save({**content, "threshold": threshold}, label_files / "best.pth")
    status, _, err = predict(label_files, capsys)
    assert status == 2
    assert "its threshold of several labels an image" in err
