"""Fits to do, and which of them may be trained as one stack.

References
----------
.. [1] S. F. Hummel, E. Schonberg, L. E. Flynn (1992). Factoring: a method for scheduling
   parallel loops. Communications of the ACM 35(8).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from numbers import Integral
from typing import Any

import numpy as np

from sknn_deep._engine.solvers import ANNEALING_SCHEDULES
from sknn_deep._hardware.device import resolve_device
from sknn_deep._hardware.ranks import present_ranks
from sknn_deep._sklearn import num_samples, safe_indexing
from sknn_deep._training.sklearn_callbacks import NetworkCallbacks

# Parameters that may differ between the networks of a stack.
FREE_PARAMETERS = {
    "alpha", "learning_rate", "learning_rate_init", "power_t", "max_iter", "shuffle",
    "random_state", "tol", "verbose", "momentum", "nesterovs_momentum", "early_stopping",
    "validation_fraction", "beta_1", "beta_2", "epsilon", "n_iter_no_change", "max_fun",
    "dropout", "weight_decay", "embedding_weight_decay", "adam_learning_rate_init",
    "max_grad_norm", "scoring", "class_weight", "warm_start", "validation_splitter", "calibration",
    "contamination",
}  # fmt: skip
# Parameters in which the optimisers of a stack may differ.
_NUMBERS = (
    "learning_rate_init", "learning_rate", "momentum", "nesterovs_momentum", "beta_1", "beta_2",
    "epsilon", "adam_learning_rate_init",
)  # fmt: skip
# Types whose values can be compared and hashed directly.
_PLAIN = {bool, int, str, type(None)}
# Why a network that could be stacked trains alone, at no loss of time.
FASTER_ALONE = "no other has its shape, or stacks of its size are slow"
# Overhead of a step, an epoch and a fit of a stacked network, in multiply-adds; added to those of
# its outputs.
_WORK_OF_STEP, _WORK_OF_EPOCH, _WORK_OF_FIT = 5_000, 250_000, 20_000_000
# About four seconds per group: joblib's workers may collect garbage after each, for 0.15 s.
_LEAST_WORK = 4e10


@dataclass(eq=False)
class Job:
    """One fit to do, and its result.

    Jobs that share data hold the very same objects: the same ``X`` and ``y``, and within a
    fold the same ``rows`` and the same ``fit_params`` values. Compare them with ``is``.

    Attributes
    ----------
    estimator : DeepMLPClassifier, DeepMLPRegressor or AutoencoderTransformer
        With all its parameters set; fitted in place, so each has its own when they are fitted.
    X, y
        The data, as ``estimator.fit`` takes them. ``y`` may be None.
    rows : ndarray of int, or None
        The rows of X and y to train on; None for all. A search without preprocessing passes
        the whole data and each fold's rows, so that no fold needs a copy. Only these rows count: a
        NaN in another row does not fail this fit.
    fit_params : dict
        Further arguments of ``estimator.fit``, already restricted to ``rows``.
    name : str
        Name of the network in messages if it is one of several; else empty.
    callbacks : NetworkCallbacks or None
        Informs scikit-learn's callbacks of its epochs if it is a network of an ensemble.
    is_enough : callable or None
        Called after each epoch with the validation scores so far; returns whether to stop.
    seconds : float
        This fit's share of the time.
    error : Exception or None
        The error that ``estimator.fit`` would have raised.
    fused : bool
        Whether it was trained in a stack of several.
    reason : str
        Why it was not fused; else empty.
    most_bytes : int
        Largest ``state`` to keep, in bytes; 0 to keep none.
    state : dict or None
        Before the fit, the state at the end of a training of this job with fewer epochs, to
        continue from. After it, the state at its own end, if it is to be kept and can be continued
        (:func:`may_go_on`).
    """

    estimator: Any
    X: Any
    y: Any
    rows: np.ndarray | None = None
    fit_params: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    callbacks: NetworkCallbacks | None = None
    is_enough: Callable[[list[float]], bool] | None = None
    seconds: float = 0.0
    error: Exception | None = None
    fused: bool = False
    reason: str = ""
    most_bytes: int = 0
    state: dict[str, Any] | None = None

    def take(self) -> tuple[Any, Any]:
        """Return the training data of this fit; a copy if ``rows`` is set."""
        if self.rows is None:
            return self.X, self.y
        y = None if self.y is None else safe_indexing(self.y, self.rows)
        return safe_indexing(self.X, self.rows), y


def stacks(jobs: list[Job], n_workers: int) -> list[list[Job]]:
    """Divide jobs into non-empty groups, which idle workers take one after the other.

    Jobs that can form one stack stay together where possible. If there is much work, large groups
    come first and small ones last, as in factoring [1]_, so that no worker waits long for another,
    even if networks stop early or cores differ in speed.
    """
    alike = [in_order(group) for group in group_alike(jobs)]
    works = [(job, _work(job)) for group in alike for job in group]
    stops = np.cumsum(_shares(sum(work for _, work in works), n_workers))
    groups: list[list[Job]] = [[] for _ in stops]
    done = 0.0
    for job, work in works:
        groups[np.searchsorted(stops[:-1], done + work / 2)].append(job)
        done += work
    return [group for group in groups if group]


def _shares(work: float, n_workers: int) -> list[float]:
    """Divide work: while there is much, half of the rest in equal parts; finally all of it."""
    shares = []
    while work > 2 * n_workers * _LEAST_WORK:
        work /= 2
        shares += [work / n_workers] * n_workers
    return shares + [work / n_workers] * n_workers


def _work(job: Job) -> float:
    """Estimate an upper bound on the work of a fit, in multiply-adds of its outputs."""
    estimator = job.estimator
    try:
        hidden = np.atleast_1d(getattr(estimator, "hidden_layer_sizes", 1))
        n_rows = num_samples(job.X if job.rows is None else job.rows)
        batch_size = getattr(estimator, "batch_size", "auto")
        batch_size = min(200 if batch_size == "auto" else max(1, batch_size), n_rows)
        widths = np.array([np.prod(np.shape(job.X)[1:]), *hidden, 1], dtype=float)
        n_epochs = getattr(estimator, "max_iter", 1) * getattr(estimator, "n_networks", 1)
        of_steps = n_rows * (widths[:-1] @ widths[1:]) + n_rows / batch_size * _WORK_OF_STEP
        work = float(n_epochs * (of_steps + _WORK_OF_EPOCH) + _WORK_OF_FIT)
    except (TypeError, ValueError):
        return 1.0  # the fit refuses an invalid parameter
    return max(work, 1.0) if np.isfinite(work) else 1.0


def group_alike(jobs: Iterable[Job]) -> list[list[Job]]:
    """Group jobs whose networks may form a stack; set the reason of those that train alone."""
    # the jobs of one candidate may share an estimator
    known: dict[tuple, tuple[str, list[Job]]] = {}
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        same = id(job.estimator), id(job.X), *job.fit_params
        if same not in known:
            # store each shape once: the garbage collector would scan a copy for every job
            reason, shape = _reason_and_shape(job)
            known[same] = reason, groups.setdefault("alone" if reason else shape, [])
        job.reason, group = known[same]
        group.append(job)
    return list(groups.values())


def _reason_and_shape(job: Job) -> tuple[str, Any]:
    """Return why a job's network trains alone, or else the shape that its stack shares."""
    try:
        reason = _reason_to_train_alone(job)
        return reason, None if reason else _shape_of(job)
    except (TypeError, ValueError):
        return "a parameter is not valid", None  # its own fit reports which


def _reason_to_train_alone(job: Job) -> str:
    estimator = job.estimator
    estimator_class: Any = type(estimator)
    if not vars(estimator_class).get("_trains_in_stacks", False):
        return f"{estimator_class.__name__} may train in a way of its own"
    if own := estimator._reason_to_train_alone():
        return own
    if estimator.solver not in ("sgd", "adam", "muon"):
        return f"solver={estimator.solver!r} is not supported in stacks"
    if estimator.solver == "muon" and not np.size(estimator.hidden_layer_sizes):
        return "solver='muon' without hidden layers is not supported in stacks"
    if estimator.callbacks or getattr(estimator, "_skl_callbacks", None):
        return "callbacks follow a single network"
    if estimator.warm_start and hasattr(estimator, "module_"):
        return "warm_start=True goes on with an earlier network"
    if getattr(job.X, "is_streamed", False):
        return "X is read in chunks, which come in one order"
    if estimator.n_processes != 1:
        return f"n_processes={estimator.n_processes!r} divides the rows of one network"
    if present_ranks() is not None:
        return "processes that train together divide the rows of one network"
    others = sorted(job.fit_params.keys() - _arguments_of_fit(estimator_class))
    if others:
        return f"fit was given {', '.join(others)}"
    device = resolve_device(estimator.device)
    return "stacks are not supported on device='mps'" if device.type == "mps" else ""


def may_go_on(job: Job) -> bool:
    """Return whether continuing with more epochs gives the same result as training from scratch.

    It does not if ``max_iter`` affects more than the last epoch, as in a schedule, or if each fit
    draws different random numbers.
    """
    estimator = job.estimator
    try:
        return (
            vars(type(estimator)).get("_trains_in_stacks", False)
            and getattr(estimator, "n_networks", 1) == getattr(estimator, "n_candidates", 1) == 1
            and estimator.solver != "lbfgs"
            and estimator.learning_rate not in ANNEALING_SCHEDULES
            and estimator.dropout_schedule == "constant"
            and isinstance(estimator.random_state, Integral)
            and not estimator.callbacks
            and not getattr(estimator, "_skl_callbacks", None)
            and not hasattr(estimator, "module_")
        )
    except (TypeError, ValueError):
        return False  # a parameter is not valid: its own fit reports which


@cache
def _arguments_of_fit(estimator_class: Any) -> frozenset[str]:
    return frozenset(signature(estimator_class.fit).parameters)


def _shape_of(job: Job) -> tuple:
    """Return the parameters that the networks of a stack must share."""
    estimator = job.estimator
    params = estimator.get_params(deep=False)
    # most values have plain types, and converting each to text takes time in a large search
    fixed = [
        (name, type(value), value if type(value) in _PLAIN else spelled(value))
        for name, value in params.items()
        if name not in FREE_PARAMETERS
    ]
    drops = tuple(np.ravel(estimator.dropout) > 0)
    return type(estimator), np.shape(job.X)[1:], drops, *fixed


def spelled(value: Any) -> str:
    """Return a text that identifies a parameter's value, with all elements of an array."""
    # repr abbreviates long arrays
    return repr(np.asarray(value).tolist() if hasattr(value, "__array__") else value)


def in_order(jobs: list[Job]) -> list[Job]:
    """Sort jobs of one shape so that stacks can be cut from the list.

    Jobs are sorted by fold, so that the data of few folds are in memory at once and little padding
    is needed; within a fold, jobs whose optimiser steps can be made by one call are neighbours.
    """
    places = {fold: place for place, fold in enumerate(dict.fromkeys(map(fold_of, jobs)))}
    return sorted(jobs, key=lambda job: (places[fold_of(job)], numbers_of(job.estimator)))


def numbers_of(estimator: Any) -> str:
    """Return a key shared by networks of a stack whose optimiser steps can be made by one call."""
    return repr([getattr(estimator, name) for name in _NUMBERS])


def fold_of(job: Job) -> tuple[int, int, int]:
    """Return a key that jobs with the same data share."""
    return id(job.X), id(job.y), id(job.rows)
