"""The base of the three estimators: all but parameters and the course of a fit.

Think twice before adding anything here: what only one estimator needs belongs to it.
"""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import clone
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import check_is_fitted, validate_data

from sknn_deep._engine.in_parts import map_parts
from sknn_deep._engine.samples import dense
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.fitting import fit_network
from sknn_deep._estimators.hooks import NetworkHooks
from sknn_deep._estimators.optimizer import move_network, optimizer_state
from sknn_deep._hardware.device import as_tensor, numpy_dtype
from sknn_deep._hardware.memory_maps import Mapped, is_large_map
from sknn_deep._networks.summary import summary

# To look at fewer on several threads takes as long as on one.
_MANY_NUMBERS = 2**20


class BaseDeepNetwork(NetworkHooks):
    """An estimator around a dense network, or around several of one shape.

    What it decides for itself is in :class:`NetworkHooks`; how it is fitted, in
    :class:`~sknn_deep._estimators.fitting.Fit`.
    """

    @property
    def _networks(self) -> list[Any]:
        """The estimators with one network each that predict: of a single network, this one."""
        return [self]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self._networks[0], "module_")

    @property
    def device_(self) -> str:
        """The device that the fitted network is on, as torch writes it."""
        check_is_fitted(self)
        return str(self.module_.flat.device)

    @property
    def _network_dtype(self) -> type:
        """NumPy's name of the type in which the fitted network computes."""
        return numpy_dtype(self._networks[0].module_.flat.dtype)

    def _move_to(self, device: torch.device) -> None:
        """Move what was fitted to a device, with the state of its optimisers."""
        for network in self._networks:
            move_network(network, device)

    def _fit(self, call: Call) -> None:
        """Fit as a call of ``fit`` or ``partial_fit`` asks."""
        try:
            self._fit_networks(call)
        except (TypeError, ValueError):
            # scikit-learn validates the parameters in the first call of partial_fit only
            if call.incremental:
                self._validate_params()
            raise

    def _fit_networks(self, call: Call) -> None:
        """Fit the network, or all networks of an ensemble."""
        fit_network(self, call)

    def __getstate__(self):
        # an optimiser refers to the network's tensors: it pickles as arrays on the CPU
        state = super().__getstate__().copy()
        if state.pop("_optimizer", None) is not None:
            state["_optimizer_state"] = optimizer_state(self)
        return state

    def _planned_network(self, n_features, n_classes, n_outputs) -> tuple[dict[str, Any], str]:
        """Return configuration and output activation of the network that ``fit`` would make."""
        sizes = {"n_features": n_features, "n_classes": n_classes, "n_outputs": n_outputs}
        for name, size in sizes.items():
            if size is not None and not (isinstance(size, Integral) and size >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {size!r}.")
        plan = clone(self)
        plan._validate_params()
        plan.n_outputs_, plan.out_activation_ = plan._planned_output(n_classes, n_outputs)
        return plan._network_config(n_features, torch.float64), plan.out_activation_

    def _get_fitted_attr_html(self, doc_link=""):
        # what scikit-learn's diagrams show of a fitted estimator, alone or in a pipeline
        attributes = super()._get_fitted_attr_html(doc_link)
        html = attributes._repr_html_inner() + summary(self)._repr_html_()
        attributes._html_repr = lambda: html
        return attributes

    def _validate_input(self, X):
        """Return X for prediction, in the network's floating-point type."""
        if self._is_as_in_fit(X):  # what is left to validate of a common array
            if not _is_surely_finite(X):
                assert_all_finite(
                    X,
                    allow_nan=self._ensure_all_finite == "allow-nan",
                    estimator_name=type(self).__name__,
                    input_name="X",
                )
            return X
        check_is_fitted(self)
        return self._validate_rows(X, dtypes=[self._network_dtype], reset=False)

    def _is_as_in_fit(self, X) -> bool:
        """Return whether X is an array in memory that the fitted network can read as it is."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.flags.c_contiguous
            and self.__sklearn_is_fitted__()
            and X.dtype == self._network_dtype
            and len(X) > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
            and not is_large_map(X)
        )

    def _validate_rows(self, X, *y, dtypes: list[type], reset: bool, **options):
        """Return X, and y where it is given, as arrays; a large memory map stays in its file.

        Parameters
        ----------
        X, *y
            As given by the user.
        dtypes : list of type
            Those that X may have; others become the first.
        reset : bool
        **options
            As of ``validate_data``.
        """
        options |= {"accept_sparse": "csr", "order": "C", "reset": reset}
        if isinstance(X, Mapped):  # rows of the training's own, that a scorer has passed on
            return (X, *y) if y else X
        if not is_large_map(X):
            # others are looked at once they are converted, which may make numbers infinite
            is_known = _is_surely_finite(X) and X.dtype in dtypes
            options["ensure_all_finite"] = False if is_known else self._ensure_all_finite
            return _native(validate_data(self, X, *y, dtype=dtypes, **options))
        # what would read all of it is done piece by piece
        validated = validate_data(self, X, *y, dtype=None, ensure_all_finite=False, **options)
        array, *rest = validated if y else (validated,)
        rows = Mapped(array, array.dtype if array.dtype in dtypes else dtypes[0])
        if not get_config()["assume_finite"]:
            for piece in rows.pieces():
                assert_all_finite(
                    piece,
                    allow_nan=self._ensure_all_finite == "allow-nan",
                    estimator_name=type(self).__name__,
                    input_name="X",
                )
        return (rows, *rest) if y else rows

    def _map_rows(self, function, X) -> np.ndarray:
        """Apply a part of the network to the rows of validated X, chunk by chunk.

        Parameters
        ----------
        function : callable
            Maps a tensor of shape (rows, n_features) to one with as many rows.
        X : {ndarray, CSR matrix} of shape (n_samples, n_features)

        Returns
        -------
        output : ndarray with n_samples rows
        """
        flat, n_samples = self.module_.flat, X.shape[0]
        outputs: list[np.ndarray] = []  # one for all rows, made when the first ones are known

        def apply(part: slice) -> None:
            rows = function(dense(X[part], flat.device, flat.dtype)).cpu().numpy()
            if len(rows) == n_samples:
                outputs.append(rows)
                return
            if not outputs:
                outputs.append(np.empty((n_samples, *rows.shape[1:]), rows.dtype))
            outputs[0][part] = rows

        map_parts(apply, n_samples, self.module_)
        return outputs[0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _is_surely_finite(X) -> bool:
    """Return whether a large array is without NaN and infinity, because its sum is.

    The sum is torch's, on its threads. Where it does not tell, scikit-learn has to look.
    """
    tensor = as_tensor(X)
    if tensor is None or tensor.numel() < _MANY_NUMBERS or get_config()["assume_finite"]:
        return False
    return bool(tensor.sum().isfinite())


def _native(validated):
    """Return what was validated, X in the byte order of the machine, as torch needs it.

    Of arrays scikit-learn converts the order with the type, but not of DataFrames.
    """
    if isinstance(validated, tuple):
        return _native(validated[0]), *validated[1:]
    return validated.astype(validated.dtype.newbyteorder("="), copy=False)
