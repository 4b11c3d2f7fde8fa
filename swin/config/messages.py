"""How messages show what users wrote: shortened, without control characters, and with the nearest names."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swin.errors import printable

# Problems shown at most, and characters of each.
MAX_LINES = 10
_MAX_LINE_CHARS = 1000


def show_value(value: Any) -> str:
    """Show a value as a user would write it, shortened to fit a message."""
    try:
        text = "null" if value is None else repr(list(value) if isinstance(value, tuple) else value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def readable_lines(lines: Sequence[str]) -> list[str]:
    """Return the first lines and how many more there are, of a bounded length and without control characters."""
    # What was found comes first, what was expected last; what may be long, a name or a path, is in between.
    end = _MAX_LINE_CHARS // 2
    short = [line if len(line) <= 2 * end else f"{line[:end]}...{line[-end:]}" for line in lines[:MAX_LINES]]
    more = [f"and {len(lines) - MAX_LINES} more like these"] if len(lines) > MAX_LINES else []
    return [*map(printable, short), *more]


def did_you_mean(names: Iterable[str]) -> str:
    """Return the end of a message that suggests these names; empty when there are none."""
    words = " or ".join(names)
    return f"; did you mean {words}?" if words else ""


def program_name(command: str, otherwise: str) -> str:
    """Return the name of an installed command if this process was started by it, and `otherwise` if not."""
    return command if Path(sys.argv[0]).stem == command else otherwise
