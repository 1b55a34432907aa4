"""The steps of a chunk recorded as one CUDA graph."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from sknn_deep._engine.backprop import Workspace

# Takes the steps of a chunk by their factors; returns the squared norms of the weights before.
TakeSteps = Callable[[Workspace, Tensor], Tensor]

# CUDA records one graph at a time in a process.
_recording = threading.Lock()


class StepGraph:
    """The steps of a chunk as one CUDA graph, which a single call of the host starts [1]_.

    The first time that a chunk of a length comes, its steps run one by one, which readies
    the libraries and the optimiser's state; the second time they are recorded. The steps
    are of one epoch's batches, the short last one among them, so none needs padding.

    References
    ----------
    .. [1] A. Gray (2019). Getting started with CUDA graphs. NVIDIA developer blog.
    """

    def __init__(
        self, work: Workspace, generator: torch.Generator | None, stream: torch.cuda.Stream
    ):
        self._work, self._generator, self._stream = work, generator, stream
        self._table = work.raws[0].new_empty((len(work.programs), 3))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_first = True

    def __call__(
        self,
        take_steps: TakeSteps,
        factors: list[tuple[float, float, float]],
    ) -> Tensor:
        self._table.copy_(self._table.new_tensor(factors, device="cpu"), non_blocking=True)
        if self._is_first:
            self._is_first = False
            return self._on_its_stream(take_steps)
        if self._graph is None:
            self._graph = self._record(take_steps)
        self._graph.replay()
        return self._squared_norms.clone()  # the next replay writes to the same place

    def _on_its_stream(self, take_steps: TakeSteps) -> Tensor:
        present = torch.cuda.current_stream()
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            squared_norms = take_steps(self._work, self._table)
        present.wait_stream(self._stream)
        return squared_norms

    def _record(self, take_steps: TakeSteps) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        if self._generator is not None:
            graph.register_generator_state(self._generator)
        # what other threads of Python do in between does not count
        with (
            _recording,
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            self._squared_norms = take_steps(self._work, self._table)
        return graph
