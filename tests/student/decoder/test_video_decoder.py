"""Small decoders: shapes, causality, pieces, the way to disk and back, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle, silu

from fewstep.student.decoder.files import autoencoder_sha256, check_loads, find_decoder, load_decoder, save_decoder
from fewstep.student.decoder.video_decoder import SmallVideoDecoder
from fewstep.teacher.load_teacher import load_teacher

KINDS = [  # frames per latent frame, pixels per latent, widths, blocks
    (4, 8, (16, 8, 4), (1, 1, 0)),
    (8, 32, (8, 4), (1, 1)),
    (6, 8, (8, 8, 4, 4), (1, 1, 1, 1)),
    (4, 16, (8,), (2,)),
    (1, 8, (8, 4), (1, 1)),
]


def random_decoder(temporal: int, spatial: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> SmallVideoDecoder:
    torch.manual_seed(0)
    decoder = SmallVideoDecoder(4, spatial, temporal, widths, blocks)
    for block in (block for level in decoder.levels for block in level.children()):
        torch.nn.init.normal_(block.second.weight, std=0.2)  # else blocks do nothing yet
    return decoder.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_latents_make_the_frames_that_all_of_them_make_at_once(
    kind: tuple[int, int, tuple[int, ...], tuple[int, ...]],
) -> None:
    decoder, z = random_decoder(*kind), torch.randn(2, 4, 11, 4, 6)
    whole = decoder(z).clamp(-1, 1)
    assert whole.shape == (2, 3, 1 + 10 * kind[0], 4 * kind[1], 6 * kind[1])
    assert torch.allclose(torch.cat(list(decoder.stream(z.split([1, 3, 7], dim=2))), dim=2), whole, atol=1e-5)
    assert torch.allclose(decoder.decode(z, return_dict=False)[0], whole, atol=1e-5)


def test_later_latents_change_no_earlier_frame_and_earlier_ones_change_later_frames() -> None:
    decoder, z = random_decoder(*KINDS[0]), torch.randn(1, 4, 3, 4, 4)
    other_end, other_start = z.clone(), z.clone()
    other_end[:, :, 2] += 1
    other_start[:, :, 0] += 1
    video = decoder(z)
    assert torch.equal(decoder(other_end)[:, :, :5], video[:, :, :5])
    assert not torch.equal(decoder(other_start)[:, :, 1:5], video[:, :, 1:5])


def test_channels_become_pixels_as_pixel_shuffle_has_them() -> None:
    decoder, z = SmallVideoDecoder(4, 8, 1, (8, 4), (0, 0)).eval(), torch.randn(2, 4, 3, 4, 6)
    x = decoder.enter(z.transpose(1, 2).flatten(0, 1))
    x = pixel_shuffle(silu(decoder.leave[0](x)), 2)
    frames = pixel_shuffle(decoder.leave[1](x), 4)
    assert torch.allclose(decoder(z), frames.unflatten(0, (2, 3)).transpose(1, 2), atol=1e-5)


def test_images_are_decoded_one_by_one_or_as_frames_of_clips() -> None:
    decoder = random_decoder(*KINDS[-1])
    images = torch.randn(6, 4, 4, 4)
    clips = images.unflatten(0, (2, 3)).transpose(1, 2)
    alone = decoder.decode(images, return_dict=False)[0]
    assert alone.shape == (6, 3, 32, 32)
    as_clips = decoder.decode(images, num_frames=3, return_dict=False)[0]
    assert torch.allclose(
        as_clips, decoder.decode(clips, return_dict=False)[0].transpose(1, 2).flatten(0, 1), atol=1e-6
    )
    assert not torch.allclose(as_clips, alone, atol=1e-3)


def test_levels_that_do_not_fit_the_factor_are_refused() -> None:
    with pytest.raises(ValueError, match="no decoder of 8 pixels per latent: give both as many entries"):
        SmallVideoDecoder(4, 8, 4, (8, 8, 8, 8, 8), (1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="no decoder of 8 pixels"):
        SmallVideoDecoder(4, 8, 4, (8, 8), (1,))


def save(decoder: SmallVideoDecoder, folder: Path) -> None:
    folder.mkdir(parents=True)
    save_decoder(decoder, folder, "# A card\n")


def of_teacher(teacher_folder: Path, folder: Path) -> SmallVideoDecoder:
    teacher = load_teacher(teacher_folder, device="cpu")
    config = {name: value for name, value in teacher.pipeline.vae.config.items() if not name.startswith("_")}
    decoder = SmallVideoDecoder(16, 8, 4, (8, 4), (1, 0), True, config, autoencoder_sha256(teacher)).eval()
    save(decoder, folder)
    return decoder


def test_diffusers_loads_it_without_fewstep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, z = random_decoder(*KINDS[0]), torch.randn(1, 4, 3, 4, 4)
    save(decoder, tmp_path / "decoder")
    assert check_loads(tmp_path / "decoder", decoder, z) < 1e-5
    own = decoder.decode(z, return_dict=False)[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "fewstep"]:
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it fails
    loader: Any = AutoModel
    loaded = loader.from_pretrained(str(tmp_path / "decoder"), trust_remote_code=True)
    assert torch.allclose(loaded.decode(z).sample, own, atol=1e-5)


def test_weights_that_diffusers_reads_otherwise_are_noticed(tmp_path: Path) -> None:
    decoder = random_decoder(*KINDS[0])
    save(decoder, tmp_path / "decoder")
    torch.nn.init.ones_(decoder.enter.weight)
    with pytest.raises(ValueError, match="decodes otherwise"):
        check_loads(tmp_path / "decoder", decoder, torch.randn(1, 4, 2, 4, 4))


def test_a_run_has_its_decoder_inside_and_what_is_none_is_refused(tmp_path: Path) -> None:
    save(random_decoder(*KINDS[0]), tmp_path / "run" / "decoder")
    assert find_decoder(tmp_path / "run") == find_decoder(tmp_path / "run" / "decoder") == tmp_path / "run" / "decoder"
    with pytest.raises(ValueError, match="no small decoder"):
        find_decoder(tmp_path)
    (tmp_path / "run" / "decoder" / "config.json").write_text("[")
    with pytest.raises(ValueError, match="cannot be read"):
        find_decoder(tmp_path / "run")


def decoded(teacher_folder: Path, decoder_folder: Path) -> Tensor:
    teacher = load_teacher(teacher_folder, device="cpu")
    decoder = load_decoder(decoder_folder, teacher)
    with teacher.decoding_by(decoder.decode):
        return teacher.decode(torch.zeros(1, 16, 2, 4, 4))


def test_a_decoder_of_another_autoencoder_or_with_broken_weights_is_refused(
    tmp_path: Path, tiny_wan_folder: Path, tiny_wan_i2v_folder: Path
) -> None:
    of_teacher(tiny_wan_folder, tmp_path / "decoder")
    assert decoded(tiny_wan_folder, tmp_path / "decoder").shape == (1, 3, 5, 32, 32)
    weights = next((tmp_path / "decoder").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="cannot be loaded"):
        decoded(tiny_wan_folder, tmp_path / "decoder")
    weights.write_bytes(whole)
    path = tmp_path / "decoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"autoencoder_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="another autoencoder"):
        decoded(tiny_wan_folder, tmp_path / "decoder")


def test_a_plain_pipeline_takes_it_in_place_of_its_autoencoder(tmp_path: Path, tiny_wan_folder: Path) -> None:
    decoder = of_teacher(tiny_wan_folder, tmp_path / "decoder")
    pipeline = load_teacher(tiny_wan_folder, device="cpu").pipeline
    arguments = {"prompt": "a ring", "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 1}

    def frames() -> Tensor:
        return torch.as_tensor(
            pipeline(**arguments, generator=torch.Generator().manual_seed(0), output_type="pt").frames
        )

    own, full = pipeline.vae, frames()
    pipeline.vae.decode = decoder.decode
    attached = frames()
    del own.decode
    pipeline.vae = decoder
    assert torch.equal(frames(), attached)
    assert attached.shape == full.shape and not torch.equal(attached, full)
    with pytest.raises(NotImplementedError, match="keep the pipeline's autoencoder"):
        decoder.encode(torch.zeros(1))
