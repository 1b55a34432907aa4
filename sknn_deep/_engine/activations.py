"""Activations and their derivatives, as kernels that write into given buffers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sknn_deep._hardware.products import Program

aten = torch.ops.aten
_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale, as in torch.nn.SELU
# Saturated units produce denormal numbers, on which a CPU (but no other device) is many times
# slower: an autoencoder with black pixels trains twenty times slower. Logits are clipped where the
# sigmoid is 1e-13 in single precision (1e-107 in double), and negligible gradients are set to zero.
LOWEST_LOGIT = {
    dtype: 0.35 * math.log(torch.finfo(dtype).tiny) for dtype in (torch.float32, torch.float64)
}
# A tensor of this many elements stays in a CPU's cache between two kernels.
SMALL_TENSOR = 2**17
# Below this many elements, calling a kernel takes longer than its work.
_LITTLE_WORK = 2**15


@dataclass(frozen=True)
class Activation:
    """An activation and its derivative, as kernels that write into given buffers.

    Attributes
    ----------
    forward : callable
        ``forward(z, out)`` returns the kernels that write the activation.
    backward : callable
        ``backward(delta, saved)`` returns the kernels that multiply delta by the derivative;
        ``saved`` is the activation if ``in_place``, else the pre-activation.
    in_place : bool
        Whether the derivative is a function of the activation, so ``z`` need not be kept.
    saturates : bool
        Whether the derivative can come arbitrarily close to zero without being zero.
    """

    forward: Callable[[Tensor, Tensor], Program]
    backward: Callable[[Tensor, Tensor], Program]
    in_place: bool
    saturates: bool = True


def _sigmoid(z: Tensor, out: Tensor) -> Program:
    if z.device.type != "cpu":
        return [partial(torch.sigmoid, z, out=out)]
    lowest = LOWEST_LOGIT[z.dtype]
    return [partial(torch.clamp_min_, z, lowest), partial(torch.sigmoid, z, out=out)]


def _derivative(name: str, *constants: float, in_place: bool | None = None) -> Callable:
    """Return a builder for one of torch's own backward kernels.

    The kernels of units that are linear above zero take the constants first, then a flag saying
    whether they are given the activation or the pre-activation.
    """
    kernel = getattr(aten, name).grad_input

    def build(delta: Tensor, saved: Tensor) -> Program:
        if in_place is not None:
            return [partial(kernel, delta, *constants, in_place, saved, grad_input=delta)]
        return [partial(kernel, delta, saved, *constants, grad_input=delta)]

    return build


def _relu_derivative(delta: Tensor, a: Tensor) -> Program:
    if delta.device.type != "cpu" or delta.numel() > _LITTLE_WORK:
        return [partial(aten.threshold_backward.grad_input, delta, a, 0, grad_input=delta)]
    sign = torch.empty_like(a)  # two calls, but with less overhead than threshold_backward
    return [partial(torch.sign, a, out=sign), partial(delta.mul_, sign)]


def _mish_derivative(delta: Tensor, z: Tensor) -> Program:
    return [lambda: delta.copy_(aten.mish_backward(delta, z))]  # it has no out= variant


ACTIVATION_KERNELS = {
    "identity": Activation(lambda z, out: [], lambda delta, a: [], in_place=True, saturates=False),
    "logistic": Activation(_sigmoid, _derivative("sigmoid_backward"), in_place=True),
    "tanh": Activation(
        lambda z, out: [partial(torch.tanh, z, out=out)],
        _derivative("tanh_backward"),
        in_place=True,
    ),
    "relu": Activation(
        lambda z, out: [partial(torch.relu_, out)],
        _relu_derivative,
        in_place=True,
        saturates=False,
    ),
    "leaky_relu": Activation(
        lambda z, out: [partial(aten.leaky_relu.out, z, 0.01, out=out)],
        lambda delta, a: [
            partial(aten.leaky_relu_backward.grad_input, delta, a, 0.01, True, grad_input=delta)
        ],
        in_place=True,
        saturates=False,
    ),
    "elu": Activation(
        lambda z, out: [partial(aten.elu.out, z, 1, 1, 1, out=out)],
        _derivative("elu_backward", 1, 1, 1, in_place=True),
        in_place=True,
    ),
    "selu": Activation(
        lambda z, out: [partial(aten.elu.out, z, *_SELU, 1, out=out)],
        _derivative("elu_backward", *_SELU, 1, in_place=True),
        in_place=True,
    ),
    "gelu": Activation(
        lambda z, out: [partial(aten.gelu.out, z, out=out)],
        _derivative("gelu_backward"),
        in_place=False,
    ),
    "silu": Activation(
        lambda z, out: [partial(aten.silu.out, z, out=out)],
        _derivative("silu_backward"),
        in_place=False,
    ),
    "mish": Activation(
        lambda z, out: [partial(aten.mish.out, z, out=out)], _mish_derivative, in_place=False
    ),
    "softplus": Activation(
        lambda z, out: [partial(aten.softplus.out, z, 1, 20, out=out)],
        _derivative("softplus_backward", 1, 20),
        in_place=False,
    ),
}
