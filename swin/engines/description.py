"""What an exported file says about itself: classes, and how images become its input."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from swin.errors import CheckpointError
from swin.preprocess import INTERPOLATIONS, EvalResize, EvalTransform, Normalise

KEY = "swin"  # under which a file's metadata has the JSON text of a description


@dataclass(frozen=True)
class Description:
    """What is needed to use a file without the checkpoint that it was made of.

    Attributes:
        classes: names in the order of the outputs; None where they are not known.
        size: (H, W) in pixels of the images that the graph takes.
        channels: of these images.
        mean: of each channel, on a scale of 0 to 1.
        std: standard deviation of each channel, likewise.
        crop: whether the centre is cut out of a larger image, see `swin.preprocess.EvalResize`.
        crop_pct: what remains of the short side then, as a fraction.
        interpolation: by which images are resized, a key of `swin.preprocess.INTERPOLATIONS`.
        exif: whether images are turned as their EXIF orientation says.
        threshold: of any number of labels an image, the probability from which on a class is predicted; None for one.
        has_preprocessing: whether the graph takes uint8 and gives probabilities; else it takes what has been normalised
            and gives logits.
        precision: in which the graph is to be run: fp32, bf16 or int8.
        source: the checkpoint that it was made of.
    """

    classes: list[str] | None
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: bool
    crop_pct: float
    interpolation: str
    exif: bool = False
    threshold: float | None = None
    has_preprocessing: bool = False
    precision: str = "fp32"
    source: str = ""

    @classmethod
    def of(cls, transform: EvalTransform, **facts: Any) -> "Description":
        """Describe the transform of a predictor, and other attributes as they are given."""
        resize, normalise = transform.resize, transform.normalise
        mean, std = (tuple(values.flatten().tolist()) for values in (normalise.mean_C11, normalise.std_C11))
        facts |= {"crop": resize.crop, "crop_pct": resize.crop_pct, "interpolation": resize.interpolation}
        return cls(size=resize.size, mean=mean, std=std, **facts)

    def resize(self) -> EvalResize:
        """Make what brings pixels, uint8 (channels, h, w), to the graph's size."""
        crop_pct = self.crop_pct if self.crop else None
        return EvalResize(img_size=self.size, crop=self.crop, interpolation=self.interpolation, crop_pct=crop_pct)

    def transform(self) -> EvalTransform | EvalResize:
        """Make what turns pixels, uint8 (channels, h, w), into the graph's input (channels, H, W)."""
        resize = self.resize()
        return resize if self.has_preprocessing else EvalTransform(resize, self.normalise())

    def normalise(self) -> Normalise:
        """Make what normalises pixels of the graph's size, where the graph does not."""
        return Normalise(self.mean, self.std)

    def to_json(self) -> str:
        """Return the text that a file carries."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, name: str) -> "Description":
        """Read the text back; `name` is the file, for messages.

        Raises:
            CheckpointError: it is not what `to_json` writes.
        """
        try:
            found = json.loads(text)
            made = cls(**{field.name: found[field.name] for field in fields(cls)})
            return made._checked()
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"what {name} says about itself is damaged ({type(error).__name__}: {error}); export it again."
            ) from None

    def _checked(self) -> "Description":
        height, width = map(int, self.size)
        mean, std = tuple(map(float, self.mean)), tuple(map(float, self.std))
        classes = None if self.classes is None else [str(name) for name in self.classes]
        is_sound = (
            0 < height <= 1 << 14
            and 0 < width <= 1 << 14
            and len(mean) == len(std) == self.channels
            and all(deviation > 0 for deviation in std)
            and 0 < self.crop_pct <= 1
            and self.interpolation in INTERPOLATIONS
            and self.precision in ("fp32", "bf16", "int8")
            and (self.threshold is None or 0 <= self.threshold <= 1)
        )
        if not is_sound:
            raise ValueError("a number or a word is out of range")
        return replace(self, size=(height, width), mean=mean, std=std, classes=classes)
