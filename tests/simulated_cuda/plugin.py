"""A pytest plugin that simulates CUDA devices; see ``device.py``.

    python -m pytest -p tests.simulated_cuda.plugin tests/simulated_cuda tests/hardware

It must be named on the command line: the devices have to be there when torch is imported.
"""

import pytest

from tests.simulated_cuda import build, device

REASON_TO_SKIP = build.reason_to_skip()
if not REASON_TO_SKIP:
    device.install(build.library())


def pytest_collection_modifyitems(items):
    if REASON_TO_SKIP:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=REASON_TO_SKIP))


@pytest.fixture(autouse=True)
def _no_races():
    """Fail a test in which memory was used by two at a time; end all that it has begun."""
    yield
    if not REASON_TO_SKIP:
        device.synchronize()
        assert device.take_faults() == []


@pytest.fixture(autouse=True)
def _rounds_steps_of_muon(monkeypatch):
    """Let the CPU take Muon's steps in bfloat16, as the device does."""
    from sknn_deep._engine import muon

    monkeypatch.setattr(muon, "has_instructions", lambda: True)
