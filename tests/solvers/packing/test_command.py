"""The command and its files, from outside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from solvers.command import Failure
from solvers.packing import Buffer, Part, csvfile

EXAMPLE = """id,lower,upper,size
b1,0,3,4
b2,3,9,4
b3,0,9,4
b4,9,21,4
b5,0,21,4
"""  # Of MiniMalloc's documentation: it fits in 12 bytes and no less.


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "solvers.packing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example.csv"
    path.write_text(EXAMPLE)
    return path


def test_solves_and_writes_the_offsets(example: Path, tmp_path: Path) -> None:
    done = run(example, "--capacity", 12, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "proved lowest" in done.stdout
    solution = csvfile.read((tmp_path / "out/solution.csv").read_bytes(), "solution")
    assert solution.header == ("id", "lower", "upper", "size", "offset")
    b1, b2, b3, b4, b5 = (b.offset for b in solution.buffers)
    assert {b1, b3, b5} == {b2, b3, b5} == {0, 4, 8}
    assert b4 != b5


def test_prints_one_object_as_json_and_goes_on(example: Path, tmp_path: Path) -> None:
    common = (example, "--json", "--out", tmp_path / "out", "--method", "bestfit")
    told = json.loads(run(*common).stdout)
    assert (told["status"], told["best"], told["bound"]) == ("OK", 12.0, 12.0)
    assert told["proved_lowest"] and told["default"] == "xla"
    assert json.loads(run(*common, "--resume").stdout)["best"] == 12.0


def test_says_that_nothing_fits(example: Path, tmp_path: Path) -> None:
    done = run(example, "--capacity", 11, "--out", tmp_path / "out", "--json")
    assert done.returncode == 5
    told = json.loads(done.stdout)
    assert told["reason"] == "infeasible" and "proved" in told["error"]
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("nothing.csv",), 3),
        (("FILE", "--capacity", "0"), 2),
        (("FILE", "--method", "magic"), 2),
        (("FILE", "--budget", "5evals", "--method", "cpsat"), 2),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: tuple[str, ...], status: int, example: Path, tmp_path: Path
) -> None:
    given = [example if a == "FILE" else a for a in arguments]
    done = run(*given, "--out", tmp_path / "out")
    assert done.returncode == status
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("id,lower,upper\n", "no column size"),
        ("id,lower,start,upper,size\n", "two columns say lower"),
        ("id,lower,upper,size\na,0,1\n", "line 2: 3 cells"),
        ("id,lower,upper,size\na,0,x,1\n", "upper 'x' is not a whole number"),
        ("id,lower,upper,size\na,3,3,1\n", "life from 3 to 3 is empty"),
        ("id,lower,upper,size\na,0,1,0\n", "size must be at least 1"),
        ("id,lower,upper,size\na,0,1,1\na,0,1,1\n", "line 3: a second buffer"),
        ("id,lower,upper,size\n,0,1,1\n", "id is empty"),
        ("id,lower,upper,size\na,0,1,99999999999999999999\n", "too large"),
        ("id,lower,upper,size,alignment\na,0,1,1,0\n", "alignment must be"),
        ("id,lower,upper,size,alignment,offset\na,0,1,1,4,6\n", "no multiple"),
        ("id,lower,upper,size,gaps\na,0,9,1,2\n", "gap '2' is not"),
        ("id,lower,upper,size,gaps\na,0,9,1,7-12\n", "leaves the life"),
        ("id,lower,upper,size,gaps\na,0,9,4,1-2@3:5\n", "leave the buffer"),
        ("id,lower,upper,size,gaps\na,0,9,4,0-9\n", "leave nothing"),
    ],
)
def test_bad_files_get_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(Failure) as told:
        csvfile.read(text.encode(), "f.csv")
    assert message in str(told.value) and "\n" not in str(told.value)
    assert told.value.exit_status == 4


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(Failure, match="not a CSV file"):
        csvfile.read(b"\xff\xfe\x00", "f.csv")


def test_reads_all_columns() -> None:
    text = (
        "size,buffer,start,end,alignment,gaps,hint,offset\n8,x,1,9,4,3-4 6-7@0:2,16,\n"
    )
    (buffer,) = csvfile.read(text.encode(), "f.csv").buffers
    parts = (Part(1, 3, 8), Part(3 + 2, 6, 8), Part(6, 8, 2), Part(8, 10, 8))
    assert buffer == Buffer("x", parts, 4, None, 16)


def test_an_offset_column_is_filled_where_it_stands() -> None:
    table = csvfile.read(b"id,offset,lower,upper,size\na,,0,1,1\n", "f.csv")
    assert csvfile.write(table, [3]) == "id,offset,lower,upper,size\na,3,0,1,1\n"
    assert csvfile.read(csvfile.write(table, [3]).encode(), "").buffers[0].offset == 3
