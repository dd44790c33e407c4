"""HLO programs as the compiler dumps them: reading, times, values, buffers."""

from compiler.hlo.build import build
from compiler.hlo.errors import (
    FormatError,
    InputError,
    ModuleError,
    UnreadableError,
    UnscheduledError,
)
from compiler.hlo.load import load
from compiler.hlo.module import Computation, Module, Node
from compiler.hlo.program import Buffer, Position, Program, Use, Value
from compiler.hlo.schedule import Instruction, Region
from compiler.hlo.shapes import Shape, ShapeIndex, padded_bytes

__all__ = [
    "Buffer",
    "Computation",
    "FormatError",
    "InputError",
    "Instruction",
    "Module",
    "ModuleError",
    "Node",
    "Position",
    "Program",
    "Region",
    "Shape",
    "ShapeIndex",
    "UnreadableError",
    "UnscheduledError",
    "Use",
    "Value",
    "build",
    "load",
    "padded_bytes",
]
