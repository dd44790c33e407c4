"""The parts of `benchmarks.bench_agent` that train, take the agent apart, time it, and prove optima.

`curves`: training from nothing on three tuning programs, three seeds. `training`: the same without parts of
it. `ablations`: what the shipped agent finds without parts of it, on tuning programs. `speed`: moves and
learner steps per second by size, each size in a process of its own, compilations and memory. `optimum`:
what `mallocgame.optimum` proves. Programs that are not in tests/golden are dumps: `python -m
benchmarks.dump_workload NAME runs/tuning/NAME` makes them.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks import bench_agent

if TYPE_CHECKING:
    from muzero.config import TrainConfig

CURVES = {"lstm_scan": 0.5, "graph_sage": 0.1, "two_tower_train": 0.25}
SEEDS = (0, 1, 2)
ITERATIONS = 32
_WARMUP = 12
# Trained on in the ablations, and played on; on the latter half the shipped agent was not trained.
TRAINED = {"lstm_scan": 0.1, "two_tower_train": 0.25}
PLAYED = ("two_tower_train", "early_exit_cond", "vit_s16", "bert_encode")
SIZES = (128, 512, 2048, 8192)
_LANES, _MOVES, _SIMULATIONS, _UPDATES = 8, 2, 2, 4


def _config(**changes: Any) -> "TrainConfig":
    from muzero.config import LearnConfig, SearchConfig, TrainConfig

    short = TrainConfig(
        lanes=8,
        capacity=64,
        earning_only=True,
        reanalyse_every=0,
        search=SearchConfig(
            num_simulations=4, max_considered=4, min_range=0.002, value_scale=0.3
        ),
        learn=LearnConfig(rows=32, updates=8),
    )
    return dataclasses.replace(short, **changes)


def optima(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields proven floors, and the mappings that CP-SAT found."""
    from mallocgame import optimum

    seconds = flags.seconds or 60.0
    for name in flags.names or bench_agent.names_of(flags.programs)[:3]:
        for share in flags.shares:
            head = {"part": "optimum", "program": name, "share": share}
            if bench_agent.key_of(head) in known:
                continue
            problem = bench_agent.problem_of(name, share)
            begun = time.monotonic()
            proof = optimum.prove(problem, seconds=seconds, workers=2)
            yield head | {
                "floor": proof.floor,
                "found": proof.seconds if proof.mapping else None,
                "limit": seconds,
                "wall": round(time.monotonic() - begun, 1),
            }


def curves(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields best and mean return over training from nothing, for tuning programs and seeds."""
    for name in flags.names or CURVES:
        for seed in SEEDS:
            head = {"part": "curves", "program": name, "share": CURVES[name]}
            head |= {"seed": seed}
            if bench_agent.key_of(head) not in known:
                yield head | {"returns": _trained(name, CURVES[name], seed)}


def _trained(
    name: str,
    share: float,
    seed: int,
    *,
    learned: bool = False,
    warm: bool = False,
    backs_up: bool = True,
) -> list[list[float]]:
    """Trains on one program, from all in slow memory; mean, best of the batch and best so far by iteration."""
    from mallocgame import improve, teacher
    from muzero.agents import make_agent
    from muzero.training import Trainer

    problem = bench_agent.problem_of(name, share)
    slow = improve.start(problem, bench_agent.starts_of(problem)["all_slow"].plan)
    seconds = float(problem.instance.all_slow_seconds)
    task = teacher.make_task([name], [slow], [seconds], backs_up=backs_up)
    agent = make_agent("learned-model" if learned else "true-game", task)
    trainer = Trainer(agent=agent, config=_config(warmup=_WARMUP * warm))
    shown = teacher.demonstrations([slow], 64) if warm else ()
    state = trainer.init(task.instances, seed, shown)
    history = []
    for iteration in range(trainer.config.warmup + ITERATIONS):
        state, metrics = trainer.iterate(task.instances, state)
        if iteration < trainer.config.warmup:
            continue
        names = ("return_mean", "return_max", "best_mean")
        history.append([round(float(metrics[k]), 5) for k in names])
    return history


def ablations(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields what the shipped agent finds without parts of it."""
    from mallocgame.learned import Player

    stiff = dataclasses.replace(Player(), backs_up=False)
    for name in flags.names or PLAYED:
        for share in flags.shares:
            problem = start = None
            for by in (
                *("climb", "agent", "single", "untrained", "planned", "policy"),
                "dead ends are final",
            ):
                head = {"part": "play", "program": name, "share": share, "by": by}
                head |= {"seed": flags.seed, "calls": flags.calls}
                if bench_agent.key_of(head) in known:
                    continue
                if problem is None or start is None:
                    problem = bench_agent.problem_of(name, share)
                    start = bench_agent.starts_of(problem)
                if by.startswith("dead"):
                    play = bench_agent.played(problem, start, stiff, flags.seed)
                    seconds = bench_agent.spend(play, flags.calls).seconds
                else:
                    seconds = bench_agent.searched(
                        problem, start, by, flags.calls, flags.seed
                    ).seconds
                yield head | {"seconds": seconds}


def training(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields what training comes to without parts of it."""
    variants: dict[str, dict[str, bool]] = {
        "true game": {},
        "learned dynamics": {"learned": True},
        "warm start": {"warm": True},
        "dead ends are final": {"backs_up": False},
    }
    for name, share in TRAINED.items():
        for by, changed in variants.items():
            for seed in SEEDS[:2]:
                head = {"part": "training", "program": name, "share": share}
                head |= {"by": by, "seed": seed}
                if bench_agent.key_of(head) not in known:
                    yield head | {"returns": _trained(name, share, seed, **changed)}


def speed(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields self-play and learning per second by size."""
    for size in map(int, flags.names) if flags.names else SIZES:
        head = {"part": "speed", "program": "gpt2_train", "by": str(size)}
        if bench_agent.key_of(head) in known:
            continue
        command = [sys.executable, "-m", "benchmarks.agent_parts", str(size)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        yield head | json.loads(said.stdout.splitlines()[-1])


def measure(accesses: int) -> dict[str, Any]:
    """Returns one row of `speed`. The program is that of `benchmarks.bench_speed`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from benchmarks import bench_speed
    from mallocgame import agent as features
    from mallocgame import changes, improve, rollout, teacher
    from muzero.agents import make_agent
    from muzero.config import LearnConfig, SearchConfig
    from muzero.training import Trainer

    compiles = 0

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        nonlocal compiles
        compiles += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    instance, times = bench_speed.problem("gpt2_train", accesses)
    size = instance.order.shape[0]
    static = features.static_features(instance, np.zeros(size + 1))
    # The rest of the features, which cost nothing while it is played.
    static = np.pad(static, ((0, 0), (0, 7)))
    one = improve.Start(
        instance=instance,
        plan=rollout.plan(instance, instance.order),
        static=jnp.asarray(static, jnp.float32),
        prior=changes.prior(instance),
        moves=jnp.arange(_MOVES, dtype=jnp.int32),
        times=jnp.int32(times),
    )
    tight = one._replace(instance=instance._replace(capacity=instance.capacity // 4))
    task = teacher.make_task(["one"], [one], [1.0])
    other = teacher.make_task(["other"], [tight], [1.0])
    config = _config(
        capacity=8,
        best_kept=1,
        search=SearchConfig(num_simulations=_SIMULATIONS, max_considered=2),
        learn=LearnConfig(rows=32, updates=_UPDATES),
    )
    trainer = Trainer(agent=make_agent("true-game", task), config=config)
    # In a warm-up nothing is played.
    learning = dataclasses.replace(
        trainer, config=dataclasses.replace(config, warmup=sys.maxsize)
    )
    state = trainer.explore(task.instances, trainer.init(task.instances, 0))
    jax.block_until_ready(learning.iterate(task.instances, state))
    before = compiles
    begun = time.perf_counter()
    state = jax.block_until_ready(trainer.explore(other.instances, state))
    played = time.perf_counter() - begun
    begun = time.perf_counter()
    jax.block_until_ready(learning.iterate(other.instances, state))
    learnt = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "accesses": accesses,
        "bucket": size,
        "times": times,
        "moves_per_second": round(_LANES * _MOVES / played, 3),
        "calls_per_second": round(_LANES * _MOVES * (_SIMULATIONS + 1) / played, 2),
        "updates_per_second": round(_UPDATES / learnt, 2),
        "compiles": before,
        "compiles_for_another_program": compiles - before,
        "peak_mib": round(peak),
    }


def report(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the tables of these parts as Markdown."""
    text: list[str] = []
    steps = (0, 7, 15, 23, 31)
    shown = " | ".join(f"after {k + 1}" for k in steps)
    for part, title in (("curves", "learning"), ("training", "training")):
        mine = [line for line in lines if line["part"] == part]
        if not mine:
            continue
        text += ["", f"| {title} | of peak | variant | seed | {shown} | best |"]
        text.append("|---|---:|---|---:|" + "---:|" * (len(steps) + 1))
        for line in mine:
            returns = line["returns"]
            cells = [f"{returns[k][0]:.4f} / {returns[k][1]:.4f}" for k in steps]
            head = f"| {line['program']} | {line['share']:.0%} | {line.get('by', '')} "
            head += f"| {line['seed']} | "
            text.append(head + " | ".join(cells) + f" | {returns[-1][2]:.4f} |")
    rows: dict[tuple[str, float, int], dict[str, float]] = {}
    for line in lines:
        if line["part"] == "play":
            cell = (line["program"], line["share"], line["seed"])
            rows.setdefault(cell, {})[line["by"]] = line["seconds"]
    if rows:
        names = list(dict.fromkeys(by for row in rows.values() for by in row))
        text += ["", *bench_agent.verdicts("on tuning programs", rows, names)]
    fast = [line for line in lines if line["part"] == "speed"]
    if fast:
        text += ["", *_speeds(fast)]
    return text


def _speeds(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = {
        "accesses": "accesses",
        "times": "instructions",
        "moves_per_second": "moves/s",
        "calls_per_second": "simulator calls/s",
        "updates_per_second": "updates/s",
        "compiles": "compilations",
        "compiles_for_another_program": "for another program",
        "peak_mib": "peak MiB",
    }
    text = ["| " + " | ".join(columns.values()) + " |", "|" + "---:|" * len(columns)]
    for line in sorted(lines, key=lambda line: line["accesses"]):
        text.append("| " + " | ".join(str(line.get(k, "")) for k in columns) + " |")
    return text


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
