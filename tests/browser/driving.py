"""What the browser tests of every page do alike: wait, read the address, look for a traceback.

A page is drawn some time after its script has ended, and on a busy machine that may be seconds: look at it with ``expect``
or :func:`until`, which wait, never with a bare ``count()``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, expect

QUIET = 5
"""Tenths of a second without a running script after which a page counts as come to rest."""


def rest(page: Page) -> None:
    """Wait until no script has run for half a second."""
    quiet = 0
    while quiet < QUIET:
        page.wait_for_timeout(100)
        idle = page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').count()
        quiet = quiet + 1 if idle else 0


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until ``holds()``; the assertion fails after so many seconds."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    assert holds()


def query(page: Page) -> dict[str, str]:
    """The state in the address."""
    return {key: values[-1] for key, values in parse_qs(urlsplit(page.url).query).items()}


def no_traceback(page: Page) -> None:
    """Nothing on the page is an error of Streamlit's own or a traceback."""
    expect(page.locator('[data-testid="stException"]')).to_have_count(0)
    body = page.inner_text("body")
    assert "Traceback" not in body and "encountered an error" not in body
