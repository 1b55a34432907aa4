"""Fits and scores all trials of a search in stages; scikit-learn takes one trial at a time.

1. The steps before the networks are fitted (``_pipelines.py``), autoencoders among them trained in
   stacks, too, and the networks at the end become jobs.
2. The jobs are divided among the workers in stacks.
3. Each worker trains and scores its stacks. Only the scores are sent back.

An estimator that does not end in a network of this package is fitted by its own ``fit``.
"""

import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from joblib.logger import short_format_time
from sklearn.utils import get_tags
from sklearn.utils.parallel import Parallel, delayed

from sknn_deep._estimators.fused import fit_jobs
from sknn_deep._estimators.jobs import Job, stacks
from sknn_deep._sklearn import MultimetricScorer, safe_split, score_or_error
from sknn_deep._user_warnings import warned_once
from sknn_deep.model_selection._pipelines import goes_on, prepare, train_inner
from sknn_deep.model_selection._routes import in_parts, is_network
from sknn_deep.model_selection._scores import ScoredRows, quick_score
from sknn_deep.model_selection._stand_ins import settled
from sknn_deep.model_selection._trials import Standing, Trial, own_estimator

# Bytes of suspended trainings that a halving search may keep.
MAX_STANDING_BYTES = 2**31


@dataclass(eq=False)
class Settings:
    """The search, and its settings for fitting and scoring all trials.

    ``resource`` is the parameter that a halving search increases from rung to rung.
    """

    scorer: Callable
    error_score: float | str
    return_train_score: bool
    verbose: int
    max_stack_memory: int | None
    caller: Any = None
    return_estimator: bool = False
    resource: str | None = None


def evaluate(
    trials: list[Trial], X: Any, y: Any, settings: Settings, parallel: Parallel
) -> list[dict[str, Any]]:
    """Fit and score all trials.

    Returns
    -------
    results : list of dict
        For each trial, in order, "test_scores", "fit_time", "score_time", "fit_error" (the
        traceback, or None), "fused", "reason" (why not, or empty), and on request "train_scores",
        "estimator" and "standing".
    """
    result_of: dict[int, dict[str, Any]] = {}
    n_workers, error_score = effective_n_jobs(parallel.n_jobs), settings.error_score
    with warned_once():
        for part in in_parts(trials, X):
            train_inner(part, X, y, error_score, parallel, n_workers, settings.max_stack_memory)
            prepare(part, X, y, error_score, parallel, settings.resource)
            for trial in part:
                if trial.job is not None and goes_on(settings.resource, trial):
                    trial.job.most_bytes = MAX_STANDING_BYTES // len(trials)
            groups = _groups(part, n_workers)
            answers = parallel(_task(group, X, y, settings) for group in groups)
            for group, results in zip(groups, answers, strict=True):
                result_of |= zip(map(id, group), results, strict=True)
    return [result_of[id(trial)] for trial in trials]


def _groups(trials: list[Trial], n_workers: int) -> list[list[Trial]]:
    """Divide trials among the workers: jobs in stacks, each other trial separately."""
    trial_of = {id(trial.job): trial for trial in trials if trial.job is not None}
    jobs = [trial.job for trial in trials if trial.job is not None]
    groups = stacks(jobs, n_workers) if jobs else []
    alone = [[trial] for trial in trials if trial.job is None]
    return [[trial_of[id(job)] for job in group] for group in groups] + alone


def _task(trials: list[Trial], X: Any, y: Any, settings: Settings) -> Any:
    """Return the call that fits a group, with the data of its jobs as separate arguments.

    On a cluster, joblib sends a top-level argument to each worker only once, but nested data with
    every call.
    """
    places: dict[int, int] = {}
    data: list[Any] = []

    def place(values: Any) -> int:
        if id(values) not in places:
            places[id(values)] = len(data)
            data.append(values)
        return places[id(values)]

    for trial in trials:
        if trial.job is not None:
            trial.job.X, trial.job.y = place(trial.job.X), place(trial.job.y)
    return delayed(_run)(trials, X, y, settings, *data)


def _run(
    trials: list[Trial], X: Any, y: Any, settings: Settings, *data: Any
) -> list[dict[str, Any]]:
    """Fit a group of trials, and score each as soon as it is fitted.

    Jobs hold, in place of their data, indices into the last arguments.
    """
    for trial in trials:
        if trial.job is not None:
            trial.job.X, trial.job.y = data[trial.job.X], data[trial.job.y]
    results: dict[int, dict[str, Any]] = {}
    sets: dict[tuple, ScoredRows] = {}
    trial_of = {id(trial.job): trial for trial in trials if trial.job is not None}

    def finish(job: Job) -> None:
        trial = trial_of[id(job)]
        trial.seconds += job.seconds
        trial.fused, trial.reason = job.fused, job.reason
        result = _finish(trial, job.error, X, y, sets, settings)
        if job.state is not None:
            result["standing"] = Standing(job.state, trial.digest)
        results[id(trial)] = result
        if settings.return_estimator and job.error is None:
            # as if returned by another process, and to free the device's memory for later networks
            job.estimator._move_to(torch.device("cpu"))
        job.estimator = job.X = job.y = None  # frees memory for the next ones

    for trial in trials:
        # otherwise it already has its own pipeline
        if trial.job is None or not trial.route.names:
            trial.estimator = own_estimator(trial.estimator)
            if trial.job is not None:
                trial.job.estimator = trial.estimator
        if settings.verbose > 9:
            print(f"{f'{trial.label} START {_described(trial.parameters)}':.<80}")
        if trial.job is not None or trial.failure:
            _call_hook(trial, X, y, settings, "call_on_fit_task_begin")
    jobs = [trial.job for trial in trials if trial.job is not None]
    if jobs:
        fit_jobs(jobs, max_stack_memory=settings.max_stack_memory, done=finish)
        return [results[id(trial)] for trial in trials]
    (trial,) = trials
    error = None if trial.failure else _fit_alone(trial, X, y, settings)
    return [_finish(trial, error, X, y, sets, settings)]


def _finish(
    trial: Trial,
    error: Exception | None,
    X: Any,
    y: Any,
    sets: dict[tuple, ScoredRows],
    settings: Settings,
) -> dict[str, Any]:
    """Score a fitted trial, report it, and release its estimator."""
    try:
        if error is not None:
            if settings.error_score == "raise":
                raise error
            trial.failure = "".join(traceback.format_exception(error))
        result = _score(trial, X, y, sets, settings)
    finally:
        _call_hook(trial, X, y, settings, "call_on_fit_task_end")
    if settings.verbose > 1:
        _report(trial, result, settings)
    result |= {"fused": trial.fused, "reason": "" if trial.fused else trial.reason}
    if settings.return_estimator:
        result["estimator"] = trial.estimator
    trial.estimator = trial.job = None
    return result


def _fit_alone(trial: Trial, X: Any, y: Any, settings: Settings) -> Exception | None:
    """Fit an estimator by its own ``fit``, with its callbacks; return the error, if any."""
    X_train, y_train = safe_split(trial.estimator, X, y, trial.split.train)
    data = (X_train,) if y_train is None else (X_train, y_train)
    start = time.perf_counter()
    try:
        with _callbacks_reaching(trial):
            _call_hook(trial, X, y, settings, "call_on_fit_task_begin")
            trial.estimator.fit(*data, **trial.split.fit_params)
    except Exception as error:
        return error
    finally:
        trial.seconds += time.perf_counter() - start
        if trial.route.inner:
            trial.estimator = settled(trial.estimator, trial.original)
    return None


def _callbacks_reaching(trial: Trial) -> AbstractContextManager:
    """Return a context in which an estimator reports to the callbacks of the search."""
    if trial.context is None:
        return nullcontext()
    return trial.context.propagate_callback_context(trial.estimator)


def _call_hook(trial: Trial, X: Any, y: Any, settings: Settings, name: str) -> None:
    """Tell scikit-learn's callbacks that the task of a trial begins or ends."""
    if trial.context is None:
        return
    weight = trial.split.fit_params.get("sample_weight")

    def training_data(part: int) -> Callable:
        # sliced only for callbacks that ask for it
        return lambda: safe_split(trial.estimator, X, y, trial.split.train)[part]

    getattr(trial.context, name)(
        estimator=settings.caller,
        X=training_data(0),
        y=training_data(1),
        metadata=None if weight is None else {"sample_weight": weight},
    )


def _score(
    trial: Trial, X: Any, y: Any, sets: dict[tuple, ScoredRows], settings: Settings
) -> dict[str, Any]:
    """Return the result of a trial whose fit is done.

    Parameters
    ----------
    sets : dict
        Cache of rows already sliced for trials of the group; updated.
    """
    result: dict[str, Any] = {"fit_error": trial.failure or None, "fit_time": trial.seconds}
    split, estimator = trial.split, trial.estimator
    start = time.perf_counter()
    if trial.failure:
        result |= {"test_scores": _error_scores(settings), "score_time": 0.0}
        if settings.return_train_score:
            result["train_scores"] = _error_scores(settings)
        return result

    def scores(rows: ScoredRows, score_params: dict[str, Any]) -> float | dict[str, float]:
        quick = None if score_params else quick_score(settings.scorer, estimator, rows)
        if quick is not None:
            return quick
        return score_or_error(
            estimator, rows.X, rows.y, settings.scorer, score_params, settings.error_score
        )

    def rows_of(name: str, *numbers: np.ndarray) -> ScoredRows:
        is_pairwise = not is_network(estimator) and get_tags(estimator).input_tags.pairwise
        key = name, id(split), is_pairwise
        if key not in sets:
            for other in [other for other in sets if other[0] == name == "train"]:
                del sets[other]  # keep only one fold at a time
            sets[key] = ScoredRows(*safe_split(estimator, X, y, *numbers))
        return sets[key]

    result["test_scores"] = scores(
        rows_of("test", split.test, split.train), split.test_score_params
    )
    result["score_time"] = time.perf_counter() - start
    if settings.return_train_score:
        result["train_scores"] = scores(rows_of("train", split.train), split.train_score_params)
    return result


def _error_scores(settings: Settings) -> float | str | dict[str, float | str]:
    """Return the scores of a failed fit."""
    if isinstance(settings.scorer, MultimetricScorer):
        return dict.fromkeys(settings.scorer._scorers, settings.error_score)
    return settings.error_score


def _described(parameters: dict | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted((parameters or {}).items()))


def _report(trial: Trial, result: dict[str, Any], settings: Settings) -> None:
    """Print how a trial ended; with its scores if verbose."""
    parts = [f"{_described(trial.parameters)};"] if trial.parameters else []
    if settings.verbose > 2:
        parts.append(_score_message(result))
    total = short_format_time(result["fit_time"] + result["score_time"])
    message = "".join(parts) + f" total time={total}"
    start = f"{trial.label} END "
    print(f"{start}{message:.>{max(80 - len(start), 0)}}")


def _score_message(result: dict[str, Any]) -> str:
    """Return the scores of a trial as text."""
    tests, trains = result["test_scores"], result.get("train_scores")
    if isinstance(tests, dict):
        return "".join(
            f" {name}: ("
            + (f"train={trains[name]:.3f}, " if trains is not None else "")
            + f"test={tests[name]:.3f})"
            for name in sorted(tests)
        )
    if trains is None:
        return f", score={tests:.3f}"
    return f", score=(train={trains:.3f}, test={tests:.3f})"
