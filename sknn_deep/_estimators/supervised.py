"""What the classifier and the regressor share: one network or several, compared with targets.

``coefs_`` and ``intercepts_`` are properties over the network's weights. The weights exist only
once, in ``module_``, so a snapshot, a pickle and a callback cannot disagree.

``clone`` deliberately unfits ``init_from``: scikit-learn clones estimators among the parameters, so
a fitted autoencoder becomes unfitted in every search. Defining ``__sklearn_clone__`` would change
the meaning of ``clone`` for autoencoders, or hide that a source is shared. scikit-learn provides
``FrozenEstimator`` for fitted estimators, and the error message names it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import DataConversionWarning
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sknn_deep._engine.features import Features
from sknn_deep._engine.samples import Samples
from sknn_deep._estimators.array_api import keeps_namespace
from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.column_statistics import refuse_wide_sparse, rows_to_scale_by
from sknn_deep._estimators.ensemble import check_same_number, fit_ensemble, mean
from sknn_deep._estimators.fitted_attributes import FittedMLP
from sknn_deep._estimators.fitted_state import SUPERVISED_STATE
from sknn_deep._estimators.parameters import SharedParameters
from sknn_deep._estimators.rows import check_overflow
from sknn_deep._estimators.table_columns import (
    TableColumns,
    check_inputs,
    feature_names,
    learn_columns,
)
from sknn_deep._estimators.types import (
    CategoricalFeatures,
    MatrixLike,
    NumericEmbeddingName,
    ScalingName,
)
from sknn_deep._networks.linear import Linear
from sknn_deep._networks.models import MLP, Autoencoder
from sknn_deep._networks.number_inputs import BASES, SCALINGS
from sknn_deep._networks.table_input import TableInput
from sknn_deep._sklearn import HasMethods, Interval, StrOptions
from sknn_deep._user_warnings import warn_user
from sknn_deep._wording import counted

# Enough rows to estimate the standard deviation of a layer's outputs.
_MAX_ROWS = 2000
# Device on which a layer takes no memory, to compute its size.
_META = torch.device("meta")


@dataclass(eq=False, repr=False, kw_only=True)
class SupervisedParameters(SharedParameters):
    """The keyword-only parameters of the classifier and the regressor."""

    init_from: AutoencoderTransformer | FrozenEstimator | None = None
    n_networks: int = 1
    categorical_features: CategoricalFeatures = "from_dtype"
    allow_nan: bool = False
    scaling: ScalingName | None = None
    numeric_embedding: NumericEmbeddingName | None = None
    numeric_embedding_size: int = 12
    n_bins: int = 48
    n_frequencies: int = 16
    frequency_scale: float = 0.1
    max_one_hot: int = 9
    category_embedding_size: int = 8
    embedding_weight_decay: float = 0.0
    learned_scales: bool = False


class BaseDeepMLP(SupervisedParameters, FittedMLP, BaseDeepNetwork):
    """A supervised network, or an ensemble of ``n_networks``.

    Whether there are several depends on what was fitted, not on the parameter, which may have been
    changed since.
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepNetwork._parameter_constraints,
        "init_from": [HasMethods(["transform", "inverse_transform"]), None],
        "n_networks": [Interval(Integral, 1, None, closed="left")],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "allow_nan": ["boolean"],
        "scaling": [StrOptions(set(SCALINGS)), None],
        "numeric_embedding": [StrOptions(set(BASES)), None],
        "numeric_embedding_size": [Interval(Integral, 1, None, closed="left")],
        "n_bins": [Interval(Integral, 1, None, closed="left")],
        "n_frequencies": [Interval(Integral, 1, None, closed="left")],
        "frequency_scale": [Interval(Real, 0, None, closed="neither")],
        "max_one_hot": [Interval(Integral, 0, None, closed="left")],
        "category_embedding_size": [Interval(Integral, 1, None, closed="left")],
        "embedding_weight_decay": [Interval(Real, 0, None, closed="left")],
        "learned_scales": ["boolean"],
    }
    _network_class = MLP
    _uses_known_output = True
    _fitted_state = SUPERVISED_STATE

    @property
    def _networks(self) -> list[Any]:
        return vars(self).get("estimators_", [self])

    if not TYPE_CHECKING:  # a type checker would conclude that every attribute exists

        def __getattr__(self, name: str):
            # called only for missing attributes: point to those that the ensemble's networks have
            networks = vars(self).get("estimators_")
            is_fitted_name = name.endswith("_") and not name.startswith("_")
            if networks and is_fitted_name and hasattr(networks[0], name):
                raise AttributeError(
                    f"An ensemble has no {name}, each of its networks has one: "
                    f"see estimators_[0].{name} to estimators_[{len(networks) - 1}].{name}."
                )
            return super().__getattribute__(name)  # raises the usual error

    @property
    def coefs_(self) -> list[np.ndarray]:
        """Weight matrix of each layer, of shape (n_in, n_out)."""
        check_is_fitted(self)
        return [layer.weight.detach().cpu().numpy().T for layer in self.module_.linear_layers()]

    @property
    def intercepts_(self) -> list[np.ndarray]:
        """Bias of each layer, of shape (n_out,)."""
        check_is_fitted(self)
        return [layer.bias.detach().cpu().numpy() for layer in self.module_.linear_layers()]

    def get_feature_names_out(self, input_features: "ArrayLike | None" = None) -> np.ndarray:
        """Return a name for each input of the first layer, a row of ``coefs_[0]``.

        They are the features themselves, unless some hold categories or ``scaling``,
        ``numeric_embedding`` or ``allow_nan`` is set. Then numbers come first, "age" and
        "age_is_missing" or the parts of a vector "age_0", "age_1", then indicators of categories
        "kind_a", and the parts of their vectors "place_0".

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the features, if the training data had none.

        Returns
        -------
        names : ndarray of str
        """
        check_is_fitted(self)
        features = feature_names(self, input_features)
        layers = [network.module_.input for network in self._networks]
        columns = vars(self).get("_columns")
        values = {} if columns is None else columns.categories
        of_networks = [features if own is None else own.names(features, values) for own in layers]
        if any(names != of_networks[0] for names in of_networks):
            raise ValueError(
                f"The {len(layers)} networks of this ensemble embed their inputs in different "
                "ways: ask each of estimators_ for its names."
            )
        return np.array(of_networks[0], dtype=object)

    @keeps_namespace
    def hidden_activations(self, X: "MatrixLike", layer: int = -1) -> np.ndarray:
        """Return the activations of a hidden layer: features that the network has learned.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        layer : int, default=-1
            Number of the hidden layer, from 0; negative numbers count from the last, in an ensemble
            from the last of each network.

        Returns
        -------
        activations : ndarray of shape (n_samples, n_units)
            After normalisation and activation, in the network's floating-point type. For an
            ensemble, those of ``estimators_[0]``, ``estimators_[1]`` and so on side by side: units
            of different networks mean different things and cannot be averaged.

        See Also
        --------
        sknn_deep.HiddenActivations : The same as a step of a pipeline.
        """
        features = self._validate_input(X)
        networks = self._networks
        n_layers = [hidden_layer_number(network, layer) + 1 for network in networks]
        parts = [
            self._map_rows(network.module_.up_to(n), features, network.module_, may_be_sparse=True)
            for network, n in zip(networks, n_layers, strict=True)
        ]
        for part in parts:
            check_overflow(part, features, "vector of hidden activations")
        if len(parts) == 1:
            return parts[0]
        side_by_side: Any = torch.hstack if isinstance(parts[0], Tensor) else np.hstack
        return side_by_side(parts)

    def _n_hidden_units(self, layer: int) -> int:
        """Return how many columns :meth:`hidden_activations` has."""
        of_each = [
            network.module_.config["layer_units"][hidden_layer_number(network, layer) + 1]
            for network in self._networks
        ]
        return sum(of_each)

    def _check_combinations(self, call: Call) -> None:
        super()._check_combinations(call)
        if self.n_networks > 1 and self.callbacks:
            raise ValueError(
                f"n_networks={self.n_networks} does not support callbacks={self.callbacks!r}: a "
                "skorch callback follows a single network. Use callbacks=None, or n_networks=1."
            )

    def _reason_to_train_alone(self) -> str:
        if self.n_networks == 1:
            return ""
        return f"n_networks={self.n_networks} is an ensemble, trained by itself"

    def _params_of_networks(self) -> list[dict[str, Any]]:
        return [{} for _ in range(self.n_networks)]

    def _fit_networks(self, call: Call) -> None:
        if self.__sklearn_is_fitted__() and (call.incremental or self.warm_start):
            check_same_number(self, len(self._networks))
        if self.n_networks > 1:
            fit_ensemble(self, call)
        else:
            super()._fit_networks(call)

    def _map_networks(self, function: Callable[[Any], Any] | None, X: Features) -> Iterator[Any]:
        """Apply a function to the raw output of each network, for validated rows.

        The function takes tensors or NumPy arrays, and returns the same type.
        """
        rows, known = vars(self).get("_known_output", (None, None))
        if rows is X:
            raw = known.copy()  # the caller may overwrite it
            yield raw if function is None else function(raw)
            return
        for network in self._networks:
            module = vars(network)["module_"]
            raw = self._output_by_numpy(module, X, module.flat.device)
            if raw is not None:
                yield raw if function is None else function(raw)
                continue

            def apply(rows: Tensor, module: Any = module) -> Tensor:
                raw: Tensor = module.outputs(rows, X.check)
                return raw if function is None else function(raw)

            output = self._map_rows(apply, X, module, may_be_sparse=True)
            check_overflow(output, X)
            yield output

    def _network_config(self, n_features: int, dtype: torch.dtype) -> dict[str, Any]:
        hidden = self._hidden_sizes("hidden_layer_sizes")
        activations, dropout = self._layer_options(len(hidden))
        inputs = self._input_config(n_features)
        n_inputs = n_features if inputs is None else TableInput(**inputs, device=_META).n_inputs
        check_inputs(n_inputs)
        return {
            "layer_units": (n_inputs, *hidden, self._n_output_units()),
            "input": inputs,
            "activations": tuple(activations),
            "dropout": tuple(dropout),
            "normalization": self.normalization,
            "out_activation": "identity",
            "dtype": dtype,
        }

    def _n_output_units(self) -> int:
        """Return the units of the output layer that the parameters ask for."""
        return self.n_outputs_

    # ------------------------------------------------------------------ tables

    @property
    def _ensure_all_finite(self) -> bool | str:  # type: ignore[override]
        # a fitted network without an input layer would propagate NaN, even if the parameter was set
        # later
        fitted = self.__sklearn_is_fitted__()
        reads_gaps = not fitted or self._networks[0].module_.input is not None
        return "allow-nan" if self.allow_nan and reads_gaps else True

    def _embedding_weight_decay(self) -> float:
        return self.embedding_weight_decay

    def _learn_columns(self, X: Any) -> TableColumns | None:
        return learn_columns(X, self.categorical_features)

    def _learn_gaps(self, X: Features) -> TableColumns | None:
        refuse_wide_sparse(X, scaling=self.scaling, numeric_embedding=self.numeric_embedding)
        columns = self._columns
        if not self.allow_nan:
            return columns
        categories = {} if columns is None else columns.categories
        return TableColumns(categories, np.flatnonzero(X.missing()).tolist())

    def _mean(self, outputs: Iterable[Any]) -> Any:
        """Return the mean over the networks, weighted if the ensemble has weights."""
        return mean(outputs, vars(self).get("ensemble_weights_"))

    def _input_config(self, n_features: int) -> dict[str, Any] | None:
        """Return the arguments of the network's input layer, or None if it needs none."""
        columns = vars(self).get("_columns") or TableColumns({}, [])
        is_plain = not columns.categories and not self.allow_nan
        is_plain = is_plain and self.scaling is None and self.numeric_embedding is None
        if is_plain and not self.learned_scales:
            return None
        is_periodic = self.numeric_embedding == "periodic"
        return {
            "numbers": tuple(j for j in range(n_features) if j not in columns.categories),
            "gaps": tuple(columns.gaps),
            "categories": tuple(columns.n_categories()),
            "scaling": self.scaling,
            "embedding": self.numeric_embedding,
            "n_functions": int(self.n_frequencies if is_periodic else self.n_bins),
            "number_size": int(self.numeric_embedding_size),
            "frequency_scale": float(self.frequency_scale),
            "max_one_hot": int(self.max_one_hot),
            "category_size": int(self.category_embedding_size),
            "learned_scales": self.learned_scales,
        }

    def _learn_scales(self, samples: Samples, rows: np.ndarray | None) -> None:
        layer, X = self.module_.input, samples.X
        if isinstance(layer, TableInput):
            layer.learn(*rows_to_scale_by(X, samples.given_weight, rows))

    # ------------------------------------------------------------------ the start

    def _initial_activations(self) -> list[str]:
        # the output layer is initialised for the hidden activation, as in scikit-learn
        hidden = self.module_.config["activations"]
        last = hidden[-1] if hidden else self.activation
        return [*hidden, last]

    def _prepare_network(self, samples: Samples) -> None:
        if self.init_from is None:
            return
        if self.module_.input is not None:
            raise ValueError(
                f"init_from={self.init_from!r} has learned from plain numbers: X must have no "
                "categories, and scaling, numeric_embedding, learned_scales and allow_nan must be "
                "at their defaults."
            )
        encoder, hidden = self._source_layers(), self.module_.stages()[:-1]
        self._check_source(encoder)
        shared = []
        for source, own in zip(encoder, hidden, strict=False):
            if source[0].out_features == own[0].out_features:
                shared.append(own[0])
                for part, own_part in zip(source[:2], own[:2], strict=True):  # and normalisation
                    if part is not None and own_part is not None:
                        own_part.load_state_dict(part.state_dict())
        if self.normalization is None:
            flat, some = self.module_.flat, slice(None, None, -(-len(samples.X) // _MAX_ROWS))
            _scale_outputs(self.module_, shared, samples.X.to(some, flat.device, flat.dtype))

    def _source_layers(self) -> list[tuple]:
        """Return the stages of ``init_from``'s fitted encoder, ending with the code."""
        source: Any = self.init_from
        check_is_fitted(
            source,
            msg="init_from=%(name)s(...) is not fitted. clone, cross-validation and searches make "
            "unfitted copies of estimators among the parameters: pass "
            "init_from=FrozenEstimator(autoencoder), of sklearn.frozen, which they leave alone.",
        )
        if not hasattr(source, "encoder_"):
            raise ValueError(
                f"init_from={source!r} has no encoder; pass a fitted AutoencoderTransformer."
            )
        if source._encoding is not None:
            raise ValueError(
                f"init_from={source!r} has encoded its table, by scaling={source.scaling!r} or "
                "indicators of categories, and its layers read that. Pass an autoencoder of plain "
                "numbers, and the same numbers to fit."
            )
        network: Autoencoder = source.module_
        return network.stages()[: network.code_layer + 1]

    def _check_source(self, encoder: list[tuple]) -> None:
        """Refuse an encoder whose hidden layers do not match the first layers of the network."""
        config = self.module_.config
        n_features, *own = config["layer_units"][:-1]
        sizes = [linear.out_features for linear, *_ in encoder]
        n_hidden = max(1, len(sizes) - 1)  # a linear encoder has only the code
        if encoder[0][0].in_features != n_features:
            raise ValueError(
                f"init_from was fitted on {counted(encoder[0][0].in_features, 'feature')}, but X "
                f"has {n_features}; pass an autoencoder of the same features."
            )
        if own[:n_hidden] != sizes[:n_hidden]:
            raise ValueError(
                f"hidden_layer_sizes={tuple(own)} must begin with "
                f"{counted(n_hidden, 'layer')} of init_from, {tuple(sizes[:n_hidden])}; the code "
                f"of {counted(sizes[-1], 'unit')} may follow."
            )
        source: Any = self.init_from
        learned = source.module_.config["encoder"]
        for name, present, asked in (
            ("activation", learned["activations"], config["activations"][: len(sizes) - 1]),
            ("normalization", learned["normalization"], config["normalization"]),
        ):
            if present != asked and len(sizes) > 1:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not that of init_from, whose layers have "
                    f"learned with {present!r}; pass the same."
                )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.allow_nan
        return tags


def hidden_layer_number(estimator: Any, layer: int) -> int:
    """Return the number of a hidden layer of a fitted network, from 0."""
    n_hidden = len(estimator.module_.config["activations"])
    is_number = isinstance(layer, Integral) and not isinstance(layer, bool)
    if not (is_number and -n_hidden <= layer < n_hidden):
        raise ValueError(
            f"layer={layer!r} is not a hidden layer of a network that has {n_hidden}; choose an "
            f"integer from {-n_hidden} to {n_hidden - 1}."
            if n_hidden
            else f"layer={layer!r} is not a hidden layer: the network has none."
        )
    return int(layer) % n_hidden


def column_as_1d(y: np.ndarray) -> np.ndarray:
    """Return targets of shape (n_samples, 1) as (n_samples,), with scikit-learn's warning."""
    if y.ndim != 2 or y.shape[1] != 1:
        return y
    warn_user(
        "A column-vector y was passed when a 1d array was expected. Please change the shape of y "
        "to (n_samples, ), for example using ravel().",
        DataConversionWarning,
    )
    return y.ravel()


def _scale_outputs(network: MLP, layers: list[Linear], x: Tensor) -> None:
    """Divide layers by the standard deviation of their outputs, so that it is one [1]_.

    An encoder's outputs vary several times as much as those of a randomly initialised network, so
    the first steps at a usual learning rate would destroy what it has learned.

    Parameters
    ----------
    network : MLP
    layers : list of Linear
        The first dense layers of the network.
    x : Tensor of shape (n_rows, n_features)

    References
    ----------
    .. [1] D. Mishkin, J. Matas (2016). All you need is a good init. ICLR.
    """
    with torch.no_grad():
        for module in network.layers:
            if module in layers:
                deviation = module(x).var(dim=0, correction=0).mean().sqrt()
                if deviation > 0:
                    module.weight.div_(deviation)
                    module.bias.div_(deviation)
            x = module(x)
