"""Swin Transformer models."""

from swin.models.flops import count_flops, count_module_flops, count_parameters
from swin.models.freeze import freeze
from swin.models.swin import SwinTransformer
from swin.models.variants import VARIANTS, Variant, find_variant, list_models

__all__ = [
    "VARIANTS",
    "SwinTransformer",
    "Variant",
    "count_flops",
    "count_module_flops",
    "count_parameters",
    "find_variant",
    "freeze",
    "list_models",
]
