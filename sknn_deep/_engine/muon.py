r"""Muon's orthogonalised steps, in the type that a processor multiplies fastest.

torch's Muon computes in bfloat16. On a CPU without instructions for it, such as one with only AVX2,
this takes several times as long as single precision.

References
----------
.. [1] T. Dao, J. Zhang, N. Amsel, B. Chen (2026). Gram Newton-Schulz: a fast, hardware-aware
   Newton-Schulz algorithm for Muon. https://tridao.me/blog/2026/gram-newton-schulz/
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sknn_deep._hardware.bfloat16 import has_instructions

# From this ratio of width to height on, iterations use the Gram matrix, whose products are smaller.
_WIDE = 2.5
# Rounding leaves the Gram matrix with small negative eigenvalues, which each iteration but the last
# multiplies by a squared. The largest growth allowed is that of five iterations with torch's
# coefficients.
_MOST_GROWTH = 2**15


def step_dtype(device: torch.device) -> torch.dtype:
    """Return the data type in which steps are computed on a device."""
    return torch.bfloat16 if device.type != "cpu" or has_instructions() else torch.float32


def orthogonalized(
    step: Tensor, coefficients: tuple[float, float, float], n_iterations: int, eps: float
) -> Tensor:
    r"""Return matrices whose singular values are all near 1, by Newton-Schulz iterations.

    .. math:: X \leftarrow (a I + b A + c A^2) X, \qquad A = X X^\top

    For wide matrices, the product of these polynomials is computed from A alone and applied to X
    once [1]_, as polynomials in A commute with A. Bfloat16 is not accurate enough for that.

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
    is_wide = n_iterations > 1 and x.shape[-1] >= _WIDE * x.shape[-2]
    if is_wide and x.dtype != torch.bfloat16 and a ** (2 * (n_iterations - 1)) <= _MOST_GROWTH:
        gram = torch.bmm(x, x.mT)
        x = torch.bmm(_product_of_polynomials(gram, coefficients, n_iterations), x)
        return x.mT if is_tall else x
    for _ in range(n_iterations):
        products = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(products, products, products, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if is_tall else x


def _product_of_polynomials(
    gram: Tensor, coefficients: tuple[float, float, float], n_iterations: int
) -> Tensor:
    r"""Return the matrix by which all iterations together multiply X.

    .. math:: P = a I + b A + c A^2, \qquad Q \leftarrow P Q, \qquad A \leftarrow P A P

    Parameters
    ----------
    gram : Tensor of shape (K, n, n)
        A before the first iteration.
    coefficients : (float, float, float)
        a, b and c.
    n_iterations : int
        At least 1.
    """
    a, b, c = coefficients

    def polynomial() -> Tensor:
        result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        result.diagonal(dim1=-2, dim2=-1).add_(a)
        return result

    product = last = polynomial()
    for _ in range(n_iterations - 1):
        gram = torch.bmm(torch.bmm(last, gram), last)
        last = polynomial()
        product = torch.bmm(last, product)
    return product


def rate_factor(adjustment: str | None, shape: torch.Size) -> float:
    """Return the factor by which torch multiplies Muon's learning rate for a matrix."""
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(shape))
    return math.sqrt(max(1.0, shape[0] / shape[1]))


class SinglePrecisionMuon(torch.optim.Muon):
    """torch's Muon with steps in single precision, and the same parameters and state."""

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
