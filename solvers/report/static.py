"""The parts of a page that need no script: facts, tables, bars and text."""

import math
from collections.abc import Sequence

from solvers.report.components import Bar, Bars, Cell, Column, Fact, Table, Text
from solvers.report.escape import escape
from solvers.report.units import Scale, aligned, decimals_for, format_value, scale_for

_LONG = 32  # Characters of a fact that needs a line for itself.
_VISIBLE = 0.01  # Of the longest bar.
_WIDE_RANGE = 1e5  # Beyond it one scale for a whole column hides the small numbers.


def facts_html(facts: Sequence[Fact]) -> str:
    """Returns the facts with emphasis as large tiles, the others as a list below."""
    large = [fact for fact in facts if fact.emphasis]
    small = [fact for fact in facts if not fact.emphasis]
    blocks = [
        f'<dl class="{kind}">\n{"".join(map(_fact, some))}</dl>\n'
        for kind, some in (("tiles", large), ("facts", small))
        if some
    ]
    return "".join(blocks)


def table_html(table: Table) -> str:
    """Returns the table; numbers stand to the right, the best row is marked by a word."""
    columns = [c if isinstance(c, Column) else Column(name=c) for c in table.columns]
    head, texts, numeric = "", [], []
    for j, column in enumerate(columns):
        cells = [row[j] for row in table.rows]
        numeric.append(j > 0 and any(_is_number(cell) for cell in cells))
        unit, column_texts = _column(cells, column.unit)
        texts.append(column_texts)
        note = f" <small>({escape(unit)})</small>" if unit else ""
        head += f"<th scope=col{_right(numeric[j])}>{escape(column.name)}{note}</th>"
    body = ""
    for i, row in enumerate(zip(*texts, strict=True)):
        first, *others = row
        badge = ' <span class="badge">best</span>' if i == table.best else ""
        body += "<tr class=best>" if badge else "<tr>"
        body += f"<th scope=row>{escape(first)}{badge}</th>"
        for text, right in zip(others, numeric[1:], strict=True):
            body += f"<td{_right(right)}>{escape(text)}</td>"
        body += "</tr>\n"
    return _figure(
        "table",
        table.title,
        table.note,
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n",
    )


def bars_html(figure: Bars) -> str:
    """Returns the largest bars and the sum of the rest, the numbers beside them."""

    def rank(bar: Bar) -> tuple[float, float, str]:
        changed = abs(bar.values[0] - bar.values[1]) if figure.by_change else 0.0
        return -changed, -max(bar.values, default=0), bar.label

    ordered = sorted(figure.bars, key=rank)
    shown, rest = ordered[: figure.top], ordered[figure.top :]
    longest = max((v for bar in shown for v in bar.values), default=0)
    scale = scale_for([longest], figure.unit)
    sums = [(f"the other {len(rest):,}", _sums(rest))] if rest else []
    sums += [("all", _sums(figure.bars))] if figure.bars else []
    numbers = _bar_numbers(
        [bar.values for bar in shown] + [v for _, v in sums], len(shown), scale
    )
    body = "".join(
        f'<tr><th scope=row><span class="name" title="{escape(bar.label)}">'
        f"{escape(bar.label)}</span></th>"
        f"<td class=track>{_bar_lengths(bar.values, longest or 1)}</td>{text}</tr>\n"
        for bar, text in zip(shown, numbers, strict=False)
    )
    foot = "".join(
        f"<tr><th scope=row>{name}</th><td></td>{text}</tr>\n"
        for (name, _), text in zip(sums, numbers[len(shown) :], strict=True)
    )
    return _figure(
        "bars",
        figure.title,
        figure.note,
        f"<table>\n<thead>{_bars_head(figure, scale)}</thead>\n"
        f"<tbody>\n{body}</tbody>\n<tfoot>\n{foot}</tfoot>\n</table>\n",
    )


def text_html(text: Text) -> str:
    """Returns the paragraph or the preformatted block."""
    tag = "pre" if text.preformatted else "p"
    return f"<{tag}>{escape(text.body)}</{tag}>\n"


def caption_html(title: str, note: str) -> str:
    """Returns the caption of a figure, or nothing if there is nothing to say."""
    if not (title or note):
        return ""
    strong = f"<strong>{escape(title)}</strong> " if title else ""
    return f"<figcaption>{strong}{escape(note)}</figcaption>\n"


def _figure(kind: str, title: str, note: str, body: str) -> str:
    return f'<figure class="{kind}">\n{caption_html(title, note)}<div class=scroll>{body}</div></figure>\n'


def _fact(fact: Fact) -> str:
    note = f"<small>{escape(fact.note)}</small>" if fact.note else ""
    value = escape(format_value(fact.value, fact.unit))
    long = " class=long" if len(value) > _LONG and not fact.emphasis else ""
    return f"<div{long}><dt>{escape(fact.name)}</dt><dd>{value}{note}</dd></div>\n"


def _is_number(cell: Cell) -> bool:
    return cell is not None and not isinstance(cell, str | bool)


def _column(cells: Sequence[Cell], unit: str) -> tuple[str, list[str]]:
    """Returns the unit that all numbers of a column share, if any, and the cells' texts."""
    numbers = [float(cell) for cell in cells if _is_number(cell)]  # type: ignore[arg-type]
    sizes = [abs(x) for x in numbers if math.isfinite(x) and x]
    if not sizes or (max(sizes) / min(sizes) > _WIDE_RANGE and unit):
        return "", [format_value(cell, unit) for cell in cells]
    scale = scale_for(sizes, unit)
    scaled = [x / scale.divisor for x in numbers]
    texts = iter(aligned(scaled, decimals_for(scaled)))
    return scale.unit, [
        next(texts) if _is_number(cell) else format_value(cell) for cell in cells
    ]


def _right(right: bool) -> str:
    return " class=right" if right else ""


def _sums(bars: Sequence[Bar]) -> list[float]:
    return [math.fsum(v) for v in zip(*(bar.values for bar in bars), strict=True)]


def _bars_head(figure: Bars, scale: Scale) -> str:
    unit = f" ({escape(scale.unit)})" if scale.unit else ""
    names = "".join(
        f'<th scope=col class=right><span class="swatch s{i % 7}"></span>'
        f"{escape(name)}{unit}</th>"
        for i, name in enumerate(figure.series)
    )
    change = "<th scope=col class=right>change</th>" if len(figure.series) == 2 else ""
    return f"<tr><th scope=col>{escape(figure.label)}</th><td></td>{names}{change}</tr>"


def _bar_lengths(values: Sequence[float], longest: float) -> str:
    return "".join(
        f'<div class="bar s{i % 7}" style="width:{100 * value / longest:.4g}%"></div>'
        for i, value in enumerate(values)
    )


def _bar_numbers(
    rows: Sequence[Sequence[float]], shown: int, scale: Scale
) -> list[str]:
    """Returns the cells of each row: its values, and the change if there are two."""
    scaled = [[value / scale.divisor for value in row] for row in rows]
    values = [value for row in scaled[:shown] for value in row]
    # Values too short for a bar to show need no digits of their own.
    least = _VISIBLE * max(values, default=0.0)
    decimals = decimals_for(value for value in values if value >= least)
    cells = [aligned(row, decimals) for row in scaled]
    for row, texts in zip(rows, cells, strict=True):
        if len(row) == 2:
            texts.append(_change(*row))
    return ["".join(f"<td class=right>{text}</td>" for text in row) for row in cells]


def _change(before: float, after: float) -> str:
    if before == after or not before:
        return "–" if before != after else "0%"
    change = f"{(after - before) / before * 100:+.1f}"
    if float(change) == 0:
        return "0%"
    return f"{change}%".replace("-", "\N{MINUS SIGN}")
