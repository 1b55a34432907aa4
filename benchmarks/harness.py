"""Paired timing: contenders alternate in one process, figures are ratios of medians.

A shared machine drifts by more than the differences of interest, so absolute seconds from
different runs do not compare. Within a run each round times every contender once, in
turn, and a ratio's spread is taken over the rounds.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import sklearn
import torch


def alternate(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], other: str, ours: str = "sknn_deep") -> str:
    """Return how many times longer another contender takes, with its quartiles by round."""
    by_round = np.array(seconds[other]) / np.array(seconds[ours])
    middle = np.median(seconds[other]) / np.median(seconds[ours])
    low, high = np.quantile(by_round, [0.25, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    return {
        "date": date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "torch": torch.__version__,
        "torch threads": str(torch.get_num_threads()),
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(cells) + " |", flush=True)


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    options = argparse.ArgumentParser(description=description.partition("\n")[0])
    options.add_argument("--rounds", type=int, default=7, help="counted rounds")
    options.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    options.add_argument("--json", type=Path, help="also write all timings to this file")
    return options


def save(path: Path | None, results: dict) -> None:
    """Write all timings as JSON, where a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **results}, indent=1))
