"""`python -m diffusion.search`: finds a sampler of few evaluations for a model, and reports on it."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from solvers.command import (
    Budget,
    BudgetFlag,
    Exit,
    Failure,
    Flags,
    Report,
    Session,
    keep_compiled,
    one_of,
    run,
    write_json,
    write_text,
)

if TYPE_CHECKING:  # JAX takes seconds to import; `--help` shall not.
    from diffusion.evaluate import Sets
    from diffusion.hunt import Found
    from diffusion.problems import Problem

_NAME = "diffusion.search"
STRATEGIES = ("evolution", "random", "local", "brkga", "predicted", "mcts")
_SAVED = "schedules.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchFlags(Flags):
    """Finds the sampler of so many network evaluations that comes closest to the exact solution.

    Three sets of noise are drawn: the search sees the first, what is handed over is chosen on the
    second, and the errors on the third are reported. Every published solver, on every grid, is
    measured beside it; the best of them is handed over if nothing found is better.
    """

    model: Annotated[str, arg(metavar="NAME|FILE.json|MODULE:FUNCTION")]
    """digits, digits-mlp, fashion, fashion-unet or smooth; what diffusion.train wrote; or a function that
    returns a diffusion.problems.Problem."""
    nfe: int = 5
    """Network evaluations of one sample."""
    strategy: str = "evolution"
    """evolution, random, local, brkga, predicted or mcts."""
    budget: BudgetFlag = Budget(simulations=2000)
    """What the search over schedules may spend: 2000evals, 5m."""
    refine: int = 2400
    """Gradient steps on the sampler's numbers afterwards, a multiple of 800; 0 for none."""
    noises: tuple[int, int, int] = (512, 1024, 2048)
    """Sizes of the three sets: search, select, report."""
    data: Annotated[Path | None, arg(metavar="DIR")] = None
    """For fashion: the folder of Fashion-MNIST's files."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.nfe <= 64:
            raise ValueError(f"--nfe must lie in 2..64, not {self.nfe}")
        if self.refine < 0 or self.refine % 800:
            raise ValueError(f"--refine is a multiple of 800, not {self.refine}")
        if min(self.noises) < 2:
            raise ValueError("--noises are three sizes of at least 2")


def search(flags: SearchFlags, session: Session) -> Report:
    """Runs the whole command; see docs/diffusion.md."""
    one_of("strategy", flags.strategy, STRATEGIES)
    keep_compiled(on_host=False)
    from diffusion import evaluate, hunt, models

    problem = models.load(flags.model, flags.data)
    resumed = session.begin(
        {
            "model": flags.model,
            "nfe": flags.nfe,
            "noises": list(flags.noises),
            "refine": flags.refine,
        }
    )
    with session.progress("solving for the reference"):
        sets = _sets(problem, flags)
    stock = evaluate.best_of_families(problem.noise, flags.nfe, sets)
    settings = hunt.Settings(
        strategy=flags.strategy,
        nfe=flags.nfe,
        seed=flags.seed,
        refine_steps=flags.refine,
        saved=session.out / _SAVED,
    )
    with session.progress("searching") as bar:
        found = hunt.hunt(
            problem, sets, stock, settings, session.meter, bar.update, resumed
        )
    return _finish(flags, session, problem, sets, found)


def _sets(problem: "Problem", flags: SearchFlags) -> "Sets":
    """Draws the noises and solves for the references.

    Raises:
        Failure: status 4, if the model fails or returns what is not finite.
    """
    import numpy as np

    from diffusion import evaluate

    try:
        sets = evaluate.sets(problem, seed=flags.seed, sizes=flags.noises)
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise Failure(
            "model_failed",
            f"--model {flags.model} can't be sampled from: {said}",
            Exit.INVALID,
        ) from error
    for judge in (sets.search, sets.select, sets.report):
        if not np.isfinite(np.asarray(judge.reference)).all():
            raise Failure(
                "model_not_finite",
                f"--model {flags.model} returns numbers that are not finite",
                Exit.INVALID,
            )
    return sets


def _finish(
    flags: SearchFlags,
    session: Session,
    problem: "Problem",
    sets: "Sets",
    found: "Found",
) -> Report:
    """Writes the artefacts and returns the report."""
    from diffusion import pictures, report, tablefile

    chosen = found.chosen
    document: dict[str, Any] = tablefile.to_json(
        chosen.table, problem.noise, found.schedule
    )
    document["found_by"] = chosen.method
    artifacts = {"schedule": write_json(session.out / "schedule.json", document)}
    why = pictures.missing()
    if why is None:
        path = session.out / "samples.png"
        pictures.draw(path, problem, sets, found)
        artifacts["pictures"] = path
    else:
        session.note(why)
    page = report.render(found, problem, session)
    artifacts["report"] = write_text(session.out / "report.html", page)
    rows = [
        (
            r.method,
            r.setting,
            f"{r.selected:.4f}",
            f"{r.reported:.4f} ({r.interval[0]:.4f}-{r.interval[1]:.4f})",
        )
        for r in [*found.stock, *found.searched]
    ]
    session.table(
        f"RMSE to the exact solution, {flags.nfe} evaluations",
        ("method", "setting", "select", "report (95 %)"),
        rows,
    )
    return session.report(
        input=flags.model,
        unit="rmse",
        baselines={r.method: r.selected for r in found.stock}
        | {"stock": found.stock_best.selected},
        default="stock",
        best=chosen.selected,
        bound=0.0,
        artifacts=artifacts,
        extra={
            "nfe": flags.nfe,
            "found_by": chosen.method,
            "reported": {
                r.method: {"rmse": r.reported, "interval": list(r.interval)}
                for r in [*found.stock, *found.searched]
            },
            "reported_best": chosen.reported,
            "reported_default": found.stock_best.reported,
        },
    )


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(search, SearchFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
