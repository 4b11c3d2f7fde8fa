"""What users see when something is wrong: one message that says what to do, and no traceback."""

import re
import shutil

import pytest


def fails(runner, *arguments: str, status: int = 2, tag: str = "fault") -> str:
    assert runner(tag, *arguments) == status
    text = runner.text()
    assert "Traceback" not in text
    return text


def test_a_conflicting_class_count_shows_both(runner):
    text = fails(runner, "--opts", "MODEL.NUM_CLASSES", "1000")
    assert re.search(r"\b1000\b", text)
    assert re.search(r"\b3\b", text)


def test_an_unknown_validation_class_is_named(runner, shapes, tmp_path):
    broken = shutil.copytree(shapes, tmp_path / "broken")
    (broken / "val" / "cross").rename(broken / "val" / "crosses")
    text = fails(runner, "--data-path", str(broken))
    assert "crosses" in text
    assert "cross" in text


def test_hidden_folders_are_no_class(runner, shapes, tmp_path):
    copied = shutil.copytree(shapes, tmp_path / "hidden")
    (copied / "train" / ".ipynb_checkpoints").mkdir()
    assert runner("hidden", "--data-path", str(copied), "--dry-run") == 0
    assert "3 classes" in runner.text()


def test_a_missing_data_path_says_what_is_expected(runner, tmp_path):
    text = fails(runner, "--data-path", str(tmp_path / "nowhere"))
    assert "nowhere" in text
    assert "train" in text


def test_a_size_that_wastes_work_names_sizes_that_fit(runner):
    assert runner("warned", "--dry-run", "--opts", "DATA.IMG_SIZE", "40") == 0
    text = runner.text()
    assert "warning" in text
    assert "32" in text
    assert "64" in text


def test_top_5_of_few_classes_is_labelled_as_what_it_is(runner):
    assert runner("few") == 0
    text = runner.text()
    assert "Acc@3 100.000" in text
    assert "Acc@5" not in text


def test_the_plan_shows_batch_and_learning_rates(runner):
    options = ["TRAIN.LR_REFERENCE_BATCH", "512", "TRAIN.BASE_LR", "0.064", "TRAIN.MIN_LR", "0.0064"]
    assert runner("plan", "--dry-run", "--accumulation-steps", "2", "--opts", *options) == 0
    text = runner.text()
    assert "8 per process x 1 processes x 2 accumulation = 16 per update" in text
    assert "peak 2.000e-03" in text
    assert "classes with their training + validation images: " in text
    assert "precision fp32 on cpu, world size 1" in text
    assert not runner.run_dir("plan").exists()


def test_warm_up_as_long_as_the_run_is_an_error(runner):
    text = fails(runner, "--opts", "TRAIN.EPOCHS", "5", "TRAIN.WARMUP_EPOCHS", "5")
    assert "TRAIN.WARMUP_EPOCHS" in text
    assert "TRAIN.EPOCHS" in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--opts", "TRAIN.BSAE_LR", "1"], "TRAIN.BASE_LR"),
        (["--bacth-size", "4"], "--batch-size"),
        (["--opts", "TRAIN.BASE_LR"], "KEY VALUE"),
        (["--batch-size", "many"], "batch-size"),
        (["--opts", "MODEL.SWIN.NUM_HEADS", "[1, 3]"], "NUM_HEADS"),
    ],
)
def test_typos_name_the_nearest(runner, arguments, named):
    assert named in fails(runner, *arguments)


@pytest.mark.parametrize("batch_size", ["1", "3", "77"])
def test_odd_batches_train_under_mixup(runner, batch_size):
    assert runner("odd", "--batch-size", batch_size, "--opts", "TRAIN.EPOCHS", "1") == 0


def test_underscores_and_dashes_are_the_same(runner):
    assert runner("flags", "--dry-run", "--batch_size=4", "--disable_amp", "--accumulation_steps", "2") == 0


def test_a_broken_image_is_named(runner, shapes, tmp_path):
    broken = shutil.copytree(shapes, tmp_path / "broken")
    victim = broken / "train" / "cross" / "003.png"
    victim.write_bytes(victim.read_bytes()[:100])
    for workers in ("0", "2"):
        assert str(victim) in fails(runner, "--data-path", str(broken), "--opts", "DATA.NUM_WORKERS", workers)


def test_a_checkpoint_of_another_model_is_refused_with_the_way_out(runner):
    assert runner("run", "--opts", "TRAIN.EPOCHS", "1") == 0
    text = fails(runner, "--opts", "MODEL.SWIN.EMBED_DIM", "32", "TRAIN.EPOCHS", "2", tag="run")
    assert "--pretrained" in text
    assert "last.pth" in text


def test_missing_and_damaged_checkpoints(runner, tmp_path):
    assert "does not exist" in fails(runner, "--resume", str(tmp_path / "none.pth"))
    text_file = tmp_path / "text.pth"
    text_file.write_text("not a checkpoint")
    assert "text.pth" in fails(runner, "--eval", "--resume", str(text_file))


def test_lasting_non_finite_losses_stop_with_4_and_name_the_samples(runner):
    options = ["--opts", "TRAIN.BASE_LR", "1e30", "TRAIN.MAX_NONFINITE", "3", "TRAIN.CLIP_GRAD", "0"]
    text = fails(runner, *options, status=4, tag="diverged")
    assert "no checkpoint had been written yet" in text
    listing = runner.run_dir("diverged") / "nonfinite_batch.txt"
    assert str(listing) in text
    assert len(listing.read_text().split()) == 8
