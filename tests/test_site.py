"""The site: every reference leads somewhere, every public name has a page, pages fit the window.

The documentation is built without running the gallery and the notebook, which takes seconds; what
these show is tested in ``tests/test_examples.py``.
"""

import contextlib
import gc
import importlib
import io
import os
import re
import runpy
import shutil
import warnings
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_documentation import CLASSES, FUNCTIONS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
WIDTHS = [390, 1024, 1366]
MADE_BY_SPHINX = {"genindex.html", "py-modindex.html", "search.html"}
# The width of the page where it is wider than the window, and the elements that stick out.
TOO_WIDE = """() => {
    const {scrollWidth, clientWidth} = document.documentElement;
    if (scrollWidth <= clientWidth) return null;
    const out = element => element.getBoundingClientRect().right > clientWidth + 1;
    const found = Array.from(document.querySelectorAll("main *")).filter(out).slice(0, 3);
    return [scrollWidth, ...found.map(element => element.outerHTML.slice(0, 120))];
}"""
MISSING_PICTURES = """async () => {
    const missing = [];
    for (const image of document.images) {
        image.loading = "eager";
        await image.decode().catch(() => missing.push(image.getAttribute("src")));
    }
    return missing;
}"""


def _build(folder):
    """Build the site in a folder and return what Sphinx ends with, and what it complains of."""
    from sphinx.cmd.build import main

    gc.disable()  # it would take much of the time, and find little
    warnings.simplefilter("default")
    os.chdir(folder)
    command = ["-q", "-W", "--keep-going", "-b", "html", "-D", "plot_gallery=0"]
    with contextlib.redirect_stderr(io.StringIO()) as complaints:
        code = main([*command, "-D", "run_notebooks=0", "docs", "html"])
    return code, complaints.getvalue()


@pytest.fixture(scope="module")
def site(tmp_path_factory, in_new_process):
    """Build the site from a copy, so that nothing is written beside the sources."""
    pytest.importorskip("sphinx")
    pytest.importorskip("sphinx_gallery")
    folder = tmp_path_factory.mktemp("site")
    built = shutil.ignore_patterns("_build", "auto_examples", "generated")
    for name in ("docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=built)
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    code, complaints = in_new_process(_build, folder)
    assert code == 0, complaints  # any warning fails, as of a reference that leads nowhere
    return folder / "html"


def _pages(site):
    return {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}


def test_every_public_class_and_function_has_a_page(site):
    missing = [
        name
        for name in [*CLASSES, *(function.rpartition(".")[2] for function in FUNCTIONS)]
        if not list(site.glob(f"reference/generated/sknn_deep.*{name}.html"))
    ]
    assert missing == []


def test_parameters_stand_in_groups_with_their_defaults(site):
    text = (site / "reference/generated/sknn_deep.DeepMLPClassifier.html").read_text("utf-8")
    assert re.findall(r'<p class="parameter-group rubric">(.*?)</p>', text) == [
        "Network",
        "Loss",
        "Tables",
        "Training",
        "Regularisation",
        "Validation and stopping",
        "Ensembles",
        "Hardware",
    ]
    (table,) = re.findall(r'<table class="[^"]*parameter-groups.*?</table>', text, re.S)
    assert re.search(r'href="#(deepmlpclassifier-dropout)"><code[^>]*>.*dropout=0.0', table)
    assert text.count('id="deepmlpclassifier-dropout"') == 1


def test_links_within_the_site_lead_somewhere(site):
    pages = _pages(site)
    texts = {name: path.read_text("utf-8") for name, path in pages.items()}
    anchors = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    broken, n_links = [], 0
    for name, text in texts.items():
        for target in re.findall(r'(?:href|src)="([^":]+)"', text):
            path, _, anchor = unquote(target).partition("#")
            path = path.partition("?")[0]
            led_to = (site / name).parent.joinpath(path).resolve() if path else site / name
            n_links += 1
            page = led_to.relative_to(site.resolve()).as_posix() if path else name
            is_known = not anchor or page not in anchors or anchor in anchors[page]
            if not led_to.exists() or not is_known:
                broken.append((name, target))
    assert n_links > 2000
    assert broken == []


def test_pages_fit_the_window_and_miss_nothing(site, browser):
    view, complaints = browser.new_page(), []
    view.on("console", lambda message: complaints.append(message.text))
    view.on("pageerror", lambda error: complaints.append(str(error)))
    view.on("requestfailed", lambda request: complaints.append(request.url))
    pages = {name: path for name, path in _pages(site).items() if name not in MADE_BY_SPHINX}
    assert len(pages) > 55
    found = {}
    for name, path in pages.items():
        view.goto(path.as_uri())
        found[name] = [*complaints, *view.evaluate(MISSING_PICTURES)]
        # pages that are made of docstrings are alike: the narrowest window will do
        for width in WIDTHS[:1] if "/generated/" in name else WIDTHS:
            view.set_viewport_size({"width": width, "height": 900})
            if (too_wide := view.evaluate(TOO_WIDE)) is not None:
                found[name].append((width, too_wide))
        complaints.clear()
    view.close()
    assert {name: faults for name, faults in found.items() if faults} == {}


def test_names_that_are_linked_to_exist_in_their_projects():
    inventories = runpy.run_path(str(ROOT / "docs" / "_ext" / "inventories.py"))
    names = [name for *_, listed in inventories["OBJECTS"] for name in listed]
    assert len(names) > 30
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
