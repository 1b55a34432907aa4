"""Pipelines in a search: the steps before the network, fitted once for all trials that share them.

The steps before the network are fitted once for all trials of a split with the same settings of
these steps, by the pipeline's own ``fit``: a recorder takes the place of the network, and keeps the
data passed to it. A network that is a transformer in the pipeline, such as an autoencoder, is
trained together with those of the other trials. In the next fit of the pipeline, a stand-in takes
its place and returns the transformed training data.
"""

import time
import traceback
from dataclasses import dataclass
from typing import Any

import joblib
from sklearn.base import clone
from sklearn.utils.parallel import Parallel, delayed

from sknn_deep._estimators.fused import fit_jobs
from sknn_deep._estimators.jobs import Job, stacks
from sknn_deep._sklearn import safe_split
from sknn_deep.model_selection._routes import path_to_last
from sknn_deep.model_selection._stand_ins import (
    Given,
    HasRecorded,
    InnerRecorder,
    Recorder,
    StandIn,
    at,
    settled,
    with_part,
)
from sknn_deep.model_selection._trials import Trial


@dataclass(eq=False)
class Prepared:
    """A pipeline whose steps before the network are fitted, and the data they pass to it.

    Attributes
    ----------
    digest : str
        Identifies the data passed to the network; computed only on request.
    """

    pipeline: Any
    given: Given | None
    seconds: float
    failure: str = ""
    digest: str = ""


def prepare(
    trials: list[Trial],
    X: Any,
    y: Any,
    error_score: float | str,
    parallel: Parallel,
    resource: str | None = None,
) -> None:
    """Fit the pipeline of every trial that ends in a network up to the network, and add its job.

    Parameters
    ----------
    resource : str or None
        The parameter that a halving search increases from rung to rung.
    """
    sharing: dict[tuple, list[Trial]] = {}
    for trial in trials:
        if trial.failure:
            continue
        if trial.route.reason:
            trial.reason = trial.reason or trial.route.reason
        elif trial.route.names:
            key = id(trial.split), trial.route.setting, trial.route.with_inner
            sharing.setdefault(key, []).append(trial)
        else:
            own = trial.split
            trial.job = Job(
                trial.estimator, X, y, own.train, fit_params=own.fit_params, name=trial.name
            )
    groups = list(sharing.values())
    tasks = [
        delayed(_fit_steps)(group[0], X, y, error_score, goes_on(resource, group[0]))
        for group in groups
    ]
    prepared = parallel(tasks) if tasks else []
    for group, steps in zip(groups, prepared, strict=True):
        _adopt(group, steps)
    for trial in trials:
        standing, trial.standing = trial.standing, None
        if trial.job is not None and standing is not None and standing.digest == trial.digest:
            trial.job.state = standing.state


def goes_on(resource: str | None, trial: Trial) -> bool:
    """Return whether the resource of a halving search is the number of a network's epochs."""
    return resource == "__".join([*trial.route.names, "max_iter"])


def _fit_steps(
    trial: Trial, X: Any, y: Any, error_score: float | str, needs_digest: bool = False
) -> Prepared:
    """Fit a pipeline by its own ``fit``, with a recorder in place of the network."""
    _, network = path_to_last(trial.estimator)
    return _record(trial, trial.route.names, Recorder(network), X, y, error_score, needs_digest)


def _record(
    trial: Trial,
    names: list[str],
    recorder: Recorder,
    X: Any,
    y: Any,
    error_score: float | str,
    needs_digest: bool = False,
) -> Prepared:
    """Fit a pipeline up to a recorder by its own ``fit``."""
    start = time.perf_counter()
    pipeline = with_part(clone(trial.estimator), names, recorder)
    X_train, y_train = safe_split(trial.estimator, X, y, trial.split.train)
    failure = ""
    try:
        pipeline.fit(X_train, y_train, **trial.split.fit_params)
    except HasRecorded:
        pass
    except Exception:
        if error_score == "raise":
            raise
        failure = traceback.format_exc()
    digest = str(joblib.hash(recorder.given)) if needs_digest and not failure else ""
    return Prepared(pipeline, recorder.given, time.perf_counter() - start, failure, digest)


def _adopt(trials: list[Trial], prepared: Prepared) -> None:
    """Put the fitted steps into the pipelines of all trials that share them; divide their time."""
    for trial in trials:
        trial.seconds += prepared.seconds / len(trials)
        trial.failure = prepared.failure
        if prepared.failure or prepared.given is None:
            what = "failed" if prepared.failure else "kept the data to itself"
            trial.reason = f"a step before the network {what}"
            continue
        _, network = path_to_last(trial.estimator)
        network = clone(network)
        fitted = with_part(prepared.pipeline, trial.route.names, network)
        trial.estimator = settled(fitted, trial.original)
        X, y, fit_params = prepared.given
        trial.job = Job(network, X, y, fit_params=fit_params, name=trial.name)
        trial.digest = prepared.digest


# ------------------------------------------------------------------ networks as transformers


def train_inner(
    trials: list[Trial],
    X: Any,
    y: Any,
    error_score: float | str,
    parallel: Parallel,
    n_workers: int,
    max_stack_memory: int | None,
) -> None:
    """Train the networks that are transformers in pipelines, once for each split and setting.

    The pipelines then have stand-ins for all steps up to and including the network.
    """
    sharing: dict[tuple, list[Trial]] = {}
    steps: dict[tuple, list[Trial]] = {}
    for trial in trials:
        if trial.route.inner:
            sharing.setdefault((id(trial.split), trial.route.with_inner), []).append(trial)
            steps.setdefault((id(trial.split), trial.route.before), []).append(trial)
    if not sharing:
        return
    tasks = [delayed(_fit_before_inner)(group[0], X, y, error_score) for group in steps.values()]
    prepared = dict(zip(steps, parallel(tasks), strict=True))
    for key, group in steps.items():
        for trial in group:
            trial.seconds += prepared[key].seconds / len(group)
            trial.failure = prepared[key].failure
    groups = [group for group in sharing.values() if not group[0].failure]
    jobs, given = [], []
    for group in groups:
        trial = group[0]
        own = prepared[id(trial.split), trial.route.before]
        network = clone(at(trial.estimator, trial.route.inner))
        jobs.append(Job(network, own.given[0], own.given[1], None, own.given[2]))
        given.append(own)
    place_of = {id(job): place for place, job in enumerate(jobs)}
    shares = stacks(jobs, n_workers) if jobs else []
    trained = parallel(delayed(_train_and_transform)(share, max_stack_memory) for share in shares)
    for share, answers in zip(shares, trained, strict=True):
        for job, answer in zip(share, answers, strict=True):
            place = place_of[id(job)]
            _hand_on(groups[place], given[place], answer, error_score)


@dataclass(eq=False)
class Transformed:
    """A trained network, and its transformed training data."""

    network: Any
    output: Any
    seconds: float
    fused: bool
    reason: str
    error: Exception | None


def _fit_before_inner(trial: Trial, X: Any, y: Any, error_score: float | str) -> Prepared:
    inner = trial.route.inner
    recorder = InnerRecorder(at(trial.estimator, inner))
    return _record(trial, inner, recorder, X, y, error_score)


def _train_and_transform(jobs: list[Job], max_stack_memory: int | None) -> list[Transformed]:
    """Train networks, and transform their training data as ``fit_transform`` does."""
    answers: dict[int, Transformed] = {}

    def finish(job: Job) -> None:
        start, output, error = time.perf_counter(), None, job.error
        if error is None:
            try:
                output = job.estimator.transform(job.X)
            except Exception as its_error:
                error = its_error
        seconds = job.seconds + time.perf_counter() - start
        answers[id(job)] = Transformed(job.estimator, output, seconds, job.fused, job.reason, error)

    fit_jobs(jobs, max_stack_memory=max_stack_memory, done=finish)
    return [answers[id(job)] for job in jobs]


def _hand_on(
    trials: list[Trial], prepared: Prepared, answer: Transformed, error_score: float | str
) -> None:
    """Put stand-ins for the fitted steps into the pipelines that share them."""
    if answer.error is not None and error_score == "raise":
        raise answer.error
    *outer, name = trials[0].route.inner
    steps = dict(at(prepared.pipeline, outer).steps)
    for trial in trials:
        trial.seconds += answer.seconds / len(trials)
        trial.fused, trial.reason = answer.fused, answer.reason
        if answer.error is not None:
            trial.failure = "".join(traceback.format_exception(answer.error))
            continue
        for step in [*steps][: [*steps].index(name)]:
            if steps[step] not in (None, "passthrough"):
                stand_in = StandIn(steps[step])
                trial.estimator = with_part(trial.estimator, [*outer, step], stand_in)
        stand_in = StandIn(answer.network, answer.output)
        trial.estimator = with_part(trial.estimator, [*outer, name], stand_in)
