"""Saves and loads estimators with skops, in files that contain no code."""

import importlib
import os
import types
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from sklearn.base import BaseEstimator

from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.fitted_state import check_fitted_state
from sknn_deep._estimators.hidden_activations import HiddenActivations
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._estimators.tabular import TabularMLPClassifier, TabularMLPRegressor
from sknn_deep._files import archive
from sknn_deep._files.atomic import atomic_write, remove_orphans
from sknn_deep._files.trusted_types import HARMLESS, OBJECT, name_of
from sknn_deep.model_selection._halving import (
    FusedHalvingGridSearchCV,
    FusedHalvingRandomSearchCV,
)
from sknn_deep.model_selection._searches import FusedGridSearchCV, FusedRandomizedSearchCV

__all__ = ["TRUSTED_TYPES", "load", "save"]

_OURS = (
    DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer, FusedGridSearchCV,
    FusedHalvingGridSearchCV, FusedHalvingRandomSearchCV, FusedRandomizedSearchCV,
    TabularMLPClassifier, TabularMLPRegressor, HiddenActivations,
)  # fmt: skip
_LOADERS = {**dict.fromkeys(map(name_of, _OURS), OBJECT), **HARMLESS}

#: Types that :func:`load` trusts beyond skops' own; pass them to ``skops.io.load`` and to MLflow.
TRUSTED_TYPES: list[str] = list(_LOADERS)

# Why skops recurses without end.
_CIRCLE = (
    "a part refers to itself, such as an estimator of scikit-learn on which set_fit_request was "
    "called, or a discrete distribution of SciPy in a search of scikit-learn. Save it without."
)


def save(estimator: BaseEstimator, path: str | os.PathLike) -> None:
    """Save an estimator in a file that holds no code.

    The file is what ``skops.io.dump`` writes [1]_: a zip archive of JSON and NumPy arrays. It is
    written atomically: after an error, an existing file is unchanged. A loaded estimator's
    predictions are bitwise identical, and it continues with ``partial_fit`` or ``warm_start=True``
    as the saved one would have: the states of the optimiser, of a ``RandomState`` given as
    ``random_state`` and of the stopping rule are in the file.

    Parameters
    ----------
    estimator : estimator
        A :class:`DeepMLPClassifier`, :class:`DeepMLPRegressor` or
        :class:`AutoencoderTransformer`, fitted or not; or any scikit-learn-compatible estimator,
        alone or around these: a pipeline, a search, a ``ColumnTransformer``.

    path : str or path-like
        Where to write, by convention with the suffix ".skops".

    Warns
    -----
    UserWarning
        If :func:`load` will ask to trust further types, such as classes of your own, skorch's
        callbacks or scikit-learn's trees. The message lists them.

    Raises
    ------
    TypeError
        If a part cannot be saved, such as a lambda. The message names it.

    ValueError
        If a parameter is invalid, or weights are not finite.

    See Also
    --------
    load : Read the file.

    References
    ----------
    .. [1] https://skops.readthedocs.io

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import sknn_deep
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = sknn_deep.DeepMLPClassifier(learning_rate="one_cycle").fit(X, y)
    >>> path = Path(tempfile.mkdtemp(), "iris.skops")
    >>> sknn_deep.save(classifier, path)
    >>> loaded = sknn_deep.load(path)
    >>> bool((loaded.predict_proba(X) == classifier.predict_proba(X)).all())
    True
    """
    if not isinstance(estimator, BaseEstimator):
        raise TypeError(f"save takes an estimator, got {estimator!r}; save it in another way.")
    name = type(estimator).__name__
    try:
        _check(estimator)
    except ValueError as error:
        raise ValueError(f"{name} cannot be saved: {error}") from error
    untrusted: list[str] = []
    remove_orphans(path)
    atomic_write(path, lambda file: untrusted.extend(_dump(estimator, file)))
    if untrusted:
        warnings.warn(
            f"Loading {os.fspath(path)!r} will ask to trust further types. If you know what they "
            f"do, load it with trusted={untrusted}.",
            stacklevel=2,
        )


def load(path: str | os.PathLike, *, trusted: Iterable[str | type] = ()) -> BaseEstimator:
    """Load an estimator that :func:`save` or ``skops.io.dump`` has written.

    Nothing in the file is executed: skops creates objects only of trusted types, by name. Networks
    are loaded onto the CPU; the next fit moves them to ``device``.

    Parameters
    ----------
    path : str or path-like

    trusted : iterable of str or type, default=()
        Further types to trust, beyond ``sknn_deep.TRUSTED_TYPES``. Trust covers their code and any
        of their data in the file.

    Returns
    -------
    estimator : estimator

    Raises
    ------
    ValueError
        If the path is not a regular file, or the file is damaged, forged, or holds a type that is
        not trusted. The message says which.

    OSError
        If the file does not exist, or cannot be read.

    See Also
    --------
    save : Write the file.

    Examples
    --------
    See :func:`save`.
    """
    if isinstance(trusted, str | bool) or trusted is None:
        raise TypeError(f"trusted must list types or their names, got {trusted!r}.")
    try:
        archive.check_regular(path)
        estimator = archive.read(path, _LOADERS, trusted)
        if not isinstance(estimator, BaseEstimator):
            raise ValueError(
                f"it holds a {type(estimator).__name__} and no estimator. The checkpoint of a "
                "training is read by the fit that wrote it."
            )
        _check(estimator)
    except ValueError as error:
        remedy = ""
        if isinstance(error, archive.UntrustedError):
            remedy = " If you know who made the file, and these types, pass them as trusted=[...]."
        raise ValueError(f"{os.fspath(path)!r} cannot be loaded: {error}{remedy}") from error
    return estimator


def _check(estimator: BaseEstimator) -> None:
    """Raise a ValueError if a network, or a random generator, among the parts is not valid."""
    try:
        for part in _parts(estimator):
            if isinstance(part, BaseDeepNetwork):
                check_fitted_state(part)
            elif isinstance(part, np.random.RandomState):
                archive.check_generator(part.get_state(legacy=False))
            elif isinstance(part, dict):
                _check_keys(part)
    except ValueError:
        raise
    except Exception as error:  # a check failed on unexpected data, in a forged file
        raise ValueError(f"it is not valid: {error!r}") from error


def _check_keys(part: dict[Any, Any]) -> None:
    """Raise a ValueError if a dict has keys that skops, which writes JSON, would not restore."""
    is_known = all(
        isinstance(key, str | int | float | np.number) and not isinstance(key, bool) for key in part
    )
    if not is_known or len(set(map(str, part))) < len(part):
        raise ValueError(f"it has a dict with the keys {list(part)!r}, which no file can hold.")


def _parts(estimator: BaseEstimator) -> Iterator[Any]:
    """Yield an estimator and, once each, all objects that it contains."""
    waiting: list[Any] = [estimator]
    seen: dict[int, Any] = {}  # kept alive, so that ids are not reused
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | type | types.FunctionType | types.ModuleType):
            continue
        seen[id(part)] = part
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += part
        elif isinstance(part, np.ndarray) and part.dtype == object:
            waiting += part.ravel().tolist()
        elif isinstance(part, BaseDeepNetwork):
            waiting.append(part.__getstate__())
        elif hasattr(part, "__dict__"):
            waiting.append(vars(part))


def _dump(estimator: BaseEstimator, file: BinaryIO) -> list[str]:
    """Write an estimator; return the types that must be trusted to load it."""
    import skops.io

    whole = type(estimator).__name__
    try:
        skops.io.dump(estimator, file)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # may be of any type for objects unknown to skops
        reason = _CIRCLE if isinstance(error, RecursionError) else error
        raise TypeError(f"{whole} cannot be saved: {reason}") from error
    file.seek(0)
    needed = skops.io.get_untrusted_types(file=file)  # type: ignore[arg-type]  # a file, too
    untrusted = set(needed) - _LOADERS.keys()
    for name in untrusted:
        if not _is_found(name):
            raise TypeError(
                f"{whole} cannot be saved: {name} is not found under this name, so it could "
                "not be loaded."
            )
    return sorted(untrusted)


def _is_found(name: str) -> bool:
    """Return whether skops will find an object by its name."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:  # the module of a method is its class
        return "." in module and _is_found(module)
