"""Colours for light and dark pages.

The seven category colours keep the hues of Okabe and Ito's set, moved apart in lightness so that every
pair stays distinct under simulated protanopia, deuteranopia and tritanopia (a test measures it). The
eighth category and later reuse them with stripes.
"""

from collections.abc import Mapping
from typing import Literal

Theme = Literal["light", "dark"]

CATEGORY_COLOURS: Mapping[Theme, tuple[str, ...]] = {
    "light": (
        "#1061a7",
        "#ae7001",
        "#409878",
        "#783f61",
        "#3caaef",
        "#a13201",
        "#bba405",
    ),
    "dark": (
        "#287ecc",
        "#f5b616",
        "#39be9b",
        "#b45c80",
        "#8bdbfe",
        "#ec5815",
        "#f4fb87",
    ),
}

SURFACE_COLOURS: Mapping[Theme, Mapping[str, str]] = {
    "light": {
        "page": "#f6f7f9",
        "surface": "#ffffff",
        "ink": "#1a1f27",
        "dim": "#59626f",
        "grid": "#dfe3e8",
        "edge": "#c3c9d1",
        "accent": "#1061a7",
        "warn": "#b3261e",
    },
    "dark": {
        "page": "#0c0f13",
        "surface": "#12161c",
        "ink": "#e6e9ee",
        "dim": "#9aa4b2",
        "grid": "#262d37",
        "edge": "#3d4653",
        "accent": "#6db3f2",
        "warn": "#ff8a80",
    },
}

_SWITCH = "@media screen and (prefers-color-scheme: dark) {\n:root:not([data-theme=light]) {\n"


def stylesheet() -> str:
    """Returns the colours as CSS variables; paper is always light."""
    dark = f"{_SWITCH}color-scheme: dark;\n{_variables('dark')}}}\n}}\n"
    return f":root {{\ncolor-scheme: light;\n{_variables('light')}}}\n{dark}"


def text_colour(fill: str) -> str:
    """Returns black or white, whichever reads better on the fill."""
    return "#000000" if luminance(fill) > 0.18 else "#ffffff"


def luminance(colour: str) -> float:
    """Returns the relative luminance (WCAG 2) of a colour such as "#1061a7"."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _variables(theme: Theme) -> str:
    named = dict(SURFACE_COLOURS[theme])
    named |= {f"c{i}": colour for i, colour in enumerate(CATEGORY_COLOURS[theme])}
    return "".join(f"--{name}: {colour};\n" for name, colour in named.items())
