"""The wheel holds all that a run needs, and its commands run in a folder that has nothing of the checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENT = ("pyproject.toml", "README.md", "LICENSE", "main.py", "swin", "data", "tools", "configs")


def run(*words: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command without the checkout on Python's path; returns what it prints."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build from a copy: a folder `build` of an earlier build would add its modules."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in CONTENT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    try:
        isolation = ["--no-build-isolation"] if int(version("setuptools").split(".")[0]) >= 77 else []
    except ModuleNotFoundError:
        isolation = []
    run(sys.executable, "-m", "pip", "wheel", source, "--no-deps", *isolation, "--wheel-dir", folder, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory) -> Path:
    """Install the wheel into an environment that sees the packages of the running one, and return its `bin`.

    A .pth file adds a folder behind the environment's own one and reads no .pth file in there, so that an editable
    install of the checkout is not seen.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(run(folder / "bin/python", "-c", "import site; print(*site.getsitepackages())", cwd=folder).strip())
    seen = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "running.pth").write_text("\n".join(seen))
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=folder)
    return folder / "bin"


@pytest.fixture
def empty(tmp_path) -> Path:
    """A folder whose own `data` and `tools` must not be taken for this project's."""
    for name in ("data", "tools", "main"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not the package that was meant')\n")
    return tmp_path


def test_the_wheel_has_the_modules_and_recipes_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {path for name in ("swin", "data", "tools") for path in (ROOT / name).rglob("*.py")}
    modules = {path.relative_to(ROOT).as_posix() for path in sources}
    recipes = {f"swin/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tools" / "report").glob("*.jinja")}
    assert names == modules | recipes | templates | {"main.py", "swin/py.typed"}


def test_the_installed_commands_train_publish_and_predict(commands, empty):
    show = "import swin, data, tools, main; print(swin.__file__, data.__file__, tools.__file__, main.__file__)"
    files = run(commands / "python", "-P", "-c", show, cwd=empty).split()
    assert all(Path(file).is_relative_to(commands.parent) for file in files), files

    options = ["--opts", "TRAIN.EPOCHS", "1", "TRAIN.WARMUP_EPOCHS", "0", "MODEL.SWIN.DEPTHS", "[1, 1]"]
    run(commands / "swin-train", "--cfg", "swin_digits", "--tag", "wheel", *options, cwd=empty, OMP_NUM_THREADS="1")
    best = empty / "output/swin_digits/wheel/checkpoints/best.pth"
    save = "from data.digits import save_test_image; save_test_image('digit.png')"
    run(commands / "python", "-P", "-c", save, cwd=empty)
    predicted = run(commands / "swin-predict", "--checkpoint", best, "--input", "digit.png", cwd=empty)
    assert predicted.startswith("digit.png  ")
    assert predicted.count("%") == 5
    run(commands / "swin-publish", "--checkpoint", best, "--output", "given", "--license", "mit", cwd=empty)
    assert run(commands / "swin-predict", "--checkpoint", "given", "--input", "digit.png", cwd=empty) == predicted


@pytest.mark.parametrize("name", ["swin-train", "swin-predict"])
def test_the_help_names_the_command(commands, empty, name):
    assert run(commands / name, "--help", cwd=empty).startswith(f"usage: {name} ")
