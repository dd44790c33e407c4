"""What a search came to, and how it says so."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from compiler.backends import overrides as msa
from compiler.cost.judge import Verdict
from compiler.targets import Target
from mallocgame import inputs, mapping, offsets, overrides
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping
from mallocgame.trial import Trial
from mallocgame.verify import Verified
from solvers.command import Verified as VerifiedFigures


@dataclasses.dataclass(kw_only=True)
class Candidate:
    """What was compiled: a mapping, or (`mapping` None) the compiler's own under other knobs."""

    label: str
    mapping: Mapping | None
    problem: Problem | None
    simulated: float | None
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
        simulator_bound: the same in any case.
        default_verdict: the compiler's own mapping as judged, if the dump or the compiler has it.
        default_verified: the compiler's own compile, if it was asked.
        candidates: mappings that were compiled, in order.
        chosen: the one handed over, or None if the compiler's default is (or nothing was compiled).
        heuristic: what XLA's heuristic, re-implemented, makes of the same accesses.
        history: (simulations, best simulated seconds).
        notes: what a person should know.
        trial: the runs on this machine's device, if there were any.
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
    simulator_bound: float
    default_verdict: Verdict | None
    default_verified: Verified | None
    candidates: list[Candidate]
    chosen: Candidate | None
    heuristic: Mapping | None
    history: list[tuple[int, float]]
    notes: list[str]
    trial: Trial | None = None

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
        return overrides.compile_options(self.problem, self.mapping)

    def overrides_text(self) -> str:
        """Returns overrides.textproto."""
        return (
            self.options()
            .get(msa.OPTION, "")
            .replace("} overrides {", "}\noverrides {")
            + "\n"
        )

    def verified(self) -> VerifiedFigures | None:
        """Returns the oracle's figures for the JSON, or None if it was not asked.

        Runs, if there were any, are above the compiler's estimates.
        """
        if self.trial is not None:
            share = 1.0 if self.chosen is None else self.chosen.verified.share
            return self.trial.figures(share)
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
            "used_bytes": offsets.height(self.problem, self.mapping),
            "accesses": len(self.problem.accesses),
            "notes": self.notes,
            "simulator_bound": self.simulator_bound,
            **({} if self.trial is None else {"measured": self.trial.to_json()}),
            "overrides_emitted": 0
            if self.chosen is None
            else self.chosen.verified.decisions,
            "default_waits": None
            if self.default_verified is None
            else self.default_verified.verdict.waits,
            "compiles": [
                {
                    "label": candidate.label,
                    "is_mapping": candidate.mapping is not None,
                    "simulated": candidate.simulated,
                    "judged": candidate.verified.verdict.total,
                    "waits": candidate.verified.verdict.waits,
                    "cold": candidate.verified.verdict.cold,
                    "honoured": candidate.verified.share,
                    "not_honoured": [list(pair) for pair in candidate.verified.instead],
                }
                for candidate in self.candidates
            ],
        }


def _figures(verdict: Verdict) -> list[str]:
    seconds = (verdict.total, verdict.instructions, verdict.waits, verdict.cold)
    return [f"{value * 1e6:.1f} us" for value in seconds]
