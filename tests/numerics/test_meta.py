"""What a GPU would wait for, or refuse, fails here without one.

Tensors of the pretended device are shapes without values. Reading one raises, and so does an operation on two devices,
a copy to the host, and, once the first update is over, a copy to the device that the host waits for. Tensors of the
host are real.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from data.prepare import build_prepare
from swin.batches import Batch, EvalBatches
from swin.create import build_model
from swin.engine.precision import Precision
from swin.engine.state import TrainState
from swin.engine.step import StepTotals, train_step
from swin.inference import Predictor
from swin.kernels import windows
from tests.families import small
from tests.updates import CLASSES, RANDOM, evaluate_batches, make_batch, make_config, make_state, updates

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class WaitError(Exception):
    """The host would have waited for the device."""


class PretendedDevice(FakeTensorMode):
    """Inside it there are tensors on a device that this machine need not have.

    Attributes:
        may_fill: whether copies to the device may make the host wait, as those of what is copied once do.
    """

    avoid_device_init = True  # as without a GPU, so that all machines see the same

    def __init__(self, device_type: str) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.device = torch.device(device_type, 0) if device_type == "cuda" else torch.device(device_type)
        self.may_fill = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            func.namespace == "aten" and torch.is_inference_mode_enabled()
        ):  # in which operations arrive before they are taken apart
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        target = torch.device(kwargs.get("device") or (args[0].device if func in COPIES else "cpu"))
        if target.type != self.device.type and not any(isinstance(tensor, FakeTensor) for tensor in inputs):
            return func(*args, **kwargs)
        if func in COPIES:
            self._check_copy(inputs[-1].device, target, kwargs.get("non_blocking") or args[2:] == (True,))
        if func is torch.ops.aten._fused_sgd_.default:  # which torch has no shapes-only version of
            assert {tensor.device for tensor in inputs} == {self.device}
            return None
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _check_copy(self, source: torch.device, target: torch.device, is_asynchronous: bool) -> None:
        if source.type == target.type:
            return
        if target.type == "cpu":
            raise WaitError("a copy to the host")
        if not (is_asynchronous or self.may_fill):
            raise WaitError("a blocking copy to the device")


class HostGenerator(torch.Generator):
    """On the host, wherever it is asked for: a GPU's cannot be made without one."""

    def __new__(cls, device: Any = "cpu") -> "HostGenerator":
        return super().__new__(cls, "cpu")


@pytest.fixture(params=["meta", "cuda"])
def device(request, monkeypatch) -> Iterator[PretendedDevice]:
    """meta, on which autograd works without a GPU; and CUDA, with its autocast, its loss scaling and its branches."""
    monkeypatch.setattr(torch, "Generator", HostGenerator)
    monkeypatch.setattr(windows, "is_captured", lambda: True)  # what is cached would outlive the pretence
    if request.param == "cuda":
        monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        monkeypatch.setattr(torch.autograd, "backward", pretend_backward)
    else:
        optimizer = sys.modules[torch.optim.Optimizer.__module__]
        monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    with PretendedDevice(request.param) as pretended:
        yield pretended


def pretend_backward(loss: Tensor) -> None:
    """Give every parameter that a loss depends on a gradient. Autograd would look for the GPU's streams."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        if hasattr(node, "variable"):
            node.variable.grad = torch.empty_like(node.variable)


def make_state_on(device: PretendedDevice, *options: str, lesson: dict[str, Any] | None = None) -> TrainState:
    precision = Precision("cuda", torch.float16) if device.device.type == "cuda" else Precision("meta", None)
    return make_state(device.device, precision, *options, lesson=lesson)


def train(device: PretendedDevice, state: TrainState) -> None:
    """Two updates: constants are copied to the device in the first."""
    totals, batches = StepTotals(device.device), updates()
    state.network.train()
    train_step(state, 0, batches, 1e-3, totals, [])
    device.may_fill = False
    train_step(state, 1, batches, 1e-3, totals, [], stop_requested=True)
    assert totals.values.device == totals.asked.device == device.device


SETTINGS = {
    "the official recipe": ["TRAIN.CLIP_GRAD", "5.0"],
    "no limit, mixed by pairs": ["TRAIN.CLIP_GRAD", "0.0", "AUG.REMODE", "rand", "AUG.MIXUP_MODE", "pair"],
    "sgd, mixed by images": ["TRAIN.OPTIMIZER.NAME", "sgd", "AUG.MIXUP_MODE", "elem", "AUG.REMODE", "const"],
    "muon": ["TRAIN.OPTIMIZER.NAME", "muon"],
    "muon and layer decay": ["TRAIN.OPTIMIZER.NAME", "muon", "TRAIN.LAYER_DECAY", "0.8"],
    "bce": ["TRAIN.LOSS", "bce"],
    "bce and no mixing": ["TRAIN.LOSS", "bce", "AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0"],
    "class weights": ["TRAIN.CLASS_WEIGHTS", "balanced"],
    "class weights and no mixing": ["TRAIN.CLASS_WEIGHTS", "balanced", "AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0"],
    "checkpointing": ["TRAIN.USE_CHECKPOINT", "True"],
    "layer decay": ["TRAIN.LAYER_DECAY", "0.8"],
    "frozen parts": ["TRAIN.FREEZE", "['patch_embed', 'layers.0']"],
    "reference attention": ["MODEL.ATTENTION", "eager"],
    "swin v2": small("swinv2"),
    "swin mlp and muon": [*small("swin_mlp"), "TRAIN.OPTIMIZER.NAME", "muon"],
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_update_waits_for_nothing_and_mixes_no_devices(device, setting):
    train(device, make_state_on(device, *RANDOM, *SETTINGS[setting]))


LESSONS = {
    "soft": {},
    "hard": {"kind": "hard"},
    "features": {"features": 0.5, "temperature": 2.0},
    "a table": {"images": 6},
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_teacher_is_not_waited_for(device, lesson, monkeypatch):
    monkeypatch.setattr(Tensor, "pin_memory", lambda rows: rows)  # which needs a GPU
    mixing = ["AUG.MIXUP", "0.0", "AUG.CUTMIX", "0.0"] if lesson == "a table" else []
    train(device, make_state_on(device, *RANDOM, *mixing, lesson=LESSONS[lesson]))


def plant(state: TrainState, fault: Callable[[Tensor, Tensor], Tensor]) -> None:
    loss = state.objective.loss
    state.objective.loss = lambda logits, targets: loss(logits, targets) + fault(logits, targets)


FAULTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "item": lambda logits, targets: logits.sum().item(),
    "bool": lambda logits, targets: 1.0 if logits.isfinite().all() else 0.0,
    "tolist": lambda logits, targets: sum(logits[:, 0].tolist()),
    "numpy": lambda logits, targets: float(logits.detach().cpu().numpy().sum()),
    "selection by a mask": lambda logits, targets: logits[logits > 0].sum(),
    "other device": lambda logits, targets: logits[:, 0] * torch.ones(len(logits)),
    "tensor of a list": lambda logits, targets: torch.tensor([1.0] * len(logits), device=logits.device),
    "blocking copy": lambda logits, targets: torch.ones(len(logits)).to(logits.device),
    "assignment": lambda logits, targets: torch.zeros_like(logits).copy_(torch.ones(logits.shape))[:, 0],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(device, fault):
    if device.device.type == "meta" and fault == "tensor of a list":
        pytest.skip("torch makes such a tensor without a copy on meta")
    state = make_state_on(device, *RANDOM)
    plant(state, FAULTS[fault])
    with pytest.raises((WaitError, RuntimeError)) as caught:
        train(device, state)
    assert "driver" not in str(caught.value)  # it is the fault that was found, not the lack of a GPU


class ReadingBeginsError(Exception):
    """After the batches that matter, where an evaluation reads its counts."""


class EndlessBatches(EvalBatches):
    num_samples = 100

    def __init__(self, device: PretendedDevice) -> None:
        self.device = device

    def __iter__(self) -> Iterator[Batch]:
        for count in (4, 4, 3):
            yield make_batch(list(range(count)), update_size=count, is_last=True)
            self.device.may_fill = False
        raise ReadingBeginsError

    def name(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_the_batches_of_an_evaluation_are_not_waited_for(device, attention):
    state = make_state_on(device, "MODEL.ATTENTION", attention, "TRAIN.EMA.ENABLE", "True")
    with state.ema.applied(state.model), pytest.raises(ReadingBeginsError):
        evaluate_batches(state, EndlessBatches(device))


def test_an_evaluation_that_reads_each_batch_is_found(device):
    state = make_state_on(device)
    state.model.register_forward_hook(lambda module, inputs, logits: print(logits.argmax(1)[0].item()))
    with pytest.raises((WaitError, RuntimeError)):
        evaluate_batches(state, EndlessBatches(device))


def test_a_prediction_waits_only_to_fetch_its_scores(device):
    cfg = make_config()
    model = build_model(cfg, CLASSES).to(device.device).eval()
    fetched: list[Tensor] = []

    def run(images: Tensor) -> Tensor:
        fetched.append(model(images))
        return fetched[0]

    predictor = Predictor(run, build_prepare(cfg, CLASSES).normalise, 3, None, device.device)
    with pytest.raises(WaitError, match="a copy to the host"):
        predictor.scores([torch.zeros(3, 40, 40, dtype=torch.uint8)] * 2)
    assert fetched[0].shape == (2, CLASSES)
