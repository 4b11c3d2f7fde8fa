"""Running an exported file in the engine that it is for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swin.engines.description import KEY, Description
from swin.engines.packages import keep_signal_stack, need
from swin.engines.write import METADATA, SUFFIXES
from swin.errors import CheckpointError

# The engine that runs a format, and by which name users know it.
ENGINES = {"onnxruntime": "onnx", "openvino": "openvino", "torch": "torch"}

Run = Callable[[np.ndarray], np.ndarray]


class Engine(nn.Module):
    """An exported file as a model: images (B, C, H, W), as its description says, to logits (B, K) on the CPU.

    Attributes:
        description: what the file says about itself.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a file.

        Raises:
            CheckpointError: it is damaged, or was not written by this project.
            ConfigError: its engine is not installed.
        """
        super().__init__()
        path = Path(path)
        if (name := engine_of(path)) is None:
            raise CheckpointError(f"{path} is no exported model: expected one of {', '.join(SUFFIXES.values())}.")
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist, or is no file; export it with python -m tools.export.")
        self._run, self.description = _OPENERS[name](path)

    def forward(self, images: Tensor) -> Tensor:
        output = torch.from_numpy(self._run(images.numpy(force=True)))
        if not self.description.has_preprocessing:
            return output
        smallest = torch.finfo(output.dtype).tiny
        return output.clamp(min=smallest).log() if self.description.threshold is None else output.logit(eps=1e-7)


def engine_of(path: str | Path) -> str | None:
    """Return the engine that a file is for, by the end of its name; None for what is no exported file."""
    return next((name for name, to in ENGINES.items() if Path(path).suffix == SUFFIXES[to]), None)


def _describe(text: Any, path: Path) -> Description:
    if not isinstance(text, str) or not text:
        raise CheckpointError(
            f"{path} does not say which classes it has and how images become its input: it was not written by "
            "python -m tools.export. Export it from its checkpoint."
        )
    return Description.from_json(text, str(path))


def _damaged(path: Path, error: Exception) -> CheckpointError:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    reason = (lines or [type(error).__name__])[0][:200]
    return CheckpointError(f"{path} cannot be opened: it is damaged or of another version ({reason}); export it again.")


def _open_onnxruntime(path: Path) -> tuple[Run, Description]:
    runtime = need("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for each status
        raise _damaged(path, error) from None
    description = _describe(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    return lambda images: session.run(None, {"images": images})[0], description


def _open_openvino(path: Path) -> tuple[Run, Description]:
    openvino = need("openvino", extra="openvino")
    try:
        model = openvino.Core().read_model(path)
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    except RuntimeError as error:
        raise _damaged(path, error) from None
    description = _describe(text, path)
    precision = "bf16" if description.precision == "bf16" else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    with keep_signal_stack():
        compiled = openvino.compile_model(model, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
    return lambda images: np.array(compiled(images)[0]), description


def _open_torch(path: Path) -> tuple[Run, Description]:
    extra = {METADATA: ""}
    try:
        module = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # a damaged archive can make it raise anything
        raise _damaged(path, error) from None
    description = _describe(extra[METADATA], path)

    @torch.inference_mode()
    def run(images: np.ndarray) -> np.ndarray:
        return module(torch.from_numpy(images)).numpy()

    return run, description


_OPENERS: dict[str, Callable[[Path], tuple[Run, Description]]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "torch": _open_torch,
}
