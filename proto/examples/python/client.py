"""A client in Python: sends records with a window in flight, again where that is safe, reads them back, and follows the stream.

    client.py ADDRESS STREAM RECORDS.jsonl[.gz] [--key-field NAME]

Needs grpcio and grpcio-tools. TTDUST_API_KEY is sent where it is set. Prints what it did as JSON.
"""

import argparse
import collections
import gzip
import importlib
import json
import os
import re
import sys
import tempfile
import threading
import time

import grpc
import grpc_tools
from grpc_tools import protoc

WINDOW = 256
# The same once more, and then somebody should look.
TRIES = 10

PROTO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "proto")
FILES = ["ttdust/ingestion/v1/ingestion.proto", "ttdust/query/v1/query.proto", "google/rpc/status.proto"]


def stubs():
    """The modules of the .proto files. A program of yours would have them made once, by its build."""
    out = tempfile.mkdtemp()
    well_known = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    arguments = ["protoc", "-I" + PROTO, "-I" + well_known, "--python_out=" + out, "--grpc_python_out=" + out, *FILES]
    if protoc.main(arguments) != 0:
        sys.exit("protoc does not take the .proto files")
    sys.path.insert(0, out)
    names = ["ttdust.ingestion.v1.ingestion_pb2", "ttdust.ingestion.v1.ingestion_pb2_grpc",
             "ttdust.query.v1.query_pb2", "ttdust.query.v1.query_pb2_grpc", "google.rpc.status_pb2"]
    return [importlib.import_module(name) for name in names]


ingestion, ingestion_grpc, query, query_grpc, rpc = stubs()


def credentials():
    key = os.environ.get("TTDUST_API_KEY")
    return [("authorization", "Bearer " + key)] if key else []


def reason_and_wait(error):
    """Why a call ended, for programs, and after how many seconds it may be made again; None: it may not."""
    reason, wait = "", None
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in rpc.Status.FromString(value).details:
                if detail.type_url.endswith("/google.rpc.ErrorInfo"):
                    reason = rpc.ErrorInfo.FromString(detail.value).reason
                if detail.type_url.endswith("/google.rpc.RetryInfo"):
                    delay = rpc.RetryInfo.FromString(detail.value).retry_delay
                    wait = delay.seconds + delay.nanos / 1e9
    # Without a reason the connection broke. Either way nobody knows; the keys make it safe to send the same again.
    if error.code() == grpc.StatusCode.UNAVAILABLE and reason in ("", "OUTCOME_UNKNOWN", "SHARD_STOPPED"):
        wait = 1.0
    return reason, wait


class Sender:
    """Sends records, each with a key, until the outcome of each is known."""

    def __init__(self, channel, stream, records):
        self.service = ingestion_grpc.IngestionServiceStub(channel)
        self.stream = stream
        self.waiting = collections.deque(records)
        self.counts = collections.Counter()
        self.rejects = []

    def send(self):
        failures = 0
        while self.waiting:
            before = len(self.waiting)
            wait = self.call()
            failures = failures + 1 if len(self.waiting) == before else 0
            if failures == TRIES:
                sys.exit("no progress in %d tries" % TRIES)
            if self.waiting:
                time.sleep(wait)

    def call(self):
        """One call: what of it is not taken waits again. The seconds until the next."""
        window = threading.Semaphore(WINDOW)
        over = threading.Event()
        sent = collections.deque()
        lock = threading.Lock()

        # grpcio runs this on a thread of its own.
        def requests():
            while True:
                window.acquire()
                with lock:
                    if over.is_set() or not self.waiting:
                        return
                    key, payload = record = self.waiting.popleft()
                    sent.append(record)
                yield ingestion.IngestRequest(stream_id=self.stream, payload=payload, idempotency_key=key)

        wait = 0.0
        again = []
        try:
            # One answer a request, in order.
            for answer in self.service.IngestStream(requests(), metadata=credentials()):
                after = self.take(sent.popleft(), answer, again)
                if after > 0:
                    # The call could go on; sending less for a while is what helps.
                    wait = max(wait, after)
                    over.set()
                window.release()
        except grpc.RpcError as error:
            reason, after = reason_and_wait(error)
            if after is None:
                sys.exit("the call ended: %s %s: %s" % (error.code().name, reason, error.details()))
            wait = max(wait, after)
        finally:
            with lock:
                over.set()
            window.release()
        # In the order in which they came: first what was refused, then what was not answered.
        self.waiting.extendleft(reversed(again + list(sent)))
        return wait

    def take(self, record, answer, again):
        """Notes what became of a record; the seconds until more may be sent."""
        status = ingestion.Status.Name(answer.status).removeprefix("STATUS_")
        if status == "RATE_LIMITED":
            again.append(record)
            told = re.search(r"retry after (\d+) ms$", answer.error.message)
            return int(told[1]) / 1000 if told else 1.0
        self.counts[status] += 1
        if status == "VALIDATION_ERROR":
            self.rejects.append((record[0], answer.error.code, [fault.path for fault in answer.error.field_errors]))
        return 0.0


def read_page(channel, stream, limit):
    request = query.TimeRangeQueryRequest(
        stream_id=stream, start_time_unix_micros=0, end_time_unix_micros=2**63 - 1, limit=limit)
    answer = query_grpc.QueryServiceStub(channel).QueryTimeRange(request, metadata=credentials(), timeout=30)
    return answer.records


def follow(channel, stream, first, count):
    """Records from sequence number `first` on. One that was cut off goes on after the last that came."""
    service = query_grpc.QueryServiceStub(channel)
    seen = []
    while len(seen) < count:
        start = seen[-1] + 1 if seen else first
        call = service.StreamingRead(
            query.StreamingReadRequest(stream_id=stream, start_sequence=start), metadata=credentials())
        try:
            for answer in call:
                seen.append(answer.record.sequence_number)
                if len(seen) == count:
                    call.cancel()
                    break
        except grpc.RpcError as error:
            reason, wait = reason_and_wait(error)
            if wait is None:
                sys.exit("the tail ended: %s %s: %s" % (error.code().name, reason, error.details()))
            time.sleep(wait)
    return seen


def records_of(path, key_field):
    opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")
    with opened as lines:
        return [(str(json.loads(line)[key_field]), line.strip()) for line in lines if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("stream")
    parser.add_argument("records")
    parser.add_argument("--key-field", default="event_id", help="the member that tells records apart")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address) as channel:
        sender = Sender(channel, arguments.stream, records_of(arguments.records, arguments.key_field))
        begun = time.monotonic()
        sender.send()
        seconds = time.monotonic() - begun
        page = read_page(channel, arguments.stream, 10)
        tail = follow(channel, arguments.stream, page[0].sequence_number, len(page))
    print(json.dumps({"outcomes": dict(sender.counts), "rejects": sender.rejects[:10], "seconds": round(seconds, 2),
                      "read": len(page), "followed": tail}))


if __name__ == "__main__":
    main()
