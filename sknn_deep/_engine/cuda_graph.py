"""The steps of a chunk, recorded as one CUDA graph."""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sknn_deep._engine.backprop import Workspace
from sknn_deep._hardware.device import recording
from sknn_deep._networks.flat import Network
from sknn_deep._user_warnings import warn_user

Factors = list[tuple[float, ...]]
TakeSteps = Callable[[Workspace, Factors | Tensor], Tensor]


class StepGraphs:
    """The recorded training steps of one network or a stack: one graph per kind of chunk.

    If recording fails, because memory runs out or another thread synchronises the device
    meanwhile, a warning is issued and all later steps are launched one by one.

    Parameters
    ----------
    networks : sequence of Network
        Their random generators are replaced if recording fails.
    """

    def __init__(self, networks: Sequence[Network]):
        self._networks = networks
        self._graphs: dict[Hashable, StepGraph] = {}
        self._is_given_up = False

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """The stream for warm-up and recording, as CUDA cannot record its default stream."""
        return torch.cuda.Stream(self._networks[0].flat.device)

    @property
    def _generators(self) -> dict[int, torch.Generator]:
        """The generators of all networks, by their identity."""
        known = (network.generator for network in self._networks)
        return {id(generator): generator for generator in known if generator is not None}

    def take_steps(
        self, key: Hashable, work: Workspace, take_steps: TakeSteps, factors: Factors | Tensor
    ) -> Tensor:
        """Take the steps of a chunk.

        Parameters
        ----------
        key : hashable
            Everything that the steps depend on besides their factors.
        work : Workspace
        take_steps : callable
            Takes the steps, given ``work`` and the factors as they are or as a tensor.
        factors : list of tuple of float, or Tensor of shape (n_batches, ...)
            One entry per step.

        Returns
        -------
        squared_norms : Tensor of shape (n_batches,)
            The return value of ``take_steps``.
        """
        if self._is_given_up:
            return take_steps(work, factors)
        like = work.raws[0]
        table = factors
        if not isinstance(table, Tensor):
            table = torch.tensor(factors, dtype=like.dtype, device="cpu")
        if key not in self._graphs:
            generators, own = list(self._generators.values()), like.new_empty(table.shape)
            self._graphs[key] = StepGraph(work, own, generators, self._stream)
        graph = self._graphs[key]
        try:
            graph.prepare(take_steps)
        except Exception as error:
            self._give_up(error)
        else:
            return graph(take_steps, table)
        # outside the except block, which keeps the tensors of the failed attempt alive
        return take_steps(work, factors)

    def close(self) -> None:
        """Release the graphs and the memory that they hold."""
        self._graphs.clear()

    def _give_up(self, error: Exception) -> None:
        self._is_given_up = True
        self.close()
        # a generator registered with a failed graph can no longer be used to draw numbers
        fresh = {
            name: torch.Generator(generator.device).set_state(generator.get_state())
            for name, generator in self._generators.items()
        }
        for network in self._networks:
            if network.generator is not None:
                network.set_generator(fresh[id(network.generator)])
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        warn_user(
            f"A training step could not be recorded as a CUDA graph ({reason}). The training goes "
            "on with steps that are launched one by one: the result is the same, but takes longer."
        )


class StepGraph:
    """The steps of a chunk as one CUDA graph, launched by a single call from the host [1]_.

    The first time a chunk of a given length occurs, its steps run one by one, which initialises
    the libraries and the optimiser's state; the second time they are recorded. The recorded
    batches include the short last one of an epoch, so none needs padding.

    References
    ----------
    .. [1] A. Gray (2019). Getting started with CUDA graphs. NVIDIA developer blog.
    """

    def __init__(
        self,
        work: Workspace,
        table: Tensor,
        generators: list[torch.Generator],
        stream: torch.cuda.Stream,
    ):
        self._work, self._generators, self._stream = work, generators, stream
        self._table = table
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_ready = False

    def prepare(self, take_steps: TakeSteps) -> None:
        """Record the steps, unless they are recorded already or have never run."""
        if not self._is_ready or self._graph is not None:
            return
        graph, present = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            # calls from other Python threads meanwhile do not invalidate the recording
            with (
                recording,
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                self._squared_norms = take_steps(self._work, self._table)
        finally:
            torch.cuda.set_stream(present)  # torch does not restore it if recording fails
        self._graph = graph

    def __call__(self, take_steps: TakeSteps, factors: Tensor) -> Tensor:
        self._table.copy_(factors, non_blocking=True)
        if self._graph is None:
            return self._on_its_stream(take_steps)
        self._graph.replay()
        return self._squared_norms.clone()  # the next replay writes to the same place

    def _on_its_stream(self, take_steps: TakeSteps) -> Tensor:
        present = torch.cuda.current_stream()
        self._stream.wait_stream(present)
        try:
            with torch.cuda.stream(self._stream):
                squared_norms = take_steps(self._work, self._table)
        finally:
            # memory that an error frees may still be in use on that stream
            present.wait_stream(self._stream)
        self._is_ready = True
        return squared_norms
