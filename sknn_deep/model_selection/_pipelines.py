"""Pipelines in a search: what comes before the network, fitted once for all that share it."""

import copy
import math
import time
import traceback
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, get_tags
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.parallel import Parallel, delayed

from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._estimators.jobs import Job
from sknn_deep._sklearn import routing_enabled, safe_split
from sknn_deep.model_selection._trials import Route, Trial

# How much may be held that pipelines hand to their networks, before these are trained.
MAX_PREPARED_BYTES = 2**31


@dataclass(eq=False)
class Prepared:
    """A pipeline whose steps before the network are fitted, and what they hand to it."""

    pipeline: Pipeline
    given: tuple[Any, Any, dict[str, Any]] | None
    seconds: float
    failure: str = ""


class Recorder:
    """Takes a network's place at the end of a pipeline and keeps what ``fit`` is given.

    Parameters
    ----------
    network : BaseDeepNetwork
        Says which metadata are routed to it.
    """

    def __init__(self, network: BaseDeepNetwork):
        self._network = network
        self.given: tuple[Any, Any, dict[str, Any]] | None = None

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Keep the data."""
        self.given = (X, y, params)
        return self

    def get_metadata_routing(self) -> MetadataRequest:
        """Return the network's requests."""
        return self._network.get_metadata_routing()

    def __sklearn_tags__(self) -> Tags:
        return get_tags(self._network)


def check_for_networks(estimator: BaseEstimator, trials: list[Trial]) -> None:
    """Refuse a search in which there is nothing to fuse."""
    if trials and not any(_holds_network(trial.estimator) for trial in trials):
        raise TypeError(
            f"{type(estimator).__name__} holds none of DeepMLPClassifier, DeepMLPRegressor and "
            "AutoencoderTransformer, so there is nothing to train at once. Use the search of the "
            "same name, or cross_validate, from sklearn.model_selection."
        )


def in_parts(trials: list[Trial], X: Any) -> list[list[Trial]]:
    """Find each trial's way to its network, and divide the trials so that memory suffices.

    The data that the steps before the networks hand on are kept until the networks are
    trained. They are taken to be as large as X, and a part holds as many settings of these
    steps as fit into ``MAX_PREPARED_BYTES``, but one at least.
    """
    routes: dict[int, Route] = {}  # the splits of a candidate have one, and one dict of parameters
    for trial in trials:
        key = id(trial.parameters)
        if key not in routes:
            routes[key] = _route(trial)
        trial.route = routes[key]
    folds_of: dict[tuple, set] = {}
    for trial in trials:
        if trial.route.names:
            folds_of.setdefault(trial.route.setting, set()).add(id(trial.split))
    part_of, n_bytes = {}, 0
    for setting, folds in folds_of.items():
        n_bytes += len(folds) * _n_bytes(X)
        part_of[setting] = n_bytes // MAX_PREPARED_BYTES
    parts: dict[int, list[Trial]] = {}
    for trial in trials:
        parts.setdefault(part_of.get(trial.route.setting, 0), []).append(trial)
    return list(parts.values())


def _n_bytes(X: Any) -> int:
    """Return about how much memory rows take once they are numbers."""
    if sp.issparse(X):
        return X.data.nbytes + X.nnz * 4
    return getattr(X, "nbytes", 8 * math.prod(getattr(X, "shape", (len(X),))))


def prepare(
    trials: list[Trial], X: Any, y: Any, error_score: float | str, parallel: Parallel
) -> None:
    """Give a job to every trial that ends in a network, its pipeline fitted up to there."""
    sharing: dict[tuple, list[Trial]] = {}
    for trial in trials:
        if trial.route.reason:
            trial.reason = trial.route.reason
        elif trial.route.names:
            sharing.setdefault((id(trial.split), trial.route.setting), []).append(trial)
        else:
            trial.job = Job(trial.estimator, X, y, trial.split.train, trial.split.fit_params)
    groups = list(sharing.values())
    tasks = [delayed(_fit_steps)(group[0], X, y, error_score) for group in groups]
    prepared = parallel(tasks) if tasks else []
    for group, steps in zip(groups, prepared, strict=True):
        _adopt(group, steps)


def _route(trial: Trial) -> Route:
    """Return how to come to the network of a trial, or why not to."""
    names, last = _path_to_last_step(trial.estimator)
    if not _is_network(last):
        return Route(reason=f"{type(last).__name__} is no deep network of this package")
    if any(getattr(part, "_skl_callbacks", None) for part in _parts(trial.estimator)):
        return Route(reason="scikit-learn's callbacks are registered on the estimator")
    path = "__".join(names)
    own = [
        (name, _identity(value))
        for name, value in sorted((trial.parameters or {}).items())
        if name != path and not name.startswith(f"{path}__")
    ]
    # a network that is itself a candidate may ask for other metadata
    requests = str(last.get_metadata_routing()) if routing_enabled() else ""
    return Route(names, (path, requests, *own))


def _path_to_last_step(estimator: Any) -> tuple[list[str], Any]:
    """Return the names of the last steps of nested pipelines, and the innermost last step."""
    names = []
    while isinstance(estimator, Pipeline):
        try:
            name, last = estimator.steps[-1]
        except (IndexError, TypeError, ValueError):
            break  # its fit says what is wrong with it
        names.append(name)
        estimator = last
    return names, estimator


def _is_network(estimator: Any) -> bool:
    """Return whether an estimator is trained by this package, not by a subclass's own fit."""
    if not isinstance(estimator, BaseDeepNetwork):
        return False
    fitted_by = next(cls for cls in type(estimator).__mro__ if "fit" in vars(cls))
    return "_trains_in_stacks" in vars(fitted_by)


def _parts(estimator: Any) -> list:
    """Return an estimator and those among its parameters, at any depth."""
    return [estimator, *estimator.get_params(deep=True).values()]


def _holds_network(estimator: Any) -> bool:
    return any(isinstance(part, BaseDeepNetwork) for part in _parts(estimator))


def _identity(value: Any) -> tuple:
    """Return what tells parameter values apart: itself for a number or a text, else which object.

    Candidates take their values from the user's lists, so the same value is the same object.
    """
    plain = isinstance(value, bool | int | float | str | np.number | None)
    return (type(value), value) if plain else (type(value), id(value))


def _fit_steps(trial: Trial, X: Any, y: Any, error_score: float | str) -> Prepared:
    """Fit a pipeline up to its network by its own ``fit``, with a recorder for the network."""
    start = time.perf_counter()
    twin = clone(trial.estimator)
    _, network = _path_to_last_step(twin)
    recorder = Recorder(network)
    pipeline = _ending_in(twin, recorder)
    X_train, y_train = safe_split(trial.estimator, X, y, trial.split.train)
    failure = ""
    try:
        pipeline.fit(X_train, y_train, **trial.split.fit_params)
    except Exception:
        if error_score == "raise":
            raise
        failure = traceback.format_exc()
    return Prepared(pipeline, recorder.given, time.perf_counter() - start, failure)


def _ending_in(pipeline: Pipeline, last: Any) -> Pipeline:
    """Return a shallow copy of nested pipelines with another innermost last step."""
    twin = copy.copy(pipeline)
    name, present = pipeline.steps[-1]
    if isinstance(present, Pipeline):
        last = _ending_in(present, last)
    twin.steps = [*pipeline.steps[:-1], (name, last)]
    return twin


def _adopt(trials: list[Trial], prepared: Prepared) -> None:
    """Put the fitted steps into the pipelines of all that share them, and share their time."""
    for trial in trials:
        trial.seconds = prepared.seconds / len(trials)
        trial.failure = prepared.failure
        if prepared.failure or prepared.given is None:
            what = "failed" if prepared.failure else "kept the data to itself"
            trial.reason = f"a step before the network {what}"
            continue
        _, network = _path_to_last_step(trial.estimator)
        network = clone(network)
        trial.estimator = _ending_in(prepared.pipeline, network)
        X, y, fit_params = prepared.given
        trial.job = Job(network, X, y, None, fit_params)
