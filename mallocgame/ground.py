"""What mappings are searched on: one scheduled program, with what a compiler told about it."""

from compiler.backends.honour import Placement, read_placement
from compiler.cost.instruction import instruction_costs
from compiler.cost.model import CostModel, Observation, analytic, calibrated, fit
from compiler.hlo import Program
from compiler.targets import Target
from mallocgame import adopt, engine, inputs, instance, knobs, priority
from mallocgame.instance import Problem
from mallocgame.verify import Compiler, Verified, same_schedule


class Ground:
    """What mappings are searched on: a program as it is scheduled under some compile options.

    Attributes:
        program: the scheduled program.
        compiler: with these options as its base, or None.
        own: what the compiler made of this very schedule by itself, by label.
        refused: accesses, by number, that it makes no prefetch for.
    """

    def __init__(
        self, program: Program, target: Target, capacity: int, compiler: Compiler | None
    ) -> None:
        self.program = program
        self.set_compiler(compiler)
        self.own: dict[str, Verified] = {}
        self._placements: dict[str, Placement] = {}
        self.refused: set[int] = set()
        self._capacity = capacity
        self._analytic = analytic(instruction_costs(program), target)
        self._observations: list[Observation] = []

    def set_compiler(self, compiler: Compiler | None) -> None:
        """Changes the options that hold for mappings; the schedule must be the same."""
        self.compiler = compiler
        base = {} if compiler is None else dict(compiler.base)
        self._is_sliced = base.get(knobs.SLICES) != "1"

    def observe(self, compiled: Program) -> None:
        """Takes the compiler's estimates for another placement of the program."""
        target = self._analytic.target
        self._observations += inputs.observe(self.program, compiled, target)

    def observe_own(self, label: str, verified: Verified) -> None:
        """Takes what the compiler made by itself, if it is of the same schedule."""
        if same_schedule(self.program, verified.compiled) is None:
            self.own[label] = verified
            self._placements[label] = read_placement(verified.compiled)
            self.observe(verified.program)

    def costs(self) -> CostModel:
        """Returns the costs as corrected so far."""
        if not self._observations:
            return calibrated(self._analytic.counts, self._analytic.target)
        return fit(self._analytic, self._observations)

    def problem(self) -> Problem:
        """Returns the game, with the costs as corrected so far."""
        crossing = [
            adopt.cross_program(self.program, placement)
            for placement in self._placements.values()
        ]
        candidates = priority.cross_program_candidates(self.program, self._capacity)
        return instance.build(
            self.program,
            self.costs(),
            capacity=self._capacity,
            cross_program=candidates.union(*crossing),
            max_cross_program=max(map(len, [candidates, *crossing])),
            not_copied=self.refused,
            is_sliced=self._is_sliced,
        )

    def seeds(self, problem: Problem) -> dict[str, engine.Plan]:
        """Returns the plans to start from: ours, and what the compiler came to."""
        return engine.seeds(problem) | {
            label: adopt.plan(problem, placement)
            for label, placement in self._placements.items()
        }
