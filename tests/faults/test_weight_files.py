"""Weight files that are damaged, foreign or hostile: one line that says so, and nothing in them is run."""

import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from yacs.config import CfgNode

from swin import SwinTransformer, load_weights
from swin.errors import CheckpointError
from swin.weights.formats import from_native
from tools import convert_weights

SMALL = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}


def make_model(**changes) -> SwinTransformer:
    return SwinTransformer(**{**SMALL, **changes})


def refuses(source, model: SwinTransformer | None = None, **options) -> str:
    """The message of a refused load, after which the model is as before."""
    model = model or make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, source, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    return text


def save(path: Path, legacy: bool = False) -> Path:
    torch.manual_seed(0)
    torch.save({"model": make_model().state_dict()}, path, _use_new_zipfile_serialization=not legacy)
    return path


class WritesAFile:
    """Unpickled by a careless reader, this runs a shell command."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch '{self.victim}'",)


@pytest.mark.parametrize("place", ["value", "key", "beside", "nested in the yacs node"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(tmp_path, legacy, place):
    bomb, state = WritesAFile(tmp_path / "victim"), make_model().state_dict()
    content = {
        "value": {**state, "norm.weight": bomb},
        "key": {"model": state, (bomb,): 1},
        "beside": {"model": state, "config": bomb},
        "nested in the yacs node": {"model": state, "config": CfgNode()},
    }[place]
    if place == "nested in the yacs node":
        dict.__setitem__(content["config"], "KEY", bomb)
    file = tmp_path / "bomb.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    text = refuses(file)
    assert "bomb.pth holds a Python object (posix.system)" in text or "(nt.system)" in text
    assert not (tmp_path / "victim").exists()
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bomb))
    assert "plain.pth" in refuses(tmp_path / "plain.pth")
    assert not (tmp_path / "victim").exists()


def test_the_bomb_goes_off_in_a_careless_reader(tmp_path):
    """The test above would prove nothing with a dud."""
    pickle.loads(pickle.dumps(WritesAFile(tmp_path / "victim")))
    assert (tmp_path / "victim").exists()


def test_calls_hidden_behind_an_allowed_name_are_refused(tmp_path):
    victim = tmp_path / "victim"
    code = f"cyacs.config\nos.system\n(S'touch {victim}'\ntR.".encode()  # an attribute of the allowed class's module
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + code)
        archive.writestr("archive/version", "3\n")
    (tmp_path / "sly.pth").write_bytes(buffer.getvalue())
    refuses(tmp_path / "sly.pth")
    assert not victim.exists()


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, kind, fraction):
    if kind == "safetensors":
        file = tmp_path / "w.safetensors"
        save_file(make_model().state_dict(), file)
    else:
        file = save(tmp_path / "w.pth", kind == "legacy")
    content = file.read_bytes()
    file.write_bytes(content[: int(fraction * len(content))])
    assert "truncated, damaged" in refuses(file)


def test_any_flipped_bit_of_a_zip_file_is_found(tmp_path):
    """Of the bytes that hold something: zip files also have padding, and fields that nobody reads."""
    file = save(tmp_path / "w.pth")
    content = file.read_bytes()
    torch.manual_seed(0)
    weights = make_model().state_dict()["layers.0.blocks.0.mlp.fc1.weight"].numpy().tobytes()
    start = content.index(weights)
    for position in range(start, start + len(weights), len(weights) // 13):
        broken = bytearray(content)
        broken[position] ^= 0x10
        file.write_bytes(broken)
        assert "check sum" in refuses(file)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_random_damage_never_ends_in_a_traceback(tmp_path, kind):
    """Without check sums (legacy, safetensors) a changed weight may pass; anything else is one message."""
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(make_model().state_dict(), file)
    else:
        save(file, kind == "legacy")
    content = file.read_bytes()
    chance = random.Random(0)
    model, messages = make_model(), []
    for _ in range(100):
        broken = bytearray(content)
        for _ in range(chance.choice((1, 5))):
            broken[chance.randrange(min(len(broken), 12_000))] ^= 1 << chance.randrange(8)
        file.write_bytes(broken)
        try:
            load_weights(model, file, strict=True)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert not any("\n" in message for message in messages)


WRONG_KINDS = {
    "text": b"not a checkpoint",
    "web page": b"<!DOCTYPE html><html><body>Sign in</body></html>" * 50,
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 113000000\n",
    "empty": b"",
    "zip of something else": None,
}


@pytest.mark.parametrize("kind", WRONG_KINDS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_another_kind(tmp_path, kind, suffix):
    file = tmp_path / f"w{suffix}"
    if WRONG_KINDS[kind] is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.txt", "hello")
    else:
        file.write_bytes(WRONG_KINDS[kind])
    assert f"w{suffix}" in refuses(file)


def test_missing_files_and_folders(tmp_path):
    assert "does not exist" in refuses(tmp_path / "none.pth")
    assert "is a folder" in refuses(tmp_path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"epoch": 3}, torch.zeros(3), {"model": {}}, {"model": [torch.zeros(3)]}, None, {"model": None}],
    ids=str,
)
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "holds no weights" in refuses(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.resnet18(num_classes=3),
        lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32),
        lambda: torchvision.models.swin_v2_t(weights=None),
        lambda: make_model(embed_dim=16),
        lambda: make_model(depths=(2, 6)),  # the first blocks would fit
        lambda: make_model(depths=(2, 2, 2), num_heads=(1, 2, 4)),
        lambda: make_model(num_heads=(2, 4)),  # as many numbers everywhere but in the tables
    ],
    ids=["resnet", "vit", "swin v2", "wider", "deeper", "more stages", "other heads"],
)
def test_another_architecture(tmp_path, make):
    with torch.device("cpu"):
        torch.save(make().state_dict(), tmp_path / "other.pth")
    assert "other.pth" in refuses(tmp_path / "other.pth")
    assert "other.pth" in refuses(tmp_path / "other.pth", strict=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head.weight", torch.tensor(1.0)),
        ("head.bias", torch.zeros(7)),
        ("patch_embed.proj.weight", torch.zeros(3)),
        ("layers.0.blocks.0.attn.relative_position_bias_table", torch.tensor(1.0)),
        ("layers.0.blocks.0.attn.qkv.weight", torch.zeros(2, 2)),
        ("layers.0.downsample.norm.weight", torch.tensor(1.0)),
        ("layers.0.blocks.0.mlp.fc1.weight", torch.zeros(3, 3).to_sparse()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tampered_shapes_are_one_message_in_every_program(tmp_path, capsys, name, value):
    state = make_model().state_dict()
    state[name] = value
    torch.save(state, tmp_path / "odd.pth")
    assert "odd.pth" in refuses(tmp_path / "odd.pth", strict=True)
    for target in ("timm", "mmpretrain"):
        arguments = ["--input", str(tmp_path / "odd.pth"), "--to", target, "--output", str(tmp_path / "out.pth")]
        assert convert_weights.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "out.pth").exists()


def test_an_mmpretrain_file_with_a_number_for_a_merging(tmp_path):
    state = from_native(make_model().state_dict(), "mmpretrain")
    state["backbone.stages.0.downsample.norm.weight"] = torch.tensor(1.0)
    refuses(state)


def test_main_prints_one_line(runner, tmp_path):
    torch.save({"model": {}, "config": WritesAFile(tmp_path / "victim")}, tmp_path / "bomb.pth")
    for flags in (["--pretrained"], ["--eval", "--resume"], ["--eval", "--pretrained"], ["--resume"]):
        assert runner("fault", *flags, str(tmp_path / "bomb.pth")) == 2
        text = runner.text()
        assert "Traceback" not in text
        assert len([line for line in text.splitlines() if "could run code" in line]) == 1
    assert not (tmp_path / "victim").exists()
