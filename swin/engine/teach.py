"""From a config to what a run minimises: its loss, a teacher with its logits of all training images, or pixels."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from swin.batches import Data
from swin.distill import Distillation, Teacher, open_teacher
from swin.distributed import from_main
from swin.engine.build import Job
from swin.engine.evaluate import evaluate
from swin.errors import CheckpointError, ConfigError, DataError
from swin.evaluation.predictions import FLOAT32_VALUES, Predictions
from swin.logger import Logger
from swin.losses import build_loss
from swin.models import Backbone, count_parameters
from swin.objective import Objective
from swin.records import make_folder, temporary_path, writing
from swin.simmim import SimMIM
from swin.weights.digest import digest

_NUM_COMPARED = 64  # images of which a kept table knows the pixels
_VALUES_AT_ONCE = 1 << 26  # logits that the teacher is asked for before they are written: 128 MiB


def build_objective(job: Job, model: Backbone, data: Data) -> Objective:
    """Build what the config has a model minimise, on this process's device.

    Raises:
        ConfigError, CheckpointError, DataError: the teacher, or an image that it is to see, cannot be used.
    """
    cfg, how, device = job.cfg, job.cfg.TRAIN.DISTILL, job.dist.device
    if cfg.TRAIN.LOSS == "simmim":
        norm = cfg.MODEL.SIMMIM.NORM_TARGET
        options = {"cell": cfg.DATA.MASK_PATCH_SIZE, "ratio": cfg.DATA.MASK_RATIO}
        return SimMIM(model, data, **options, norm_side=norm.PATCH_SIZE if norm.ENABLE else None)
    loss = build_loss(cfg, data.class_counts)
    if not how.TEACHER:
        return Objective(loss)
    fold = "" if cfg.DATA.FOLD is None else f" of fold {cfg.DATA.FOLD}"
    found = job.dist.on_all(f"teacher{fold}", lambda: open_teacher(how.TEACHER, how.CONFIG))
    teacher = Teacher(found, given=data.normalise, classes=data.classes).to(device)
    lesson = "top class" if how.KIND == "hard" else f"softmax at temperature {how.TEMPERATURE:g}"
    features = f", its last feature map {how.FEATURES:g}" if how.FEATURES else ""
    job.logger.info(
        f"teacher {teacher.name}: {count_parameters(teacher.model):,} parameters, sees images of "
        f"{' x '.join(map(str, teacher.resize.size))}; its {lesson} weighs {how.ALPHA:g}{features}"
    )
    if not teacher.has_names:
        job.logger.warning(
            f"the teacher {teacher.name} does not name its classes: they are taken to be the data's in the same order, "
            f"{', '.join(data.classes[:3])}, ..."
        )
    table = None
    if how.CACHE and not job.is_dry:
        table = read_table(job, teacher, data, f"teacher's table{fold}")
    options = {"kind": how.KIND, "alpha": how.ALPHA, "temperature": how.TEMPERATURE, "features": how.FEATURES}
    return Distillation(loss, model, teacher, **options, table=table)


def read_table(job: Job, teacher: Teacher, data: Data, what: str) -> np.ndarray:
    """Return a teacher's logits of all training images (N, K), each row less its largest, as a view of a file.

    Where the file is not there yet, the teacher sees each image once, as it was trained to see it, on all processes.
    The file's name follows from the teacher, the names of the images and the pixels of some of them. `what` names the
    table for messages, once in a run.
    """
    assert data.train is not None
    assert data.view is not None
    count, width = data.train.num_samples, len(data.classes)
    view = data.view(teacher.resize, range(count))

    def find() -> Path:
        spread = range(0, count, -(-count // _NUM_COMPARED))
        about = {"names": "\n".join(map(view.name, range(count))), "pixels": [view.read(index) for index in spread]}
        key = digest({**about, "teacher": teacher.digest, "precision": job.precision.name}).rpartition(":")[2][:32]
        return Path(job.cfg.OUTPUT or "output", "teachers", f"{key}.npy")

    path = from_main(find)
    if from_main(path.is_file):
        job.logger.info(f"the teacher's logits of all training images are read from {path}")
    else:
        _write(job, teacher, data, path, (count, width))
    return job.dist.on_all(what, lambda: _read(path, (count, width)))


def _write(job: Job, teacher: Teacher, data: Data, path: Path, shape: tuple[int, int]) -> None:
    """Ask the teacher for all images, some at a time, so that memory holds no more than these; all call it together."""
    assert data.view is not None
    count, width = shape
    size, temporary, hits = max(1, _VALUES_AT_ONCE // width), temporary_path(path), 0
    dtype = np.dtype(np.float32 if count * width <= FLOAT32_VALUES else np.float16)
    try:
        from_main(lambda: _begin(temporary, shape, dtype))
        for start in range(0, count, size):
            part = replace(data, val=data.view(teacher.resize, range(start, min(start + size, count))))
            done = start // job.dist.world_size
            show = partial(_show_part, job.logger, done, count // job.dist.world_size)
            result, table = evaluate(teacher, part, job.precision, job.dist, stop=job.stop, show=show)
            from_main(partial(_append, temporary, table, dtype))
            hits += result.correct1
        from_main(lambda: _publish(temporary, path))
    finally:
        if job.dist.is_main:
            temporary.unlink(missing_ok=True)
    job.logger.info(f"the teacher's logits of all training images ({hits:,} of {count:,} right) are written to {path}")


def _show_part(logger: Logger, before: int, own: int, done: int, _: int, text: str) -> None:
    logger.progress(before + done, own, text)


def _begin(path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
    make_folder(path.parent)
    with writing(path):
        needed, free = shape[0] * shape[1] * dtype.itemsize, shutil.disk_usage(path.parent).free
    if needed > free:
        raise ConfigError(
            f"the teacher's logits of {shape[0]:,} images x {shape[1]:,} classes take {needed / 1e9:,.1f} GB in "
            f"{path.parent}, where {free / 1e9:,.1f} GB are free: set TRAIN.DISTILL.CACHE False, or another OUTPUT."
        )
    with writing(path), path.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        )


def _append(path: Path, table: object, dtype: np.dtype) -> None:
    assert isinstance(table, Predictions)
    assert table.logits is not None
    logits = table.logits.astype(dtype)
    if not np.isfinite(logits).all():
        raise CheckpointError("the teacher's logits are not finite: its weights are damaged. Use another file.")
    with writing(path), path.open("ab") as file:
        file.write(logits.tobytes())


def _publish(temporary: Path, path: Path) -> None:
    with writing(path):
        temporary.replace(path)


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        table: object = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"the teacher's logits in {path} cannot be read ({error}); remove the file.") from None
    if not isinstance(table, np.ndarray) or table.shape != shape or table.dtype.kind != "f":
        found = f"{table.dtype} {table.shape}" if isinstance(table, np.ndarray) else "no table"
        raise DataError(f"the teacher's logits in {path} are {found}, expected float {shape}; remove the file.")
    if (table.max(axis=1) != 0).any() or not np.isfinite(table.min()):
        raise DataError(f"the teacher's logits in {path} are damaged: a row is not as it was written; remove the file.")
    return table
