"""Tests that end a worker, whose return depends on the machine: they run when asked for.

``SKNN_DEEP_LOSE_WORKERS=1 pytest tests/dask`` runs them.
"""

import os

import pytest

loses_a_worker = pytest.mark.skipif(
    os.environ.get("SKNN_DEEP_LOSE_WORKERS") != "1",
    reason="ends a worker: set SKNN_DEEP_LOSE_WORKERS=1",
)
