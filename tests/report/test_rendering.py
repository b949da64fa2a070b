"""The report in a real browser; skipped where there is none."""

import json
import re
import subprocess
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import MISSING, chromium

PHONE, DESKTOP = 390, 1200
# What a user does and what a page must not do, asked of the page itself.
QUESTIONS = """<script>
const table = document.querySelector("#classes table"), button = table.querySelector("button");
const state = () => [button.parentElement.getAttribute("aria-sort"), table.tBodies[0].rows[0].cells[0].textContent];
const answers = { width: innerWidth, needed: document.documentElement.scrollWidth };
button.focus(); answers.focused = document.activeElement === button;
button.click(); answers.once = state();
button.click(); answers.twice = state();
answers.images = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
parent.document.body.dataset.answers = JSON.stringify(answers);
</script>"""


@pytest.fixture(scope="module")
def browser():
    return chromium() or pytest.skip(MISSING)


def render(browser: str, page: Path, folder: Path, width: int, *options: str) -> subprocess.CompletedProcess:
    finished = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1600", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [line for line in finished.stderr.splitlines() if "CONSOLE" in line] == []
    return finished


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_is_drawn_in_both_schemes_without_a_word_on_the_console(width, scheme, browser, small_run, tmp_path):
    shot = tmp_path / "shot.png"
    setting = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    render(browser, small_run.path / "report.html", tmp_path, width, setting, f"--screenshot={shot}")
    grey = np.asarray(Image.open(shot).convert("L"), float)
    assert grey.shape[1] == width
    background, spread = np.median(grey), grey.std()
    assert background < 60 if scheme == "dark" else background > 200
    assert spread > 15, "the page is empty"


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_fits_the_screen_and_its_tables_sort(width, browser, small_run, tmp_path):
    page = tmp_path / "frame.html"
    report = (small_run.path / "report.html").read_text(encoding="utf-8").replace("</body>", QUESTIONS + "</body>")
    # A browser's window cannot be as narrow as a phone, but a frame can.
    frame = f'<body><iframe style="width: {width}px; height: 1600px; border: 0" srcdoc="{escape(report)}"></iframe>'
    page.write_text(frame, encoding="utf-8")
    printed = render(browser, page, tmp_path, DESKTOP + 50, "--dump-dom").stdout
    answers = json.loads(re.search(r'data-answers="([^"]*)"', printed)[1].replace("&quot;", '"'))
    assert answers["width"] == width
    assert answers["needed"] <= width, "the page scrolls sideways"
    assert answers["focused"]
    assert answers["once"] == ["ascending", "0"]
    assert answers["twice"] == ["descending", "9"]
    assert answers["images"]


def test_it_prints(browser, small_run, tmp_path):
    render(browser, small_run.path / "report.html", tmp_path, DESKTOP, f"--print-to-pdf={tmp_path / 'report.pdf'}")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
