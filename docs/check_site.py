"""Looks at the built site in a headless browser: `make docs-check`.

Every page must load without an error in the console, ask for nothing outside the site, show all its pictures, and be
no wider than the window, on a desk and on a phone. Searching must find something.
"""

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import TimeoutError, sync_playwright

SITE = Path(__file__).parent.parent / "site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
WINDOWS = ((1280, 900), (390, 844))  # a desk and a phone
BROKEN_PICTURES = """Promise.all([...document.images].map(async image => {
    image.loading = "eager";
    await image.decode().catch(() => {});
    return image.naturalWidth ? null : image.src;
})).then(found => found.filter(Boolean))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Requests are looked at in the browser."""


def served(folder):
    """The address under which the folder is served, from a thread that ends with the process."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def watch(tab, address, faults):
    """Note what goes wrong while pages load."""
    tab.on("console", lambda m: m.type in ("error", "warning") and faults.append(f"console: {m.text}"))
    tab.on("pageerror", lambda e: faults.append(f"script: {e}"))
    tab.on("response", lambda r: r.status >= 400 and faults.append(f"status {r.status}: {r.url}"))
    tab.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
    local = ("data", "blob", "about")
    tab.on(
        "request",
        lambda r: (
            r.url.startswith(address) or urlsplit(r.url).scheme in local or faults.append(f"leaves the site: {r.url}")
        ),
    )


def look(tab, address, page):
    """Load one page; what is wrong with how it looks."""
    tab.set_viewport_size(dict(zip(("width", "height"), WINDOWS[0])))
    tab.goto(address + page)
    tab.wait_for_load_state("networkidle")
    wrong = [f"no picture: {src}" for src in tab.evaluate(BROKEN_PICTURES)]
    for width, height in WINDOWS:
        tab.set_viewport_size({"width": width, "height": height})
        found = tab.evaluate("document.documentElement.scrollWidth")
        if found > width:
            wrong.append(f"{found} px wide in a window of {width}")
    return wrong


def search(tab, address, words):
    """Type words into the search of the first page; a fault if nothing is found."""
    tab.goto(address + "index.html")
    tab.locator("label[for=__search]").first.click(force=True)
    tab.locator("input.md-search__input").fill(words)
    try:
        tab.locator(".md-search-result__item").first.wait_for(timeout=60_000)
    except TimeoutError:
        return [f"searching {words!r} finds nothing"]
    return []


def check(browser, pages):
    """{page: faults} of every page that has any."""
    address, found, faults = served(SITE), {}, []
    tab = browser.new_page()
    tab.set_default_timeout(300_000)  # a machine may have other work
    watch(tab, address, faults)
    for page in pages:
        wrong = look(tab, address, page)
        found[page] = wrong + faults
        faults.clear()
    wrong = search(tab, address, "transposed")
    found["search"] = wrong + faults
    return {where: wrong for where, wrong in found.items() if wrong}


def main():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print("docs-check: no browser found; it needs Chromium or Chrome on the PATH, as " + ", ".join(BROWSERS))
        return 2
    pages = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        found = check(browser, pages)
        version = browser.version
        browser.close()
    for where, wrong in found.items():
        print(where, *wrong, sep="\n    ")
    print(f"docs-check: {len(pages)} pages in Chromium {version}, {len(found)} with faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
