"""What can be wrong with an input file, one class for each cause.

Every function of `compiler.hlo` that is given bad data raises an `InputError`
and nothing else. Its text is one line, made for a person; `exit_status` is
what a command should exit with.
"""

EXIT_UNREADABLE = 3
EXIT_INVALID = 4


class InputError(Exception):
    """An input file that cannot be used.

    Attributes:
        exit_status: `EXIT_UNREADABLE` (3) if the file could not be read at
            all, `EXIT_INVALID` (4) if what it holds cannot be used.
    """

    exit_status: int = EXIT_INVALID


class UnreadableError(InputError):
    """The file is missing, is not a regular file, or may not be opened."""

    exit_status = EXIT_UNREADABLE


class FormatError(InputError):
    """The bytes are not a serialized HLO module."""


class ModuleError(InputError):
    """The module was parsed but contradicts itself."""


class UnscheduledError(ModuleError):
    """The module has no schedule, so its instructions have no times."""
