"""The arguments of a call of ``fit`` or ``partial_fit``, and its data after validation."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Call:
    """The arguments of one call of ``fit`` or ``partial_fit``, as the user passed them.

    Attributes
    ----------
    X, y, sample_weight
        Training data; ``y`` is None for an autoencoder.
    X_val, y_val, sample_weight_val
        The user's validation set; each None if not given.
    classes : array-like or None
        See the classifier's ``partial_fit``.
    incremental : bool
        Whether the call is ``partial_fit``: one epoch, keeping the optimiser's state.
    groups : array-like or None
        The group of each row, for ``validation_splitter``.
    """

    X: Any
    y: Any = None
    sample_weight: Any = None
    X_val: Any = None
    y_val: Any = None
    sample_weight_val: Any = None
    classes: Any = None
    incremental: bool = False
    groups: Any = None


@dataclass(frozen=True)
class Validated:
    """Training data after validation, and the fitted attributes learned during validation.

    Networks of one shape that are trained on the same rows share an instance.

    Attributes
    ----------
    X : {ndarray, CSR matrix} of shape (n_samples, n_features)
    y : ndarray or None
        The user's targets.
    targets : ndarray of shape (n_samples, n_outputs) or (n_samples,), or None
        Targets of the loss; None for the features themselves.
    learned : dict
        Fitted attributes, such as ``classes_`` and ``n_features_in_``.
    """

    X: Any
    y: np.ndarray | None
    targets: np.ndarray | None
    learned: dict[str, Any] = field(default_factory=dict)
