"""Real clips of the shapes world as files: videos with captions, and what clips may be made from besides a prompt."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.world import WORLD_FPS, Split, render_boxes, render_scene
from fewstep.teacher.videos.writing import write_video

GIVEN_FILES = {"first": "first.png", "last": "last.png", "control": "boxes.mp4"}  # behind a clip's number
PROMPT_TABLES = {"prompts-first": ("first",), "prompts-first-last": ("first", "last"), "prompts-control": ("control",)}


def write_clip(folder: Path, split: Split, seed: int, index: int) -> None:
    """Writes an example's clip and caption; those that are there stay."""
    clip = folder / f"{index:05d}.mp4"
    if not clip.exists():
        scene, caption = example(split, seed, index)
        with whole_file(clip.with_suffix(".txt")) as part:
            part.write_text(caption + "\n", "utf-8")
        write_video(clip, render_scene(scene), WORLD_FPS)


def write_given_files(folder: Path, split: Split, seed: int, index: int) -> None:
    """Writes `GIVEN_FILES` of an example; those that are there stay."""
    boxes = folder / file_name(index, "control")
    if not boxes.exists():
        scene, _ = example(split, seed, index)
        frames = render_scene(scene)
        for name, frame in (("first", frames[0]), ("last", frames[-1])):
            with whole_file(folder / file_name(index, name)) as part:
                Image.fromarray(frame).save(part, format="PNG")
        write_video(boxes, render_boxes(scene), WORLD_FPS)


def write_prompt_tables(folder: Path, split: Split, seed: int, num: int) -> None:
    """captions.jsonl to train on, with a column for each of `GIVEN_FILES`; prompts-*.jsonl to sample and to
    evaluate with."""
    captions = [example(split, seed, index)[1] for index in range(num)]
    files = [{name: file_name(index, name) for name in GIVEN_FILES} for index in range(num)]
    tables = {"captions": [{"file": f"{i:05d}.mp4", "caption": captions[i], **files[i]} for i in range(num)]}
    for table, names in PROMPT_TABLES.items():
        tables[table] = [{"prompt": captions[i], **{name: files[i][name] for name in names}} for i in range(num)]
    for table, rows in tables.items():
        with whole_file(folder / f"{table}.jsonl") as part:
            part.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def file_name(index: int, name: str) -> str:
    """Of what is given with a clip."""
    return f"{index:05d}-{GIVEN_FILES[name]}"
