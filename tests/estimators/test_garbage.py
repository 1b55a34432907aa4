"""The collector of reference cycles: it waits within blocks, and then runs as before."""

import gc
from threading import Barrier, Thread

import pytest

from sknn_deep._estimators.garbage import collector_waits


@pytest.fixture(params=[True, False])
def is_enabled(request):
    before = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if before else gc.disable)()


def test_the_collector_waits_within_a_block_and_is_then_as_before(is_enabled):
    with collector_waits():
        with collector_waits():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() == is_enabled


def test_an_error_within_a_block_ends_the_wait(is_enabled):
    with pytest.raises(KeyError), collector_waits():
        {}["no such key"]
    assert gc.isenabled() == is_enabled


def test_blocks_of_two_threads_may_overlap(is_enabled):
    both_entered, first_left = Barrier(2), Barrier(2)
    seen = []

    def second():
        with collector_waits():
            both_entered.wait()
            first_left.wait()
            seen.append(gc.isenabled())

    thread = Thread(target=second)
    thread.start()
    with collector_waits():
        both_entered.wait()
    first_left.wait()
    thread.join()
    assert seen == [False]
    assert gc.isenabled() == is_enabled
