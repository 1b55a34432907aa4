"""Fits many networks at once: those of one shape as a stack, the others one by one.

The idea of training a whole grid as one batched computation is HFTA's [1]_; what is new
here is the same answer as from separate fits: orders, folds, penalties, rates and stopping are
each network's own.

References
----------
.. [1] S. Wang et al. (2021). Horizontally fused training array: an effective hardware
   utilization squeezer for training novel deep learning models. MLSys.
.. [2] S. F. Hummel, E. Schonberg, L. E. Flynn (1992). Factoring: a method for scheduling
   parallel loops. Communications of the ACM 35(8).
"""

import gc
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from sknn_deep._engine.engine import EpochLosses
from sknn_deep._estimators.base import Validated
from sknn_deep._estimators.fitted_state import Before
from sknn_deep._hardware.device import on_device, release_cached_memory, resolve_device
from sknn_deep._sklearn import num_samples, safe_indexing
from sknn_deep._training.stack import Stack
from sknn_deep._training.stack_size import stack_size
from sknn_deep._training.training import Training

# What may differ between the networks of a stack.
_FREE_PARAMETERS = {
    "alpha", "learning_rate", "learning_rate_init", "power_t", "max_iter", "shuffle",
    "random_state", "tol", "verbose", "momentum", "nesterovs_momentum", "early_stopping",
    "validation_fraction", "beta_1", "beta_2", "epsilon", "n_iter_no_change", "max_fun",
    "dropout", "weight_decay", "max_grad_norm", "scoring", "class_weight", "warm_start",
}  # fmt: skip
# What the optimisers of a stack may differ in.
_NUMBERS = (
    "learning_rate_init", "learning_rate", "momentum", "nesterovs_momentum", "beta_1", "beta_2",
    "epsilon",
)  # fmt: skip
# A stack is made anew for those that go on when so many of its networks are left.
_SHARE_TO_GO_ON = 0.75
# Beside the multiply-adds of its outputs, a network's step in a stack, its epoch and its fit
# take as long as so many.
_WORK_OF_STEP, _WORK_OF_EPOCH, _WORK_OF_FIT = 5_000, 250_000, 20_000_000
# Fewer networks of a fold do not have a stack for themselves.
_FEWEST_OF_FOLD = 4
# So much of validated data is kept for the shapes to come.
_KEPT_BYTES = 2**24
# A group of about four seconds; joblib's workers may collect garbage after each, for 0.15 s.
_LEAST_WORK = 4e10


@dataclass(eq=False)
class Job:
    """One fit to do, and what came of it.

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
        Bytes that a stack may take; None is half of what a GPU has free, and on a CPU what
        stays near its cores.
    done : callable
        Called with each job as soon as it is fitted or has failed. It may empty the job, to
        free memory; what it raises ends the training of all.
    """
    data = _Data()
    for alike in _alike(jobs):
        if alike[0].reason:
            for job in alike:
                _fit_alone(job, done)
        else:
            _fit_alike(alike, data, max_stack_memory, done)


def stacks(jobs: list[Job], n_workers: int) -> list[list[Job]]:
    """Divide jobs into groups, none empty, which workers that are free take one after the other.

    What can be one stack stays together as far as that allows. Where the work is long,
    large groups come first and small ones last, as in factoring [2]_: so no worker waits long
    for another, whatever stops early and however fast each core is.
    """
    alike = [_in_order(group) for group in _alike(jobs)]
    works = [(job, _work(job)) for group in alike for job in group]
    stops = np.cumsum(_shares(sum(work for _, work in works), n_workers))
    groups: list[list[Job]] = [[] for _ in stops]
    done = 0.0
    for job, work in works:
        groups[np.searchsorted(stops[:-1], done + work / 2)].append(job)
        done += work
    return [group for group in groups if group]


def _shares(work: float, n_workers: int) -> list[float]:
    """Divide work: while it is long half of what is left, and in the end all, in equal parts."""
    shares = []
    while work > 2 * n_workers * _LEAST_WORK:
        work /= 2
        shares += [work / n_workers] * n_workers
    return shares + [work / n_workers] * n_workers


def _work(job: Job) -> float:
    """Return about how long a fit takes at most, counted in multiply-adds of its outputs."""
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
        return 1.0  # what is no number is refused by the fit
    return max(work, 1.0) if np.isfinite(work) else 1.0


def _alike(jobs: Iterable[Job]) -> list[list[Job]]:
    """Group jobs whose networks may be one stack; those that train alone have a reason."""
    known: dict[tuple, tuple[str, Any]] = {}  # the jobs of a candidate may share an estimator
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        same = id(job.estimator), id(job.X), *job.fit_params
        if same not in known:
            known[same] = _reason_and_shape(job)
        job.reason, shape = known[same]
        groups.setdefault("alone" if job.reason else shape, []).append(job)
    return list(groups.values())


def _reason_and_shape(job: Job) -> tuple[str, Any]:
    """Return why a job's network trains alone, or else what those of its stack share."""
    try:
        reason = _reason_to_train_alone(job)
        return reason, None if reason else _shape_of(job)
    except (TypeError, ValueError):
        return "a parameter is not valid", None  # its own fit says which


def _reason_to_train_alone(job: Job) -> str:
    estimator = job.estimator
    if type(estimator).__module__.partition(".")[0] != "sknn_deep":
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
    others = sorted(job.fit_params.keys() - _arguments_of_fit(type(estimator)))
    if others:
        return f"fit was given {', '.join(others)}"
    device = resolve_device(estimator.device)
    return "" if device.type in ("cpu", "cuda") else f"stacks are not written for {device.type!r}"


@cache
def _arguments_of_fit(estimator: type) -> frozenset[str]:
    return frozenset(signature(estimator.fit).parameters)


def _shape_of(job: Job) -> tuple:
    """Return what the networks of a stack have in common, as far as parameters tell."""
    estimator = job.estimator
    params = estimator.get_params(deep=False)
    fixed = [(name, repr(value)) for name, value in params.items() if name not in _FREE_PARAMETERS]
    drops = tuple(np.ravel(estimator.dropout) > 0)
    return type(estimator), np.shape(job.X)[1:], drops, *fixed


def _fit_alone(job: Job, done: Callable[[Job], None], reason: str = "") -> None:
    start = time.perf_counter()
    job.fused, job.reason = False, reason or job.reason
    try:
        X, y = job.take()
        job.estimator.fit(X, *([] if y is None else [y]), **job.fit_params)
    except Exception as error:
        job.error = error
    job.seconds += time.perf_counter() - start
    done(job)


class _Fit:
    """A job whose network is ready to be trained.

    Attributes
    ----------
    training : Training or None
        None when the job is done.
    """

    def __init__(self, job: Job, begin: Callable[[], Training]):
        self.job, self.training = job, None
        self._before = Before(job.estimator, goes_on=False)
        random_state = job.estimator.random_state
        has_state = isinstance(random_state, np.random.RandomState)
        self._random = random_state.get_state() if has_state else None
        self.training = begin()

    def go_back(self) -> None:
        """Give the estimator back what it had before its fit."""
        self._before.restore()

    def undo(self) -> None:
        """Make the estimator what it was before it was begun, and its generator."""
        self.training = None
        self.go_back()
        if self._random is not None:
            self.job.estimator.random_state.set_state(self._random)

    @property
    def has_stopped(self) -> bool:
        return self.job.error is not None or self.training.is_done

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


def _fit_alike(
    jobs: list[Job], data: "_Data", max_memory: int | None, done: Callable[[Job], None]
) -> None:
    """Fit jobs of one shape in stacks that fit into the cache, or the device's memory."""
    device = resolve_device(jobs[0].estimator.device)
    waiting = _in_order(jobs)
    data.begin_shape(jobs[0].estimator)
    most = None
    while waiting:
        data.keep_for(waiting)
        with torch.inference_mode(False), torch.enable_grad(), on_device(device):
            fits, n_taken = _prepare(waiting, data, max_memory, most, done)
        waiting = waiting[n_taken:]
        groups: dict[tuple, list[_Fit]] = {}
        for fit in fits:
            groups.setdefault(fit.shape, []).append(fit)
        del fits
        for group in groups.values():
            unfinished, is_memory = _train_and_tell(group, device, done)
            for fit in unfinished:
                fit.undo()
            if is_memory and len(unfinished) > 1:
                most = len(unfinished) // 2
                _free(device, len(unfinished), most)
                waiting = [fit.job for fit in unfinished] + waiting
                continue
            for fit in unfinished:
                _fit_alone(fit.job, done, "its stack failed")


def _in_order(jobs: list[Job]) -> list[Job]:
    """Sort jobs of one shape so that stacks can be cut from the list.

    Folds come one after the other, so that the data of few are held at once, and near, and rows
    are seldom filled up; within them those are neighbours whose weights one call moves.
    """
    places = {fold: place for place, fold in enumerate(dict.fromkeys(map(_fold, jobs)))}
    return sorted(jobs, key=lambda job: (places[_fold(job)], _numbers(job.estimator)))


def _numbers(estimator) -> str:
    """Return what the networks of a stack share that one call moves."""
    return repr([getattr(estimator, name) for name in _NUMBERS])


def _fold(job: Job) -> tuple[int, int, int]:
    """Return what jobs with the same data have in common."""
    return id(job.X), id(job.y), id(job.rows)


class _Data:
    """The rows of folds, cut and validated once for all their jobs.

    What is small is kept for the networks of other shapes, too.
    """

    def __init__(self):
        # with the objects whose names are in the key, so that no others can get these
        self._of: dict[tuple, tuple[Validated, Any]] = {}
        self._settings: tuple = ()

    def begin_shape(self, estimator) -> None:
        """Look at what decides on the validation for the jobs to come."""
        params = estimator.get_params(deep=False)
        others = params.keys() - _FREE_PARAMETERS - {"hidden_layer_sizes", "activation"}
        self._settings = type(estimator), *((name, repr(params[name])) for name in sorted(others))

    def keep_for(self, jobs: list[Job]) -> None:
        """Forget large data of other jobs."""
        if sum(_bytes_of(data.X) for data, _ in self._of.values()) > _KEPT_BYTES:
            wanted = {self._key(job) for job in jobs}
            self._of = {key: data for key, data in self._of.items() if key in wanted}

    def begin(self, job: Job) -> Training:
        """Do what comes before the first epoch."""
        key, estimator = self._key(job), job.estimator
        if key in self._of:
            validated, _ = self._of[key]
            return estimator._begin_fit(None, None, **job.fit_params, validated=validated)
        training = estimator._begin_fit(*job.take(), **job.fit_params)
        self._of[key] = estimator._validated_data(training), (job.X, job.y, job.rows)
        return training

    def _key(self, job: Job) -> tuple:
        return *_fold(job), *self._settings


def _bytes_of(X) -> float:
    """Return how much memory rows take, and infinity for what is no array."""
    return getattr(X, "nbytes", math.inf)


def _prepare(
    jobs: list[Job],
    data: _Data,
    max_memory: int | None,
    most: int | None,
    done: Callable[[Job], None],
) -> tuple[list[_Fit], int]:
    """Begin as many jobs as go into a stack, and say how many were taken.

    Those that fail there, or that no stack can train, are done.
    """
    fits: list[_Fit] = []
    size = 1
    for n_taken, job in enumerate(jobs):
        if len(fits) == size:
            return fits, n_taken
        start = time.perf_counter()
        try:
            fit = _Fit(job, partial(data.begin, job))
        except torch.OutOfMemoryError:
            if fits:
                return fits, n_taken
            _fit_alone(job, done, "the device's memory is too small for a stack")
            continue
        except Exception as error:
            job.error, job.reason = error, "it failed before the first epoch"
            job.seconds += time.perf_counter() - start
            done(job)
            continue
        job.seconds += time.perf_counter() - start
        weight = fit.training.batches.weight
        if weight is not None and not (weight > 0).all():
            fit.undo()
            _fit_alone(job, done, "a batch whose weights are all zero would be skipped")
            continue
        if not fits:
            size = _size_of_next(jobs[n_taken:], fit.training, max_memory, most)
        fits.append(fit)
    return fits, len(jobs)


def _size_of_next(
    jobs: list[Job], training: Training, max_memory: int | None, most: int | None
) -> int:
    """Return how many jobs to take for a stack, so that those after it are no smaller.

    A fold that fills half a stack has it for itself: its rows are gathered once.
    """
    fold = _fold(jobs[0])
    n_jobs = sum(1 for _ in takewhile(lambda job: _fold(job) == fold, jobs))
    n_sharing = n_jobs if training.draws_alone else 1
    largest = min(stack_size(training, max_memory, n_sharing), most or len(jobs))
    if n_jobs < max(largest / 2, _FEWEST_OF_FOLD):
        n_jobs = len(jobs)
    return math.ceil(n_jobs / math.ceil(n_jobs / largest))


def _free(device: torch.device, size: int, half: int) -> None:
    """Give the memory of a stack that was too large back to the device."""
    warnings.warn(
        f"A stack of {size} networks does not fit into the memory of the device; they are "
        f"trained {half} at a time. Pass a smaller max_stack_memory to avoid the attempt.",
        stacklevel=2,
    )
    gc.collect()
    release_cached_memory(device)


def _train_and_tell(
    group: list[_Fit], device: torch.device, done: Callable[[Job], None]
) -> tuple[list[_Fit], bool]:
    """Train a stack, and tell of each network that has stopped.

    Returns
    -------
    unfinished : list of _Fit
        Those left when the training broke down.
    is_memory : bool
        Whether that was for want of memory.
    """
    is_memory = False
    stopped = _train(sorted(group, key=lambda fit: _numbers(fit.job.estimator)))
    while True:
        try:
            with torch.inference_mode(False), torch.enable_grad(), on_device(device):
                fit = next(stopped)
        except StopIteration:
            break
        except Exception as error:  # of all of them: a network's own is in its job
            is_memory = isinstance(error, torch.OutOfMemoryError)
            break
        done(fit.job)  # what it raises is the caller's
    return [fit for fit in group if fit.training is not None], is_memory


def _train(fits: list[_Fit]) -> Iterator[_Fit]:
    """Train a stack until its last network stops; yield each that has."""
    is_fused = len(fits) > 1
    for fit in fits:
        fit.job.fused = is_fused
        fit.job.reason = (
            "" if is_fused else "no other has its shape, or stacks of its size are slow"
        )
        fit.training.begin()
    while fits:
        with _timed(fits):
            trainer = Stack([fit.training for fit in fits]) if len(fits) > 1 else _Alone(fits[0])
        live = dict(enumerate(fits))
        # those that have stopped ride along until it pays to move the others together
        while len(live) > _SHARE_TO_GO_ON * len(fits):
            _train_epoch(live, trainer)
            stopped = {k: fit for k, fit in live.items() if fit.has_stopped}
            if stopped:
                with _timed(stopped.values()):
                    trainer.release(list(stopped))
            for k, fit in stopped.items():
                del live[k]
                _finish(fit)
                yield fit
        if live:
            with _timed(live.values()):
                trainer.release(list(live))
        fits = list(live.values())


def _train_epoch(live: dict[int, _Fit], trainer: "Stack | _Alone") -> None:
    with _timed(live.values()):
        rates = {k: fit.training.begin_epoch() for k, fit in live.items()}
        losses = trainer.train_epoch(rates)
    for k, fit in live.items():
        start = time.perf_counter()
        try:
            fit.training.end_epoch(losses[k])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # such as the user's scoring
            fit.job.error = error
        fit.job.seconds += time.perf_counter() - start


@contextmanager
def _timed(fits: Collection[_Fit]) -> Iterator[None]:
    """Add the time of a block to that of some jobs, in equal shares."""
    start = time.perf_counter()
    yield
    for fit in fits:
        fit.job.seconds += (time.perf_counter() - start) / len(fits)


def _finish(fit: _Fit) -> None:
    """Do what comes after the last epoch; let go of all that only training needs."""
    start = time.perf_counter()
    estimator, training, fit.training = fit.job.estimator, fit.training, None
    try:
        if fit.job.error is None:
            estimator._end_fit(training)
        else:
            estimator._take_over(training)
    except Exception as error:
        fit.job.error = error
        fit.go_back()
    fit.job.seconds += time.perf_counter() - start


class _Alone:
    """The last network of a stack, or one whose shape no other has."""

    def __init__(self, fit: _Fit):
        self._training = fit.training
        self._engine = fit.job.estimator._engine(fit.training)

    def train_epoch(self, rates: dict[int, list[float] | None]) -> dict[int, EpochLosses]:
        return {0: self._engine.train_epoch(self._training.batches, rates[0])}

    def release(self, numbers: list[int]) -> None:
        """Let go of what only training needs: the network's memory is its own."""
        self._engine.close()
