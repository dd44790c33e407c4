"""The closed loop of one search: simulate, have the best compiled, correct the costs, repeat.

Propose in the fast simulator; hand the best mapping to the production compiler; bend the cost model
to what the compiler estimates for that placement; search again. What is handed over is the best
mapping that the compiler itself has confirmed, never worse than its own default. Without a
compiler the simulator's word stands, and says so.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from compiler.backends import CompilerError
from compiler.backends import overrides as msa
from compiler.backends.honour import read_placement
from compiler.cost.instruction import instruction_costs
from compiler.cost.judge import Verdict, judge
from compiler.cost.model import CostModel, Observation, analytic, fit
from compiler.targets import Target
from mallocgame import (
    adopt,
    engine,
    inputs,
    instance,
    mapping,
    overrides,
    priority,
    relaxation,
    validate,
)
from mallocgame.accesses import Access
from mallocgame.engine import Found, Settings
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping
from mallocgame.verify import Compiler, Verified, same_schedule
from solvers.command import Session
from solvers.command import Verified as VerifiedFigures

if TYPE_CHECKING:
    from mallocgame.search import SearchFlags

_CHECKPOINT = "best.npz"
# The compiler's default is 1.
_CROSS_PROGRAM_COUNTS = (0, 2)
# Everything in slow memory: the second point that the cost model is fitted to.
_ALL_SLOW = {
    msa.OPTION: "overrides { hlo_position_matcher { size_gte: 1 } keep_in_default_memory {} }",
    msa.CROSS_PROGRAM_OPTION: "0",
}


@dataclasses.dataclass(kw_only=True)
class Candidate:
    """What was compiled: a mapping, or (`mapping` None) the compiler's own under other knobs."""

    label: str
    mapping: Mapping | None
    problem: Problem
    simulated: float
    verified: Verified


@dataclasses.dataclass(kw_only=True)
class Result:
    """All that a search found. Seconds.

    Attributes:
        given: the input.
        target: the chip.
        problem: the game, with the costs as they were at the end.
        mapping: the mapping handed over, valid.
        hand_over: `"mapping"`; `"options"` if only knobs beat the compiler's own, which are then in
            the compile options; or `"default"` if nothing does.
        best: time of what is handed over: judged if it was compiled, else simulated.
        by: which strategy found it.
        baselines: simulated times by name.
        default: which of them `best` is compared with.
        bound: proven lower bound of simulated times, or None if the judged time undercuts it.
        default_verdict: the compiler's own mapping as judged, if the dump or the compiler has it.
        default_verified: the compiler's own compile, if it was asked.
        candidates: mappings that were compiled, in order.
        chosen: the one handed over, or None if the compiler's default is (or nothing was compiled).
        history: (simulations, best simulated seconds).
        notes: what a person should know.
    """

    given: inputs.Input
    target: Target
    problem: Problem
    mapping: Mapping
    hand_over: str
    best: float
    by: str
    baselines: dict[str, float | None]
    default: str
    bound: float | None
    default_verdict: Verdict | None
    default_verified: Verified | None
    candidates: list[Candidate]
    chosen: Candidate | None
    history: list[tuple[int, float]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns mapping.json."""
        document: dict[str, Any] = mapping.to_json(self.problem, self.mapping)
        document["hand_over"] = self.hand_over
        document["cost_source"] = self.problem.costs.source
        document["compiler_options"] = self.options()
        return document

    def options(self) -> dict[str, str]:
        """Returns the compile options that carry what is handed over."""
        if self.chosen is not None:
            return dict(self.chosen.verified.options)
        if self.hand_over == "default":
            return {}
        order = overrides.cross_program(self.problem, self.mapping)
        decisions = overrides.overrides(self.problem, self.mapping)
        return msa.options(decisions, order, len(order), 1000)

    def overrides_text(self) -> str:
        """Returns overrides.textproto."""
        return (
            self.options()
            .get(msa.OPTION, "")
            .replace("} overrides {", "}\noverrides {")
            + "\n"
        )

    def verified(self) -> VerifiedFigures | None:
        """Returns the oracle's figures for the JSON, or None if it was not asked."""
        if self.default_verified is None:
            return None
        before = self.default_verified.verdict.total
        after = before if self.chosen is None else self.chosen.verified.verdict.total
        share = 1.0 if self.chosen is None else self.chosen.verified.share
        version = self.default_verified.compiled.version
        return VerifiedFigures(by=version, baseline=before, best=after, honoured=share)

    def verified_table(self) -> tuple[Sequence[str], list[list[str]]]:
        """Returns columns and rows of the compiler's figures; no rows if it was not asked."""
        columns = ("mapping", "judged", "instructions", "waits", "cold run", "honoured")
        rows = []
        if self.default_verified is not None:
            rows.append(
                ["compiler's own", *_figures(self.default_verified.verdict), ""]
            )
        for candidate in self.candidates:
            mark = " (handed over)" if candidate is self.chosen else ""
            share = f"{candidate.verified.honoured}/{candidate.verified.decisions}"
            rows.append(
                [
                    f"{candidate.label}{mark}",
                    *_figures(candidate.verified.verdict),
                    share,
                ]
            )
        return columns, rows

    def extra(self) -> dict[str, Any]:
        """Returns the command's own keys of the JSON."""
        return {
            "found_by": self.by,
            "hand_over": self.hand_over,
            "cost_source": self.problem.costs.source,
            "capacity_bytes": self.problem.capacity,
            "accesses": len(self.problem.accesses),
            "notes": self.notes,
            "compiles": [
                {
                    "label": candidate.label,
                    "simulated": candidate.simulated,
                    "judged": candidate.verified.verdict.total,
                    "cold": candidate.verified.verdict.cold,
                    "honoured": candidate.verified.share,
                    "not_honoured": [list(pair) for pair in candidate.verified.instead],
                }
                for candidate in self.candidates
            ],
        }


def compiler_for(
    given: inputs.Input, target: Target, flags: "SearchFlags", session: Session
) -> Compiler | None:
    """Returns the production compiler for this input, or None with a note saying why not."""
    if flags.verify == "never":
        return None
    why = None
    if given.source is None:
        why = "the dump has no before_optimizations.hlo.pb beside it"
    elif flags.fast_bytes is not None:
        why = "--fast-bytes is not the chip's own capacity"
    elif target.topology is None:
        why = f"{target.name} is not a chip that the compiler here compiles for"
    if why is None and given.source is not None:
        try:
            compiler = Compiler.from_dump(given.source, target, flags.compile_timeout)
            with session.progress("compiling the default"):
                default = compiler.default()
            why = same_schedule(given.program, default.compiled)
            if why is None:
                return compiler
            why = f"the recompiled program is another: {why}"
        except CompilerError as error:
            if flags.verify == "always":
                raise
            why = str(error)
    if flags.verify == "always":
        raise CompilerError("invalid-module", f"cannot verify: {why}")
    session.note(f"not verified by a compiler: {why}")
    return None


def run(
    given: inputs.Input,
    target: Target,
    flags: "SearchFlags",
    session: Session,
    compiler: Compiler | None,
    resumed: bool,
) -> Result:
    """Searches within the budget and returns the best, valid, and verified where that is possible."""
    loop = _Loop(given, target, flags, session, compiler)
    return loop.run(resumed)


class _Loop:
    """State of one closed loop."""

    def __init__(
        self,
        given: inputs.Input,
        target: Target,
        flags: "SearchFlags",
        session: Session,
        compiler: Compiler | None,
    ) -> None:
        self._given, self._target, self._flags = given, target, flags
        self._session, self._compiler = session, compiler
        self._base = analytic(instruction_costs(given.program), target)
        self._observations: list[Observation] = []
        self._notes: list[str] = []
        self._history: list[tuple[int, float]] = []
        self._spent = 0
        self._candidates: list[Candidate] = []
        self._plans: list[engine.Plan] = []
        self._refused: set[int] = set()
        self._default: Verified | None = None

    def run(self, resumed: bool) -> Result:
        verdict = self._learn_defaults()
        problem = self._problem()
        self._turn_knobs(problem)
        settings = Settings(
            strategy=self._flags.strategy,
            seed=self._flags.seed,
            lanes=self._flags.lanes,
            num_simulations=self._flags.simulations,
        )
        problem = self._problem()
        plans = self._seeds(problem)
        if resumed:
            plans |= self._load(problem)
        with self._session.progress("searching") as bar:
            bar.update("compiling the game")
            start = engine.evaluate(problem, plans, settings)
            found = self._search(problem, start, settings, bar, self._phase_end(0))
            rounds = 0
            while self._compiler is not None and self._compile(problem, found, bar):
                rounds += 1
                if self._session.meter.done() or self._flags.strategy in (
                    "msa",
                    "greedy",
                ):
                    break
                problem = self._problem()
                plans = {**self._seeds(problem), "found": found.plan}
                plans |= {f"compiled {k}": c for k, c in enumerate(self._plans[-2:])}
                start = engine.evaluate(problem, plans, settings)
                varied = dataclasses.replace(
                    settings, seed=settings.seed + 1000 * rounds
                )
                found = self._search(
                    problem, start, varied, bar, self._phase_end(rounds)
                )
        return self._result(problem, found, start, verdict)

    def _learn_defaults(self) -> Verdict | None:
        """Takes the compiler's estimates for its own mapping and for everything in slow memory."""
        program, target = self._given.program, self._target
        if self._compiler is not None:
            self._default = self._compiler.default()
            self._observations += inputs.observe(program, self._default.program, target)
            slow = self._compiler.compile(_ALL_SLOW)
            self._observations += inputs.observe(
                program, inputs.build(slow.module), target
            )
            self._session.meter.spend(measurements=2)
            return self._default.verdict
        if self._given.compiled is not None:
            self._observations += inputs.observe(program, self._given.compiled, target)
            return judge(self._given.compiled, target)
        return None

    def _turn_knobs(self, problem: Problem) -> None:
        """Compiles the program-level knob that tensor overrides do not reach, each setting once."""
        if self._compiler is None:
            return
        for count in _CROSS_PROGRAM_COUNTS:
            options = {msa.CROSS_PROGRAM_OPTION: str(count)}
            verified = self._compiler.own(options)
            self._session.meter.spend(measurements=1)
            self._candidates.append(
                Candidate(
                    label=f"own, {count} cross-program prefetches",
                    mapping=None,
                    problem=problem,
                    simulated=verified.verdict.total,
                    verified=verified,
                )
            )
            self._observations += inputs.observe(
                self._given.program, verified.program, self._target
            )

    def _own(self) -> dict[str, Verified]:
        """What the compiler made by itself, by label."""
        own = {} if self._default is None else {"compiler's own": self._default}
        return own | {
            c.label: c.verified for c in self._candidates if c.mapping is None
        }

    def _seeds(self, problem: Problem) -> dict[str, engine.Plan]:
        """The plans that a search starts from: ours, and what the compiler itself came to."""
        return engine.seeds(problem) | {
            label: adopt.plan(problem, read_placement(verified.compiled))
            for label, verified in self._own().items()
        }

    def _costs(self) -> CostModel:
        return fit(self._base, self._observations) if self._observations else self._base

    def _problem(self) -> Problem:
        program = self._given.program
        capacity = self._flags.fast_bytes or self._target.capacity
        crossing = [
            adopt.cross_program(program, read_placement(verified.compiled))
            for verified in self._own().values()
        ]
        candidates = priority.cross_program_candidates(program, capacity)
        return instance.build(
            program,
            self._costs(),
            capacity=capacity,
            cross_program=candidates.union(*crossing),
            max_cross_program=max(map(len, [candidates, *crossing])),
            not_copied=self._refused,
        )

    def _phase_end(self, phase: int) -> float:
        """Share of the budget at which a phase of searching makes way for a compile."""
        if self._compiler is None:
            return 1.0
        return min(0.4 + 0.15 * phase, 1.0)

    def _search(
        self,
        problem: Problem,
        start: dict[str, Found],
        settings: Settings,
        bar: Any,
        share: float,
    ) -> Found:
        meter = self._session.meter

        def done() -> bool:
            return bool(meter.done()) or meter.fraction() >= share

        found = min(start.values(), key=lambda f: f.seconds)
        # Costs may have been corrected since the last phase, so nothing is compared with it.
        shown = math.inf
        for step in engine.search(problem, start, settings, done):
            meter.spend(simulations=step.simulations)
            self._spent += step.simulations
            if step.found.seconds < shown:
                shown = step.found.seconds
                self._history.append((self._spent, step.found.seconds))
                self._save(step.found)
            found = step.found
            bar.update(f"{found.seconds * 1e6:.1f} us by {found.by}")
        return found

    def _compile(self, problem: Problem, found: Found, bar: Any) -> bool:
        """Compiles the best mapping; returns whether another round may help."""
        assert self._compiler is not None
        bar.update("compiling")
        chosen = mapping.from_state(problem, found.state)
        validate.require_valid(problem, chosen)
        try:
            verified = self._compiler.verify(problem, chosen)
        except CompilerError as error:
            said = msa.rejection(str(error))
            self._session.meter.spend(measurements=1)
            if said is not None and self._learn_refusal(problem, said.use):
                return True
            self._notes.append(f"compile {len(self._candidates) + 1}: {error}")
            return False
        self._session.meter.spend(measurements=1)
        repeated = any(c.verified.options == verified.options for c in self._candidates)
        for override, _ in verified.refused:
            if isinstance(override.where, msa.UseAt):
                self._learn_refusal(problem, override.where)
        self._candidates.append(
            Candidate(
                label=f"mapping {len(self._plans) + 1}",
                mapping=chosen,
                problem=problem,
                simulated=found.seconds,
                verified=verified,
            )
        )
        self._plans.append(found.plan)
        self._observations += inputs.observe(
            self._given.program, verified.program, self._target
        )
        return not (repeated and self._session.meter.fraction() > 0.9)

    def _learn_refusal(self, problem: Problem, use: msa.UseAt) -> bool:
        """Stops proposing prefetches of the kind that the compiler refused; tells if that is new.

        What it refuses at one place (a prefetch for an in-place update of an argument, say) it
        refuses at all places of that kind, and each refusal costs a compile.
        """
        program = problem.program

        def kind(access: Access, name: str, operand: int) -> tuple[object, ...] | None:
            for found in access.uses:
                if found.operand == operand and (not name or found.node.name == name):
                    buffer = program.buffers[access.buffer]
                    ends = (buffer.is_parameter, buffer.is_live_out, access.writes)
                    return (found.node.opcode, operand, *ends)
            return None

        kinds = {kind(a, use.instruction, use.operand) for a in problem.accesses} - {
            None
        }
        new = {a.number for a in problem.accesses if kind(a, "", use.operand) in kinds}
        grown = not new <= self._refused
        self._refused |= new
        return grown

    def _best_candidate(self) -> Candidate | None:
        """Returns the best that was compiled, if it beats the compiler's own."""
        if self._default is None:
            return None
        better = [
            candidate
            for candidate in self._candidates
            if candidate.verified.verdict.total < self._default.verdict.total
        ]
        return min(better, key=lambda c: c.verified.verdict.total, default=None)

    def _result(
        self,
        problem: Problem,
        found: Found,
        start: dict[str, Found],
        verdict: Verdict | None,
    ) -> Result:
        chosen = self._best_candidate()
        final = mapping.from_state(problem, found.state)
        validate.require_valid(problem, final)
        hand_over, best, by = "mapping", found.seconds, found.by
        if chosen is not None:
            # Compared with the compiler's own by the judge of both.
            best = chosen.verified.verdict.total
            if chosen.mapping is None:
                hand_over, by = "options", "knobs"
                self._notes.append(f"best is the compiler's {chosen.label}")
            else:
                final, problem = chosen.mapping, chosen.problem
        elif verdict is not None and (
            self._default is not None or best > verdict.total
        ):
            hand_over, best, by = "default", verdict.total, "compiler"
            self._notes.append(
                "nothing found beats the compiler's own: it is handed over"
            )
        bound: float | None = relaxation.lower_bound(problem)
        if bound is not None and chosen is not None and bound > best:
            # It bounds the simulator, not the judge.
            bound = None
            self._notes.append("the judged time is below the simulator's lower bound")
        default = "msa" if verdict is None else "xla"
        baselines: dict[str, float | None] = {
            "all_slow": float(problem.instance.all_slow_seconds),
            "msa": start["msa"].seconds,
            "greedy": start["greedy"].seconds,
            "xla": verdict.total if verdict is not None else None,
        }
        return Result(
            given=self._given,
            target=self._target,
            problem=problem,
            mapping=final,
            hand_over=hand_over,
            best=best,
            by=by,
            baselines=baselines,
            default=default,
            bound=bound,
            default_verdict=verdict,
            default_verified=self._default,
            candidates=self._candidates,
            chosen=chosen,
            history=self._history,
            notes=self._notes,
        )

    def _save(self, found: Found) -> None:
        path = self._session.out / _CHECKPOINT
        temporary = path.with_suffix(".tmp.npz")
        plan: dict[str, Any] = {
            k: np.asarray(v) for k, v in found.plan._asdict().items()
        }
        np.savez(temporary, **plan)
        temporary.replace(path)

    def _load(self, problem: Problem) -> dict[str, Any]:
        path: Path = self._session.out / _CHECKPOINT
        if not path.exists():
            return {}
        with np.load(path) as stored:
            plan = engine.Plan(
                **{name: jax.numpy.asarray(stored[name]) for name in stored.files}
            )
        if plan.rank.shape != problem.instance.order.shape:
            return {}
        return {"resumed": plan}


def _figures(verdict: Verdict) -> list[str]:
    seconds = (verdict.total, verdict.instructions, verdict.waits, verdict.cold)
    return [f"{value * 1e6:.1f} us" for value in seconds]
