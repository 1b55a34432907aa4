"""skorch's net as its callbacks know it, around a network that is trained elsewhere.

The contract is skorch's: ``net.history``, ``net.module_``, ``net.optimizer_`` and the
notifications. A fit without callbacks needs none of it and makes no net.
"""

from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochScoring, LRScheduler
from skorch.history import History
from torch import Tensor

from sknn_deep._engine.losses import Loss
from sknn_deep._files.packing import pack
from sknn_deep._networks.flat import Network
from sknn_deep._training.interruption import is_raised


class Net(NeuralNet):
    """What callbacks are given: skorch's net without its training loop.

    Parameters
    ----------
    network : Network
        On its device, initialised.
    loss : Loss
    optimizer : torch.optim.Optimizer
    history : History
        Written to by the training.
    callbacks : list of skorch callbacks
    records_batches : bool
        Whether the history shall hold the loss of each batch.
    verbose : int
    scored : estimator
        Through which skorch's scoring callbacks predict.

    Attributes
    ----------
    hears_batches : bool
        Whether a callback does anything with the events of single batches.
    records_batches : bool
        Whether the losses of an epoch's batches are to be written to the history after it.
    """

    def __init__(
        self,
        network: Network,
        *,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        history: History,
        callbacks: list,
        records_batches: bool,
        verbose: int,
        scored,
    ):
        super().__init__(
            network,
            criterion=_Constant(loss),
            optimizer=_Constant(optimizer),
            callbacks=callbacks,
            train_split=None,
            device=None,
            verbose=verbose,
            use_caching=False,
        )
        self._scored = scored
        self.initialize()
        # known to skorch's callbacks only now: it would move the module and break its views
        self.device = str(network.flat.device)
        self.history_ = history
        self.hears_batches = any(_listens_to_batches(callback) for _, callback in self.callbacks_)
        # else they are recorded as they come
        self.records_batches = records_batches and not self.hears_batches

    @property
    def _default_callbacks(self):
        return []

    def __setattr__(self, name, value):
        if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
            super().__setattr__(name, value)
        else:  # skorch would look it up among the components of torch, which takes longer
            object.__setattr__(self, name, value)

    def initialize_optimizer(self, triggered_directly=None):
        self.optimizer_ = self.optimizer()
        return self

    # the training writes to the history itself: with or without a net

    def on_epoch_begin(self, net, **kwargs):
        pass

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        pass

    def end_epoch(self, datasets: dict) -> bool:
        """Tell every callback of the end of an epoch; return whether one asks to stop."""
        self.on_epoch_end(self, **datasets)
        stop = False
        for _, callback in self.callbacks_:
            try:
                callback.on_epoch_end(self, **datasets)
            except KeyboardInterrupt as error:  # skorch's callbacks ask in this way
                if not is_raised(error):
                    raise  # the user's Ctrl-C came while the callback ran
                stop = True
        return stop

    def callback_states(self) -> dict[str, Any]:
        """Return what each callback has learned, by name.

        Raises
        ------
        ValueError
            If a checkpoint cannot hold it. What skorch's own callbacks have that it cannot, such
            as a progress bar, they make anew.
        """
        return {name: _state_of(callback, name) for name, callback in self.callbacks_}

    def load_callback_states(self, states: dict[str, Any]) -> None:
        """Undo :meth:`callback_states`, once the callbacks know that the training begins."""
        for name, callback in self.callbacks_:
            if _has_state(callback):
                callback.load_state_dict(states[name])
                continue
            for attribute, value in states[name]["values"].items():
                if attribute.startswith("__") or not attribute.endswith("_"):
                    raise ValueError(f"{attribute} is nothing that the callback {name!r} learns.")
                setattr(callback, attribute, value)
            for attribute, state in states[name]["states"].items():
                present = getattr(callback, attribute, None)
                if not _has_state(present):
                    raise ValueError(
                        f"The callback {name!r} has no {attribute} that could take back its state "
                        "from the checkpoint. Make it in on_train_begin, or give the callback "
                        "state_dict and load_state_dict."
                    )
                present.load_state_dict(state)

    # skorch's events of single batches, as the engine's listener

    def batch_begins(self, X: Tensor, target: Tensor) -> None:
        """Tell the callbacks of a batch before its step."""
        self._batch = (X, target)
        self.notify("on_batch_begin", batch=self._batch, training=True)

    def gradient_is_known(self) -> None:
        """Tell the callbacks of a gradient before it is used."""
        named = list(self.module_.named_parameters())
        self.notify("on_grad_computed", named_parameters=named, batch=self._batch, training=True)

    def batch_ends(self, X: Tensor, target: Tensor, loss: Tensor, raw: Tensor) -> None:
        """Tell the callbacks of a batch after its step."""
        record_batch(self.history, loss.item(), len(X))
        step = {"loss": loss, "y_pred": raw}
        self.notify("on_batch_end", batch=(X, target), training=True, **step)

    # skorch's scoring callbacks treat the net as the estimator that they score

    @property
    def classes_(self):
        return self._scored.classes_

    def predict(self, X):
        return self._scored.predict(X)

    def predict_proba(self, X):
        return self._scored.predict_proba(X)

    def score(self, X, y=None):
        return self._scored.score(X, y)

    def __sklearn_tags__(self):
        return self._scored.__sklearn_tags__()


def record_batch(history: History, loss: float, size: int) -> None:
    """Write a batch into skorch's history, under skorch's names."""
    history.new_batch()
    history.record_batch("train_loss", loss)
    history.record_batch("train_batch_size", size)


def _state_of(callback: Callback, name: str) -> dict[str, Any]:
    """Return a callback's state: by skorch's convention it is in names that end so: ``misses_``."""
    if _has_state(callback):
        return callback.state_dict()
    is_of_skorch = type(callback).__module__.startswith("skorch.")
    values, states = {}, {}
    for attribute, value in vars(callback).items():
        if not attribute.endswith("_"):
            continue
        has_state = _has_state(value)
        value = value.state_dict() if has_state else value
        try:
            pack({attribute: value}, strict=True)
        except (TypeError, RecursionError) as error:
            if is_of_skorch:
                continue
            raise ValueError(
                f"TrainingCheckpoint cannot keep what the callback {name!r} has learned: {error}. "
                "Give the callback state_dict and load_state_dict, or the attribute a name "
                "without an underscore at its end if the callback does not need it to go on."
            ) from error
        (states if has_state else values)[attribute] = value
    return {"values": values, "states": states}


def _has_state(value) -> bool:
    """Return whether an object, such as a scheduler of torch, gives and takes its state."""
    return hasattr(value, "load_state_dict") and not isinstance(value, type)


class _Constant:
    """What skorch calls to make its criterion and optimiser; a lambda would not pickle."""

    def __init__(self, value):
        self._value = value

    def __call__(self):
        return self._value


def _listens_to_batches(callback: Callback) -> bool:
    """Return whether a callback does anything with the events of single batches."""
    if type(callback) is EpochScoring:
        return False  # it would cache predictions, which the net tells it not to
    if type(callback) is LRScheduler:
        return callback.step_every == "batch"
    events = ("on_batch_begin", "on_batch_end", "on_grad_computed")
    return any(getattr(type(callback), event) is not getattr(Callback, event) for event in events)
