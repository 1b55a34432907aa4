"""The gradient by torch's tape, for what the closed form does not cover.

Two kinds of code need it: a code that is drawn from a distribution branches, and a penalty on the
Jacobian of the encoder needs second derivatives. :class:`AutogradBackprop` overrides one method,
``program``, by a single kernel that runs the modules under autograd; buffers, losses, optimisers,
callbacks and the engine know nothing of it. All other variants of the autoencoder are the same in
the closed form and on the tape, so they combine; both are compared with each other and with finite
differences (``tests/engine/test_tape.py``).

The tape trains one network at a time, and takes no CUDA graph and no bfloat16.
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
    """Return the closed form where it covers the networks, else the tape."""
    if networks[0].needs_autograd:
        (network,) = cast(Sequence[Autoencoder], networks)  # no others need it
        return AutogradBackprop(network, loss, ranks, pace)
    return Backprop(networks, loss, product_dtype, pace, ranks=ranks)


class AutogradBackprop(Backprop):
    """The gradient of an autoencoder's loss, recorded and played back by autograd.

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

    def overwritten_output(self, n_rows: int) -> None:
        """Return None: the tape reads the output again."""

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
        """Return one kernel that does what those of :class:`Backprop` do together, and the sum."""
        delta = torch.empty_like(raw)
        # no method, since this object holds what it returns
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
    # the engine's steps switch the tape off
    with torch.inference_mode(False), torch.enable_grad():
        x = network.corrupted(X).requires_grad_()
        mean, log_variance = network.distribution(x)
        code = network.drawn(mean, log_variance)
        # the loss's gradient is the closed form's: for some pairs before the activation
        output = network.decoder[:-1](code) if loss.is_merged else network.decoder(code)
        penalties = _penalties(network, loss.penalty, x, mean, log_variance)
        total = (penalties * scale.reshape(-1)).sum()
        with torch.no_grad():
            raw.copy_(network.decoder[-1](output) if loss.is_merged else output)
            loss.write(raw, target, scale, delta, losses)
        parameters = [p for p in network.parameters() if p.requires_grad]
        parameters += [decoder.weight for _, decoder in network.tied_layers()]
        # a loss without penalties leaves nothing on the tape but the output
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
    """Return what each row pays for its code."""
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
