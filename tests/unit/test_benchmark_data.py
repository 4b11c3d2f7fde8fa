"""The data benchmark's figures, on a few small pictures."""

from pathlib import Path

from tools.benchmark_data import describe_data, run_data


def test_every_contestant_gets_a_figure(shapes: Path) -> None:
    result = run_data(shapes / "train" / "cross", img_size=40, num_images=6, rounds=1)
    assert result["num_images"] == 6
    assert min(result["images_per_sec"].values()) > 0
    assert result["ratio"]["timm_raw"] == 1
    text = describe_data(result)
    assert "ours_packed: " in text
    assert "two workers reach" in text
