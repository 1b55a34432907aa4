"""What the documentation says is run and compared with the code."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
from _pytest.doctest import _get_checker, get_optionflags

import sknn_deep

README = Path(__file__).parents[1] / "README.md"
MODULES = [sknn_deep] + [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(sknn_deep.__path__, "sknn_deep.")
]
PUBLIC_MODULES = [module for module in MODULES if "._" not in module.__name__]
DISPLAYS = [
    "CalibrationDisplay",
    "EmbeddingDisplay",
    "HalvingDisplay",
    "ImportanceDisplay",
    "IntervalDisplay",
    "LossCurveDisplay",
    "ReconstructionDisplay",
    "SearchSurfaceDisplay",
    "WeightsDisplay",
]
ESTIMATORS = [
    "AutoencoderTransformer",
    "DeepMLPClassifier",
    "DeepMLPRegressor",
    "FusedGridSearchCV",
    "FusedRandomizedSearchCV",
    "HiddenActivations",
    "TabularMLPClassifier",
    "TabularMLPRegressor",
]


def _public_functions():
    """Return the functions without underscore that public modules define or offer."""
    return {
        f"{module.__name__}.{name}": function
        for module in PUBLIC_MODULES
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name in getattr(module, "__all__", [name])
        if not name.startswith("_") and function.__module__.startswith("sknn_deep")
    }


def _public_methods():
    """Return the methods of the public classes that this package and not scikit-learn defines."""
    return {
        f"{class_.__name__}.{name}": method
        for class_ in _public_classes().values()
        for name, method in inspect.getmembers(class_, inspect.isroutine)
        # methods that a class has from C, such as an exception's, name no module
        if not name.startswith("_") and getattr(method, "__module__", "").startswith("sknn_deep")
    }


def _public_classes():
    """Return the classes that the package and its public modules offer."""
    return {
        name: getattr(module, name)
        for module in PUBLIC_MODULES
        for name in getattr(module, "__all__", [])
        if inspect.isclass(getattr(module, name))
        if not issubclass(getattr(module, name), BaseException)  # those have no signature
    }


def _doctests():
    """Return every docstring with examples, each once, by its dotted name."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for module in MODULES for test in finder.find(module)]
    return {test.name: test for test in tests if test.examples}


CLASSES, FUNCTIONS, METHODS = _public_classes(), _public_functions(), _public_methods()
DOCUMENTED = CLASSES | FUNCTIONS | METHODS
DOCTESTS = _doctests()


def _code_blocks(text):
    """Return the Python code blocks of a Markdown text, each below as many empty lines as precede
    it there, so that a traceback names the line in the text.
    """
    blocks = re.finditer(r"^```python[^\S\n]*\n(.*?)^```[^\S\n]*$", text, re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in blocks]


def _documented_parameters(docstring):
    """Return ``(name, type)`` for each entry of a numpydoc docstring's section on parameters."""
    text = inspect.cleandoc(docstring)
    section = re.search(r"^Parameters\n-{10}\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", text, re.M | re.S)
    if section is None:
        return []
    entries = re.findall(r"^(\S[^\n]*?)(?: : ([^\n]*))?$", section[1], re.MULTILINE)
    return [(name.lstrip("*"), type_) for names, type_ in entries for name in names.split(", ")]


def _documented_default(type_):
    """Return the value after ``default=``, or the signature's mark for none."""
    default = re.search(r"\bdefault=(.*)$", type_)
    if default is None:
        return inspect.Parameter.empty
    return np.nan if default[1] == "np.nan" else ast.literal_eval(default[1])


def _parameters(callable_):
    """Return the parameters of a signature, `self` apart."""
    parameters = inspect.signature(callable_).parameters
    return {name: parameter for name, parameter in parameters.items() if name != "self"}


def test_readme_code_runs(scratch):
    blocks = _code_blocks(README.read_text(encoding="utf-8"))
    assert blocks, "README.md has no python code block"
    namespace = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)


def test_readme_holds_no_placeholder():
    placeholders = r"\b(?:[A-Z]+_TABLE|TODO|FIXME|TBD|XXX)\b"
    assert re.findall(placeholders, README.read_text(encoding="utf-8")) == []


def test_tests_that_the_documentation_names_exist():
    root = README.parent
    texts = [*root.glob("*.md"), *root.glob("docs/**/*.md")]
    names = {
        name
        for path in texts
        for name in re.findall(r"`(test_\w+|tests/[\w/]+\.py)`", path.read_text(encoding="utf-8"))
    }
    written = "\n".join(path.read_text(encoding="utf-8") for path in root.glob("tests/**/*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", written))
    assert len(names) > 50
    missing = [name for name in names if name not in defined and not Path(root, name).is_file()]
    assert missing == []


def test_links_to_headings_lead_to_headings():
    root, links, broken = README.parent, 0, []
    for path in [*root.glob("*.md"), *root.glob("docs/**/*.md")]:
        for target, anchor in re.findall(
            r"\]\(([\w./-]*)#([\w-]+)\)", path.read_text(encoding="utf-8")
        ):
            page = (path.parent / target) if target else path
            text = page.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
            slugs = {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            }
            labels = set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.MULTILINE))
            links += 1
            broken += [f"{path.name}: {target}#{anchor}"] * (anchor not in slugs | labels)
    assert links > 5
    assert broken == []


def test_links_of_the_readme_lead_to_files():
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"(?:\]\(|(?:src|href)=\")([^)\"#:\s]+)(?=[)\"#])", text)
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []


def test_code_blocks_are_found_with_their_lines():
    text = "one\n```python\na = 1\n```\n```\nno\n```\n```python\nb = 2\nc = 3\n```\n"
    assert _code_blocks(text) == ["\n\na = 1\n", "\n" * 8 + "b = 2\nc = 3\n"]


@pytest.mark.parametrize("name", sorted(DOCTESTS))
def test_docstring_examples_run(name, scratch, request):
    runner = doctest.DocTestRunner(
        checker=_get_checker(), optionflags=get_optionflags(request.config)
    )
    report = []
    results = runner.run(DOCTESTS[name], out=report.append)
    assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("name", [*ESTIMATORS, *DISPLAYS, "summary"])
def test_estimators_displays_and_the_summary_show_an_example(name):
    assert any(test.endswith(f".{name}") for test in DOCTESTS)


def test_estimators_and_displays_are_public():
    assert {*ESTIMATORS, *DISPLAYS} <= set(CLASSES)
    assert "sknn_deep.summary" in FUNCTIONS


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_every_parameter_is_documented_in_order(name):
    documented = [parameter for parameter, _ in _documented_parameters(DOCUMENTED[name].__doc__)]
    assert documented == list(_parameters(DOCUMENTED[name]))


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_documented_defaults_are_those_of_the_signature(name):
    parameters = _parameters(DOCUMENTED[name])
    documented = {
        parameter: _documented_default(type_)
        for parameter, type_ in _documented_parameters(DOCUMENTED[name].__doc__)
    }
    actual = {parameter: parameters[parameter].default for parameter in documented}
    assert {key: repr(value) for key, value in documented.items()} == {
        key: repr(value) for key, value in actual.items()
    }


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_every_parameter_has_a_type(name):
    untyped = [
        parameter
        for parameter, type_ in _documented_parameters(DOCUMENTED[name].__doc__)
        if not type_
    ]
    assert not untyped


def test_parameters_are_read_from_a_docstring():
    docstring = """Do it.

    Parameters
    ----------
    X, y : array-like
        The data: not a parameter.

        note : of the same paragraph

    rate : {"a", "b"} or float, default=0.5
        How fast.

    untyped
        What it says.

    Returns
    -------
    out : ndarray
        The result.
    """
    parameters = _documented_parameters(docstring)
    assert parameters == [
        ("X", "array-like"),
        ("y", "array-like"),
        ("rate", '{"a", "b"} or float, default=0.5'),
        ("untyped", ""),
    ]
    assert [_documented_default(type_) for _, type_ in parameters[1:3]] == [
        inspect.Parameter.empty,
        0.5,
    ]
