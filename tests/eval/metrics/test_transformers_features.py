"""Features of tiny random transformers: the preprocessing against the libraries' own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel, VJEPA2Config, VJEPA2Model

from fewstep.eval.metrics.transformers_features import TransformersFeatures

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def videomae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videomae")
    torch.manual_seed(0)
    VideoMAEModel(VideoMAEConfig(**SMALL, image_size=16, num_frames=4, intermediate_size=32)).save_pretrained(folder)
    VideoMAEImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vjepa2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vjepa2")
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    torch.manual_seed(0)
    config = VJEPA2Config(**SMALL, **predictor, crop_size=16, frames_per_clip=64, mlp_ratio=2, num_pooler_layers=1)
    VJEPA2Model(config).save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return folder


def videos(count: int, frames: int, side: int = 16) -> Tensor:
    """Values that a file can hold."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, frames, side, side), generator=generator) / 127.5 - 1


@torch.no_grad()
def test_videomae_sees_what_its_processor_gives_it(videomae: Path) -> None:
    clip = videos(1, 6)
    frames = list(((clip[0, :, :4] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy())
    processor = VideoMAEImageProcessor.from_pretrained(videomae, do_resize=False, do_center_crop=False)
    pixels = torch.from_numpy(processor(frames, return_tensors="np")["pixel_values"])
    theirs = VideoMAEModel.from_pretrained(videomae)(pixel_values=pixels).last_hidden_state.mean(1)
    metrics = TransformersFeatures("fd-videomae", videomae).features(clip)
    torch.testing.assert_close(metrics, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_vjepa2_takes_shorter_clips_than_it_was_made_for(vjepa2: Path) -> None:
    network = TransformersFeatures("fd-vjepa2", vjepa2)
    assert network.min_frames == 16
    metrics = network.features(videos(5, 17))
    assert metrics.shape == (5, 24) and metrics.dtype == torch.float32
    torch.testing.assert_close(metrics, network.features(videos(5, 17)[:, :, :16]))
    torch.testing.assert_close(metrics[3:], network.features(videos(5, 17)[3:]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least 16 frames, and these have 9"):
        network.features(videos(1, 9))


def test_frames_of_other_sizes_are_resized_whole(videomae: Path) -> None:
    network = TransformersFeatures("fd-videomae", videomae)
    small = videos(2, 4)
    large = small.repeat_interleave(3, dim=3).repeat_interleave(2, dim=4)  # what is seen changes little
    apart = (network.features(small)[0] - network.features(small)[1]).norm()
    assert (network.features(large) - network.features(small)).norm(dim=1).max() < 0.5 * apart


def test_the_protocol_names_weights_and_normalisation(videomae: Path, vjepa2: Path, tmp_path: Path) -> None:
    first, second = TransformersFeatures("fd-videomae", videomae), TransformersFeatures("fd-vjepa2", vjepa2)
    assert first.protocol()["weights_sha256"] != second.protocol()["weights_sha256"]
    json.dumps(first.protocol())
    for file in videomae.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    facts = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    other = TransformersFeatures("fd-videomae", tmp_path)
    assert other.protocol() != first.protocol()
    assert not torch.allclose(other.features(videos(1, 4)), first.features(videos(1, 4)), atol=1e-3)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json with image_mean"):
        TransformersFeatures("fd-videomae", tmp_path)


def test_other_networks_and_places_are_one_sentence(videomae: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a videomae network, not a vjepa2 one"):
        TransformersFeatures("fd-vjepa2", videomae)
    with pytest.raises(ValueError, match=r"has no config\.json with safetensors"):
        TransformersFeatures("fd-videomae", tmp_path)
    with pytest.raises(ValueError, match="MCG-NJU/videomae-base is neither on this disk nor within reach"):
        TransformersFeatures("fd-videomae")
    with pytest.raises(ValueError, match="there is no folder"):
        TransformersFeatures("fd-videomae", tmp_path / "nothing")
