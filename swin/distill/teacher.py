"""A teacher: a model that looks at a student's images as it was trained to see them, and is never trained itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.errors import ConfigError
from swin.preprocess import EvalResize, Normalise
from swin.weights.digest import digest
from swin.weights.labels import imagenet_classes, match_classes

# Images (B, C, H, W) as a model takes them to its logits (B, K) and its last feature map (B, D, h, w).
ForwardWithMap = Callable[[Tensor], tuple[Tensor, Tensor]]


class LoadedModel(NamedTuple):
    """A model of any program as it was found, on the CPU."""

    name: str  # for messages
    model: nn.Module
    forward_with_map: ForwardWithMap
    resize: EvalResize  # from an image's own pixels to what the model was trained on
    normalise: Normalise
    channels: int
    classes: Sequence[str] | None  # names in the order of its outputs; None where they are not known


class Teacher(nn.Module):
    """A model for a student's images and classes. It stays in evaluation mode, and none of its parameters is trained.

    Attributes:
        name: for messages.
        resize: how it sees an image that has not been augmented.
        digest: of its weights and of how it sees images.
        has_names: whether its classes are known by name, and so compared with the student's.
    """

    rows: Tensor | None

    def __init__(self, found: LoadedModel, *, given: Normalise, classes: Sequence[str]) -> None:
        """Fit what was found to a student's images, which `given` has normalised, and to its classes.

        Raises:
            ConfigError: its channels or classes are others.
        """
        super().__init__()
        self.name, self.resize, self._forward_with_map = found.name, found.resize, found.forward_with_map
        self.model = found.model.requires_grad_(False)
        self.eval()
        self.given, self.normalise, self.channels = given, found.normalise, found.channels
        _check_channels(found, len(given.mean_C11))
        self.is_normalised = torch.equal(given.mean_C11.cpu(), found.normalise.mean_C11) and torch.equal(
            given.std_C11.cpu(), found.normalise.std_C11
        )
        rows, self.has_names = _match_rows(found, self._count_outputs(), classes)
        self.register_buffer("rows", None if rows is None else torch.tensor(rows), persistent=False)
        statistics = [found.normalise.mean_C11, found.normalise.std_C11]
        view: list[Any] = [list(self.resize.size), self.resize.crop, self.resize.interpolation, found.channels]
        self.digest = digest({"weights": dict(found.model.state_dict()), "view": [*view, *statistics], "rows": rows})

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K), in the order of the student's classes, for images (B, C, H, W) as the student's."""
        return self._order(self.model(self.adapt(images)))

    def forward_with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of `forward`, and the last feature map (B, D, h, w)."""
        logits_BK, map_BDhw = self._forward_with_map(self.adapt(images))
        return self._order(logits_BK), map_BDhw

    def adapt(self, images: Tensor) -> Tensor:
        """Turn images as the student takes them into what the model takes, of its own size, mean and deviation."""
        if images.shape[2:] != self.resize.size:
            images = F.interpolate(images, self.resize.size, mode="bicubic", antialias=True)
        if self.is_normalised:
            return images
        values = self.given.undo(images).expand(-1, self.channels, -1, -1)
        return self.normalise(values * 255)

    def count_features(self) -> int:
        """Return the channels of the last feature map.

        Raises:
            ConfigError: the model gives none.
        """
        advice = " Set TRAIN.DISTILL.FEATURES to 0, or take another."
        maps = self._try(lambda images: self._forward_with_map(images)[1], advice)
        if maps.ndim != 4:
            raise ConfigError(
                f"the teacher {self.name} has no feature map, but values of shape {tuple(maps.shape[1:])}: set "
                "TRAIN.DISTILL.FEATURES to 0, or take another teacher."
            )
        return maps.shape[1]

    def _count_outputs(self) -> int:
        logits = self._try(self.model, " TRAIN.DISTILL.CONFIG can say another DATA.IMG_SIZE.")
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ConfigError(f"the teacher {self.name} is no classifier: its output is no table of logits.")
        return logits.shape[1]

    @torch.no_grad()
    def _try(self, call: Callable[[Tensor], Any], advice: str) -> Any:
        """Call the model on an empty image of the size that it is said to take."""
        device = next(self.model.parameters()).device
        try:
            return call(torch.zeros(1, self.channels, *self.resize.size, device=device))
        except Exception as error:  # other people's models refuse in ways of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            size = " x ".join(map(str, self.resize.size))
            raise ConfigError(f"the teacher {self.name} refuses an image of {size} ({reason}).{advice}") from None

    def _order(self, logits_BK: Tensor) -> Tensor:
        return logits_BK if self.rows is None else logits_BK.index_select(1, self.rows)


def _check_channels(found: LoadedModel, channels: int) -> None:
    if found.channels != channels and (found.channels, channels) != (3, 1):  # grey values do as red, green and blue
        raise ConfigError(
            f"the teacher {found.name} takes images of {found.channels} channels, and the student's have {channels} "
            "(MODEL.SWIN.IN_CHANS): use a teacher of the same images."
        )


def _match_rows(found: LoadedModel, count: int, classes: Sequence[str]) -> tuple[list[int] | None, bool]:
    """Find the output of each of a student's classes; None where they are taken as they come. And whether by name."""
    names, is_guess = found.classes, False
    if names is None:  # a head of ImageNet's size may be ImageNet's
        names, is_guess = imagenet_classes(count), True
    rows = match_classes(names, classes) if names else []
    missing = [name for name, row in zip(classes, rows, strict=False) if row is None]
    if count == len(classes) and (not names or (is_guess and missing)):
        return None, False
    if count == len(classes) and not missing:
        known = [row for row in rows if row is not None]
        return (None if known == list(range(count)) else known), True
    unknown = f"; it does not know {missing[0]!r}" if missing and not is_guess else ""
    raise ConfigError(
        f"the teacher {found.name} knows {count} classes and the data have {len(classes)}{unknown}. A teacher must "
        "have the classes of the data: train it, or fine-tune it, on them first."
    )
