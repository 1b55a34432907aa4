"""The architecture, held by reading the imports: arrows point downwards only."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sknn_deep"

FLOORS = [
    {
        "_device",
        "_threads",
        "_validation",
        "_summary",
        "_embedding_page",
        "_columns",
        "_mapped",
        "_layers",
        "_atomic",
        "_interruption",
        "_container",
        "_values",
    },
    {"_network", "_batches", "_losses", "_checkpoint"},
    {"_optimizers", "_backprop", "_codes"},
    {"_autograd"},
    {"_engine", "_lbfgs", "_net", "callbacks"},
    {"_training"},
    {"_base", "_stack"},
    {"_mlp", "_autoencoder", "_fused"},
    {"_ensemble"},
    {"_classifier", "_regressor"},
    {"_trials", "_state", "_skops_parts"},
    {"_evaluation", "persistence"},
    {"_search"},
    {"datasets", "model_selection", "plotting"},
]
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}


def _read(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def _modules():
    """Return the names of all files of the package, dotted below it, but for its `__init__`."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted({".".join(path.parts) for path in paths} - {"__init__"})


def _imported_names(tree):
    """Return every dotted name that a file of the package imports, wherever the import stands.

    `from .a import b` and `from sknn_deep.a import b` both give `sknn_deep.a.b`.
    """
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["sknn_deep"] if node.level else []
            source = [*package, *([node.module] if node.module else [])]
            names += [".".join([*source, alias.name]) for alias in node.names]
    return names


def _own_modules(tree):
    """Return the modules of this package that a file imports; '' stands for the package itself."""
    parts = [name.split(".") for name in _imported_names(tree)]
    own = {name[1] if len(name) > 1 else "" for name in parts if name[0] == "sknn_deep"}
    return {module if (PACKAGE / f"{module}.py").exists() else "" for module in own}


def _is_private(name):
    """Tell whether any part of a dotted name starts with an underscore, `__version__` apart."""
    return any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.split(".")
    )


def test_every_module_has_a_floor():
    assert _modules() == sorted(FLOOR_OF)


def test_no_module_stands_on_two_floors():
    assert sum(map(len, FLOORS)) == len(FLOOR_OF)


@pytest.mark.parametrize("module", sorted(FLOOR_OF))
def test_imports_point_downwards(module):
    imported = _own_modules(_read(module))
    assert "" not in imported, f"{module} imports the package itself, which stands above all floors"
    allowed = set().union(*FLOORS[: FLOOR_OF[module]])
    assert imported <= allowed, f"{module} may not import {sorted(imported - allowed)}"


@pytest.mark.parametrize("module", sorted(set(FLOOR_OF) - {"_validation"}))
def test_private_scikit_learn_names_come_through_validation(module):
    names = _imported_names(_read(module))
    private = [name for name in names if name.split(".")[0] == "sklearn" and _is_private(name)]
    assert not private, f"{module} imports {private}; only _validation may"


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import numpy", set()),
        ("from . import _base", {"_base"}),
        ("from ._base import x", {"_base"}),
        ("import sknn_deep._base", {"_base"}),
        ("from sknn_deep import _base", {"_base"}),
        ("from sknn_deep._base import x", {"_base"}),
        ("def f():\n    from ._base import x", {"_base"}),
        ("import sknn_deep", {""}),
        ("from sknn_deep import DeepMLPClassifier", {""}),
        ("from . import __version__", {""}),
    ],
)
def test_every_way_to_import_is_seen(code, modules):
    assert _own_modules(ast.parse(code)) == modules


@pytest.mark.parametrize(
    ("name", "private"),
    [
        ("sklearn.base.clone", False),
        ("sklearn.__version__", False),
        ("sklearn.utils._param_validation.Interval", True),
        ("sklearn.utils.validation._check_sample_weight", True),
    ],
)
def test_private_names_are_told_from_public_ones(name, private):
    assert _is_private(name) == private


def test_init_only_reexports():
    docstring, *statements = _read("__init__").body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    for statement in statements:
        if isinstance(statement, ast.Assign):
            assert [target.id for target in statement.targets] in (["__all__"], ["__version__"])
        else:
            assert isinstance(statement, ast.ImportFrom), ast.unparse(statement)


def test_init_imports_from_this_package_only():
    names = _imported_names(_read("__init__"))
    assert names
    assert {name.split(".")[0] for name in names} == {"sknn_deep"}


def test_all_lists_exactly_what_init_imports():
    tree = _read("__init__")
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    ]
    imported = [name.rpartition(".")[2] for name in _imported_names(tree)]
    assert sorted(set(names) - {"__version__"}) == sorted(imported)
    assert len(set(names)) == len(names)


def test_version_is_the_one_that_is_installed():
    (version,) = [
        ast.literal_eval(node.value)
        for node in _read("__init__").body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert version == project["version"]
