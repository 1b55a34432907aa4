"""Optimisers and learning-rate schedules, by name.

Every optimiser is a :class:`torch.optim.Optimizer`, so skorch's and torch's learning-rate
schedulers work with it. ``SGD`` and ``Adam`` are implemented here because scikit-learn's update
rules differ from torch's: its velocity includes the learning rate of the step that made it, and
its Adam adds epsilon before the bias correction.

Both bypass torch's wrappers: the first call of a wrapper imports ``torch._dynamo``, which would
cost every worker of a grid search more than a second of processor time, and every step would be
wrapped in a profiler record.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _light(method: Callable) -> Callable:
    """Return a method of torch's optimiser without torch's wrapper.

    The wrapper is for compilation, and the optimisers here are never compiled.
    """
    return getattr(method, "__wrapped__", method)


Move = Callable[[float | Tensor], None]


class FlatOptimizer(torch.optim.Optimizer):
    """Base class of the optimisers implemented here, which update one flat buffer.

    A subclass names its ``buffers`` and overrides ``numbers``, ``next_biases`` and
    ``kernel_for``.

    Parameters
    ----------
    flat : Tensor
        A network's flat buffer, with its gradient.
    **defaults
        The learning rate ``lr`` and the optimiser's other hyperparameters.
    """

    buffers: tuple[str, ...]
    add_param_group = _light(torch.optim.Optimizer.add_param_group)
    state_dict = _light(torch.optim.Optimizer.state_dict)
    load_state_dict = _light(torch.optim.Optimizer.load_state_dict)
    _opt_called = True  # torch's schedulers check it, and cannot see calls of ``kernel``

    # the last kernel, with its cache key and its tensors
    _made: tuple[tuple, list[Tensor], Move] | None = None

    def __init__(self, flat: Tensor, **defaults: Any):
        super().__init__([flat], defaults)

    # the engine always passes a closure
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        result = closure()
        self.kernel()(self.next_factor())
        return result

    # torch wraps the step of every optimiser class in a profiler record,
    # unless it is marked as wrapped already
    step.hooked = True  # type: ignore[attr-defined]

    def numbers(self) -> tuple:
        """Return the hyperparameters of a step, besides its factor."""
        raise NotImplementedError

    def next_biases(self, n_steps: int) -> list[float]:
        """Count steps; return the factor of each at a learning rate of one."""
        raise NotImplementedError

    def kernel_for(self, flat: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Move:
        """Return a function that updates these weights like this optimiser, given a factor."""
        raise NotImplementedError

    def next_factors(self, rates: Sequence[Any]) -> list[tuple]:
        """Count steps at these rates (numbers or arrays); return the factor of each."""
        biases = self.next_biases(len(rates))
        return [(rate * bias,) for rate, bias in zip(rates, biases, strict=True)]

    def is_one_kernel(self, flat: Tensor) -> bool:
        """Return whether a single kernel updates such weights, at one rate for all of them."""
        return False

    def next_factor(self) -> float:
        """Count a step; return its factor: the learning rate times the optimiser's own."""
        (bias,) = self.next_biases(1)
        return self.param_groups[0]["lr"] * bias

    def kernel(self) -> Move:
        """Return a function that updates the weights by their gradient, given a factor."""
        ((flat,),) = (group["params"] for group in self.param_groups)
        state = self._ready_state()
        tensors = [flat, flat.grad, *(state[name] for name in self.buffers)]
        present = (*self.numbers(), *map(id, tensors))
        if self._made is None or self._made[0] != present:
            # the tensors are kept with the kernel, so that no other tensors can get their ids
            self._made = present, tensors, self.kernel_for(flat, flat.grad, state)
        return self._made[-1]

    def constants(self) -> tuple:
        """Initialise the state; return what a recorded step depends on besides its factor."""
        state = self._ready_state()
        return *self.numbers(), *(state[name].data_ptr() for name in self.buffers)

    def write_state(self, rows: dict[str, Tensor]) -> None:
        """Copy the state's buffers, if they exist yet, into zeros of the same shape."""
        for name, buffer in self._state().items():
            if name in rows:
                rows[name].copy_(buffer)

    def read_state(self, rows: dict[str, Tensor]) -> None:
        """Replace the state's buffers by these tensors."""
        self._state().update(rows)

    def catch_up(self, other: "FlatOptimizer") -> None:
        """Adopt the step count of another optimiser that also updated this one's weights."""
        counts = {name: n for name, n in other._state().items() if name not in self.buffers}
        self._state().update(counts)

    def _state(self) -> dict[str, Any]:
        ((flat,),) = (group["params"] for group in self.param_groups)
        return self.state[flat]

    def _ready_state(self) -> dict[str, Any]:
        ((flat,),) = (group["params"] for group in self.param_groups)
        state = self._state()
        for name in self.buffers:
            if name not in state:
                state[name] = _zeros_like(flat)
        return state


class SGD(FlatOptimizer):
    r"""Stochastic gradient descent with scikit-learn's momentum.

    .. math:: v \leftarrow \mu v - \eta g, \qquad w \leftarrow w + v

    and with Nesterov's correction :math:`w \leftarrow w + \mu v - \eta g` [1]_. A change
    of the learning rate :math:`\eta` does not rescale the velocity.

    Parameters
    ----------
    flat : Tensor
        A network's flat buffer, with its gradient.
    lr : float
    momentum : float in [0, 1]
    nesterov : bool

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl, G. Hinton (2013). On the importance of
       initialization and momentum in deep learning. ICML.
    """

    buffers = ("velocity",)

    def __init__(self, flat: Tensor, lr: float, momentum: float = 0.9, nesterov: bool = True):
        super().__init__(flat, lr=lr, momentum=momentum, nesterov=nesterov)

    def numbers(self) -> tuple:
        """Return the hyperparameters of a step, besides its factor."""
        (group,) = self.param_groups
        return group["momentum"], group["nesterov"]

    def next_biases(self, n_steps: int) -> list[float]:
        """Count steps; return the factor of each at a learning rate of one."""
        return [1.0] * n_steps

    def kernel_for(self, flat: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Move:
        """Return a function that updates these weights like this optimiser, given a factor."""
        return sgd_kernel(flat, gradient, state["velocity"], *self.numbers())


class Adam(FlatOptimizer):
    r"""Adam in the form of section 2 of its paper, as in scikit-learn [1]_.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        w \leftarrow w - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
        \frac{m}{\sqrt{v} + \epsilon}

    torch adds :math:`\epsilon` after the bias correction of :math:`v`.

    Parameters
    ----------
    flat : Tensor
        A network's flat buffer, with its gradient.
    lr : float
    betas : (float, float), each in [0, 1)
    eps : float

    References
    ----------
    .. [1] D. Kingma, J. Ba (2015). Adam: a method for stochastic optimization. ICLR.
    """

    buffers = ("m", "v")

    def __init__(
        self, flat: Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ):
        super().__init__(flat, lr=lr, betas=betas, eps=eps)
        self._many: Tensor | None = None

    def numbers(self) -> tuple:
        """Return the hyperparameters of a step, besides its factor."""
        (group,) = self.param_groups
        return *group["betas"], group["eps"]

    def is_one_kernel(self, flat: Tensor) -> bool:
        """Return whether a single kernel updates such weights, at one rate for all of them."""
        return has_fused_kernel(flat)

    def next_biases(self, n_steps: int) -> list[float]:
        """Count steps; return the bias correction of the moments in each."""
        (group,) = self.param_groups
        state = self.state[group["params"][0]]
        first = state.get("step", 0) + 1
        state["step"] = first + n_steps - 1
        beta_1, beta_2 = group["betas"]
        steps = range(first, first + n_steps)
        return [math.sqrt(1 - beta_2**step) / (1 - beta_1**step) for step in steps]

    def kernel_for(self, flat: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Move:
        """Return a function that updates these weights like this optimiser, given a factor."""
        beta_1, beta_2, eps = self.numbers()
        if self._many is None or self._many.device != flat.device:
            self._many = _infinitely_many(flat.device)
        buffers = state["m"], state["v"]
        return adam_kernel(flat, gradient, *buffers, (beta_1, beta_2), eps, self._many)


def sgd_kernel(
    param: Tensor, gradient: Tensor, velocity: Tensor, momentum: float, nesterov: bool
) -> Move:
    """Return a function that takes one step of :class:`SGD` in place, given the learning rate."""

    def move(factor: float | Tensor) -> None:
        add_scaled_(velocity.mul_(momentum), gradient, -factor)
        if nesterov:
            add_scaled_(param.add_(velocity, alpha=momentum), gradient, -factor)
        else:
            param.add_(velocity)

    return move


def adam_kernel(
    param: Tensor,
    gradient: Tensor,
    m: Tensor,
    v: Tensor,
    betas: tuple[float, float],
    eps: float,
    many: Tensor | None = None,
) -> Move:
    """Return a function for steps of :class:`Adam` in place, in one pass over memory if possible.

    torch's fused kernel is private and does not check shapes, so they are checked here. It is
    faster than the public operations, which are the fallback for releases of torch without it. On
    a device it accepts rates in single precision only, so doubles use public operations, too.

    Parameters
    ----------
    param, gradient, m, v : Tensor, of one shape, type and device
    betas : (float, float)
    eps : float
    many : Tensor, default=None
        Infinity on the parameter's device; None makes one.

    Returns
    -------
    move : callable
        Takes a step, given the bias-corrected learning rate: a number, or on a device a tensor.
        A tensor with several elements uses public operations.

    Raises
    ------
    ValueError
        If shapes, types or devices differ.
    """
    shape, dtype, device = param.shape, param.dtype, param.device
    for other in (gradient, m, v):
        if other.shape != shape or other.dtype is not dtype or other.device != device:
            raise ValueError(
                f"Adam's tensors differ: a parameter of {_kind(param)} beside {_kind(other)}."
            )
    beta_1, beta_2 = betas

    def by_public_operations(factor: float | Tensor) -> None:
        with torch.no_grad():
            m.lerp_(gradient, 1 - beta_1)
            v.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
            param.sub_(torch.div(m, v.sqrt().add_(eps)).mul_(factor))

    without_gaps = all(tensor.is_contiguous() for tensor in (param, gradient, m, v))
    if not has_fused_kernel(param) or not without_gaps:
        return by_public_operations
    # after infinitely many steps, the kernel's own bias corrections are one
    no_maxima: list[Tensor] = []
    steps = _infinitely_many(device) if many is None else many
    tensors = [param], [gradient], [m], [v], no_maxima, [steps]
    options = {
        "beta1": beta_1, "beta2": beta_2, "eps": eps,
        "weight_decay": 0.0, "amsgrad": False, "maximize": False,
    }  # fmt: skip

    def in_one_pass(factor: float | Tensor) -> None:
        if isinstance(factor, Tensor) and (factor.ndim or device.type == "cpu"):
            by_public_operations(factor)
        else:
            fused_adam(*tensors, lr=factor, **options)

    return in_one_pass


fused_adam: Any = getattr(torch, "_fused_adam_", None)


def has_fused_kernel(param: Tensor) -> bool:
    """Return whether torch's fused kernel supports such a parameter and, on a device, its rate."""
    is_taken = param.device.type == "cpu" or (
        param.device.type in ("cuda", "xpu") and param.dtype is torch.float32
    )
    return is_taken and fused_adam is not None


def _infinitely_many(device: torch.device) -> Tensor:
    return torch.full((), math.inf, dtype=torch.float32, device=device)


def add_scaled_(target: Tensor, source: Tensor, factor: float | Tensor) -> Tensor:
    """Add a tensor times a factor (a number or a broadcastable tensor) in place."""
    if isinstance(factor, Tensor):
        return target.addcmul_(source, factor)
    return target.add_(source, alpha=factor)


def _zeros_like(tensor: Tensor) -> Tensor:
    """Return zeros that can also be written to outside inference mode."""
    with torch.inference_mode(False):
        return torch.zeros_like(tensor)


def _kind(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"


def zero_negligible_moments(moments: Tensor) -> None:
    """Set elements to zero that are decaying towards denormal numbers."""
    limit = torch.finfo(moments.dtype).tiny ** 0.75
    torch.ops.aten.hardshrink.out(moments, limit, out=moments)
