"""Training steps: a batch's gradient, the penalties, the optimiser."""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.backprop import Workspace
from sknn_deep._engine.batches import Batches
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.cuda_graph import StepGraphs
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.optimizers import SGD, Adam, FlatOptimizer, add_scaled_
from sknn_deep._engine.solvers import (
    TORCH_OPTIMIZERS,
    MuonWithAdam,
    set_learning_rate,
    zero_negligible_state,
)
from sknn_deep._engine.tape import backprop_for
from sknn_deep._engine.torch_steps import torch_steps
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import Program
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._networks.flat import Network, gradient_of

# Denormal numbers make a CPU many times slower: without flushing, the epochs of an autoencoder on
# MNIST took twenty times longer after a while. Saturated sigmoids, weights that L2 shrinks after
# their unit has died, and moments that decay without a gradient all become denormal. A processor
# flag would flush them, but it holds only for the thread that sets it, not for OpenMP's workers. So
# negligible numbers are set to zero, often enough that neither weights nor moments decay to
# denormal numbers in between.
STEPS_BETWEEN_FLUSHES = 16
# These classes, though perhaps not their subclasses, evaluate the gradient once per step and never
# use the loss.
_SIMPLE_OPTIMIZERS = (SGD, Adam, MuonWithAdam, *TORCH_OPTIMIZERS.values())


class EpochLosses(NamedTuple):
    """The loss of an epoch, and the losses of its batches if they may be needed.

    Attributes
    ----------
    mean : float
        Mean loss of all rows, each before the step of its batch, as in ``loss_curve_``.
    values : sequence of float, length n_batches
        Mean loss of each batch.
    sizes : sequence of int, length n_batches
        Number of rows of each batch.
    weight_sums : sequence of float, length n_batches
        Sum of the weights of each batch.
    """

    mean: float
    values: Sequence[float] = ()
    sizes: Sequence[int] = ()
    weight_sums: Sequence[float] = ()


class Average:
    r"""An exponential average of a network's weights over the training steps [1]_.

    .. math:: \bar w \leftarrow d_t \bar w + (1 - d_t) w, \qquad d_t = \min(d, (1 + t) / (10 + t))

    so that the random initial weights are soon forgotten.

    Parameters
    ----------
    flat : Tensor
        The weights before the first step.
    decay : float in (0, 1)

    Attributes
    ----------
    weights : Tensor
    n_steps : int
    decay : float

    References
    ----------
    .. [1] B. Polyak, A. Juditsky (1992). Acceleration of stochastic approximation by averaging.
       SIAM Journal on Control and Optimization 30(4).

    Examples
    --------
    >>> import torch
    >>> from sknn_deep._engine.engine import Average
    >>> average = Average(torch.zeros(1), decay=0.5)
    >>> for weight in (1.0, 1.0):
    ...     (share,) = average.next_shares(1)
    ...     average.update(torch.tensor([weight]), share)
    >>> average.weights
    tensor([0.9545])
    """

    def __init__(self, flat: Tensor, decay: float):
        self.weights, self.n_steps, self.decay = flat.detach().clone(), 0, decay

    def next_shares(self, n_steps: int) -> list[float]:
        """Count steps; return the weight :math:`1 - d_t` of each."""
        first, self.n_steps = self.n_steps + 1, self.n_steps + n_steps
        steps = range(first, first + n_steps)
        return [1 - min(self.decay, (1 + step) / (10 + step)) for step in steps]

    @torch.no_grad()
    def update(self, flat: Tensor, share: float | Tensor) -> None:
        """Update the average with the weights after a step."""
        self.weights.lerp_(flat, share)

    @torch.no_grad()
    def swap(self, flat: Tensor) -> None:
        """Exchange the network's weights with their average."""
        present = flat.clone()
        flat.copy_(self.weights)
        self.weights.copy_(present)


class Engine:
    r"""Trains a network's weights on batches.

    The objective of a batch with weights :math:`s_i` is scikit-learn's,
    :math:`(\sum_i s_i \ell_i + \frac{\alpha}{2} \lVert W \rVert^2) / \sum_i s_i`.

    Parameters
    ----------
    network : Network
        Initialised and on its device.
    loss : Loss
    optimizer : torch.optim.Optimizer
    alpha : float
        Strength of the L2 penalty.
    weight_decay : float, default=0.0
        Decoupled from the gradient, for every optimiser.
    embedding_weight_decay : float, default=0.0
        The same, for the vectors that an input layer learns.
    average : Average, default=None
        Average of the weights, updated after every step.
    max_grad_norm : float, default=None
        Gradients of a larger norm are scaled down to this norm.
    product_dtype : torch.dtype, default=None
        See :class:`Backprop`.
    ranks : Ranks, default=None
        The processes that take every step together, each on its rows of the batch.

    Attributes
    ----------
    listener : object or None
        Notified of every step: ``batch_begins(X, target)``, ``gradient_is_known()`` before the
        gradient is used, and ``batch_ends(X, target, loss, raw)`` with the reported loss.
    in_optimizer : bool
        Whether an error raised by ``train`` comes from the optimiser.
    n_steps : int
        Number of steps begun, over all epochs.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        alpha: float,
        weight_decay: float = 0.0,
        embedding_weight_decay: float = 0.0,
        average: "Average | None" = None,
        max_grad_norm: float | None = None,
        product_dtype: torch.dtype | None = None,
        ranks: Ranks | None = None,
    ):
        self._network, self._loss, self._optimizer = network, loss, optimizer
        self._ranks = ranks
        self._alpha, self._weight_decay = alpha, weight_decay
        self._max_grad_norm, self._embedding_decay = max_grad_norm, embedding_weight_decay
        self.pace = Pace.of(network.flat.device)
        self._backprop = backprop_for([network], loss, product_dtype, ranks, self.pace)
        self._vectors = self._backprop.vectors_to_decay() if embedding_weight_decay else []
        self._graphs = StepGraphs([network])
        self._frozen: list[tuple[Tensor, Tensor]] = []
        self._none = network.flat.new_zeros(())
        self._is_ours = type(optimizer) in (SGD, Adam)
        self._torchs = torch_steps(optimizer, network.flat)
        # takes plain steps; the optimiser itself takes the others
        self._mover = self._torchs or cast(FlatOptimizer, optimizer)
        self._asks_for_loss = type(optimizer) not in _SIMPLE_OPTIMIZERS
        self.n_steps = 0
        self._average = average
        self._has_slow_denormals = network.flat.device.type == "cpu"
        self.listener: Any = None
        self.in_optimizer = False
        self._has_modes = network.is_random or network.has_normalization

    def train_epoch(self, batches: Batches, rates: Sequence[float] | None = None) -> EpochLosses:
        """Take a step on each batch of a set.

        Parameters
        ----------
        batches : Batches
        rates : sequence of float, length n_batches, default=None
            The learning rate of each step, if it changes from batch to batch.
        """
        sizes, n_done = batches.sizes, 0
        weight_sums: list[float] = []
        # one buffer: a small tensor kept from each batch would fragment the memory
        results = self._network.flat.new_empty((2, batches.n_batches))
        if self._has_modes:
            self._network.train()
        self.freeze()
        self._backprop.begin_epoch(batches.longest)
        self._backprop.keeps_outputs = self._asks_for_loss or self.listener is not None
        largest = self._backprop.largest_kernels(batches.longest)
        with self.pace.steps(**largest, n_beside=batches.n_readers):
            for chunk in batches:
                done = slice(n_done, n_done + len(chunk.parts))
                results[0, done], results[1, done] = self.train(chunk, rates and rates[done])
                n_done = done.stop
                weight_sums += chunk.weight_sums
        if self._has_modes:
            self._network.eval()
        if self._ranks is not None:
            self._ranks.add_(results[0])
        if results.device.type != "cpu":
            batches.look_ahead()
        # the only point in an epoch where the host waits for the device
        penalties = np.array(penalty_factors(self._alpha, weight_sums))
        values = reported_losses(results.cpu(), penalties, self._loss)
        losses = values.tolist()
        total = sum(loss * size for loss, size in zip(losses, sizes, strict=True))
        return EpochLosses(total / sum(sizes), losses, sizes, weight_sums)

    def freeze(self) -> None:
        """Freeze parameters without ``requires_grad`` at their current values."""
        frozen = self._network.frozen_parameters()
        self._frozen = [(p.detach(), p.detach().clone()) for p in frozen]

    # diverged weights raise an error after training, unless the best weights are restored
    @np.errstate(all="ignore")
    def train(self, chunk: Chunk, rates: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """Take a step on each batch of a chunk.

        Parameters
        ----------
        chunk : Chunk
        rates : sequence of float, default=None
            The learning rate of each step, if it changes from batch to batch.

        Returns
        -------
        losses : Tensor of shape (n_batches,)
            Mean loss of each batch before its step.
        squared_norms : Tensor of shape (n_batches,)
            Squared norm of the weights before each step.
        """
        self._network.attach_gradients()
        work = self._backprop.workspace(chunk)
        work.load()
        squared_norms = self._take_steps(work, chunk, rates)
        return work.losses(from_outputs=self._asks_for_loss), squared_norms

    def _take_steps(self, work: Workspace, chunk: Chunk, rates: Sequence[float] | None) -> Tensor:
        """Take a chunk's steps in the fastest way; return the squared norm before each."""
        plain = (
            self.listener is None
            and not self._frozen
            and not self._vectors
            and self._average is None
            and all(chunk.weight_sums)
        )
        # a graph cannot record communication between processes
        is_recorded = (
            chunk.X.device.type == "cuda"
            and not self._network.needs_autograd
            and self._ranks is None
        )
        if not plain or not (self._is_ours or (is_recorded and self._torchs_are_ready)):
            return self._steps(work, chunk, rates)
        factors = self._factors(chunk, rates)
        if not is_recorded:
            return self.plain_steps(work, factors)
        n_steps = self.n_steps + len(factors)
        key = (work, *self._mover.constants())
        squared_norms = self._graphs.take_steps(key, work, self.plain_steps, factors)
        self.n_steps = n_steps  # a replay does not count them
        return squared_norms

    @property
    def n_workspaces(self) -> int:
        """The number of kinds of chunks for which there are buffers and perhaps graphs."""
        return self._backprop.n_workspaces

    def close(self) -> None:
        """Release the graphs and the memory that they hold."""
        self._graphs.close()

    @property
    def _torchs_are_ready(self) -> bool:
        """Whether the optimiser is one of torch's and has taken its first step."""
        return self._torchs is not None and self._torchs.is_ready

    def _factors(self, chunk: Chunk, rates: Sequence[float] | None) -> list[tuple[float, ...]]:
        """Return the factors for :meth:`plain_steps`, and count the steps."""
        penalties = penalty_factors(self._alpha, chunk.weight_sums)
        if rates is None:
            rates = [self._optimizer.param_groups[0]["lr"]] * len(penalties)
        else:
            set_learning_rate(self._optimizer, rates[-1])
        own = self._mover.next_factors(rates)
        return [
            (penalty, 1 - rate * self._weight_decay, *factors)
            for penalty, rate, factors in zip(penalties, rates, own, strict=True)
        ]

    def plain_steps(self, work: Workspace, factors: Iterable[tuple[float, ...]] | Tensor) -> Tensor:
        """Take a chunk's steps in one go, without a listener.

        Parameters
        ----------
        work : Workspace
        factors : iterable of tuple of float, or Tensor of shape (n_batches, n_factors)
            For each batch the factors of the L2 penalty, of the decayed weights and of the
            optimiser's step, which may take several.

        Returns
        -------
        squared_norms : Tensor of shape (n_batches,)
            Squared norm of the weights before each step.
        """
        squared_norms = []
        move = self._mover.kernel()
        with torch.inference_mode():  # saves autograd's bookkeeping
            for program, (penalty, decay, *own) in zip(work.programs, factors, strict=True):
                self._flush_now_and_then()
                squared_norms.append(self._write_gradient(program, penalty))
                if self._weight_decay:
                    self._network.weights.mul_(decay)
                move(*own)
                self.pace.step_done()
        return torch.stack(squared_norms)

    def _flush_now_and_then(self) -> None:
        if self.n_steps % STEPS_BETWEEN_FLUSHES == 0 and self._has_slow_denormals:
            self._network.zero_negligible()
            zero_negligible_state(self._optimizer)
        self.n_steps += 1

    def _steps(self, work: Workspace, chunk: Chunk, rates: Sequence[float] | None) -> Tensor:
        """Take a chunk's steps with any optimiser, and notify the listener of each."""
        squared_norms = [self._none] * len(chunk.parts)
        for number, penalty in enumerate(penalty_factors(self._alpha, chunk.weight_sums)):
            if chunk.weight_sums[number] == 0:
                work.raws[number].zero_()
                continue  # all rows of this batch have a weight of zero
            if rates is not None:
                set_learning_rate(self._optimizer, rates[number])
            self._flush_now_and_then()
            take_step = self._step if self.listener is None else self._announced_step
            squared_norms[number] = take_step(work, chunk, number, penalty)
            self.pace.step_done()
        return torch.stack(squared_norms)

    def _announced_step(self, work: Workspace, chunk: Chunk, number: int, penalty: float) -> Tensor:
        part = chunk.parts[number]
        batch = (chunk.X[part], chunk.target[part])
        self.listener.batch_begins(*batch)
        squared_norm = self._step(work, chunk, number, penalty)
        loss = work.loss(number) * self._loss.reported_scale + 0.5 * penalty * squared_norm
        self.listener.batch_ends(*batch, loss, work.raws[number].clone())
        return squared_norm

    def _step(self, work: Workspace, chunk: Chunk, number: int, penalty: float) -> Tensor:
        calls: list[tuple[Tensor, Tensor]] = []
        optimizer, program = self._optimizer, work.programs[number]
        raw = work.raws[number]

        def gradient() -> Tensor | None:
            self.in_optimizer = False
            self._network.attach_gradients()  # an optimiser may have set them to None
            squared_norm = self._write_gradient(program, penalty)
            if not calls:
                calls.append((squared_norm, raw.clone() if self._asks_for_loss else raw))
                if self._weight_decay:
                    # after the gradient, as AdamW does, and once even if it is computed repeatedly
                    lr = optimizer.param_groups[0]["lr"]
                    self._network.weights.mul_(1 - lr * self._weight_decay)
                for vectors in self._vectors:
                    lr = optimizer.param_groups[-1]["lr"]  # with Muon, Adam's rate
                    vectors.mul_(1 - lr * self._embedding_decay)
            self.in_optimizer = True
            if self._asks_for_loss:
                loss = work.loss(number)
                if self._ranks is not None:
                    self._ranks.add_(loss)
                return loss + 0.5 * penalty * squared_norm
            return None

        self.in_optimizer = True
        self._call_optimizer(gradient)
        self.in_optimizer = False
        if not calls:
            raise ValueError(
                f"{type(optimizer).__name__}.step never called the closure that it was given, so "
                "there was no gradient; call it once or more in every step."
            )
        ((squared_norm, first_raw),) = calls
        if self._asks_for_loss:
            raw.copy_(first_raw)  # the reported loss is the one before the step
        for parameter, kept in self._frozen:  # by skorch's Freezer
            parameter.copy_(kept)
        if self._average is not None:
            (share,) = self._average.next_shares(1)
            self._average.update(self._network.flat, share)
        return squared_norm

    def _call_optimizer(self, gradient: Callable[[], Tensor | None]) -> None:
        """Take an optimiser's step, bit-identical on any number of threads."""
        optimizer: Any = self._optimizer
        if isinstance(optimizer, MuonWithAdam) and self.pace.n_used < self.pace.n_worth:
            optimizer.step(gradient, run_muon=self.pace.checked(operator.call, *optimizer.probe()))
        elif self._asks_for_loss:  # a user's class: pin all that it does, the gradient included
            self.pace.pinned(optimizer.step, math.inf)(gradient)
        else:
            optimizer.step(gradient)

    def _write_gradient(self, program: Program, penalty: float | Tensor) -> Tensor:
        """Fill the network's gradient; return the squared norm of its weights."""
        for kernel in program:
            kernel()
        squared_norm = self._none
        if self._alpha:
            weights = self._network.weights
            squared_norm = self.pace.pinned(torch.dot, 0)(weights, weights)
            add_scaled_(gradient_of(weights), weights, penalty)
        if self._max_grad_norm is not None:
            gradient = gradient_of(self._network.flat)
            length = torch.linalg.vector_norm(gradient)
            gradient.mul_((self._max_grad_norm / length).clamp(max=1.0))
        if self.listener is not None:
            self.listener.gradient_is_known()
        return squared_norm


def penalty_factors(alpha: float, weight_sums: Sequence[float]) -> list[float]:
    """Return the factor of the L2 penalty's gradient in each batch."""
    return [alpha / weight_sum if weight_sum else 0.0 for weight_sum in weight_sums]


def reported_losses(results: Tensor, penalties: np.ndarray, loss: Loss) -> np.ndarray:
    """Return the losses from which ``loss_curve_`` is made, on its scale and with the penalty.

    Parameters
    ----------
    results : Tensor of shape (2, n_batches), on the CPU
        Mean losses and squared norms of the weights.
    penalties : ndarray of shape (n_batches,)
        Factor of each batch's penalty.
    loss : Loss
    """
    losses, squared_norms = results.numpy().astype(np.float64)
    return losses * loss.reported_scale + 0.5 * penalties * squared_norms
