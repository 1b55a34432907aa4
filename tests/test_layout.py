"""The architecture, held by reading the imports: arrows point downwards only."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sknn_deep"

# Wings from the ground up. Each stands on the floors below it, and so do the files inside.
WINGS = {
    "_sklearn": [{"_sklearn"}],
    "_user_warnings": [{"_user_warnings"}],
    "_wording": [{"_wording"}],
    "_files": [{"atomic", "archive", "packing", "trusted_types", "arrow_dataset"}],
    "_hardware": [
        {"threads", "memory_maps", "device", "precision", "ranks", "bfloat16", "slow_mkl"},
        {"pace", "shared_parts"},
        {"products"},
        {"sparse_products"},
    ],
    "_networks": [
        {"linear", "pickled_modules"},
        {"random_layers"},
        {"layers"},
        {"inputs"},
        {"number_inputs", "category_inputs"},
        {"table_input", "flat"},
        {"models", "stacked", "summary"},
        {"numpy_pass"},
    ],
    "_engine": [
        {"features", "activations", "distributions", "order", "streamed_table", "muon"}
        | {"transfer"},
        {"divided_rows"},
        {"columns", "streamed_rows", "samples", "losses", "encoded_rows", "masks", "norm_pass"},
        {"device_rows", "in_parts", "chunk", "layer_pass", "gradient_sum", "reconstruction_losses"},
        {"batches", "backprop", "optimizers"},
        {"tape", "solvers", "torch_steps"},
        {"cuda_graph", "lbfgs", "optimizer_state", "stacked_muon"},
        {"engine"},
    ],
    "_training": [
        {"interruption", "naming", "progress", "fingerprint", "skorch_errors"}
        | {"sklearn_callbacks", "progress_bar"},
        {"checkpoint"},
        {"history", "schedule"},
        {"skorch_net"},
        {"training", "whole_set"},
        {"stack_size", "stack_rows"},
        {"stack"},
    ],
    "_estimators": [
        {
            "types",
            "call",
            "callback_parameter",
            "column_statistics",
            "code_statistics",
            "not_numbers",
            "parameter_advice",
            "inherited_docs",
            "outlier_offset",
            "table_columns",
            "kept_engine",
        }
        | {"rollback", "garbage"}
        | {"held_out_rows", "target_scale", "intervals", "temperature"},
        {"array_api"},
        {"rows", "fitted_attributes", "pickling", "hidden_activations", "processes"},
        {"parameters", "fitted_state", "workers"},
        {"hooks"},
        {"jobs", "memory_advice", "optimizer", "held_out"},
        {"fitting"},
        {"fused", "base", "code_description"},
        {"ensemble", "autoencoder"},
        {"candidates"},
        {"supervised"},
        {"classifier", "regressor"},
        {"tabular"},
    ],
    "callbacks": [{"callbacks"}],
    "datasets": [{"datasets"}],
    "streams": [{"streams"}],
    "plotting": [
        {"_style"},
        {"_labels", "_images", "_annotations"},
        {"_embedding_page", "_legend"},
        {"_embedding", "_loss_curve", "_reconstruction", "_search_surface", "_weights"}
        | {"_calibration", "_halving", "_importance", "_intervals"},
    ],
    "model_selection": [
        {"_trials", "_distributions"},
        {"_routes"},
        {"_stand_ins", "_scores"},
        {"_pipelines"},
        {"_evaluation"},
        {"_course"},
        {"_searches", "_halving", "_cross_validate"},
    ],
    "persistence": [{"persistence"}],
    "onnx": [
        {"_graph"},
        {"_activations", "_columns", "_target_transformers"},
        {"_networks", "_operators"},
        {"_autoencoders"},
        {"_converters"},
        {"_export"},
    ],
    "mlflow": [{"mlflow"}],
    "dask": [{"_ranks"}, {"_collections"}, {"_fits"}, {"_estimators"}],
}
# The place of each file, from below: first its wing's, then its own.
FLOOR_OF = {
    name if name == wing else f"{wing}.{name}": (place, floor)
    for place, (wing, floors) in enumerate(WINGS.items())
    for floor, names in enumerate(floors)
    for name in names
}
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def _read(module):
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"))


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
    """Return the modules of this package that a file imports; '' stands for the package itself.

    A wing's `__init__` re-exports nothing, those of `plotting` and `model_selection` apart.
    """
    own = set()
    for name in _imported_names(tree):
        package, *parts = name.split(".")
        if package != "sknn_deep":
            continue
        while (
            parts
            and ".".join(parts) not in SOURCES
            and ".".join([*parts, "__init__"]) not in SOURCES
        ):
            parts.pop()
        own.add(".".join(parts))
    return own


def _is_private(name):
    """Tell whether any part of a dotted name starts with an underscore, `__version__` apart."""
    return any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.split(".")
    )


def test_every_module_has_a_floor():
    modules = {name for name in SOURCES if name.rpartition(".")[2] != "__init__"}
    assert modules == set(FLOOR_OF)


def test_at_the_top_is_only_what_users_import():
    top = {name.partition(".")[0] for name in SOURCES} - {"__init__"}
    public = {name for name in top if not name.startswith("_")}
    own = {"callbacks", "datasets", "mlflow", "model_selection", "onnx", "persistence", "plotting"}
    own |= {"streams", "dask"}
    assert public == own
    assert top == set(WINGS)


@pytest.mark.parametrize("module", sorted(FLOOR_OF))
def test_imports_point_downwards(module):
    imported = _own_modules(_read(module))
    assert "" not in imported, f"{module} imports the package itself, which stands above all floors"
    upwards = {
        name for name in imported if name not in FLOOR_OF or FLOOR_OF[name] >= FLOOR_OF[module]
    }
    assert not upwards, f"{module} may not import {sorted(upwards)}"


@pytest.mark.parametrize("module", sorted(set(FLOOR_OF) - {"_sklearn"}))
def test_private_scikit_learn_names_come_through_one_door(module):
    names = _imported_names(_read(module))
    private = [name for name in names if name.split(".")[0] == "sklearn" and _is_private(name)]
    assert not private, f"{module} imports {private}; only _sklearn may"


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("import numpy", set()),
        ("from . import callbacks", {"callbacks"}),
        ("from ._engine.losses import x", {"_engine.losses"}),
        ("import sknn_deep._engine.losses", {"_engine.losses"}),
        ("from sknn_deep._engine import losses", {"_engine.losses"}),
        ("from sknn_deep._engine.losses import x", {"_engine.losses"}),
        ("def f():\n    from ._engine.losses import x", {"_engine.losses"}),
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
