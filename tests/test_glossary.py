"""One word for one thing: the glossary's table, applied to pages, help texts, docstrings, comments and messages."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import ROOT
from tests.test_names import CODE, PAGES

GLOSSARY = ROOT / "docs" / "glossary.md"
HEADING = "## One word for one thing"
_ROW = re.compile(r"^\| (?P<use>[^|]+) \| (?P<instead>[^|]+) \|$", re.MULTILINE)
# of a page: what is code or an address, and no prose
_NOT_PROSE = re.compile(r"^```.*?^```|^ {4}.*?$|`[^`\n]*`|\]\([^)\s]*\)|https?://\S+", re.MULTILINE | re.DOTALL)


def table() -> dict[str, str]:
    """What the glossary says not to write -> what to write instead."""
    _, section = GLOSSARY.read_text("utf-8").split(HEADING)
    rows = [row for row in _ROW.finditer(section.split("\n## ")[0]) if row["use"] not in ("use", "---")]
    return {phrase: row["use"] for row in rows for phrase in row["instead"].split(", ")}


def pattern(phrase: str) -> re.Pattern[str]:
    """The phrase in whole words, in singular and plural, across line breaks and in either kind of apostrophe."""
    words = r"\s+".join(re.escape(word).replace("'", "['’]") for word in phrase.split())
    return re.compile(rf"(?<![\w-]){words}s?(?![\w-])", re.IGNORECASE)


def python_prose(code: str) -> Iterator[str]:
    """Comments, and strings of several words: docstrings, help texts, messages. No keys, and no code within them."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind, text = tokenize.tok_name[token.type], re.sub(r"`[^`\n]*`|\{[^{}]*\}", "", token.string)
        if kind == "COMMENT" or (kind in ("STRING", "FSTRING_MIDDLE") and " " in text.strip()):
            yield text


def prose(path: Path) -> str:
    text = path.read_text("utf-8")
    if path == GLOSSARY:
        before, section = text.split(HEADING)
        text = before + section.partition("\n## ")[2]
    if path.suffix == ".md":
        return _NOT_PROSE.sub("", text)
    if path.suffix == ".yaml":  # prompts are not ours
        return "\n".join(re.findall(r"(?:^|\s)#\s(.*)$", text, re.MULTILINE))
    return " ".join(" ".join(python_prose(text)).split())


def misnamed(text: str) -> dict[str, str]:
    return {found[0]: use for phrase, use in table().items() if (found := pattern(phrase).search(text))}


def test_the_table_is_read_whole() -> None:
    assert len(table()) > 30 and table()["optimiser"] == "optimizer" and table()["picture"] == "image"
    assert not set(table()) & set(table().values()), "a word that is both wanted and unwanted"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The run's\nfolder is there.", {"run's\nfolder": "run directory"}),
        ("Pictures of it", {"Pictures": "image"}),
        ("pictured in a moving-average model", {}),
        ("resume it; 8-bit weights; the student step", {}),
    ],
)
def test_phrases_are_found(text: str, found: dict[str, str]) -> None:
    assert misnamed(text) == found


def test_prose_is_what_people_read() -> None:
    code = 'warmup = {"warmup": 1}  # of a stage\nraise ValueError(f"no {pictures} of `warmup` in this recipe")\n'
    text = " ".join(python_prose(code))
    assert "# of a stage" in text and "in this recipe" in text and not re.search("warmup|pictures", text)


FILES = [*CODE, *PAGES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_word_for_one_thing(path: Path) -> None:
    assert misnamed(prose(path)) == {}
