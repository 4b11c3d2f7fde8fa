"""MODEL.VARIANT: what it sets, what wins over it, and that a dumped config needs it no more."""

from pathlib import Path

import pytest

from swin.config import config_from_dict, config_to_dict, dump_config, load_config
from swin.config.tree import flatten
from swin.errors import ConfigError
from swin.models import VARIANTS

OFFICIAL = "swin_base_patch4_window12_384_22kto1k_finetune"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def error_of(*args: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*args)
    return str(caught.value)


@pytest.mark.parametrize("name", [*VARIANTS, OFFICIAL])
def test_it_sets_architecture_size_and_name_and_nothing_else(name: str) -> None:
    row = VARIANTS.get(name) or VARIANTS["swin_base_384_22kto1k"]
    cfg, default = load_config(opts=["MODEL.VARIANT", name]), flatten(load_config())
    swin, group = cfg.architecture, {"swin": "SWIN", "swinv2": "SWINV2", "swin_mlp": "SWIN_MLP"}[row.family]
    assert (swin.EMBED_DIM, tuple(swin.DEPTHS), tuple(swin.NUM_HEADS)) == (row.embed_dim, row.depths, row.num_heads)
    assert (row.window_size, row.img_size, name) == (swin.WINDOW_SIZE, cfg.DATA.IMG_SIZE, cfg.MODEL.NAME)
    changed = {key for key, value in flatten(cfg).items() if value != default[key]}
    own = ("EMBED_DIM", "DEPTHS", "NUM_HEADS", "WINDOW_SIZE", "PRETRAINED_WINDOW_SIZES", "EXTRA_NORM_EVERY")
    allowed = {f"MODEL.{group}.{key}" for key in own}
    assert changed <= {"MODEL.VARIANT", "MODEL.TYPE", "MODEL.NAME", "DATA.IMG_SIZE", *allowed}
    assert row.family == cfg.MODEL.TYPE
    assert cfg.layers[f"MODEL.{group}.DEPTHS"].where == f"MODEL.VARIANT {name}"
    assert not cfg.is_set("MODEL.NUM_CLASSES")
    assert cfg.warnings == ()


def test_a_variant_of_another_family_than_a_recipes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "MODEL: {TYPE: swin, SWIN: {WINDOW_SIZE: 7}}\n")
    assert "has MODEL.TYPE 'swinv2', but " in error_of(path, ["MODEL.VARIANT", "swinv2_tiny"])


def test_files_options_and_flags_win_in_any_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.yaml", "MODEL: {SWIN: {WINDOW_SIZE: 8}, NAME: own, VARIANT: swin_base}\nDATA: {IMG_SIZE: 256}\n"
    )
    cfg = load_config(path, ["MODEL.SWIN.DEPTHS", "[1, 1, 1, 1]"], {"MODEL.SWIN.EMBED_DIM": 64})
    swin = cfg.MODEL.SWIN
    assert (swin.WINDOW_SIZE, swin.DEPTHS, swin.EMBED_DIM, swin.NUM_HEADS) == (8, [1] * 4, 64, [4, 8, 16, 32])
    assert (cfg.DATA.IMG_SIZE, cfg.MODEL.NAME, cfg.warnings) == (256, "own", ())
    assert cfg.layers["MODEL.SWIN.EMBED_DIM"] == ("command line", 128)
    assert load_config(path, ["MODEL.VARIANT", "swin_tiny"]).MODEL.SWIN.EMBED_DIM == 96, "the last one counts"


def test_a_size_of_an_earlier_file_stays_with_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "DATA: {IMG_SIZE: 224}\n")
    cfg = load_config(path, ["MODEL.VARIANT", "swin_base_384"])
    assert (cfg.DATA.IMG_SIZE, cfg.MODEL.SWIN.WINDOW_SIZE) == (224, 12)
    assert cfg.warnings[0] == (
        f"--opts: MODEL.VARIANT swin_base_384 has DATA.IMG_SIZE 384, but {path}:1 gives it as 224, which wins; for the "
        "variant's: --opts DATA.IMG_SIZE 384"
    )


def test_another_architecture_in_an_earlier_file_is_an_error(tmp_path: Path) -> None:
    text = error_of("swin_tiny", ["MODEL.VARIANT", "swin_base"])
    assert "MODEL.VARIANT swin_base has MODEL.SWIN.EMBED_DIM 128, but " in text
    assert "_base_/swin_tiny.yaml:4 gives it as 96, which wins: use a recipe without" in text
    assert load_config("swin_tiny", ["MODEL.VARIANT", "swin_tiny"]).MODEL.SWIN.EMBED_DIM == 96
    dumped = write(tmp_path / "config.yaml", dump_config(load_config(None, ["MODEL.VARIANT", "swin_small"])))
    assert "MODEL.SWIN.DEPTHS" in error_of(dumped, ["MODEL.VARIANT", "swin_tiny"])


def test_a_dump_repeats_the_run(tmp_path: Path) -> None:
    cfg = load_config(None, ["MODEL.VARIANT", "swin_base_384", "MODEL.SWIN.WINDOW_SIZE", "6"])
    again = load_config(write(tmp_path / "config.yaml", dump_config(cfg)))
    assert again == cfg == config_from_dict(config_to_dict(cfg))
    assert again.warnings == cfg.warnings == ()
    tree = config_to_dict(cfg)
    tree["MODEL"]["SWIN"]["EMBED_DIM"] = 64  # as if the table had changed since
    assert config_from_dict(tree).MODEL.SWIN.EMBED_DIM == 64


def test_an_unknown_variant_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "MODEL: {VARIANT: swin_bas}\n")
    text = error_of(path)
    assert text.startswith(
        f"{path}:1: MODEL.VARIANT: there is no model 'swin_bas'; did you mean 'swin_base'? Known are "
    )
    assert "expected text" in error_of(None, ["MODEL.VARIANT", "7"], {"MODEL.VARIANT": 7})
    assert load_config(path, ["MODEL.VARIANT", ""]).MODEL.SWIN.EMBED_DIM == 96
