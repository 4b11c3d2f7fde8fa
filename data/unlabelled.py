"""The images of a pre-training: of any layout those for training, without their labels."""

from typing import Any

from data.archives import fill_caches
from data.layouts import find_unlabelled
from data.loaders import build_train_loader, build_view
from data.prepare import build_prepare
from data.transforms import build_eval_pixels
from swin.batches import Data
from swin.config import Config
from swin.errors import DataError


def build_unlabelled(cfg: Config, **common: Any) -> Data:
    """Build the images that a pre-training takes, which has neither classes nor evaluations.

    Args:
        common: Options of the loaders, see `data.loaders.loader_options`, `rank` and `world_size`.

    Raises:
        DataError: There are none.
    """
    layout, part = find_unlabelled(cfg)
    source = layout.open([part], None).sources[part]
    if not len(source.labels):
        raise DataError(f"{layout.shown(part)} holds no images: pre-training takes any, labelled or not.")
    options = {name: common[name] for name in ("rank", "world_size")}
    notes = fill_caches(source, [], cache_mode=cfg.DATA.CACHE_MODE, **options)
    prepare = build_prepare(cfg, 0)
    return Data(
        classes=[],
        train=build_train_loader(cfg, source, in_pairs=False, **common),
        val=None,
        prepare=prepare,
        normalise=prepare.normalise,
        class_counts=[],
        notes=tuple(notes),
        view=build_view(source, build_eval_pixels(cfg), **common),
    )
