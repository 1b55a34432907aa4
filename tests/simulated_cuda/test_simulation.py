"""The simulated device itself: it computes as the CPU does, and refuses what a GPU would."""

import gc
import multiprocessing
import re
import threading

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tests.simulated_cuda.device import counted, limited_memory, needed_bytes, take_faults


def _on_device(*shape, device="cuda:0"):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)


# --------------------------------------------------------------------------------------
# devices, numbers and memory


def test_torch_finds_two_devices():
    assert torch.cuda.is_available()
    assert torch.cuda.device_count() == torch.accelerator.device_count() == 2
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert _on_device(1).device == torch.device("cuda:0")
    assert _on_device(1, device="cuda:1").device == torch.device("cuda:1")


def test_current_device_is_where_new_tensors_go():
    with torch.cuda.device(1):
        assert torch.cuda.current_device() == torch.accelerator.current_device_index() == 1
        assert torch.empty(1, device="cuda").device == torch.device("cuda:1")
    assert torch.empty(1, device="cuda").device == torch.device("cuda:0")


FUNCTIONS = {
    "product": lambda x: x @ x.mT,
    "out": lambda x: torch.mm(x, x.mT, out=x.new_empty(0)),
    "in place": lambda x: x.clone().mul_(2).add_(x, alpha=3),
    "view": lambda x: x.mT[1:].reshape(-1).view(-1, 3).unsqueeze(0).expand(2, -1, -1),
    "write through a view": lambda x: x.clone().unbind()[0].fill_(7.0),
    "several results": lambda x: x.sort(dim=1).values + x.max(dim=1, keepdim=True).values,
    "index": lambda x: x[torch.tensor([2, 0])],
    "mask": lambda x: x[x > 0.5],
    "type": lambda x: x.double().to(torch.int64),
    "same bytes": lambda x: x.view(torch.int32),
    "list": lambda x: torch.cat([x, x], dim=1),
    "number": lambda x: x * torch.tensor(2.0),
    "gradient": lambda x: torch.func.grad(lambda y: (y**3).sum())(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_are_those_of_the_cpu(name):
    x = _on_device(3, 4)
    result = FUNCTIONS[name](x)
    assert result.device == x.device
    assert_close(result.cpu(), FUNCTIONS[name](x.cpu()))


def test_new_memory_is_not_zero():
    assert torch.empty(3, device="cuda").isnan().all()


def test_memory_is_counted_and_given_back():
    gc.collect()
    before = torch.cuda.memory_allocated()
    x = torch.empty(1024, device="cuda")
    view = x[:10]
    assert torch.cuda.memory_allocated() == torch.accelerator.memory_allocated() == before + 4096
    free, total = torch.cuda.mem_get_info()
    assert total - free == before + 4096
    del x
    assert torch.cuda.memory_allocated() == before + 4096
    del view
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() >= before + 4096


def test_memory_runs_out():
    gc.collect()
    used = torch.cuda.memory_allocated()
    with limited_memory(used + 4096):
        x = torch.empty(1024, device="cuda")
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.empty(1, device="cuda")
        assert needed_bytes() == used + 4096 + 512
        del x
        torch.empty(1, device="cuda")


def test_transfers_and_waits_are_counted():
    with counted() as tally:
        x = torch.zeros(2, 2).to("cuda")
        y = torch.mm(x, x).add_(1)
    assert (tally.to_device, tally.to_host, tally.waits) == (1, 0, 1)
    assert tally.kernels == 2
    assert tally.calls("mm.out") == tally.calls("add.out") == 1
    with counted() as tally:
        y.sum().item()
        y.cpu()
        y.to("cpu", torch.float64)
    assert (tally.to_device, tally.to_host, tally.waits) == (0, 3, 3)


# --------------------------------------------------------------------------------------
# what a GPU refuses


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + torch.zeros(2),
        lambda x: torch.mm(x, torch.zeros(2, 2)),
        lambda x: torch.add(x, 1, out=torch.zeros(2, 2)),
        lambda x: torch.zeros(2, 2).add_(x),
        lambda x: torch.cat([x, torch.zeros(2, 2)]),
        lambda x: x + torch.zeros(2, device="cuda:1"),
    ],
)
def test_tensors_of_two_devices_are_refused(call):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        call(_on_device(2, 2))


def test_numpy_does_not_see_the_memory():
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        _on_device(2).numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        np.asarray(_on_device(2))


def test_generator_of_the_cpu_is_refused():
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
        torch.empty(2, device="cuda").normal_(generator=torch.Generator())


def test_kernel_that_cuda_lacks_is_refused():
    torch.histogram(torch.rand(3), 2)
    with pytest.raises(NotImplementedError, match=r"Could not run 'aten::histogram\.bin_ct'"):
        torch.histogram(_on_device(3), 2)


# --------------------------------------------------------------------------------------
# graphs


def _record(function, generators=(), mode="thread_local"):
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
        function()
    return graph


def test_a_recording_computes_nothing_and_each_replay_all():
    x, out = _on_device(3), torch.zeros(3, device="cuda")
    graph = _record(lambda: torch.mul(x, 2, out=out).add_(1))
    assert_close(out.cpu(), torch.zeros(3))
    for _ in range(2):
        x.add_(1)
        with counted() as tally:
            graph.replay()
        assert (tally.replays, tally.kernels, tally.calls("mul.out")) == (1, 2, 0)
        assert_close(out.cpu(), 2 * x.cpu() + 1)


def test_a_graph_repeats_the_numbers_of_the_host_at_its_recording():
    x, number = torch.zeros(2, device="cuda"), torch.tensor(1.0)
    graph = _record(lambda: x.add_(number))
    number.fill_(100.0)
    graph.replay()
    assert_close(x.cpu(), torch.ones(2))


def test_memory_that_was_allocated_in_a_recording_holds_nothing_before_a_replay():
    x, made = _on_device(2), []
    graph = _record(lambda: made.append(x * 2))
    assert made[0].isnan().all()
    graph.replay()
    assert_close(made[0].cpu(), 2 * x.cpu())


def test_pinned_memory_can_be_copied_in_a_recording():
    source, x = torch.ones(2).pin_memory(), torch.zeros(2, device="cuda")
    graph = _record(lambda: x.copy_(source, non_blocking=True))
    torch.cuda.synchronize()
    source.fill_(5.0)
    graph.replay()
    assert_close(x.cpu(), torch.full((2,), 5.0))


def test_replays_draw_on_from_a_registered_generator():
    x, generator = torch.empty(4, device="cuda"), torch.Generator("cuda").manual_seed(3)
    graph = _record(lambda: x.normal_(generator=generator), [generator])
    drawn = []
    for _ in range(2):
        graph.replay()
        drawn.append(x.cpu())
    generator.manual_seed(3)
    for expected in drawn:
        assert_close(x.normal_(generator=generator).cpu(), expected)
    assert not torch.equal(*drawn)


REFUSED = {
    "item()": lambda x, generator, event: x.sum().item(),
    "a copy to the host": lambda x, generator, event: x.cpu(),
    "a copy from pageable memory": lambda x, generator, event: x.copy_(
        torch.ones(3), non_blocking=True
    ),
    "aten::nonzero": lambda x, generator, event: x.nonzero(),
    "aten::_index_put_impl_ with a mask": lambda x, generator, event: x.index_put_(
        (x > 0,), x.new_ones(3)
    ),
    "synchronization of the device": lambda x, generator, event: torch.cuda.synchronize(),
    "synchronization with a stream": lambda x, generator, event: (
        torch.cuda.current_stream().synchronize()
    ),
    "a question about a stream": lambda x, generator, event: torch.cuda.current_stream().query(),
    "a new generator": lambda x, generator, event: torch.Generator("cuda"),
    "with a generator that the graph lacks": lambda x, generator, event: x.normal_(
        generator=generator
    ),
    "a generator's state": lambda x, generator, event: generator.get_state(),
    "a wait for an event from outside": lambda x, generator, event: event.wait(),
    "synchronization with an event": lambda x, generator, event: event.synchronize(),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_may_not_be_recorded_spoils_the_graph(what):
    x, generator, event = _on_device(3), torch.Generator("cuda"), torch.cuda.Event()
    event.record()
    before, errors = x.cpu(), []

    def record():
        x.mul_(2)
        try:
            REFUSED[what](x, generator, event)
        except RuntimeError as error:
            errors.append(str(error))

    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="operation failed due to a previous error"):
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            record()
    assert "operation not permitted when stream is capturing" in errors[0]
    assert what in errors[0]
    # as in torch, the caller has to give the stream back
    assert torch.cuda.current_stream() != torch.cuda.default_stream()
    torch.cuda.set_stream(torch.cuda.default_stream())
    assert_close(x.cpu(), before)
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        graph.replay()


def test_a_generator_of_a_spoilt_graph_cannot_draw():
    x, generator = torch.empty(3, device="cuda"), torch.Generator("cuda")
    with pytest.raises(RuntimeError, match="operation failed due to a previous error"):
        _record(lambda: pytest.raises(RuntimeError, x.cpu), [generator])
    torch.cuda.set_stream(torch.cuda.default_stream())
    with pytest.raises(RuntimeError, match="Offset increment outside graph capture"):
        x.normal_(generator=generator)
    torch.Generator("cuda").set_state(generator.get_state())


def test_default_stream_cannot_be_recorded():
    with pytest.raises(RuntimeError, match="must be captured on a non-default stream"):
        torch.cuda.CUDAGraph().capture_begin()


def test_error_of_the_program_leaves_no_recording_behind():
    x = torch.zeros(2, device="cuda")

    def fail():
        x.add_(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        _record(fail)
    assert not torch.cuda.is_current_stream_capturing()
    assert_close(x.add_(2).cpu(), torch.full((2,), 2.0))


def _in_another_thread(function):
    errors = []

    def run():
        try:
            function()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors


def test_other_threads_may_not_synchronize_the_device_during_a_recording():
    errors = []
    with pytest.raises(RuntimeError, match="operation failed due to a previous error"):
        _record(lambda: errors.extend(_in_another_thread(torch.cuda.synchronize)))
    assert "synchronization of the device" in str(errors[0])


@pytest.mark.parametrize(("mode", "n_errors"), [("thread_local", 0), ("global", 1)])
def test_mode_decides_whether_other_threads_may_read_results(mode, n_errors):
    x, y = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
    errors = []

    def record():
        x.add_(1)
        errors.extend(_in_another_thread(y.cpu))

    if n_errors:
        with pytest.raises(RuntimeError, match="operation failed due to a previous error"):
            _record(record, mode=mode)
    else:
        _record(record, mode=mode).replay()
    assert len(errors) == n_errors


def test_a_graph_does_not_keep_memory_from_outside_alive():
    outside, y = [torch.ones(2, device="cuda")], torch.zeros(2, device="cuda")
    graph = _record(lambda: y.add_(outside[0]))
    graph.replay()
    outside.clear()
    with pytest.raises(RuntimeError, match="whose memory has been freed"):
        graph.replay()


def test_memory_of_a_graph_is_given_back_with_it():
    gc.collect()  # what failed in other tests may hold some until then
    x = torch.ones(1000, device="cuda")
    before = torch.cuda.memory_allocated()
    graph = _record(lambda: (x + 1).mul_(2))
    assert torch.cuda.memory_allocated() > before
    del graph
    assert torch.cuda.memory_allocated() == before


# --------------------------------------------------------------------------------------
# streams


@pytest.fixture
def stream():
    return torch.cuda.Stream()


RACE = r"memory that stream -?\d+ may still be (reading|writing to)"


@pytest.mark.parametrize(
    "wait",
    [
        lambda stream: stream.wait_stream(torch.cuda.current_stream()),
        lambda stream: stream.wait_event(torch.cuda.current_stream().record_event()),
        lambda stream: torch.cuda.synchronize(),
        lambda stream: torch.cuda.current_stream().synchronize(),
        lambda stream: torch.zeros(1, device="cuda").cpu(),
    ],
    ids=["stream", "event", "device", "host", "copy"],
)
def test_a_stream_that_waits_may_go_on_with_the_results_of_another(wait, stream):
    x = torch.zeros(2, device="cuda").add_(1)
    with pytest.raises(RuntimeError, match=RACE), torch.cuda.stream(stream):
        x.add_(1)
    wait(stream)
    with torch.cuda.stream(stream):
        x.add_(1)
    torch.cuda.synchronize()


def test_two_streams_may_read_the_same_memory(stream):
    x = _on_device(3)
    x.sum()
    with torch.cuda.stream(stream):
        x.sum()
        with pytest.raises(RuntimeError, match=RACE):
            x.add_(1)


def test_an_event_that_was_never_recorded_makes_nobody_wait(stream):
    x = torch.zeros(2, device="cuda").add_(1)
    stream.wait_event(torch.cuda.Event())
    with pytest.raises(RuntimeError, match=RACE), torch.cuda.stream(stream):
        x.sum()


@pytest.mark.parametrize("is_recorded", [False, True])
def test_memory_that_another_stream_uses_is_freed_too_early_unless_that_is_said(
    is_recorded, stream
):
    x = _on_device(2)
    with torch.cuda.stream(stream):
        x.sum()
    if is_recorded:
        x.record_stream(stream)
    del x
    y = torch.empty(2, device="cuda")  # may lie where x lay
    if is_recorded:
        y.zero_()
    else:
        with pytest.raises(RuntimeError, match="call record_stream before the memory is freed"):
            y.zero_()


def test_new_memory_may_be_in_use_by_its_own_stream(stream):
    torch.zeros(2, device="cuda").add_(1)
    x = torch.empty(2, device="cuda")
    with torch.cuda.stream(stream):
        with pytest.raises(RuntimeError, match=RACE):
            x.zero_()
        stream.wait_stream(torch.cuda.default_stream())
        x.zero_()


@pytest.mark.parametrize("waits", [False, True])
def test_pinned_memory_may_not_change_while_it_is_copied(waits):
    source, x = torch.ones(2).pin_memory(), torch.empty(2, device="cuda")
    x.copy_(source, non_blocking=True)
    copied = torch.cuda.current_stream().record_event()
    if waits:
        copied.synchronize()
    source.fill_(2.0)
    copied.synchronize()
    faults = take_faults()
    assert len(faults) == (not waits)
    assert all("pinned memory was written to" in fault for fault in faults)


# --------------------------------------------------------------------------------------
# forks


def _fails_with():
    try:
        torch.cuda.init()
    except RuntimeError as error:
        return str(error)


def test_a_forked_process_has_no_device():
    torch.cuda.init()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        message = pool.apply(_fails_with)
    assert re.match("Cannot re-initialize CUDA in forked subprocess", message)
