"""Models in the formats of engines that run them elsewhere: onnxruntime, OpenVINO, and torch without this project."""

from swin.engines.description import Description
from swin.engines.graph import Graph
from swin.engines.run import ENGINES, Engine, engine_of
from swin.engines.write import PRECISIONS, SUFFIXES, check_precision, write_graph

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "SUFFIXES",
    "Description",
    "Engine",
    "Graph",
    "check_precision",
    "engine_of",
    "write_graph",
]
