"""A page in headless Chromium: its tree as it stands after loading, script errors, and what it asked the network for."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)
_PATIENCE = 120
_OWN = "not an origin"
"""Initiator of the browser's own requests in its log."""


@dataclass(frozen=True)
class Opened:
    """What loading a page gave.

    Attributes:
        tree: its HTML.
        errors: lines of its console.
        requests: addresses beyond the file that it asked for; none of them is answered.
    """

    tree: str
    errors: list[str]
    requests: list[str]


def _chromium(browser: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    profile = folder / "profile"
    done = subprocess.run([browser, *_FLAGS, f"--user-data-dir={profile}", *args], capture_output=True, text=True,
                          timeout=_PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def open_page(browser: str, page: Path, folder: Path) -> Opened:
    """Load a page. ``folder`` is for the browser's files, and new."""
    log = folder / "net.json"
    done = _chromium(browser, folder, "--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom", page.as_uri())
    errors = re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)
    found = json.loads(log.read_text())
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event["params"] for event in found["events"] if event["type"] == start and "url" in event.get("params", {})]
    requests = [p["url"] for p in asked if p.get("initiator") != _OWN and p["url"] != page.as_uri()]
    return Opened(done.stdout, errors, requests)


def wide(browser: str, page: Path, folder: Path, width: int) -> int:
    """How wide the contents of a page are, in pixels, in a window of so many."""
    frame = folder / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.as_uri()}" style="width: {width}px; height: 800px; border: 0"></iframe><p id="wide"></p>'
        "<script>onload = () => { wide.textContent = f.contentDocument.documentElement.scrollWidth; };</script>")
    done = _chromium(browser, folder, "--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom",
                     frame.as_uri())
    return int(re.search(r'<p id="wide">(\d+)</p>', done.stdout)[1])  # type: ignore[index]


def shot(browser: str, page: Path, folder: Path, width: int, *, dark: bool) -> Path:
    """A picture of the first screen of a page."""
    path = folder / "shot.png"
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _chromium(browser, folder, scheme, f"--window-size={width},900", f"--screenshot={path}", page.as_uri())
    return path


def printed(browser: str, page: Path, folder: Path) -> bytes:
    """The page on paper, as PDF."""
    path = folder / "page.pdf"
    _chromium(browser, folder, "--no-pdf-header-footer", f"--print-to-pdf={path}", page.as_uri())
    return path.read_bytes()


class Tables(HTMLParser):
    """The sections of a page by id, each with its rows of cells, its text and how many pictures it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.words: dict[str, str] = {}
        self.pictures: dict[str, int] = {}
        self._section, self._cell = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._section = dict(attrs).get("id") or ""
            self.rows[self._section], self.words[self._section], self.pictures[self._section] = [], "", 0
        elif tag == "tr":
            self.rows[self._section].append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.rows[self._section][-1].append("")
        elif tag == "svg" and self._section:
            self.pictures[self._section] += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        elif tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.words[self._section] += data
            if self._cell:
                self.rows[self._section][-1][-1] += data
