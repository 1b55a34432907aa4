"""What the classifier and the regressor share: one network, or an ensemble of several."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sknn_deep._engine.samples import dense
from sknn_deep._estimators.autoencoder import AutoencoderTransformer
from sknn_deep._estimators.base import BaseDeepNetwork, SharedParameters
from sknn_deep._estimators.fitted_attributes import FittedMLP
from sknn_deep._estimators.fitted_state import Before
from sknn_deep._estimators.fused import Job, fit_jobs
from sknn_deep._hardware.device import accepted_dtypes, resolve_device, torch_dtype
from sknn_deep._networks.flat import Linear, Network
from sknn_deep._networks.models import MLP
from sknn_deep._sklearn import HasMethods, Interval, check_sample_weight

# Enough rows to tell by how much the outputs of a layer vary.
_MAX_ROWS = 2000


@dataclass(eq=False, repr=False, kw_only=True)
class SupervisedParameters(SharedParameters):
    """The keyword-only parameters of the classifier and the regressor."""

    init_from: AutoencoderTransformer | FrozenEstimator | None = None
    n_networks: int = 1


class BaseDeepMLP(SupervisedParameters, FittedMLP, BaseDeepNetwork):
    """A network whose output is compared with targets."""

    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepNetwork._parameter_constraints,
        "init_from": [HasMethods(["transform", "inverse_transform"]), None],
    }

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

    def _start(self, samples, random_state, device) -> None:
        super()._start(samples, random_state, device)
        if self.init_from is None:
            return
        encoder, hidden = self._source_layers(), self.module_.stages()[:-1]
        self._check_source(encoder)
        shared = []
        for source, own in zip(encoder, hidden, strict=False):
            if source[0].out_features == own[0].out_features:
                shared.append(own[0])
                for part, own_part in zip(source[:2], own[:2], strict=True):  # and normalisation
                    if part is not None:
                        own_part.load_state_dict(part.state_dict())
        if self.normalization is None:
            step = -(-samples.X.shape[0] // _MAX_ROWS)
            flat = self.module_.flat
            _scale_outputs(self.module_, shared, dense(samples.X[::step], flat.device, flat.dtype))

    def _source_layers(self) -> list[tuple]:
        """Return the stages of the encoder that ``init_from`` has learned, the code's last."""
        check_is_fitted(
            self.init_from,
            msg="init_from=%(name)s(...) is not fitted. clone, cross-validation and searches make "
            "unfitted copies of estimators among the parameters: pass "
            "init_from=FrozenEstimator(autoencoder), of sklearn.frozen, which they leave alone.",
        )
        if not hasattr(self.init_from, "encoder_"):
            raise ValueError(
                f"init_from={self.init_from!r} has no encoder; pass a fitted "
                "AutoencoderTransformer."
            )
        network: Network = self.init_from.module_
        return network.stages()[: network.code_layer + 1]

    def _check_source(self, encoder: list[tuple]) -> None:
        """Refuse an encoder whose hidden layers are not those that the network begins with."""
        config = self.module_.config
        n_features, *own = config["layer_units"][:-1]
        sizes = [linear.out_features for linear, *_ in encoder]
        n_hidden = max(1, len(sizes) - 1)  # of a linear encoder the code itself
        if encoder[0][0].in_features != n_features:
            raise ValueError(
                f"init_from was fitted on {encoder[0][0].in_features} features, but X has "
                f"{n_features}; pass an autoencoder of the same features."
            )
        if own[:n_hidden] != sizes[:n_hidden]:
            raise ValueError(
                f"hidden_layer_sizes={tuple(own)} must begin with the {n_hidden} layer(s) of "
                f"init_from, {tuple(sizes[:n_hidden])}; the code of {sizes[-1]} units may follow."
            )
        learned = self.init_from.module_.config["encoder"]
        for name, present, asked in (
            ("activation", learned["activations"], config["activations"][: len(sizes) - 1]),
            ("normalization", learned["normalization"], config["normalization"]),
        ):
            if present != asked and len(sizes) > 1:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is not that of init_from, whose layers have "
                    f"learned with {present!r}; pass the same."
                )

    def _network_config(self, X) -> dict[str, Any]:
        """Return the arguments of :class:`MLP`."""
        hidden = self._hidden_sizes("hidden_layer_sizes")
        activations, dropout = self._layer_options(len(hidden))
        return {
            "layer_units": (X.shape[1], *hidden, self.n_outputs_),
            "activations": tuple(activations),
            "dropout": tuple(dropout),
            "normalization": self.normalization,
            "out_activation": "identity",
            "dtype": torch_dtype(X.dtype),
        }

    def _make_network(self, X, device: torch.device) -> MLP:
        network = MLP(**self._network_config(X), device=device)
        self.n_layers_ = len(network.linear_layers()) + 1
        return network

    def _initial_activations(self) -> list[str]:
        # the output layer is initialised for the hidden activation, as in scikit-learn
        hidden = self.module_.config["activations"]
        last = hidden[-1] if hidden else self.activation
        return [*hidden, last]


def _scale_outputs(network: MLP, layers: list[Linear], x: Tensor) -> None:
    """Divide layers by the standard deviation of their outputs, so that it is one [1]_.

    An encoder's outputs vary several times as much as those of a network that is drawn, and the
    first steps with a usual learning rate would then lose what it has learned.

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


# What a fit leaves behind beside the attributes whose names end in an underscore.
_PRIVATE_STATE = {
    "_class_weights", "_fixed", "_label_binarizer", "_optimizer", "_optimizer_state", "_progress",
}  # fmt: skip


class BaseDeepEnsemble(BaseDeepMLP):
    """A network, or with ``n_networks`` above 1 an ensemble of some.

    A fitted ensemble has ``estimators_``, each fitted as it would be alone, what the
    validation of the data has set, and ``n_iter_``; all else belongs to its networks. What
    was fitted decides, not the parameter, which may have been set since.
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepMLP._parameter_constraints,
        "n_networks": [Interval(Integral, 1, None, closed="left")],
    }

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimators_") or super().__sklearn_is_fitted__()

    if not TYPE_CHECKING:  # whom it would tell that there is every attribute

        def __getattr__(self, name: str):
            # asked only for what is missing: say where to look for what the networks have
            networks = vars(self).get("estimators_")
            if networks and _is_fitted_attribute(name) and hasattr(networks[0], name):
                raise AttributeError(
                    f"An ensemble has no {name}, each of its networks has one: "
                    f"see estimators_[0].{name} to estimators_[{len(networks) - 1}].{name}."
                )
            return super().__getattribute__(name)  # raises what it raised before

    @property
    def _network_dtype(self) -> type:
        if hasattr(self, "estimators_"):
            return self.estimators_[0]._network_dtype
        return super()._network_dtype

    def _move_to(self, device: torch.device) -> None:
        if not hasattr(self, "estimators_"):
            return super()._move_to(device)
        for network in self.estimators_:
            network._move_to(device)

    def _check_combinations(self, incremental: bool, held_out) -> None:
        super()._check_combinations(incremental, held_out)
        if self.n_networks > 1 and self.callbacks:
            raise ValueError(
                f"n_networks={self.n_networks} does not support callbacks={self.callbacks!r}: a "
                "skorch callback is told of one network. Use callbacks=None, or n_networks=1."
            )

    def _fit(
        self, X, y=None, sample_weight=None, *, incremental=False, held_out=(None, None, None)
    ):
        """Train one network or several, as ``BaseDeepNetwork._fit`` does."""
        options = {"incremental": incremental, "held_out": held_out}
        if self.n_networks == 1 and not hasattr(self, "estimators_"):
            return super()._fit(X, y, sample_weight, **options)
        goes_on = incremental or self.warm_start
        with Before(self, goes_on).restored_on_error():
            if goes_on:
                self._check_same_number()
            else:
                self._forget()
            if self.n_networks == 1:
                return super()._fit(X, y, sample_weight, **options)
            return self._fit_networks((X, y, sample_weight), **options)

    def _forget(self) -> None:
        """Delete what earlier calls have learned: no parameter, callback or metadata request."""
        for name in list(vars(self)):
            if name in _PRIVATE_STATE or _is_fitted_attribute(name):
                delattr(self, name)

    def _check_same_number(self) -> None:
        """Refuse to go on with an ensemble of another size."""
        if not self.__sklearn_is_fitted__():
            return
        n_before = len(self.estimators_) if hasattr(self, "estimators_") else 1
        if self.n_networks != n_before:
            raise ValueError(
                "warm_start and partial_fit go on with the networks of the previous call, got "
                f"n_networks={self.n_networks} after n_networks={n_before}. Set "
                "warm_start=False, or make a new estimator."
            )

    def _fit_networks(self, given, *, incremental: bool, held_out):
        """Validate the data, once for all networks, and train these."""
        self._check_combinations(incremental, held_out)
        networks, fit_params = self._networks_to_fit(), {}
        X, y, fit_params["sample_weight"] = self._validated(*given, incremental)
        if incremental:
            if hasattr(self, "classes_"):
                fit_params["classes"] = self.classes_
            for network in networks:
                if network.partial_fit(X, y, **fit_params).interrupted_:
                    raise KeyboardInterrupt  # the others are not trained
            return self._adopt(networks)
        fit_params |= self._validated_held_out(*held_out, dtype=X.dtype)
        callbacks = self._sklearn_callbacks(given, n_epochs=0)
        for callback in callbacks:
            callback.on_train_begin(None)
        fit_jobs([Job(network, X, y, fit_params=fit_params) for network in networks], done=_raise)
        self._adopt(networks)
        for callback in callbacks:
            callback.on_train_end(None)
        return self

    def _networks_to_fit(self) -> list["BaseDeepEnsemble"]:
        """Return new networks, or twins of those to go on with, set to the present parameters."""
        if hasattr(self, "estimators_"):
            params = {**self.get_params(deep=False), "n_networks": 1}
            # they are given arrays, which have no names, and were adopted with names
            networks = [network._without_feature_names() for network in self.estimators_]
            return [
                network.set_params(**params | {"random_state": network.random_state})
                for network in networks
            ]
        seeds = check_random_state(self.random_state).randint(
            np.iinfo(np.int32).max, size=self.n_networks
        )
        # a clone's init_from would not be fitted
        params = {"n_networks": 1, "init_from": self.init_from}
        return [
            clone(self).set_params(**params, random_state=int(seed)).set_callbacks()
            for seed in seeds
        ]

    def _validated(self, X, y, sample_weight, incremental: bool):
        """Return the training data as arrays, and set what they tell of the estimator."""
        goes_on = hasattr(self, "estimators_")
        dtypes = accepted_dtypes(self.dtype, resolve_device(self.device))
        if goes_on:
            dtypes = [self._network_dtype]
        X, y, _ = self._validate_training_data(X, y, dtypes, incremental, not goes_on)
        return X, y, check_sample_weight(sample_weight, X)

    def _validated_held_out(self, X, y, sample_weight, dtype) -> dict[str, Any]:
        """Return the user's validation set, where there is one, as what ``fit`` takes."""
        if X is None:
            return {}
        X, y, _ = self._validate_held_out_data(X, y, dtype)
        weight = check_sample_weight(sample_weight, X)
        return {"X_val": X, "y_val": y, "sample_weight_val": weight}

    def _adopt(self, networks: list["BaseDeepEnsemble"]):
        """Take fitted networks for those of the ensemble."""
        if hasattr(self, "feature_names_in_"):
            for network in networks:
                network.feature_names_in_ = self.feature_names_in_
        self.estimators_ = networks
        self.n_iter_ = max(network.n_iter_ for network in networks)
        self.interrupted_ = False
        return self

    def _map_networks(self, function: Callable[[Tensor], Tensor], X) -> list[np.ndarray]:
        """Apply a function to the raw output of each network, for the rows of validated X."""
        return [
            network._map_rows(lambda rows, module=network.module_: function(module(rows)), X)
            for network in getattr(self, "estimators_", [self])
        ]


def mean(outputs: list[np.ndarray]) -> np.ndarray:
    """Return the mean over networks: of one, its output itself."""
    return outputs[0] if len(outputs) == 1 else np.mean(outputs, axis=0)


def log_mean_exp(outputs: list[np.ndarray]) -> np.ndarray:
    """Return the logarithm of the mean of what the outputs are logarithms of.

    Examples
    --------
    >>> import numpy as np
    >>> from sknn_deep._estimators.supervised import log_mean_exp
    >>> log_mean_exp([np.array([-2000.0, 0.0]), np.array([-2000.0, -np.inf])])
    array([-2.00000000e+03, -6.93147181e-01])
    """
    if len(outputs) == 1:
        return outputs[0]
    return np.logaddexp.reduce(outputs) - math.log(len(outputs))


def _is_fitted_attribute(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def _raise(job: Job) -> None:
    # the error of one network is that of the ensemble: the others need not be trained
    if job.error is not None:
        raise job.error
