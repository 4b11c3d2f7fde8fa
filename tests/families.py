"""Small models of each family, as options of main.py on top of the runner's config."""

import pytest

_SHAPE = {"EMBED_DIM": "16", "DEPTHS": "[2, 2]", "NUM_HEADS": "[1, 2]", "WINDOW_SIZE": "4"}


def small(family: str) -> list[str]:
    """Options that make the runner's model one of a family, by MODEL.TYPE."""
    group = {"swin": "SWIN", "swinv2": "SWINV2", "swin_mlp": "SWIN_MLP"}[family]
    shape = [item for key, value in _SHAPE.items() for item in (f"MODEL.{group}.{key}", value)]
    return ["MODEL.TYPE", family, *shape]


def assert_two_processes_give_the_losses_of_one(runner, *options: str) -> None:
    """Train in batches of 24, by one process and by two, which see the same images."""
    assert runner("one", "--batch-size", "8", "--accumulation-steps", "3", *options) == 0
    two = runner.start("two", "--batch-size", "4", "--accumulation-steps", "3", *options, processes=2)
    status, output = runner.finish(two)
    assert status == 0, output
    one, two = (runner.rows(tag, "train") for tag in ("one", "two"))
    # See tests/distributed/test_processes.py.
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=2e-4)
