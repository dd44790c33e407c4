"""`python -m compiler.sharding.search MODULE:FUNCTION --check PLAN`: judges a plan from a file.

For a plan from another machine, another day or another version of the compiler.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compiler.backends import CompilerError
from compiler.sharding import equal
from compiler.sharding.inputs import Input
from compiler.sharding.oracle import Judge
from compiler.sharding.plan import Plan
from solvers.command import Exit, Failure, Report, Session, Verified, write_json

if TYPE_CHECKING:
    from compiler.sharding.search import SearchFlags


def check(
    flags: "SearchFlags",
    session: Session,
    given: Input,
    plan: Plan,
    judge: Judge | None,
) -> Report:
    """Judges a plan that is there, and searches nothing.

    Args:
        flags: of the command.
        session: that it runs in.
        given: the program.
        plan: that is said to be for it.
        judge: the compiler; None to believe what the plan's file says.

    Raises:
        Failure: status 4 if the plan is for another program or nobody knows its cycles, 5 if it does not fit, 6 if it
            changes the results; or what the compiler says.
    """
    try:
        plan.require_program(given.digest)
    except ValueError as error:
        raise Failure("other_program", f"--check {flags.check}: {error}") from None
    predicted = plan.provenance.get("predicted", {})
    best = (
        float(predicted["time"])
        if isinstance(predicted, Mapping) and "time" in predicted
        else None
    )
    figures: dict[str, object] = {"predicted": best}
    verified = None
    if judge is not None:
        try:
            judged = judge(plan)
        except CompilerError as error:
            status = (
                Exit.INFEASIBLE
                if error.reason == "out-of-memory"
                else error.exit_status
            )
            raise Failure(error.reason.replace("-", "_"), str(error), status) from None
        best = judged.timeline.total
        verified = Verified(by=judged.compiled.version, baseline=best, best=best)
        figures |= {
            "cycles": best,
            "exposed": judged.timeline.exposed,
            "argument_mib": judged.arguments,
            "memory_mib": judged.memory,
        }
        limits = given.limits
        if judged.memory > limits.memory or judged.arguments > limits.arguments:
            raise Failure(
                "infeasible",
                f"the plan takes {judged.memory:,.0f} MiB, its arguments {judged.arguments:,.0f}",
                Exit.INFEASIBLE,
            )
    if best is None:
        raise Failure(
            "nothing_known",
            "the plan's file does not say its cycles; compile it (--verify)",
        )
    path = write_json(session.out / "plan.json", plan.to_json())
    checked = equal.compare(flags, session, given, [path], runs=2)
    if any(one.equal is False for one in checked):
        raise Failure("not_equal", "the plan changes the results", Exit.CHECK_FAILED)
    return session.report(
        input=flags.input,
        target=flags.topology,
        unit="cycles",
        baselines={"the plan": best},
        default="the plan",
        best=best,
        bound=None,
        artifacts={"plan": path},
        verified=verified,
        extra={
            "program": given.digest,
            "judge": "compiled" if judge else "model",
            "equal": [one._asdict() for one in checked],
            "plans": [figures],
        },
    )
