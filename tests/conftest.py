"""What every test may ask for: one thread, and random teachers, one per family, that sample in a blink."""

# ruff: noqa: E402
from __future__ import annotations

from fewstep.library_chatter import quiet_imports

quiet_imports()  # before anything imports the libraries; nothing else comes after pytest's closing line

import gc
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from accelerate.state import AcceleratorState

from fewstep.teacher import precision
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from tests.tiny_cogvideox import save_tiny_cogvideox_given
from tests.tiny_controlnet import save_tiny_controlnet
from tests.tiny_hunyuan_video import save_tiny_hunyuan_video, save_tiny_hunyuan_video_image
from tests.tiny_hunyuan_video15 import save_tiny_hunyuan_video15
from tests.tiny_kandinsky import save_tiny_kandinsky
from tests.tiny_ltx import save_tiny_ltx
from tests.tiny_ltx2 import NEWER, save_tiny_ltx2
from tests.tiny_mochi import save_tiny_mochi
from tests.tiny_pictures import save_tiny_sd, save_tiny_sdxl
from tests.tiny_pipelines import (
    save_tiny_animatediff,
    save_tiny_cogvideox,
    save_tiny_given_wan,
    save_tiny_wan,
    save_tiny_wide_wan,
)
from tests.tiny_sana_video import save_tiny_sana_video
from tests.tiny_skyreels import save_tiny_skyreels
from tests.tiny_svd import save_tiny_svd

torch.set_num_threads(1)  # two threads on a busy machine can be 90 times slower than one


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cases FILE` writes the table of tests/cases, slow cases included, `--families FILE` that of tests/families,
    and `--scale FILE` that of layouts of several processes, all of them. `--slow` runs slow tests as well."""
    parser.addoption("--cases", metavar="FILE", help="write what tests/cases found, and run its slow cases as well")
    parser.addoption("--families", metavar="FILE", help="write what tests/families found")
    parser.addoption("--slow", action="store_true", help="run tests that `make test` leaves out")
    parser.addoption("--scale", metavar="FILE", help="write what tests/distill/test_parallel.py found of all layouts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those marked `slow` only run when they are asked for; slow cases for the table."""
    if config.getoption("--cases") or config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            target = "cases" if "cases" in item.path.parts else "slow"
            item.add_marker(pytest.mark.skip(reason=f"slow: `make {target}` runs it"))


@pytest.fixture(scope="session", autouse=True)
def few_watched_clips() -> Iterator[None]:
    """The watch after a stage compares two clips, not eight: in a relay of a tiny model that is most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fewstep.distill.stages.WATCHED_CLIPS", 2)
        yield


@pytest.fixture(scope="session", autouse=True)
def verbs_are_made_once() -> Iterator[None]:
    """Typer's runner makes every verb from its function's signature anew, each time that one of them is called."""
    made = cache(lambda app, *verbs: typer.main.get_command(app))
    with pytest.MonkeyPatch.context() as patch:
        # a test may add a verb
        patch.setattr("typer.testing._get_command", lambda app: made(app, *app.registered_commands))
        yield


def saved_once(name: str, save: Callable[[Path], None]) -> Any:
    """A fixture: the folder of a random pipeline, as `save` writes it once for all tests; not to be changed."""

    @pytest.fixture(scope="session")
    def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
        made = tmp_path_factory.mktemp(name)
        save(made)
        return made

    return folder


def saved_by_kind(name: str, save: Callable[[Path, str], None]) -> Any:
    """A fixture: kind -> `saved_once` of this kind."""

    @pytest.fixture(scope="session")
    def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
        root = tmp_path_factory.mktemp(name)

        def folder(kind: str) -> Path:
            if not (root / kind).exists():
                save(root / kind, kind)
            return root / kind

        return folder

    return folder_of


def of_kind(folders: str, kind: str) -> Any:
    """A fixture: the folder of this kind, out of a fixture of `saved_by_kind`."""

    @pytest.fixture(scope="session")
    def folder(request: pytest.FixtureRequest) -> Path:
        path: Path = request.getfixturevalue(folders)(kind)
        return path

    return folder


def save_tiny_ltx2_of(folder: Path, kind: str) -> None:
    """LTX-2 of texts or of an image, or "newer" as LTX-2.3 is."""
    save_tiny_ltx2(folder, "image" if kind == "image" else "text", **(NEWER if kind == "newer" else {}))


tiny_wan_folder = saved_once("tiny-wan", save_tiny_wan)
tiny_wide_folder = saved_once("tiny-wide", save_tiny_wide_wan)
tiny_experts_folder = saved_once("tiny-experts", partial(save_tiny_wan, experts=2, boundary_ratio=0.875))
tiny_cogvideox_folder = saved_once("tiny-cogvideox", save_tiny_cogvideox)
tiny_animatediff_folder = saved_once("tiny-animatediff", save_tiny_animatediff)
tiny_controlnet_folder = saved_once("tiny-controlnet", save_tiny_controlnet)
tiny_sd_folder = saved_once("tiny-sd", save_tiny_sd)
tiny_sdxl_folder = saved_once("tiny-sdxl", save_tiny_sdxl)
tiny_hunyuan_video_folder = saved_once("tiny-hunyuan-video", save_tiny_hunyuan_video)
tiny_hunyuan_video_image_folder = saved_once(
    "tiny-hunyuan-video-image", partial(save_tiny_hunyuan_video_image, kind="token_replace")
)
tiny_hunyuan_video15_folder = saved_once("tiny-hunyuan-video15", save_tiny_hunyuan_video15)
tiny_hunyuan_video15_image_folder = saved_once(
    "tiny-hunyuan-video15-image", partial(save_tiny_hunyuan_video15, pictures=True)
)
tiny_skyreels_folder = saved_once("tiny-skyreels", save_tiny_skyreels)
tiny_skyreels_image_folder = saved_once("tiny-skyreels-image", partial(save_tiny_skyreels, image=True))
tiny_sana_video_folder = saved_once("tiny-sana-video", save_tiny_sana_video)
tiny_sana_video_image_folder = saved_once("tiny-sana-video-image", partial(save_tiny_sana_video, image=True))
tiny_kandinsky_folder = saved_once("tiny-kandinsky", save_tiny_kandinsky)
tiny_kandinsky_image_folder = saved_once("tiny-kandinsky-image", partial(save_tiny_kandinsky, image=True))
tiny_svd_folder = saved_once("tiny-svd", save_tiny_svd)
tiny_mochi_folder = saved_once("tiny-mochi", save_tiny_mochi)
given_wan_folders = saved_by_kind("tiny-given-wan", save_tiny_given_wan)
cogvideox_folders = saved_by_kind("tiny-cogvideox-given", save_tiny_cogvideox_given)
ltx_folders = saved_by_kind("tiny-ltx", save_tiny_ltx)
ltx2_folders = saved_by_kind("tiny-ltx2", save_tiny_ltx2_of)
tiny_wan_i2v_folder = of_kind("given_wan_folders", "i2v")
tiny_wan_vace_folder = of_kind("given_wan_folders", "vace")
tiny_wan_animate_folder = of_kind("given_wan_folders", "animate")
tiny_cogvideox_image_folder = of_kind("cogvideox_folders", "image")
tiny_cogvideox_control_folder = of_kind("cogvideox_folders", "control")
tiny_ltx_folder = of_kind("ltx_folders", "text")
tiny_ltx_image_folder = of_kind("ltx_folders", "image")
tiny_ltx_condition_folder = of_kind("ltx_folders", "condition")
tiny_ltx2_folder = of_kind("ltx2_folders", "text")
tiny_ltx2_image_folder = of_kind("ltx2_folders", "image")


@pytest.fixture(scope="session")
def make_tiny_wan() -> Callable[..., None]:
    """`save_tiny_wan`, for tests that need a variant."""
    return save_tiny_wan


@pytest.fixture(scope="session")
def tiny_teacher(tiny_wan_folder: Path) -> Teacher:
    """The teacher of that folder, shared by all tests: whoever frees a part of it loads their own."""
    return load_teacher(tiny_wan_folder, device="cpu")


@pytest.fixture(scope="session")
def tiny_experts(tiny_experts_folder: Path) -> Teacher:
    """The teacher of that folder, shared by all tests: whoever frees a part of it loads their own."""
    return load_teacher(tiny_experts_folder, device="cpu")


@pytest.fixture(scope="session")
def make_tiny_cogvideox() -> Callable[..., None]:
    """`save_tiny_cogvideox`, for tests that need a variant."""
    return save_tiny_cogvideox


@pytest.fixture(scope="session")
def make_tiny_animatediff() -> Callable[..., None]:
    """`save_tiny_animatediff`, for tests that need a variant."""
    return save_tiny_animatediff


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run that does not count what a step takes of memory, which is slow: test_run_cost.py has that."""
    monkeypatch.setattr("fewstep.commands.run_cost.show_memory", lambda *_: None)


@pytest.fixture(scope="session", autouse=True)
def auto_is_float32() -> Iterator[None]:
    """What `auto` means must not depend on the machine that runs the tests; in a subprocess it does."""
    chosen = precision.AutoPrecision("float32", "of the tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "auto_precision", lambda device: chosen)
        yield


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage() -> None:
    """What libraries made when they were imported is not looked at again by every collection: a third of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Random numbers do not depend on the tests before; accelerate remembers the first run's precision for the whole
    process."""
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
