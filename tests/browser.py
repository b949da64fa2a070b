"""A Chromium without a window, driven over its DevTools protocol with what Python has: two pipes and JSON."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "no Chromium on this machine (Debian: apt-get install chromium)"
PATIENCE = 20.0  # seconds
# Chromium reads commands from descriptor 3 and writes to 4. They are set in a process of their own, since the low
# descriptors of this one may be in use.
LAUNCH = """import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])"""
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}


def chromium() -> str | None:
    """Return the path of a Chromium or Chrome on this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One tab.

    Attributes:
        messages: what the page wrote on the console, its errors, and what its content security policy refused.
    """

    def __init__(self, executable: str, profile: Path) -> None:
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(commands), str(answers), executable, "--headless", "--no-sandbox", "--disable-gpu",
             "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe",
             f"--user-data-dir={profile}"],
            pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self.buffer, self.number, self.session = b"", 0, ""
        self.messages: list[str] = []
        self.events: list[dict[str, Any]] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.session = ""
        with contextlib.suppress(OSError):
            self("Browser.close")
        os.close(self.commands)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        content = json.dumps(command).encode() + b"\0"
        while content:
            content = content[os.write(self.commands, content) :]
        while (answer := self.read()).get("id") != self.number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def read(self) -> dict[str, Any]:
        """Return the next message, and remember it if it is an event."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            if not select.select([self.answers], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium does not answer")
            new = os.read(self.answers, 1 << 20)
            if not new:
                raise ConnectionError("Chromium has ended")
            self.buffer += new
        content, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(content)
        if "method" in message:
            self.remember(message["method"], message["params"])
        return message

    def remember(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled":
            self.messages.append(f"console: {event['args']}")
        elif method == "Runtime.exceptionThrown":
            self.messages.append(f"error: {event['exceptionDetails']}")
        elif method == "Log.entryAdded":
            entry = event["entry"]
            self.messages.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        else:
            self.events.append({"method": method, **event})

    def event(self, method: str) -> dict[str, Any]:
        """Return the next event of a kind, and forget those before it."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event["method"] == method:
                    return event
            self.read()

    def js(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise gives, in the page."""
        found = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        end = time.monotonic() + PATIENCE
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < end, f"never true: {expression}\n{self.js('document.body.innerText')}"
            time.sleep(0.03)

    def open(self, address: str) -> None:
        self.events.clear()
        self("Page.navigate", url=address)
        self.event("Page.loadEventFired")

    def screen(self, width: int, height: int = 900, *, dark: bool = False, phone: bool = False, scale: float = 1) -> None:
        """Set the size of the screen in CSS pixels, its scheme, and whether it is a phone's."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        self("Emulation.setTouchEmulationEnabled", enabled=phone)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def press(self, key: str, *, shift: bool = False, **more: Any) -> None:
        code = KEYS.get(key, ord(key[0].upper()))
        text = {"text": "\r" if key == "Enter" else key} if key in ("Enter", " ") else {}
        about = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0} | more
        self("Input.dispatchKeyEvent", type="keyDown", **text, **about)
        self("Input.dispatchKeyEvent", type="keyUp", **{name: value for name, value in about.items() if name != "commands"})

    def choose(self, selector: str, files: list[Path]) -> None:
        """Give files to an <input type=file>, as a user who chose them."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop(self, files: list[Path], x: float, y: float) -> None:
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, whole: bool = True) -> bytes:
        """Return the page as a PNG."""
        return base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=whole)["data"])
