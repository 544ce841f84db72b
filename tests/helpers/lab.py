"""Real JupyterLab in headless Chromium, for the browser tests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT

ARTEFACTS = ROOT / "test-artefacts"  # screenshots, to be looked at
SETTINGS = {
    # Every cell is in the page from the start, and not only those in view.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
}


def chromium() -> str | None:
    """The system's Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def settings(home: Path) -> dict[str, str]:
    """An environment that keeps all of Jupyter's files in `home`, with SETTINGS in force."""
    for name, values in SETTINGS.items():
        file = home / "settings" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    kept = {
        name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    }
    kept["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    kept["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    return kept


def free_port() -> int:
    """A port that is free, and still is when the server has started: systems give out higher ones to whoever asks for any."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def server(folder: Path, startup: str = "", **environment: str) -> Iterator[str]:
    """JupyterLab on copies of all notebooks in `folder`; gives its address. Each kernel runs `startup` first."""
    notebooks = folder / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("answers", ".*"))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=course"]
    scripts = folder / "home/ipythondir/profile_default/startup"
    scripts.mkdir(parents=True)
    (scripts / "startup.py").write_text(startup)
    env = os.environ | settings(folder / "home") | {"PYTHONPATH": str(ROOT)} | environment
    with running([*command, f"--notebook-dir={notebooks}"], port, folder / "server.log", env=env) as address:
        yield address


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path, seconds: float = 180, **options) -> Iterator[str]:
    """A command that starts a server at `port`, killed with all that it started in the end; gives the address."""
    address = f"http://127.0.0.1:{port}"
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, **options)
        try:
            _wait(f"{address}/api?token=course", process, log, seconds)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(120)


def end_kernels(address: str) -> None:
    """End what a test has opened, so that the next one has the memory."""
    with urllib.request.urlopen(f"{address}/api/sessions?token=course") as reply:
        for session in json.load(reply):
            url = f"{address}/api/sessions/{session['id']}?token=course"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


def clear_outputs(notebook: Path) -> None:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    notebook.write_text(json.dumps(document), encoding="utf-8")


def _wait(address: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=30).close()
            return
        time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


class Notebook:
    """One notebook, open in the page: find a cell by its text, write it, run it, read its output."""

    def __init__(self, page, address: str, name: str):
        self.page = page
        page.goto(f"{address}/lab/tree/{name}?token=course&reset")
        self.cells.first.wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(timeout=180_000)
        page.wait_for_timeout(3000)

    @property
    def cells(self):
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell")

    def cell(self, text: str):
        """The one code cell whose source begins with `text`, its first line or lines in full."""
        found = self.page.locator(".jp-CodeCell").filter(has=self.page.locator(".cm-content", has_text=text))
        return found.first

    def sources(self) -> list[str]:
        return self.page.locator(".jp-CodeCell .cm-content").all_inner_texts()

    def write(self, cell, source: str) -> None:
        cell.scroll_into_view_if_needed()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)

    def run(self, cell, timeout: float = 300):
        """Run one cell as a student does, with Ctrl+Enter, and wait for its end. Gives its output area."""
        cell.scroll_into_view_if_needed()
        cell.locator(".cm-content").click()
        self._empty_prompt(cell)
        self.page.keyboard.press("Control+Enter")
        self._wait_for_prompt(cell, r"\[\d+\]:", timeout)
        return cell.locator(".jp-OutputArea-output")

    def run_all(self, timeout: float = 600) -> None:
        """Menu: Run, Run All Cells; wait until the last cell has run."""
        last = self.page.locator(".jp-CodeCell").last
        for attempt in range(5):  # just after its start a kernel is "idle" before it takes cells
            self._empty_prompt(last)
            self.page.get_by_role("menuitem", name="Run", exact=True).click()
            self.page.get_by_text("Run All Cells", exact=True).click()
            try:
                self._wait_for_prompt(last, r"\[(\*|\d+)\]:", 20)
                break
            except Exception:
                if attempt == 4:
                    raise
                self.page.keyboard.press("Escape")  # JupyterLab's dialog about it
                self.page.wait_for_timeout(2000)
        self._wait_for_prompt(last, r"\[\d+\]:", timeout)

    def _empty_prompt(self, cell) -> None:
        """So that the number of an earlier run is not taken for the end of the next one."""
        cell.locator(".jp-InputPrompt").evaluate("prompt => { prompt.textContent = '' }")

    def _wait_for_prompt(self, cell, pattern: str, seconds: float) -> None:
        self.page.wait_for_function(
            "([prompt, pattern]) => RegExp(`^${pattern}$`).test(prompt.textContent.trim())",
            arg=[cell.locator(".jp-InputPrompt").element_handle(), pattern],
            timeout=1000 * seconds,
        )

    def picture(self, name: str) -> None:
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png")
