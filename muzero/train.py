"""`python -m muzero.train --game GAME --out DIR`: trains an agent, and goes on where it was stopped."""

import dataclasses
import importlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import arg

from muzero.config import TrainConfig
from solvers.command import (
    Budget,
    BudgetFlag,
    Elsewhere,
    Exit,
    Failure,
    Flags,
    Outcome,
    Report,
    Session,
    keep_compiled,
    one_of,
    read_json,
    run,
    write_json,
)

if TYPE_CHECKING:  # JAX takes seconds to import; `--help` shall not.
    import numpy as np

    from muzero.hosts import Hosts
    from muzero.task import Task
    from muzero.training import Trainer, TrainState
    from solvers.checkpoints import Checkpoints

_NAME = "muzero.train"
_CHECKPOINTS = "checkpoints"
_SHOWN = "demonstrated.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainFlags(Flags):
    """Trains an agent that plays a game by tree search."""

    game: Annotated[str, arg(metavar="MODULE:FUNCTION|PACKAGE")]
    """What is trained on: FUNCTION(flags) returns a `muzero.Task`; of a PACKAGE, agent:task."""
    programs: tuple[Path, ...] = ()
    """Inputs of the game, if it reads any: files or folders."""
    option: tuple[str, ...] = ()
    """Further settings of the game, as NAME=VALUE."""
    strategy: str = "auto"
    """true-game (plan with the rules, AlphaZero; auto) or learned-model (MuZero)."""
    budget: BudgetFlag = Budget(seconds=3600.0)
    """What training may spend: 30s, 1h, 2000evals (steps of the game or of its model)."""
    iterations: int = 100
    """After so many iterations training ends, if the budget has not ended it."""
    checkpoint_every: int = 10
    """Iterations between two checkpoints."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""
    start_from: Annotated[Path | None, arg(metavar="FILE.json")] = None
    """The card of an agent whose parameters to begin with, trained on other instances of the game."""
    distributed: bool = False
    """Train together with the other processes that run this command, by jax.distributed; who they are is
    known from SLURM or Kubernetes, or said by the next three flags."""
    coordinator: Annotated[str, arg(metavar="HOST:PORT")] = ""
    """Of process 0."""
    num_processes: int = 0
    """How many there are."""
    process_id: int = -1
    """Which of them this is, from 0 on; that one writes."""
    config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=TrainConfig
    )
    """Sizes and rates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 0 or self.checkpoint_every < 1:
            raise ValueError("--checkpoint-every must be at least 1, --iterations 0")
        self.options()
        said = (self.coordinator, self.num_processes, self.process_id)
        if not self.distributed and said != ("", 0, -1):
            raise ValueError(
                "--coordinator, --num-processes and --process-id are for --distributed"
            )

    def options(self) -> dict[str, str]:
        """Returns the game's own settings by name.

        Raises:
            ValueError: not of the form NAME=VALUE.
        """
        pairs = [text.partition("=") for text in self.option]
        if any(not name or not sign for name, sign, _ in pairs):
            raise ValueError(f"--option is NAME=VALUE, not {' '.join(self.option)}")
        return {name: value for name, _, value in pairs}


def train(flags: TrainFlags, session: Session) -> Outcome:
    """Runs the whole command; see docs/muzero.md."""
    one_of("strategy", flags.strategy, ("auto", "true-game", "learned-model"))
    keep_compiled()
    from muzero.hosts import join

    hosts = join(flags)
    if not hosts.leads:
        session.follow()
    folder = session.out / _CHECKPOINTS
    if not flags.resume and folder.exists() and any(folder.iterdir()):
        raise Failure(
            "out_in_use",
            f"{session.out} holds a training run: --resume goes on with it, or choose "
            "another --out",
            Exit.USAGE,
        )
    task = find_task(flags)
    from muzero.agents import Kind, make_agent
    from muzero.training import Trainer
    from solvers.checkpoints import Checkpoints

    kind: Kind = "learned-model" if flags.strategy == "learned-model" else "true-game"
    alone = Trainer(agent=make_agent(kind, task), config=flags.config)
    trainer = dataclasses.replace(alone, mesh=hosts.mesh)
    hosts.meet("looked at what there is")
    session.begin(
        {
            "game": flags.game,
            "task_sha256": task.digest(),
            "option": sorted(flags.option),
            "config": dataclasses.asdict(flags.config),
        }
        | ({"start_from": str(flags.start_from)} if flags.start_from else {})
    )
    with Checkpoints(folder, about(task, kind)) as checkpoints:
        params = None
        if flags.start_from is not None:
            params = _given(flags.start_from, alone, task, kind)
        begun = checkpoints.newest is not None
        # What was demonstrated is part of a checkpoint.
        demonstrations = () if begun else task.demonstrations()
        if flags.config.warmup and not (begun or demonstrations):
            raise Failure(
                "nothing_shown",
                f"--warmup needs demonstrations, and {flags.game} shows none",
                Exit.USAGE,
            )
        state = alone.init(task.instances, flags.seed, demonstrations, params)
        shown = alone.best_totals(state, len(task.names))
        if hosts.leads:
            shown = _shown(session, shown, begun=begun)
        state = hosts.spread(state)
        if begun:
            state = checkpoints.restore(state)
            session.note(f"going on behind iteration {int(state.iteration)}")
        state = _iterate(flags, session, task, trainer, state, checkpoints, hosts)
    told: Outcome = Elsewhere()
    if hosts.leads:
        told = _finish(flags, session, task, alone, hosts.own(state), shown)
    hosts.meet("written")
    return told


def about(task: "Task", kind: str) -> dict[str, Any]:
    """Returns what a checkpoint says of itself: enough to know whether an agent fits a task."""
    return {
        "agent": kind,
        "plays": task.plays,
        # Where the policy points at tokens, it knows instances of any size.
        "num_actions": task.kinds or task.game.num_actions,
        "value_range": list(task.value_range),
        "reward_range": list(task.reward_range),
        "network": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(task.network).items()
        },
    }


def find_task(flags: TrainFlags) -> "Task":
    """Returns what `--game` names.

    Raises:
        Failure: status 2, if there is no such function, or it makes something else.
    """
    module, _, name = flags.game.partition(":")
    if not name:
        module, name = f"{module}.agent", "task"
    from muzero.task import Task

    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise Failure(
            "unknown_game", f"--game {flags.game}: {error}", Exit.USAGE
        ) from None
    found = function(flags)
    if not isinstance(found, Task):
        raise Failure(
            "unknown_game",
            f"--game {flags.game}: {module}:{name} returns no muzero.Task",
            Exit.USAGE,
        )
    return found


def _given(card: Path, trainer: "Trainer", task: "Task", kind: str) -> Any:
    """Returns the parameters of a card.

    Raises:
        Failure: status 3, if it can't be read.
        WeightsError: it is damaged, or another agent's.
    """
    from muzero import agentfile

    shapes = trainer.parameters(task.instances)
    try:
        return agentfile.load(card, shapes, {"agent": kind, "plays": task.plays})
    except OSError as error:
        raise Failure(
            "unreadable_checkpoint",
            f"--start-from {card}: {error.strerror}",
            Exit.NOT_FOUND,
        ) from None


def _shown(session: Session, totals: "np.ndarray", *, begun: bool) -> "np.ndarray":
    """Returns what the demonstrations earn, by instance: what a run that goes on noted when it began."""
    import numpy as np

    path = session.out / _SHOWN
    if begun and path.exists():
        return np.array([-np.inf if x is None else x for x in read_json(path)])
    known = [float(x) if math.isfinite(x) else None for x in totals]
    if not begun:
        write_json(path, known)
    return totals


def _iterate(
    flags: TrainFlags,
    session: Session,
    task: "Task",
    trainer: "Trainer",
    state: "TrainState",
    checkpoints: "Checkpoints",
    hosts: "Hosts",
) -> "TrainState":
    """Trains until the budget or the iterations end, and leaves a checkpoint."""
    from muzero.task import row
    from solvers.metrics import Metrics

    config, meter = flags.config, session.meter
    steps = trainer.agent.game.num_decisions(row(task.instances, 0))
    spent = config.lanes * steps * (config.search.num_simulations + 1)
    iteration = int(state.iteration)
    meter.spend(simulations=max(iteration - config.warmup, 0) * spent)
    path = session.out / "metrics.jsonl" if hosts.leads else Path(os.devnull)
    instances = hosts.spread(task.instances)
    log = Metrics(path, before=iteration, tensorboard=flags.tensorboard and hosts.leads)
    with session.progress("training") as bar, log:
        while iteration < flags.iterations and not hosts.any(meter.done()):
            begun = meter.seconds
            state, metrics = trainer.iterate(instances, state)
            values = {name: float(value) for name, value in metrics.items()}
            if not all(map(math.isfinite, values.values())):
                raise Failure(
                    "diverged",
                    f"iteration {iteration} is not finite: lower --learning-rate, or go "
                    "on from the last checkpoint with --resume",
                    Exit.CHECK_FAILED,
                )
            log.write(iteration, values | {"seconds": round(meter.seconds - begun, 4)})
            meter.spend(simulations=spent * (iteration >= config.warmup))
            iteration += 1
            if iteration % flags.checkpoint_every == 0:
                checkpoints.save(state)
            bar.update(f"iteration {iteration}, best {values['best_mean']:.4g}")
    checkpoints.save(state)
    return state


def _finish(
    flags: TrainFlags,
    session: Session,
    task: "Task",
    trainer: "Trainer",
    state: "TrainState",
    shown: "np.ndarray",
) -> Report:
    """Compares with what was shown and with play that doesn't search; writes the best episodes."""
    import numpy as np

    count = len(task.names)
    actions, first = trainer.unsearched(task.instances, state, noise=0.0)
    _, by_chance = trainer.unsearched(task.instances, state, noise=1.0)
    state, greedy = trainer.exploited(task.instances, state)
    best = trainer.best(state, count)
    total = trainer.best_totals(state, count)
    rows = []
    for number, name in enumerate(task.names):
        ours = bool(total[number] >= first[number])
        by = "agent" if ours else "first_legal"
        if total[number] == shown[number] and ours:
            by = "demonstrated"
        played = best.action[number] if ours else actions[number]
        earned = float(total[number] if ours else first[number])
        rows.append(
            {
                "name": name,
                "by": by,
                "return": earned,
                "cost": task.cost(number, earned),
                "actions": np.asarray(played),
            }
        )
    path = write_json(
        session.out / "best.json", {"schema_version": 1, "instances": rows}
    )
    from muzero import agentfile

    numbers, card = agentfile.save(
        session.out,
        "agent",
        state.params,
        about(task, "learned-model" if trainer.agent.is_learned else "true-game")
        | {
            "game": flags.game,
            "programs": sorted(task.names),
            "iterations": int(state.iteration),
            "seed": flags.seed,
            "training": dataclasses.asdict(flags.config),
        },
    )
    return session.report(
        input=flags.game,
        unit=task.unit,
        baselines={
            "first_legal": task.mean_cost(first),
            "random": task.mean_cost(by_chance),
            "demonstrated": task.mean_cost(shown) if np.isfinite(shown).all() else None,
        },
        default="first_legal",
        best=float(np.mean([row["cost"] for row in rows])),
        bound=None,
        artifacts={
            "best": path,
            "agent": numbers,
            "card": card,
            "checkpoints": session.out / _CHECKPOINTS,
            "metrics": session.out / "metrics.jsonl",
        },
        extra={
            "iterations": int(state.iteration),
            "without_noise": task.mean_cost(greedy),
            "instances": [
                {key: row[key] for key in ("name", "by", "cost")} for row in rows
            ],
        },
    )


def main() -> int:
    """Runs the command with the process's arguments."""
    return run(train, TrainFlags, name=_NAME)


if __name__ == "__main__":
    sys.exit(main())
