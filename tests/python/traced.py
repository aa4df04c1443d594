"""Calls of gRPC with what a caller says of its trace, by a client that knows nothing of this server.

    traced.py ADDRESS STREAM METADATA...

Each METADATA is `name=value` pairs separated by semicolons, and makes one Append of two records, and one query after it."""

import sys

from stubs import Client, contract

address, stream, *calls = sys.argv[1:]
client = Client(address)
for call in calls:
    metadata = [tuple(pair.split("=", 1)) for pair in call.split(";") if pair]
    request = contract.AppendRequest(stream_id=stream, payloads=[b'{"n": 1}', b'{"n": 2}'])
    answers = list(client.append(iter([request]), metadata=metadata))
    assert [answer.accepted for answer in answers] == [2], answers
    query = contract.TimeRangeQueryRequest(stream_id=stream, start_time_unix_micros=0, end_time_unix_micros=2**62)
    records = client.query_time_range(query, metadata=metadata).records
    print(answers[0].first_sequence, len(records))
