"""The lines of `bench_sharding` as Markdown, and as a picture of the fronts of memory and time.

python -m benchmarks.sharding_report FIGURE.svg     # Needs the [report] extra.
"""

import argparse
import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import rows
from benchmarks.rows import Row

if TYPE_CHECKING:
    from benchmarks.bench_sharding import Row as Limited

_ROUNDING = 0.5  # MiB by which a plan may be over.


class Point(NamedTuple):
    """A compiled plan.

    Attributes:
        cycles: infinite if it was refused.
        mib: of arguments.
        name: what it is.
    """

    cycles: float
    mib: float
    name: str


def by_hand(lines: Sequence[Row], row: "Limited") -> list[Point]:
    """Returns the plans by hand that were compiled and keep the limit."""
    found = rows.latest(
        [x for x in lines if x["part"] == "hand"], "program", "topology", "name"
    )
    return _within(
        [
            _point(x, x["name"])
            for (program, topology, _), x in found.items()
            if (program, topology) == (row.program, row.topology)
        ],
        row.limit,
    )


def of_ilp(lines: Sequence[Row], name: str, row: "Limited") -> list[Point]:
    """Returns the plans of the integer program."""
    found = rows.latest([x for x in lines if x["part"] == "ilp"], "row", "bare")
    return _within(
        [_point(x, "ILP") for (of, _), x in found.items() if of == name], row.limit
    )


def of_search(lines: Sequence[Row], name: str, row: "Limited") -> list[Point]:
    """Returns the plans that the last search compiled."""
    found = _last_search(lines, name)
    return _within(
        [_point(x, x["words"]) for x in (found or {"compiled": []})["compiled"]],
        row.limit,
    )


def of_auto(
    lines: Sequence[Row], row: "Limited", *, columns: Sequence[str] = ("own", "again")
) -> dict[str, float]:
    """Returns XLA's auto-sharding under this limit: of its budgets the faster, in each column."""
    found = rows.latest(
        [x for x in lines if x["part"] == "auto"], "program", "topology", "budget"
    )
    fits = [
        x
        for (program, topology, _), x in found.items()
        if (program, topology) == (row.program, row.topology)
        and x["mib"] <= row.limit + _ROUNDING
    ]
    return {
        column: min((x[column] for x in fits if x.get(column)), default=math.inf)
        for column in columns
    }


def _last_search(lines: Sequence[Row], name: str) -> Row | None:
    return rows.latest([x for x in lines if x["part"] == "search"], "row").get((name,))


def _point(line: Row, name: str) -> Point:
    return Point(line.get("cycles") or math.inf, line.get("mib") or math.inf, name)


def _within(points: list[Point], limit: float) -> list[Point]:
    return sorted(p for p in points if p.mib <= limit + _ROUNDING)


def report(lines: Sequence[Row], table: Mapping[str, "Limited"]) -> Iterator[str]:
    """Yields Markdown."""
    yield (
        "| row | by hand | | ILP | AUTO, own | AUTO, again | searched | MiB | over hand | over ILP | over AUTO | compiles | seconds |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    details: list[str] = []
    for name, row in table.items():
        search = _last_search(lines, name)
        ours = of_search(lines, name, row)
        if search is None or not ours:
            continue
        hand, ilp = by_hand(lines, row), of_ilp(lines, name, row)
        auto = of_auto(lines, row)
        best = ours[0]
        peers = (
            hand[0].cycles if hand else math.inf,
            ilp[0].cycles if ilp else math.inf,
            min(auto.values()),
        )
        yield (
            f"| {name} | {hand[0].name if hand else '-'} | "
            + " | ".join(_cycles(x) for x in (*peers[:2], *auto.values()))
            + f" | {_cycles(best.cycles)} | {best.mib:.0f} | "
            + " | ".join(_ratio(x, best.cycles) for x in peers)
            + f" | {len(search['compiled'])} | {search['seconds']:.0f} |"
        )
        details.append(
            f"- {name}: {search['evaluations']} evaluations in {search['search_seconds']:.0f} s; best: {best.name}; "
            f"front of the compiled (MiB, cycles): {_front_words(ours)}"
        )
        details.extend(f"  - {_compiled(x)}" for x in search["compiled"])
    yield ""
    yield from details
    yield ""
    yield from _fidelity(lines)


def _front_words(points: Sequence[Point]) -> str:
    return ", ".join(f"({p.mib:.0f}, {p.cycles:,.0f})" for p in front(points))


def front(points: Sequence[Point]) -> list[Point]:
    """Returns the points that no other beats in cycles and in memory, the fastest first."""
    found: list[Point] = []
    for point in sorted(points):
        if math.isfinite(point.cycles) and all(
            round(point.mib, 1) < round(p.mib, 1) for p in found
        ):
            found.append(point)
    return found


def _compiled(line: Row) -> str:
    if not line["cycles"]:
        return f"{line['name']}: {line['failure']}"
    return (
        f"{line['name']}: model {line['predicted']:,.0f}, corrected {line['expected']:,.0f}, compiled {line['cycles']:,.0f} "
        f"(waiting {line['exposed']:,.0f}), {line['mib']:.0f} MiB"
    )


def _cycles(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "-"


def _ratio(other: float, ours: float) -> str:
    return f"{other / ours:.3f}" if math.isfinite(other) else "-"


def _fidelity(lines: Sequence[Row]) -> Iterator[str]:
    found = rows.latest(
        [x for x in lines if x["part"] == "fidelity"], "program", "plan"
    )
    good = [x for x in found.values() if x.get("cycles")]
    if not good:
        return
    yield "| program | plans | Spearman | Kendall | median error | 90 % within | waiting alone, median error |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name in dict.fromkeys(x["program"] for x in good):
        yield _agreement(name, [x for x in good if x["program"] == name])
    yield _agreement("all", good)
    refused = [x for x in found.values() if not x.get("cycles")]
    if refused:
        yield ""
        yield f"Refused by the compiler: {len(refused)} more."


def _agreement(name: str, lines: Sequence[Row]) -> str:
    import numpy as np
    from scipy import stats

    def column(key: str) -> Any:
        return np.array([x[key] for x in lines], float)

    predicted, cycles = column("predicted"), column("cycles")
    error = np.abs(predicted / cycles - 1)
    waits = np.abs(predicted - column("compute") - column("exposed")) / cycles
    return (
        f"| {name} | {len(lines)} | {stats.spearmanr(predicted, cycles).statistic:.3f} "
        f"| {stats.kendalltau(predicted, cycles).statistic:.3f} | {np.median(error):.1%} | {np.quantile(error, 0.9):.1%} "
        f"| {np.median(waits):.1%} |"
    )


def picture(lines: Sequence[Row], table: Mapping[str, "Limited"], path: Path) -> None:
    """Draws what was compiled, for each program with several limits, as memory of the arguments against cycles.

    Raises:
        ModuleNotFoundError: there is no matplotlib.
    """
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    limits = collections.Counter((row.program, row.topology) for row in table.values())
    programs = [program for program, count in limits.items() if count > 1]
    columns = min(2, len(programs))
    height = math.ceil(len(programs) / columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4.6 * columns, 3.6 * height), squeeze=False
    )
    for axis in axes.flat[len(programs) :]:
        axis.set_visible(False)
    for axis, (program, topology) in zip(axes.flat, programs):
        names = {k: r for k, r in table.items() if r[::2] == (program, topology)}
        free = next(iter(names.values()))._replace(limit=math.inf)
        kinds = {
            "by hand": (by_hand(lines, free), "s", "#767676"),
            "ILP": ([p for k in names for p in of_ilp(lines, k, free)], "^", "#c58a00"),
            "AUTO": (_auto_points(lines, free), "D", "#b3402a"),
        }
        ours = [p for k in names for p in of_search(lines, k, free)]
        for label, (points, marker, colour) in kinds.items():
            axis.scatter(
                *_xy(points), marker=marker, s=28, c=colour, label=label, zorder=2
            )
        axis.scatter(*_xy(ours), s=12, c="#9db8dd", label="searched", zorder=1)
        best = front(ours)
        axis.step(
            *_xy(best[::-1]),
            "o-",
            where="post",
            c="#1f5fb0",
            ms=4,
            label="front of the searched",
            zorder=3,
        )
        axis.set(xscale="log", yscale="log", title=f"{program} on {topology}")
        axis.set(xlabel="MiB of arguments on a device", ylabel="million cycles")
        for one, unit in ((axis.xaxis, 1.0), (axis.yaxis, 1e6)):
            one.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            one.set_major_formatter(lambda x, _, unit=unit: f"{x / unit:g}")
            one.set_minor_locator(ticker.NullLocator())
        axis.grid(True, alpha=0.25)
    axes.flat[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same lines make the same file.
    plt.rcParams["svg.hashsalt"] = "schedule-zero"
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _auto_points(lines: Sequence[Row], row: "Limited") -> list[Point]:
    found = rows.latest(
        [x for x in lines if x["part"] == "auto"], "program", "topology", "budget"
    )
    return [
        Point(
            min(x.get("own") or math.inf, x.get("again") or math.inf), x["mib"], budget
        )
        for (program, topology, budget), x in found.items()
        if (program, topology) == (row.program, row.topology)
    ]


def _xy(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    kept = [p for p in points if math.isfinite(p.cycles)]
    return [p.mib for p in kept], [p.cycles for p in kept]


def main() -> None:
    """Draws the picture."""
    from benchmarks import bench_sharding

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figure", type=Path)
    parser.add_argument("--lines", type=Path, default=bench_sharding.LINES)
    flags = parser.parse_args()
    picture(rows.read(flags.lines), bench_sharding.ROWS, flags.figure)


if __name__ == "__main__":
    main()
