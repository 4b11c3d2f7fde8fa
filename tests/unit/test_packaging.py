"""What pyproject.toml says about packages and versions agrees with the files."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from timm.data.auto_augment import rand_augment_transform

from data import operations

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def test_every_package_is_installed():
    inits = [path for name in ("swin", "data", "tools") for path in (ROOT / name).rglob("__init__.py")]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    recipes = {"swin.configs", "swin.configs._base_"}  # configs/ of a checkout
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages | recipes


def test_the_oldest_versions_are_the_lower_bounds():
    extras = PROJECT["optional-dependencies"]
    bounds = {}
    named = ("report", "trackers", "hub", "optim", "lora", "onnx", "openvino", "test")
    for text in [*PROJECT["dependencies"], *(text for name in named for text in extras[name])]:
        requirement = Requirement(text)
        lowest = [Version(item.version) for item in requirement.specifier if item.operator == ">="]
        assert len(lowest) == 1 or requirement.name == PROJECT["name"], text
        bounds |= {requirement.name.lower(): version for version in lowest}
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if not line.startswith("#"))
    assert {name: Version(version) for name, version in pinned.items()} == bounds


def test_every_command_names_a_function():
    for target in PROJECT["scripts"].values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


def test_commits_are_held_to_the_linters_of_continuous_integration():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lines = (ROOT / ".ci/run").read_text().splitlines()
    linters = [line for line in lines if line.startswith(("ruff", "mypy", "lint-imports"))]
    assert [hook["entry"] for hook in hooks] == [re.sub(r"( --check)?( \.)?$", "", line) for line in linters]


def test_timms_policies_still_use_the_operations_that_are_replaced():
    """If this fails, timm has moved them: data/operations.py and the upper bound in pyproject.toml need a look."""
    policy = rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_pct": 0.45, "img_mean": (128, 128, 128)})
    operations.adapt_policy(policy)
    assert {operation.aug_fn for operation in policy.ops} >= set(operations._REPLACEMENTS.values())
