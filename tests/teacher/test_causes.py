"""What an error comes from."""

from __future__ import annotations

from fewstep.teacher.causes import causes


def test_causes_and_contexts_are_followed() -> None:
    try:
        try:
            try:
                raise OSError("full")
            except OSError:
                raise RuntimeError("unexpected pos")  # noqa: B904
        except RuntimeError as error:
            raise ValueError("no checkpoint") from error
    except ValueError as error:
        assert [type(each) for each in causes(error)] == [ValueError, RuntimeError, OSError]


def test_a_circle_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__context__, second.__context__ = second, first
    assert list(causes(first)) == [first, second]
