"""The pickled form of an estimator: its parameters, and its fitted state as plain data.

Pickle, joblib, ``copy.deepcopy`` and skops all call ``__getstate__``, so a model trained on a GPU
can be loaded on a machine without one, and files refer to no class of torch or skorch.
"""

from collections.abc import Callable
from typing import Any

from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metadata_routing import MetadataRequest
from skorch.history import History

from sknn_deep._engine.solvers import to_arrays
from sknn_deep._estimators.table_columns import TableColumns
from sknn_deep._files.packing import pack, unpack
from sknn_deep._networks.flat import Network
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._training.progress import Progress

_NETWORKS = {cls.__name__: cls for cls in (MLP, Autoencoder)}
# Fitted attributes of scikit-learn's binarizer.
_BINARIZER = ("classes_", "sparse_input_", "y_type_")
# Parameters whose values may be dicts with any keys.
_DICTS = ("class_weight", "solver_params", "_candidates")
# Attributes that are the same list objects as those of the progress.
CURVES = ("loss_curve", "validation_scores", "validation_loss_curve")


def plain_state(state: dict[str, Any], owner: Any) -> dict[str, Any]:
    """Return the state of an estimator without objects of torch, skorch and scikit-learn.

    Parameters
    ----------
    state : dict
        Its attributes.
    owner : estimator

    Returns
    -------
    plain : dict
        Parameters and other estimators are unchanged.
    """
    plain = dict(state)
    optimizer = plain.pop("_optimizer", None)
    for name in ("_kept_engine", "_home"):  # specific to this process
        plain.pop(name, None)
    if optimizer is not None:
        plain["_optimizer_state"] = to_arrays(optimizer.state_dict())
    if "_progress" in plain:
        progress = vars(plain["_progress"])
        for name in CURVES:
            if plain.get(f"{name}_", owner) is progress[name]:
                del plain[f"{name}_"]
        plain["_progress"] = pack([progress, list(plain.pop("history_"))])  # one text
    for name, (to_plain, _) in _FORMS.items():
        if plain.get(name) is not None:
            plain[name] = to_plain(plain[name])
    return plain


def restored_state(plain: dict[str, Any], owner: Any) -> dict[str, Any]:
    """Undo :func:`plain_state`.

    Raises
    ------
    AttributeError, KeyError, TypeError, ValueError
        If it is not the state of an estimator.
    """
    state = dict(plain)
    for name, (_, restore) in _FORMS.items():
        if state.get(name) is not None:
            state[name] = restore(state[name], owner)
    if "_progress" in state:
        fields, rows = unpack(state["_progress"])
        state["_progress"] = Progress(**fields)
        state["history_"] = History(rows)
    if "best_loss_" in state:  # trained in epochs, not by L-BFGS
        curves = {f"{name}_": getattr(state["_progress"], name) for name in CURVES}
        state = curves | state
    return state


def _plain_network(network: Network) -> dict[str, Any]:
    return {"class": type(network).__name__, **network.__getstate__()}


def _restore_network(plain: dict[str, Any], owner: Any) -> Network:
    cls = _NETWORKS[plain["class"]]
    network = cls.__new__(cls)
    network.__setstate__(plain)
    return network


def _plain_columns(columns: TableColumns) -> Any:
    return pack([columns.categories, columns.gaps])


def _restore_columns(plain: Any, owner: Any) -> TableColumns:
    categories, gaps = unpack(plain)
    return TableColumns(dict(categories), gaps)


def _plain_binarizer(binarizer: LabelBinarizer) -> dict[str, Any]:
    return {name: getattr(binarizer, name) for name in _BINARIZER}


def _restore_binarizer(plain: dict[str, Any], owner: Any) -> LabelBinarizer:
    binarizer = LabelBinarizer()
    vars(binarizer).update((name, plain[name]) for name in _BINARIZER)
    return binarizer


def _plain_requests(request: MetadataRequest) -> dict[str, dict[str, Any]]:
    """Return the metadata requests set by ``set_fit_request`` and similar methods, by method."""
    return {
        name: dict(method.requests)
        for name, method in vars(request).items()
        if name != "owner" and method.requests
    }


def _restore_requests(plain: dict[str, dict[str, Any]], owner: Any) -> MetadataRequest:
    request = MetadataRequest(owner=owner)
    for name, requests in plain.items():
        for param, alias in requests.items():
            getattr(request, name).add_request(param=param, alias=alias)
    return request


def _unpack(packed: Any, owner: Any) -> Any:
    return unpack(packed)


# For each attribute, the functions that convert it to plain data and back.
_FORMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "module_": (_plain_network, _restore_network),
    "_columns": (_plain_columns, _restore_columns),
    "_label_binarizer": (_plain_binarizer, _restore_binarizer),
    "_metadata_request": (_plain_requests, _restore_requests),
    **dict.fromkeys(_DICTS, (pack, _unpack)),
}
