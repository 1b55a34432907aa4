"""How Sphinx builds the documentation: ``make docs``."""

import inspect
import sys
from importlib import import_module
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from numpydoc.xref import DEFAULT_LINKS

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

from inventories import write_inventories  # noqa: E402

import sknn_deep  # noqa: E402  # the one beside this folder

project = "sknn_deep"
author = "The sknn_deep developers"
copyright = "the sknn_deep developers, BSD-3-Clause"
version = release = sknn_deep.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_gallery.gen_gallery",
    "notebook_pair",
    "parameter_groups",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Every reference has to lead somewhere: to a page of ours, or to one of another project.
nitpicky = True
intersphinx_mapping = write_inventories(DOCS / "_build" / "inventories")
intersphinx_timeout = 1  # the inventories are files

# inherited docstrings refer to scikit-learn's glossary; a function here cannot be cached
suppress_warnings = ["ref.term", "config.cache"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have them
toc_object_entries_show_parents = "hide"  # the column beside a page is narrow
numpydoc_show_class_members = False  # autodoc shows them
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"  # of the words in a type, only these are links
DEFAULT_LINKS.clear()  # an `int` needs no page
numpydoc_xref_aliases = {
    "ndarray": "numpy.ndarray",
    "RandomState": "numpy.random.RandomState",
    "DataFrame": "pandas.DataFrame",
    "Axes": "matplotlib.axes.Axes",
    "Figure": "matplotlib.figure.Figure",
    "Line2D": "matplotlib.lines.Line2D",
    "Artist": "matplotlib.artist.Artist",
    "AxesImage": "matplotlib.image.AxesImage",
    "PathCollection": "matplotlib.collections.PathCollection",
    "Colormap": "matplotlib.colors.Colormap",
    "pathlib.Path": "pathlib.Path",
    "Bunch": "sklearn.utils.Bunch",
    "torch.nn.Module": "torch.nn.Module",
    "skorch.history.History": "skorch.history.History",
    "AutoencoderTransformer": "sknn_deep.AutoencoderTransformer",
    "DeepMLPClassifier": "sknn_deep.DeepMLPClassifier",
    "DeepMLPRegressor": "sknn_deep.DeepMLPRegressor",
}


def own_members(full_name):
    """Return the methods that a class has from this package, and its documented properties."""
    module, _, name = full_name.rpartition(".")
    class_ = getattr(import_module(module), name)
    attributes = (inspect.getdoc(class_) or "").partition("\nAttributes\n")[2]
    members = []
    for member, value in inspect.getmembers(class_):
        is_method = inspect.isroutine(value)
        source = getattr(value, "__module__", "") or ""
        is_own = is_method and source.startswith("sknn_deep")
        is_property = isinstance(value, property) and f"\n{member} : " in attributes
        is_known = member in {"get_params", "set_params"}  # scikit-learn's in all but the text
        if not member.startswith("_") and not is_known and (is_own or is_property):
            members.append(member)
    return members


autosummary_context = {"own_members": own_members}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_\w+\.py$",
    "ignore_pattern": r"demo\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_",),  # not the address of a display
    "doc_module": ("sknn_deep",),
    "backreferences_dir": "reference/generated/backreferences",
    "reference_url": {"sknn_deep": None},
}

html_theme = "furo"
html_title = "sknn_deep"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def setup(app):
    """Write equations as MathML, which browsers show without a script from elsewhere."""

    def inline(translator, node):
        translator.body.append(tex2mathml(node.astext()))
        raise SkipNode

    def block(translator, node):
        equation = tex2mathml(node.astext(), as_block=True)
        translator.body.append(f'<div class="equation">{equation}</div>')
        raise SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
