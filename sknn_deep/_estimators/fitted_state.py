"""The fitted state of an estimator: one list of attributes, used by all code that handles them."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metadata_routing import MetadataRequest

from sknn_deep._engine.distributions import outputs_per_column
from sknn_deep._engine.optimizer_state import check_optimizer_state, is_number
from sknn_deep._engine.solvers import to_arrays
from sknn_deep._estimators.array_api import Home
from sknn_deep._estimators.kept_engine import KeptEngine
from sknn_deep._estimators.table_columns import TableColumns
from sknn_deep._hardware.device import numpy_dtype
from sknn_deep._networks.flat import Network
from sknn_deep._networks.models import Autoencoder
from sknn_deep._networks.random_layers import Dropout
from sknn_deep._networks.table_input import TableInput
from sknn_deep._training.progress import Progress, are_epochs

# The list


@dataclass(frozen=True)
class Entry:
    """An attribute that a fit may set.

    Attributes
    ----------
    is_valid : callable
        Whether a value is valid on its own.
    what : str
        Description of a valid value, for errors.
    source : {"data", "progress", "trained network", "training"}
        What sets it: validation of the training data, the progress of training, measurements on the
        trained network, or the rest of a fit.
    """

    is_valid: Callable[[Any], Any]
    what: str
    source: str = "training"


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _is_positive(value: Any) -> bool:
    return _is_count(value) and value >= 1


def _is_score(value: Any) -> bool:
    return value is None or is_number(value)


def _is_temperature(value: Any) -> bool:
    return is_number(value) and 0 < value < np.inf


def _is_curve(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(is_number, value)))


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "f"


def _is_levels(value: Any) -> bool:
    is_inside = _is_vector(value) and bool(((value > 0) & (value < 1)).all())
    return is_inside and bool((np.diff(value) > 0).all())


def _is_cube(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype.kind == "f"


def _is_names(value: Any) -> bool:
    is_vector = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == object
    return is_vector and all(isinstance(name, str) for name in value)


def _is_labels(value: Any) -> bool:
    if not (isinstance(value, np.ndarray) and value.ndim == 1 and value.size):
        return False
    if value.dtype == object:
        kind = next((k for k in (str, bool) if isinstance(value[0], k)), None)
        if not all(isinstance(item, kind) if kind else is_number(item) for item in value):
            return False
    return value.dtype.kind in "biufUO" and np.array_equal(np.unique(value), value)


def _is_binarizer(value: Any) -> bool:
    return (
        isinstance(value, LabelBinarizer)
        and value.y_type_ in ("binary", "multiclass", "multilabel-indicator")
        and isinstance(value.sparse_input_, bool | np.bool_)
        and _is_labels(value.classes_)
    )


def _is_output_config(value: Any) -> bool:
    containers = ("default", "pandas", "polars", None)
    is_named = isinstance(value, dict) and value.keys() <= {"transform"}
    return is_named and all(item in containers for item in value.values())


def _is_columns(value: Any) -> bool:
    if not isinstance(value, TableColumns):
        return value is None
    return (
        isinstance(value.categories, dict)
        and isinstance(value.gaps, list)
        and all(map(_is_count, [*value.categories, *value.gaps]))
        and all(
            isinstance(values, list)
            and all(isinstance(item, str | bool | int | float | None) for item in values)
            for values in value.categories.values()
        )
    )


def _is(*classes: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, classes)


_COUNT = _is_count, "an integer of at least 0"
_SCORE = _is_score, "a number or None"
_CURVE = _is_curve, "a list of numbers or None"
_VECTOR = _is_vector, "a vector of floating-point numbers"
_NAME = _is(str), "a name"

# The fitted state of every estimator. The attributes of scikit-learn's mixins, metadata requests
# and the output container, are not part of it: no fit sets or removes them.
FITTED_STATE: dict[str, Entry] = {
    "n_features_in_": Entry(_is_positive, "a positive integer", "data"),
    "feature_names_in_": Entry(_is_names, "a vector of strings", "data"),
    "_columns": Entry(_is_columns, "what is known of the columns, or None", "data"),
    "out_activation_": Entry(*_NAME, "data"),
    "loss_curve_": Entry(*_CURVE, "progress"),
    "best_loss_": Entry(*_SCORE, "progress"),
    "validation_scores_": Entry(*_CURVE, "progress"),
    "validation_loss_curve_": Entry(*_CURVE, "progress"),
    "best_validation_score_": Entry(*_SCORE, "progress"),
    "loss_": Entry(*_SCORE),
    "best_iter_": Entry(*_COUNT),
    "n_iter_": Entry(*_COUNT),
    "t_": Entry(*_COUNT),
    "n_layers_": Entry(*_COUNT),
    "interrupted_": Entry(_is(bool), "True or False"),
    "history_": Entry(are_epochs, "rows with numbers as losses"),
    "module_": Entry(_is(Network), "a network"),
    "_progress": Entry(_is(Progress), "the progress of a training"),
    "_fixed": Entry(_is(dict), "the parameters that may not change between calls"),
    "_optimizer": Entry(_is(torch.optim.Optimizer), "an optimiser"),
    "_optimizer_state": Entry(_is(dict), "the state of an optimiser"),
    "_home": Entry(_is(Home), "where the arrays of the last call were"),
    "_kept_engine": Entry(_is(KeptEngine), "the engine of an earlier call"),
}
SUPERVISED_STATE = {
    **FITTED_STATE,
    "n_outputs_": Entry(_is_positive, "a positive integer", "data"),
    "estimators_": Entry(_is(list), "a list of networks"),
}
REGRESSOR_STATE = {
    **SUPERVISED_STATE,
    "target_center_": Entry(*_VECTOR),
    "target_scale_": Entry(*_VECTOR),
    "quantiles_": Entry(_is_levels, "an ascending vector of levels in (0, 1)", "data"),
    "_held_out_errors": Entry(_is_cube, "errors of held-out rows", "trained network"),
}
CLASSIFIER_STATE = {
    **SUPERVISED_STATE,
    "classes_": Entry(_is_labels, "a sorted vector of numbers or texts", "data"),
    "_label_binarizer": Entry(_is_binarizer, "a fitted LabelBinarizer", "data"),
    "_class_weights": Entry(*_VECTOR),
    "temperature_": Entry(_is_temperature, "a positive number", "trained network"),
}
# Additional state of a fit with several candidates.
CANDIDATES_STATE = {
    "ensemble_weights_": Entry(*_VECTOR),
    "_candidates": Entry(_is(dict), "a table of candidates"),
}
AUTOENCODER_STATE = {
    **FITTED_STATE,
    "feature_center_": Entry(*_VECTOR, "data"),
    "feature_scale_": Entry(*_VECTOR, "data"),
    "mean_": Entry(*_VECTOR),
    "code_std_": Entry(*_VECTOR, "trained network"),
    "explained_variance_": Entry(*_VECTOR, "trained network"),
    "explained_variance_ratio_": Entry(*_VECTOR, "trained network"),
    "n_dead_units_": Entry(*_COUNT, "trained network"),
    "offset_": Entry(is_number, "a number", "trained network"),
}
_NEITHER_SET_NOR_FORGOTTEN = {
    "_metadata_request": Entry(_is(MetadataRequest), "requests for metadata"),
    "_sklearn_output_config": Entry(_is_output_config, "the container of the output"),
    "_skl_callbacks": Entry(_is(list), "a list of callbacks"),
}
# Required attributes of a fitted network, and of an ensemble.
_NETWORK = (
    "n_features_in_", "out_activation_", "n_iter_", "n_layers_", "t_", "history_", "_progress",
    "_fixed",
)  # fmt: skip
_ENSEMBLE = ("n_features_in_", "n_outputs_", "out_activation_", "n_iter_")


def fitted_state(estimator: Any) -> dict[str, Any]:
    """Return the attributes that a fit has set on an estimator, by name."""
    own = vars(estimator)
    return {name: own[name] for name in estimator._fitted_state if name in own}


def set_fitted_state(estimator: Any, state: dict[str, Any]) -> None:
    """Set the fitted state of an estimator, and delete fitted attributes that are not in it."""
    own = vars(estimator)
    forgotten = [name for name in fitted_state(estimator) if name not in state]
    own.update(state)
    for name in forgotten:
        del own[name]


def fitted_names(estimator: Any, source: str | None = None) -> list[str]:
    """Return the names of the attributes that a fit of an estimator may set.

    Parameters
    ----------
    estimator : estimator or type
    source : str, default=None
        Only those of this source, as in :class:`Entry`.
    """
    entries = estimator._fitted_state.items()
    return [name for name, entry in entries if source in (None, entry.source)]


# Consistency checks


def check_fitted_state(estimator: Any) -> None:
    """Raise a ValueError if this package cannot have produced an estimator, fitted or not.

    Called before an estimator is written to a file and after it is read.
    """
    estimator._validate_params()
    state, known = vars(estimator).copy(), estimator._fitted_state | _NEITHER_SET_NOR_FORGOTTEN
    parameters = estimator.get_params(deep=False)
    # the user's own attributes are kept, unless they would replace attributes of the package
    for name in state.keys() - known.keys() - parameters.keys():
        is_own = not name.startswith("_") and not hasattr(type(estimator), name)
        _check(is_own, f"{name} is no attribute of a {type(estimator).__name__}; delete it")
    for name in [name for name in known if name in state]:
        if not known[name].is_valid(state[name]):
            value = reprlib.repr(state[name])
            raise ValueError(f"{name} should be {known[name].what}, got {value}.")
    names = state.get("feature_names_in_")
    is_named = names is None or len(names) == state.get("n_features_in_")
    _check(is_named, "feature_names_in_ are not n_features_in_ names")
    if "estimators_" in state:
        _check_ensemble(estimator, state)
    elif "module_" in state:
        _check_network(estimator, state)
    if "_held_out_errors" in state:
        _check_held_out_errors(state)
    if "classes_" in known and state.keys() & {"estimators_", "module_"}:
        _check_classes(state)


def _check(is_right: Any, what: str) -> None:
    if not is_right:
        raise ValueError(f"{what}.")


def _check_complete(state: dict[str, Any], names: tuple[str, ...]) -> None:
    missing = [name for name in names if name not in state]
    _check(not missing, f"{missing} are missing")


def _check_classes(state: dict[str, Any]) -> None:
    """Check that the number of labels matches the number of outputs."""
    _check_complete(state, ("classes_", "_label_binarizer"))
    classes, binarizer = state["classes_"], state["_label_binarizer"]
    _check(np.array_equal(binarizer.classes_, classes), "_label_binarizer has other classes")
    n_classes, is_multilabel = len(classes), binarizer.y_type_ == "multilabel-indicator"
    is_softmax = n_classes > 2 and not is_multilabel
    _check(
        state["out_activation_"] == ("softmax" if is_softmax else "logistic")
        and state["n_outputs_"] == (n_classes if is_softmax or is_multilabel else 1),
        f"n_outputs_ and out_activation_ are not those of {n_classes} classes",
    )
    weights = state.get("_class_weights", classes)
    _check(len(weights) == n_classes, "_class_weights are not one for each class")


def _check_held_out_errors(state: dict[str, Any]) -> None:
    """Check that there is one column for each output and each quantile."""
    _check_complete(state, ("n_outputs_", "out_activation_"))
    n_levels = outputs_per_column("quantiles", state.get("quantiles_"))
    _check(
        state["_held_out_errors"].shape[1:] == (state["n_outputs_"], n_levels),
        "_held_out_errors are of other outputs",
    )


def _check_ensemble(estimator: Any, state: dict[str, Any]) -> None:
    """Check the networks of an ensemble against it; each is also checked on its own."""
    _check_complete(state, _ENSEMBLE)
    members = state["estimators_"]
    _check(members and "module_" not in state, "an ensemble has networks, and is none itself")
    weights = state.get("ensemble_weights_", members)
    _check(len(weights) == len(members), "ensemble_weights_ are not one for each network")
    for member in members:
        own = vars(member) if type(member) is type(estimator) else {}
        _check("module_" in own and "estimators_" not in own, "estimators_ holds other things")
        for name in fitted_names(estimator, "data"):
            if not name.startswith("_"):
                same = np.array_equal(np.asarray(own.get(name)), np.asarray(state.get(name)))
                _check(same, f"{name} is not that of a network of the ensemble")
        check_fitted_state(member)


def _check_network(estimator: Any, state: dict[str, Any]) -> None:
    """Check that the attributes of a single network match it."""
    _check_complete(state, _NETWORK)
    network = state["module_"]
    layers = [stage[0] for stage in network.stages()]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    is_chain = all(one[1] == other[0] for one, other in zip(sizes, sizes[1:], strict=False))
    n_layers = len(layers) + 1
    _check(is_chain and state["n_layers_"] == n_layers, "module_ has other layers")
    n_features = state["n_features_in_"]
    n_inputs = n_features
    if isinstance(network.input, TableInput):
        n_inputs = network.input.n_inputs
        _check_table(network.input, state.get("_columns"), n_features)
    elif isinstance(network, Autoencoder):
        n_inputs = _check_encoding(network, state)
    _check(sizes[0][0] == n_inputs, "module_ has other inputs")
    _check(network.is_finite(), "module_ has weights that are not finite")
    for module in network.modules():
        if isinstance(module, Dropout):
            _check(type(module.p) is float and 0 < module.p < 1, f"dropout={module.p!r} is no rate")
        if isinstance(module, torch.nn.BatchNorm1d):
            variance = module.running_var
            is_valid = variance is not None and (variance >= 0).all()
            _check(is_valid, "module_ has a negative variance")
    if isinstance(network, Autoencoder):
        _check_autoencoder(network, state)
    else:
        _check_complete(state, ("n_outputs_",))
        columns = outputs_per_column(state["out_activation_"], state.get("quantiles_"))
        n_units = state["n_outputs_"] * columns
        _check(sizes[-1][1] == n_units, "module_ has other outputs")
        _check(network.config["out_activation"] == "identity", "module_ has an output activation")
    is_autoencoder = "mean_" in estimator._fitted_state
    _check(isinstance(network, Autoencoder) == is_autoencoder, "module_ is of another class")
    if "target_scale_" in estimator._fitted_state:
        of_regressors = ("identity", "exp", "normal", "quantiles")
        _check(state["out_activation_"] in of_regressors, "out_activation_ is of no regressor")
        has_levels = state["out_activation_"] == "quantiles"
        _check(has_levels == ("quantiles_" in state), "quantiles_ are of another network")
        scales = [state[name] for name in ("target_center_", "target_scale_") if name in state]
        is_whole = len(scales) in (0, 2) and all(len(s) == state["n_outputs_"] for s in scales)
        _check(is_whole, "target_center_ and target_scale_ are not one number for each output")
    _check(state["_fixed"].keys() == estimator._fixed_parameters().keys(), "_fixed is not complete")
    state["_progress"].check()
    snapshot = state["_progress"].best_snapshot
    shapes = [tensor.shape for tensor in snapshot or ()]
    own = [tensor.shape for tensor in network.snapshot()]
    _check(snapshot is None or shapes == own, "the best weights so far are of other shapes")
    kept = state.get("_optimizer_state")
    if "_optimizer" in state:
        kept = to_arrays(state["_optimizer"].state_dict())
    if kept is not None:
        check_optimizer_state(network, state["_fixed"]["solver"], kept)


def _check_table(layer: TableInput, columns: TableColumns | None, n_features: int) -> None:
    """Check an input layer against the learned columns."""
    known = columns or TableColumns({}, [])
    used = sorted([*layer.numbers, *(column for column, _ in layer.categories)])
    _check(used == list(range(n_features)), "the input layer reads other columns")
    is_same = layer.categories == known.n_categories() and layer.gaps == known.gaps
    _check(is_same, "the input layer has other categories, or other gaps")


def _check_encoding(network: Autoencoder, state: dict[str, Any]) -> int:
    """Check how an autoencoder encodes a table; return the number of its inputs."""
    columns, categories = state.get("_columns"), network.config["categories"]
    known = [] if columns is None else columns.n_categories()
    _check(list(categories) == known, "module_ has other categories")
    n_numbers = state["n_features_in_"] - len(known)
    scales = [state[name] for name in ("feature_center_", "feature_scale_") if name in state]
    is_scaled = state["_fixed"].get("scaling") is not None and n_numbers > 0
    is_whole = len(scales) == 2 * is_scaled and all(len(s) == n_numbers for s in scales)
    is_positive = all(np.isfinite(s).all() for s in scales) and all(
        (s > 0).all() for s in scales[1:]
    )
    _check(
        is_whole and is_positive, "feature_center_ and feature_scale_ are not one for each number"
    )
    return n_numbers + sum(n for _, n in known)


def _check_autoencoder(network: Autoencoder, state: dict[str, Any]) -> None:
    _check_complete(state, ("mean_",))
    config = network.config
    encoder, decoder, noise = config["encoder"], config["decoder"], config["noise"]
    units = encoder["layer_units"]
    _check(decoder["layer_units"][-1] == units[0], "module_ reconstructs other features")
    is_mirror = not config["tied_weights"] or decoder["layer_units"] == units[::-1]
    _check(is_mirror and encoder["dtype"] == decoder["dtype"], "the decoder is of another kind")
    is_named = state["out_activation_"] == decoder["out_activation"]
    _check(is_named, "out_activation_ is not that of the decoder")
    if noise is not None:
        kinds, (kind, amount) = ("gaussian", "masking", "salt_pepper"), noise
        _check(kind in kinds and type(amount) is float and 0 < amount, f"noise={noise!r} is none")
        _check(amount < (np.inf if kind == "gaussian" else 1), f"noise={noise!r} is no share")
    dtype = np.dtype(numpy_dtype(network.flat.dtype))
    _check(state["mean_"].dtype == dtype, f"mean_ is not of {dtype}")
    names = ("code_std_", "explained_variance_", "explained_variance_ratio_")
    for name, length in {"mean_": units[0], **dict.fromkeys(names, units[-1])}.items():
        _check(name not in state or state[name].shape == (length,), f"{name} is not of {length}")
