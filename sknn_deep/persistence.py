"""Fitted estimators in files that hold no code: one file, numbers in safetensors, the rest JSON."""

import os
import stat
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.metadata_routing import MetadataRequest

from sknn_deep._estimators.base import BaseDeepNetwork
from sknn_deep._files import container as _container
from sknn_deep._files import skops_parts as _skops_parts
from sknn_deep._files.atomic import atomic_write
from sknn_deep._files.state import (
    make_estimator,
    make_network,
    parameters_and_state,
    progress_fields,
)
from sknn_deep._files.values import Decoder, Encoder, check, check_keys, check_list
from sknn_deep._networks.flat import Network
from sknn_deep._training.progress import Progress

__all__ = ["load", "save"]


_BINARIZER_FIELDS = {"classes_", "sparse_input_", "y_type_"}
# What to do about a parameter whose value holds code.
_REMEDIES = {
    "callbacks": "set_params(callbacks=None) before saving, and pass them again after loading",
    "scoring": "pass the name of a scorer, or set_params(scoring=None) before saving",
    "solver": "pass the name of a solver, or a class of torch.optim itself",
    "init_from": "pass a fitted AutoencoderTransformer, or set_params(init_from=None): the weights "
    "that were taken over are saved anyway",
}


def save(estimator: BaseEstimator, path: str | os.PathLike) -> None:
    """Save an estimator in one file that holds no code.

    The file is a safetensors container [1]_: weights, states of optimisers and other arrays are
    its tensors, and what else there is to know is JSON in its header. It is written whole or
    not at all: an error leaves the file that was there before.

    Parameters
    ----------
    estimator : estimator
        A :class:`DeepMLPClassifier`, :class:`DeepMLPRegressor` or
        :class:`AutoencoderTransformer`, fitted or not; or an estimator of scikit-learn, alone or
        around some of ours: a ``Pipeline``, ``ColumnTransformer``, ``GridSearchCV``, or a fused
        search. What is scikit-learn's is stored by skops [2]_, which has to be installed.

    path : str or path-like
        Where to write, by convention with the suffix ".safetensors".

    Raises
    ------
    TypeError
        If a parameter or a part holds code (a callback, a function, a class of your own), or
        another type that no file can hold. The message names it.

    ValueError
        If a parameter is invalid, or weights are not finite.

    ImportError
        If a part is scikit-learn's and skops is not installed.

    See Also
    --------
    load : Read the file.

    Notes
    -----
    A loaded estimator predicts the same bits, and goes on with ``partial_fit`` or
    ``warm_start=True`` as the saved one would have: the state of the optimiser, of a
    ``RandomState`` given as ``random_state`` and of the stopping rule are in the file.
    Attributes that you have added are not: save refuses them. A ``RandomState`` that several
    estimators share comes back as one for each.

    References
    ----------
    .. [1] https://huggingface.co/docs/safetensors
    .. [2] https://skops.readthedocs.io

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import sknn_deep
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = sknn_deep.DeepMLPClassifier(learning_rate="one_cycle").fit(X, y)
    >>> path = Path(tempfile.mkdtemp(), "iris.safetensors")
    >>> sknn_deep.save(classifier, path)
    >>> loaded = sknn_deep.load(path)
    >>> bool((loaded.predict_proba(X) == classifier.predict_proba(X)).all())
    True
    """
    if not isinstance(estimator, BaseEstimator):
        raise TypeError(f"save takes an estimator, got {estimator!r}; save it in another way.")
    document, tensors = _Writer().take_apart(estimator)
    atomic_write(path, lambda file: _container.write(file, document, tensors))


def load(path: str | os.PathLike, *, trusted: Iterable[str | type] = ()) -> BaseEstimator:
    """Load an estimator that :func:`save` has written.

    Nothing in the file is executed: classes are looked up in a list of this package's own,
    parts of scikit-learn are read by skops, and pickle is never used. Networks are loaded onto
    the CPU; the next fit moves them to ``device``.

    Parameters
    ----------
    path : str or path-like

    trusted : iterable of str or type, default=()
        Types that skops does not trust by itself, but you do: with their code and with
        whatever the file may hold of them.

    Returns
    -------
    estimator : estimator

    Raises
    ------
    ValueError
        If the file is damaged or forged, was written by a newer release, or holds a type
        that is not trusted. The message says which.

    OSError
        If the file is not there, or cannot be read.

    ImportError
        If the file has a part of scikit-learn's and skops is not installed.

    See Also
    --------
    save : Write the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import sknn_deep
    >>> path = Path(tempfile.mkdtemp(), "network.safetensors")
    >>> sknn_deep.save(sknn_deep.DeepMLPRegressor(hidden_layer_sizes=(64, 64)), path)
    >>> sknn_deep.load(path)
    DeepMLPRegressor(hidden_layer_sizes=(64, 64))
    """
    if isinstance(trusted, str | bool):
        raise TypeError(f"trusted must list types or their names, got {trusted!r}.")
    trusted = list(trusted)
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is no regular file.")
            content = _container.read_file(file, about.st_size)
        return _put_together(*content, trusted)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} cannot be loaded: {error}") from error


def loads(data: bytes, trusted: list[str | type]) -> BaseEstimator:
    """Return the estimator that a file's content stands for; as :func:`load`."""
    return _put_together(*_container.read(data), trusted)


def _put_together(
    document: dict[str, Any], tensors: dict[str, np.ndarray], trusted: list[str | type]
) -> BaseEstimator:
    try:
        return _Reader(tensors, trusted).put_together(document)
    except RecursionError as error:
        raise ValueError("it is nested too deeply.") from error


class _Writer:
    """Takes an estimator apart: into a document and tensors."""

    def __init__(self):
        self._encoder = Encoder(self._encode_other)
        self._entries: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._n_begun = 0

    def take_apart(self, estimator: BaseEstimator) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the document and the tensors that stand for an estimator."""
        if isinstance(estimator, BaseDeepNetwork):
            root = {"estimator": self._number_of(estimator)}
        else:
            blob = _skops_parts.dump(estimator, self._number_of, type(estimator).__name__)
            root = {"skops": "skops"}
            self._encoder.tensors["skops"] = np.frombuffer(blob, np.uint8)
        document = {"written_by": _version(), "estimators": self._entries, "root": root}
        return document, self._encoder.tensors

    def _number_of(self, estimator: Any) -> int | None:
        """Return the number of one of our estimators, taken apart before or now."""
        if not isinstance(estimator, BaseDeepNetwork):
            return None
        if id(estimator) not in self._numbers:
            where = type(estimator).__name__
            parameters, state = parameters_and_state(estimator, where)
            prefix = str(self._n_begun)
            self._n_begun += 1
            # those that it refers to come first
            entry = {
                "class": where,
                "parameters": self._encode_items(parameters, prefix, where),
                "state": self._encode_items(state, prefix, where),
            }
            self._numbers[id(estimator)] = len(self._entries)
            self._entries.append(entry)
        return self._numbers[id(estimator)]

    def _encode_items(self, items: dict[str, Any], prefix: str, where: str) -> dict[str, Any]:
        encoded = {}
        for name, value in items.items():
            try:
                encoded[name] = self._encode_item(name, value, prefix)
            except TypeError as error:
                remedy = _REMEDIES.get(name, "set it to what a file can hold")
                raise TypeError(f"{where} cannot be saved: {error}; {remedy}.") from error
        return encoded

    def _encode_item(self, name: str, value: Any, prefix: str) -> Any:
        """Return JSON for a parameter or an attribute; only these refer to other estimators."""
        if name == "estimators_":
            return [{"estimator": self._number_of(network)} for network in value]
        if isinstance(value, BaseDeepNetwork):
            return {"estimator": self._number_of(value)}
        if type(value) is FrozenEstimator and isinstance(value.estimator, BaseDeepNetwork):
            return {"frozen": self._number_of(value.estimator)}
        return self._encoder.encode(value, f"{prefix}.{name}")

    def _encode_other(self, value: Any, name: str) -> tuple[str, Any] | None:
        """Encode what parameters and attributes of ours may hold beside plain values."""
        encode = self._encoder.encode
        if isinstance(value, Network):
            arrays = {key: tensor.cpu().numpy() for key, tensor in value.learned().items()}
            return "network", {
                "class": type(value).__name__,
                "config": encode(value.config, f"{name}.config"),
                "arrays": {key: encode(array, f"{name}.{key}") for key, array in arrays.items()},
            }
        if isinstance(value, Progress):
            fields = progress_fields()
            return "progress", {key: encode(getattr(value, key), f"{name}.{key}") for key in fields}
        if isinstance(value, LabelBinarizer):
            return "binarizer", {
                key: encode(getattr(value, key), f"{name}.{key}") for key in _BINARIZER_FIELDS
            }
        if isinstance(value, MetadataRequest):
            return "requests", _skops_parts.encode_requests(value)
        return None


class _Reader:
    """Puts an estimator together again from a document and tensors."""

    def __init__(self, tensors: dict[str, np.ndarray], trusted: list[str | type]):
        self._decoder = Decoder(tensors, self._decode_other)
        self._trusted = trusted
        self._entries: list[Any] = []
        self._estimators: dict[int, BaseDeepNetwork] = {}
        self._n_before = 0

    def put_together(self, document: dict[str, Any]) -> BaseEstimator:
        """Return the estimator that a document and the tensors stand for."""
        if list(document) == ["checkpoint"]:
            raise ValueError(
                "it is the checkpoint of a training: the call of fit that wrote it, with "
                "TrainingCheckpoint, goes on from it."
            )
        check_keys(document, {"written_by", "estimators", "root"}, "its document")
        check(isinstance(document["written_by"], str), "its writer", document["written_by"], "text")
        self._entries = check_list(document["estimators"], "its estimators")
        self._n_before = len(self._entries)
        root = document["root"]
        is_root = isinstance(root, dict) and list(root) in (["estimator"], ["skops"])
        check(is_root, "its root", root, "one of our estimators or a part of scikit-learn's")
        ((kind, content),) = root.items()
        if kind == "estimator":
            estimator = self._estimator(content, "its root")
        else:
            blob = self._decoder.array(content, "its root")
            check(blob.dtype == np.uint8, "its root", blob.dtype, "a tensor of bytes")
            where = "its part of scikit-learn's"
            estimator = _skops_parts.load(blob.tobytes(), self._estimator, self._trusted, where)
        unused = sorted(set(range(len(self._entries))) - set(self._estimators))
        check(not unused, "it", unused, "without estimators that nothing refers to")
        unused = sorted(self._decoder.unused)
        check(not unused, "it", unused, "without tensors that belong nowhere")
        return estimator

    def _estimator(self, number: Any, where: str) -> BaseDeepNetwork:
        """Return an estimator, made where it is first referred to."""
        is_known = type(number) is int and 0 <= number < self._n_before
        check(is_known, where, number, "the number of an estimator before it")
        if number not in self._estimators:
            n_before, self._n_before = self._n_before, number
            self._estimators[number] = self._make(self._entries[number], f"its estimator {number}")
            self._n_before = n_before
        return self._estimators[number]

    def _make(self, entry: Any, where: str) -> BaseDeepNetwork:
        check_keys(entry, {"class", "parameters", "state"}, where)
        for key in ("parameters", "state"):
            check(isinstance(entry[key], dict), where, entry[key], "values by name")
        parameters, state = (
            {
                name: self._decode_item(name, coded, f"{where}.{name}")
                for name, coded in entry[key].items()
            }
            for key in ("parameters", "state")
        )
        return make_estimator(entry["class"], parameters, state, where)

    def _decode_item(self, name: str, coded: Any, where: str) -> Any:
        """Undo :meth:`_Writer._encode_item`."""
        if name == "estimators_":
            return self._decode_networks(coded, where)
        kind = next(iter(coded)) if isinstance(coded, dict) and len(coded) == 1 else None
        if kind == "estimator":
            return self._estimator(coded[kind], where)
        if kind == "frozen":
            return FrozenEstimator(self._estimator(coded[kind], where))
        return self._decoder.decode(coded, where)

    def _decode_networks(self, coded: Any, where: str) -> list[BaseDeepNetwork]:
        for reference in check_list(coded, where):
            check_keys(reference, {"estimator"}, where)
        networks = [self._estimator(reference["estimator"], where) for reference in coded]
        check(len(set(map(id, networks))) == len(networks), where, coded, "each network once")
        return networks

    def _decode_items(self, items: Any, where: str) -> dict[str, Any]:
        check(isinstance(items, dict), where, items, "values by name")
        return {
            name: self._decoder.decode(coded, f"{where}.{name}") for name, coded in items.items()
        }

    def _decode_other(self, kind: str, content: Any, where: str) -> Any:
        if kind == "requests":
            return _skops_parts.decode_requests(content, where)
        if kind == "network":
            check_keys(content, {"class", "config", "arrays"}, where)
            arrays = self._decode_items(content["arrays"], where)
            is_arrays = all(isinstance(array, np.ndarray) for array in arrays.values())
            check(is_arrays, where, arrays, "a network of arrays")
            config = self._decoder.decode(content["config"], where)
            return make_network(content["class"], config, arrays, where)
        if kind == "progress":
            fields = self._decode_items(content, where)
            unknown = set(fields) - set(progress_fields())
            check(not unknown, where, unknown, "without fields that no progress has")
            return Progress(**fields)
        check(kind == "binarizer", where, kind, "a kind of value")
        check_keys(content, _BINARIZER_FIELDS, where)
        binarizer = LabelBinarizer()
        vars(binarizer).update(self._decode_items(content, where))
        return binarizer


def _version() -> str:
    from importlib.metadata import version

    return version("sknn_deep")
