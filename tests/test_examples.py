"""The gallery's scripts and the code of the documentation's pages run, and print what they show."""

import contextlib
import io
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn
from _pytest.doctest import _get_checker, get_optionflags
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.utils import Bunch
from test_documentation import _code_blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GALLERY = sorted(path.name for path in (ROOT / "examples").glob("plot_*.py"))
PAGES = {path.relative_to(DOCS).as_posix(): path for path in DOCS.rglob("*.md")}
WITH_CODE = sorted(name for name, path in PAGES.items() if _code_blocks(path.read_text("utf-8")))
SLOW = {
    "how-to/draw_pictures.md",
    "how-to/use_an_autoencoder.md",
    "how-to/use_tables.md",
    "tutorials/a_real_table.md",
    "tutorials/autoencoder.md",
    "tutorials/regression_in_dollars.md",
}
OUTPUT = re.compile(r"^```python[^\S\n]*\n.*?^```[^\S\n]*$(?:\s*^```text\n(.*?)^```)?", re.M | re.S)

# what a page's other code does not need, and is not run with it
NEEDS = re.compile(r"^<!-- needs ([\w, ]+) -->\n```py\n(.*?)^```$", re.M | re.S)
WITH_PACKAGES = [
    pytest.param(name, packages.split(", "), block, id=f"{name}-{packages}")
    for name, path in sorted(PAGES.items())
    for packages, block in NEEDS.findall(path.read_text("utf-8"))
]


def _shown_output(text):
    """Return for each Python block of a page what stands in the text block right after it."""
    return [block[1] for block in OUTPUT.finditer(text)]


@pytest.fixture
def quick_maps(monkeypatch):
    """Let t-SNE, which is scikit-learn's, take as few steps as it may."""
    monkeypatch.setattr("sklearn.manifold.TSNE", partial(TSNE, max_iter=250))


@pytest.fixture
def few_digits(monkeypatch):
    """Offer scripts, which print no number that is compared, a third of the digits."""

    def load_few(*, return_X_y=False):
        digits = load_digits()
        digits.update({name: digits[name][:600] for name in ("data", "target", "images")})
        return (digits.data, digits.target) if return_X_y else digits

    monkeypatch.setattr("sklearn.datasets.load_digits", load_few)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_maps", "few_digits")
@pytest.mark.parametrize("name", GALLERY)
def test_gallery_script_draws_its_pictures(name, scratch, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)  # a backend without a screen warns
    monkeypatch.delenv("DATA", raising=False)
    with plt.rc_context():
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    assert plt.get_fignums()
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()


def test_gallery_is_there():
    assert {
        "plot_anomaly_detection.py",
        "plot_mnist_autoencoder_2d.py",
        "plot_mnist_autoencoder_tsne.py",
        "plot_mnist_classifier.py",
        "plot_pipeline_grid_search.py",
    } < set(GALLERY)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_maps", "few_digits")
def test_demo_draws_four_pictures_and_prints_a_table(scratch, monkeypatch, capsys):
    command = ["demo.py", "--data", "digits", "--output", str(scratch / "demo")]
    monkeypatch.setattr(sys, "argv", command)
    with plt.rc_context():
        runpy.run_path(str(ROOT / "examples" / "demo.py"), run_name="__main__")
    pictures = {"loss_curves.png", "codes_2d.png", "reconstructions.png", "tsne.png"}
    assert {path.name for path in (scratch / "demo").iterdir()} == pictures
    rows = re.findall(
        r"^ *(classifier|autoencoder) ([\d-]+) .*\d[.]\d+%? *$", capsys.readouterr().out, re.M
    )
    assert [kind for kind, _ in rows] == ["classifier", "autoencoder", "autoencoder"]


@pytest.mark.usefixtures("quick_maps")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in WITH_CODE]
)
def test_page_prints_and_draws_what_it_shows(name, scratch, request):
    text = PAGES[name].read_text("utf-8")
    checker, options = _get_checker(), get_optionflags(request.config)
    namespace = {"__name__": "__main__"}
    if "to_html(" in "".join(_code_blocks(text)):
        pytest.importorskip("plotly")
    with sklearn.config_context():
        for block, shown in zip(_code_blocks(text), _shown_output(text), strict=True):
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block, str(PAGES[name]), "exec"), namespace)
            if shown is not None:
                assert checker.check_output(shown, printed.getvalue(), options), printed.getvalue()
    pictures = set(re.findall(r"\]\(\.\./images/(\w+\.png)\)", text))
    assert pictures == {path.name for path in scratch.glob("*.png")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "packages", "block"), WITH_PACKAGES)
def test_block_that_needs_packages_runs_where_they_are_installed(name, packages, block, scratch):
    for package in packages:
        pytest.importorskip(package)
    before = "\n".join(_code_blocks(PAGES[name].read_text("utf-8").partition(block)[0]))
    Path("script.py").write_text(f"{before}\n{block}", encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_blocks_that_need_packages_are_found():
    found = {package for param in WITH_PACKAGES for package in param.values[1]}
    assert found == {"captum", "mlflow", "optuna", "optuna_integration", "shap"}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_links_between_pages_lead_to_files(name):
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[\w-]*)?\)", PAGES[name].read_text("utf-8"))
    paths = [PAGES[name].parent / target for target in targets if "auto_examples" not in target]
    assert [path for path in paths if not path.exists()] == []


def test_output_is_found_beside_its_block():
    text = "```python\na\n```\n\n```text\n1\n```\n```python\nb\n```\nprose\n\n```text\n2\n```\n"
    assert _shown_output(text) == ["1\n", None]


def test_course_notebook_runs_beside_one_of_keras(scratch, monkeypatch):
    pair = runpy.run_path(str(DOCS / "_ext" / "notebook_pair.py"))
    names = ["course.ipynb", "course_keras.ipynb"]
    ours, keras = (pair["read_cells"](DOCS / "tutorials" / name) for name in names)
    others = [code for code in pair["pair_cells"](ours, keras) if code is not None]
    for code in others:
        compile(code, "<cell of Keras>", "exec")
    assert sum(map(pair["count_lines"], others)) > 1.5 * sum(
        pair["count_lines"](code) for kind, code in ours if kind == "code"
    )
    images, labels = load_digits(return_X_y=True)
    images = np.pad(np.kron(images[:400].reshape(-1, 8, 8) / 16, np.ones((3, 3))), 2)[2:-2]
    half = {"X_train": images.reshape(-1, 784), "y_train": labels[:400]}
    small = Bunch(**half, X_test=half["X_train"][:200], y_test=labels[:200])
    monkeypatch.setattr("sknn_deep.datasets.fetch_mnist", lambda: small)  # scikit-learn's digits
    outputs = pair["run_cells"](ours, scratch, "course")
    assert sum(len(output[1]) for output in outputs if output) == 5
    printed = "\n".join(output[0] for output in outputs if output)
    assert re.search(r"^\(\(400, 784\), \(200, 784\)\)$", printed, re.M)
    assert re.search(r"^test accuracy 0\.\d{4}$", printed, re.M)
    assert len(re.findall(r"^mean squared error 0\.\d{4}$", printed, re.M)) == 2
