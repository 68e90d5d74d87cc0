"""When a line of progress is due, how fast work goes and how long it takes: times come in, so tests need no clock."""

from __future__ import annotations

from collections import deque

AT_FIRST = 120.0  # seconds in which lines come more often
GAP_AT_FIRST = 10.0
GAP = 60.0

_RECENT = 60.0  # seconds that a moving figure looks back
_BURST = 0.05  # seconds


def line_is_due(now: float, began: float, last: float | None) -> bool:
    """Whether work that began at `began` gets a line at `now`; its last one was at `last`, None before the first.

    The first report gets one at once, so does the last (the caller knows it). In between there is one every ten
    seconds for two minutes, then one a minute. All times are seconds of one clock.
    """
    if last is None:
        return True
    return now - last >= (GAP_AT_FIRST if now - began < AT_FIRST else GAP)


class Pace:
    """Seconds per unit over the last minute, or over the last unit where that takes longer.

    Not known before the second report: the first unit warms everything up. Reports that come in a burst, as of the
    clips of one batch, count as one, and at its first report a batch counts as large as the one before it.
    """

    def __init__(self, done: int, now: float) -> None:
        self._seen, self._warm = deque([(now, done)]), False
        self._batch = 1  # units of the last burst that is complete

    def add(self, done: int, now: float) -> None:
        """`done` units are done at `now`."""
        last = self._seen[-1][0]
        if now - last < _BURST and len(self._seen) > 1:
            self._seen[-1] = (last, done)
            return
        if len(self._seen) > 1:
            self._batch = self._seen[-1][1] - self._seen[-2][1]
        self._seen.append((now, done))
        if len(self._seen) == 3 and not self._warm:
            self._seen.popleft()
            self._warm = True
        while len(self._seen) > 2 and now - self._seen[1][0] >= _RECENT:
            self._seen.popleft()

    @property
    def each(self) -> float | None:
        """Seconds per unit, None while they are not known."""
        (before, done), (now, later) = self._seen[0], self._seen[-1]
        if self._warm and later > self._seen[-2][1]:
            later = max(later, self._seen[-2][1] + self._batch)
        return (now - before) / (later - done) if self._warm and later > done else None


def seconds_text(seconds: float) -> str:
    """2.1 ms, 0.84 s, 12 s or 135 s."""
    if seconds < 0.095:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def duration_text(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min or 2 d 4 h."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"
