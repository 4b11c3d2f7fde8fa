"""Swin Transformer models."""

from swin.models.flops import count_flops, count_module_flops, count_parameters
from swin.models.freeze import freeze
from swin.models.swin import SwinTransformer
from swin.models.variants import (
    VARIANTS,
    Variant,
    build_model,
    create_model,
    eval_transform_args,
    find_variant,
    list_models,
)

__all__ = [
    "VARIANTS",
    "SwinTransformer",
    "Variant",
    "build_model",
    "count_flops",
    "count_module_flops",
    "count_parameters",
    "create_model",
    "eval_transform_args",
    "find_variant",
    "freeze",
    "list_models",
]
