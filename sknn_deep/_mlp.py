"""What the classifier and the regressor share: the network from features to raw output."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from sknn_deep._base import BaseDeepNetwork
from sknn_deep._device import torch_dtype
from sknn_deep._network import MLP


@dataclass(eq=False, repr=False)
class BaseDeepMLP(BaseDeepNetwork):
    """A network whose output is compared with targets."""

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
