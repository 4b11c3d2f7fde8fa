"""Muon: matrices are updated by orthogonalised momentum, all else by AdamW.

Sources: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks; the scale of the updates, by which
rates and decay are those of AdamW's kind, is that of Liu et al. 2025, arXiv 2502.16982, section 2.2.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Of the polynomial whose repeated use brings all singular values near 1, and how often it is used.
_COEFFICIENTS, _STEPS = (3.4445, -4.7750, 2.0315), 5
_RMS = 0.2  # root mean square of an update's values, as AdamW's usually is
_SMALLEST_NORM = 1e-7


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Bring the singular values of matrices near 1, between about 0.7 and 1.2, and leave their singular vectors.

    Zero stays zero. On a GPU the products are in bfloat16, as the authors have them; on a CPU in float32.

    Args:
        matrices_NRC: N matrices (N, R, C), float.

    Returns:
        (N, R, C), of the same type.
    """
    is_tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = (matrices_NRC.mT if is_tall else matrices_NRC).contiguous()  # the shorter side comes first
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_SMALLEST_NORM)
    x = x.to(torch.bfloat16) if x.device.type == "cuda" else x
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices_NRC.dtype)


class Muon(torch.optim.AdamW):
    """AdamW, but for the groups with `pieces`, whose parameters are matrices and updated by Muon.

    Attributes of such a group:
        pieces: for each parameter, as how many matrices, one below the other, it is taken: 3 for queries, keys and
            values in one; a parameter of more than two dimensions is a matrix of its first and all others.
        momentum: of the moving average of gradients.

    As fused kernels do, an update leaves all as it is where the attribute `found_inf`, a tensor on the device, is 1.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's own looks for its moments in all states

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have gradients."""
        assert closure is None
        found_inf, groups = getattr(self, "found_inf", None), self.param_groups
        for group in groups:
            if "pieces" in group:
                self._update_matrices(group, found_inf)
        self.param_groups = [group for group in groups if "pieces" not in group]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _update_matrices(self, group: dict[str, Any], found_inf: Tensor | None) -> None:
        alike: dict[tuple[torch.Size, int], list[Tensor]] = defaultdict(list)
        for parameter, pieces in zip(group["params"], group["pieces"], strict=True):
            if parameter.grad is not None:
                alike[parameter.shape, pieces].append(parameter)
        for (shape, pieces), parameters in alike.items():  # their matrices are multiplied at once
            rows, columns = shape[0] // pieces, shape[1:].numel()
            grads, momenta = [parameter.grad for parameter in parameters], [self._momentum(each) for each in parameters]
            old, grad = torch.stack(momenta), torch.stack(grads)  # type: ignore[arg-type]
            new = old.lerp(grad, 1 - group["momentum"])
            update = orthogonalise(grad.lerp(new, group["momentum"]).reshape(-1, rows, columns)).reshape_as(grad)
            scale = -group["lr"] * _RMS * max(rows, columns) ** 0.5
            values = torch.stack(parameters)
            changed = (values * (1 - group["lr"] * group["weight_decay"])).add(update, alpha=scale)
            if found_inf is not None:
                new, changed = torch.where(found_inf > 0, old, new), torch.where(found_inf > 0, values, changed)
            torch._foreach_copy_(momenta, list(new.unbind()))
            torch._foreach_copy_(parameters, list(changed.unbind()))

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"]
        return momentum
