"""The course of a training: what happens before, between and after its epochs.

An epoch itself is trained by an :class:`Engine`, or for a stack of networks by a ``Stack``; a
:class:`Training` provides the learning rates, judges the loss and the validation score, and decides
when to stop.

It has separate methods for before and after an epoch rather than a single loop, so that a network
in a stack shuffles, stops, restores its best weights and warns with the same code as a single one.
"""

import math
import numbers
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.dataset import Dataset
from skorch.history import History

from sknn_deep._engine.batches import Batches
from sknn_deep._engine.engine import Average, Engine, EpochLosses
from sknn_deep._engine.losses import Loss
from sknn_deep._engine.optimizer_state import check_optimizer_state
from sknn_deep._engine.order import Lookahead
from sknn_deep._engine.solvers import (
    load_state,
    to_arrays,
    with_own_tensors,
)
from sknn_deep._files.archive import check_generator
from sknn_deep._hardware.device import is_out_of_memory
from sknn_deep._hardware.ranks import Ranks
from sknn_deep._networks.flat import Network
from sknn_deep._training.checkpoint import CheckpointFile
from sknn_deep._training.history import HistoryWriter
from sknn_deep._training.interruption import is_one_of_many
from sknn_deep._training.naming import present_name
from sknn_deep._training.progress import DivergenceError, Progress, are_epochs, divergence_message
from sknn_deep._training.schedule import Schedule
from sknn_deep._training.skorch_net import Net
from sknn_deep._user_warnings import warn_user


class Penalties(TypedDict):
    """Penalties on the weights and the limit of the gradient, as in :class:`Engine`."""

    alpha: float
    weight_decay: float
    embedding_weight_decay: float
    max_grad_norm: float | None


@dataclass
class Validation:
    """A held-out set: ``evaluate()`` returns its loss and its score (greater is better)."""

    dataset: Dataset
    evaluate: Callable[[], tuple[float, float]]


class SharedOrder:
    """The order in which several trainings go through the same rows.

    Networks with the same seed and fold shuffle the rows identically, so they are shuffled once and
    their batches are gathered once. A network that leaves before its training is done takes a copy
    of the order and of the generator's state with it.

    That the orders are the same follows from an integer ``random_state``, the shape and the rows;
    they are not compared, as reading the states of generators would take longer than shuffling
    small folds. So generators passed by the user are not shared.

    Parameters
    ----------
    training : Training
        The first training, whose generator draws for all.
    """

    def __init__(self, training: "Training"):
        self.rows, self.random_state = training.batches.order, training.random_state
        self._is_shuffled, self._lookahead = training.estimator.shuffle, Lookahead()

    def begin_epoch(self) -> None:
        """Shuffle the rows, if the trainings shuffle."""
        if self._is_shuffled:
            self._lookahead.shuffle(self.random_state, self.rows)

    def look_ahead(self) -> None:
        """Draw the order of the next epoch now, if one was drawn before."""
        self._lookahead.draw(self.rows)


class Training:
    """The training of one network.

    Parameters
    ----------
    estimator : estimator
        Its parameters define the training (``learning_rate``, ``tol``, …).
    network : Network
        Initialised and on its device.
    loss : Loss
    optimizer : torch.optim.Optimizer
    penalties : Penalties
        ``alpha``, ``weight_decay`` and ``max_grad_norm``, see :class:`Engine`.
    product_dtype : torch.dtype or None
        See :class:`Engine`.
    batches : Batches
    validation : Validation or None
    random_state : RandomState
        Draws the permutation of each epoch.
    progress : Progress
    history : History
        Contains earlier epochs; those of this training are added.
    net : Net or None
        Notifies callbacks of the training; None without callbacks.
    incremental : bool
        Whether to train only one epoch, without convergence warnings (``partial_fit``).
    engine : Engine, default=None
        The engine of an earlier training of the same network.
    keeps_engine : bool, default=False
        Whether a later training will reuse the engine.
    ranks : Ranks or None
        The processes that train together, each with its rows of every batch. Rank 0 runs callbacks,
        prints, writes checkpoints and decides when to stop.

    Attributes
    ----------
    average : Average or None
        Average of the weights, with ``ema_decay``.
    engine : Engine or None
        The engine that has trained the network alone.
    is_done : bool
        Whether the stopping rule, a callback or ``max_iter`` has ended the training.
    interrupted : bool
        Whether the user has interrupted the training.
    is_paused : bool
        Whether another training continues from the end of this one; set before its first epoch.
    """

    def __init__(
        self,
        estimator: Any,
        network: Network,
        *,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        penalties: Penalties,
        product_dtype: torch.dtype | None,
        batches: Batches,
        validation: Validation | None,
        random_state: np.random.RandomState,
        progress: Progress,
        history: History,
        net: Net | None,
        incremental: bool = False,
        engine: Engine | None = None,
        keeps_engine: bool = False,
        ranks: Ranks | None = None,
    ):
        self._ranks = ranks
        self.estimator, self.network, self.loss = estimator, network, loss
        self.optimizer, self.penalties = optimizer, penalties
        decay = estimator.ema_decay
        self.average = None if decay is None else Average(network.flat, decay)
        self.product_dtype = product_dtype
        self.engine, self._keeps_engine = engine, keeps_engine
        self.batches, self.net = batches, net
        self._order: SharedOrder | None = None
        self.is_done = self.interrupted = self._has_diverged = self._reached_max_iter = False
        self.is_paused, self.dropout_share = False, 1.0
        self._validation, self.random_state = validation, random_state
        self._progress, self._history, self._incremental = progress, history, incremental
        self._records_batches = net is not None and net.records_batches
        self._max_iter = 1 if incremental else estimator.max_iter
        self._n_epochs_before = len(progress.loss_curve)
        first_epoch = 0 if incremental else self._n_epochs_before
        self._schedule = Schedule(estimator, optimizer, progress, first_epoch)
        self._data: dict[str, Any] = {"X": None, "y": None}
        self._datasets: dict[str, Dataset | None]
        self._datasets = {"dataset_train": None, "dataset_valid": None}
        if net is not None and net.hears_batches and ranks is not None:
            raise ValueError(
                "n_processes does not go with callbacks that hear of batches, of which each "
                "process has a part: leave out those with on_batch_begin, on_batch_end or "
                "on_grad_computed, or set n_processes=1."
            )
        if net is not None:
            net.batch_size, net.max_epochs = batches.slices[0].stop, self._max_iter
            self._data = {"X": batches.X, "y": batches.y}
            self._datasets["dataset_train"] = Dataset(batches.X, batches.y, length=len(batches))
            if validation is not None:
                self._datasets["dataset_valid"] = validation.dataset
        self._writer = HistoryWriter(history)
        name = present_name()
        self._name = f"{name}: " if name else ""

    @property
    def n_iter(self) -> int:
        """The number of epochs trained."""
        return len(self._progress.loss_curve) - self._n_epochs_before

    def make_engine(self) -> Engine:
        """Return an engine that trains this network alone."""
        return Engine(
            self.network,
            self.loss,
            self.optimizer,
            **self.penalties,
            product_dtype=self.product_dtype,
            average=self.average,
            ranks=self._ranks,
        )

    def run(
        self,
        checkpoint: CheckpointFile | None = None,
        is_enough: Callable[[list[float]], bool] | None = None,
    ) -> None:
        """Train to the end, after :meth:`begin`.

        Parameters
        ----------
        checkpoint : CheckpointFile, default=None
            The file from which the training resumes, and to which it is saved.
        is_enough : callable or None
            Called after each epoch with the validation scores so far; returns whether to stop,
            regardless of the stopping rule.

        Raises
        ------
        KeyboardInterrupt
            If the user interrupts before the first step, or interrupts one of many fits.
        """
        self.engine = engine = self.engine or self.make_engine()
        engine.listener = self.net if self.net is not None and self.net.hears_batches else None
        if checkpoint is not None or self._ranks is not None:
            self._go_on_from(checkpoint, engine)
        n_steps = engine.n_steps
        self._mark_epoch()
        try:
            while not self.is_done:
                self.end_epoch(self._train_epoch(engine, self.begin_epoch()))
                if is_enough is not None and not self.is_done:
                    self.is_done = is_enough(self.validation_scores)
                self._mark_epoch()
                if checkpoint is not None:
                    self._keep(checkpoint, engine)
        except BaseException as error:
            self.network.eval()
            self._forget_epoch()
            is_first = engine.n_steps == n_steps and not self.n_iter
            if not isinstance(error, KeyboardInterrupt) or is_first or is_one_of_many():
                raise
            self.interrupted = True
        finally:
            if not self._keeps_engine:
                engine.close()
        try:
            self.end()
        except KeyboardInterrupt:  # training is complete: finish, so that nothing is lost
            if is_one_of_many():
                raise
            self.interrupted = True
            self.end()

    @property
    def validation_scores(self) -> list[float]:
        """The scores of the validation set, after each epoch."""
        return self._progress.validation_scores or []

    def fitted_attributes(self) -> dict[str, Any]:
        """Return the fitted attributes that the training sets on the estimator."""
        progress = self._progress
        attributes = {
            "loss_curve_": progress.loss_curve,
            "best_loss_": progress.best_loss,
            "validation_scores_": progress.validation_scores,
            "validation_loss_curve_": progress.validation_loss_curve,
            "best_validation_score_": progress.best_validation_score,
            "best_iter_": progress.best_iter,
            "n_iter_": self.n_iter,
            "t_": progress.n_samples_seen,
            "interrupted_": self.interrupted,
        }
        if progress.loss_curve:
            attributes["loss_"] = progress.loss_curve[-1]
        return attributes

    def begin(self) -> None:
        """Notify callbacks that the training begins."""
        self._begun, self._n_epochs_at_begin = time.perf_counter(), self.n_iter
        if self.net is not None:
            self.net.notify("on_train_begin", **self._data)
            self._writer.read()  # a callback may have loaded a history

    def begin_epoch(self) -> list[float] | None:
        """Begin an epoch; return the learning rate of each batch, or None if it is constant."""
        self._start = time.perf_counter()
        self._writer.begin_epoch()
        if self.net is not None:
            self.net.notify("on_epoch_begin", **self._datasets)
        if self.estimator.shuffle and self._order is None:
            self.batches.shuffle(self.random_state)
        if self._ranks is not None:  # adopt rank 0's weights: rounding or a callback may differ
            self._ranks.copy_first_(self.network.flat.detach())
        share = self._schedule.dropout_share()
        if share != self.dropout_share:
            self.dropout_share = share
            self.network.scale_dropout(share)
        return self._schedule.rates(self.batches.n_batches)

    @property
    def is_looked_at(self) -> bool:
        """Whether the network is evaluated after every epoch, or a callback may do so."""
        return self._validation is not None or self.net is not None

    @property
    def draws_alone(self) -> bool:
        """Whether the order depends only on a seed, or rows are not shuffled."""
        estimator = self.estimator
        return not estimator.shuffle or isinstance(estimator.random_state, numbers.Integral)

    def order_key(self) -> tuple:
        """Return a key that is equal for trainings whose future orders of rows are the same.

        They must have networks of the same shape, so that equally many numbers were drawn for each,
        and have begun together.
        """
        if not self.draws_alone:
            return (id(self),)  # draws of a shared generator depend on earlier draws
        seed = self.estimator.random_state if self.estimator.shuffle else None
        return *self.batches.order_key(), seed, self.n_iter

    def share(self, order: SharedOrder) -> None:
        """Use a shared order, which is shuffled for several trainings."""
        self._order, self.batches.order = order, order.rows

    def stop_sharing(self) -> None:
        """Leave the shared order, as if this training had always shuffled its rows by itself."""
        order, self._order = self._order, None
        if order is None:
            return
        self.batches.order = order.rows.copy()
        # setting a generator's state is slow, and not needed if the training is done
        if (not self.is_done or self.is_paused) and self.random_state is not order.random_state:
            self.random_state.set_state(order.random_state.get_state())

    def go_on_from(self, state: dict[str, Any], engine: Any) -> None:
        """Continue from the end of a training of the same call with at most as many epochs.

        Parameters
        ----------
        state : dict
            The return value of :meth:`state_dict` after its last epoch; not modified.
        engine : Engine or Stack
        """
        own = with_own_tensors(state["optimizer"])  # copied: the optimiser will modify them
        self.load_state_dict({**state, "optimizer": own}, engine)
        if self._reached_max_iter and self.n_iter < self._max_iter:
            self.is_done = self._reached_max_iter = False

    def state_dict(self, engine: Any) -> dict[str, Any]:
        """Return the state between two epochs on which later epochs depend.

        Parameters
        ----------
        engine : Engine or Stack
            The one that has trained so far; its ``n_steps`` is part of the state.

        Returns
        -------
        state : dict
            Numbers, strings, arrays and tensors in nested containers.
        """
        generator = self.network.generator
        return {
            "progress": dict(vars(self._progress)),
            "network": self.network.snapshot(),
            "requires_grad": [param.requires_grad for param in self.network.parameters()],
            "average": None if self.average is None else vars(self.average),
            "optimizer": self.optimizer.state_dict(),
            "n_steps": engine.n_steps,
            "random_state": self.random_state.get_state(legacy=False),
            "generator": None if generator is None else generator.get_state(),
            "order": self.batches.order if self.estimator.shuffle else None,
            "history": list(self._history),
            "callbacks": {} if self.net is None else self.net.callback_states(),
            "is_done": self.is_done,
            "has_diverged": self._has_diverged,
            "reached_max_iter": self._reached_max_iter,
        }

    def load_state_dict(self, state: dict[str, Any], engine: Any) -> None:
        """Load a state of :meth:`state_dict` that was read from a file.

        The number of steps taken so far is set as ``n_steps`` of the engine.

        Raises
        ------
        Exception
            Of any kind, if the file was written by something else. Values that are not used here
            but later are validated.
        """
        Progress(**state["progress"]).check()
        check_optimizer_state(self.network, self.estimator.solver, to_arrays(state["optimizer"]))
        check_generator(state["random_state"])
        if not (type(state["n_steps"]) is int and state["n_steps"] >= 0):
            raise ValueError(f"{state['n_steps']!r} is no number of steps.")
        if not are_epochs(state["history"]):
            raise ValueError("its history is none of epochs.")
        self.network.restore(state["network"])
        for param, requires_grad in zip(
            self.network.parameters(), state["requires_grad"], strict=True
        ):
            param.requires_grad_(requires_grad)
        load_state(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.weights.copy_(state["average"]["weights"])
            self.average.n_steps = int(state["average"]["n_steps"])
        engine.n_steps = state["n_steps"]
        self.random_state.set_state(state["random_state"])
        if state["generator"] is not None:
            if self.network.generator is None:
                raise ValueError("it has the state of a generator, and the network draws nothing.")
            self.network.generator.set_state(state["generator"])
        if state["order"] is not None:
            if not np.array_equal(np.sort(state["order"]), np.sort(self.batches.order)):
                raise ValueError("its order of rows is no permutation of them.")
            self.batches.order[:] = state["order"]
        self._history[:] = state["history"]
        if self.net is not None:
            self.net.load_callback_states(state["callbacks"])
        self.is_done, self._has_diverged = state["is_done"], state["has_diverged"]
        self._reached_max_iter = state["reached_max_iter"]
        self._progress.load(state["progress"])  # last, so that it never counts a partial epoch
        self._n_epochs_at_begin = self.n_iter
        self._writer.read()

    def end_epoch(self, losses: EpochLosses) -> None:
        """Record and judge an epoch, and determine whether it was the last."""
        progress, estimator = self._progress, self.estimator
        if self._records_batches:
            self._writer.write_batches(losses)
        loss = losses.mean
        progress.n_samples_seen += len(self.batches)
        progress.loss_curve.append(loss)
        if self._validation is None:
            progress.add_loss(loss, estimator.tol)
        else:
            with self._averaged():
                progress.add_validation(*self._validation.evaluate(), estimator.tol, self.network)
        if estimator.verbose and not (self.net is not None and self.net.prints_log):
            print(self._line(loss))
        self._writer.end_epoch(loss, progress, time.perf_counter() - self._start)
        self._schedule.end_epoch()
        self.is_done = self._should_stop(loss)
        if self._ranks is not None:
            self.is_done = self._ranks.first(self.is_done)
        if not self.is_done and self.n_iter >= self._max_iter:
            self.is_done = self._reached_max_iter = True

    def end(self) -> None:
        """Restore the best weights, if a validation set found them; notify callbacks of the end."""
        self.network.scale_dropout(1.0)
        if self.average is not None and self.n_iter:
            self.network.flat.copy_(self.average.weights)
        best = self._progress.best_snapshot
        has_best = best is not None
        if best is not None:
            self.network.restore(best)
        self._notify("on_train_end", **self._data)
        is_finite = self.network.is_finite()
        if not is_finite or (self._has_diverged and not has_best):
            what = "loss" if is_finite else "parameter weights"
            raise DivergenceError(f"{divergence_message(what)} {self._divergence()}")
        self._warn_of_the_end(has_best)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the average of the weights, if one is kept, in the network for a block."""
        average, flat = self.average, self.network.flat
        if average is None:
            yield
            return
        average.swap(flat)
        try:
            yield
        finally:
            average.swap(flat)

    def _train_epoch(self, engine: Engine, rates: list[float] | None) -> EpochLosses:
        try:
            return engine.train_epoch(self.batches, rates)
        except (ArithmeticError, AssertionError, LookupError, RuntimeError) as error:
            if not engine.in_optimizer or is_out_of_memory(error):
                raise
            estimator = self.estimator
            raise ValueError(
                f"solver={estimator.solver!r} with solver_params={estimator.solver_params!r} "
                f"failed in a step: {error}"
            ) from error

    def _should_stop(self, loss: float) -> bool:
        self._has_diverged = not math.isfinite(loss)
        if self.net is not None:
            with self._averaged():  # with the weights that were validated
                if self.net.end_epoch(self._datasets):
                    return True
        return self._has_diverged or self._schedule.has_stagnated()

    def _notify(self, event: str, **kwargs: Any) -> None:
        if self.net is not None:
            self.net.notify(event, **kwargs)

    def _go_on_from(self, checkpoint: CheckpointFile | None, engine: Engine) -> None:
        """Resume from a checkpoint; if there is none, write the first."""
        kept = nullcontext() if checkpoint is None else checkpoint.state_to_go_on_from()
        with kept as state:
            if self._ranks is not None:
                state = self._ranks.first(state)
            if state is not None:
                self.load_state_dict(state, engine)
        if state is None and checkpoint is not None:
            checkpoint.save(self.state_dict(engine))

    def _keep(self, checkpoint: CheckpointFile, engine: Engine) -> None:
        """Save the state if it is due, unless there are neither finite nor best weights."""
        is_due = self.is_done or self.n_iter % checkpoint.every == 0
        has_best = self._progress.best_snapshot is not None
        if is_due and (has_best or self.network.is_finite()):
            checkpoint.save(self.state_dict(engine))

    def _mark_epoch(self) -> None:
        """Mark all epochs so far as finished."""
        self._mark = self._progress.mark(), len(self._history)

    def _forget_epoch(self) -> None:
        """Remove an unfinished epoch from the records."""
        progress, n_rows = self._mark
        self._progress.back_to(progress)
        del self._history[n_rows:]

    def _line(self, loss: float) -> str:
        """Return the line to print for an epoch, in scikit-learn's wording."""
        parts = [f"{self._name}Iteration {self.n_iter}, loss = {loss:.8f}"]
        if self._validation is not None:
            parts.append(f"validation score = {self._progress.last_validation()[1]:f}")
        n_left = self._max_iter - self.n_iter
        if n_left > 0:
            n_done = self.n_iter - self._n_epochs_at_begin
            seconds = round((time.perf_counter() - self._begun) / n_done * n_left)
            parts.append(f"at most {timedelta(seconds=seconds)} left")
        return ", ".join(parts)

    def _warn_of_the_end(self, has_best: bool) -> None:
        """Warn if the training has not ended as it should."""
        progress = self._progress
        if self.interrupted:
            warn_user("Training interrupted by user.")
        elif self._has_diverged:
            warn_user(
                f"Training diverged in iteration {self.n_iter}; the weights of the best "
                f"validation score (epoch {progress.best_iter}) are kept. {self._divergence()}",
                ConvergenceWarning,
            )
        elif not self._incremental:
            self._warn_unless_converged()
        is_watched = progress.watching and progress.keeps_best
        if progress.validation_scores and is_watched and not has_best:
            warn_user(
                "The validation score was never a finite number, so the weights of the last epoch "
                f"are kept. Check scoring={self.estimator.scoring!r} and the validation set.",
                ConvergenceWarning,
            )

    def _warn_unless_converged(self) -> None:
        """Warn if training has not converged by the last epoch, or if little was learned."""
        reasons = []
        if self._reached_max_iter and self._schedule.expects_convergence:
            reasons.append(
                f"Stochastic Optimizer: Maximum iterations ({self.estimator.max_iter}) "
                "reached and the optimization hasn't converged yet."
            )
        samples, progress = self.batches.samples, self._progress
        loss = progress.loss_curve[progress.best_iter - 1]
        reasons.append(self.estimator._advice(samples.targets, samples.weight, loss))
        if any(reasons):
            warn_user(" ".join(filter(None, reasons)), ConvergenceWarning)

    def _divergence(self) -> str:
        """Return a message that says where the training has diverged, and what to do."""
        loss = self._progress.loss_curve[-1] if self._progress.loss_curve else np.nan
        rate = self._schedule.rate
        return (
            f"The loss was {loss:g} in epoch {self.n_iter}, at a learning rate of {rate:g}: scale "
            "the input (StandardScaler) and large targets, lower "
            f"learning_rate_init={self.estimator.learning_rate_init}, or set max_grad_norm."
        )
