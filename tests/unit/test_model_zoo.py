"""The table of models that the command prints and docs/models.md shows."""

from swin.config.sources import RECIPES
from swin.models import VARIANTS
from tools.model_zoo import HEADER, as_markdown, as_text, main, recipes, rows


def test_the_page_shows_the_table():
    page = (RECIPES.parent / "docs" / "models.md").read_text()
    assert page.count("<!-- zoo:begin -->") == page.count("<!-- zoo:end -->") == 1
    shown = page.split("<!-- zoo:begin -->\n")[1].split("<!-- zoo:end -->")[0]
    assert shown == as_markdown(), "run: python -m tools.model_zoo --format markdown"


def test_each_variant_has_a_row_with_both_counts():
    table = {row[0]: row for row in rows()}
    assert list(table) == list(VARIANTS)
    assert table["swin_tiny"][1:8] == ("224", "7", "28.29M", "4.49G", "4.36G", "81.2", "95.5")
    assert table["swin_base_384_22kto1k"][1:8] == ("384", "12", "87.90M", "47.10G", "44.49G", "86.4", "98.0")
    assert table["swin_tiny_22k"][6:8] == ("", "")


def test_recipes_are_files():
    assert recipes("swin_tiny") == ["swin_tiny.yaml", "swin_tiny_mmpretrain.yaml", "swin_tiny_torchvision.yaml"]
    assert recipes("swin_large_384") == []
    shown = {name for variant in VARIANTS for name in recipes(variant)}
    own = {"swin_digits.yaml", "swin_fashion_mnist.yaml", "swin_flowers.yaml"}
    own |= {"swinv2_digits.yaml", "swin_mlp_digits.yaml"}
    assert shown | own >= {path.name for path in RECIPES.glob("swin*_*.yaml")}, "a recipe is missing from the table"


def test_formats(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert text == as_text()
    assert text.startswith("model ")
    assert main(["--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith(f"| {' | '.join(HEADER)} |\n| --- |")
