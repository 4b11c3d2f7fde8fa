"""What an update uses and changes, and what of it a resumed run needs to continue bit for bit.

Random numbers need no saving: a training sample's come from (seed, epoch, index) and an update's from (seed, step). The
order of the samples comes from (seed, epoch), the learning rate from the progress.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swin.batches import PrepareFn
from swin.distributed import Distributed
from swin.ema import Ema
from swin.engine.precision import Precision
from swin.errors import CheckpointError
from swin.library_optim import ScheduleFreeAverage
from swin.models import Backbone
from swin.objective import Objective
from swin.weights import load_strictly


@dataclass
class TrainState:
    """A model in training.

    Attributes:
        model: the model itself; it may be compiled in place.
        objective: what is minimised.
        ema: the average that is evaluated, if there is one.
        prepare: see `swin.batches.PrepareFn`.
        clip_grad: greatest norm of the gradient; 0 for no limit.
        seed: of mixing, dropout and stochastic depth.
        network: the model as training calls it: itself, or around it what the objective adds, and
            DistributedDataParallel.
    """

    model: Backbone
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | ScheduleFreeAverage | None
    objective: Objective
    prepare: PrepareFn
    precision: Precision
    dist: Distributed
    clip_grad: float
    seed: int
    network: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.objective.network(self.model)
        if self.dist.world_size > 1:
            device_ids = [self.dist.device] if self.dist.device.type == "cuda" else None
            self.network = DistributedDataParallel(self.network, device_ids=device_ids, gradient_as_bucket_view=True)
            # The only buffers are indices that follow from the config. The argument has changed its name in torch.
            self.network.broadcast_buffers = False

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and counters, sharing memory with this object."""
        objective = self.objective.state_dict()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "ema": self.ema.state_dict() if self.ema else None,
            **({"objective": objective} if objective else {}),
        }

    def load_state_dict(self, content: dict[str, Any], source: Path) -> None:
        """Take over what was read from the checkpoint `source`; none of its tensors stays referenced.

        Raises:
            CheckpointError: parts are missing, or shapes differ from the config's.
        """
        load_strictly(self.model, content["model"], source)
        self.objective.load_state_dict(content.get("objective", {}), source)
        scaler = self.scaler if self.scaler.is_enabled() else None
        for name, target in (("optimizer", self.optimizer), ("scaler", scaler), ("ema", self.ema)):
            if target is None:
                continue
            if not content.get(name):
                raise CheckpointError(
                    f"checkpoint {source} has no '{name}' state, which this config needs to continue a run; "
                    "use --pretrained to start a new run from its weights."
                )
            try:
                target.load_state_dict(content[name])
            except (ValueError, KeyError, RuntimeError, TypeError) as error:
                raise CheckpointError(
                    f"the '{name}' state in {source} does not fit this config ({error}); resume with the config it was "
                    "written with, or use --pretrained to start a new run from its weights."
                ) from None
