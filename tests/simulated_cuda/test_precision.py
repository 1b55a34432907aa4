"""float32_precision is torch's setting while a network trains on a device, and only then."""

import threading

import pytest
import torch
from conftest import KINDS

from sknn_deep import DeepMLPClassifier
from sknn_deep._engine.backprop import Backprop
from sknn_deep._hardware.precision import float32_products
from sknn_deep.model_selection import FusedGridSearchCV
from tests.simulated_cuda.pairs import X, new, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
CUDA = torch.device("cuda")


@pytest.fixture
def seen(monkeypatch):
    """Offer the settings in which programs of a training are made."""
    settings, program = set(), Backprop.program

    def looking(self, *args):
        settings.add(torch.get_float32_matmul_precision())
        return program(self, *args)

    monkeypatch.setattr(Backprop, "program", looking)
    return settings


@pytest.fixture(params=["highest", "high", "medium"])
def users_own(request):
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("asked", ["highest", "high", None])
def test_a_fit_has_its_setting_and_gives_the_users_back(asked, kind, users_own, seen):
    new(kind, float32_precision=asked).fit(X, target_of(kind))
    assert seen == {asked or users_own}
    assert torch.get_float32_matmul_precision() == users_own


def test_a_search_has_its_setting(seen):
    network = new(DeepMLPClassifier, float32_precision="high")
    grid = {"alpha": [0.1, 0.2, 0.3]}
    FusedGridSearchCV(network, grid, cv=2).fit(X, target_of(DeepMLPClassifier))
    assert seen == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_nothing_is_set_for_the_cpu(seen):
    kind = DeepMLPClassifier
    new(kind, "cpu", float32_precision="high").fit(X, target_of(kind))
    assert seen == {"highest"}


def test_the_setting_is_given_back_after_an_error():
    with pytest.raises(ValueError, match="no"), float32_products("high", CUDA):
        raise ValueError("no")
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_last_of_several_threads_gives_it_back():
    begun, may_end = threading.Event(), threading.Event()

    def train():
        with float32_products("high", CUDA):
            begun.set()
            may_end.wait()

    thread = threading.Thread(target=train)
    with float32_products("high", CUDA):
        thread.start()
        begun.wait()
    assert torch.get_float32_matmul_precision() == "high"
    may_end.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_setting_by_the_newer_attribute_comes_back(monkeypatch):
    cuda = torch.backends.cuda.matmul
    cuda.fp32_precision = "tf32"
    try:
        for precision, name in (("highest", "ieee"), ("high", "tf32")):
            with float32_products(precision, CUDA):
                assert cuda.fp32_precision == name
            assert cuda.fp32_precision == "tf32"
    finally:
        cuda.fp32_precision = "none"
    assert torch.get_float32_matmul_precision() == "highest"


def test_lbfgs_refuses_it():
    message = "solver='lbfgs' does not support float32_precision='high': it needs exact gradients"
    with pytest.raises(ValueError, match=message):
        new(DeepMLPClassifier, solver="lbfgs", float32_precision="high").fit(
            X, target_of(DeepMLPClassifier)
        )
