"""The optimiser of an estimator, whose state is kept between calls of ``partial_fit``."""

from typing import Any

import torch

from sknn_deep._engine.solvers import load_state, make_optimizer, to_arrays, to_tensors
from sknn_deep._estimators.hooks import NetworkHooks


def optimizer_of(estimator: NetworkHooks, incremental: bool) -> torch.optim.Optimizer:
    """Return a new optimiser, or in ``partial_fit`` that of the previous call."""
    network = estimator.module_
    if incremental and hasattr(estimator, "_optimizer"):
        present = {id(network.flat), *map(id, network.parameters())}
        groups = estimator._optimizer.param_groups
        if all(id(param) in present for group in groups for param in group["params"]):
            return estimator._optimizer
        estimator._optimizer_state = optimizer_state(estimator)  # the network was moved
    estimator._optimizer = make_optimizer(
        estimator.solver,
        network,
        lr=estimator.learning_rate_init,
        adam_lr=estimator.adam_learning_rate_init,
        momentum=estimator.momentum,
        nesterov=estimator.nesterovs_momentum,
        betas=(estimator.beta_1, estimator.beta_2),
        eps=estimator.epsilon,
        solver_params=estimator.solver_params,
    )
    state = vars(estimator).pop("_optimizer_state", None)
    if incremental and state is not None:
        load_state(estimator._optimizer, to_tensors(state), has_moved=True)
    return estimator._optimizer


def optimizer_state(estimator: Any) -> dict[str, Any] | None:
    """Return the state of the optimiser as arrays on the CPU, if there is one."""
    if hasattr(estimator, "_optimizer"):
        return to_arrays(estimator._optimizer.state_dict())
    return getattr(estimator, "_optimizer_state", None)


def forget_optimizer(estimator: Any) -> None:
    """Delete the optimiser, whose state belongs to weights that no longer exist."""
    for name in ("_optimizer", "_optimizer_state", "_kept_engine"):
        vars(estimator).pop(name, None)


def move_network(estimator: Any, device: torch.device) -> None:
    """Move a fitted network to a device, with the state of its optimiser."""
    if estimator.module_.flat.device == device:
        return
    estimator.module_.to(device)
    state = optimizer_state(estimator)
    forget_optimizer(estimator)
    if state is not None:
        estimator._optimizer_state = state
