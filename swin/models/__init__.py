"""Models of the Swin family."""

from swin.models.backbone import Backbone
from swin.models.flops import count_flops, count_parameters
from swin.models.freeze import freeze
from swin.models.lora import add_adapters
from swin.models.swin import SwinTransformer
from swin.models.swin_mlp import SwinMLP
from swin.models.swin_v2 import SwinTransformerV2
from swin.variants import VARIANTS, list_models

# The class of each family, by MODEL.TYPE.
CLASSES: dict[str, type[Backbone]] = {"swin": SwinTransformer, "swinv2": SwinTransformerV2, "swin_mlp": SwinMLP}

__all__ = [
    "CLASSES",
    "VARIANTS",
    "Backbone",
    "SwinMLP",
    "SwinTransformer",
    "SwinTransformerV2",
    "add_adapters",
    "count_flops",
    "count_parameters",
    "freeze",
    "list_models",
]
