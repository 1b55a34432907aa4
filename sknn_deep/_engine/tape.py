"""The gradient by autograd, for cases that the closed form does not cover.

Two kinds of autoencoder need it: those whose code is drawn from a distribution, where the graph
branches, and those with a penalty on the encoder's Jacobian, which needs second derivatives.
:class:`AutogradBackprop` overrides ``program`` with a single kernel that runs the modules under
autograd; buffers, losses, optimisers, callbacks and the engine are unaffected. All other options of
the autoencoder work the same way with both, so they can be combined; the two are compared with each
other and with finite differences (``tests/engine/test_tape.py``).

Autograd trains one network at a time, without CUDA graphs and bfloat16.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from sknn_deep._engine.backprop import Backprop
from sknn_deep._engine.losses import CodePenalty, Loss
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import Program
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._networks.flat import Network
from sknn_deep._networks.models import Autoencoder


def backprop_for(
    networks: Sequence[Network],
    loss: Loss,
    product_dtype: torch.dtype | None = None,
    ranks: Ranks | None = None,
    pace: Pace | None = None,
) -> Backprop:
    """Return the closed form if it covers the networks, else autograd."""
    if networks[0].needs_autograd:
        (network,) = cast(Sequence[Autoencoder], networks)  # no others need it
        return AutogradBackprop(network, loss, ranks, pace)
    return Backprop(networks, loss, product_dtype, pace, ranks=ranks)


class AutogradBackprop(Backprop):
    """The gradient of an autoencoder's loss, computed by autograd.

    Parameters
    ----------
    network : Autoencoder
    loss : Loss
    ranks : Ranks, default=None
    pace : Pace, default=None
        See :class:`Backprop`.
    """

    def __init__(
        self,
        network: Autoencoder,
        loss: Loss,
        ranks: Ranks | None = None,
        pace: Pace | None = None,
    ):
        super().__init__([network], loss, pace=pace, ranks=ranks)
        self._network = network

    def begin_epoch(self, longest: int) -> None:
        """Do nothing: the modules draw their masks themselves."""

    def overwritten_output(self, n_rows: int, *, is_sparse: bool) -> None:
        """Return None: autograd reads the output again."""

    def program(
        self,
        X: Tensor,
        target: Tensor,
        scale: Tensor,
        raw: Tensor,
        penalty: Tensor,
        number: int = 0,
        losses: Tensor | None = None,
    ) -> Program:
        """Return one kernel for all those of :class:`Backprop`, and the sum over the ranks."""
        delta = torch.empty_like(raw)
        # not a method: this object holds the program, which would be a reference cycle
        rest = (X, target, scale, raw, penalty, delta, losses)
        kernel = partial(_differentiate, self._network, self.loss, *rest)
        return [self.pace.pinned(kernel, math.inf), *self._finish_sum]


def _differentiate(
    network: Autoencoder,
    loss: Loss,
    X: Tensor,
    target: Tensor,
    scale: Tensor,
    raw: Tensor,
    penalty: Tensor,
    delta: Tensor,
    losses: Tensor | None,
) -> None:
    network.zero_grad()
    # the engine's steps run in inference mode
    with torch.inference_mode(False), torch.enable_grad():
        x = network.corrupted(X).requires_grad_()
        mean, log_variance = network.distribution(x)
        code = network.drawn(mean, log_variance)
        # the loss's gradient is in closed form, for some pairs with respect to the pre-activation
        output = network.decoder[:-1](code) if loss.is_merged else network.decoder(code)
        penalties = _penalties(network, loss.penalty, x, mean, log_variance)
        total = (penalties * scale.reshape(-1)).sum()
        with torch.no_grad():
            raw.copy_(network.decoder[-1](output) if loss.is_merged else output)
            loss.write(raw, target, scale, delta, losses)
        parameters = [p for p in network.parameters() if p.requires_grad]
        parameters += [decoder.weight for _, decoder in network.tied_layers()]
        # without penalties, only the output depends on the parameters
        ends = [(output, delta)] + [(total, None)] * total.requires_grad
        outputs, deltas = zip(*ends, strict=True)
        gradients = torch.autograd.grad(outputs, parameters, deltas)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad.copy_(gradient)  # type: ignore[union-attr]  # a view in the flat gradient
    penalty.copy_(total.detach())
    network.add_tied_gradients()


def _penalties(
    network: Autoencoder,
    terms: CodePenalty | None,
    x: Tensor,
    mean: Tensor,
    log_variance: Tensor | None,
) -> Tensor:
    """Return each row's penalty on its code."""
    paid = mean.new_zeros(len(mean))
    if terms is None:
        return paid
    if terms.sparsity:
        paid = paid + terms.sparsity * mean.abs().mean(dim=1)
    if network.contraction is not None:
        paid = paid + terms.contractive * network.contraction(x, mean)
    if log_variance is not None:
        divergence = mean.square() + log_variance.exp() - 1 - log_variance
        paid = paid + terms.beta / network.n_columns * 0.5 * divergence.sum(dim=1)
    return paid
