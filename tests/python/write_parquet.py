"""Parquet files as other programs write them: pyarrow and DuckDB.

    write_parquet.py FOLDER ROWS
"""

import datetime
import decimal
import os
import sys

import duckdb
import pyarrow
import pyarrow.parquet


def main(folder, rows):
    numbers = range(int(rows))
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    table = pyarrow.table({
        "n": pyarrow.array(numbers, pyarrow.int32()),
        "s": pyarrow.array([f"text \"{n}\"" if n % 3 else None for n in numbers], pyarrow.large_string()),
        "o": pyarrow.array([n / 4 if n % 2 else None for n in numbers], pyarrow.float64()),
        "flag": pyarrow.array([n % 2 == 0 for n in numbers], pyarrow.bool_()),
        "at": pyarrow.array([start + datetime.timedelta(seconds=n) for n in numbers], pyarrow.timestamp("us", tz="UTC")),
        "day": pyarrow.array([start.date()] * len(numbers), pyarrow.date32()),
        "price": pyarrow.array([decimal.Decimal(n).scaleb(-2) for n in numbers], pyarrow.decimal128(12, 2)),
        "list": pyarrow.array([[n, None] for n in numbers], pyarrow.list_(pyarrow.int64())),
        "group": pyarrow.array([{"a": n, "b": None} for n in numbers]),
        "raw": pyarrow.array([f'{{"n": {n}, "raw": true}}' for n in numbers], pyarrow.string()),
    })
    pyarrow.parquet.write_table(table, os.path.join(folder, "arrow.parquet"), compression="zstd", row_group_size=3000)
    pyarrow.parquet.write_table(table.slice(0, 10), os.path.join(folder, "snappy.parquet"), compression="snappy")
    columns = table.select(["n", "s", "o"])
    duckdb.sql(f"COPY (SELECT * FROM columns) TO '{folder}/duck.parquet' (FORMAT parquet, COMPRESSION zstd)")


if __name__ == "__main__":
    main(*sys.argv[1:])
