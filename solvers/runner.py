"""Has an oracle measure: from disk where it can, in parallel where it may, failures kept as such."""

import hashlib
import math
import time
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from solvers import spaces
from solvers.pool import TimeLimit
from solvers.protocols import Genome, Measurement, Oracle
from solvers.store import Store


class Runner:
    """Measures batches.

    The order and the number of workers change nothing about the answers. Each schedule is a task,
    recorded before its worker takes the next: of a search that is killed no more is lost than was
    at work. Only a simulator in this process, without a store, is given whole batches.

    Args:
        oracle: the judge; with workers it is pickled for each task.
        store: where measurements are kept; None for nowhere.
        executor: where tasks run; None for this process.
        workers: tasks at a time, with an executor.
        retries: further attempts after an exception or the death of a worker. A time limit
            that was exceeded would be so again.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        store: Store | None = None,
        executor: Executor | None = None,
        workers: int = 1,
        retries: int = 1,
    ) -> None:
        self._oracle = oracle
        self._store = store
        self._executor = executor
        self._retries = retries
        self._threads = (
            None if executor is None else ThreadPoolExecutor(max(1, workers))
        )
        self._prefix = b"" if store is None else oracle.digest.encode()

    def measure(self, genomes: Genome) -> list[Measurement]:
        """Returns a measurement of each genome of a batch, in order."""
        genomes = spaces.host(genomes)
        rows = [spaces.take(genomes, [k]) for k in range(len(genomes.choices))]
        if self._threads is not None:
            # Waited for in order; whoever waits is told of an interrupt.
            futures = [self._threads.submit(self._one, row) for row in rows]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()
        if self._store is None and self._oracle.unit == "simulations":
            # Of a pure function an exception is a fault, not a passing trouble.
            return _checked(self._oracle, genomes)
        return [self._one(row) for row in rows]

    def close(self) -> None:
        """Waits for what is at work, and begins nothing more."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def _one(self, genome: Genome) -> Measurement:
        """Returns the measurement of a batch of one."""
        key = hashlib.sha256(self._prefix + spaces.keys(genome)[0]).digest()
        known = None if self._store is None else self._store.get(key)
        if known is not None:
            return known
        begun = time.monotonic()
        found, final = self._attempt(genome)
        attempts = 1
        while not final and attempts <= self._retries:
            found, final = self._attempt(genome)
            attempts += 1
        if self._store is not None:
            seconds = time.monotonic() - begun
            self._store.put(key, found, attempts=attempts, seconds=seconds)
        return found

    def _attempt(self, genome: Genome) -> tuple[Measurement, bool]:
        """Returns a measurement, and whether another attempt would be in vain."""
        try:
            if self._executor is None:
                return _checked(self._oracle, genome)[0], True
            future = self._executor.submit(_checked, self._oracle, genome)
            return future.result()[0], True
        except Exception as error:  # The oracle is somebody else's code.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            infinite = (math.inf,) * self._oracle.num_objectives
            return Measurement(infinite, reason), isinstance(error, TimeLimit)


def _checked(oracle: Oracle, genomes: Genome) -> list[Measurement]:
    """Returns what the oracle says, if it is an answer: costs, or the reason that there are none."""
    found = oracle.measure(genomes)
    count = len(genomes.choices)
    if len(found) != count:
        raise ValueError(f"the oracle gave {len(found)} measurements of {count}")
    return [_answer(measurement, oracle.num_objectives) for measurement in found]


def _answer(measurement: Measurement, num_objectives: int) -> Measurement:
    infinite = (math.inf,) * num_objectives
    if measurement.failure:
        return Measurement(infinite, measurement.failure)
    if len(measurement.costs) != num_objectives:
        raise ValueError(
            f"the oracle gave {len(measurement.costs)} costs, not {num_objectives}"
        )
    if not np.isfinite(measurement.costs).all():
        return Measurement(infinite, "not finite")
    return measurement
