"""The cache on disk: keys by content, complete entries only, a limit."""

import os
from pathlib import Path

import pytest

from compiler.backends import cache as caching

BASE = {"topology": "v5e:1x1", "options": {"a": "1"}, "version": "libtpu 0.0.52"}


def test_the_key_depends_on_everything() -> None:
    changed = [
        caching.key(b"module", BASE),
        caching.key(b"other", BASE),
        caching.key(b"module", {**BASE, "topology": "v6e:1x1"}),
        caching.key(b"module", {**BASE, "options": {"a": "2"}}),
        caching.key(b"module", {**BASE, "version": "libtpu 0.0.53"}),
    ]
    assert len(set(changed)) == len(changed)
    assert caching.key(b"module", dict(reversed(BASE.items()))) == changed[0]


def test_put_then_get(tmp_path: Path) -> None:
    cache = caching.Cache(tmp_path / "new" / "folder")
    assert cache.get("k") is None
    entry = cache.put("k", {"result.json": b"{}", "a": b"1"})
    assert cache.get("k") == entry
    assert (entry / "a").read_bytes() == b"1"
    assert (
        cache.put("k", {"result.json": b"{}", "a": b"1"}) == entry
    )  # A second writer.
    assert [file.name for file in cache.folder.iterdir()] == ["k"]


def test_half_an_entry_is_no_entry(tmp_path: Path) -> None:
    cache = caching.Cache(tmp_path)
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "a").write_bytes(b"half")
    assert cache.get("k") is None
    cache.put("k", {"result.json": b"{}", "a": b"whole"})
    assert (tmp_path / "k" / "a").read_bytes() == b"whole"


def test_refuses_an_entry_without_its_mark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"result\.json"):
        caching.Cache(tmp_path).put("k", {"a": b""})


def test_the_least_used_goes(tmp_path: Path) -> None:
    cache = caching.Cache(tmp_path, limit=25)
    for number, name in enumerate("abc"):
        cache.put(name, {"result.json": b"0123456789"})
        if (tmp_path / name).exists():
            os.utime(tmp_path / name, (number, number))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b", "c"]


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SCHEDULE_ZERO_CACHE", raising=False)
    assert caching.default_folder() == tmp_path / "schedule-zero" / "compiles"
    monkeypatch.setenv("SCHEDULE_ZERO_CACHE", str(tmp_path / "own"))
    assert caching.default_folder() == tmp_path / "own" / "compiles"
