"""Which device a fit takes, and what it says where it cannot."""

import multiprocessing
import re

import pytest
import torch

from sknn_deep._hardware.device import free_memory
from tests.simulated_cuda.device import limited_memory, without_kernels
from tests.simulated_cuda.pairs import X, new, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")


@pytest.mark.parametrize("device", ["auto", "cuda", torch.device("cuda")])
def test_a_fit_takes_the_current_device(device, kind):
    assert new(kind, device).fit(X, target_of(kind)).device_ == "cuda:0"
    with torch.cuda.device(1):
        assert new(kind, device).fit(X, target_of(kind)).device_ == "cuda:1"
        assert new(kind, "cuda:0").fit(X, target_of(kind)).device_ == "cuda:0"
        assert torch.cuda.current_device() == 1


def test_a_device_too_many_is_refused(kind):
    with pytest.raises(ValueError, match=re.escape("torch finds 2 CUDA device(s) here")):
        new(kind, "cuda:2").fit(X, target_of(kind))


def test_free_memory_is_that_of_the_device():
    used = [torch.cuda.memory_allocated(i) for i in range(2)]
    with limited_memory(used[1] + 4096, device=1):
        assert free_memory(torch.device("cuda:1")) == 4096
        assert free_memory(torch.device("cuda:0")) > 2**30


@pytest.mark.parametrize(
    ("params", "operator"),
    [
        ({"normalization": "layer"}, "native_layer_norm"),
        ({"dropout": 0.1}, "bernoulli_.Tensor"),
        ({"activation": "relu"}, "relu_"),
    ],
)
def test_a_kernel_that_is_missing_is_named_with_what_to_do(params, operator, kind):
    message = (
        f"torch has no kernel for aten::{operator} on device='cuda:0', which these parameters "
        "need; pass device='cpu', or choose another solver or normalization."
    )
    with without_kernels(operator):
        network = new(kind, **params)
        with pytest.raises(NotImplementedError, match=f"^{re.escape(message)}$"):
            network.fit(X, target_of(kind))
        assert not hasattr(network, "module_")
    network.fit(X, target_of(kind))


def _fit_in_child(kind, device):
    try:
        return new(kind, device).fit(X, target_of(kind)).device_
    except RuntimeError as error:
        return str(error)


@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_a_forked_process_is_told_to_be_another(device, kind):
    new(kind, "cuda").fit(X, target_of(kind))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        told = pool.apply(_fit_in_child, [kind, device])
    if device == "cpu":
        assert told == "cpu"
    else:
        assert told.startswith(f"device={device!r} cannot be used in this process: it was forked")
