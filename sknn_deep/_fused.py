"""Fits many networks at once: those of one shape as a stack, the others one by one.

The idea of training a whole grid as one batched computation is HFTA's [1]_; what is new
here is the same answer as from separate fits: orders, folds, penalties, rates and stopping are
each network's own.

References
----------
.. [1] S. Wang et al. (2021). Horizontally fused training array: an effective hardware
   utilization squeezer for training novel deep learning models. MLSys.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch

from sknn_deep._device import on_device, resolve_device
from sknn_deep._stack import Stack
from sknn_deep._training import Training
from sknn_deep._validation import num_samples, safe_indexing

# What may differ between the networks of a stack.
_FREE_PARAMETERS = {
    "alpha", "learning_rate", "learning_rate_init", "power_t", "max_iter", "shuffle",
    "random_state", "tol", "verbose", "momentum", "nesterovs_momentum", "early_stopping",
    "validation_fraction", "beta_1", "beta_2", "epsilon", "n_iter_no_change", "max_fun",
    "dropout", "weight_decay", "max_grad_norm", "scoring", "class_weight", "warm_start",
}  # fmt: skip
# On a CPU a stack saves calls and costs cache. Where it would be of few networks, because each
# is large, they are faster one after the other.
_CPU_STACK_BYTES = 2**23
_FEWEST_ON_CPU, _MOST_ON_CPU = 4, 128
# Share of an accelerator's free memory that a stack may take.
_MEMORY_SHARE = 0.5


@dataclass(eq=False)
class Job:
    """One fit to do, and what came of it.

    Jobs that share data hold the very same objects: the same ``X`` and ``y``, and within a
    fold the same ``rows`` and the same ``fit_params`` values. Compare them with ``is``.

    Attributes
    ----------
    estimator : DeepMLPClassifier, DeepMLPRegressor or AutoencoderTransformer
        With all its parameters set; fitted in place.
    X, y
        The data, as ``estimator.fit`` takes them. ``y`` may be None.
    rows : ndarray of int, or None
        The rows of X and y to train on; None for all. A search without preprocessing passes
        the whole data and each fold's rows, so that no fold needs a copy. Only these rows
        count: a NaN in another row is no error of this fit.
    fit_params : dict
        What ``estimator.fit`` takes beside the data, cut to ``rows`` already.
    seconds : float
        This fit's share of the time.
    error : Exception or None
        What ``estimator.fit`` would have raised.
    fused : bool
        Whether it was trained in a stack of several.
    reason : str
        Why it was not, else empty.
    """

    estimator: Any
    X: Any
    y: Any
    rows: np.ndarray | None = None
    fit_params: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: Exception | None = None
    fused: bool = False
    reason: str = ""

    def take(self) -> tuple[Any, Any]:
        """Return the training data of this fit, a copy of the rows where it has any."""
        if self.rows is None:
            return self.X, self.y
        y = None if self.y is None else safe_indexing(self.y, self.rows)
        return safe_indexing(self.X, self.rows), y


def fit_jobs(
    jobs: list[Job],
    *,
    max_stack_memory: int | None = None,
    done: Callable[[Job], None] = lambda job: None,
) -> None:
    """Fit every estimator as its own ``fit`` would, or set the job's error.

    Parameters
    ----------
    jobs : list of Job
    max_stack_memory : int or None
        Bytes that a stack may take; None is a share of what the device has.
    done : callable
        Called with each job as soon as it is fitted or has failed. It may empty the job, to
        free memory; what it raises ends the training of all.
    """
    for alike in _alike(jobs):
        if alike[0].reason:
            for job in alike:
                _fit_alone(job, done)
        else:
            _fit_alike(alike, max_stack_memory, done)


def stacks(jobs: list[Job], n_groups: int) -> list[list[Job]]:
    """Split jobs into at most ``n_groups`` groups, none empty, to be trained apart.

    The groups take about the same time, and what can be one stack stays together as far as
    that allows.
    """
    works = [(job, _work(job)) for alike in _alike(jobs) for job in alike]
    total, done = sum(work for _, work in works), 0.0
    groups: list[list[Job]] = [[] for _ in range(n_groups)]
    for job, work in works:
        groups[min(int((done + work / 2) / total * n_groups), n_groups - 1)].append(job)
        done += work
    return [group for group in groups if group]


def _work(job: Job) -> float:
    """Return about how many multiply-adds a fit takes at most."""
    estimator = job.estimator
    try:
        hidden = np.atleast_1d(getattr(estimator, "hidden_layer_sizes", 1))
        n_rows = num_samples(job.X if job.rows is None else job.rows)
        widths = np.array([np.prod(np.shape(job.X)[1:]), *hidden, 1], dtype=float)
        n_epochs = getattr(estimator, "max_iter", 1) * getattr(estimator, "n_networks", 1)
        work = n_rows * float(widths[:-1] @ widths[1:]) * n_epochs
    except (TypeError, ValueError):
        return 1.0  # what is no number is refused by the fit
    return max(work, 1.0)


def _alike(jobs: Iterable[Job]) -> list[list[Job]]:
    """Group jobs whose networks may be one stack; those that train alone have a reason."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        try:
            job.reason = _reason_to_train_alone(job)
            key = "alone" if job.reason else _shape_of(job)
        except (TypeError, ValueError):
            # its own fit says which
            job.reason, key = "a parameter is not valid", "alone"
        groups.setdefault(key, []).append(job)
    return list(groups.values())


def _reason_to_train_alone(job: Job) -> str:
    estimator, weight = job.estimator, job.fit_params.get("sample_weight")
    if type(estimator).__module__.partition(".")[0] != __package__:
        return f"{type(estimator).__name__} may train in a way of its own"
    if getattr(estimator, "n_networks", 1) != 1:
        return f"n_networks={estimator.n_networks} is a stack of its own"
    if estimator.solver not in ("sgd", "adam"):
        return f"solver={estimator.solver!r} is not written for stacks"
    if estimator.callbacks or getattr(estimator, "_skl_callbacks", None):
        return "callbacks are told of one network"
    if estimator.dtype == "bfloat16":
        return "dtype='bfloat16' is not written for stacks"
    if estimator.warm_start and hasattr(estimator, "module_"):
        return "warm_start=True goes on with an earlier network"
    own = estimator._own_features() if hasattr(estimator, "_own_features") else ""
    if own:
        return f"{own} is not written for stacks"
    others = sorted(job.fit_params.keys() - signature(estimator.fit).parameters.keys())
    if others:
        return f"fit was given {', '.join(others)}"
    if weight is not None and not np.all(np.asarray(weight, dtype=float) > 0):
        return "a batch whose weights are all zero would be skipped"
    return ""


def _shape_of(job: Job) -> tuple:
    """Return what the networks of a stack have in common, as far as parameters tell."""
    estimator = job.estimator
    params = estimator.get_params(deep=False)
    fixed = [(name, repr(value)) for name, value in params.items() if name not in _FREE_PARAMETERS]
    drops = tuple(np.ravel(estimator.dropout) > 0)
    return type(estimator), np.shape(job.X)[1:], drops, *fixed


def _fit_alone(job: Job, done: Callable[[Job], None]) -> None:
    start = time.perf_counter()
    X, y = job.take()
    try:
        job.estimator.fit(X, *([] if y is None else [y]), **job.fit_params)
    except Exception as error:
        job.error = error
    job.seconds += time.perf_counter() - start
    done(job)


@dataclass(eq=False)
class _Fit:
    """A job whose network is ready to be trained."""

    job: Job
    training: Training

    @property
    def shape(self) -> tuple:
        """What the networks of a stack have in common."""
        network, batches = self.training.network, self.training.batches
        layers = [
            (tuple(linear.weight.shape), norm is not None, name, dropout is not None)
            for linear, norm, name, dropout in network.stages()
        ]
        # a row that stands in for a missing one counts in no sum, but normalisation would see it
        # and dropout would draw for it
        is_exact = network.has_normalization or network.is_random
        last = len(batches) if is_exact else batches.n_batches
        return str(layers), network.flat.dtype, network.flat.device, batches.slices[0].stop, last

    @property
    def numbers(self) -> str:
        """What neighbours share that are moved by one call."""
        optimizer, estimator = self.training.optimizer, self.job.estimator
        return repr((optimizer.numbers(), estimator.learning_rate_init, estimator.learning_rate))


def _fit_alike(jobs: list[Job], max_memory: int | None, done: Callable[[Job], None]) -> None:
    """Fit jobs of one shape in stacks that fit into the cache, or the device's memory."""
    device = resolve_device(jobs[0].estimator.device)
    taken: dict[tuple, tuple] = {}
    waiting = list(jobs)
    while waiting:
        with torch.inference_mode(False), torch.enable_grad(), on_device(device):
            fits = _prepare([waiting.pop(0)], taken, done)
            if fits:
                n_others = _stack_size(fits[0].training, max_memory) - 1
                others, waiting = waiting[:n_others], waiting[n_others:]
                fits += _prepare(others, taken, done)
            _fit_prepared(fits, max_memory, done)


def _prepare(jobs: list[Job], taken: dict, done: Callable[[Job], None]) -> list[_Fit]:
    """Do what comes before the first epoch; jobs that fail there are done."""
    fits = []
    for job in jobs:
        start = time.perf_counter()
        key = (id(job.X), id(job.y), id(job.rows))
        if key not in taken:
            taken[key] = job.take()
        try:
            training = job.estimator._begin_fit(*taken[key], **job.fit_params)
            fits.append(_Fit(job, training))
        except Exception as error:
            job.error, job.reason = error, "it failed before the first epoch"
        job.seconds += time.perf_counter() - start
        if job.error is not None:
            done(job)
    return fits


def _stack_size(training: Training, max_memory: int | None) -> int:
    """Return how many networks like this one to train at once."""
    network, batches = training.network, training.batches
    n_rows = max(part.stop - part.start for part in batches.slices)
    n_units = sum(layer.out_features for layer in network.linear_layers())
    # activations and their gradients; weights, gradients and two moments
    n_numbers = n_rows * (batches.n_features + 3 * n_units) + 4 * network.flat.numel()
    n_bytes = n_numbers * network.flat.element_size()
    if network.flat.device.type == "cpu":
        limit = _CPU_STACK_BYTES if max_memory is None else min(max_memory, _CPU_STACK_BYTES)
        fitting = min(limit // n_bytes, _MOST_ON_CPU)
        return fitting if fitting >= _FEWEST_ON_CPU else 1
    free, _ = torch.cuda.mem_get_info(network.flat.device)
    limit = _MEMORY_SHARE * free if max_memory is None else max_memory
    return max(1, int(limit // n_bytes))


def _fit_prepared(fits: list[_Fit], max_memory: int | None, done: Callable[[Job], None]) -> None:
    """Train networks that are ready, those of exactly one shape together."""
    groups: dict[tuple, list[_Fit]] = {}
    for fit in fits:
        groups.setdefault(fit.shape, []).append(fit)
    for group in groups.values():
        try:
            _train(sorted(group, key=lambda fit: fit.numbers), done)
        except torch.OutOfMemoryError:
            _train_in_halves(group, max_memory, done)


def _train_in_halves(group: list[_Fit], max_memory: int | None, done) -> None:
    """Begin anew with stacks of half the size, where the device's memory was too small."""
    jobs = [fit.job for fit in group if not fit.training.is_done and fit.job.error is None]
    if len(jobs) == 1:
        _fit_alone(jobs[0], done)
        return
    warnings.warn(
        f"A stack of {len(jobs)} networks does not fit into the memory of the device; it is "
        "trained in halves. Pass a smaller max_stack_memory to avoid the attempt.",
        stacklevel=2,
    )
    torch.cuda.empty_cache()
    for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
        _fit_prepared(_prepare(half, {}, done), max_memory, done)


def _train(fits: list[_Fit], done: Callable[[Job], None]) -> None:
    """Train a stack until its last network stops; those that stop before leave it."""
    for fit in fits:
        fit.job.fused = len(fits) > 1
        fit.job.reason = (
            ""
            if fit.job.fused
            else "no other network has its shape, or it is too large to gain by a stack"
        )
        fit.training.begin()
    while fits:
        trainer = Stack([fit.training for fit in fits]) if len(fits) > 1 else _Alone(fits[0])
        while not any(fit.training.is_done or fit.job.error for fit in fits):
            _train_epoch(fits, trainer)
        trainer.close()
        for fit in fits:
            if fit.training.is_done or fit.job.error:
                _finish(fit, done)
        fits = [fit for fit in fits if fit.job.error is None and not fit.training.is_done]


def _train_epoch(fits: list[_Fit], trainer: "Stack | _Alone") -> None:
    start = time.perf_counter()
    losses = trainer.train_epoch([fit.training.begin_epoch() for fit in fits])
    shared = (time.perf_counter() - start) / len(fits)
    for fit, own in zip(fits, losses, strict=True):
        start = time.perf_counter()
        try:
            fit.training.end_epoch(own)
        except Exception as error:  # such as the user's scoring
            fit.job.error = error
        fit.job.seconds += shared + time.perf_counter() - start


def _finish(fit: _Fit, done: Callable[[Job], None]) -> None:
    start = time.perf_counter()
    if fit.job.error is None:
        try:
            fit.job.estimator._end_fit(fit.training)
        except ValueError as error:
            fit.job.error = error
    fit.job.seconds += time.perf_counter() - start
    done(fit.job)


class _Alone:
    """The last network of a stack, or one whose shape no other has."""

    def __init__(self, fit: _Fit):
        self._training = fit.training
        self._engine = fit.job.estimator._engine(fit.training)

    def train_epoch(self, rates):
        (own_rates,) = rates
        return [self._engine.train_epoch(self._training.batches, own_rates)]

    def close(self):
        self._engine.close()
