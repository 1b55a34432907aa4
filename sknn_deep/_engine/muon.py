r"""Muon's orthogonal steps, in the type that a processor multiplies fastest.

torch's Muon computes in bfloat16. A CPU without instructions for it, such as one with AVX2 only,
takes several times as long as in single precision.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sknn_deep._hardware.bfloat16 import has_instructions


def step_dtype(device: torch.device) -> torch.dtype:
    """Return the type in which steps are computed on a device."""
    return torch.bfloat16 if device.type != "cpu" or has_instructions() else torch.float32


def orthogonalized(
    step: Tensor, coefficients: tuple[float, float, float], n_iterations: int, eps: float
) -> Tensor:
    r"""Return matrices whose singular values are all near 1, by Newton-Schulz iterations.

    .. math:: X \leftarrow a X + (b A + c A^2) X, \qquad A = X X^\top

    Parameters
    ----------
    step : Tensor of shape (K, n, m)
    coefficients : (float, float, float)
        a, b and c.
    n_iterations : int
    eps : float
        The smallest norm to divide by.

    Returns
    -------
    orthogonal : Tensor of shape (K, n, m), in bfloat16 or single precision
    """
    a, b, c = coefficients
    is_tall = step.shape[-2] > step.shape[-1]
    x = (step.mT if is_tall else step).to(step_dtype(step.device))
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(n_iterations):
        products = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(products, products, products, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


def rate_factor(adjustment: str | None, shape: torch.Size) -> float:
    """Return by what torch multiplies Muon's learning rate for a matrix."""
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(shape))
    return math.sqrt(max(1.0, shape[0] / shape[1]))


class SinglePrecisionMuon(torch.optim.Muon):
    """torch's Muon with steps in single precision; parameters and state as there."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, momentum = float(group["lr"]), group["momentum"]
            iteration = group["ns_coefficients"], group["ns_steps"], group["eps"]
            for matrix in group["params"]:
                gradient = matrix.grad
                if gradient is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
                step = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                (own,) = orthogonalized(step.unsqueeze(0), *iteration)
                matrix.mul_(1 - rate * group["weight_decay"])
                factor = rate_factor(group["adjust_lr_fn"], matrix.shape)
                matrix.add_(own.to(matrix.dtype), alpha=-rate * factor)
        return loss
