"""Merged Parquet files as others read them: with pyarrow, with DuckDB and with Polars.

    read_merged.py STREAM_DIRECTORY SENT.ndjson

Line n of SENT.ndjson is the payload of sequence number n. The stream's schema got the column `extra` on the way: a file that
holds rows of both versions has it for all of them. `key` is a key field: each file has its index, where none of them sees it.
"""

import json
import pathlib
import sys

import duckdb
import polars
import pyarrow
import pyarrow.parquet

from key_index import check_key_index

OWN = ["_seq", "_ingest_ts", "_record_id", "_schema_version", "_metadata", "_payload"]
FIRST = {"s": pyarrow.string(), "n": pyarrow.int64()}
SECOND = {**FIRST, "extra": pyarrow.bool_()}


def with_pyarrow(files, payloads):
    """Every file by itself, in order of sequence numbers. The versions that each file holds."""
    rows, versions_of = 0, []
    for file in files:
        check_key_index(file, ["key"])
        table = pyarrow.parquet.ParquetFile(file).read()
        columns = {name: table.column(name).to_pylist() for name in table.schema.names}
        typed = {name: table.schema.field(name).type for name in table.schema.names if name not in OWN}
        versions = sorted(set(columns["_schema_version"]))
        # Rows that were checked with the first version may be written with the second.
        assert typed == SECOND or (typed == FIRST and versions == [1]), (file, versions, typed)
        assert columns["_seq"] == list(range(rows + 1, rows + 1 + table.num_rows)), file
        assert columns["_ingest_ts"] == sorted(columns["_ingest_ts"]), file
        for at in range(table.num_rows):
            assert columns["_payload"][at].encode() == payloads[rows + at], (file, at)
            record = json.loads(payloads[rows + at])
            for name in typed:
                assert columns[name][at] == record.get(name), (file, at, name)
        rows += table.num_rows
        versions_of.append(versions)
    assert rows == len(payloads), (rows, len(payloads))
    return versions_of


def with_duckdb(root, payloads):
    """The whole folder in SQL."""
    sql = duckdb.connect()
    sql.execute(f"CREATE VIEW rows AS SELECT * FROM read_parquet('{root}/**/*.parquet', union_by_name = true)")
    counts = sql.execute("SELECT count(*), min(_seq), max(_seq), count(DISTINCT _seq), count(DISTINCT _record_id) FROM rows")
    assert counts.fetchone() == (len(payloads), 1, *[len(payloads)] * 3), counts
    wrong = sql.execute("""
        SELECT _seq FROM rows WHERE
            s IS DISTINCT FROM (_payload->>'$.s')
            OR n IS DISTINCT FROM CAST(_payload->>'$.n' AS BIGINT)
            OR (_schema_version > 1 AND extra IS DISTINCT FROM CAST(_payload->>'$.extra' AS BOOLEAN))
        """).fetchall()
    assert not wrong, wrong[:10]


def with_polars(files, payloads):
    """All files as one lazy frame: what one of them has no column for is null there."""
    rows = polars.concat([polars.scan_parquet(file) for file in files], how="diagonal")
    said = {"s": polars.String, "n": polars.Int64, "extra": polars.Boolean}
    schema = rows.collect_schema()
    assert {name: schema[name] for name in said} == said, schema
    assert schema["_ingest_ts"] == polars.Datetime("us", "UTC"), schema
    table = rows.sort("_seq").collect()
    assert table["_seq"].to_list() == list(range(1, len(payloads) + 1))
    assert [payload.encode() for payload in table["_payload"]] == payloads
    for name in said:
        wanted = [json.loads(payload).get(name) for payload in payloads]
        wrong = [at + 1 for at, (found, sent) in enumerate(zip(table[name], wanted))
                 if found != sent and not (name == "extra" and table["_schema_version"][at] == 1)]
        assert not wrong, (name, wrong[:10])
    # By statistics and pages alone: what a filter passes by is not read.
    middle = len(payloads) // 2
    assert rows.filter(polars.col("_seq") == middle).select("_payload").collect().rows() == [(payloads[middle - 1].decode(),)]


def main(directory, sent):
    root = pathlib.Path(directory).resolve()
    payloads = pathlib.Path(sent).read_bytes().split(b"\n")[:-1]
    files = sorted(root.rglob("*.parquet"))
    versions = with_pyarrow(files, payloads)
    assert [1, 2] in versions, f"no file was merged over the change of the schema: {versions}"
    with_duckdb(root, payloads)
    with_polars(files, payloads)
    print(json.dumps({"files": len(files), "rows": len(payloads)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
