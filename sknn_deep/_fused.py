"""Fit many networks at once: the contract, and a stand-in that fits them one after the other."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sknn_deep._validation import safe_indexing


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

    Seeds that are None draw from NumPy's global state in the order of the jobs.

    Parameters
    ----------
    jobs : list of Job
    max_stack_memory : int or None
        Bytes that a stack may take; None is a share of what the device has.
    done : callable
        Called with each job as soon as it is fitted or has failed, its fields filled in, and
        outside of whatever the training sets (threads, gradients). It scores the estimator,
        which is not part of the job's seconds, and empties the job to free memory. What it
        raises ends the training of all.
    """
    for job in jobs:
        start = time.perf_counter()
        X, y = job.take()
        try:
            if y is None:
                job.estimator.fit(X, **job.fit_params)
            else:
                job.estimator.fit(X, y, **job.fit_params)
        except Exception as error:
            job.error = error
        job.seconds = time.perf_counter() - start
        job.reason = "stacks are not trained yet"
        done(job)


def stacks(jobs: list[Job], n_groups: int) -> list[list[Job]]:
    """Split jobs into at most ``n_groups`` groups, none empty, to be trained apart."""
    n_groups = min(n_groups, len(jobs))
    bounds = [len(jobs) * i // n_groups for i in range(n_groups + 1)] if jobs else [0]
    return [jobs[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
