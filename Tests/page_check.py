"""The checks of an edge's page; Tests/page-check calls it. Prints a line a check, and `N passed, N failed` last."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from playwright.sync_api import sync_playwright

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "loadtest"))
from world import ROOT, TOOL, World  # noqa: E402

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--no-first-run",
]
SIZES = {"wide": (1280, 860), "narrow": (390, 844), "least": (360, 740)}


class Report:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, name, holds, detail=""):
        if holds:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'passed' if holds else 'FAILED'}: {name}{'' if holds or not detail else ': ' + detail}", flush=True)


class Page:
    """One page of its own context; it collects what the console says."""

    def __init__(self, browser, url, size, scheme="light", bypass=False):
        width, height = SIZES[size]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=bypass,
            has_touch=size != "wide")
        self.page = self.context.new_page()
        self.complaints = []
        self.page.on("console", lambda message: message.type in ("error", "warning")
                     and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)

    def wait_for_rows(self):
        self.page.wait_for_selector("#rows tr", timeout=15_000)
        self.page.wait_for_timeout(700)

    def wait_for_panel(self):
        self.wait("!document.getElementById('panel').hidden"
                  " && !document.getElementById('panel').textContent.includes('Loading')")

    def wait(self, condition, seconds=15):
        """The policy forbids the page's own `eval`, which playwright's wait_for_function needs: so we ask."""
        for _ in range(seconds * 20):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(f"never came true: {condition}")

    def wait_for_title(self, name):
        self.wait(f"document.getElementById('title')?.innerText === {json.dumps(name)}")

    def focused(self):
        return self.page.evaluate("document.activeElement.closest('tr')?.dataset.id ?? document.activeElement.id")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


def wait_for_events(url):
    """Until some are flagged: the checks want both kinds."""
    for _ in range(300):
        with urllib.request.urlopen(f"{url}/v1/events?limit=1&flagged=true", timeout=10) as answer:
            if json.load(answer)["events"]:
                return
        time.sleep(0.1)
    sys.exit("page-check: no flagged event came within 30 s")


def newest_event(url):
    """A flagged event where there is one: its panel shows the most."""
    for query in ("limit=1&flagged=true", "limit=1"):
        with urllib.request.urlopen(f"{url}/v1/events?{query}", timeout=10) as answer:
            events = json.load(answer)["events"]
        if events:
            return events[0]
    sys.exit("page-check: the region has no events; start the world with a rate above 0")


def wait_for_state(it, name):
    it.wait(f"document.getElementById('state').innerText.trim() === {json.dumps(name)}", seconds=40)


def show_state(report, it, name, size, scheme, out, axe):
    """The page says in which state its region is, and what that means; then it is photographed and asked by axe."""
    wait_for_state(it, name)
    shot = f"{size}-{scheme}-state-{name}"
    report.check(f"{shot}: said, and what it means", it.page.is_visible("#trouble")
                 and name in it.page.inner_text("#trouble") and name in it.page.inner_text("#said"))
    it.page.wait_for_timeout(300)
    it.page.screenshot(path=os.path.join(out, f"{shot}.png"))
    over = it.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    report.check(f"{shot}: no sideways scrolling", over <= 0, f"{over} px too wide")
    if axe:
        run_axe(report, it, shot, axe)


def repairing(report, browser, url, out, axe):
    """A repair lasts milliseconds: the region's own answers are changed, in this one word, on their way to the page."""
    def changed(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "state": "repairing"})

    for size, scheme in (("wide", "light"), ("narrow", "dark")):
        with Page(browser, "about:blank", size, scheme, bypass=True) as it:
            it.context.route("**/v1/status", changed)
            it.page.goto(url)
            it.wait_for_rows()
            show_state(report, it, "repairing", size, scheme, out, axe)
            it.context.unroute_all(behavior="wait")
            wait_for_state(it, "fresh")


def without(report, browser, world, part, name, out, axe):
    """A part of the world is stopped (and not ended, or it would be back at once): the region says what it lacks."""
    url, pid = world.regions["eu"], world.pids[part]
    with Page(browser, url, "wide", "dark", bypass=True) as wide, Page(browser, url, "narrow", bypass=True) as narrow:
        wide.wait_for_rows()
        narrow.wait_for_rows()
        os.kill(pid, signal.SIGSTOP)
        try:
            show_state(report, wide, name, "wide", "dark", out, axe)
            show_state(report, narrow, name, "narrow", "light", out, axe)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for_state(wide, "fresh")
        report.check(f"{name}: the region and its page recover", not wide.page.is_visible("#trouble"))


def bootstrapping(report, browser, out, axe):
    """A region whose bus is not there: it has no view yet, and its page no rows."""
    with tempfile.TemporaryDirectory(prefix="tideline-page-") as folder:
        log = os.path.join(folder, "edge.log")
        with open(log, "w", encoding="utf-8") as output:
            edge = subprocess.Popen(
                [TOOL, "edge", "--region", "new", "--dir", folder, "--nats", "nats://127.0.0.1:1", "--port", "0"],
                cwd=ROOT, stdout=output, stderr=output)
        try:
            found, ending = None, time.time() + 30
            while not found and time.time() < ending and edge.poll() is None:
                time.sleep(0.05)
                with open(log, encoding="utf-8") as file:
                    found = re.search(r"ready url=(\S+)", file.read())
            report.check("bootstrapping: a region starts without a bus", found)
            for size, scheme in (("wide", "light"), ("narrow", "dark")) if found else ():
                with Page(browser, found[1], size, scheme, bypass=True) as it:
                    show_state(report, it, "bootstrapping", size, scheme, out, axe)
                    report.check(f"bootstrapping, {size}: no word of rows where there are none",
                                 "rows" not in it.page.inner_text("#pulse"), it.page.inner_text("#pulse"))
        finally:
            edge.terminate()
            try:
                edge.wait(30)
            except subprocess.TimeoutExpired:
                edge.kill()
                edge.wait()


def look(report, browser, url, event, out, axe):
    """Screenshots and axe: sizes × schemes × what is open. Nothing may be wider than the window."""
    entity = next(iter(entities(url)), None)
    views = {"list": "", "flagged": "", "event": f"#event={event['id']}", "missing": "#event=there-is-no-such-event"}
    if entity and event["fields"].get(entity):
        views["entity"] = f"#entity={entity}/{event['fields'][entity]}"
    for size in SIZES:
        for scheme in ("light", "dark") if size != "least" else ("light",):
            for view, fragment in views.items():
                name = f"{size}-{scheme}-{view}"
                with Page(browser, f"{url}/{fragment}", size, scheme, bypass=True) as it:
                    it.wait_for_rows()
                    if view == "flagged":
                        it.page.check("#only")
                    if fragment:
                        it.wait_for_panel()
                    it.page.wait_for_timeout(800)
                    it.page.screenshot(path=os.path.join(out, f"{name}.png"))
                    over = it.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    report.check(f"{name}: no sideways scrolling", over <= 0, f"{over} px too wide")
                    if axe:
                        run_axe(report, it, name, axe)


def run_axe(report, it, name, axe):
    it.page.add_script_tag(content=axe)
    found = it.page.evaluate(
        "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations', 'incomplete']})", RULES)
    lines = [
        f"{kind['id']} ({kind['impact']}): {kind['help']}: {kind['nodes'][0]['html'][:160]}"
        for kind in found["violations"]
    ]
    report.check(f"{name}: axe", not lines, " | ".join(lines))
    for kind in found["incomplete"]:
        print(f"  axe cannot tell: {kind['id']}: {kind['help']}: {len(kind['nodes'])} × {kind['nodes'][0]['html'][:100]}")


def entities(url):
    with urllib.request.urlopen(f"{url}/v1/status", timeout=10) as answer:
        return json.load(answer).get("entities", [])


def policy(report, browser, url, event):
    """The page under its own content policy: nothing is refused, and nothing comes from elsewhere."""
    with Page(browser, url, "wide") as it:
        asked = []
        it.page.on("request", lambda request: asked.append(request.url))
        it.wait_for_rows()
        it.page.evaluate("id => { location.hash = `#event=${id}` }", event["id"])
        it.wait_for_panel()
        report.check("policy: the console is silent", not it.complaints, " | ".join(it.complaints))
        foreign = [address for address in asked if not address.startswith((url, "data:"))]
        report.check("policy: nothing comes from elsewhere", not foreign, " ".join(foreign))
        refused = it.page.evaluate("""() => new Promise((done) => {
            document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
            document.head.append(Object.assign(document.createElement("script"), {src: "data:text/javascript,1"}));
            setTimeout(done, 2000, "nothing");
        })""")
        report.check("policy: it is in force", refused.startswith("script-src"), f"{refused} was refused")


def keyboard(report, browser, url):
    """Tab reaches a row; Enter opens it; Escape closes, and focus is where it was. On wide and narrow alike."""
    for size in ("wide", "narrow"):
        with Page(browser, url, size) as it:
            it.wait_for_rows()
            steps = 0
            while steps < 12 and not it.page.evaluate("!!document.activeElement.closest('#rows')"):
                it.page.keyboard.press("Tab")
                steps += 1
            row = it.focused()
            report.check(f"keyboard, {size}: Tab reaches a row ({steps} presses)", steps < 12)
            it.page.keyboard.press("ArrowDown")
            below = it.focused()
            it.page.keyboard.press("ArrowUp")
            report.check(f"keyboard, {size}: arrows move between rows", below != row and it.focused() == row)
            outline = it.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            report.check(f"keyboard, {size}: focus is seen", outline != "none")
            it.page.keyboard.press("Enter")
            it.wait_for_panel()
            report.check(f"keyboard, {size}: Enter opens the event",
                         it.page.inner_text("#title") == row and it.focused() == "title")
            it.page.wait_for_timeout(3000)
            it.page.keyboard.press("Escape")
            closed = it.page.evaluate("document.getElementById('panel').hidden")
            report.check(f"keyboard, {size}: Escape closes it", closed)
            report.check(f"keyboard, {size}: focus is back on the row", it.focused() == row, it.focused())


def pointer(report, browser, url, event):
    """Pause holds the rows, the filter keeps its word, a neighbour and an entity open, the address follows."""
    with Page(browser, url, "wide") as it:
        page = it.page
        it.wait_for_rows()
        page.click("#pause")
        before = page.inner_text("#rows")
        page.wait_for_timeout(1500)
        report.check("pause holds the rows", page.inner_text("#rows") == before)
        page.click("#pause")
        page.mouse.move(5, 5)
        page.wait_for_timeout(1500)
        report.check("the rows move on afterwards", page.inner_text("#rows") != before)
        page.check("#only")
        page.wait_for_timeout(1500)
        report.check("flagged only", page.evaluate(
            "[...document.querySelectorAll('#rows tr')].every((row) => row.classList.contains('flagged'))"))
        page.uncheck("#only")
        page.goto(f"{url}/#event={event['id']}")
        page.reload()
        it.wait_for_panel()
        report.check("a deep link opens its event", page.inner_text("#title") == event["id"])
        near = page.locator(".near button").first
        if near.count():
            name = near.inner_text()
            near.click()
            it.wait_for_title(name)
            report.check("a neighbour opens, and the address says so", name in page.url)
            page.go_back()
            it.wait_for_title(event["id"])
            report.check("back goes back", True)
        else:
            print("skipped: neighbours (the region has none)")
        for entity in entities(url):
            page.goto(f"{url}/#entity={entity}/{event['fields'][entity]}")
            it.wait_for_panel()
            report.check(f"the windows of a {entity}", page.locator("#panel table tbody tr").count() > 0)


def broken(report, browser, url):
    """The stream and the API go away and come back: the page says so, then recovers by itself."""
    with Page(browser, url, "wide") as it:
        page = it.page
        it.wait_for_rows()
        it.context.route("**/v1/**", lambda route: route.abort())
        it.wait("document.getElementById('state').innerText.includes('no answer')")
        report.check("a region that is silent is said to be", page.is_visible("#trouble"))
        report.check("and announced", "no answer" in page.inner_text("#said"))
        it.context.unroute("**/v1/**")
        it.wait("document.getElementById('state').innerText.includes('fresh')")
        report.check("it recovers by itself", not page.is_visible("#trouble"))


def check_page(report, browser, url, out, axe):
    event = newest_event(url)
    policy(report, browser, url, event)
    keyboard(report, browser, url)
    pointer(report, browser, url, event)
    broken(report, browser, url)
    repairing(report, browser, url, out, axe)
    look(report, browser, url, event, out, axe)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--chromium", "--axe", "--out"):
        parser.add_argument(name)
    parser.add_argument("url", nargs="?", help="a region's; without it, a world is started for the checks")
    options = parser.parse_args()
    axe = None
    if options.axe and os.path.isfile(options.axe):
        with open(options.axe, encoding="utf-8") as file:
            axe = file.read()
    else:
        print("skipped: axe (set TIDELINE_AXE to axe.min.js of axe-core 4)")
    report = Report()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        if options.url:
            check_page(report, browser, options.url.rstrip("/"), options.out, axe)
            print("skipped: stale, isolated and bootstrapping (they need a world of their own: give no URL)")
        else:
            with World(200) as world:
                wait_for_events(world.regions["eu"])
                check_page(report, browser, world.regions["eu"], options.out, axe)
                without(report, browser, world, "core", "stale", options.out, axe)
                without(report, browser, world, "nats", "isolated", options.out, axe)
            bootstrapping(report, browser, options.out, axe)
        browser.close()
    print(f"screenshots: {options.out}")
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
