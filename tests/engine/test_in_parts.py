"""Functions of a network applied to many rows: parts, threads, outputs, losses."""

from threading import current_thread

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sknn_deep._engine import in_parts
from sknn_deep._engine.features import features_of
from sknn_deep._engine.in_parts import evaluate_loss, map_parts, map_rows
from sknn_deep._engine.losses import classification_loss
from sknn_deep._engine.reconstruction_losses import reconstruction_loss
from sknn_deep._engine.samples import Samples
from sknn_deep._hardware import pace
from sknn_deep._networks.models import MLP

N_ROWS, N_FEATURES = 53, 5
VALUES = np.random.default_rng(0).normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
N_FEW = 1001


@pytest.fixture
def spread(monkeypatch, two_threads):
    """Take any work for worth several threads, and 100 rows for what one of them has at a time."""
    monkeypatch.setattr(pace, "OUTPUT_WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(pace, "_BETWEEN_LOOKS", np.inf)  # whatever else this machine does
    monkeypatch.setattr(in_parts, "_CHUNK_BYTES", {"cpu": 100 * 6 * 4})


def _network(width=6):
    return MLP((N_FEATURES, width, 3), activations=["relu"], dropout=[0.0])


def _mapped(function, n_samples, network, **options):
    """Return what a function returns for each part, in their order."""
    found = {}
    map_parts(
        function,
        lambda part, value: found.update({part.start: value}),
        n_samples,
        network,
        **options,
    )
    return [found[start] for start in sorted(found)]


def test_parts_cover_all_rows_in_order(spread):
    parts = _mapped(lambda part: part, N_FEW, _network())
    assert [part.start for part in parts] == list(range(0, N_FEW, 200))
    assert [part.stop for part in parts] == [*range(200, N_FEW, 200), N_FEW]


def test_small_work_is_one_part_on_one_thread(two_threads):
    parts = _mapped(lambda part: (part, torch.get_num_threads()), N_FEW, _network())
    assert parts == [(slice(0, N_FEW), 1)]
    assert torch.get_num_threads() == 2


def test_parts_are_computed_on_torchs_threads(spread):
    counts = _mapped(lambda part: torch.get_num_threads(), N_FEW, _network())
    assert counts == [2] * 6
    assert torch.get_num_threads() == 2


def test_within_autocast_no_other_thread_computes_a_part(spread, monkeypatch):
    monkeypatch.setattr(in_parts, "OUTPUT_WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(in_parts, "share_parts", None)
    with pytest.raises(TypeError, match="not callable"):
        _mapped(lambda part: part, N_FEW, _network().eval(), may_share=True)
    with torch.autocast("cpu"):
        threads = _mapped(lambda part: current_thread(), N_FEW, _network().eval(), may_share=True)
    assert set(threads) == {current_thread()}


def test_functions_of_parts_need_no_gradient(spread):
    flags = _mapped(lambda part: torch.is_inference_mode_enabled(), N_FEW, _network())
    assert flags == [True] * 6
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("n_bytes", [1, 6 * 8 * 10, 6 * 8 * 10 + 7, 6 * 8 * 53])
def test_activations_of_a_part_stay_in_bounds(n_bytes, monkeypatch):
    monkeypatch.setattr(in_parts, "_CHUNK_BYTES", {"cpu": n_bytes})
    network = _network().double()
    parts = _mapped(lambda part: part.stop - part.start, N_ROWS, network)
    assert sum(parts) == N_ROWS
    assert max(parts) == max(1, n_bytes // (6 * 8))


def test_an_error_in_a_part_comes_out_and_the_threads_come_back(spread):
    def function(part):
        raise KeyError(part.start)

    with pytest.raises(KeyError, match="0"):
        _mapped(function, N_FEW, _network())
    assert torch.get_num_threads() == 2


HOLDERS = {"array": np.asarray, "Fortran order": np.asfortranarray, "CSR": sp.csr_array}


@pytest.fixture(params=[1, 6 * 4 * 10, 6 * 4 * 53], ids=["one by one", "in parts", "at once"])
def part_bytes(request, monkeypatch):
    """Let a part have one row, some rows and all rows."""
    monkeypatch.setattr(in_parts, "_CHUNK_BYTES", {"cpu": request.param})


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_outputs_of_all_rows_come_in_their_order(hold, part_bytes):
    network = _network()
    network.initialize(np.random.RandomState(0), ["relu"] * 2)
    found = map_rows(lambda rows: network(rows)[:, 1], features_of(hold(VALUES)), network)
    with torch.no_grad():
        expected = network(torch.from_numpy(VALUES))[:, 1].numpy()
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_loss_of_a_set_is_the_mean_over_its_rows(hold, keep, weighted, part_bytes):
    network, loss = _network(), classification_loss("softmax")
    network.initialize(np.random.RandomState(0), ["relu"] * 2)
    labels = np.arange(N_ROWS) % 3
    weight = np.linspace(0.5, 2, N_ROWS, dtype=np.float32) if weighted else None
    samples = Samples(features_of(hold(VALUES)), labels, labels, weight)
    value, raw = evaluate_loss(network, loss, samples, keep)
    with torch.no_grad():
        output = network(torch.from_numpy(VALUES))
    losses = torch.nn.functional.cross_entropy(output, torch.from_numpy(labels), reduction="none")
    assert value == pytest.approx(np.average(losses, weights=weight), rel=1e-5)
    if keep:
        np.testing.assert_allclose(raw, output, rtol=1e-5, atol=1e-6)
    else:
        assert raw is None


def test_rows_without_targets_are_compared_with_themselves(part_bytes):
    network = MLP((N_FEATURES, 6, N_FEATURES), activations=["relu"], dropout=[0.0])
    network.initialize(np.random.RandomState(0), ["relu"] * 2)
    samples = Samples(features_of(VALUES), None, None, None)
    value, _ = evaluate_loss(network, reconstruction_loss("squared_error"), samples, keep=False)
    with torch.no_grad():
        residual = network(torch.from_numpy(VALUES)).numpy() - VALUES
    assert value == pytest.approx(np.square(residual).mean(), rel=1e-5)
