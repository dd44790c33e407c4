"""The page of one search for a sampler."""

import numpy as np

from diffusion.hunt import Found
from diffusion.problems import Problem
from solvers.command import Session
from solvers.report import (
    Column,
    Component,
    Fact,
    Line,
    Page,
    Section,
    Series,
    Table,
    Text,
)
from solvers.report import render as render_page


def render(found: Found, problem: Problem, session: Session) -> str:
    """Returns the HTML of a search's report."""
    chosen, stock = found.chosen, found.stock_best
    results = [*found.stock, *found.searched]
    table = Table(
        title="RMSE to the exact solution",
        columns=["method", "setting", "select", "report", "95 % from", "to"],
        rows=[
            [
                r.method,
                r.setting,
                round(r.selected, 5),
                round(r.reported, 5),
                *(round(end, 5) for end in r.interval),
            ]
            for r in results
        ],
        best=next(k for k, r in enumerate(results) if r is chosen),
        note="chosen on the select set; the report set was used once, for these numbers",
    )
    sections = [
        Section(title="Result", components=[table]),
        Section(title="The sampler", components=_sampler(found)),
    ]
    if found.history:
        x, y = zip(*found.history, strict=True)
        line = Line(
            title="Best error on the search set",
            series=[Series(name=session.flags.strategy, x=list(x), y=list(y))],
            y_label="RMSE",
            y_unit="",
        )
        sections.append(Section(title="Search", components=[line]))
    return render_page(
        Page(
            title=f"{problem.name}, {chosen.table.evaluations} evaluations",
            subtitle=f"handed over: {chosen.method}, seed {session.flags.seed}",
            facts=[
                Fact(
                    name="error against the best stock solver's",
                    value=round(chosen.reported / stock.reported, 3),
                    unit="×",
                    emphasis=True,
                ),
                Fact(name="report-set RMSE", value=round(chosen.reported, 5)),
                Fact(name=stock.method, value=round(stock.reported, 5)),
            ],
            sections=sections,
            footer=session.name,
        )
    )


def _sampler(found: Found) -> list[Component]:
    """Where the network is asked, and with what weights its answers count."""
    table, stock = found.chosen.table, found.stock_best.table
    places = Line(
        title="Where the network is asked",
        series=[
            Series(
                name=name,
                x=list(range(1, t.evaluations + 1)),
                y=np.log(np.asarray(t.alpha) / np.asarray(t.sigma)).tolist(),
                step=False,
            )
            for name, t in {
                found.stock_best.method: stock,
                found.chosen.method: table,
            }.items()
        ],
        x_label="evaluation",
        y_label="log-SNR / 2",
        y_unit="",
    )
    weights = np.asarray(table.weight).reshape(table.evaluations, table.window, -1)
    rows = [
        [
            n + 1,
            round(float(table.time[n]), 6),
            round(float(np.ravel(table.carry[n])[0]), 6),
            *(
                round(float(w[0]), 6) if k <= n else ""
                for k, w in enumerate(weights[n])
            ),
        ]
        for n in range(table.evaluations)
    ]
    numbers = Table(
        title="The table that is run",
        columns=[
            "evaluation",
            "time",
            "carry",
            *(
                Column(name=f"weight of x0({'n' if k == 0 else f'n-{k}'})")
                for k in range(table.window)
            ),
        ],
        rows=rows,
    )
    text = Text(
        body="x of evaluation n + 1 is carry times x of n, plus the weighted x0 that the network predicted at n, n-1, ..."
    )
    return [places, numbers, text]
