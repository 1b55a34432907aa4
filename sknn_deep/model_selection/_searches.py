"""Hyperparameter searches that train many networks at once."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV

from sknn_deep._estimators.types import CrossValidation, Seed
from sknn_deep.model_selection._course import MAX_STACK_MEMORY, FusedSearch, Refit, SearchScoring
from sknn_deep.model_selection._distributions import named_distributions, with_distributions


class FusedGridSearchCV(FusedSearch, GridSearchCV):
    """Exhaustive search over a grid, training all candidates and folds at once.

    Same parameters, results and attributes as ``GridSearchCV``, for networks of this package, alone
    or in a pipeline. The networks of all candidates and folds that share a shape are trained as one
    stack, which takes less time than training one after the other; the steps before them in a
    pipeline are fitted once for each fold and setting.

    Parameters
    ----------
    estimator : estimator
        A :class:`~sknn_deep.DeepMLPClassifier`, :class:`~sknn_deep.DeepMLPRegressor` or
        :class:`~sknn_deep.AutoencoderTransformer`, a pipeline with one as a step, or a
        ``TransformedTargetRegressor`` around one. Any other estimator is fitted as scikit-learn
        would, and ``not_fused_reasons_`` says so.

    param_grid : dict or list of dict
        Values to try for each parameter, by its name; the keys of a pipeline are written
        ``step__parameter``. Each dict of a list is a grid of its own.

    scoring : str, callable, list, tuple or dict, default=None
        How to score: the name of a scorer, a function of (estimator, X, y), or several of them.
        None is the estimator's own ``score``.

    n_jobs : int, default=None
        Processes over which the stacks are spread, through joblib; -1 for one per core. None
        is one, unless a joblib context says otherwise. With few candidates, or on a GPU, one is
        best: a process trains all its networks together.

    refit : bool, str or callable, default=True
        Fit the best candidate to all data afterwards. With several scores, the name of the
        one that decides, or a function that finds the best index in ``cv_results_``.

    cv : int, splitter or iterable, default=None
        How to split: a number of folds, stratified for classifiers, or anything that yields
        pairs of training and test rows. None is five folds.

    verbose : int, default=0
        1 prints the number of fits, 2 each fit with its time, 3 with its scores too, 10 also
        when a fit begins. The fits of a stack begin and end together.

    pre_dispatch : int or str, default='2*n_jobs'
        How many tasks joblib dispatches in advance.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" ends the search with its error.

    return_train_score : bool, default=False
        Score the training rows too. It takes time and shows how much a candidate overfits.

    max_stack_memory : int, default=None
        Largest size of a stack in bytes; networks that do not fit are trained in several stacks.
        None is half of a GPU's free memory. On a CPU, stacks are always limited to the size of the
        cache, a few mebibytes. Lower it if memory runs out.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in ``GridSearchCV``, one row per candidate. "mean_fit_time" is the candidate's share of
        the time: see Notes.

    best_estimator_ : estimator
        The best candidate, fitted to all data, if ``refit``.

    best_score_ : float
        Its mean score over the splits.

    best_params_ : dict
        Its parameters.

    best_index_ : int
        Its row in ``cv_results_``.

    scorer_ : callable or dict
        The scorer, or several by name.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds that the final fit took.

    multimetric_ : bool
        Whether there are several scores.

    classes_ : ndarray of shape (n_classes,)
        The class labels, for a classifier, if ``refit``.

    n_features_in_ : int
        Number of features seen during ``fit``, if ``refit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings, if ``refit``.

    fused_ : ndarray of bool, shape (n_candidates, n_splits)
        Which fits were made in a stack of several.

    not_fused_reasons_ : ndarray of str, shape (n_candidates, n_splits)
        Why a fit was not made in a stack; empty if it was.

    See Also
    --------
    FusedRandomizedSearchCV : Draws candidates instead of trying all.
    FusedHalvingGridSearchCV : Trains only the better candidates to the end.
    cross_validate : One candidate, all folds at once.

    Notes
    -----
    With an integer ``random_state``, a network in a stack follows the same trajectory as alone, up
    to rounding. With ``random_state=None`` every fit draws its own numbers in both cases; a
    transformer with ``random_state=None`` draws once for all candidates that share it.

    Times add up to the time spent: the time of a stack is divided among its fits, and the time of a
    shared step among the candidates that share it.

    scikit-learn's callbacks registered on the search are notified of each fit, but are not passed
    on to the networks of a stack. A network with its own callbacks is fitted alone.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.model_selection import FusedGridSearchCV
    >>> X, y = load_wine(return_X_y=True)
    >>> network = DeepMLPClassifier(
    ...     hidden_layer_sizes=(16,), learning_rate="one_cycle", max_iter=20, batch_size=32,
    ...     random_state=0,
    ... )
    >>> grid = {
    ...     "deepmlpclassifier__learning_rate_init": [0.0001, 0.003, 0.03],
    ...     "deepmlpclassifier__alpha": [0.0001, 0.01],
    ... }
    >>> search = FusedGridSearchCV(make_pipeline(StandardScaler(), network), grid, cv=3)
    >>> bool(search.fit(X, y).best_score_ > 0.95)
    True
    >>> search.best_params_["deepmlpclassifier__learning_rate_init"] > 0.0001
    True
    """

    _parameter_constraints: dict = {
        **GridSearchCV._parameter_constraints,
        "max_stack_memory": MAX_STACK_MEMORY,
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        scoring: SearchScoring | None = None,
        n_jobs: int | None = None,
        refit: Refit = True,
        cv: CrossValidation | None = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: float | Literal["raise"] = np.nan,
        return_train_score: bool = False,
        max_stack_memory: int | None = None,
    ):
        super().__init__(
            estimator,
            param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.max_stack_memory = max_stack_memory


class FusedRandomizedSearchCV(FusedSearch, RandomizedSearchCV):
    """Random search over distributions, training all candidates and folds at once.

    Same parameters, results and attributes as ``RandomizedSearchCV``, for networks of this package,
    alone or in a pipeline. The networks of all candidates and folds that share a shape are trained
    as one stack: draw sizes of layers from short lists, and learning rates and penalties from
    distributions.

    Parameters
    ----------
    estimator : estimator
        A :class:`~sknn_deep.DeepMLPClassifier`, :class:`~sknn_deep.DeepMLPRegressor` or
        :class:`~sknn_deep.AutoencoderTransformer`, a pipeline with one as a step, or a
        ``TransformedTargetRegressor`` around one. Any other estimator is fitted as scikit-learn
        would, and ``not_fused_reasons_`` says so.

    param_distributions : dict or list of dict
        For each parameter, by its name, a list of values or a distribution with a method
        ``rvs``, such as ``scipy.stats.loguniform``; the keys of a pipeline are written
        ``step__parameter``. From a list of dicts, one is drawn first.

    n_iter : int, default=10
        Number of candidates to draw.

    scoring : str, callable, list, tuple or dict, default=None
        How to score: the name of a scorer, a function of (estimator, X, y), or several of them.
        None is the estimator's own ``score``.

    n_jobs : int, default=None
        Processes over which the stacks are spread, through joblib; -1 for one per core. None
        is one, unless a joblib context says otherwise. With few candidates, or on a GPU, one is
        best: a process trains all its networks together.

    refit : bool, str or callable, default=True
        Fit the best candidate to all data afterwards. With several scores, the name of the
        one that decides, or a function that finds the best index in ``cv_results_``.

    cv : int, splitter or iterable, default=None
        How to split: a number of folds, stratified for classifiers, or anything that yields
        pairs of training and test rows. None is five folds.

    verbose : int, default=0
        1 prints the number of fits, 2 each fit with its time, 3 with its scores too, 10 also
        when a fit begins. The fits of a stack begin and end together.

    pre_dispatch : int or str, default='2*n_jobs'
        How many tasks joblib dispatches in advance.

    random_state : int or RandomState, default=None
        Draws the candidates. An integer gives the same draws each time.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" ends the search with its error.

    return_train_score : bool, default=False
        Score the training rows too. It takes time and shows how much a candidate overfits.

    max_stack_memory : int, default=None
        Largest size of a stack in bytes; networks that do not fit are trained in several stacks.
        None is half of a GPU's free memory. On a CPU, stacks are always limited to the size of the
        cache, a few mebibytes. Lower it if memory runs out.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in ``RandomizedSearchCV``, one row per candidate. "mean_fit_time" is the candidate's
        share of the time: see Notes.

    best_estimator_ : estimator
        The best candidate, fitted to all data, if ``refit``.

    best_score_ : float
        Its mean score over the splits.

    best_params_ : dict
        Its parameters.

    best_index_ : int
        Its row in ``cv_results_``.

    scorer_ : callable or dict
        The scorer, or several by name.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds that the final fit took.

    multimetric_ : bool
        Whether there are several scores.

    classes_ : ndarray of shape (n_classes,)
        The class labels, for a classifier, if ``refit``.

    n_features_in_ : int
        Number of features seen during ``fit``, if ``refit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings, if ``refit``.

    fused_ : ndarray of bool, shape (n_candidates, n_splits)
        Which fits were made in a stack of several.

    not_fused_reasons_ : ndarray of str, shape (n_candidates, n_splits)
        Why a fit was not made in a stack; empty if it was.

    See Also
    --------
    FusedGridSearchCV : Tries all candidates of a grid.
    FusedHalvingRandomSearchCV : Trains only the better candidates to the end.
    cross_validate : One candidate, all folds at once.

    Notes
    -----
    The notes of :class:`FusedGridSearchCV` on random numbers, times and callbacks apply here, too.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.model_selection import FusedRandomizedSearchCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = DeepMLPRegressor(
    ...     hidden_layer_sizes=(16,), learning_rate="one_cycle", max_iter=10, batch_size=32,
    ...     random_state=0,
    ... )
    >>> candidates = {"learning_rate_init": loguniform(1e-4, 1e-1), "alpha": [0.001, 0.1]}
    >>> search = FusedRandomizedSearchCV(network, candidates, n_iter=6, cv=3, random_state=0)
    >>> bool(search.fit(scale(X), scale(y)).best_score_ > 0.4)
    True
    >>> search.cv_results_["mean_test_score"].shape
    (6,)
    """

    _parameter_constraints: dict = {
        **RandomizedSearchCV._parameter_constraints,
        "max_stack_memory": MAX_STACK_MEMORY,
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        param_distributions: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        n_iter: int = 10,
        scoring: SearchScoring | None = None,
        n_jobs: int | None = None,
        refit: Refit = True,
        cv: CrossValidation | None = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        random_state: Seed | None = None,
        error_score: float | Literal["raise"] = np.nan,
        return_train_score: bool = False,
        max_stack_memory: int | None = None,
    ):
        super().__init__(
            estimator,
            param_distributions,
            n_iter=n_iter,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            random_state=random_state,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.max_stack_memory = max_stack_memory

    def __getstate__(self) -> dict[str, Any]:
        return named_distributions(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(with_distributions(state))
