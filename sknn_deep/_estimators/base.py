"""The base of the estimators: everything except parameters and the fitting procedure.

Think twice before adding anything here: code that only one estimator needs belongs in that
estimator.
"""

from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sknn_deep._engine.features import ArrayRows, Features, features_of
from sknn_deep._engine.in_parts import map_rows
from sknn_deep._estimators.array_api import call_taken_in, home_of, where_it_is
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.fitting import fit_network
from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._estimators.optimizer import move_network
from sknn_deep._estimators.pickling import plain_state, restored_state
from sknn_deep._estimators.processes import on_processes
from sknn_deep._estimators.rows import has_categories, to_predict, to_train_on
from sknn_deep._hardware.bfloat16 import product_dtype
from sknn_deep._hardware.device import numpy_dtype
from sknn_deep._networks.flat import Network
from sknn_deep._networks.numpy_pass import output_by_numpy
from sknn_deep._networks.summary import summary


class BaseDeepNetwork(NetworkHooks):
    """An estimator around a dense network, or around several of one shape.

    The methods that subclasses override are in :class:`NetworkHooks`; the fitting procedure is in
    :class:`~sknn_deep._estimators.fitting.Fit`.
    """

    # Metadata routing passes groups to a search's splitter without a request; to route them to fit
    # as well, call set_fit_request(groups=True).
    __metadata_request__fit: ClassVar = {"groups": False}

    @property
    def _networks(self) -> list[Any]:
        """The single-network estimators that predict; a single network is its own list."""
        return [self]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self._networks[0], "module_")

    @property
    def is_categorical_(self) -> np.ndarray | None:
        """Mask of the features that hold categories, shape (n_features,), or None without any."""
        check_is_fitted(self)
        if not has_categories(self):
            return None
        columns: Any = self._columns
        return np.isin(np.arange(self.n_features_in_), list(columns.categories))

    @property
    def device_(self) -> str:
        """The device that the fitted network is on, as torch writes it."""
        check_is_fitted(self)
        return str(self.module_.flat.device)

    @property
    def _network_dtype(self) -> type:
        """NumPy type in which the fitted network computes."""
        return numpy_dtype(self._networks[0].module_.flat.dtype)

    def _move_to(self, device: torch.device) -> None:
        """Move the fitted networks to a device, with the state of their optimisers."""
        for network in self._networks:
            move_network(network, device)

    def _fit(self, call: Call) -> None:
        """Carry out a call of ``fit`` or ``partial_fit``."""
        home, call = home_of(call.X), call_taken_in(call)
        try:
            with where_it_is(call.X), on_processes(self, call):
                self._fit_networks(call)
            vars(self).pop("_home", None)
            if home is not None:
                self._home = home
        except (TypeError, ValueError):
            # scikit-learn validates the parameters only in the first call of partial_fit
            if call.incremental:
                self._validate_params()
            raise

    def _fit_networks(self, call: Call) -> None:
        """Fit the network, or all networks of an ensemble."""
        fit_network(self, call)

    def __getstate__(self) -> dict[str, Any]:
        return plain_state(super().__getstate__(), self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(restored_state(state, self))

    def _planned_networks(
        self, n_features: int, n_classes: int | None, n_outputs: int | None
    ) -> list[tuple[dict[str, Any], str]]:
        """Return configuration and output activation of each network that ``fit`` would make."""
        sizes = {"n_features": n_features, "n_classes": n_classes, "n_outputs": n_outputs}
        for name, size in sizes.items():
            is_number = isinstance(size, Integral) and not isinstance(size, bool)
            if size is not None and not (is_number and int(size) >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")
        self._validate_params()
        networks = []
        for params in self._params_of_networks():
            plan = clone(self).set_params(**params)
            plan.n_outputs_, plan.out_activation_ = plan._planned_output(n_classes, n_outputs)
            config = plan._network_config(n_features, torch.float64)
            networks.append((config, plan.out_activation_))
        return networks

    def _get_fitted_attr_html(self, doc_link: str = "") -> Any:
        # shown in scikit-learn's diagrams of a fitted estimator, alone or in a pipeline
        attributes = super()._get_fitted_attr_html(doc_link)
        if not self.__sklearn_is_fitted__():  # the template in a fitted ensemble
            return attributes
        html = attributes._repr_html_inner() + summary(self)._repr_html_()
        attributes._html_repr = lambda: html
        return attributes

    def _validate_input(self, X: Any, *, check_later: bool = False) -> Features:
        """Return the features of rows to predict, as in :func:`to_predict`."""
        return to_predict(self, X, check_later=check_later)

    def _validate_rows(
        self, X: Any, *y: Any, dtypes: list[type], reset: bool, **options: Any
    ) -> Any:
        """Return the features for training, and y if it is given, as in :func:`to_train_on`."""
        return to_train_on(self, X, *y, dtypes=dtypes, reset=reset, **options)

    def _output_by_numpy(
        self, layers: torch.nn.Module, X: Features, device: torch.device
    ) -> np.ndarray | None:
        """Return the output of layers for validated X, or None: see :func:`output_by_numpy`."""
        if type(X) is not ArrayRows:
            return None
        rounds = product_dtype(self.dtype, device) is not None
        return output_by_numpy(layers, X.unwrapped(), rounds=rounds)

    def _map_rows(
        self,
        function: Callable[[Any], Tensor],
        X: Any,
        network: Network | None = None,
        *,
        may_be_sparse: bool = False,
    ) -> Any:
        """Apply a part of a network to the rows of validated X, as in :func:`map_rows`.

        The network is one of an ensemble, or the only one. The precision of products follows this
        estimator's ``dtype``, which may have been set after the fit.
        """
        network = self.module_ if network is None else network
        rounding = product_dtype(self.dtype, network.flat.device)
        rows = features_of(X)
        return map_rows(function, rows, network, rounding, may_be_sparse=may_be_sparse)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
