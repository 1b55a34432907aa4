"""Suggestions for users who pass an invalid value."""

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

# Names of our options in other libraries and textbooks.
_OTHER_NAMES = {
    "sigmoid": "logistic", "linear": "identity", "swish": "silu", "leakyrelu": "leaky_relu",
    "mse": "squared_error", "l2": "squared_error", "mean_squared_error": "squared_error",
    "mae": "absolute_error", "l1": "absolute_error", "mean_absolute_error": "absolute_error",
    "pinball": "quantile", "smooth_l1": "huber", "bce": "log_loss",
    "binary_crossentropy": "log_loss", "batchnorm": "batch", "layernorm": "layer",
    "batch_norm": "batch", "layer_norm": "layer", "acc": "accuracy", "auc": "roc_auc",
    "cosine_annealing": "cosine", "onecycle": "one_cycle", "dropout": "masking",
    "float": "float32", "double": "float64", "half": "bfloat16", "float16": "bfloat16",
}  # fmt: skip


def advice_for(name: str, value: Any, options: Iterable[str] = ()) -> str:
    """Return a sentence that says what to write instead, or an empty string.

    Parameters
    ----------
    name : str
        The parameter.
    value : object
        The invalid value.
    options : iterable of str
        The valid strings.
    """
    if name == "learning_rate" and _is_number(value):
        return (
            f"learning_rate is the schedule; the size of the steps is learning_rate_init={value!r}."
        )
    if name in ("loss", "n_components") and _is_sizes(value):
        return f"The sizes of the hidden layers are given by name: hidden_layer_sizes={value!r}."
    if not isinstance(value, str):
        return ""
    meant = closest(value, options)
    if meant is not None:
        return f"Did you mean {meant!r}?"
    try:
        float(value)
    except ValueError:
        return ""
    return f"Write a number, {value.strip()}, not a text."


def closest(value: str, options: Iterable[str]) -> str | None:
    """Return the option most similar to a string, if there is one."""
    options = sorted(options)
    written = value.strip().lower().replace("-", "_").replace(" ", "_")
    meant = _OTHER_NAMES.get(written)
    if meant in options:
        return meant
    return next(iter(get_close_matches(written, options, n=1, cutoff=0.6)), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_sizes(value: Any) -> bool:
    sizes = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes)
