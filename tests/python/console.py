"""The console as a browser shows it.

    console.py open ADDRESS DIRECTORY       a server without authentication, with what the test put into it
    console.py keys ADDRESS DIRECTORY ADMIN READER

Each step waits until the page shows what it should; pictures of it are put into the directory.
"""

import json
import os
import socket
import sys
import threading
import urllib.request

from browser import Browser

HOSTILE = '<img src=x onerror="window.hit=1">'

# The parts that compute, as the browser runs them: true, or what is wrong.
COMPUTED = """
(async () => {
  const [json, diff, metrics, format, sse, plot] = await Promise.all(
    ["json", "diff", "metrics", "format", "sse", "plot"].map((name) => import(`/ui/${name}.js`)));
  const wrong = [];
  const same = (what, found, wanted) => {
    if (JSON.stringify(found) !== JSON.stringify(wanted)) wrong.push(`${what}: ${JSON.stringify(found)}`);
  };
  const text = '{"a":12345678901234567890.10,"b":[1,{"c":"x\\\\\\\\\\\\"}"}],"a":null,"e":{},"__proto__":1}';
  const node = json.read(` ${text} `);
  same("the text stays", node.text, text);
  same("a number keeps its digits", node.items[0].node.text, "12345678901234567890.10");
  same("the last of a name counts", json.valueOf(json.member(node, "a")), null);
  same("a backslash before a quote", json.valueOf(json.member(node, "b"))[1].c, 'x\\\\"}');
  same("no name is special", json.valueOf(json.member(node, "__proto__")), 1);
  same("lines", json.pretty(node).textContent.split("\\n").length, 13);
  for (const bad of ["", "{", "[1,", '{"a', '{"a":', "[}", "nonsense"]) json.lines(json.read(bad));
  const of = (value) => json.read(JSON.stringify(value));
  const signs = (a, b) => diff.difference(of(a), of(b)).filter((one) => one.sign !== " ");
  same("a member that comes in at the end is one line",
    signs({ a: 1 }, { a: 1, b: 2 }).map((one) => one.sign + one.line.path), ["+/b"]);
  same("an element that comes in first is one line", signs([1, 2, 3], [0, 1, 2, 3]).length, 1);
  same("places", diff.places(diff.difference(of({ a: { b: 1 } }), of({ a: { b: 2 } }))), ["/a/b"]);
  // Whatever the two are, the signs lead from one to the other.
  let seed = 7;
  const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
  const value = (depth) => random(3) === 0 || depth === 0 ? random(4)
    : random(2) === 0 ? Array.from({ length: random(5) }, () => value(depth - 1))
    : Object.fromEntries(Array.from({ length: random(5) }, () => ["abcde"[random(5)], value(depth - 1)]));
  for (let round = 0; round < 300; round++) {
    const [a, b] = [of(value(4)), of(value(4))];
    const all = diff.difference(a, b);
    const side = (without, name) => all.filter((one) => one.sign !== without).map((one, at) => (one[name] === at + 1 ? one.line.text : "number"));
    same("the older side", side("+", "old"), json.lines(a).map((line) => line.text));
    same("the newer side", side("-", "now"), json.lines(b).map((line) => line.text));
    const pieces = diff.hunks(all).map((piece) => (Array.isArray(piece) ? piece.length : piece));
    same("nothing is left out uncounted", pieces.reduce((a, b) => a + b, 0), all.length);
  }
  const long = Array.from({ length: 3000 }, (_, at) => at);
  same("two that have nothing in common", signs(long, long.map((n) => -1 - n)).length, 6000);
  const found = metrics.parse('# HELP x y\\na{b="c\\\\"d",e="f"} 1.5\\nplain 2\\nh_bucket{le="+Inf"} 3\\n');
  same("labels", found.get("a"), [{ labels: { b: 'c"d', e: "f" }, value: 1.5 }]);
  same("plain", found.get("plain")[0].value, 2);
  same("half", metrics.quantile([[1, 0], [2, 10], [Infinity, 10]], 0.5), 1.5);
  same("past the bounds", String(metrics.quantile([[1, 0], [Infinity, 10]], 0.5)), "Infinity");
  same("none", String(metrics.quantile([[1, 0], [Infinity, 0]], 0.5)), "NaN");
  same("a counter that began anew", metrics.between([[1, 5], [Infinity, 9]], [[1, 2], [Infinity, 3]]), []);
  same("numbers", [0, 7, 999.96, 1234567, NaN].map(format.short), ["0", "7", "1.00 k", "1.23 M", "–"]);
  same("bytes", [0, 1023.9, 1536, 3 * 2 ** 40].map(format.bytes), ["0 B", "1.00 KiB", "1.50 KiB", "3.00 TiB"]);
  same("durations", [0.00025, 0.0034, 1.5].map(format.duration), ["250 µs", "3.40 ms", "1.50 s"]);
  same("times", format.asked(" 15m ", 900_000), "1970-01-01T00:00:00.000Z");
  same("settings", ["6GiB", "100", "x"].map(format.configured), [6 * 2 ** 30, 100, null]);
  same("scales", [0, 3, 0.7, 100, 101].map(plot.ceiling), [1, 5, 1, 100, 200]);
  const feed = sse.events(2);
  same("no event yet", feed("retry: 1\\n\\n:\\n\\nid: 7\\nda"), { found: [], passed: 0 });
  same("events", feed("ta: {\\ndata: }\\n\\nevent: error\\ndata: 1\\n\\nid: 8"),
    { found: [{ id: "7", name: "message", data: "{\\n}" }, { id: "", name: "error", data: "1" }], passed: 0 });
  same("the last ones", feed("\\ndata: 1\\n\\nid: 9\\ndata: 2\\n\\nid: 10\\ndata: 3\\n\\n").passed, 1);
  return wrong.length === 0 || wrong.slice(0, 5).join("; ");
})()
"""


class Door:
    """A way to the server that can be closed: then it is as if there was none."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.server = (host, int(port))
        self.address = None
        self.sockets = []
        self.open()

    def open(self):
        self.listener = socket.create_server(self.address or ("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self.take, args=(self.listener,), daemon=True).start()

    def take(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.server)
            self.sockets += [client, server]
            for pair in [(client, server), (server, client)]:
                threading.Thread(target=self.copy, args=pair, daemon=True).start()

    def copy(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        self.end([source, sink])

    def end(self, sockets):
        """Ends connections: a thread that waits for one of them hears of it too."""
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.end(self.sockets)
        self.sockets = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.address[1]}"


def post(address, path, body, kind="application/x-ndjson"):
    request = urllib.request.Request(f"http://{address}{path}", data=body.encode(), headers={"content-type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def go(browser, view):
    browser.evaluate(f"location.hash = {json.dumps('#/' + view)}")


def pictures(browser, directory, name):
    """That nothing is wider than the window, whichever it is; and a picture, or where they are asked for one of each."""
    for scheme, width, height in [("light", 1360, 1000), ("dark", 1360, 1000), ("light", 390, 1200)]:
        browser.window(width, height, scheme)
        browser.drawn()
        if "CONSOLE_PICTURES" in os.environ or (scheme, width) == ("light", 1360):
            browser.picture(f"{directory}/{name}-{scheme}-{width}.png")
        wide = browser.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide in a window of {width}"
    browser.window(1360, 900)


def check_overview(browser, address, directory):
    browser.until("document.querySelectorAll('.tile dd').length > 0")
    browser.until("/^\\d/.test(document.querySelector('.tile dd')?.innerText)")
    rows = "\n".join(json.dumps({"id": n, "note": "while the page looks"}) for n in range(5000))
    taken = post(address, "/api/v1/streams/hostile/records", rows)
    assert taken["accepted"] == 5000, taken
    for label in ["Records a second", "Time to an ack"]:
        browser.until(f"document.querySelector('[aria-label^=\"{label}\"] .line') !== null")
    browser.until("[...document.querySelectorAll('[aria-label=Shards] tbody tr')].length === 2")
    browser.until_text("of 128 MiB")
    browser.until_text("I/O by ")
    pictures(browser, directory, "overview")


def check_streams(browser, address, directory):
    go(browser, "streams")
    browser.until("[...document.querySelectorAll('tbody tr')].some((r) => /^flights\\t20,000\\t/.test(r.innerText))")
    browser.until("[...document.querySelectorAll('tbody tr')].some((r) => /^flights\\.dlq\\t1\\t/.test(r.innerText))")
    pictures(browser, directory, "streams")
    browser.write("input[type=search]", "fli")
    browser.until("document.querySelectorAll('tbody tr').length === 2")
    browser.write("input[type=search]", "nothing")
    browser.until_text("No stream has such a name.")
    browser.write("input[type=search]", "")
    browser.click("tbody a", "hostile")
    browser.until("document.querySelector('.state')?.innerText === 'live'")
    browser.until_text(HOSTILE, ".facts")


def check_tail(browser, address, directory):
    def count(words):
        return f"[...document.querySelectorAll('.tail li')].filter((e) => e.innerText.includes({json.dumps(words)})).length"

    path = "/api/v1/streams/hostile/records"
    post(address, path, json.dumps({"id": 1, "note": HOSTILE, HOSTILE: "a name"}))
    # As JSON writes it.
    browser.until(f"{count(json.dumps(HOSTILE))} === 1")
    browser.click(".tail summary")
    browser.until_text('"note"', ".tail pre")
    assert HOSTILE in json.loads(browser.text(".tail pre"))["note"]
    browser.click("button", "Pause")
    post(address, path, json.dumps({"id": 2, "note": "while it was paused"}))
    browser.until_text("paused, 1 came meanwhile", ".state")
    assert browser.evaluate(count("while it was paused")) == 0
    browser.click("button", "Pause")
    browser.until(f"{count('while it was paused')} === 1")
    pictures(browser, directory, "tail")
    # However many come, so many rows.
    rows = "\n".join(json.dumps({"id": n, "note": "one of many"}) for n in range(3000))
    post(address, path, rows)
    browser.until("document.querySelectorAll('.tail li').length === 200")
    browser.until_text("3,002 records", ".row .fine")
    browser.click("button", "Clear")
    browser.until("document.querySelectorAll('.tail li').length === 0")
    browser.choose("select[aria-label='Begin with']", "first")
    browser.until("document.querySelectorAll('.tail li').length === 200")


def check_query(browser, directory):
    go(browser, "query?stream=flights")
    browser.choose("select[name=order]", "asc")
    browser.write("input[name=limit]", "20")
    browser.click("button", "Run")
    browser.until("document.querySelectorAll('.results tbody tr:not(.more)').length === 20")
    browser.until_text("20 records · ")
    browser.click("button", "Next page")
    browser.until_text("Records, page 2")
    browser.until("document.querySelector('.results tbody th')?.innerText === '21'")
    browser.click("button.open")
    browser.until_text('"carrier"', ".results pre")
    pictures(browser, directory, "query")
    browser.write("input[name=start]", "gestern")
    browser.click("button", "Run")
    browser.until_text("does not understand this", ".note")
    browser.choose("select[name=what]", "key")
    browser.choose("select[name=key_field]", "event_id")
    browser.write("input[name=key_value]", "UA1545-20130101-EWR")
    browser.click("button", "Run")
    browser.until_text("1 record · ")
    browser.until_text("UA1545-20130101-EWR", ".results")
    browser.write("input[name=key_value]", "nobody")
    browser.click("button", "Run")
    browser.until_text("No record is in it.")
    # Numbers keep their digits.
    browser.write("input[name=stream]", "numbers")
    browser.choose("select[name=what]", "range")
    browser.write("input[name=start]", "")
    browser.click("button", "Run")
    browser.until_text("12345678901234567890.10", ".results")
    browser.write("input[name=stream]", "nothing")
    browser.click("button", "Run")
    browser.until_text("There is no such thing", ".note")


def check_schemas(browser, directory):
    go(browser, "schemas")
    browser.click("tbody a", "demo/flights")
    browser.until("document.querySelectorAll('.diff .came').length > 0")
    changed = browser.evaluate("[...document.querySelectorAll('.diff .came, .diff .went')].map((e) => e.innerText.replace(/\\s+/g, ' ').trim())")
    assert any('"gate": {' in line for line in changed) and all("removed" not in line for line in changed), changed
    browser.until_text("/properties/gate")
    pictures(browser, directory, "schema")
    browser.choose("select[aria-label='Compare version']", "2")
    browser.until_text("Both say the same.")
    browser.choose("select[aria-label='Compare version']", "0")
    browser.until_text('"$schema"', ".json")


def check_jobs(browser, directory):
    go(browser, "jobs")
    browser.until("document.querySelectorAll('.job').length === 2")
    browser.until_text("3 of 4 rows taken, 1 bad")
    browser.click(".job summary", "Bad rows")
    browser.until_text("rows.jsonl:2")
    pictures(browser, directory, "jobs")
    # A request of the page's that changes something, of the server's own origin.
    browser.click("button", "Cancel")
    browser.click("button", "Really cancel?")
    browser.until("[...document.querySelectorAll('.job .tag')].some((e) => e.innerText === 'cancelled')")


def check_health(browser, directory):
    go(browser, "health")
    for words in ["The server is ready.", "Catalog", "Shard 0", "Shard 1"]:
        browser.until_text(words)
    pictures(browser, directory, "health")


def check_keyboard(browser):
    """All of it can be reached without a pointer."""
    go(browser, "overview")
    browser.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(20):
        browser.key("Tab", 9)
        reached.add(browser.evaluate("document.activeElement.innerText.trim()"))
    wanted = {"Skip to the content", "TTDust", "Overview", "Streams", "Query", "Schemas", "Jobs", "Health", "API key"}
    assert wanted <= reached, reached
    unnamed = browser.evaluate(
        "[...document.querySelectorAll('button, a, input, select')].filter((e) => !(e.innerText.trim() || e.labels?.length"
        " || e.getAttribute('aria-label'))).map((e) => e.outerHTML)"
    )
    assert unnamed == [], unnamed


def check_away(browser, door):
    """The server goes and comes back, and the page says so and goes on."""
    go(browser, "streams/hostile")
    browser.until("document.querySelector('.state')?.innerText === 'live'")
    assert browser.complaints == [], browser.complaints
    door.close()
    browser.until("!document.getElementById('away').hidden")
    browser.until_text("no answer", "#status")
    door.open()
    browser.until("document.getElementById('away').hidden")
    browser.until_text("ready", "#status")
    browser.until("document.querySelector('.state')?.innerText === 'live'")
    post(f"127.0.0.1:{door.address[1]}", "/api/v1/streams/hostile/records", '{"id": 9, "note": "after it came back"}')
    browser.until("[...document.querySelectorAll('.tail li')].some((e) => e.innerText.includes('after it came back'))")
    # That the browser found nobody there is no fault of the page.
    browser.complaints = [one for one in browser.complaints if "net::ERR_" not in one]


def check_all_told(browser, origin):
    """Nothing was asked of anyone else, nothing is in a URL that should not be, and nobody complained."""
    assert browser.complaints == [], browser.complaints
    elsewhere = [url for url, _ in browser.asked if not url.startswith((f"{origin}/", "data:", "about:"))]
    assert elsewhere == [], elsewhere
    assert browser.evaluate("window.hit === undefined && document.querySelectorAll('img').length === 1")


def without_keys(address, directory):
    door = Door(address)
    with Browser(directory) as browser:
        browser.open(f"{door.url}/ui")
        assert browser.evaluate(COMPUTED) is True, browser.evaluate(COMPUTED)
        check_overview(browser, address, directory)
        shifted = browser.evaluate("window.shifted")
        assert shifted < 0.1, f"the page's parts were moved by {shifted}"
        check_streams(browser, address, directory)
        check_tail(browser, address, directory)
        # That a query is refused is told by the browser too.
        check_query(browser, directory)
        browser.complaints = [one for one in browser.complaints if "status of 40" not in one]
        check_schemas(browser, directory)
        check_jobs(browser, directory)
        check_health(browser, directory)
        check_keyboard(browser)
        check_away(browser, door)
        check_all_told(browser, door.url)


def paste(browser, key):
    browser.click("#key")
    browser.write("dialog input", key)
    browser.click("dialog button", "Use it")
    browser.until("!document.getElementById('credential').open")


def with_keys(address, directory, admin, reader):
    origin = f"http://{address}"
    with Browser(directory) as browser:
        browser.open(f"{origin}/ui#/streams")
        browser.until_text("Paste an API key")
        # Nothing is asked for again and again without a key.
        asked = len([url for url, _ in browser.asked if "/api/" in url])
        assert asked <= 2, browser.asked
        browser.picture(f"{directory}/no-key.png")
        browser.click(".note button", "Paste a key")
        browser.write("dialog input", "schlüssel")
        browser.click("dialog button", "Use it")
        browser.until_text("neither blanks nor letters", "dialog")
        browser.picture(f"{directory}/dialog.png")
        browser.click("dialog button", "Close")
        paste(browser, "ttd_live_wrong")
        browser.until_text("does not take this key")
        paste(browser, admin)
        browser.until_text("web.clicks")
        browser.until_text("private")
        assert browser.evaluate("document.querySelector('.note').hidden")
        # It outlives a reload of the tab, and is in no URL.
        browser.call("Page.reload")
        browser.until_text("web.clicks")
        go(browser, "streams/web.clicks")
        browser.until("document.querySelector('.state')?.innerText === 'live'")
        shown = [headers for url, headers in browser.asked if url.endswith("/tail")]
        assert any(headers.get("authorization", headers.get("Authorization")) == f"Bearer {admin}" for headers in shown), shown
        # A reader sees its own streams, and is told what it may not.
        go(browser, "streams")
        paste(browser, reader)
        browser.until("document.querySelectorAll('tbody tr').length === 1")
        assert "private" not in browser.text()
        go(browser, "schemas")
        browser.until_text("not permitted with this key")
        go(browser, "streams/private")
        browser.until_text("There is no such thing, or not for this key")
        browser.click("#key")
        browser.click("dialog button", "Forget the key")
        browser.until_text("Paste an API key")
        assert browser.evaluate("sessionStorage.length === 0")
        for url, _ in browser.asked:
            assert admin not in url and reader not in url, url
        browser.complaints = [one for one in browser.complaints if "status of 40" not in one]
        check_all_told(browser, origin)


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    {"open": without_keys, "keys": with_keys}[what](*given)
