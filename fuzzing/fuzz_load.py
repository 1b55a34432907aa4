"""Coverage-guided fuzzing of ``sknn_deep.load``: a valid estimator or a ValueError.

    python -m fuzzing.fuzz_load --runs 100000 --corpus DIR

The inputs are mutations of small saved estimators. Most are made where it matters: a value of
the JSON document, a field of the header, some bytes of a tensor or a node in skops' tree is
changed, and the checksum set right again. Inputs that reach new lines are kept in DIR and
mutated further (Atheris, libFuzzer). An error other than ValueError, more than a second of CPU
time, more than 2 GB, and a loaded estimator that cannot predict or be saved again are findings:
the run stops and names a file with the input. Needs ``pip install 'sknn_deep[fuzz,skops]'``.
"""

import argparse
import hashlib
import io
import json
import random
import sys
import time
import warnings
import zipfile
from pathlib import Path

import atheris
import numpy as np
import pandas as pd

with atheris.instrument_imports(
    include=[
        "sknn_deep.persistence",
        "sknn_deep._files.container",
        "sknn_deep._files.state",
        "sknn_deep._files.values",
        "sknn_deep._files.skops_parts",
    ]
):
    from sknn_deep import persistence

from scipy.stats import loguniform
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.optim import AdamW

from sknn_deep import AutoencoderTransformer, DeepMLPClassifier, DeepMLPRegressor
from sknn_deep._files import container

_LENGTH = 8
_NO_SUM = b"0" * 64
_VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 624, 625, 2**31, 2**63, 2**64, 10**400, 0.5, -0.5, 1e308,
    "", "nan", "inf", "adam", "softmax", "logistic", "../../etc/passwd", "\ud800", "MLP",
    "<U1000000", "<U500000", "Autoencoder", "DeepMLPClassifier", "os.system", [], [[]], [1, 2],
    [2**40] * 4, {}, {"tuple": []}, {"tuple": [3, 2, 1]}, {"tuple": [10**9, 10**9]}, {"dict": []},
    {"float": "nan"}, {"estimator": 0}, {"frozen": 0}, {"optimizer": "SGD"}, {"device": "cuda:7"},
    {"dtype": "float64"}, {"text": "x"},
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
    for name, content in seeds().items():
        _SEEDS.append(content)
        (options.corpus / name).write_bytes(content)
    warnings.simplefilter("ignore")
    argv = [
        sys.argv[0], f"-runs={options.runs}", f"-seed={options.seed}", "-max_len=131072",
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
    auto = AutoencoderTransformer(**small, n_components=1)
    source = AutoencoderTransformer(**small, n_components=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frozen = FrozenEstimator(source.fit(X))
        estimators = {
            "unfitted": DeepMLPClassifier(class_weight={0: 1.0, "a": np.int64(2)}, device="cuda"),
            "classifier": DeepMLPClassifier(**small, dropout=0.5).fit(X, y),
            "classifier_strings": DeepMLPClassifier(
                **{**small, "random_state": np.random.RandomState(0)},
                early_stopping=True, validation_fraction=0.3, class_weight="balanced",
            ).fit(X, np.array(["a", "b", "c"])[np.arange(12) % 3]),
            "classifier_multilabel": DeepMLPClassifier(**small, solver="sgd").fit(
                X, np.column_stack([y, 1 - y])
            ),
            "classifier_ensemble": DeepMLPClassifier(
                **small, n_networks=2, init_from=frozen, solver="lbfgs"
            ).fit(X, y.astype(bool)),
            "regressor": DeepMLPRegressor(**small, solver="muon").fit(X, X),
            "regressor_adamw": DeepMLPRegressor(
                **small, solver=AdamW, normalization="batch", dtype="bfloat16"
            ).fit(X, y),
            "regressor_long": DeepMLPRegressor(
                **{**small, "max_iter": 40}, solver="nadam", n_iter_no_change=100
            ).fit(X, y),
            "autoencoder": auto.fit(X),
            "autoencoder_names": AutoencoderTransformer(**small, n_components=1).fit(
                pd.DataFrame(rng.uniform(size=(12, 33)), columns=[f"é{i}" for i in range(33)])
            ),
            "autoencoder_variational": AutoencoderTransformer(
                **small, n_components=1, variational=True, noise=0.1, noise_kind="salt_pepper"
            ).fit(X.astype(np.float32)),
            "autoencoder_tied": AutoencoderTransformer(
                **small, n_components=1, tied_weights=True, allow_nan=True
            ).partial_fit(X),
            "pipeline": make_pipeline(StandardScaler(), DeepMLPClassifier(**small)).fit(X, y),
            "search": RandomizedSearchCV(
                DeepMLPClassifier(**small), {"alpha": loguniform(0.1, 1)}, n_iter=1, cv=2,
                scoring="accuracy", random_state=0,
            ).fit(X, y),
        }  # fmt: skip
    return {name: dumps(estimator) for name, estimator in estimators.items()}


def dumps(estimator) -> bytes:
    """Return the content of the file that ``save`` would write."""
    file = io.BytesIO()
    container.write(file, *persistence._Writer().take_apart(estimator))
    return file.getvalue()


def check(data: bytes) -> None:
    """Load one input; raise for anything but a valid estimator or a ValueError."""
    if sum(_COUNTS.values()) % 10_000 == 9_999:
        print(", ".join(f"{number} {what}" for what, number in _COUNTS.items()), flush=True)
    start = time.process_time()
    try:
        estimator = persistence.loads(data, [])
    except ValueError:
        _COUNTS["refused"] += 1
        estimator = None
    seconds = time.process_time() - start
    assert seconds < 1, f"load took {seconds:.1f} s"
    if estimator is None:
        return
    _COUNTS["loaded"] += 1
    if isinstance(estimator, persistence.BaseDeepNetwork):
        use(estimator)


def use(estimator) -> None:
    """Do with a loaded estimator what a valid one lets one do."""
    dumps(estimator)
    if estimator.__sklearn_is_fitted__():
        X = np.zeros((1, estimator.n_features_in_))
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        getattr(estimator, "predict" if hasattr(estimator, "predict") else "transform")(X)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return a changed input, most often one whose checksum is right."""
    rng = random.Random(seed)
    if rng.random() < 0.5:  # most of what was mutated before is refused whatever else is changed
        data = rng.choice(_SEEDS)
    parts = split(data)
    if parts is None or rng.random() < 0.1:
        return atheris.Mutate(data, max_size)
    header, document, tensors = parts
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        kind = rng.random()
        if kind < 0.5:
            document = changed(document, rng)
        elif kind < 0.65:
            fields = {key: value for key, value in header.items() if key != "__metadata__"}
            fields = changed(fields, rng)
            header = {**fields, "__metadata__": {}} if isinstance(fields, dict) else header
        elif kind < 0.85 or "skops" not in header:
            tensors = with_other_bytes(tensors, rng)
        else:
            header, tensors = with_other_skops(header, tensors, rng)
    new = join(header, document, tensors)
    return new if len(new) <= max_size else data


def split(data: bytes):
    """Return the header, the document and the bytes of the tensors, or None."""
    try:
        length = int.from_bytes(data[:_LENGTH], "little")
        header = json.loads(data[_LENGTH : _LENGTH + length])
        document = json.loads(header["__metadata__"]["sknn_deep"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_object = isinstance(header, dict) and isinstance(document, dict)
    return (header, document, data[_LENGTH + length :]) if is_object else None


def join(header: dict, document, tensors: bytes) -> bytes:
    """Undo :func:`split`, with a checksum that is right."""
    if isinstance(document, dict):
        document = {**document, "sha256": _NO_SUM.decode()}
    header = {**header, "__metadata__": {"sknn_deep": json.dumps(document)}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(_LENGTH, "little") + text + tensors
    return data.replace(_NO_SUM, hashlib.sha256(data).hexdigest().encode(), 1)


def changed(value, rng: random.Random):
    """Return JSON with one part changed, removed, doubled or moved."""
    places = list(walk(value)) if isinstance(value, dict | list) else []
    if not places:
        return rng.choice(_VALUES)
    container, key = rng.choice(places)
    action = rng.random()
    if action < 0.35:
        new = rng.choice(_VALUES)
    elif action < 0.55:
        other, other_key = rng.choice(places)
        new = other[other_key]
    elif action < 0.7 and isinstance(container[key], int | float):
        new = rng.choice([container[key] + 1, -container[key], container[key] * 1000, 0.5])
    elif action < 0.85:
        return pruned(value, container, key)
    else:
        new = [container[key]] * 2 if rng.random() < 0.5 else {str(key): container[key]}
    return replaced(value, container, key, new)


def walk(value):
    """Yield every place in nested JSON as a container and a key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield value, key
        if isinstance(part, dict | list):
            yield from walk(part)


def replaced(value, container, key, new):
    """Return a copy of nested JSON with one place changed."""
    if isinstance(value, dict):
        return {
            name: new if value is container and name == key else replaced(part, container, key, new)
            for name, part in value.items()
        }
    if isinstance(value, list):
        return [
            new if value is container and i == key else replaced(part, container, key, new)
            for i, part in enumerate(value)
        ]
    return value


def pruned(value, container, key):
    """Return a copy of nested JSON without one place."""
    if isinstance(value, dict):
        return {
            name: pruned(part, container, key)
            for name, part in value.items()
            if not (value is container and name == key)
        }
    if isinstance(value, list):
        return [
            pruned(part, container, key)
            for i, part in enumerate(value)
            if not (value is container and i == key)
        ]
    return value


def with_other_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of tensors with some that say NaN, infinity, or anything."""
    if not data:
        return bytes(rng.randrange(16))
    position = rng.randrange(len(data)) // 8 * 8
    new = rng.choice(
        [b"\xff" * 8, b"\0\0\0\0\0\0\xf0\x7f", b"\0" * 8, rng.randbytes(8), b"\x01", b""]
    )
    cut = rng.choice([position, position, position, len(data)])
    return data[:position] + new + data[position + len(new) : cut if cut > position else None]


def with_other_skops(header: dict, data: bytes, rng: random.Random) -> tuple[dict, bytes]:
    """Return tensors whose last, skops' archive, has another tree or another array."""
    try:
        start, end = header["skops"]["data_offsets"]
        with zipfile.ZipFile(io.BytesIO(data[start:end])) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice([*members, *["schema.json"] * 4])
        if name == "schema.json":
            members[name] = json.dumps(changed(json.loads(members[name]), rng)).encode()
        else:
            members[name] = with_other_bytes(members[name], rng)
        kind = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content, kind)
        blob = buffer.getvalue()
        shift = len(blob) - (end - start)
        fields = {**header, "skops": {"dtype": "U8", "shape": [len(blob)]}}
        fields["skops"]["data_offsets"] = [start, start + len(blob)]
        for name, field in header.items():
            if name not in ("__metadata__", "skops") and field["data_offsets"][0] >= end:
                offsets = [offset + shift for offset in field["data_offsets"]]
                fields[name] = {**field, "data_offsets": offsets}
    except Exception:  # the input was changed before
        return header, data
    return fields, data[:start] + blob + data[end:]


if __name__ == "__main__":
    main()
