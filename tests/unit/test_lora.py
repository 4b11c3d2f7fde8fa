"""Low-rank adapters: what is trained, the definition, and that readers of a checkpoint see a plain model."""

import json
import shutil
import sys

import pytest
import torch
from torch import nn

from swin import inference_model
from swin.engine.checkpoint import read_checkpoint
from swin.errors import CheckpointError, ConfigError
from swin.models import SwinTransformer, add_adapters, freeze
from swin.optim import parameter_groups
from swin.weights import load_weights, read_weights
from swin.weights.adapters import merge_adapters
from tools import convert_weights

CONFIG = {"MODEL": {"LORA": {"ALPHA": 6}}}
LORA = ["MODEL.LORA.RANK", "2", "MODEL.LORA.ALPHA", "6"]


def make_model(seed=0):
    torch.manual_seed(seed)
    return SwinTransformer(img_size=32, num_classes=3, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)


def adapt(model, **changes):
    add_adapters(model, **{"rank": 2, "alpha": 6, "modules": ["*.attn.*", "*.mlp.*"], "seed": 0, **changes})
    return model


def train(model, steps=3):
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for step in range(steps):
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model):
    with torch.inference_mode():
        return model.eval()(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(9)))


def test_adapters_change_nothing_at_first_and_train_with_the_head_alone():
    plain, adapted = make_model(), adapt(make_model())
    torch.testing.assert_close(logits(adapted), logits(plain), rtol=0, atol=0)
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    train(adapted.train())
    changed = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".lora_" in name or name.startswith("head.")}
    assert len(changed) == 2 * 4 * 2 + 2  # A and B of four layers in each of two blocks; weight and bias of the head
    assert "norm" in adapted.frozen_parts
    assert not adapted.norm.training


def test_merged_weights_are_the_definition_and_give_the_same_logits():
    adapted = adapt(make_model())
    train(adapted.train())
    state = adapted.state_dict()
    merged = merge_adapters(state, CONFIG, "a file")
    assert merged.keys() == make_model().state_dict().keys()
    layer = "layers.1.blocks.0.attn.qkv"
    down, up = state[f"{layer}.lora_A.default.weight"], state[f"{layer}.lora_B.default.weight"]
    expected = state[f"{layer}.base_layer.weight"] + 3.0 * up @ down
    torch.testing.assert_close(merged[f"{layer}.weight"], expected)
    plain = make_model(seed=1)
    load_weights(plain, {"model": state, "config": CONFIG}, strict=True)
    # One product of the sum of two matrices, in place of the sum of two products.
    torch.testing.assert_close(logits(plain), logits(adapted), rtol=1e-4, atol=1e-5)


def test_the_first_values_follow_from_the_seed_alone():
    models = [adapt(make_model(), seed=seed) for seed in (0, 0, 1)]
    name = "layers.0.blocks.0.attn.qkv.lora_A.default.weight"
    first, second, other = (model.state_dict()[name] for model in models)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    expected, model = torch.rand(1), make_model()
    torch.manual_seed(5)
    adapt(model)
    assert torch.equal(torch.rand(1), expected), "other random numbers go on"


def test_what_is_frozen_stays_so():
    model = make_model()
    freeze(model, ["head"])
    adapt(model, modules=["*.attn.qkv"])
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4
    assert all(".attn.qkv.lora_" in name for name in trained)


def test_muon_takes_queries_keys_and_values_of_an_adapter_as_three_matrices():
    model = adapt(make_model(), modules=["*.attn.qkv"])
    (group,) = (each for each in parameter_groups(model, 0.05, momentum=0.95) if "pieces" in each)
    pieces = {tuple(matrix.shape): count for matrix, count in zip(group["params"], group["pieces"], strict=True)}
    assert pieces == {(2, 8): 1, (24, 2): 3, (2, 16): 1, (48, 2): 3}


def test_what_cannot_be_done_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"'layers.9.\*' names no linear layer"):
        adapt(make_model(), modules=["layers.9.*"])
    with pytest.raises(ConfigError, match="MODULES is empty"):
        adapt(make_model(), modules=[])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"swin-trainer\[lora\]"):
        adapt(make_model())


@pytest.mark.parametrize("fault", ["no config", "no scale", "no matrix", "another shape"])
def test_adapters_that_cannot_be_merged_are_refused(fault):
    state, config = adapt(make_model()).state_dict(), CONFIG
    key = "layers.0.blocks.0.attn.qkv.lora_A.default.weight"
    if fault == "no matrix":
        del state[key]
    elif fault == "another shape":
        state[key] = torch.zeros(3, 8)
    else:
        config = None if fault == "no config" else {"MODEL": {"LORA": {"ALPHA": "x"}}}
    with pytest.raises(CheckpointError, match="cannot be merged"):
        read_weights({"model": state, "config": config})


def test_the_test_part_is_evaluated_with_the_adapters_of_the_best_weights(runner, tmp_path):
    folder = tmp_path / "three"
    shutil.copytree(runner.data, folder)
    shutil.copytree(folder / "val", folder / "test")
    runner.data = folder
    assert runner("run", "--opts", *LORA, "TRAIN.EPOCHS", "3") == 0
    best = read_checkpoint(runner.run_dir("run") / "checkpoints" / "best.pth")["epoch"]
    (tested,) = runner.rows("run", "test")
    validated = next(row for row in runner.rows("run", "eval") if row["epoch"] == best)
    assert (tested["loss"], tested["correct1"]) == (validated["loss"], validated["correct1"])


def test_a_run_resumes_exactly_and_what_reads_it_sees_a_plain_model(runner, assert_equal_state, tmp_path):
    options = ["--opts", *LORA, "TRAIN.EPOCHS", "2", "TRAIN.EMA.ENABLE", "True", "TRAIN.EMA.DECAY", "0.5"]
    assert runner("whole", *options) == 0
    assert "frozen (MODEL.LORA)" in runner.text()
    first = runner.run_dir("whole") / "checkpoints" / "ckpt_epoch_0.pth"
    assert runner("continued", "--resume", str(first), *options) == 0
    assert_equal_state(runner.checkpoint("whole"), runner.checkpoint("continued"))

    best = runner.run_dir("whole") / "checkpoints" / "best.pth"
    runner.text()
    assert runner("evaluated", "--eval", "--resume", str(best)) == 0
    trained = next(row for row in runner.rows("whole", "eval") if row["epoch"] == read_checkpoint(best)["epoch"])
    evaluated = json.loads((runner.run_dir("evaluated") / "eval.json").read_text())
    assert evaluated["loss"] == pytest.approx(trained["loss"], rel=1e-4)
    weights = read_weights(best)
    assert not any("lora" in name or "base_layer" in name for name in weights.tensors)
    assert inference_model(best, next(runner.data.glob("val/*/*.png")))["pred_class"] in weights.classes
    converted = tmp_path / "timm.safetensors"
    assert convert_weights.main(["--input", str(best), "--to", "timm", "--output", str(converted)]) == 0
    torch.testing.assert_close(read_weights(converted).tensors, weights.tensors, rtol=0, atol=0)
