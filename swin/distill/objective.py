"""What a student minimises: its loss on the labels, and how far it is from its teacher.

Legend: B images, K classes, S and D channels of the last feature map of student and teacher.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swin.batches import Batch, PrepareFn
from swin.distill.teacher import Teacher
from swin.errors import CheckpointError
from swin.losses import Loss
from swin.models import Backbone
from swin.objective import Objective
from swin.weights import load_strictly

_BETA = 2.0  # where the loss on feature maps goes over from squares to absolute values


def soft_loss(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Compute T^2 KL(softmax(teacher / T) || softmax(student / T)) of each image (B,), in float32 at the least.

    The factor keeps the gradient's size as T grows. Source: Hinton et al. 2015, arXiv 1503.02531, section 2.
    """
    log_BK, teacher_log_BK = (F.log_softmax(_widen(each) / temperature, dim=1) for each in (logits_BK, teacher_BK))
    divergence_BK = F.kl_div(log_BK, teacher_log_BK, reduction="none", log_target=True)
    return divergence_BK.sum(dim=1) * temperature**2


def hard_loss(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Compute the cross-entropy (B,) with the teacher's top class as label. Source: DeiT, arXiv 2012.12877, eq. 3."""
    return F.cross_entropy(_widen(logits_BK), teacher_BK.argmax(dim=1), reduction="none")


def map_loss(projected_BhwD: Tensor, teacher_BDhw: Tensor) -> Tensor:
    """Compute the smooth L1 distance (B,) of a student's projected map from the teacher's, mean over all values.

    The teacher's map is resized to the student's grid, and whitened: each position has mean 0 and variance 1 over its
    channels, so that the loss does not depend on the scale of a teacher's features. Source: Wei et al. 2022,
    arXiv 2205.14141, section 3.
    """
    grid, target_BDhw = projected_BhwD.shape[1:3], _widen(teacher_BDhw)
    if target_BDhw.shape[2:] != grid:
        target_BDhw = F.interpolate(target_BDhw, grid, mode="bilinear", antialias=True)
    target_BhwD = F.layer_norm(target_BDhw.permute(0, 2, 3, 1), target_BDhw.shape[1:2])
    losses_BhwD = F.smooth_l1_loss(_widen(projected_BhwD), target_BhwD, reduction="none", beta=_BETA)
    return losses_BhwD.mean(dim=(1, 2, 3))


def _widen(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


class Student(nn.Module):
    """A model together with the projection of its last feature map: (images, drop_paths) to logits and (B, h, w, D)."""

    def __init__(self, model: Backbone, projection: nn.Linear) -> None:
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, images: Tensor, drop_paths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        map_BhwS = self.model.forward_features(images, drop_paths)
        return self.model.classify(map_BhwS), self.projection(map_BhwS)


class TargetsWithLogits(NamedTuple):
    """The targets of a batch, and what the teacher has said to its images before."""

    targets: Tensor
    logits: Tensor  # (B, K)


class Distillation(Objective):
    """(1 - alpha) loss on the labels + alpha loss on the teacher's logits + features x loss on its feature map."""

    auxiliary: nn.Linear | None

    def __init__(
        self,
        loss: Loss,
        model: Backbone,
        teacher: Teacher,
        *,
        kind: str = "soft",
        alpha: float = 0.5,
        temperature: float = 1.0,
        features: float = 0.0,
        table: np.ndarray | None = None,
    ) -> None:
        """Make the objective of one student.

        Args:
            loss: On the labels.
            model: The student, on its device.
            teacher: On the same device.
            kind: `soft` for `soft_loss`, `hard` for `hard_loss`.
            alpha: Weight of the teacher's logits, from 0 to 1.
            temperature: Of `soft_loss`.
            features: Weight of `map_loss`; 0 for none.
            table: The teacher's logits of all training images (N, K), which it is then not asked for again; without
                `features`.

        Raises:
            ConfigError: The teacher has no feature map.
        """
        super().__init__(loss)
        self.teacher, self.kind, self.alpha, self.temperature = teacher, kind, alpha, temperature
        self.features, self.table, self.student = features, table, None
        if features:
            device = next(model.parameters()).device
            self.auxiliary = _make_projection(model.num_features, teacher.count_features(), device)
            self.student = Student(model, self.auxiliary)

    def network(self, model: nn.Module) -> nn.Module:
        return self.student or model

    def prepare(self, prepare: PrepareFn) -> PrepareFn:
        if (table := self.table) is None:
            return prepare

        def prepare_taught(batch: Batch, device: torch.device, seed: int) -> tuple[Tensor, TargetsWithLogits]:
            images, targets = prepare(batch, device, seed)
            rows_BK = torch.from_numpy(table[batch.indices].astype(np.float32))
            rows_BK = rows_BK.pin_memory() if device.type == "cuda" else rows_BK  # else a GPU makes the host wait
            return images, TargetsWithLogits(targets, rows_BK.to(device, non_blocking=True))

        return prepare_taught

    def __call__(self, network: nn.Module, images: Tensor, targets: Any, drop_paths: Tensor | None) -> Tensor:
        logits_BK, projected_BhwD, map_BDhw = network(images, drop_paths), None, None
        if self.features:
            logits_BK, projected_BhwD = logits_BK
        with torch.no_grad():
            if isinstance(targets, TargetsWithLogits):
                targets, teacher_BK = targets
            elif self.features:
                teacher_BK, map_BDhw = self.teacher.forward_with_map(images)
            else:
                teacher_BK = self.teacher(images)
        if self.kind == "hard":
            losses_B = hard_loss(logits_BK, teacher_BK)
        else:
            losses_B = soft_loss(logits_BK, teacher_BK, self.temperature)
        losses_B = (1.0 - self.alpha) * self.loss(logits_BK, targets) + self.alpha * losses_B
        if projected_BhwD is None or map_BDhw is None:
            return losses_B
        return losses_B + self.features * map_loss(projected_BhwD, map_BDhw)

    def state_dict(self) -> dict[str, Any]:
        projection = {"projection": self.auxiliary.state_dict()} if self.auxiliary else {}
        return {"teacher": self.teacher.digest, **projection}

    def load_state_dict(self, state: Mapping[str, Any], source: Path) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: it is of another teacher, or has no projection of the feature map where one is trained.
        """
        if state.get("teacher", self.teacher.digest) != self.teacher.digest:
            raise CheckpointError(
                f"checkpoint {source} was trained with another teacher than {self.teacher.name} is now, which the run "
                "would not go on with as it began. Give the same file, or start a new run from the weights with "
                "--pretrained and another --tag."
            )
        if self.auxiliary is None:
            return
        if "projection" not in state:
            raise CheckpointError(
                f"checkpoint {source} has no projection of the feature map, which TRAIN.DISTILL.FEATURES trains; "
                "resume with the config it was written with, or use --pretrained to start a new run from its weights."
            )
        load_strictly(self.auxiliary, state["projection"], source)


def _make_projection(channels: int, teacher_channels: int, device: torch.device) -> nn.Linear:
    """Make a linear layer with the model's kind of initial weights, drawn by themselves: no other draw is moved."""
    with torch.random.fork_rng(devices=[]):
        projection = nn.Linear(channels, teacher_channels)
    nn.init.trunc_normal_(projection.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(projection.bias)
    return projection.to(device)
