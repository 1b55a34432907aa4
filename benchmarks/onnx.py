"""ONNX Runtime's time for 784-128-64-10 beside ours: ``python -m benchmarks.onnx``.

The same network in single precision, for one row, a hundred and ten thousand. The floor is the
network's three matrix products by NumPy alone, without biases and activations. On one thread the
processor's time is counted, which busy neighbours do not lengthen.
"""

import time
import warnings

import numpy as np
import onnxruntime
from sklearn.exceptions import ConvergenceWarning

from benchmarks import harness
from benchmarks.contenders import Work
from sknn_deep import DeepMLPClassifier, to_onnx

WORK = Work((784, 128, 64, 10), batch_size=200, epochs=1, n_samples=2000)
ROWS = (1, 100, 10_000)


def session(graph, threads: int) -> onnxruntime.InferenceSession:
    """Return a session on this many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def main():
    """Time both on every number of rows and print the ratios."""
    arguments = harness.parser(__doc__).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = WORK.data()
    ours = DeepMLPClassifier((128, 64), max_iter=1, device="cpu").fit(data.X, data.y)
    runtime = session(to_onnx(ours, data.X[:1]), arguments.threads)
    (found,) = runtime.run(["probabilities"], {"X": data.X_test[:100]})
    np.testing.assert_allclose(found, ours.predict_proba(data.X_test[:100]), atol=1e-6)

    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    rows, results = [], {}
    with harness.limited_threads(arguments.threads):
        for n_rows in ROWS:
            X = data.X_test[:n_rows]
            calls = {
                "sknn_deep": lambda X=X: ours.predict_proba(X),
                "ONNX Runtime": lambda X=X: runtime.run(["probabilities"], {"X": X}),
                "products": lambda X=X: products(X, ours.coefs_),
            }
            runs = {name: harness.repeated(call, clock) for name, call in calls.items()}
            seconds = harness.alternate(runs, arguments.rounds)
            results[f"{n_rows}"] = seconds
            times = [harness.duration(seconds[name]) for name in seconds]
            ratio = harness.ratio(seconds, "sknn_deep", "ONNX Runtime")
            rows.append([f"{n_rows:,}", *times, ratio])
        harness.print_machine(onnxruntime=onnxruntime.__version__)
    header = ["rows", "ours", "ONNX Runtime", "products alone", "ours / ONNX Runtime"]
    harness.print_table(header, rows)
    harness.save(arguments.json, results)


def products(X: np.ndarray, coefs: list[np.ndarray]) -> np.ndarray:
    """Return the product of rows with all matrices in turn."""
    for coef in coefs:
        X = X @ coef
    return X


if __name__ == "__main__":
    main()
