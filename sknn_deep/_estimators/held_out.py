"""The validation set: which rows are held out, and how they are evaluated.

A set passed as ``X_val`` switches early stopping on and restores the best weights even without
``early_stopping=True``: there is no other reason to pass one. With ``n_iter_no_change=np.inf`` all
epochs are run, and the best weights are still restored.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.utils.validation import check_is_fitted
from skorch.dataset import Dataset

from sknn_deep._engine.in_parts import evaluate_loss
from sknn_deep._engine.losses import MANY_CLASSES
from sknn_deep._engine.samples import Samples, check_weight
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.held_out_rows import (
    hold_out_rows,
    hold_out_stratified,
    rows_of_splitter,
)
from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._estimators.rows import has_categories
from sknn_deep._hardware.bfloat16 import product_dtype
from sknn_deep._hardware.ranks import present_ranks
from sknn_deep._sklearn import accepts_sample_weight
from sknn_deep._training.training import Validation
from sknn_deep._user_warnings import warn_user


def split_rows(
    estimator: NetworkHooks,
    samples: Samples,
    random_state: np.random.RandomState,
    groups: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows that early stopping holds out."""
    splitter, fraction = estimator.validation_splitter, estimator.validation_fraction
    X, labels = samples.X, estimator._labels_to_share(samples.targets)
    if splitter is None:
        rows = hold_out_rows(len(X), fraction, random_state, *labels)
    elif splitter == "stratified":
        rows = hold_out_stratified(fraction, random_state, labels[0])
    else:
        rows = rows_of_splitter(splitter, X.unwrapped(), samples.y, groups, random_state)
        if labels:
            _warn_of_unseen_classes(splitter, rows[0], *labels)
    train, held_out = map(X.reading_order, rows)
    return train, held_out


def _warn_of_unseen_classes(
    splitter: Any, rows: np.ndarray, labels: np.ndarray, names: np.ndarray
) -> None:
    """Warn of classes that have no training rows left."""
    own = labels[rows]
    is_seen = own.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(len(names)), own)
    if not is_seen.all():
        warn_user(
            f"validation_splitter={splitter!r} holds out all rows of {names[~is_seen].tolist()}, "
            "which the network never sees. Shuffle the rows, choose a stratified splitter, or pass "
            "validation_splitter='stratified'."
        )


def with_validation_set(
    estimator: NetworkHooks, call: Call, random_state: np.random.RandomState
) -> Call:
    """Return a call with a validation set for several networks: the user's, or held-out rows.

    Parameters
    ----------
    estimator : estimator
        With the attributes set by data validation.
    call : Call
        With validated data.
    random_state : RandomState
    """
    if call.X_val is not None:
        return call
    X, y, targets = estimator._validate_training_data(call, [call.X.dtype.type], reset=False)
    weight = call.sample_weight
    samples = Samples(X, y, targets, weight)
    rows, held_out = split_rows(estimator, samples, random_state, call.groups)
    X_train, X_val = X.take(rows), X.take(held_out)
    X_train.columns = X_val.columns = X.columns
    weights = {}
    if weight is not None:
        weights = {"sample_weight": weight[rows], "sample_weight_val": weight[held_out]}
    y_train, y_val = (None, None) if y is None else (y[rows], y[held_out])
    own = {"X": X_train, "y": y_train, "X_val": X_val, "y_val": y_val, "groups": None}
    return replace(call, **own, **weights)


def make_validation(estimator: NetworkHooks, samples: Samples) -> Validation:
    """Return a validation set that computes its loss and its score.

    Parameters
    ----------
    estimator : estimator
        With the network that is to be evaluated.
    samples : Samples
    """
    network, loss = estimator.module_, estimator._make_loss()
    scoring = estimator._validation_scoring()
    rounding = product_dtype(estimator.dtype, network.flat.device)
    # a scorer given by name predicts these rows: it reuses the outputs from which the loss was
    # computed, unless these would take more memory than the rows
    shares_outputs = (
        isinstance(scoring, str)
        and scoring != "loss"
        and estimator._uses_known_output
        and network.linear_layers()[-1].out_features < MANY_CLASSES
    )
    check_weight(samples.weight)

    # a diverging network has a NaN score, which the training handles
    @np.errstate(over="ignore", invalid="ignore")
    def evaluate() -> tuple[float, float]:
        ranks = present_ranks()
        keep = scoring is None or (shares_outputs and ranks is None)
        value, raw = evaluate_loss(network, loss, samples, keep, ranks, rounding)
        if scoring == "loss":
            return value, -value
        if scoring is None and raw is not None:
            return value, estimator._default_score(raw, samples.y, samples.given_weight)
        if not math.isfinite(value):  # a scorer would reject predictions that are not finite
            return value, math.nan
        return value, _scorer_score(estimator, scoring, samples, raw)

    dataset = Dataset(samples.X.unwrapped(), samples.y, length=len(samples.X))
    return Validation(dataset, evaluate)


def without_feature_names(estimator: Any) -> Any:
    """Return a copy with the same network that predicts for arrays without a warning."""
    check_is_fitted(estimator)
    twin = object.__new__(type(estimator))
    vars(twin).update(vars(estimator))
    vars(twin).pop("feature_names_in_", None)
    if has_categories(twin):  # it is given category codes
        twin._columns = None
    return twin


def _scorer_score(
    estimator: NetworkHooks, scoring: Any, samples: Samples, raw: np.ndarray | None
) -> float:
    """Return the user's score, with the user's weights if the scorer accepts them.

    ``raw`` is the network's output for the rows if it is already known; predictions then reuse it.
    """
    scorer, twin = check_scoring(estimator, scoring), without_feature_names(estimator)
    if raw is not None:
        twin._known_output = samples.X, raw
    weights = {}
    if samples.given_weight is not None and accepts_sample_weight(scorer):
        weights["sample_weight"] = samples.given_weight
    # a scorer given by name only predicts, but the user's own code may do anything with X
    X = samples.X.in_memory() if callable(scoring) else samples.X
    try:
        return float(scorer(twin, X, samples.y, **weights))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"scoring={scoring!r} failed on the validation set: {str(error).rstrip('.')}. Pass a "
            f"scorer that suits {type(estimator).__name__} and returns one number, or "
            "scoring='loss'."
        ) from error
