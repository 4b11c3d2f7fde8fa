"""From a config to the teacher of a run, and to its logits of all training images where they are kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from swin.batches import Data
from swin.distill import Distillation, Teacher, open_teacher
from swin.distributed import from_main
from swin.engine.build import Job
from swin.engine.evaluate import evaluate
from swin.errors import CheckpointError, ConfigError, DataError
from swin.evaluation.predictions import Predictions
from swin.losses import build_loss
from swin.models import SwinTransformer, count_parameters
from swin.objective import Objective
from swin.records import make_folder, replacing
from swin.weights.digest import digest

_NUM_COMPARED = 64  # images of which a kept table knows the pixels


def build_objective(job: Job, model: SwinTransformer, data: Data) -> Objective:
    """Build what the config has a model minimise, with the teacher on this process's device.

    Raises:
        ConfigError, CheckpointError, DataError: the teacher, or an image that it is to see, cannot be used.
    """
    cfg, how, device = job.cfg, job.cfg.TRAIN.DISTILL, job.dist.device
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
    view, logger = data.view(teacher.resize), job.logger
    count, width = data.train.num_samples, len(data.classes)

    def find() -> Path:
        spread = range(0, count, -(-count // _NUM_COMPARED))
        about = {"names": "\n".join(map(view.name, range(count))), "pixels": [view.read(index) for index in spread]}
        key = digest({**about, "teacher": teacher.digest, "precision": job.precision.name}).rpartition(":")[2][:32]
        return Path(job.cfg.OUTPUT or "output", "teachers", f"{key}.npy")

    path = from_main(find)
    if not from_main(path.is_file):
        result, predictions = evaluate(
            teacher, replace(data, val=view), job.precision, job.dist, stop=job.stop, show=logger.progress
        )
        logger.info(f"the teacher's logits of all training images ({result}) are written to {path}")
        from_main(lambda: _write(path, predictions))
    else:
        logger.info(f"the teacher's logits of all training images are read from {path}")
    return job.dist.on_all(what, lambda: _read(path, (count, width)))


def _write(path: Path, predictions: object) -> None:
    assert isinstance(predictions, Predictions)
    if (logits := predictions.logits) is None:
        raise ConfigError(
            f"the teacher's logits of {len(predictions):,} images x {len(predictions.classes):,} classes are too many "
            "to keep: set TRAIN.DISTILL.CACHE False."
        )
    if not np.isfinite(logits).all():
        raise CheckpointError("the teacher's logits are not finite: its weights are damaged. Use another file.")
    make_folder(path.parent)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, logits)


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
