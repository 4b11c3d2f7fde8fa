"""Pictures that tools draw with matplotlib, each with JSON of what it shows beside it."""

import importlib.util
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swin.errors import ConfigError
from swin.records import make_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require(*packages: str) -> None:
    """Raise a ConfigError unless these packages of the extra `report` are installed; imports none of them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'{package} is not installed, which this needs: pip install "swin-trainer[report]"')


def plain(text: str, length: int = 40) -> str:
    """Return text as matplotlib shows it unchanged, shortened: a dollar sign would begin a formula."""
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")


def save_picture(figure: "Figure", path: Path, facts: dict[str, Any]) -> None:
    """Write a figure as PNG, and `facts` beside it as JSON of the same name.

    Raises:
        ConfigError: The name ends otherwise than in .png, or a file cannot be written.
    """
    if path.suffix != ".png":
        raise ConfigError(f"the picture {path} has to end in .png; its JSON is written beside it.")
    make_folder(path.parent)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    write_atomically(path, file.getvalue())
    write_atomically(path.with_suffix(".json"), json.dumps(facts, allow_nan=False).encode())
