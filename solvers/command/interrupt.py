"""SIGINT and SIGTERM: the first asks the search to stop, the second stops the process.

Python runs its signal handlers between bytecodes, so a long compiled call would hold
them back. Here a thread is woken by the signal itself and answers at once.
"""

import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A flag that the first SIGINT or SIGTERM sets while the context is open.

    The second calls `on_second`, from another thread. Outside the main thread of a
    process no signal can be caught; the flag can still be set with `set()`.

    Args:
        on_first: called once, when the flag is set by a signal.
        on_second: called at every further signal; expected to end the process.
        also: a further reason to stop, polled by `is_set`.
    """

    def __init__(
        self,
        on_first: Callable[[], None],
        on_second: Callable[[], None],
        also: Callable[[], bool] = lambda: False,
    ) -> None:
        self._also = also
        self._on_first = on_first
        self._on_second = on_second
        self._event = threading.Event()
        self._restore: list[Callable[[], Any]] = []
        self._thread: threading.Thread | None = None

    def is_set(self) -> bool:
        """True once the user asked to stop; searches poll it."""
        return self._event.is_set() or self._also()

    def set(self) -> None:
        """Asks to stop, as the first signal does."""
        self._event.set()

    def check(self) -> None:
        """Raises KeyboardInterrupt if asked to stop: where there is nothing to save."""
        if self.is_set():
            raise KeyboardInterrupt

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is not threading.main_thread():
            return self
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            previous = signal.signal(number, _do_nothing)
            self._restore.append(partial(signal.signal, number, previous))
        self._restore.append(partial(signal.set_wakeup_fd, previous_fd))
        self._restore.append(sender.close)  # Ends the thread.
        self._thread = threading.Thread(
            target=self._watch, args=(receiver,), name="interrupt", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for restore in self._restore:
            restore()
        self._restore.clear()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, receiver: socket.socket) -> None:
        with receiver:
            while byte := receiver.recv(1):
                if byte[0] not in _SIGNALS:
                    continue
                if self._event.is_set():
                    self._on_second()
                else:
                    self.set()
                    self._on_first()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A handler written in Python, which is what wakes the thread."""
