"""What happens to a network on the device between, after and around its trainings."""

import copy
import pickle
import threading

import pytest
import torch
from conftest import output
from numpy.testing import assert_allclose, assert_array_equal
from skorch.callbacks import Callback, EpochScoring, Freezer, LRScheduler

from sknn_deep import DeepMLPClassifier
from sknn_deep._engine.engine import Engine
from sknn_deep.callbacks import TrainingCheckpoint
from sknn_deep.persistence import load, save
from tests.simulated_cuda.pairs import X, assert_same, fit_both, new, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")


def learn_a_little(network, n_calls=1):
    first = {"classes": [0, 1, 2]} if isinstance(network, DeepMLPClassifier) else {}
    for _ in range(n_calls):
        network.partial_fit(X, target_of(type(network)), **first)
    return network


# --------------------------------------------------------------------------------------
# calls that follow each other


@pytest.mark.parametrize("params", [{}, {"solver": "sgd"}, {"solver": "muon"}], ids=str)
def test_partial_fit_goes_on(params, kind):
    networks = [learn_a_little(new(kind, device, **params), 4) for device in ("cpu", "cuda")]
    assert_same(networks, rtol=2e-2 if params.get("solver") == "muon" else 1e-6)


def test_warm_start_goes_on(kind):
    networks = [new(kind, device, warm_start=True) for device in ("cpu", "cuda")]
    for network in networks:
        network.fit(X, target_of(kind)).fit(X, target_of(kind))
    assert_same(networks)


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "muon"])
@pytest.mark.parametrize("way", ["pickle", "copy", "file", "to the CPU and back", "other device"])
def test_a_network_goes_on_after_it_has_moved(way, solver, kind, tmp_path):
    network, stayed = (learn_a_little(new(kind, solver=solver), 2) for _ in range(2))
    if way == "pickle":
        network = pickle.loads(pickle.dumps(network))
        assert network.device_ == "cpu"
    elif way == "copy":
        network = copy.deepcopy(network)
    elif way == "file":
        save(network, tmp_path / "network")
        network = load(tmp_path / "network")
        assert network.device_ == "cpu"
    elif way == "other device":
        learn_a_little(network.set_params(device="cuda:1"))
        assert network.device_ == "cuda:1"
        learn_a_little(stayed)
    else:
        network._move_to(torch.device("cpu"))
    assert_allclose(output(network, X), output(stayed, X), rtol=1e-6, atol=1e-9)
    learn_a_little(network.set_params(device="cuda"), 2)
    learn_a_little(stayed, 2)
    assert network.device_ == stayed.device_ == "cuda:0"
    tolerance = 2e-2 if solver == "muon" else 1e-6
    assert_allclose(network.loss_curve_, stayed.loss_curve_, rtol=tolerance)


def test_a_second_device_is_as_good(kind):
    networks = [new(kind, device).fit(X, target_of(kind)) for device in ("cuda:0", "cuda:1")]
    assert networks[1].device_ == "cuda:1"
    assert_array_equal(networks[1].loss_curve_, networks[0].loss_curve_)
    assert_array_equal(output(networks[1], X), output(networks[0], X))


def test_threads_train_on_one_device_as_if_they_were_alone(kind):
    expected = [new(kind, random_state=i).fit(X, target_of(kind)).loss_curve_ for i in range(4)]
    trained, errors = {}, []

    def train(i):
        try:
            trained[i] = new(kind, random_state=i).fit(X, target_of(kind)).loss_curve_
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=train, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [trained[i] for i in range(4)] == expected


# --------------------------------------------------------------------------------------
# callbacks, interruptions and checkpoints


CALLBACKS = {
    "scheduler": lambda: LRScheduler("StepLR", step_size=2, gamma=0.5),
    "score": lambda: EpochScoring(lambda net, X, y: float(net.predict(X).sum()), name="sum"),
    "freezer": lambda: Freezer("*0.weight"),
}


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_see_the_same(name, kind):
    y = target_of(kind)
    networks = fit_both(kind, y=y, callbacks=[CALLBACKS[name]()])
    assert_same(networks)
    of_cpu, of_device = ([dict(row) for row in network.history_] for network in networks)
    for one, other in zip(of_cpu, of_device, strict=True):
        assert one.keys() == other.keys()
        numbers = [key for key, value in one.items() if isinstance(value, float) and key != "dur"]
        assert_allclose([other[k] for k in numbers], [one[k] for k in numbers], rtol=1e-6)
        for batch, other_batch in zip(one["batches"], other["batches"], strict=True):
            assert other_batch == pytest.approx(batch, rel=1e-6)


class Interrupts(Callback):
    def __init__(self, epoch, error):
        self.epoch, self.error = epoch, error

    def on_batch_end(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise self.error


@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_an_interrupted_training_keeps_its_epochs(kind):
    y = target_of(kind)
    networks = fit_both(kind, y=y, callbacks=[Interrupts(3, KeyboardInterrupt)])
    assert [network.n_iter_ for network in networks] == [2, 2]
    assert all(network.interrupted_ for network in networks)
    assert_same(networks)


class Broken(Exception):
    pass


@pytest.mark.parametrize(
    "params", [{}, {"dropout": 0.2}, {"solver": "adamw"}, {"early_stopping": True}], ids=str
)
def test_a_training_goes_on_from_its_checkpoint(params, kind, tmp_path, monkeypatch):
    expected = new(kind, **params).fit(X, target_of(kind))
    train_epoch, n_begun = Engine.train_epoch, []

    def breaking(*args):
        n_begun.append(1)
        if len(n_begun) > 3:
            raise Broken
        return train_epoch(*args)

    network = new(kind, **params, callbacks=[TrainingCheckpoint(tmp_path / "checkpoint")])
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "train_epoch", breaking)
        with pytest.raises(Broken):
            network.fit(X, target_of(kind))
    again = new(kind, **params, callbacks=[TrainingCheckpoint(tmp_path / "checkpoint")])
    again.fit(X, target_of(kind))
    assert again.device_ == "cuda:0"
    assert_array_equal(again.loss_curve_, expected.loss_curve_)
    assert_array_equal(output(again, X), output(expected, X))


def test_torch_of_the_user_is_left_alone(kind):
    with torch.random.fork_rng(["cuda:0"]), torch.cuda.device(1):
        stream, device = torch.cuda.Stream(), torch.cuda.current_device()
        with torch.cuda.stream(stream):
            state = torch.cuda.get_rng_state("cuda:0")
            new(kind, device="cuda:0", dropout=0.2).fit(X, target_of(kind))
            assert torch.cuda.current_stream() == stream
            assert torch.cuda.current_device() == device
            assert torch.equal(torch.cuda.get_rng_state("cuda:0"), state)


def test_divergence_is_told(kind):
    for device in ("cpu", "cuda"):
        network = new(kind, device, solver="sgd", learning_rate_init=1e300, activation="identity")
        with pytest.raises(ValueError, match="Solver produced non-finite"):
            network.fit(X * 1e3, target_of(kind))
