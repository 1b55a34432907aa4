"""Threads: when several are used, that they are given back, and forks and workers around them."""

import io
import multiprocessing
import os
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from conftest import KINDS, output
from numpy.testing import assert_allclose, assert_array_equal
from skorch.callbacks import Callback
from threadpoolctl import threadpool_limits

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._engine import in_parts
from sknn_deep._hardware import pace, threads
from sknn_deep._hardware.pace import Pace, busy_cores
from sknn_deep._hardware.threads import allowed_threads, one_thread
from sknn_deep._networks import layers

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0, "device": "cpu"}
# 200 rows a batch times 64 * 256 weights: a product that is worth several threads
LARGE = {**QUICK, "hidden_layer_sizes": (256, 64), "max_iter": 3}


@pytest.fixture(scope="module")
def digits(digits):
    """Offer as many images as make three batches of ``LARGE``."""
    return SimpleNamespace(X=digits.X[:600], y=digits.y[:600])


@pytest.fixture
def four_threads(torch_threads):
    torch_threads(4)


@pytest.fixture
def asked_for(monkeypatch):
    """Note every number of threads that torch is asked for."""
    numbers, set_num_threads = [], torch.set_num_threads
    monkeypatch.setattr(
        torch, "set_num_threads", lambda number: numbers.append(number) or set_num_threads(number)
    )
    return numbers


@pytest.fixture
def used(monkeypatch):
    """Note on how many threads torch computes products, which are all that are not small."""
    found = []

    def noted(multiply, left, right, **out):
        if left.shape[-2] > 1:  # else it is a sum of rows
            found.append(torch.get_num_threads())
        return multiply(left, right, **out)

    for name in ("mm", "bmm"):  # of one network and of a stack
        monkeypatch.setattr(torch, name, partial(noted, getattr(torch, name)))
    return found


# --------------------------------------------------------------------------------------
# the pace


@pytest.fixture
def machine(monkeypatch):
    """Offer two cores, clocks that stand until they are moved, and a number of busy neighbours."""
    machine = SimpleNamespace(now=100.0, used=10.0, n_busy=0)
    clocks = {"perf_counter": lambda: machine.now, "process_time": lambda: machine.used}
    monkeypatch.setattr(pace, "time", SimpleNamespace(**clocks))
    monkeypatch.setattr(pace, "busy_cores", lambda: machine.n_busy)
    monkeypatch.setattr(pace.os, "cpu_count", lambda: 2)
    return machine


ALONE, SHARED = 0.95, 0.75  # of the time of its cores a process gets
WORTH_IT, SMALL = ({"multiply_adds": work, "n_elements": 0} for work in (10**9, 10**4))


def _run(pace, machine, duration, seconds_of_a_step=5e-3, share=ALONE):
    """Take steps for a while, in blocks; return the shares of time on each number of threads."""
    spent, end, before = {}, machine.now + duration, torch.get_num_threads()
    while machine.now < end:
        with pace.steps(**WORTH_IT):
            for _ in range(30):
                n_threads = torch.get_num_threads()
                assert n_threads == pace.n_used
                seconds = seconds_of_a_step
                if not isinstance(seconds, float):
                    seconds = seconds[n_threads]
                spent[n_threads] = spent.get(n_threads, 0.0) + seconds / duration
                machine.now += seconds
                machine.used += seconds * (share * n_threads if n_threads > 1 else 1)
                pace.step_done()
    assert torch.get_num_threads() == before
    return spent


@pytest.mark.parametrize("step", [1e-3, 2e-2, 0.2])
def test_a_training_uses_the_cores_that_nobody_else_uses(step, machine):
    pace = Pace(2)
    assert _run(pace, machine, 20.0, step)[2] > 0.95
    machine.n_busy = 1
    beside = _run(pace, machine, 20.0, step, SHARED)
    assert beside.get(2, 0.0) < 0.02, "it was late to see the neighbour"
    machine.n_busy = 0
    assert _run(pace, machine, 20.0, step)[2] > 0.95


def test_a_training_that_begins_beside_a_neighbour_begins_on_one_thread(machine):
    machine.n_busy = 1
    assert set(_run(Pace(2), machine, 5.0)) == {1}


@pytest.mark.parametrize(("n_busy", "expected"), [(1, 7), (5, 3), (8, 1), (30, 1)])
def test_many_cores_are_shared_with_neighbours(n_busy, expected, machine, monkeypatch):
    monkeypatch.setattr(pace.os, "cpu_count", lambda: 8)
    machine.n_busy = n_busy
    assert _run(Pace(8), machine, 20.0)[expected] > 0.95


def test_threads_that_wait_for_unknown_reasons_are_seldom_tried(machine):
    """Such as those of a container that is given the time of one core."""
    assert _run(Pace(2), machine, 20.0, share=0.5)[1] > 0.85


def test_where_cores_do_not_show_who_uses_them_waiting_tells(machine):
    machine.n_busy = None
    assert _run(Pace(2), machine, 20.0)[2] > 0.95
    assert _run(Pace(2), machine, 20.0, share=SHARED)[1] > 0.85


def test_neighbours_are_counted_without_the_threads_of_this_process(monkeypatch):
    files = {
        "/proc/loadavg": b"2.82 2.12 1.60 4/168 27206\n",
        "/proc/self/task/1/stat": b"1 (python) R 1 1",
        "/proc/self/task/2/stat": b"2 (a) S (b) R 1 1",
        "/proc/self/task/3/stat": b"3 (pool) S 1 1",
    }

    def opened(path, mode):
        if path not in files:
            raise FileNotFoundError(path)
        return io.BytesIO(files[path])

    monkeypatch.setattr(pace, "open", opened, raising=False)
    monkeypatch.setattr(pace.os, "listdir", lambda path: ["1", "2", "3", "ended"])
    assert busy_cores() == 2
    del files["/proc/loadavg"]
    assert busy_cores() is None


@pytest.mark.parametrize("fastest", [1, 2, 4, 8])
def test_the_fastest_number_of_threads_is_found(fastest, machine, monkeypatch):
    """Such as one, where each core has a cache of its own."""
    monkeypatch.setattr(pace.os, "cpu_count", lambda: 8)
    seconds = {n: 5e-3 * max(n / fastest, fastest / n) for n in (1, 2, 4, 8)}
    assert _run(Pace(8), machine, 60.0, seconds)[fastest] > 0.9


def test_another_number_of_threads_is_found_once_it_is_the_fastest(machine):
    pace, seconds = Pace(2), {1: 1e-2, 2: 2e-2}
    assert _run(pace, machine, 30.0, seconds)[1] > 0.9
    assert _run(pace, machine, 60.0, {1: 2e-2, 2: 1e-2})[2] > 0.8


@pytest.mark.parametrize("fastest", [1, 2])
def test_fits_start_from_the_outcome_of_the_last_trial(fastest, machine):
    seconds = {1: 2e-3, 2: 1e-3} if fastest == 2 else {1: 1e-3, 2: 2e-3}
    first = _run(Pace(2), machine, 0.5, seconds)
    assert set(first) == {1, 2}
    assert set(_run(Pace(2), machine, 1.0, seconds)) == {fastest}
    machine.now += 10.0  # what was measured long ago may no longer hold
    assert set(_run(Pace(2), machine, 0.05, seconds)) == {2}, "too short to try it again"
    assert set(_run(Pace(2), machine, 0.5, seconds)) == {1, 2}


def test_outcomes_beside_others_and_of_slow_steps_are_not_kept_for_long(machine, monkeypatch):
    monkeypatch.setattr(pace.os, "cpu_count", lambda: 8)
    machine.n_busy = 4
    assert set(_run(Pace(8), machine, 1.0, {n: 1e-3 * n for n in (1, 2, 4, 8)})) == {1, 2, 4}
    assert not pace._outcomes
    machine.n_busy = 0
    _run(Pace(2), machine, 10.0, {1: 1.0, 2: 2.0})
    (outcome,) = pace._outcomes.values()
    assert outcome.next_trial <= machine.now + 8.0


def test_steps_of_another_size_have_trials_of_their_own(machine, monkeypatch):
    seconds = {1: 1e-3, 2: 2e-3}
    _run(Pace(2), machine, 0.5, seconds)
    monkeypatch.setitem(WORTH_IT, "multiply_adds", 10**8)
    assert set(_run(Pace(2), machine, 0.5, seconds)) == {1, 2}


def test_a_neighbour_who_comes_during_a_trial_does_not_decide_it(machine):
    pace = Pace(2)
    _run(pace, machine, 0.15, {1: 2e-3, 2: 1e-3})
    assert pace.n_used == 1  # the first trial
    machine.n_busy = 1
    _run(pace, machine, 5.0)
    machine.n_busy = 0
    assert _run(pace, machine, 10.0, {1: 2e-3, 2: 1e-3})[2] > 0.9


@pytest.mark.parametrize(("n_cores", "expected"), [(1, 1), (2, 1), (4, 3), (16, 4)])
def test_a_thread_that_reads_files_has_a_core_of_its_own(n_cores, expected, machine, monkeypatch):
    monkeypatch.setattr(pace.os, "cpu_count", lambda: n_cores)
    own = Pace(4)
    with own.steps(**WORTH_IT, n_beside=1):
        assert own.n_used == expected


def test_fits_side_by_side_in_one_process_share_the_cores(machine):
    """Each sees the processor's time of both."""
    inside, leave = threading.Event(), threading.Event()

    def fit():
        with one_thread():
            inside.set()
            leave.wait(timeout=30)

    other = threading.Thread(target=fit)
    other.start()
    inside.wait(timeout=30)
    beside_another = _run(Pace(2), machine, 5.0)
    leave.set()
    other.join()
    assert set(beside_another) == {1}
    assert _run(Pace(2), machine, 20.0)[2] > 0.95


def test_a_pause_does_not_count(machine):
    pace = Pace(2)
    for _ in range(5):
        assert _run(pace, machine, 2.0)[2] > 0.9
        machine.now += 30.0  # a callback, a validation set
        machine.used += 10.0


def test_one_thread_is_left_alone(machine):
    pace = Pace(1)
    assert set(_run(pace, machine, 5.0)) == {1}
    assert pace.threads_for(multiply_adds=10**12, n_elements=10**12) == 1


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ({"multiply_adds": 10**4, "n_elements": 10**4}, 1),
        ({"multiply_adds": 10**8, "n_elements": 10**4}, 4),
        ({"multiply_adds": 10**4, "n_elements": 10**8}, 4),
    ],
    ids=str,
)
def test_steps_take_several_threads_if_a_kernel_of_theirs_is_large(work, expected, two_threads):
    pace = Pace(4)
    with pace.steps(**work):
        assert torch.get_num_threads() == expected
        assert allowed_threads() == 2
    assert torch.get_num_threads() == 2


def test_steps_go_on_with_their_threads_after_a_block_on_one(two_threads):
    """Such as a prediction that a callback asks for."""
    with Pace(2).steps(**WORTH_IT):
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_clocks_stand_after_steps_that_were_broken_off(error, machine, two_threads):
    pace = Pace(2)
    _run(pace, machine, 0.05)
    with pytest.raises(error), pace.steps(**WORTH_IT):
        raise error
    assert torch.get_num_threads() == 2
    machine.now += 60.0  # else it would look as if others had computed
    assert _run(pace, machine, 20.0)[2] > 0.95


def test_products_of_an_unknown_library_are_not_taken_for_those_of_one_thread(monkeypatch):
    assert threads.numpy_takes_one_thread() is (threads.numpy_threads() == 1)
    monkeypatch.setattr(threads, "_numpys_libraries", list)
    assert threads.numpy_threads() is None
    assert not threads.numpy_takes_one_thread()


def test_on_an_accelerator_the_threads_of_the_cpu_are_left_alone(four_threads):
    assert Pace.of(torch.device("cuda")).n_threads == 1
    assert Pace.of(torch.device("cpu")).n_threads == 4


# --------------------------------------------------------------------------------------
# giving them back


def test_a_block_gives_back_what_it_found_and_the_outermost_what_was_before(four_threads):
    with one_thread():
        with one_thread():
            assert allowed_threads() == 4
        assert torch.get_num_threads() == 1
        assert allowed_threads() == 4
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_one_thread_gives_the_threads_back_after_an_error(error, four_threads):
    def fail():
        assert torch.get_num_threads() == 1
        torch.set_num_threads(3)  # as a large kernel has that fails
        raise error

    with pytest.raises(error), one_thread():
        fail()
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("work", "expected"), [(0, 1), (10**6, 1), (2 * 10**6, 2), (4 * 10**6, 5), (10**9, 64)]
)
def test_each_thread_is_to_have_something_to_do(work, expected):
    assert Pace(64).threads_for(multiply_adds=work) == expected
    assert Pace(2).threads_for(multiply_adds=work) == min(expected, 2)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit refused", "output"])
def test_estimators_give_the_threads_back(method, kind, digits, four_threads):
    network = kind(**QUICK)
    y = digits.y % 2
    if method == "fit refused":
        network.set_params(solver="sgd", learning_rate_init=1e300)
        with pytest.raises(ValueError, match="non-finite"):
            network.fit(1e3 * digits.X, y)
    elif method == "partial_fit" and kind is DeepMLPClassifier:
        network.partial_fit(digits.X, y, classes=[0, 1])
    elif method == "output":
        output(network.fit(digits.X, y), digits.X)
    else:
        getattr(network, method)(digits.X, y)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw", "lbfgs", torch.optim.SGD], ids=str)
def test_a_large_network_takes_several_threads_and_gives_them_back(
    solver, kind, digits, used, two_threads
):
    network = kind(**{**LARGE, "solver": solver}).fit(digits.X, digits.y)
    assert 2 in used, "several threads were never used"
    assert torch.get_num_threads() == 2
    output(network, digits.X)
    assert (torch.get_num_threads(), threads.numpy_threads()) == (2, 2)


def test_steps_take_one_thread_beside_a_neighbour(digits, used, monkeypatch, two_threads):
    monkeypatch.setattr(pace, "busy_cores", lambda: 1)
    monkeypatch.setattr(pace.os, "cpu_count", lambda: 2)
    # whether another number of threads changes a bit depends on the processor
    monkeypatch.setattr(pace, "_are_alike", lambda *args: True)
    DeepMLPClassifier(**LARGE).fit(digits.X, digits.y)
    assert set(used) == {1}


@pytest.mark.parametrize(
    ("n_rows", "shared"),
    [(5, []), (700, []), (1000, [(2, 2)]), (1797, [(4, 4)]), (5000, [(8, 4)])],
)
def test_shapes_decide_on_the_threads_of_predictions(
    n_rows, shared, digits, monkeypatch, four_threads, torch_predicts
):
    network, counts, found = DeepMLPClassifier(**LARGE).fit(digits.X, digits.y), set(), []
    linear, share_parts = layers.linear, in_parts.share_parts

    def counted(*args):
        counts.add(torch.get_num_threads())
        return linear(*args)

    def noted(function, store, *shape):
        found.append(shape)
        share_parts(function, store, *shape)

    monkeypatch.setattr(layers, "linear", counted)
    monkeypatch.setattr(in_parts, "share_parts", noted)
    network.predict_proba(np.resize(digits.X, (n_rows, digits.X.shape[1])))
    assert (found, counts) == (shared, {1})


def test_torchs_threads_share_the_rows_where_hooks_want_to_see_them(digits, four_threads):
    network, seen = DeepMLPClassifier(**LARGE).fit(digits.X, digits.y), []
    X = np.resize(digits.X, (3000, digits.X.shape[1]))
    expected = network.predict_proba(X)

    def watch(layer, inputs, output):
        seen.append((threading.current_thread(), torch.get_num_threads(), len(output)))

    network.module_.layers[0].register_forward_hook(watch)
    np.testing.assert_allclose(network.predict_proba(X), expected, rtol=1e-9)
    assert seen == [(threading.main_thread(), 4, 3000)]


@pytest.mark.parametrize("method", ["predict_proba", "hidden_activations", "score"])
def test_torchs_predictions_have_the_same_bits_on_any_number_of_threads(
    method, digits, torch_threads, torch_predicts
):
    network = DeepMLPClassifier(**LARGE).fit(digits.X, digits.y)
    X = np.resize(digits.X, (3000, digits.X.shape[1]))
    target = [np.resize(digits.y, 3000)] if method == "score" else []
    found = []
    for n_threads in (1, 2, 3):
        torch_threads(n_threads)
        found += [getattr(network, method)(X, *target) for _ in range(3)]
    for result in found[1:]:
        assert_array_equal(result, found[0])


def test_a_callback_that_predicts_leaves_the_threads_of_the_steps(digits, two_threads, monkeypatch):
    monkeypatch.setattr(pace, "_BETWEEN_LOOKS", np.inf)  # whatever else this machine does

    class Predict(Callback):
        def on_batch_end(self, net, **kwargs):
            net.forward(torch.from_numpy(digits.X[:5]))
            other.predict(digits.X[:5])
            found.add(torch.get_num_threads())

    other, found = DeepMLPClassifier(**QUICK).fit(digits.X, digits.y), set()
    DeepMLPClassifier(**LARGE, callbacks=[Predict()]).fit(digits.X, digits.y)
    assert found == {2}
    assert torch.get_num_threads() == 2


def test_a_medium_network_stays_on_one_thread(kind, digits, used, two_threads):
    kind(**{**QUICK, "hidden_layer_sizes": (100,)}).fit(digits.X, digits.y)
    assert set(used) == {1}


def test_a_kernel_that_fails_gives_the_threads_back(digits, monkeypatch, two_threads):
    def fail(*args, **options):
        assert torch.get_num_threads() == 2
        raise RuntimeError("this product fails")

    monkeypatch.setattr(torch, "mm", fail)
    with pytest.raises(RuntimeError, match="this product fails"):
        DeepMLPClassifier(**{**LARGE, "hidden_layer_sizes": (512,)}).fit(digits.X, digits.y)
    assert torch.get_num_threads() == 2


# --------------------------------------------------------------------------------------
# limits


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    ("user_api", "expected"),
    [(None, 1), ("blas", 2), ("openmp", 1)],
    ids=["all", "NumPy's", "torch's"],
)
def test_a_limit_of_threadpoolctl_is_never_exceeded(
    user_api, expected, solver, kind, digits, used, two_threads
):
    with threadpool_limits(1, user_api=user_api):
        limited = torch.get_num_threads(), threads.numpy_threads()
        network = kind(**{**LARGE, "solver": solver}).fit(digits.X, digits.y)
        output(network, digits.X)
        assert (torch.get_num_threads(), threads.numpy_threads()) == limited
    assert max(used) == expected
    assert (torch.get_num_threads(), threads.numpy_threads()) == (2, 2)


def test_a_limit_of_torch_holds_for_products(kind, digits, used, two_threads):
    torch.set_num_threads(1)
    kind(**LARGE).fit(digits.X, digits.y)
    assert set(used) == {1}


def test_an_idle_number_of_threads_above_the_limit_is_restored(digits, four_threads):
    with threadpool_limits(2):
        DeepMLPClassifier(**LARGE).fit(digits.X, digits.y)
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 4


# --------------------------------------------------------------------------------------
# the same numbers


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"solver": "sgd"}, {"normalization": "batch"}], ids=str)
def test_one_thread_and_two_agree_to_rounding(params, kind, digits, used, two_threads):
    on_two = kind(**{**LARGE, **params}).fit(digits.X, digits.y)
    assert 2 in used, "several threads were never used"
    torch.set_num_threads(1)
    on_one = kind(**{**LARGE, **params}).fit(digits.X, digits.y)
    torch.set_num_threads(2)
    assert_allclose(on_two.loss_curve_, on_one.loss_curve_, rtol=1e-8)
    assert_allclose(output(on_two, digits.X), output(on_one, digits.X), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_dropout_masks_do_not_depend_on_the_threads(n_threads, digits, two_threads):
    networks = []
    for number in (n_threads, 1):
        torch.set_num_threads(number)
        networks.append(DeepMLPClassifier(**LARGE, dropout=0.3).fit(digits.X, digits.y))
    assert_allclose(networks[0].loss_curve_, networks[1].loss_curve_, rtol=1e-8)


# --------------------------------------------------------------------------------------
# forks and workers


FORK = """
import os, sys
import numpy as np
import torch
from sknn_deep import DeepMLPClassifier

torch.set_num_threads(2)
X = np.random.RandomState(0).normal(size=(400, 64))
y = (X[:, 0] > 0).astype(int)
options = dict(max_iter=2, random_state=0, device="cpu")
networks = [DeepMLPClassifier((512, 64), solver=name, **options) for name in ("adam", "lbfgs")]

def fit_in_forks(moment):
    for network in networks:
        print("a fork after", moment, network.solver, flush=True)
        child = os.fork()
        if child == 0:
            probabilities = network.fit(X, y).predict_proba(X)
            os._exit(0 if np.isfinite(probabilities).all() else 1)
        assert os.waitpid(child, 0)[1] == 0, moment
        assert torch.get_num_threads() == 2

torch.mm(torch.ones(1000, 1000), torch.ones(1000, 1000))
fit_in_forks("a product of torch")
for network in networks:
    network.fit(X, y)
fit_in_forks("fits")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fits_in_forks_of_a_process_with_threads_finish():
    # a child that waits for threads that it has not inherited does so for ever
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], timeout=600, check=True)


def _fit_and_output(X, y, seed):
    """Return what a fit of a worker predicts, and its number of threads before and after."""
    # a new thread of Python is handed the 1 of a fit that another is in the midst of
    before = threads.allowed_threads()
    network = DeepMLPClassifier(**{**LARGE, "random_state": seed})
    return network.fit(X, y).predict_proba(X), before, torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:joblib")
@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_workers_of_joblib_learn_what_one_process_does(backend, digits, two_threads):
    sequential = [_fit_and_output(digits.X, digits.y, seed)[0] for seed in range(4)]
    parallel = joblib.Parallel(n_jobs=2, backend=backend)(
        joblib.delayed(_fit_and_output)(digits.X, digits.y, seed) for seed in range(4)
    )
    for (probabilities, before, after), expected in zip(parallel, sequential, strict=True):
        assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-8)
        assert after == before
    assert torch.get_num_threads() == 2


@pytest.mark.slow
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing")
@pytest.mark.usefixtures("fork_server")
def test_processes_of_every_kind_learn_what_this_one_does(method, digits, two_threads):
    torch.mm(torch.ones(1000, 1000), torch.ones(1000, 1000))
    expected, _, _ = _fit_and_output(digits.X, digits.y, 0)
    with multiprocessing.get_context(method).Pool(1) as pool:
        waiting = pool.apply_async(_fit_and_output, (digits.X, digits.y, 0))
        probabilities, before, after = waiting.get(timeout=120)
    assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-8)
    assert after == before


def test_threads_of_python_learn_side_by_side(digits, two_threads):
    expected = [_fit_and_output(digits.X, digits.y, seed)[0] for seed in range(2)]
    found, start = {}, threading.Barrier(2)

    def fit(seed):
        start.wait(timeout=60)
        found[seed] = _fit_and_output(digits.X, digits.y, seed)

    workers = [threading.Thread(target=fit, args=(seed,)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed in range(2):
        assert_allclose(found[seed][0], expected[seed], rtol=1e-6, atol=1e-8)
    assert (torch.get_num_threads(), threads.numpy_threads()) == (2, 2)


@pytest.fixture
def deterministic():
    """Ask torch for algorithms that give the same bits each time."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def capricious_load(monkeypatch):
    """Let a pace change its number of threads at random, as on a busy machine."""
    choose, chosen = np.random.RandomState(0).randint, []

    def step_done(pace):
        if pace.follows:
            pace._n_free = choose(1, 3)
            pace._set_threads()
            chosen.append(pace.n_used)

    monkeypatch.setattr(Pace, "step_done", step_done)
    return chosen


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_deterministic_algorithms_fix_the_number_of_threads(
    solver, kind, digits, used, two_threads, deterministic, capricious_load
):
    kind(**{**LARGE, "solver": solver}).fit(digits.X, digits.y)
    assert set(used) == {2}


@pytest.fixture
def lying_clock(monkeypatch):
    """Offer clocks that stand, jump and run backwards, as if others took the cores at random."""
    draw = np.random.RandomState(0).choice
    moments = [-1.0, 0.0, 1e-4, 0.5, 100.0]
    clocks = {"perf_counter": 0.0, "process_time": 0.0}

    def read(name):
        clocks[name] += draw(moments)
        return clocks[name]

    lies = {name: lambda name=name: read(name) for name in clocks}
    monkeypatch.setattr(pace, "time", SimpleNamespace(**lies))


METHODS = {
    "classifier": ("predict", "predict_proba", "predict_log_proba", "score"),
    "regressor": ("predict", "score"),
    "autoencoder": ("transform", "reconstruction_error", "score_samples", "score"),
}


@pytest.mark.parametrize(
    ("name", "method", "params"),
    [
        (name, method, params)
        for name, methods in METHODS.items()
        for method in methods
        for params in ({}, {"n_networks": 3})
        if name != "autoencoder" or not params
    ],
    ids=str,
)
def test_predictions_have_the_same_bits_whatever_the_clock(
    name, method, params, digits, two_threads, lying_clock
):
    y = digits.y / 7 if name == "regressor" else digits.y
    network = KINDS[name](**LARGE, **params).fit(digits.X, y)
    target = [y] if method == "score" and name != "autoencoder" else []
    results = [getattr(network, method)(digits.X, *target) for _ in range(5)]
    for result in results[1:]:
        assert_array_equal(result, results[0])


def test_a_lying_clock_changes_the_threads_of_a_training(digits, used, two_threads, lying_clock):
    """Else the test of predictions would show nothing."""
    DeepMLPClassifier(**{**LARGE, "max_iter": 20}).fit(digits.X, digits.y)
    assert set(used) == {1, 2}


@pytest.mark.parametrize("n_busy", [0, 4])
def test_a_callback_predicts_the_same_whatever_the_threads_of_the_steps(
    n_busy, digits, four_threads, monkeypatch, torch_predicts
):
    monkeypatch.setattr(pace, "busy_cores", lambda: n_busy)
    monkeypatch.setattr(
        in_parts, "threads_of_outputs", lambda work: found.append(allowed_threads()) or 1
    )
    found = []

    class Predict(Callback):
        def on_batch_end(self, net, **kwargs):
            other.predict(many)

    many = np.tile(digits.X, (2, 1))  # few are predicted without torch
    other = DeepMLPClassifier(**QUICK | {"hidden_layer_sizes": (100,)}).fit(digits.X, digits.y)
    medium = {**LARGE, "hidden_layer_sizes": (200,), "callbacks": [Predict()]}
    DeepMLPClassifier(**medium).fit(digits.X, digits.y)
    assert set(found) == {4}


def test_a_new_thread_of_python_is_allowed_what_was_before_the_steps_of_another(four_threads):
    found = []
    with Pace(4).steps(multiply_adds=1_600_000):
        assert torch.get_num_threads() == 2
        newcomer = threading.Thread(target=lambda: found.append(allowed_threads()))
        newcomer.start()
        newcomer.join()
    assert found == [4]


# Odd numbers of rows and units: torch rounds the last elements of each thread's share differently.
ODD = {**QUICK, "hidden_layer_sizes": (259, 131), "batch_size": 271, "max_iter": 2}
WITH_MUON = {"solver": "muon", "ema_decay": 0.9}
FITS = {
    "adam": {},
    "sgd": {"solver": "sgd", "max_grad_norm": 0.1},
    "lbfgs": {"solver": "lbfgs"},
    "muon": WITH_MUON,
    "a stack": {"n_networks": 2, "hidden_layer_sizes": (259,)},
    "a stack with muon": {"n_networks": 2, **WITH_MUON},
    "an optimiser of torch": {"solver": torch.optim.RMSprop},
    "batch normalisation": {"normalization": "batch", "dropout": 0.2},
    "layer normalisation": {"normalization": "layer"},
    "logistic units": {"activation": "logistic"},
    "gelu": {"activation": "gelu"},
}
OF_AUTOENCODERS = {
    "sparse": {"sparsity": 0.1},
    "log loss": {"loss": "log_loss"},
    "variational": {"variational": True},
}
CASES = [
    *((DeepMLPClassifier, name, params) for name, params in FITS.items()),
    (DeepMLPRegressor, "adam", {}),
    (DeepMLPRegressor, "a distribution", {"loss": "normal"}),
    *((AutoencoderTransformer, name, params) for name, params in OF_AUTOENCODERS.items()),
]


@pytest.mark.parametrize(
    ("estimator", "params"),
    [case[::2] for case in CASES],
    ids=[f"{case[0].__name__}, {case[1]}" for case in CASES],
)
def test_a_training_learns_the_same_bits_whatever_the_load(
    estimator, params, digits, used, two_threads, request
):
    def learned():
        fitted = estimator(**{**ODD, **params}).fit(digits.X, digits.y)
        networks = getattr(fitted, "estimators_", [fitted])
        curves = [getattr(network, "loss_curve_", network.loss_) for network in networks]
        states = [network.module_.state_dict().values() for network in networks]
        return curves, [value.numpy().copy() for state in states for value in state]

    curves, states = learned()
    expects_products = not params.get("variational")
    assert set(used) >= {2} or not expects_products
    numbers = request.getfixturevalue("capricious_load")
    curves_on_any, states_on_any = learned()
    # products that differ between the two keep theirs
    assert set(numbers) == {1, 2} or not expects_products
    assert curves == curves_on_any
    for before, after in zip(states, states_on_any, strict=True):
        assert_array_equal(before, after)


def test_a_kernel_that_adds_up_by_thread_keeps_its_threads(two_threads):
    """As the products of some libraries do."""
    used = []

    def add_up():
        used.append(torch.get_num_threads())

    def probe():
        return [torch.tensor(1.0 / torch.get_num_threads())]

    own = Pace(2)
    with own.steps(**WORTH_IT):
        large, small, alike, pinned = (
            own.checked(add_up, probe, "differs", 10**9),
            own.checked(add_up, probe, "differs", 10**3),
            own.checked(add_up, lambda: [torch.ones(1)], "alike", 10**9),
            own.pinned(add_up, 10),
        )
        for n_threads in (1, 2):
            own._n_free = n_threads
            own._set_threads()
            for kernel in (large, small, alike, pinned):
                kernel()
            assert torch.get_num_threads() == n_threads
    assert used == [2, 1, 1, 1, 2, 1, 2, 1]


def test_threads_come_back_to_all_that_fit_side_by_side(two_threads):
    inside, leave, counts = threading.Barrier(3), threading.Event(), []

    def enter():
        with one_thread():
            inside.wait(timeout=30)
            leave.wait(timeout=30)
        counts.append(torch.get_num_threads())

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    inside.wait(timeout=30)
    leave.set()
    for thread in threads:
        thread.join()
    newcomer = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    newcomer.start()
    newcomer.join()
    assert counts == [2, 2, 2]
