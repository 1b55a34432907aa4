r"""Closed-form forward and backward pass of a stack of dense layers.

Layer :math:`l` maps a batch :math:`a_{l-1}` (one sample a row) to

.. math:: z_l = a_{l-1} W_l^\top + b_l, \qquad a_l = m_l \odot \phi_l(z_l)

with dropout's mask :math:`m_l` (1 without dropout). With :math:`\delta_l = \partial L /
\partial z_l`, backpropagation is [1]_

.. math::
    \delta_{l-1} = (\delta_l W_l) \odot m_{l-1} \odot \phi_{l-1}'(z_{l-1}), \qquad
    \frac{\partial L}{\partial W_l} = \delta_l^\top a_{l-1}, \qquad
    \frac{\partial L}{\partial b_l} = \sum_i \delta_{l,i}

A plain dense network needs no tape for this: every product is written into a buffer that
all batches share, and the gradients into the network's flat gradient. Networks with
normalisation go through autograd.

References
----------
.. [1] D. Rumelhart, G. Hinton, R. Williams (1986). Learning representations by
   back-propagating errors. Nature 323.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sknn_deep._losses import Loss
from sknn_deep._network import Dropout, Linear, Network

aten = torch.ops.aten
_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as in torch.nn.SELU

# A saturated unit gives denormal numbers, on which a CPU is many times slower: black
# pixels of an autoencoder make it twenty times slower. Logits are cut where the sigmoid is
# 1e-13 in single precision (1e-107 in double), and gradients where they are negligible.
_LOWEST_LOGIT = {
    dtype: 0.35 * math.log(torch.finfo(dtype).tiny) for dtype in (torch.float32, torch.float64)
}
_NEGLIGIBLE = {dtype: torch.finfo(dtype).tiny ** 0.5 for dtype in _LOWEST_LOGIT}


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative, both into a given buffer.

    Attributes
    ----------
    forward : callable
        ``forward(z, out)`` writes the activation.
    backward : callable
        ``backward(delta, saved, out)`` writes delta times the derivative; ``saved`` is the
        activation where ``in_place``, else the pre-activation.
    in_place : bool
        Whether the derivative is a function of the activation, so that ``z`` need not be kept.
    saturates : bool
        Whether the derivative can come arbitrarily close to zero without being zero.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    in_place: bool
    saturates: bool = True


ACTIVATIONS = {
    "identity": Activation(
        lambda z, out: out, lambda delta, a, out: out, in_place=True, saturates=False
    ),
    "logistic": Activation(
        lambda z, out: torch.sigmoid(z.clamp_min_(_LOWEST_LOGIT[z.dtype]), out=out),
        lambda delta, a, out: aten.sigmoid_backward.grad_input(delta, a, grad_input=out),
        in_place=True,
    ),
    "tanh": Activation(
        lambda z, out: torch.tanh(z, out=out),
        lambda delta, a, out: aten.tanh_backward.grad_input(delta, a, grad_input=out),
        in_place=True,
    ),
    "relu": Activation(
        lambda z, out: torch.clamp_min(z, 0, out=out),
        lambda delta, a, out: aten.threshold_backward.grad_input(delta, a, 0, grad_input=out),
        in_place=True,
        saturates=False,
    ),
    "leaky_relu": Activation(
        lambda z, out: aten.leaky_relu.out(z, 0.01, out=out),
        lambda delta, a, out: aten.leaky_relu_backward.grad_input(
            delta, a, 0.01, True, grad_input=out
        ),
        in_place=True,
        saturates=False,
    ),
    "elu": Activation(
        lambda z, out: aten.elu.out(z, 1, 1, 1, out=out),
        lambda delta, a, out: aten.elu_backward.grad_input(delta, 1, 1, 1, True, a, grad_input=out),
        in_place=True,
    ),
    "selu": Activation(
        lambda z, out: aten.elu.out(z, *_SELU, 1, out=out),
        lambda delta, a, out: aten.elu_backward.grad_input(
            delta, *_SELU, 1, True, a, grad_input=out
        ),
        in_place=True,
    ),
    "gelu": Activation(
        lambda z, out: aten.gelu.out(z, out=out),
        lambda delta, z, out: aten.gelu_backward.grad_input(delta, z, grad_input=out),
        in_place=False,
    ),
    "silu": Activation(
        lambda z, out: aten.silu.out(z, out=out),
        lambda delta, z, out: aten.silu_backward.grad_input(delta, z, grad_input=out),
        in_place=False,
    ),
    "mish": Activation(
        lambda z, out: aten.mish.out(z, out=out),
        lambda delta, z, out: out.copy_(aten.mish_backward(delta, z)),
        in_place=False,
    ),
    "softplus": Activation(
        lambda z, out: aten.softplus.out(z, 1, 20, out=out),
        lambda delta, z, out: aten.softplus_backward.grad_input(delta, z, 1, 20, grad_input=out),
        in_place=False,
    ),
}


def make_gradient(network: Network, loss: Loss) -> "Backprop | Tape":
    """Return what computes the gradient of a loss for a network: in closed form if it can."""
    return (Tape if network.has_normalization else Backprop)(network, loss)


class Tape:
    """The gradient of a loss for one network, by autograd; called as :class:`Backprop` is."""

    def __init__(self, network: Network, loss: Loss):
        self._network, self._loss = network, loss

    def __call__(
        self, X: Tensor, target: Tensor, weight: Tensor | None, weight_sum: float
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient of the mean loss over a batch; return the loss and the output."""
        self._network.zero_grad()
        output = self._network(X)
        loss = self._loss.mean(output, target, weight, weight_sum)
        loss.backward()
        return loss.detach(), output.detach()


class Backprop:
    """The gradient of a loss for one network, in closed form, on buffers of its own.

    Parameters
    ----------
    network : Network
        Without normalisation; the gradients go into its flat gradient.
    loss : Loss
    """

    def __init__(self, network: Network, loss: Loss):
        self._network, self._loss = network, loss
        # an epoch has batches of two lengths, three at most: each has its buffers
        self._layers: dict[int, list[_Layer]] = {}

    def __call__(
        self, X: Tensor, target: Tensor, weight: Tensor | None, weight_sum: float
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient of the mean loss over a batch; return the loss and the output.

        Parameters
        ----------
        X : Tensor of shape (batch, n_features)
        target : Tensor of shape (batch, n_outputs), or (batch,) of class indices
        weight : Tensor of shape (batch,) or None
        weight_sum : float

        Returns
        -------
        loss : Tensor of shape ()
        output : Tensor of shape (batch, n_outputs)
            Valid until the next call.
        """
        n_rows = X.shape[0]
        if n_rows not in self._layers:
            parts = self._network.dense_layers()
            self._layers[n_rows] = [_Layer(*part, n_rows) for part in parts]
        layers = self._layers[n_rows]
        inputs = [X]
        for layer in layers:
            inputs.append(layer.forward(inputs[-1]))
        output, delta = inputs[-1], layers[-1].delta
        loss = self._loss.mean_and_delta(output, target, weight, weight_sum, out=delta)
        for i in range(len(layers) - 1, -1, -1):
            layers[i].backward(inputs[i])
            if i > 0:
                layers[i].write_delta_of_input(layers[i - 1].delta)
        return loss, output


class _Layer:
    """One dense layer with its activation, its dropout and the buffers of both passes.

    Attributes
    ----------
    delta : Tensor of shape (batch, out_features)
        The gradient of the loss: with respect to the output, after :meth:`backward` with
        respect to the pre-activation.
    """

    def __init__(self, linear: Linear, activation: str, dropout: Dropout | None, n_rows: int):
        self._weight, self._bias = linear.weight.detach(), linear.bias.detach()
        self._weight_grad, self._bias_grad = linear.weight.grad, linear.bias.grad
        self._weight_t = self._weight.t()
        self._activation, self._dropout = ACTIVATIONS[activation], dropout
        shape = (n_rows, linear.out_features)
        self.delta = self._weight.new_empty(shape)
        self._negligible = _NEGLIGIBLE[self.delta.dtype]
        self._delta_t = self.delta.t()
        self._z = self._weight.new_empty(shape)
        self._a = self._z if self._activation.in_place else self._weight.new_empty(shape)
        self._saved = self._a if self._activation.in_place else self._z
        if dropout is not None:
            self._mask = self._weight.new_empty(shape)
            self._kept = self._weight.new_empty(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for an input of shape (batch, in_features)."""
        torch.addmm(self._bias, x, self._weight_t, out=self._z)
        self._activation.forward(self._z, self._a)
        if self._dropout is None:
            return self._a
        return torch.mul(self._a, self._dropout.draw_(self._mask), out=self._kept)

    def backward(self, x: Tensor) -> None:
        """Take delta back through the activation; write the gradients of weight and bias."""
        if self._dropout is not None:
            self.delta.mul_(self._mask)
        self._activation.backward(self.delta, self._saved, self.delta)
        if self._activation.saturates:
            aten.hardshrink.out(self.delta, self._negligible, out=self.delta)
        torch.mm(self._delta_t, x, out=self._weight_grad)
        torch.sum(self.delta, dim=0, out=self._bias_grad)

    def write_delta_of_input(self, out: Tensor) -> None:
        """Write the gradient with respect to the layer's input."""
        torch.mm(self.delta, self._weight, out=out)
