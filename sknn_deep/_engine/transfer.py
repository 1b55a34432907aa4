"""Rows on their way to an accelerator, copied while it computes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Transfer:
    """Copies rows to an accelerator while it works on the previous ones.

    Two pinned buffers on the host are filled in turn and copied on a separate stream into two on
    the device, each as soon as the work launched on that device buffer is done.
    """

    def __init__(self, buffer: Tensor):
        options: dict[str, Any] = {"dtype": buffer.dtype, "device": "cpu", "pin_memory": True}
        self._device, self._turn = buffer.device, 0
        self._on_host = [torch.empty(buffer.shape, **options) for _ in range(2)]
        self._on_device = [buffer, torch.empty_like(buffer)]
        self._copied = [torch.Event(self._device) for _ in range(2)]
        self._used = [torch.Event(self._device) for _ in range(2)]
        self._stream = torch.Stream(self._device)
        for own, used in zip(self._on_device, self._used, strict=True):
            # its memory may have belonged to a tensor that is still being read, and copies into
            # it may still be running when it is freed
            used.record(torch.accelerator.current_stream(self._device))
            own.record_stream(self._stream)

    def __call__(self, n_rows: int, fill: Callable[[Tensor], None]) -> Tensor:
        turn, self._turn = self._turn, 1 - self._turn
        staged, out = self._on_host[turn][:n_rows], self._on_device[turn][:n_rows]
        computing = torch.accelerator.current_stream(self._device)
        self._used[1 - turn].record(computing)  # all work on the other buffer is launched
        self._copied[turn].synchronize()
        fill(staged)
        with self._stream:
            self._stream.wait_event(self._used[turn])
            out.copy_(staged, non_blocking=True)
            self._copied[turn].record(self._stream)
        computing.wait_event(self._copied[turn])
        return out
