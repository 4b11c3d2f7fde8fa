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


_MAX_FONT_FILES = 100  # that are searched for letters; a system may have thousands


def require(*packages: str) -> None:
    """Raise a ConfigError unless these packages of the extra `report` are installed; imports none of them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'{package} is not installed, which this needs: pip install "swin-trainer[report]"')


def find_fonts(letters: set[str]) -> tuple[list[str], set[str]]:
    """Return font families for letters, matplotlib's own first, and the letters that none has."""
    require("matplotlib")
    from matplotlib.font_manager import findfont, findSystemFonts, fontManager
    from matplotlib.ft2font import FT2Font

    fonts = ["DejaVu Sans"]
    missing = letters - set(map(chr, FT2Font(findfont(fonts[0])).get_charmap()))
    if not missing:
        return fonts, missing
    # Upright fonts of normal weight first. The manager's own list may be older than the fonts that are installed.
    files = sorted(findSystemFonts(), key=lambda file: ("Regular" not in file, "Sans" not in file, file))
    for file in files[:_MAX_FONT_FILES]:
        try:
            font = FT2Font(file)
            found = missing.intersection(map(chr, font.get_charmap()))
        except (RuntimeError, OSError):  # not a font that FreeType draws
            continue
        if found:
            if not any(known.fname == file for known in fontManager.ttflist):
                fontManager.addfont(file)
            fonts.append(font.family_name)
            missing -= found
        if not missing:
            break
    return fonts, missing


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
    from matplotlib.text import Text

    make_folder(path.parent)
    texts = figure.findobj(Text)
    fonts, missing = find_fonts(set().union(*(text.get_text() for text in texts)) - {"\n"})
    for text in texts:  # with a font that has its letters, and marks for those that no font has
        text.set_fontfamily(fonts)
        text.set_text("".join("?" if letter in missing else letter for letter in text.get_text()))
    file = io.BytesIO()
    figure.savefig(file, format="png")
    write_atomically(path, file.getvalue())
    write_atomically(path.with_suffix(".json"), json.dumps(facts, allow_nan=False).encode())
