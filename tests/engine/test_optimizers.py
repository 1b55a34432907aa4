"""Optimisers against their textbook formulas, scikit-learn's and torch's."""

import copy
import math
import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from sknn_deep._engine import muon, optimizers
from sknn_deep._engine.optimizers import SGD, Adam, adam_kernel, add_scaled_
from sknn_deep._engine.solvers import (
    ANNEALING_SCHEDULES,
    STOCHASTIC_SOLVERS,
    MuonWithAdam,
    annealed_rate,
    load_state,
    make_optimizer,
    set_learning_rate,
    to_arrays,
    to_tensors,
)
from sknn_deep._networks.models import MLP

SETTINGS = {
    "lr": 0.01, "momentum": 0.8, "nesterov": True, "betas": (0.7, 0.95), "eps": 1e-8,
    "solver_params": None,
}  # fmt: skip


def _network(units=(6, 5, 4, 3), **options):
    n_hidden = len(units) - 2
    network = MLP(
        units, activations=["tanh"] * n_hidden, dropout=[0.0] * n_hidden, dtype=torch.float64,
        **options,
    )  # fmt: skip
    network.initialize(np.random.RandomState(0), ["tanh"] * (n_hidden + 1))
    return network


def _loss(network):
    """Return a loss whose gradient differs from step to step."""
    X = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(10, 6)
    return (network(X) - torch.sin(X[:, :3])).square().mean()


def _train(network, optimizer, n_steps=10):
    def closure():
        network.zero_grad()
        loss = _loss(network)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(n_steps)]


def _gradients(n_steps=8, size=7):
    return np.random.RandomState(1).normal(size=(n_steps, size))


def _steps(optimizer, param, gradients, rates=None):
    """Return the parameter after each of the given gradients."""
    path = []
    for i, gradient in enumerate(gradients):
        if rates is not None:
            set_learning_rate(optimizer, rates[i])
        param.grad = torch.from_numpy(gradient)
        optimizer.step(lambda: torch.zeros(()))
        path.append(param.numpy().copy())
    return np.array(path)


def _scikit_learn_steps(make, gradients, rates=None):
    param, path = np.zeros(gradients.shape[1]), []
    optimizer = make([param])
    for i, gradient in enumerate(gradients):
        if rates is not None:
            optimizer.learning_rate = optimizer.learning_rate_init = rates[i]
        optimizer.update_params([param], [gradient])
        path.append(param.copy())
    return np.array(path)


RATES = [0.1, 0.1, 0.02, 0.02, 0.5, 0.5, 1e-3, 0.0]


@pytest.mark.parametrize("rates", [None, RATES], ids=["constant", "changing"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.6, 1.0])
def test_sgd_takes_scikit_learns_steps(momentum, nesterov, rates):
    param = torch.zeros(7, dtype=torch.float64)
    actual = _steps(SGD(param, 0.1, momentum, nesterov), param, _gradients(), rates)
    expected = _scikit_learn_steps(
        lambda params: SGDOptimizer(params, 0.1, "constant", momentum, nesterov),
        _gradients(),
        rates,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_torchs_at_a_constant_rate(nesterov):
    ours, theirs = (torch.zeros(7, dtype=torch.float64) for _ in range(2))
    expected = _steps(
        torch.optim.SGD([theirs], lr=0.1, momentum=0.6, nesterov=nesterov), theirs, _gradients()
    )
    actual = _steps(SGD(ours, 0.1, 0.6, nesterov), ours, _gradients())
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("rates", [None, RATES], ids=["constant", "changing"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_adam_takes_scikit_learns_steps(betas, eps, rates):
    param = torch.zeros(7, dtype=torch.float64)
    actual = _steps(Adam(param, 0.1, betas, eps), param, _gradients(), rates)
    expected = _scikit_learn_steps(
        lambda params: AdamOptimizer(params, 0.1, *betas, eps), _gradients(), rates
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


def test_adams_first_step_is_the_learning_rate_towards_the_sign():
    param = torch.zeros(7, dtype=torch.float64)
    (first,) = _steps(Adam(param, 0.1), param, _gradients(1))
    np.testing.assert_allclose(first, -0.1 * np.sign(_gradients(1)[0]), rtol=1e-5)


def test_adam_is_torchs_where_epsilon_vanishes():
    ours, theirs = (torch.zeros(7, dtype=torch.float64) for _ in range(2))
    expected = _steps(torch.optim.Adam([theirs], lr=0.1, eps=1e-30), theirs, _gradients())
    np.testing.assert_allclose(
        _steps(Adam(ours, 0.1, eps=1e-30), ours, _gradients()), expected, rtol=1e-10
    )


@pytest.mark.parametrize("optimizer_class", [SGD, Adam])
def test_a_parameter_without_gradient_stays(optimizer_class):
    param = torch.ones(7, dtype=torch.float64)
    _steps(optimizer_class(param, 0.1), param, np.zeros((3, 7)))
    np.testing.assert_array_equal(param, np.ones(7))


FACTORS = {"number": float, "tensor": lambda factor: torch.tensor(factor, dtype=torch.float64)}
every_factor = pytest.mark.parametrize("as_factor", FACTORS.values(), ids=FACTORS)


@every_factor
@pytest.mark.parametrize(
    "make",
    [
        lambda param: SGD(param, 0.1, 0.6, nesterov=True),
        lambda param: SGD(param, 0.1, 0.6, nesterov=False),
        lambda param: Adam(param, 0.1, (0.7, 0.95)),
    ],
    ids=["nesterov", "momentum", "adam"],
)
def test_a_step_is_its_kernel_given_its_factor(make, as_factor):
    stepped, moved = (torch.zeros(7, dtype=torch.float64) for _ in range(2))
    expected = _steps(make(stepped), stepped, _gradients(), RATES)
    optimizer = make(moved)
    for gradient, rate, position in zip(_gradients(), RATES, expected, strict=True):
        set_learning_rate(optimizer, rate)
        moved.grad = torch.from_numpy(gradient)
        optimizer.kernel()(as_factor(optimizer.next_factor()))
        np.testing.assert_allclose(moved, position, rtol=1e-12, atol=1e-16)


def test_a_kernel_serves_until_its_numbers_or_its_tensors_change():
    flat = torch.zeros(3)
    flat.grad = torch.ones(3)
    optimizer = SGD(flat, lr=1.0, momentum=0.5)
    kernel = optimizer.kernel()
    assert optimizer.kernel() is kernel
    flat.grad = torch.full((3,), 2.0)
    optimizer.param_groups[0]["momentum"] = 0.0
    optimizer.kernel()(1.0)
    assert flat.tolist() == [-2.0] * 3


def test_the_factor_of_adam_counts_its_steps():
    optimizer = Adam(torch.zeros(1), 0.1, (0.7, 0.95))
    for step in range(1, 6):
        expected = 0.1 * math.sqrt(1 - 0.95**step) / (1 - 0.7**step)
        assert optimizer.next_factor() == pytest.approx(expected)


@every_factor
def test_a_tensor_is_added_times_a_factor(as_factor):
    target, source = torch.ones(3, dtype=torch.float64), torch.arange(3, dtype=torch.float64)
    assert add_scaled_(target, source, as_factor(-0.5)) is target
    np.testing.assert_allclose(target, [1.0, 0.5, 0.0])


def _adam_states(dtype, n_steps=6, size=257):
    """Return weights and both moments after some steps through the functional form."""
    state = [torch.zeros(size, dtype=dtype) for _ in range(3)]
    for step, gradient in enumerate(_gradients(n_steps, size), start=1):
        gradient = torch.from_numpy(gradient).to(dtype)
        adam_kernel(state[0], gradient, *state[1:], (0.7, 0.95), 1e-8)(0.1 / step)
    return state


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_adam_is_the_same_without_torchs_fused_kernel(dtype, rtol, monkeypatch):
    fused = _adam_states(dtype)
    monkeypatch.setattr(optimizers, "fused_adam", None)
    for tensor, public in zip(fused, _adam_states(dtype), strict=True):
        torch.testing.assert_close(tensor, public, rtol=rtol, atol=rtol)


def test_adam_takes_torchs_fused_kernel_where_there_is_one(monkeypatch):
    calls, fused = [], torch._fused_adam_
    monkeypatch.setattr(
        optimizers,
        "fused_adam",
        lambda *args, **options: calls.append(1) or fused(*args, **options),
    )
    _adam_states(torch.float64, n_steps=3)
    assert len(calls) == 3


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.5, 0.0)])
def test_adam_without_the_fused_kernel_takes_scikit_learns_steps(betas, monkeypatch):
    monkeypatch.setattr(optimizers, "fused_adam", None)
    param = torch.zeros(7, dtype=torch.float64)
    actual = _steps(Adam(param, 0.1, betas, 0.1), param, _gradients(), RATES)
    expected = _scikit_learn_steps(
        lambda params: AdamOptimizer(params, 0.1, *betas, 0.1), _gradients(), RATES
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "public"])
@pytest.mark.parametrize("position", [1, 2, 3], ids=["gradient", "m", "v"])
@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (torch.ones(6), r"shape (6,), torch.float32, on cpu"),
        (torch.ones(8), r"shape (8,), torch.float32, on cpu"),
        (torch.ones(7, 1), r"shape (7, 1), torch.float32, on cpu"),
        (torch.ones(7, dtype=torch.float64), r"shape (7,), torch.float64, on cpu"),
        (torch.ones(7, device="meta"), r"shape (7,), torch.float32, on meta"),
    ],
    ids=["shorter", "longer", "two dimensions", "double", "elsewhere"],
)
def test_tensors_that_do_not_match_are_refused_before_any_is_written(
    other, kind, position, fused, monkeypatch
):
    if not fused:
        monkeypatch.setattr(optimizers, "fused_adam", None)
    tensors = [torch.ones(7) for _ in range(4)]
    tensors[position] = other
    message = f"a parameter of shape (7,), torch.float32, on cpu beside {kind}"
    with pytest.raises(ValueError, match=re.escape(message)):
        adam_kernel(*tensors, (0.9, 0.999), 1e-8)
    assert all(torch.all(tensor == 1) for tensor in tensors if tensor is not other)


def test_a_parameter_with_gaps_in_memory_takes_the_same_step():
    """The fused kernel walks over the memory, gaps included."""
    wide = [torch.zeros(7, 2), *(torch.rand(7, 2) for _ in range(3))]
    narrow = [tensor[:, 0].clone() for tensor in wide]
    for tensors in ([tensor[:, 0] for tensor in wide], narrow):
        adam_kernel(*tensors, (0.9, 0.999), 1e-8)(0.1)
    torch.testing.assert_close(wide[0][:, 0], narrow[0])
    assert torch.all(wide[0][:, 1] == 0)


@pytest.mark.parametrize("solver", STOCHASTIC_SOLVERS)
def test_every_solver_lowers_the_loss(solver):
    network = _network()
    losses = _train(network, make_optimizer(solver, network, **SETTINGS), 100)
    assert losses[-1] < 0.5 * losses[0]


TORCH_TWINS = {
    "adamw": (torch.optim.AdamW, {"betas": (0.7, 0.95), "eps": 1e-8, "weight_decay": 0.0}),
    "nadam": (torch.optim.NAdam, {"betas": (0.7, 0.95), "eps": 1e-8}),
    "radam": (torch.optim.RAdam, {"betas": (0.7, 0.95), "eps": 1e-8}),
    "rmsprop": (torch.optim.RMSprop, {"eps": 1e-8}),
    "adagrad": (torch.optim.Adagrad, {}),
}


@pytest.mark.parametrize("solver", TORCH_TWINS)
def test_named_solvers_on_flat_tensors_are_torchs_on_layers(solver):
    ours, theirs = _network(), _network()
    twin, options = TORCH_TWINS[solver]
    _train(ours, make_optimizer(solver, ours, **SETTINGS))
    _train(theirs, twin(theirs.parameters(), lr=SETTINGS["lr"], **options))
    np.testing.assert_allclose(ours.flat, theirs.flat, rtol=1e-10)


def test_a_class_gets_the_parameters_the_rate_and_the_users_options():
    network = _network()
    options = {"solver_params": {"rho": 0.5}}
    optimizer = make_optimizer(torch.optim.Adadelta, network, **{**SETTINGS, **options})
    (group,) = optimizer.param_groups
    assert (group["lr"], group["rho"]) == (SETTINGS["lr"], 0.5)
    assert list(map(id, group["params"])) == list(map(id, network.parameters()))


@pytest.mark.parametrize(
    ("solver", "option"),
    [
        ("adamw", "eps"),
        ("adagrad", "lr_decay"),
        ("rmsprop", "momentum"),
        ("muon", "momentum"),
        (torch.optim.SGD, "weight_decay"),
    ],
)
def test_the_users_options_override_the_defaults(solver, option):
    optimizer = make_optimizer(solver, _network(), **{**SETTINGS, "solver_params": {option: 0.25}})
    assert optimizer.param_groups[0][option] == 0.25


@pytest.mark.parametrize(
    ("solver", "solver_params"),
    [
        *((solver, {"no_such_option": 1}) for solver in [*STOCHASTIC_SOLVERS, torch.optim.SGD]),
        # scikit-learn's two are here without checks of their own
        ("adamw", {"betas": (2.0, 0.9)}),
        ("rmsprop", {"alpha": -1.0}),
        ("muon", {"momentum": -1.0}),
        (torch.optim.SGD, {"momentum": -1.0}),
    ],
    ids=str,
)
def test_options_that_an_optimiser_refuses_are_named(solver, solver_params):
    with pytest.raises(ValueError, match=r"refused solver_params=\{'") as refused:
        make_optimizer(solver, _network(), **{**SETTINGS, "solver_params": solver_params})
    assert str(solver_params) in str(refused.value)


# --------------------------------------------------------------------------------------
# Muon


@pytest.mark.parametrize(("is_rounded", "rtol"), [(True, 1e-10), (False, 0.02)])
def test_muon_is_torchs_for_the_hidden_matrices_and_adam_for_the_rest(
    is_rounded, rtol, monkeypatch
):
    """On a CPU without instructions for bfloat16 its steps are in single precision."""
    monkeypatch.setattr(muon, "has_instructions", lambda: is_rounded)
    ours, theirs = _network(), _network()
    matrices, others = theirs.hidden_matrices_and_others()
    twins = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam(others, lr=0.01, betas=(0.7, 0.95), eps=1e-8),
    ]
    _train(ours, make_optimizer("muon", ours, **SETTINGS))
    for _ in range(10):
        theirs.zero_grad()
        _loss(theirs).backward()
        for twin in twins:
            twin.step()
    np.testing.assert_allclose(ours.flat, theirs.flat, rtol=rtol, atol=rtol / 10)
    assert torch.allclose(ours.flat, theirs.flat, rtol=1e-10) == is_rounded


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 60), (1, 5), (5, 1)], ids=str)
def test_muon_makes_the_steps_of_matrices_nearly_orthogonal(shape):
    matrix, other = torch.zeros(shape, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    matrix.grad = torch.from_numpy(np.random.RandomState(0).normal(size=shape))
    other.grad = torch.ones(2, dtype=torch.float64)
    MuonWithAdam([matrix], [other], lr=0.1).step(lambda: torch.zeros(()))
    # five Newton-Schulz iterations bring all singular values near 1; "match_rms_adamw" scales them
    singular = torch.linalg.svdvals(matrix) / (0.1 * 0.2 * math.sqrt(max(shape)))
    np.testing.assert_allclose(singular, 1, atol=0.4)
    assert torch.sum(matrix * matrix.grad) < 0


@pytest.mark.parametrize("shape", [(16, 300), (300, 16)], ids=str)
@pytest.mark.parametrize("n_iterations", [0, 1, 5])
def test_wide_matrices_get_the_steps_that_newton_schulz_iterations_make(
    shape, n_iterations, monkeypatch
):
    """Also those of a rank below their height, of equal rows and of a single number."""
    monkeypatch.setattr(muon, "has_instructions", lambda: False)
    random_state = np.random.RandomState(0)
    factors = random_state.normal(size=(2, 300, 4)), random_state.normal(size=(2, 4, 16))
    step = np.zeros((5, *shape))
    step[0] = random_state.normal(size=shape)
    step[1] = np.prod(random_state.lognormal(sigma=3, size=(2, *shape)), axis=0)
    low_rank = factors[0][0] @ factors[1][0]
    step[2] = low_rank if shape == low_rank.shape else low_rank.T
    step[3, 5, 7] = -1e-12
    step[4] = random_state.normal(size=(1, shape[1]))
    a, b, c = coefficients = (3.4445, -4.775, 2.0315)
    own = muon.orthogonalized(torch.tensor(step).float(), coefficients, n_iterations, 1e-7)
    expected = step if shape[0] < shape[1] else step.swapaxes(1, 2)
    expected = expected / np.maximum(np.linalg.norm(expected, axis=(1, 2), keepdims=True), 1e-7)
    for _ in range(n_iterations):
        products = expected @ expected.swapaxes(1, 2)
        expected = a * expected + (b * products + c * products @ products) @ expected
    expected = expected if shape[0] < shape[1] else expected.swapaxes(1, 2)
    np.testing.assert_allclose(own, expected, atol=2e-4)


@pytest.mark.parametrize("n_iterations", [6, 12, 20])
def test_no_number_of_iterations_makes_a_step_of_equal_rows_infinite(n_iterations, monkeypatch):
    monkeypatch.setattr(muon, "has_instructions", lambda: False)
    step = torch.randn((1, 1, 300), generator=torch.Generator().manual_seed(0)).expand(1, 16, 300)
    own = muon.orthogonalized(step, (3.4445, -4.775, 2.0315), n_iterations, 1e-7)
    assert torch.linalg.svdvals(own).max() < 2


def test_muon_without_hidden_layer_is_adam():
    ours, theirs = _network((6, 3)), _network((6, 3))
    _train(ours, make_optimizer("muon", ours, **SETTINGS))
    _train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.7, 0.95)))
    np.testing.assert_allclose(ours.flat, theirs.flat, rtol=1e-10)


def test_the_rate_of_both_parts_of_muon_can_be_set():
    network = _network()
    optimizer = make_optimizer("muon", network, **SETTINGS)
    assert len(optimizer.param_groups) == 2
    set_learning_rate(optimizer, 0.0)
    before = network.flat.clone()
    _train(network, optimizer, 2)
    np.testing.assert_array_equal(network.flat, before)


def test_torchs_schedulers_drive_muon():
    network = _network()
    optimizer = make_optimizer("muon", network, **SETTINGS)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    _train(network, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for part in optimizer.parts for group in part.param_groups] == [0.005] * 2


# --------------------------------------------------------------------------------------
# the state


@pytest.mark.parametrize("has_moved", [False, True])
@pytest.mark.parametrize("solver", [*STOCHASTIC_SOLVERS, torch.optim.SGD], ids=str)
def test_a_restored_state_goes_on_as_if_nothing_had_happened(solver, has_moved):
    options = {"momentum": 0.5} if solver is torch.optim.SGD else None
    settings = {**SETTINGS, "solver_params": options}
    straight = _network()
    optimizer = make_optimizer(solver, straight, **settings)
    _train(straight, optimizer, 5)
    interrupted = copy.deepcopy(straight)
    state = pickle.loads(pickle.dumps(to_arrays(optimizer.state_dict())))
    other = make_optimizer(solver, interrupted, **settings)
    load_state(other, to_tensors(state), has_moved=has_moved)
    _train(straight, optimizer, 5)
    _train(interrupted, other, 5)
    np.testing.assert_array_equal(interrupted.flat, straight.flat)


@pytest.mark.parametrize("solver", STOCHASTIC_SOLVERS)
def test_the_saved_state_holds_no_tensor(solver):
    network = _network()
    optimizer = make_optimizer(solver, network, **SETTINGS)
    _train(network, optimizer, 2)
    kinds = set()

    def visit(value):
        kinds.add(type(value))
        for item in value.values() if isinstance(value, dict) else ():
            visit(item)
        for item in value if isinstance(value, list | tuple) else ():
            visit(item)

    visit(to_arrays(optimizer.state_dict()))
    assert np.ndarray in kinds
    assert not any(issubclass(kind, torch.Tensor) for kind in kinds)


def test_restored_tensors_own_their_memory():
    array = np.zeros(3)
    restored = to_tensors({"state": [array, (array, 1.5)]})
    restored["state"][0].add_(1)
    np.testing.assert_array_equal(array, np.zeros(3))
    assert restored["state"][1][1] == 1.5


def test_set_learning_rate_reaches_every_group():
    groups = [{"params": [torch.zeros(2)]}, {"params": [torch.zeros(3)], "lr": 7.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


# --------------------------------------------------------------------------------------
# schedules


@pytest.mark.parametrize("progress", np.linspace(0, 1, 11))
def test_cosine_falls_along_half_a_cosine(progress):
    expected = 0.2 * (1 + math.cos(math.pi * progress)) / 2
    assert annealed_rate("cosine", 0.2, progress) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("step", [0, 1, 50, 200, 299, 300, 500, 750, 999])
def test_one_cycle_is_torchs_but_for_where_it_ends(step):
    """torch ends at a ten-thousandth of its start, a fraction of the peak too small to matter."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=1001, pct_start=0.3, div_factor=25, final_div_factor=1e4
    )
    for _ in range(step):
        optimizer.step()
        scheduler.step()
    expected = optimizer.param_groups[0]["lr"]
    # torch's warm-up is a step shorter
    assert annealed_rate("one_cycle", 0.1, step / 1000) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("schedule", "peak_at", "start"), [("cosine", 0.0, 1.0), ("one_cycle", 0.3, 0.04)]
)
def test_schedules_rise_to_the_peak_and_fall_to_zero(schedule, peak_at, start):
    progress = np.linspace(0, 1, 1001)
    rates = np.array([annealed_rate(schedule, 3.0, p) for p in progress])
    assert rates[0] == pytest.approx(3.0 * start)
    assert progress[rates.argmax()] == peak_at
    assert rates.max() == pytest.approx(3.0)
    assert rates[-1] == pytest.approx(0.0, abs=1e-15)
    assert (np.diff(rates[progress <= peak_at]) > 0).all()
    assert (np.diff(rates[progress >= peak_at]) < 0).all()


@pytest.mark.parametrize("schedule", ANNEALING_SCHEDULES)
@pytest.mark.parametrize(("beyond", "end"), [(-0.5, 0.0), (1.5, 1.0)])
def test_schedules_stay_at_their_ends(schedule, beyond, end):
    assert annealed_rate(schedule, 1.0, beyond) == annealed_rate(schedule, 1.0, end)
