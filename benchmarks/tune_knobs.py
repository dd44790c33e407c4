"""Measures what each setting of each knob does to the tuning programs: the prior of the search.

    python -m benchmarks.tune_knobs [NAME ...] [--target tpu-v5e] [--timeout 300] [--write]

Each value of each knob is compiled alone, all others at their defaults, and judged. Prints the
change of the judged time by value, over the programs, and with `--write` stores what each program
showed in `mallocgame/knob_prior.json`, beside the programs that are there. No program of the test
half is ever compiled here.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

PRIOR = Path(__file__).parents[1] / "mallocgame" / "knob_prior.json"


def main() -> None:
    """Prints the table, and writes the prior."""
    from benchmarks import workloads
    from mallocgame.knobs import settings

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    tuning = [w.name for w in workloads.of_split("tuning")]
    parser.add_argument("names", nargs="*", default=tuning)
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--write", action="store_true")
    flags = parser.parse_args()
    for name in flags.names:
        if name not in tuning:
            parser.error(f"{name} is not of the tuning half: {', '.join(tuning)}")
    stored = json.loads(PRIOR.read_text())["programs"] if PRIOR.exists() else {}
    for name in flags.names:
        print(f"{name}:", flush=True)
        stored[name] = changes = flips(name, flags.target, flags.timeout)
        for setting, change in changes.items():
            if change is not None and abs(change) >= 0.001:
                print(f"  {setting}: {math.expm1(change):+.1%}", flush=True)
        if flags.write:
            document = {"target": flags.target, "programs": stored}
            PRIOR.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    print("| setting | programs | median | best | worst | failed |")
    print("|---|---|---|---|---|---|")
    for setting in settings():
        told = [stored[name][setting] for name in flags.names]
        seen = [change for change in told if change is not None]
        cells = [statistics.median(seen), min(seen), max(seen)] if seen else []
        text = " | ".join(f"{math.expm1(change):+.1%}" for change in cells)
        print(f"| {setting} | {len(seen)} | {text} | {len(told) - len(seen)} |")


def flips(name: str, target_name: str, timeout: float) -> dict[str, float | None]:
    """Returns the change of the log of the judged time by setting; None where it did not compile."""
    from benchmarks import workloads
    from compiler.backends import CompilerError, compile_source, from_function
    from compiler.cost.judge import judge
    from compiler.hlo import build
    from compiler.targets import TARGETS
    from mallocgame.knobs import settings

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
    found: dict[str, float | None] = {}
    for setting in settings():
        option, _, value = setting.partition("=")
        try:
            found[setting] = round(math.log(cost({option: value}) / base), 5)
        except CompilerError as error:
            found[setting] = None
            print(f"  {setting}: {error}", flush=True)
    return found


if __name__ == "__main__":
    main()
