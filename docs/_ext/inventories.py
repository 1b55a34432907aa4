"""Links to the pages of other projects, without asking the network.

Sphinx's intersphinx reads a list of a project's pages, its inventory, which it usually downloads.
The inventories here hold only what this documentation links to. They are written at the start of a
build, from the names below and the way in which each project names its pages.
``tests/test_site.py`` imports every name, so that none is out of date.
"""

import zlib
from pathlib import Path

ADDRESSES = {
    "python": "https://docs.python.org/3/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "matplotlib": "https://matplotlib.org/stable/",
    "sklearn": "https://scikit-learn.org/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "skorch": "https://skorch.readthedocs.io/en/stable/",
}
# Project, kind of object, page and objects. In the page, {name} is the full name and {module} the
# last part of its module's name.
OBJECTS = [
    ("python", "class", "library/{module}.html", ["pathlib.Path"]),
    ("numpy", "class", "reference/generated/{name}.html", ["numpy.ndarray"]),
    ("numpy", "class", "reference/random/legacy.html", ["numpy.random.RandomState"]),
    ("pandas", "class", "reference/api/{name}.html", ["pandas.DataFrame"]),
    (
        "matplotlib",
        "class",
        "api/_as_gen/{name}.html",
        ["matplotlib.axes.Axes", "matplotlib.lines.Line2D"],
    ),
    (
        "matplotlib",
        "class",
        "api/{module}_api.html",
        [
            "matplotlib.artist.Artist",
            "matplotlib.collections.PathCollection",
            "matplotlib.colors.Colormap",
            "matplotlib.container.BarContainer",
            "matplotlib.figure.Figure",
            "matplotlib.image.AxesImage",
        ],
    ),
    (
        "sklearn",
        "class",
        "modules/generated/{name}.html",
        [
            "sklearn.callback.ProgressBar",
            "sklearn.callback.ScoringMonitor",
            "sklearn.calibration.CalibratedClassifierCV",
            "sklearn.calibration.CalibrationDisplay",
            "sklearn.compose.TransformedTargetRegressor",
            "sklearn.decomposition.PCA",
            "sklearn.frozen.FrozenEstimator",
            "sklearn.linear_model.LogisticRegression",
            "sklearn.manifold.TSNE",
            "sklearn.model_selection.GridSearchCV",
            "sklearn.model_selection.RandomizedSearchCV",
            "sklearn.neural_network.MLPClassifier",
            "sklearn.neural_network.MLPRegressor",
            "sklearn.pipeline.Pipeline",
            "sklearn.preprocessing.MinMaxScaler",
            "sklearn.preprocessing.StandardScaler",
            "sklearn.utils.Bunch",
        ],
    ),
    (
        "sklearn",
        "function",
        "modules/generated/{name}.html",
        [
            "sklearn.base.clone",
            "sklearn.datasets.fetch_california_housing",
            "sklearn.datasets.fetch_openml",
            "sklearn.datasets.load_digits",
            "sklearn.inspection.permutation_importance",
            "sklearn.model_selection.cross_validate",
            "sklearn.model_selection.train_test_split",
            "sklearn.pipeline.make_pipeline",
        ],
    ),
    ("torch", "class", "generated/{name}.html", ["torch.nn.Module"]),
    ("skorch", "class", "history.html", ["skorch.history.History"]),
    (
        "skorch",
        "class",
        "callbacks.html",
        [
            "skorch.callbacks.Callback",
            "skorch.callbacks.Checkpoint",
            "skorch.callbacks.EarlyStopping",
            "skorch.callbacks.EpochScoring",
            "skorch.callbacks.LRScheduler",
        ],
    ),
]


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory for each project; return what ``intersphinx_mapping`` wants."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for project, address in ADDRESSES.items():
        path = folder / f"{project}.inv"
        path.write_bytes(inventory(project))
        mapping[project] = (address, str(path))
    return mapping


def inventory(project: str) -> bytes:
    """Return a project's inventory in Sphinx's format: a head, then deflated lines."""
    head = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: \n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = [
        f"{name} py:{kind} 1 {page.format(name=name, module=name.split('.')[-2])}#$ -\n"
        for owner, kind, page, names in OBJECTS
        for name in names
        if owner == project
    ]
    return head.encode() + zlib.compress("".join(lines).encode())
