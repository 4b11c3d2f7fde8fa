"""What changes pixels must not change statistics: ours and timm's recipe, drawn independently, have one distribution.

Two-sample tests with fixed seeds. Each also has to notice a recipe that is slightly different.
"""

import io
import random
from collections import Counter
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import pytest
import timm.data.auto_augment as timm_augment
import torch
from PIL import Image
from scipy import stats
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing as TimmErasing
from timm.data.transforms import RandomResizedCropAndInterpolation

from data import operations
from data.erasing import RandomErasing
from data.samplers import derive_seed
from data.transforms import RandomCrop, TrainTransform
from swin.preprocess import Normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Photographs of 640 x 427 pixels that scikit-learn brings.
PHOTOS = [(files("sklearn.datasets") / "images" / name).read_bytes() for name in ("china.jpg", "flower.jpg")]
ALIKE, DIFFERENT = 0.01, 1e-4  # p-values: at least, and at most


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def least_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The smallest p-value over the columns, by Kolmogorov and Smirnov, corrected for their number."""
    columns = [stats.ks_2samp(ours[:, i], theirs[:, i]).pvalue for i in range(ours.shape[1])]
    return min(columns) * len(columns)


def crops(draw: Callable[[], tuple[int, int, int, int]], seed: int, count: int = 3000) -> np.ndarray:
    """Log area, log shape and relative place of crops (count, 4)."""
    seed_all(seed)
    top, left, height, width = np.array([draw() for _ in range(count)], dtype=float).T
    return np.column_stack([np.log(height * width), np.log(width / height), top / (428 - height), left / (641 - width)])


def test_crops() -> None:
    image = torch.empty(3, 427, 640, device="meta")
    theirs = crops(lambda: RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)), seed=1)
    ours = crops(lambda: RandomCrop((0.08, 1.0), (3 / 4, 4 / 3))(427, 640), seed=2)
    other = crops(lambda: RandomCrop((0.12, 1.0), (3 / 4, 4 / 3))(427, 640), seed=2)
    assert least_p(ours, theirs) > ALIKE
    assert least_p(other, theirs) < DIFFERENT


def test_erased_areas() -> None:
    """How often something is erased, how large it is, of which shape and where."""

    def erased(count: int, draw: Callable[[], list[tuple[int, int, int, int]]]) -> np.ndarray:
        rows = []
        for _ in range(count):
            for top, left, height, width in draw():
                rows.append((height * width, height / width, top / (65 - height), left / (65 - width)))
        return np.array(rows)

    theirs_transform = TimmErasing(0.25, mode="const", max_count=1, device="cpu")

    def timm_draw() -> list[tuple[int, int, int, int]]:
        rows, columns = (theirs_transform(torch.ones(1, 64, 64))[0] == 0).nonzero(as_tuple=True)
        if not len(rows):
            return []
        top, left = int(rows.min()), int(columns.min())
        return [(top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1)]

    def our_draw(prob: float) -> Callable[[], list[tuple[int, int, int, int]]]:
        return lambda: [rectangle[:4] for rectangle in RandomErasing(prob)(64, 64)]

    seed_all(3)
    theirs = erased(6000, timm_draw)
    seed_all(4)
    ours, other = erased(6000, our_draw(0.25)), erased(6000, our_draw(0.3))
    assert least_p(ours, theirs) > ALIKE

    def p_of_counts(one: np.ndarray, two: np.ndarray) -> float:
        table = [[len(one), 6000 - len(one)], [len(two), 6000 - len(two)]]
        return stats.chi2_contingency(table).pvalue

    assert p_of_counts(ours, theirs) > ALIKE
    assert p_of_counts(other, theirs) < DIFFERENT


def test_flips() -> None:
    transform = TrainTransform(img_size=40, channels=3, mean=MEAN, auto_augment=None, color_jitter=0)
    assert len(transform.flips) == 1
    ramp, flipped = torch.arange(4).view(1, 1, 4), 0
    for index in range(20_000):
        torch.default_generator.manual_seed(derive_seed(5, 0, index))  # as for each sample
        flipped += int(transform.flips[0](ramp)[0, 0, 0]) == 3
    assert stats.binomtest(flipped, 20_000, 0.5).pvalue > ALIKE


def applied(policy: Callable, seed: int, monkeypatch: pytest.MonkeyPatch, count: int = 1500) -> list[tuple[str, float]]:
    """The operations that a policy applies to images, with their strengths."""
    seen: list[tuple[str, float]] = []
    with monkeypatch.context() as patch:
        for operation in policy.ops:

            def record(image: Image.Image, *levels: float, name: str = operation.name, **_: object) -> Image.Image:
                seen.append((name, abs(levels[0]) if levels else 0.0))
                return image

            patch.setattr(operation, "aug_fn", record)
        seed_all(seed)
        for _ in range(count):
            policy(Image.new("RGB", (8, 8)))
    return seen


def test_operations_and_their_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    config = "rand-m9-mstd0.5-inc1"
    ours = applied(TrainTransform(img_size=40, channels=3, mean=MEAN).colours[0], 6, monkeypatch)
    parameters = {"translate_const": 18, "img_mean": (124, 116, 104)}
    theirs = applied(timm_augment.rand_augment_transform(config, dict(parameters)), 7, monkeypatch)
    other = applied(timm_augment.rand_augment_transform("rand-m8-mstd0.5-inc1", dict(parameters)), 7, monkeypatch)
    counts = [Counter(name for name, _ in each) for each in (ours, theirs)]
    assert counts[0].keys() == counts[1].keys()
    assert len(counts[0]) == 15
    assert stats.chi2_contingency([[count[name] for name in counts[0]] for count in counts]).pvalue > ALIKE

    def p_of_strengths(one: list[tuple[str, float]], two: list[tuple[str, float]]) -> float:
        both = [[level for op, level in each if op == "ColorIncreasing"] for each in (one, two)]
        return stats.ks_2samp(*both).pvalue

    assert p_of_strengths(ours, theirs) > ALIKE
    assert p_of_strengths(other, theirs) < DIFFERENT


@pytest.fixture
def mended_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's own posterize asks today's Pillow for what it refuses."""
    monkeypatch.setitem(timm_augment.NAME_TO_OP, "PosterizeIncreasing", operations.posterize)


def moments(transform: Callable[[bytes], torch.Tensor], seed: int, count: int = 600) -> np.ndarray:
    """Mean and deviation of each channel, and the mean step between neighbours, of augmented photographs (count, 8)."""
    seed_all(seed)
    rows = []
    for number in range(count):
        values_CHW = transform(PHOTOS[number % 2])
        steps = [values_CHW.diff(dim=dim).abs().mean() for dim in (1, 2)]
        rows.append(torch.cat([values_CHW.mean((1, 2)), values_CHW.std((1, 2)), torch.stack(steps)]).tolist())
    return np.array(rows)


def test_pixels(mended_timm: None) -> None:
    """The whole recipe on photographs: brightness and contrast of each channel, and sharpness."""
    normalise = Normalise(MEAN, STD)

    def ours(**options: object) -> Callable[[bytes], torch.Tensor]:
        transform = TrainTransform(img_size=96, channels=3, mean=MEAN, erase_prob=0.0, **options)
        return lambda content: normalise(transform(content)[0])

    timm_transform = create_transform(
        96,
        is_training=True,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.0,
    )
    theirs = moments(lambda content: timm_transform(Image.open(io.BytesIO(content)).convert("RGB")), seed=8)
    assert least_p(moments(ours(), seed=9), theirs) > ALIKE
    assert least_p(moments(ours(auto_augment=None), seed=9), theirs) < DIFFERENT
    assert least_p(moments(ours(interpolation="nearest"), seed=9), theirs) < DIFFERENT
