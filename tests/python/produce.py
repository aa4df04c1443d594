"""A producer as others would write it: grpcio, with stubs generated from the numbers of the contract alone.

    produce.py ADDRESS STREAM SAMPLE.jsonl.gz ACKED.ndjson [CA.pem [CERT.pem KEY.pem]]

Drives every method of the data plane on an empty stream of the flights schema, checks each answer, and writes the payloads
of the acked records to ACKED.ndjson: line n is sequence number n. With a CA, over TLS. Prints what it saw as JSON.
"""

import gzip
import json
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from google.protobuf import descriptor_pb2

from stubs import Client, contract, fault, refused

STREAMED, APPENDED, BATCH = 300, 3000, 250
MICROS_2020 = 1_577_836_800_000_000


class Acked:
    """The payloads of acked records: sequence numbers are dense, so a list is enough."""

    def __init__(self):
        self.payloads = []
        self.metadata = {}

    def take(self, sequence, payload, metadata=None):
        self.payloads.append(payload)
        assert sequence == len(self.payloads), (sequence, len(self.payloads))
        self.metadata[sequence] = metadata or {}


def odd(payload):
    """The same record with other bytes: white space, escapes, another order of members."""
    record = json.loads(payload)
    text = json.dumps(dict(reversed(record.items())), indent=1).replace("\n", " \t")
    return text.replace('"carrier"', '"c\\u0061rrier"').encode()


def bad(payload):
    record = json.loads(payload)
    record["flight"] = 0
    record["delay"]["arrival"] = "late"
    return json.dumps(record).encode()


def request(stream, payload, key=None, metadata=None):
    message = contract.IngestRequest(stream_id=stream, payload=payload, metadata=metadata or {})
    if key is not None:
        message.idempotency_key = key
    return message


def stream_records(client, stream, sample, acked):
    """IngestStream: metadata, keys, a duplicate, two bad records; one answer a request, in order."""
    metadata = {"source": "tower \u00e9", "quote": '"', "empty": ""}
    requests = [request(stream, payload, f"key-{n}", metadata) for n, payload in enumerate(sample)]
    requests.append(request(stream, sample[1], "key-0"))
    requests.append(request(stream, bad(sample[0])))
    requests.append(request(stream, b"{not json"))
    requests.append(request(stream, odd(sample[0])))
    answers = list(client.ingest_stream(iter(requests), timeout=120))
    assert len(answers) == len(requests), len(answers)
    good = answers[:len(sample)]
    for payload, answer in zip(sample, good):
        assert answer.status == contract.STATUS_OK and not answer.HasField("error"), answer
        assert answer.record_id.startswith("rec_") and answer.timestamp_unix_micros > MICROS_2020, answer
        acked.take(answer.sequence_number, payload, metadata)
    assert len({answer.record_id for answer in good}) == len(good)
    duplicate, invalid, broken, last = answers[len(sample):]
    assert duplicate.status == contract.STATUS_DUPLICATE, duplicate
    assert (duplicate.record_id, duplicate.sequence_number) == (good[0].record_id, good[0].sequence_number)
    assert invalid.status == contract.STATUS_VALIDATION_ERROR, invalid
    assert invalid.error.code == "SCHEMA_VIOLATION" and invalid.error.message, invalid
    assert {fault.path for fault in invalid.error.field_errors} == {"/flight", "/delay/arrival"}, invalid
    assert all(fault.message for fault in invalid.error.field_errors), invalid
    assert broken.status == contract.STATUS_VALIDATION_ERROR and broken.error.code == "NOT_JSON", broken
    assert last.status == contract.STATUS_OK, last
    acked.take(last.sequence_number, requests[-1].payload)
    return [good[0].record_id, good[0].timestamp_unix_micros, last.timestamp_unix_micros]


def call_unary(client, stream, sample, acked):
    """Ingest: taken, duplicate, and each failure as a status with its details."""
    answer = client.ingest(request(stream, sample[0], "unary", {"by": "unary"}), timeout=60)
    assert answer.status == contract.STATUS_OK, answer
    acked.take(answer.sequence_number, sample[0], {"by": "unary"})
    again = client.ingest(request(stream, sample[1], "unary"), timeout=60)
    assert again.status == contract.STATUS_DUPLICATE and again.record_id == answer.record_id, again

    code, found = refused(client.ingest, request(stream, bad(sample[0])))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    fields = {violation.field: violation.description for violation in found["BadRequest"].field_violations}
    assert set(fields) == {"/flight", "/delay/arrival"} and all(fields.values()), fields
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == ("SCHEMA_VIOLATION", "ttdust"), found
    assert "RetryInfo" not in found, "trying again cannot help"

    cases = [
        (request("nowhere", sample[0]), grpc.StatusCode.NOT_FOUND, "STREAM_NOT_FOUND"),
        (request(stream, b'{"a":1} x'), grpc.StatusCode.INVALID_ARGUMENT, "NOT_JSON"),
        (request(stream, b" " * (5 << 20)), grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE"),
    ]
    for message, expected, reason in cases:
        code, found = refused(client.ingest, message)
        assert (code, found["ErrorInfo"].reason) == (expected, reason), (code, found)
    # The same in a stream: what came before is answered, then the call ends.
    answers = client.ingest_stream(iter([request(stream, sample[2]), request("nowhere", sample[0])]), timeout=60)
    answer = next(answers)
    acked.take(answer.sequence_number, sample[2])
    try:
        raise AssertionError(f"taken: {next(answers)}")
    except grpc.RpcError as error:
        assert fault(error)[0] == grpc.StatusCode.NOT_FOUND, error


def sums(answer, sent):
    total = answer.accepted + answer.duplicates + answer.rejected + answer.dead_lettered
    assert total == sent, answer


def append_records(client, stream, sample, acked):
    """Append: batches with a sticky stream, keys, and one bad record under SKIP and under ATOMIC."""
    batches = [sample[at:at + BATCH] for at in range(0, len(sample), BATCH)]
    requests = [contract.AppendRequest(payloads=batch, metadata={"by": "append"}) for batch in batches]
    requests[0].stream_id = stream
    mixed = [sample[0], bad(sample[1]), sample[2], sample[3]]
    keys = ["append-0", "append-1", "append-2", "append-0"]
    skip = contract.AppendRequest(payloads=mixed, idempotency_keys=keys, on_invalid=contract.SKIP)
    atomic = contract.AppendRequest(payloads=mixed[:3], on_invalid=contract.ATOMIC)
    answers = list(client.append(iter(requests + [skip, atomic]), timeout=120))
    assert len(answers) == len(requests) + 2, len(answers)
    for batch, answer in zip(batches, answers):
        sums(answer, len(batch))
        assert answer.status == contract.STATUS_OK and answer.accepted == len(batch), answer
        assert answer.last_sequence - answer.first_sequence + 1 == len(batch), answer
        assert answer.schema_version == 1 and answer.timestamp_unix_micros > MICROS_2020, answer
        for n, payload in enumerate(batch):
            acked.take(answer.first_sequence + n, payload, {"by": "append"})
    skipped, refusal = answers[-2:]
    sums(skipped, 4)
    assert skipped.status == contract.STATUS_OK, skipped
    assert (skipped.accepted, skipped.duplicates, skipped.rejected) == (2, 1, 1), skipped
    assert [row.index for row in skipped.row_errors] == [1], skipped
    assert {fault.path for fault in skipped.row_errors[0].error.field_errors} == {"/flight", "/delay/arrival"}
    duplicates = [(found.index, found.sequence_number) for found in skipped.duplicate_sequences]
    assert duplicates == [(3, skipped.first_sequence)], skipped
    acked.take(skipped.first_sequence, mixed[0])
    acked.take(skipped.last_sequence, mixed[2])
    sums(refusal, 3)
    assert refusal.status == contract.STATUS_VALIDATION_ERROR and refusal.rejected == 3, refusal
    assert [row.index for row in refusal.row_errors] == [1] and refusal.HasField("error"), refusal


def write_session(client, stream, sample, acked):
    """A writer that numbers its records: duplicates, a row that is rejected, a gap, a new epoch that fences the old one."""
    def ask(first, payloads, epoch=1):
        return contract.AppendRequest(stream_id=stream, payloads=payloads, on_invalid=contract.SKIP, writer_id="tower",
                                      writer_epoch=epoch, first_writer_sequence=first)

    asked = [ask(0, sample[:3]), ask(3, [bad(sample[3]), sample[4]]), ask(1, sample[1:6]), ask(7, sample[:1]), ask(6, [], 2)]
    first, mixed, again, gap, opened = client.append(iter(asked), timeout=60)
    assert (first.accepted, mixed.accepted, mixed.rejected) == (3, 1, 1), (first, mixed)
    assert (again.accepted, again.duplicates, again.rejected) == (1, 3, 1), again
    originals = [(found.index, found.sequence_number) for found in again.duplicate_sequences]
    start = first.first_sequence
    assert originals == [(0, start + 1), (1, start + 2), (3, mixed.first_sequence)], again
    assert gap.error.code == "WRITER_SEQUENCE_GAP" and gap.rejected == 1, gap
    assert opened.status == contract.STATUS_OK, opened
    for n, payload in enumerate(sample[:3]):
        acked.take(start + n, payload)
    acked.take(mixed.first_sequence, sample[4])
    acked.take(again.first_sequence, sample[5])
    whole = lambda asked, timeout: list(client.append(iter(asked), timeout=timeout))
    code, found = refused(whole, [ask(6, sample[:1])])
    assert (code, found["ErrorInfo"].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRITER_FENCED"), found


def compressed(address, credentials, stream, sample, acked):
    """gzip on the wire, in a call of one message and in a stream."""
    client = Client(address, grpc.Compression.Gzip, credentials)
    answer = client.ingest(request(stream, sample[0]), timeout=60)
    acked.take(answer.sequence_number, sample[0])
    answers = list(client.append(iter([contract.AppendRequest(stream_id=stream, payloads=sample)]), timeout=60))
    assert [answer.accepted for answer in answers] == [len(sample)], answers
    for n, payload in enumerate(sample):
        acked.take(answers[0].first_sequence + n, payload)
    # 5 MiB in a few kB of gzip: the limit holds for what comes out.
    code, _ = refused(client.ingest, request(stream, b" " * (5 << 20)))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, code


def read_back(client, stream, acked, first):
    """QueryTimeRange: every acked record and no other, once, byte for byte, page by page."""
    records, pages = client.read_all(stream, 700)
    assert [record.sequence_number for record in records] == list(range(1, len(acked.payloads) + 1))
    for record, payload in zip(records, acked.payloads):
        assert record.payload == payload, (record.payload, payload)
        assert dict(record.metadata) == acked.metadata[record.sequence_number], record
    assert pages == -(-len(records) // 700) or pages == len(records) // 700 + 1, pages
    times = [record.timestamp_unix_micros for record in records]
    assert times == sorted(times)
    record_id, start, end = first
    assert records[0].record_id == record_id and times[0] == start
    # The range is half open, and holds what lies in it.
    part = client.query_time_range(contract.TimeRangeQueryRequest(
        stream_id=stream, start_time_unix_micros=start, end_time_unix_micros=end, limit=10_000), timeout=60)
    assert [r.sequence_number for r in part.records] == [
        r.sequence_number for r in records if start <= r.timestamp_unix_micros < end]
    code, found = refused(client.query_time_range, contract.TimeRangeQueryRequest(
        stream_id=stream, end_time_unix_micros=1, cursor="nonsense"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and found["ErrorInfo"].reason, (code, found)
    return pages


def health(client):
    stub = health_pb2_grpc.HealthStub(client.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ["", "ttdust.ingestion.v1.IngestionService", "ttdust.query.v1.QueryService"]:
        check = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(check, timeout=60).status == serving, service
        watch = stub.Watch(check, timeout=60)
        assert next(watch).status == serving, service
        watch.cancel()
    code, _ = refused(stub.Check, health_pb2.HealthCheckRequest(service="nothing"))
    assert code == grpc.StatusCode.NOT_FOUND, code
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"), timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def reflection(client):
    """Reflection: the services, and the file of a symbol with all that it imports."""
    asks = reflection_pb2.ServerReflectionRequest
    v1alpha = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo
    # The messages of v1 are those of v1alpha; only the service's name differs.
    v1 = client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        asks.SerializeToString, reflection_pb2.ServerReflectionResponse.FromString)
    names = []
    for info in (v1alpha, v1):
        requests = [
            asks(list_services="*"),
            asks(file_containing_symbol="ttdust.ingestion.v1.IngestionService.Append"),
            asks(file_containing_symbol="no.such.Symbol"),
        ]
        listed, found, missing = list(info(iter(requests), timeout=60))
        names = sorted(service.name for service in listed.list_services_response.service)
        files = [descriptor_pb2.FileDescriptorProto.FromString(text)
                 for text in found.file_descriptor_response.file_descriptor_proto]
        assert {name for file in files for name in file.dependency} <= {file.name for file in files}, files
        same_numbers(files)
        assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0], missing
    return names


def same_numbers(files):
    """What the server says of its messages is what the contract says."""
    theirs = {message.name: message for file in files for message in file.message_type}
    compared = 0
    for name, ours in contract.DESCRIPTOR.message_types_by_name.items():
        if name in theirs:
            fields = {field.number: field.name for field in theirs[name].field}
            for field in ours.fields:
                assert fields.get(field.number) == field.name, (name, field.name, fields)
                compared += 1
    assert compared > 20, compared


def tls(paths):
    """The credentials of a client that trusts a CA and may show a certificate of its own."""
    texts = [open(path, "rb").read() for path in paths]
    ca, cert, key = (texts + [None, None])[:3]
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def main(address, stream, sample_path, acked_path, *tls_paths):
    with gzip.open(sample_path) as sample_file:
        sample = [next(sample_file).rstrip(b"\n") for _ in range(STREAMED + APPENDED)]
    credentials = tls(tls_paths) if tls_paths else None
    client, acked = Client(address, credentials=credentials), Acked()
    first = stream_records(client, stream, sample[:STREAMED], acked)
    call_unary(client, stream, sample, acked)
    append_records(client, stream, sample[STREAMED:], acked)
    write_session(client, stream, sample[:6], acked)
    compressed(address, credentials, stream, sample[:100], acked)
    pages = read_back(client, stream, acked, first)
    health(client)
    services = reflection(client)
    for service in ["ttdust.ingestion.v1.IngestionService", "ttdust.query.v1.QueryService", "grpc.health.v1.Health"]:
        assert service in services, services
    with open(acked_path, "wb") as out:
        out.writelines(payload + b"\n" for payload in acked.payloads)
    print(json.dumps({"acked": len(acked.payloads), "pages": pages, "services": services}))


if __name__ == "__main__":
    main(*sys.argv[1:])
