"""What a fitted estimator consists of, and whether it fits together.

The one list of what is stored of an estimator, read when a file is written and when it is
loaded: a name that is not on it, or a value that contradicts another, is refused on both ways.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metadata_routing import MetadataRequest
from skorch.history import History

from sknn_deep._engine.optimizers import SGD, Adam
from sknn_deep._engine.solvers import TORCH_OPTIMIZERS
from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._estimators.classifier import DeepMLPClassifier
from sknn_deep._estimators.regressor import DeepMLPRegressor
from sknn_deep._files.values import check, check_keys
from sknn_deep._hardware.device import numpy_dtype
from sknn_deep._networks.flat import Network
from sknn_deep._networks.layers import ACTIVATIONS, NORMALIZATIONS, rebuild
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._training.progress import Progress

ESTIMATORS: dict[str, type[BaseDeepNetwork]] = {
    cls.__name__: cls for cls in (DeepMLPClassifier, DeepMLPRegressor, AutoencoderTransformer)
}
NETWORKS: dict[str, type[Network]] = {cls.__name__: cls for cls in (MLP, Autoencoder)}
# These are the lists of the progress of the training themselves.
_CURVES = ("loss_curve", "validation_scores", "validation_loss_curve")


def parameters_and_state(
    estimator: BaseDeepNetwork, where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of an estimator and all else that it consists of, checked.

    Raises
    ------
    TypeError, ValueError
        If the estimator is of a class, or has an attribute, that no file can hold, or is invalid.
    """
    if ESTIMATORS.get(type(estimator).__name__) is not type(estimator):
        raise TypeError(
            f"{where} is of the class {type(estimator).__qualname__}, which derives from one of "
            f"{list(ESTIMATORS)}; a file holds only these themselves. Use pickle, among people who "
            "trust each other."
        )
    parameters, state = estimator.get_params(deep=False), estimator.__getstate__().copy()
    if any(state.pop("_skl_callbacks", None) or []):
        raise TypeError(
            f"{where} has callbacks, which no file can hold; call set_callbacks() without any "
            "before saving."
        )
    for name in parameters:
        del state[name]
    _check(estimator, state, where)
    for name in _CURVES:
        state.pop(f"{name}_", None)
    return parameters, state


def make_estimator(
    class_name: Any, parameters: dict[str, Any], state: dict[str, Any], where: str
) -> BaseDeepNetwork:
    """Return the estimator that has these parameters and this state.

    Raises
    ------
    ValueError
        If there is no such estimator.
    """
    is_known = isinstance(class_name, str) and class_name in ESTIMATORS
    check(is_known, f"{where}'s class", class_name, f"one of {list(ESTIMATORS)}")
    cls = ESTIMATORS[class_name]
    unknown = set(parameters) - set(cls._get_param_names())
    check(not unknown, f"{where}'s parameters", unknown, f"those of {class_name}")
    estimator = cls(**parameters)
    _check(estimator, state, where)
    vars(estimator).update(state)
    if "best_loss_" in state:
        _check_names(state, {"_progress"}, where)
        for name in _CURVES:
            setattr(estimator, f"{name}_", getattr(estimator._progress, name))
    return estimator


def make_network(
    class_name: Any, config: Any, arrays: dict[str, np.ndarray], where: str
) -> Network:
    """Return a network, having checked first that it is as large as its arrays.

    Raises
    ------
    ValueError
        If configuration and arrays contradict each other.
    """
    is_known = isinstance(class_name, str) and class_name in NETWORKS
    check(is_known, f"{where}'s class", class_name, f"one of {list(NETWORKS)}")
    cls = NETWORKS[class_name]
    where = f"{where}'s configuration"
    n_arrays, n_elements = len(arrays), sum(array.size for array in arrays.values())
    if cls is MLP:
        _check_stack(config, n_arrays, n_elements, where)
        check(config["out_activation"] == "identity", where, config, "without an output activation")
    else:
        _check_autoencoder(config, n_arrays, n_elements, where)
    expected = {name: _kind(tensor.numpy()) for name, tensor in cls(**config).learned().items()}
    present = {name: _kind(array) for name, array in arrays.items()}
    wrong = sorted(
        name for name in expected.keys() | present if expected.get(name) != present.get(name)
    )
    check(not wrong, where, wrong, "that of the arrays")
    return rebuild(cls, config, arrays)


def _kind(array: np.ndarray) -> tuple:
    return array.shape, array.dtype


def _check_stack(config: Any, n_arrays: int, n_elements: int, where: str) -> None:
    """Check the configuration of dense layers; it may ask for no more than what is there."""
    names = {"layer_units", "activations", "dropout", "normalization", "out_activation", "dtype"}
    check_keys(config, names, where)
    units, activations, dropout = (config[key] for key in ("layer_units", "activations", "dropout"))
    is_sizes = isinstance(units, tuple) and 2 <= len(units) <= 1 + n_arrays // 2
    check(is_sizes and all(map(_is_positive, units)), where, units, "the units of each layer")
    n_weights = sum(n_in * n_out for n_in, n_out in pairwise(units))
    check(n_weights <= n_elements, where, units, f"layers of at most {n_elements} weights")
    per_layer = isinstance(activations, tuple) and isinstance(dropout, tuple)
    per_layer = per_layer and len(activations) == len(dropout) == len(units) - 2
    check(per_layer, where, (activations, dropout), "one for each hidden layer")
    for name in (*activations, config["out_activation"]):
        check(isinstance(name, str) and name in ACTIVATIONS, where, name, "an activation")
    is_rate = all(type(rate) is float and 0 <= rate < 1 for rate in dropout)
    check(is_rate, where, dropout, "rates of dropout")
    normalization = config["normalization"]
    is_known = normalization is None or normalization in list(NORMALIZATIONS)
    check(is_known, where, normalization, f"None or one of {list(NORMALIZATIONS)}")
    check(isinstance(config["dtype"], torch.dtype), where, config["dtype"], "a dtype")


def _check_autoencoder(config: Any, n_arrays: int, n_elements: int, where: str) -> None:
    switches = {"allow_nan", "tied_weights", "variational", "contractive"}
    check_keys(config, {"encoder", "decoder", "noise", *switches}, where)
    encoder, decoder, noise = (config[name] for name in ("encoder", "decoder", "noise"))
    _check_stack(encoder, 2 * n_arrays, n_elements, f"{where} of the encoder")
    _check_stack(decoder, 2 * n_arrays, n_elements, f"{where} of the decoder")
    units, decoder_units = encoder["layer_units"], decoder["layer_units"]
    ends = units[0] == decoder_units[-1] and units[-1] == decoder_units[0]
    check(ends and encoder["dtype"] == decoder["dtype"], where, decoder, "two halves that fit")
    is_noise = noise is None or (
        isinstance(noise, tuple)
        and len(noise) == 2
        and noise[0] in ("gaussian", "masking", "salt_pepper")
        and type(noise[1]) is float
        and 0 < noise[1] < (math.inf if noise[0] == "gaussian" else 1)
    )
    check(is_noise, where, noise, "a kind of noise and its amount")
    for name in switches:
        check(isinstance(config[name], bool), f"{where}, {name}", config[name], "True or False")
    is_mirrored = units == decoder_units[::-1] or not config["tied_weights"]
    check(is_mirrored, where, decoder_units, f"the mirror of {units}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_integer(value) and value >= 1


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    return value is None or _is_number(value)


def _is_vector(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind == "f"


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.ndim == 1
        and value.dtype == object
        and all(isinstance(name, str) for name in value)
    )


def _is_labels(value: Any) -> bool:
    """Return whether a value can be the classes: a sorted vector without duplicates."""
    if not (isinstance(value, np.ndarray) and value.ndim == 1 and value.size):
        return False
    if value.dtype == object:
        is_alike = all(isinstance(item, str) for item in value) or all(map(_is_number, value))
        is_alike = is_alike or all(isinstance(item, bool) for item in value)
        return is_alike and np.array_equal(np.unique(value), value)
    return value.dtype.kind in "biufU" and np.array_equal(np.unique(value), value)


def _is_binarizer(value: Any) -> bool:
    kinds = ("binary", "multiclass", "multilabel-indicator")
    return (
        isinstance(value, LabelBinarizer)
        and value.y_type_ in kinds
        and isinstance(value.sparse_input_, bool | np.bool_)
        and _is_labels(value.classes_)
    )


def _is_progress(value: Any) -> bool:
    curves = ("validation_scores", "validation_loss_curve")
    return (
        isinstance(value, Progress)
        and _is_curve(value.loss_curve)
        and all(getattr(value, name) is None or _is_curve(getattr(value, name)) for name in curves)
        and all(_is_score(getattr(value, name)) for name in ("best_loss", "best_validation_score"))
        and (value.validation_scores is None) == (value.best_validation_score is None)
        and (value.validation_scores is None) == (value.validation_loss_curve is None)
        and all(map(_is_count, (value.best_iter, value.no_improvement_count, value.n_samples_seen)))
        and isinstance(value.watching, bool)
    )


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_fixed(value: Any) -> bool:
    solvers = (str, type)
    return (
        isinstance(value, dict)
        and all(isinstance(name, str) for name in value)
        and isinstance(value.get("dtype"), str)
        and isinstance(value.get("solver"), solvers)
        and all(isinstance(item, bool | str | type) for item in value.values())
    )


def _is_output_config(value: Any) -> bool:
    containers = ("default", "pandas", "polars", None)
    return (
        isinstance(value, dict)
        and set(value) <= {"transform"}
        and all(item in containers for item in value.values())
    )


_COMMON: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_features_in_": (_is_positive, "a positive integer"),
    "feature_names_in_": (_is_names, "a vector of strings"),
    "out_activation_": (lambda value: isinstance(value, str), "a name"),
    "n_iter_": (_is_count, "an integer"),
    "n_layers_": (_is_count, "an integer"),
    "t_": (_is_count, "an integer"),
    "best_iter_": (_is_count, "an integer"),
    "interrupted_": (lambda value: isinstance(value, bool), "a boolean"),
    "loss_": (_is_score, "a number"),
    "best_loss_": (_is_score, "a number"),
    "best_validation_score_": (_is_score, "a number"),
    "loss_curve_": (_is_curve, "a list of numbers"),
    "validation_scores_": (lambda value: value is None or _is_curve(value), "a list of numbers"),
    "validation_loss_curve_": (
        lambda value: value is None or _is_curve(value),
        "a list of numbers",
    ),
    "history_": (lambda value: isinstance(value, History | None), "a history"),
    "module_": (lambda value: isinstance(value, Network), "a network"),
    "_progress": (_is_progress, "the progress of a training"),
    "_fixed": (_is_fixed, "the parameters that a network was fitted with"),
    "_optimizer_state": (lambda value: isinstance(value, dict), "a dict"),
    "_metadata_request": (lambda value: isinstance(value, MetadataRequest), "requests"),
    "_sklearn_output_config": (_is_output_config, "the container of the output"),
}
_SUPERVISED = {
    **_COMMON,
    "n_outputs_": (_is_positive, "a positive integer"),
    "estimators_": (lambda value: isinstance(value, list) and value, "a list of networks"),
}
_STATE = {
    DeepMLPClassifier: {
        **_SUPERVISED,
        "classes_": (_is_labels, "a sorted vector of labels"),
        "_label_binarizer": (_is_binarizer, "a fitted LabelBinarizer"),
        "_class_weights": (_is_vector, "a vector"),
    },
    DeepMLPRegressor: _SUPERVISED,
    AutoencoderTransformer: {
        **_COMMON,
        "mean_": (_is_vector, "a vector"),
        "code_std_": (_is_vector, "a vector"),
        "explained_variance_": (_is_vector, "a vector"),
        "explained_variance_ratio_": (_is_vector, "a vector"),
        "n_dead_units_": (_is_count, "an integer"),
    },
}
_TRAINED = {
    "n_features_in_",
    "out_activation_",
    "n_iter_",
    "n_layers_",
    "t_",
    "_progress",
    "_fixed",
}
_ENSEMBLE = {"n_features_in_", "n_outputs_", "out_activation_", "n_iter_"}


def _check(estimator: BaseDeepNetwork, state: dict[str, Any], where: str) -> None:
    """Check parameters and state, name by name and together."""
    known = _STATE[type(estimator)]
    unknown = set(state) - set(known)
    if unknown:
        raise ValueError(
            f"{where} has attributes that are none of {type(estimator).__name__}'s: "
            f"{sorted(unknown)}; a file would not hold them. Delete them first."
        )
    for name, value in state.items():
        is_right, what = known[name]
        check(is_right(value), f"{where}.{name}", value, what)
    estimator._validate_params()
    if "feature_names_in_" in state:
        n_names, n_features = len(state["feature_names_in_"]), state.get("n_features_in_")
        check(n_names == n_features, f"{where}.feature_names_in_", n_names, f"{n_features} names")
    if isinstance(estimator, DeepMLPClassifier) and ("module_" in state or "estimators_" in state):
        _check_classes(state, where)
    if "estimators_" in state:
        _check_ensemble(estimator, state, where)
    elif "module_" in state:
        _check_trained(estimator, state, where)


def _check_names(state: dict[str, Any], required: set[str], where: str) -> None:
    missing = sorted(required - set(state))
    check(not missing, where, missing, "complete, without anything missing")


def _check_classes(state: dict[str, Any], where: str) -> None:
    """Check that the labels are as many as the outputs of the network."""
    _check_names(state, {"classes_", "_label_binarizer", "n_outputs_", "out_activation_"}, where)
    classes, binarizer = state["classes_"], state["_label_binarizer"]
    n_classes, n_outputs = len(classes), state["n_outputs_"]
    if binarizer.y_type_ == "multilabel-indicator":
        fits = len(binarizer.classes_) == n_outputs and state["out_activation_"] == "logistic"
    elif state["out_activation_"] == "softmax":
        fits = n_classes == n_outputs > 2
    else:
        fits = n_classes <= 2 and n_outputs == 1 and state["out_activation_"] == "logistic"
    check(fits, f"{where}.classes_", classes, f"labels for {n_outputs} output(s)")
    if "_class_weights" in state:
        shape = state["_class_weights"].shape
        check(shape == (n_classes,), f"{where}._class_weights", shape, f"{n_classes} numbers")


def _check_ensemble(estimator: BaseDeepNetwork, state: dict[str, Any], where: str) -> None:
    """Check that the networks of an ensemble are of one kind."""
    _check_names(state, _ENSEMBLE, where)
    check("module_" not in state, where, "module_", "one network or several, not both")
    for network in state["estimators_"]:
        is_alike = type(network) is type(estimator) and "module_" in vars(network)
        check(is_alike, f"{where}.estimators_", network, "fitted networks of its own class")
        for name in ("n_features_in_", "n_outputs_", "out_activation_", "classes_"):
            same = np.array_equal(getattr(network, name, None), state.get(name))
            check(same, f"{where}.estimators_", getattr(network, name, None), f"alike in {name}")


def _check_trained(estimator: BaseDeepNetwork, state: dict[str, Any], where: str) -> None:
    """Check that what belongs to a network fits it."""
    _check_names(state, _TRAINED | {"history_"}, where)
    network, n_features = state["module_"], state["n_features_in_"]
    layers = network.stages()
    n_inputs, n_outputs = layers[0][0].in_features, layers[-1][0].out_features
    check(n_inputs == n_features, f"{where}.module_", n_inputs, f"a network of {n_features} inputs")
    n_layers = len(layers) + 1
    check(state["n_layers_"] == n_layers, f"{where}.n_layers_", state["n_layers_"], str(n_layers))
    _check_finite(network, where)
    if isinstance(estimator, AutoencoderTransformer):
        _check_reconstruction(network, state, where)
    else:
        _check_names(state, {"n_outputs_"}, where)
        expected = state["n_outputs_"] if isinstance(network, MLP) else None
        check(n_outputs == expected, f"{where}.module_", n_outputs, f"one of {expected} outputs")
        if isinstance(estimator, DeepMLPRegressor):
            name = state["out_activation_"]
            check(name in ("identity", "exp"), f"{where}.out_activation_", name, "identity or exp")
    fixed, expected = sorted(state["_fixed"]), sorted(estimator._fixed_parameters())
    check(fixed == expected, f"{where}._fixed", fixed, f"values of {expected}")
    snapshot = state["_progress"].best_snapshot
    if snapshot is not None:
        is_list = isinstance(snapshot, list)
        shapes = [getattr(tensor, "shape", None) for tensor in snapshot] if is_list else None
        own = [tensor.shape for tensor in network.snapshot()]
        check(shapes == own, f"{where}._progress.best_snapshot", shapes, f"of the shapes {own}")
    if "_optimizer_state" in state:
        solver, moments = state["_fixed"]["solver"], state["_optimizer_state"]
        _check_optimizer(network, solver, moments, f"{where}._optimizer_state")


def _check_finite(network: Network, where: str) -> None:
    for name, tensor in network.learned().items():
        is_finite = not tensor.is_floating_point() or bool(tensor.isfinite().all())
        check(is_finite, f"{where}.module_.{name}", tensor, "finite")
        is_variance = name.endswith("running_var")
        is_right = not is_variance or bool((tensor >= 0).all())
        check(is_right, f"{where}.module_.{name}", tensor, "no negative number")


def _check_reconstruction(network: Network, state: dict[str, Any], where: str) -> None:
    _check_names(state, {"mean_"}, where)
    is_autoencoder = isinstance(network, Autoencoder)
    check(is_autoencoder, f"{where}.module_", type(network).__name__, "an Autoencoder")
    activation = network.config["decoder"]["out_activation"]
    name = state["out_activation_"]
    check(name == activation, f"{where}.out_activation_", name, repr(activation))
    dtype = np.dtype(numpy_dtype(network.flat.dtype))
    check(state["mean_"].dtype == dtype, f"{where}.mean_", state["mean_"].dtype, f"of {dtype}")
    n_components = network.config["decoder"]["layer_units"][0]
    for name, length in (
        ("mean_", state["n_features_in_"]),
        ("code_std_", n_components),
        ("explained_variance_", n_components),
        ("explained_variance_ratio_", n_components),
    ):
        if name in state:
            shape = state[name].shape
            check(shape == (length,), f"{where}.{name}", shape, f"{length} numbers")


def _check_optimizer(network: Network, solver: str | type, state: Any, where: str) -> None:
    """Check an optimiser's state, without making one: the first of torch's takes a second."""
    kinds, shapes = [_KINDS_OF_SOLVER.get(solver, solver)], [_shapes([network.flat])]
    if solver == "muon":
        matrices, others = map(_shapes, network.hidden_matrices_and_others())
        kinds, shapes = [torch.optim.Muon, torch.optim.Adam], [matrices, others]
        if not matrices:
            kinds, shapes = kinds[1:], shapes[1:]
        check_keys(state, {"parts"}, where)
    elif not isinstance(solver, str):
        shapes = [_shapes(network.parameters())]
    check(isinstance(kinds[0], type), where, solver, "of a solver that keeps one")
    parts = state["parts"] if solver == "muon" else [state]
    is_list = isinstance(parts, list) and len(parts) == len(kinds)
    check(is_list, where, parts, f"{len(kinds)} parts")
    for part, kind, part_shapes in zip(parts, kinds, shapes, strict=True):
        check_keys(part, {"state", "param_groups"}, where)
        _check_group(part["param_groups"], kind, list(range(len(part_shapes))), where)
        check(isinstance(part["state"], dict), where, part["state"], "a dict")
        for number, moments in part["state"].items():
            is_number = type(number) is int and 0 <= number < len(part_shapes)
            check(is_number and isinstance(moments, dict), where, number, "a parameter's number")
            if kind in _MOMENTS:
                _check_moments(moments, *_MOMENTS[kind], part_shapes[number], where)


_KINDS_OF_SOLVER = {"sgd": SGD, "adam": Adam, **TORCH_OPTIMIZERS}
# Of the optimisers with a name: the numbers, the moments, and those that an option adds.
_MOMENTS: dict[type, tuple[set[str], set[str], set[str]]] = {
    SGD: (set(), {"velocity"}, set()),
    Adam: ({"step"}, {"m", "v"}, set()),
    torch.optim.Adam: ({"step"}, {"exp_avg", "exp_avg_sq"}, {"max_exp_avg_sq"}),
    torch.optim.NAdam: ({"step", "mu_product"}, {"exp_avg", "exp_avg_sq"}, set()),
    torch.optim.RAdam: ({"step"}, {"exp_avg", "exp_avg_sq"}, set()),
    torch.optim.RMSprop: ({"step"}, {"square_avg"}, {"momentum_buffer", "grad_avg"}),
    torch.optim.Adagrad: ({"step"}, {"sum"}, set()),
    torch.optim.Muon: (set(), {"momentum_buffer"}, set()),
}


def _shapes(tensors: Iterable[torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def _check_group(groups: Any, kind: type, params: list[int], where: str) -> None:
    """Check the options of an optimiser, which its constructor names; schedulers add numbers."""
    is_one = isinstance(groups, list) and len(groups) == 1 and isinstance(groups[0], dict)
    check(is_one, f"{where}, param_groups", groups, "a list of one dict")
    (group,) = groups
    check(group.get("params") == params, f"{where}, params", group.get("params"), str(params))
    _, _, *options = inspect.signature(kind.__init__).parameters.values()
    missing = sorted({option.name for option in options} - set(group))
    check(not missing, f"{where}, param_groups", missing, "complete, without anything missing")
    like = {option.name: option.default for option in options}
    for name, value in group.items():
        if name != "params":
            check(_is_option(value, like.get(name)), f"{where}, {name}", value, "a valid option")


def _is_option(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and len(value) == len(default)
    if _is_number(default):
        return _is_number(value) and math.isfinite(value)
    if isinstance(value, tuple | list):
        return all(map(_is_number, value))
    return value is None or isinstance(value, bool | str) or _is_number(value)


def _check_moments(
    moments: dict[Any, Any],
    numbers: set[str],
    arrays: set[str],
    optional: set[str],
    shape: tuple[int, ...],
    where: str,
) -> None:
    required = numbers | arrays
    has_all = required <= set(moments) <= required | optional
    check(has_all, where, list(moments), f"the moments {sorted(required)}")
    for name, value in moments.items():
        if name in numbers:
            is_number = _is_number(value) or isinstance(value, np.ndarray) and value.shape == ()
            check(is_number, where, value, f"a number named {name}")
        elif value is not None:  # torch keeps a place for what it does not use
            is_moment = isinstance(value, np.ndarray) and value.dtype.kind == "f"
            check(is_moment and value.shape == shape, where, value, f"{name} of shape {shape}")


def progress_fields() -> tuple[str, ...]:
    """Return the names of what a progress consists of."""
    return tuple(field.name for field in dataclasses.fields(Progress))
