"""The first inputs of each fuzz target, from the sample data. `tests/fuzz/run.sh seeds` runs it; it replaces none but its own.

What it writes is named seed-N; a token among it is signed by a key that is made for this and thrown away, and that is good for
checking alone (token_key.pem)."""

import base64
import gzip
import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "data"
CLICK = (
    '{"event_id":"018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d","timestamp":"2024-05-06T07:08:09.123Z","event_type":"click",'
    '"user_id":"u_48151623","session_id":"s_9f86d081884c7d65","url":"/products/4711?color=green","referrer":null,'
    '"duration_ms":1834,"device":{"type":"mobile","os":"Android 14","screen_width":1080},"score":0.8125}'
)


def flights(count):
    with gzip.open(DATA / "flights.jsonl.gz") as lines:
        return [next(lines).strip() for _ in range(count)]


def varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def text_field(number, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def number_field(number, value):
    return varint(number << 3) + varint(value)


def wal():
    def entry(payloads, keys=()):
        ends = lambda parts: b"".join(struct.pack("<I", sum(map(len, parts[: n + 1]))) for n in range(len(parts)))
        tail = ends(payloads) + (ends(keys) if keys else b"") + b"m" + b"".join(keys) + b"".join(payloads)
        length = (64 + len(tail) + 7) // 8 * 8
        head = struct.pack("<IBBH", length, 1, 1 if keys else 0, 0) + bytes([5] * 16)
        head += struct.pack("<qqIIIII", 1, 7, 1, len(payloads), sum(map(len, payloads)), 1, sum(map(len, keys)))
        return (head + bytes(4) + tail).ljust(length, b"\0")

    def frame(body, lsn, segment=0):
        return struct.pack("<H", len(body)) + bytes([3, 0, 1, 0, 0, segment, 0, lsn, 1, 4, 0, 0]) + body

    one, two = entry([b'{"id":1}']), entry([b'{"id":1}', b'{"id":2}'], [b"a", b"b"])
    yield b"\0" + bytes(4096)
    yield b"\1" + frame(one, 1)
    yield b"\1" + frame(one, 1) + frame(two, 2) + frame(one, 3, 1)
    yield b"\1" + frame(one, 1) + frame(two, 255)
    yield b"\1" + frame(one, 255) + frame(two, 1)
    yield b"\2" + one
    yield b"\2" + two
    yield b"\3"
    yield b"\3" + bytes([0, 0, 0, 1, 1, 8, 16, 255])
    yield b"\3" + bytes([3, 64, 0, 128])


def grpc_messages():
    payloads = b"".join(text_field(3, flight) for flight in flights(2))
    append = text_field(1, "events") + payloads
    ingest = text_field(1, "events") + text_field(3, CLICK)
    framed = lambda message, flag=0: struct.pack(">BI", flag, len(message)) + message
    for manner in (0, 5 << 2, 9 << 2):
        yield bytes([0, manner]) + framed(append) + framed(ingest)
    yield bytes([1, 1]) + framed(gzip.compress(append, mtime=0), 1)
    yield bytes([1, 2 | 7 << 2]) + framed(bytes(pa.Codec("zstd").compress(append)), 1)
    yield bytes([2, 0]) + framed(append)[:40]
    for kind in range(4, 20):
        yield bytes([kind, 0]) + append
        yield bytes([kind, 0]) + text_field(1, text_field(1, "a") + number_field(2, 3)) + number_field(3, 1 << 40)


def grpc_connection():
    frame = lambda kind, flags, stream, payload=b"": bytes([kind, flags, stream, len(payload)]) + payload
    append = text_field(1, "events") + text_field(3, '{"id":1}')
    for method in range(12):
        yield b"\2" + frame(0, 0, 1, bytes([method])) + frame(1, 0, 1, append) + frame(2, 1, 1)
    yield b"\2" + frame(0, 0, 1, b"\0") + frame(1, 0, 1, append) * 3 + frame(3, 0, 1, bytes([0, 0, 0, 8]))
    yield b"\2" + frame(4, 0, 0, bytes([0, 0, 0, 1])) + frame(5, 0, 0, bytes([0, 4, 0, 0, 0, 1])) + frame(8, 6, 0)
    yield b"\2" + frame(6, 0, 1, b"\x83\x86") + frame(7, 4, 1, b"\x04\x01/")
    yield b"\0" + bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"pingpong"
    yield b"\1GET / HTTP/1.1\r\n\r\n"


def json_texts():
    yield from flights(2)
    yield CLICK.encode()
    yield from (text.encode() for text in (
        "[1,-0,1.0,1e2,0.5e-3,18446744073709551616,9223372036854775807]", '{"a":1,"\\u0061":2}', "1e999", "[" * 65,
        '["\\ud83d\\ude00","\\ud800","\\n\\t\\\\\\"/"]', '{"a":{"b":[{"c":null},true,false]}}', "\ufeff{}", " \n{ } \t", '{"a":1,}',
    ))
    yield b'"\xc0\xaf"'


def schemas():
    for flight in flights(2):
        yield b"0" + flight
        yield b"0" + flight.replace(b'"flight":1545', b'"flight":0')
    yield b"1" + CLICK.encode()
    yield b"1" + CLICK.replace("1834", "-1").encode()
    suite = DATA / "json-schema-test-suite" / "draft7"
    for path in sorted(suite.glob("*.json")):
        for group in json.loads(path.read_text())[:2]:
            definition = json.dumps(group["schema"], separators=(",", ":"))
            if "http" not in definition and len(definition) < 600:
                yield definition.encode() + b"\0" + json.dumps(group["tests"][0]["data"]).encode()


def compatibility():
    pairs = [
        ({"type": "string"}, {"type": "string", "maxLength": 3}),
        ({"type": "integer", "minimum": 0}, {"type": "number"}),
        ({"enum": ["a", "b"]}, {"enum": ["a", "b", "c"]}),
        ({"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"a": {"type": "number"}}}),
        ({"items": {"type": "integer"}}, {"items": {"type": ["integer", "null"]}, "maxItems": 3}),
        ({"anyOf": [{"minimum": 1}, {"type": "string"}]}, {"oneOf": [{"minimum": 1}, {"type": "string"}]}),
        ({"definitions": {"s": {"type": "string"}}, "additionalProperties": {"$ref": "#/definitions/s"}}, {"type": "object"}),
        ({"if": {"type": "string"}, "then": {"minLength": 1}, "else": False}, {"type": "string", "minLength": 1}),
        ({"not": {"const": 1}}, {"not": {"enum": [1, 2]}}),
        ({"multipleOf": 6}, {"multipleOf": 3}),
        ({"patternProperties": {"^a": {"type": "null"}}, "additionalProperties": False}, {"propertyNames": {"pattern": "^a"}}),
        ({"uniqueItems": True, "contains": {"const": 1}}, {"minItems": 1}),
        (True, {}),
    ]
    for old, new in pairs:
        yield json.dumps(old).encode() + b"\0" + json.dumps(new).encode()
        yield json.dumps(new).encode() + b"\0" + json.dumps(new).encode()


def token():
    """Signed by a key whose private half is gone when this returns."""
    part = lambda value: base64.urlsafe_b64encode(value).rstrip(b"=")
    claims = {"iss": "https://id.example", "aud": "ttdust", "sub": "fuzz", "exp": 4102444800, "role": "reader", "streams": ["a*"]}
    message = part(b'{"alg":"RS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    with tempfile.TemporaryDirectory() as scratch:
        run = lambda *command, **more: subprocess.run(command, check=True, capture_output=True, cwd=scratch, **more).stdout
        run("openssl", "genrsa", "-out", "key.pem", "2048")
        (HERE / "token_key.pem").write_bytes(run("openssl", "rsa", "-in", "key.pem", "-pubout"))
        signature = run("openssl", "dgst", "-sha256", "-sign", "key.pem", input=message)
    return message + b"." + part(signature)


def texts():
    yield b"\0" + b"10000000000000102ec40b1c3"
    yield b"\0asc"
    signed = token()
    yield b"\1" + signed
    yield b"\1" + signed[:-8]
    yield b"\1" + b"eyJhbGciOiJub25lIn0." + signed.split(b".")[1] + b"."
    yield b"\1ttd_live_018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d_" + b"0" * 64
    yield b"\2" + b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\0vendor=value,other=1"
    for time in ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00.123456789+02:00", "1772366400000000", "0000-01-01T00:00:60Z"):
        yield b"\3" + time.encode()
    for uri in ("file:///srv/in/a.csv", "file:///srv/in/../etc/passwd", "file:///srv/in/%2e%2e/x", "s3://bucket/in/a/",
                "s3://bucket/in/%2E%2E/b", "s3://other/in/a"):
        yield b"\4" + uri.encode()
    yield b"\5str_018f4e3c-5b7a-7c21-9d3e-2f6a81c4b90d"
    yield b"\5web.*.eu* web.clicks.eu-1"


def packed(data):
    yield 0, data
    yield 1, gzip.compress(data, mtime=0)
    yield 2, bytes(pa.Codec("zstd").compress(data))


def import_lines():
    text = b"\n".join(flights(3)) + b"\n\n  \n{}\nno json"
    for kind, data in packed(text):
        yield bytes([kind]) + data
    yield b"\0\xef\xbb\xbf{}\r\n{}"
    yield b"\0" + b"x" * 9000 + b"\n{}"


def import_csv():
    text = b'\xef\xbb\xbfn,s,b,o,more\r\n1,a,true,2.5,x\r\n2,,,,\r\n-3,"say ""hi"",\nyou",false,,""\r\n4,12,no,1e3,true'
    for kind, data in packed(text):
        yield bytes([kind]) + data
    yield bytes([3]) + b"n;s;o\n1;'a;b';NULL\n2;NULL;1e999\n"
    yield bytes([6]) + b'1,"a",true,\n2,b\n3,"open'
    yield bytes([9]) + b"n\ts\n1\t\"a\n"


def import_parquet():
    rows = {"n": [1, None, 3], "s": ["a", None, "\u00e9"], "o": [1.5, None, float("inf")], "b": [True, False, None],
            "payload": [CLICK, "{}", None], "l": [[1, 2], [], None], "m": [{"x": 1}, {"x": None}, None],
            "t": pa.array([1, 2, None], pa.timestamp("us")), "d": pa.array([b"ab", b"", None], pa.binary())}
    whole = pa.table(rows)
    for n, (table, codec, version) in enumerate(
        [(whole, "none", "1.0"), (whole, "zstd", "2.0"), (whole, "snappy", "1.0"), (whole, "gzip", "2.0"),
         (whole.select(["n"]), "none", "1.0"), (whole.select(["payload"]), "zstd", "1.0"), (whole.select(["l", "m"]), "snappy", "2.0")]
    ):
        out = io.BytesIO()
        pq.write_table(table, out, compression=codec, data_page_version=version, row_group_size=2, store_schema=False,
                       use_dictionary=n % 2 == 0, write_statistics=n % 3 == 0)
        yield b"\0" + out.getvalue()
        yield b"\1" + out.getvalue()


def main(corpus):
    targets = {"wal": wal, "grpc_messages": grpc_messages, "grpc_connection": grpc_connection, "json": json_texts,
               "schema": schemas, "compatibility": compatibility, "text": texts, "import_lines": import_lines,
               "import_csv": import_csv, "import_parquet": import_parquet}
    for name, seeds in targets.items():
        folder = pathlib.Path(corpus) / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        for number, seed in enumerate(seeds()):
            (folder / f"seed-{number:03}").write_bytes(seed)
        print(f"{name}: {len(list(folder.iterdir()))} inputs")


if __name__ == "__main__":
    main(sys.argv[1])
