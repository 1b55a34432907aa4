"""What the tests of graphs share: sessions of ONNX Runtime, and a table."""

import numpy as np
import pandas as pd
import pytest

from sknn_deep import to_onnx

onnxruntime = pytest.importorskip("onnxruntime")

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-12}
FAST = {"max_iter": 5, "learning_rate_init": 0.02, "random_state": 0, "device": "cpu"}


def new_session(graph):
    """Return a session of ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feed(session, X):
    """Return X as the inputs of a session, as the how-to says."""
    inputs = session.get_inputs()
    types = {"float": np.float32, "double": np.float64, "int64": np.int64, "bool": np.bool_}
    if [one.name for one in inputs] == ["X"]:
        return {"X": np.asarray(X, types[inputs[0].type[7:-1]])}
    columns = {}
    for one, column in zip(inputs, X.columns, strict=True):
        assert one.name == column
        is_text = one.type == "tensor(string)"
        values = X[column].astype(object).fillna("" if is_text else np.nan).to_numpy()
        columns[column] = (
            values[:, None] if is_text else values[:, None].astype(types[one.type[7:-1]])
        )
    return columns


def run_graph(estimator, X, **options):
    """Return a graph's outputs, of X; those of no rows and of one are of the same shapes."""
    session = new_session(to_onnx(estimator, X[:2], **options))
    outputs = session.run(None, feed(session, X))
    # any number of rows
    for n_rows in (0, 1):
        few = session.run(None, feed(session, X[:n_rows]))
        assert [part.shape for part in few] == [(n_rows, *part.shape[1:]) for part in outputs]
    return outputs


def assert_close(actual, expected, largest=1.0):
    """Compare to 1e-6 or 1e-12, by the type, of the largest number that is computed with."""
    assert actual.dtype == expected.dtype
    scale = max(largest, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype.type] * scale)


def make_table(n_rows=120, seed=0):
    """Return a frame with columns of every kind."""
    rng = np.random.RandomState(seed)

    def with_gaps(values, gap):
        values = np.asarray(values, dtype=object)
        values[rng.rand(n_rows) < 0.2] = gap
        return values

    return pd.DataFrame(
        {
            "length (cm)": rng.normal(size=n_rows),
            "count": rng.randint(0, 5, n_rows),
            "is it": rng.rand(n_rows) > 0.5,
            "gap": with_gaps(rng.normal(size=n_rows) * 100, np.nan).astype(float),
            "single": rng.normal(size=n_rows).astype(np.float32),
            "kind": rng.choice(["a", "b", "c d"], n_rows),
            "many": [f"k{i}" for i in rng.randint(0, 12, n_rows)],
            "numbers": pd.Categorical(rng.choice([3, 7, 11], n_rows)),
            "parts": pd.Categorical(with_gaps(rng.choice([0.5, 2.0], n_rows), None)),
            "nullable": pd.array(with_gaps(rng.randint(0, 9, n_rows), None), dtype="Int64"),
            "text gap": pd.Series(with_gaps(rng.choice(["p", "q"], n_rows), None), dtype=object),
        }
    )
