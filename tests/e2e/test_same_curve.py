"""At one total batch the curve is the same for any number of processes and micro-batches, all augmentation on.

What remains different: rounding, elementwise dropout (MODEL.DROP_RATE), which is drawn by process, and odd batches
under mixing, where a pair may be divided.
"""

import pytest

OPTIONS = ["TRAIN.EPOCHS", "2", "AUG.REPROB", "0.5", "MODEL.DROP_PATH_RATE", "0.3", "TRAIN.EMA.ENABLE", "True"]
# 78 images in updates of 24: the tail of 6 is two for each of three processes, four and two for two.
LAYOUTS = {"accumulated": (0, 4, 6), "two": (2, 6, 2), "three": (3, 8, 1)}


def run(runner, tag: str, layout: tuple[int, int, int], *more: str) -> list[tuple[int, int, float, float]]:
    processes, batch_size, accumulation = layout
    sizes = ["--batch-size", str(batch_size), "--accumulation-steps", str(accumulation)]
    arguments = [*sizes, "--opts", *OPTIONS, *more]
    if processes:
        status, output = runner.finish(runner.start(tag, *arguments, processes=processes))
        assert status == 0, output
    else:
        assert runner(tag, *arguments) == 0
    return [(row["step"], row["samples"], row["loss"], row["grad_norm"]) for row in runner.rows(tag, "train")]


def assert_same(ours, theirs) -> None:
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    # Sums of the same float32 numbers in another order; after 8 updates of AdamW they have grown to about 1e-5.
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=2e-4)
    assert [row[3] for row in ours] == pytest.approx([row[3] for row in theirs], rel=5e-3)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_accumulation_sees_the_same(runner, mode):
    whole = run(runner, "whole", (0, 24, 1), "AUG.MIXUP_MODE", mode)
    assert_same(run(runner, "accumulated", LAYOUTS["accumulated"], "AUG.MIXUP_MODE", mode), whole)


@pytest.mark.parametrize("mode", ["batch", pytest.param("pair", marks=pytest.mark.slow), "elem"])
@pytest.mark.parametrize("layout", ["two", "three"])
def test_processes_see_the_same(runner, layout, mode):
    whole = run(runner, "whole", (0, 24, 1), "AUG.MIXUP_MODE", mode)
    assert_same(run(runner, layout, LAYOUTS[layout], "AUG.MIXUP_MODE", mode), whole)


def test_other_draws_would_be_noticed(runner):
    whole = run(runner, "whole", (0, 24, 1))
    with pytest.raises(AssertionError):
        assert_same(run(runner, "other", (0, 24, 1), "SEED", "1"), whole)
