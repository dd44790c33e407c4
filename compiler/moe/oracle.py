"""The judge of plans: the production compiler's schedule of the program, walked by the reference simulator.

judge = Judge(setting=setting, topology="v5e:2x4", passes="step")
found = judge(plan)
found.timeline.total, found.compiled.memory
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from compiler import backends
from compiler.backends import Compiled, CompilerError
from compiler.cost import links, timeline
from compiler.cost.timeline import Timeline
from compiler.moe import game, program
from compiler.moe.machine import Setting
from compiler.moe.plan import Plan
from compiler.moe.program import Passes
from solvers.protocols import Genome, Measurement


class Judged(NamedTuple):
    """What the compiler made of a plan."""

    timeline: Timeline  # Cycles of one device.
    compiled: Compiled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """Compiles plans for real chips.

    Attributes:
        setting: the layers; its mesh must have as many devices as the topology.
        topology: such as `v5e:2x4`.
        passes: what is compiled.
        latency: seconds that each collective takes besides its bytes.
    """

    setting: Setting
    topology: str
    passes: Passes
    latency: float = 0.0

    def __call__(self, plan: Plan) -> Judged:
        """Returns the timeline of a plan's program.

        Raises:
            CompilerError: the compiler is missing, failed, or finds no room for it.
            ValueError: the plan is for another mesh, or can't cut these slots.
        """
        names, shape = zip(*self.setting.mesh)
        mesh = backends.mesh(self.topology, shape, names)
        built = program.build(self.setting, plan, self.passes, mesh)
        with backends.without_locations():
            source = backends.from_function(
                built.fn, *built.args, topology=self.topology
            )
        compiled = backends.compile_source(
            source, self.topology, dict(plan.compiler_options)
        )
        prices = links.of_topology(self.topology)
        found = timeline.simulate(
            compiled.module, prices, latency=prices.cycles(self.latency)
        )
        return Judged(found, compiled)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOracle:
    """The judge as the engine's oracle of genomes: millions of cycles.

    Attributes:
        judge: the compiler.
    """

    judge: Judge
    unit: str = "measurements"
    num_objectives: int = 1

    @property
    def digest(self) -> str:
        """Everything that an answer depends on besides the genome."""
        version = backends.backend_of(self.judge.topology).version()
        return f"moe plans, {version}, {self.judge!r}"

    def measure(self, genomes: Genome) -> Sequence[Measurement]:
        """Returns a measurement per genome; what does not compile is a failure."""
        return [self._one(np.asarray(genes)) for genes in genomes.choices]

    def _one(self, genes: np.ndarray) -> Measurement:
        genome = Genome(genes, np.zeros(0, np.float32))
        try:
            found = self.judge(game.plan(self.judge.setting, genome))
        except CompilerError as error:
            return Measurement((math.inf,), f"{error.reason}: {error}")
        return Measurement((found.timeline.total / 1e6,))
