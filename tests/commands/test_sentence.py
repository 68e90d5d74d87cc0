from __future__ import annotations

from fewstep.commands.sentence import one_line


def test_it_is_one_line_that_a_terminal_can_show() -> None:
    assert one_line("a\n  b\tc\r\nd") == "a b c d"
    assert one_line("\x1b[31mred\x00 \udce9 \u202e") == "\\x1b[31mred\\x00 \\udce9 \\u202e"
    assert one_line("é 💥 …") == "é 💥 …"


def test_a_long_one_keeps_its_beginning_and_its_end() -> None:
    text = one_line(f"begin {'x' * 100_000} end")
    assert text.startswith("begin x") and text.endswith("x end") and " … " in text
    assert len(text) < 2010
    assert len(one_line("\x1b" * 100_000)) <= 4000
