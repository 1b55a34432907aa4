"""Dense layers."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sknn_deep._hardware.slow_mkl import linear
from sknn_deep._hardware.sparse_products import SparseBatch


class Linear(nn.Linear):
    """A dense layer whose construction draws no random numbers.

    ``nn.Linear`` draws from torch's global generator; here ``Network.initialize`` sets
    the weights. Input (batch, in_features), output (batch, out_features).
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        nn.Module.__init__(self)
        # nn.Module.__setattr__ takes some microseconds each, which matters in a small fit
        vars(self).update(in_features=in_features, out_features=out_features)
        for name, shape in (("weight", (out_features, in_features)), ("bias", (out_features,))):
            self._parameters[name] = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))

    def forward(self, input: Any) -> Tensor:
        """Return the layer's output for a Tensor or, in a first layer, a SparseBatch."""
        if isinstance(input, SparseBatch):
            return input.times(self.weight).add_(self.bias.detach())
        return linear(input, self.weight, self.bias)

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""

    def glorot_uniform_(self, random_state: np.random.RandomState, gain: float) -> None:
        """Draw weights and bias uniformly in ±sqrt(gain / (fan_in + fan_out)).

        The draws and their order are scikit-learn's: the matrix of shape (fan_in,
        fan_out), then the bias. With a gain of 6 this is Glorot and Bengio's
        initialisation [1]_; scikit-learn uses 2 for the logistic function.

        References
        ----------
        .. [1] X. Glorot, Y. Bengio (2010). Understanding the difficulty of training deep
           feedforward neural networks. AISTATS.
        """
        bound = math.sqrt(gain / (self.in_features + self.out_features))
        drawn = random_state.uniform(-bound, bound, (self.in_features + 1, self.out_features))
        for param, own in ((self.weight, drawn[:-1].T), (self.bias, drawn[-1])):
            values = param.detach()
            if values.device.type == "cpu":  # NumPy takes a third of the time
                values.numpy()[...] = own
            else:
                values.copy_(torch.from_numpy(own))
