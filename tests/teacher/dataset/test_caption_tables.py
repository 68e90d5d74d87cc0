"""Tables of captions as people have them: each cell as it is meant, or the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewstep.teacher.dataset.caption_tables import read_table


def read(folder: Path, name: str, content: str) -> dict[str, str]:
    (folder / name).write_text(content, "utf-8", newline="")
    return {entry.name: entry.caption for entry in read_table(folder / name)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", "file,caption\na.mp4,red\nb.mp4,blue\n"),
        ("windows.csv", "\ufefffile,caption\r\na.mp4,red\r\nb.mp4,blue\r\n"),
        ("old-mac.csv", "file,caption\ra.mp4,red\rb.mp4,blue\r"),
        ("no-end.csv", "file,caption\na.mp4,red\nb.mp4,blue"),
        ("semicolons.csv", "file;caption\na.mp4;red\nb.mp4;blue\n"),
        ("quoted.csv", '"file";"caption"\n"a.mp4";"red"\n"b.mp4";"blue"\n'),
        ("tabs.csv", "file\tcaption\na.mp4\tred\nb.mp4\tblue\n"),
        ("table.tsv", "file\tcaption\na.mp4\tred\nb.mp4\tblue\n"),
        ("more.csv", "id,video_path,text,seconds\n1,a.mp4,red,2.5\n2,b.mp4,blue,3\n"),
        ("names.csv", "File Name, Prompt\na.mp4, red\nb.mp4, blue\n"),
        ("blank.csv", "\nfile,caption\n\na.mp4,red\n,\n  \nb.mp4,blue\n\n"),
        ("left-behind.csv", "file,caption,,\na.mp4,red,,\nb.mp4,blue,,\n"),
        ("hugging-face.jsonl", '{"file_name": "a.mp4", "text": "red"}\n{"file_name": "b.mp4", "text": "blue"}\n'),
        ("windows.jsonl", '\ufeff{"file":"a.mp4","caption":"red"}\r\n\r\n{"file":"b.mp4","caption":"blue"}\r\n'),
        ("more.jsonl", '{"video":"a.mp4","prompt":"red","n":NaN}\n{"video":"b.mp4","prompt":"blue","tags":[1]}\n'),
    ],
)
def test_the_same_table_in_many_forms(tmp_path: Path, name: str, content: str) -> None:
    assert read(tmp_path, name, content) == {"a.mp4": "red", "b.mp4": "blue"}


def test_quotes_keep_commas_quotes_and_lines(tmp_path: Path) -> None:
    rows = 'a.mp4,"a ring, red"\nb.mp4, "a ""red"" ring"\nc.mp4,"two\nlines"\nd.mp4,12" wide\n"e,f.mp4",\n'
    captions = read(tmp_path, "t.csv", f"file,caption\n{rows}")
    assert list(captions.values()) == ["a ring, red", 'a "red" ring', "two\nlines", '12" wide', ""]
    assert list(captions)[-1] == "e,f.mp4"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "a.mp4,red\nb.mp4,a ring, red, dark\n",
            "line 3 has 4 cells, and the header 2: put a caption that holds commas",
        ),
        ("a.mp4,red,\n", "line 2 has 3 cells, and the header 2: delete the commas at its end"),
        ("a.mp4,red\nb.mp4\n", "line 3 has 1 cell, and the header 2: write every cell, separated by commas"),
        ("a.mp4,red\nfile,caption\nb.mp4,blue\n", "line 3 is the header again: delete it"),
        ('a.mp4,"two\nlines"\nb.mp4,x,y\n', "line 4 has 3 cells"),
        ('a.mp4,red\nb.mp4,"blue\nc.mp4,green\n', "line 3 is not CSV (unexpected end of data): close its quotes"),
        ('a.mp4,red\nb.mp4,"a "red" square"\n', "line 3 is not CSV"),
        ('a.mp4,"a \\"red\\" square"\n', "line 2 is not CSV"),
        ('a.mp4,"red\nb.mp4,blue"\n', "line 2 has a caption that runs into the next row: close its quotes"),
        (f"a.mp4,red\nb.mp4,{'x' * 140_000}\n", "line 3 has a cell of more than 131,072 characters"),
        (",red\n", "line 2 names no file"),
        ("a.mp4,nan\n", "line 2 has 'nan' for a caption"),
        ("a.mp4,None\n", "line 2 has 'None' for a caption"),
        ("a.mp4,\"['a ring', 'a hoop']\"\n", "line 2 has \"['a ring', 'a hoop']\" for a caption"),
        ("a.mp4,\"{'en': 'a ring'}\"\n", "line 2 has \"{'en': 'a ring'}\" for a caption"),
        ("", "holds no captions: write a line for each video"),
    ],
)
def test_rows_that_would_be_read_wrong_are_refused(tmp_path: Path, rows: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        read(tmp_path, "t.csv", f"file,caption\n{rows}")
    assert sentence in str(error.value) and str(tmp_path / "t.csv") in str(error.value)


def test_brackets_are_no_list(tmp_path: Path) -> None:
    assert read(tmp_path, "t.csv", "file,caption\na.mp4,[wide] a ring [4k]\n") == {"a.mp4": "[wide] a ring [4k]"}


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("file,caption,caption", "has the columns caption and caption: keep one of them"),
        ("file,text,caption", "has the columns text and caption: keep one of them"),
        ("path,video,caption", "has the columns path and video: keep one of them"),
        ("file|caption", "has the columns file|caption: one of file, file_name"),
        ("a.mp4,red", "has the columns a.mp4, red: one of file, file_name"),
        ("file,title", "has the columns file, title: one of caption, text, prompt must be among them"),
        ("file,caption,", "line 2 has 3 cells, and the header 2: put a caption that holds commas"),
    ],
)
def test_headers_that_could_mean_something_else(tmp_path: Path, header: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        read(tmp_path, "t.csv", f"{header}\na.mp4,red,blue\n")
    assert sentence in str(error.value)


def test_an_empty_file_and_other_suffixes(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl"):
        with pytest.raises(ValueError, match="holds no captions"):
            read(tmp_path, name, "\n")
    with pytest.raises(ValueError, match=r"t\.json is neither \.csv nor \.jsonl"):
        read(tmp_path, "t.json", "[]")
    with pytest.raises(ValueError, match="there is no captions file"):
        read_table(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ('["a ring", "a hoop"]', "a list"),
        ('{"en": "a ring"}', "an object"),
        ("12", "the number 12"),
        ("1.5", "the number 1.5"),
        ("NaN", "the number NaN"),
        ("-Infinity", "the number -Infinity"),
        ("null", "null"),
        ("false", "false"),
    ],
)
def test_captions_and_names_must_be_text(tmp_path: Path, value: str, kind: str) -> None:
    fine = '{"file": "a.mp4", "caption": "red"}\n'
    for line, what in (
        (f'{{"file": "b.mp4", "caption": {value}}}', "a caption"),
        (f'{{"file": {value}, "text": "x"}}', "a file name"),
    ):
        with pytest.raises(ValueError) as error:
            read(tmp_path, "t.jsonl", fine + line)
        assert f"line 2 has {kind} for {what}: write one text, in double quotes" in str(error.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"file": "b.mp4", "caption": "x", "caption": "y"}', "line 2 says caption more than once"),
        ('{"file": "b.mp4"}', "line 2 has the columns file: one of caption, text, prompt"),
        ('{"file": "b.mp4", "text": "x", "caption": "y"}', "line 2 has the columns text and caption"),
        ('[{"file": "b.mp4", "caption": "x"}]', "line 2 is not an object such as"),
        ("{'file': 'b.mp4'}", "line 2 is not JSON (Expecting property name enclosed in double quotes, column 2)"),
        ('{"file": "b.mp4", "caption": "x",}', "line 2 is not JSON"),
        ('{"file": "b.mp4", "caption": "x"} {}', "line 2 is not JSON (Extra data"),
        ('{"file": "b.mp4", "caption": ' + "1" * 5000 + "}", "line 2 cannot be read as JSON"),
        ("[" * 100_000, "line 2 cannot be read as JSON"),
        ('{"file": "b.mp4", "caption": "a\\u0000b"}', "line 2 holds the control character U+0000"),
        ('{"file": "b.mp4", "caption": "\\ufffd"}', "line 2 holds the replacement character U+FFFD"),
        ('{"file": "b.mp4", "caption": "\\ud83d"}', "line 2 holds U+D83D, no character"),
        ('{"file": " ", "caption": "x"}', "line 2 names no file"),
        ('{"file": "b.mp4", "caption": "NaN"}', "line 2 has 'NaN' for a caption"),
    ],
)
def test_lines_of_json_that_are_refused(tmp_path: Path, line: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        read(tmp_path, "t.jsonl", f'{{"file": "a.mp4", "caption": "red"}}\n{line}\n')
    assert sentence in str(error.value)


def test_escapes_of_json_are_characters(tmp_path: Path) -> None:
    text = 'tab\tand "quotes" 🙂\u2028'
    assert read(tmp_path, "t.jsonl", json.dumps({"file": "a.mp4", "caption": text})) == {"a.mp4": text}


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    rows = {"captions.csv": "file,caption,control\na.mp4,a dog,a-pose.mp4\n"}
    rows["captions.jsonl"] = '{"file": "a.mp4", "caption": "a dog", "control": "a-pose.mp4"}\n'
    (tmp_path / name).write_text(rows[name])
    with pytest.raises(ValueError, match=r"columns? .*(boxes|control)"):
        read_table(tmp_path / name, {"control": "boxes"})
    (entry,) = read_table(tmp_path / name, {"control": "control"})
    assert entry.given == {"control": tmp_path / "a-pose.mp4"}  # which is missed where its clip is made


@pytest.mark.parametrize("column", ["Depth", "control video", "depth-file"])
def test_columns_of_files_are_named_as_the_table_has_them(tmp_path: Path, column: str) -> None:
    (tmp_path / "captions.csv").write_text(f"file,caption,{column}\na.mp4,a ring,a-depth.mp4\n")
    (entry,) = read_table(tmp_path / "captions.csv", {"control": column})
    assert entry.given == {"control": tmp_path / "a-depth.mp4"}
