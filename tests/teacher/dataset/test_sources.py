"""How a dataset knows the videos that it was made from."""

from __future__ import annotations

from pathlib import Path

from fewstep.teacher.dataset.sources import video_item


def test_a_linked_video_is_known_by_its_own_size(tmp_path: Path) -> None:
    """As in the hub's cache, or with git-annex, whose links stay as long as they are when a file changes."""
    store, folder = tmp_path / "store", tmp_path / "videos"
    folder.mkdir()
    store.write_bytes(b"12345")
    (folder / "clip.mp4").symlink_to(store)
    before = video_item(folder / "clip.mp4", folder, "a ring")
    assert before == ("clip.mp4", 5, "a ring")
    store.write_bytes(b"1234567")
    assert video_item(folder / "clip.mp4", folder, "a ring") != before
    # a copy of the file in place of the link is the same video
    (folder / "clip.mp4").unlink()
    (folder / "clip.mp4").write_bytes(b"12345")
    assert video_item(folder / "clip.mp4", folder, "a ring") == before


def test_a_link_that_leads_nowhere_costs_its_own_clip_alone(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert video_item(tmp_path / "gone.mp4", tmp_path, None)[0] == "gone.mp4"
