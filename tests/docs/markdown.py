"""Reads what a page of the documentation tells a reader to type, run or follow."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]

_FENCE = re.compile(
    r"(?P<mark><!-- run -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BEGINS = re.compile(
    r"(?:[A-Z_]+=(?:'[^']*'|\S*) )*(?:python (?:-m )?|make )(?=[\w./])"
)


class Block(NamedTuple):
    """A fenced block: its page, line, language, text, and whether the page says that it runs as it stands."""

    page: Path
    line: int
    language: str
    text: str
    runs: bool


class Command(NamedTuple):
    """A command as the page has it, its words without what stands in front of `python` or `make`."""

    page: Path
    text: str
    words: tuple[str, ...]

    @property
    def module(self) -> str:
        """What `python -m` runs, else empty."""
        return self.words[2] if self.words[:2] == ("python", "-m") else ""


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(
            line[indent:] for line in match["body"].splitlines(keepends=True)
        )
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(page, line, match["language"], body, bool(match["mark"])))
    return found


def commands(page: Path) -> list[Command]:
    """Returns the commands of a page: in blocks that are no other language, indented, and inline."""
    text = page.read_text()
    lines = [
        line
        for block in blocks(page)
        if block.language in ("", "bash", "sh")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    prose = _FENCE.sub("", text)
    lines += [line.strip() for line in prose.splitlines() if line.startswith("    ")]
    lines += [" ".join(span.split()) for span in _INLINE.findall(prose)]
    lines += [
        line.lstrip("# ")
        for block in blocks(page)
        if block.language == "python"
        for line in block.text.splitlines()
        if line.startswith("# python ")
    ]
    found = []
    for line in dict.fromkeys(lines):
        begins = _BEGINS.match(line)
        if begins is None:
            continue
        words = shlex.split(line, comments=True)
        while "=" in words[0]:
            words.pop(0)
        found.append(Command(page, line, tuple(words)))
    return found


def links(page: Path) -> list[str]:
    """Returns where a page's links to other files of the project and to its own headings go."""
    return [
        link
        for link in dict.fromkeys(_LINK.findall(_FENCE.sub("", page.read_text())))
        if not link.startswith(("http://", "https://"))
    ]


def anchors(page: Path) -> set[str]:
    """Returns the names under which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def name(page: Path) -> str:
    """Returns a page's path in the project."""
    return str(page.relative_to(ROOT))
