"""The page of a server in a real browser; skipped where there is none."""

import csv
import io
import json
import subprocess
import sys
import time
import urllib.request
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from browser import MISSING, Browser, chromium
from helpers import save, scene

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(chromium() is None, reason=MISSING)

HOSTILE = ("<img src=x onerror=alert(1)>", "=1+1")
REJECT_BELOW = 0.7
# The lowest contrast of text with what lies below it, and which text that is.
CONTRAST = """(() => {
  const light = (colour) => {
    const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.match(/[\\d.]+/g).map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const below = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  let worst = [99, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const [high, low] = [light(getComputedStyle(element).color), light(below(element))].sort((a, b) => b - a);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < worst[0]) worst = [contrast, walker.currentNode.data];
  }
  return worst;
})()"""
# What the page asks its server, and the answers that a test wants instead; blob addresses that are in use.
WATCH = """
const really = window.fetch;
window.asked = [];
window.instead = () => undefined;
window.fetch = async (address, options = {}) => {
  asked.push(address);
  window.sent = options.body;
  return await instead(address, options) ?? really(address, options);
};
window.blobs = new Set();
const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
URL.createObjectURL = (blob) => { const url = make.call(URL, blob); blobs.add(url); return url; };
URL.revokeObjectURL = (url) => { blobs.delete(url); revoke.call(URL, url); };
"""
ANSWERED = "!document.querySelector('#verdict.waiting') && document.querySelector('#verdict').textContent"
ALL_DONE = "document.querySelector('#batch-words').textContent.startsWith('All done')"


@pytest.fixture(scope="module")
def hostile_run(shared, tiny):
    """A run whose classes, named by folders, would do harm as HTML or in a spreadsheet."""

    def train(out: Path) -> None:
        for seed in range(40):
            save(scene(seed), out / "data" / HOSTILE[seed % 2] / f"{seed}.png")
        hs.train(hs.recipe("starter", **tiny | {"data": str(out / "data"), "out": str(out / "hostile")}))

    return shared("hostile_classes", train) / "hostile"


@pytest.fixture(scope="module")
def server(small_run, hostile_run, tmp_path_factory):
    """The address of a server of two runs."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "headstart", "serve", small_run.path, hostile_run, "--port", "0", "--reject-below"]
    with log.open("w") as file, subprocess.Popen([*map(str, command), str(REJECT_BELOW)], stderr=file) as process:
        end = time.monotonic() + 60
        while "http://" not in (said := log.read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            time.sleep(0.05)
        yield said[said.index("http://") :].split()[0].rstrip("/")
        process.terminate()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with Browser(chromium(), tmp_path_factory.mktemp("profile")) as browser:
        browser("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield browser


@pytest.fixture
def page(chrome, server):
    """The page, just loaded on a desk. At its end, nothing may have been written on the console."""
    chrome.screen(1280)
    chrome.open(server)
    chrome.until("document.querySelector('#examples img')")
    chrome.messages.clear()
    yield chrome
    assert chrome.messages == []


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of images, with names that have a meaning for spreadsheets, and one of another kind."""
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("a.png", "=b.png", 'c, "d".png', "e.jpg", "f.png", "g.png")):
        save(scene(seed).resize((90, 60)), folder / name)
    (folder / "no image.png").write_text("these are words")
    return sorted(folder.iterdir())


def image(images, name: str) -> Path:
    return next(one for one in images if one.name == name)


def answer(server: str, file: Path, model: str = "small_run") -> dict:
    """Return what the server says of a file."""
    request = urllib.request.Request(f"{server}/predict?model={model}", file.read_bytes(), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["predictions"][0]


def text(page: Browser, selector: str) -> str:
    return page.js(f"document.querySelector({json.dumps(selector)}).textContent")


def assert_it_shows(page: Browser, expected: dict) -> None:
    """The page shows a prediction of the server's, with the likeliest classes first."""
    page.until(ANSWERED)
    assert text(page, "#verdict") == ("Not sure" if expected["rejected"] else expected["class"])
    assert expected["class"] in (text(page, "#words") if expected["rejected"] else text(page, "#verdict"))
    assert ("unlike the training images" in text(page, "#words")) == expected["unlike"]
    shown = page.js("[...document.querySelectorAll('#bars bdi')].map((one) => one.textContent)")
    assert len(shown) >= 2
    assert shown == sorted(expected["probabilities"], key=lambda name: -expected["probabilities"][name])[: len(shown)]
    shares = page.js("[...document.querySelectorAll('#bars i')].map((one) => parseFloat(one.style.getPropertyValue('--share')))")
    assert shares[0] == pytest.approx(100 * expected["probability"], abs=0.01)
    assert page.js("document.activeElement.id") == "verdict"


def silenced(page: Browser, status: int) -> None:
    """Forget Chromium's own lines about answers with a status that a test wants; there must be some."""
    lines = [line for line in page.messages if line.startswith("network:") and f"status of {status}" in line]
    assert lines
    page.messages[:] = [line for line in page.messages if line not in lines]


def test_a_dropped_image_is_classified(page, server, images):
    page.drop([image(images, "a.png")], 640, 700)  # anywhere
    assert_it_shows(page, answer(server, image(images, "a.png")))
    assert text(page, "#name") == "a.png"
    assert page.js("document.querySelector('#image').naturalWidth") == 90
    assert not page.js("document.body.classList.contains('dragging')")


def test_a_pasted_image_is_classified(page, server, images, tmp_path):
    origin = {"origin": server, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page("Browser.grantPermissions", **origin)
    page("Page.bringToFront")
    page.js("""(async () => {
      const canvas = new OffscreenCanvas(60, 60), context = canvas.getContext("2d");
      context.fillRect(20, 0, 20, 60);
      await navigator.clipboard.write([new ClipboardItem({ "image/png": await canvas.convertToBlob() })]);
    })()""")
    page.press("v", code="KeyV", modifiers=2, commands=["paste"])
    page.until(ANSWERED)
    (tmp_path / "pasted.png").write_bytes(bytes(page.js("sent.bytes().then((one) => [...one])")))
    assert Image.open(tmp_path / "pasted.png").size == (60, 60)
    assert_it_shows(page, answer(server, tmp_path / "pasted.png"))


def test_words_are_not_an_image(page):
    page.js("""document.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, clipboardData: new DataTransfer() }))""")
    assert "no image in it" in text(page, "#problem")


def test_keys_alone_choose_an_image_and_show_its_heat_map(page, server, images):
    page("Page.setInterceptFileChooserDialog", enabled=True)

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.press("Tab")
            if page.js("document.activeElement.textContent").startswith(name):
                assert page.js("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("Choose images")
    page.press("Enter")
    node = page.event("Page.fileChooserOpened")["backendNodeId"]
    page("Page.setInterceptFileChooserDialog", enabled=False)
    page("DOM.setFileInputFiles", backendNodeId=node, files=[str(image(images, "f.png"))])
    assert_it_shows(page, answer(server, image(images, "f.png")))
    own = page.js("document.querySelector('#image').src")
    page.js("document.querySelector('#examples button').focus()")
    tab_to("Show the heat map")
    page.press("Enter")
    page.until("document.querySelector('#image').alt === 'Heat map over f.png' && document.querySelector('#image').complete")
    assert page.js("document.querySelector('#image').naturalWidth") >= 224
    assert "Bright yellow" in text(page, "#heat-words")
    assert text(page, "#status").startswith("Heat map shown")
    assert text(page, ":focus") == "Hide the heat map"
    page.press("Enter")
    page.until(f"document.querySelector('#image').src === '{own}'")


def test_several_images_become_a_table_that_is_saved(page, server, images, tmp_path):
    page("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.choose("#files", images)
    page.until(ALL_DONE)
    assert text(page, "#batch-words") == "All done. 1 has no answer."
    assert page.js("document.activeElement.id") == "batch-title"
    page.js("document.querySelector('#save').click()")
    saved = tmp_path / "predictions.csv"
    end = time.monotonic() + 10
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.05)
    content = saved.read_bytes().decode("utf-8-sig")
    assert content.count("\r\n") == content.count("\n") == 1 + len(images)
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["image"] for row in rows] == [one.name.replace("=b", "'=b") for one in images]
    for row, file in zip(rows, images, strict=True):
        if file.name == "no image.png":
            assert row["class"] == ""
            assert "image" in row["error"]
        else:
            expected = answer(server, file)
            assert row["class"] == expected["class"]
            assert float(row["probability"]) == pytest.approx(expected["probability"], abs=1e-3)
            for mark in ("rejected", "unlike"):
                assert row[mark] == str(expected[mark]).lower()
            assert row["model"] == "small_run"
            assert len(row["version"]) == 12
    page.js("document.querySelectorAll('#rows button')[1].click()")
    assert_it_shows(page, answer(server, images[1]))
    assert len(page.js("asked.filter((one) => one.startsWith('/predict'))")) == 2  # a few images each


def test_a_folder_that_is_dropped_gives_its_images(page, images, tmp_path):
    for place in ("", "inner"):
        save(scene(1), tmp_path / "album" / place / "one.png")
    (tmp_path / "album" / "notes.txt").write_text("")
    page.drop([tmp_path / "album"], 640, 300)
    page.until(ALL_DONE)
    names = page.js("[...document.querySelectorAll('#rows bdi')].map((one) => one.textContent)")
    assert {"album/one.png", "album/inner/one.png"} <= set(names)
    assert text(page, "#batch-words") == "All done. 1 file is no image and was left out."


def test_a_file_of_another_kind_gets_a_sentence(page, images):
    page.choose("#files", [image(images, "no image.png")])
    page.until("document.querySelector('#words.error')")
    assert text(page, "#verdict") == "No answer"
    assert text(page, "#words").endswith(".")
    assert page.js("document.activeElement.id") == "verdict"
    silenced(page, 415)


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(page.js("fetch('/models').then((one) => one.json()).then((one) => one.limits.bytes)") + 1)
    page.choose("#files", [tmp_path / "large.png"])
    page.until("document.querySelector('#words.error')")
    assert "takes at most" in text(page, "#words")
    assert page.js("asked.filter((one) => one.startsWith('/predict'))") == []


def test_examples_are_classified_and_the_model_is_described(page, small_run):
    page.js("document.querySelector('#examples button').click()")
    page.until(ANSWERED)
    assert text(page, "#name").startswith("example 1, labelled ")
    figures = list(small_run.metrics["test"].values())[-1]
    about = text(page, "#figures")
    assert f"{100 * figures['accuracy']:.1f}\u00a0%" in about
    assert f"{figures['images']} test images" in about
    assert all(f"{100 * edge:.1f}\u00a0%" in about for edge in figures["interval"])
    assert f"below {REJECT_BELOW:.0%}".replace("%", "\u00a0%") in text(page, "#caution")
    page.open(page.js("document.querySelector('#report').href"))
    assert page.js("document.querySelector('h1').textContent").strip()


def test_names_stay_text(page, server, images):
    page.choose("#files", [image(images, "a.png"), image(images, "no image.png")])
    page.until(ALL_DONE)
    page.choose("#files", [image(images, "e.jpg")])
    page.until(ANSWERED)
    page.js("""(() => {
      document.querySelector("#models").value = "hostile";
      document.querySelector("#models").dispatchEvent(new Event("change"));
    })()""")
    page.until("document.querySelectorAll('#bars li').length === 2")
    page.until(ALL_DONE)
    expected = answer(server, image(images, "e.jpg"), "hostile")
    assert page.js("[...document.querySelectorAll('#bars bdi')].map((one) => one.textContent)") == sorted(
        HOSTILE, key=lambda name: -expected["probabilities"][name]
    )
    assert set(page.js("[...document.querySelectorAll('#classes li')].map((one) => one.textContent)")) == set(HOSTILE)
    assert text(page, "#title") == " or ".join(sorted(HOSTILE)) + "?"
    assert text(page, "#rows td bdi") in HOSTILE
    assert page.js("[...document.images].every((one) => /^(blob:|http)/.test(one.src) && !one.src.endsWith('/x'))")


def test_a_token_is_asked_for_and_remembered(page, server, images):
    wants = """
      sessionStorage.clear();
      window.instead = (address, { headers }) => headers?.Authorization === "Bearer sesame" ? undefined
        : new Response('{"error": "this server wants its token"}', { status: 401 });
    """
    script = page("Page.addScriptToEvaluateOnNewDocument", source=wants)["identifier"]
    page.open(server)
    for guess in ("wrong", "sesame"):
        page.until("document.activeElement.id === 'secret' && !document.querySelector('#secret').value")
        assert not page.js("document.querySelector('#work').checkVisibility()")
        page("Input.insertText", text=guess)
        page.press("Enter")
    page.until("document.querySelector('#examples img')")
    assert not page.js("document.querySelector('#token').checkVisibility()")
    assert page.js("sessionStorage.getItem('token')") == "sesame"
    assert text(page, "#report").startswith("Save")
    page.choose("#files", [image(images, "a.png")])
    assert_it_shows(page, answer(server, image(images, "a.png")))
    page("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    page.js("sessionStorage.clear()")


def test_a_busy_server_is_asked_again_and_a_table_can_be_stopped(page, images):
    page.js("""window.instead = (address) => address.startsWith("/predict") ? new Response("{}", { status: 503,
      headers: { "Retry-After": window.later ?? "0" } }) : undefined; 0""")
    page.choose("#files", images)
    page.until("asked.filter((one) => one.startsWith('/predict')).length > 1")
    page.js("window.later = '9'; 0")
    page.until("document.querySelector('#status').offsetHeight > 20")
    assert "tries again" in text(page, "#status")
    page.js("document.querySelector('#stop').click()")
    page.until("document.querySelector('#batch-words').textContent.includes('Cancelled')")
    assert text(page, "#stop") == "Go on"
    page.js("window.instead = () => Promise.reject(new TypeError('away')); document.querySelector('#stop').click()")
    page.until("document.querySelector('#batch-words').textContent.includes('did not answer')")
    page.js("window.instead = () => undefined; document.querySelector('#stop').click()")
    page.until(ALL_DONE)


def test_a_newer_model_is_described_anew(page, images):
    page.js("""window.instead = async (address, options) => address.startsWith("/predict")
      ? Response.json({ ...await (await really(address, options)).json(), version: "0".repeat(12) }) : undefined; 0""")
    page.choose("#files", [image(images, "a.png")])
    page.until("asked.filter((one) => one === '/models').length === 2")
    page.until(ANSWERED)


def test_addresses_of_images_are_given_back(page, images):
    before = page.js("blobs.size")
    page.choose("#files", images)
    page.until(ALL_DONE)
    for name in ("a.png", "f.png"):
        page.js("document.querySelector('#verdict').textContent = ''")
        page.choose("#files", [image(images, name)])
        page.until(ANSWERED)
    assert page.js("blobs.size") == before + len(images) + 1
    page.js("document.querySelector('#clear').click()")
    assert page.js("blobs.size") == before + 1
    assert not page.js("document.querySelector('#batch').checkVisibility()")


@pytest.mark.parametrize("width", [320, 360, 1280])  # 320: 640 at 200 %
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_and_its_text_can_be_read(width, dark, page, server, images):
    page.screen(width, dark=dark, phone=width < 500)
    page.choose("#files", images)
    page.until(ALL_DONE)
    page.choose("#files", [image(images, "a.png")])
    page.until(ANSWERED)
    page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.js("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    contrast, where = page.js(CONTRAST)
    assert contrast >= 4.5, where
    assert page.js("document.querySelector('#photograph').checkVisibility()") == (width < 500)
    grey = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
    assert np.median(grey) < 60 if dark else np.median(grey) > 200


def test_without_javascript_it_says_what_it_needs(page, server):
    page("Emulation.setScriptExecutionDisabled", value=True)
    page.open(server)
    page("Emulation.setScriptExecutionDisabled", value=False)
    said = page.js("document.body.innerText")
    assert "needs JavaScript" in said
    assert "curl --data-binary @image.jpg" in said


def test_everything_has_a_name_for_screen_readers(page, images):
    page.choose("#files", images)
    page.until(ALL_DONE)
    nodes = page("Accessibility.getFullAXTree")["nodes"]
    controls = [one for one in nodes if one.get("role", {}).get("value") in ("button", "link", "textbox", "combobox", "region")]
    assert len(controls) > 10
    assert [one for one in controls if not one.get("ignored") and not one["name"]["value"].strip()] == []


def test_it_is_small_and_asks_no_other_host():
    content = {one.name: one.read_text(encoding="utf-8") for one in files("headstart.serve").joinpath("page").iterdir()}
    assert content.keys() == {"index.html", "page.js", "page.css"}
    assert sum(len(one.encode()) for one in content.values()) < 40_000
    without_remarks = [one.replace("http://www.w3.org/2000/svg", "").replace("// ", "") for one in content.values()]
    assert [one for one in without_remarks if "//" in one] == []
    assert "innerHTML" not in content["page.js"]
