"""Debian's Chromium without a window, driven by Selenium from the package set external-chromium."""

from __future__ import annotations

import shutil
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.external import installed

PHONE = {"deviceMetrics": {"width": 390, "height": 780, "pixelRatio": 2.0, "touch": True}}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--lang=en",
         "--window-size=1200,800")  # fmt: skip


@contextmanager
def chromium(phone: bool = False, dark: bool = False) -> Iterator[Any]:
    """Start a browser and end it; skips the test where there is none."""
    packages = installed("chromium") / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    site.addsitedir(str(packages))  # behind what is installed already
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *(["--force-dark-mode"] if dark else [])):
        options.add_argument(flag)
    if phone:
        options.add_experimental_option("mobileEmulation", PHONE)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield browser
    finally:
        browser.quit()
