"""Cross-validation of networks that are trained as one stack."""

from numbers import Integral, Real
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.parallel import Parallel

from sknn_deep._estimators.types import CrossValidation, MatrixLike, Splitter
from sknn_deep._sklearn import (
    HasMethods,
    StrOptions,
    aggregate_score_dicts,
    check_groups_routing_disabled,
    manual_routing,
    normalize_score_results,
    routing_enabled,
    validate_params,
)
from sknn_deep.model_selection._course import MAX_STACK_MEMORY, SearchScoring, check_failures
from sknn_deep.model_selection._evaluation import Settings, evaluate
from sknn_deep.model_selection._trials import make_splits, make_trials


class _Options(TypedDict, total=False):
    """The parameters that do not change what ``cross_validate`` returns."""

    groups: "ArrayLike | None"
    scoring: SearchScoring | None
    cv: CrossValidation | None
    n_jobs: int | None
    verbose: int
    params: dict[str, Any] | None
    pre_dispatch: int | str
    return_train_score: bool
    error_score: float | Literal["raise"]
    max_stack_memory: int | None


@overload
def cross_validate(
    estimator: BaseEstimator,
    X: "MatrixLike",
    y: "ArrayLike | None" = None,
    *,
    return_estimator: Literal[False] = False,
    return_indices: Literal[False] = False,
    **options: Unpack[_Options],
) -> dict[str, np.ndarray]: ...


@overload
def cross_validate(
    estimator: BaseEstimator,
    X: "MatrixLike",
    y: "ArrayLike | None" = None,
    *,
    return_estimator: bool = False,
    return_indices: bool = False,
    **options: Unpack[_Options],
) -> dict[str, Any]: ...


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
        "max_stack_memory": MAX_STACK_MEMORY,
    },
    prefer_skip_nested_validation=False,  # the estimator's own parameters still need validation
)
def cross_validate(
    estimator: BaseEstimator,
    X: "MatrixLike",
    y: "ArrayLike | None" = None,
    *,
    groups: "ArrayLike | None" = None,
    scoring: SearchScoring | None = None,
    cv: CrossValidation | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    params: dict[str, Any] | None = None,
    pre_dispatch: int | str = "2*n_jobs",
    return_train_score: bool = False,
    return_estimator: bool = False,
    return_indices: bool = False,
    error_score: float | Literal["raise"] = np.nan,
    max_stack_memory: int | None = None,
) -> dict[str, Any]:
    """Cross-validate a network, training all folds at once.

    Same parameters and results as ``sklearn.model_selection.cross_validate``.

    Parameters
    ----------
    estimator : estimator
        A network of this package, or a pipeline or a ``TransformedTargetRegressor`` around one.
        Any other estimator is fitted fold by fold, as scikit-learn does.

    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Data.

    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Labels or targets; None for an autoencoder.

    groups : array-like of shape (n_samples,), default=None
        Groups that the splitter keeps together. With metadata routing, pass them in ``params``.

    scoring : str, callable, list, tuple or dict, default=None
        How to score; None is the estimator's own ``score``.

    cv : int, splitter or iterable, default=None
        How to split; None is five folds, stratified for classifiers.

    n_jobs : int, default=None
        Processes over which the folds are spread. With one process, all folds are trained together.

    verbose : int, default=0
        2 prints each fit with its time, 3 with its scores too.

    params : dict, default=None
        Passed on to the ``fit`` of the estimator and, with metadata routing, to the scorer
        and the splitter. Arrays with as many rows as X are cut into folds.

    pre_dispatch : int or str, default='2*n_jobs'
        How many tasks joblib dispatches in advance.

    return_train_score : bool, default=False
        Score the training rows too.

    return_estimator : bool, default=False
        Return the fitted estimators.

    return_indices : bool, default=False
        Return the rows of each split.

    error_score : "raise" or number, default=np.nan
        The score of a fit that fails; "raise" raises its error.

    max_stack_memory : int, default=None
        Largest size of a stack in bytes; networks that do not fit are trained in several stacks.
        None is half of a GPU's free memory. On a CPU, stacks are always limited to the size of the
        cache, a few mebibytes. Lower it if memory runs out.

    Returns
    -------
    scores : dict of str to array of shape (n_splits,)
        "test_score", or "test_<name>" for each of several scores; "fit_time", the fold's share of
        the time, and "score_time"; on request "train_score", "estimator" and "indices".

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.preprocessing import scale
    >>> from sknn_deep import DeepMLPRegressor
    >>> from sknn_deep.model_selection import cross_validate
    >>> X, y = load_diabetes(return_X_y=True)
    >>> network = DeepMLPRegressor(
    ...     hidden_layer_sizes=(16,), learning_rate="one_cycle", max_iter=20, random_state=0
    ... )
    >>> cross_validate(network, scale(X), scale(y), scoring="r2", cv=4)["test_score"].shape
    (4,)
    """
    check_groups_routing_disabled(groups)
    X, y = indexable(X, y)
    splitter: Splitter = check_cv(cv, y, classifier=is_classifier(estimator))
    scorers = check_scoring(estimator, scoring=scoring, raise_exc=(error_score == "raise"))
    routed = _route(estimator, splitter, scorers, groups, params or {})
    folds = list(splitter.split(X, y, **routed.splitter.split))
    splits = make_splits(X, folds, routed.estimator.fit, routed.scorer.score)
    trials = make_trials(estimator, [None], splits, verbose, [])
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
    check_failures(out, scoring, error_score)
    return _by_fold(aggregate_score_dicts(out), folds if return_indices else None)


def _route(
    estimator: BaseEstimator, splitter: Splitter, scorers: Any, groups: Any, params: dict[str, Any]
) -> Bunch:
    """Return the parameters routed to ``fit``, to the splitter and to the scorer."""
    if not routing_enabled():
        return manual_routing(
            {"splitter": {"split": {"groups": groups}}, "estimator": {"fit": params}, "scorer": {}}
        )
    router = MetadataRouter(owner="cross_validate")
    for name, consumer, method in (
        ("splitter", splitter, "split"),
        ("estimator", estimator, "fit"),
        ("scorer", scorers, "score"),
    ):
        mapping = MethodMapping().add(caller="fit", callee=method)
        router.add(method_mapping=mapping, **{name: consumer})
    try:
        return process_routing(router, "fit", **params)
    except UnsetMetadataPassedError as error:
        raise UnsetMetadataPassedError(
            # the user did not call a method named fit
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
