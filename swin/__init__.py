"""Swin Transformer image classifiers: models, weights and inference."""

from swin.create import create_model
from swin.inference import inference_model
from swin.models import SwinTransformer, list_models
from swin.weights import load_weights

__all__ = ["SwinTransformer", "create_model", "inference_model", "list_models", "load_weights"]
