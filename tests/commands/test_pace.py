"""When lines come and what time is left, from times alone."""

from __future__ import annotations

import pytest

from fewstep.commands.pace import Pace, duration_text, line_is_due, seconds_text


def lines(step_seconds: float, steps: int) -> list[float]:
    """Times of the lines of work whose steps take so long."""
    times: list[float] = []
    for step in range(1, steps + 1):
        now = step * step_seconds
        if line_is_due(now, 0.0, times[-1] if times else None):
            times.append(now)
    return times


def test_lines_come_every_ten_seconds_at_first_and_every_minute_later() -> None:
    assert lines(1.0, 400) == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111, 171, 231, 291, 351]


def test_slow_steps_have_a_line_each_and_fast_ones_do_not_flood() -> None:
    assert lines(300.0, 4) == [300, 600, 900, 1200]
    assert lines(25.0, 8) == [25, 50, 75, 100, 175]
    assert len(lines(0.001, 9000)) == 1


def paced(*reports: tuple[float, int], done: int = 0) -> float | None:
    pace = Pace(done, 0.0)
    for now, done in reports:
        pace.add(done, now)
    return pace.each


def test_nothing_is_known_before_the_second_step_and_the_first_does_not_count() -> None:
    assert paced() is None
    assert paced((40, 1)) is None  # a discriminator's warm-up, a compiler
    assert paced((40, 1), (41, 2)) == 1
    assert paced((40, 101), (41, 102), done=100) == 1  # resumed


def test_the_pace_is_that_of_the_last_minute() -> None:
    slow_then_fast = [(10.0 * i, i) for i in range(1, 11)] + [(100.0 + i, 10 + i) for i in range(1, 71)]
    assert paced(*slow_then_fast) == pytest.approx(1.0)
    assert paced((100, 1), (300, 2), (600, 3)) == 300  # steps longer than a minute


def test_a_batch_of_clips_is_one_report() -> None:
    """Sixteen clips take 13 seconds, and all are reported at once."""
    batches = [(13.0 * b + 0.001 * i, 16 * (b - 1) + i) for b in (1, 2, 3) for i in range(1, 17)]
    assert paced(*batches[:16]) is None
    assert paced(*batches) == pytest.approx(13 / 16, rel=0.01)
    for first in (17, 33):  # of a batch, when a line is due
        assert paced(*batches[:first]) == pytest.approx(13 / 16, rel=0.01)


def test_a_stand_still_has_no_pace() -> None:
    assert paced((1, 1), (2, 1)) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.0021, "2.1 ms"), (0.094, "94 ms"), (0.84, "0.84 s"), (1.0, "1 s"), (9.94, "9.9 s"),
     (9.96, "10 s"), (99.6, "100 s"), (1234.5, "1234 s")],
)  # fmt: skip
def test_seconds_have_two_digits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (44.6, "45 s"), (99.0, "99 s"), (100.0, "2 min"), (5900.0, "98 min"), (6600.0, "1 h 50 min"),
     (7200.0, "2 h"), (12000.0, "3 h 20 min"), (187200.0, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
