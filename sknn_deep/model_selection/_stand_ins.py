"""Stand-ins for steps of a pipeline, so that its own ``fit`` can fit it in stages.

A pipeline's own ``fit`` routes metadata, uses its ``memory`` and may be that of another package.
So its steps are not fitted one by one from outside: the pipeline is fitted with one of these in
place of a network.
"""

import copy
from typing import Any, Self

from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from sknn_deep._sklearn import feature_names_of
from sknn_deep.model_selection._routes import last_step

Given = tuple[Any, Any, dict[str, Any]]


class HasRecorded(Exception):
    """Ends the fit of a pipeline before its later steps are fitted."""


class _InPlaceOf:
    """Behaves like an estimator except in fits, and is its own clone.

    Parameters
    ----------
    estimator : estimator
    """

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def __getattr__(self, name: str) -> Any:
        if name == "estimator":  # while a copy is being made
            raise AttributeError(name)
        return getattr(self.estimator, name)

    def __sklearn_clone__(self) -> Self:
        return self  # the recorded data or the fitted step must survive cloning


class Recorder(_InPlaceOf):
    """Replaces the network at the end of a pipeline and records the arguments of ``fit``.

    Attributes
    ----------
    given : tuple of (X, y, dict) or None
    """

    given: Given | None = None

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Keep the data."""
        self.given = (X, y, params)
        names = feature_names_of(X)
        if names is not None:  # as on the network
            self.feature_names_in_ = names
        return self


class InnerRecorder(Recorder):
    """Replaces a network that is a transformer in a pipeline, and ends the pipeline's fit."""

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Keep the data; raise :class:`HasRecorded`."""
        self.fit(X, y, **params)
        raise HasRecorded


class StandIn(_InPlaceOf):
    """Replaces a step that is already fitted, and returns its transformed training data.

    Parameters
    ----------
    estimator : estimator
        The step.
    output : object
        Output of its ``fit_transform``; None for steps whose output is not used.
    """

    def __init__(self, estimator: Any, output: Any = None):
        super().__init__(estimator)
        self._output = output

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Leave the step as it is."""
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Return the output of the step for the training data."""
        return X if self._output is None else self._output


def at(estimator: Any, names: list[str]) -> Any:
    """Return the part at a path; the fitted part if the estimator is fitted."""
    for name in names:
        step = last_step(estimator)
        if step is not None and step[0] == name:
            estimator = step[1]
        else:
            estimator = dict(estimator.steps)[name]
    return estimator


def with_part(estimator: Any, names: list[str], part: Any) -> Any:
    """Return a copy of an estimator with a part replaced; only the path to it is copied."""
    if not names:
        return part
    name, *rest = names
    twin = copy.copy(estimator)
    new = with_part(at(estimator, [name]), rest, part)
    if isinstance(estimator, Pipeline):
        twin.steps = [(step, new if step == name else old) for step, old in estimator.steps]
    else:
        setattr(twin, "regressor_" if hasattr(estimator, "regressor_") else "regressor", new)
    return twin


def settled(estimator: Any, original: Any) -> Any:
    """Return a fitted estimator whose stand-ins are replaced by the steps themselves.

    Parameters
    ----------
    estimator : estimator
    original : estimator
        The candidate's estimator, with its parameters and without stand-ins.
    """
    if isinstance(estimator, StandIn):
        return estimator.estimator
    twin = estimator
    if isinstance(estimator, Pipeline) and isinstance(original, Pipeline):
        twin = copy.copy(estimator)
        twin.steps = [
            (name, settled(step, own))
            for (name, step), (_, own) in zip(estimator.steps, original.steps, strict=True)
        ]
    elif isinstance(estimator, TransformedTargetRegressor):
        twin = copy.copy(estimator)
        twin.regressor = original.regressor
        if hasattr(estimator, "regressor_"):
            twin.regressor_ = settled(estimator.regressor_, original.regressor)
    return twin
