"""The simulated CUDA device as torch sees it, and what tests ask it.

A CPU build of torch has all of ``torch.cuda`` but what lies behind it: the functions and classes
in C++ that :func:`install` puts there. Streams, events and memory go through torch's interface
to any accelerator, which the compiled library implements (``source/simulator.h``).

What it cannot show: kernels whose numbers differ from the CPU's, and how fast they are. Races
are found from who waits for whom, not from their effects.
"""

import ctypes
import functools
import itertools
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

N_DEVICES = 2


def install(library: Path) -> None:
    """Give torch, which must not be imported yet, its devices "cuda:0" and "cuda:1"."""
    if "torch" in sys.modules:
        raise RuntimeError("torch looks for devices as it is imported: simulate them before")
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import torch

    torch.ops.simulated_cuda.set_missing_kernels(missing_kernels())
    torch.ops.simulated_cuda.add_kernels(_own_kernels())
    _provide_functions(torch)
    _provide_classes(torch)
    torch.cuda.init()  # before that torch would ask the driver, and the environment, for devices


def missing_kernels() -> list[str]:
    """Return the operators that torch computes on a CPU and not on CUDA."""
    return [
        f"aten::{name}"
        for name, backends in _backends().items()
        if "CPU" in backends and not backends & {"CUDA", *_COMPOSED}
    ]


def _own_kernels() -> list[str]:
    """Return the operators for which CUDA has a kernel, and other devices call several."""
    return [
        name
        for name, backends in _backends().items()
        if "CUDA" in backends
        and backends & set(_COMPOSED)
        and ("CPU" in backends or name.startswith("_foreach"))
    ]


_COMPOSED = ("CompositeExplicitAutograd", "CompositeImplicitAutograd")


@functools.cache
def _backends() -> dict[str, set[str]]:
    """Return the kinds of kernels that torch has for each operator, from its own list."""
    import torchgen

    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = re.split(r"^- func: ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        entry[: entry.index("(")]: {
            key.strip()
            for keys in re.findall(r"^    ([\w, ]+): \w+", entry, flags=re.MULTILINE)
            for key in keys.split(",")
        }
        for entry in entries
    }


def _provide_functions(torch) -> None:
    """Put what torch.cuda calls of CUDA's own into torch._C, in terms of any accelerator's."""
    C, cuda = torch._C, torch.cuda

    def stream_data(stream):
        return stream.stream_id, stream.device_index, stream.device_type

    def set_stream(stream_id, device_index, device_type):
        C._accelerator_setStream(
            torch.Stream(stream_id=stream_id, device_index=device_index, device_type=device_type)
        )

    def is_capturing():
        return torch.accelerator.current_stream().is_capturing()

    functions = {
        "_cuda_init": lambda: None,
        "_cuda_getDeviceCount": lambda: N_DEVICES,
        "_cuda_getDevice": C._accelerator_getDeviceIndex,
        "_cuda_setDevice": C._accelerator_setDeviceIndex,
        "_cuda_exchangeDevice": C._accelerator_exchangeDevice,
        "_cuda_maybeExchangeDevice": C._accelerator_maybeExchangeDevice,
        "_cuda_getCurrentStream": lambda index: stream_data(C._accelerator_getStream(index)),
        "_cuda_getDefaultStream": lambda index: (
            0,
            index,
            int(C._accelerator_getStream(index).device_type),
        ),
        "_cuda_getCurrentRawStream": lambda index: C._accelerator_getStream(index).stream_id,
        "_cuda_setStream": set_stream,
        "_cuda_isCurrentStreamCapturing": is_capturing,
        "_cuda_synchronize": lambda: C._accelerator_synchronizeDevice(cuda.current_device()),
        "_cuda_emptyCache": C._accelerator_emptyCache,
        "_host_emptyCache": lambda: None,
        "_cuda_memoryStats": C._accelerator_getDeviceStats,
        "_cuda_resetPeakMemoryStats": C._accelerator_resetPeakStats,
    }
    for name, function in functions.items():
        setattr(C, name, function)
    cuda._exchange_device = C._cuda_exchangeDevice
    cuda._maybe_exchange_device = C._cuda_maybeExchangeDevice
    cuda.graphs._cuda_isCurrentStreamCapturing = is_capturing
    cuda._is_in_bad_fork = _forked_from(os.getpid(), cuda)
    cuda._cudart = SimpleNamespace(cudaMemGetInfo=torch.accelerator.get_memory_info)
    cuda.default_generators = tuple(torch.Generator(f"cuda:{i}") for i in range(N_DEVICES))
    cuda.get_device_properties = _properties
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.get_device_name = lambda device=None: "simulated"


def _forked_from(pid: int, cuda):
    """Return what tells whether this process was forked from one that had used a device."""
    used_before = []
    os.register_at_fork(before=lambda: used_before.append(cuda._initialized))
    return lambda: os.getpid() != pid and used_before[-1]


def _properties(device=None):
    return SimpleNamespace(
        name="simulated", major=9, minor=0, total_memory=80 << 30, multi_processor_count=132
    )


def _provide_classes(torch) -> None:
    """Replace the classes of torch.cuda that stand on those of a CUDA build."""
    ops = torch.ops.simulated_cuda
    numbers = itertools.count(1)

    class Stream(torch.Stream):
        def __new__(cls, device=None, priority=0, **kwargs):
            if "stream_id" in kwargs:
                return super().__new__(cls, **kwargs)
            index = torch.cuda._utils._get_device_index(device, optional=True)
            return super().__new__(cls, device=torch.device("cuda", index), priority=priority)

        cuda_stream = property(lambda self: self.stream_id)

    class Event(torch.Event):
        def __new__(cls, enable_timing=False, blocking=False, interprocess=False, external=False):
            return super().__new__(cls, device="cuda", enable_timing=enable_timing)

    class CUDAGraph:
        def __init__(self, keep_graph=False):
            self._number = next(numbers)

        def register_generator_state(self, generator):
            ops.register_generator(self._number, generator)

        def capture_begin(self, pool=None, capture_error_mode="global", check_input_liveness=False):
            ops.capture_begin(self._number, capture_error_mode)

        def capture_end(self):
            ops.capture_end(self._number)

        def replay(self):
            ops.replay(self._number)

        def reset(self):
            ops.drop(self._number)

        __del__ = reset

    for cls in (Stream, Event, CUDAGraph):
        setattr(torch.cuda, cls.__name__, cls)
    torch.cuda.graphs.CUDAGraph = CUDAGraph


# --------------------------------------------------------------------------------------
# what tests ask


class Tally(dict):
    """How often what happened, by name: operators, and those below.

    Attributes
    ----------
    kernels : int
        Kernels that were computed, those of replayed graphs included.
    recorded : int
        Kernels that were recorded in a graph.
    replays : int
        Graphs that were replayed.
    to_host, to_device : int
        Copies; one to the host waits for the device.
    waits : int
        How often the host waited for the device.
    """

    kernels = property(lambda self: self.get("kernels", 0))
    recorded = property(lambda self: self.get("recorded", 0))
    replays = property(lambda self: self.get("replay", 0))
    to_host = property(lambda self: self.get("copy: to the host", 0))
    to_device = property(lambda self: self.get("copy: to the device", 0))
    waits = property(lambda self: sum(n for name, n in self.items() if name.startswith("wait")))

    def calls(self, name: str) -> int:
        """Return how often an operator such as "mm.out" was called, not recorded nor replayed."""
        return self.get(f"aten::{name}", 0)


@contextmanager
def counted():
    """Offer a tally, filled as the block ends, of what the devices did in it."""
    import torch

    torch.ops.simulated_cuda.take_counts()
    tally = Tally()
    try:
        yield tally
    finally:
        tally.update(torch.ops.simulated_cuda.take_counts())


@contextmanager
def limited_memory(n_bytes: int, device: int = 0):
    """Let a device have so many bytes within the block."""
    import torch

    torch.ops.simulated_cuda.set_limit(device, n_bytes)
    try:
        yield
    finally:
        torch.ops.simulated_cuda.set_limit(device, -1)


@contextmanager
def without_kernels(*names: str):
    """Let the devices lack the kernels of operators such as "mm.out" within the block."""
    import torch

    lacking = [f"aten::{name}" for name in names]
    torch.ops.simulated_cuda.set_missing_kernels(missing_kernels() + lacking)
    try:
        yield
    finally:
        torch.ops.simulated_cuda.set_missing_kernels(missing_kernels())


def needed_bytes(device: int = 0) -> int:
    """Return how much memory the last allocation that failed would have needed in all."""
    import torch

    return torch.ops.simulated_cuda.needed_bytes(device)


def synchronize() -> None:
    """Let the host wait for all devices, and go back to the first and its default stream."""
    import torch

    for index in reversed(range(N_DEVICES)):
        torch.cuda.set_device(index)
        torch.cuda.set_stream(torch.cuda.default_stream())
        torch.cuda.synchronize()


def take_faults() -> list[str]:
    """Return what went wrong where nothing could be raised, and forget it."""
    import torch

    return torch.ops.simulated_cuda.take_faults()
