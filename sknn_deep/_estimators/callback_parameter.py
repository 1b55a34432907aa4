"""The ``callbacks`` parameter: skorch's callbacks, with or without names."""

from collections.abc import Sequence
from typing import Any

from sklearn.callback import FitCallback
from skorch.callbacks import Callback

from sknn_deep._training.checkpoint import CheckpointFile, TrainingCheckpoint


def check_callback(callback: Any) -> None:
    """Refuse an entry of ``callbacks`` that is no callback of skorch's.

    Raises
    ------
    TypeError
        If it is anything but a callback, its class, or a pair of a name and one of these.
    """
    callback = unnamed(callback)
    is_class = isinstance(callback, type) and issubclass(callback, Callback)
    if is_class and issubclass(callback, TrainingCheckpoint):
        raise TypeError("callbacks holds the class TrainingCheckpoint; pass an instance.")
    if is_class or isinstance(callback, Callback):
        return
    remedy = (
        "register scikit-learn's callbacks with set_callbacks(...)"
        if isinstance(callback, FitCallback)
        else "pass instances of skorch.callbacks.Callback"
    )
    raise TypeError(f"callbacks holds {callback!r}, which is no skorch callback; {remedy}.")


def open_checkpoint(callbacks: Sequence[Any] | None, incremental: bool) -> CheckpointFile | None:
    """Return the file that a ``TrainingCheckpoint`` among the callbacks names, if there is one.

    Raises
    ------
    ValueError
        In ``partial_fit``, if there are several, or if the file is damaged.
    """
    checkpoints = [
        callback
        for callback in map(unnamed, callbacks or [])
        if isinstance(callback, TrainingCheckpoint)
    ]
    if not checkpoints:
        return None
    if incremental:
        raise ValueError(
            "partial_fit does not support TrainingCheckpoint: it trains one epoch on data that "
            "the next call does not have. Set callbacks=None, or call fit."
        )
    if len(checkpoints) > 1:
        raise ValueError(
            f"callbacks holds {len(checkpoints)} of TrainingCheckpoint; pass one of them."
        )
    return checkpoints[0].open()


def skorch_callbacks(callbacks: Sequence[Any] | None) -> list[Any]:
    """Return the callbacks that skorch's net calls: all but a ``TrainingCheckpoint``."""
    return [
        callback
        for callback in callbacks or []
        if not isinstance(unnamed(callback), TrainingCheckpoint)
    ]


def description(callback: Any) -> list[Any]:
    """Return the name that a callback was given, its class, and its parameters."""
    name = [callback[0]] if _is_named(callback) else []
    callback = unnamed(callback)
    if isinstance(callback, type):
        return [*name, callback]
    return [*name, type(callback), callback.get_params(deep=False)]


def unnamed(callback: Any) -> Any:
    """Return a callback without the name that skorch allows beside it."""
    return callback[1] if _is_named(callback) else callback


def _is_named(callback: Any) -> bool:
    return isinstance(callback, tuple) and len(callback) == 2
