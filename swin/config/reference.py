"""What a user can read of the keys, made from their declarations: `--help-key KEY`, and the page docs/config.md.

`python -m swin.config.reference > docs/config.md` writes the page anew.
"""

import textwrap

from swin.config.keys import KEYS
from swin.config.load import explain_unknown
from swin.config.messages import readable_lines, show_value
from swin.errors import ConfigError

_HEADER = """\
# The keys of the configuration

Each key is given in a YAML file, or on the command line as `--opts KEY VALUE`. `python main.py --help-key KEY` shows
what this page says of a key, or of a group such as DATA. Official keys, with their defaults, are those of the official
Swin Transformer repository, whose files load unchanged; new ones are this project's.
"""
_COLUMNS = "| Key | Default | Allowed | Origin | Meaning |\n|---|---|---|---|---|"


def describe(name: str) -> str:
    """Describe a key, or each key of a group, as text for a terminal.

    Raises:
        ConfigError: there is no such key; the nearest ones are named.
    """
    names = [key for key in KEYS if f"{key}.".startswith(f"{name}.")]
    if not names:
        raise ConfigError(readable_lines([explain_unknown(name)])[0])
    entries = ((key, *_facts(key)) for key in names)
    return "\n\n".join(
        f"{key}\n    default: {default}\n    allowed: {allowed}\n    origin: {origin}\n"
        + textwrap.fill(meaning, 104, initial_indent="    ", subsequent_indent="    ")
        for key, default, allowed, origin, meaning in entries
    )


def make_page() -> str:
    """Make the text of docs/config.md: a table for each group of keys."""
    tables: dict[str, list[str]] = {}
    for name in KEYS:
        default, *facts = _facts(name)
        row = f"| `{name}` | `{default}` | {' | '.join(facts)} |"
        tables.setdefault(name.rpartition(".")[0], []).append(row)
    sections = (f"\n## {group or 'Top level'}\n\n{_COLUMNS}\n" + "\n".join(rows) for group, rows in tables.items())
    return _HEADER + "\n".join(sections) + "\n"


def _facts(name: str) -> tuple[str, str, str, str]:
    key = KEYS[name]
    note = f"Deprecated, without effect: {key.deprecated}." if key.deprecated else "Without effect in this version. "
    meaning = key.meaning if key.has_effect and not key.deprecated else note + key.meaning
    return show_value(key.default), key.describe(), "new" if key.is_new else "official", meaning


if __name__ == "__main__":
    print(make_page(), end="")
