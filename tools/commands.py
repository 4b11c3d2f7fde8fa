"""The installed commands: each runs its module as `python -m` does, from any folder.

The folder that a command is run from is not searched for modules, so that its own `data` or `tools` are not found
instead of this project's.
"""

import runpy


def train() -> None:
    """Run `main.py`, which handles signals from its first lines on."""
    runpy.run_module("main", run_name="__main__", alter_sys=True)


def predict() -> None:
    runpy.run_module("tools.predict", run_name="__main__", alter_sys=True)
