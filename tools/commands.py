"""The installed command swin-train, from any folder.

The folder that it is run from is not searched for modules, so that its own `data` or `tools` are not found instead of
this project's.
"""

import runpy


def train() -> None:
    """Run `main.py` as `python main.py` does, which handles signals from its first lines on."""
    runpy.run_module("main", run_name="__main__")
