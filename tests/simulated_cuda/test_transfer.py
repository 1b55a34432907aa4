"""Rows that are copied to the device while it works are not touched at a wrong time."""

import gc

import pytest
import torch
from conftest import KINDS
from numpy.testing import assert_allclose

from sknn_deep._engine import batches
from sknn_deep._engine.transfer import Transfer
from tests.simulated_cuda.device import take_faults
from tests.simulated_cuda.pairs import HearsBatches, X, fit_both, target_of

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer. Maximum iterations")
N_ROWS = 4


def _bring(transfer, number):
    return transfer(N_ROWS, lambda staged: staged.fill_(number))


def test_rows_come_in_their_order_and_wait_until_those_before_are_read():
    transfer, sums = Transfer(torch.empty(N_ROWS, 3, device="cuda")), []
    for number in range(7):  # nobody waits for the sums
        sums.append(_bring(transfer, number).sum())
    assert_allclose(torch.stack(sums).cpu(), [12.0 * number for number in range(7)])


def test_rows_stay_while_the_next_are_brought():
    transfer = Transfer(torch.empty(N_ROWS, 3, device="cuda"))
    present = _bring(transfer, 0)
    for number in range(1, 7):
        before, present = present, _bring(transfer, number)
        assert_allclose(before.cpu(), number - 1)


def test_the_first_copy_waits_for_who_had_the_memory_before():
    freed = [torch.zeros(N_ROWS, 3, device="cuda").add_(1) for _ in range(2)]
    freed.clear()  # while the device may still be at them
    transfer = Transfer(torch.empty(N_ROWS, 3, device="cuda"))
    for number in range(2):
        _bring(transfer, number)


def test_memory_of_a_copy_that_was_interrupted_is_not_handed_on_while_it_is_written_to():
    transfer = Transfer(torch.empty(N_ROWS, 3, device="cuda"))

    class Interrupted:
        def synchronize(self):
            pass

        def record(self, stream):
            raise KeyboardInterrupt

    transfer._copied[0] = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        _bring(transfer, 0)
    del transfer
    gc.collect()
    for _ in range(2):
        torch.empty(N_ROWS, 3, device="cuda").zero_()


def test_rows_of_the_host_are_not_changed_while_they_are_copied():
    transfer = Transfer(torch.empty(N_ROWS, 3, device="cuda"))
    for number in range(5):
        _bring(transfer, number)
    torch.accelerator.synchronize()
    assert take_faults() == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_any_accelerator_is_streamed_to(kind, monkeypatch):
    """What is CUDA's own serves its graphs alone."""
    monkeypatch.setattr(batches, "_RESIDENT_SHARE", 0.0)
    monkeypatch.setitem(batches._GATHER_BYTES, "cuda", 1)

    def refuse(*args, **kwargs):
        raise AssertionError("this is CUDA's")

    for name in ("Stream", "Event", "stream", "current_stream", "mem_get_info", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    # a listener has all steps launched one by one
    networks = fit_both(kind, X, target_of(kind), callbacks=[HearsBatches()])
    assert_allclose(networks[1].loss_curve_, networks[0].loss_curve_, rtol=1e-6)
