"""The data check finds what is wrong, and the picture of a batch shows what is fed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tools import check_dataset, show_batch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    noise = np.random.RandomState(0)
    for half in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / half / name).mkdir(parents=True)
            for number in range(3):
                pixels = noise.randint(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / half / name / f"{number}.png")
    return tmp_path


def run(root: Path, *more: str) -> tuple[int, dict[str, dict[str, object]], dict[str, object]]:
    report = root.parent / f"{root.name}.json"
    status = check_dataset.main(["--data-path", str(root), "--json", str(report), "--workers", "1", *more])
    content = json.loads(report.read_text())
    return status, {finding["kind"]: finding for finding in content["findings"]}, content["summary"]


def test_a_sound_set_has_nothing_to_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, findings, summary = run(root)
    assert (status, findings) == (0, {})
    assert summary["train"]["class_counts"] == {"ant": 3, "bee": 3}
    assert "train: 6 images, 3 to 3 a class, median 50 x 40" in capsys.readouterr().out


def test_classes_are_named_with_their_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "val" / "bee" / "0.png").unlink()
    run(root)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:6] == ["classes with their images in train / val:", "    ant: 3 / 3", "    bee: 3 / 2"]


def test_of_many_classes_the_largest_and_the_smallest_are_named() -> None:
    percentiles = {0: 1.0, 50: 1.0, 100: 1.0}
    counts = {f"n{number:02d}": number + 1 for number in range(21)}
    split = {"images": 5, "class_counts": counts, "width_percentiles": percentiles, "height_percentiles": percentiles}
    lines = check_dataset.as_text([], {"classes": 21, "val": split}).splitlines()
    assert lines[2] == "the 10 largest and the 10 smallest classes, with their images in val:"
    assert lines[3:23] == [f"    n{n:02d}: {n + 1}" for n in range(20, -1, -1) if n != 10]


def test_every_kind_of_trouble_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = root / "train", root / "val"
    (train / "ant" / "bad.jpg").write_bytes(b"not an image")
    shutil.copy(train / "ant" / "0.png", train / "ant" / "again.png")
    shutil.copy(train / "ant" / "1.png", train / "bee" / "torn.png")
    shutil.copy(train / "bee" / "2.png", val / "bee" / "leak.png")
    Image.new("CMYK", (40, 40)).save(val / "ant" / "cmyk.jpg")
    Image.new("RGB", (9, 40)).save(val / "ant" / "tiny.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(val / "bee" / "turned.jpg", exif=exif)
    page = root / "page.html"
    status, findings, _ = run(root, "--html", str(page))
    assert status == 1
    expected = {
        "unreadable": (True, ["bad.jpg"]),
        "contradicting": (True, ["1.png", "torn.png"]),
        "in train and val": (True, ["leak.png"]),
        "duplicates": (False, ["0.png", "again.png"]),
        "odd modes": (False, ["cmyk.jpg"]),
        "tiny": (False, ["tiny.png"]),
        "rotated": (False, ["turned.jpg"]),
    }
    found = {
        kind: (finding["is_error"], sorted(Path(name).name for name in finding["images"]))
        for kind, finding in findings.items()
    }
    assert found == expected
    assert (
        list(found)[3:] == ["duplicates", "odd modes", "tiny", "rotated"]
        or [f[0] for f in found.values()][:3] == [True] * 3
    )
    assert "ERROR: 1 unreadable" in capsys.readouterr().out
    text = page.read_text()
    assert text.count("<img") == 8
    assert "(cannot be shown)" in text


def test_a_set_that_cannot_be_opened_is_a_finding(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "val" / "cow").mkdir()
    Image.new("RGB", (40, 40)).save(root / "val" / "cow" / "1.png")
    status, findings, _ = run(root)
    assert status == 1
    assert "class 'cow' is unknown" in findings["layout"]["message"]
    assert check_dataset.main(["--opts", "DATA.IMG_SIZE", "-3"]) == 2


def test_a_batch_is_drawn_with_its_labels(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "batch.png"
    arguments = ["--data-path", str(root), "--output", str(file), "--count", "6", "--opts", "DATA.IMG_SIZE", "64"]
    assert show_batch.main(arguments) == 0
    with Image.open(file) as sheet:
        assert sheet.size == (4 * 224, 2 * 252)
    assert show_batch.main(["--data-path", "/nowhere"]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_drawn_image_is_the_image() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[0, 0] = 1.0
    sheet = show_batch.draw_batch(images, torch.tensor([[0.25, 0.75]]), ["ant", "bee"])
    assert sheet.size == (224, 252)
    assert sheet.getpixel((100, 100)) == (255, 0, 0)
    assert min(sheet.crop((0, 225, 224, 252)).convert("L").tobytes()) < 100  # text


def test_all_labels_of_a_drawn_image_are_named_as_far_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, place, text, **__: lines.append(text))
    classes = ["ant", "bee", "cat", "d" * 60, "eel"]
    targets = torch.tensor([[1, 0, 1, 0, 1], [0, 0.7, 0, 0.3, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    show_batch.draw_batch(torch.zeros(4, 3, 8, 8), targets, classes)
    assert lines[:3] == ["100% ant, 100% cat, 100% eel", "70% bee", f"30% {'d' * 32}"]
    assert lines[3:5] == ["100% ant, 100% bee, 100% cat, 100%", f"{'d' * 13}, 100% eel"]
    assert len(lines) == 5
    show_batch.draw_batch(torch.zeros(1, 3, 8, 8), torch.ones(1, 26), [3 * chr(97 + index) for index in range(26)])
    assert lines[5:] == ["100% aaa, 100% bbb, 100% ccc, 100%", "ddd, 100% eee, 100% fff, 100% ..."]
    assert max(map(len, lines)) <= 36
