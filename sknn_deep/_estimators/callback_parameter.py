"""The ``callbacks`` parameter: skorch's callbacks, with or without names."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sklearn.callback import FitCallback
from skorch.callbacks import Callback

from sknn_deep._training.checkpoint import CheckpointFile, TrainingCheckpoint


def check_callback(callback: Any) -> None:
    """Refuse an entry of ``callbacks`` that is not a skorch callback.

    Raises
    ------
    TypeError
        If it is not a callback, a callback class, or a pair of a name and one of these.
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
    raise TypeError(f"callbacks holds {callback!r}, which is not a skorch callback; {remedy}.")


def open_checkpoint(callbacks: Sequence[Any] | None, incremental: bool) -> CheckpointFile | None:
    """Return the file that a ``TrainingCheckpoint`` among the callbacks names, if there is one.

    Raises
    ------
    ValueError
        In ``partial_fit``, if there are several checkpoints, or if the file is damaged.
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


def named_callbacks(callbacks: Any) -> dict[str, Any]:
    """Return the callbacks by name, as skorch does: the user's name, else that of the class.

    Several unnamed callbacks of one class are numbered from 1. Anything that is not a list of
    callbacks gives an empty dict, because parameters are read before they are validated.

    Examples
    --------
    >>> from skorch.callbacks import EarlyStopping, EpochTimer
    >>> from sknn_deep._estimators.callback_parameter import named_callbacks
    >>> list(named_callbacks([("stop", EarlyStopping()), EpochTimer(), EpochTimer()]))
    ['stop', 'EpochTimer_1', 'EpochTimer_2']
    """
    if not isinstance(callbacks, list | tuple):
        return {}
    names = [
        callback[0] if _is_named(callback) else _class_name(callback) for callback in callbacks
    ]
    total, seen = Counter(names), Counter[str]()
    named = {}
    for name, callback in zip(names, callbacks, strict=True):
        seen[name] += 1
        unique = f"{name}_{seen[name]}" if total[name] > 1 else name
        named[unique] = unnamed(callback)
    return named


def callback_params(callbacks: Any) -> dict[str, Any]:
    """Return the callbacks and their parameters as ``get_params`` names them."""
    params = {}
    for name, callback in named_callbacks(callbacks).items():
        params[f"callbacks__{name}"] = callback
        if isinstance(callback, Callback):
            own = callback.get_params(deep=False)
            params |= {f"callbacks__{name}__{key}": value for key, value in own.items()}
    return params


def with_callback_params(callbacks: Any, params: dict[str, Any]) -> Any:
    """Set parameters of callbacks, and replace callbacks, by the names of ``get_params``.

    Parameters
    ----------
    callbacks : list of skorch callbacks or None
    params : dict
        Values by names such as "callbacks__EarlyStopping__patience". A callback that is set to
        None is taken out.

    Returns
    -------
    callbacks : list of skorch callbacks or None
        The same callbacks with their new parameters, in a new list where one was replaced.

    Raises
    ------
    ValueError
        If no callback, or no parameter of it, has the name.
    """
    for key, value in params.items():
        named = named_callbacks(callbacks)
        name, _, own = key.removeprefix("callbacks__").partition("__")
        if name not in named:
            raise ValueError(
                f"Invalid parameter {key!r}: callbacks has {sorted(named)}, but no {name!r}. Pass "
                "the callback in callbacks, as the pair of a name and the callback to name it."
            )
        if own:
            _set_own(key, named[name], own, value)
            continue
        number = list(named).index(name)
        replaced = list(callbacks)
        replaced[number : number + 1] = [] if value is None else [(name, value)]
        callbacks = replaced
    return callbacks


def _set_own(key: str, callback: Any, name: str, value: Any) -> None:
    """Set one parameter of a callback."""
    known = callback.get_params(deep=False) if isinstance(callback, Callback) else {}
    if name not in known:
        raise ValueError(
            f"Invalid parameter {key!r}: {callback!r} has the parameters {sorted(known)}. Pass an "
            "instance of the callback, and one of these."
        )
    callback.set_params(**{name: value})


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


def _class_name(callback: Any) -> str:
    return callback.__name__ if isinstance(callback, type) else type(callback).__name__


def _is_named(callback: Any) -> bool:
    return isinstance(callback, tuple) and len(callback) == 2
