"""A headless Chromium, driven by its DevTools protocol.

What the page complains of, and each address that it asks, is kept: `complaints` and `asked`.
"""

import base64
import json
import re
import subprocess
import time

import websocket

DEADLINE = 90

FLAGS = [
    "--headless=new",
    # It may run as root, and in a container with a small /dev/shm.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
    # Nothing but this machine is found.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]

# Sums up how far the page's parts were moved by anything but the reader.
WATCH_SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


class Browser:
    def __init__(self, directory):
        command = ["chromium", *FLAGS, f"--user-data-dir={directory}/profile", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        said = []
        for line in self.process.stderr:
            said.append(line)
            found = re.search(r"DevTools listening on (ws://\S+)", line)
            if found:
                break
        else:
            raise AssertionError(f"chromium did not start: {''.join(said)}")
        # What it goes on to say never fills the pipe.
        self.log = subprocess.Popen(["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL)
        self.socket = websocket.create_connection(found[1], timeout=DEADLINE)
        self.number = 0
        self.session = None
        self.complaints = []
        self.asked = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network", "Audits"]:
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH_SHIFTS)
        self.window(1360, 900)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait(DEADLINE)
        self.log.wait(DEADLINE)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.hear(answer.get("method"), answer.get("params", {}))

    def hear(self, method, said):
        if method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([one.get("value", one.get("description")) for one in said["args"]]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            entry = said["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Audits.issueAdded" and said["issue"]["code"] == "ContentSecurityPolicyIssue":
            self.complaints.append(str(said["issue"]["details"]))
        elif method == "Network.requestWillBeSent":
            self.asked.append((said["request"]["url"], said["request"]["headers"]))

    def evaluate(self, expression):
        """The value of an expression, which may be a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, expression):
        """Waits until an expression is true, and gives its value."""
        end = time.monotonic() + DEADLINE
        while True:
            value = self.evaluate(expression)
            if value:
                return value
            if time.monotonic() > end:
                page = self.evaluate("document.body.innerText")
                raise AssertionError(f"this did not come: {expression}\n{page}\n{self.complaints}")
            time.sleep(0.02)

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def text(self, selector="main"):
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def until_text(self, words, selector="main"):
        inner = f"document.querySelector({json.dumps(selector)})?.innerText"
        self.until(f"({inner} ?? '').replaceAll('\\u00a0', ' ').includes({json.dumps(words)})")

    def click(self, selector, words=""):
        """Presses what is found by the selector and has these words, as a pointer does."""
        find = f"[...document.querySelectorAll({json.dumps(selector)})].find((e) => e.innerText.includes({json.dumps(words)}))"
        self.until(f"{find} !== undefined && !{find}.disabled")
        self.evaluate(f"{find}.scrollIntoView({{ block: 'center' }})")
        # What is pressed is what is drawn there.
        self.drawn()
        place = self.evaluate(f"(() => {{ const b = {find}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        for kind in ["mousePressed", "mouseReleased"]:
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def drawn(self):
        """Waits for two frames: what was computed before is drawn."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def key(self, name, code=0, text=None):
        for kind in ["keyDown", "keyUp"]:
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, **more)

    def write(self, selector, words):
        """Writes into a field in place of what stands there."""
        self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        self.evaluate(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        if words:
            self.call("Input.insertText", text=words)
        else:
            self.key("Delete", 46)
        # As if the field was left.
        self.evaluate(f"document.querySelector({json.dumps(selector)}).dispatchEvent(new Event('change', {{ bubbles: true }}))")

    def choose(self, selector, value):
        self.until(f"[...document.querySelector({json.dumps(selector)})?.options ?? []].some((o) => o.value === {json.dumps(value)})")
        self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def window(self, width, height, scheme="light"):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
