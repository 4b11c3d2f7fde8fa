"""Reading weight files safely: no code in a file is ever run."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from swin.errors import CheckpointError


def read_torch_file(path: str | Path) -> Any:
    """What a file written by `torch.save` holds, with all tensors on the CPU.

    Tensors, plain containers and numbers are read, and the yacs CfgNode that official training checkpoints carry. Any
    other pickled object is refused. The check sums of the file's members are verified first, so that a truncated or
    damaged file is never half used.

    Raises:
        CheckpointError: the file is missing, damaged, or holds objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}; give the path of a .pth file.")
    _verify_archive(path)
    try:
        with torch.serialization.safe_globals([CfgNode]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            name = str(error).split("GLOBAL ")[-1].split(" was not")[0]
            raise CheckpointError(
                f"checkpoint {path} holds a Python object ({name}), which could run code, and is refused; "
                "save it again with tensors and plain containers only."
            ) from None
        raise _damaged(path, error) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _verify_archive(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return  # torch's older format has no check sums
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise _damaged(path, error) from None
    if damaged is not None:
        raise _damaged(path, f"check sum of {damaged} is wrong")


def _damaged(path: Path, why: object) -> CheckpointError:
    reason = str(why).splitlines()[0] if str(why) else type(why).__name__
    return CheckpointError(
        f"checkpoint {path} ({path.stat().st_size} bytes) cannot be read: it is truncated, damaged or no checkpoint "
        f"({reason}); copy it again or use an earlier one."
    )
