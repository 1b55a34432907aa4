"""Stand-ins for the steps of a pipeline that is fitted part by part, by its own ``fit``.

A pipeline's own ``fit`` routes metadata, uses its ``memory`` and may be that of another package.
So nothing here goes through its steps: it is fitted with one of these in the place of a network.
"""

import copy
from typing import Any, Self

from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

from sknn_deep._sklearn import feature_names_of
from sknn_deep.model_selection._routes import last_step

Given = tuple[Any, Any, dict[str, Any]]


class HasRecorded(Exception):
    """Ends the fit of a pipeline whose later steps are not to be fitted yet."""


class _InPlaceOf:
    """Behaves as an estimator except for fits, and is its own clone.

    Parameters
    ----------
    estimator : estimator
    """

    def __init__(self, estimator: Any):
        self.estimator = estimator

    def __getattr__(self, name: str) -> Any:
        if name == "estimator":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.estimator, name)

    def __sklearn_clone__(self) -> Self:
        return self  # what is fitted in the place of this is kept here


class Recorder(_InPlaceOf):
    """Takes a network's place at the end of a pipeline and keeps what ``fit`` is given.

    Attributes
    ----------
    given : tuple of (X, y, dict) or None
    """

    given: Given | None = None

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Keep the data."""
        self.given = (X, y, params)
        names = feature_names_of(X)
        if names is not None:  # as the network will have
            self.feature_names_in_ = names
        return self


class InnerRecorder(Recorder):
    """Takes the place of a network that a pipeline transforms by, and ends the pipeline's fit."""

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Keep the data; raise :class:`HasRecorded`."""
        self.fit(X, y, **params)
        raise HasRecorded


class StandIn(_InPlaceOf):
    """Takes the place of a step that is fitted already, and hands on what it made of the data.

    Parameters
    ----------
    estimator : estimator
        The step.
    output : object
        What its ``fit_transform`` would return; None for steps whose output nobody uses.
    """

    def __init__(self, estimator: Any, output: Any = None):
        super().__init__(estimator)
        self._output = output

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Leave the step as it is."""
        return self

    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Return what the step has made of the training data."""
        return X if self._output is None else self._output


def at(estimator: Any, names: list[str]) -> Any:
    """Return the part at a path; of a fitted estimator the fitted one."""
    for name in names:
        step = last_step(estimator)
        if step is not None and step[0] == name:
            estimator = step[1]
        else:
            estimator = dict(estimator.steps)[name]
    return estimator


def with_part(estimator: Any, names: list[str], part: Any) -> Any:
    """Return a shallow copy of an estimator, and of those on the path, with another part."""
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
    """Return a fitted estimator with the steps themselves in the places of their stand-ins.

    Parameters
    ----------
    estimator : estimator
    original : estimator
        Has the parameters, and no stand-ins among them.
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
