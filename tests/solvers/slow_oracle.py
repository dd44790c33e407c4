"""An oracle that takes its time, and a search with it to be killed; run by test_engine.py.

python -m tests.solvers.slow_oracle STORE LOG
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from solvers.protocols import Genome, Measurement, SearchResult, Unit


@dataclass(frozen=True)
class SlowOracle:
    """Adds a line to a log for each measurement that it begins; the cost names the genome."""

    log: str = os.devnull
    seconds: float = 0.1

    digest: str = "slow"
    num_objectives: int = 1
    unit: Unit = "measurements"

    def measure(self, genomes: Genome) -> Sequence[Measurement]:
        found = []
        for choices in genomes.choices:
            cost = float(choices @ 3 ** np.arange(len(choices)))
            with open(self.log, "a") as log:
                log.write(f"{cost}\n")
            time.sleep(self.seconds)
            found.append(Measurement((cost,)))
        return found

    def end(self, how: str) -> str:
        """Ends a worker, or returns."""
        if how == "hang":
            time.sleep(600)
        if how == "die":
            os._exit(3)
        return how


def run(oracle: SlowOracle, **how: Any) -> SearchResult:
    """Searches 40 measurements long."""
    import solvers
    from solvers.command import Budget

    problem = solvers.Problem(space=solvers.ChoiceSpace(sizes=(3,) * 7), oracle=oracle)
    return solvers.search(problem, "local", Budget(measurements=40), 0, **how)


def main() -> None:
    """Prints what was found."""
    store, log = sys.argv[1:]
    found = run(SlowOracle(log), store=store, workers=4)
    history = found.history[:, 0].tolist()
    print(json.dumps({"history": history, "best": found.costs[0]}))


if __name__ == "__main__":
    main()
