"""A notebook beside another one that does the same, cell by cell, with the output of the first.

The directive ``notebook-pair`` takes two notebooks with as many code cells. The first is executed
in the build, its texts stand between the cells, and what it prints and draws stands below them. The
second is shown only, so that what it needs does not have to be installed.
"""

import ast
import contextlib
import io
import json
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

_LOGGER = logging.getLogger(__name__)


class NotebookPair(SphinxDirective):
    required_arguments = 2
    option_spec = {"names": lambda text: text.split(" and ")}

    def run(self):
        folder = Path(self.env.doc2path(self.env.docname)).parent
        paths = [folder / argument for argument in self.arguments]
        for path in paths:
            self.env.note_dependency(str(path))
        first, second = map(read_cells, paths)
        pairs = pair_cells(first, second)
        outputs, content = [None] * len(first), []
        if self.config.run_notebooks:
            try:
                outputs = run_cells(first, folder / "generated", paths[0].stem)
            except OSError as error:  # no data set, and no network to load it from
                _LOGGER.info("%s is shown without its output: %s", paths[0].name, error)
                reason = f"This page was built without the output of its cells: {error}"
                content.append(nodes.note("", nodes.paragraph("", reason)))
        for (kind, source), output, other in zip(first, outputs, pairs, strict=True):
            if kind == "markdown":
                content += self._text(source)
                continue
            pair = nodes.container(classes=["notebook-pair"])
            for name, code in zip(self.options["names"], (source, other), strict=True):
                pair += self._column(name, code)
            content += [pair, *self._output(output)]
        return [*content, self._total(first, second)]

    def _text(self, source):
        if source.startswith("## "):  # a title cannot stand in a directive
            title, _, source = source.partition("\n")
            yield nodes.rubric("", title.removeprefix("## "), classes=["notebook-title"])
        parent = nodes.Element()
        self.state.nested_parse(StringList(source.splitlines(), "notebook"), 0, parent)
        yield from parent.children

    def _column(self, name, code):
        n_lines = count_lines(code)
        unit = "line" if n_lines == 1 else "lines"
        column = nodes.container()
        column += nodes.paragraph("", f"{name}, {n_lines} {unit}", classes=["caption"])
        column += nodes.literal_block(code, code, language="python")
        return column

    def _output(self, output):
        if output is None:
            return
        printed, pictures = output
        if printed:
            yield nodes.literal_block(printed, printed, language="text")
        for picture in pictures:
            yield nodes.image(uri=f"generated/{picture.name}", alt="Drawn by the cell above")

    def _total(self, first, second):
        counts = [
            sum(count_lines(code) for kind, code in cells if kind == "code")
            for cells in (first, second)
        ]
        names = self.options["names"]
        text = " and ".join(
            f"{count} lines of {name}" for count, name in zip(counts, names, strict=True)
        )
        return nodes.paragraph("", f"All in all {text}.")


def read_cells(path):
    """Return ``(kind, source)`` for each cell of a notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def pair_cells(first, second):
    """Return for each cell of the first notebook the code cell of the second beside it."""
    codes = [[source for kind, source in cells if kind == "code"] for cells in (first, second)]
    if len(codes[0]) != len(codes[1]):
        raise ValueError(
            f"the notebooks have {len(codes[0])} and {len(codes[1])} cells of code; each cell "
            "needs one beside it."
        )
    others = iter(codes[1])
    return [next(others) if kind == "code" else None for kind, _ in first]


def count_lines(code):
    """Return the number of lines that are not empty."""
    return sum(bool(line.strip()) for line in code.splitlines())


def run_cells(cells, folder, stem):
    """Run the cells of code one after the other, in one namespace.

    Returns for each cell what it printed and the pictures that it drew, or None for a text.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(exist_ok=True)
    namespace, outputs = {"__name__": "__main__"}, []
    plt.close("all")
    for i, (kind, source) in enumerate(cells):
        if kind != "code":
            outputs.append(None)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            value = _run(source, namespace)
            if value is not None and not hasattr(value, "figure_"):  # a display is a picture
                print(value)
        pictures = []
        for number in plt.get_fignums():
            pictures.append(folder / f"{stem}_{i}_{number}.png")
            plt.figure(number).savefig(pictures[-1], dpi=110)
        plt.close("all")
        outputs.append((printed.getvalue().rstrip("\n"), pictures))
    return outputs


def _run(source, namespace):
    """Run a cell; return the value of its last line, as a notebook does, unless it ends in ";"."""
    tree = ast.parse(source)
    is_shown = isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";")
    last = tree.body.pop() if is_shown else None
    exec(compile(tree, "<cell>", "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)


def setup(app):
    app.add_config_value("run_notebooks", True, "env", bool)
    app.add_directive("notebook-pair", NotebookPair)
    return {"parallel_read_safe": True}
