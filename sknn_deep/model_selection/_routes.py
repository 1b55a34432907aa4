"""The path to the network of a candidate, through pipelines and target transformers."""

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._sklearn import routing_enabled
from sknn_deep.model_selection._trials import Route, Trial

# Largest size of the data that pipelines prepare before the networks are trained, in bytes.
MAX_PREPARED_BYTES = 2**31


def in_parts(trials: list[Trial], X: Any) -> list[list[Trial]]:
    """Find each trial's path to its network, and divide the trials into parts that fit into memory.

    The data that the steps before the networks produce are kept until the networks are trained.
    They are assumed to be as large as X, and a part holds as many settings of these steps as fit
    into ``MAX_PREPARED_BYTES``, but at least one.
    """
    routes: dict[int, Route] = {}  # shared by the splits of a candidate
    for trial in trials:
        key = id(trial.parameters)
        if key not in routes:
            routes[key] = _route(trial)
        trial.route = routes[key]
    folds_of: dict[tuple, set] = {}
    for trial in trials:
        if trial.route.names or trial.route.inner:
            folds_of.setdefault(_steps_of(trial), set()).add(id(trial.split))
    part_of, n_bytes = {}, 0
    for setting, folds in folds_of.items():
        n_bytes += len(folds) * _n_bytes(X)
        part_of[setting] = n_bytes // MAX_PREPARED_BYTES
    parts: dict[int, list[Trial]] = {}
    for trial in trials:
        parts.setdefault(part_of.get(_steps_of(trial), 0), []).append(trial)
    return list(parts.values())


def _steps_of(trial: Trial) -> tuple:
    """Return a key that is equal for trials whose networks receive the same data."""
    return trial.route.setting, trial.route.before


def _n_bytes(X: Any) -> int:
    """Estimate the memory of rows once they are numbers."""
    if sp.issparse(X):
        return X.data.nbytes + X.nnz * 4
    return getattr(X, "nbytes", 8 * math.prod(getattr(X, "shape", (len(X),))))


def _route(trial: Trial) -> Route:
    """Return the path to the networks of a trial, or why there is none."""
    names, last = path_to_last(trial.estimator)
    inner = _path_to_first_transformer(trial.estimator)
    if not is_network(last):
        name, what = type(last).__name__, "no deep network of this package"
        holder = _holder_before(trial.estimator, last)
        reason = f"{name} is {what}"
        if holder is not None:
            inside = type(holder).__name__
            reason = f"the network inside {inside} is followed by {name}, which is {what}"
        names = []
        if not inner:
            return Route(reason=reason)
    else:
        reason = ""
    if any(getattr(part, "_skl_callbacks", None) for part in parts_of(trial.estimator)):
        return Route(reason="scikit-learn's callbacks are registered on the estimator")
    setting = _setting(trial, names, last) if names else ()
    if not inner:
        return Route(names, setting)
    before, with_inner = _settings_of_inner(trial, inner)
    return Route(names, setting, reason, inner, before, with_inner)


def _setting(trial: Trial, names: list[str], network: Any) -> tuple:
    """Return a key that is equal if everything but the network has the same parameters."""
    path = "__".join(names)
    # a network that is itself a candidate value may request other metadata
    requests = str(network.get_metadata_routing()) if routing_enabled() else ""
    return (path, requests, *settings(trial.parameters, but=path))


def _settings_of_inner(trial: Trial, inner: list[str]) -> tuple[tuple, tuple]:
    """Return keys of the parameters before an inner network, without and with its own.

    Steps after it are ignored.
    """
    *outer, name = inner
    pipeline = trial.estimator
    for _ in outer:
        _, pipeline = last_step(pipeline)  # type: ignore[misc]  # known to exist on this path
    prefix = "".join(f"{part}__" for part in outer)
    names = [step for step, _ in pipeline.steps]
    later = [prefix + step for step in names[names.index(name) + 1 :]]
    path = "__".join(inner)
    own = settings(trial.parameters)
    earlier = [item for item in own if not any(_is_at(item[0], step) for step in later)]
    before = [item for item in earlier if not _is_at(item[0], path)]
    requests = str(trial.estimator.get_metadata_routing()) if routing_enabled() else ""
    return (path, requests, *before), (path, requests, *earlier)


def settings(parameters: dict[str, Any] | None, but: str | None = None) -> list[tuple]:
    """Return a comparable form of parameters, except those of one part."""
    return [
        (name, _identity(value))
        for name, value in sorted((parameters or {}).items())
        if but is None or not _is_at(name, but)
    ]


def _is_at(parameter: str, path: str) -> bool:
    return parameter == path or parameter.startswith(f"{path}__")


def _identity(value: Any) -> tuple:
    """Return a comparable form of a value: numbers and strings by value, else the identity.

    Candidates take their values from the user's lists, so equal values are the same object.
    """
    plain = isinstance(value, bool | int | float | str | np.number | None)
    return (type(value), value) if plain else (type(value), id(value))


def path_to_last(estimator: Any) -> tuple[list[str], Any]:
    """Return the names of the last steps of nested pipelines, and the innermost last step.

    The regressor within a ``TransformedTargetRegressor`` is its last step.
    """
    names = []
    while (step := last_step(estimator)) is not None:
        names.append(step[0])
        estimator = step[1]
    return names, estimator


def _holder_before(estimator: Any, last: Any) -> Any:
    """Return a part before the last step that fits a network inside it, or None."""
    own = [id(part) for part in parts_of(last)] if hasattr(last, "get_params") else []
    for part in parts_of(estimator)[1:]:
        if not hasattr(part, "get_params") or isinstance(part, Pipeline | type) or id(part) in own:
            continue
        values = part.get_params(deep=False).values()
        if any(isinstance(value, BaseDeepNetwork) for value in values):
            return part
    return None


def last_step(estimator: Any) -> tuple[str, Any] | None:
    """Return name and estimator of the last step of a composite estimator, or None."""
    if isinstance(estimator, TransformedTargetRegressor):
        inner = getattr(estimator, "regressor_", estimator.regressor)
        return None if inner is None else ("regressor", inner)
    if not isinstance(estimator, Pipeline):
        return None
    try:
        name, last = estimator.steps[-1]
    except (IndexError, TypeError, ValueError):
        return None  # its fit reports what is wrong with it
    return name, last


def _path_to_first_transformer(estimator: Any) -> list[str]:
    """Return the path to a network that is a transformer in a pipeline; empty without one."""
    outer: list[str] = []
    while True:
        if isinstance(estimator, Pipeline):
            try:
                earlier = [(name, step) for name, step in estimator.steps[:-1]]
            except (TypeError, ValueError):
                return []
            for name, step in earlier:
                if is_network(step) and hasattr(step, "transform"):
                    return [*outer, name]
        step = last_step(estimator)
        if step is None:
            return []
        outer.append(step[0])
        estimator = step[1]


def is_network(estimator: Any) -> bool:
    """Return whether an estimator is trained by this package, not by a subclass's own fit."""
    if not isinstance(estimator, BaseDeepNetwork):
        return False
    fitted_by = next(cls for cls in type(estimator).__mro__ if "fit" in vars(cls))
    return "_trains_in_stacks" in vars(fitted_by)


def holds_network(value: Any) -> bool:
    """Return whether a value is a network of this package, or an estimator around one."""
    if not hasattr(value, "get_params") or isinstance(value, type):
        return False
    return any(isinstance(part, BaseDeepNetwork) for part in parts_of(value))


def parts_of(estimator: Any) -> list:
    """Return an estimator and all its parameter values, at any depth."""
    return [estimator, *estimator.get_params(deep=True).values()]
