"""Parts that Python's threads share: all are computed, whoever is late, fails or is interrupted."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sknn_deep._hardware import shared_parts, threads
from sknn_deep._hardware.shared_parts import MOST_THREADS, share_parts
from sknn_deep._hardware.threads import allowed_threads

N_PARTS = 20


def _shared(function, n_threads, n_parts=N_PARTS):
    stored = []
    share_parts(function, lambda *stores: stored.append(stores), n_parts, n_threads)
    return stored


@pytest.mark.parametrize("n_threads", [1, 2, 5, N_PARTS + 5, MOST_THREADS + 5])
def test_every_part_is_stored_once(n_threads):
    for _ in range(20):
        assert sorted(_shared(lambda part: part**2, n_threads)) == [
            (part, part**2) for part in range(N_PARTS)
        ]


def test_threads_share_the_parts_and_each_has_one_of_torchs(two_threads):
    both_are_here, seen = threading.Barrier(2, timeout=60), set()

    def compute(part):
        if part < 2:
            both_are_here.wait()
        seen.add((threading.current_thread(), torch.get_num_threads(), allowed_threads()))

    assert len(_shared(compute, 2)) == N_PARTS
    assert len({thread for thread, *_ in seen}) == 2
    assert {(own, allowed) for _, own, allowed in seen} == {(1, 2)}
    assert torch.get_num_threads() == 2


def test_nobody_waits_for_a_thread_that_is_late():
    caller, is_late, may_go_on = threading.current_thread(), threading.Event(), threading.Event()
    own = []

    def compute(part):
        if threading.current_thread() is not caller:
            is_late.set()
            may_go_on.wait(timeout=60)
            return "late"
        if not own:
            is_late.wait(timeout=60)
        own.append(part)
        return "in time"

    stored = _shared(compute, 2)
    assert [value for _, value in stored] == ["in time"] * N_PARTS
    assert sorted(own) == list(range(N_PARTS))
    may_go_on.set()
    assert _shared(lambda part: part, 2)  # what comes late is not stored
    assert len(stored) == N_PARTS


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_what_fails_in_a_helper_is_computed_by_the_caller(error):
    caller, has_failed = threading.current_thread(), threading.Event()

    def compute(part):
        if threading.current_thread() is not caller:
            has_failed.set()
            raise error("a setting of the calling thread")
        has_failed.wait(timeout=60)
        return part

    assert sorted(_shared(compute, 3)) == [(part, part) for part in range(N_PARTS)]
    assert all(helper.is_alive() for helper in shared_parts._helpers)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_of_the_caller_ends_it_and_stores_nothing_more(n_threads, error, two_threads):
    caller, has_failed, stored = threading.current_thread(), threading.Event(), []

    def compute(part):
        if threading.current_thread() is caller:
            has_failed.set()
            raise error("no more")
        has_failed.wait(timeout=60)  # or the helpers might leave the caller none
        return part

    with pytest.raises(error, match="no more"):
        share_parts(compute, lambda *stores: stored.append(stores), N_PARTS, n_threads)
    n_stored = len(stored)
    _shared(lambda part: part, 3)  # the helpers are free
    assert len(stored) == n_stored
    assert torch.get_num_threads() == 2


def test_a_late_helper_goes_on_with_the_queue_that_it_began_with(monkeypatch):
    caller, has_begun, may_go_on = threading.current_thread(), threading.Event(), threading.Event()

    def compute(part):
        if threading.current_thread() is not caller:
            has_begun.set()
            may_go_on.wait(timeout=60)
        else:
            has_begun.wait(timeout=60)

    monkeypatch.setattr(shared_parts, "_helpers", [])
    monkeypatch.setattr(shared_parts, "_calls", SimpleQueue())
    _shared(compute, 2)
    [helper], calls = shared_parts._helpers, shared_parts._calls
    monkeypatch.undo()
    may_go_on.set()
    calls.put(None)
    helper.join(timeout=60)
    assert not helper.is_alive()


def test_where_no_thread_is_to_be_had_the_caller_computes_alone(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(shared_parts, "_helpers", [])
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert len(_shared(lambda part: part, 3)) == N_PARTS
    monkeypatch.undo()
    monkeypatch.setattr(shared_parts, "_calls", None)
    monkeypatch.setattr(threads, "_is_forked", True)
    assert len(_shared(lambda part: part, 3)) == N_PARTS


def test_helpers_change_no_number_of_threads_that_others_are_given(two_threads):
    def of_a_new_thread():
        found = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    for _ in range(20):
        _shared(lambda part: part, 3)
        time.sleep(0.001)  # a helper may wake after the call
        assert of_a_new_thread() == 2


def test_a_helper_that_has_not_begun_holds_none_of_the_data(monkeypatch):
    calls, data = [], np.zeros(5)
    reference = weakref.ref(data)
    monkeypatch.setattr(shared_parts, "_calls", SimpleNamespace(put=calls.append))
    share_parts(lambda part, data=data: data[part], lambda part, value: None, 5, 2)
    del data
    gc.collect()
    assert reference() is None
    calls[0]()  # and does nothing when it begins


def test_no_helper_is_waited_for_in_vain_at_the_end_after_an_interruption():
    code = """if True:
        import threading
        from sknn_deep._hardware.shared_parts import share_parts

        def interrupted(self):
            threading.Thread.start = start
            start(self)
            raise KeyboardInterrupt

        start, threading.Thread.start = threading.Thread.start, interrupted
        try:
            share_parts(lambda part: part, lambda part, value: None, 2, 2)
        except KeyboardInterrupt:
            share_parts(lambda part: part, lambda part, value: None, 2, 2)
            print("done")
    """
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split() == ["done"]


def test_an_interpreter_that_ends_waits_for_a_late_helper():
    code = """if True:
        import threading, time
        from sknn_deep._hardware.shared_parts import share_parts

        def compute(part):
            if threading.current_thread() is not threading.main_thread():
                has_begun.set()
                is_done.wait(60)
                time.sleep(0.5)
                print("late", flush=True)
            else:
                has_begun.wait(60)

        has_begun, is_done = threading.Event(), threading.Event()
        share_parts(compute, lambda part, value: None, 2, 2)
        print("done", flush=True)
        is_done.set()
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["done", "late"]
