"""Somebody in front of the page, and what they do there."""

from __future__ import annotations

import contextlib
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEIGHTS = {1280: 900, 390: 844}
SLOW_MACHINE_MS = 60_000
DIALOGUE = "Anna: Can we meet on Tuesday?\nTom: Yes, at half past ten.\nAnna: Please bring the report."
# The ratio of luminances of a text and what is behind it, as WCAG 2.2 defines it (1.4.3).
CONTRAST = """(selector) => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const linear = (v) => (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll(selector)].filter((e) => e.offsetParent && e.textContent.trim()).map((e) => {
    const pair = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
    return [Math.round(100 * (pair[0] + .05) / (pair[1] + .05)) / 100, e.textContent.trim().slice(0, 40)];
  });
}"""
UNNAMED = """() => [...document.querySelectorAll('input, textarea, button, select, [role=tab], [role=listbox]')]
  .filter((e) => e.offsetParent !== null)
  .filter((e) => !(e.labels && [...e.labels].some((l) => l.textContent.trim())) && !e.getAttribute('aria-label')
    && !e.getAttribute('aria-labelledby') && !e.textContent.trim() && !e.title)
  .map((e) => e.outerHTML.slice(0, 160))"""
# Notes how long each column's text is at every change of the page, so that streaming can be seen afterwards.
WATCH = """() => {
  window.seen = {};
  const look = () => document.querySelectorAll('.hf-column').forEach((column) => {
    const name = column.querySelector('h3').textContent, text = column.querySelector('.hf-text');
    (window.seen[name] ||= []).push([column.dataset.state, text ? text.textContent.length : 0]);
  });
  const what = {subtree: true, childList: true, characterData: true};
  new MutationObserver(look).observe(document.querySelector('#hf-results'), what);
}"""


@dataclass(frozen=True)
class SpaceUnderTest:
    """A running Space: its address, what is behind it, and the folder of its settings."""

    address: str
    opened: Any
    folder: Path

    @property
    def service(self) -> Any:
        return self.opened.service


@contextlib.contextmanager
def running_space(values, folder):
    """A Space with these settings, as in ``space.json`` in ``folder``."""
    from hfplug.space.app_files import load_app
    from hfplug.space.config import from_mapping
    from hfplug.space.opened import open_space

    app, opened = load_app(), open_space(from_mapping(values, folder=folder))
    blocks = app.lay_out(opened)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app.launch(blocks, server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True)
    try:
        yield SpaceUnderTest(address=f"http://127.0.0.1:{port}", opened=opened, folder=folder)
    finally:
        blocks.close(verbose=False)
        opened.close()


class Visitor:
    """One tab. ``complaints`` collects errors of the page's scripts, alerts, and gradio's own error boxes."""

    def __init__(self, browser, space, *, width, theme, query, context):
        self.context = context or browser.new_context(viewport={"width": width, "height": HEIGHTS.get(width, 900)})
        self.context.set_default_timeout(SLOW_MACHINE_MS)
        self.page, self.complaints = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"alert: {dialog.message}"), dialog.dismiss()))
        self.page.on("console", self._heard)
        self.page.goto(f"{space.address}/?__theme={theme}&{query}")
        # The columns are offered once the page has asked for them.
        self.page.locator("#hf-variants input").first.wait_for()

    def _heard(self, message):
        if message.type == "error":
            self.complaints.append(f"console: {message.text}")

    # ---------------------------------------------------------------------------------------------- doing

    def paste(self, dialogue, reference=""):
        self.page.locator("#hf-dialogue textarea").fill(dialogue)
        self.page.locator("#hf-reference textarea").fill(reference)

    def pick_example(self, at=1):
        self.page.locator("#hf-example input").click()
        option = self.page.get_by_role("option").nth(at)
        title = option.inner_text().strip()
        option.click()
        self.page.wait_for_function("document.querySelector('#hf-dialogue textarea').value.length > 20")
        return title

    def choose(self, *names):
        """Tick these columns and no others."""
        boxes = self.page.locator("#hf-variants label")
        for at in range(boxes.count()):
            box = boxes.nth(at)
            box.locator("input").set_checked(re.split(r"\s", box.inner_text().strip())[0] in names)

    def set_tokens(self, most):
        self.open("Decoding")
        self.page.locator("#hf-max_new_tokens input[type=number]").fill(str(most))
        self.page.locator("#hf-max_new_tokens input[type=number]").press("Tab")

    def open(self, accordion):
        button = self.page.get_by_role("button", name=accordion)
        if "open" not in (button.get_attribute("class") or "").split():
            button.click()

    def press_compare(self):
        self.page.locator("#hf-compare").click()

    def compare(self):
        """Compare, and wait for the end."""
        self.press_compare()
        self.wait_for_end()

    def wait_for_end(self):
        self.page.wait_for_function(
            "document.querySelectorAll('.hf-column').length"
            " && !document.querySelector('.hf-column[aria-busy=true]')"
            " && !document.querySelector('#hf-compare').disabled"
        )

    def add(self, repo_id, revision=""):
        self.open("Add an adapter")
        self.page.locator("#hf-repo").locator("input, textarea").fill(repo_id)
        self.page.locator("#hf-revision").locator("input, textarea").fill(revision)
        # What the one before has left there is no answer to this one.
        self.page.evaluate("document.querySelectorAll('#hf-add-status .hf-notice').forEach((e) => e.dataset.old = 1)")
        self.page.locator("#hf-add-button").click()
        self.page.locator("#hf-add-status .hf-notice:is(.hf-notice-good, .hf-notice-error):not([data-old])").wait_for()
        return self.text("#hf-add-status")

    # -------------------------------------------------------------------------------------------- seeing

    def text(self, selector):
        return self.page.locator(selector).first.inner_text().strip()

    def wait_for_status(self, words):
        self.page.locator("#hf-status").get_by_text(words).first.wait_for()
        return self.text("#hf-status")

    def column(self, name):
        return self.page.locator(f".hf-column:has(h3:text-is('{name}'))")

    def answer(self, name):
        return self.column(name).locator(".hf-text").inner_text().strip()

    def figure(self, name, label):
        return self.column(name).locator(f"div:has(> dt:text-is('{label}')) dd").inner_text()

    def titles(self):
        return self.page.locator(".hf-column h3").all_inner_texts()

    def offered(self):
        return [text.split()[0] for text in self.page.locator("#hf-variants label").all_inner_texts()]

    def toasts(self):
        return self.page.locator(".toast-body").all_inner_texts()

    def wider_than_the_screen(self):
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def shot(self, path):
        self.page.screenshot(path=str(path), full_page=True)

    def leave(self):
        self.context.close()
