"""Swin V2 and Swin-MLP in the same commands as the Swin Transformer, from training to prediction."""

import json

import pytest

from swin import inference_model
from swin.inference import load_predictor
from tests.engines.extras import PACKAGES, need
from tests.families import assert_two_processes_give_the_losses_of_one, small
from tools import cam, evaluate, publish
from tools.export.__main__ import main as export

FAMILIES = ("swinv2", "swin_mlp")
FEATURES = ["TRAIN.EMA.ENABLE", "True", "TRAIN.ACCUMULATION_STEPS", "2", "TRAIN.OPTIMIZER.NAME", "muon"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_resumes_bit_for_bit_and_its_checkpoint_serves_every_tool(runner, assert_equal_state, tmp_path, family):
    options = ["--opts", *small(family), *FEATURES, "TRAIN.LAYER_DECAY", "0.8"]
    assert runner("whole", *options) == 0
    assert f"model tiny: {num_parameters(runner):,} parameters" in runner.text()
    half = runner.run_dir("whole") / "checkpoints" / "ckpt_epoch_0.pth"
    assert runner("continued", "--resume", str(half), *options) == 0
    assert_equal_state(runner.checkpoint("whole"), runner.checkpoint("continued"))

    folder, (counts, *_) = runner.run_dir("whole"), reversed(runner.rows("whole", "eval"))
    assert runner("evaluated", "--eval", "--resume", str(folder), *options) == 0
    assert json.loads((runner.run_dir("evaluated") / "eval.json").read_text())["seen"] == counts["seen"] == 101
    image = next((runner.data / "val").rglob("*.png"))
    own = inference_model(folder, image)
    assert own["pred_class"] in ("circle", "cross", "stripes")
    for program in ("swin", *(("transformers", "timm") if family == "swinv2" else ())):
        output = tmp_path / program
        more = [] if program == "swin" else ["--format", program]
        assert publish.main(["--checkpoint", str(folder), "--output", str(output), *more]) == 0
        assert type(load_predictor(output).model) is type(load_predictor(folder).model)
        if program != "transformers":  # which squashes
            assert inference_model(output, image)["pred_scores"] == pytest.approx(own["pred_scores"], abs=1e-5)
    data = ["--checkpoint", str(folder), "--data-path", str(runner.data)]
    assert evaluate.main([*data, "--output", str(tmp_path / "evaluation")]) == 0
    drawn = ["--checkpoint", str(folder), "--input", str(image), "--output", str(tmp_path / "cam")]
    assert cam.main(drawn) == 0
    assert cam.main([*drawn, "--attention", "1.2"]) == (0 if family == "swinv2" else 2)


def num_parameters(runner) -> int:
    return sum(value.numel() for value in runner.checkpoint("whole")["model"].values())


@pytest.mark.parametrize("to", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_exported_for_other_batches(runner, tmp_path, family, to):
    need(*PACKAGES[to])
    assert runner("run", "--opts", *small(family), "TRAIN.EPOCHS", "1") == 0
    suffix = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}[to]
    flags = ["--checkpoint", str(runner.run_dir("run")), "--to", to, "--output", str(tmp_path / f"model{suffix}")]
    assert export(flags) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_give_the_losses_of_one(runner, family):
    options = ["--opts", *small(family), "AUG.MIXUP", "0", "AUG.CUTMIX", "0", "MODEL.DROP_PATH_RATE", "0"]
    assert_two_processes_give_the_losses_of_one(runner, *options)
