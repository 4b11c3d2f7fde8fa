"""How figures look: two themes, colours that colour-blind readers tell apart, and fonts for any class name.

Colours are those of Okabe and Ito, https://jfly.uni-koeln.de/color/.
"""

import io
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swin.errors import printable
from swin.records import write_atomically
from tools.pictures import find_fonts, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


@dataclass(frozen=True)
class Theme:
    """The colours of one of the page's two appearances."""

    name: str
    paper: str
    ink: str
    grid: str
    colours: tuple[str, ...]
    colour_map: str  # even in lightness, from near the paper's colour to one that stands out


LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#d8dee4",
    ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "Blues",
)  # fmt: skip
DARK = Theme(
    "dark", "#161b22", "#e6edf3", "#3d444d",
    ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00"), "cividis",
)  # fmt: skip

Draw = Callable[["Figure", Theme], None]


@dataclass(frozen=True)
class Picture:
    """A figure as it is embedded in a page."""

    alt: str  # what a reader who cannot see it is told
    width: int
    height: int
    light: str  # data URIs
    dark: str


def data_uri(content: bytes, kind: str = "png") -> str:
    """Return an image file's content as an address that needs no file."""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def draw_picture(
    name: str, draw: Draw, *, size: tuple[float, float], alt: str, folder: Path, fonts: Sequence[str]
) -> Picture:
    """Draw a figure in both themes, each saved as a PNG in `folder`.

    Args:
        name: Of the files, `<name>-light.png` and `<name>-dark.png`.
        draw: Puts the axes into an empty figure.
        size: Width and height in inches of 100 pixels.
        alt: See `Picture`.
        folder: Where the files go.
        fonts: Families, as `Names.fonts`.
    """
    require("matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = {}
    for theme in (LIGHT, DARK):
        with mpl.rc_context(_settings(theme, fonts)):
            figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
            draw(figure, theme)
            stream = io.BytesIO()
            figure.savefig(stream, format="png")
        write_atomically(folder / f"{name}-{theme.name}.png", stream.getvalue())
        found[theme.name] = data_uri(stream.getvalue())
    return Picture(alt, round(size[0] * _DPI), round(size[1] * _DPI), **found)


def _settings(theme: Theme, fonts: Sequence[str]) -> dict[Any, Any]:
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), theme.ink)
    paper = dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor", "legend.facecolor"), theme.paper)
    grid = dict.fromkeys(("grid.color", "axes.edgecolor", "legend.edgecolor"), theme.grid)
    sizes = {"font.size": 9, "axes.titlesize": 10, "grid.linewidth": 0.6, "lines.linewidth": 1.5}
    return {**ink, **paper, **grid, **sizes, "font.family": list(fonts), "axes.axisbelow": True}


@dataclass(frozen=True)
class Names:
    """Class names as figures can show them."""

    short: list[str]  # at most 18 columns each; "#7" in place of a name that no installed font has the letters for
    fonts: list[str]  # families that have the letters of all of them
    replaced: list[int]  # labels whose names are replaced

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Choose fonts for names."""
        names = [shorten(printable(name)) for name in names]
        fonts, missing = find_fonts(set().union(*names))
        replaced = [label for label, name in enumerate(names) if missing.intersection(name)]
        for label in replaced:
            names[label] = f"#{label}"
        return cls(names, fonts, replaced)


def shorten(text: str, columns: int = 18) -> str:
    """Leave out the middle of a text that is wider than so many Latin letters; a Chinese character is two wide."""
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text]
    if sum(widths) <= columns:
        return text
    head, tail, used = 0, len(text), 1
    while used + widths[head] <= columns:
        used += widths[head]
        head += 1
        if used + widths[tail - 1] <= columns:
            tail -= 1
            used += widths[tail]
    return f"{text[:head]}…{text[tail:]}"
