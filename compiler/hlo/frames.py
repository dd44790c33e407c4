"""Where in the user's source an instruction comes from, by its metadata's `stack_frame_id`."""

import os
from pathlib import Path
from typing import NamedTuple

from compiler.hlo.load import parse


class Place(NamedTuple):
    """A place in a source file; `file` without folders. Lines count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def load_places(path: Path | str) -> dict[int, Place]:
    """Returns the innermost place of each stack frame of a dumped module, by frame id.

    Empty if the module has no table of frames.

    Raises:
        UnreadableError, FormatError: as `compiler.hlo.load`.
    """
    index = parse(Path(path).read_bytes(), os.fspath(path)).stack_frame_index
    places: dict[int, Place] = {}
    for number, frame in enumerate(index.stack_frames, start=1):
        if not 0 < frame.file_location_id <= len(index.file_locations):
            continue
        where = index.file_locations[frame.file_location_id - 1]
        if 0 < where.file_name_id <= len(index.file_names):
            file = os.path.basename(index.file_names[where.file_name_id - 1])
            places[number] = Place(file, where.line, where.column)
    return places
