"""Which items of a dataset came, went or changed, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.teacher.dataset.listing import changes, listing_of, listing_sha256, read_listing, write_listing

VIDEOS = [["a.mp4", 100, "a ring"], ["b.mp4", 100, "a box"], ["more/ü.mp4", 5, None]]


def test_a_listing_comes_back_whole_or_not_at_all(tmp_path: Path) -> None:
    listing = listing_of(VIDEOS)
    write_listing(tmp_path, listing)
    assert read_listing(tmp_path, listing_sha256(listing)) == listing
    assert read_listing(tmp_path, listing_sha256(listing[:2])) is None
    assert read_listing(tmp_path / "none", "") is None


@pytest.mark.parametrize(
    ("now", "text"),
    [
        ([*VIDEOS, ["c.mp4", 1, None]], "c.mp4 was added"),
        (VIDEOS[1:], "a.mp4 was removed"),
        ([["a.mp4", 99, "a ring"], *VIDEOS[1:]], "a.mp4 was replaced"),
        ([["a.mp4", 100, None], *VIDEOS[1:]], "a.mp4 was given another caption"),
        ([["A.mp4", 100, "a ring"], *VIDEOS[1:]], "A.mp4 was added, a.mp4 was removed"),
        ([*VIDEOS, *([f"{i}.mp4", 1, None] for i in range(9))], "0.mp4, 1.mp4, 2.mp4 and 6 more were added"),
        (VIDEOS[::-1], "their order changed"),
        ([*VIDEOS, *VIDEOS], "there were 3 items and are 6 now"),
    ],
)
def test_what_changed_is_named(now: list[list[object]], text: str) -> None:
    assert changes(listing_of(VIDEOS), listing_of(now)) == text


def test_prompts_are_named_in_short() -> None:
    then, now = ([["a ring"], ["a box"]], [["a ring"], ["a dog runs " * 20], ["a box"]])
    assert changes(listing_of(then), listing_of(now)).startswith("a dog runs a dog runs")
    assert len(changes(listing_of(then), listing_of(now))) < 80
