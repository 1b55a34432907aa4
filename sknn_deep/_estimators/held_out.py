"""The validation set: which rows are held out, and how they are evaluated.

A set that the user passes as ``X_val`` switches early stopping on and restores the best weights,
without ``early_stopping=True``: there is no other reason to pass one. With
``n_iter_no_change=np.inf`` all epochs are run, and the best weights are restored all the same.
"""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import check_scoring
from sklearn.utils.validation import check_is_fitted
from skorch.dataset import Dataset

from sknn_deep._engine.in_parts import map_parts
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.samples import Samples, check_weight, dense
from sknn_deep._estimators.held_out_rows import hold_out_rows
from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._hardware.memory_maps import Mapped
from sknn_deep._networks.flat import Network
from sknn_deep._sklearn import accepts_sample_weight
from sknn_deep._training.training import Validation


def split_rows(
    estimator: NetworkHooks, samples: Samples, random_state: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and the rows that early stopping holds out."""
    return hold_out_rows(
        samples.X.shape[0],
        estimator.validation_fraction,
        random_state,
        *estimator._labels_to_share(samples.targets),
    )


def make_validation(estimator: NetworkHooks, samples: Samples) -> Validation:
    """Return a validation set that knows its loss and its score.

    Parameters
    ----------
    estimator : estimator
        With the network that is to be evaluated.
    samples : Samples
    """
    network, loss = estimator.module_, estimator._make_loss()
    scoring = estimator._validation_scoring()
    check_weight(samples.weight)

    # a network that diverges has a score that is no number, and the training judges that
    @np.errstate(over="ignore", invalid="ignore")
    def evaluate() -> tuple[float, float]:
        value, raw = _evaluate_loss(network, loss, samples, keep=scoring is None)
        if scoring == "loss":
            return value, -value
        if raw is not None:
            return value, estimator._default_score(raw, samples.y, samples.given_weight)
        return value, _scorer_score(estimator, scoring, samples)

    dataset = Dataset(samples.X, samples.y, length=samples.X.shape[0])
    return Validation(dataset, evaluate)


def without_feature_names(estimator: Any) -> Any:
    """Return a twin around the same network that predicts for arrays without a warning."""
    check_is_fitted(estimator)
    twin = object.__new__(type(estimator))
    vars(twin).update(vars(estimator))
    vars(twin).pop("feature_names_in_", None)
    return twin


def _scorer_score(estimator: NetworkHooks, scoring: Any, samples: Samples) -> float:
    """Return the user's score, weighted by the user's weights where it takes any."""
    scorer = check_scoring(estimator, scoring)
    weights = {}
    if samples.given_weight is not None and accepts_sample_weight(scorer):
        weights["sample_weight"] = samples.given_weight
    X = samples.X
    if isinstance(X, Mapped) and callable(scoring):
        X = np.asarray(X)  # the user's own code may do anything with it
    try:
        return float(scorer(without_feature_names(estimator), X, samples.y, **weights))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"scoring={scoring!r} failed on the validation set: {error}. Pass a scorer that "
            f"suits {type(estimator).__name__} and returns one number, or scoring='loss'."
        ) from error


def _evaluate_loss(
    network: Network, loss: Loss, samples: Samples, keep: bool
) -> tuple[float, np.ndarray | None]:
    """Return the mean loss over a validation set and, to keep, the raw output of every row."""
    device, dtype = network.flat.device, network.flat.dtype

    def evaluate(part: slice) -> tuple[float, float, np.ndarray | None]:
        X = dense(samples.X[part], device, dtype)
        target, weight = (
            None if array is None else dense(array[part], device, dtype)
            for array in (samples.targets, samples.weight)
        )
        raw = network(X)
        losses = loss.per_sample(raw, X if target is None else loss.encoded(target, raw))
        total = losses.sum() if weight is None else torch.dot(losses, weight)
        weight_sum = float(len(X)) if weight is None else weight.sum().item()
        return total.item(), weight_sum, raw.cpu().numpy() if keep else None

    parts = map_parts(evaluate, samples.X.shape[0], network)
    totals, weight_sums, outputs = zip(*parts, strict=True)
    value = sum(totals) / sum(weight_sums) * loss.reported_scale
    return value, np.concatenate(outputs) if keep else None
