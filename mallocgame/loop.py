"""The closed loop of one search: simulate, have the best compiled, correct the costs, repeat.

First the program-level knobs, a compile each, picked by `solvers.guided`. Then, on the program as
the best setting schedules it, mappings: propose in the fast simulator, hand the best one to the
production compiler, bend the cost model to what it estimates for that placement, search again from
what it made of it. What is handed over is the best that the compiler itself has confirmed, never
worse than its own default. Without a compiler the simulator's word stands, and says so.
"""

import dataclasses
import math
from collections.abc import Mapping as Dict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from compiler.backends import CompilerError
from compiler.backends import overrides as msa
from compiler.cost.judge import Verdict, judge
from compiler.hlo import Program, build
from compiler.targets import Target
from mallocgame import (
    engine,
    inputs,
    knobs,
    mapping,
    offsets,
    overrides,
    relaxation,
    strategies,
    validate,
)
from mallocgame.engine import Found, Settings
from mallocgame.ground import Ground
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping
from mallocgame.result import Candidate, Result
from mallocgame.trial import Trial, hold
from mallocgame.verify import Compiler, Kinds, Verified, same_schedule
from solvers.command import Session
from solvers.guided import Guided

if TYPE_CHECKING:
    from mallocgame.search import SearchFlags

_CHECKPOINT = "best.npz"
# Share of the budget for the knobs; they end earlier after so many settings without a gain.
_KNOBS_SHARE = 0.5
# Compiles that mappings need to come to anything: all slow, one mapping, one corrected. Knobs go on
# where the rest of the budget has no room for them.
_MAPPING_COMPILES = 3
_PATIENCE = 12
_GAIN = 0.001
# Simulations between two compiles of a mapping, and the same for a budget in seconds.
_ROUND = 400
_ROUND_SHARE = 0.1
# Of a round: seconds of compiling, and compiles at most.
_COMPILING = 10.0
_MOST_COMPILES = 3
# Rounds in a row that lead to a mapping that was compiled before.
_REPEATS = 2
# What is handed over may be slower by so much if in return all of it is followed.
_SETTLE = 1e-3


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
            compiler = dataclasses.replace(
                Compiler.from_dump(given.source, target, flags.compile_timeout),
                base=tuple(flags.fixed_options().items()),
            )
            with session.progress("compiling the default"):
                default = compiler.default()
            if not compiler.base:
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
        self._fixed = flags.fixed_options()
        self._notes: list[str] = []
        self._history: list[tuple[int, float]] = []
        self._spent = 0
        self._candidates: list[Candidate] = []
        self._default: Verified | None = None
        self._heuristic: Mapping | None = None

    def run(self, resumed: bool) -> Result:
        with self._session.progress("searching") as bar:
            ground, verdict = self._open()
            if self._compiler is not None and self._searches_knobs():
                self._turn_knobs(ground, bar)
                ground = self._best_ground(ground)
            if not self._is_over():
                self._observe_all_slow(ground)
            problem, start, found = self._map(ground, resumed, bar)
            if self._compiler is not None:
                self._settle(ground)
            trial = self._run_them(problem, found, bar) if self._flags.measure else None
        return self._result(problem, found, start, verdict, trial)

    def _run_them(self, problem: Problem, found: Found, bar: Any) -> Trial | None:
        """Has the best run on this machine's device beside the default."""
        assert self._given.source is not None
        if self._session.interrupt.is_set():
            self._notes.append("interrupted: nothing was measured")
            return None
        best = self._best_candidate()
        rivals = {c.label: c.verified.options for c in self._better_candidates()}
        if best is None and self._compiler is None:
            chosen = mapping.from_state(problem, found.state)
            rivals = {found.by: overrides.compile_options(problem, chosen)}
        if not rivals:
            self._notes.append("nothing beats the default: nothing was measured")
            return None
        bar.update("running it with and without")
        trial = hold(
            self._given.source,
            self._fixed,
            rivals,
            repeats=self._flags.repeats,
            seed=self._flags.seed,
        )
        self._session.meter.spend(measurements=1 + len(trial.rivals))
        self._notes += trial.notes(self._target)
        return trial

    def _searches_knobs(self) -> bool:
        return self._flags.knobs and self._flags.strategy not in strategies.SINGLE

    def _ground(
        self, program: Program, compiler: Compiler | None, options: Dict[str, str]
    ) -> Ground:
        capacity = self._flags.fast_bytes or knobs.capacity(self._target, options)
        return Ground(program, self._target, capacity, compiler)

    def _open(self) -> tuple[Ground, Verdict | None]:
        """Takes the compiler's estimates for its own mapping."""
        program = self._given.program
        if self._compiler is None:
            ground = self._ground(program, None, self._fixed)
            if self._given.compiled is None:
                return ground, None
            ground.observe(self._given.compiled)
            if self._flags.fast_bytes is not None:
                # The compiler's own is for another capacity: no peer, and nothing to hand over.
                return ground, None
            return ground, judge(self._given.compiled, self._target)
        self._default = self._compiler.default()
        self._session.meter.spend(measurements=1)
        if self._fixed:
            program = build(self._default.compiled.scheduled_module)
        ground = self._ground(program, self._compiler, self._fixed)
        ground.observe_own("compiler's own", self._default)
        return ground, self._default.verdict

    def _is_over(self) -> bool:
        """Whether the budget ended with something judged to hand over."""
        return self._session.meter.done() and bool(self._candidates)

    def _observe_all_slow(self, ground: Ground) -> None:
        """Takes the compiler's estimates for everything in slow memory."""
        if ground.compiler is None:
            return
        try:
            slow = ground.compiler.all_slow()
        except CompilerError as error:
            self._notes.append(f"everything in slow memory: {error}")
            return
        self._session.meter.spend(measurements=1)
        ground.observe(slow.program)

    def _turn_knobs(self, ground: Ground, bar: Any) -> None:
        """Compiles settings of the program-level options, those first that promise most."""
        assert self._compiler is not None and self._default is not None
        sizes, prior = knobs.sizes(self._fixed), knobs.prior(self._fixed)
        guided = Guided(sizes, prior)
        guided.tell(guided.default, self._default.verdict.total)
        best, since = self._default.verdict.total, 0
        meter = self._session.meter
        while (
            not meter.done()
            and since < _PATIENCE
            and (meter.fraction() < _KNOBS_SHARE or not self._has_room())
        ):
            vector = guided.propose()
            if vector is None:
                break
            chosen = knobs.options(vector, self._fixed)
            label = knobs.label(chosen)
            bar.update(f"{best * 1e6:.1f} us, trying {label}")
            since += 1
            meter.spend(measurements=1)
            try:
                verified = self._compiler.own(chosen)
            except CompilerError as error:
                guided.tell(vector, math.inf)
                self._notes.append(f"{label}: {error}")
                continue
            cost = verified.verdict.total
            guided.tell(vector, cost)
            self._candidates.append(
                Candidate(
                    label=label,
                    mapping=None,
                    problem=None,
                    simulated=None,
                    verified=verified,
                )
            )
            ground.observe_own(label, verified)
            if cost < best * (1 - _GAIN):
                since = 0
            best = min(best, cost)

    def _has_room(self) -> bool:
        """Whether the rest of the budget is enough for mappings."""
        assert self._default is not None
        meter, seconds = self._session.meter, self._default.compiled.seconds
        limits = meter.budget
        return (
            limits.seconds is None
            or limits.seconds - meter.seconds >= _MAPPING_COMPILES * seconds
        ) and (
            limits.measurements is None
            or limits.measurements - meter.measurements >= _MAPPING_COMPILES
        )

    def _best_ground(self, ground: Ground) -> Ground:
        """Returns the program as the best setting schedules it, to search mappings on."""
        best = self._best_candidate()
        if best is None or self._compiler is None:
            return ground
        chosen = best.verified.options
        compiler = dataclasses.replace(self._compiler, base=tuple(chosen.items()))
        if best.label in ground.own:
            ground.set_compiler(compiler)
            return ground
        program = build(best.verified.compiled.scheduled_module)
        ground = self._ground(program, compiler, chosen)
        for candidate in self._candidates:
            ground.observe_own(candidate.label, candidate.verified)
        return ground

    def _map(
        self, ground: Ground, resumed: bool, bar: Any
    ) -> tuple[Problem, dict[str, Found], Found]:
        """Searches mappings, round by round with a compile at the end of each."""
        settings = Settings(
            strategy=self._flags.strategy,
            seed=self._flags.seed,
            lanes=self._flags.lanes,
            num_simulations=self._flags.simulations,
            checkpoint=self._flags.checkpoint,
            mode=self._flags.agent_mode(),
        )
        problem = ground.problem()
        plans = ground.seeds(problem)
        if resumed:
            plans |= self._load(problem)
        bar.update("compiling the game")
        first = start = engine.evaluate(problem, plans, settings)
        self._heuristic = mapping.from_state(problem, first["msa"].state)
        rounds = repeats = 0
        while True:
            varied = dataclasses.replace(settings, seed=settings.seed + 1000 * rounds)
            step = self._search(problem, start, varied, bar)
            if ground.compiler is None or self._is_over():
                break
            found = {step.found.by: step.found}
            if settings.strategy not in strategies.SINGLE:
                count = self._num_compiles(ground)
                found = engine.evaluate(
                    problem, engine.fittest(step.lanes, count), settings
                )
            new = False
            for candidate in sorted(found.values(), key=lambda f: f.seconds):
                bar.update("compiling a mapping")
                new |= self._compile(ground, problem, candidate)
                if self._session.meter.done():
                    break
            repeats = 0 if new else repeats + 1
            if (
                self._session.meter.done()
                or repeats >= _REPEATS
                or settings.strategy in strategies.SINGLE
            ):
                break
            rounds += 1
            problem = ground.problem()
            plans = ground.seeds(problem)
            incumbent = min(
                ground.own, key=lambda label: ground.own[label].verdict.total
            )
            if rounds % 2 and incumbent in plans:
                # From the best that was judged: what the simulator gets wrong of it, it gets as
                # wrong of what differs little.
                plans = {incumbent: plans[incumbent]}
            start = engine.evaluate(problem, plans, settings)
        return problem, first, step.found

    def _num_compiles(self, ground: Ground) -> int:
        """How many mappings a round has compiled: as many as take no longer than the search."""
        seconds = max(v.compiled.seconds for v in ground.own.values())
        return min(max(int(_COMPILING / seconds), 1), _MOST_COMPILES)

    def _search(
        self, problem: Problem, start: dict[str, Found], settings: Settings, bar: Any
    ) -> engine.Step:
        """Searches one round, or without a compiler until the budget ends."""
        meter = self._session.meter
        is_round = self._compiler is not None
        end = 1.0
        if is_round and self._flags.budget.seconds is not None:
            end = meter.fraction() + _ROUND_SHARE
        spent = 0

        def done() -> bool:
            over = is_round and (spent >= _ROUND or meter.fraction() >= end)
            return bool(meter.done()) or over

        # Costs may have been corrected since the last round, so nothing is compared with it.
        shown = math.inf
        for step in engine.search(problem, start, settings, done):
            meter.spend(simulations=step.simulations)
            spent += step.simulations
            self._spent += step.simulations
            if step.found.seconds < shown:
                shown = step.found.seconds
                self._history.append((self._spent, step.found.seconds))
                self._save(step.found)
            bar.update(f"{step.found.seconds * 1e6:.1f} us by {step.found.by}")
        return step

    def _compile(self, ground: Ground, problem: Problem, found: Found) -> bool:
        """Compiles a mapping; returns whether it was a new one."""
        assert ground.compiler is not None
        chosen = mapping.from_state(problem, found.state)
        validate.require_valid(problem, chosen)
        label = f"mapping {sum(c.mapping is not None for c in self._candidates) + 1}"
        kinds = Kinds(problem)
        try:
            verified = ground.compiler.verify(problem, chosen)
        except CompilerError as error:
            self._session.meter.spend(measurements=1)
            said = msa.rejection(str(error))
            if said is not None:
                ground.refused |= kinds.accesses(said.use)
            self._notes.append(f"{label}: {error}")
            return said is not None
        self._session.meter.spend(measurements=verified.compiles)
        for override, why in verified.refused:
            if isinstance(override.where, msa.UseAt) and msa.is_of_a_kind(why):
                ground.refused |= kinds.accesses(override.where)
        if any(c.verified.options == verified.options for c in self._candidates):
            return False
        self._candidates.append(
            Candidate(
                label=label,
                mapping=chosen,
                problem=problem,
                simulated=found.seconds,
                verified=verified,
            )
        )
        ground.observe_own(label, verified)
        return True

    def _best_candidate(self) -> Candidate | None:
        """Returns the best that was compiled, if it beats the compiler's own."""
        return next(iter(self._better_candidates()), None)

    def _better_candidates(self) -> list[Candidate]:
        """Returns what was compiled and beats the compiler's own, the best first."""
        if self._default is None:
            return []
        limit = self._default.verdict.total
        better = [c for c in self._candidates if c.verified.verdict.total < limit]
        return sorted(better, key=lambda c: c.verified.verdict.total)

    def _settle(self, ground: Ground) -> None:
        """Compiles the best mapping once more without the decisions that were not followed."""
        best = self._best_candidate()
        if best is None or best.mapping is None or best.verified.share == 1.0:
            return
        assert ground.compiler is not None
        try:
            settled = ground.compiler.settle(best.verified)
        except CompilerError as error:
            self._notes.append(f"{best.label} without what was not followed: {error}")
            return
        self._session.meter.spend(measurements=settled.compiles)
        before, after = best.verified.verdict.total, settled.verdict.total
        if settled.share > best.verified.share and after <= before * (1 + _SETTLE):
            best.verified = settled

    def _result(
        self,
        problem: Problem,
        found: Found,
        start: dict[str, Found],
        verdict: Verdict | None,
        trial: Trial | None,
    ) -> Result:
        chosen = self._best_candidate()
        if trial is not None and chosen is not None:
            # Its word is above the judge's.
            chosen = next(
                (c for c in self._candidates if c.label == trial.winner), None
            )
        final = mapping.from_state(problem, found.state)
        hand_over, best, by = "mapping", found.seconds, found.by
        lost = trial is not None and trial.winner is None
        if chosen is not None:
            # Compared with the compiler's own by the judge of both.
            best = chosen.verified.verdict.total
            if chosen.mapping is None or chosen.problem is None:
                hand_over, by = "options", "knobs"
                self._notes.append(f"best is the compiler's own with {chosen.label}")
            else:
                final, problem = chosen.mapping, chosen.problem
        elif verdict is not None and (
            self._default is not None or best > verdict.total or lost
        ):
            hand_over, best, by = "default", verdict.total, "compiler"
            self._notes.append(
                "nothing found beats the compiler's own: it is handed over"
            )
        elif lost:
            hand_over, best, by = "default", start["msa"].seconds, "msa"
            self._notes.append("what was found runs slower than the default")
        final = offsets.packed(problem, final, self._flags.seed)
        validate.require_valid(problem, final)
        simulator_bound = relaxation.lower_bound(problem)
        bound: float | None = simulator_bound
        is_judged = chosen is not None or hand_over == "default"
        if is_judged and simulator_bound > best:
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
            simulator_bound=simulator_bound,
            default_verdict=verdict,
            default_verified=self._default,
            candidates=self._candidates,
            chosen=chosen,
            heuristic=self._heuristic,
            history=self._history,
            notes=self._notes,
            trial=trial,
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
