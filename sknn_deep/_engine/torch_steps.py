r"""Steps of torch's element-wise optimisers that a CUDA graph can record.

torch computes the numbers that change from step to step on the host, so a recorded step would
repeat them forever. Here they are factors passed to a step, from a table on the device. The state
remains in torch's optimiser, which can take the next step itself. The update rules are torch's
[1]_: those of Adam, NAdam, RAdam, RMSprop and Adagrad with default options, at a rate
:math:`\eta`.

References
----------
.. [1] The documentation of torch.optim, where each rule is written out.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sknn_deep._engine.optimizers import fused_adam, has_fused_kernel
from sknn_deep._networks.flat import gradient_of

# Option values with which the steps below apply; with other values torch takes the steps.
_PLAIN = {
    "weight_decay": 0, "amsgrad": False, "maximize": False, "capturable": False,
    "differentiable": False, "fused": None, "momentum": 0, "centered": False,
}  # fmt: skip
Rates = Sequence[float]
Factors = tuple[float, ...]


class TorchSteps(ABC):
    """The steps of one of torch's optimisers.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    flat : Tensor
        Its only parameter, with its gradient.
    """

    buffers: ClassVar[tuple[str, ...]]

    def __init__(self, optimizer: torch.optim.Optimizer, flat: Tensor):
        self._optimizer, self._flat = optimizer, flat

    @property
    def _group(self) -> dict[str, Any]:
        return self._optimizer.param_groups[0]

    @property
    def _state(self) -> dict[str, Any]:
        return self._optimizer.state.get(self._flat, {})

    @property
    def is_ready(self) -> bool:
        """Whether the state exists; torch creates it in its first step."""
        return all(name in self._state for name in ("step", *self.buffers))

    def constants(self) -> tuple:
        """Return what a recorded step depends on besides its factors."""
        numbers = (value for name, value in self._group.items() if name not in ("params", "lr"))
        return *numbers, *(self._state[name].data_ptr() for name in self.buffers)

    def next_factors(self, rates: Rates) -> list[Factors]:
        """Count steps; return the factors of each."""
        first = int(self._state["step"].item()) + 1
        self._state["step"] += len(rates)
        return [self._factors(rate, first + i) for i, rate in enumerate(rates)]

    @abstractmethod
    def _factors(self, rate: float, step: int) -> Factors: ...

    def kernel(self) -> Callable[..., None]:
        """Return a function that updates the weights, given the factors of a step."""
        buffers = [self._state[name] for name in self.buffers]
        return self._kernel(self._flat, gradient_of(self._flat), *buffers)

    @abstractmethod
    def _kernel(self, param: Tensor, gradient: Tensor, *buffers: Tensor) -> Callable[..., None]: ...


def _update_moments(gradient: Tensor, m: Tensor, v: Tensor, betas: tuple[float, float]) -> None:
    m.lerp_(gradient, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])


class _Adam(TorchSteps):
    r""":math:`w \leftarrow w - \eta \hat m / (\sqrt{\hat v} + \epsilon)`."""

    buffers = ("exp_avg", "exp_avg_sq")

    def _factors(self, rate: float, step: int) -> Factors:
        beta_1, beta_2 = self._group["betas"]
        correction = math.sqrt(1 - beta_2**step)
        return rate, float(step), rate / (1 - beta_1**step), 1 / correction

    def _kernel(self, param: Tensor, gradient: Tensor, *buffers: Tensor) -> Callable[..., None]:
        m, v = buffers
        betas, eps = self._group["betas"], self._group["eps"]

        def in_one_pass(rate: Tensor, step: Tensor, *_: Tensor) -> None:
            no_maxima: list[Tensor] = []
            fused_adam(
                [param], [gradient], [m], [v], no_maxima, [step], lr=rate, beta1=betas[0],
                beta2=betas[1], weight_decay=0.0, eps=eps, amsgrad=False, maximize=False,
            )  # fmt: skip

        def by_public_operations(_: Any, __: Any, rate: Tensor, inverse: Tensor) -> None:
            _update_moments(gradient, m, v, betas)
            param.sub_(torch.div(m, v.sqrt().mul_(inverse).add_(eps)).mul_(rate))

        return in_one_pass if has_fused_kernel(param) else by_public_operations


class _NAdam(TorchSteps):
    r""":math:`w \leftarrow w - (a g + b m) / (\sqrt{\hat v} + \epsilon)`, with a look ahead."""

    buffers = ("exp_avg", "exp_avg_sq")

    def _factors(self, rate: float, step: int) -> Factors:
        beta_1, beta_2 = self._group["betas"]
        decay, product = self._group["momentum_decay"], self._state["mu_product"]
        now, then = (beta_1 * (1 - 0.5 * 0.96 ** (t * decay)) for t in (step, step + 1))
        product.mul_(now)  # torch's own tensor, in its precision
        so_far = product.item()
        of_gradient = rate * (1 - now) / (1 - so_far)
        return of_gradient, rate * then / (1 - so_far * then), 1 / math.sqrt(1 - beta_2**step)

    def _kernel(self, param: Tensor, gradient: Tensor, *buffers: Tensor) -> Callable[..., None]:
        m, v = buffers
        betas, eps = self._group["betas"], self._group["eps"]

        def move(of_gradient: Tensor, of_moment: Tensor, inverse: Tensor) -> None:
            _update_moments(gradient, m, v, betas)
            step = torch.mul(gradient, of_gradient).addcmul_(m, of_moment)
            param.sub_(step.div_(v.sqrt().mul_(inverse).add_(eps)))

        return move


class _RAdam(TorchSteps):
    r""":math:`w \leftarrow w - m (a / (\sqrt v + \epsilon) + b)`; one of the two is 0."""

    buffers = ("exp_avg", "exp_avg_sq")

    def _factors(self, rate: float, step: int) -> Factors:
        beta_1, beta_2 = self._group["betas"]
        rate, correction = rate / (1 - beta_1**step), 1 - beta_2**step
        longest = 2 / (1 - beta_2) - 1
        length = longest - 2 * step * beta_2**step / correction
        if length <= 5:
            return 0.0, rate
        share = (length - 4) * (length - 2) * longest
        share /= (longest - 4) * (longest - 2) * length
        return rate * math.sqrt(correction * share), 0.0

    def _kernel(self, param: Tensor, gradient: Tensor, *buffers: Tensor) -> Callable[..., None]:
        m, v = buffers
        betas, eps = self._group["betas"], self._group["eps"]

        def move(adaptive: Tensor, plain: Tensor) -> None:
            _update_moments(gradient, m, v, betas)
            factor = v.sqrt().add_(eps).reciprocal_().mul_(adaptive).add_(plain)
            param.sub_(factor.mul_(m))

        return move


class _RMSprop(TorchSteps):
    r""":math:`w \leftarrow w - \eta g / (\sqrt v + \epsilon)` with a mean :math:`v` of squares."""

    buffers = ("square_avg",)

    def _factors(self, rate: float, step: int) -> Factors:
        return (rate,)

    def _kernel(self, param: Tensor, gradient: Tensor, *buffers: Tensor) -> Callable[..., None]:
        (v,) = buffers
        alpha, eps = self._group["alpha"], self._group["eps"]

        def move(rate: Tensor) -> None:
            v.mul_(alpha).addcmul_(gradient, gradient, value=1 - alpha)
            param.sub_(torch.div(gradient, v.sqrt().add_(eps)).mul_(rate))

        return move


class _Adagrad(TorchSteps):
    r""":math:`w \leftarrow w - \eta_t g / (\sqrt s + \epsilon)` with a sum :math:`s` of squares."""

    buffers = ("sum",)

    def _factors(self, rate: float, step: int) -> Factors:
        return (rate / (1 + (step - 1) * self._group["lr_decay"]),)

    def _kernel(self, param: Tensor, gradient: Tensor, *buffers: Tensor) -> Callable[..., None]:
        (total,) = buffers
        eps = self._group["eps"]

        def move(rate: Tensor) -> None:
            total.addcmul_(gradient, gradient)
            param.sub_(torch.div(gradient, total.sqrt().add_(eps)).mul_(rate))

        return move


_STEPS: dict[type, type[TorchSteps]] = {
    torch.optim.Adam: _Adam,
    torch.optim.NAdam: _NAdam,
    torch.optim.RAdam: _RAdam,
    torch.optim.RMSprop: _RMSprop,
    torch.optim.Adagrad: _Adagrad,
}


def torch_steps(optimizer: torch.optim.Optimizer, flat: Tensor) -> TorchSteps | None:
    """Return an optimiser's steps on a network's flat buffer; None if torch must take them.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    flat : Tensor
    """
    steps = _STEPS.get(type(optimizer))
    groups = optimizer.param_groups
    if steps is None or len(groups) > 1 or [id(p) for p in groups[0]["params"]] != [id(flat)]:
        return None
    (group,) = groups
    if any(group.get(name, plain) != plain for name, plain in _PLAIN.items()):
        return None
    return steps(optimizer, flat)
