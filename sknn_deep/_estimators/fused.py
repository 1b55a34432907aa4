"""Fits many networks at once: those of one shape as a stack, the others one by one.

The idea of training a whole grid as one batched computation is HFTA's [1]_; what is new here is
that the results equal those of separate fits: each network has its own sample order, fold, penalty,
rates and stopping.

Each job has its own :class:`~sknn_deep._estimators.fitting.Fit`, committed when its network stops.
A job with a saved state continues from it with more epochs than the training that saved it had, so
that the survivors of a halving search are not retrained.

If a stack runs out of memory, or fails with an error that belongs to no single network, the
unfinished networks start again from their original estimators: in stacks of half the size, or
alone. The caller scores in ``done``, outside of the training's ``try``, so that an error in the
user's scorer is never mistaken for a failure of the stack.

References
----------
.. [1] S. Wang et al. (2021). Horizontally fused training array: an effective hardware
   utilization squeezer for training novel deep learning models. MLSys.
"""

import gc
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import takewhile
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn import get_config

from sknn_deep._engine.engine import EpochLosses
from sknn_deep._estimators.call import Call, Validated
from sknn_deep._estimators.fitting import Fit, fit_network
from sknn_deep._estimators.garbage import collector_waits
from sknn_deep._estimators.jobs import (
    FASTER_ALONE,
    FREE_PARAMETERS,
    Job,
    fold_of,
    group_alike,
    in_order,
    may_go_on,
    numbers_of,
    spelled,
)
from sknn_deep._hardware.device import on_device, release_cached_memory, resolve_device
from sknn_deep._hardware.precision import float32_products
from sknn_deep._training.interruption import one_of_many
from sknn_deep._training.naming import named
from sknn_deep._training.sklearn_callbacks import told
from sknn_deep._training.stack import Stack
from sknn_deep._training.stack_size import stack_size
from sknn_deep._training.training import Training
from sknn_deep._user_warnings import warn_user, warned_once

# A stack is rebuilt for the networks still training when at most this share of them is left.
_SHARE_TO_GO_ON = 0.75
# A fold with fewer networks than this does not get its own stack.
_FEWEST_OF_FOLD = 4
# Bytes of validated data cached for later shapes.
_KEPT_BYTES = 2**24


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
        Largest size of a stack in bytes; None is half of a GPU's free memory, or on a CPU what fits
        in the cache.
    done : callable
        Called with each job as soon as it is fitted or has failed. It may empty the job to free
        memory; an exception that it raises ends all training.
    """
    data = _Data()
    with one_of_many(), warned_once():
        for alike in group_alike(jobs):
            if not alike[0].reason:
                _fit_alike(alike, data, max_stack_memory, done)
                continue
            for job in alike:
                if job.most_bytes and may_go_on(job):
                    _fit_alike([job], data, max_stack_memory, done)
                else:
                    _fit_alone(job, done)


def _fit_alone(job: Job, done: Callable[[Job], None], reason: str = "") -> None:
    start = time.perf_counter()
    job.fused, job.reason, job.state = False, reason or job.reason, None
    try:
        X, y = job.take()
        with named(job.name), told(job.callbacks):
            if job.is_enough is None:
                job.estimator.fit(X, *([] if y is None else [y]), **job.fit_params)
            else:
                fit_network(job.estimator, Call(X, y, **job.fit_params), job.is_enough)
    except Exception as error:
        job.error = error
    job.seconds += time.perf_counter() - start
    done(job)


class _Member:
    """A job whose network is ready to be trained in a stack.

    Attributes
    ----------
    training : Training
        Deleted once the job is done or undone.
    n_steps : int
        Steps that its network has already taken.
    is_finished : bool
        Whether the job is done.
    """

    def __init__(self, job: Job, data: "_Data"):
        self.job, self._generator = job, job.estimator.random_state
        has_state = isinstance(self._generator, np.random.RandomState)
        self._drawn = self._generator.get_state() if has_state else None
        with named(job.name), told(job.callbacks):
            self.fit = data.prepare(job)
        # L-BFGS, which trains on the whole set, is never stacked
        self.training: Training = self.fit.training  # type: ignore[assignment]
        self.n_steps = 0
        self.training.is_paused = bool(job.most_bytes) and may_go_on(job)
        if self.training.is_paused and job.state is not None:
            self.training.go_on_from(job.state, self)
        self.is_finished = False

    def undo(self) -> None:
        """Undo the preparation; only a user's random generator has to be restored."""
        del self.training
        if self._drawn is not None:
            self._generator.set_state(self._drawn)

    @property
    def has_stopped(self) -> bool:
        """Whether it has failed, or trained for long enough."""
        return self.job.error is not None or self.training.is_done

    @property
    def shape(self) -> tuple:
        """Properties that all networks of a stack share."""
        network, batches = self.training.network, self.training.batches
        layers = [
            (tuple(linear.weight.shape), norm is not None, name, dropout is not None)
            for linear, norm, name, dropout in network.stages()
        ]
        # a padding row counts in no sum, but normalisation would see it and dropout would draw for
        # it
        is_exact = network.has_normalization or network.is_random
        last = len(batches) if is_exact else batches.n_batches
        # folds may have different categories
        inputs = str([network.config.get(name) for name in ("input", "categories")])
        return (
            str(layers),
            inputs,
            network.flat.dtype,
            network.flat.device,
            batches.slices[0].stop,
            last,
        )


def _fit_alike(
    jobs: list[Job], data: "_Data", max_memory: int | None, done: Callable[[Job], None]
) -> None:
    """Fit jobs of one shape in stacks that fit into the cache, or the device's memory."""
    device = resolve_device(jobs[0].estimator.device)
    waiting = in_order(jobs)
    data.begin_shape(jobs[0].estimator)
    most = None
    while waiting:
        data.keep_for(waiting)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            on_device(device),
            collector_waits(),
        ):
            members, n_taken = _prepare(waiting, data, max_memory, most, done)
        waiting = waiting[n_taken:]
        groups: dict[tuple, list[_Member]] = {}
        for member in members:
            groups.setdefault(member.shape, []).append(member)
        del members
        for group in groups.values():
            unfinished, error = _train_and_tell(group, device, done)
            for member in unfinished:
                member.undo()
            if isinstance(error, torch.OutOfMemoryError) and len(unfinished) > 1:
                most = len(unfinished) // 2
                _free(device, len(unfinished), most)
                waiting = [member.job for member in unfinished] + waiting
                continue
            if len(unfinished) > 1:
                warn_user(
                    f"A stack of {len(unfinished)} networks failed with {error!r}; they are "
                    "trained one by one, which takes longer. Please report this error."
                )
            for member in unfinished:
                _fit_alone(member.job, done, f"its stack failed: {error!r}")


class _Data:
    """The rows of folds, cut and validated once for all their jobs.

    Small data are cached for the networks of other shapes, too.
    """

    def __init__(self) -> None:
        # holds the objects whose ids are in the key, so that the ids cannot be reused
        self._of: dict[tuple, tuple[Validated, Any]] = {}
        self._settings: tuple = ()

    def begin_shape(self, estimator: Any) -> None:
        """Record the parameters on which the validation of the following jobs depends."""
        params = estimator.get_params(deep=False)
        others = params.keys() - FREE_PARAMETERS - {"hidden_layer_sizes", "activation"}
        values = ((name, spelled(params[name])) for name in sorted(others))
        self._settings = type(estimator), *values

    def keep_for(self, jobs: list[Job]) -> None:
        """Forget large data of other jobs."""
        if sum(data.X.nbytes for data, _ in self._of.values()) > _KEPT_BYTES:
            wanted = {self._key(job) for job in jobs}
            self._of = {key: data for key, data in self._of.items() if key in wanted}

    def prepare(self, job: Job) -> Fit:
        """Return a job's fit, prepared for its first epoch."""
        if not get_config()["skip_parameter_validation"]:
            job.estimator._validate_params()
        key = self._key(job)
        validated, _ = self._of.get(key, (None, None))
        X, y = (None, None) if validated is not None else job.take()
        fit = Fit(job.estimator, Call(X, y, **job.fit_params), validated)
        with fit.surroundings():
            fit.prepare()
        if validated is None:
            self._of[key] = fit.validated, (job.X, job.y, job.rows)
        return fit

    def _key(self, job: Job) -> tuple:
        return *fold_of(job), *self._settings


def _prepare(
    jobs: list[Job],
    data: _Data,
    max_memory: int | None,
    most: int | None,
    done: Callable[[Job], None],
) -> tuple[list[_Member], int]:
    """Prepare as many jobs as fit into a stack, and return how many were taken.

    Jobs that fail here, or that no stack can train, are done.
    """
    members: list[_Member] = []
    size = 1
    for n_taken, job in enumerate(jobs):
        if len(members) == size:
            return members, n_taken
        start = time.perf_counter()
        try:
            member = _Member(job, data)
        except torch.OutOfMemoryError:
            if members:
                return members, n_taken
            _fit_alone(job, done, "the device's memory is too small for a stack")
            continue
        except Exception as error:
            job.error, job.reason = error, "it failed before the first epoch"
            job.seconds += time.perf_counter() - start
            done(job)
            continue
        job.seconds += time.perf_counter() - start
        weight = member.training.batches.weight
        if weight is not None and not (weight > 0).all():
            member.undo()
            _fit_alone(job, done, "a batch whose weights are all zero would be skipped")
            continue
        if not members:
            size = _size_of_next(jobs[n_taken:], member.training, max_memory, most)
        members.append(member)
    return members, len(jobs)


def _size_of_next(
    jobs: list[Job], training: Training, max_memory: int | None, most: int | None
) -> int:
    """Return how many jobs to take for a stack, so that the following stacks are no smaller.

    A fold that fills at least half a stack gets its own: its rows are then gathered once.
    """
    fold = fold_of(jobs[0])
    n_jobs = sum(1 for _ in takewhile(lambda job: fold_of(job) == fold, jobs))
    n_sharing = n_jobs if training.draws_alone else 1
    largest = min(stack_size(training, max_memory, n_sharing), most or len(jobs))
    if n_jobs < max(largest / 2, _FEWEST_OF_FOLD):
        n_jobs = len(jobs)
    return math.ceil(n_jobs / math.ceil(n_jobs / largest))


def _free(device: torch.device, size: int, half: int) -> None:
    """Release the device memory of a stack that was too large."""
    warn_user(
        f"A stack of {size} networks does not fit into the memory of the device; they are "
        f"trained {half} at a time. Pass a smaller max_stack_memory to avoid the attempt."
    )
    gc.collect()
    release_cached_memory(device)


def _train_and_tell(
    group: list[_Member], device: torch.device, done: Callable[[Job], None]
) -> tuple[list[_Member], Exception | None]:
    """Train a stack, and report each network that has stopped.

    Returns
    -------
    unfinished : list of _Member
        Those left when the training failed.
    error : Exception or None
        The error that ended it.
    """
    precision = group[0].job.estimator.float32_precision
    stopped = _train(sorted(group, key=lambda member: numbers_of(member.job.estimator)))
    while True:
        try:
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                on_device(device),
                float32_products(precision, device),
            ):
                member = next(stopped)
        except StopIteration:
            return [], None
        except Exception as error:  # of the whole stack: a network's own error is in its job
            # the traceback would keep the stack in memory
            error = error.with_traceback(None)
            return [member for member in group if not member.is_finished], error
        done(member.job)  # its exceptions belong to the caller


def _train(members: list[_Member]) -> Iterator[_Member]:
    """Train a stack until its last network stops; yield each network as it stops."""
    is_fused = len(members) > 1
    for member in members:
        member.job.fused = is_fused
        member.job.reason = "" if is_fused else member.job.reason or FASTER_ALONE
        try:
            member.training.begin()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # raised by a callback
            member.job.error = error
        if member.has_stopped:  # the training with fewer epochs had stopped by itself
            _finish(member, member.n_steps)
            yield member
    members = [member for member in members if not member.is_finished]
    while members:
        with _timed(members):
            trainer = (
                Stack([member.training for member in members])
                if len(members) > 1
                else _Alone(members[0])
            )
        live = dict(enumerate(members))
        # stopped networks stay in the stack until it pays to compact it
        while len(live) > _SHARE_TO_GO_ON * len(members):
            _train_epoch(live, trainer)
            stopped = {k: member for k, member in live.items() if member.has_stopped}
            if stopped:
                with _timed(stopped.values()):
                    trainer.release(list(stopped))
            for k, member in stopped.items():
                del live[k]
                _finish(member, trainer.n_steps)
                yield member
        if live:
            with _timed(live.values()):
                trainer.release(list(live))
        members = list(live.values())


def _train_epoch(live: dict[int, _Member], trainer: "Stack | _Alone") -> None:
    with _timed(live.values()):
        rates = {k: member.training.begin_epoch() for k, member in live.items()}
        losses = trainer.train_epoch(rates)
    for k, member in live.items():
        start = time.perf_counter()
        try:
            training = member.training
            training.end_epoch(losses[k])
            if member.job.is_enough is not None and not training.is_done:
                training.is_done = member.job.is_enough(training.validation_scores)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # such as the user's scoring
            member.job.error = error
        member.job.seconds += time.perf_counter() - start


@contextmanager
def _timed(members: Collection[_Member]) -> Iterator[None]:
    """Add the time of a block to that of some jobs, in equal shares."""
    start = time.perf_counter()
    yield
    for member in members:
        member.job.seconds += (time.perf_counter() - start) / len(members)


def _finish(member: _Member, n_steps: int) -> None:
    """Finish a training; release everything that only training needs."""
    start = time.perf_counter()
    try:
        if member.job.error is None:
            member.job.state = _state_to_keep(member.job, member.training, n_steps)
            member.training.end()
            member.fit.commit()
        else:  # as in a fit alone, the epochs before an error of the user's own code are kept
            member.fit.hand_over(describe=False)
    except torch.OutOfMemoryError:  # the stack may handle it
        raise
    except Exception as error:
        member.job.error = error
    member.is_finished = True
    del member.training, member.fit
    member.job.seconds += time.perf_counter() - start


def _state_to_keep(job: Job, training: Training, n_steps: int) -> dict[str, Any] | None:
    """Return the state of a training before its best weights are restored, if it is to be kept."""
    if not training.is_paused:
        return None
    flat = training.network.flat
    # weights, best weights, moments and the order of the rows
    n_bytes = 4 * flat.numel() * flat.element_size() + 8 * len(training.batches)
    if n_bytes > job.most_bytes:
        return None
    return training.state_dict(SimpleNamespace(n_steps=n_steps))


class _Alone:
    """The last network of a stack, or one whose shape no other has."""

    def __init__(self, member: _Member):
        self._training = member.training
        self._engine = self._training.make_engine()
        self._engine.n_steps = member.n_steps

    @property
    def n_steps(self) -> int:
        """The number of steps taken."""
        return self._engine.n_steps

    def train_epoch(self, rates: dict[int, list[float] | None]) -> dict[int, EpochLosses]:
        return {0: self._engine.train_epoch(self._training.batches, rates[0])}

    def release(self, numbers: list[int]) -> None:
        """Release what only training needs; the network keeps its own memory."""
        self._engine.close()
