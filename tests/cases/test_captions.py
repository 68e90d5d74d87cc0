"""Captions as people have them, through `fewstep data videos`: read right, or refused with the line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import pytest

from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.dataset.reader import read_stored_captions
from tests.cases.record import FILES
from tests.commands.test_data import film
from tests.commands.typed import fewstep

KIND = "02 captions"
Check = Callable[[str, str, object, str | Sequence[str]], None]


@dataclass
class Maker:
    """Makes datasets of one clip under many names."""

    clip: Path
    teacher: Path
    folder: Path

    def captions(self, videos: Sequence[str], files: dict[str, bytes], table: str | None) -> str:
        """Exit code, the captions that were stored, what was said of entries without a video, or the refusal."""
        for name in videos:
            (self.folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.clip, self.folder / "videos" / name)
        for name, content in files.items():
            (self.folder / name).write_bytes(content)
        captions = [] if table is None else ["--captions", self.folder / table]
        words = [self.folder / "videos", *captions, "--teacher", self.teacher, "--out", self.folder / "out"]
        code, text = fewstep("data", "videos", *words)
        last = text.strip().splitlines()[-1].replace(f"{self.folder}/", "")
        if code == 2:
            return f"exit 2: {last}"
        made = read_manifest(self.folder / "out")
        stored = "; ".join(read_stored_captions(self.folder / "out", made))
        return f"exit {code}: {stored}" + (f" | {made.unmatched}" if str(made.unmatched) in text else "")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture
def maker(clip: Path, tiny_wan_folder: Path, tmp_path: Path) -> Maker:
    return Maker(clip, tiny_wan_folder, tmp_path)


@pytest.mark.parametrize(
    ("name", "videos", "expected"),
    [
        ("commas.csv", "a.mp4 b.mp4", ["exit 2", "commas.csv, line 2 has 4 cells, and the header 2", "double quotes"]),
        ("cp1252.csv", "a.mp4 b.mp4", ["exit 2", "cp1252.csv, line 2 is not UTF-8 text (byte 0x92): save it as UTF-8"]),
        ("utf16.csv", "a.mp4", "exit 0: a red ring"),
        ("semicolon.csv", "a.mp4", "exit 0: a red ring"),
        ("missing.csv", "plain.mp4", "exit 3: a red ring | 1 of 2 entries of missing.csv name no video: zz.mp4"),
        (
            "nosuffix.csv",
            "a.mp4 b.mp4",
            ["exit 2", "none of the 2 entries", "a (it lacks the suffix of a.mp4), b (it lacks the suffix of b.mp4)"],
        ),
        ("cap_list.jsonl", "a.mp4", ["exit 2", "cap_list.jsonl, line 1 has a list for a caption: write one text"]),
        ("num.jsonl", "a.mp4 b.mp4 c.mp4", ["exit 2", "num.jsonl, line 1 has the number 12 for a caption"]),
    ],
)
def test_files_of_shared_cases(
    maker: Maker, check_case: Check, name: str, videos: str, expected: str | Sequence[str]
) -> None:
    outcome = maker.captions(videos.split(), {name: (FILES / name).read_bytes()}, name)
    check_case(KIND, f"captions/{name}", outcome, expected)


@pytest.mark.parametrize(("line", "kind"), [(1, "null"), (2, "the number NaN")])
def test_the_other_lines_of_num_jsonl(maker: Maker, check_case: Check, line: int, kind: str) -> None:
    lines = (FILES / "num.jsonl").read_bytes().splitlines()
    outcome = maker.captions(["b.mp4", "c.mp4"], {"num.jsonl": lines[line]}, "num.jsonl")
    check_case(KIND, f"num.jsonl, its line {line + 1} alone", outcome, ["exit 2", f"line 1 has {kind} for a caption"])


CSV = "file,caption\n"
READ = [  # what it is, the table's name and content, and a video: all read as `a red ring`
    ("CRLF and a byte order mark", "t.csv", f"\ufeff{CSV}a.mp4,a red ring\n".replace("\n", "\r\n"), "a.mp4"),
    ("CR alone", "t.csv", f"{CSV}a.mp4,a red ring\n".replace("\n", "\r"), "a.mp4"),
    ("tabs in a .csv", "t.csv", "file\tcaption\na.mp4\ta red ring\n", "a.mp4"),
    ("quoted semicolons", "t.csv", '"file";"caption"\n"a.mp4";"a red ring"\n', "a.mp4"),
    ("a blank before the quote", "t.csv", f'{CSV}a.mp4, "a red ring"\n', "a.mp4"),
    ("Hugging Face's metadata.jsonl", "metadata.jsonl", '{"file_name": "a.mp4", "text": "a red ring"}\n', "a.mp4"),
    ("backslashes", "t.csv", f"{CSV}sub\\a.mp4,a red ring\n", "sub/a.mp4"),
    ("./ and a blank behind the name", "t.csv", f"{CSV}./a.mp4 ,a red ring\n", "a.mp4"),
    ("path from the table", "t.csv", f"{CSV}videos/a.mp4,a red ring\n", "a.mp4"),
    ("NFD in the table, NFC on the disk", "t.csv", f"{CSV}{normalize('NFD', 'é.mp4')},a red ring\n", "é.mp4"),
    ("NFC in the table, NFD on the disk", "t.csv", f"{CSV}é.mp4,a red ring\n", normalize("NFD", "é.mp4")),
]


# tests/teacher/dataset has the same names and tables without a command.
READ_ALIKE = {
    "CR alone",
    "backslashes",
    "./ and a blank behind the name",
    "NFC in the table, NFD on the disk",
}


@pytest.mark.parametrize(
    ("case", "name", "content", "video"),
    [pytest.param(*row, id=row[0], marks=pytest.mark.slow if row[0] in READ_ALIKE else ()) for row in READ],
)
def test_forms_that_are_read_right(
    maker: Maker, check_case: Check, case: str, name: str, content: str, video: str
) -> None:
    check_case(KIND, case, maker.captions([video], {name: content.encode()}, name), "exit 0: a red ring")


REFUSED = [  # what it is, the table's name and content, and parts of the sentence
    ("a missing cell", "t.csv", f"{CSV}a.mp4,x\nb.mp4\n", "t.csv, line 3 has 1 cell, and the header 2"),
    ("a comma at the end", "t.csv", f"{CSV}a.mp4,x,\n", "line 2 has 3 cells, and the header 2: delete the commas"),
    ("text under an unnamed column", "t.csv", "file,caption,\na.mp4,red, dark\n", "line 2 has 3 cells"),
    ("an unclosed quote", "t.csv", f'{CSV}a.mp4,"x\nb.mp4,y\n', "t.csv, line 2 is not CSV"),
    ("a quote that swallows a row", "t.csv", f'{CSV}a.mp4,"x\nb.mp4,y"\n', "line 2 has a caption that runs into"),
    ("the header twice", "t.csv", f"{CSV}a.mp4,x\n{CSV}", "line 3 is the header again"),
    ("a column twice", "t.csv", "file,caption,caption\na.mp4,x,y\n", "has the columns caption and caption"),
    ("no header", "t.csv", "a.mp4,x\n", "has the columns a.mp4, x: one of file, file_name"),
    ("a cell too long for csv", "t.csv", f"{CSV}a.mp4,{'x' * 140_000}\n", "line 2 has a cell of more than 131,072"),
    ("NUL", "t.csv", f"{CSV}a.mp4,a\0b\n", "line 2 holds the control character U+0000"),
    ("U+FFFD of another program", "t.csv", f"{CSV}a.mp4,caf\ufffd\n", "line 2 holds the replacement character U+FFFD"),
    ("a spreadsheet called .csv", "t.csv", "PK\x03\x04", "t.csv is an Office document or another zip archive"),
    ("nan for a caption", "t.csv", f"{CSV}a.mp4,nan\n", "line 2 has 'nan' for a caption"),
    ("the text of a Python list", "t.csv", f"{CSV}a.mp4,\"['x', 'y']\"\n", "line 2 has \"['x', 'y']\" for a caption"),
    ("an error of a spreadsheet", "t.csv", f"{CSV}a.mp4,#NAME?\n", "line 2 has '#NAME?' for a caption"),
    ("the text of a Python tuple", "t.csv", f"{CSV}a.mp4,\"('x',)\"\n", "line 2 has \"('x',)\" for a caption"),
    ("the text of Python bytes", "t.csv", f"{CSV}a.mp4,b'a ring'\n", "line 2 has \"b'a ring'\" for a caption"),
    ("the text of a list of numbers", "t.csv", f'{CSV}a.mp4,"[1.5, 2]"\n', "line 2 has '[1.5, 2]' for a caption"),
    ("the text of a NumPy array", "t.csv", f"{CSV}a.mp4,array(['x'])\n", "line 2 has \"array(['x'])\" for a caption"),
    ("the text of a Python object", "t.csv", f"{CSV}a.mp4,<Row at 0x7f>\n", "line 2 has '<Row at 0x7f>' for a caption"),
    ("the text of a JavaScript object", "t.csv", f"{CSV}a.mp4,[object Object]\n", "line 2 has '[object Object]'"),
    (
        "UTF-8 read as cp1252",
        "t.csv",
        f"{CSV}a.mp4,it’s\n".encode().decode("cp1252"),
        "line 2 holds 'â€™', which is UTF-8",
    ),
    ("two lines for one video", "t.csv", f"{CSV}a.mp4,x\n./a.mp4,y\n", "line 3: ./a.mp4 already has a caption"),
    (
        "an object for a caption",
        "t.jsonl",
        '{"file":"a.mp4","caption":{"en":"x"}}',
        "line 1 has an object for a caption",
    ),
    ("true for a caption", "t.jsonl", '{"file":"a.mp4","caption":true}', "line 1 has true for a caption"),
    ("a list for a file", "t.jsonl", '{"file":["a.mp4"],"caption":"x"}', "line 1 has a list for a file name"),
    ("a key twice", "t.jsonl", '{"file":"a.mp4","caption":"x","caption":"y"}', "line 1 says caption more than once"),
    ("an escaped NUL", "t.jsonl", json.dumps({"file": "a.mp4", "caption": "\0"}), "line 1 holds the control character"),
    ("half an emoji", "t.jsonl", '{"file":"a.mp4","caption":"\\ud83d"}', "line 1 holds U+D83D, no character"),
    ("an array in place of lines", "t.jsonl", '[{"file":"a.mp4","caption":"x"}]', "line 1 is not an object such as"),
]


@pytest.mark.parametrize(("case", "name", "content", "sentence"), REFUSED, ids=[case for case, *_ in REFUSED])
def test_forms_that_are_refused(
    maker: Maker, check_case: Check, case: str, name: str, content: str, sentence: str
) -> None:
    outcome = maker.captions(["a.mp4", "b.mp4"], {name: content.encode()}, name)
    check_case(KIND, case, outcome, ["exit 2", sentence])


@pytest.mark.parametrize(
    ("case", "name", "hint"),
    [
        ("other case", "A.mp4", "it differs only in case from a.mp4"),
        pytest.param("other suffix", "a.avi", "it has another suffix than a.mp4", marks=pytest.mark.slow),
        pytest.param("no suffix", "a", "it lacks the suffix of a.mp4", marks=pytest.mark.slow),
        ("percent signs", "b%20c.mp4", "percent signs stand for the characters of b c.mp4"),
        pytest.param(
            "a path of another machine", "/data/a.mp4", "it names another folder than that of a.mp4",
            marks=pytest.mark.slow,
        ),
        ("a path of Windows", "C:\\films\\a.mp4", "it names another folder than that of a.mp4"),
    ],
)  # fmt: skip
def test_entries_that_fit_no_video(maker: Maker, check_case: Check, case: str, name: str, hint: str) -> None:
    table = f"{CSV}{name},x\nb c.mp4,a red ring\n".encode()
    outcome = maker.captions(["a.mp4", "b c.mp4"], {"t.csv": table}, "t.csv")
    expected = f"exit 3: a red ring | 1 of 2 entries of t.csv name no video: {name} ({hint})"
    check_case(KIND, f"an entry that fits no video: {case}", outcome, expected)


@pytest.mark.parametrize(
    "caption",
    [
        "(a man) walks",
        "CAFÉ…",
        *(pytest.param(text, marks=pytest.mark.slow) for text in ("[intro] a ring [end]", '"Hello", she said')),
        pytest.param("an array (of 4)", marks=pytest.mark.slow),
    ],
)
def test_captions_that_only_look_odd(maker: Maker, check_case: Check, caption: str) -> None:
    line = json.dumps({"file": "a.mp4", "caption": caption}).encode()
    outcome = maker.captions(["a.mp4"], {"t.jsonl": line}, "t.jsonl")
    check_case(KIND, f"a caption that only looks odd: {caption}", outcome, f"exit 0: {caption}")


def test_a_caption_of_which_nothing_can_be_seen(maker: Maker, check_case: Check) -> None:
    table = f"{CSV}a.mp4,\u200b\nb.mp4,a red ring\n".encode()
    outcome = maker.captions(["a.mp4", "b.mp4"], {"t.csv": table}, "t.csv")
    check_case(KIND, "a zero-width space for a caption: none", outcome, "exit 3: a red ring")


def test_twelve_entries_of_many(maker: Maker, check_case: Check) -> None:
    rows = [f"zz{i}.mp4,x\n" for i in range(12)] + [f"v{i}.mp4,y\n" for i in range(3)]
    outcome = maker.captions([f"v{i}.mp4" for i in range(3)], {"t.csv": (CSV + "".join(rows)).encode()}, "t.csv")
    check_case(
        KIND, "twelve of fifteen entries", outcome, ["exit 3", "12 of 15 entries of t.csv name no video: zz0.mp4"]
    )
    kept = [json.loads(line)["file"] for line in (maker.folder / "out" / "skipped.jsonl").open()]
    check_case(KIND, "all twelve in skipped.jsonl", " ".join(kept), " ".join(f"zz{i}.mp4" for i in range(12)))


@pytest.mark.parametrize(
    ("case", "files", "expected"),
    [
        ("UTF-16", {"a.txt": "a red ring".encode("utf-16")}, "exit 0: a red ring"),
        ("cp1252", {"a.txt": b"a ring\nthat\x92s red"}, ["exit 2", "a.txt, line 2 is not UTF-8 text (byte 0x92)"]),
        ("NUL", {"a.txt": b"a ring\0"}, ["exit 2", "a.txt, line 1 holds the control character U+0000"]),
        (
            "beside no video",
            {"a.txt": b"a red ring", "A.txt": b"x"},
            "exit 0: a red ring | 1 of 2 .txt files name no video: A.txt (it differs only in case from a.mp4)",
        ),
    ],
)
def test_txt_files(
    maker: Maker, check_case: Check, case: str, files: dict[str, bytes], expected: str | Sequence[str]
) -> None:
    (maker.folder / "videos").mkdir()
    outcome = maker.captions(["a.mp4"], {f"videos/{name}": content for name, content in files.items()}, None)
    check_case(KIND, f".txt beside a video: {case}", outcome, expected)


@pytest.mark.parametrize(
    ("case", "name", "content", "sentence"),
    [
        ("cp1252", "p.txt", b"a ring\ncaf\xe9", "p.txt, line 2 is not UTF-8 text (byte 0xe9): save it as UTF-8"),
        ("UTF-16 without a mark", "p.txt", "a ring".encode("utf-16-le"), "line 1 holds the control character U+0000"),
        ("a table", "p.csv", b"prompt\na ring\n", "prompts file p.csv is a table"),
        ("the text of a Python list", "p.txt", b"a ring\n['a', 'b']\n", "line 2 has \"['a', 'b']\" for a prompt"),
    ],
)
def test_prompts_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check_case: Check,
    case: str,
    name: str,
    content: bytes,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    code, text = fewstep("data", "rollouts", name, "--out", "out")
    check_case(KIND, f"prompts: {case}", f"exit {code}: {text}", ["exit 2", sentence])
