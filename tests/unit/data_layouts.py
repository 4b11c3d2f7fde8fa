"""Data sets of each layout, opened as a config would open them."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from data import layouts
from data.build import open_sets
from data.sources import Sets
from swin.config import load_config

_KEYS = {"val_split": "DATA.VAL_SPLIT", "seed": "SEED", "cache_mode": "DATA.CACHE_MODE"}


def open_layout(finder: str, keys: Mapping[str, Any], root: Path, **options: Any) -> Sets:
    """Open a folder that may hold other layouts, too; `options` are those of `open_sets`, and keys named as above."""
    given = {_KEYS[name]: options.pop(name) for name in list(options) if name in _KEYS}
    finders = {"find_cub", "find_tables", "find_shards", "find_folders", "find_imagenet22k", "find_zips"} - {finder}
    config = load_config(overrides={"DATA.DATA_PATH": str(root), **keys, **given})
    with mock.patch.multiple(layouts, **{name: lambda *some: [] for name in finders}):
        return open_sets(config, **options)


open_folders: Callable[..., Sets] = partial(open_layout, "find_folders", {})
open_zips: Callable[..., Sets] = partial(open_layout, "find_zips", {"DATA.ZIP_MODE": True, "DATA.CACHE_MODE": "no"})
open_tables: Callable[..., Sets] = partial(open_layout, "find_tables", {})
open_shards: Callable[..., Sets] = partial(open_layout, "find_shards", {})
open_cub: Callable[..., Sets] = partial(open_layout, "find_cub", {})
open_imagenet22k: Callable[..., Sets] = partial(open_layout, "find_imagenet22k", {"DATA.DATASET": "imagenet22K"})
