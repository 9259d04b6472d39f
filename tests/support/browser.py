"""Debian's headless Chromium, driven by Selenium from the package set external-chromium."""

from __future__ import annotations

import shutil
import site
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.external import installed

PHONE = {"deviceMetrics": {"width": 390, "height": 780, "pixelRatio": 2.0, "touch": True}}
INSECURE_HOST = "chatbox"  # resolves to this machine, but is not a secure context: no clipboard, no randomUUID
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--lang=en",
         "--window-size=1200,800",
         f"--host-resolver-rules=MAP {INSECURE_HOST} 127.0.0.1")  # fmt: skip


@contextmanager
def chromium(phone: bool = False, dark: bool = False, network: bool = False) -> Iterator[Any]:
    """Run a browser; skip the test if there is none. `network`: its requests are in the log "performance"."""
    packages = installed("chromium") / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    site.addsitedir(str(packages))  # after the installed packages
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *(["--force-dark-mode"] if dark else [])):
        options.add_argument(flag)
    if phone:
        options.add_experimental_option("mobileEmulation", PHONE)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", **({"performance": "ALL"} if network else {})})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield browser
    finally:
        browser.quit()


class ChatPage:
    """The chat page in a browser, as a user sees and uses it."""

    TIMEOUT_S = 15

    def __init__(self, browser: Any, url: str) -> None:
        self.browser, self.url = browser, url

    def open(self) -> None:
        """Load the page with empty storage, and wait until it shows the model."""
        self.load()
        self.js("localStorage.clear()")
        self.load()

    def load(self, fragment: str = "") -> None:
        """Load the page with its saved state."""
        self.browser.get("about:blank")
        self.browser.get(self.url + fragment)
        self.until(lambda: self.text("#model") == "echo")

    def js(self, code: str, *arguments: Any) -> Any:
        return self.browser.execute_script(code, *arguments)

    def imported(self, module: str, expression: str, *arguments: Any) -> Any:
        """Evaluate an expression with the module as `m` and the arguments as `a`."""
        code = f"const [...a] = arguments, end = a.pop(); import('./web/{module}').then(m => end({expression}))"
        return self.browser.execute_async_script(code, *arguments)

    def fresh(self, read: Callable[[], Any]) -> Any:
        """Read, and retry if the page has replaced an element in the meantime."""
        for _ in range(10):
            try:
                return read()
            except Exception as error:  # Selenium's classes can only be imported once a browser runs
                if type(error).__name__ != "StaleElementReferenceException":
                    raise
        return read()

    def all(self, selector: str) -> list[Any]:
        """Return all visible elements."""
        find = self.browser.find_elements
        found: list[Any] = self.fresh(lambda: [e for e in find("css selector", selector) if e.is_displayed()])
        return found

    def text(self, selector: str) -> str:
        """Return the text of the last visible element, "" if there is none."""
        return str(self.fresh(lambda: next((e.text for e in reversed(self.all(selector))), "")))

    def value(self, selector: str) -> str:
        return str(self.browser.find_element("css selector", selector).get_property("value"))

    def click(self, selector: str) -> None:
        """Click the last visible element."""
        self.fresh(lambda: self.all(selector)[-1].click())

    def fill(self, selector: str, text: str) -> None:
        field = self.all(selector)[-1]
        field.clear()
        field.send_keys(text)

    def keys(self, *keys: str) -> None:
        """Press keys in the focused element."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + self.TIMEOUT_S
        while not holds():
            assert time.monotonic() < end, self.js("return document.body.innerText")
            time.sleep(0.02)

    def send(self, text: str) -> None:
        """Type a message and press Enter."""
        lines = text.split("\n")
        self.fill("#text", lines[0])
        for line in lines[1:]:
            self.keys("\ue008\ue007\ue008", line)  # Shift+Enter
        self.keys("\ue007")

    def ask(self, text: str) -> str:
        """Send a message, wait for the complete answer, and return the answer's text."""
        self.send(text)
        return self.answered()

    def answered(self) -> str:
        self.until(lambda: self.text("#send") == "Send" and self.all("article:last-of-type.assistant footer"))
        return self.text(".assistant .text")

    def faults(self) -> list[str]:
        """Return console messages about scripts and the content policy since the last call."""
        log = self.browser.get_log("browser")
        return [str(entry) for entry in log if entry["source"] != "network" and entry["level"] != "INFO"]

    def shown(self) -> list[str]:
        """Return the texts of the conversation."""
        return [str(text) for text in self.fresh(lambda: [e.text for e in self.all("article .body")])]
