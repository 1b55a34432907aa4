"""What the classifier and the regressor share: the network from features to raw output."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sknn_deep._base import BaseDeepNetwork
from sknn_deep._batches import dense
from sknn_deep._device import torch_dtype
from sknn_deep._network import MLP, Linear, Network
from sknn_deep._validation import HasMethods

# Enough rows to tell by how much the outputs of a layer vary.
_MAX_ROWS = 2000


@dataclass(eq=False, repr=False)
class BaseDeepMLP(BaseDeepNetwork):
    """A network whose output is compared with targets."""

    init_from: Any = field(default=None, kw_only=True)

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
