"""What a search handed over, read back."""

import json
from pathlib import Path

import pytest

import mallocgame


def test_options_come_back(tmp_path: Path) -> None:
    file = tmp_path / "mapping.json"
    file.write_text(json.dumps({"compiler_options": {"xla_a": "1"}}))
    assert mallocgame.compiler_options(file) == {"xla_a": "1"}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"compiler_options": 3}', '{"compiler_options": {"a": 1}}'],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json is not a mapping\.json") as told:
        mallocgame.compiler_options(file)
    assert "\n" not in str(told.value)
