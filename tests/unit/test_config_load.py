"""Where values come from, which types they have, and what a bad source says."""

import copy
import pickle
from pathlib import Path

import pytest

from swin.config import Config, config_from_dict, config_to_dict, dump_config, load_config
from swin.config.flags import load_command_line
from swin.config.tree import flatten
from swin.errors import ConfigError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def error_of(*args: object, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)
    return str(caught.value)


# Facts of the official repository's config.py that its YAML files build on.
OFFICIAL = {
    "DATA.BATCH_SIZE": 128,
    "DATA.DATASET": "imagenet",
    "DATA.IMG_SIZE": 224,
    "DATA.INTERPOLATION": "bicubic",
    "DATA.ZIP_MODE": False,
    "DATA.CACHE_MODE": "part",
    "DATA.NUM_WORKERS": 8,
    "DATA.MASK_RATIO": 0.6,
    "MODEL.TYPE": "swin",
    "MODEL.NAME": "swin_tiny_patch4_window7_224",
    "MODEL.NUM_CLASSES": 1000,
    "MODEL.DROP_PATH_RATE": 0.1,
    "MODEL.LABEL_SMOOTHING": 0.1,
    "MODEL.SWIN.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWIN.QK_SCALE": None,
    "MODEL.SWINV2.PRETRAINED_WINDOW_SIZES": [0, 0, 0, 0],
    "MODEL.SWIN_MOE.MOE_BLOCKS": [[-1], [-1], [-1], [-1]],
    "MODEL.SIMMIM.NORM_TARGET.PATCH_SIZE": 47,
    "TRAIN.EPOCHS": 300,
    "TRAIN.WARMUP_EPOCHS": 20,
    "TRAIN.BASE_LR": 5e-4,
    "TRAIN.CLIP_GRAD": 5.0,
    "TRAIN.AUTO_RESUME": True,
    "TRAIN.LR_SCHEDULER.WARMUP_PREFIX": True,
    "TRAIN.LR_SCHEDULER.MULTISTEPS": [],
    "TRAIN.OPTIMIZER.BETAS": (0.9, 0.999),
    "AUG.AUTO_AUGMENT": "rand-m9-mstd0.5-inc1",
    "AUG.CUTMIX_MINMAX": None,
    "AUG.MIXUP_SWITCH_PROB": 0.5,
    "TEST.CROP": True,
    "AMP_ENABLE": True,
    "TAG": "default",
    "SAVE_FREQ": 1,
    "PRINT_FREQ": 10,
    "SEED": 0,
}


def test_defaults_are_the_official_ones() -> None:
    flat = flatten(load_config())
    assert {key: flat[key] for key in OFFICIAL} == OFFICIAL


def test_precedence_is_default_base_file_opts_overrides(tmp_path: Path) -> None:
    write(tmp_path, "base/first.yaml", "TRAIN: {EPOCHS: 31, WARMUP_EPOCHS: 1}\nSEED: 1\nTAG: a\nPRINT_FREQ: 1\n")
    write(tmp_path, "base/second.yaml", "BASE: [first.yaml]\nSEED: 2\nTAG: b\nPRINT_FREQ: 2\n")
    leaf = write(tmp_path, "leaf.yaml", "BASE: ['', base/second.yaml]\nTAG: c\nPRINT_FREQ: 3\nSAVE_KEEP: 3\n")
    cfg = load_config(leaf, ["PRINT_FREQ", "4", "SAVE_KEEP", "4"], {"SAVE_KEEP": 5, "OUTPUT": None})
    assert (cfg.TRAIN.EPOCHS, cfg.SEED, cfg.TAG, cfg.PRINT_FREQ, cfg.SAVE_KEEP) == (31, 2, "c", 4, 5)
    assert cfg.OUTPUT == ""
    assert cfg.DATA.BATCH_SIZE == 128


def test_later_bases_win(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "SEED: 1\n")
    write(tmp_path, "b.yaml", "SEED: 2\n")
    assert load_config(write(tmp_path, "c.yaml", "BASE: [a.yaml, b.yaml]\n")).SEED == 2


def test_is_set_knows_what_was_given(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "MODEL: {NUM_CLASSES: 1000}\n")
    cfg = load_config(path, ["SEED", "0"], {"TAG": "default"})
    assert all(cfg.is_set(key) for key in ("MODEL.NUM_CLASSES", "SEED", "TAG"))
    assert not cfg.is_set("DATA.BATCH_SIZE")
    with pytest.raises(KeyError):
        cfg.is_set("MODEL.CLASSES")


def test_config_is_frozen_and_survives_copies() -> None:
    cfg = load_config(None, ["FUSED_LAYERNORM", "True"])
    with pytest.raises(AttributeError):
        cfg.TRAIN.EPOCHS = 3
    for other in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), cfg.clone()):
        assert isinstance(other, Config)
        assert other == cfg
        assert other.warnings == cfg.warnings != ()
        assert other.is_set("FUSED_LAYERNORM")


def test_official_spellings_of_numbers(tmp_path: Path) -> None:
    text = (
        "TRAIN: {BASE_LR: 2e-05, WEIGHT_DECAY: 1e-8, CLIP_GRAD: 5, LR_SCHEDULER: {MULTISTEPS: [700,]}}\n"
        "MODEL: {SWIN: {MLP_RATIO: 4.}}\nTRAIN.OPTIMIZER.NAME: AdamW\n"
    )
    cfg = load_config(write(tmp_path, "a.yaml", text))
    assert (cfg.TRAIN.BASE_LR, cfg.TRAIN.WEIGHT_DECAY, cfg.MODEL.SWIN.MLP_RATIO) == (2e-5, 1e-8, 4.0)
    assert isinstance(cfg.TRAIN.CLIP_GRAD, float)
    assert cfg.TRAIN.LR_SCHEDULER.MULTISTEPS == [700]
    assert cfg.TRAIN.OPTIMIZER.NAME == "adamw"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("DATA.IMG_SIZE", "[224, 448]", [224, 448]),
        ("DATA.IMG_SIZE", "(224, 448)", [224, 448]),
        ("TRAIN.OPTIMIZER.BETAS", "[0, 0.5]", (0.0, 0.5)),
        ("AUG.CUTMIX_MINMAX", "None", None),
        ("AUG.CUTMIX_MINMAX", "null", None),
        ("AUG.CUTMIX_MINMAX", "[0.2, 0.8]", [0.2, 0.8]),
        ("MODEL.SWIN.QK_SCALE", "0.5", 0.5),
        ("TRAIN.AUTO_RESUME", "false", False),
        ("TRAIN.BASE_LR", "1e-3", 1e-3),
        ("TAG", "007", "007"),
        ("TAG", "true", "true"),
        ("TAG", "'a # b'", "a # b"),
        ("DATA.DATA_PATH", "C:\\data: set #1", "C:\\data: set #1"),
        ("MODEL.PRETRAINED", "", ""),
        ("MODEL.SWIN_MOE.MOE_BLOCKS", "[[1], [2, 3], [-1], [-1]]", [[1], [2, 3], [-1], [-1]]),
    ],
)
def test_opts_are_parsed_for_their_key(key: str, text: str, value: object) -> None:
    found = flatten(load_config(None, [key, text]))[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("TRAIN.EPOCHS", "abc", "TRAIN.EPOCHS is 'abc': expected an integer"),
        ("TRAIN.EPOCHS", "3.5", "TRAIN.EPOCHS is 3.5: expected an integer"),
        ("TRAIN.EPOCHS", "true", "TRAIN.EPOCHS is True: expected an integer"),
        ("TRAIN.BASE_LR", "true", "TRAIN.BASE_LR is True: expected a number"),
        ("TRAIN.BASE_LR", "1" + "0" * 400, "expected a number"),
        ("TRAIN.CLIP_GRAD", "None", "TRAIN.CLIP_GRAD is null: expected a number; leave the key out for its default"),
        ("AMP_ENABLE", "1", "AMP_ENABLE is 1: expected True or False; write True"),
        ("DATA.IMG_SIZE", "[224, x]", "expected an integer or a list of integers"),
        ("DATA.MEAN", "0.5", "DATA.MEAN is 0.5: expected a list of numbers"),
        ("MODEL.SWIN.DEPTHS", "[2, 2", "MODEL.SWIN.DEPTHS is '[2, 2': expected a list of integers"),
        ("AUG.CUTMIX_MINMAX", "0.5", "expected null or a list of numbers"),
        ("MODEL.SWIN_MOE.MOE_BLOCKS", "[1]", "expected a list of lists"),
        ("MODEL", "swin", "MODEL is a group of keys and takes no value: give one of its keys, as in MODEL.TYPE"),
    ],
)
def test_wrong_types_name_key_found_and_expected(key: str, value: str, expected: str) -> None:
    message = error_of(None, [key, value])
    assert message.startswith("--opts: ")
    assert expected in message
    assert "\n" not in message


def test_wrong_type_in_a_file_names_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "SEED: 1\nTAG: 2024\nMODEL:\n  NAME: {A: 1}\n")
    assert error_of(path).splitlines() == [
        f"{path}:2: TAG is 2024: expected text; put it in quotes",
        f"{path}:4: MODEL.NAME is {{'A': 1}}: expected text",
    ]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("DATA.BATCHSIZE", "DATA.BATCH_SIZE"),
        ("BATCH_SIZE", "DATA.BATCH_SIZE"),
        ("data.batch_size", "DATA.BATCH_SIZE"),
        ("TRAIN.EPOCH", "TRAIN.EPOCHS"),
        ("TRIAN.EPOCHS", "TRAIN.EPOCHS"),
        ("MODEL.EMBED_DIM", "MODEL.SWIN.EMBED_DIM"),
        ("MODEL.MIXUP", "AUG.MIXUP"),
        ("TRAIN.LR", "TRAIN.BASE_LR"),
    ],
)
def test_unknown_keys_name_the_nearest(key: str, nearest: str, tmp_path: Path) -> None:
    *groups, name = key.split(".")
    text = "\n".join("  " * depth + f"{group}:" for depth, group in enumerate(groups))
    path = write(tmp_path, "a.yaml", f"{text}\n{'  ' * len(groups)}{name}: 3\n")
    messages = [error_of(None, [key, "3"]), error_of(None, (), {key: 3})]
    if key not in ("TRIAN.EPOCHS", "data.batch_size"):  # in a file their group is what is unknown
        messages.append(error_of(path))
    for message in messages:
        assert f"unknown key {key}" in message
        assert nearest in message.partition("did you mean")[2]


def test_unknown_group_is_reported_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "TRIAN:\n  EPOCHS: 3\n  SEED: 3\n")
    assert error_of(path) == f"{path}:1: unknown key TRIAN; did you mean TRAIN?"


def test_unknown_key_with_nothing_near_says_where_to_look() -> None:
    assert error_of(None, ["XYZ", "1"]) == "--opts: unknown key XYZ; docs/config.md lists all keys"
    assert "TAG is a value and has no keys below it" in error_of(None, ["TAG.X", "1"])


def test_bad_pairs() -> None:
    assert "'TAG' at the end has no value" in error_of(None, ["SEED", "1", "TAG"])
    assert "separate key and value by a space, not by =" in error_of(None, ["SEED=1"])
    assert "separate key and value by a space, not by =" in error_of(None, ["SEED=1", "TAG=x"])
    assert "BASE can only be given in a YAML file" in error_of(None, ["BASE", "[a.yaml]"])


def test_all_problems_come_at_once_one_a_line(tmp_path: Path) -> None:
    write(tmp_path, "b.yaml", "SED: 1\nTRAIN: {EPOCHS: x}\n")
    path = write(tmp_path, "a.yaml", "BASE: [b.yaml]\nDATA: {VAL_SPLIT: 1.5}\n")
    lines = error_of(path, ["AUG.MIXUP", "x", "TAG"], {"OUPUT": "y"}).splitlines()
    wanted = ["--opts takes", "unknown key SED;", "TRAIN.EPOCHS", "unknown key OUPUT;", "DATA.VAL_SPLIT = 1.5"]
    assert len(lines) == len(wanted)
    for line, part in zip(lines, wanted, strict=True):
        assert part in line


def test_repeated_keys_are_errors_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "DATA:\n  IMG_SIZE: 224\n  IMG_SIZE: 448\nSEED: 1\nDATA:\n  VAL_SPLIT: 0.1\n")
    lines = error_of(path).splitlines()
    assert f"{path}:3: DATA.IMG_SIZE is given twice, first in line 2: remove one of them" in lines
    assert f"{path}:5: DATA is given twice, first in line 1: remove one of them" in lines


def test_anchors_and_merge_keys_are_not_repetitions(tmp_path: Path) -> None:
    text = "MODEL:\n  SWINV2: &m {EMBED_DIM: 32, WINDOW_SIZE: 5}\n  SWIN: {<<: *m, WINDOW_SIZE: 7}\n"
    cfg = load_config(write(tmp_path, "a.yaml", text), ["MODEL.SWIN.NUM_HEADS", "[1, 1, 1, 1]"])
    assert (cfg.MODEL.SWIN.EMBED_DIM, cfg.MODEL.SWIN.WINDOW_SIZE) == (32, 7)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "DATA:\nSEED: 0\n", "\ufeffSEED: 0\n"])
def test_empty_files_and_groups_change_nothing(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "a.yaml", text)) == load_config()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SEED: 1\nTAG: [1, 2\n", ":3: not valid YAML: "),
        ("SEED: 1\n\tTAG: 2\n", ":2: not valid YAML: "),
        ("TAG: !!python/object:os.system 1\n", ":1: not valid YAML: "),
        ("SEED: 1\n---\nSEED: 2\n", ":2: not valid YAML: "),
        ("TAG: \x01\n", ": not valid YAML: "),
        ("- 1\n- 2\n", ":1: expected keys and values, as in DATA: {IMG_SIZE: 224}, not a list"),
        ("hello\n", "not a single value"),
        ("TAG: 2024-13-45\n", "put text in quotes"),
        ("BASE: {a: b}\n", ":1: BASE is {'a': 'b'}: expected a list of YAML files"),
    ],
)
def test_bad_yaml_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", text)
    message = error_of(path)
    assert message.startswith(str(path))
    assert expected in message
    assert "\n" not in message


def test_unreadable_files(tmp_path: Path) -> None:
    write(tmp_path, "swin_tiny.yaml", "SEED: 1\n")
    near = tmp_path / "swin_tiny.yaml"
    assert error_of(tmp_path / "swin_tini.yaml").endswith(f"expected a YAML file; did you mean {near}?")
    assert "cannot be read" in error_of(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in error_of(tmp_path / "binary.yaml")
    assert "cannot be read" in error_of("a\0b.yaml")


def test_a_bare_name_is_a_recipe_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("swin_digits").DATA.DATASET == "digits"
    assert load_config("swin_digits") == load_command_line(["--cfg", "swin_digits"])[0]
    (tmp_path / "swin_digits").mkdir()  # such as the output of a run: a folder is no config
    assert load_config("swin_digits").DATA.DATASET == "digits"
    assert error_of("swin_digit") == "swin_digit does not exist: expected a YAML file; did you mean swin_digits?"
    assert load_config("swin_digits.yaml") == load_config("configs/swin_digits.yaml") == load_config("swin_digits")
    assert "did you mean swin_tiny?" in error_of("swin_tiny_patch4_window7_224")
    assert "did you mean swin_tiny?" in error_of("configs/Swin-Tiny.yaml")
    assert "did you mean finetune --opts MODEL.VARIANT swin_base_384_22k?" in error_of("swin_base_384_22")
    assert "did you mean" not in error_of("elsewhere/swin_digit")
    assert "did you mean" not in error_of(write(tmp_path, "leaf.yaml", "BASE: swin_digit\n"))
    write(tmp_path, "swin_tiny", "SEED: 5\n")
    assert load_config("swin_tiny").SEED == 5


def test_missing_base_names_both_files_and_silences_rules_between_keys(tmp_path: Path) -> None:
    # Fewer epochs than the default warm-up: only the missing file could tell whether that is wrong.
    path = write(tmp_path, "a.yaml", "TRAIN: {EPOCHS: 3}\nBASE: base/x.yaml\n")
    assert error_of(path) == f"{path}:2: BASE: {tmp_path / 'base/x.yaml'} does not exist: expected a YAML file"


def test_base_cycles_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "BASE: [b.yaml]\n")
    other = write(tmp_path, "b.yaml", "BASE: [./a.yaml]\n")
    assert f"{other}:1: BASE goes round in a circle: {path} -> {other} -> {path}" in error_of(path)
    twice = write(tmp_path, "twice.yaml", "BASE: [c.yaml, c.yaml]\n")  # twice is not a circle
    write(tmp_path, "c.yaml", "SEED: 5\n")
    assert load_config(twice).SEED == 5


def test_dump_loads_to_an_equal_config(tmp_path: Path) -> None:
    opts = ["DATA.IMG_SIZE", "[224, 448]", "AUG.CUTMIX_MINMAX", "[0.1, 0.9]", "TRAIN.BASE_LR", "2e-5", "TAG", "ünï: #1"]
    cfg = load_config(None, opts)
    again = load_config(write(tmp_path, "config.yaml", dump_config(cfg)))
    assert again == cfg
    assert again.warnings == ()
    assert dump_config(again) == dump_config(cfg)
    assert not again.is_set("MODEL.NUM_CLASSES")


def test_dump_keeps_a_given_class_count(tmp_path: Path) -> None:
    again = load_config(write(tmp_path, "config.yaml", dump_config(load_config(None, ["MODEL.NUM_CLASSES", "7"]))))
    assert again.MODEL.NUM_CLASSES == 7
    assert again.is_set("MODEL.NUM_CLASSES")


def test_dict_form_is_plain_and_loads_back() -> None:
    cfg = load_config(None, ["TRAIN.OPTIMIZER.BETAS", "(0.8, 0.9)", "MODEL.NUM_CLASSES", "7"])
    tree = config_to_dict(cfg)

    def types_in(value: object) -> set[type]:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {type(value)}.union(*map(types_in, children))

    assert types_in(tree) == {dict, list, str, int, float, bool, type(None)}
    tree["MODEL"]["SWIN"]["DEPTHS"][0] = 9
    assert cfg.MODEL.SWIN.DEPTHS[0] == 2, "the dict must not share lists with the config"
    assert config_from_dict(config_to_dict(cfg)) == cfg


def test_stored_configs_of_other_versions() -> None:
    tree = config_to_dict(load_config())
    tree["FUTURE"] = {"A": 1}
    tree["DATA"]["NOVEL"] = 2
    del tree["TRAIN"]["EMA"]
    cfg = config_from_dict(tree)
    assert cfg == load_config()
    assert [line.split(" is unknown")[0] for line in sorted(cfg.warnings)] == [
        "stored config: DATA.NOVEL",
        "stored config: FUTURE",
    ]
    tree["TRAIN"]["EPOCHS"] = "x"
    with pytest.raises(ConfigError, match=r"stored config: TRAIN\.EPOCHS is 'x': expected an integer"):
        config_from_dict(tree)
    with pytest.raises(ConfigError, match="expected a mapping"):
        config_from_dict(["not", "a", "dict"])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["cpu", "triton"])
def test_an_attention_of_an_earlier_version_is_read_as_auto(value):
    tree = config_to_dict(load_config(opts=["MODEL.ATTENTION", value]))
    tree["MODEL"]["ATTENTION"] = value
    assert config_from_dict(tree).MODEL.ATTENTION == "auto"
