"""Devices, floating-point types and generators; what needs CUDA is skipped where there is none."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import output
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from skorch.callbacks import Callback

from sknn_deep import DeepMLPClassifier
from sknn_deep._engine import batches
from sknn_deep._hardware.device import (
    accepted_dtypes,
    free_memory,
    has_streams,
    numpy_dtype,
    resolve_device,
    seeded_generator,
    torch_dtype,
)
from sknn_deep._networks.flat import Network
from sknn_deep.model_selection import cross_validate

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")

QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0}


# Devices


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")], ids=["name", "device"])
def test_cpu_is_found_under_its_name(device):
    assert resolve_device(device) == torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Offer what makes torch find so many devices of a kind, or none."""

    def with_devices(kind=None, count=1, current=0):
        accelerator = None if kind is None else torch.device(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: accelerator)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: current)

    return with_devices


@pytest.mark.parametrize(
    ("kind", "expected"), [("cuda", "cuda:1"), ("xpu", "xpu:1"), ("mps", "cpu"), (None, "cpu")]
)
def test_automatic_device_is_an_accelerator_where_there_is_one(kind, expected, machine):
    machine(kind, count=2, current=1)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("xpu", "xpu:1"),
        ("mps", "mps:1"), (torch.device("cuda"), "cuda:1"),
    ],
)  # fmt: skip
def test_devices_that_are_there_are_accepted(device, expected, machine):
    machine(torch.device(device).type, count=2, current=1)
    assert resolve_device(device) == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "kind", "count", "found"),
    [
        ("cuda", None, 0, "0 CUDA"),
        ("cuda:1", "cuda", 1, "1 CUDA"),
        ("cuda:2", "cuda", 2, "2 CUDA"),
        ("cuda", "xpu", 1, "0 CUDA"),
        ("xpu:1", "xpu", 1, "1 XPU"),
        ("mps", "cuda", 1, "0 Metal"),
        ("meta", "cuda", 1, "0 meta"),
    ],
)
def test_devices_that_are_not_there_are_refused(device, kind, count, found, machine):
    machine(kind, count)
    message = f"device={device!r} is not available: torch finds {found} device(s) here. Pass"
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_device(device)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_forked_processes_are_told_what_to_do(device, machine, monkeypatch):
    machine("cuda")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    message = (
        f"device={device!r} cannot be used in this process: it was forked from one that had used "
        "the device. Start processes anew, by n_jobs with joblib's default backend 'loky' or by "
        "multiprocessing's start method 'spawn'; or pass device='cpu'."
    )
    with pytest.raises(RuntimeError, match=re.escape(message)):
        resolve_device(device)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:-1", "cuda:one", "", "CPU "])
def test_device_that_torch_does_not_know_is_refused(device):
    with pytest.raises(ValueError, match=re.escape(f"device={device!r} is not a")):
        resolve_device(device)


def test_fitted_device_is_told(kind, digits):
    network = kind(**QUICK, device="cpu").fit(digits.X, digits.y)
    assert network.device_ == "cpu"
    assert network.device == "cpu"


def test_torch_device_is_accepted_and_copied(kind, digits):
    network = kind(**QUICK, device=torch.device("cpu")).fit(digits.X, digits.y)
    twin = pickle.loads(pickle.dumps(network))
    assert twin.device == torch.device("cpu")
    assert_array_equal(output(twin, digits.X_test), output(network, digits.X_test))


def test_free_memory_on_metal_is_what_is_recommended(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 1000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 300)
    assert free_memory(torch.device("mps", 0)) == 700


@pytest.mark.parametrize(("device", "has"), [("cuda", True), ("xpu", True), ("mps", False)])
def test_devices_that_copy_while_they_compute(device, has):
    assert has_streams(torch.device(device)) == has


# Floating-point types


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", [np.float64, np.float32]),
        ("auto", "cuda", [np.float32]),
        ("auto", "mps", [np.float32]),
        ("float32", "cpu", [np.float32]),
        ("float64", "cuda", [np.float64]),
    ],
)
def test_floating_point_types_follow_parameter_and_device(dtype, device, expected):
    assert accepted_dtypes(dtype, torch.device(device)) == expected


def test_metal_has_no_double_precision():
    with pytest.raises(ValueError, match="dtype='float64' is not available with device='mps:0'"):
        accepted_dtypes("float64", torch.device("mps", 0))


@pytest.mark.parametrize("has_double", [False, True])
def test_other_accelerators_are_asked_for_double_precision(has_double, monkeypatch):
    known = {torch.float32} | ({torch.float64} if has_double else set())
    monkeypatch.setattr(
        torch.accelerator, "get_device_capability", lambda device: {"supported_dtypes": known}
    )
    device = torch.device("xpu", 0)
    assert accepted_dtypes("auto", device) == [np.float32]
    if has_double:
        assert accepted_dtypes("float64", device) == [np.float64]
    else:
        message = (
            "dtype='float64' is not available with device='xpu:0', whose hardware has no double "
            "precision; pass dtype='float32' or device='cpu'."
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            accepted_dtypes("float64", device)


@pytest.mark.parametrize(
    ("dtype", "other"), [(np.float32, torch.float32), (np.float64, torch.float64)]
)
def test_types_of_numpy_and_torch_correspond(dtype, other):
    assert torch_dtype(np.dtype(dtype)) == torch_dtype(dtype) == other
    assert numpy_dtype(other) == dtype


# Products in bfloat16


@pytest.mark.parametrize("given", [np.float32, np.float64])
def test_weights_and_output_of_bfloat16_are_in_single_precision(given, kind, digits):
    network = kind(**QUICK, dtype="bfloat16").fit(digits.X.astype(given), digits.y)
    assert {param.dtype for param in network.module_.parameters()} == {torch.float32}
    assert output(network, digits.X_test.astype(given)).dtype == np.float32
    assert network.dtype == "bfloat16"


@pytest.mark.usefixtures("small_layers_are_rounded")
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "sgd", "learning_rate_init": 0.1},
        {"solver": "adamw", "normalization": "batch", "dropout": 0.1},
        {"normalization": "layer", "activation": "gelu", "max_grad_norm": 1.0},
    ],
    ids=str,
)
def test_bfloat16_learns_the_digits_about_as_well(params, digits):
    params = {**QUICK, "hidden_layer_sizes": (64,), "max_iter": 20, "batch_size": 64, **params}
    scores = [
        DeepMLPClassifier(**params, dtype=dtype).fit(digits.X, digits.y).score(
            digits.X_test, digits.y_test
        )
        for dtype in ("float32", "bfloat16")
    ]  # fmt: skip
    assert min(scores) > 0.9
    assert abs(scores[0] - scores[1]) < 0.03


@pytest.mark.usefixtures("small_layers_are_rounded")
def test_bfloat16_computes_in_fewer_digits(kind, digits):
    rounded, exact = (
        kind(**QUICK, dtype=dtype).fit(digits.X, digits.y) for dtype in ("bfloat16", "float32")
    )
    assert not np.array_equal(rounded.loss_curve_, exact.loss_curve_)
    assert_allclose(rounded.loss_curve_, exact.loss_curve_, rtol=0.02)


def test_lbfgs_refuses_bfloat16(kind, digits):
    message = (
        "solver='lbfgs' does not support dtype='bfloat16': it needs exact gradients. "
        "Choose a stochastic solver such as 'adam'."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**QUICK, dtype="bfloat16", solver="lbfgs").fit(digits.X, digits.y)


@pytest.mark.usefixtures("small_layers_are_rounded")
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_copies_of_bfloat16_go_on_as_the_original(normalization, kind, digits):
    network = kind(**QUICK, dtype="bfloat16", normalization=normalization, dropout=0.1)
    first = {"classes": np.arange(10)} if kind is DeepMLPClassifier else {}
    network.partial_fit(digits.X, digits.y, **first)
    twin = pickle.loads(pickle.dumps(network))
    for either in (network, twin):
        either.partial_fit(digits.X, digits.y)
    assert_array_equal(twin.module_.flat.cpu(), network.module_.flat.cpu())
    assert clone(network).get_params()["dtype"] == "bfloat16"


# Generators


def test_seeded_generators_repeat_themselves():
    draws = [
        torch.rand(
            3, generator=seeded_generator(np.random.RandomState(seed), torch.device("cpu"))
        ).tolist()
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]


# What CUDA does differently, as far as the CPU can tell


def test_state_of_a_pickle_is_arrays_on_the_cpu(kind, digits):
    network = kind(**QUICK, dropout=0.1).fit(digits.X, digits.y)
    state = network.module_.__getstate__()
    assert {type(array) for array in state["arrays"].values()} == {np.ndarray}
    assert "torch" not in str(state["config"])
    assert copy.copy(network.module_).flat.device.type == "cpu"


def test_pickle_made_on_another_device_predicts_on_this_one(kind, digits):
    # as of a machine that has a GPU: the parameter names what is missing here
    network = kind(**QUICK).fit(digits.X, digits.y)
    network.set_params(device="cuda:7")
    twin = pickle.loads(pickle.dumps(network))
    assert twin.device_ == "cpu"
    assert_allclose(
        output(twin, digits.X_test), output(network, digits.X_test), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="device='cuda:7' is not available"):
        twin.fit(digits.X, digits.y)


@needs_cuda
def test_fit_on_cuda_agrees_with_the_cpu(kind, digits):
    X = digits.X.astype(np.float32)
    on_cpu = kind(**QUICK, device="cpu").fit(X, digits.y)
    on_cuda = kind(**QUICK, device="cuda").fit(X, digits.y)
    assert on_cuda.device_ == "cuda:0"
    assert_allclose(on_cuda.loss_curve_, on_cpu.loss_curve_, rtol=1e-3)
    assert_allclose(output(on_cuda, X), output(on_cpu, X), rtol=1e-2, atol=1e-2)


@needs_cuda
@pytest.mark.parametrize("solver", ["sgd", "adamw", "muon", "lbfgs"])
def test_solvers_on_cuda_agree_with_the_cpu_in_double_precision(kind, solver, digits):
    params = {**QUICK, "solver": solver, "dtype": "float64", "tol": 1e-2}
    on_cpu = kind(**params, device="cpu").fit(digits.X, digits.y)
    on_cuda = kind(**params, device="cuda").fit(digits.X, digits.y)
    # Muon iterates in half precision
    tolerance = 2e-2 if solver == "muon" else 1e-5
    assert on_cuda.loss_ == pytest.approx(on_cpu.loss_, rel=tolerance)


@needs_cuda
@pytest.mark.parametrize("params", [{"normalization": "batch"}, {"early_stopping": True}], ids=str)
def test_options_on_cuda_agree_with_the_cpu(kind, params, digits):
    params = {**QUICK, "dtype": "float64", **params}
    on_cpu = kind(**params, device="cpu").fit(digits.X, digits.y)
    on_cuda = kind(**params, device="cuda").fit(digits.X, digits.y)
    assert_allclose(on_cuda.loss_curve_, on_cpu.loss_curve_, rtol=1e-6)
    assert_allclose(output(on_cuda, digits.X), output(on_cpu, digits.X), rtol=1e-4, atol=1e-6)


@needs_cuda
def test_single_precision_is_the_default_on_cuda(kind, digits):
    network = kind(**QUICK, device="cuda").fit(digits.X, digits.y)
    assert output(network, digits.X_test).dtype == np.float32
    double = kind(**QUICK, device="cuda", dtype="float64").fit(digits.X, digits.y)
    assert output(double, digits.X_test).dtype == np.float64


@needs_cuda
def test_pickle_made_on_cuda_loads_as_a_network_on_the_cpu(kind, digits):
    network = kind(**QUICK, device="cuda").fit(digits.X, digits.y)
    twin = pickle.loads(pickle.dumps(network))
    assert twin.module_.flat.device.type == "cpu"
    assert_allclose(
        output(twin, digits.X_test), output(network, digits.X_test), rtol=1e-3, atol=1e-4
    )


@needs_cuda
def test_copies_of_a_network_on_cuda_go_on_training(digits):
    network = DeepMLPClassifier(**QUICK, device="cuda")
    network.partial_fit(digits.X, digits.y, classes=np.arange(10))
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        twin.partial_fit(digits.X, digits.y)
        assert twin.device_ == "cuda:0"
        assert twin.loss_curve_[1] < twin.loss_curve_[0]


@needs_cuda
def test_a_network_can_be_moved_between_calls(digits):
    network = DeepMLPClassifier(**QUICK, dtype="float64", device="cuda")
    network.partial_fit(digits.X, digits.y, classes=np.arange(10))
    network.set_params(device="cpu").partial_fit(digits.X, digits.y)
    assert network.device_ == "cpu"
    stayed = DeepMLPClassifier(**QUICK, dtype="float64", device="cpu")
    stayed.partial_fit(digits.X, digits.y, classes=np.arange(10)).partial_fit(digits.X, digits.y)
    assert_allclose(network.loss_curve_, stayed.loss_curve_, rtol=1e-6)


@needs_cuda
@pytest.mark.parametrize("n_networks", [1, 2])
def test_networks_that_cross_validation_returns_have_left_the_device(n_networks, digits):
    network = DeepMLPClassifier(**QUICK, device="cuda", n_networks=n_networks)
    result = cross_validate(network, digits.X, digits.y, cv=2, return_estimator=True)
    for estimator, score in zip(result["estimator"], result["test_score"], strict=True):
        members = getattr(estimator, "estimators_", [estimator])
        assert {member.device_ for member in members} == {"cpu"}
        assert estimator.score(digits.X, digits.y) > score - 0.1
        estimator.set_params(warm_start=True, n_iter_no_change=100).fit(digits.X, digits.y)


@pytest.mark.parametrize("n_networks", [1, 2])
def test_moving_a_network_moves_all_that_it_has(n_networks, digits, monkeypatch):
    network = DeepMLPClassifier(**QUICK, device="cpu", n_networks=n_networks)
    network.fit(digits.X, digits.y)
    members = getattr(network, "estimators_", [network])
    moved = []
    monkeypatch.setattr(Network, "to", lambda self, device: moved.append((self, device)))
    network._move_to(torch.device("cpu"))
    assert moved == [], "it is there"
    network._move_to(torch.device("meta"))
    assert moved == [(member.module_, torch.device("meta")) for member in members]
    assert not any(hasattr(member, "_optimizer") for member in members)
    assert all(hasattr(member, "_optimizer_state") for member in members)


@needs_cuda
def test_resident_and_streamed_features_agree(kind, digits, monkeypatch):
    resident = kind(**QUICK, device="cuda").fit(digits.X, digits.y)
    monkeypatch.setattr(batches, "_RESIDENT_SHARE", 0.0)
    streamed = kind(**QUICK, device="cuda").fit(digits.X, digits.y)
    assert_allclose(streamed.loss_curve_, resident.loss_curve_, rtol=1e-4)


class HearsBatches(Callback):
    """Does nothing with the events of batches, whose steps are then not recorded as a graph."""

    def on_batch_end(self, net, batch, training, **kwargs):
        pass


# 1347 rows: the last batch of each epoch is shorter
REPLAYED = {**QUICK, "dtype": "float64", "device": "cuda", "max_iter": 4, "batch_size": 100}


@needs_cuda
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"solver": "sgd", "learning_rate_init": 0.01},
        {"solver": "sgd", "learning_rate": "invscaling"},
        {"learning_rate": "one_cycle", "weight_decay": 0.1, "alpha": 0.1, "max_grad_norm": 0.5},
        {"normalization": "batch"},
        {"normalization": "layer"},
        {"early_stopping": True},
    ],
    ids=str,
)
def test_replayed_epochs_agree_with_those_that_a_callback_hears(params, kind, digits):
    replayed = kind(**REPLAYED, **params).fit(digits.X, digits.y)
    heard = kind(**REPLAYED, **params, callbacks=[HearsBatches()]).fit(digits.X, digits.y)
    # atomic additions on a GPU have no order
    assert_allclose(replayed.loss_curve_, heard.loss_curve_, rtol=1e-6)
    assert_allclose(output(replayed, digits.X), output(heard, digits.X), rtol=1e-4, atol=1e-6)


@needs_cuda
@pytest.mark.parametrize("share", [0.5, 0.0], ids=["resident", "streamed"])
def test_replayed_epochs_weigh_the_samples(share, digits, monkeypatch):
    monkeypatch.setattr(batches, "_RESIDENT_SHARE", share)
    weight = np.random.RandomState(0).uniform(0.1, 2, len(digits.y))
    on_cuda = DeepMLPClassifier(**REPLAYED).fit(digits.X, digits.y, weight)
    on_cpu = DeepMLPClassifier(**{**REPLAYED, "device": "cpu"}).fit(digits.X, digits.y, weight)
    assert_allclose(on_cuda.loss_curve_, on_cpu.loss_curve_, rtol=1e-6)
    assert_allclose(output(on_cuda, digits.X), output(on_cpu, digits.X), rtol=1e-4, atol=1e-6)


@needs_cuda
def test_partial_fit_on_cuda_goes_on_where_it_stopped(digits):
    networks = {
        device: DeepMLPClassifier(**{**REPLAYED, "device": device}) for device in ("cuda", "cpu")
    }
    for network in networks.values():
        for _ in range(4):
            network.partial_fit(digits.X, digits.y, classes=np.arange(10))
    assert_allclose(networks["cuda"].loss_curve_, networks["cpu"].loss_curve_, rtol=1e-6)


@needs_cuda
def test_replayed_dropout_draws_new_masks_in_each_epoch(kind, digits):
    params = {**REPLAYED, "learning_rate_init": 1e-300, "shuffle": False, "tol": 0.0}
    network = kind(**params, dropout=0.3).fit(digits.X, digits.y)
    assert len(set(network.loss_curve_)) == REPLAYED["max_iter"]


@needs_cuda
def test_dropout_on_cuda_is_reproducible(kind, digits):
    losses = [
        kind(**QUICK, dropout=0.3, device="cuda").fit(digits.X, digits.y).loss_curve_
        for _ in range(2)
    ]
    assert_allclose(losses[0], losses[1], rtol=1e-5)


@needs_cuda
def test_cuda_leaves_the_global_generator_alone(kind, digits):
    before = torch.cuda.get_rng_state()
    kind(**QUICK, dropout=0.3, device="cuda").fit(digits.X, digits.y)
    assert torch.equal(torch.cuda.get_rng_state(), before)
