"""The page of `python -m tools.demo`."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from swin.config import config_to_dict, load_config
from swin.create import build_model
from swin.inference import load_predictor
from tools.demo import main, make_answer

CLASSES = ["<img src=x onerror=alert(1)>", "dog", "zebra"]


TINY = [
    *("DATA.IMG_SIZE", 32, "MODEL.SWIN.PATCH_SIZE", 2, "MODEL.SWIN.EMBED_DIM", 8, "MODEL.SWIN.WINDOW_SIZE", 4),
    *("MODEL.SWIN.DEPTHS", "[1, 1]", "MODEL.SWIN.NUM_HEADS", "[1, 2]"),
]


@pytest.fixture
def checkpoint(tmp_path):
    cfg = load_config(opts=TINY)
    torch.manual_seed(0)
    model = build_model(cfg, 3)
    model.head.bias.data = torch.tensor([3.0, 1.0, 0.0])
    content = {"model": model.state_dict(), "ema": None, "config": config_to_dict(cfg), "classes": CLASSES}
    torch.save(content, tmp_path / "best.pth")
    return tmp_path / "best.pth"


@pytest.fixture
def predictor(checkpoint):
    return load_predictor(checkpoint, device="cpu")


@pytest.fixture
def photo(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_each_file_has_a_picture_and_rows_or_an_error(predictor, photo):
    pytest.importorskip("pytorch_grad_cam")
    bad = photo.with_name("bad.png")
    bad.write_bytes(b"not an image")
    answer = make_answer(predictor, 2)
    assert answer(None) == ([], [])
    pictures, rows = answer([str(bad), str(photo)])
    ((picture, caption),) = pictures
    assert picture.size == (32, 32)
    scores = predictor.scores([predictor.read(photo)])[0]
    assert caption == f"{CLASSES[0]} {scores[0]:.1%}; photo.png"
    assert rows[0][:2] == ["bad.png", None]
    assert rows[0][2].startswith("bad.png: is not an image")
    assert [row[:3] for row in rows[1:]] == [["photo.png", 1, CLASSES[0]], ["photo.png", 2, "dog"]]
    assert rows[1][3] == f"{scores[0]:.2%}"


def test_without_gradio_an_error_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("tools.demo.find_spec", lambda name: None)
    assert main(["--checkpoint", "absent.pth"]) == 2
    assert 'pip install "swin-trainer[demo]"' in capsys.readouterr().err


def test_a_port_that_cannot_be_used_is_an_error(checkpoint):
    """In a process of its own: gradio leaves sockets and loops open."""
    if find_spec("gradio") is None or find_spec("pytorch_grad_cam") is None:
        pytest.skip("gradio or grad-cam is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [str(taken.getsockname()[1]), "70000"]
        given = ["--checkpoint", str(checkpoint), "--device", "cpu", "--port"]
        code = f"from tools.demo import main; print([main([*{given}, port]) for port in {ports}])"
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
        )
    assert run.stdout == "[2, 2]\n"
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(" cannot be used")[0] for line in lines] == [f"error: --port {port}" for port in ports]


def see_what_is_dropped(tab, photo):
    """Drop a file on the page; return the table's text and the width of the picture once both are there."""
    zone = tab.locator("#images button").first
    zone.wait_for()
    transfer = tab.evaluate_handle(
        """hex => {
            const bytes = Uint8Array.from(hex.match(/../g), byte => parseInt(byte, 16));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "photo.png", {type: "image/png"}));
            return transfer;
        }""",
        photo.read_bytes().hex(),
    )
    zone.dispatch_event("drop", {"dataTransfer": transfer})
    tab.locator("#classes").get_by_text("dog").first.wait_for()
    picture = tab.locator("#pictures img").first
    picture.wait_for()
    tab.wait_for_function("document.querySelector('#pictures img').naturalWidth > 0")
    return tab.locator("#classes").inner_text(), picture.evaluate("image => image.naturalWidth")


def test_in_a_browser(checkpoint, predictor, photo, tmp_path):
    """A file is dropped; what is seen is the model's answer, as text, and nothing is asked of another host."""
    for package in ("gradio", "pytorch_grad_cam"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    command = [sys.executable, "-m", "tools.demo", "--checkpoint", str(checkpoint), "--top-k", "2", "--device", "cpu"]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    requests, dialogs = [], []
    try:
        address = server.stdout.readline().split()[1]
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
            tab = browser.new_page()
            tab.on("request", lambda request: requests.append(request.url))
            tab.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
            policy = tab.goto(address).headers["content-security-policy"]
            shown, width = see_what_is_dropped(tab, photo)
            tab.screenshot(path=tmp_path / "page.png", full_page=True)
            browser.close()
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    scores = predictor.scores([predictor.read(photo)])[0]
    assert CLASSES[0] in shown
    assert f"{scores[0]:.2%}" in shown
    assert width == 32
    assert dialogs == []
    assert policy.startswith("default-src 'self'")
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
