"""Models in the formats of engines that run them elsewhere: onnxruntime, OpenVINO, and torch without this project."""

from swin.engines.description import Description
from swin.engines.graph import Graph
from swin.engines.run import ENGINES, Engine
from swin.engines.write import PRECISIONS, SUFFIXES, check_precision, write_graph

__all__ = ["ENGINES", "PRECISIONS", "SUFFIXES", "Description", "Engine", "Graph", "check_precision", "write_graph"]
