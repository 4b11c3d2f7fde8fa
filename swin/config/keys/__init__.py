"""Every key of the configuration, declared once.

Keys, meanings and defaults of the official Swin Transformer repository are kept, so that its YAML files load unchanged;
keys of this project stand beside them, marked `is_new`. Defaults, types, checks, `--help-key` and docs/config.md follow
from the declarations; what several keys together allow is in validate.py. Probabilities are in [0, 1].

Upper bounds of sizes and counts are far above any use: they are there so that a slip of the finger is a message and not
a machine out of memory.
"""

from swin.config.keys.augment import AUG
from swin.config.keys.data import DATA
from swin.config.keys.families import FAMILIES
from swin.config.keys.key import Key
from swin.config.keys.model import MODEL
from swin.config.keys.run import RUN
from swin.config.keys.train import TRAIN

__all__ = ["KEYS", "Key"]

# By dotted name, in the order in which they are shown and dumped.
KEYS: dict[str, Key] = {
    f"{group}{name}": key
    for group, keys in (("DATA.", DATA), ("MODEL.", MODEL), ("TRAIN.", TRAIN), ("AUG.", AUG), ("", RUN))
    for name, key in keys.items()
} | FAMILIES
