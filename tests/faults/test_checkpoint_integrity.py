"""Checkpoints that are damaged, hostile or of another kind: refused in one line, or read as they were written."""

import copy
import io
import math
import random
import re
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from swin.ema import Ema
from swin.engine.checkpoint import read_checkpoint, write_checkpoint
from swin.errors import CheckpointError
from swin.optim import make_optimizer
from swin.weights import read_weights
from swin.weights.digest import digest
from swin.weights.files import read_weight_file
from tests.conftest import Runner
from tools import convert_weights


def make_content(width: int = 2) -> dict[str, Any]:
    """What a run of a model of one layer saves after an update."""
    torch.manual_seed(0)
    model = nn.Linear(width, width)
    optimizer, ema = make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.1), Ema(model, 0.9)
    model(torch.randn(3, width)).sum().backward()
    optimizer.step()
    parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.state_dict(), "scaler": None}
    numbers = {"epoch": 0, "position": 1, "step": 3, "skipped": 0, "max_accuracy": 97.2}
    return {**parts, **numbers, "classes": ["a", "b"], "config": {"SEED": 0, "NAMES": ["x", None, 0.5]}}


def save(path: Path, kind: str, content: dict[str, Any]) -> bytes:
    """Write a checkpoint of this program, or as `torch.save` does it, in its present or its older format."""
    if kind == "ours":
        write_checkpoint(path, content)
    else:
        content = {**content, "digest": digest(content)} if kind == "legacy" else content
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    return path.read_bytes()


def is_refused(file: Path, data: bytes, expected: str) -> bool:
    """Whether a file of these bytes is refused, in one line; otherwise it must hold what it held before."""
    file.write_bytes(data)
    lines: list[str] = []
    try:
        content = read_checkpoint(file)
    except CheckpointError as error:
        lines = str(error).splitlines()
    else:
        assert digest(content) == expected
    assert len(lines) <= 1
    return bool(lines)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def start_of_directory(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.start_dir


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_every_flipped_bit_of_the_directory_and_the_end_is_refused_or_changes_nothing(tmp_path, kind):
    content = {"model": {"w": torch.ones(2)}}
    data, expected = save(tmp_path / "w.pth", kind, content), digest(content)
    bits = range(8 * start_of_directory(data), 8 * len(data))
    refused = [is_refused(tmp_path / "w.pth", flipped(data, bit), expected) for bit in bits]
    assert 0.3 < sum(refused) / len(refused) < 1.0  # the rest are dates, versions and other fields that nobody reads
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.namelist()) * (46 + 16) * 8 < len(bits)


def test_a_member_that_looks_like_a_folder_is_refused(tmp_path):
    """Torch may return memory of it as it finds it."""
    data = save(tmp_path / "w.pth", "plain", {"model": {"w": torch.ones(2)}})
    entries = [match.start() for match in re.finditer(b"PK\x01\x02", data)]
    assert len(entries) == len(zipfile.ZipFile(tmp_path / "w.pth").namelist())
    for entry in entries:
        (tmp_path / "w.pth").write_bytes(flipped(data, 8 * (entry + 38) + 4))  # 0x10 of the external attributes
        with pytest.raises(CheckpointError, match="no file"):
            read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["ours", "plain", "legacy"])
def test_flipped_bits_anywhere_are_refused_or_change_nothing(tmp_path, kind):
    content = make_content()
    data, expected = save(tmp_path / "w.pth", kind, content), digest(content)
    bits = random.Random(0).sample(range(8 * len(data)), 600)
    refused = [is_refused(tmp_path / "w.pth", flipped(data, bit), expected) for bit in bits]
    assert sum(refused) > 120


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "plain", "legacy"])
def test_every_single_bit_of_a_file_is_refused_or_changes_nothing(tmp_path, kind):
    content = make_content()
    data, expected = save(tmp_path / "w.pth", kind, content), digest(content)
    for bit in range(8 * len(data)):
        is_refused(tmp_path / "w.pth", flipped(data, bit), expected)


@pytest.mark.parametrize("kind", ["ours", "legacy"])
def test_every_flipped_bit_of_a_tensor_is_refused(tmp_path, kind):
    content = make_content(width=96)
    data = save(tmp_path / "w.pth", kind, content)
    for tensor in (content["model"]["weight"], content["optimizer"]["state"][0]["exp_avg"]):
        begin = data.index(tensor.numpy().tobytes())
        for bit in random.Random(0).sample(range(8 * begin, 8 * (begin + tensor.nbytes)), 100):
            assert is_refused(tmp_path / "w.pth", flipped(data, bit), "")


def repacked(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """An archive with its pickle changed and all check sums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Damage bytes: flip, overwrite, cut, repeat or move some."""
    begin, length = chance.randrange(len(data)), min(chance.choice((1, 1, 2, 8, 300)), len(data))
    kind = chance.randrange(6)
    part = data[begin : begin + length]
    if kind == 0:
        return flipped(data, 8 * begin + chance.randrange(8))
    if kind == 1:
        return data[:begin] + chance.randbytes(len(part)) + data[begin + length :]
    if kind == 2:
        return data[:begin] + bytes(len(part)) + data[begin + length :]
    if kind == 3:
        return data[:begin] + data[begin + length :]
    if kind == 4:
        return data[:begin] + part + data[begin:]
    to = chance.randrange(len(data))
    return data[:to] + part + data[to + len(part) :]


def test_2000_mutated_checkpoints_are_refused_or_read_as_they_were(tmp_path):
    """A third are damaged files, a third damaged pickles with right check sums, a third of torch's older format."""
    chance, content = random.Random(0), make_content()
    expected, file = digest(content), tmp_path / "w.pth"
    data, old = save(file, "ours", content), save(file, "legacy", content)
    num_refused, longest_sec = 0, 0.0
    for index in range(2000):
        kinds = (lambda: mutate(data, chance), lambda: repacked(data, lambda part: mutate(part, chance)))
        broken = (*kinds, lambda: mutate(old, chance))[index % 3]()
        begin = time.process_time()
        num_refused += is_refused(file, broken, expected)
        longest_sec = max(longest_sec, time.process_time() - begin)
    assert num_refused > 1500
    assert longest_sec < 10


def raw_archive(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("w/version", b"3\n")


def save_deep(path: Path) -> None:
    raw_archive(path, b"}" + b"X\5\0\0\0model}" * 3000 + b"s" * 3000)


def save_doubling(path: Path) -> None:
    """60 tuples, each of the one before twice: 2^60 values."""
    raw_archive(path, b"}X\5\0\0\0model" + b"X\1\0\0\0a" + b"q\1h\1\x86" * 60 + b"s")


def save_own_part(path: Path) -> None:
    content: dict[str, Any] = {"model": {"w": torch.ones(2)}}
    content["model"]["own"] = content
    torch.save(content, path)


def save_packed(path: Path) -> None:
    """A file of 0.3 MB with a member of 256 MB."""
    torch.save({"model": {"w": torch.ones(2)}}, path)
    pickled = zipfile.ZipFile(path).read(f"{path.stem}/data.pkl")[2:-1]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + pickled + b".")
        archive.writestr("w/version", b"3\n")
        with archive.open("w/data/0", "w") as member:
            for _ in range(256):
                member.write(bytes(1 << 20))


def saves(make: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda path: torch.save({"model": {"w": torch.ones(2), "odd": make()}}, path)


HOSTILE = {
    "deep": (save_deep, "64 levels"),
    "doubling": (save_doubling, "1000000 values"),
    "its own part": (save_own_part, "64 levels"),
    "packed": (save_packed, "packed"),
    "expanded": (saves(lambda: torch.ones(1).expand(1 << 20, 1 << 20)), "in less memory"),
    "overlapping": (saves(lambda: torch.ones(100).as_strided((50, 50), (1, 1), 0)), "in less memory"),
    "many of one": (saves(lambda: [torch.ones(1 << 20)] * 9000), "in less memory"),
    "sparse": (saves(lambda: torch.eye(3).to_sparse()), "sparse"),
    "quantised": (saves(lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)), "qint8"),
    "without memory": (saves(lambda: torch.ones(3, device="meta")), "meta"),
    "float8": (saves(lambda: torch.ones(3).to(torch.float8_e4m3fn)), "float8"),
    "set": (lambda path: torch.save({"model": {"w": {1}}}, path), "'model'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*deprecated:UserWarning")
def test_content_without_bounds_is_refused_at_once_and_in_little_memory(tmp_path, kind):
    write, words = HOSTILE[kind]
    write(tmp_path / "w.pth")
    peak, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the peak begins anew
    begin, before = time.process_time(), peak_memory_kb(peak)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_checkpoint(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert time.process_time() - begin < 10  # of this process: others may run beside it
    assert peak_memory_kb(peak) - before < 100_000


def peak_memory_kb(status: Path) -> int:
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def test_what_is_kept_of_a_checkpoint_does_not_look_into_its_file(tmp_path):
    """Its tensors do: a file that is written over would change the moments, or end the process."""
    file = tmp_path / "w.pth"
    write_checkpoint(file, make_content())
    content = read_checkpoint(file)
    mapped = {*content["model"].values(), *content["ema"]["model"].values()}
    mapped |= {value for state in content["optimizer"]["state"].values() for value in state.values()}
    addresses = {value.untyped_storage().data_ptr() for value in mapped}
    assert len(addresses) == len(mapped)
    model = nn.Linear(2, 2)
    optimizer, ema = make_optimizer(model, name="adamw", lr=0.1, weight_decay=0.1), Ema(model, 0.9)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    ema.load_state_dict(content["ema"])
    kept = [*model.parameters(), *ema.shadow.values(), ema.num_updates]
    kept += [value for state in optimizer.state.values() for value in state.values()]
    assert len(kept) == 2 + 2 + 1 + 2 * 3
    assert not addresses & {value.untyped_storage().data_ptr() for value in kept}
    assert digest(optimizer.state_dict()["state"]) == digest(make_content()["optimizer"]["state"])


def official(content: dict[str, Any]) -> dict[str, Any]:
    """As the official repository saves it: no step, classes or averages, but a node of yacs."""
    names = ("model", "optimizer", "max_accuracy", "epoch")
    node = CfgNode({"TRAIN": {"EPOCHS": 300}, "AUG": CfgNode({"MIXUP": 0.8})})
    scheduler = {"base_values": [1e-3], "t_in_epochs": False}
    scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
    scaler["_growth_tracker"] = 17
    return {**{name: content[name] for name in names}, "lr_scheduler": scheduler, "scaler": scaler, "config": node}


def test_official_and_earlier_checkpoints_and_all_new_entries_are_read(tmp_path):
    content, file = make_content(), tmp_path / "w.pth"
    new = {"total_batch": 8, "evaluated": True, "lr_factor": 0.5, "rollbacks": 0, "num_samples": 2}
    numbers = copy.deepcopy(content)
    for state in numbers["optimizer"]["state"].values():
        state["step"] = 1  # as in torch before 1.12
    first = {**content, "epoch": -1, "position": 0, "step": 0}
    first["optimizer"] = {**content["optimizer"], "state": {}}
    plain_sgd = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    for each in (
        official(content),
        {**official(content), "amp": None, "max_accuracy": 0},
        content,
        {**content, **new},
        numbers,
        first,
        {**content, "optimizer": plain_sgd.state_dict()},
        {"model": content["model"]},
    ):
        torch.save(each, file)
        read = read_checkpoint(file)
        assert read.keys() == each.keys()
    torch.save(official(content), file)
    assert type(read_checkpoint(file)["config"]) is OrderedDict


@pytest.mark.parametrize("entry", ["0" * 64, b"swin1:", 3, None], ids=str)
def test_an_entry_of_that_name_of_another_program_is_no_digest(tmp_path, entry):
    torch.save({"model": {"w": torch.ones(2)}, "digest": entry}, tmp_path / "w.pth")
    assert read_weight_file(tmp_path / "w.pth")["digest"] == entry


@pytest.mark.parametrize("kind", ["ours", "legacy"])
def test_every_program_compares_the_digest(tmp_path, runner, trained, kind):
    file = tmp_path / "w.pth"
    content = copy.deepcopy(trained)
    save(file, kind, content)
    assert read_weights(file).tensors
    content["ema"]["model"]["head.bias"][0] += 1e-6
    torch.save(content, file, _use_new_zipfile_serialization=kind == "ours")  # its sums are right
    with pytest.raises(CheckpointError, match="digest"):
        read_weights(file)
    for flags in (["--pretrained"], ["--eval", "--pretrained"], ["--eval", "--resume"], ["--resume"]):
        assert runner("odd", *flags, str(file)) == 2
        assert runner.text().count("truncated, damaged") == 1
    assert convert_weights.main(["--input", str(file), "--to", "timm", "--output", str(tmp_path / "out.pth")]) == 2


def without(content: Any, *path: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    del content[path[-1]]


def wrong_values() -> Iterator[tuple[str, Any]]:
    """Entry and value; a function changes the whole content instead."""
    counts: list[Any] = [10**30, 10**400, -2, 1.0, "1", None, True, [1], torch.tensor(1), math.nan]
    for name in ("epoch", "position", "step", "skipped", "rollbacks", "total_batch", "num_samples"):
        yield from ((name, value) for value in counts)
    yield from (
        ("max_accuracy", value) for value in (math.nan, math.inf, 10**400, -1, 100.1, "97", None, True, 10**30, [1.0])
    )
    yield from (("lr_factor", value) for value in (0.0, 1.5, math.nan, "1", None, True))
    yield from (("evaluated", value) for value in (0, None, "True"))
    yield from (("classes", value) for value in ("abc", ["circle", 1], ("a", "b"), {"a": 0}, None, 3))
    yield from (("model", value) for value in ({}, {"w": 1.0}, {1: torch.ones(2)}, {"w": torch.tensor(math.nan)}))
    yield from (("optimizer", value) for value in (None, {}, [], 1, {"state": {}, "param_groups": []}))
    yield from (("ema", value) for value in ({}, [], 1, {"model": {}, "num_updates": "3"}, {"model": 1}))
    yield from (("scaler", value) for value in ([], 1, {"scale": "x"}, {"scale": -1.0}, {"scale": math.nan}))
    yield from (("config", value) for value in (None, [], "SEED: 0", {"SEED": torch.ones(2)}))
    yield from (("digest", value) for value in (None, 1, "0" * 64))
    yield "epoch", lambda content: without(content, "epoch")
    yield "position", lambda content: content.update(num_samples=78, position=79)
    yield "position", lambda content: content.update(position=10**9)
    yield "unheard_of", 1
    yield "optimizer", lambda content: content["optimizer"].update(state={})
    for path in ((0,), (3, "exp_avg"), (3, "exp_avg_sq"), (3, "step")):
        yield "optimizer", lambda content, path=path: without(content, "optimizer", "state", *path)
    for name, value in (("exp_avg", None), ("exp_avg", 1.0), ("step", "1"), ("step", torch.ones(2)), ("step", -1)):
        yield (
            "optimizer",
            lambda content, name=name, value=value: content["optimizer"]["state"][1].update({name: value}),
        )
    for value in (None, 1, ["a"], [0, 0]):
        yield "optimizer", lambda content, value=value: content["optimizer"]["param_groups"][0].update(params=value)


WRONG = list(wrong_values())
assert len(WRONG) > 100


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> dict[str, Any]:
    """The last checkpoint of a run of one epoch."""
    runner = Runner(tmp_path_factory.mktemp("trained"), shapes, None)
    assert runner("run", "--opts", "TRAIN.EPOCHS", "1", "TRAIN.EMA.ENABLE", "True") == 0
    return runner.checkpoint("run")


def resume(runner: Runner, content: dict[str, Any]) -> tuple[int, str]:
    """Continue from this content, with the digest that it has or none; returns status and what was printed."""
    torch.save(content, runner.folder / "odd.pth")
    options = ["--opts", "TRAIN.EPOCHS", "1", "TRAIN.EMA.ENABLE", "True"]
    status = runner("odd", "--resume", str(runner.folder / "odd.pth"), *options)
    return status, runner.text()


@pytest.mark.parametrize(
    ("name", "value"), WRONG, ids=lambda value: value if isinstance(value, str) else type(value).__name__
)
def test_an_entry_of_a_wrong_type_or_range_is_one_line_that_names_it(runner, trained, name, value):
    content = copy.deepcopy({key: value for key, value in trained.items() if key != "digest"})
    if callable(value):
        value(content)
    else:
        content[name] = value
    status, text = resume(runner, content)
    assert status == 2, text
    lines = [line for line in text.splitlines() if "odd.pth" in line]
    assert len(lines) == 1
    assert f"'{name}'" in lines[0]
    assert len(lines[0]) < 600
    assert "Traceback" not in text


def test_the_checkpoint_that_the_wrong_entries_were_put_in_is_continued(runner, trained):
    status, text = resume(runner, trained)
    assert status == 0, text
    assert "all 1 epochs are done" in text


ODD = [None, True, -1, 0, 3, 10**9, 1e300, math.nan, "", "x", [], {}, (), torch.ones(2), torch.ones(()), {"a": {}}]


def random_change(content: dict[str, Any], chance: random.Random) -> None:
    """Replace, remove or add an entry at a random depth."""
    part: Any = content
    while True:
        key = chance.choice(list(part) if isinstance(part, dict) else range(len(part)))
        if not isinstance(part[key], dict | list) or not part[key] or chance.random() < 0.3:
            break
        part = part[key]
    kind = chance.randrange(4)
    if kind == 0:
        del part[key]
    elif kind == 1 and isinstance(part, dict):
        part[chance.choice((key, "new", 7))] = chance.choice(ODD)
    elif isinstance(part[key], torch.Tensor) and kind == 2:
        part[key] = chance.choice((part[key][None], part[key].double(), part[key].flatten()[:0], part[key] * 1e38))
    else:
        part[key] = chance.choice(ODD)


@pytest.mark.parametrize("seed", range(40))
def test_content_changed_at_random_is_refused_or_continued(runner, trained, seed):
    """It has a right digest, as if it had been written so."""
    content = copy.deepcopy(trained)
    random_change(content, random.Random(seed))
    if "digest" in content:
        content["digest"] = digest({**content})
    status, text = resume(runner, content)
    assert status in (0, 2), text
    assert "Traceback" not in text
