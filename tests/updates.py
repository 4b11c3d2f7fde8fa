"""Updates of a small model on any device, without files."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.prepare import build_prepare
from swin.batches import Batch, Data, EvalBatches
from swin.config import Config, load_config
from swin.create import build_model
from swin.distill import Distillation, Teacher
from swin.distill.teacher import LoadedModel
from swin.distributed import Distributed
from swin.engine.build import build_state
from swin.engine.evaluate import evaluate
from swin.engine.precision import Precision
from swin.engine.state import TrainState
from swin.evaluation import EvalResult
from swin.losses import make_loss
from swin.models import SwinTransformer
from swin.preprocess import EvalResize, Normalise

CLASSES = 5
# All that is random, and an average; mixing is on by default.
RANDOM = ["TRAIN.EMA.ENABLE", "True", "AUG.REPROB", "1.0", "MODEL.DROP_PATH_RATE", "0.3", "MODEL.DROP_RATE", "0.1"]


def make_config(*options: str) -> Config:
    sizes = ["DATA.IMG_SIZE", "40", "MODEL.SWIN.WINDOW_SIZE", "4", "MODEL.SWIN.EMBED_DIM", "16"]
    depths = ["MODEL.SWIN.DEPTHS", "[2, 2]", "MODEL.SWIN.NUM_HEADS", "[1, 2]"]  # 10 x 10 tokens: padded and shifted
    return load_config(None, [*sizes, *depths, *options])


def make_lesson(model: SwinTransformer, given: Normalise, *, images: int = 0, **options: Any) -> Distillation:
    """What a student minimises on its device: its teacher is wider, and of another size and mean.

    With a number of `images` there is a table of random logits for them.
    """
    torch.manual_seed(1)
    teacher = build_model(make_config("MODEL.SWIN.EMBED_DIM", "32"), CLASSES)

    def forward_with_map(batch: Tensor) -> tuple[Tensor, Tensor]:
        features = teacher.forward_features(batch)
        return teacher.classify(features), features.permute(0, 3, 1, 2)

    resize, own = EvalResize(img_size=48, crop=False, interpolation="bicubic"), Normalise([0.5] * 3, [0.2] * 3)
    found = LoadedModel("the teacher", teacher, forward_with_map, resize, own, 3, None)
    fitted = Teacher(found, given=given, classes=list("abcde")).to(next(model.parameters()).device)
    table = np.random.default_rng(0).normal(size=(images, CLASSES)) if images else None
    return Distillation(make_loss(smoothing=0.1), model, fitted, table=table, **options)


def make_state(
    device: torch.device, precision: Precision, *options: str, lesson: dict[str, Any] | None = None
) -> TrainState:
    """Make a state; with a `lesson`, which are options of `make_lesson`, of a student."""
    cfg = make_config(*options)
    prepare = build_prepare(cfg, CLASSES)
    data = Data(list("abcde"), None, None, prepare, prepare.normalise, class_counts=[4, 2, 0, 1, 9])
    model = build_model(cfg, CLASSES).to(device)
    objective = None if lesson is None else make_lesson(model, prepare.normalise, **lesson)
    return build_state(cfg, model, data, precision, Distributed(0, 1, 0, device), objective)


def make_batch(rows: list[int], *, update_size: int, is_last: bool) -> Batch:
    """Of the host, with a rectangle to erase in each image; without rows a placeholder."""
    count = max(1, len(rows))
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)).permute(0, 3, 1, 2)
    rectangles = torch.tensor([[index, 3, 4, 10, 8, 1000 + index] for index in range(count)])
    labels = torch.from_numpy(random.integers(0, CLASSES, count))
    return Batch(images, labels, rectangles, [], rows, update_size, is_last, update_size, rows or [0])


def updates() -> Iterator[Batch]:
    """Updates of two micro-batches and a placeholder."""
    while True:
        yield make_batch([0, 1, 2, 3], update_size=6, is_last=False)
        yield make_batch([4, 5], update_size=6, is_last=False)
        yield make_batch([], update_size=6, is_last=True)


def evaluate_batches(state: TrainState, batches: EvalBatches) -> EvalResult:
    """Evaluate a state's model on batches that are made as they are asked for."""
    data = Data([str(label) for label in range(CLASSES)], None, batches, state.prepare, state.prepare.normalise, [])
    return evaluate(state.model, data, state.precision, state.dist)[0]
