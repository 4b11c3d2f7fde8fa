"""What every table of predictions can do, of one label an image or of any number: one row an image."""

import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from swin.errors import DataError
from swin.files import open_regular
from swin.records import make_folder, replacing

if TYPE_CHECKING:
    from swin.evaluation.predictions import EvalResult

CSV_VALUES = 1 << 24  # above, a CSV has no column a class: it would take minutes to write and to read
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Table(ABC):
    """One row an image, in the order of the data set.

    Attributes:
        classes: Names in the order of the labels (K).
        names: What logs call the images (N).
        about: What is known of model and data, as JSON holds it: `checkpoint`, `data`, `split`, `epoch`.
    """

    KEYS: ClassVar[dict[str, str]]  # by attribute with a row an image, the array's name in a file
    LABEL_TYPE: ClassVar[torch.dtype]  # of the labels

    classes: Sequence[str]
    names: Sequence[str]
    about: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(
        cls,
        logits_NK: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        *,
        names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        about: dict[str, Any] | None = None,
    ) -> Self:
        """Make the table of logits that are at hand; images and classes without names go by their numbers."""
        logits_NK, labels = torch.as_tensor(logits_NK), torch.as_tensor(labels, dtype=cls.LABEL_TYPE)
        columns = zip(cls.KEYS, cls.read(logits_NK, labels, len(logits_NK)), strict=True)
        arrays: dict[str, Any] = {name: None if column is None else column.numpy() for name, column in columns}
        classes = classes if classes is not None else [str(label) for label in range(logits_NK.shape[1])]
        names = names if names is not None else [str(index) for index in range(len(logits_NK))]
        return cls(classes, names, **arrays, about=about or {})

    @staticmethod
    @abstractmethod
    def read(logits_BK: Tensor, labels: Tensor, num_images: int) -> Sequence[Tensor | None]:
        """Compute the columns of a batch where it is, in the order of `KEYS`; nothing waits for the device.

        Args:
            logits_BK: Of any floating type.
            labels: As in a `Batch`.
            num_images: Of the whole table, which decides how much is kept.
        """

    @abstractmethod
    def count(self) -> "EvalResult":
        """Count what was hit."""

    @abstractmethod
    def write_csv(self, path: Path) -> bool:
        """Write a line an image, with the probability of each class; False for a table too large for these."""

    @abstractmethod
    def check_finite(self) -> None:
        """Raise a CheckpointError where the model has given outputs that are not finite."""

    def take(self, rows: np.ndarray) -> Self:
        """Return a table of some of the rows, in copies."""
        columns = {name: getattr(self, name) for name in self.KEYS}
        taken: dict[str, Any] = {name: None if column is None else column[rows] for name, column in columns.items()}
        return replace(self, names=[self.names[index] for index in rows.tolist()], **taken)

    def described(self, **about: Any) -> Self:
        """Return the same table with more said about it."""
        return replace(self, about={**self.about, **about})

    def save(self, path: Path) -> None:
        """Write all of it to an `.npz` file, atomically: `index file`, the columns, `classes about`.

        Raises:
            ConfigError: The file cannot be written.
        """
        columns = {key: getattr(self, name) for name, key in self.KEYS.items()}
        content = {
            "index": np.arange(len(self)),
            "file": np.array(list(self.names), dtype=np.str_),
            **{key: column for key, column in columns.items() if column is not None},
            "classes": np.array(list(self.classes), dtype=np.str_),
            "about": np.array(json.dumps(self.about)),
        }
        make_folder(path.parent)
        # As np.savez does, which cannot name an array "file".
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in content.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)

    @classmethod
    def from_arrays(cls, content: dict[str, np.ndarray]) -> Self:
        """Make the table of what `save` has written; raise a ValueError or a KeyError if it is not that."""
        columns: dict[str, Any] = {name: content.get(key) for name, key in cls.KEYS.items()}
        about = json.loads(str(content["about"]))
        table = cls(content["classes"].tolist(), content["file"].tolist(), **columns, about=about)
        table._check_columns()
        return table

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` has written.

        Raises:
            DataError: The file is missing, or is no such table.
        """
        return read_arrays(path, cls.from_arrays)

    @abstractmethod
    def _check_columns(self) -> None:
        """Raise a ValueError for columns that are missing, or do not fit together."""


def read_arrays(path: Path, make: Callable[[dict[str, np.ndarray]], _T]) -> _T:
    """Make something of the arrays in a file of predictions; raise a DataError where that fails."""
    try:
        with open(open_regular(path), "rb") as file, np.load(file) as archive:
            return make({key: archive[key] for key in archive.files})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no table of predictions ({error}). Evaluate again.") from None
