"""The page in a real browser, from file:// and without a network: clips move together, plots answer, nothing fails."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fewstep.eval.report.inputs import RunRecord
from fewstep.eval.report.page import ReportInputs, write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PICTURE = Path(__file__).parents[3] / "build" / "report.png"
FRAMES = 17

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium and chromedriver here: apt install chromium chromium-driver"
)

# what every video of the page shows now, and where it stands, all taken at once
SHOWN = """
return [...document.querySelectorAll("video")].map((video) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 64});
  canvas.getContext("2d").drawImage(video, 0, 0);
  const [red] = canvas.getContext("2d").getImageData(8, 8, 1, 1).data;
  return [Math.round((red - 20) / 12), video.currentTime];
});
"""


@pytest.fixture(scope="module")
def page(material: ReportInputs, adversarial_run: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, replace(material, runs=[*material.runs, adversarial_run]), count=6)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    flags += "disable-component-update disable-sync disable-dev-shm-usage hide-scrollbars window-size=1400,1000"
    for flag in (*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, page: str) -> Iterator[webdriver.Chrome]:
    """The page at rest, on its first frame. Whatever a test does, the browser has nothing to complain of."""
    browser.get(page)
    wait(lambda: frame(browser) != 0)
    press(browser, "play")
    yield browser
    assert browser.get_log("browser") == []


def wait(reached: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def find(browser: webdriver.Chrome, selector: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, selector)


def press(browser: webdriver.Chrome, name: str) -> None:
    find(browser, f"[data-do={name}]").click()


def frame(browser: webdriver.Chrome) -> int:
    return int(find(browser, "[data-do=scrub]").get_attribute("value"))


def shown(browser: webdriver.Chrome) -> list[int]:
    return [index for index, _ in browser.execute_script(SHOWN)]


def set_scrub(browser: webdriver.Chrome, index: int) -> None:
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, find(browser, "[data-do=scrub]"), index)


def test_every_clip_shows_the_frame_that_was_chosen(opened: webdriver.Chrome) -> None:
    for index in (0, 5, 16, 9):
        set_scrub(opened, index)
        wait(lambda index=index: shown(opened) == [index] * 4)  # type: ignore[misc]


def test_clips_play_together_through_a_loop(opened: webdriver.Chrome) -> None:
    """At every look, all clips stand within one frame of each other, from frame 0 to the last and around again."""
    press(opened, "play")
    seen: list[int] = []

    def looped() -> bool:
        times = [at for _, at in opened.execute_script(SHOWN)]
        assert max(times) - min(times) < 1 / 8, times
        seen.append(frame(opened))
        return max(seen) >= FRAMES - 3 and seen[-1] < 5

    wait(looped)
    assert len(set(seen)) > 3
    press(opened, "play")
    wait(lambda: len(set(shown(opened))) == 1 and shown(opened)[0] == frame(opened))


def test_keys_choose_prompts_and_play(opened: webdriver.Chrome) -> None:
    body = find(opened, "body")
    body.send_keys(Keys.ARROW_RIGHT)
    wait(lambda: "Prompt 2 of 3" in find(opened, ".prompt").text)
    assert "</script><script>" in find(opened, ".prompt q").text
    body.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    wait(lambda: "Prompt 3 of 3" in find(opened, ".prompt").text)
    body.send_keys(Keys.SPACE)
    wait(lambda: find(opened, "[data-do=play]").text == "Pause" and frame(opened) > 2)
    body.send_keys(Keys.SPACE)
    wait(lambda: find(opened, "[data-do=play]").text == "Play")


def test_the_plot_has_every_model_and_tells_its_figures(opened: webdriver.Chrome) -> None:
    points = opened.find_elements(By.CSS_SELECTOR, ".point")
    labels = [str(point.get_attribute("aria-label")) for point in points]
    assert [label.split(":")[0] for label in labels] == ["teacher", "teacher-4", "4-step", "1-step"]
    places = {
        name: find(opened, f".point[aria-label^='{name}:'] .mark").location for name in ("teacher", "4-step", "1-step")
    }
    assert places["1-step"]["x"] < places["4-step"]["x"] < places["teacher"]["x"]  # faster to the left
    assert places["1-step"]["y"] < places["4-step"]["y"]  # and a greater distance higher up
    opened.execute_script("arguments[0].focus()", points[2])
    facts = find(opened, "[data-plot] .readout").text
    assert facts == "4-step: shapes-fd 38.2 (95 %: 32.5 to 45.1), 512 clips; 0.0375 seconds per clip"
    ActionChains(opened).move_to_element(points[3]).perform()
    assert find(opened, "[data-plot] .readout").text.startswith("1-step: shapes-fd 121")
    assert len(opened.find_elements(By.CSS_SELECTOR, "[data-plot] .floor")) == 1
    find(opened, "[data-plot] [data-do=metric] option:nth-child(2)").click()
    assert "prompt-accuracy" in find(opened, "[data-plot] svg").text
    find(opened, "[data-plot] [data-do=cost] option[value=evaluations]").click()
    assert "evaluations of the network" in find(opened, "[data-plot] svg").text


def test_axes_have_ticks_and_say_where_their_scale_is_logarithmic(opened: webdriver.Chrome) -> None:
    for chart, titles in (
        ("plot", ["shapes-fd ↓", "seconds per clip, log scale →"]),
        ("curves", ["student/loss", "step →"]),
    ):

        def words() -> list[str]:
            return [text.text for text in opened.find_elements(By.CSS_SELECTOR, f"[data-{chart}] svg text")]  # noqa: B023

        assert set(titles) <= set(words())
        find(opened, f"[data-{chart}] [data-do=log]").click()
        assert {f"{titles[0]}, log scale", titles[1]} <= set(words())
        find(opened, f"[data-{chart}] [data-do=log]").click()
        ticks = [line.rect for line in opened.find_elements(By.CSS_SELECTOR, f"[data-{chart}] svg .axis")]
        assert len([tick for tick in ticks if tick["width"] == 5]) > 2  # of y
        assert len([tick for tick in ticks if tick["height"] == 5]) > 2  # of x


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_and_axes_stand_out_from_the_paper(opened: webdriver.Chrome, scheme: str) -> None:
    """As WCAG asks of graphics, 3 to 1; the steps themselves, behind their average, at half of the opacity."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper = colour(opened, "body", "background-color")
    for selector in ("[data-curves] .line", "[data-curves] .axis", "[data-plot] .floor", "[data-plot] .whisker"):
        assert contrast(colour(opened, selector, "stroke"), paper) > 3, selector
    assert float(find(opened, "[data-curves] .raw").value_of_css_property("opacity")) >= 0.5
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def colour(browser: webdriver.Chrome, selector: str, of: str) -> list[float]:
    """Red, green and blue in 0..1."""
    text = find(browser, selector).value_of_css_property(of)
    return [int(value) / 255 for value in re.findall(r"\d+", text)[:3]]


def contrast(one: list[float], other: list[float]) -> float:
    """The ratio of WCAG 2.2."""
    low, high = sorted(
        sum(w * c**2.2 for w, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)) for rgb in (one, other)
    )
    return (high + 0.05) / (low + 0.05)


def test_curves_have_a_line_per_stage(opened: webdriver.Chrome) -> None:
    drawing = find(opened, "[data-curves] svg")
    assert len(drawing.find_elements(By.CSS_SELECTOR, ".line")) == 3
    drawing.send_keys(Keys.HOME)
    assert find(opened, "[data-curves] .readout").text.startswith("step 1,")
    assert all(name in find(opened, "[data-curves] .readout").text for name in ("8-step", "4-step", "1-step"))


def test_a_picture_has_a_line_per_transition_with_chance_and_balance_behind(opened: webdriver.Chrome) -> None:
    accuracy, *logits, turns = opened.find_elements(By.CSS_SELECTOR, "[data-picture]")
    assert len(accuracy.find_elements(By.CSS_SELECTOR, ".line")) == 4 and len(logits) == 4
    assert [words.text for words in accuracy.find_elements(By.CSS_SELECTOR, ".floor-name")] == [
        "balance 0.6 to 0.9", "chance 0.5",
    ]  # fmt: skip
    assert len(accuracy.find_elements(By.CSS_SELECTOR, ".band")) == 1
    readout = accuracy.find_element(By.CSS_SELECTOR, ".readout")
    assert readout.text.startswith("step 391,") and "to t = 0.97" in readout.text and "to data" in readout.text
    drawing = accuracy.find_element(By.CSS_SELECTOR, "svg")
    drawing.send_keys(Keys.HOME)
    assert readout.text.startswith("step 1,")
    for one in logits:
        assert one.find_element(By.CSS_SELECTOR, ".readout").text.startswith("step 391, real: ")
        assert len(one.find_elements(By.CSS_SELECTOR, ".line")) == 2
    assert len(turns.find_elements(By.CSS_SELECTOR, ".raw")) == 1  # the steps themselves, next to their average


def test_nothing_is_asked_of_the_network_and_nothing_foreign_runs(opened: webdriver.Chrome) -> None:
    assert opened.execute_script("return window.broken") is None
    sent = [entry["message"] for entry in opened.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert sent and not any('"url":"http' in message for message in sent)


@pytest.mark.parametrize("width", [1400, 390, 320])
def test_it_fits_the_screen(opened: webdriver.Chrome, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    set_scrub(opened, 8)
    wait(lambda: shown(opened) == [8] * 4)
    widths = opened.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1] == width
    tables = opened.execute_script(
        "return [...document.querySelectorAll('.scroll')].map((t) => t.scrollWidth > t.clientWidth)"
    )
    assert any(tables) is (width < 500)  # they scroll by themselves, the page does not
    if width == 1400:
        PICTURE.parent.mkdir(exist_ok=True)
        opened.save_screenshot(str(PICTURE))
        with capsys.disabled():
            print(f"\npicture of the report: {PICTURE}")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
