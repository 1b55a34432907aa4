"""Threads: when several are used, that they are given back, and forks and workers around them."""

import io
import multiprocessing
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from skorch.callbacks import Callback
from threadpoolctl import threadpool_limits

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._hardware import pace, threads
from sknn_deep._hardware.pace import Pace, is_starved
from sknn_deep._hardware.threads import allowed_threads, one_thread

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer. Maximum iterations", "ignore:lbfgs failed to converge"
)

NETWORKS = {
    "classifier": DeepMLPClassifier,
    "regressor": DeepMLPRegressor,
    "autoencoder": AutoencoderTransformer,
}
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "random_state": 0, "device": "cpu"}
# 200 rows a batch times 64 * 256 weights: a product that is worth several threads
LARGE = {**QUICK, "hidden_layer_sizes": (256, 64), "max_iter": 3}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def kind(request):
    return request.param


def output(network, X):
    names = ("predict_proba", "transform", "predict")
    return getattr(network, next(name for name in names if hasattr(network, name)))(X)


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
    found, multiply = [], torch.mm

    def noted(left, right, *, out):
        if left.shape[0] > 1:  # else it is a sum of rows
            found.append(torch.get_num_threads())
        return multiply(left, right, out=out)

    monkeypatch.setattr(torch, "mm", noted)
    return found


# --------------------------------------------------------------------------------------
# the pace


@pytest.fixture
def clock(monkeypatch):
    """Offer clocks of time and of processor's time that stand until they are moved."""
    clock = SimpleNamespace(now=100.0, used=10.0)
    clocks = {"perf_counter": lambda: clock.now, "process_time": lambda: clock.used}
    monkeypatch.setattr(pace, "time", SimpleNamespace(**clocks))
    return clock


ALONE, SHARED = 0.95, 0.75  # of the time of its cores a process gets
WORTH_IT, SMALL = ({"multiply_adds": work, "n_elements": 0} for work in (10**9, 10**4))
N_WEIGHTS = 10**5


def _run(pace, clock, seconds_of_a_step, duration, share=SHARED, move=None):
    """Take steps for a while; return the shares of time on one thread and on several.

    Each moves the weights, within its time.
    """
    spent, end, before = {False: 0.0, True: 0.0}, clock.now + duration, torch.get_num_threads()
    with pace.steps(**WORTH_IT):
        if move is not None:
            move = pace.watched(move, torch.empty(N_WEIGHTS))
        while clock.now < end:
            seconds = seconds_of_a_step[pace.several]
            assert torch.get_num_threads() == (pace.n_threads if pace.several else 1)
            spent[pace.several] += seconds
            end_of_step = clock.now + seconds
            if move is not None:
                move()
            clock.now = end_of_step
            clock.used += seconds * (share * pace.n_threads if pace.several else 1)
            pace.step_done()
    assert torch.get_num_threads() == before
    return {several: spent[several] / duration for several in spent}


@pytest.mark.parametrize("step", [1e-4, 5e-3, 0.08])
@pytest.mark.parametrize("faster", [False, True], ids=["one thread", "several"])
def test_where_others_compute_the_faster_number_of_threads_is_kept(faster, step, clock):
    pace = Pace(2)
    seconds = {faster: step, not faster: 1.5 * step}
    first = _run(pace, clock, seconds, 0.9)
    assert first[not faster] > 0, "both are tried"
    assert pace.several is faster
    later = _run(pace, clock, seconds, 20.0)
    assert later[faster] > 0.8


@pytest.mark.parametrize("faster", [False, True], ids=["one thread", "several"])
@pytest.mark.parametrize(
    ("its_own", "the_others"), [(4e-3, 2e-3), (1e-3, 5e-4)], ids=["slower now", "faster elsewhere"]
)
def test_the_other_number_of_threads_is_tried_again_after_a_while(
    its_own, the_others, faster, clock
):
    pace = Pace(2)
    _run(pace, clock, {faster: 1e-3, not faster: 2e-3}, 5.0)
    assert pace.several is faster
    changed = {faster: its_own, not faster: the_others}
    _run(pace, clock, changed, 1.5)
    assert pace.several is not faster
    assert _run(pace, clock, changed, 20.0)[not faster] > 0.8


@pytest.mark.parametrize("step", [1e-4, 5e-3, 0.08])
def test_several_threads_are_not_tried_while_one_has_to_wait_for_a_core(step, clock, monkeypatch):
    monkeypatch.setattr(pace, "is_starved", lambda: True)
    starved, seconds = Pace(2), {True: step / 2, False: step}
    assert _run(starved, clock, seconds, 5.0)[True] == 0
    monkeypatch.setattr(pace, "is_starved", lambda: False)
    assert _run(starved, clock, seconds, 20.0, ALONE)[True] > 0.8


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ([(10**9, 10**6)], [False]),
        ([(10**9, 10**9)], [True]),
        # what was before does not count, and a moment tells nothing
        ([(10**9, 10**9), (2 * 10**9, 10**9), (2 * 10**9, 10**9 + 10**6)], [True, False, False]),
    ],
)
def test_a_thread_is_starved_that_waited_for_a_core_of_late(readings, expected, monkeypatch):
    texts = iter([f"{ran} {waited} 7\n".encode() for ran, waited in readings])
    monkeypatch.setattr(pace, "_waits", threading.local())
    monkeypatch.setattr(pace, "open", lambda *_: io.BytesIO(next(texts)), raising=False)
    assert [is_starved() for _ in readings] == expected


def test_where_nobody_counts_how_long_threads_wait_none_is_starved(monkeypatch):
    def missing(*_):
        raise FileNotFoundError

    monkeypatch.setattr(pace, "open", missing, raising=False)
    assert not is_starved()


@pytest.mark.parametrize("step", [1e-4, 5e-3, 0.08])
def test_a_process_that_is_alone_tries_nothing(step, clock):
    """What it learns is then the same each time, to the last bit."""
    assert _run(Pace(2), clock, {True: step, False: step / 2}, 20.0, ALONE)[False] == 0


def _move(clock, seconds_of_a_byte, n_threads=2):
    """Return what some threads take so long for to move weights, and some more to begin."""

    def move():
        clock.now += seconds_of_a_byte * 4 * N_WEIGHTS / n_threads + 5e-6

    return move


@pytest.mark.parametrize("faster", [False, True], ids=["one thread", "several"])
def test_where_cores_are_far_from_each_other_the_faster_number_of_threads_is_kept(faster, clock):
    pace, seconds = Pace(2), {faster: 2e-3, not faster: 3e-3}
    far, near = (_move(clock, seconds_of_a_byte) for seconds_of_a_byte in (1e-9, 2e-10))
    first = _run(pace, clock, seconds, 0.9, ALONE, far)
    assert first[not faster] > 0, "both are tried"
    assert _run(pace, clock, seconds, 20.0, ALONE, far)[faster] > 0.8
    _run(pace, clock, seconds, 1.5, ALONE, near)
    assert _run(pace, clock, seconds, 20.0, ALONE, near)[False] == 0


@pytest.mark.parametrize("n_threads", [2, 3, 16, 64])
def test_cores_that_share_a_cache_try_nothing(n_threads, clock):
    pace, seconds = Pace(n_threads), {True: 2e-3, False: 1e-3}
    # torch gives each thread 2**15 elements at least
    near = _move(clock, 2e-10, min(n_threads, N_WEIGHTS // 2**15))
    assert _run(pace, clock, seconds, 20.0, ALONE, near)[False] == 0


@pytest.mark.parametrize(
    ("pace", "work", "n_weights"),
    [
        (Pace(1), WORTH_IT, 10**5),
        (Pace(2), SMALL, 10**5),
        (Pace(2, is_fixed=True), WORTH_IT, 10**5),
        (Pace(2), WORTH_IT, 10**7),
    ],
    ids=["one thread", "small steps", "a fixed number", "more weights than a cache holds"],
)
def test_moves_that_tell_nothing_of_the_cores_are_not_watched(pace, work, n_weights):
    move = object()
    with pace.steps(**work):
        assert pace.watched(move, torch.empty(n_weights)) is move


def test_moves_that_are_watched_get_their_arguments():
    calls, pace = [], Pace(2)
    with pace.steps(**WORTH_IT):
        pace.watched(lambda *args: calls.append(args), torch.empty(10))(0.5)
    assert calls == [(0.5,)]


def test_several_threads_are_kept_once_the_process_is_alone_again(clock):
    pace, seconds = Pace(2), {True: 3e-3, False: 1e-3}
    assert _run(pace, clock, seconds, 5.0)[False] > 0.8
    seconds[True] = 5e-4
    _run(pace, clock, seconds, 1.5, ALONE)
    assert _run(pace, clock, seconds, 20.0, ALONE)[False] == 0


def test_preparing_the_first_step_does_not_look_like_others_that_compute(clock):
    pace = Pace(2)
    _run(pace, clock, {True: 0.5, False: 0.5}, 0.4, share=0.5)
    assert _run(pace, clock, {True: 1e-3, False: 1e-3}, 5.0, ALONE)[False] == 0


def test_fits_side_by_side_in_one_process_are_not_alone(clock):
    """Each sees the processor's time of both."""
    inside, leave = threading.Event(), threading.Event()

    def fit():
        with one_thread():
            inside.set()
            leave.wait(timeout=30)

    other = threading.Thread(target=fit)
    other.start()
    inside.wait(timeout=30)
    seconds = {True: 3e-3, False: 1e-3}
    beside_another = _run(Pace(2), clock, seconds, 5.0, ALONE)
    leave.set()
    other.join()
    alone = _run(Pace(2), clock, seconds, 5.0, ALONE)
    assert beside_another[False] > 0.8
    assert alone[False] == 0


@pytest.mark.parametrize("share", [ALONE, SHARED], ids=["alone", "with others"])
def test_a_pause_does_not_count(share, clock):
    pace = Pace(2)
    seconds = {False: 2e-3, True: 1e-3}
    _run(pace, clock, seconds, 0.9, share)
    for _ in range(5):
        clock.now += 30.0  # a callback, a validation set
        clock.used += 10.0
        shares = _run(pace, clock, seconds, 0.5, share)
        assert shares[True] > (0.7 if share == SHARED else 0.99)
        assert pace.several


def test_one_thread_is_left_alone(clock):
    pace = Pace(1)
    assert _run(pace, clock, {False: 1e-3}, 5.0) == {False: pytest.approx(1, abs=0.01), True: 0}
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
def test_clocks_stand_after_steps_that_were_broken_off(error, clock, two_threads):
    pace, seconds = Pace(2), {True: 1e-3, False: 2e-3}
    _run(pace, clock, seconds, 0.2, ALONE)
    with pytest.raises(error), pace.steps(**WORTH_IT):
        raise error
    assert torch.get_num_threads() == 2
    clock.now += 60.0  # else it would look as if others had computed
    assert _run(pace, clock, seconds, 5.0, ALONE)[False] == 0


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


def test_steps_take_one_thread_while_several_are_slower(digits, used, monkeypatch, two_threads):
    never = property(lambda self: False, lambda self, several: None)
    monkeypatch.setattr(Pace, "several", never, raising=False)
    DeepMLPClassifier(**LARGE).fit(digits.X, digits.y)
    assert set(used) == {1}


@pytest.mark.parametrize(("n_rows", "expected"), [(5, 1), (60, 2), (1797, 4)])
def test_shapes_decide_on_the_threads_of_predictions(
    n_rows, expected, digits, monkeypatch, four_threads, torch_predicts
):
    network, counts = DeepMLPClassifier(**LARGE).fit(digits.X, digits.y), set()
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda *args: counts.add(torch.get_num_threads()) or linear(*args),
    )
    network.predict_proba(np.resize(digits.X, (n_rows, digits.X.shape[1])))
    assert counts == {expected}


def test_a_callback_that_predicts_leaves_the_threads_of_the_steps(
    digits, used, two_threads, monkeypatch
):
    monkeypatch.setattr(pace, "_ALONE", 0.0)  # so that nothing is tried
    monkeypatch.setattr(pace, "_FAR", 1.0)

    class Predict(Callback):
        def on_batch_end(self, net, **kwargs):
            net.forward(torch.from_numpy(digits.X[:5]))
            other.predict(digits.X[:5])

    other = DeepMLPClassifier(**QUICK).fit(digits.X, digits.y)
    used.clear()
    DeepMLPClassifier(**LARGE, callbacks=[Predict()]).fit(digits.X, digits.y)
    assert set(used) == {2}
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
network = DeepMLPClassifier((512, 64), max_iter=2, random_state=0, device="cpu", solver={solver!r})
if {fits_first}:
    network.fit(X, y)
torch.mm(torch.ones(1000, 1000), torch.ones(1000, 1000))
child = os.fork()
if child == 0:
    probabilities = network.fit(X, y).predict_proba(X)
    os._exit(0 if np.isfinite(probabilities).all() else 1)
_, status = os.waitpid(child, 0)
assert torch.get_num_threads() == 2
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("fits_first", [False, True], ids=["torch first", "fit first"])
def test_a_fit_in_a_fork_of_a_process_with_threads_finishes(solver, fits_first):
    script = FORK.format(solver=solver, fits_first=fits_first)
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], timeout=120, check=True)


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
def capricious_clock(monkeypatch):
    """Let a pace change its number of threads at random, as a clock on a busy machine may."""
    choose = np.random.RandomState(0).randint

    def step_done(pace):
        if not pace._is_settled:
            pace.several = bool(choose(2))
            pace._set_threads()

    monkeypatch.setattr(Pace, "step_done", step_done)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_deterministic_algorithms_give_the_same_bits_whatever_the_clock(
    solver, kind, digits, used, two_threads, deterministic, capricious_clock
):
    networks = [kind(**{**LARGE, "solver": solver}).fit(digits.X, digits.y) for _ in range(2)]
    assert 2 in used, "several threads were never used"
    assert_array_equal(networks[0].module_.flat, networks[1].module_.flat)


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
    monkeypatch.setattr(pace, "_SETTLING", 0.0)


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
    network = NETWORKS[name](**LARGE, **params).fit(digits.X, y)
    target = [y] if method == "score" and name != "autoencoder" else []
    results = [getattr(network, method)(digits.X, *target) for _ in range(10)]
    for result in results[1:]:
        assert_array_equal(result, results[0])


def test_a_lying_clock_changes_the_threads_of_a_training(digits, used, two_threads, lying_clock):
    """Else the test of predictions would show nothing."""
    DeepMLPClassifier(**{**LARGE, "max_iter": 20}).fit(digits.X, digits.y)
    assert set(used) == {1, 2}


@pytest.mark.parametrize("several", [False, True])
def test_a_callback_predicts_the_same_whatever_the_threads_of_the_steps(
    several, digits, four_threads, monkeypatch
):
    always = property(lambda self: several, lambda self, value: None)
    monkeypatch.setattr(Pace, "several", always, raising=False)
    monkeypatch.setattr(Pace, "of_outputs", lambda device: found.append(allowed_threads()) or fixed)
    found, fixed = [], Pace(1, is_fixed=True)

    class Predict(Callback):
        def on_batch_end(self, net, **kwargs):
            other.predict(digits.X)

    other = DeepMLPClassifier(**QUICK).fit(digits.X, digits.y)
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


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_the_same_seed_gives_the_same_bits_where_no_other_process_computes(
    solver, kind, digits, used, two_threads, monkeypatch
):
    monkeypatch.setattr(pace, "_ALONE", 0.0)  # whatever else this machine does
    monkeypatch.setattr(pace, "_FAR", 1.0)  # and wherever its cores are
    networks = [kind(**{**LARGE, "solver": solver}).fit(digits.X, digits.y) for _ in range(2)]
    assert 2 in used, "several threads were never used"
    assert_array_equal(networks[0].module_.flat, networks[1].module_.flat)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_clock_changes_no_more_than_rounding(
    solver, kind, digits, used, two_threads, capricious_clock
):
    networks = [kind(**{**LARGE, "solver": solver}).fit(digits.X, digits.y) for _ in range(2)]
    assert set(used) == {1, 2}
    outputs = [output(network, digits.X) for network in networks]
    assert_allclose(*outputs, rtol=1e-6, atol=1e-8)


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
