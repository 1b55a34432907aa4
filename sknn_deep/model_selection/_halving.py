"""Searches by successive halving that train many networks at once.

scikit-learn's halving searches need an import from ``sklearn.experimental``, because they may
change. These need no such import, and will follow any changes in scikit-learn.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from sknn_deep._estimators.types import CrossValidation, MatrixLike, Seed
from sknn_deep._sklearn import HalvingGridSearchCV, HalvingRandomSearchCV, num_samples
from sknn_deep.model_selection._course import MAX_STACK_MEMORY, FusedSearch, Refit, Scoring
from sknn_deep.model_selection._distributions import named_distributions, with_distributions


class FusedHalvingSearch(FusedSearch):
    """Mixin of a search by successive halving; precedes scikit-learn's class."""

    factor: float
    n_resources_: list[int]
    n_candidates_: list[int]
    n_remaining_candidates_: int
    min_resources_: int
    max_resources_: int
    n_iterations_: int
    n_possible_iterations_: int
    n_required_iterations_: int

    def fit(self, X: MatrixLike, y: "ArrayLike | None" = None, **params: Any) -> Self:
        """Search: halve the candidates again and again, then refit the best.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; None for an autoencoder.

        **params : dict
            Passed on to the ``fit`` of the estimator, to the scorer and to the splitter, as
            in scikit-learn's searches.

        Returns
        -------
        self : estimator
        """
        self._n_samples_orig = num_samples(X)
        super().fit(X, y, **params)
        self.best_score_ = self.cv_results_["mean_test_score"][self.best_index_]
        return self

    def _check_input_parameters(self, X: MatrixLike, y: Any, split_params: dict[str, Any]) -> None:
        # scikit-learn divides by the logarithm of the factor
        if self.factor <= 1:
            raise ValueError(
                f"factor={self.factor} eliminates no candidate. Give a number above 1, such as 3."
            )
        super()._check_input_parameters(X, y, split_params)


class FusedHalvingGridSearchCV(FusedHalvingSearch, HalvingGridSearchCV):
    """Search over a grid by successive halving, training all candidates of a rung at once.

    Same parameters, results and rungs as ``HalvingGridSearchCV``: all candidates start with a small
    amount of a resource, the better ones continue with more of it, and so on [1]_. Networks of this
    package are trained together as in :class:`FusedGridSearchCV`, and with ``resource="max_iter"``
    each rung continues the training of the one before.

    Parameters
    ----------
    estimator : estimator
        A network of this package, a pipeline or ``TransformedTargetRegressor`` around one, or
        any other estimator, which is fitted as scikit-learn would.

    param_grid : dict or list of dict
        Values to try for each parameter except the resource, by name.

    factor : float, default=3
        One candidate in ``factor`` goes on to the next rung, where it gets ``factor`` times as much
        of the resource.

    resource : str, default='n_samples'
        The quantity that grows from rung to rung: the number of rows, or a parameter of the
        estimator. Prefer "max_iter" (in a pipeline "step__max_iter"), with which candidates
        continue their training: see Notes.

    max_resources : int, default='auto'
        Largest amount of the resource for a candidate. "auto" is all rows; give a number for any
        other resource.

    min_resources : {'exhaust', 'smallest'} or int, default='exhaust'
        How much of the resource each candidate gets in the first rung. "exhaust" makes the last
        rung use ``max_resources``; "smallest" is 1, or for rows a few for each split and class.

    aggressive_elimination : bool, default=False
        If the resource does not allow enough rungs to get down to ``factor`` candidates, repeat the
        first rung until few enough are left.

    cv : int, splitter or iterable, default=5
        How to split. The splits must be the same each time: pass an integer, or a splitter whose
        ``random_state`` is an integer.

    scoring : str or callable, default=None
        How to score: the name of a scorer, or a function of (estimator, X, y). None is the
        estimator's own ``score``.

    refit : bool or callable, default=True
        Fit the best candidate of the last rung to all data afterwards.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" ends the search with its error.

    return_train_score : bool, default=True
        Score the training rows too. It takes time and shows how much a candidate overfits.

    random_state : int or RandomState, default=None
        Draws the rows of each rung if they are the resource. An integer gives the same draws each
        time.

    n_jobs : int, default=None
        Processes over which the stacks are spread, through joblib; -1 for one per core. None
        is one, unless a joblib context says otherwise.

    verbose : int, default=0
        1 prints the rungs, 2 each fit with its time, 3 with its scores too.

    max_stack_memory : int, default=None
        Largest size of a stack in bytes, as in :class:`FusedGridSearchCV`.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in scikit-learn, one row for each candidate and rung, with "iter" and "n_resources".
        "mean_fit_time" is the candidate's share of the time in that rung.

    n_resources_ : list of int
        How much of the resource each candidate got, by rung.

    n_candidates_ : list of int
        How many candidates there were, by rung.

    n_remaining_candidates_ : int
        How many are left after the last rung.

    min_resources_, max_resources_ : int
        How much of the resource candidates get at first, and at most.

    n_iterations_ : int
        Number of rungs.

    n_possible_iterations_ : int
        How many rungs the resource would allow.

    n_required_iterations_ : int
        How many rungs it takes to get down to fewer than ``factor`` candidates.

    best_estimator_ : estimator
        The best candidate of the last rung, fitted to all data, if ``refit``.

    best_score_ : float
        Its mean score over the splits.

    best_params_ : dict
        Its parameters.

    best_index_ : int
        Its row in ``cv_results_``.

    scorer_ : callable
        The scorer.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds that the final fit took.

    multimetric_ : bool
        False: a single score decides which candidates continue.

    classes_ : ndarray of shape (n_classes,)
        The class labels, for a classifier, if ``refit``.

    n_features_in_ : int
        Number of features seen during ``fit``, if ``refit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings, if ``refit``.

    fused_ : ndarray of bool, shape (n_rows_of_cv_results, n_splits)
        Which fits were made in a stack of several.

    not_fused_reasons_ : ndarray of str, shape (n_rows_of_cv_results, n_splits)
        Why a fit was not made in a stack; empty if it was.

    See Also
    --------
    FusedHalvingRandomSearchCV : Draws candidates instead of trying all.
    FusedGridSearchCV : Trains every candidate to the end.

    Notes
    -----
    With ``resource="max_iter"``, a network that survives a rung continues from its weights, the
    states of the optimiser and of the stopping rule, and the state of its random numbers at the end
    of the rung. So its scores are those of a single fit with as many epochs. Where that is
    impossible, it is trained from the start: with a schedule that depends on ``max_iter``
    (``learning_rate`` "one_cycle", "cosine", "flat_cosine" or "coslog4", or a
    ``dropout_schedule``), with L-BFGS, callbacks or several networks, without an integer
    ``random_state``, and if the steps before the network produce different data than in the
    previous rung. Suspended trainings take at most 2 GiB; the others are trained from the start.

    The notes of :class:`FusedGridSearchCV` on random numbers, times and callbacks apply here, too.

    References
    ----------
    .. [1] K. Jamieson, A. Talwalkar (2016). Non-stochastic best arm identification and
       hyperparameter optimization. AISTATS.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.preprocessing import scale
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.model_selection import FusedHalvingGridSearchCV
    >>> X, y = load_wine(return_X_y=True)
    >>> network = DeepMLPClassifier(
    ...     hidden_layer_sizes=(16,), n_iter_no_change=float("inf"), batch_size=32,
    ...     random_state=0,
    ... )
    >>> grid = {"learning_rate_init": [0.0001, 0.001, 0.003, 0.01], "alpha": [0.0001, 0.01]}
    >>> search = FusedHalvingGridSearchCV(
    ...     network, grid, resource="max_iter", max_resources=36, cv=3
    ... )
    >>> with warnings.catch_warnings(action="ignore"):  # that few epochs do not converge
    ...     search = search.fit(scale(X), y)
    >>> search.n_resources_, search.n_candidates_
    ([12, 36], [8, 3])
    >>> bool(search.best_score_ > 0.95)
    True
    """

    _parameter_constraints: dict = {
        **HalvingGridSearchCV._parameter_constraints,
        "max_stack_memory": MAX_STACK_MEMORY,
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: int | Literal["auto"] = "auto",
        min_resources: int | Literal["exhaust", "smallest"] = "exhaust",
        aggressive_elimination: bool = False,
        cv: CrossValidation | None = 5,
        scoring: Scoring | None = None,
        refit: Refit = True,
        error_score: float | Literal["raise"] = np.nan,
        return_train_score: bool = True,
        random_state: Seed | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        max_stack_memory: int | None = None,
    ):
        super().__init__(
            estimator,
            param_grid,
            factor=factor,
            resource=resource,
            max_resources=max_resources,
            min_resources=min_resources,
            aggressive_elimination=aggressive_elimination,
            cv=cv,
            scoring=scoring,
            refit=refit,
            error_score=error_score,
            return_train_score=return_train_score,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.max_stack_memory = max_stack_memory


class FusedHalvingRandomSearchCV(FusedHalvingSearch, HalvingRandomSearchCV):
    """Random search by successive halving, training all candidates of a rung at once.

    Same parameters, results and rungs as ``HalvingRandomSearchCV``: candidates are drawn and start
    with a small amount of a resource, the better ones continue with more of it, and so on. Networks
    of this package are trained together as in :class:`FusedRandomizedSearchCV`, and with
    ``resource="max_iter"`` each rung continues the training of the one before.

    Parameters
    ----------
    estimator : estimator
        A network of this package, a pipeline or ``TransformedTargetRegressor`` around one, or
        any other estimator, which is fitted as scikit-learn would.

    param_distributions : dict or list of dict
        For each parameter except the resource, by name, a list of values or a distribution with a
        method ``rvs``. From a list of dicts, one is drawn first.

    n_candidates : int, default='exhaust'
        Number of candidates to draw. "exhaust" draws enough for the last rung to use
        ``max_resources``.

    factor : float, default=3
        One candidate in ``factor`` goes on to the next rung, where it gets ``factor`` times as much
        of the resource.

    resource : str, default='n_samples'
        The quantity that grows from rung to rung: the number of rows, or a parameter of the
        estimator. Prefer "max_iter" (in a pipeline "step__max_iter"), with which candidates
        continue their training: see Notes.

    max_resources : int, default='auto'
        Largest amount of the resource for a candidate. "auto" is all rows; give a number for any
        other resource.

    min_resources : {'exhaust', 'smallest'} or int, default='smallest'
        How much of the resource each candidate gets in the first rung. "exhaust" makes the last
        rung use ``max_resources``; "smallest" is 1, or for rows a few for each split and class.

    aggressive_elimination : bool, default=False
        If the resource does not allow enough rungs to get down to ``factor`` candidates, repeat the
        first rung until few enough are left.

    cv : int, splitter or iterable, default=5
        How to split. The splits must be the same each time: pass an integer, or a splitter whose
        ``random_state`` is an integer.

    scoring : str or callable, default=None
        How to score: the name of a scorer, or a function of (estimator, X, y). None is the
        estimator's own ``score``.

    refit : bool or callable, default=True
        Fit the best candidate of the last rung to all data afterwards.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" ends the search with its error.

    return_train_score : bool, default=True
        Score the training rows too. It takes time and shows how much a candidate overfits.

    random_state : int or RandomState, default=None
        Draws the candidates, and the rows of each rung if they are the resource. An integer gives
        the same draws each time.

    n_jobs : int, default=None
        Processes over which the stacks are spread, through joblib; -1 for one per core. None
        is one, unless a joblib context says otherwise.

    verbose : int, default=0
        1 prints the rungs, 2 each fit with its time, 3 with its scores too.

    max_stack_memory : int, default=None
        Largest size of a stack in bytes, as in :class:`FusedGridSearchCV`.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in scikit-learn, one row for each candidate and rung, with "iter" and "n_resources".
        "mean_fit_time" is the candidate's share of the time in that rung.

    n_resources_ : list of int
        How much of the resource each candidate got, by rung.

    n_candidates_ : list of int
        How many candidates there were, by rung.

    n_remaining_candidates_ : int
        How many are left after the last rung.

    min_resources_, max_resources_ : int
        How much of the resource candidates get at first, and at most.

    n_iterations_ : int
        Number of rungs.

    n_possible_iterations_ : int
        How many rungs the resource would allow.

    n_required_iterations_ : int
        How many rungs it takes to get down to fewer than ``factor`` candidates.

    best_estimator_ : estimator
        The best candidate of the last rung, fitted to all data, if ``refit``.

    best_score_ : float
        Its mean score over the splits.

    best_params_ : dict
        Its parameters.

    best_index_ : int
        Its row in ``cv_results_``.

    scorer_ : callable
        The scorer.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds that the final fit took.

    multimetric_ : bool
        False: a single score decides which candidates continue.

    classes_ : ndarray of shape (n_classes,)
        The class labels, for a classifier, if ``refit``.

    n_features_in_ : int
        Number of features seen during ``fit``, if ``refit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings, if ``refit``.

    fused_ : ndarray of bool, shape (n_rows_of_cv_results, n_splits)
        Which fits were made in a stack of several.

    not_fused_reasons_ : ndarray of str, shape (n_rows_of_cv_results, n_splits)
        Why a fit was not made in a stack; empty if it was.

    See Also
    --------
    FusedHalvingGridSearchCV : Tries all candidates of a grid.
    FusedRandomizedSearchCV : Trains every candidate to the end.

    Notes
    -----
    The notes of :class:`FusedHalvingGridSearchCV` on resumed trainings, random numbers, times and
    callbacks apply here, too.

    Examples
    --------
    >>> import warnings
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.model_selection import FusedHalvingRandomSearchCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = DeepMLPRegressor(
    ...     hidden_layer_sizes=(16,), n_iter_no_change=float("inf"), batch_size=32,
    ...     random_state=0,
    ... )
    >>> search = FusedHalvingRandomSearchCV(
    ...     network, {"learning_rate_init": loguniform(1e-4, 1e-1), "alpha": [0.001, 0.1]},
    ...     resource="max_iter", min_resources=4, max_resources=36, cv=3, random_state=0,
    ... )
    >>> with warnings.catch_warnings(action="ignore"):  # that few epochs do not converge
    ...     search = search.fit(scale(X), scale(y))
    >>> search.n_resources_, search.n_candidates_
    ([4, 12, 36], [9, 3, 1])
    >>> bool(search.best_score_ > 0.4)
    True
    """

    _parameter_constraints: dict = {
        **HalvingRandomSearchCV._parameter_constraints,
        "max_stack_memory": MAX_STACK_MEMORY,
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        param_distributions: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        n_candidates: int | Literal["exhaust"] = "exhaust",
        factor: float = 3,
        resource: str = "n_samples",
        max_resources: int | Literal["auto"] = "auto",
        min_resources: int | Literal["exhaust", "smallest"] = "smallest",
        aggressive_elimination: bool = False,
        cv: CrossValidation | None = 5,
        scoring: Scoring | None = None,
        refit: Refit = True,
        error_score: float | Literal["raise"] = np.nan,
        return_train_score: bool = True,
        random_state: Seed | None = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        max_stack_memory: int | None = None,
    ):
        super().__init__(
            estimator,
            param_distributions,
            n_candidates=n_candidates,
            factor=factor,
            resource=resource,
            max_resources=max_resources,
            min_resources=min_resources,
            aggressive_elimination=aggressive_elimination,
            cv=cv,
            scoring=scoring,
            refit=refit,
            error_score=error_score,
            return_train_score=return_train_score,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.max_stack_memory = max_stack_memory

    def __getstate__(self) -> dict[str, Any]:
        return named_distributions(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(with_distributions(state))
