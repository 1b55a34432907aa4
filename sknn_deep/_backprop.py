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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sknn_deep._losses import Loss
from sknn_deep._network import Dropout, Linear, Network

aten = torch.ops.aten
_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as in torch.nn.SELU


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
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    in_place: bool


ACTIVATIONS = {
    "identity": Activation(lambda z, out: out, lambda delta, a, out: out, in_place=True),
    "logistic": Activation(
        lambda z, out: torch.sigmoid(z, out=out),
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
    ),
    "leaky_relu": Activation(
        lambda z, out: aten.leaky_relu.out(z, 0.01, out=out),
        lambda delta, a, out: aten.leaky_relu_backward.grad_input(
            delta, a, 0.01, True, grad_input=out
        ),
        in_place=True,
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


class Backprop:
    """The gradient of a loss for one network, in closed form, on buffers of its own.

    Parameters
    ----------
    network : Network
        Without normalisation; the gradients go into its flat gradient.
    loss : Loss
    longest_batch : int
        Rows of the largest batch that will come.
    """

    def __init__(self, network: Network, loss: Loss, longest_batch: int):
        self._loss = loss
        self._layers = [_Layer(*parts, longest_batch) for parts in network.dense_layers()]

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
        inputs = [X]
        for layer in self._layers:
            inputs.append(layer.forward(inputs[-1]))
        output = inputs.pop()
        last = self._layers[-1]
        delta = last.delta[: len(X)]
        loss = self._loss.mean_and_delta(output, target, weight, weight_sum, out=delta)
        last.through_activation(delta)
        for i in range(len(self._layers) - 1, -1, -1):
            self._layers[i].write_gradients(delta, inputs[i])
            if i > 0:
                delta = self._layers[i].delta_of_input(delta, out=self._layers[i - 1].delta)
                self._layers[i - 1].through_activation(delta)
        return loss, output


class _Layer:
    """One dense layer with its activation, its dropout and the buffers of both passes."""

    def __init__(self, linear: Linear, activation: str, dropout: Dropout | None, rows: int):
        self._weight, self._bias = linear.weight.detach(), linear.bias.detach()
        self._weight_grad, self._bias_grad = linear.weight.grad, linear.bias.grad
        self._activation, self._dropout = ACTIVATIONS[activation], dropout
        new = self._weight.new_empty
        shape = (rows, linear.out_features)
        self.delta = new(shape)
        self._z = new(shape)
        self._a = self._z if self._activation.in_place else new(shape)
        if dropout is not None:
            self._mask, self._kept = new(shape), new(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for an input of shape (batch, in_features)."""
        n = self._n = len(x)
        z = torch.addmm(self._bias, x, self._weight.t(), out=self._z[:n])
        a = self._activation.forward(z, self._a[:n])
        if self._dropout is None:
            return a
        return torch.mul(a, self._dropout.draw_(self._mask[:n]), out=self._kept[:n])

    def through_activation(self, delta: Tensor) -> Tensor:
        """Take a gradient with respect to the output back to the pre-activation, in place."""
        if self._dropout is not None:
            delta.mul_(self._mask[: self._n])
        saved = self._a if self._activation.in_place else self._z
        return self._activation.backward(delta, saved[: self._n], delta)

    def write_gradients(self, delta: Tensor, x: Tensor) -> None:
        """Write the gradients of weight and bias, given the layer's input."""
        torch.mm(delta.t(), x, out=self._weight_grad)
        torch.sum(delta, dim=0, out=self._bias_grad)

    def delta_of_input(self, delta: Tensor, out: Tensor) -> Tensor:
        """Return the gradient with respect to the layer's input."""
        return torch.mm(delta, self._weight, out=out[: self._n])
