"""skorch's net as its callbacks know it, around a network that is trained elsewhere.

The interface is skorch's: ``net.history``, ``net.module_``, ``net.optimizer_`` and the
notifications. A fit without callbacks does not need it and creates no net.

skorch's loop, ``DataLoader`` and training split are not used: an epoch is one permutation, and the
host reads losses once per epoch. Batch events are sent only if a callback handles them. Batch
losses are recorded only with skorch's callbacks, so that otherwise the history of a long training
stays small.

A callback that raises ``KeyboardInterrupt`` at the end of an epoch, like skorch's
``EarlyStopping``, ends the training without a warning. An interrupt anywhere else comes from the
user, and gives scikit-learn's warning.
"""

from typing import Any, Protocol, Self, TypeGuard

import torch
from skorch import NeuralNet
from skorch.callbacks import (
    Callback,
    EpochScoring,
    LoadInitState,
    LRScheduler,
    PrintLog,
    TrainEndCheckpoint,
)
from skorch.history import History
from torch import Tensor

from sknn_deep._engine.losses import Loss
from sknn_deep._files.packing import pack
from sknn_deep._networks.flat import Network
from sknn_deep._training.history import record_batch
from sknn_deep._training.interruption import is_raised
from sknn_deep._training.skorch_errors import (
    check_scored_batches,
    is_of_skorch,
    missing_keys,
    missing_keys_message,
)


class Net(NeuralNet):
    """The net that callbacks receive: skorch's, without its training loop.

    Parameters
    ----------
    network : Network
        Initialised and on its device.
    loss : Loss
    optimizer : torch.optim.Optimizer
    history : History
        Written to by the training.
    callbacks : list of skorch callbacks
    records_batches : bool
        Whether to record the loss of each batch in the history.
    verbose : int
    scored : estimator
        The estimator through which skorch's scoring callbacks predict.

    Attributes
    ----------
    hears_batches : bool
        Whether a callback handles batch events.
    records_batches : bool
        Whether to write the losses of an epoch's batches to the history after the epoch.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        history: History,
        callbacks: list[Callback],
        records_batches: bool,
        verbose: int,
        scored: Any,
    ):
        super().__init__(
            network,
            criterion=Criterion(loss),
            optimizer=_Constant(optimizer),
            lr=optimizer.param_groups[0]["lr"],  # read by callbacks that keep records elsewhere
            callbacks=callbacks,
            train_split=None,
            device=None,
            verbose=verbose,
            use_caching=False,
        )
        self._scored = scored
        self.initialize()
        # set only now: skorch's initialize would move the module to it and break its views
        self.device = str(network.flat.device)
        self.history_ = history
        self._n_rows_before = len(history)
        self._remember_first_rates()
        for name, callback in self.callbacks_:
            check_scored_batches(name, callback, hasattr(scored, "classes_"))
            _initialize_checkpoint_of(callback)
        self.hears_batches = any(_listens_to_batches(callback) for _, callback in self.callbacks_)
        # otherwise they are recorded batch by batch
        self.records_batches = records_batches and not self.hears_batches

    @property
    def _default_callbacks(self) -> list[tuple[str, Callback]]:
        return []

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
            super().__setattr__(name, value)
        else:  # skorch would first look it up among torch's components, which is slow
            object.__setattr__(self, name, value)

    def initialize_optimizer(self, triggered_directly: bool | None = None) -> Self:
        self.optimizer_ = self.optimizer()
        return self

    def set_params(self, **params: Any) -> Self:
        """Raise an error for parameters of the network, which would have no effect here."""
        names = sorted(name for name in params if not name.startswith(("callbacks", "verbose")))
        if names:
            raise ValueError(
                f"A callback (such as InputShapeSetter) sets {', '.join(names)} of the net, but "
                f"{type(self._scored).__name__} makes network, loss and optimizer itself, and "
                "takes the number of features from X. Set the estimator's own parameters instead; "
                "a learning rate is set in net.optimizer_.param_groups."
            )
        return super().set_params(**params)

    @property
    def history(self) -> History:
        return self.history_

    @history.setter
    def history(self, rows: list[dict[str, Any]]) -> None:
        self.history_[:] = rows  # in place: the training and the estimator hold the same list

    def load_params(self, *args: Any, **kwargs: Any) -> None:
        """Load files of skorch's ``save_params``; a history only before the first epoch.

        Loading later, such as the best weights at the end, does not remove epochs.
        """
        rows = self.history_.to_list()
        super().load_params(*args, **kwargs)
        if len(rows) > self._n_rows_before:
            self.history_[:] = rows
        self._remember_first_rates()

    def _remember_first_rates(self) -> None:
        """Set the initial rates, which torch's schedulers require to continue after earlier epochs.

        skorch keeps one optimiser, on which a scheduler has set them, for all calls; a warm start
        here creates a new one.
        """
        if self.history_:
            for group in self.optimizer_.param_groups:
                group.setdefault("initial_lr", group["lr"])

    # the training writes to the history itself, with or without a net

    def on_epoch_begin(
        self, net: Any, dataset_train: Any = None, dataset_valid: Any = None, **kwargs: Any
    ) -> None:
        pass

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        pass

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Notify every callback of an event."""
        getattr(self, method_name)(self, **kwargs)
        for name, callback in self.callbacks_:
            self._tell(name, callback, method_name, **kwargs)

    def _tell(self, name: str, callback: Callback, event: str, **kwargs: Any) -> None:
        try:
            getattr(callback, event)(self, **kwargs)
        except Exception as error:
            # an error that a user's callback has raised deliberately is left alone
            is_raw = isinstance(error, KeyError) or is_of_skorch(callback)
            keys = missing_keys(error) if is_raw else []
            if not keys:
                raise
            row = self.history_[-1] if self.history_ else {}
            raise ValueError(missing_keys_message(name, event, keys, row)) from error

    def end_epoch(self, datasets: dict[str, Any]) -> bool:
        """Notify every callback of the end of an epoch; return whether one requests to stop."""
        self.on_epoch_end(self, **datasets)
        stop = False
        for name, callback in self.callbacks_:
            try:
                self._tell(name, callback, "on_epoch_end", **datasets)
            except KeyboardInterrupt as error:  # the way in which skorch's callbacks stop
                if not is_raised(error):
                    raise  # the user's Ctrl-C came while the callback ran
                stop = True
        return stop

    @property
    def prints_log(self) -> bool:
        """Whether a callback prints the epochs."""
        return any(isinstance(callback, PrintLog) for _, callback in self.callbacks_)

    def callback_states(self) -> dict[str, Any]:
        """Return the state of each callback, by name.

        Raises
        ------
        ValueError
            If a checkpoint cannot store it. Such attributes of skorch's own callbacks, for
            instance a progress bar, are skipped, as the callbacks recreate them.
        """
        return {name: _state_of(callback, name) for name, callback in self.callbacks_}

    def load_callback_states(self, states: dict[str, Any]) -> None:
        """Restore the states of :meth:`callback_states`, after ``on_train_begin``."""
        for name, callback in self.callbacks_:
            if _has_state(callback):
                callback.load_state_dict(states[name])
                continue
            for attribute, value in states[name]["values"].items():
                if attribute.startswith("__") or not attribute.endswith("_"):
                    raise ValueError(f"{attribute} is nothing that the callback {name!r} learns.")
                setattr(callback, attribute, value)
            for attribute, state in states[name]["states"].items():
                present: Any = getattr(callback, attribute, None)
                if not _has_state(present):
                    raise ValueError(
                        f"The callback {name!r} has no {attribute} that could take back its state "
                        "from the checkpoint. Make it in on_train_begin, or give the callback "
                        "state_dict and load_state_dict."
                    )
                present.load_state_dict(state)

    # skorch's events of single batches, as the engine's listener

    def batch_begins(self, X: Tensor, target: Tensor) -> None:
        """Notify the callbacks of a batch before its step."""
        self._batch = (X, target)
        self.notify("on_batch_begin", batch=self._batch, training=True)

    def gradient_is_known(self) -> None:
        """Notify the callbacks of a gradient before it is used."""
        named = list(self.module_.named_parameters())
        self.notify("on_grad_computed", named_parameters=named, batch=self._batch, training=True)

    def batch_ends(self, X: Tensor, target: Tensor, loss: Tensor, raw: Tensor) -> None:
        """Notify the callbacks of a batch after its step."""
        record_batch(self.history, loss.item(), len(X))
        step = {"loss": loss, "y_pred": raw}
        self.notify("on_batch_end", batch=(X, target), training=True, **step)

    # skorch's scoring callbacks treat the net as the estimator that they score

    @property
    def classes_(self) -> Any:
        return self._scored.classes_

    def predict(self, X: Any) -> Any:
        return self._evaluated("predict", X)

    def predict_proba(self, X: Any) -> Any:
        return self._evaluated("predict_proba", X)

    def score(self, X: Any, y: Any = None) -> Any:
        return self._evaluated("score", X, y)

    def _evaluated(self, method: str, *args: Any) -> Any:
        """Call a method of the estimator in evaluation mode, even in the middle of an epoch."""
        if not hasattr(self._scored, method):
            raise AttributeError(
                f"A callback asks for {method}, which {type(self._scored).__name__} does not have. "
                "Give it scoring=None for the estimator's own score, or a callable "
                "scoring(net, X, y)."
            )
        is_training = self.module_.training
        self.module_.eval()
        try:
            return getattr(self._scored, method)(*args)
        finally:
            self.module_.train(is_training)

    def __sklearn_tags__(self) -> Any:
        return self._scored.__sklearn_tags__()


class Criterion(torch.nn.Module):
    """A loss in the form that skorch's callbacks expect: a module without parameters or state.

    Parameters
    ----------
    loss : Loss
    """

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def forward(self, raw: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss, of shape (), of a batch.

        Parameters
        ----------
        raw : Tensor of shape (batch, n_outputs)
            The output of the net's module.
        target : Tensor of shape (batch, n_outputs), or (batch,) for a softmax
            As passed by batch events.
        """
        losses = self.loss.per_sample(raw, self.loss.encoded(target, raw))
        return losses.mean() * self.loss.reported_scale


class _Stateful(Protocol):
    """An object that saves and loads its state, like torch's schedulers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


def _state_of(callback: Callback, name: str) -> dict[str, Any]:
    """Return a callback's state: by skorch's convention, attributes with a trailing underscore."""
    if _has_state(callback):
        return callback.state_dict()
    values: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for attribute, value in vars(callback).items():
        if not attribute.endswith("_"):
            continue
        has_state = _has_state(value)
        value = value.state_dict() if has_state else value
        try:
            pack({attribute: value}, strict=True)
        except (TypeError, RecursionError) as error:
            if is_of_skorch(callback):
                continue
            raise ValueError(
                f"TrainingCheckpoint cannot keep what the callback {name!r} has learned: {error}. "
                "Give the callback state_dict and load_state_dict, or the attribute a name "
                "without an underscore at its end if the callback does not need it to go on."
            ) from error
        (states if has_state else values)[attribute] = value
    return {"values": values, "states": states}


def _has_state(value: object) -> TypeGuard[_Stateful]:
    """Return whether an object, such as a torch scheduler, saves and loads its state."""
    return hasattr(value, "load_state_dict") and not isinstance(value, type)


def _initialize_checkpoint_of(callback: Callback) -> None:
    """Initialise the checkpoint from which a callback loads.

    skorch does this only for checkpoints that are callbacks of the same net, and not after a clone,
    in which the two are no longer the same object.
    """
    if not isinstance(callback, LoadInitState):
        return
    checkpoint = callback.checkpoint
    if isinstance(checkpoint, TrainEndCheckpoint) and not hasattr(checkpoint, "checkpoint_"):
        checkpoint.initialize()


class _Constant:
    """The factory from which skorch gets its optimiser; a lambda could not be pickled."""

    def __init__(self, value: torch.optim.Optimizer):
        self._value = value

    def __call__(self) -> torch.optim.Optimizer:
        return self._value


def _listens_to_batches(callback: Callback) -> bool:
    """Return whether a callback handles batch events."""
    if type(callback) is EpochScoring:
        return False  # it only caches predictions there, which the net has disabled
    if type(callback) is LRScheduler:
        return callback.step_every == "batch"
    events = ("on_batch_begin", "on_batch_end", "on_grad_computed")
    return any(getattr(type(callback), event) is not getattr(Callback, event) for event in events)
