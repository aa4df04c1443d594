"""Key lookups and both orders over gRPC, with stubs made from the contract's numbers.

    lookup.py ADDRESS STREAM LAST

The stream holds records 1 to LAST with `id` "id-N", `n` N % 7, `/deep/city` "Zürich" and `even`, all of them key fields.
"""

import json
import sys

import grpc

from stubs import Client, contract


def main(address, stream, last):
    client, last = Client(address), int(last)

    def find(field, value):
        answer = client.lookup_by_key(
            contract.KeyLookupRequest(stream_id=stream, key_field=field, key_value=value), timeout=60)
        assert answer.found == answer.HasField("record"), answer
        return answer.record if answer.found else None

    for n in (1, last // 2, last):
        record = find("id", f"id-{n}")
        assert record.sequence_number == n and json.loads(record.payload)["id"] == f"id-{n}", record
        again = find("_record_id", record.record_id)
        assert again == record, (again, record)
    assert find("/deep/city", "Zürich").sequence_number == last
    assert find("n", str(last % 7)).sequence_number == last
    assert find("even", "false").sequence_number == last - 1 + last % 2
    for field, value in (("id", "id-0"), ("n", "7"), ("n", "1.0"), ("even", "True")):
        assert find(field, value) is None, (field, value)
    try:
        find("other", "x")
        raise AssertionError("a field that was never declared")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and '"id"' in error.details(), error

    def read(order, limit=137):
        cursor = None
        while True:
            request = contract.TimeRangeQueryRequest(
                stream_id=stream, start_time_unix_micros=0, end_time_unix_micros=2**63 - 1, limit=limit)
            if order is not None:
                request.order = order
            if cursor is not None:
                request.cursor = cursor
            answer = client.query_time_range(request, timeout=60)
            yield from (record.sequence_number for record in answer.records)
            if not answer.HasField("next_cursor"):
                return
            cursor = answer.next_cursor

    upward = list(range(1, last + 1))
    assert list(read(None)) == list(read(contract.ORDER_ASC)) == upward
    assert list(read(contract.ORDER_DESC)) == upward[::-1]


if __name__ == "__main__":
    main(*sys.argv[1:])
