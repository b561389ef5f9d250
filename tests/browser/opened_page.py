"""A page in a browser: what a reader does with it, and what the browser says of it."""

import base64
import itertools
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

SECONDS = 60  # that anything may take
HEIGHT = 900
# Vega-Lite says so of every chart whose rows have a height of their own, whatever its specification asks for.
OF_STEPS = r'"WARN" "Dropping \"fit-y\" because spec has discrete height."'

CUT = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}


@dataclass(frozen=True)
class RunAndPage:
    """A run's folder, and the page that was made of it."""

    run: Path
    page: Path

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.run / "tables" / f"{name}.parquet")


class OpenedPage:
    """The one page of the browser, with its network cut."""

    def __init__(self, driver: Any):
        self.driver, self._file = driver, None
        self.cdp("Network.enable")
        self.cdp("Emulation.setScrollbarsHidden", hidden=True)  # as those of telephones, which take no width
        self.cdp("Network.emulateNetworkConditions", **CUT)
        # Of every page, before its own scripts: what it would show in a window of its own.
        self.cdp(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.alerts = []; window.alert = (text) => alerts.push(text)",
        )

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script's function body returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any) -> Any:
        """Wait until a script returns something true. Raises TimeoutException."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(lambda _: self.run(script, *arguments))

    # --- what is shown
    def load(self, file: Path) -> None:
        """Open a file, as if for the first time."""
        self.requests()
        self.driver.get(file.as_uri())
        if self.run("return navigator.onLine"):  # chromium 150 cuts the network without telling the page
            self.cdp("Network.overrideNetworkState", **CUT)
        self._file = file

    def open(self, file: Path) -> None:
        """Open a file if it is not open, and wait until all its charts are drawn."""
        if self._file != file:
            self.load(file)
        self.until("return document.documentElement.dataset.drawn === 'all'")

    def look(self, width: int = 1280, **features: str) -> None:
        """As wide as that; features: what the system prefers, as prefers_color_scheme="dark"."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        self.media("", prefers_color_scheme=features.pop("prefers_color_scheme", "light"), **features)

    def media(self, medium: str, **features: str) -> None:
        """medium: "print", or "" for a screen."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.cdp("Emulation.setEmulatedMedia", media=medium, features=listed)
        self.settle()

    def settle(self) -> None:
        """Until what a change of width brings is laid out and drawn: Vega draws in the next frame."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))"
        )

    def to_top(self) -> None:
        self.run("window.scrollTo({top: 0, behavior: 'instant'}); document.activeElement.blur()")

    def picture(self, file: Path) -> None:
        """The whole page, from top to bottom."""
        self.to_top()
        box = self.run(
            "const root = document.documentElement; return {x: 0, y: 0, width: root.clientWidth, height: root.scrollHeight}"
        )
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=True, clip=box | {"scale": 1})
        file.write_bytes(base64.b64decode(shot["data"]))

    # --- what a reader does
    def find(self, selector: str) -> Any:
        from selenium.webdriver.common.by import By

        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def show(self, selector: str) -> Any:
        """Bring an element to the middle of the screen; returns it."""
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        return element

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def point_at(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def downloads_to(self, folder: Path) -> None:
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    # --- what the browser says
    def messages(self) -> list[str]:
        """Warnings and errors in the console since the last call."""
        log = self.driver.get_log("browser")
        told = [f"{entry['level']}: {entry['message']}" for entry in log if entry["level"] in ("WARNING", "SEVERE")]
        return [message for message in told if not message.endswith(OF_STEPS)]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call, be it in vain."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [request["request"]["url"] for request in sent]

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of all that a screen reader tells of, by Chromium's own computation."""
        nodes = self.cdp("Accessibility.getFullAXTree")["nodes"]
        told = [node for node in nodes if not node.get("ignored")]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in told]

    def texts(self, selector: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def headers(self) -> dict[str, Any]:
        """What sorts the table viewer by a column, by its name."""
        pairs = self.run(
            "const titles = document.querySelectorAll('#table-view thead tr:first-child th');"
            "return [...titles].map((title) => [title.textContent, title.querySelector('.dt-column-order')])"
        )
        return dict(pairs)

    def rows(self) -> list[dict[str, str]]:
        """Rows of the table viewer, as they stand on the screen."""
        names, *rows = self.run(
            "const table = document.querySelector('#table-view table');"
            "const cells = (row) => [...row.cells].map((cell) => cell.textContent);"
            "return [cells(table.tHead.rows[0]), ...[...table.tBodies[0].rows].map(cells)]"
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def choose_table(self, name: str, most: int = 100) -> None:
        """Show a table in the viewer, so many rows a page."""
        self.show("#table-choice")
        self.run(
            "const list = document.getElementById('table-choice');"
            "list.value = [...list.options].find((option) => option.dataset.name === arguments[0]).value;"
            "list.dispatchEvent(new Event('change'))",
            name,
        )
        self.until("return document.getElementById('table-view').dataset.table === arguments[0]", name)
        self.run(
            "const list = document.querySelector('.dt-length select'); list.value = arguments[0];"
            "list.dispatchEvent(new Event('change'))",
            str(most),
        )


def painted(pdf: bytes) -> int:
    """How many lines and areas a PDF paints: its content streams' operators that stroke or fill."""
    count = 0
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        count += len(re.findall(rb"(?m)^(?:S|s|f\*?|B\*?|b\*?)$", content))
    return count


def increasing(values: Sequence[float]) -> bool:
    return all(earlier <= later for earlier, later in itertools.pairwise(values))
