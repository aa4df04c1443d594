"""An import as others would begin it: grpcio, with stubs generated from the numbers of the contract alone.

    import_batch.py ADDRESS STREAM FOLDER SAMPLE.jsonl.gz

Writes files into FOLDER, which the server may read, and imports them into a stream of the flights schema.
"""

import gzip
import json
import os
import sys
import time

import grpc

from stubs import Client, contract, refused

RECORDS = 2000
PENDING, RUNNING, COMPLETED, FAILED = 1, 2, 3, 4


def finished(client, job):
    """The job once it has ended; what it says meanwhile never goes back."""
    processed = 0
    while True:
        answer = client.get_batch_job(contract.GetBatchJobRequest(job_id=job), timeout=60)
        assert answer.job_id == job and answer.records_processed >= processed, answer
        processed = answer.records_processed
        assert answer.records_succeeded + answer.records_failed == processed, answer
        if answer.status in (COMPLETED, FAILED):
            assert answer.completed_at_unix_micros >= answer.created_at_unix_micros > 0, answer
            return answer
        assert answer.status in (PENDING, RUNNING) and answer.completed_at_unix_micros == 0, answer
        time.sleep(0.02)


def main(address, stream, folder, sample_path):
    with gzip.open(sample_path) as sample_file:
        sample = [next(sample_file).rstrip(b"\n") for _ in range(RECORDS)]
    bad = json.dumps({**json.loads(sample[0]), "carrier": 7}).encode()
    lines = sample[:10] + [b"nonsense"] + sample[10:1000] + [bad] + sample[1000:]
    with gzip.open(os.path.join(folder, "flights.jsonl.gz"), "wb") as file:
        file.write(b"\n".join(lines) + b"\n")
    client = Client(address)

    def request(name, **more):
        uri = "file://" + os.path.join(folder, name)
        return contract.IngestBatchRequest(**{
            "stream_id": stream, "source_uri": uri, "format": contract.FORMAT_JSON_LINES, **more})

    begun = client.ingest_batch(request("flights.jsonl.gz"), timeout=60)
    assert begun.job_id.startswith("job_") and begun.status == PENDING, begun
    done = finished(client, begun.job_id)
    assert done.status == COMPLETED and done.stream_id.startswith("str_"), done
    assert (done.records_succeeded, done.records_failed) == (RECORDS, 2), done
    assert [(error.line_number, error.field) for error in done.errors] == [(11, ""), (1002, "/carrier")], done
    records, _ = client.read_all(stream, 1000)
    assert [record.payload for record in records] == sample

    failed = finished(client, client.ingest_batch(request("missing.jsonl"), timeout=60).job_id)
    assert failed.status == FAILED and failed.errors[0].line_number == 0 and failed.errors[0].message, failed
    code, found = refused(client.ingest_batch, request("../elsewhere.jsonl"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    assert found["BadRequest"].field_violations[0].field == "/source_uri", found
    code, _ = refused(client.ingest_batch, request("flights.jsonl.gz", format=contract.FORMAT_UNSPECIFIED))
    assert code == grpc.StatusCode.INVALID_ARGUMENT, code
    code, _ = refused(client.ingest_batch, request("flights.jsonl.gz", stream_id="none"))
    assert code == grpc.StatusCode.NOT_FOUND, code
    code, _ = refused(client.get_batch_job, contract.GetBatchJobRequest(job_id="job_none"))
    assert code == grpc.StatusCode.NOT_FOUND, code


if __name__ == "__main__":
    main(*sys.argv[1:])
