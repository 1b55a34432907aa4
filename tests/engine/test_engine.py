"""Training steps: the engine against the same training written out, and against its own table."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sknn_deep._engine import batches
from sknn_deep._engine.batches import Batches
from sknn_deep._engine.engine import Engine, reported_losses
from sknn_deep._engine.features import features_of
from sknn_deep._engine.losses import classification_loss, regression_loss
from sknn_deep._engine.samples import Samples
from sknn_deep._engine.solvers import TORCH_OPTIMIZERS, annealed_rate, make_optimizer
from sknn_deep._networks.models import MLP

N_ROWS, BATCH_SIZE, N_EPOCHS = 50, 8, 3  # six batches and a short one, in three chunks
RNG = np.random.RandomState(0)
X = RNG.normal(size=(N_ROWS, 6))
LABELS = RNG.randint(0, 3, N_ROWS)
WEIGHT = RNG.uniform(0.1, 2.0, N_ROWS)
SETTINGS = {
    "lr": 0.05, "momentum": 0.8, "nesterov": True, "betas": (0.7, 0.95), "eps": 1e-8,
    "solver_params": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def three_batches_in_a_chunk(monkeypatch):
    monkeypatch.setattr(batches, "_MAX_TOGETHER", 3)


def _network(dropout=0.0, normalization=None, dtype=torch.float64, hidden=(40, 5)):
    """Return a network whose first matrix is stored by column, with the default layers."""
    activations = ["tanh", "relu"][: len(hidden)]
    network = MLP(
        (6, *hidden, 3),
        activations=activations,
        dropout=[dropout] * len(hidden),
        normalization=normalization,
        dtype=dtype,
    )
    network.initialize(np.random.RandomState(0), [*activations, "relu"])
    network.set_generator(torch.Generator().manual_seed(0))
    return network.train()


def _epochs(n_epochs=N_EPOCHS, weight=None, dtype=torch.float64, shuffle=True, rows=None):
    """Yield the chunks of some epochs, valid one at a time."""
    numpy_dtype = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    batches = Batches(
        Samples(features_of(X.astype(numpy_dtype)), None, LABELS, weight),
        rows=rows,
        batch_size=BATCH_SIZE,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    random_state = np.random.RandomState(1)
    for _ in range(n_epochs):
        if shuffle:
            batches.shuffle(random_state)
        yield from batches


def _engine_of(network, solver, loss=None, settings=None, **options):
    optimizer = make_optimizer(solver, network, **{**SETTINGS, **(settings or {})})
    options = {"alpha": 0.0, **options}
    return Engine(network, loss or classification_loss("softmax"), optimizer, **options)


def _train(network, solver, chunks, rates=None, listener=None, **options):
    """Return the losses and the squared norms of all batches."""
    engine = _engine_of(network, solver, **options)
    engine.listener = listener
    rates, results = iter(rates or []), []
    for chunk in chunks:
        of_chunk = [rate for _, rate in zip(chunk.parts, rates, strict=False)]
        results.append(engine.train(chunk, of_chunk or None))
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


class WrittenOut:
    """Training as a textbook has it: autograd, the penalties, then ``move(optimizer, rate)``."""

    def __init__(self, network, loss, alpha=0.0, weight_decay=0.0, max_grad_norm=None):
        self.network, self.loss, self.alpha = network, loss, alpha
        self.weight_decay, self.max_grad_norm = weight_decay, max_grad_norm
        self.params = list(network.parameters())
        self.matrices = [layer.weight for layer in network.linear_layers()]

    def objective(self, batch, weight):
        self.network.zero_grad()
        raw = self.network(batch.X)
        losses = self.loss.per_sample(raw, self.loss.encoded(batch.target, raw.detach()))
        mean = (losses * weight).sum() / weight.sum()
        norm = sum(matrix.square().sum() for matrix in self.matrices)
        objective = mean + 0.5 * self.alpha / weight.sum() * norm
        objective.backward()
        if self.max_grad_norm is not None:
            length = torch.cat([param.grad.reshape(-1) for param in self.params]).norm()
            for param in self.params:
                param.grad.mul_(min(1.0, self.max_grad_norm / length))
        return objective.detach(), mean.item(), norm.item()

    def decay(self, rate):
        with torch.no_grad():
            for matrix in self.matrices:
                matrix.mul_(1 - rate * self.weight_decay)

    def train(self, chunks, move, rates=None):
        losses, squared_norms, number = [], [], 0
        for chunk in chunks:
            for part, weight_sum in zip(chunk.parts, chunk.weight_sums, strict=True):
                batch = SimpleNamespace(X=chunk.X[part], target=chunk.target[part])
                weight = torch.ones(len(batch.X), dtype=batch.X.dtype)
                if chunk.scale is not None:
                    weight = chunk.scale[part, 0] * weight_sum
                rate = SETTINGS["lr"] if rates is None else rates[number]
                _, loss, squared_norm = self.objective(batch, weight)
                self.decay(rate)
                move(self.params, rate)
                losses.append(loss)
                squared_norms.append(squared_norm if self.alpha else 0.0)
                number += 1
        return losses, squared_norms


def _sgd(momentum, nesterov):
    velocities = {}

    @torch.no_grad()
    def move(params, rate):
        for param in params:
            velocity = momentum * velocities.get(id(param), 0.0) - rate * param.grad
            velocities[id(param)] = velocity
            param.add_(momentum * velocity - rate * param.grad if nesterov else velocity)

    return move


def _adam(beta_1, beta_2, eps):
    moments, n_steps = {}, 0

    @torch.no_grad()
    def move(params, rate):
        nonlocal n_steps
        n_steps += 1
        for param in params:
            m, v = moments.get(id(param), (0.0, 0.0))
            m = beta_1 * m + (1 - beta_1) * param.grad
            v = beta_2 * v + (1 - beta_2) * param.grad**2
            moments[id(param)] = m, v
            step = rate * np.sqrt(1 - beta_2**n_steps) / (1 - beta_1**n_steps)
            param.sub_(step * m / (v.sqrt() + eps))

    return move


RULES = {
    "nesterov": ("sgd", {}, lambda: _sgd(0.8, nesterov=True)),
    "momentum": ("sgd", {"nesterov": False}, lambda: _sgd(0.8, nesterov=False)),
    "gradient descent": ("sgd", {"momentum": 0.0}, lambda: _sgd(0.0, nesterov=True)),
    "adam": ("adam", {}, lambda: _adam(0.7, 0.95, 1e-8)),
}
OPTIONS = {
    "plain": {},
    "alpha": {"alpha": 0.3},
    "weight decay": {"weight_decay": 0.2},
    "clipped": {"max_grad_norm": 0.1},
    "all": {"alpha": 0.3, "weight_decay": 0.2, "max_grad_norm": 0.1},
}
RATES = [annealed_rate("one_cycle", 0.05, i / 21) for i in range(21)]
every_rule = pytest.mark.parametrize(("solver", "settings", "rule"), RULES.values(), ids=RULES)
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
weighted_or_not = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])


# --------------------------------------------------------------------------------------
# the steps


@every_rule
@every_option
@pytest.mark.parametrize(
    ("weight", "rates"), [(None, None), (WEIGHT, RATES)], ids=["plain", "weighted and annealed"]
)
def test_training_is_the_one_written_out(solver, settings, rule, options, weight, rates):
    ours, theirs = _network(), _network()
    losses, norms = _train(
        ours, solver, _epochs(weight=weight), rates, settings=settings, **options
    )
    plain = WrittenOut(theirs, classification_loss("softmax"), **options)
    expected = plain.train(_epochs(weight=weight), rule(), rates)
    assert_allclose(losses, expected[0], rtol=1e-9)
    assert_allclose(norms, expected[1], rtol=1e-9)
    assert_allclose(ours.flat, theirs.flat, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_training_with_modes_is_the_one_written_out(normalization, dropout):
    ours, theirs = (_network(dropout, normalization) for _ in range(2))
    _train(ours, "sgd", _epochs(weight=WEIGHT), alpha=0.3)
    plain = WrittenOut(theirs, classification_loss("softmax"), alpha=0.3)
    plain.train(_epochs(weight=WEIGHT), _sgd(0.8, nesterov=True))
    for tensor, expected in zip(ours.snapshot(), theirs.snapshot(), strict=True):
        assert_allclose(tensor, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("solver", TORCH_OPTIMIZERS)
def test_training_with_torchs_optimizers_is_the_one_written_out(solver):
    ours, theirs = _network(), _network()
    _train(ours, solver, _epochs(), **OPTIONS["all"])
    plain = WrittenOut(theirs, classification_loss("softmax"), **OPTIONS["all"])
    options = {"rmsprop": {"eps": 1e-8}, "adagrad": {}}.get(
        solver, {"betas": (0.7, 0.95), "eps": 1e-8}
    )
    twin = TORCH_OPTIMIZERS[solver](plain.params, lr=SETTINGS["lr"], **options)
    plain.train(_epochs(), lambda params, rate: twin.step())
    assert_allclose(ours.flat, theirs.flat, rtol=1e-8, atol=1e-11)


def test_decay_of_adamw_is_torchs():
    ours, theirs = _network(), _network()
    _train(ours, "adamw", _epochs(), weight_decay=0.2)
    plain = WrittenOut(theirs, classification_loss("softmax"))
    others = [param for param in plain.params if param.ndim == 1]
    twin = torch.optim.AdamW(
        [{"params": plain.matrices}, {"params": others, "weight_decay": 0.0}],
        lr=SETTINGS["lr"], betas=(0.7, 0.95), weight_decay=0.2,
    )  # fmt: skip
    plain.train(_epochs(), lambda params, rate: twin.step())
    assert_allclose(ours.flat, theirs.flat, rtol=1e-8, atol=1e-11)


ONE_OF_EACH_KIND = ["sgd", "adam", "adamw", "muon", torch.optim.LBFGS]
every_kind = pytest.mark.parametrize("solver", ONE_OF_EACH_KIND, ids=str)


@every_kind
def test_batch_whose_weights_are_all_zero_is_skipped(solver):
    weight = WEIGHT.copy()
    weight[BATCH_SIZE : 2 * BATCH_SIZE] = 0.0
    counted = np.flatnonzero(weight)
    ours, theirs = (_network(hidden=(5,)) for _ in range(2))
    losses, norms = _train(ours, solver, _epochs(1, weight, shuffle=False), alpha=0.1)
    expected = _train(theirs, solver, _epochs(1, weight, shuffle=False, rows=counted), alpha=0.1)
    others = [0, 2, 3, 4, 5, 6]
    assert losses[1] == norms[1] == 0
    assert_allclose(losses[others], expected[0], rtol=1e-12)
    assert_allclose(norms[others], expected[1], rtol=1e-12)
    assert_allclose(ours.flat, theirs.flat, rtol=1e-12)


def test_loss_of_a_skipped_batch_is_zero_whatever_was_in_memory():
    weight = WEIGHT.copy()
    weight[:BATCH_SIZE] = 0.0
    chunk = next(_epochs(1, weight, shuffle=False))
    engine = _engine_of(_network(), "sgd")
    engine._backprop.workspace(chunk).raws[0].fill_(torch.nan)
    losses, _ = engine.train(chunk)
    assert losses[0] == 0


def test_training_is_continued_by_the_next_epoch_of_the_same_batches():
    """The second time a chunk's kernels and buffers are there already."""
    together, apart = _network(), _network()
    _train(together, "sgd", _epochs())
    optimizer = make_optimizer("sgd", apart, **SETTINGS)
    for chunk in _epochs():
        Engine(apart, classification_loss("softmax"), optimizer, alpha=0.0).train(chunk)
    assert_array_equal(together.flat, apart.flat)


@pytest.mark.parametrize("name", ["squared_error", "poisson"])
def test_reported_losses_have_the_penalty_and_scikit_learns_scale(name):
    loss = regression_loss(name, 4)
    results = torch.tensor([[2.0, 8.0], [5.0, 0.0]])
    reported = reported_losses(results, np.array([0.03, 0.0]), loss)
    scale = {"squared_error": 0.25, "poisson": 1.0}[name]
    assert_allclose(reported, [scale * 2.0 + 0.5 * 0.3 / 10 * 5.0, scale * 8.0])


# --------------------------------------------------------------------------------------
# the plain steps of our own optimisers, and their table, of which a CUDA graph is made


class Idle:
    """A listener that does nothing."""

    def batch_begins(self, X, target):
        pass

    def gradient_is_known(self):
        pass

    def batch_ends(self, X, target, loss, raw):
        pass


class FromTable:
    """Takes steps as a graph would be given them, without a graph."""

    def __init__(self, work, table, generators, stream):
        self._work, self._table = work, table
        self.n_chunks = 0

    def prepare(self, take_steps):
        pass

    def __call__(self, take_steps, factors):
        self.n_chunks += 1
        return take_steps(self._work, self._table.copy_(factors))


class OnCuda(torch.Tensor):
    """A tensor that claims to be on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = torch.device("cuda")


def _on_cuda(chunks):
    for chunk in chunks:
        yield chunk._replace(X=chunk.X.as_subclass(OnCuda))


@pytest.fixture
def graphs(monkeypatch):
    """Stand in for graphs; return those that were made."""
    made = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(
        "sknn_deep._engine.cuda_graph.StepGraph",
        lambda *args: made.append(FromTable(*args)) or made[-1],
    )
    return made


@pytest.mark.parametrize(
    ("modes", "dtype", "rtol"),
    [
        ({}, torch.float32, 1e-4),
        ({}, torch.float64, 1e-10),
        ({"dropout": 0.4}, torch.float64, 1e-10),
        ({"normalization": "batch"}, torch.float64, 1e-10),
        ({"normalization": "layer"}, torch.float64, 1e-10),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("options", "rates"),
    [(OPTIONS["plain"], None), (OPTIONS["all"], RATES)],
    ids=["plain and constant", "all and annealed"],
)
@every_rule
def test_steps_of_a_graph_and_announced_steps_are_the_plain_ones(
    solver, settings, rule, options, modes, rates, dtype, rtol, graphs
):
    # Adam makes whole steps of rounding errors, the gradient of a bias before a normalisation
    options = {"settings": {**settings, "eps": 1e-3}, **options}
    plain, recorded, announced = (_network(**modes, dtype=dtype) for _ in range(3))
    expected = _train(plain, solver, _epochs(dtype=dtype), rates, **options)
    for network, results in (
        (recorded, _train(recorded, solver, _on_cuda(_epochs(dtype=dtype)), rates, **options)),
        (
            announced,
            _train(announced, solver, _epochs(dtype=dtype), rates, listener=Idle(), **options),
        ),
    ):
        for ours, theirs in zip(results, expected, strict=True):
            assert_allclose(ours, theirs, rtol=rtol)
        for ours, theirs in zip(network.snapshot(), plain.snapshot(), strict=True):
            assert_allclose(ours, theirs, rtol=rtol, atol=rtol)
    assert [graph.n_chunks for graph in graphs] == [2 * N_EPOCHS, N_EPOCHS]


@weighted_or_not
def test_steps_of_a_graph_weigh_the_samples(weight, graphs):
    network, plain = _network(), WrittenOut(_network(), classification_loss("softmax"), alpha=0.3)
    losses, _ = _train(network, "adam", _on_cuda(_epochs(weight=weight)), alpha=0.3)
    expected, _ = plain.train(_epochs(weight=weight), _adam(0.7, 0.95, 1e-8))
    assert len(graphs) == 2
    assert_allclose(losses, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("case", "n_chunks"),
    [
        ("on CUDA", [4, 2]), ("a batch to skip", [2, 2]), ("on a CPU", []), ("a listener", []),
        ("an optimiser of torch", []), ("a frozen parameter", []),
    ],
)  # fmt: skip
def test_graphs_are_made_of_plain_steps_on_cuda_only(case, n_chunks, graphs):
    network, weight = _network(), WEIGHT.copy()
    if case == "a frozen parameter":
        network.layers[0].weight.requires_grad_(False)
    if case == "a batch to skip":
        weight[:BATCH_SIZE] = 0.0
    engine = _engine_of(network, "muon" if case == "an optimiser of torch" else "adam")
    engine.freeze()
    engine.listener = Idle() if case == "a listener" else None
    chunks = _epochs(2, weight, shuffle=False)
    for chunk in chunks if case == "on a CPU" else _on_cuda(chunks):
        engine.train(chunk)
    assert [graph.n_chunks for graph in graphs] == n_chunks


@pytest.mark.parametrize(("solver", "name"), [("adam", "betas"), ("sgd", "momentum")])
def test_a_graph_is_made_anew_when_what_it_holds_fast_changes(solver, name, graphs):
    engine = _engine_of(_network(), solver)
    chunks = list(_on_cuda(_epochs(1, shuffle=False)))
    for value in (0.5, 0.5, 0.6):
        engine._optimizer.param_groups[0][name] = (value, 0.9) if name == "betas" else value
        engine.train(chunks[0])
    assert [graph.n_chunks for graph in graphs] == [2, 1]
    engine.close()
    engine.train(chunks[0])
    assert len(graphs) == 3


# --------------------------------------------------------------------------------------
# a user's own optimiser


class SetsGradientsToNone(torch.optim.SGD):
    """Clears the gradients in each step as torch does it by default."""

    def step(self, closure):
        self.zero_grad()
        loss = closure()
        super().step()
        return loss


class NeverAsks(torch.optim.SGD):
    """Does not call the closure."""

    def step(self, closure):
        return None


def test_an_optimizer_may_set_the_gradients_to_none():
    networks = [_network(), _network()]
    for network, solver in zip(networks, (torch.optim.SGD, SetsGradientsToNone), strict=True):
        _train(network, solver, _epochs())
    assert_allclose(networks[1].flat, networks[0].flat)
    assert all(param.grad is not None for param in networks[1].parameters())


def test_an_optimizer_that_never_asks_for_the_gradient_is_refused():
    with pytest.raises(ValueError, match="NeverAsks.step never called the closure"):
        _train(_network(), NeverAsks, _epochs())


class AsksThreeTimes(torch.optim.Optimizer):
    """Asks for the objective three times in a step, and moves nothing."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})
        self.values, self.gradients = [], []

    def step(self, closure):
        for _ in range(3):
            self.values.append(closure().item())
            self.gradients.append([p.grad.clone() for p in self.param_groups[0]["params"]])


def _one_batch():
    chunk = next(_epochs(shuffle=False, rows=np.arange(BATCH_SIZE)))
    assert len(chunk.parts) == 1
    return chunk


def test_optimizer_of_the_user_gets_the_objective_with_the_penalty():
    ours, theirs = _network(), _network()
    engine = _engine_of(ours, AsksThreeTimes, alpha=0.3)
    engine.train(_one_batch())
    plain = WrittenOut(theirs, classification_loss("softmax"), alpha=0.3)
    objective, _, _ = plain.objective(_one_batch(), torch.ones(BATCH_SIZE, dtype=torch.float64))
    assert_allclose(engine._optimizer.values, objective, rtol=1e-12)
    for gradients in engine._optimizer.gradients:
        for gradient, param in zip(gradients, theirs.parameters(), strict=True):
            assert_allclose(gradient, param.grad, rtol=1e-9, atol=1e-13)


def test_weights_decay_once_in_a_step_however_often_the_objective_is_asked_for():
    network = _network()
    before, n_weights = network.flat.clone(), network.weights.numel()
    engine = _engine_of(network, AsksThreeTimes, weight_decay=0.2)
    engine.train(_one_batch())
    assert_allclose(network.weights, (1 - 0.2 * SETTINGS["lr"]) * before[:n_weights], rtol=1e-14)
    assert_array_equal(network.flat[n_weights:], before[n_weights:])
    first, second, third = engine._optimizer.values
    assert first != second == third


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("hidden", [(5,), (40, 5)], ids=["by row", "by column"])
def test_lbfgs_of_torch_minimises_the_objective_of_each_batch(hidden, line_search):
    params = {"line_search_fn": line_search, "max_iter": 5}
    ours, theirs = (_network(hidden=hidden) for _ in range(2))
    _train(ours, torch.optim.LBFGS, _epochs(1), alpha=0.3, settings={"solver_params": params})
    plain = WrittenOut(theirs, classification_loss("softmax"), alpha=0.3)
    twin = torch.optim.LBFGS(plain.params, lr=SETTINGS["lr"], **params)
    for chunk in _epochs(1):
        for part in chunk.parts:
            batch = SimpleNamespace(X=chunk.X[part], target=chunk.target[part])
            ones = torch.ones(len(batch.X), dtype=torch.float64)
            twin.step(lambda batch=batch, ones=ones: plain.objective(batch, ones)[0])
    assert_allclose(ours.flat, theirs.flat, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("listens", [False, True])
def test_losses_of_an_optimizer_that_looks_ahead_are_those_before_its_steps(listens):
    network = _network(hidden=(5,))
    engine = _engine_of(network, torch.optim.LBFGS, settings={"lr": 1.0})
    chunk = _one_batch()
    if listens:
        engine.listener = Recorder(network)
    raw = network(chunk.X).detach()
    before = torch.nn.functional.cross_entropy(raw, chunk.target).item()
    (loss,), _ = engine.train(chunk)
    assert torch.nn.functional.cross_entropy(network(chunk.X), chunk.target) < 0.9 * before
    assert loss.item() == pytest.approx(before)
    if listens:
        assert engine.listener.losses == [pytest.approx(before)]
        assert_allclose(engine.listener.raws[0], raw)


class Fails(torch.optim.Optimizer):
    """Fails in a step, before the gradient is asked for or after."""

    def __init__(self, params, lr, asks):
        super().__init__(params, {"lr": lr})
        self._asks = asks

    def step(self, closure):
        if self._asks:
            closure()
        raise RuntimeError("this optimiser fails")


@pytest.mark.parametrize("asks", [False, True])
def test_an_error_of_the_optimizer_is_known_as_its_own(asks):
    engine = _engine_of(_network(), Fails, settings={"solver_params": {"asks": asks}})
    with pytest.raises(RuntimeError, match="this optimiser fails"):
        engine.train(_one_batch())
    assert engine.in_optimizer


def test_an_error_in_the_gradient_is_not_the_optimizers():
    engine, chunk = _engine_of(_network(), "sgd"), _one_batch()
    engine._backprop.workspace(chunk).programs[0].insert(0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.train(chunk)
    assert not engine.in_optimizer


# --------------------------------------------------------------------------------------
# frozen parameters


@every_kind
def test_frozen_parameters_stay_and_the_others_move(solver):
    network = _network(hidden=(5,))
    frozen = {"layers.0.weight", "layers.2.bias"}
    for name, param in network.named_parameters():
        param.requires_grad_(name not in frozen)
    before = {name: param.detach().clone() for name, param in network.named_parameters()}
    engine = _engine_of(network, solver, alpha=0.3, weight_decay=0.2)
    engine.freeze()
    for chunk in _epochs(1):
        engine.train(chunk)
    for name, param in network.named_parameters():
        moved = not torch.equal(param.detach(), before[name])
        assert moved is (name not in frozen)


def test_parameters_move_again_when_they_are_no_longer_frozen():
    network = _network()
    engine, weight = _engine_of(network, "sgd"), network.layers[0].weight
    before = weight.detach().clone()
    for wanted in (False, True):
        weight.requires_grad_(wanted)
        engine.freeze()
        engine.train(_one_batch())
        assert torch.equal(weight.detach(), before) is not wanted


# --------------------------------------------------------------------------------------
# the listener


class Recorder:
    """Notes all events, and the state of the network at each."""

    def __init__(self, network):
        self._network = network
        self.events, self.weights, self.gradients = [], [], []
        self.batches, self.losses, self.raws = [], [], []

    def _note(self, event):
        self.events.append(event)
        self.weights.append(self._network.flat.clone())
        self.gradients.append(self._network.flat.grad.clone())

    def batch_begins(self, X, target):
        self._note("begins")
        self.batches.append((X.clone(), target.clone()))

    def gradient_is_known(self):
        self._note("gradient")

    def batch_ends(self, X, target, loss, raw):
        self._note("ends")
        assert torch.equal(X, self.batches[-1][0])
        assert torch.equal(target, self.batches[-1][1])
        self.losses.append(loss.item())
        self.raws.append(raw.clone())


def test_listener_hears_of_every_batch_in_order():
    network = _network()
    engine = _engine_of(network, "sgd", alpha=0.3)
    engine.listener = recorder = Recorder(network)
    chunks, reported = [], []
    for chunk in _epochs(1, weight=WEIGHT):
        chunks += [(chunk.X[part].clone(), chunk.target[part].clone()) for part in chunk.parts]
        results = torch.stack(engine.train(chunk))
        loss = classification_loss("softmax")
        reported += list(reported_losses(results, 0.3 / np.array(chunk.weight_sums), loss))
    assert recorder.events == ["begins", "gradient", "ends"] * 7
    for heard, given in zip(recorder.batches, chunks, strict=True):
        assert torch.equal(heard[0], given[0])
        assert torch.equal(heard[1], given[1])
    assert_allclose(recorder.losses, reported, rtol=1e-12)


def test_weights_move_between_the_gradient_and_the_end_of_a_batch():
    network = _network()
    engine = _engine_of(network, "sgd", weight_decay=0.2)
    engine.listener = recorder = Recorder(network)
    engine.train(next(_epochs()))
    begins, gradient, ends = (recorder.weights[i::3] for i in range(3))
    for i in range(3):
        assert torch.equal(begins[i], gradient[i])
        assert not torch.equal(gradient[i], ends[i])


def test_raw_output_that_a_listener_gets_is_that_before_the_step():
    network = _network()
    engine = _engine_of(network, "sgd")
    engine.listener = recorder = Recorder(network)
    engine.train(next(_epochs()))
    twin = _network()
    for i, (X_batch, _) in enumerate(recorder.batches):
        with torch.no_grad():
            twin.flat.copy_(recorder.weights[3 * i])
        assert_allclose(recorder.raws[i], twin(X_batch).detach(), rtol=1e-10)


def test_listener_sees_the_gradient_with_penalty_and_clipped():
    network, twin = _network(), _network()
    engine = _engine_of(network, "sgd", alpha=0.3, max_grad_norm=0.1)
    engine.listener = recorder = Recorder(network)
    engine.train(_one_batch())
    plain = WrittenOut(twin, classification_loss("softmax"), alpha=0.3, max_grad_norm=0.1)
    plain.objective(_one_batch(), torch.ones(BATCH_SIZE, dtype=torch.float64))
    assert_allclose(recorder.gradients[1], twin.flat.grad, rtol=1e-9, atol=1e-13)
    assert recorder.gradients[1].norm().item() == pytest.approx(0.1)


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_a_gradient_that_a_listener_changes_is_the_one_that_is_used(solver):
    network = _network()
    engine = _engine_of(network, solver)
    engine.listener = Idle()
    engine.listener.gradient_is_known = network.flat.grad.zero_
    before = network.flat.clone()
    engine.train(next(_epochs()))
    assert_array_equal(network.flat, before)


def test_listener_changes_nothing_and_hears_nothing_of_a_skipped_batch():
    weight = WEIGHT.copy()
    weight[:BATCH_SIZE] = 0.0
    heard, alone = _network(), _network()
    engine = _engine_of(heard, "adam", alpha=0.3)
    engine.listener = recorder = Recorder(heard)
    for chunk in _epochs(1, weight, shuffle=False):
        engine.train(chunk)
    _train(alone, "adam", _epochs(1, weight, shuffle=False), alpha=0.3)
    assert len(recorder.batches) == 6
    assert_array_equal(heard.flat, alone.flat)


# --------------------------------------------------------------------------------------
# denormal numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_moments_on_their_way_to_denormal_numbers_are_set_to_zero(dtype):
    network, loss = _network(dtype=dtype), classification_loss("softmax")
    optimizer = make_optimizer("adam", network, **SETTINGS)
    chunk, seen = next(_epochs(dtype=dtype)), []
    Engine(network, loss, optimizer, alpha=0.0).train(chunk)
    second_moments = optimizer.state[network.flat]["v"]
    network.weights[:3] = second_moments[3:6] = torch.finfo(dtype).tiny ** 0.8
    engine = Engine(network, loss, optimizer, alpha=0.0)
    engine.listener = Idle()
    engine.listener.gradient_is_known = lambda: seen.append(
        (network.weights[:3].tolist(), second_moments[3:6].tolist())
    )
    engine.train(chunk)
    assert seen[0] == ([0.0] * 3, [0.0] * 3)
