"""A page as one self-contained HTML file: its styles, scripts and data are inside, the network is shut out."""

from importlib import resources

from solvers.report import palette
from solvers.report.components import (
    Bars,
    Component,
    Lanes,
    Line,
    Page,
    Section,
    SpaceTimeMap,
    Table,
    Text,
)
from solvers.report.encode import Encoder
from solvers.report.escape import escape
from solvers.report.static import (
    bars_html,
    caption_html,
    facts_html,
    table_html,
    text_html,
)

_SCRIPTS = ("base.js", "axis.js", "view.js", "figure.js", "line.js", "main.js")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{subtitle}{facts}{contents}</header>
<main>
{sections}</main>
{footer}<script type="application/json" id="report-data">{data}</script>
<script>
(() => {{
"use strict";
{script}}})();
</script>
</body>
</html>
"""


def render(page: Page) -> str:
    """Returns the page as the text of an HTML file, to be written as UTF-8.

    The same page always gives the same text. Raises ValueError if two figures share the group of
    their time axes but not the axis.
    """
    encoder = Encoder()
    sections = [
        _section(section, i, encoder) for i, section in enumerate(page.sections)
    ]
    return _TEMPLATE.format(
        policy=_POLICY,
        title=escape(page.title),
        style=palette.stylesheet() + _asset("report.css"),
        subtitle=f"<p class=subtitle>{escape(page.subtitle)}</p>\n"
        if page.subtitle
        else "",
        facts=facts_html(page.facts),
        contents=_contents(page),
        sections="".join(sections),
        footer=f"<footer>{escape(page.footer)}</footer>\n" if page.footer else "",
        data=encoder.to_json(),
        script="".join(map(_asset, _SCRIPTS)),
    )


def _contents(page: Page) -> str:
    if len(page.sections) < 2:
        return ""
    links = "".join(
        f'<a href="#section-{i}">{escape(section.title)}</a>\n'
        for i, section in enumerate(page.sections)
    )
    return f'<nav aria-label="Sections">\n{links}</nav>\n'


def _section(section: Section, index: int, encoder: Encoder) -> str:
    note = f"<p class=note>{escape(section.note)}</p>\n" if section.note else ""
    body = "".join(_component(component, encoder) for component in section.components)
    return f'<section id="section-{index}">\n<h2>{escape(section.title)}</h2>\n{note}{body}</section>\n'


def _component(component: Component, encoder: Encoder) -> str:
    match component:
        case Table():
            return table_html(component)
        case Bars():
            return bars_html(component)
        case Text():
            return text_html(component)
        case SpaceTimeMap() | Lanes() | Line():
            return (
                f'<figure class="drawn" data-figure="{encoder.add(component)}">\n'
                f"{caption_html(component.title, component.note)}"
                "<noscript><p>This figure is drawn by a script.</p></noscript></figure>\n"
            )


def _asset(name: str) -> str:
    return resources.files("solvers.report").joinpath("assets", name).read_text("utf-8")
