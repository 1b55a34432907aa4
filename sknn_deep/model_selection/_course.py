"""The steps of a fused search: scikit-learn's, except for how the fits are made.

``BaseSearchCV.fit`` calls joblib with one task per candidate and fold, so ``fit`` is reimplemented
here. Candidates, the format of results, the choice of the best and metadata routing are inherited.
The work of scikit-learn's ``_fit_and_score`` is done in stages: the steps before the networks
(``_pipelines.py``), the networks, the scores (``_evaluation.py``). The engine that trains jobs
knows nothing of candidates and scores.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from numbers import Integral
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, indexable
from sklearn.utils.parallel import Parallel

from sknn_deep._estimators.jobs import FASTER_ALONE
from sknn_deep._estimators.types import MatrixLike, Splitter
from sknn_deep._sklearn import (
    BaseSearchCV,
    Interval,
    MultimetricScorer,
    check_method_params,
    fit_context,
    insert_error_scores,
    warn_or_raise_about_fit_failures,
)
from sknn_deep._user_warnings import warn_user, warned_once
from sknn_deep.model_selection._evaluation import Settings, evaluate
from sknn_deep.model_selection._routes import holds_network, settings
from sknn_deep.model_selection._trials import Split, Standing, Trial, make_splits, make_trials

# The values that ``max_stack_memory`` may have.
MAX_STACK_MEMORY = [Interval(Integral, 1, None, closed="left"), None]

# Types of the parameters ``scoring`` and ``refit``.
SearchScoring: TypeAlias = (
    str | Callable[..., Any] | Sequence[str] | Mapping[str, str | Callable[..., Any]]
)
Scoring: TypeAlias = str | Callable[..., Any]
Refit: TypeAlias = bool | str | Callable[[dict[str, Any]], int]


class FusedSearch(BaseSearchCV):
    """Mixin of a search whose fits are made together; precedes scikit-learn's class."""

    max_stack_memory: int | None

    cv_results_: dict[str, Any]
    best_estimator_: Any
    best_score_: float
    best_params_: dict[str, Any]
    best_index_: int
    scorer_: Any
    n_splits_: int
    refit_time_: float
    multimetric_: bool
    feature_names_in_: np.ndarray
    fused_: np.ndarray
    not_fused_reasons_: np.ndarray

    @fit_context(prefer_skip_nested_validation=False)
    @warned_once()
    def fit(self, X: "MatrixLike", y: "ArrayLike | None" = None, **params: Any) -> Self:
        """Search: fit and score every candidate on every split, then refit the best.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; None for an autoencoder.

        **params : dict
            Passed on to the ``fit`` of the estimator, to the scorer and to the splitter, as
            in scikit-learn's searches: ``groups``, ``sample_weight``, and with metadata routing
            anything they request. Arrays with as many rows as X are cut into folds.

        Returns
        -------
        self : estimator
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
        candidates = Candidates(self, X, y, routed, scorers)
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
        self._tell_where_nothing_was_fused()
        return self

    def _tell_where_nothing_was_fused(self) -> None:
        """Warn if no fit was fused, so that the search was no faster than scikit-learn's."""
        reasons = dict.fromkeys(self.not_fused_reasons_.flat)
        if self.fused_.any() or self.fused_.size == 1 or FASTER_ALONE in reasons:
            return
        values = [value for params in self.cv_results_["params"] for value in params.values()]
        if not any(map(holds_network, [self.estimator, *values])):
            return  # other estimators are never expected to be fused
        warn_user(
            "No fits could be trained together, so the search was no faster than scikit-learn's: "
            f"{'; '.join(reasons)}. not_fused_reasons_ gives the reason for each fit."
        )

    def score(self, X: "MatrixLike", y: "ArrayLike | None" = None, **params: Any) -> float:
        """Return the score of the best candidate, fitted to all data, on given data.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Data to score on.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; None for an autoencoder.

        **params : dict
            Passed on to the scorer.

        Returns
        -------
        score : float
            By the metric named by ``refit``, if there are several.

        Raises
        ------
        ValueError
            If there are several metrics and ``refit`` is a function, so that no metric is named.
        """
        if callable(self.refit) and getattr(self, "multimetric_", False):
            names = [
                key.removeprefix("mean_test_")
                for key in self.cv_results_
                if key.startswith("mean_test_")
            ]
            one = f"search.scorer_[{names[0]!r}](search.best_estimator_, X, y)"
            if callable(self.scoring):
                one = f"search.scorer_(search.best_estimator_, X, y)[{names[0]!r}]"
            raise ValueError(
                f"refit={self.refit!r} names none of the metrics {names}, so score does not know "
                f"which to return; call {one}, or pass refit={names[0]!r}."
            )
        return super().score(X, y, **params)

    def _choose(self, candidates: "Candidates", refit_metric: str | None) -> None:
        """Set the ``best_*`` attributes, if a single metric decides."""
        first_score = candidates.out[0]["test_scores"]
        self.multimetric_ = isinstance(first_score, dict)
        if callable(self.scoring) and self.multimetric_:
            # the scores that a function returns are known only now
            self._check_refit_for_multimetric(first_score)
            refit_metric = self.refit
        if not self.refit and self.multimetric_:
            return
        results = candidates.results
        self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
        if not callable(self.refit):
            self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
        self.best_params_ = results["params"][self.best_index_]

    def _refit(self, root: Any, task: dict[str, Any], fit_params: dict[str, Any]) -> None:
        """Fit the best candidate to all data, without a stack."""
        best = clone(self.estimator).set_params(**clone(self.best_params_, safe=False))
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


class Candidates:
    """The candidates of a search, and the results so far.

    Parameters
    ----------
    search : FusedSearch
    X, y : array-like
        All data.
    routed : Bunch
        Parameters routed to ``fit``, to the splitter and to the scorer.
    scorers : callable
    """

    def __init__(self, search: FusedSearch, X: Any, y: Any, routed: Bunch, scorers: Any):
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
            resource=getattr(search, "resource", None),
        )
        self.parameters: list[dict] = []
        self.out: list[dict] = []
        self.more: dict[str, list] = defaultdict(list)
        self.results: dict[str, Any] = {}
        # suspended trainings of a halving search, by candidate and split
        self._standings: dict[tuple, Standing] = {}

    def evaluate(
        self,
        candidate_params: Iterable[dict[str, Any]],
        cv: Any = None,
        more_results: Mapping[str, list] | None = None,
        callback_ctx: Any = None,
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
        out = self._evaluate(trials, len(splits))
        if not out:
            raise ValueError(
                "No fits were performed. Was the CV iterator empty? Were there no candidates?"
            )
        check_failures(out, search.scoring, search.error_score)
        self.parameters += parameters
        self.out += out
        for key, values in (more_results or {}).items():
            self.more[key].extend(values)
        self.results = search._format_results(
            self.parameters, search.n_splits_, self.out, self.more
        )
        return self.results

    def _evaluate(self, trials: list[Trial], n_splits: int) -> list[dict]:
        """Evaluate trials; survivors of a rung of a halving search continue their training.

        A trial is identified by its split and its parameters except the resource. Parameter values
        are the same objects in every rung, and splits are the same unless rows are the resource.
        """
        keys = [
            (number % n_splits, *settings(trial.parameters, but=self.settings.resource))
            for number, trial in enumerate(trials)
        ]
        for key, trial in zip(keys, trials, strict=True):
            trial.standing = self._standings.get(key)
        self._standings = {}  # drops those of eliminated candidates
        out = evaluate(trials, self.X, self.y, self.settings, self.parallel)
        for key, result in zip(keys, out, strict=True):
            if "standing" in result:
                self._standings[key] = result.pop("standing")
        return out

    def _splits(self, cv: Splitter) -> list[Split]:
        folds = list(cv.split(self.X, self.y, **self.routed.splitter.split))
        if len(folds) != self.search.n_splits_:
            raise ValueError(
                "cv.split and cv.get_n_splits return inconsistent results. Expected "
                f"{self.search.n_splits_} splits, got {len(folds)}"
            )
        return make_splits(self.X, folds, self.routed.estimator.fit, self.routed.scorer.score)


def check_failures(out: list[dict], scoring: Any, error_score: float | str) -> None:
    """Warn of failed fits, or raise if all failed, and fill in their scores."""
    warn_or_raise_about_fit_failures(out, error_score)
    if callable(scoring):
        # the scores that a function returns are known only now
        insert_error_scores(out, error_score)
