"""Deep ensembles: several networks, trained from different seeds, as one estimator.

Networks that start from other weights and see the batches in another order end in other
minima. The mean of their predictions is more accurate than one of them and less sure of
itself where they disagree, and their spread says how far to trust it [1]_. The networks have
one shape, so they are trained as one stack.

References
----------
.. [1] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and scalable predictive
   uncertainty estimation using deep ensembles. NeurIPS.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from torch import Tensor

from sknn_deep._device import accepted_dtypes, resolve_device
from sknn_deep._fused import Job, fit_jobs
from sknn_deep._mlp import BaseDeepMLP
from sknn_deep._training import Before
from sknn_deep._validation import Interval, check_sample_weight

# What a fit leaves behind beside the attributes whose names end in an underscore.
_PRIVATE_STATE = {
    "_class_weights", "_fixed", "_label_binarizer", "_optimizer", "_optimizer_state", "_progress",
}  # fmt: skip


@dataclass(eq=False, repr=False)
class BaseDeepEnsemble(BaseDeepMLP):
    """A network, or with ``n_networks`` above 1 an ensemble of some.

    A fitted ensemble has ``estimators_``, each fitted as it would be alone, what the
    validation of the data has set, and ``n_iter_``; all else belongs to its networks. What
    was fitted decides, not the parameter, which may have been set since.
    """

    n_networks: int = field(default=1, kw_only=True)

    _parameter_constraints: ClassVar[dict] = {
        **BaseDeepMLP._parameter_constraints,
        "n_networks": [Interval(Integral, 1, None, closed="left")],
    }

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "estimators_") or super().__sklearn_is_fitted__()

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
    >>> from sknn_deep._ensemble import log_mean_exp
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
