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


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def write_hostile(folder):
    """A page, compressed by Snappy, whose header claims 128 MiB; and one whose data claims 256 MiB."""
    path = os.path.join(folder, "snappy.parquet")
    table = pyarrow.table({"n": [1], "s": ["x" * 3_000_000]})
    pyarrow.parquet.write_table(table, path, use_dictionary=False)
    column = pyarrow.parquet.read_metadata(path).row_group(0).column(1)
    with open(path, "rb") as file:
        whole = file.read()
    # Its header: the page's type, its length, and its length when it is compressed.
    at = column.data_page_offset + 3
    assert whole[at - 3:at] == b"\x15\x00\x15", whole[at - 3:at]
    bits = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(whole[at:at + 4]))
    in_data = whole.index(varint(bits >> 1), at + 4)
    with open(os.path.join(folder, "page.parquet"), "wb") as file:
        file.write(whole[:at] + b"\xfe\xff\xff\x7f" + whole[at + 4:])
    with open(path, "wb") as file:
        file.write(whole[:in_data] + b"\xff\xff\xff\x7f" + whole[in_data + 4:])


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
    pyarrow.parquet.write_table(table, os.path.join(folder, "default.parquet"))
    pyarrow.parquet.write_table(table, os.path.join(folder, "gzip.parquet"), compression="gzip", data_page_version="2.0")
    pyarrow.parquet.write_table(table.slice(0, 10), os.path.join(folder, "brotli.parquet"), compression="brotli")
    write_hostile(folder)
    columns = table.select(["n", "s", "o"])
    duckdb.sql(f"COPY (SELECT * FROM columns) TO '{folder}/duck.parquet' (FORMAT parquet, COMPRESSION zstd)")


if __name__ == "__main__":
    main(*sys.argv[1:])
