"""What every test may ask for: one thread, and random teachers, one per family, that sample in a blink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from fewstep.teacher import precision
from fewstep.teacher.base import Teacher, load_teacher
from tests.tiny_pipelines import save_tiny_animatediff, save_tiny_cogvideox, save_tiny_given_wan, save_tiny_wan
from tests.tiny_sana_video import save_tiny_sana_video
from tests.tiny_skyreels import save_tiny_skyreels

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
def tiny_skyreels_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SkyReels V2 pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-skyreels")
    save_tiny_skyreels(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_skyreels_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SkyReels V2 from a first frame; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-skyreels-image")
    save_tiny_skyreels(folder, image=True)
    return folder


@pytest.fixture(scope="session")
def tiny_sana_video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SANA-Video pipeline folder; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-sana-video")
    save_tiny_sana_video(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sana_video_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SANA-Video from a first frame; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-sana-video-image")
    save_tiny_sana_video(folder, image=True)
    return folder


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
