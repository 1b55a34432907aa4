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
    """The rows of a fold, and what goes with them to ``fit`` and to the scorer.

    The trials of a fold share one, so that the engine sees that their data are the same.
    """

    train: np.ndarray
    test: np.ndarray
    fit_params: dict[str, Any]
    train_score_params: dict[str, Any]
    test_score_params: dict[str, Any]


@dataclass(eq=False)
class Route:
    """The way to the networks of a candidate.

    Attributes
    ----------
    names : list of str
        The last step of the pipeline, of the pipeline that is that step, and so on; none for
        a network that stands alone, or where what comes last is no network.
    setting : tuple
        Equal where all but the network at the end is set to the same.
    reason : str
        Why there is no network at the end that could be trained with others.
    inner : list of str
        The way to a network that a pipeline transforms by, such as an autoencoder; none without.
    before, with_inner : tuple
        Equal where the steps before that network are set to the same, and where it is, too.
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
        What a job goes on from.
    digest : str
        Tells the data apart that the steps before the network have made; empty without any.
    """

    state: dict[str, Any]
    digest: str


@dataclass(eq=False)
class Trial:
    """One candidate on one split.

    Attributes
    ----------
    estimator : estimator
        With the candidate's parameters set. All trials of a candidate share one, until each
        takes a clone of it to fit.
    original : estimator
        That of the candidate, even after ``estimator`` has changed.
    parameters : dict or None
        What was set.
    split : Split
    label : str
        What messages call the trial.
    name : str
        What messages of its training call it.
    context : CallbackContext or None
        Through which scikit-learn's callbacks hear of it.
    route : Route
        The way to its network.
    job : Job or None
        The training of its network, where the network is the last step or stands alone.
    seconds : float
        What was spent on it beside the job.
    failure : str
        The traceback, if the fit failed.
    fused : bool
        Whether its network was trained in a stack of several.
    reason : str
        Why it was not.
    standing : Standing or None
        Where the training with fewer epochs ended that this one may go on from.
    digest : str
        See :class:`Standing`, of the data of this one.
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
    """Return what ``clone`` does, in a tenth of the time for a network with plain parameters."""
    parameters = vars(estimator)
    is_ours = vars(type(estimator)).get("_trains_in_stacks", False)
    if not (is_ours and all(map(_is_plain, parameters.values()))):
        return clone(estimator)
    if len(parameters) != len(type(estimator)._get_param_names()):  # it is fitted, or told more
        return clone(estimator)
    own = object.__new__(type(estimator))
    vars(own).update(parameters)
    return own


def _is_plain(value: Any) -> bool:
    """Return whether a value cannot change, so that several estimators may hold the same one."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def make_splits(
    X: Any, folds: Iterable, fit_params: dict[str, Any], score_params: dict[str, Any]
) -> list[Split]:
    """Cut what belongs to rows into the folds of a cross-validation.

    Parameters
    ----------
    X : array-like of n_samples rows
    folds : iterable of (train, test)
        Row numbers or masks, as a splitter yields them.
    fit_params, score_params : dict
        Arrays of n_samples rows are cut, anything else is handed on.
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
    """Return a trial for each candidate and split, the splits of a candidate side by side."""
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
