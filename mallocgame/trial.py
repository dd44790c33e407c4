"""The last word: what was found runs on this machine's device, beside the default.

On a TPU that is the program itself. Elsewhere (a CPU, as the stand-in) the compiler doesn't know the
options of a TPU's; they are left out, the same steps are gone through, and the answer says so.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compiler.backends import from_dump
from compiler.backends.measure import Measured, measure
from compiler.backends.timing import choose
from compiler.targets import Target
from solvers.command import Verified, format_quantity

_MOST_RIVALS = 3  # To be run; the judge's order counts.
# A result that differs by more than rounding in short types explains is worth a word.
_ROUNDING = 1e-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What the runs came to.

    Attributes:
        measured: the default first, then the rivals.
        rivals: their names, in the judge's order.
        options: how many compile options each rival has, besides those of the default.
        winner: the rival to hand over, or None for the default.
    """

    measured: Measured
    rivals: tuple[str, ...]
    options: tuple[int, ...]
    winner: str | None

    @property
    def is_stand_in(self) -> bool:
        """Whether options were left out, so that it was not what was found that ran."""
        return any(way.left_out for way in self.measured.ways)

    def figures(self, honoured: float) -> Verified:
        """Returns the oracle's figures.

        Args:
            honoured: the share of the decisions that the compiler followed, where all options are known.
        """
        default, *rivals = self.measured.ways
        by = self.measured.by + (" (a stand-in)" if self.is_stand_in else "")
        if self.winner is None:
            return Verified(by=by, baseline=default.median, best=default.median)
        place = self.rivals.index(self.winner)
        way, count = rivals[place], self.options[place]
        known = 1.0 - len(way.left_out) / count if count else 1.0
        return Verified(
            by=by,
            baseline=default.median,
            best=way.median,
            honoured=min(honoured, max(known, 0.0)),
        )

    def notes(self, target: Target) -> list[str]:
        """Returns what a person should know of the runs."""
        default, *rivals = self.measured.ways
        said = [
            f"measured on {self.measured.by}: default "
            f"{format_quantity(default.median, 'seconds')}"
        ]
        for number, (name, way) in enumerate(zip(self.rivals, rivals), start=1):
            ratio = self.measured.ratio(number)
            said.append(
                f"measured: {name} takes {ratio.median:.3f} of its time "
                f"(95 %: {ratio.low:.3f} to {ratio.high:.3f})"
            )
            if way.difference > _ROUNDING:
                said.append(
                    f"measured: {name} gives other results, by {way.difference:.2g}"
                )
        if self.is_stand_in:
            left_out = sorted({name for way in rivals for name in way.left_out})
            said.append(
                f"this machine's {self.measured.platform.upper()} stands in for "
                f"{target.name}: it knows no {', '.join(left_out)}"
            )
        return said

    def to_json(self) -> dict[str, Any]:
        """Returns the runs for the JSON object."""
        default, *rivals = self.measured.ways
        return {
            "platform": self.measured.platform,
            "device": self.measured.device,
            "by": self.measured.by,
            "is_stand_in": self.is_stand_in,
            "default_seconds": list(default.seconds),
            "winner": self.winner,
            "rivals": [
                {
                    "label": name,
                    "seconds": list(way.seconds),
                    "ratio": ratio._asdict(),
                    "left_out": list(way.left_out),
                    "is_bitwise": way.is_bitwise,
                    # JSON has no word for infinite.
                    "difference": way.difference
                    if way.difference < float("inf")
                    else None,
                }
                for name, way, ratio in zip(
                    self.rivals,
                    rivals,
                    (self.measured.ratio(k) for k in range(1, 1 + len(rivals))),
                )
            ],
        }


def hold(
    source: Path,
    fixed: Mapping[str, str],
    rivals: Mapping[str, Mapping[str, str]],
    *,
    repeats: int,
    seed: int,
) -> Trial:
    """Runs the default and the rivals by turns.

    Args:
        source: the dump's `before_optimizations` file.
        fixed: compile options that hold for all.
        rivals: compile options by name, the judge's first choice first.
        repeats: runs of each.
        seed: of the arguments.

    Raises:
        CompilerError: the device's compiler refuses the program, or it can't be run.
    """
    chosen = dict(list(rivals.items())[:_MOST_RIVALS])
    ways = [{**fixed, **options} for options in chosen.values()]
    measured = measure(
        from_dump(source), [dict(fixed), *ways], repeats=repeats, seed=seed
    )
    names = tuple(chosen)
    best = choose([measured.ratio(k) for k in range(1, 1 + len(names))])
    return Trial(
        measured=measured,
        rivals=names,
        options=tuple(len(way.keys() - fixed.keys()) for way in ways),
        winner=None if best is None else names[best],
    )
