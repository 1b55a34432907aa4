"""ONNX Runtime's time for 784-128-64-10 beside ours: ``python -m benchmarks.onnx``.

The same network in single precision, for one row, a hundred and ten thousand, beside scikit-learn's
``predict_proba``. "By hand" is a graph of only dense layers, ReLU and softmax, without labels: the
runtime's floor. Our floor is the network's three matrix products by NumPy, without biases and
activations. On one thread CPU time is measured, which other processes do not lengthen. Sizes are
those of the graph files.
"""

import time
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

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


def by_hand(coefs: list[np.ndarray], intercepts: list[np.ndarray]) -> onnx.ModelProto:
    """Return the smallest graph that computes a classifier's probabilities."""
    nodes, arrays, x = [], [], "X"
    for number, pair in enumerate(zip(coefs, intercepts, strict=True)):
        names = [f"coef{number}", f"intercept{number}"]
        arrays += map(numpy_helper.from_array, map(np.ascontiguousarray, pair), names)
        nodes.append(helper.make_node("Gemm", [x, *names], [f"sum{number}"]))
        if number < len(coefs) - 1:
            nodes.append(helper.make_node("Relu", [f"sum{number}"], [f"hidden{number}"]))
        x = f"hidden{number}"
    nodes.append(helper.make_node("Softmax", nodes[-1].output, ["probabilities"], axis=1))
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
        for name, width in (("X", len(coefs[0])), ("probabilities", len(intercepts[-1])))
    ]
    graph = helper.make_graph(nodes, "by hand", sides[:1], sides[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def main():
    """Time all contenders for every number of rows and print the ratios."""
    arguments = harness.parser(__doc__).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    data = WORK.data()
    ours = DeepMLPClassifier((128, 64), max_iter=1, device="cpu").fit(data.X, data.y)
    theirs = MLPClassifier((128, 64), max_iter=1).fit(data.X, data.y)
    graphs = {"converted": to_onnx(ours, data.X[:1])}
    graphs["by hand"] = by_hand(ours.coefs_, ours.intercepts_)
    runtime, smallest = (session(graph, arguments.threads) for graph in graphs.values())
    for graph in (runtime, smallest):
        (found,) = graph.run(["probabilities"], {"X": data.X_test[:100]})
        np.testing.assert_allclose(found, ours.predict_proba(data.X_test[:100]), atol=1e-6)

    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    rows, results = [], {}
    with harness.limited_threads(arguments.threads):
        for n_rows in ROWS:
            X = data.X_test[:n_rows]
            calls = {
                "sknn_deep": lambda X=X: ours.predict_proba(X),
                "scikit-learn": lambda X=X: theirs.predict_proba(X),
                "ONNX Runtime": lambda X=X: runtime.run(["probabilities"], {"X": X}),
                "by hand": lambda X=X: smallest.run(["probabilities"], {"X": X}),
                "products": lambda X=X: products(X, ours.coefs_),
            }
            runs = {name: harness.repeated(call, clock) for name, call in calls.items()}
            seconds = harness.alternate(runs, arguments.rounds)
            results[f"{n_rows}"] = seconds
            times = [harness.duration(seconds[name]) for name in seconds]
            ratio = harness.ratio(seconds, "sknn_deep", "ONNX Runtime")
            rows.append([f"{n_rows:,}", *times, ratio])
        harness.print_machine(onnxruntime=onnxruntime.__version__)
    header = ["rows", "ours", "scikit-learn", "ONNX Runtime", "by hand", "products alone"]
    harness.print_table([*header, "ours / ONNX Runtime"], rows)
    sizes = [[name, f"{len(graph.SerializeToString()):,}"] for name, graph in graphs.items()]
    harness.print_table(["graph", "bytes"], sizes)
    harness.save(arguments.json, results)


def products(X: np.ndarray, coefs: list[np.ndarray]) -> np.ndarray:
    """Return the product of rows with all matrices in turn."""
    for coef in coefs:
        X = X @ coef
    return X


if __name__ == "__main__":
    main()
