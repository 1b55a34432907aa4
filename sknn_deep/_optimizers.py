"""Optimisers and learning-rate schedules, by name.

Every optimiser is a :class:`torch.optim.Optimizer`, so that skorch's and torch's
learning-rate schedulers drive them. ``SGD`` and ``Adam`` are written here because
scikit-learn's update rules differ from torch's: its velocity holds the learning rate of
the step that made it, and its Adam adds epsilon before the bias correction.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._network import Network

TORCH_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.Adam,  # weight decay is decoupled by the engine, for every solver
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
STOCHASTIC_SOLVERS = ("sgd", "adam", *TORCH_OPTIMIZERS, "muon")
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01, "muon": 0.01}
ANNEALING_SCHEDULES = ("cosine", "one_cycle")


def _light(method: Callable) -> Callable:
    """Return a method of torch's optimiser without what torch has wrapped around it.

    The first call of the wrapper imports ``torch._dynamo``, which takes longer than most fits, in
    every process. The optimisers here are never compiled.
    """
    return getattr(method, "__wrapped__", method)


Move = Callable[[float | Tensor], None]


class FlatOptimizer(torch.optim.Optimizer):
    """Base of the optimisers written here, which move one flat buffer.

    A subclass names its ``buffers`` and provides ``numbers``, ``next_biases`` and
    ``kernel_for``.

    Parameters
    ----------
    flat : Tensor
        A network's flat buffer, with its gradient.
    **defaults
        The learning rate ``lr`` and the optimiser's other numbers.
    """

    buffers: tuple[str, ...]
    add_param_group = _light(torch.optim.Optimizer.add_param_group)
    state_dict = _light(torch.optim.Optimizer.state_dict)
    load_state_dict = _light(torch.optim.Optimizer.load_state_dict)
    _opt_called = True  # a scheduler of torch asks; it does not hear of ``kernel``

    def __init__(self, flat: Tensor, **defaults: Any):
        super().__init__([flat], defaults)

    def step(self, closure: Callable[[], Any]) -> Any:
        result = closure()
        self.kernel()(self.next_factor())
        return result

    # torch wraps the step of every optimiser class in a profiler's record,
    # unless it finds it wrapped already
    step.hooked = True

    def next_factor(self) -> float:
        """Count a step; return its factor: the learning rate times the optimiser's own."""
        (bias,) = self.next_biases(1)
        return self.param_groups[0]["lr"] * bias

    def kernel(self) -> Move:
        """Return what moves the weights by their gradient, given a factor."""
        ((flat,),) = (group["params"] for group in self.param_groups)
        return self.kernel_for(flat, flat.grad, self._ready_state())

    def constants(self) -> tuple:
        """Return what a recorded step goes by, beside its factor, making the state ready."""
        state = self._ready_state()
        return *self.numbers(), *(state[name].data_ptr() for name in self.buffers)

    def write_state(self, rows: dict[str, Tensor]) -> None:
        """Write the buffers of the state, if there are any yet, over zeros of the same shape."""
        for name, buffer in self._state().items():
            if name in rows:
                rows[name].copy_(buffer)

    def read_state(self, rows: dict[str, Tensor]) -> None:
        """Take over what the buffers of the state have become."""
        self._state().update(rows)

    def catch_up(self, other: "FlatOptimizer") -> None:
        """Count the steps of one that moved this one's weights, too."""
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
        """Return what a step goes by beside its factor."""
        (group,) = self.param_groups
        return group["momentum"], group["nesterov"]

    def next_biases(self, n_steps: int) -> list[float]:
        """Count steps; return the factor of each at a learning rate of one."""
        return [1.0] * n_steps

    def kernel_for(self, flat: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Move:
        """Return what moves these weights as this optimiser would, given a factor."""
        return sgd_kernel(flat, gradient, state["velocity"], *self.numbers())


class Adam(FlatOptimizer):
    r"""Adam in the form of its paper's section 2, as scikit-learn has it [1]_.

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

    def __init__(self, flat: Tensor, lr: float, betas=(0.9, 0.999), eps: float = 1e-8):
        super().__init__(flat, lr=lr, betas=betas, eps=eps)

    def numbers(self) -> tuple:
        """Return what a step goes by beside its factor."""
        (group,) = self.param_groups
        return *group["betas"], group["eps"]

    def next_biases(self, n_steps: int) -> list[float]:
        """Count steps; return the correction of the moments' bias in each."""
        (group,) = self.param_groups
        state = self.state[group["params"][0]]
        first = state.get("step", 0) + 1
        state["step"] = first + n_steps - 1
        beta_1, beta_2 = group["betas"]
        steps = range(first, first + n_steps)
        return [math.sqrt(1 - beta_2**step) / (1 - beta_1**step) for step in steps]

    def kernel_for(self, flat: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> Move:
        """Return what moves these weights as this optimiser would, given a factor."""
        *betas, eps = self.numbers()
        return adam_kernel(flat, gradient, state["m"], state["v"], betas, eps)


def sgd_kernel(
    param: Tensor, gradient: Tensor, velocity: Tensor, momentum: float, nesterov: bool
) -> Move:
    """Return what takes one step of :class:`SGD` in place, given its learning rate."""

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
) -> Move:
    """Return what takes one step of :class:`Adam` in place, in one pass over memory if possible.

    torch's fused kernel is private and checks no shapes, so they are checked here; on a
    CPU it is faster than the public operations that stand in for it
    where a release of torch lacks it.

    Parameters
    ----------
    param, gradient, m, v : Tensor, of one shape, type and device
    betas : (float, float)
    eps : float

    Returns
    -------
    move : callable
        Takes a step, given the learning rate with the correction of the moments' bias: a
        number, or on a device a tensor.

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
    if _fused_adam is None or device.type != "cpu" or not without_gaps:
        return by_public_operations
    # after infinitely many steps the kernel's own corrections of the bias are one
    tensors = [param], [gradient], [m], [v], [], [_INFINITELY_MANY]
    options = {
        "beta1": beta_1, "beta2": beta_2, "eps": eps,
        "weight_decay": 0.0, "amsgrad": False, "maximize": False,
    }  # fmt: skip

    def in_one_pass(factor: float | Tensor) -> None:
        if isinstance(factor, Tensor):
            by_public_operations(factor)
        else:
            _fused_adam(*tensors, lr=factor, **options)

    return in_one_pass


_fused_adam = getattr(torch, "_fused_adam_", None)
_INFINITELY_MANY = torch.tensor(math.inf)


def add_scaled_(target: Tensor, source: Tensor, factor: float | Tensor) -> Tensor:
    """Add a tensor times a factor, a number or a tensor that broadcasts, in place."""
    if isinstance(factor, Tensor):
        return target.addcmul_(source, factor)
    return target.add_(source, alpha=factor)


def _zeros_like(tensor: Tensor) -> Tensor:
    """Return zeros that can be written to outside of inference mode, too."""
    with torch.inference_mode(False):
        return torch.zeros_like(tensor)


def _kind(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"


class Muon(torch.optim.Optimizer):
    """Muon for the hidden weight matrices, Adam for all else, as its author advises.

    Muon orthogonalises the momentum of a matrix by Newton-Schulz iterations [1]_; the
    step is scaled to the size of an AdamW step [2]_, so the same learning rates serve.

    Parameters
    ----------
    matrices, others : lists of Tensor
    lr : float
    betas : (float, float)
        Adam's, for ``others``.
    **options
        Passed on to :class:`torch.optim.Muon`.

    References
    ----------
    .. [1] K. Jordan et al. (2024). Muon: an optimizer for hidden layers in neural networks.
    .. [2] J. Liu et al. (2025). Muon is scalable for LLM training. arXiv:2502.16982.
    """

    def __init__(self, matrices, others, lr: float, betas=(0.9, 0.999), eps=1e-8, **options):
        options = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0, **options}
        self.parts = [torch.optim.Muon(matrices, lr=lr, **options)] if matrices else []
        self.parts.append(torch.optim.Adam(others, lr=lr, betas=betas, eps=eps))
        super().__init__([*matrices, *others], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(
    solver: str | type[torch.optim.Optimizer],
    network: Network,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    betas: tuple[float, float],
    eps: float,
    solver_params: dict[str, Any] | None,
) -> torch.optim.Optimizer:
    """Return the optimiser that a ``solver`` parameter stands for.

    Element-wise optimisers see the network as one flat tensor, one call of each torch
    kernel for all layers. Muon and the user's own classes see every parameter in its
    shape.

    Raises
    ------
    ValueError
        If the optimiser refuses ``solver_params``, or they name what a parameter of the
        estimator sets.
    """
    taken = {"lr": "learning_rate_init"}
    if isinstance(solver, str):
        taken["weight_decay"] = "weight_decay"
    for name in taken.keys() & (solver_params or {}).keys():
        raise ValueError(
            f"solver={solver!r} refused solver_params={solver_params!r}: {name} is set by a "
            f"parameter of the estimator; pass {taken[name]}={solver_params[name]!r} instead."
        )
    options: dict[str, Any] = {"lr": lr}
    if solver == "sgd":
        factory, options = SGD, {**options, "momentum": momentum, "nesterov": nesterov}
        params: list[Any] = [network.flat]
    elif solver == "adam":
        factory, options = Adam, {**options, "betas": betas, "eps": eps}
        params = [network.flat]
    elif solver == "muon":
        factory, options = Muon, {**options, "betas": betas, "eps": eps}
        params = list(network.hidden_matrices_and_others())
    elif isinstance(solver, str):
        factory = TORCH_OPTIMIZERS[solver]
        if solver in ("adamw", "nadam", "radam"):
            options |= {"betas": betas, "eps": eps}
        elif solver == "rmsprop":
            options |= {"momentum": 0.0, "eps": eps}
        params = [[network.flat]]
    else:
        factory, params = solver, [list(network.parameters())]
    options |= solver_params or {}
    try:
        return factory(*params, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"solver={solver!r} refused solver_params={solver_params!r}: {error}. "
            f"See the parameters of {factory.__module__}.{factory.__qualname__}."
        ) from error


def annealed_rate(schedule: str, peak: float, progress: float) -> float:
    """Return the learning rate at a point of an annealing schedule.

    Parameters
    ----------
    schedule : {"cosine", "one_cycle"}
        "cosine" falls from the peak to zero along half a cosine [1]_. "one_cycle" rises
        from a 25th of the peak over the first 30 % of the training and then falls to
        zero, both along half a cosine [2]_.
    peak : float
    progress : float
        Share of the training that is done, cut to [0, 1].

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter (2017). SGDR: stochastic gradient descent with warm
       restarts. ICLR.
    .. [2] L. Smith, N. Topin (2018). Super-convergence: very fast training of neural
       networks using large learning rates. arXiv:1708.07120.

    Examples
    --------
    >>> from sknn_deep._optimizers import annealed_rate
    >>> [round(annealed_rate("one_cycle", 1.0, p), 3) for p in (0, 0.3, 0.65, 1)]
    [0.04, 1.0, 0.5, 0.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    warm_up, start = (0.3, 0.04) if schedule == "one_cycle" else (0.0, 1.0)
    if progress < warm_up:
        rise = 0.5 * (1 - math.cos(math.pi * progress / warm_up))
        return peak * (start + (1 - start) * rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def zero_negligible_state(optimizer: torch.optim.Optimizer) -> None:
    """Set moments to zero that are on their way to denormal numbers.

    The moments of a weight without gradient decay until 0.9 times the smallest denormal
    number rounds to itself, and stay there, slowing every step.
    """
    for part in getattr(optimizer, "parts", [optimizer]):
        for state in part.state.values():
            for value in state.values():
                if isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point():
                    zero_negligible_moments(value)


def zero_negligible_moments(moments: Tensor) -> None:
    """Set elements to zero that are on their way to denormal numbers."""
    limit = torch.finfo(moments.dtype).tiny ** 0.75
    torch.ops.aten.hardshrink.out(moments, limit, out=moments)


def copied_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's ``state_dict`` with tensors of its own."""
    return _convert(optimizer.state_dict(), Tensor, Tensor.clone)


def load_state(
    optimizer: torch.optim.Optimizer, state_dict: dict[str, Any], *, has_moved: bool = False
) -> None:
    """Put an optimiser into a state, so that it goes on with the same bits.

    torch's ``load_state_dict`` gives every tensor the type of the parameters, among them those that
    an optimiser keeps in another, such as NAdam its product of momenta.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    state_dict : dict
    has_moved : bool, default=False
        Whether the parameters may be of another type than they were; the moments then take it.
    """
    optimizer.load_state_dict(state_dict)
    parts = getattr(optimizer, "parts", [optimizer])
    for part, saved in zip(parts, state_dict.get("parts", [state_dict]), strict=True):
        params = [param for group in part.param_groups for param in group["params"]]
        for number, values in saved["state"].items():
            present = part.state[params[number]]
            for name, value in values.items():
                if not isinstance(value, Tensor) or (has_moved and value.ndim > 0):
                    continue
                if value.dtype != present[name].dtype:
                    present[name] = value.to(present[name].device, copy=True)


def to_arrays(state: Any) -> Any:
    """Return an optimiser's ``state_dict`` with NumPy arrays in place of its tensors."""
    return _convert(state, Tensor, lambda tensor: tensor.detach().cpu().numpy())


def to_tensors(state: Any) -> Any:
    """Undo :func:`to_arrays`; the tensors are on the CPU and own their memory."""
    return _convert(state, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _convert(value: Any, kind: type, convert: Callable) -> Any:
    if isinstance(value, kind):
        return convert(value)
    if isinstance(value, dict):
        return {key: _convert(item, kind, convert) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_convert(item, kind, convert) for item in value)
    return value
