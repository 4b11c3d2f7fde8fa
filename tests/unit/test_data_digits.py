"""The one image that the quickstart predicts."""

from PIL import Image

from data.digits import open_digits, save_test_image


def test_the_saved_image_is_the_first_of_the_test_split(tmp_path, capsys):
    save_test_image(tmp_path / "digit.png")
    test = open_digits().sources["test"]
    with Image.open(tmp_path / "digit.png") as image:
        assert image.mode == "L"
        assert image.tobytes() == test.read(0).tobytes()
    assert f"shows a {test.labels[0]}" in capsys.readouterr().out
