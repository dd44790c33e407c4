"""What a person sees: notes and a progress bar on stderr, tables on stdout."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Protocol

from solvers.command.result import Report, speedup
from solvers.command.units import Meter, format_quantity

_PLAIN_WIDTH = 100


class Progress(Protocol):
    """A progress bar, or nothing where nobody watches."""

    def update(self, text: str = "") -> None:
        """Moves the bar to where the meter is, and shows `text` beside it."""


class _NoProgress:
    def update(self, text: str = "") -> None:
        pass


class Console:
    """Writes to a person.

    Args:
        stdout: where tables go; None under `--json` and `--quiet`.
        quiet: true to leave out notes and progress too.
    """

    def __init__(self, stdout: IO[str] | None, *, quiet: bool) -> None:
        self._stdout = stdout
        self._quiet = quiet

    def note(self, text: str) -> None:
        """Writes one line to stderr, unless quiet."""
        if not self._quiet:
            print(one_line(text), file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Writes one line of results to stdout, if a person reads it."""
        if self._stdout is not None:
            with reader_may_leave(self._stdout):
                print(text, file=self._stdout, flush=True)

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Writes a table to stdout, if a person reads it.

        Columns but the first are aligned to the right.
        """
        if self._stdout is None:
            return
        from rich import box
        from rich.console import Console as RichConsole
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
        for i, column in enumerate(columns):
            table.add_column(Text(column), justify="right" if i else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        width = None if self._stdout.isatty() else _PLAIN_WIDTH
        console = RichConsole(file=self._stdout, width=width)
        with console.capture() as drawn:
            console.print(table)
        lines = (line.rstrip() for line in drawn.get().splitlines())
        self.line("\n".join(lines).rstrip() + "\n")

    @contextlib.contextmanager
    def progress(self, title: str, meter: Meter) -> Iterator[Progress]:
        """Shows a bar of the budget spent while the context is open.

        It is drawn on stderr, only if that is a terminal, and not when quiet.
        """
        if self._quiet or not sys.stderr.isatty():
            yield _NoProgress()
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=RichConsole(stderr=True),
            redirect_stdout=False,
            transient=True,
        )
        task = bar.add_task(title, total=1.0, text="")

        class _Bar:
            def update(self, text: str = "") -> None:
                bar.update(task, completed=meter.fraction(), text=text)

        with bar:
            yield _Bar()

    def summary(self, report: Report, status: str) -> None:
        """Writes the closing table and the files written, the report last."""
        default = report.baselines[report.default]
        assert default is not None

        def row(name: str, value: float | None, baseline: float) -> list[str]:
            if value is None:
                return [name, "-", "-"]
            ratio = speedup(baseline, value)
            times = "-" if ratio is None else f"{ratio:.3f}x"
            return [name, format_quantity(value, report.unit), times]

        rows = [row(name, cost, default) for name, cost in report.baselines.items()]
        rows.append(row("best found", report.best, default))
        rows.append(row("lower bound", report.bound, default))
        verified = report.verified
        if verified is not None:
            by = verified.by
            rows.append(
                row(f"{report.default}, by {by}", verified.baseline, verified.baseline)
            )
            rows.append(row(f"best, by {by}", verified.best, verified.baseline))
        title = f"{report.input} on {report.target}" if report.target else report.input
        self.table(title, ("", "cost", f"against {report.default}"), rows)
        if status != "OK":
            self.line("interrupted: this is the best so far")
        names = sorted(report.artifacts, key=lambda name: name == "report")
        for name in names:
            self.line(f"{name}: {report.artifacts[name]}")


def one_line(text: str) -> str:
    """Returns `text` with line breaks and runs of blanks made one blank."""
    return " ".join(text.split())


@contextlib.contextmanager
def reader_may_leave(stream: IO[str]) -> Iterator[None]:
    """Goes on if who reads `stream` has closed it, as `head` does."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
