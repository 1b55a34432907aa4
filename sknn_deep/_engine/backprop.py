r"""Closed-form forward and backward pass of one dense network or a stack of the same shape.

Layer :math:`l` maps a batch :math:`a_{l-1}` (one sample per row) to

.. math:: z_l = a_{l-1} W_l^\top + b_l, \qquad a_l = m_l \odot \phi_l(\nu_l(z_l))

with a normalisation :math:`\nu_l` and a dropout mask :math:`m_l` where the network has
them. With :math:`\delta_l = \partial L / \partial z_l`, backpropagation is [1]_

.. math::
    \delta_{l-1} = \nu_{l-1}'\big((\delta_l W_l) \odot m_{l-1} \odot \phi_{l-1}'\big), \qquad
    \frac{\partial L}{\partial W_l} = \delta_l^\top a_{l-1}, \qquad
    \frac{\partial L}{\partial b_l} = \sum_i \delta_{l,i}

The batch itself may come from an input layer, :math:`a_0 = \psi_\theta(x)`. If that layer has
parameters, it is given :math:`\partial L / \partial a_0 = \delta_1 W_1`; otherwise this product
is not computed.

These equations need no tape. They are compiled once into a list of kernels bound to buffers that
all batches share; a training step runs the list. In a stack of K networks every tensor has a
leading dimension of K, and each product is one batched product. A step allocates nothing and checks
no shapes. Normalisation is part of the list, through torch's own kernels. The result agrees with
autograd for every activation, loss, depth and normalisation, including dropout
(``tests/engine/test_backprop.py``).

There are no reference cycles here. Programs hold the buffers of a fit, which are large if layers
are, and Python's garbage collector counts objects, not bytes: many fits may pass before it frees a
cycle. So kernels are free functions bound to tensors, not methods stored in an object's own list of
kernels, and a workspace holds no reference to the ``Backprop`` that made it.

References
----------
.. [1] D. Rumelhart, G. Hinton, R. Williams (1986). Learning representations by
   back-propagating errors. Nature 323.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sknn_deep._engine.activations import ACTIVATION_KERNELS, SMALL_TENSOR
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.gradient_sum import gradient_sum
from sknn_deep._engine.layer_pass import LayerPass
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.masks import MOST_BATCHES, Masks
from sknn_deep._engine.norm_pass import is_by_channel
from sknn_deep._hardware.bfloat16 import is_worth_rounding
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.products import Kernel, Program, empty_matrix
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._hardware.sparse_products import SparseBatch
from sknn_deep._networks.flat import Network, gradient_of
from sknn_deep._networks.stacked import bound_input, dense_layers, shared_statistics

# Buffers are kept for at most this many batch lengths. If ranks have rows of their own, their
# shares of a batch have many lengths.
_MOST_LENGTHS = 64


class Backprop:
    """The gradient of a loss for one network or a stack, in closed form.

    Parameters
    ----------
    networks : sequence of Network, length K
        All of the same shape.
    loss : Loss
    product_dtype : torch.dtype, default=None
        Type to which the factors of matrix products are rounded, and with them outputs, biases and
        deltas between two layers that round (see :meth:`_kept_rounded`); the weights, the sums and
        everything else stay in single precision.
    pace : Pace, default=None
        Chooses the number of threads for the steps; None for one thread. Programs are built within
        a ``with pace.steps(...)`` block.
    buffers : (Tensor, Tensor), default=None
        Parameters and gradients of several networks, from ``share_buffer``: all tensors then have
        a leading dimension of K. None for a single network.
    ranks : Ranks, default=None
        The processes that share every batch. Each computes a part of the gradient, and their sum
        is written; batch normalisation uses the statistics of all rows.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        loss: Loss,
        product_dtype: torch.dtype | None = None,
        pace: Pace | None = None,
        buffers: tuple[Tensor, Tensor] | None = None,
        ranks: Ranks | None = None,
    ):
        self._layers = dense_layers(networks, buffers)
        # for layers with dropout on a device, once an epoch has begun
        self._masks: dict[int, Masks] = {}
        self._longest = 0
        # for layers of a stack with batch normalisation on a device
        self._statistics = {
            number: shared_statistics(layer.norm.modules)
            for number, layer in enumerate(self._layers)
            if layer.norm is not None and is_by_channel(layer.norm, layer.weight)
        }
        self.loss, self.ranks = loss, ranks
        # whether anything but the step's own kernels reads the outputs after a step
        self.keeps_outputs = True
        self._product_dtype, self.pace = product_dtype, pace or Pace(1)
        # the last batch may be shorter or longer than the others: each length has its own buffers
        self._passes: dict[tuple[int, int, bool], list[LayerPass]] = {}
        self._workspaces: dict[tuple, Workspace] = {}
        self._input = bound_input(networks, buffers)
        # by number of rows: the input layer's output, and the gradient with respect to it
        self._taken_in: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._code_layer = networks[0].code_layer
        self._add_tied_gradients = [
            network.add_tied_gradients for network in networks if network.tied_layers()
        ]
        self._begin_sum: dict[int, Kernel] = {}
        self._finish_sum: Program = []
        if ranks is not None:
            (network,) = networks
            matrices = [layer.weight_grad for layer in self._layers]
            if self._add_tied_gradients or network.needs_autograd:
                matrices = []
            gradient = gradient_of(network.flat)
            self._begin_sum, finish = gradient_sum(ranks, gradient, matrices)
            self._finish_sum = [finish]

    def workspace(self, chunk: Chunk) -> "Workspace":
        """Return the programs of a chunk's batches, bound to its buffers."""
        # a workspace holds its chunk's tensors, so no others can reuse their addresses
        slot = chunk.first % MOST_BATCHES if self._masks else 0
        # shares of different batches may have the same number of rows
        shares = tuple((n_rows, own.start, own.stop) for n_rows, own in chunk.shares)
        shape = chunk.X.shape[-2], len(chunk.parts), chunk.scale is None
        key = (chunk.X.data_ptr(), *shape, slot, shares, self.pace.n_worth, self.keeps_outputs)
        if key not in self._workspaces:
            if len(self._passes) > _MOST_LENGTHS:  # where ranks have rows of their own
                for buffers in (self._passes, self._workspaces, self._taken_in):
                    buffers.clear()
            self._workspaces[key] = Workspace(self, chunk)
        return self._workspaces[key]

    @property
    def n_workspaces(self) -> int:
        """The number of kinds of chunks for which there are programs."""
        return len(self._workspaces)

    def vectors_to_decay(self) -> list[Tensor]:
        """Return the trained vectors to which ``embedding_weight_decay`` applies."""
        own = self._input
        return [] if own is None else own.modules[0].vectors_to_decay(own.parameters)

    def begin_epoch(self, longest: int) -> None:
        """Prepare for batches of at most this many rows, at the current dropout rates."""
        if self._layers[0].weight.device.type == "cpu" or self.ranks is not None:
            return
        if longest > self._longest:
            self._longest = longest
            self._passes.clear()
            self._workspaces.clear()
            self._masks = {
                number: Masks(layer.dropout, layer.output_shape(longest), layer.weight)
                for number, layer in enumerate(self._layers)
                if layer.dropout
            }
        for masks in self._masks.values():
            masks.update()

    def largest_kernels(self, n_rows: int) -> dict[str, int]:
        """Return the work of the largest kernels of a step on this many rows.

        Returns
        -------
        work : dict
            "multiply_adds" of the largest product, and "n_elements" of the optimiser's pass over
            weights, gradients and two moments.
        """
        sizes = [layer.weight.numel() for layer in self._layers]
        return {"multiply_adds": n_rows * max(sizes), "n_elements": 4 * sum(sizes)}

    def empty_output(self, n_batches: int, n_rows: int) -> Tensor:
        """Return a buffer for the outputs of several batches of this many rows."""
        weight = self._layers[-1].weight
        return empty_matrix((n_batches, *weight.shape[:-2], n_rows, weight.shape[-2]), like=weight)

    def overwritten_output(self, n_rows: int, *, is_sparse: bool) -> Tensor | None:
        """Return a buffer for outputs that the gradient with respect to them may overwrite.

        None unless the outputs are not read after a step and their losses are computed within it.
        """
        delta = self._passes_for(n_rows, is_sparse)[-1].delta
        is_plain = self._layers[-1].activation == "identity" and not self.keeps_outputs
        return delta if is_plain and self.loss.is_read_on_the_way(delta) else None

    def program(
        self,
        X: Any,
        target: Tensor,
        scale: Tensor,
        raw: Tensor,
        penalty: Tensor,
        number: int = 0,
        losses: Tensor | None = None,
    ) -> Program:
        """Return the kernels that write the output of a batch and the gradient of its loss.

        Parameters
        ----------
        X : Tensor or SparseBatch of shape (batch, n_features)
        target : Tensor of shape (batch, n_outputs)
            In the form that the loss takes.
        scale : Tensor of shape () or (batch, 1)
            Factor of each sample's loss: its weight divided by the sum of the weights.
        raw : Tensor of shape (batch, n_outputs)
            Receives the output.
        penalty : Tensor of shape ()
            Receives the penalty of the code, if the loss has one.
        number : int, default=0
            Index of the batch in its epoch: dropout draws masks for several at once.
        losses : Tensor of shape (batch,), default=None
            Receives the loss of each row, unless None.
        """
        passes = self._passes_for(X.shape[-2], isinstance(X, SparseBatch))
        kernels, first_input, first_delta = self._take_in(X)
        inputs, saved = [first_input], []
        for layer in passes:
            out = raw if layer is passes[-1] else None
            forward, output, for_backward = layer.forward(inputs[-1], out, number)
            kernels += forward
            inputs.append(output)
            saved.append(for_backward)
        delta = passes[-1].delta
        write = partial(self.loss.write, raw, target, scale, delta, losses)
        is_alike = self.loss.is_alike_on_any_threads and raw.stride(-1) == 1
        kernels.append(write if is_alike else self.pace.pinned(write, raw.numel()))
        for i in range(len(passes) - 1, -1, -1):
            if i == self._code_layer and self.loss.penalty is not None:
                sparsity = self.loss.penalty.sparsity
                code = inputs[i + 1]
                sparsify = _sparsify(sparsity, code, scale, passes[i].delta, penalty)
                kernels.append(self.pace.pinned(sparsify, code.numel()))
            is_merged = self.loss.is_merged and passes[i] is passes[-1]
            kernels += passes[i].backward(inputs[i], saved[i], is_merged, number)
            if i in self._begin_sum:
                kernels.append(self._begin_sum[i])
            if i > 0:
                kernels += passes[i].delta_of_input(passes[i - 1].delta)
        if self._input is not None and first_delta is not None:
            kernels += passes[0].delta_of_input(first_delta)
            kernels += self._input.backward(X, first_delta)
        return kernels + self._add_tied_gradients + self._finish_sum

    def _take_in(self, X: Any) -> tuple[Program, Any, Tensor | None]:
        """Return the input layer's kernels, its output and the buffer for the output's gradient.

        The gradient buffer is None if the input layer has no parameters.
        """
        if self._input is None:
            return [], X, None
        n_rows = X.shape[-2]
        if n_rows not in self._taken_in:  # all batches of the same length share the buffers
            shape = (*X.shape[:-1], self._layers[0].weight.shape[-1])
            delta = X.new_empty(shape) if self._input.parameters else None
            self._taken_in[n_rows] = X.new_empty(shape), delta
        out, delta = self._taken_in[n_rows]
        return self._input.forward(X, out), out, delta

    def _passes_for(self, n_rows: int, is_sparse: bool) -> "list[LayerPass]":
        # kernels depend on the number of threads of the steps
        key = n_rows, self.pace.n_worth, is_sparse
        if key not in self._passes:
            rounded = self._kept_rounded(n_rows, is_sparse)
            self._passes[key] = [
                LayerPass(
                    layer,
                    n_rows,
                    self._product_dtype,
                    self.pace,
                    self._masks.get(number),
                    self._statistics.get(number),
                    self.ranks,
                    keeps_rounded=number in rounded,
                )
                for number, layer in enumerate(self._layers)
            ]
        return self._passes[key]

    def _kept_rounded(self, n_rows: int, is_sparse: bool) -> set[int]:
        """Return the layers whose outputs and deltas are only needed as rounded factors.

        Passes over them then move half of the bytes. The gradients of activations that saturate
        are computed in single precision, as are normalisation, dropout and penalties of the code.
        """
        if self._product_dtype is None:
            return set()
        rounds = [is_worth_rounding(n_rows, layer.weight) for layer in self._layers]
        rounds[0] = rounds[0] and not is_sparse  # sparse products are in single precision
        return {
            number
            for number, layer in enumerate(self._layers[:-1])
            if rounds[number]
            and rounds[number + 1]
            and layer.norm is None
            and not layer.dropout
            and not ACTIVATION_KERNELS[layer.activation].saturates
            and number != self._code_layer
        }


def _sparsify(
    sparsity: float, code: Tensor, scale: Tensor, delta: Tensor, penalty: Tensor
) -> Kernel:
    """Return the kernel that adds the gradient of the code's L1 penalty and writes its value."""
    factor = sparsity / code.shape[-1]

    def kernel() -> None:
        delta.add_(torch.sign(code).mul_(scale), alpha=factor)
        torch.sum(code.abs().mul_(scale), dim=(-2, -1), out=penalty).mul_(factor)

    return kernel


class Workspace:
    """The programs of a chunk's batches, their raw outputs and encoded targets.

    The output of each batch is contiguous, column-major if it is narrow, and the outputs of all
    batches of the same length are adjacent, so that their losses take one operation.

    A step needs the loss's gradient, not its value, so losses are computed at the end of a chunk:
    all together, or batch by batch if the outputs are wide.

    Attributes
    ----------
    programs : list of Program
        One for each batch of the chunk.
    raws : list of Tensor of shape (batch, n_outputs)
        The output of each batch before its step.
    """

    def __init__(self, backprop: Backprop, chunk: Chunk):
        # without a reference to backprop itself, which holds its workspaces: a reference cycle
        # stays in memory until the garbage collector runs, which may be many fits later
        self._chunk, self._loss, self._pace = chunk, backprop.loss, backprop.pace
        self.programs: list[Program] = []
        self.raws: list[Tensor] = []
        self._batches: list[tuple[Tensor, ...]] = []
        self._penalties = chunk.X[:0].new_zeros((len(chunk.parts), *chunk.X.shape[:-2]))
        lengths = [part.stop - part.start for part in chunk.parts]
        n_alike = len(lengths) if lengths[-1] == lengths[0] else len(lengths) - 1
        # all batches but the last have the same length
        groups = [slice(0, n_alike), slice(n_alike, len(lengths))]
        self._groups = [
            self._group(backprop, chunk, chunk.parts[group])
            for group in groups
            if chunk.parts[group]
        ]

    def _group(self, backprop: Backprop, chunk: Chunk, parts: list[slice]) -> "_Group":
        """Add the programs of batches of the same length."""
        length, n_batches = parts[0].stop - parts[0].start, len(parts)
        is_sparse = isinstance(chunk.X, SparseBatch)
        overwritten = backprop.overwritten_output(length, is_sparse=is_sparse)
        if overwritten is None:
            raw = backprop.empty_output(n_batches, length)
        else:
            raw = overwritten.expand(n_batches, *overwritten.shape)

        def batches_of(rows: Tensor, dim: int) -> Tensor:
            rows = rows.narrow(dim, parts[0].start, n_batches * length)
            return rows.unflatten(dim, (n_batches, length)).movedim(dim - 1, 0)

        has_labels = chunk.target.ndim < chunk.X.ndim
        labels = target = encoded = batches_of(chunk.target, -1 if has_labels else -2)
        if self._loss.is_encoded(labels, raw):
            encoded = target = backprop.empty_output(n_batches, length)
            if labels.ndim == 3 and labels.stride(1) == 0:  # the networks of a stack share them
                encoded = empty_matrix((n_batches, 1, *target.shape[2:]), like=target)
                labels, target = labels[:, :1], encoded.expand_as(target)
        if chunk.scale is None:
            # a factor that all rows share is cheaper than one per row
            scale = raw.new_full((n_batches,) + (1,) * (raw.ndim - 1), 1 / length)
        else:
            shape = (*chunk.X.shape[:-1], 1)
            scale = batches_of(chunk.scale.expand(shape), -2)
        losses = None
        if self._loss.is_read_on_the_way(raw[0]):
            losses = raw.new_zeros(raw.shape[:-1])
        for i, part in enumerate(parts):
            own_scale = scale[i].squeeze() if chunk.scale is None else scale[i]
            batch = (target[i], own_scale, raw[i], self._penalties[len(self.raws)])
            number = chunk.first + len(self.programs)
            X = chunk.X if isinstance(chunk.X, SparseBatch) else chunk.X[..., part, :]
            own_losses = None if losses is None else losses[i]
            program = backprop.program(X, *batch, number, own_losses)
            if backprop.ranks is not None and chunk.shares:
                program = [
                    partial(backprop.ranks.share.set, *chunk.shares[len(self.programs)]),
                    *program,
                ]
            self.programs.append(program)
            self.raws.append(raw[i])
            self._batches.append(batch)
        own_scales = None if chunk.scale is None else scale
        return _Group(raw, labels, encoded, target, own_scales, losses)

    def load(self) -> None:
        """Encode the targets now in the chunk's buffers for the loss."""
        for group in self._groups:
            if self._loss.encode is not None and group.encoded is not group.labels:
                self._loss.encode(group.labels, group.encoded)

    def losses(self, *, from_outputs: bool = False) -> Tensor:
        """Return the mean loss of every batch, each before its own step.

        The shape is (n_batches,), or (n_networks, n_batches) for a stack.

        Parameters
        ----------
        from_outputs : bool, default=False
            Whether to compute the losses from the current outputs instead of using those that the
            programs wrote; for programs that may have run more than once per step.
        """
        n_elements = max(group.raw.numel() for group in self._groups)
        return self._pace.pinned(self._mean_losses, n_elements)(from_outputs)

    def _mean_losses(self, from_outputs: bool) -> Tensor:
        losses = []
        for group in self._groups:
            of_rows = group.losses
            if of_rows is None or from_outputs:
                of_rows = self._losses_of_rows(group)
            if group.scale is None:
                losses.append(of_rows.mean(dim=-1))
            else:
                losses.append((of_rows * group.scale.squeeze(-1)).sum(dim=-1))
        means = losses[0] if len(losses) == 1 else torch.cat(losses)
        return means.add_(self._penalties).movedim(0, -1)

    def _losses_of_rows(self, group: "_Group") -> Tensor:
        if group.raw.device.type != "cpu" or group.raw[0].numel() <= SMALL_TENSOR:
            return self._loss.per_sample(group.raw, group.target)
        # the intermediate results of one batch stay in the cache
        batches = zip(group.raw, group.target, strict=True)
        return torch.stack([self._loss.per_sample(raw, target) for raw, target in batches])

    def loss(self, number: int) -> Tensor:
        """Return the mean loss of one batch."""
        return self._pace.pinned(self._mean_loss, self.raws[number].numel())(number)

    def _mean_loss(self, number: int) -> Tensor:
        target, scale, raw, penalty = self._batches[number]
        losses = self._loss.per_sample(raw, target)
        return (losses * (scale.squeeze(-1) if scale.ndim else scale)).sum(dim=-1) + penalty


class _Group(NamedTuple):
    """Batches of the same length, along the first dimension.

    ``scale`` is None if all rows have equal weight; ``losses``, the losses of the rows, is None
    unless the programs write them.
    """

    raw: Tensor
    labels: Tensor
    encoded: Tensor
    target: Tensor
    scale: Tensor | None
    losses: Tensor | None
