"""Swin Transformer models."""

from swin.models.flops import count_flops, count_parameters
from swin.models.swin import SwinTransformer
from swin.models.variants import VARIANTS, build_model, create_model, list_models

__all__ = [
    "VARIANTS",
    "SwinTransformer",
    "build_model",
    "count_flops",
    "count_parameters",
    "create_model",
    "list_models",
]
