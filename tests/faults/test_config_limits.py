"""Configs that no machine can run and files made to break their reader: each problem is one line, soon and in little
memory, and whatever real models and files need is let through."""

import os
import random
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import main
from swin.config import Config, config_from_dict, config_to_dict, dump_config, load_config
from swin.config.keys import KEYS
from swin.config.memory import least_bytes, size_keys
from swin.config.tree import FLAT_DEFAULTS, flatten, nest
from swin.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
MAX_SECONDS, MAX_KILOBYTES = 2.0, 500_000


def bounded(load: Callable[..., Config], *args: Any) -> Config | list[str]:
    """The config, or the lines of its ConfigError; neither may take long, or much memory."""
    used, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        result: Config | list[str] = load(*args)
    except ConfigError as error:
        result = str(error).split("\n")
        assert len(result) <= 11
        for line in result:
            assert len(line) <= 1100
            assert line == "".join(line.splitlines())
            line.encode()
            assert not re.search(r"[\x00-\x1f]", line)
    assert time.process_time() - start < MAX_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < MAX_KILOBYTES
    return result


def refused(load: Callable[..., Config], *args: Any) -> list[str]:
    result = bounded(load, *args)
    assert isinstance(result, list), "was accepted"
    return result


def write(folder: Path, text: str | bytes, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def yaml_line(key: str, value: object) -> str:
    *groups, name = key.split(".")
    return "".join(f"{group}: {{" for group in groups) + f"{name}: {value}" + "}" * len(groups)


TOO_LARGE = [
    ("DATA.IMG_SIZE", 10**6),
    ("DATA.IMG_SIZE", [224, 10**6]),
    ("DATA.IMG_SIZE", 90_000),
    ("DATA.BATCH_SIZE", 10**9),
    ("DATA.BATCH_SIZE", 10**6),
    ("DATA.NUM_WORKERS", 10**6),
    ("DATA.REPEATED_AUG", 10**9),
    ("MODEL.NUM_CLASSES", 10**9),
    ("MODEL.SWIN.EMBED_DIM", 10**6),
    ("MODEL.SWIN.EMBED_DIM", 96_000),
    ("MODEL.SWIN.WINDOW_SIZE", 10**5),
    ("MODEL.SWIN.WINDOW_SIZE", 700),
    ("MODEL.SWIN.DEPTHS", [2, 2, 100_000, 2]),
    ("MODEL.SWIN.DEPTHS", [1] * 3000),
    ("MODEL.SWIN.NUM_HEADS", [10**6] * 4),
    ("MODEL.SWIN.PATCH_SIZE", 10**6),
    ("MODEL.SWIN.IN_CHANS", 10**6),
    ("MODEL.SWIN.MLP_RATIO", 1e6),
    ("TRAIN.ACCUMULATION_STEPS", 10**9),
    ("TRAIN.EPOCHS", 10**400),
    ("TRAIN.EPOCHS", 2**63),
    ("TRAIN.BASE_LR", 10**400),
    ("DATA.MASK_PATCH_SIZE", 10**400),  # of a method that is not trained: only its type is checked
    ("AUG.RECOUNT", 10**9),
    ("AUG.CROP_PADDING", 10**9),
    ("DIST_TIMEOUT", 10**18),
]


@pytest.mark.parametrize("route", ["file", "options", "stored"])
@pytest.mark.parametrize(("key", "value"), TOO_LARGE, ids=lambda value: str(value)[:20])
def test_sizes_that_cannot_work_are_one_line(route: str, key: str, value: Any, tmp_path: Path) -> None:
    if route == "file":
        lines = refused(load_config, write(tmp_path, yaml_line(key, value)))
    elif route == "options":
        lines = refused(load_config, None, [key, str(value)])
    else:
        lines = refused(config_from_dict, nest({**flatten(config_to_dict(load_config())), key: value}))
    # A value of another key's line, such as the heads that then do not divide the width, may follow.
    assert key in lines[0]
    assert "expected" in lines[0]


def test_products_name_each_factor_where_it_comes_from_and_the_way_out() -> None:
    assert refused(load_config, None, ["DATA.IMG_SIZE", "30000"]) == [
        "DATA.BATCH_SIZE = 128 (default), DATA.IMG_SIZE = 30000 (--opts), MODEL.SWIN.PATCH_SIZE = 4 (default), "
        "MODEL.SWIN.EMBED_DIM = 96 (default), MODEL.SWIN.WINDOW_SIZE = 7 (default), MODEL.SWIN.MLP_RATIO = 4.0 "
        "(default): expected sizes that a device can hold, not 11,071 GB for one layer's activations; lower them"
    ]
    assert isinstance(bounded(load_config, None, ["DATA.IMG_SIZE", "30000", "DATA.BATCH_SIZE", "1"]), Config)


def test_an_mlp_has_a_channel_and_a_scale_fits_float32() -> None:
    (line,) = refused(load_config, None, ["MODEL.SWIN.MLP_RATIO", "0.01"])
    assert line.endswith("MODEL.SWIN.EMBED_DIM = 96 (default) channels is less than one: raise MLP_RATIO")
    (line,) = refused(load_config, None, ["MODEL.SWIN.QK_SCALE", "1e300"])
    assert line.endswith("expected a number above 0 and at most 1,000")


def test_bounds_are_shown_in_full() -> None:
    for value in ("0", "1000000"):
        (line,) = refused(load_config, None, ["AUG.RECOUNT", value])
        assert line == f"AUG.RECOUNT = {value} (--opts): expected a number of at least 1 and at most 1,000"


GIANT = {"EMBED_DIM": 512, "DEPTHS": [2, 2, 42, 4], "NUM_HEADS": [16, 32, 64, 128]}


@pytest.mark.parametrize("window", [7, 12, 16, 24, 32])
@pytest.mark.parametrize(("img_size", "batch"), [(224, 2048), (1536, 512), (3072, 128), ([3072, 4096], 64)])
def test_the_largest_published_models_pass(window: int, img_size: Any, batch: int) -> None:
    options = {f"MODEL.SWIN.{name}": value for name, value in {**GIANT, "WINDOW_SIZE": window}.items()}
    more = {"DATA.IMG_SIZE": img_size, "DATA.BATCH_SIZE": batch, "MODEL.NUM_CLASSES": 21_841}
    assert batch == load_config(None, (), {**options, **more}).DATA.BATCH_SIZE


def test_the_estimate_of_parameters_is_that_of_the_published_model() -> None:
    numbers = {what: num_bytes / 4 for num_bytes, what, _ in least_bytes(FLAT_DEFAULTS)}
    # Swin-T has 28.3 million; what is left out are biases, norms, merging layers and bias tables.
    parameters = sum(numbers[what] for what in ("the patch embedding", "the blocks")) + 768 * 1000
    assert 0.9 * 28.3e6 < parameters < 28.3e6


def test_every_bounded_key_accepts_its_bound_alone() -> None:
    sizes = size_keys(FLAT_DEFAULTS)
    for name, key in KEYS.items():
        if key.between.endswith("]") and name not in sizes and isinstance(key.default, (int, float)):
            value = type(key.default)(float(key.between[1:-1].split(",")[1]))
            lines = bounded(load_config, None, [name, str(value)])
            assert isinstance(lines, Config) or "must be less than TRAIN.EPOCHS" in lines[0]


TAGS = [
    "!!timestamp x",
    "!!bool x",
    '!!int ""',
    "!!float x",
    "!!binary aGk=",
    "!!python/object:os.system 1",
    "!!null 1",
]
TAGS += ["!!python/name:os.system", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!own 1", "!<tag:x,1:y> 1"]
TAGS += ["!!int [1]", "!!map [1]", "!!seq {a: 1}", "!!str [a]", "!!merge x", "!!value x", "=", "2024-01-01", "<<"]
TAGS += ["2024-01-01 10:00:00 +99:99", "0x_", "0b_", f"1:{':'.join(['59'] * 400)}.5", "9" * 5000, "0x" + "f" * 5000]
TAGS += ['"\\Uffffffff"', '"\\ud800"', '"\\0"', '"a\\nb"', "[" * 10_000, "{a: " * 3000, "- " * 3000, "&a [*a]", "*a"]
TAGS += [
    "{? [a]: b}",
    "{? {a: b}: c}",
    "{[a]: b}",
    "%",
    "@",
    "`",
    "\x00",
    "\x07",
    "\ud800",
    "[1, 2",
    "&a &b c",
    "|9\n x",
]


@pytest.mark.parametrize("value", TAGS, ids=lambda value: ascii(value[:20]))
@pytest.mark.parametrize("key", ["SEED", "TAG", "FUTURE"])
def test_values_that_break_a_yaml_reader_are_one_line(key: str, value: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"EVAL_FREQ: 1\n{key}: {value}\n")
    (line,) = refused(load_config, path)
    assert str(path) in line
    if key == "SEED":
        (line,) = refused(load_config, None, [key, value])
        assert "SEED" in line


@pytest.mark.parametrize("text", ["!!str 7", "! seven", "'2024-01-01'", "'='", "!!str =", "&a x"])
def test_text_may_be_tagged_and_quoted(text: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, f"TAG: {text}\n")).TAG in {"7", "seven", "2024-01-01", "=", "x"}


@pytest.mark.parametrize(
    "text",
    [
        "? [a]\n: 1\n",
        "? {a: b}\n: 1\n",
        "null: 1\n",
        "~: 1\n",
        "? \n: 1\n",
        "1: 2\n",
        "1.5: 2\n",
        "true: 2\n",
        '"TA\\0G": 1\n',
        '"TAG\\nSEED": 1\n',
        '"\\ud800": 1\n',
        "!!int TAG: x\n",
        "? !!set {a}\n: x\n",
        "x" * 50_000 + ": 1\n",
        "MODEL: {1: 2}\n",
        "MODEL: !!set {NAME}\n",
        "MODEL: !!omap [NAME: x]\n",
        "MODEL: [1]\n",
        "<<: 1\n",
        "<<: [1]\n",
        "a: &a {<<: *a}\n",
        "TAG: x\nTAG: y\n",
        "BASE: a.yaml\n",
        "BASE: [a.yaml, a.yaml]\n",
        "BASE: [[a.yaml]]\n",
        "BASE: /dev/zero\n",
        "BASE: .\n",
        "BASE: " + "x" * 5000 + "\n",
        'BASE: "a\\0"\n',
        'BASE: "a\\nb"\n',
        "%YAML " + "1" * 5000 + ".1\n--- {}\n",
        "%TAG ! tag:\n--- {a: !b c}\n",
        "--- {}\n--- {}\n",
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_keys_and_structures_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert str(path) in refused(load_config, path)[0]


@pytest.mark.parametrize(
    "raw",
    ["SEED: 1\n".encode("utf-16"), "SEED: 1\n".encode("utf-16-le"), "TAG: ü\n".encode("latin-1"), bytes(range(256))],
)
def test_other_encodings_are_one_line(raw: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, raw)
    (line,) = refused(load_config, path)
    assert line.startswith(str(path))


LAUGHS = "\n".join(f"K{i + 1}: &k{i + 1} [{', '.join([f'*k{i}'] * 9)}]" for i in range(40))
MERGES = "\n".join(f"K{i + 1}: &k{i + 1} {{<<: [{', '.join([f'*k{i}'] * 9)}], L{i}: 1}}" for i in range(40))
CHAIN = "\n".join(f"K{i + 1}: &k{i + 1} [*k{i}]" for i in range(400))


@pytest.mark.parametrize(
    "text", [f"K0: &k0 [lol]\n{LAUGHS}", f"K0: &k0 {{A: 1}}\n{MERGES}", f"K0: &k0 [lol]\n{CHAIN}"], ids=["9", "<<", "1"]
)
def test_aliases_of_aliases_are_counted_as_what_they_stand_for(text: str, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(load_config, write(tmp_path, text))[0]


def test_base_files_that_double_at_each_level_end(tmp_path: Path) -> None:
    for level in range(40):
        write(tmp_path, f"BASE: [{level + 1}.yaml, {level + 1}.yaml]\nPRINT_FREQ: {level + 1}\n", f"{level}.yaml")
    write(tmp_path, "SEED: 1\n", "40.yaml")
    (line,) = refused(load_config, tmp_path / "0.yaml")
    assert "named once" in line
    for level in range(4):  # 31 files: what a few recipes share is no bomb
        write(tmp_path, f"BASE: [{level + 1}.yaml, {level + 1}.yaml]\nPRINT_FREQ: {level + 1}\n", f"{level}.yaml")
    write(tmp_path, "SEED: 5\n", "4.yaml")
    cfg = load_config(tmp_path / "0.yaml")
    assert (cfg.SEED, cfg.PRINT_FREQ) == (5, 1)


def test_a_base_file_that_is_itself_or_named_ten_thousand_times(tmp_path: Path) -> None:
    write(tmp_path, "SEED: 1\n", "b.yaml")
    (line,) = refused(load_config, write(tmp_path, f"BASE: [{'b.yaml, ' * 10_000}]\n"))
    assert "named once" in line
    (line,) = refused(load_config, write(tmp_path, "BASE: ./a.yaml\n"))
    assert "circle" in line


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with open(tmp_path / "large.yaml", "wb") as file:
        file.truncate(500_000_000)
    write(tmp_path, "# much\n" * 20_000, "comments.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero"), tmp_path):
        assert refused(load_config, path) == [f"{path} cannot be read: it is not a regular file"]
    for name in ("large.yaml", "comments.yaml"):
        (line,) = refused(load_config, tmp_path / name)
        assert "more than 100,000 bytes" in line
    (line,) = refused(load_config, "x" * 5000)
    assert "File name too long" in line


@pytest.mark.parametrize(
    "lines",
    [
        [f"UNKNOWN_KEY_{i}: 1" for i in range(3000)],
        ["TAG: x"] * 3000,
        [f"K{i}: !!set" for i in range(1)] + ["TAG: [1]"] * 3000,
        [f"TRAIN.EPOCH{i}: {i}" for i in range(3000)],
    ],
    ids=["unknown", "twice", "tag", "near"],
)
def test_thousands_of_problems_are_ten_lines_and_a_count(lines: list[str], tmp_path: Path) -> None:
    shown = refused(load_config, write(tmp_path, "\n".join(lines)))
    assert len(shown) == 1 or re.fullmatch(r"and \d+ more like these", shown[10])


def test_three_thousand_unknown_keys_count_the_rest(tmp_path: Path) -> None:
    shown = refused(load_config, write(tmp_path, "\n".join(f"EPOCH{i}: 1" for i in range(3000))))
    assert "did you mean" in shown[9]
    assert shown[10] == "and 2990 more like these"
    stored = {f"EPOCH{i}": 1 for i in range(3000)}
    cfg = bounded(config_from_dict, stored)
    assert isinstance(cfg, Config)
    assert len(cfg.warnings) == 11
    assert cfg.warnings[10] == "and 2990 more like these"


@pytest.mark.parametrize("key", ["TAG", "OUTPUT", "MODEL.NAME", "MODEL.RESUME", "MODEL.PRETRAINED", "DATA.DATA_PATH"])
@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b", "a\nb", "a\x1bb", "a\u2028b", "n" * 5000, "n" * 256, "ü" * 128])
def test_names_that_no_file_system_or_log_takes_are_one_line(key: str, bad: str) -> None:
    for load, args in ((load_config, (None, [key, bad])), (load_config, (None, (), {key: bad}))):
        (line,) = refused(load, *args)
        assert line.startswith(f"{key} = ")
        assert "leave it out" in line or "choose a shorter name" in line
    (line,) = refused(config_from_dict, nest({key: bad}))
    assert "(stored config)" in line


@pytest.mark.parametrize("good", ["n" * 255, "ü" * 127, "a b", "日本語 ", "a/b", "a\u00a0b\u3000c"])
def test_names_of_any_language_pass(good: str) -> None:
    for key in ("TAG", "MODEL.NAME", "DATA.DATA_PATH"):
        assert flatten(load_config(None, (), {key: good}))[key] == good


def test_other_texts_are_checked_for_characters_too() -> None:
    (line,) = refused(load_config, None, (), {"TRAIN.FREEZE": ["layers.0", "a\0b"]})
    assert line.startswith("TRAIN.FREEZE = ")
    (line,) = refused(load_config, None, ["TAG", "a/./b"])
    assert "joined by single slashes" in line


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_stored_values_of_any_kind_are_one_line() -> None:
    looped: list[Any] = []
    looped.append(looped)
    keys = ("SEED", "AMP_ENABLE", "TAG", "DATA.IMG_SIZE", "TRAIN.BASE_LR", "DATA.MEAN", "TRAIN.FREEZE")
    for value in (10**5000, -(10**30), looped, nested(100_000), {1: {2: 3}}, {1, 2}, b"x", 1j, np.zeros(3), object):
        for key in keys:
            (line,) = refused(config_from_dict, nest({key: value}))
            assert key in line
    (line,) = refused(config_from_dict, {"MODEL": looped})
    assert "MODEL is a group of keys and takes no value" in line
    for key in (1, None, (1, 2), "a\nb\0", b"x", "x" * 100_000):
        cfg = bounded(config_from_dict, {key: 1})
        assert isinstance(cfg, Config)
        (warning,) = cfg.warnings
        assert len(warning.splitlines()) == 1
        assert len(warning) <= 1100


def test_options_share_the_room_of_the_files() -> None:
    (line,) = refused(load_config, None, ["DATA.MEAN", "[" + "1," * 60_000 + "]", "SEED", "1"])
    assert "more than 100,000 characters" in line
    for text in ("-" * 90_000 + "1", "(" * 5000, "{[]: 1}", "&a [*a]", "1+" * 20_000 + "1", "{}[0]", "a" * 90_000):
        (line,) = refused(load_config, None, ["SEED", text])
        assert line.startswith("--opts: SEED is ")


def test_policies_with_huge_numbers_are_refused() -> None:
    for policy in ("rand-m9-n1000000000", "augmix-w99999", "rand-m9-n1_000_000", "rand-m9-n\u0661", "rand-n1e9"):
        (line,) = refused(load_config, None, ["AUG.AUTO_AUGMENT", policy])
        assert "as in rand-m9-mstd0.5-inc1" in line
    for policy in ("rand-m9-mstd0.5-inc1-n3-p0.25", "augmix-m5-w4-d2", "original-mstd0.3333", "rand-m9-tfoo"):
        assert policy == load_config(None, ["AUG.AUTO_AUGMENT", policy]).AUG.AUTO_AUGMENT


@pytest.mark.parametrize("flag", ["--batch-size", "--no-such\n-flag" + "x" * 5000, "--cfg"])
def test_the_command_line_shows_bad_words_on_one_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    cfg = ["--cfg", str(CONFIGS / "swin_digits.yaml")] if flag != "--cfg" else []
    assert main.main([*cfg, flag, "9" * 5000]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert len(text) < 1200


# Mutations of the files that the project ships. A seed gives the same files on every machine.
HOSTILE = [*TAGS, "1e999", "-1", "0", "null", "nan", ".nan", ".inf", "-.inf", "1" * 30, "[]", "{}", "[[]]", "'", '"']
HOSTILE += [": ", "? ", "1e6", "1000000", "999", "&a", "*a", "<<: *a", "#", "\t", "\n", "---", "...", "BASE: [a.yaml]"]
HOSTILE += ["True", "x: y"]


def mutate(raw: bytes, draw: random.Random, most: int = 5) -> bytes:
    """One to `most` changes: bytes, words, lines or structure."""
    for _ in range(draw.randint(1, most)):
        at, lines = draw.randrange(len(raw) + 1), raw.split(b"\n")
        line = draw.randrange(len(lines))
        words = [found.span() for found in re.finditer(rb"[\w.+-]+", raw)] or [(0, 0)]
        start, stop = draw.choice(words)
        hostile = draw.choice(HOSTILE)[: draw.choice((8, 40, 20_000))].encode("utf-8", "surrogatepass")
        indented = [b" " * draw.randint(0, 3) + text for text in lines]
        raw = draw.choice(
            [
                raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :],
                raw[:at] + raw[at + draw.randint(1, 30) :],
                raw[:at] + hostile + raw[at:],
                raw[:start] + hostile + raw[stop:],
                raw[:start] + str(draw.choice((-1, 1)) * 10 ** draw.randint(0, 40)).encode() + raw[stop:],
                raw[:start] + raw[slice(*draw.choice(words))] + raw[stop:],
                b"\n".join([*lines[:line], *lines[line:][: draw.randint(1, 9)] * draw.randint(2, 50), *lines[line:]]),
                b"\n".join(lines[:line] + lines[line + 1 :]),
                b"\n".join(draw.sample(lines, len(lines))),
                b"\n".join(indented),
                raw.replace(b":", draw.choice((b": ", b":\n ", b": {", b" ")), draw.randint(1, 3)),
            ]
        )
    return raw


def count_outcomes(num_files: int, folder: Path, seed: int) -> tuple[int, int]:
    """How many mutated files were accepted and refused; anything but these two fails."""
    draw = random.Random(seed)
    sources = [path.read_bytes() for path in sorted(CONFIGS.rglob("*.yaml"))]
    (folder / "_base_").symlink_to(CONFIGS / "_base_")
    results = [bounded(load_config, write(folder, mutate(draw.choice(sources), draw))) for _ in range(num_files)]
    accepted = sum(isinstance(result, Config) for result in results)
    return accepted, num_files - accepted


def test_300_mutated_files_are_accepted_or_refused(tmp_path: Path) -> None:
    accepted, rejected = count_outcomes(300, tmp_path, seed=1)
    assert min(accepted, rejected) > 30  # or the mutations are too harsh, or too mild, to show anything


@pytest.mark.slow
def test_2000_mutated_files_are_accepted_or_refused(tmp_path: Path) -> None:
    accepted, rejected = count_outcomes(2000, tmp_path, seed=2)
    assert min(accepted, rejected) > 200


def test_mutated_files_that_are_accepted_train_or_are_refused_later(runner) -> None:
    """In this process; what would take long, or more memory than a small model does, is only loaded."""
    draw, statuses = random.Random(3), []
    original = dump_config(load_config(runner.config)).encode()
    while len(statuses) < 24:
        runner.config.write_bytes(mutate(original, draw, most=1))
        cfg = bounded(load_config, runner.config)
        if isinstance(cfg, Config) and not cfg.DATA.NUM_WORKERS and max(least_bytes(flatten(cfg)))[0] < 1e7:
            statuses.append(runner("fuzz", "--dry-run"))
            assert "Traceback" not in runner.text()
    assert {0} <= set(statuses) <= {0, 2}
