"""Searches and cross-validation that train all candidates and folds at once.

The classes and the function take the place of those of ``sklearn.model_selection`` with the
same names but for the prefix: the same parameters, the same results, in less time.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from inspect import signature
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, check_cv
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.parallel import Parallel

from sknn_deep._evaluation import Settings, evaluate
from sknn_deep._trials import check_for_networks, make_splits, make_trials
from sknn_deep._validation import (
    HasMethods,
    Interval,
    MultimetricScorer,
    StrOptions,
    aggregate_score_dicts,
    check_groups_routing_disabled,
    check_method_params,
    fit_context,
    insert_error_scores,
    manual_routing,
    normalize_score_results,
    routing_enabled,
    validate_params,
    warn_or_raise_about_fit_failures,
)

__all__ = ["FusedGridSearchCV", "FusedRandomizedSearchCV", "cross_validate"]

_MAX_STACK_MEMORY = [Interval(Integral, 1, None, closed="left"), None]


class _FusedSearch:
    """The course of a search whose fits are made together; put before scikit-learn's class."""

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, **params):
        """Search: fit and score every candidate on every split, then refit the best.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; None for an autoencoder.

        **params : dict
            Passed on to the ``fit`` of the estimator, to the scorer and to the splitter, as
            in scikit-learn's searches: ``groups``, ``sample_weight``, and with metadata
            routing whatever they request. Arrays with as many rows as X are cut into folds.

        Returns
        -------
        self : object

        Raises
        ------
        TypeError
            If there is no network of this package among the candidates.
        """
        scorers, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = check_method_params(X, params)
        routed = self._get_routed_params_for_fit(params)
        weight = params.get("sample_weight")
        metadata = None if weight is None else {"sample_weight": weight}
        task = {"estimator": self, "X": X, "y": y, "metadata": metadata}
        root = self._init_callback_context(max_subtasks=1 + (self.refit is not False))
        root.call_on_fit_task_begin(**task)

        self._checked_cv_orig = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        split_params = routed.splitter.split
        self._check_input_parameters(X=X, y=y, split_params=split_params)
        self.n_splits_ = self._checked_cv_orig.get_n_splits(X, y, **split_params)
        candidates = _Candidates(self, X, y, routed, scorers)
        with candidates.parallel:
            if "callback_ctx" in signature(self._run_search).parameters:
                self._run_search(candidates.evaluate, callback_ctx=root)
            else:
                self._run_search(candidates.evaluate)

        self._choose(candidates, refit_metric)
        if self.refit:
            self._refit(root, task, routed.estimator.fit)
        multimetric = isinstance(scorers, MultimetricScorer)
        self.scorer_ = scorers._scorers if multimetric else scorers
        self.cv_results_ = candidates.results
        shape = (len(candidates.parameters), self.n_splits_)
        self.fused_ = np.reshape([out["fused"] for out in candidates.out], shape)
        self.not_fused_reasons_ = np.reshape([out["reason"] for out in candidates.out], shape)
        root.call_on_fit_task_end(**task)
        return self

    def _choose(self, candidates: "_Candidates", refit_metric: str | None) -> None:
        """Set what is best, where one metric decides."""
        first_score = candidates.out[0]["test_scores"]
        self.multimetric_ = isinstance(first_score, dict)
        if callable(self.scoring) and self.multimetric_:
            # only now is it known which scores a function returns
            self._check_refit_for_multimetric(first_score)
            refit_metric = self.refit
        if not self.refit and self.multimetric_:
            return
        results = candidates.results
        self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
        if not callable(self.refit):
            self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
        self.best_params_ = results["params"][self.best_index_]

    def _refit(self, root, task: dict[str, Any], fit_params: dict[str, Any]) -> None:
        """Fit the best candidate to all data, by itself."""
        best = clone(clone(self.estimator)).set_params(**clone(self.best_params_, safe=False))
        self.best_estimator_ = best
        context = root.subcontext(task_name="refit-with-best-params")
        data = (task["X"],) if task["y"] is None else (task["X"], task["y"])
        with context.propagate_callback_context(best):
            context.call_on_fit_task_begin(**task)
            start = time.perf_counter()
            best.fit(*data, **fit_params)
            self.refit_time_ = time.perf_counter() - start
        if hasattr(best, "feature_names_in_"):
            self.feature_names_in_ = best.feature_names_in_
        context.call_on_fit_task_end(**task)


class _Candidates:
    """What a search hands out to be evaluated, and the results so far.

    Parameters
    ----------
    search : _FusedSearch
    X, y : array-like
        All data.
    routed : Bunch
        What goes to ``fit``, to the splitter and to the scorer.
    scorers : callable
    """

    def __init__(self, search, X, y, routed, scorers):
        self.search, self.X, self.y, self.routed = search, X, y, routed
        self.estimator = clone(search.estimator)
        self.parallel = Parallel(n_jobs=search.n_jobs, pre_dispatch=search.pre_dispatch)
        self.settings = Settings(
            scorer=scorers,
            error_score=search.error_score,
            return_train_score=search.return_train_score,
            verbose=search.verbose,
            max_stack_memory=search.max_stack_memory,
            caller=search,
        )
        self.parameters: list[dict] = []
        self.out: list[dict] = []
        self.more: dict[str, list] = defaultdict(list)
        self.results: dict[str, Any] = {}

    def evaluate(
        self, candidate_params: Iterable[dict], cv=None, more_results=None, callback_ctx=None
    ) -> dict[str, Any]:
        """Evaluate candidates and return all results so far, formatted like ``cv_results_``."""
        search, parameters = self.search, list(candidate_params)
        splits = self._splits(cv or search._checked_cv_orig)
        n_trials = len(parameters) * len(splits)
        if search.verbose > 0:
            print(
                f"Fitting {len(splits)} folds for each of {len(parameters)} candidates, "
                f"totalling {n_trials} fits"
            )
        contexts = []
        if callback_ctx is not None:
            contexts = [
                callback_ctx.subcontext(task_name="candidate-split-evaluation", task_id=number)
                for number in range(n_trials)
            ]
        trials = make_trials(self.estimator, parameters, splits, search.verbose, contexts)
        check_for_networks(self.estimator, trials)
        out = evaluate(trials, self.X, self.y, self.settings, self.parallel)
        if not out:
            raise ValueError(
                "No fits were performed: there were "
                f"{len(parameters)} candidates and {len(splits)} splits."
            )
        _check_failures(out, search.scoring, search.error_score)
        self.parameters += parameters
        self.out += out
        for key, values in (more_results or {}).items():
            self.more[key].extend(values)
        self.results = search._format_results(
            self.parameters, search.n_splits_, self.out, self.more
        )
        return self.results

    def _splits(self, cv) -> list:
        folds = list(cv.split(self.X, self.y, **self.routed.splitter.split))
        if len(folds) != self.search.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{self.search.n_splits_} splits, got {len(folds)}"
            )
        return make_splits(self.X, folds, self.routed.estimator.fit, self.routed.scorer.score)


def _check_failures(out: list[dict], scoring, error_score) -> None:
    """Warn of fits that failed, or raise where all did, and complete their scores."""
    warn_or_raise_about_fit_failures(out, error_score)
    if callable(scoring):
        # only now is it known which scores a function returns
        insert_error_scores(out, error_score)


class FusedGridSearchCV(_FusedSearch, GridSearchCV):
    """Exhaustive search over a grid, all candidates and folds trained at once.

    ``GridSearchCV`` with the same parameters, results and attributes, for estimators that
    are, or end in, a network of this package. The networks of all candidates and folds that
    share a shape are trained as one stack, which takes less time than one after the other;
    the steps before them in a pipeline are fitted once for each fold and setting of theirs.

    Parameters
    ----------
    estimator : estimator
        A :class:`~sknn_deep.DeepMLPClassifier`, :class:`~sknn_deep.DeepMLPRegressor` or
        :class:`~sknn_deep.AutoencoderTransformer`, or a pipeline that ends in one. Other
        estimators that hold one are searched too, fit by fit.

    param_grid : dict or list of dict
        Values to try for each parameter, by its name; the keys of a pipeline are written
        ``step__parameter``. Each dict of a list is a grid of its own.

    scoring : str, callable, list, tuple or dict, default=None
        What to judge by: the name of a scorer, a function of (estimator, X, y), or several
        of them. None is the estimator's own ``score``.

    n_jobs : int, default=None
        Processes over which the stacks are spread, through joblib; -1 for one per core. None
        is one, unless a joblib context says otherwise. With few candidates, or on a GPU, one
        is best: what one process trains, it trains together.

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
        How many tasks joblib hands out ahead.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" ends the search with its error.

    return_train_score : bool, default=False
        Score the training rows too. It takes time and shows how much a candidate overfits.

    max_stack_memory : int, default=None
        Bytes that a stack in training may take; what does not fit is trained in several
        stacks. None is a share of the memory that the device has. Lower it when memory runs
        out.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in ``GridSearchCV``, one row a candidate. "mean_fit_time" is the candidate's share
        of the time: see Notes.

    best_estimator_ : estimator
        The best candidate, fitted to all data, if ``refit``.

    best_score_ : float
        Its mean score over the splits.

    best_params_ : dict
        Its parameters.

    best_index_ : int
        Its row in ``cv_results_``.

    scorer_ : callable or dict
        What judged.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds of the last fit.

    multimetric_ : bool
        Whether there are several scores.

    classes_ : ndarray of shape (n_classes,)
        The labels, of a classifier, if ``refit``.

    n_features_in_ : int
        Number of features seen during ``fit``, if ``refit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings, if ``refit``.

    fused_ : ndarray of bool, shape (n_candidates, n_splits)
        Which fits were made in a stack of several.

    not_fused_reasons_ : ndarray of str, shape (n_candidates, n_splits)
        Why a fit was not made in a stack; empty where it was.

    See Also
    --------
    FusedRandomizedSearchCV : Draws candidates instead of trying all.
    cross_validate : One candidate, all folds at once.

    Notes
    -----
    With an integer ``random_state``, a network in a stack follows the trajectory that it
    follows alone, to rounding. With ``random_state=None`` every fit draws its own numbers,
    here as there; a transformer that does so draws once for all candidates that share it.

    Times add up to what was spent: a stack's time is divided among its fits, the time of a
    shared step among the candidates that share it.

    scikit-learn's callbacks that are registered on the search hear of each fit, but are not
    handed on to the networks of a stack. A network with callbacks of its own is fitted alone.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sknn_deep import DeepMLPClassifier
    >>> from sknn_deep.model_selection import FusedGridSearchCV
    >>> X, y = load_wine(return_X_y=True)
    >>> network = DeepMLPClassifier(
    ...     (16,), learning_rate="one_cycle", max_iter=20, batch_size=32, random_state=0
    ... )
    >>> grid = {
    ...     "deepmlpclassifier__learning_rate_init": [0.0001, 0.003, 0.03],
    ...     "deepmlpclassifier__alpha": [0.0001, 0.01],
    ... }
    >>> search = FusedGridSearchCV(make_pipeline(StandardScaler(), network), grid, cv=3)
    >>> search.fit(X, y).best_score_ > 0.95
    True
    >>> search.best_params_["deepmlpclassifier__learning_rate_init"] > 0.0001
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **GridSearchCV._parameter_constraints,
        "max_stack_memory": _MAX_STACK_MEMORY,
    }

    def __init__(
        self,
        estimator,
        param_grid,
        *,
        scoring=None,
        n_jobs=None,
        refit=True,
        cv=None,
        verbose=0,
        pre_dispatch="2*n_jobs",
        error_score=np.nan,
        return_train_score=False,
        max_stack_memory=None,
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


class FusedRandomizedSearchCV(_FusedSearch, RandomizedSearchCV):
    """Random search over distributions, all candidates and folds trained at once.

    ``RandomizedSearchCV`` with the same parameters, results and attributes, for estimators
    that are, or end in, a network of this package. The networks of all candidates and folds
    that share a shape are trained as one stack: draw sizes of layers from short lists, and
    learning rates and penalties from distributions.

    Parameters
    ----------
    estimator : estimator
        A :class:`~sknn_deep.DeepMLPClassifier`, :class:`~sknn_deep.DeepMLPRegressor` or
        :class:`~sknn_deep.AutoencoderTransformer`, or a pipeline that ends in one. Other
        estimators that hold one are searched too, fit by fit.

    param_distributions : dict or list of dict
        For each parameter, by its name, a list of values or a distribution with a method
        ``rvs``, such as ``scipy.stats.loguniform``; the keys of a pipeline are written
        ``step__parameter``. From a list of dicts, one is drawn first.

    n_iter : int, default=10
        Number of candidates to draw.

    scoring : str, callable, list, tuple or dict, default=None
        What to judge by: the name of a scorer, a function of (estimator, X, y), or several
        of them. None is the estimator's own ``score``.

    n_jobs : int, default=None
        Processes over which the stacks are spread, through joblib; -1 for one per core. None
        is one, unless a joblib context says otherwise. With few candidates, or on a GPU, one
        is best: what one process trains, it trains together.

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
        How many tasks joblib hands out ahead.

    random_state : int or RandomState, default=None
        Draws the candidates. An integer draws the same each time.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" ends the search with its error.

    return_train_score : bool, default=False
        Score the training rows too. It takes time and shows how much a candidate overfits.

    max_stack_memory : int, default=None
        Bytes that a stack in training may take; what does not fit is trained in several
        stacks. None is a share of the memory that the device has. Lower it when memory runs
        out.

    Attributes
    ----------
    cv_results_ : dict of str to array
        As in ``RandomizedSearchCV``, one row a candidate. "mean_fit_time" is the candidate's share
        of the time: see Notes.

    best_estimator_ : estimator
        The best candidate, fitted to all data, if ``refit``.

    best_score_ : float
        Its mean score over the splits.

    best_params_ : dict
        Its parameters.

    best_index_ : int
        Its row in ``cv_results_``.

    scorer_ : callable or dict
        What judged.

    n_splits_ : int
        Number of splits.

    refit_time_ : float
        Seconds of the last fit.

    multimetric_ : bool
        Whether there are several scores.

    classes_ : ndarray of shape (n_classes,)
        The labels, of a classifier, if ``refit``.

    n_features_in_ : int
        Number of features seen during ``fit``, if ``refit``.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where all are strings, if ``refit``.

    fused_ : ndarray of bool, shape (n_candidates, n_splits)
        Which fits were made in a stack of several.

    not_fused_reasons_ : ndarray of str, shape (n_candidates, n_splits)
        Why a fit was not made in a stack; empty where it was.

    See Also
    --------
    FusedGridSearchCV : Tries all candidates of a grid.
    cross_validate : One candidate, all folds at once.

    Notes
    -----
    What :class:`FusedGridSearchCV` notes on random numbers, times and callbacks holds here too.

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.model_selection import FusedRandomizedSearchCV
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = DeepMLPRegressor(
    ...     (16,), learning_rate="one_cycle", max_iter=10, batch_size=32, random_state=0
    ... )
    >>> candidates = {"learning_rate_init": loguniform(1e-4, 1e-1), "alpha": [0.001, 0.1]}
    >>> search = FusedRandomizedSearchCV(network, candidates, n_iter=6, cv=3, random_state=0)
    >>> search.fit(scale(X), scale(y)).best_score_ > 0.4
    True
    >>> search.cv_results_["mean_test_score"].shape
    (6,)
    """

    _parameter_constraints: ClassVar[dict] = {
        **RandomizedSearchCV._parameter_constraints,
        "max_stack_memory": _MAX_STACK_MEMORY,
    }

    def __init__(
        self,
        estimator,
        param_distributions,
        *,
        n_iter=10,
        scoring=None,
        n_jobs=None,
        refit=True,
        cv=None,
        verbose=0,
        pre_dispatch="2*n_jobs",
        random_state=None,
        error_score=np.nan,
        return_train_score=False,
        max_stack_memory=None,
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


@validate_params(
    {
        "estimator": [HasMethods("fit")],
        "X": ["array-like", "sparse matrix"],
        "y": ["array-like", None],
        "groups": ["array-like", None],
        "scoring": [StrOptions(set(get_scorer_names())), callable, list, tuple, dict, None],
        "cv": ["cv_object"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
        "params": [dict, None],
        "pre_dispatch": [Integral, str],
        "return_train_score": ["boolean"],
        "return_estimator": ["boolean"],
        "return_indices": ["boolean"],
        "error_score": [StrOptions({"raise"}), Real],
        "max_stack_memory": _MAX_STACK_MEMORY,
    },
    prefer_skip_nested_validation=False,  # the estimator's own are still to be validated
)
def cross_validate(
    estimator,
    X,
    y=None,
    *,
    groups=None,
    scoring=None,
    cv=None,
    n_jobs=None,
    verbose=0,
    params=None,
    pre_dispatch="2*n_jobs",
    return_train_score=False,
    return_estimator=False,
    return_indices=False,
    error_score=np.nan,
    max_stack_memory=None,
) -> dict[str, Any]:
    """Cross-validate a network, all folds trained at once.

    ``sklearn.model_selection.cross_validate`` with the same parameters and results.

    Parameters
    ----------
    estimator : estimator
        A network of this package, or a pipeline that ends in one.

    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Data.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Labels or targets; None for an autoencoder.

    groups : array-like of shape (n_samples,), default=None
        What the splitter keeps together. With metadata routing, pass it in ``params``.

    scoring : str, callable, list, tuple or dict, default=None
        What to judge by; None is the estimator's own ``score``.

    cv : int, splitter or iterable, default=None
        How to split; None is five folds, stratified for classifiers.

    n_jobs : int, default=None
        Processes over which the folds are spread. They are trained together in one.

    verbose : int, default=0
        2 prints each fit with its time, 3 with its scores too.

    params : dict, default=None
        Passed on to the ``fit`` of the estimator and, with metadata routing, to the scorer
        and the splitter. Arrays with as many rows as X are cut into folds.

    pre_dispatch : int or str, default='2*n_jobs'
        How many tasks joblib hands out ahead.

    return_train_score : bool, default=False
        Score the training rows too.

    return_estimator : bool, default=False
        Return the fitted estimators.

    return_indices : bool, default=False
        Return the rows of each split.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" raises its error.

    max_stack_memory : int, default=None
        Bytes that a stack in training may take; None is a share of what the device has.

    Returns
    -------
    scores : dict of str to array of shape (n_splits,)
        "test_score", or "test_<name>" for each of several scores; "fit_time", the fold's
        share of the time, and "score_time"; as asked for "train_score", "estimator" and
        "indices".

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.model_selection import cross_validate
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = DeepMLPRegressor((16,), learning_rate="one_cycle", max_iter=20, random_state=0)
    >>> cross_validate(network, scale(X), scale(y), scoring="r2", cv=4)["test_score"].shape
    (4,)
    """
    check_groups_routing_disabled(groups)
    X, y = indexable(X, y)
    cv = check_cv(cv, y, classifier=is_classifier(estimator))
    scorers = check_scoring(estimator, scoring=scoring, raise_exc=(error_score == "raise"))
    routed = _route(estimator, cv, scorers, groups, params or {})
    folds = list(cv.split(X, y, **routed.splitter.split))
    splits = make_splits(X, folds, routed.estimator.fit, routed.scorer.score)
    trials = make_trials(estimator, [None], splits, verbose, [])
    check_for_networks(estimator, trials)
    settings = Settings(
        scorer=scorers,
        error_score=error_score,
        return_train_score=return_train_score,
        verbose=verbose,
        max_stack_memory=max_stack_memory,
        return_estimator=return_estimator,
    )
    with Parallel(n_jobs=n_jobs, verbose=verbose, pre_dispatch=pre_dispatch) as parallel:
        out = evaluate(trials, X, y, settings, parallel)
    _check_failures(out, scoring, error_score)
    return _by_fold(aggregate_score_dicts(out), folds if return_indices else None)


def _route(estimator, cv, scorers, groups, params: dict[str, Any]):
    """Return what goes to ``fit``, to the splitter and to the scorer."""
    if not routing_enabled():
        return manual_routing(
            {"splitter": {"split": {"groups": groups}}, "estimator": {"fit": params}, "scorer": {}}
        )
    router = MetadataRouter(owner="cross_validate")
    for name, consumer, method in (
        ("splitter", cv, "split"),
        ("estimator", estimator, "fit"),
        ("scorer", scorers, "score"),
    ):
        mapping = MethodMapping().add(caller="fit", callee=method)
        router.add(method_mapping=mapping, **{name: consumer})
    try:
        return process_routing(router, "fit", **params)
    except UnsetMetadataPassedError as error:
        raise UnsetMetadataPassedError(
            # nobody called a method named fit
            message=str(error).replace("cross_validate.fit", "cross_validate"),
            unrequested_params=error.unrequested_params,
            routed_params=error.routed_params,
        ) from error


def _by_fold(results: dict[str, Any], folds: list | None) -> dict[str, Any]:
    """Return results under the names that ``cross_validate`` gives them."""
    named = {"fit_time": results["fit_time"], "score_time": results["score_time"]}
    if "estimator" in results:
        named["estimator"] = results["estimator"]
    if folds is not None:
        named["indices"] = dict(zip(("train", "test"), zip(*folds, strict=True), strict=True))
    tests = normalize_score_results(results["test_scores"])
    trains = normalize_score_results(results["train_scores"]) if "train_scores" in results else {}
    for name, scores in tests.items():
        named[f"test_{name}"] = scores
        if trains:
            named[f"train_{name}"] = trains[name]
    return named
