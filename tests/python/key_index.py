"""Where the key index of a file lies: between its last row group and its footer, where other readers pass it by."""

import json

import pyarrow.parquet


def check_key_index(path, fields):
    """The file has an index of these fields, and no column chunk, page index or footer of Parquet's overlaps it."""
    footer = pyarrow.parquet.read_metadata(path)
    index = json.loads(footer.metadata[b"ttdust.key_index"])
    assert index["version"] == 1 and [field["field"] for field in index["fields"]] == fields, index
    end_of_rows = 0
    for group in range(footer.num_row_groups):
        for at in range(footer.num_columns):
            column = footer.row_group(group).column(at)
            start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
            end_of_rows = max(end_of_rows, start + column.total_compressed_size)
    bytes_of_file = path.stat().st_size
    content = path.read_bytes()
    footer_at = bytes_of_file - 8 - int.from_bytes(content[-8:-4], "little")
    for field in index["fields"]:
        buckets = 1 << field["bucket_bits"]
        end = field["offset"] + field["filter_bytes"] + 4 * (buckets + 1) + 8 * field["entries"] + 4 * buckets
        assert end_of_rows <= field["offset"] < end <= footer_at, (path, end_of_rows, field, footer_at)
        assert 0 < field["entries"] <= footer.num_rows, field
