"""How Sphinx builds the documentation: ``make docs``."""

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import sknn_deep

project = "sknn_deep"
author = "The sknn_deep developers"
copyright = "the sknn_deep developers, BSD-3-Clause"
version = release = sknn_deep.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_gallery.gen_gallery"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# inherited docstrings of scikit-learn refer to its glossary
suppress_warnings = ["ref.term"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings have them
numpydoc_show_class_members = False  # autodoc shows them

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
}

html_theme = "furo"
html_title = "sknn_deep"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_math_renderer = "mathml"


def setup(app):
    """Write equations as MathML, which browsers show without a script from elsewhere."""

    def inline(translator, node):
        translator.body.append(tex2mathml(node.astext()))
        raise SkipNode

    def block(translator, node):
        translator.body.append(f"<div>{tex2mathml(node.astext(), as_block=True)}</div>")
        raise SkipNode

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
