"""Trains the networks of one estimator in parallel on joblib workers.

Workers are processes, threads or machines of a cluster, as ``joblib.parallel_config`` says. With a
single worker, everything runs in this process and nothing is sent, whatever the backend.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import starmap
from typing import Any

import joblib
from joblib.parallel import get_active_backend
from sklearn.utils.parallel import Parallel, delayed

from sknn_deep._estimators.processes import check_travels

Answers = Callable[[Callable, Iterable[tuple]], Iterator[Any]]


def n_workers_for(
    estimator: Any, n_jobs: int | None, n_tasks: int, callbacks: Iterable[Any] = ()
) -> int:
    """Return how many workers can be used.

    Parameters
    ----------
    estimator : estimator
        The estimator that is sent to the workers.
    n_jobs : int or None
        As joblib's.
    n_tasks : int
    callbacks : iterable, default=()
        scikit-learn's callbacks, which are sent along.

    Raises
    ------
    TypeError
        If a parameter of the estimator, or a callback, cannot be sent to another process.
    """
    n_workers = min(joblib.effective_n_jobs(n_jobs), n_tasks)
    has_own_memory = not getattr(get_active_backend()[0], "supports_sharedmem", False)
    if n_workers > 1 and has_own_memory:
        check_travels(estimator.get_params(deep=False))
        check_travels({"set_callbacks": list(callbacks)})
    return n_workers


@contextmanager
def workers(n_workers: int) -> Iterator[Answers]:
    """Start workers for a block; yield a function that gives them tasks.

    ``answers(function, tasks)`` calls the function with the arguments of each task and iterates
    over the results in the order of completion. The next task is fetched when a worker becomes
    free. If the block raises, running tasks are ended.
    """
    if n_workers == 1:
        yield starmap
        return
    options: dict[str, Any] = {"pre_dispatch": "n_jobs", "batch_size": 1}
    try:
        parallel = Parallel(n_workers, **options, return_as="generator_unordered")
    except ValueError:  # multiprocessing and Ray return all results at once
        parallel = Parallel(n_workers, **options)
    running: list[Any] = []

    def answers(function: Callable, tasks: Iterable[tuple]) -> Iterator[Any]:
        running.append(parallel(delayed(function)(*task) for task in tasks))
        return iter(running[-1])

    with parallel:
        try:
            yield answers
        except BaseException:
            with warnings.catch_warnings(action="ignore"):  # about abandoned tasks
                for unfinished in running:
                    getattr(unfinished, "close", lambda: None)()
            raise
