"""The tests' state machine for an hour: ``python -m fuzzing.fuzz_interface --minutes 60``.

The machine calls the public interface at random and compares after every call
(``tests/test_state_machine.py``). Each round has a seed of its own. The first call that loses
something, or fails without saying why, is printed as a short list of calls that show it.
"""

import argparse
import sys
import time
from pathlib import Path

from hypothesis import seed

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_state_machine as machine  # noqa: E402


def main():
    """Run rounds of examples until the time is over, and print the number of calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--examples", type=int, default=200, help="of a round")
    parser.add_argument("--calls", type=int, default=30, help="of an example, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    arguments = parser.parse_args()
    start, number = time.perf_counter(), arguments.seed
    while True:
        seed(number)(machine.Interface)
        machine.run(arguments.examples, arguments.calls)
        number += 1
        minutes = (time.perf_counter() - start) / 60
        print(
            f"{machine.Interface.n_steps:,} calls in {number - arguments.seed} rounds, "
            f"{minutes:.1f} minutes",
            flush=True,
        )
        if minutes >= arguments.minutes:
            break


if __name__ == "__main__":
    main()
