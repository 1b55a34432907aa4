"""Epochs of a stack: K networks of the same shape trained at once.

Each network has its own rows, order, penalty, learning rate and random numbers. The products of a
step are batched products over the stack; everything else in a step is one operation on the rows of
shared buffers. Each network gets the same weights as if trained alone, up to rounding.

Adjacent networks with the same optimiser settings are updated by one call of the kernel for a
single network; jobs are sorted so that there are such neighbours. Folds may differ by a row: the
shorter ones get a row of weight zero, unless normalisation would see it or dropout draw for it.
When a quarter of the networks have stopped, the others move to smaller buffers (``fused.py``).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sknn_deep._engine.backprop import Backprop, Workspace
from sknn_deep._engine.batches import n_together
from sknn_deep._engine.chunk import Chunk
from sknn_deep._engine.cuda_graph import StepGraphs
from sknn_deep._engine.engine import (
    STEPS_BETWEEN_FLUSHES,
    Average,
    EpochLosses,
    reported_losses,
)
from sknn_deep._engine.optimizers import zero_negligible_moments
from sknn_deep._engine.solvers import set_learning_rate
from sknn_deep._engine.stacked_muon import StackedMuon, for_stack
from sknn_deep._hardware.pace import Pace
from sknn_deep._hardware.threads import numpy_takes_one_thread, one_thread
from sknn_deep._networks.flat import zero_negligible
from sknn_deep._networks.stacked import rows_of_networks, share_buffer, training_twin, turn_first
from sknn_deep._training.stack_rows import Gathered, StackBuffers, orders_of, sources_of
from sknn_deep._training.training import Training

# of the L2 penalty, of decayed weights and vectors, of the average, and for each move
Factors = tuple[Tensor, Tensor, Tensor, float, *tuple[tuple, ...]]
# With more groups of rates than this, kernels with a rate per network are used.
_MOST_CALLS = 8


class Stack:
    """Trains the networks of several trainings together, epoch by epoch.

    Parameters
    ----------
    trainings : list of Training, length K
        Of networks of the same shape, with this package's optimisers of the same kind, the same
        loss and number of batches, whose lengths agree except for the last. Those with the same
        optimiser settings should be adjacent, so that one call updates them all. Their networks
        and optimisers are updated when they are released.

    Attributes
    ----------
    n_steps : int
        Steps that each network has taken in the stack.
    """

    @one_thread()  # waking other threads does not pay off for copying some megabytes
    def __init__(self, trainings: list[Training]):
        self._trainings = trainings
        self._live = dict(enumerate(trainings))
        networks = [training.network for training in trainings]
        self._has_modes = networks[0].is_random or networks[0].has_normalization
        if self._has_modes:
            # a network that has left must neither count later batches nor draw numbers for them
            networks = [training_twin(network) for network in networks]
        self._networks = networks
        self._flat, self._gradient = share_buffer(networks)
        n_weights = networks[0].weights.numel()
        self._weights, self._penalized = self._flat[:, :n_weights], self._gradient[:, :n_weights]
        self._optimizers = [for_stack(own.optimizer, own.network) for own in trainings]
        names = self._optimizers[0].buffers
        self._state = {name: torch.zeros_like(self._flat) for name in names}
        for k, optimizer in enumerate(self._optimizers):
            optimizer.write_state({name: own[k] for name, own in self._state.items()})
        for buffer in self._state.values():
            turn_first(buffer, networks[0].first_shape)
        self._first_shape = networks[0].first_shape
        self._device = self._flat.device
        self._pace = Pace.of(self._device)
        buffers = self._flat, self._gradient
        self._backprop = Backprop(
            networks, trainings[0].loss, trainings[0].product_dtype, self._pace, buffers
        )
        # NumPy's sums run at memory bandwidth, unlike torch's
        by_numpy = self._device.type == "cpu" and numpy_takes_one_thread()
        self._numpys_weights = self._weights.numpy() if by_numpy else None
        self._read_parameters()
        self._average = self._stacked_average()
        self._orders = orders_of(trainings)
        self._lay_out()
        # the learning rates of the last epoch, and the moves made for them
        self._present: dict[int, tuple] = {}
        self._last_moves: list[_Moves] = []
        self._is_behind = False
        # cached factors, and the moves that they belong to
        self._table: list[tuple[Tensor, ...]] = []
        self._table_of: list[_Moves] | None = None
        self.n_steps = 0
        # twins use the generators of their networks
        self._graphs = StepGraphs([*networks, *(training.network for training in trainings)])

    def _read_parameters(self) -> None:
        penalties = [training.penalties for training in self._trainings]
        self._alphas = np.array([penalty["alpha"] for penalty in penalties])
        self._decays = np.array([penalty["weight_decay"] for penalty in penalties])
        of_vectors = [penalty["embedding_weight_decay"] for penalty in penalties]
        # with Muon, at Adam's rate
        groups = [training.optimizer.param_groups[-1] for training in self._trainings]
        ratios = [group.get("lr_factor", 1.0) for group in groups]
        self._vector_decays = np.array(of_vectors) * ratios
        self._vectors = self._backprop.vectors_to_decay() if any(of_vectors) else []
        norms = [penalty["max_grad_norm"] for penalty in penalties]
        self._max_norms = None
        if any(norm is not None for norm in norms):
            limits = [np.inf if norm is None else norm for norm in norms]
            self._max_norms = self._flat.new_tensor(limits).unsqueeze(1)

    def _stacked_average(self) -> Average | None:
        """Return the averages of all networks' weights as one, or None if they are not kept."""
        averages = [own.average for own in self._trainings if own.average is not None]
        if not averages:
            return None
        average = Average(self._flat, averages[0].decay)
        average.weights.copy_(torch.stack([own.weights for own in averages]))
        turn_first(average.weights, self._first_shape)
        average.n_steps = averages[0].n_steps  # they began together
        return average

    def _lay_out(self) -> None:
        """Group batches into pieces that are gathered together, and set up their sources."""
        sets = [training.batches for training in self._trainings]
        self._lengths = np.array([[part.stop - part.start for part in b.slices] for b in sets])
        longest = self._lengths.max(axis=0)
        stops = np.cumsum(longest)
        layers = self._trainings[0].network.linear_layers()
        width = max(sets[0].n_features, layers[-1].out_features)
        row_bytes = len(sets) * width * self._flat.element_size()
        most = n_together(int(longest.max()) * row_bytes, self._device)
        # pieces have the same length, except perhaps the last, to share buffers and programs
        size = math.ceil(len(longest) / math.ceil(len(longest) / most))
        self._pieces = [slice(i, i + size) for i in range(0, len(longest), size)]
        self._parts = [
            slice(stop - length, stop) for stop, length in zip(stops, longest, strict=True)
        ]
        self._rows = np.zeros((len(self._orders), stops[-1]), dtype=np.intp)
        of_orders = [sets[order.members[0]] for order in self._orders]
        self._sources, self._offsets = sources_of(of_orders, self._device, self._flat.dtype)
        order_of = np.empty(len(sets), dtype=np.int64)
        for i, order in enumerate(self._orders):
            order_of[order.members] = i
        self._order_of = torch.from_numpy(order_of).to(self._device)
        self._has_weights = any(batches.weight is not None for batches in sets)
        # all batches but the last have the same length: missing rows of the last get weight zero
        is_even = (self._lengths[:, -1] == longest[-1]).all()
        self._last_scale = None if is_even else self._scale_of(self._pieces[-1])
        self._buffers: dict[int, StackBuffers] = {}

    def _scale_of(self, piece: slice) -> Tensor:
        """Return the factor of each row in the loss of its batch, without sample weights."""
        lengths = self._lengths[:, piece]
        rows = np.arange(lengths.max())
        start, stop = self._parts[piece][0].start, self._parts[piece][-1].stop
        scale = np.zeros((len(lengths), stop - start, 1))
        for part, own in zip(self._parts[piece], lengths.T, strict=True):
            is_own = rows[: part.stop - part.start] < own[:, np.newaxis]
            scale[:, part.start - start : part.stop - start, 0] = is_own / own[:, np.newaxis]
        return torch.from_numpy(scale).to(self._flat.dtype).to(self._device)

    def train_epoch(self, rates: dict[int, list[float] | None]) -> dict[int, EpochLosses]:
        """Take a step on each batch, every network on its own batches.

        Parameters
        ----------
        rates : dict of (list of float or None)
            See :meth:`Engine.train_epoch`; for every unreleased network, by its number.

        Returns
        -------
        losses : dict of EpochLosses
        """
        if self._has_modes:  # twins
            for k, training in self._live.items():
                self._networks[k].scale_dropout(training.dropout_share)
        results = self._flat.new_empty((2, *self._lengths.shape))
        sums = self._lengths.astype(np.float64)
        for i, order in enumerate(self._orders):
            if order.shared is not None and order.members:
                order.shared.begin_epoch()
            # once for all networks of the order, unless each has its own row weights
            for k in order.members if self._has_weights else order.members[:1]:
                rows = self._trainings[k].batches.start_epoch() + self._offsets[i]
                self._rows[i, : len(rows)] = rows
                self._rows[i, len(rows) :] = rows[0]  # with a weight of zero
        self._index = torch.from_numpy(self._rows).to(self._device, non_blocking=True)
        self._backprop.begin_epoch(int(self._lengths.max()))
        largest = self._backprop.largest_kernels(self._lengths.max())
        with self._pace.steps(**largest), np.errstate(all="ignore"):
            moves, by_epoch = self._moves(rates), not self._has_weights
            make_factors: Any = self._factors
            if self._device.type != "cpu":
                make_factors = self._table_of_factors
            factors = make_factors(slice(None), sums, rates, moves) if by_epoch else []
            for piece in self._pieces:
                chunk = self._gather(piece, sums)
                work = self._backprop.workspace(chunk)
                work.load()
                # with weights, their sums are known only now
                own = factors[piece] if by_epoch else make_factors(piece, sums, rates, moves)
                results[1, :, piece] = self._take_or_replay(work, moves, own).mT
                results[0, :, piece] = work.losses()
        self._is_behind = True
        looked_at = [k for k, training in self._live.items() if training.is_looked_at]
        if looked_at:
            self._write_weights(looked_at)
        for k, training in self._live.items():
            rate = rates[k]
            if rate is not None:
                set_learning_rate(training.optimizer, rate[-1])
        if self._device.type != "cpu":
            self._look_ahead()
        penalties = self._alphas[:, np.newaxis] / sums
        values = reported_losses(results.cpu(), penalties, self._trainings[0].loss)
        means = (values * self._lengths).sum(axis=1) / self._lengths.sum(axis=1)
        return {k: EpochLosses(mean) for k, mean in enumerate(means.tolist()) if k in self._live}

    def _look_ahead(self) -> None:
        """Draw the orders of the next epoch while the device works."""
        for order in self._orders:
            for k in order.members[:1]:
                (order.shared or self._trainings[k].batches).look_ahead()

    def _catch_up(self) -> None:
        """Update the step counts of optimisers whose networks were updated together."""
        if self._is_behind:
            for move in self._last_moves:
                for optimizer in move.optimizers[1:]:
                    optimizer.catch_up(move.optimizers[0])
        self._is_behind = False

    @one_thread()
    def release(self, numbers: list[int]) -> None:
        """Release networks: copy weights and optimiser state back to them.

        Their rows of the buffers continue to be trained, on the last rows that they saw, and are
        ignored.
        """
        self._catch_up()
        self._write_weights(numbers)
        for name, buffer in self._state.items():
            rows = rows_of_networks(buffer, numbers, self._first_shape)
            for k, row in zip(numbers, rows, strict=True):
                # copied, so that it does not keep the memory of the others alive
                self._optimizers[k].read_state({name: row.clone()})
        for k in numbers:
            self._live.pop(k).stop_sharing()
        for order in self._orders:
            order.members = [member for member in order.members if member in self._live]

    def _write_weights(self, numbers: list[int]) -> None:
        """Copy the current weights to some of the networks."""
        rows = rows_of_networks(self._flat, numbers, self._first_shape)
        for k, row in zip(numbers, rows, strict=True):
            network = self._trainings[k].network
            network.flat.copy_(row)
            if self._has_modes:
                learned = self._networks[k].buffers()
                for own, new in zip(network.buffers(), learned, strict=True):
                    own.copy_(new)
        if self._average is not None:
            rows = rows_of_networks(self._average.weights, numbers, self._first_shape)
            for k, row in zip(numbers, rows, strict=True):
                average = self._trainings[k].average
                if average is not None:
                    average.weights, average.n_steps = row.clone(), self._average.n_steps

    def _gather(self, piece: slice, sums: np.ndarray) -> Chunk:
        """Gather the rows of some batches, and write the sums of their weights."""
        parts = self._parts[piece]
        start, stop = parts[0].start, parts[-1].stop
        buffers = self._buffers_for(stop - start)
        for orders, source in self._sources:
            rows = self._rows[orders, start:stop].ravel()
            index = self._index[orders, start:stop].reshape(-1)
            own_X: Any = buffers.X.part(orders)  # unlike targets, never None
            source.fill(rows, index, own_X, buffers.target.part(orders))
        buffers.X.hand_out()
        buffers.target.hand_out()
        parts = [slice(part.start - start, part.stop - start) for part in parts]
        scale = buffers.scale
        if scale is not None:  # rows have weights
            for k, training in self._live.items():
                n_rows = min(stop, len(training.batches)) - start
                own_parts = [slice(part.start, min(part.stop, n_rows)) for part in parts]
                present = slice(start, start + n_rows)
                factors, sums[k, piece] = training.batches.weigh(present, own_parts)
                scale[k, :n_rows, 0] = torch.from_numpy(factors)
                scale[k, n_rows:] = 0
        elif stop == self._rows.shape[1]:
            scale = self._last_scale
        X, target = buffers.X.of_networks, buffers.target.of_networks
        return Chunk(X, X if target is None else target, scale, parts, [], piece.start)

    def _buffers_for(self, n_rows: int) -> "StackBuffers":
        """Return buffers for this many rows of each network."""
        if n_rows not in self._buffers:
            batches = self._trainings[0].batches

            def gathered(new: Callable[[Sequence[int]], Tensor | None]) -> Gathered:
                return Gathered(new, n_rows, self._order_of, len(self._orders))

            scale = None
            if self._has_weights:
                scale = self._flat.new_zeros((len(self._trainings), n_rows, 1))
            X = gathered(lambda shape: self._flat.new_empty((*shape, batches.n_features)))
            self._buffers[n_rows] = StackBuffers(X, gathered(batches.new_target), scale)
        return self._buffers[n_rows]

    def _factors(
        self,
        piece: slice,
        sums: np.ndarray,
        rates: dict[int, list[float] | None],
        moves: "list[_Moves]",
    ) -> list[Factors]:
        """Return the factors of each step, as in :meth:`Engine.plain_steps`, for all networks."""
        n_steps = self._lengths[0, piece].size
        if moves is not self._table_of or self._has_weights:
            self._table_of, self._lrs = moves, np.zeros((len(self._trainings), n_steps))
            for k, training in self._live.items():
                rate, constant = rates[k], training.optimizer.param_groups[0]["lr"]
                self._lrs[k] = constant if rate is None else rate[piece]
            decays = 1 - self._lrs * self._decays[:, np.newaxis]
            of_vectors = 1 - self._lrs * self._vector_decays[:, np.newaxis]
            penalties = self._alphas[:, np.newaxis] / sums[:, piece]
            table = np.array([penalties, decays, of_vectors]).swapaxes(1, 2)[..., np.newaxis]
            self._table = [rows.unbind() for rows in torch.from_numpy(table).to(self._flat.dtype)]
        shares = self._shares_of_average(n_steps)
        by_move = [
            move.optimizers[0].next_factors(self._lrs[move.first].tolist()) for move in moves
        ]
        return list(zip(*self._table, shares, *by_move, strict=True))

    def _shares_of_average(self, n_steps: int) -> list[float]:
        """Count steps; return the share of each in the average, 0 if none is kept."""
        return [0.0] * n_steps if self._average is None else self._average.next_shares(n_steps)

    def _table_of_factors(
        self,
        piece: slice,
        sums: np.ndarray,
        rates: dict[int, list[float] | None],
        moves: "list[_Moves]",
    ) -> Tensor:
        """Return the factors of :meth:`_factors` as a table on a device.

        Returns
        -------
        table : Tensor of shape (n_steps, n_factors, n_networks, 1)
            The factors of each move are in the columns of its networks.
        """
        n_steps = self._lengths[0, piece].size
        lrs = np.zeros((n_steps, len(self._trainings)))
        for k, training in self._live.items():
            rate, constant = rates[k], training.optimizer.param_groups[0]["lr"]
            lrs[:, k] = constant if rate is None else rate[piece]
        penalties = (self._alphas[:, np.newaxis] / sums[:, piece]).T
        shares = np.array(self._shares_of_average(n_steps))
        common = [penalties, 1 - lrs * self._decays, 1 - lrs * self._vector_decays]
        common.append(np.broadcast_to(shares[:, np.newaxis], lrs.shape))
        of_moves = []
        for move in moves:
            own = lrs[:, move.rows]
            if move.shares_rate:
                own = np.broadcast_to(lrs[:, [move.first]], own.shape)
            # a step's factors: one per network, or one for all
            steps = move.optimizers[0].next_factors(own)
            of_moves.append([np.broadcast_arrays(own[0], *step)[1:] for step in steps])
        table = np.concatenate([np.stack(common, axis=1), np.concatenate(of_moves, axis=2)], axis=1)
        there = torch.from_numpy(table[..., np.newaxis])
        # asynchronous even from pageable memory, which is staged first
        return there.to(self._flat.dtype).to(self._device, non_blocking=True)

    def _moves(self, rates: dict[int, list[float] | None]) -> "list[_Moves]":
        """Return the moves of an epoch: one call for adjacent networks with the same settings.

        On a CPU, and with a single-kernel optimiser, a call updates all its networks at one rate.
        Rows of released networks in between are updated, too; on a device also all others, so that
        recorded graphs remain valid.
        """
        # an optimiser's other settings do not change
        present = {
            k: (training.optimizer.param_groups[0]["lr"], rates[k])
            for k, training in self._live.items()
        }
        if present == self._present:
            return self._last_moves

        def numbers(k: int) -> tuple:
            return self._optimizers[k].numbers()

        def numbers_and_rate(k: int) -> tuple:
            return *numbers(k), *present[k]

        self._catch_up()
        is_on_host, shares_rate = self._device.type == "cpu", True
        groups = [list(members) for _, members in groupby(self._live, key=numbers_and_rate)]
        if not is_on_host:
            is_one_kernel = self._optimizers[0].is_one_kernel(self._flat)
            shares_rate = is_one_kernel and len(groups) <= _MOST_CALLS
        if not shares_rate:
            groups = [list(members) for _, members in groupby(self._live, key=numbers)]
        starts = [members[0] for members in groups]
        stops = [members[-1] + 1 for members in groups]
        if not is_on_host:
            starts, stops = [0, *starts[1:]], [*starts[1:], len(self._trainings)]
        moves = []
        for members, start, stop in zip(groups, starts, stops, strict=True):
            rows = slice(start, stop)
            optimizers = [self._optimizers[k] for k in members]
            state = {name: buffer[rows] for name, buffer in self._state.items()}
            kernel: Any = optimizers[0].kernel_for(self._flat[rows], self._gradient[rows], state)
            if isinstance(optimizers[0], StackedMuon):
                kernel = self._pace.checked(kernel, *optimizers[0].probe(stop - start))
            moves.append(_Moves(rows, members[0], optimizers, kernel, shares_rate))
        self._present, self._last_moves = present, moves
        return moves

    def _take_or_replay(self, work: Workspace, moves: "list[_Moves]", factors: Any) -> Tensor:
        """Take the steps in the fastest way; returns the same as :meth:`_take_steps`."""

        def take_steps(work: Workspace, factors: Any) -> Tensor:
            return self._take_steps(work, moves, factors)

        if self._device.type != "cuda":
            return take_steps(work, factors)
        n_steps = self.n_steps + len(work.programs)
        key = (work, *(move.key for move in moves))
        squared_norms = self._graphs.take_steps(key, work, take_steps, factors)
        self.n_steps = n_steps  # a replay does not count them
        return squared_norms

    def _take_steps(self, work: Workspace, moves: "list[_Moves]", factors: Iterable[Any]) -> Tensor:
        """Take a step on each batch; return the squared norms before each, shape (n_batches, K)."""
        squared_norms = self._flat.new_zeros((len(work.programs), len(self._trainings)))
        has_penalty, has_decay = self._alphas.any(), self._decays.any()
        is_table = isinstance(factors, Tensor)
        with torch.inference_mode():
            for program, squared_norm, (penalty, decay, of_vectors, share, *own) in zip(
                work.programs, squared_norms, factors, strict=True
            ):
                if self.n_steps % STEPS_BETWEEN_FLUSHES == 0 and self._device.type == "cpu":
                    zero_negligible(self._weights)
                    for buffer in self._state.values():
                        zero_negligible_moments(buffer)
                self.n_steps += 1
                for kernel in program:
                    kernel()
                if has_penalty:
                    self._write_norms(squared_norm)
                    self._penalized.addcmul_(self._weights, penalty)
                if self._max_norms is not None:
                    lengths = torch.linalg.vector_norm(self._gradient, dim=1, keepdim=True)
                    shortened = (self._max_norms / lengths).clamp_(max=1.0)
                    # a limit of infinity means no clipping: inf / inf would be NaN
                    self._gradient.mul_(shortened.masked_fill_(self._max_norms.isinf(), 1.0))
                if has_decay:
                    self._weights.mul_(decay)
                for vectors in self._vectors:
                    vectors.mul_(of_vectors.view(-1, *[1] * (vectors.ndim - 1)))
                by_move = [move.factors_of(own) for move in moves] if is_table else own
                for move, factors_of_move in zip(moves, by_move, strict=True):
                    move.kernel(*factors_of_move)
                if self._average is not None:
                    self._average.update(self._flat, share)
                self._pace.step_done()
            if has_penalty and self._numpys_weights is None:
                squared_norms.square_()
        return squared_norms

    def _write_norms(self, out: Tensor) -> None:
        """Write the norm of each network's weights, or its square if NumPy computes it."""
        if self._numpys_weights is None:
            torch.linalg.vector_norm(self._weights, dim=1, out=out)
            return
        rows = self._numpys_weights
        np.matmul(rows[:, np.newaxis], rows[..., np.newaxis], out=out.numpy()[:, None, None])


@dataclass
class _Moves:
    """Adjacent networks of a stack that one call updates, and their optimisers."""

    rows: slice
    first: int
    optimizers: list[Any]
    kernel: Callable[..., object]
    shares_rate: bool

    @property
    def key(self) -> tuple:
        """What a recorded call depends on besides its factor."""
        numbers = self.optimizers[0].numbers()
        return self.rows.start, self.rows.stop, self.shares_rate, numbers

    def factors_of(self, of_networks: list[Tensor]) -> list[Tensor]:
        """Return the factors of this call, given those of all networks, each of shape (K, 1)."""
        own = [factors[self.rows] for factors in of_networks]
        return [factors[0, 0] for factors in own] if self.shares_rate else own
