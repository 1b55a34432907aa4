"""The steps of torch's optimisers that a graph can record are those that torch takes."""

import pytest
import torch
from torch.testing import assert_close

from sknn_deep._engine.solvers import TORCH_OPTIMIZERS
from sknn_deep._engine.torch_steps import torch_steps

OPTIONS = {
    "adamw": {"betas": (0.7, 0.95), "eps": 1e-3},
    "nadam": {"betas": (0.7, 0.95), "momentum_decay": 0.02},
    "radam": {"betas": (0.7, 0.9)},  # which adapts from the fifth step on
    "rmsprop": {"alpha": 0.8},
    "adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
}
N_STEPS, RATES = 12, [0.1 / (1 + i) for i in range(12)]
GRADIENTS = torch.randn(N_STEPS, 5, generator=torch.Generator().manual_seed(0))


def _optimizer(name, dtype=torch.float64, **options):
    flat = torch.ones(5, dtype=dtype)
    flat.grad = torch.zeros_like(flat)
    return TORCH_OPTIMIZERS[name]([flat], **{**OPTIONS[name], **options}), flat


def _step_by_torch(optimizer, flat, i):
    flat.grad.copy_(GRADIENTS[i])
    optimizer.param_groups[0]["lr"] = RATES[i]
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_are_torchs_and_torch_goes_on_from_them(name, dtype):
    (expected, theirs), (optimizer, flat) = (_optimizer(name, dtype) for _ in range(2))
    for i in range(N_STEPS):
        _step_by_torch(expected, theirs, i)
    steps = torch_steps(optimizer, flat)
    _step_by_torch(optimizer, flat, 0)  # makes the state
    assert steps.is_ready
    for part in (slice(1, 4), slice(4, 10)):
        table = torch.tensor(steps.next_factors(RATES[part]), dtype=dtype)
        move = steps.kernel()
        for i, row in enumerate(table, part.start):
            flat.grad.copy_(GRADIENTS[i])
            move(*row)
    for i in range(10, N_STEPS):
        _step_by_torch(optimizer, flat, i)
    rtol = 1e-10 if dtype == torch.float64 else 1e-5
    assert_close(flat, theirs, rtol=rtol, atol=rtol)
    for key, value in optimizer.state[flat].items():
        assert_close(value, expected.state[theirs][key], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"adagrad"}))
def test_torch_makes_the_state(name):
    optimizer, flat = _optimizer(name)
    assert not torch_steps(optimizer, flat).is_ready
    assert not optimizer.state


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw", {"amsgrad": True}), ("adamw", {"maximize": True}), ("adamw", {"fused": True}),
        ("rmsprop", {"momentum": 0.5}), ("rmsprop", {"centered": True}),
        ("nadam", {"capturable": True}), ("radam", {"weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_what_is_not_written_here_is_left_to_torch(name, options):
    assert torch_steps(*_optimizer(name, **options)) is None


def test_other_optimizers_are_left_to_torch():
    optimizer, flat = _optimizer("adamw")
    assert torch_steps(torch.optim.SGD([flat]), flat) is None
    assert torch_steps(type("Own", (torch.optim.Adam,), {})([flat]), flat) is None
    assert torch_steps(optimizer, flat.clone()) is None


def test_a_recorded_step_is_another_where_a_number_is():
    optimizer, flat = _optimizer("adamw")
    _step_by_torch(optimizer, flat, 0)
    steps = torch_steps(optimizer, flat)
    before = steps.constants()
    optimizer.param_groups[0]["lr"] = 5.0  # which is a factor
    assert steps.constants() == before
    optimizer.param_groups[0]["eps"] = 0.5
    assert steps.constants() != before
