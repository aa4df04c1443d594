"""The Parquet files of a stream as others read them: with DuckDB, with pyarrow and with Polars.

    read_parquet.py STREAM_DIRECTORY ACKED.ndjson

Line n of ACKED.ndjson is the payload of sequence number n. Checks the folders, the rows, the payloads byte for byte and the
typed columns against the JSON. Exits with 3 while rows are missing: the flush may be still to come. Prints JSON.
"""

import datetime
import json
import pathlib
import re
import sys

import duckdb
import polars
import pyarrow
import pyarrow.parquet

OWN = ["_seq", "_ingest_ts", "_record_id", "_schema_version", "_metadata", "_payload"]
PARTITION = re.compile(r"\d{4}/\d{2}/\d{2}/\d{2}")
NOT_YET = 3
INT, TEXT, FLAG = pyarrow.int64(), pyarrow.string(), pyarrow.bool_()
PAIR = ["departure", "arrival"]
TYPED = {
    "event_id": TEXT, "timestamp": TEXT, "carrier": TEXT, "flight": INT, "tailnum": TEXT, "origin": TEXT, "dest": TEXT,
    "scheduled": PAIR, "actual": PAIR, "delay": PAIR, "air_time_minutes": INT, "distance_miles": INT, "cancelled": FLAG,
}
UTC = datetime.timezone.utc


def with_pyarrow(files, root, payloads):
    """Every file by itself, in order of sequence numbers."""
    rows = 0
    for file in files:
        partition = file.parent.relative_to(root).as_posix()
        assert PARTITION.fullmatch(partition), file
        table = pyarrow.parquet.ParquetFile(file).read()
        check_schema(table.schema)
        columns = {name: table.column(name).to_pylist() for name in table.schema.names}
        assert columns["_seq"] == list(range(rows + 1, rows + 1 + table.num_rows)), file
        assert columns["_ingest_ts"] == sorted(columns["_ingest_ts"]), file
        for at in range(table.num_rows):
            payload = payloads[rows + at]
            assert columns["_payload"][at].encode() == payload, (file, at)
            assert columns["_ingest_ts"][at].astimezone(UTC).strftime("%Y/%m/%d/%H") == partition, (file, at)
            check_typed(json.loads(payload), {name: columns[name][at] for name in TYPED})
        rows += table.num_rows
    return rows


def check_schema(schema):
    for name, kind in TYPED.items():
        found = schema.field(name).type
        if kind is PAIR:
            assert sorted(field.name for field in found) == sorted(PAIR), (name, found)
            assert all(field.type == INT for field in found), (name, found)
        else:
            assert found == kind, (name, found)
    assert set(schema.names) == set(OWN) | set(TYPED), schema.names
    assert schema.field("_ingest_ts").type == pyarrow.timestamp("us", "UTC"), schema


def check_typed(record, row):
    """A member that is missing is null; every other value is the JSON's."""
    for name in TYPED:
        assert row[name] == record.get(name), (name, row[name], record.get(name))


def with_duckdb(root, payloads):
    """The whole folder in SQL."""
    sql = duckdb.connect()
    sql.execute("SET TimeZone = 'UTC'")
    sql.execute(f"CREATE VIEW rows AS SELECT * FROM read_parquet('{root}/**/*.parquet', filename = true)")
    count, first, last, distinct, ids = sql.execute(
        "SELECT count(*), min(_seq), max(_seq), count(DISTINCT _seq), count(DISTINCT _record_id) FROM rows").fetchone()
    assert (count, first, last, distinct, ids) == (len(payloads), 1, *[len(payloads)] * 3), (count, first, last, ids)
    for sequence, payload in sql.execute("SELECT _seq, _payload FROM rows ORDER BY _seq").fetchall():
        assert payload.encode() == payloads[sequence - 1], sequence
    # What SQL sees in typed columns is what it sees in the JSON text.
    wrong = sql.execute("""
        SELECT _seq FROM rows WHERE
            carrier IS DISTINCT FROM (_payload->>'$.carrier')
            OR tailnum IS DISTINCT FROM (_payload->>'$.tailnum')
            OR flight IS DISTINCT FROM CAST(_payload->>'$.flight' AS BIGINT)
            OR delay.departure IS DISTINCT FROM CAST(_payload->>'$.delay.departure' AS BIGINT)
            OR delay.arrival IS DISTINCT FROM CAST(_payload->>'$.delay.arrival' AS BIGINT)
            OR cancelled IS DISTINCT FROM CAST(_payload->>'$.cancelled' AS BOOLEAN)
            OR strftime(_ingest_ts, '%Y/%m/%d/%H') <> regexp_extract(filename, '(\\d{4}/\\d\\d/\\d\\d/\\d\\d)/[^/]*$', 1)
        """).fetchall()
    assert not wrong, wrong[:10]
    mean = sql.execute("SELECT avg(delay.departure) FROM rows").fetchone()[0]
    delays = [json.loads(payload)["delay"]["departure"] for payload in payloads]
    known = [delay for delay in delays if delay is not None]
    assert known and abs(mean - sum(known) / len(known)) < 1e-9, mean
    return count


def with_polars(root, payloads):
    """The whole folder as one lazy frame: nested columns too."""
    rows = polars.scan_parquet(f"{root}/**/*.parquet").sort("_seq").collect()
    assert rows["_seq"].to_list() == list(range(1, len(payloads) + 1))
    assert [payload.encode() for payload in rows["_payload"]] == payloads
    for row in rows.select("_payload", *TYPED).iter_rows(named=True):
        check_typed(json.loads(row["_payload"]), row)
    return rows.height


def main(directory, acked):
    root = pathlib.Path(directory).resolve()
    payloads = pathlib.Path(acked).read_bytes().split(b"\n")[:-1]
    files = sorted(root.rglob("*.parquet"))
    footers = [(pyarrow.parquet.read_metadata(file).num_rows, file) for file in files]
    if sum(rows for rows, _ in footers) < len(payloads):
        print(f"{sum(rows for rows, _ in footers)} of {len(payloads)} rows in {len(files)} files", file=sys.stderr)
        sys.exit(NOT_YET)
    rows = with_pyarrow(files, root, payloads)
    assert rows == len(payloads), (rows, len(payloads))
    print(json.dumps({"files": len(files), "pyarrow": rows, "duckdb": with_duckdb(root, payloads),
                      "polars": with_polars(root, payloads)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
