"""Coverage-guided fuzzing of ``sknn_deep.load``: a valid estimator or a ValueError.

    python -m fuzzing.fuzz_load --runs 100000 --corpus DIR

The inputs are mutations of small saved estimators. Most are made where it matters: a value of the
schema or some bytes of an array are changed, and the archive's checksums set right again. Inputs
that reach new lines are kept in DIR and mutated further (Atheris, libFuzzer). An error other than
ValueError, more than a second of CPU time, more than 2 GB, and a loaded estimator that cannot
predict, go on training or be saved again are findings: the run stops and names a file with the
input. Needs ``pip install 'sknn_deep[fuzz]'``.
"""

import argparse
import contextlib
import copy
import io
import json
import random
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import atheris
import numpy as np
import pandas as pd
import skops.io

with atheris.instrument_imports(
    include=[
        "sknn_deep.persistence",
        "sknn_deep._files.archive",
        "sknn_deep._files.packing",
        "sknn_deep._estimators.pickling",
        "sknn_deep._estimators.fitted_state",
        "sknn_deep._engine.optimizer_state",
        "sknn_deep._training.progress",
    ]
):
    from sknn_deep import persistence

from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from torch.optim import AdamW

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep.model_selection import FusedRandomizedSearchCV

_VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 625, 2**31, 2**63, 10**400, 0.5, -0.5, "", "nan", "1e999",
    "adam", "softmax", "\ud800", "MLP", "Autoencoder", "DictNode", "ListNode", "ObjectNode",
    "NdArrayNode", "ConstructorFromReduceNode", "FunctionNode", "TypeNode", "builtins", "numpy",
    "void", "os", "system", [], [[]], {}, "[]", "{}", "-1", "0", "1e400", "9" * 400, "null",
]  # fmt: skip
_SEEDS: list[bytes] = []
_COUNTS = {"loaded": 0, "refused": 0}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="0 is another one each time")
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for name, content in seeds().items():
        _SEEDS.append(content)
        (options.corpus / name).write_bytes(content)
    argv = [
        sys.argv[0], f"-runs={options.runs}", f"-seed={options.seed}", "-max_len=262144",
        "-rss_limit_mb=2048", "-timeout=60", "-print_final_stats=1", "-reload=0", "-mutate_depth=1",
        f"-artifact_prefix={options.corpus}/", str(options.corpus),
    ]  # fmt: skip
    atheris.Setup(argv, check, custom_mutator=mutate)
    atheris.Fuzz()


def seeds() -> dict[str, bytes]:
    """Return small files of all kinds, by name."""
    rng = np.random.RandomState(0)
    X = rng.uniform(size=(12, 2))
    y = (X[:, 0] > 0.5).astype(int)
    small = {"hidden_layer_sizes": (2,), "max_iter": 2, "random_state": 0}
    auto = {**small, "n_components": 1}
    frozen = FrozenEstimator(AutoencoderTransformer(**auto).fit(X))
    estimators = {
        "unfitted": DeepMLPClassifier(class_weight={0: 1.0, "a": np.int64(2)}, device="cuda"),
        "classifier": DeepMLPClassifier(**small, dropout=0.5).fit(X, y),
        "strings": DeepMLPClassifier(
            **{**small, "random_state": np.random.RandomState(0)},
            early_stopping=True, validation_fraction=0.3, class_weight="balanced",
        ).fit(X, np.array(["a", "b", "c"])[np.arange(12) % 3]),
        "multilabel": DeepMLPClassifier(**small, solver="sgd").fit(X, np.column_stack([y, 1 - y])),
        "ensemble": DeepMLPClassifier(**small, n_networks=2, init_from=frozen).fit(X, y),
        "muon": DeepMLPRegressor(**small, solver="muon").fit(X, X),
        "adamw": DeepMLPRegressor(**small, solver=AdamW, normalization="batch").fit(X, y),
        "long": DeepMLPRegressor(
            **{**small, "max_iter": 20}, solver="nadam", n_iter_no_change=100
        ).fit(X, y),
        "names": AutoencoderTransformer(**auto).fit(pd.DataFrame(X, columns=["é", "b"])),
        "variational": AutoencoderTransformer(
            **auto, variational=True, noise=0.1, noise_kind="salt_pepper"
        ).fit(X),
        "tied": AutoencoderTransformer(**auto, tied_weights=True, allow_nan=True).partial_fit(X),
        "pipeline": make_pipeline(SimpleImputer(), DeepMLPClassifier(**small)).fit(X, y),
        "search": FusedRandomizedSearchCV(
            DeepMLPClassifier(**small), {"alpha": [0.1, 1]}, n_iter=1, cv=2, random_state=0
        ).fit(X, y),
    }  # fmt: skip
    return {name: skops.io.dumps(estimator) for name, estimator in estimators.items()}


def check(data: bytes) -> None:
    """Load one input; raise for anything but a valid estimator or a ValueError."""
    if sum(_COUNTS.values()) % 10_000 == 9_999:
        print(", ".join(f"{number} {what}" for what, number in _COUNTS.items()), flush=True)
    with tempfile.TemporaryDirectory(
        dir=Path("/dev/shm").exists() and "/dev/shm" or None
    ) as folder:
        path = Path(folder, "file")
        path.write_bytes(data)
        start = time.process_time()
        try:
            estimator = persistence.load(path)
        except ValueError:
            estimator = None
        seconds = time.process_time() - start
        assert seconds < 1, f"load took {seconds:.1f} s"
        _COUNTS["refused" if estimator is None else "loaded"] += 1
        if isinstance(estimator, persistence.BaseDeepNetwork):
            persistence.save(estimator, path)
            use(estimator)


def use(estimator) -> None:
    """Do with a loaded estimator what a valid one lets one do."""
    if not estimator.__sklearn_is_fitted__():
        return
    X = np.zeros((3, estimator.n_features_in_))
    vars(estimator).pop("feature_names_in_", None)
    getattr(estimator, "predict" if hasattr(estimator, "predict") else "transform")(X)
    y = np.zeros((3, getattr(estimator, "n_outputs_", 1)))
    if hasattr(estimator, "classes_"):
        y = np.zeros_like(y) if y.shape[1] > 1 else np.repeat(estimator.classes_[:1], 3)
    if estimator.solver == "lbfgs" or getattr(estimator, "class_weight", None) == "balanced":
        return
    with contextlib.suppress(TypeError, ValueError):  # of parameters that do not go together
        estimator.set_params(device="cpu", verbose=False, early_stopping=False)
        estimator.partial_fit(X, y)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a changed input, most often one whose checksums are right."""
    rng = random.Random(seed)
    if rng.random() < 0.5:  # most of what was mutated before is refused whatever else is changed
        data = rng.choice(_SEEDS)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        schema = json.loads(members["schema.json"])
    except Exception:  # it was changed before
        return atheris.Mutate(data, max_size)
    if rng.random() < 0.1:
        return atheris.Mutate(data, max_size)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        arrays = [name for name in members if name != "schema.json"]
        if arrays and rng.random() < 0.25:
            name = rng.choice(arrays)
            members[name] = with_other_bytes(members[name], rng)
        else:
            schema = changed(schema, rng)
    members["schema.json"] = json.dumps(schema).encode()
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return buffer.getvalue() if buffer.tell() <= max_size else data[:max_size]


def changed(value, rng: random.Random):
    """Return JSON with one part changed, removed, doubled or moved."""
    value = copy.deepcopy(value)
    places = list(walk(value)) if isinstance(value, dict | list) else []
    if not places:
        return rng.choice(_VALUES)
    container, key = rng.choice(places)
    action = rng.random()
    if action < 0.45:
        container[key] = rng.choice(_VALUES)
    elif action < 0.7:
        other, other_key = rng.choice(places)
        container[key] = copy.deepcopy(other[other_key])
    elif action < 0.85:
        del container[key]
    else:
        container[key] = [container[key]] * 2
    return value


def walk(value):
    """Yield every place in nested JSON as a container and a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield value, key
        if isinstance(part, dict | list):
            yield from walk(part)


def with_other_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of an array with some that say NaN, infinity, or anything."""
    position = rng.randrange(len(data)) // 8 * 8
    new = rng.choice(
        [b"\xff" * 8, b"\0\0\0\0\0\0\xf0\x7f", b"\0" * 8, rng.randbytes(8), b"\x01", b""]
    )
    cut = rng.choice([position, position, position, len(data)])
    return data[:position] + new + data[position + len(new) : cut if cut > position else None]


if __name__ == "__main__":
    main()
