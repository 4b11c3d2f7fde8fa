"""DATA.IMG_SIZE_SCHEDULE: a run that begins with small images, stopped and divided in every way."""

import pytest

from tests.e2e.test_resume import stop_at

# 6 epochs of 78 images: 3 of 16 px in updates of 32, 1 of 24 x 16 px in updates of 20, 2 of 32 px in updates of 8.
SCHEDULE = ["DATA.IMG_SIZE_SCHEDULE", "[[0.5, 16], [0.15, [24, 16]]]", "TRAIN.EPOCHS", "6"]
OPTIONS = ["--opts", *SCHEDULE, "AUG.REPROB", "0.5", "TRAIN.EMA.ENABLE", "True", "DATA.REPEATED_AUG", "2"]
UPDATES = [3, 3, 3, 4, 10, 10]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_stop_in_each_phase_ends_in_the_bits_of_an_undisturbed_run(runner, assert_equal_state, monkeypatch, workers):
    options = [*OPTIONS, "DATA.NUM_WORKERS", workers]
    assert runner("whole", *options) == 0
    text, whole = runner.text(), runner.checkpoint("whole")
    assert "epochs 0-2 at 16 x 16 with 32 per update, epoch 3 at 24 x 16 with 20 per update, epochs 4-5 at" in text
    assert "steps: 6 epochs = 33 updates" in text
    assert whole["step"] == sum(UPDATES) == 33
    rows = runner.rows("whole", "train")
    assert [[row["epoch"] for row in rows].count(epoch) for epoch in range(6)] == UPDATES
    assert [row["samples"] for row in rows[:3]] == [32, 64, 78]

    for step in (3, 5, 11, 15):  # an epoch's end, then the middle of an epoch in each phase
        with monkeypatch.context() as patch:
            stop_at(patch, step=step)
            assert runner("stopped", *options) == 3
    assert runner.checkpoint("stopped")["step"] == 15
    assert runner("stopped", *options) == 0
    assert_equal_state(whole, runner.checkpoint("stopped"))


def test_accumulation_and_processes_do_what_one_does(runner):
    """With mixing and stochastic depth: all that is random is drawn for the update."""
    options = ["TRAIN.LR_REFERENCE_BATCH", "8", "TRAIN.LR_SCALING", "sqrt"]
    assert runner("one", "--batch-size", "8", *OPTIONS, *options) == 0
    assert runner("parts", "--batch-size", "2", "--accumulation-steps", "4", *OPTIONS, *options) == 0
    status, output = runner.finish(runner.start("two", "--batch-size", "4", *OPTIONS, *options, processes=2))
    assert status == 0, output
    one, parts, two = (runner.rows(tag, "train") for tag in ("one", "parts", "two"))
    for other in (parts, two):
        for key in ("epoch", "step", "samples", "lr"):
            assert [row[key] for row in other] == [row[key] for row in one], key
        # Sums of the same float32 numbers in another order, which 33 updates let grow.
        assert [row["loss"] for row in other] == pytest.approx([row["loss"] for row in one], rel=2e-3)
    first, last = one[0], one[-11]
    assert (first["epoch"], last["epoch"]) == (0, 4)
    assert first["lr"] == pytest.approx(0.002 * 2, rel=1e-6), "sqrt(32 / 8) times"
    assert last["lr"] < 0.002


def test_evaluation_has_the_full_size(runner, monkeypatch):
    seen = set()
    from swin.models import SwinTransformer

    original = SwinTransformer.forward

    def forward(self, images, drop_paths=None):
        seen.add((self.training, *images.shape[2:]))
        return original(self, images, drop_paths)

    monkeypatch.setattr(SwinTransformer, "forward", forward)
    assert runner("run", *OPTIONS) == 0
    assert seen == {(True, 16, 16), (True, 24, 16), (True, 32, 32), (False, 32, 32)}


def test_a_dry_run_tries_each_size_and_writes_nothing(runner):
    options = ["MODEL.SWIN.APE", "True"]  # whose table is resized to each grid
    assert runner("dry", "--dry-run", *OPTIONS, *options) == 0
    text = runner.text()
    for size in ("32 images of 16 x 16", "20 images of 24 x 16", "8 images of 32 x 32"):
        assert f"dry run: one update of {size}, loss" in text
    assert text.count("memory so far") == 3
    assert not runner.run_dir("dry").exists()


def test_a_size_that_no_epoch_gets_is_told(runner):
    schedule = ["DATA.IMG_SIZE_SCHEDULE", "[[0.1, 16], [0.1, 24]]"]
    assert runner("plan", "--dry-run", "--opts", *schedule) == 0
    text = runner.text()
    assert "gives to images of 24 x 24, so that none has that size" in text
    assert "epoch 0 at 16 x 16 with 32 per update, epoch 1 at 32 x 32 with 8 per update" in text
    assert runner("plan", "--dry-run", "--opts", "DATA.IMG_SIZE_SCHEDULE", "[[0.5, 64]]") == 2
    assert "64 has more pixels than DATA.IMG_SIZE" in runner.text()


def test_small_phases_see_whole_images_and_large_ones_crops(runner, monkeypatch):
    cropped = set()
    from data import transforms

    original = transforms.decode_crop

    def decode_crop(content, crop, *, size, **options):
        cropped.add(size)
        return original(content, crop, size=size, **options)

    monkeypatch.setattr(transforms, "decode_crop", decode_crop)
    schedule = ["DATA.IMG_SIZE", "48", "DATA.IMG_SIZE_SCHEDULE", "[[0.3, 32], [0.3, 40]]", "TRAIN.EPOCHS", "3"]
    assert runner("run", "--opts", *schedule) == 0
    assert cropped == {(40, 40), (48, 48)}
