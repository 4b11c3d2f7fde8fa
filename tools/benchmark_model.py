"""Contestants of the model benchmark; `swin.engine.throughput` times them.

On a CPU each has a process of its own, so that neither the allocator nor the caches of one serve another.
"""

import gc
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from swin.cpu import keep_freed_memory
from swin.engine.precision import Precision
from swin.engine.throughput import Action, Floor, peak_bytes
from swin.errors import ConfigError
from swin.models import SwinTransformer
from swin.weights import model_arguments
from swin.weights.formats import from_native
from tools.convert_weights import make_peer

PEERS = ("timm", "torchvision")


def make_contestant(name: str, ours: SwinTransformer) -> nn.Module:
    """The same model of another library, with the weights of `ours`.

    Raises:
        ConfigError: the library is not one of `PEERS`.
    """
    if name not in PEERS:
        raise ConfigError(f"--against names '{name}'; expected some of: {', '.join(PEERS)}.")
    weights = ours.state_dict()
    model = make_peer(name, {**model_arguments(weights), "img_size": ours.img_size})
    assert model is not None
    model.load_state_dict(from_native(weights, name, img_size=ours.img_size))
    return model


def make_action(model: nn.Module, images: Tensor, labels: Tensor, precision: Precision, *, train: bool) -> Action:
    """A forward pass, or forward and backward, of a model."""

    def run() -> None:
        model.train(train)
        with nullcontext() if train else torch.inference_mode(), precision.autocast():
            output = model(images)
            loss = F.cross_entropy(output, labels) if train and not isinstance(model, Floor) else None
        if loss is not None:
            loss.backward()
        if train:
            model.zero_grad(set_to_none=True)

    return run


def compiled(model: nn.Module, mode: str) -> nn.Module:
    """The model through torch.compile, unless `mode` is "off" or it is the floor."""
    return model if mode == "off" or isinstance(model, Floor) else torch.compile(model, mode=mode)  # type: ignore[return-value]


class ProcessAction:
    """`make_action` in a process of its own.

    Args:
        model: is copied there.
        images: (B, in_chans, height, width).
        labels: (B,).
        precision: of the forward pass.
        train: whether to go backward as well.
        compile_mode: as `compiled`.
        keep_memory: whether the process calls `keep_freed_memory`, as main.py does.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        precision: Precision,
        *,
        train: bool,
        compile_mode: str,
        keep_memory: bool,
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the parent's memory and broken threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), keep_memory), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.send_bytes(pickle.dumps((model, images, labels, precision, train, compile_mode)))

    def __call__(self) -> None:
        self._ask("run")

    def peak_bytes(self) -> int:
        """Greatest resident memory of the process so far."""
        return self._ask("peak")

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()

    def _ask(self, what: str) -> int:
        try:
            self._pipe.send(what)
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RuntimeError(f"a contestant's process ended with status {self._process.exitcode}") from None


def _serve(pipe: Connection, threads: int, keep_memory: bool) -> None:
    if keep_memory:
        keep_freed_memory()
    torch.set_num_threads(threads)
    model, images, labels, precision, train, compile_mode = pickle.loads(pipe.recv_bytes())
    action = make_action(compiled(model, compile_mode), images, labels, precision, train=train)
    while True:
        try:
            what = pipe.recv()
        except EOFError:
            return
        if what == "run":
            action()
        pipe.send(peak_bytes(torch.device("cpu")))


def activation_bytes(model: nn.Module, images: Tensor, precision: Precision) -> int:
    """Bytes an image that a forward pass keeps for its backward pass, parameters not counted."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # keeps its address from being used again
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), precision.autocast():
        output = model(images)
    del output
    return sum(storages.values()) // len(images)


def largest_batch(step: Callable[[int], object], *, limit: int = 4096) -> int:
    """The largest batch, to within a few percent, for which `step(batch)` does not run out of CUDA memory."""

    def fits(batch: int) -> bool:
        try:
            step(batch)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    best = 0
    for batch in _powers_of_two(limit):
        if not fits(batch):
            break
        best = batch
    step_size = best // 2
    while best < limit and step_size > best // 16:
        if fits(best + step_size):
            best += step_size
        step_size //= 2
    return best


def _powers_of_two(limit: int) -> Iterator[int]:
    batch = 1
    while batch <= limit:
        yield batch
        batch *= 2


def scaling_exponent(pixels: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of log(seconds) against log(pixels), by least squares: 1 where cost grows linearly."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (pixels, seconds))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def machine(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for the header of a result."""
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "torchvision": torchvision.__version__,
        "python": sys.version.split()[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "cpu"
