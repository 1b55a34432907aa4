"""Solvers by name, their learning-rate schedules and their state."""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.muon import SinglePrecisionMuon, step_dtype
from sknn_deep._engine.optimizers import SGD, Adam, zero_negligible_moments
from sknn_deep._networks.flat import Network

TORCH_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.Adam,  # weight decay is decoupled by the engine, for every solver
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
STOCHASTIC_SOLVERS = ("sgd", "adam", *TORCH_OPTIMIZERS, "muon")
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01, "muon": 0.01}
ANNEALING_SCHEDULES = ("cosine", "one_cycle", "flat_cosine", "coslog4")


class MuonWithAdam(torch.optim.Optimizer):
    """Muon for the hidden weight matrices, Adam for everything else, as its author recommends.

    Muon orthogonalises the momentum of a matrix by Newton-Schulz iterations [1]_; the
    step is scaled to the size of an AdamW step [2]_, so the same learning rates work.

    Parameters
    ----------
    matrices, others : lists of Tensor
    lr : float
    betas : (float, float)
        Adam's, for ``others``.
    adam_lr : float, default=None
        Adam's learning rate; None uses Muon's. Schedules keep the ratio of the two.
    **options
        Passed on to :class:`torch.optim.Muon`.

    References
    ----------
    .. [1] K. Jordan et al. (2024). Muon: an optimizer for hidden layers in neural networks.
    .. [2] J. Liu et al. (2025). Muon is scalable for LLM training. arXiv:2502.16982.
    """

    def __init__(
        self,
        matrices: list[Tensor],
        others: list[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        adam_lr: float | None = None,
        **options: Any,
    ):
        options = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0, **options}
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            rounds = step_dtype(matrices[0].device) == torch.bfloat16
            muon = torch.optim.Muon if rounds else SinglePrecisionMuon
            self.parts.append(muon(matrices, lr=lr, **options))
        adam_lr = lr if adam_lr is None else adam_lr
        group = {"params": others, "lr_factor": adam_lr / lr}
        self.parts.append(torch.optim.Adam([group], lr=adam_lr, betas=betas, eps=eps))
        super().__init__([*matrices, *others], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    # the engine always passes a closure
    def step(  # type: ignore[override]
        self, closure: Callable[[], Any], run_muon: Callable[[Callable], Any] | None = None
    ) -> Any:
        loss = closure()
        for part in self.parts:
            if run_muon is not None and isinstance(part, torch.optim.Muon):
                run_muon(part.step)
            else:
                part.step()
        return loss

    def probe(self) -> tuple[Callable[[], list[Tensor]], Hashable]:
        """Return a probe that takes a Muon step on random numbers, for :meth:`Pace.checked`."""
        group = self.param_groups[0]
        shapes, dtype = [param.shape for param in group["params"]], group["params"][0].dtype
        options = {name: value for name, value in group.items() if name in _MUONS_OPTIONS}
        probe = partial(_muon_of_random_numbers, type(self.parts[0]), shapes, dtype, options)
        return probe, ("muon", *shapes, dtype, str(options))

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


# The options that affect the result of a step, besides the learning rate.
_MUONS_OPTIONS = ("momentum", "nesterov", "ns_coefficients", "eps", "ns_steps")


def _muon_of_random_numbers(
    kind: type, shapes: Sequence[torch.Size], dtype: torch.dtype, options: dict[str, Any]
) -> list[Tensor]:
    """Return matrices after a step of Muon, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    for matrix in matrices:
        matrix.grad = torch.randn(matrix.shape, dtype=dtype, generator=generator)
    kind(matrices, lr=1.0, weight_decay=0.0, **options).step()
    return matrices


def make_optimizer(
    solver: str | type[torch.optim.Optimizer],
    network: Network,
    *,
    lr: float,
    adam_lr: float | None = None,
    momentum: float,
    nesterov: bool,
    betas: tuple[float, float],
    eps: float,
    solver_params: dict[str, Any] | None,
) -> torch.optim.Optimizer:
    """Return the optimiser for a ``solver`` parameter.

    Element-wise optimisers see the network as one flat tensor, so that one call of each torch
    kernel serves all layers. Muon and the user's own classes see every parameter in its own
    shape.

    Raises
    ------
    ValueError
        If the optimiser rejects ``solver_params``, or they contain an option that a parameter of
        the estimator sets.
    """
    taken = {"lr": "learning_rate_init"}
    if isinstance(solver, str):
        taken["weight_decay"] = "weight_decay"
    solver_params = solver_params or {}
    for name in taken.keys() & solver_params.keys():
        raise ValueError(
            f"solver={solver!r} refused solver_params={solver_params!r}: {name} is set by a "
            f"parameter of the estimator; pass {taken[name]}={solver_params[name]!r} instead."
        )
    options: dict[str, Any] = {"lr": lr}
    factory: type[torch.optim.Optimizer]
    if solver == "sgd":
        factory, options = SGD, {**options, "momentum": momentum, "nesterov": nesterov}
        params: list[Any] = [network.flat]
    elif solver == "adam":
        factory, options = Adam, {**options, "betas": betas, "eps": eps}
        params = [network.flat]
    elif solver == "muon":
        adam = {"betas": betas, "eps": eps, "adam_lr": adam_lr}
        factory, options = MuonWithAdam, {**options, **adam}
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
    options |= solver_params
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
    schedule : {"cosine", "one_cycle", "flat_cosine", "coslog4"}
        "cosine" falls from the peak to zero along half a cosine [1]_. "one_cycle" rises
        from a 25th of the peak over the first 30 % of the training and then falls to
        zero, both along half a cosine [2]_. "flat_cosine" stays at the peak for half of the
        training before it falls. "coslog4" rises and falls four times, each time over twice as
        many steps: (1 - cos(2 pi log2(1 + 15 t))) / 2 of the peak [3]_.
    peak : float
    progress : float
        Fraction of the training that is done, clipped to [0, 1].

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter (2017). SGDR: stochastic gradient descent with warm
       restarts. ICLR.
    .. [2] L. Smith, N. Topin (2018). Super-convergence: very fast training of neural
       networks using large learning rates. arXiv:1708.07120.
    .. [3] D. Holzmüller, L. Grinsztajn, I. Steinwart (2024). Better by default: strong
       pre-tuned MLPs and boosted trees on tabular data. NeurIPS.

    Examples
    --------
    >>> from sknn_deep._engine.solvers import annealed_rate
    >>> [round(annealed_rate("one_cycle", 1.0, p), 3) for p in (0, 0.3, 0.65, 1)]
    [0.04, 1.0, 0.5, 0.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "coslog4":
        return peak * 0.5 * (1 - math.cos(2 * math.pi * math.log2(1 + 15 * progress)))
    # where the decay begins, and the initial fraction of the peak
    falls_at, start = {"one_cycle": (0.3, 0.04), "flat_cosine": (0.5, 1.0)}.get(
        schedule, (0.0, 1.0)
    )
    if progress < falls_at:
        rise = 0.5 * (1 - math.cos(math.pi * progress / falls_at))
        return peak * (start + (1 - start) * rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - falls_at) / (1 - falls_at)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def zero_negligible_state(optimizer: torch.optim.Optimizer) -> None:
    """Set moments to zero that are decaying towards denormal numbers.

    The moments of a weight without gradient decay until 0.9 times the smallest denormal
    number rounds to itself, and stay there, slowing down every step.
    """
    for part in getattr(optimizer, "parts", [optimizer]):
        for state in part.state.values():
            for value in state.values():
                if isinstance(value, Tensor) and value.ndim > 0 and value.is_floating_point():
                    zero_negligible_moments(value)


def copied_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimiser's ``state_dict`` with copied tensors."""
    return with_own_tensors(optimizer.state_dict())


def with_own_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a ``state_dict`` with copies of its tensors."""
    own: dict[str, Any] = _convert(state, Tensor, Tensor.clone)
    return own


def load_state(
    optimizer: torch.optim.Optimizer, state_dict: dict[str, Any], *, has_moved: bool = False
) -> None:
    """Load an optimiser's state so that it continues with the same bits.

    torch's ``load_state_dict`` converts every tensor to the type of the parameters, even those that
    an optimiser keeps in another type, such as NAdam's product of momenta.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    state_dict : dict
    has_moved : bool, default=False
        Whether the type of the parameters may have changed; the moments are then converted to it.
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
    """Reverse :func:`to_arrays`; the tensors are on the CPU and own their memory."""
    return _convert(state, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _convert(value: Any, kind: type, convert: Callable) -> Any:
    if isinstance(value, kind):
        return convert(value)
    if isinstance(value, dict):
        return {key: _convert(item, kind, convert) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_convert(item, kind, convert) for item in value)
    return value
