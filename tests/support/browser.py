"""A real Chromium for tests, driven through its DevTools: what a page logs and requests, and how it is laid out.

with Browser(Path(folder)) as browser:
    browser.open("http://127.0.0.1:8000/")
    browser.evaluate("document.title"), browser.messages, browser.requests
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
MISSING = "no Chromium here: apt-get install chromium"
_SECONDS = 60.0  # that an answer may take
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a request outside fails and is logged
)


class Browser:
    """One page of a browser with a profile of its own. `messages` and `requests` are of all pages opened so far."""

    def __init__(self, folder: Path) -> None:
        self.messages: list[str] = []  # of the console, errors and dialogs
        self.requests: list[str] = []  # their addresses
        self.width = 0
        self._events: list[str] = []
        self._sent = 0
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={folder}/profile", "about:blank"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._socket = connect(self._address(), max_size=None, proxy=None)
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._do(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page a size in pixels, as on a phone if it is narrow."""
        self.width = width
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._do("Emulation.setDeviceMetricsOverride", **size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._do("Emulation.setEmulatedMedia", features=scheme)

    @property
    def fits(self) -> bool:
        """Whether the page is not wider than the browser; one without a size for phones is."""
        return bool(self.evaluate(f"document.documentElement.scrollWidth <= {self.width}"))

    def open(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._events.clear()
        failed = self._do("Page.navigate", url=address).get("errorText")
        if failed:
            raise RuntimeError(f"{address} cannot be opened: {failed}")
        self.wait("Page.loadEventFired")

    def click(self, selector: str) -> None:
        """Click an element that leads to another page, and wait until this is loaded."""
        self._events.clear()
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self.wait("Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page, whatever the page forbids itself."""
        found = self._do("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, event: str) -> None:
        """Wait until an event has come since the page was requested."""
        while event not in self._events:
            self._take(json.loads(self._socket.recv(timeout=_SECONDS)))

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of what is visible, or of the whole page."""
        found = self._do("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        session = {"sessionId": self._session} if hasattr(self, "_session") else {}
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters} | session))
        while True:
            message = json.loads(self._socket.recv(timeout=_SECONDS))
            if message.get("id") == self._sent:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._take(message)

    def _take(self, event: dict[str, Any]) -> None:
        name, about = event.get("method", ""), event.get("params", {})
        self._events.append(name)
        if name == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif name in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(about))
        elif name == "Page.javascriptDialogOpening":
            self.messages.append(f"dialog: {about['message']}")
            self._sent += 1
            answer = {"id": self._sent, "method": "Page.handleJavaScriptDialog", "params": {"accept": False}}
            self._socket.send(json.dumps(answer | {"sessionId": self._session}))

    def _address(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                threading.Thread(target=self._process.stderr.read, daemon=True).start()  # else its pipe fills
                return found[1]
        raise RuntimeError(f"{CHROMIUM} did not start")
