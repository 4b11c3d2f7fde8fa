"""Distillation: a student learns from the outputs of a teacher, a model that is trained already."""

from swin.distill.objective import Distillation, hard_loss, map_loss, soft_loss
from swin.distill.open import open_teacher
from swin.distill.teacher import Teacher

__all__ = ["Distillation", "Teacher", "hard_loss", "map_loss", "open_teacher", "soft_loss"]
