"""One image that compares models: a row per prompt, a column of frames per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from fewstep.teacher.videos.writing import Frames

_SCALE = 2  # pixels of the image per pixel of the clip, for small clips
_TEXT, _GAP = 16, 6  # pixels


def comparison_sheet(columns: Mapping[str, Sequence[Frames]], prompts: Sequence[str], shown: int = 3) -> Image.Image:
    """Model name -> its clips (F, H, W, 3), one per prompt; `shown` frames of each, evenly spaced.

    Raises ValueError when a model has not one clip per prompt.
    """
    for name, clips in columns.items():
        if len(clips) != len(prompts):
            raise ValueError(f"{name} has {len(clips)} clips for {len(prompts)} prompts: pass one each")
    strips = {name: [_strip(clip, shown) for clip in clips] for name, clips in columns.items()}
    width, height = next(iter(strips.values()))[0].size
    sheet = Image.new("RGB", (len(columns) * (width + _GAP), _TEXT + 4 + len(prompts) * (height + _TEXT + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=_TEXT - 3)
    for column, (name, strips_of_model) in enumerate(strips.items()):
        left = column * (width + _GAP)
        draw.text((left, 0), name, fill="black", font=font)
        for row, strip in enumerate(strips_of_model):
            top = _TEXT + 4 + row * (height + _TEXT + 4)
            if column == 0:
                draw.text((0, top), prompts[row], fill="dimgray", font=font)
            sheet.paste(strip, (left, top + _TEXT))
    return sheet


def _strip(clip: Frames, shown: int) -> Image.Image:
    chosen = [clip[round(i * (len(clip) - 1) / max(1, shown - 1))] for i in range(shown)]
    side_by_side = [Image.fromarray(frame) for frame in chosen]
    width, height = side_by_side[0].size
    scale = _SCALE if width < 128 else 1
    strip = Image.new("RGB", (shown * width * scale, height * scale))
    for i, frame in enumerate(side_by_side):
        strip.paste(frame.resize((width * scale, height * scale), Image.Resampling.NEAREST), (i * width * scale, 0))
    return strip
