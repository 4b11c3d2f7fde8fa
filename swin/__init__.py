"""Swin Transformer image classifiers: models, weights and inference."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swin.create import create_model
    from swin.inference import inference_model, load_predictor
    from swin.models import SwinMLP, SwinTransformer, SwinTransformerV2, list_models
    from swin.weights import load_weights

__all__ = [
    "SwinMLP",
    "SwinTransformer",
    "SwinTransformerV2",
    "create_model",
    "inference_model",
    "list_models",
    "load_predictor",
    "load_weights",
]

_MODULES = {
    "SwinMLP": "models",
    "SwinTransformer": "models",
    "SwinTransformerV2": "models",
    "create_model": "create",
    "inference_model": "inference",
    "list_models": "models",
    "load_predictor": "inference",
    "load_weights": "weights",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: PyTorch takes seconds, which a look at a config need not wait for."""
    if name in _MODULES:
        return getattr(import_module(f"swin.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
