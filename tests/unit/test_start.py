"""tools.start writes a config that trains, or asks what it cannot know, whatever the folder looks like."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import main as trainer
from swin import create_model
from swin.config import flatten, load_config
from swin.config.keys import KEYS
from tools.start import choose, measure
from tools.start.__main__ import main
from tools.start.look import Facts
from tools.start.rules import DERIVED, FACTS, PARTS, RULES, SIZES, as_markdown, settle

ROOT = Path(__file__).resolve().parents[2]
COLOURS = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(measure, "TRAIN_SEC", 0.1)
    monkeypatch.setattr(measure, "EVAL_SEC", 0.1)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def fill(folder: Path, count: int, size: tuple[int, int] = (40, 30), mode: str = "RGB", suffix: str = "png") -> None:
    """Put images of one colour each, with some noise, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = COLOURS.integers(0, 256, 3) + COLOURS.integers(-20, 20, (8, 8, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size).convert(mode)
        image.save(folder / f"{number:03}.{suffix}")


def parts(root: Path) -> None:
    for name in ("ant", "bee", "cow"):
        fill(root / "train" / name, 6)
        fill(root / "val" / name, 3)


def undivided(root: Path) -> None:
    fill(root / "ant", 10)
    fill(root / "bee", 10)


def one_image_class(root: Path) -> None:
    undivided(root)
    fill(root / "cow", 1)


def unreadable(root: Path) -> None:
    parts(root)
    (root / "train" / "ant" / "bad.jpg").write_bytes(b"no image")


def tiny(root: Path) -> None:
    for name in ("0", "1", "2"):
        fill(root / name, 10, (8, 8), "L")


def huge(root: Path) -> None:
    fill(root / "ant", 4, (2400, 1800), suffix="jpg")
    fill(root / "bee", 4, (1800, 2400), suffix="jpg")


def grey(root: Path) -> None:
    fill(root / "ant", 10, mode="L", suffix="jpg")
    fill(root / "bee", 10, mode="L", suffix="jpg")


def thousand_classes(root: Path) -> None:
    for number in range(1000):
        fill(root / f"class{number}", 2, (9, 9))


def imbalanced(root: Path) -> None:
    fill(root / "ant", 60)
    fill(root / "bee", 4)


def tables(root: Path) -> None:
    fill(root / "images", 12)
    for part, numbers in (("train", range(8)), ("val", range(8, 12))):
        lines = [f"images/{number:03}.png,{('ant', 'bee')[number % 2]}\n" for number in numbers]
        (root / f"{part}.csv").write_text("path,label\n" + "".join(lines))


def several_labels(root: Path) -> None:
    fill(root / "images", 12)
    labels = ("ant", "ant|bee", "", "bee")
    for part, numbers in (("train", range(8)), ("val", range(8, 12))):
        lines = [f"images/{number:03}.png,{labels[number % 4]}\n" for number in numbers]
        (root / f"{part}.csv").write_text("path,label\n" + "".join(lines))


def only_grey_unequal_signs(root: Path) -> None:
    fill(root / "train" / "left arrow", 24, (20, 30), "L")
    fill(root / "train" / "right arrow", 2, (20, 30), "L")
    fill(root / "val" / "left arrow", 3, (20, 30), "L")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (parts, {"DATA.VAL_SPLIT": None, "DATA.ON_ERROR": None}),
        (undivided, {"DATA.VAL_SPLIT": 0.2, "DATA.SAMPLER": None}),
        (one_image_class, {"DATA.VAL_SPLIT": 0.2, "DATA.SAMPLER": None}),
        (unreadable, {"DATA.ON_ERROR": "skip"}),
        (tiny, {"DATA.IMG_SIZE": 32, "MODEL.SWIN.IN_CHANS": 1, "AUG.HFLIP": 0.0, "DATA.NUM_WORKERS": 0}),
        (huge, {"MODEL.SWIN.IN_CHANS": None, "AUG.HFLIP": 0.5}),
        (grey, {"MODEL.SWIN.IN_CHANS": 1, "DATA.MEAN": [0.449]}),
        (thousand_classes, {"DATA.VAL_SPLIT": 0.2}),
        (imbalanced, {"DATA.SAMPLER": "balanced"}),
        (tables, {"DATA.VAL_SPLIT": None}),
        (only_grey_unequal_signs, {"DATA.SAMPLER": "balanced", "AUG.HFLIP": 0.0, "MODEL.SWIN.IN_CHANS": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_awkward_folder_gives_a_config_that_trains(
    make: Callable[[Path], None], expected: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "photos")
    assert main(["--data-path", "photos", "--minutes", "0.05", "--device", "cpu"]) == 0
    given = flatten(yaml.safe_load(Path("photos.yaml").read_text()))
    assert {key: given.get(key) for key in expected} == expected
    assert trainer.main(["--cfg", "photos.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "dry run: one update" in out
    assert "python main.py --cfg photos.yaml" in out


def nothing(root: Path) -> None:
    root.mkdir()


def absent(root: Path) -> None:
    pass


def one_class(root: Path) -> None:
    fill(root / "ant", 8)


def flat(root: Path) -> None:
    fill(root, 8)


def flat_with_classes(root: Path) -> None:
    fill(root, 8)
    for number, image in enumerate(sorted(root.iterdir())):
        image.rename(root / f"{('ant', 'bee')[number % 2]}_{number:03}.png")


def nested(root: Path) -> None:
    parts(root / "photos_v2")


def masks(root: Path) -> None:
    fill(root / "images", 8)
    fill(root / "masks", 8, mode="L")


def masks_beside(root: Path) -> None:
    undivided(root)
    for image in [*root.rglob("*.png")]:
        image.with_name(f"{image.stem}_mask.png").write_bytes(image.read_bytes())


def unknown_val_class(root: Path) -> None:
    parts(root)
    fill(root / "val" / "dog", 2)


def number_without_images(root: Path) -> None:
    fill(root / "images", 6)
    (root / "train.csv").write_text("images/000.png,0\nimages/001.png,1\nimages/002.png,3\n")
    (root / "val.csv").write_text("images/003.png,0\nimages/004.png,2\n")


def unreadable_val(root: Path) -> None:
    parts(root)
    (root / "val" / "bee" / "bad.jpg").write_bytes(b"no image")


def parts_of_other_names(root: Path) -> None:
    parts(root)
    (root / "train").rename(root / "tr")
    (root / "val").rename(root / "va")


def one_known_part(root: Path) -> None:
    parts(root)
    (root / "train").rename(root / "tr")
    (root / "val").rename(root / "DEV")


def test_only(root: Path) -> None:
    for name in ("ant", "bee"):
        fill(root / "test" / name, 4)


test_only.__test__ = False  # type: ignore[attr-defined]


def one_image_each(root: Path) -> None:
    fill(root / "ant", 1)
    fill(root / "bee", 1)


def unfinished(root: Path) -> None:
    parts(root)
    (root / "train" / "empty").mkdir()


@pytest.mark.parametrize(
    ("make", "question"),
    [
        (nothing, "found 0 folders"),
        (absent, "does not exist"),
        (one_class, "has one class only, 'ant'"),
        (flat, "found 8 images and no class folders, and no classes in the names"),
        (flat_with_classes, "add --opts DATA.CLASS_PATTERN"),
        (nested, "Give that: --data-path photos/photos_v2"),
        (masks, "masks and images hold files of the same names"),
        (masks_beside, "files are masks by their names"),
        (unknown_val_class, "class 'dog' is unknown"),
        (number_without_images, "no image has label 2"),
        (unreadable_val, "1 validation or test images cannot be read"),
        (parts_of_other_names, "--opts DATA.SPLITS '{train: tr, val: va}'"),
        (one_known_part, "--opts DATA.SPLITS '{train: tr, val: DEV}'"),
        (test_only, "has a test part only"),
        (one_image_each, "no class has the two images it takes"),
        (unfinished, "hold no images: empty"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_it_cannot_know_is_one_line_and_no_file(
    make: Callable[[Path], None], question: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "photos")
    assert main(["--data-path", "photos", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert question in error
    assert not Path("photos.yaml").exists()


def test_photos_and_masks_as_classes_of_their_own_are_no_question(tmp_path: Path) -> None:
    """Faces with and without a mask, numbered alike in both folders."""
    fill(tmp_path / "faces" / "mask", 8)
    fill(tmp_path / "faces" / "no_mask", 8)
    assert main(["--data-path", "faces", "--minutes", "0.05", "--device", "cpu"]) == 0


def test_a_config_is_replaced_by_force_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undivided(tmp_path / "photos")
    Path("mine.yaml").write_text("mine")
    command = ["--data-path", "photos", "--output", "mine.yaml", "--minutes", "0.05", "--device", "cpu"]
    assert main(command) == 2
    assert "mine.yaml is there already" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "mine"
    assert main([*command[:2], "--output", "gone/mine.yaml", "--device", "cpu"]) == 2
    assert "gone is no folder that can be written to" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert load_config("mine.yaml").MODEL.NAME == "mine"


def test_weights_decide_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts(tmp_path / "photos")
    small = {"embed_dim": 8, "depths": (1, 2), "num_heads": (1, 2), "window_size": 4, "img_size": 32, "num_classes": 3}
    model = create_model("swin_tiny", **small)
    torch.save({"model": model.state_dict(), "classes": ["bee", "cow", "elk"]}, "weights.pth")
    command = ["--data-path", "photos", "--weights", "weights.pth", "--minutes", "0.05", "--device", "cpu"]
    assert main(command) == 0
    cfg = load_config("photos.yaml")
    swin = cfg.MODEL.SWIN
    assert (swin.EMBED_DIM, list(swin.DEPTHS), list(swin.NUM_HEADS), swin.WINDOW_SIZE) == (8, [1, 2], [1, 2], 4)
    assert (cfg.DATA.IMG_SIZE, cfg.TRAIN.LAYER_DECAY, cfg.MODEL.PRETRAINED) == (32, 0.8, "weights.pth")
    assert "the 2 classes that they know" in capsys.readouterr().out
    assert trainer.main(["--cfg", "photos.yaml", "--dry-run"]) == 0
    assert "2 of 3 rows mapped by class name" in capsys.readouterr().out

    torch.save({"model": {"fc.weight": torch.zeros(3, 3)}}, "other.pth")
    command[3] = "other.pth"
    assert main([*command, "--force"]) == 2
    assert "no weights of a Swin Transformer" in capsys.readouterr().err


def test_weights_that_have_seen_little_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts(tmp_path / "photos")
    model = create_model("swin_tiny", embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=4, num_classes=3)
    needed = sum(parameter.numel() for parameter in model.parameters()) // 100
    run = {"model": model.state_dict(), "epoch": 0, "num_samples": needed - 1, "position": 0}
    command = ["--data-path", "photos", "--weights", "run.pth", "--minutes", "0.05", "--device", "cpu", "--force"]
    used = {}
    for seen, before in ((needed - 1, ""), (needed, ""), (needed - 1, "swin_tiny.pth")):
        config = {"MODEL": {"PRETRAINED": before, "SWIN": {"EMBED_DIM": 8, "DEPTHS": [1, 2], "NUM_HEADS": [1, 2]}}}
        torch.save({**run, "num_samples": seen, "config": config}, "run.pth")
        assert choose.count_seen("run.pth") == (None if before else seen)
        assert main(command) == 0
        used[seen, before] = load_config("photos.yaml").MODEL.PRETRAINED == "run.pth"
        assert ("run.pth is not used" in capsys.readouterr().out) != used[seen, before]
    assert [*used.values()] == [False, True, True]


def facts(images: int = 300, side_px: float = 240) -> Facts:
    return Facts({"DATA.DATA_PATH": "x"}, ["a1", "b1"], [images // 2] * 2, images, 100, 0, 100, side_px, False, 0, [])


@pytest.mark.parametrize(("minutes", "px"), [(1, 64), (15, 96), (600, 224)])
def test_more_time_gives_a_larger_model(minutes: float, px: int, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A device of 20 billion multiply-adds a second, and loading at 500 images a second."""
    tried = []

    def measured(cfg, dist):
        tried.append(cfg.DATA.IMG_SIZE)
        compute = 2e10 / (3 * measure.find_cost(cfg, 2, dist).flops)
        return measure.Speed(1 / (1 / compute + 1 / 500), compute, 3 * compute, 0.01), []

    monkeypatch.setattr(choose, "measure", measured)
    dist = choose.Distributed(0, 1, 0, torch.device("cpu"))
    found = choose.choose(facts(), None, dist, minutes, "x", [], lambda text: None)
    assert px == found.cfg.DATA.IMG_SIZE
    assert len(tried) <= 3
    epochs = found.cfg.TRAIN.EPOCHS
    assert epochs == 600 or found.seconds == pytest.approx(60 * minutes, rel=0.1)
    assert epochs >= 60 or px == 64


def test_a_batch_that_memory_does_not_hold_is_accumulated(monkeypatch: pytest.MonkeyPatch) -> None:
    dist = choose.Distributed(0, 1, 0, torch.device("cpu"))
    settings = {"DATA.BATCH_SIZE": choose.Setting(32, "")}
    cost = measure.Cost(1, model_bytes=100, image_bytes=50)
    monkeypatch.setattr(choose, "find_memory", lambda device: 2 * (100 + 10 * 50))
    fitted = choose._fit_memory(settings, cost, dist)
    assert fitted["DATA.BATCH_SIZE"].value == 8
    assert fitted["TRAIN.ACCUMULATION_STEPS"].value == 4
    monkeypatch.setattr(choose, "find_memory", lambda device: 10**6)
    assert choose._fit_memory(settings, cost, dist) == {}


def test_given_keys_win(tmp_path: Path) -> None:
    undivided(tmp_path / "photos")
    command = ["--data-path", "photos", "--minutes", "0.05", "--device", "cpu"]
    assert main([*command, "--opts", "DATA.VAL_SPLIT", "0.5", "AUG.HFLIP", "0", "DATA.BATCH_SIZE", "2"]) == 0
    cfg = load_config("photos.yaml")
    assert (cfg.DATA.VAL_SPLIT, cfg.AUG.HFLIP, cfg.DATA.BATCH_SIZE) == (0.5, 0.0, 2)
    assert "0.5" in re.findall(r"VAL_SPLIT: (\S+) +# as it was given", Path("photos.yaml").read_text())


def test_parts_are_named_as_it_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts_of_other_names(tmp_path / "photos")
    command = ["--data-path", "photos", "--minutes", "0.05", "--device", "cpu"]
    assert main([*command, "--opts", "DATA.SPLITS", "{train: tr, val: va}"]) == 0
    assert "18 training, 9 validation images" in capsys.readouterr().out
    assert load_config("photos.yaml").DATA.SPLITS == {"train": "tr", "val": "va"}


def test_the_rules_are_of_keys_and_facts_that_exist_and_have_reasons() -> None:
    for rule in RULES:
        assert rule.when.keys() <= FACTS.keys()
        assert rule.sets.keys() <= KEYS.keys() | DERIVED.keys()
        assert rule.reason
        assert rule.backing
        load_config(None, [item for pair in rule.sets.items() if pair[0] in KEYS for item in pair])
    for size in SIZES:
        grid = size.img_size // size.patch
        assert all(grid // 2**stage % size.window == 0 for stage in range(len(size.depths))), size
    assert [part.trained for part in PARTS] == sorted(part.trained for part in PARTS)


def test_the_last_rule_that_holds_wins() -> None:
    known = dict.fromkeys(FACTS, 0.0) | {"images": 300, "img_size": 64, "side_px": 240, "imbalance": 1}
    assert settle(known)["DATA.BATCH_SIZE"][0] == 16
    assert settle(known | {"images": 1000})["DATA.BATCH_SIZE"][0] == 32
    assert settle(known | {"images": 6000, "gpu": 1})["DATA.BATCH_SIZE"][0] == 128
    assert settle(known)["wanted_epochs"][0] > settle(known | {"pretrained": 1})["wanted_epochs"][0]


def test_the_page_has_the_tables_of_the_rules() -> None:
    """If this fails: put what `python -m tools.start.rules` prints at the end of docs/own-photos.md."""
    assert (ROOT / "docs" / "own-photos.md").read_text().endswith(f"\n{as_markdown()}\n")


def test_a_table_of_several_labels_gives_a_config_that_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several_labels(tmp_path / "photos")
    arguments = ["--data-path", "photos", "--minutes", "0.05", "--device", "cpu"]
    assert main(arguments) == 2
    assert "set DATA.MULTI_LABEL True" in capsys.readouterr().err
    assert main([*arguments, "--opts", "DATA.MULTI_LABEL", "True"]) == 0
    given = flatten(yaml.safe_load(Path("photos.yaml").read_text()))
    assert (given["DATA.MULTI_LABEL"], given["TRAIN.LOSS"]) == (True, "asl")
    assert trainer.main(["--cfg", "photos.yaml", "--dry-run"]) == 0
    assert "dry run: one update" in capsys.readouterr().out
