"""Networks fitted as a stack: each comes out as from its own ``fit``."""

import gc
import pickle
import re
import time
import weakref
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import Callback

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine import muon, solvers
from sknn_deep._engine.batches import Batches
from sknn_deep._engine.optimizers import Adam
from sknn_deep._estimators import fused
from sknn_deep._estimators.call import Call
from sknn_deep._estimators.fitting import Fit
from sknn_deep._estimators.fused import fit_jobs
from sknn_deep._estimators.jobs import Job, stacks
from sknn_deep._hardware import products
from sknn_deep._training import stack, stack_rows, stack_size

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_JOBS, N_ROWS = 5, 103  # batches of 20 and a short one
X, y = make_classification(
    120, 8, n_informative=6, n_classes=3, n_clusters_per_class=1, random_state=0
)
Y = np.column_stack([y == 0, y > 1]).astype(int)
WEIGHT = np.random.RandomState(0).uniform(0.5, 2.0, len(X))
FOLDS = [np.random.RandomState(i).permutation(len(X))[:N_ROWS] for i in range(N_JOBS)]
# some batches end with one row, some with two
UNEVEN = [rows[: N_ROWS - 2 + i % 2] for i, rows in enumerate(FOLDS)]
SHARED = {"batch_size": 20, "max_iter": 4}
RATES = [0.001, 0.01, 0.01, 0.003, 0.001]


def _classifier(i, **params):
    params = {
        "hidden_layer_sizes": (9, 5),
        "random_state": i,
        "learning_rate_init": RATES[i],
    } | params
    return DeepMLPClassifier(**SHARED | params)


def _regressor(i, **params):
    params = {
        "hidden_layer_sizes": (9,),
        "random_state": i,
        "learning_rate_init": RATES[i],
    } | params
    return DeepMLPRegressor(**SHARED | params)


def _autoencoder(i, **params):
    return AutoencoderTransformer(3, (7,), random_state=i, **SHARED | params)


TOLERANCES = [0.0, 0.01, 0.1, 0.2, 1.0]
SCHEDULES = ["constant", "invscaling", "adaptive", "cosine", "one_cycle"]
CASES = {
    "adam": (lambda i: _classifier(i, alpha=10.0**-i), y),
    "moments": (lambda i: _classifier(i, beta_1=0.9 - 0.1 * i, epsilon=10.0 ** -(i + 4)), y),
    "momentum": (lambda i: _classifier(i, solver="sgd", momentum=0.2 * i, alpha=0.1 * i), y),
    "nesterov": (lambda i: _classifier(i, solver="sgd", nesterovs_momentum=i % 2 == 0), y),
    "schedules": (lambda i: _classifier(i, solver="sgd", learning_rate=SCHEDULES[i]), y),
    "annealing adam": (lambda i: _classifier(i, learning_rate=SCHEDULES[3 + i % 2]), y),
    "epochs": (lambda i: _classifier(i, max_iter=2 + i), y),
    "weight decay": (lambda i: _classifier(i, weight_decay=0.1 * i), y),
    "average": (
        lambda i: _classifier(i, ema_decay=0.9, early_stopping=i % 2 == 0, max_iter=3 + i), y
    ),
    "embeddings": (
        lambda i: _regressor(
            i, numeric_embedding="piecewise_linear", n_bins=4, embedding_weight_decay=50.0 * i,
            learned_scales=True, ema_decay=0.5,
        ),
        y.astype(float),
    ),
    "clipping": (lambda i: _classifier(i, max_grad_norm=[None, 0.1, 0.5, 1.0, None][i]), y),
    "early stopping": (
        lambda i: _classifier(i, early_stopping=True, n_iter_no_change=1, max_iter=30), y
    ),
    "tolerance": (
        lambda i: _classifier(i, tol=TOLERANCES[i], n_iter_no_change=1, max_iter=12), y
    ),
    "in order": (lambda i: _classifier(i, shuffle=i % 2 == 0), y),
    "dropout": (lambda i: _classifier(i, dropout=0.1 + 0.1 * i), y),
    "batch normalisation": (lambda i: _classifier(i, normalization="batch"), y),
    "layer normalisation": (lambda i: _classifier(i, normalization="layer", activation="gelu"), y),
    "labels": (_classifier, Y),
    "two classes": (_classifier, y > 0),
    "class weights": (lambda i: _classifier(i, class_weight=[None, "balanced"][i % 2]), y),
    "smoothed": (lambda i: _classifier(i, label_smoothing=0.1), y),
    "regression": (lambda i: _regressor(i, activation="tanh"), y.astype(float)),
    "outputs": (lambda i: _regressor(i, loss="huber"), Y.astype(float)),
    "deviance": (lambda i: _regressor(i, loss="poisson"), y.astype(float)),
    "linear": (lambda i: _regressor(i, hidden_layer_sizes=()), y.astype(float)),
    "autoencoder": (_autoencoder, None),
    "bounded autoencoder": (lambda i: _autoencoder(i, output_activation="softplus"), None),
}  # fmt: skip


def _jobs(make, targets, data=X, folds=UNEVEN, weight=None):
    fit_params = [{} if weight is None else {"sample_weight": weight[rows]} for rows in folds]
    return [Job(make(i), data, targets, folds[i], fit_params[i]) for i in range(len(folds))]


def _fitted_alone(job):
    data = [part for part in job.take() if part is not None]
    return clone(job.estimator).fit(*data, **job.fit_params)


def _assert_same(actual, expected, rtol=1e-9, atol=1e-11):
    assert_allclose(actual.module_.flat, expected.module_.flat, rtol=rtol, atol=atol)
    buffers = dict(expected.module_.named_buffers())
    for name, buffer in actual.module_.named_buffers():
        assert_allclose(buffer, buffers[name], rtol=max(rtol, 1e-7), atol=max(atol, 1e-9))
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_"):
        if getattr(expected, name, None) is None:  # no epochs, or no validation set
            assert getattr(actual, name, None) is None
        else:
            assert_allclose(getattr(actual, name), getattr(expected, name), rtol=rtol, atol=atol)
    for name in ("n_iter_", "t_", "best_iter_", "n_features_in_", "out_activation_"):
        assert getattr(actual, name) == getattr(expected, name)


def _assert_fused_as_alone(jobs, **bounds):
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.reason
        _assert_same(job.estimator, alone, **bounds)


@pytest.mark.parametrize(
    "params",
    [{"normalization": "batch"}, {"dropout": 0.3}, {"noise": 0.2}, {"early_stopping": True}],
    ids=str,
)
def test_a_network_that_has_left_is_not_touched_by_the_epochs_to_come(params):
    make, targets = (_autoencoder, None) if "noise" in params else (_classifier, y)
    jobs = _jobs(
        lambda i: make(i, **params).set_params(max_iter=[1, 8, 8, 8, 8][i]), targets, folds=FOLDS
    )
    expected = [_fitted_alone(job) for job in jobs]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fit_jobs(jobs)
    assert torch.equal(torch.get_rng_state(), before), "drawn from the global generator"
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.reason
        _assert_same(job.estimator, alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("case", "folds"),
    [*((case, UNEVEN) for case in CASES), ("adam", FOLDS), ("batch normalisation", FOLDS)],
)
def test_each_network_comes_out_as_from_its_own_fit(case, folds):
    make, targets = CASES[case]
    jobs = _jobs(make, targets, folds=folds)
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.error is None
        assert job.fused, job.reason
        assert job.reason == ""
        assert job.seconds > 0
        # running statistics are sums of squares, which round elsewhere
        _assert_same(job.estimator, alone, rtol=1e-6 if "batch norm" in case else 1e-9)


@pytest.mark.parametrize(
    ("case", "n_folds"), [*((case, 2) for case in CASES), ("adam", 1), ("early stopping", 1)]
)
def test_networks_of_one_seed_and_fold_come_out_as_from_their_own_fits(case, n_folds):
    """Their rows, which come in one order, are gathered once."""
    make, targets = CASES[case]
    folds = [UNEVEN[i % n_folds] for i in range(N_JOBS)]
    jobs = _jobs(lambda i: make(i).set_params(random_state=7), targets, folds=folds)
    _assert_fused_as_alone(jobs, rtol=1e-6 if "batch norm" in case else 1e-9)


# Some stop alone, and some together.
EPOCHS = [2, 4, 4, 4, 3]


@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.parametrize(
    ("solver", "hidden"),
    [
        *product(["sgd", "adam", "muon"], [(1,), (1, 1), (3, 1)]),
        *product(["sgd", "adam"], [()]),  # Muon trains hidden layers
    ],
)
@pytest.mark.parametrize(("make", "targets"), [(_classifier, y > 0), (_regressor, y.astype(float))])
def test_matrices_of_one_row_or_one_column_are_trained_in_stacks(
    make, targets, solver, hidden, n_features
):
    params = {"hidden_layer_sizes": hidden, "solver": solver, "ema_decay": 0.9}
    jobs = _jobs(lambda i: make(i, max_iter=EPOCHS[i], **params), targets, X[:, :n_features])
    # Muon rounds in single precision or less
    _assert_fused_as_alone(jobs, **{"rtol": 0.02, "atol": 2e-3} if solver == "muon" else {})


@pytest.mark.parametrize("n_features", [1, 3])
def test_codes_of_one_number_are_trained_in_stacks(n_features):
    params = {**SHARED, "hidden_layer_sizes": ()}
    jobs = _jobs(
        lambda i: AutoencoderTransformer(1, random_state=i, **params | {"max_iter": EPOCHS[i]}),
        None,
        X[:, :n_features],
    )
    _assert_fused_as_alone(jobs)


@pytest.fixture
def shuffled(monkeypatch):
    """The number of rows of every shuffle by a generator of the trainings."""
    found, original = [], np.random.RandomState

    class Recording(original):
        def shuffle(self, rows):
            found.append(len(rows))
            super().shuffle(rows)

    monkeypatch.setattr(np.random, "RandomState", Recording)
    return found


def test_one_seed_shuffles_a_fold_once_an_epoch(shuffled):
    def jobs():
        return [
            Job(_classifier(i, max_iter=8, random_state=3), X, y, rows)
            for rows in FOLDS[:2]
            for i in range(4)
        ]

    fit_jobs(jobs())
    assert shuffled == 16 * [N_ROWS]
    shuffled.clear()
    fit_jobs([job for job in jobs() if not job.estimator.set_params(shuffle=False)])
    assert shuffled == []


def test_network_whose_company_has_stopped_goes_on_in_its_own_order():
    """Those of one seed leave the stack one by one; the last is trained by itself."""
    jobs = [
        Job(_classifier(i % N_JOBS, max_iter=1 + 2 * (i % 7), random_state=3), X, y, FOLDS[i // 7])
        for i in range(14)
    ]
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        _assert_same(job.estimator, alone)


def test_networks_that_draw_from_one_generator_shuffle_one_by_one(shuffled):
    """What each gets depends on who draws before."""
    generator = np.random.RandomState(3)
    fit_jobs([Job(_classifier(i, random_state=generator), X, y, FOLDS[0]) for i in range(N_JOBS)])
    assert len(shuffled) == N_JOBS * SHARED["max_iter"]


def test_generators_are_left_as_by_separate_fits():
    def jobs():
        generators = [np.random.RandomState(3) for _ in range(N_JOBS)]
        return [
            Job(_classifier(i, random_state=generators[i]), X, y, FOLDS[0]) for i in range(N_JOBS)
        ]

    together, in_turn = jobs(), jobs()
    fit_jobs(together)
    for job, other in zip(together, in_turn, strict=True):
        other.estimator.fit(*other.take())
        _assert_same(job.estimator, other.estimator)
        drawn = [one.estimator.random_state.randint(2**31) for one in (job, other)]
        assert drawn[0] == drawn[1]


def test_validation_sets_are_each_networks_own():
    jobs = _jobs(lambda i: _classifier(i, n_iter_no_change=1, max_iter=30), y)
    for i, job in enumerate(jobs):
        job.fit_params = {"X_val": X[i : i + 9], "y_val": y[i : i + 9]}
    jobs[0].fit_params["sample_weight_val"] = np.arange(9.0)
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.reason
        _assert_same(job.estimator, alone)


def test_what_fit_does_not_take_is_the_error_of_its_own_job():
    jobs = _jobs(_autoencoder, None)
    jobs[1].fit_params = {"X_val": X, "y_val": y}
    fit_jobs(jobs)
    assert jobs[1].reason == "fit was given y_val"
    assert re.search("unexpected keyword argument 'y_val'", str(jobs[1].error))


@pytest.mark.parametrize("case", ["adam", "labels", "regression", "autoencoder"])
def test_weighted_samples_count_as_in_a_fit_of_its_own(case):
    jobs = _jobs(*CASES[case], weight=WEIGHT)
    expected = [_fitted_alone(job) for job in jobs]
    unweighted = [_fitted_alone(job) for job in _jobs(*CASES[case])]
    fit_jobs(jobs)
    for job, alone, other in zip(jobs, expected, unweighted, strict=True):
        assert job.fused
        _assert_same(job.estimator, alone)
        assert not np.allclose(job.estimator.loss_curve_, other.loss_curve_)


@pytest.mark.parametrize("some", [True, False], ids=["some", "all"])
def test_networks_with_and_without_weights_are_one_stack(some):
    jobs = _jobs(_classifier, y)
    for job in jobs[:: 2 if some else 1]:
        job.fit_params = {"sample_weight": WEIGHT[job.rows]}
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused
        _assert_same(job.estimator, alone)


@pytest.mark.parametrize(
    "convert", [sp.csr_matrix, lambda rows: rows.astype(np.float32), np.asfortranarray]
)
def test_data_of_any_kind_are_those_of_a_fit_of_its_own(convert):
    jobs = _jobs(_classifier, y, data=convert(X))
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused
        assert job.estimator.module_.flat.dtype == alone.module_.flat.dtype
        _assert_same(job.estimator, alone, rtol=1e-3, atol=1e-6)


def test_gathering_batch_by_batch_changes_nothing(monkeypatch):
    monkeypatch.setattr("sknn_deep._engine.batches._GATHER_BYTES", {"cpu": 1})
    jobs = _jobs(*CASES["adam"])
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        _assert_same(job.estimator, alone)


def test_batch_that_lacks_a_row_in_some_folds_is_none_of_the_full_ones(monkeypatch):
    """Gathered one by one, full batches and the filled-up one have the same shape."""
    monkeypatch.setattr("sknn_deep._engine.batches._GATHER_BYTES", {"cpu": 1})
    jobs = _jobs(_classifier, y, folds=[rows[: 100 - i % 2] for i, rows in enumerate(FOLDS)])
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused
        _assert_same(job.estimator, alone)


@pytest.mark.parametrize("case", ["adam", "outputs", "autoencoder", "early stopping"])
def test_small_sets_are_gathered_by_one_call_and_large_ones_by_one_each(case, monkeypatch):
    gathered, original = [], Batches.fill

    def fill(self, rows, index, X, target):
        gathered.append(len(rows))
        original(self, rows, index, X, target)

    monkeypatch.setattr(Batches, "fill", fill)
    n_calls = []
    for n_bytes in (stack_rows._JOINED_BYTES, 0):
        monkeypatch.setattr(stack_rows, "_JOINED_BYTES", n_bytes)
        jobs = _jobs(*CASES[case])
        expected = [_fitted_alone(job) for job in jobs]
        gathered.clear()
        fit_jobs(jobs)
        n_calls.append(len(gathered))
        for job, alone in zip(jobs, expected, strict=True):
            assert job.fused, job.reason
            _assert_same(job.estimator, alone)
    assert n_calls[1] > 2 * n_calls[0]


def test_targets_count_to_the_size_of_a_set(monkeypatch):
    gathered, original = [], Batches.fill
    monkeypatch.setattr(
        Batches, "fill", lambda self, *rows: gathered.append(len(self)) or original(self, *rows)
    )
    jobs = _jobs(*CASES["outputs"], folds=FOLDS)
    monkeypatch.setattr(stack_rows, "_JOINED_BYTES", N_JOBS * X[FOLDS[0]].nbytes)
    fit_jobs(jobs)
    assert set(gathered) == {N_ROWS}


@pytest.mark.parametrize("case", ["adam", "two classes", "outputs", "autoencoder"])
def test_large_stack_on_several_threads_comes_out_the_same(case, monkeypatch, two_threads):
    """Its products are torch's then, not NumPy's."""
    jobs = _jobs(*CASES[case])
    expected = [_fitted_alone(job) for job in jobs]
    threads, bmm = set(), torch.bmm
    monkeypatch.setattr(
        torch, "bmm", lambda *args, **out: threads.add(torch.get_num_threads()) or bmm(*args, **out)
    )
    monkeypatch.setattr("sknn_deep._hardware.pace._WORK_OF_A_THREAD", 1)
    fit_jobs(jobs)
    assert 2 in threads
    assert torch.get_num_threads() == 2
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.reason
        _assert_same(job.estimator, alone)


@pytest.mark.parametrize("takes_one", [False, True], ids=["several", "one"])
@pytest.mark.parametrize("case", ["adam", "two classes", "outputs", "autoencoder"])
def test_stack_comes_out_the_same_however_many_threads_numpy_takes(takes_one, case, monkeypatch):
    """With one it computes larger products, and the norms of the weights."""
    jobs = _jobs(*CASES[case])
    expected = [_fitted_alone(job) for job in jobs]
    norms, vector_norm = [], torch.linalg.vector_norm
    monkeypatch.setattr(
        torch.linalg,
        "vector_norm",
        lambda *args, **options: norms.append("out" in options) or vector_norm(*args, **options),
    )
    for module in (products, stack):
        monkeypatch.setattr(module, "numpy_takes_one_thread", lambda: takes_one)
    monkeypatch.setattr(products, "_SMALL_PRODUCT", 0)  # torch's where NumPy takes several
    fit_jobs(jobs)
    assert any(norms) is not takes_one
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.reason
        _assert_same(job.estimator, alone)


def test_neighbours_with_the_same_rate_are_moved_by_one_call(monkeypatch):
    moved, original = [], Adam.kernel_for

    def kernel_for(self, flat, gradient, state):
        moved.append(len(flat))
        return original(self, flat, gradient, state)

    monkeypatch.setattr(Adam, "kernel_for", kernel_for)
    fit_jobs(_jobs(lambda i: _classifier(i, max_iter=1), y))
    assert sorted(moved) == [1, 2, 2]


# --------------------------------------------------------------------------------------
# what is left behind


def test_fitted_network_keeps_no_memory_of_the_stack():
    jobs = _jobs(_classifier, y)
    fit_jobs(jobs)
    for job in jobs:
        flat = job.estimator.module_.flat
        tensors = [flat, flat.grad, *job.estimator._optimizer.state[flat].values()]
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                assert tensor.untyped_storage().nbytes() == flat.numel() * flat.element_size()
        for layer in job.estimator.module_.linear_layers():
            assert layer.weight.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_training_goes_on_after_a_stack_as_after_a_fit_of_its_own(solver):
    jobs = _jobs(lambda i: _classifier(i, solver=solver), y)
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        again = pickle.loads(pickle.dumps(job.estimator))
        for estimator in (job.estimator, again, alone):
            estimator.partial_fit(X, y)
        _assert_same(job.estimator, alone)
        _assert_same(again, alone)


def test_threads_and_global_random_state_are_left_as_they_were(two_threads):
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    fit_jobs(_jobs(*CASES["dropout"]))
    assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.get_num_threads() == 2


# --------------------------------------------------------------------------------------
# what fails, and what is trained alone


def test_network_that_diverges_leaves_the_others_alone():
    jobs = _jobs(
        lambda i: _regressor(i, solver="sgd", learning_rate_init=1e6 if i == 2 else 1e-5),
        100.0 * y,
    )
    others = [job for i, job in enumerate(jobs) if i != 2]
    expected = [_fitted_alone(job) for job in others]
    fit_jobs(jobs)
    assert isinstance(jobs[2].error, ValueError)
    assert "non-finite parameter weights" in str(jobs[2].error)
    for job, alone in zip(others, expected, strict=True):
        assert job.error is None
        _assert_same(job.estimator, alone)


def test_gradient_too_long_to_be_measured_is_clipped_in_one_network_only():
    large = np.random.RandomState(0).uniform(size=len(X)) * 1e18
    jobs = _jobs(
        lambda i: _regressor(i, max_grad_norm=1.0 if i == 2 else None, max_iter=1),
        large,
        data=1e3 * X.astype(np.float32),
    )
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.error is None
        assert job.fused
        _assert_same(job.estimator, alone, rtol=1e-3, atol=1e-5)


def test_scoring_that_fails_is_the_error_of_its_own_job():
    def failing(estimator, rows, labels):
        raise ValueError("no score today")

    jobs = _jobs(
        lambda i: _classifier(i, early_stopping=True, scoring=failing if i == 1 else None), y
    )
    fit_jobs(jobs)
    assert [job.error is not None for job in jobs] == [False, True, False, False, False]
    assert "no score today" in str(jobs[1].error)
    # as a fit of its own leaves it
    assert jobs[1].estimator.module_.generator is None
    assert not jobs[1].estimator._progress.watching


def test_what_is_refused_before_the_first_epoch_is_the_error_of_its_own_job():
    jobs = _jobs(lambda i: _classifier(i, max_iter=-1 if i == 0 else 4), y)
    fit_jobs(jobs)
    assert re.search("max_iter.*Got -1", str(jobs[0].error))
    assert not jobs[0].fused
    assert jobs[0].reason
    assert all(job.fused and job.error is None for job in jobs[1:])


@pytest.mark.parametrize(
    "params",
    [{"max_iter": "a"}, {"hidden_layer_sizes": "a"}, {"dropout": "a"}, {"n_networks": "a"}],
    ids=lambda params: next(iter(params)),
)
def test_what_is_no_number_is_the_error_of_its_own_job(params):
    jobs = _jobs(lambda i: _classifier(i, **(params if i == 1 else {})), y)
    assert sum(len(group) for group in stacks(jobs, 2)) == len(jobs)
    fit_jobs(jobs)
    (name,) = params
    assert name in str(jobs[1].error)
    assert [job.error is None for job in jobs] == [True, False, True, True, True]
    assert bool(jobs[1].reason) != jobs[1].fused


@pytest.mark.usefixtures("small_layers_are_rounded")
def test_a_stack_is_rounded_as_each_network_is(monkeypatch):
    # the loss magnifies what a sum in another order rounds: three digits are left of eight
    jobs = _jobs(lambda i: _classifier(i, dtype="bfloat16", dropout=0.1), y)
    expected, exact = [_fitted_alone(job) for job in jobs], _jobs(_classifier, y)
    fit_jobs(jobs + exact)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.error or job.reason
        _assert_same(job.estimator, alone, rtol=1e-2, atol=1e-3)
    for one, other in zip(jobs, exact, strict=True):
        assert not torch.equal(one.estimator.module_.flat, other.estimator.module_.flat)


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["torch's", "single precision"])
def muon_in_double(request, monkeypatch):
    """Let torch's Muon, or that for CPUs without bfloat16, compute in double precision.

    In half precision the last digit of a sum is a hundredth, and depends on the product.
    """
    monkeypatch.setattr(muon, "step_dtype", lambda device: torch.float64)
    monkeypatch.setattr(solvers, "step_dtype", lambda device: request.param)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.double().clone())


def _muon(i, **params):
    return _regressor(
        i, solver="muon", adam_learning_rate_init=0.002 * (1 + i % 2), beta_1=[0.9, 0.8][i % 2],
        learning_rate="one_cycle", epsilon=1e-4, hidden_layer_sizes=(12, 5), **params,
    )  # fmt: skip


@pytest.mark.parametrize(
    "params",
    [
        {"numeric_embedding": "periodic", "embedding_weight_decay": 1.0, "weight_decay": 0.1},
        {"ema_decay": 0.9, "early_stopping": True, "dropout": 0.2},
        {"solver_params": {"nesterov": False, "ns_steps": 3, "adjust_lr_fn": "original"}},
    ],
    ids=str,
)
def test_muon_moves_a_stack_as_it_moves_each_network(params, muon_in_double):
    jobs = _jobs(lambda i: _muon(i, **params), y.astype(float))
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused, job.error or job.reason
        _assert_same(job.estimator, alone, rtol=1e-7, atol=1e-9)


def test_muon_goes_on_after_a_stack_as_after_a_fit_of_its_own(muon_in_double):
    jobs = _jobs(_muon, y.astype(float))[:3]
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        data = job.take()
        _assert_same(job.estimator.partial_fit(*data), alone.partial_fit(*data), 1e-7, 1e-9)


class Silent(Callback):
    """A callback that does nothing."""


class Subclass(DeepMLPClassifier):
    """A user's own estimator."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda i: _classifier(i, solver="lbfgs"), "solver='lbfgs'"),
        (lambda i: _classifier(i, solver="adamw"), "solver='adamw'"),
        (lambda i: _classifier(i, solver="muon", hidden_layer_sizes=()), "without hidden layers"),
        (lambda i: _classifier(i, callbacks=[Silent()]), "callbacks"),
        (lambda i: Subclass((5,), max_iter=2, random_state=i), "Subclass"),
    ],
    ids=["lbfgs", "adamw", "muon without hidden layers", "callbacks", "subclass"],
)
def test_what_stacks_do_not_know_is_fitted_alone_and_says_why(make, reason):
    jobs = _jobs(make, y)[:2]
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert not job.fused
        assert reason in job.reason
        _assert_same(job.estimator, alone)


@pytest.mark.parametrize(
    ("fit_params", "reason"),
    [
        ({"sample_weight": np.r_[0.0, np.ones(N_ROWS - 1)]}, "weights are all zero"),
    ],
    ids=["weight of zero"],
)
def test_what_fit_is_given_may_be_a_reason_to_train_alone(fit_params, reason):
    jobs = _jobs(_classifier, y, folds=FOLDS)
    jobs[1].fit_params = fit_params
    alone = _fitted_alone(jobs[1])
    fit_jobs(jobs)
    assert [job.fused for job in jobs] == [True, False, True, True, True]
    assert reason in jobs[1].reason
    _assert_same(jobs[1].estimator, alone)


def test_networks_of_other_shapes_are_other_stacks():
    jobs = _jobs(
        lambda i: _classifier(i, hidden_layer_sizes=[(9,), (5,), (9,), (5,), (4, 4)][i]), y
    )
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    assert [job.fused for job in jobs] == [True] * 4 + [False]
    for job, alone in zip(jobs, expected, strict=True):
        _assert_same(job.estimator, alone)


def test_folds_without_one_of_the_classes_are_other_stacks():
    folds = [np.flatnonzero(y < 2 + (i > 2))[:60] for i in range(N_JOBS)]
    jobs = _jobs(_classifier, y, folds=folds)
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert job.fused
        _assert_same(job.estimator, alone)


@pytest.fixture
def sizes(monkeypatch):
    """The number of networks of every stack that is made."""
    found, original = [], fused.Stack.__init__

    def init(self, trainings):
        found.append(len(trainings))
        original(self, trainings)

    monkeypatch.setattr(fused.Stack, "__init__", init)
    return found


def test_stack_takes_no_more_memory_than_allowed(sizes):
    jobs = [job for _ in range(4) for job in _jobs(lambda i: _classifier(i, max_iter=1), y)]
    fit_jobs(jobs, max_stack_memory=200_000)
    assert 4 <= max(sizes) < len(jobs)
    assert sum(sizes) <= len(jobs)
    sizes.clear()
    fit_jobs(_jobs(_classifier, y), max_stack_memory=1)
    assert sizes == []


def test_fold_that_fills_stacks_has_them_for_itself(sizes, monkeypatch):
    monkeypatch.setattr(fused, "stack_size", lambda *_: 5)
    fit_jobs([Job(_classifier(i % 4, max_iter=1), X, y, FOLDS[i % 3]) for i in range(24)])
    assert sizes == 6 * [4]
    sizes.clear()
    fit_jobs([Job(_classifier(i % 4, max_iter=1), X, y, FOLDS[i % 3]) for i in range(6)])
    assert sizes == 2 * [3]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [([3] * 6, [6]), ([3] * 3, []), ([None] * 6, [])],
    ids=["one seed", "few", "no seed"],
)
@pytest.mark.parametrize("params", [{}, {"solver": "muon"}], ids=["sgd", "muon"])
def test_large_networks_are_a_stack_where_they_share_rows(
    sizes, monkeypatch, seeds, expected, params
):
    def jobs(seeds):
        return [
            Job(_classifier(i % 4, random_state=seed, **params), X, y)
            for i, seed in enumerate(seeds)
        ]

    if params and seeds == [3] * 3:  # of Muon's networks fewer are enough
        expected = [3]

    monkeypatch.setattr(stack_size, "_CPU_BYTES", 1)
    fit_jobs(jobs(seeds))
    assert sizes == expected
    fit_jobs(jobs(seeds), max_stack_memory=1)
    assert sizes == expected


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "n_outputs"), [((9,), 300), ((300,), 1), ((), 300)], ids=str)
def test_buffers_of_a_stack_take_about_what_was_reckoned(hidden, n_outputs, monkeypatch):
    """Gathered by their few features, batches of many outputs would take much more."""
    monkeypatch.setattr("sknn_deep._engine.batches._GATHER_BYTES", {"cpu": 2**20})
    data = np.random.RandomState(0).normal(size=(3000, 1))
    targets = np.repeat(data, n_outputs, axis=1).squeeze()
    fits = [
        Fit(_regressor(i, hidden_layer_sizes=hidden), Call(data, targets)) for i in range(N_JOBS)
    ]
    for fit in fits:
        fit.prepare()
    trainings = [fit.training for fit in fits]
    reckoned = sum(stack_size._bytes_of(training) for training in trainings)
    before = _bytes_in_stacks()
    trained = stack.Stack(trainings)
    trained.train_epoch({k: training.begin_epoch() for k, training in enumerate(trainings)})
    used = _bytes_in_stacks() - before
    # rows, outputs and targets of several batches are gathered together, up to this each
    assert 0 < used < 2 * reckoned + 4 * 2**20


def _bytes_in_stacks():
    """Return the memory of all tensors that have a row or a matrix for each network."""
    gc.collect()
    sizes = {}
    for item in gc.get_objects():
        if type(item) is torch.Tensor and N_JOBS in item.shape[:-1]:
            storage = item.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


class Room:
    """A device on which a stack of more than two networks breaks down somewhere."""

    def __init__(self, monkeypatch, where):
        self.stacks, self.sizes = [], []
        self._original = getattr(fused.Stack, where)
        monkeypatch.setattr(fused.Stack, where, lambda *args: self._run(*args))

    def _run(self, stack, *args):
        # those before must be gone
        gc.collect()
        assert all(ref() is None or ref() is stack for ref in self.stacks)
        self.stacks.append(weakref.ref(stack))
        result = self._original(stack, *args)
        n_networks = len(args[0]) if isinstance(args[0], list) else len(stack._trainings)
        if n_networks not in self.sizes:
            self.sizes.append(n_networks)
        if n_networks > 2:
            raise torch.OutOfMemoryError("no room")
        return result


@pytest.mark.slow
@pytest.mark.parametrize(("where", "warm_start"), [("__init__", False), ("train_epoch", True)])
def test_stack_that_does_not_fit_the_device_is_freed_and_trained_in_halves(
    where, warm_start, monkeypatch
):
    states = [np.random.RandomState(i) for i in range(N_JOBS)]
    jobs = _jobs(
        lambda i: _classifier(i, warm_start=warm_start, random_state=states[i] if i > 2 else i), y
    )
    expected = [_fitted_alone(job) for job in jobs]
    room = Room(monkeypatch, where)
    with pytest.warns(UserWarning, match="A stack of 5 networks does not fit into the memory"):
        fit_jobs(jobs)
    assert room.sizes == [5, 2]
    for job, alone in zip(jobs, expected, strict=True):
        assert job.error is None
        _assert_same(job.estimator, alone)


def test_memory_that_is_short_before_the_first_epoch_makes_smaller_stacks(monkeypatch, sizes):
    original, begun = Fit.prepare, []

    def prepare(self):
        begun.append(self)
        if len(begun) == 4:
            raise torch.OutOfMemoryError("no room")
        return original(self)

    jobs = _jobs(_classifier, y)
    expected = [_fitted_alone(job) for job in jobs]
    monkeypatch.setattr(Fit, "prepare", prepare)
    fit_jobs(jobs)
    assert sizes == [3, 2]
    for job, alone in zip(jobs, expected, strict=True):
        assert job.error is None
        _assert_same(job.estimator, alone)


def test_memory_that_the_caller_lacks_is_the_callers_error():
    def short(job):
        raise torch.OutOfMemoryError("no room for the score")

    with pytest.raises(torch.OutOfMemoryError, match="for the score"):
        fit_jobs(_jobs(_classifier, y), done=short)


def test_stack_that_breaks_down_otherwise_leaves_its_networks_to_fits_of_their_own(monkeypatch):
    def broken(self, *args):
        raise RuntimeError("an unknown error of the device")

    monkeypatch.setattr(fused.Stack, "_take_steps", broken)
    jobs = _jobs(_classifier, y)
    expected = [_fitted_alone(job) for job in jobs]
    with pytest.warns(UserWarning, match="stack of 5 networks failed with RuntimeError.*unknown"):
        fit_jobs(jobs)
    for job, alone in zip(jobs, expected, strict=True):
        assert not job.fused
        assert job.reason.startswith("its stack failed: RuntimeError('an unknown error")
        _assert_same(job.estimator, alone)


# --------------------------------------------------------------------------------------
# the order of events, and the work of several processes


def test_every_job_is_done_once_and_as_soon_as_its_network_has_stopped():
    done = []
    jobs = _jobs(lambda i: _classifier(i, max_iter=[3, 1, 2, 1, 3][i]), y)
    fit_jobs(jobs, done=done.append)
    assert [job.estimator.n_iter_ for job in done] == [1, 1, 2, 3, 3]
    assert {id(job) for job in done} == {id(job) for job in jobs}


def test_error_of_the_caller_ends_the_training():
    def stop(job):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        fit_jobs(_jobs(_classifier, y), done=stop)


def test_a_warning_of_many_fits_is_given_once_with_their_number():
    with pytest.warns(ConvergenceWarning, match="Maximum iterations \\(2\\)") as seen:
        fit_jobs(_jobs(lambda i: _classifier(i, max_iter=2), y))
    (warning,) = seen
    assert str(warning.message).endswith(f"({N_JOBS} fits)")
    assert warning.filename == __file__


def _wide_and_narrow(widths=(5, 20)):
    return [
        Job(_classifier(0, hidden_layer_sizes=(width,)), X, y, rows)
        for width in widths
        for rows in FOLDS
    ]


@pytest.mark.parametrize("n_workers", [1, 2, 3, 50])
def test_short_jobs_are_divided_among_the_workers_without_loss(n_workers):
    jobs = _wide_and_narrow()
    groups = stacks(jobs, n_workers)
    assert sorted(id(job) for group in groups for job in group) == sorted(map(id, jobs))
    assert 0 < len(groups) <= n_workers
    assert all(groups)


def test_jobs_are_divided_by_their_multiply_adds():
    works = [
        sum(job.estimator.hidden_layer_sizes[0] for job in group)
        for group in stacks(_wide_and_narrow((20_000, 80_000)), 2)
    ]
    assert len(works) == 2
    assert max(works) < 1.5 * min(works)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_long_work_ends_in_small_groups(n_workers):
    """A worker that turns out slow, or whose networks stop late, is not waited for long."""
    jobs = [
        Job(_classifier(0, hidden_layer_sizes=(5_000_000,)), X, y, FOLDS[i % N_JOBS])
        for i in range(160)
    ]
    groups = stacks(jobs, n_workers)
    assert sorted(id(job) for group in groups for job in group) == sorted(map(id, jobs))
    sizes = [len(group) for group in groups]
    assert all(size <= before + 1 for before, size in pairwise(sizes))
    assert abs(sizes[0] - 80 / n_workers) <= 1
    assert sizes[-1] <= 10


def test_group_has_few_folds():
    jobs = [Job(_classifier(i % 3), X, y, FOLDS[i % N_JOBS]) for i in range(30)]
    assert [len({id(job.rows) for job in group}) for group in stacks(jobs, N_JOBS)] == 5 * [1]


def test_small_jobs_are_divided_by_their_number():
    first, second = stacks(_wide_and_narrow(), 2)
    assert abs(len(first) - len(second)) <= 1


def test_stack_is_made_anew_only_when_a_quarter_has_left(sizes):
    folds = [FOLDS[i % N_JOBS] for i in range(40)]
    jobs = [
        Job(_classifier(0, max_iter=1 + i, random_state=i), X, y, rows)
        for i, rows in enumerate(folds)
    ]
    expected = [_fitted_alone(job) for job in jobs[::13]]
    start = time.perf_counter()
    fit_jobs(jobs)
    seconds = time.perf_counter() - start
    assert sizes[0] == 40
    assert len(sizes) <= 13
    for job, alone in zip(jobs[::13], expected, strict=True):
        _assert_same(job.estimator, alone)
    # the times add up to what was spent
    assert 0.8 * seconds < sum(job.seconds for job in jobs) <= seconds


@pytest.mark.parametrize("kind", ["frame", "integers"])
def test_data_are_validated_once_for_all_networks_of_a_fold(kind, monkeypatch):
    data = pd.DataFrame(X).add_prefix("x") if kind == "frame" else (10 * X).astype(int)
    seen, original = [], DeepMLPClassifier._validate_training_data

    def validate(self, call, dtypes, **options):
        seen.append(call.X)
        return original(self, call, dtypes, **options)

    monkeypatch.setattr(DeepMLPClassifier, "_validate_training_data", validate)
    jobs = [job for fold in FOLDS[:2] for job in _jobs(_classifier, y, data, [fold] * N_JOBS)]
    expected = _fitted_alone(jobs[-1])
    seen.clear()
    fit_jobs(jobs)
    assert len(seen) == 2
    _assert_same(jobs[-1].estimator, expected)
    if kind == "frame":
        assert_array_equal(jobs[-1].estimator.feature_names_in_, data.columns)


def test_networks_that_differ_in_the_middle_of_a_long_parameter_share_no_data():
    bits, labels = np.random.RandomState(0).randint(0, 2, (20, 120)), np.arange(20) % 2
    first = pd.Index(np.arange(119))  # whose text is shortened
    jobs = [
        Job(_classifier(0, categorical_features=selection), bits, labels)
        for selection in (first, first.where(first != 60, 119))
    ]
    fit_jobs(jobs)
    assert [job.estimator.is_categorical_[[60, 119]].tolist() for job in jobs] == [
        [True, False],
        [False, True],
    ]


def test_small_data_are_validated_once_for_networks_of_all_shapes(monkeypatch):
    seen, original = [], DeepMLPClassifier._validate_training_data
    monkeypatch.setattr(
        DeepMLPClassifier,
        "_validate_training_data",
        lambda self, *data, **options: seen.append(self.dtype) or original(self, *data, **options),
    )

    def jobs():
        return [
            Job(_classifier(i, hidden_layer_sizes=(width,), dtype=dtype), X, y, FOLDS[0])
            for width in (4, 5)
            for dtype in ("float32", "float64")
            for i in range(3)
        ]

    fit_jobs(jobs())
    assert sorted(seen) == ["float32", "float64"]
    seen.clear()
    monkeypatch.setattr(fused, "_KEPT_BYTES", 0)
    fit_jobs(jobs())
    assert sorted(seen) == ["float32", "float32", "float64", "float64"]


def test_data_of_one_job_are_not_those_of_another_in_the_same_place_of_memory():
    """Where the first is done its data go, and the next may get their place."""
    expected = [clone(_classifier(0)).fit(X * scale, y).score(X * scale, y) for scale in (1, -3)]
    jobs = [
        Job(_classifier(0, hidden_layer_sizes=(9, width)), X * scale, y)
        for width, scale in ((5, 1), (6, 1), (5, -3), (6, -3))
    ]

    def forget(job):
        job.X = job.y = None

    fit_jobs(jobs, done=forget)
    assert [jobs[0].estimator.score(X, y), jobs[2].estimator.score(-3 * X, y)] == expected


def test_classes_of_no_weight_are_a_reason_to_train_alone():
    jobs = _jobs(
        lambda i: _classifier(i, class_weight={0: 0.0} if i == 1 else None, batch_size=2), y
    )
    expected = [_fitted_alone(job) for job in jobs]
    fit_jobs(jobs)
    assert [job.fused for job in jobs] == [True, False, True, True, True]
    assert "weights are all zero" in jobs[1].reason
    for job, alone in zip(jobs, expected, strict=True):
        _assert_same(job.estimator, alone)
