"""A headless Chromium, driven over its DevTools pipe: no driver, no package, no port."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.packages import install

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
]
TIMEOUT_SEC = 60.0


class BrowserError(Exception):
    """Chromium refused a command, threw in the page, or fell silent."""


def find_browser() -> str:
    """Path of Chromium, installed where that is possible; else the test skips."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install("chromium")
        found = shutil.which("chromium")
    return found or pytest.skip("NO BROWSER on this machine: apt-get install chromium")


class Browser:
    """One tab of one Chromium."""

    def __init__(self, sender: int, receiver: int) -> None:
        self._sender, self._receiver = sender, receiver
        self._buffer = b""
        self._count = 0
        self._session = ""
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events on the way are noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sender, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT_SEC
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, page: Path, address: str = "") -> None:
        """Load a file and wait until it is drawn."""
        self.call("Page.navigate", url=f"file://{page}{address}")
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + TIMEOUT_SEC
        while not self.run(script):
            if time.monotonic() > end:
                raise BrowserError(f"never true: {script}")
            time.sleep(0.02)

    def size(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Set the window and the colour scheme that the user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def click(self, selector: str) -> None:
        """Click with the mouse at the middle of an element, as a user does."""
        self._press(*self._middle(selector))

    def hover(self, selector: str) -> None:
        """Move the mouse over the middle of an element."""
        x, y = self._middle(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def key(self, name: str) -> None:
        """Press a key on what has the focus."""
        codes = {"Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "Tab": 9}
        extra = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            facts = {"key": name, "code": name, "windowsVirtualKeyCode": codes[name]}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                **facts,
                **(extra if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        """Write text into what has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path, *, is_whole: bool = False) -> bytes:
        """Save what is seen, or the whole page, as PNG; return its bytes."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        data = base64.b64decode(answer["data"])
        path.write_bytes(data)
        return data

    def pdf(self) -> bytes:
        """Print the page."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def _middle(self, selector: str) -> tuple[float, float]:
        place = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{place}.scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.run(
            f"(() => {{ const b = {place}.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return box[0], box[1]

    def _press(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded":
            self.errors.append(json.dumps(event["params"]["entry"]))

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receiver], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._receiver, 1 << 20) if ready else b""
            if not part:
                raise BrowserError("Chromium fell silent")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def start_browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium with a fresh profile; it listens on descriptor 3 and answers on 4."""
    to_browser, sender = os.pipe()
    receiver, from_browser = os.pipe()
    quiet = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
    command = ["bash", "-c", quiet, "chromium", find_browser(), *FLAGS]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Browser(sender, receiver)
    finally:
        os.close(sender)  # its end of life
        os.close(receiver)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
