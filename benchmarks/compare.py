"""Two checkouts against each other, row by row: what ``--compare CHECKOUT`` of a benchmark does.

Both versions run the rows of the current benchmarks, each in its own process, which lives as long
as the comparison. In each round both measure the same row, one after the other, and in the next
round in the opposite order. The figure of a row is the median of the rounds' ratios: above 1, the
current version is faster.
"""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import harness

ROOT = Path(__file__).parents[1]
# The package is imported from the checkout, the benchmarks from here.
WORKER = """
import sys
root, checkout, name, n_threads = sys.argv[1:]
sys.path.insert(0, checkout)
import sknn_deep
assert sknn_deep.__file__.startswith(checkout), sknn_deep.__file__
sys.path.insert(0, root)
from benchmarks.compare import answer
answer(name, int(n_threads))
"""


def answer(name: str, n_threads: int) -> None:
    """Read names of rows, one per line, and measure each, until the end of the input."""
    warnings.simplefilter("ignore")
    rows: dict[str, Callable[[], Callable[[], float]]]
    rows = import_module(f"benchmarks.{name}").own_rows()
    print(json.dumps(list(rows)), flush=True)
    present, measure = "", None
    with harness.limited_threads(n_threads):
        for line in sys.stdin:
            if line.strip() != present or measure is None:
                present = line.strip()
                measure = rows[present]()  # holds the data of one row at a time
                measure()
            print(json.dumps(measure()), flush=True)


class Worker:
    """A process that measures rows with the package of a checkout.

    Attributes
    ----------
    rows : list of str
    """

    def __init__(self, process: subprocess.Popen):
        self._process = process
        self.rows: list[str] = self._read()

    def measure(self, row: str) -> float:
        """Return the time of a row in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{row}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The process of a checkout has ended; its error stands above.")
        return json.loads(line)


@contextmanager
def worker(checkout: Path, name: str, n_threads: int) -> Iterator[Worker]:
    """Run a worker for the duration of a block."""
    arguments = [str(ROOT), str(checkout), name, str(n_threads)]
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


def compare(name: str, checkout: Path, arguments: Any, only: Sequence[str] = ()) -> None:
    """Print how many times longer a checkout takes for each row of a benchmark.

    Parameters
    ----------
    name : str
        Name of the module in ``benchmarks``.
    checkout : Path
        A folder with another version of ``sknn_deep``.
    arguments : Namespace
        See :func:`harness.parser`.
    only : sequence of str, default=()
        The rows to time; () means all.
    """
    checkout = checkout.resolve()
    if not (checkout / "sknn_deep" / "__init__.py").is_file():
        raise SystemExit(f"--compare {checkout}: there is no sknn_deep/__init__.py in it.")
    lines, results = [], {}
    with ExitStack() as stack:
        stack.enter_context(harness.busy_neighbours(arguments.neighbours))
        here, there = (
            stack.enter_context(worker(root, name, arguments.threads)) for root in (ROOT, checkout)
        )
        for row in only or here.rows:
            seconds = results[row] = alternated(here, there, row, arguments.rounds)
            own = harness.duration(seconds["sknn_deep"])
            lines.append([row, own, harness.ratio(seconds, "the other")])
    conditions = {"busy neighbours": str(arguments.neighbours)}
    harness.print_machine(threads=str(arguments.threads), **conditions)
    harness.print_table([name, "this checkout", "the other / this"], lines)
    harness.save(arguments.json, results)


def alternated(here: Worker, there: Worker, row: str, rounds: int) -> dict[str, list[float]]:
    """Return the times of a row in each round, for both versions."""
    workers = {"sknn_deep": here, "the other": there}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in list(workers) if number % 2 else reversed(workers):
            seconds[name].append(workers[name].measure(row))
    return seconds
