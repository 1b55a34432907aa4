"""Attributes of a trained autoencoder's code: spread and explained variance of its units.

They are measured after training. One pass of the encoder over the training batches gives the
moments of the code, which reveal dead units. The variance that each unit explains is measured by
decoding 100 to 2,000 rows with more and more units known; the number of rows is chosen so that this
takes about a twentieth of the training time. ``order_code`` folds the eigenvectors of the code's
covariance into the layers on both sides. The outlier threshold is computed from the same rows, or
from all rows if ``contamination`` is a number.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.features import SparseRows
from sknn_deep._engine.in_parts import applying
from sknn_deep._estimators.code_statistics import (
    CodeMoments,
    code_moments,
    explained_variance,
    reconstruction_errors,
    row_weights,
    turn_to_principal_axes,
)
from sknn_deep._estimators.optimizer import forget_optimizer
from sknn_deep._estimators.outlier_offset import outlier_offset
from sknn_deep._user_warnings import warn_user
from sknn_deep._wording import counted

# A unit counts as dead if its standard deviation is at most this share of the largest one.
_DEAD = 1e-6


def describe_code(autoencoder: Any, batches: Batches | Chunk, incremental: bool) -> None:
    """Set the attributes that describe the code, over the training data.

    Parameters
    ----------
    autoencoder : AutoencoderTransformer
        Trained. ``code_std_`` and ``n_dead_units_`` are set, and after ``fit``
        ``explained_variance_``, ``explained_variance_ratio_`` and ``offset_``. With ``order_code``
        the code is first rotated to its principal axes.
    batches : Batches or Chunk
        Its training data.
    incremental : bool
        Whether it was trained by ``partial_fit``.
    """
    is_set = isinstance(batches, Batches)
    are_sparse = isinstance(batches, Batches) and isinstance(batches.samples.X, SparseRows)
    chunks: Iterable[Chunk] = batches if isinstance(batches, Batches) else [batches]
    n_samples = len(batches) if is_set else len(batches.X)
    n_trained = n_samples * max(autoencoder.n_iter_, 1)
    # the first rows are a fair sample if they were shuffled
    n_rows = n_samples
    are_shuffled = is_set and autoencoder.shuffle and autoencoder.solver != "lbfgs"
    if are_shuffled and not autoencoder.order_code:
        n_rows = min(n_samples, int(np.clip(n_trained // 20, 1000, 10_000)))
    n_decoded = n_rows_to_decode(n_trained, autoencoder.n_components)
    network = autoencoder.module_
    with applying(network, n_rows):
        moments = code_moments(
            network, chunks, n_rows=n_rows, n_kept=n_decoded, are_sparse=are_sparse
        )
    if autoencoder.order_code and not incremental:
        moments = _turned(autoencoder, moments)
    deviations = np.sqrt(moments.covariance.diagonal().clip(0)).astype(autoencoder.mean_.dtype)
    # if all rows are the same, the code varies only by rounding
    is_dead = (deviations <= _DEAD * deviations.max()) | (not moments.do_vary)
    autoencoder.code_std_, autoencoder.n_dead_units_ = deviations, int(is_dead.sum())
    if incremental:
        return
    if moments.do_vary and is_dead.any():
        _warn_of_dead_units(autoencoder, np.flatnonzero(is_dead))
    with applying(network, n_rows):
        explained, variance = explained_variance(network, moments, autoencoder.mean_)
        autoencoder.offset_ = _offset(autoencoder, chunks, moments)
    autoencoder.explained_variance_ = explained
    autoencoder.explained_variance_ratio_ = (
        explained / variance if variance > 0 else np.zeros_like(explained)
    )


def _offset(autoencoder: Any, chunks: Iterable[Chunk], moments: CodeMoments) -> float:
    """Return the outlier threshold, from all rows or, with "auto", from the kept ones."""
    parts: Iterable[tuple[Tensor, Tensor]] = moments.pieces()
    if autoencoder.contamination != "auto":
        parts = ((chunk.X, row_weights(chunk)) for chunk in chunks)
    errors, weights = [], []
    with torch.inference_mode():
        for rows, weight in parts:
            errors.append(reconstruction_errors(autoencoder.module_, rows).cpu().numpy())
            weights.append(weight.cpu().numpy())
    return outlier_offset(
        np.concatenate(errors), np.concatenate(weights), autoencoder.contamination
    )


def n_rows_to_decode(n_trained: int, n_components: int) -> int:
    """Return the number of rows on which to measure the variance that each unit explains.

    Each unit needs one pass of the decoder over them; together the passes take at most about a
    twentieth of the training time.
    """
    return int(np.clip(n_trained // (20 * n_components), 100, 2000))


def _turned(autoencoder: Any, moments: CodeMoments) -> CodeMoments:
    """Rotate the code to its principal axes; return its moments there."""
    snapshot = autoencoder.module_.snapshot()
    try:
        moments = turn_to_principal_axes(autoencoder.module_, moments)
    except BaseException:  # never leave a half-finished rotation
        autoencoder.module_.restore(snapshot)
        raise
    # its moments belong to the weights before the rotation
    forget_optimizer(autoencoder)
    return moments


def _warn_of_dead_units(autoencoder: Any, units: np.ndarray) -> None:
    remedy = "lower learning_rate_init or alpha"
    if autoencoder.variational:
        remedy = f"lower beta={autoencoder.beta}"
    elif autoencoder.sparsity:
        remedy = f"lower sparsity={autoencoder.sparsity}"
    elif autoencoder.code_activation != "identity":
        remedy = f"choose code_activation='identity' instead of {autoencoder.code_activation!r}"
    warn_user(
        f"{counted(len(units), 'unit')} of the code {'is' if len(units) == 1 else 'are'} the same "
        f"for every row: {', '.join(map(str, units))} (of {autoencoder.n_components}, counted from "
        f"0). To bring dead units to life, {remedy}.",
        ConvergenceWarning,
    )
