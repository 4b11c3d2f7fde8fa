"""Swin Transformer models."""

from swin.models.flops import count_flops, count_parameters
from swin.models.freeze import freeze
from swin.models.lora import add_adapters
from swin.models.swin import SwinTransformer
from swin.variants import VARIANTS, list_models

__all__ = ["VARIANTS", "SwinTransformer", "add_adapters", "count_flops", "count_parameters", "freeze", "list_models"]
