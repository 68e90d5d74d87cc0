"""What every test may ask for: one thread, and random teachers, one per family, that sample in a blink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from fewstep.teacher import precision
from fewstep.teacher.base import Teacher, load_teacher
from tests.tiny_controlnet import save_tiny_controlnet
from tests.tiny_hunyuan_video import save_tiny_hunyuan_video, save_tiny_hunyuan_video_image
from tests.tiny_hunyuan_video15 import save_tiny_hunyuan_video15
from tests.tiny_ltx import save_tiny_ltx
from tests.tiny_ltx2 import NEWER, save_tiny_ltx2
from tests.tiny_pictures import save_tiny_sd, save_tiny_sdxl
from tests.tiny_pipelines import save_tiny_animatediff, save_tiny_cogvideox, save_tiny_given_wan, save_tiny_wan

torch.set_num_threads(1)  # two threads on a busy machine can be 90 times slower than one


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cases FILE` writes the table of tests/cases, slow cases included, `--families FILE` that of tests/families."""
    parser.addoption("--cases", metavar="FILE", help="write what tests/cases found, and run its slow cases as well")
    parser.addoption("--families", metavar="FILE", help="write what tests/families found")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cases marked `slow` only run for the table."""
    if config.getoption("--cases"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: `make cases` runs it"))


@pytest.fixture(scope="session")
def make_tiny_wan() -> Callable[..., None]:
    """`save_tiny_wan`, for tests that need a variant."""
    return save_tiny_wan


@pytest.fixture(scope="session")
def tiny_wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Wan pipeline folder, as save_pretrained writes it; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-wan")
    save_tiny_wan(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_wan_folder: Path) -> Teacher:
    """The teacher of that folder, shared by all tests: whoever frees a part of it loads their own."""
    return load_teacher(tiny_wan_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_experts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Wan 2.2 A14B pipeline: of 4 nodes two are the high expert's; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-experts")
    save_tiny_wan(folder, experts=2, boundary_ratio=0.875)
    return folder


@pytest.fixture(scope="session")
def tiny_experts(tiny_experts_folder: Path) -> Teacher:
    """The teacher of that folder, shared by all tests: whoever frees a part of it loads their own."""
    return load_teacher(tiny_experts_folder, device="cpu")


@pytest.fixture(scope="session")
def given_wan_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random Wan pipeline of a kind of GIVEN_WAN; not to be changed."""
    root = tmp_path_factory.mktemp("tiny-given-wan")

    def folder(kind: str) -> Path:
        if not (root / kind).exists():
            save_tiny_given_wan(root / kind, kind)
        return root / kind

    return folder


@pytest.fixture(scope="session")
def tiny_wan_i2v_folder(given_wan_folders: Callable[[str], Path]) -> Path:
    """Wan 2.1 from a first frame."""
    return given_wan_folders("i2v")


@pytest.fixture(scope="session")
def tiny_wan_vace_folder(given_wan_folders: Callable[[str], Path]) -> Path:
    """Wan VACE."""
    return given_wan_folders("vace")


@pytest.fixture(scope="session")
def tiny_wan_animate_folder(given_wan_folders: Callable[[str], Path]) -> Path:
    """Wan Animate."""
    return given_wan_folders("animate")


@pytest.fixture(scope="session")
def make_tiny_cogvideox() -> Callable[..., None]:
    """`save_tiny_cogvideox`, for tests that need a variant."""
    return save_tiny_cogvideox


@pytest.fixture(scope="session")
def tiny_cogvideox_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CogVideoX pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-cogvideox")
    save_tiny_cogvideox(folder)
    return folder


@pytest.fixture(scope="session")
def make_tiny_animatediff() -> Callable[..., None]:
    """`save_tiny_animatediff`, for tests that need a variant."""
    return save_tiny_animatediff


@pytest.fixture(scope="session")
def tiny_animatediff_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AnimateDiff pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-animatediff")
    save_tiny_animatediff(folder)
    return folder


@pytest.fixture(scope="session")
def ltx_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random LTX pipeline of a kind of `tiny_ltx.LTX`; not to be changed."""
    root = tmp_path_factory.mktemp("tiny-ltx")

    def folder(kind: str) -> Path:
        if not (root / kind).exists():
            save_tiny_ltx(root / kind, kind)
        return root / kind

    return folder


@pytest.fixture(scope="session")
def tiny_ltx_folder(ltx_folders: Callable[[str], Path]) -> Path:
    """LTX-Video from texts."""
    return ltx_folders("text")


@pytest.fixture(scope="session")
def tiny_ltx_image_folder(ltx_folders: Callable[[str], Path]) -> Path:
    """LTX-Video from a first frame."""
    return ltx_folders("image")


@pytest.fixture(scope="session")
def tiny_ltx_condition_folder(ltx_folders: Callable[[str], Path]) -> Path:
    """LTX-Video from frames that may be given."""
    return ltx_folders("condition")


@pytest.fixture(scope="session")
def ltx2_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random LTX-2 pipeline, "text", "image", or "newer" as LTX-2.3 is; not to be changed."""
    root = tmp_path_factory.mktemp("tiny-ltx2")

    def folder(kind: str) -> Path:
        if not (root / kind).exists():
            settings = NEWER if kind == "newer" else {}
            save_tiny_ltx2(root / kind, "image" if kind == "image" else "text", **settings)
        return root / kind

    return folder


@pytest.fixture(scope="session")
def tiny_ltx2_folder(ltx2_folders: Callable[[str], Path]) -> Path:
    """LTX-2 from texts."""
    return ltx2_folders("text")


@pytest.fixture(scope="session")
def tiny_ltx2_image_folder(ltx2_folders: Callable[[str], Path]) -> Path:
    """LTX-2 from a first frame."""
    return ltx2_folders("image")


@pytest.fixture(scope="session", autouse=True)
def auto_is_float32() -> Iterator[None]:
    """What `auto` means must not depend on the machine that runs the tests; in a subprocess it does."""
    chosen = precision.AutoPrecision("float32", "of the tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "auto_precision", lambda device: chosen)
        yield


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate remembers the first run's precision for the whole process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tiny_controlnet_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AnimateDiff pipeline with a ControlNet; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-controlnet")
    save_tiny_controlnet(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-sd")
    save_tiny_sd(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SDXL pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-sdxl")
    save_tiny_sdxl(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_hunyuan_video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random HunyuanVideo pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-hunyuan-video")
    save_tiny_hunyuan_video(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_hunyuan_video_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HunyuanVideo from a first frame that is in place."""
    folder = tmp_path_factory.mktemp("tiny-hunyuan-video-image")
    save_tiny_hunyuan_video_image(folder, "token_replace")
    return folder


@pytest.fixture(scope="session")
def tiny_hunyuan_video15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HunyuanVideo 1.5."""
    folder = tmp_path_factory.mktemp("tiny-hunyuan-video15")
    save_tiny_hunyuan_video15(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_hunyuan_video15_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HunyuanVideo 1.5 from a first frame."""
    folder = tmp_path_factory.mktemp("tiny-hunyuan-video15-image")
    save_tiny_hunyuan_video15(folder, pictures=True)
    return folder
