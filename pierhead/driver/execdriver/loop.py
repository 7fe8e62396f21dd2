"""A shim's event loop: one epoll, one handler a descriptor, and a few deadlines.

asyncio would cost every shim more memory than all the rest of it.  The zygote imports this.
"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
HUP = select.EPOLLHUP
ERR = select.EPOLLERR


class Loop:
    """Level-triggered; a handler is called with the events of its descriptor."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.masks: dict[int, int] = {}
        self.timers: dict[Callable[[], None], float] = {}
        self.ended = False

    def watch(self, descriptor: int, events: int, handler: Callable[[int], None]) -> None:
        """Call the handler at these events (and at HUP and ERR, always); replaces what was watched before."""
        if descriptor in self.handlers:
            if self.masks[descriptor] != events:
                self.epoll.modify(descriptor, events)
        else:
            self.epoll.register(descriptor, events)
        self.handlers[descriptor] = handler
        self.masks[descriptor] = events

    def forget(self, descriptor: int) -> None:
        """Watch it no longer; must come before its close. Idempotent."""
        if self.handlers.pop(descriptor, None) is not None:
            del self.masks[descriptor]
            self.epoll.unregister(descriptor)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call the action once, after so many seconds; a second call with the same action moves the time."""
        self.timers[action] = time.monotonic() + seconds

    def cancel(self, action: Callable[[], None]) -> None:
        """Do not call it after all. Idempotent."""
        self.timers.pop(action, None)

    def run(self) -> None:
        """Handle events until ``ended`` is set."""
        while not self.ended:
            timeout = -1.0
            if self.timers:
                timeout = max(0.0, min(self.timers.values()) - time.monotonic())
            for descriptor, events in self.epoll.poll(timeout, 16):
                # An earlier handler of this round may have closed it.
                handler = self.handlers.get(descriptor)
                if handler is not None:
                    handler(events)
            if self.timers:
                now = time.monotonic()
                for action in [action for action, when in self.timers.items() if when <= now]:
                    if self.timers.pop(action, None) is not None:
                        action()
