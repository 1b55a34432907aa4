"""The only door to scikit-learn's private helpers.

Everything with a leading underscore that the package takes from scikit-learn is imported
here, so that a release which moves one of them is mended in one place.
"""

from inspect import signature

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.fixes import _get_additional_lbfgs_options_dict
from sklearn.utils.multiclass import _check_partial_fit_first_call
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "Interval",
    "Options",
    "StrOptions",
    "accepts_sample_weight",
    "check_matplotlib_support",
    "check_optimize_result",
    "check_partial_fit_first_call",
    "check_sample_weight",
    "fit_context",
    "lbfgs_verbosity",
]

check_optimize_result = _check_optimize_result
check_partial_fit_first_call = _check_partial_fit_first_call
fit_context = _fit_context


def check_sample_weight(sample_weight, X):
    """Return float weights of shape (n_samples,), or None where none were given.

    Raises
    ------
    ValueError
        If a weight is negative, if all are zero, or if there are not as many as rows.
    """
    if sample_weight is None:
        return None
    return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)


def accepts_sample_weight(scorer) -> bool:
    """Return whether a scorer, or the metric behind it, takes sample weights."""
    function = getattr(scorer, "_score_func", scorer)
    return "sample_weight" in signature(function).parameters


def lbfgs_verbosity(verbose):
    """Return the options with which SciPy's L-BFGS-B prints its progress, or not."""
    return _get_additional_lbfgs_options_dict("iprint", 1 if verbose else -1)
