"""Readers of a tail as others would write them: grpcio, with stubs generated from the numbers of the contract alone.

    tail.py ADDRESS STREAM SAMPLE.jsonl.gz

Reads an empty stream of the flights schema while it is written: what was there, then what comes, stopped and gone on with.
"""

import gzip
import json
import sys

import grpc

from stubs import Client, contract, refused

BATCH = 50


def append(client, stream, payloads):
    request = contract.AppendRequest(stream_id=stream, payloads=payloads)
    (answer,) = client.append(iter([request]), timeout=60)
    assert answer.accepted == len(payloads), answer
    return answer.first_sequence


def read(call, sent, first, last, historical):
    """The next records of a call: these sequence numbers, what was sent, and this mark."""
    for sequence in range(first, last + 1):
        answer = next(call)
        assert answer.record.sequence_number == sequence, (answer, sequence)
        assert answer.record.payload == sent[sequence - 1], sequence
        assert answer.record.record_id.startswith("rec_") and answer.record.stream_id.startswith("str_"), answer
        assert answer.is_historical == historical, (sequence, answer.is_historical)
    return answer.record


def main(address, stream, sample_path):
    with gzip.open(sample_path) as sample_file:
        sample = [next(sample_file).rstrip(b"\n") for _ in range(20 * BATCH)]
    client, sent = Client(address), []

    def send(count):
        payloads = sample[len(sent):len(sent) + count]
        assert append(client, stream, payloads) == len(sent) + 1
        sent.extend(payloads)

    send(5 * BATCH)
    everything = client.streaming_read(contract.StreamingReadRequest(stream_id=stream, start_sequence=1), timeout=60)
    newest = client.streaming_read(contract.StreamingReadRequest(stream_id=stream), timeout=60)
    # Its headers say that it follows.
    newest.initial_metadata()
    last = read(everything, sent, 1, 5 * BATCH, True)
    send(2 * BATCH)
    read(everything, sent, 5 * BATCH + 1, 7 * BATCH, False)
    read(newest, sent, 5 * BATCH + 1, 7 * BATCH, False)
    everything.cancel()
    send(BATCH)
    # Gone on with where it was left, and from the time of a record.
    resumed = client.streaming_read(
        contract.StreamingReadRequest(stream_id=stream, start_sequence=7 * BATCH + 1), timeout=60)
    read(resumed, sent, 7 * BATCH + 1, 8 * BATCH, True)
    by_time = client.streaming_read(
        contract.StreamingReadRequest(stream_id=stream, start_time=last.timestamp_unix_micros), timeout=60)
    first = next(by_time).record
    assert first.timestamp_unix_micros == last.timestamp_unix_micros, (first, last)
    send(BATCH)
    read(resumed, sent, 8 * BATCH + 1, 9 * BATCH, False)
    read(newest, sent, 7 * BATCH + 1, 9 * BATCH, False)
    code, found = refused(lambda request, timeout: next(client.streaming_read(request, timeout=timeout)),
                          contract.StreamingReadRequest(stream_id=stream, start_sequence=1, start_time=1))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and found["ErrorInfo"].reason == "BAD_START", (code, found)
    print(json.dumps({"sent": len(sent)}), flush=True)
    # The server is stopped now.
    try:
        next(newest)
        raise AssertionError("a record that was not sent")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    print(json.dumps({"ended": True}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
