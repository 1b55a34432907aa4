"""Steps that cannot be recorded in a graph are taken one by one, and nothing else changes."""

import threading
import warnings

import pytest
import torch
from conftest import output
from numpy.testing import assert_array_equal

from sknn_deep._engine.engine import Engine
from sknn_deep._hardware.device import recording, release_cached_memory
from tests.simulated_cuda.device import counted
from tests.simulated_cuda.pairs import X, new, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")


def _synchronize_elsewhere():
    """Let another thread wait for the whole device, which CUDA forbids during a recording."""
    errors = []

    def synchronize():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=synchronize)
    thread.start()
    thread.join()
    assert errors


def _no_memory():
    raise torch.OutOfMemoryError("no room for a graph")


def _bug():
    raise TypeError("no such kernel")


@pytest.fixture
def disturb(monkeypatch):
    """Offer what has a function called in the middle of each recording."""

    def during_recordings(function):
        plain_steps = Engine.plain_steps

        def disturbed(self, work, factors):
            result = plain_steps(self, work, factors)
            if torch.cuda.is_current_stream_capturing():
                n_recordings.append(self)
                function()
            return result

        monkeypatch.setattr(Engine, "plain_steps", disturbed)
        return n_recordings

    n_recordings = []
    return during_recordings


@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"normalization": "batch"}], ids=str)
@pytest.mark.parametrize(
    ("disturbance", "reason"),
    [
        (_synchronize_elsewhere, "operation failed due to a previous error during capture"),
        (_no_memory, "no room for a graph"),
        (_bug, "no such kernel"),
    ],
    ids=["another thread", "memory", "a bug"],
)
def test_training_goes_on_without_the_graph(disturbance, reason, params, kind, disturb):
    expected = new(kind, **params).fit(X, target_of(kind))
    recordings = disturb(disturbance)
    with pytest.warns(UserWarning, match=r"could not be recorded as a CUDA graph \(") as warned:
        network = new(kind, **params).fit(X, target_of(kind))
    assert len(recordings) == 1, "it is tried once"
    (message,) = [str(w.message) for w in warned if "recorded" in str(w.message)]
    assert reason in message
    assert_array_equal(network.loss_curve_, expected.loss_curve_)
    assert_array_equal(output(network, X), output(expected, X))
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_interruption_of_a_recording_leaves_the_device_usable(kind, disturb, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    expected = new(kind).fit(X, target_of(kind))
    disturb(interrupt)
    with pytest.warns(UserWarning, match="interrupted by user"):
        network = new(kind).fit(X, target_of(kind))
    monkeypatch.undo()
    assert network.n_iter_ == 1
    assert network.loss_curve_ == expected.loss_curve_[:1]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert not recording.locked()
    again = new(kind).fit(X, target_of(kind))
    assert_array_equal(again.loss_curve_, expected.loss_curve_)


def test_steps_are_counted_whether_they_are_replayed_or_not(kind, disturb, monkeypatch):
    counts, train_epoch = [], Engine.train_epoch

    def counting(self, *args):
        losses = train_epoch(self, *args)
        counts.append(self.n_steps)
        return losses

    monkeypatch.setattr(Engine, "train_epoch", counting)
    new(kind).fit(X, target_of(kind))
    assert counts == [5, 10, 15, 20, 25]
    disturb(_bug)
    counts.clear()
    with pytest.warns(UserWarning, match="could not be recorded"):
        new(kind).fit(X, target_of(kind))
    assert counts == [5, 10, 15, 20, 25]


def test_memory_is_not_given_back_during_a_recording():
    with recording:
        waiting = threading.Thread(target=release_cached_memory, args=[torch.device("cuda:0")])
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_graph_is_recorded_in_the_second_epoch_and_replayed_from_then_on(kind):
    replays = []
    for max_iter in (1, 2, 3, 7):
        with warnings.catch_warnings(), counted() as tally:
            new(kind, max_iter=max_iter).fit(X, target_of(kind))
        replays.append(tally.replays)
        assert (tally.recorded > 0) == (max_iter > 1)
    assert replays == [0, 1, 2, 6]
