"""Methods that are replaced for a while come back."""

from __future__ import annotations

import pytest

from fewstep.distill.around import Method, around


class Speaker:
    def say(self) -> str:
        return "a"


def louder(original: Method) -> Method:
    return lambda: original() + "!"


def test_wrappers_nest_and_come_off_whatever_happens() -> None:
    one, other = Speaker(), Speaker()
    with around(one, "say", louder):
        assert (one.say(), other.say()) == ("a!", "a")
        with pytest.raises(KeyError), around(one, "say", louder):
            assert one.say() == "a!!"
            raise KeyError
        assert one.say() == "a!"
    assert one.say() == "a" and not vars(one)
