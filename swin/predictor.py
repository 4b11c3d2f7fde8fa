"""A model with what turns images into its input and outputs into names, in torch or in another engine."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swin.engines import ENGINES, PRECISIONS, Description, Engine, write_graph
from swin.errors import CheckpointError, ConfigError, DataError
from swin.evaluation.views import MultiView
from swin.inputs import ImageInput, read_input
from swin.preprocess import EvalTransform

EXPORTED_FOR = ("onnxruntime", "openvino")  # the engines that a model can be handed to


@dataclass(frozen=True)
class Predictor:
    """A model in evaluation mode with what turns images into its input and outputs into names.

    Attributes:
        model: Gives logits (B, K) for images (B, C, H, W).
        transform: uint8 (C, h, w) to normalised tensor (C, H, W).
        channels: C, which files are decoded to.
        classes: K names in the order of the labels; None where they are not known.
        device: Where the model is.
        exif: Whether files are turned as their EXIF orientation says.
        threshold: Of any number of labels an image, the probability from which on a class is predicted; None for one
            label.
        dtype: What images are cast to: the number format of the weights; uint8 for a file that takes pixels.
    """

    model: nn.Module
    transform: Callable[[Tensor], Tensor]
    channels: int
    classes: Sequence[str] | None
    device: torch.device
    exif: bool = False
    threshold: float | None = None
    dtype: torch.dtype = torch.float32

    def with_flips(self) -> "Predictor":
        """Return one that gives the mean of an image's probabilities and those of its mirror image."""
        views = MultiView(self.model, size=None, flip=True, multi_label=self.threshold is not None)
        return replace(self, model=views.eval())

    def in_engine(self, engine: str, dtype: str | None = None) -> "Predictor":
        """Return one whose model runs in an engine on the CPU: it is exported to a file that is not kept.

        This takes seconds to a minute; `python -m tools.export` does it once for all, and compares the file.

        Args:
            engine: `onnxruntime` or `openvino`.
            dtype: `fp32`, the default, or `bf16`, which OpenVINO has where the processor has.

        Raises:
            ConfigError: There is no such engine, it is not installed, or it has no such dtype.
        """
        if engine not in EXPORTED_FOR:
            raise ConfigError(f"engine is {engine!r}; give {' or '.join(map(repr, EXPORTED_FOR))}.")
        # int8 needs images to set its scales by.
        dtypes = [precision for precision in PRECISIONS[ENGINES[engine]] if precision != "int8"]
        if (precision := dtype or "fp32") not in dtypes:
            raise ConfigError(f"dtype is {dtype!r}; give {' or '.join(map(repr, dtypes))} for {engine}.")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            about = self.describe_graph(precision=precision)
            return self.of_file(write_graph(self.model.cpu(), about, ENGINES[engine], Path(folder)))

    @classmethod
    def of_file(cls, path: Path) -> "Predictor":
        """Open a file that `tools.export` has written, in the engine that it is for.

        Raises:
            CheckpointError: It is damaged, or was not written by this project.
            ConfigError: Its engine is not installed.
        """
        engine = Engine(path)
        about = engine.description
        dtype = torch.uint8 if about.has_preprocessing else torch.float32
        place = torch.device("cpu")
        return cls(engine, about.transform(), about.channels, about.classes, place, about.exif, about.threshold, dtype)

    def describe_graph(self, **facts: Any) -> Description:
        """Describe a file of the model; `facts` are further attributes of a description.

        Raises:
            ConfigError: The predictor's images are prepared in a way that a file cannot describe.
        """
        if not isinstance(self.transform, EvalTransform):
            raise ConfigError("what prepares the images is no EvalTransform, which is all that a file can describe.")
        known = {"channels": self.channels, "exif": self.exif, "threshold": self.threshold}
        classes = None if self.classes is None else list(self.classes)
        return Description.of(self.transform, classes=classes, **known, **facts)

    def predict(
        self,
        sources: Iterable[ImageInput],
        *,
        top_k: int | None = None,
        batch_size: int = 32,
        on_error: str = "raise",
    ) -> Iterator[dict[str, Any]]:
        """Yield the result of each input as `inference_model` gives it, a batch at a time; see there."""
        left = iter(sources)
        while batch := list(islice(left, batch_size)):
            found = [self._read_or_error(source, on_error) for source in batch]
            images = [image for image in found if isinstance(image, Tensor)]
            scores = iter(self.scores(images) if images else ())
            for each in found:
                yield self.describe(next(scores), top_k) if isinstance(each, Tensor) else {"error": str(each)}

    def _read_or_error(self, source: ImageInput, on_error: str) -> Tensor | DataError:
        try:
            return self.read(source)
        except DataError as error:
            if on_error == "raise":
                raise
            return error

    def read(self, source: ImageInput) -> Tensor:
        """Turn one input of `inference_model` into what `scores` takes, uint8 (channels, H, W); see `read_input`."""
        return read_input(source, channels=self.channels, exif=self.exif)

    @torch.no_grad()
    def scores(self, images: Sequence[Tensor]) -> Tensor:
        """Return the probabilities (B, K), float32 on the CPU, of a batch of B >= 1 images; with a threshold, sigmoids.

        Raises:
            CheckpointError: If the model gives NaN or infinite outputs, or its classes are not as many as its names.
        """
        batch_BCHW = torch.stack([self.transform(image) for image in images])
        logits_BK: Tensor = self.model(batch_BCHW.to(self.device, self.dtype)).float().cpu()
        if not torch.isfinite(logits_BK).all():
            raise CheckpointError("The model's outputs are not finite: its weights are damaged. Use another file.")
        if self.classes is not None and len(self.classes) != logits_BK.shape[1]:
            raise CheckpointError(
                f"The model has {logits_BK.shape[1]} outputs but {len(self.classes)} class names: make them agree."
            )
        return logits_BK.softmax(dim=1) if self.threshold is None else logits_BK.sigmoid()

    def describe(self, scores_K: Tensor, top_k: int | None = None) -> dict[str, Any]:
        """Turn the probabilities (K,) of one image into the result of `inference_model`."""
        values = scores_K.tolist()
        order = scores_K.argsort(descending=True, stable=True)[: top_k or 1].tolist()
        names = self.classes or range(len(values))
        best = [{"label": label, "class": str(names[label]), "score": values[label]} for label in order]
        result = {"pred_scores": values, **{f"pred_{key}": best[0][key] for key in ("label", "score", "class")}}
        if self.threshold is not None:
            ranked = scores_K.argsort(descending=True, stable=True)
            labels = ranked[scores_K[ranked] >= self.threshold].tolist()
            result |= {"pred_labels": labels, "pred_classes": [str(names[label]) for label in labels]}
        return result if top_k is None else {**result, "top_k": best}
