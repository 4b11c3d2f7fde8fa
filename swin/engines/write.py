"""Graphs as files: ONNX, OpenVINO's IR, and torch.export's .pt2."""

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from swin.engines.description import KEY, Description
from swin.engines.graph import Graph, dynamic_batch
from swin.engines.packages import keep_signal_stack, need
from swin.errors import ConfigError

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
PRECISIONS = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "bf16", "int8"), "torch": ("fp32", "bf16")}
METADATA = "metadata.json"  # the member of a .pt2 file
_QUANTISED = ("MatMul", "Gemm", "Conv")


def write_graph(
    model: nn.Module,
    description: Description,
    to: str,
    folder: Path,
    *,
    calibration: Sequence[np.ndarray] = (),
) -> Path:
    """Write a model for an engine.

    Args:
        model: images (B, C, H, W) to logits (B, K), in evaluation mode, on the CPU.
        description: of the file; its precision is one of `PRECISIONS[to]`.
        to: a key of `SUFFIXES`.
        folder: where the file is written, under the name `model`; OpenVINO's weights are beside it.
        calibration: for int8, batches as the graph takes them, whose activations set the scales.

    Returns:
        The file.

    Raises:
        ConfigError: the package that writes it is not installed, or the format has no such precision.
    """
    check_precision(to, description.precision)
    dtype = torch.float32
    if (to, description.precision) == ("torch", "bf16"):
        model, dtype = copy.deepcopy(model), torch.bfloat16
    graph = Graph(model, description, dtype).eval()
    path = folder / f"model{SUFFIXES[to]}"
    with _quiet(), torch.no_grad():
        _WRITERS[to](graph, description, path, calibration)
    return path


def check_precision(to: str, precision: str) -> None:
    """Raise a ConfigError where a format has no such precision; onnxruntime has no bf16 kernels for CPUs, for one."""
    if precision not in PRECISIONS[to]:
        raise ConfigError(
            f"--to {to} has no --precision {precision}: choose from {', '.join(PRECISIONS[to])}, or another --to."
        )


def _write_torch(graph: Graph, description: Description, path: Path, _: Sequence[np.ndarray]) -> None:
    exported = torch.export.export(graph, (graph.example(description),), dynamic_shapes=dynamic_batch())
    for node in exported.graph.nodes:  # where the model's code lies on this machine
        node.meta.pop("stack_trace", None)
    torch.export.save(exported, path, extra_files={METADATA: description.to_json()})


def _write_onnx(graph: Graph, description: Description, path: Path, calibration: Sequence[np.ndarray]) -> None:
    need("onnx", "onnxscript", extra="onnx")
    program = torch.onnx.export(
        graph,
        (graph.example(description),),
        dynamo=True,
        dynamic_shapes=dynamic_batch(),
        input_names=["images"],
        output_names=[graph.output_name],
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():  # where the model's code lies on this machine, and more
        node.metadata_props.clear()
    program.model.metadata_props[KEY] = description.to_json()
    program.save(path)
    if description.precision == "int8":
        _quantise_onnx(path, calibration)


def _quantise_onnx(path: Path, calibration: Sequence[np.ndarray]) -> None:
    """Quantise products and convolutions, by channels, to 8 bits with the scales that the calibration shows."""
    need("onnxruntime", extra="onnx")
    from onnxruntime.quantization import QuantFormat, quant_pre_process, quantize_static

    class Reader:
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "model.onnx")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
        )
        shutil.copyfile(quantised, path)


def _write_openvino(graph: Graph, description: Description, path: Path, calibration: Sequence[np.ndarray]) -> None:
    openvino = need("openvino", extra="openvino")
    need("onnx", "onnxscript", extra="openvino")
    with tempfile.TemporaryDirectory() as folder:
        through = Path(folder, "model.onnx")
        _write_onnx(graph, replace(description, precision="fp32"), through, ())
        converted = openvino.Core().read_model(through)
        if description.precision == "int8":
            nncf = need("nncf", extra="openvino")
            dataset = nncf.Dataset([{"images": batch} for batch in calibration])
            size = len(calibration)
            kind = nncf.ModelType.TRANSFORMER
            with keep_signal_stack():
                converted = nncf.quantize(converted, dataset, model_type=kind, subset_size=size)
        converted.set_rt_info(description.to_json(), [KEY])
        openvino.save_model(converted, path, compress_to_fp16=False)


_WRITERS: dict[str, Callable[[Graph, Description, Path, Sequence[np.ndarray]], None]] = {
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "torch": _write_torch,
}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters warn of and log, which is about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
