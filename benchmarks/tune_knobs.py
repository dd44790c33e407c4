"""Measures what each setting of each knob does to the tuning programs: the prior of the search.

    python -m benchmarks.tune_knobs [NAME ...] [--target tpu-v5e] [--knob OPTION] [--write]

Each value of each knob is compiled alone, all others at their defaults, and judged. Prints the
change of the judged time by value, over the programs, and with `--write` stores mean and deviation
in `mallocgame/knob_prior.json`; with `--knob`, of one option, beside what is there. No program of the test half is ever compiled here.
"""

import argparse
import json
import math
from pathlib import Path

PRIOR = Path(__file__).parents[1] / "mallocgame" / "knob_prior.json"
# What one program more might show: keeps the deviation of few agreeing programs from being 0.
_LEAST_DEVIATION = 0.01


def main() -> None:
    """Prints the table, and writes the prior."""
    from benchmarks import workloads

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    tuning = [w.name for w in workloads.of_split("tuning")]
    parser.add_argument("names", nargs="*", default=tuning)
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--knob")
    parser.add_argument("--write", action="store_true")
    flags = parser.parse_args()
    for name in flags.names:
        if name not in tuning:
            parser.error(f"{name} is not of the tuning half: {', '.join(tuning)}")
    changes: dict[str, list[float]] = {}
    for name in flags.names:
        print(f"{name}:", flush=True)
        for setting, change in _flips(name, flags.target, flags.timeout, flags.knob):
            changes.setdefault(setting, []).append(change)
            if abs(change) >= 0.001:
                print(f"  {setting}: {math.expm1(change):+.1%}", flush=True)
    effects = {setting: _moments(seen) for setting, seen in changes.items()}
    print("| setting | programs | mean | deviation | best |")
    print("|---|---|---|---|---|")
    for setting, seen in changes.items():
        moments = effects[setting]
        print(
            f"| {setting} | {len(seen)} | {moments['mean']:+.4f} | "
            f"{moments['deviation']:.4f} | {min(seen):+.4f} |"
        )
    if flags.write:
        if flags.knob is not None:
            effects = json.loads(PRIOR.read_text())["effects"] | effects
        document = {"programs": flags.names, "target": flags.target, "effects": effects}
        PRIOR.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _flips(
    name: str, target_name: str, timeout: float, only: str | None
) -> list[tuple[str, float]]:
    from benchmarks import workloads
    from compiler.backends import CompilerError, compile_source, from_function
    from compiler.cost.judge import judge
    from compiler.hlo import build
    from compiler.targets import TARGETS
    from mallocgame.knobs import KNOBS

    target = TARGETS[target_name]
    assert target.topology is not None
    call = workloads.get(name).make()
    source = from_function(
        call.fn, *call.args, topology=target.topology, **call.jit_kwargs
    )

    def cost(options: dict[str, str]) -> float:
        assert target.topology is not None
        compiled = compile_source(source, target.topology, options, timeout=timeout)
        return judge(build(compiled.module), target).total

    base = cost({})
    found = []
    for knob in KNOBS:
        if only not in (None, knob.option):
            continue
        for value in knob.values[1:]:
            setting = f"{knob.option}={value}"
            try:
                found.append((setting, math.log(cost({knob.option: value}) / base)))
            except CompilerError as error:
                print(f"  {setting}: {error}", flush=True)
    return found


def _moments(seen: list[float]) -> dict[str, float]:
    """Mean and deviation, shrunk towards no effect as if one more program had shown none."""
    count = len(seen) + 1
    mean = sum(seen) / count
    variance = (sum((x - mean) ** 2 for x in seen) + mean**2) / count
    return {
        "mean": round(mean, 5),
        "deviation": round(math.sqrt(variance + _LEAST_DEVIATION**2), 5),
    }


if __name__ == "__main__":
    main()
