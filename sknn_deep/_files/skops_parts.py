"""What is scikit-learn's in a file: pipelines, searches and transformers, stored by skops.

skops [1]_ writes a zip archive of JSON and arrays. It knows none of our estimators, and some
parts of scikit-learn not well: these are replaced by a :class:`Placeholder` before it writes,
and put back after it has read.

References
----------
.. [1] https://skops.readthedocs.io
"""

import copy
import io
import json
import types
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import sparse, stats
from sklearn import model_selection
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils.metadata_routing import MetadataRequest

from sknn_deep._files.values import check, check_list

# Lowering the number would bring back what later protocols of skops have repaired.
_OLDEST_PROTOCOL = 2
# Where parts are shared, the tree of a small file may have more nodes than there are atoms.
_MAX_NODES = 10**6
_SPLITTERS = [name for name in model_selection.__all__ if name.endswith(("Fold", "Split", "Out"))]
# Of these skops makes objects and sets their attributes; none does anything when it is made.
_TRUSTED = [
    "sknn_deep._files.skops_parts.Placeholder",
    "sknn_deep.model_selection._searches.FusedGridSearchCV",
    "sknn_deep.model_selection._searches.FusedRandomizedSearchCV",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.utils._bunch.Bunch",
    *(f"sklearn.model_selection._split.{name}" for name in _SPLITTERS),
    "sklearn.model_selection._split._CVIterableWrapper",  # a list of splits
]


class Placeholder:
    """Stands for what skops shall not write: a ``kind``, and JSON that says which."""

    def __init__(self, kind: str, content: Any):
        self.kind, self.content = kind, content


def dump(value: BaseEstimator, encode_ours: Callable[[Any], int | None], where: str) -> bytes:
    """Return what skops writes for scikit-learn's part of an estimator.

    Parameters
    ----------
    value : estimator
    encode_ours : callable
        Given any part, returns the number of one of our estimators, or None.
    where : str
        How errors call the estimator.

    Raises
    ------
    TypeError
        If skops does not know a type.
    """
    skops_io = import_skops()

    def replace(part: Any) -> Any:
        number = encode_ours(part)
        if number is not None:
            return Placeholder("estimator", number)
        return _placeholder(part)

    value = _replaced(value, replace, {})
    try:
        blob = _without_compression(skops_io.dumps(value))
        types_of_ours = {
            name for name in _untrusted(blob, _TRUSTED) if name.startswith("sknn_deep.")
        }
    except Exception as error:  # of any type, for what skops does not know
        raise TypeError(f"{where} has a part that skops does not store: {error!r}.") from error
    if types_of_ours:
        raise TypeError(
            f"{where} holds {sorted(types_of_ours)} where save does not look for it; save it in a "
            "file of its own."
        )
    return blob


def load(
    blob: bytes, decode_ours: Callable[[Any, str], Any], trusted: Iterable[str | type], where: str
) -> BaseEstimator:
    """Return the estimator that :func:`dump` has written.

    Raises
    ------
    ValueError
        If it holds types that are not trusted, or anything else is wrong with it.
    """
    skops_io = import_skops()
    trusted = [*_TRUSTED, *trusted]
    _check_archive(blob, where)
    try:
        untrusted = _untrusted(blob, trusted)
    except Exception as error:  # whatever the bytes bring about
        raise ValueError(f"{where} is no archive of skops: {error!r}.") from error
    if untrusted:
        raise ValueError(
            f"{where} holds types that are not trusted: {untrusted}. If you know who made the "
            f"file, and these types, pass trusted={untrusted}."
        )
    try:
        value = skops_io.loads(blob, trusted=trusted)
    except Exception as error:  # as above
        raise ValueError(f"{where} cannot be read by skops: {error!r}.") from error

    def restore(part: Any) -> Any:
        if not isinstance(part, Placeholder):
            return part
        kind, content = vars(part).get("kind"), vars(part).get("content")
        if kind == "estimator":
            return decode_ours(content, where)
        is_known = isinstance(kind, str) and kind in _RESTORE
        check(is_known, where, kind, f"a placeholder for one of {['estimator', *_RESTORE]}")
        return _RESTORE[kind](content, where)

    try:
        value = _replaced(value, restore, {})
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply.") from error
    check(isinstance(value, BaseEstimator), where, type(value).__name__, "an estimator")
    return value


def import_skops():
    """Return ``skops.io``, or say how to get it."""
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "Pipelines, searches and other estimators of scikit-learn are stored by skops, which "
            "is not installed: pip install 'sknn_deep[skops]'."
        ) from error
    return skops.io


def _untrusted(blob: bytes, trusted: Iterable[str | type]) -> list[str]:
    names = {
        name if isinstance(name, str) else f"{name.__module__}.{name.__qualname__}"
        for name in trusted
    }
    return sorted(set(import_skops().get_untrusted_types(data=blob)) - names)


def _replaced(value: Any, replace: Callable[[Any], Any], memo: dict[int, tuple]) -> Any:
    """Return a nested value with parts of it replaced; what holds none of them stays itself."""
    if id(value) in memo:
        return memo[id(value)][1]
    memo[id(value)] = (value, value)  # kept alive, so that no other takes its id
    new = replace(value)
    if new is value:
        new = _with_parts(value, lambda part: _replaced(part, replace, memo))
    memo[id(value)] = (value, new)
    return new


def _with_parts(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container or an object with its parts changed, or itself where none are."""
    if isinstance(value, dict):
        changed = {key: new for key, part in value.items() if (new := change(part)) is not part}
        if not changed:
            return value
        value = copy.copy(value)
        value.update(changed)
        return value
    if type(value) in (list, tuple):
        parts = [change(part) for part in value]
        is_same = all(new is part for new, part in zip(parts, value, strict=True))
        return value if is_same else type(value)(parts)
    if isinstance(value, np.ndarray) and value.dtype == object:
        flat = np.asarray(value).ravel()
        parts = [change(part) for part in flat]
        if all(new is part for new, part in zip(parts, flat, strict=True)):
            return value
        value = value.copy()
        for index, part in zip(np.ndindex(value.shape), parts, strict=True):
            np.asarray(value)[index] = part
        return value
    if not _is_object(value):
        return value
    state = vars(value)
    changed = {name: new for name, part in state.items() if (new := change(part)) is not part}
    if changed:
        value, state = object.__new__(type(value)), state | changed
        vars(value).update(state)
    return value


def _is_object(value: Any) -> bool:
    """Return whether to look for parts among the attributes of an object."""
    if isinstance(value, type | types.FunctionType | types.ModuleType):
        return False
    is_known = isinstance(value, BaseEstimator) or type(value).__module__.startswith("sklearn.")
    return is_known and hasattr(value, "__dict__")


def _placeholder(part: Any) -> Any:
    """Return a placeholder for a scorer, a distribution or requests of metadata, else the part."""
    if isinstance(part, MetadataRequest):
        return Placeholder("requests", encode_requests(part))
    if type(part).__name__ == "_Scorer":
        for name in get_scorer_names():
            if repr(get_scorer(name)) == repr(part) and _is_same_scorer(get_scorer(name), part):
                return Placeholder("scorer", name)
    distribution = getattr(part, "dist", None)
    name = getattr(distribution, "name", None)
    if isinstance(name, str) and type(getattr(stats, name, None)) is type(distribution):
        args, kwds = list(part.args), dict(part.kwds)
        if all(isinstance(number, int | float) for number in (*args, *kwds.values())):
            return Placeholder("distribution", {"name": name, "args": args, "kwds": kwds})
    return part


def _is_same_scorer(scorer: Any, other: Any) -> bool:
    names = ("_score_func", "_sign", "_kwargs", "_response_method")
    return all(getattr(scorer, name) == getattr(other, name) for name in names)


def encode_requests(request: MetadataRequest) -> dict[str, Any]:
    """Return the requests of each method for metadata as JSON."""
    owner = request.owner if isinstance(request.owner, str) else type(request.owner).__name__
    methods = {name: getattr(request, name).requests for name in _METHODS}
    requests = {name: dict(aliases) for name, aliases in methods.items() if aliases}
    return {"owner": owner, "requests": requests}


def decode_requests(content: Any, where: str) -> MetadataRequest:
    """Undo :func:`encode_requests`."""
    is_named = isinstance(content, dict) and isinstance(content.get("owner"), str)
    check(is_named and isinstance(content.get("requests"), dict), where, content, "requests")
    request = MetadataRequest(owner=content["owner"])
    for name, aliases in content["requests"].items():
        check(name in _METHODS and isinstance(aliases, dict), where, name, "a method's requests")
        for param, alias in aliases.items():
            is_alias = alias is None or isinstance(alias, str | bool)
            check(isinstance(param, str) and is_alias, where, alias, "an alias")
            getattr(request, name).add_request(param=param, alias=alias)
    return request


_METHODS = [name for name in vars(MetadataRequest(owner="")) if name != "owner"]


def _scorer(content: Any, where: str) -> Any:
    is_known = isinstance(content, str) and content in get_scorer_names()
    check(is_known, where, content, "the name of a scorer")
    return get_scorer(content)


def _distribution(content: Any, where: str) -> Any:
    is_dict = isinstance(content, dict) and set(content) == {"name", "args", "kwds"}
    check(is_dict, where, content, "a distribution")
    name, args, kwds = content["name"], check_list(content["args"], where), content["kwds"]
    distribution = getattr(stats, name, None) if isinstance(name, str) else None
    kinds = (stats.rv_continuous, stats.rv_discrete)
    check(isinstance(distribution, kinds), where, name, "a distribution of scipy.stats")
    is_numbers = isinstance(kwds, dict) and all(
        isinstance(number, int | float) for number in (*args, *kwds.values())
    )
    check(is_numbers, where, content, "a distribution with numbers as parameters")
    try:
        return distribution(*args, **kwds)
    except TypeError as error:
        raise ValueError(f"{where} has a distribution that SciPy refuses: {error}.") from error


_RESTORE: dict[str, Callable[[Any, str], Any]] = {
    "requests": decode_requests,
    "scorer": _scorer,
    "distribution": _distribution,
}


def _without_compression(blob: bytes) -> bytes:
    """Return an archive whose sparse matrices, archives themselves, are not compressed either."""
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            if name.endswith(".npz"):
                plain = io.BytesIO()
                sparse.save_npz(plain, sparse.load_npz(io.BytesIO(content)), compressed=False)
                content = plain.getvalue()
            # the same estimator gives the same bytes
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _check_archive(blob: bytes, where: str, is_inner: bool = False) -> None:
    """Refuse an archive that unpacks to more than itself, or whose tree is larger than it looks."""
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            infos = archive.infolist()
            is_stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            size = sum(max(info.file_size, info.compress_size) for info in infos)
            check(is_stored and size <= len(blob), where, size, "an archive without compression")
            for info in infos:
                content = archive.read(info)
                if not is_inner and zipfile.is_zipfile(io.BytesIO(content)):
                    _check_archive(content, where, is_inner=True)
            if not is_inner:
                _check_schema(json.loads(archive.read("schema.json")), where)
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply.") from error
    except (
        zipfile.BadZipFile,
        KeyError,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
    ) as error:
        raise ValueError(f"{where} is no archive of skops: {error!r}.") from error


def _check_schema(schema: Any, where: str) -> None:
    protocol = schema.get("protocol") if isinstance(schema, dict) else None
    is_new = type(protocol) is int and protocol >= _OLDEST_PROTOCOL
    check(is_new, where, protocol, f"of skops' protocol {_OLDEST_PROTOCOL} or newer")
    n_nodes = _count_nodes(schema, {})
    check(n_nodes <= _MAX_NODES, where, n_nodes, f"a tree of at most {_MAX_NODES} nodes")


def _count_nodes(state: Any, counts: dict[Any, int]) -> int:
    """Return how many nodes a walk over the tree meets that does not remember where it was."""
    if isinstance(state, list):
        return 1 + sum(_count_nodes(part, counts) for part in state)
    if not isinstance(state, dict):
        return 0
    number = state.get("__id__")
    if not isinstance(number, int):
        return 1 + sum(_count_nodes(part, counts) for part in state.values())
    if number not in counts:
        counts[number] = 1
        counts[number] += sum(_count_nodes(part, counts) for part in state.values())
    return counts[number]
