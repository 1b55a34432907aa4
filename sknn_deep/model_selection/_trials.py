"""Candidates on the splits of a cross-validation.

A trial is one candidate on one split.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from sknn_deep._estimators.jobs import Job
from sknn_deep._sklearn import check_method_params, rows_of


@dataclass(eq=False)
class Split:
    """The rows of a fold, and the parameters passed with them to ``fit`` and to the scorer.

    The trials of a fold share one object, by which the engine recognises that their data are the
    same.
    """

    train: np.ndarray
    test: np.ndarray
    fit_params: dict[str, Any]
    train_score_params: dict[str, Any]
    test_score_params: dict[str, Any]


@dataclass(eq=False)
class Route:
    """The path to the networks of a candidate.

    Attributes
    ----------
    names : list of str
        The last step of the pipeline, then the last step of that step if it is a pipeline, and so
        on; empty for a network without a pipeline, or if the last step is not a network.
    setting : tuple
        Equal if everything but the last network has the same parameters.
    reason : str
        Why there is no last network that could be trained with others.
    inner : list of str
        The path to a network that is a transformer in a pipeline, such as an autoencoder; empty
        without one.
    before, with_inner : tuple
        Equal if the steps before that network have the same parameters; and if it has them, too.
    """

    names: list[str] = field(default_factory=list)
    setting: tuple = ()
    reason: str = ""
    inner: list[str] = field(default_factory=list)
    before: tuple = ()
    with_inner: tuple = ()


@dataclass(eq=False)
class Standing:
    """State of a trial's network at the end of its training, to continue with more epochs.

    Attributes
    ----------
    state : dict
        The state from which a job continues.
    digest : str
        Identifies the data produced by the steps before the network; empty without such steps.
    """

    state: dict[str, Any]
    digest: str


@dataclass(eq=False)
class Trial:
    """One candidate on one split.

    Attributes
    ----------
    estimator : estimator
        With the candidate's parameters set. All trials of a candidate share it until each makes its
        own clone to fit.
    original : estimator
        The candidate's estimator, kept when ``estimator`` is replaced.
    parameters : dict or None
        The candidate's parameters.
    split : Split
    label : str
        Name of the trial in messages.
    name : str
        Name of the trial in messages of its training.
    context : CallbackContext or None
        Notifies scikit-learn's callbacks of it.
    route : Route
        The path to its network.
    job : Job or None
        The training of its network, if the network is the last step or the estimator itself.
    seconds : float
        Time spent on it besides the job.
    failure : str
        The traceback, if the fit failed.
    fused : bool
        Whether its network was trained in a stack of several.
    reason : str
        Why it was not fused.
    standing : Standing or None
        State of an earlier training with fewer epochs, from which this one may continue.
    digest : str
        As in :class:`Standing`, for this trial's data.
    """

    estimator: Any
    parameters: dict[str, Any] | None
    split: Split
    label: str
    name: str
    context: Any = None
    route: Route = field(default_factory=Route)
    job: Job | None = None
    seconds: float = 0.0
    failure: str = ""
    fused: bool = False
    reason: str = ""
    standing: Standing | None = None
    digest: str = ""
    original: Any = field(init=False)

    def __post_init__(self) -> None:
        self.original = self.estimator


def own_estimator(estimator: BaseEstimator) -> BaseEstimator:
    """Clone an estimator, in a tenth of ``clone``'s time for a network with plain parameters."""
    parameters = vars(estimator)
    is_ours = vars(type(estimator)).get("_trains_in_stacks", False)
    if not (is_ours and all(map(_is_plain, parameters.values()))):
        return clone(estimator)
    if len(parameters) != len(type(estimator)._get_param_names()):  # fitted or extended
        return clone(estimator)
    own = object.__new__(type(estimator))
    vars(own).update(parameters)
    return own


def _is_plain(value: Any) -> bool:
    """Return whether a value is immutable, so that several estimators may share it."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def make_splits(
    X: Any, folds: Iterable, fit_params: dict[str, Any], score_params: dict[str, Any]
) -> list[Split]:
    """Slice row-wise parameters for the folds of a cross-validation.

    Parameters
    ----------
    X : array-like of n_samples rows
    folds : iterable of (train, test)
        Row numbers or masks, as a splitter yields them.
    fit_params, score_params : dict
        Arrays of n_samples rows are sliced, anything else is passed on.
    """
    splits = []
    for train, test in folds:
        train, test = rows_of(X, train), rows_of(X, test)
        splits.append(
            Split(
                train,
                test,
                check_method_params(X, fit_params, train),
                check_method_params(X, score_params, train),
                check_method_params(X, score_params, test),
            )
        )
    return splits


def make_trials(
    estimator: BaseEstimator,
    candidates: Sequence[dict[str, Any] | None],
    splits: list[Split],
    verbose: int,
    contexts: list,
) -> list[Trial]:
    """Return a trial for each candidate and split, grouped by candidate."""
    trials = []
    for number, parameters in enumerate(candidates, 1):
        twin = clone(estimator)
        if parameters is not None:
            twin = twin.set_params(**clone(parameters, safe=False))
        for split_number, split in enumerate(splits, 1):
            progress, name = "", f"Split {split_number} of {len(splits)}"
            if parameters is not None:
                name = f"Candidate {number} of {len(candidates)}, {name.lower()}"
                if verbose > 2:
                    progress = f" {split_number}/{len(splits)}"
                if verbose > 9:
                    progress += f"; {number}/{len(candidates)}"
            trials.append(Trial(twin, parameters, split, f"[CV{progress}]", name))
    for trial, context in zip(trials, contexts, strict=bool(contexts)):
        trial.context = context
    return trials
