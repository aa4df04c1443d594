"""Message classes generated at test time from contract.proto and details.proto, and the calls of a client made of them."""

import importlib
import os
import sys
import tempfile

import grpc
import grpc_tools
from grpc_tools import protoc

HERE = os.path.dirname(os.path.abspath(__file__))
WELL_KNOWN = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")


def generate(*names):
    """Generates and imports the message modules of these .proto files."""
    with tempfile.TemporaryDirectory() as out:
        protos = [name + ".proto" for name in names]
        if protoc.main(["protoc", "-I" + HERE, "-I" + WELL_KNOWN, "--python_out=" + out, *protos]) != 0:
            sys.exit("protoc does not take " + " ".join(protos))
        sys.path.insert(0, out)
        try:
            return [importlib.import_module(name + "_pb2") for name in names]
        finally:
            sys.path.remove(out)


contract, details = generate("contract", "details")

INGESTION = "/ttdust.ingestion.v1.IngestionService/"
QUERY = "/ttdust.query.v1.QueryService/"


class Client:
    """The calls of the contract on one channel."""

    def __init__(self, address, compression=None, credentials=None):
        if credentials is None:
            self.channel = grpc.insecure_channel(address, compression=compression)
        else:
            self.channel = grpc.secure_channel(address, credentials, compression=compression)
        to_bytes = lambda message: message.SerializeToString()
        parse = lambda answer: answer.FromString
        self.ingest_stream = self.channel.stream_stream(
            INGESTION + "IngestStream", to_bytes, parse(contract.IngestResponse))
        self.ingest = self.channel.unary_unary(INGESTION + "Ingest", to_bytes, parse(contract.IngestResponse))
        self.append = self.channel.stream_stream(INGESTION + "Append", to_bytes, parse(contract.AppendResponse))
        self.ingest_batch = self.channel.unary_unary(
            INGESTION + "IngestBatch", to_bytes, parse(contract.IngestBatchResponse))
        self.get_batch_job = self.channel.unary_unary(
            INGESTION + "GetBatchJob", to_bytes, parse(contract.BatchJobResponse))
        self.query_time_range = self.channel.unary_unary(
            QUERY + "QueryTimeRange", to_bytes, parse(contract.TimeRangeQueryResponse))
        self.lookup_by_key = self.channel.unary_unary(
            QUERY + "LookupByKey", to_bytes, parse(contract.KeyLookupResponse))
        self.streaming_read = self.channel.unary_stream(
            QUERY + "StreamingRead", to_bytes, parse(contract.StreamingReadResponse))

    def read_all(self, stream, limit):
        """All records of a stream, page by page, and how many pages there were."""
        records, cursor, pages = [], None, 0
        while True:
            request = contract.TimeRangeQueryRequest(
                stream_id=stream, start_time_unix_micros=0, end_time_unix_micros=2**63 - 1, limit=limit)
            if cursor is not None:
                request.cursor = cursor
            answer = self.query_time_range(request, timeout=60)
            pages += 1
            assert len(answer.records) <= limit, len(answer.records)
            records.extend(answer.records)
            if not answer.HasField("next_cursor"):
                return records, pages
            cursor = answer.next_cursor


def fault(error):
    """The gRPC code of a failed call and its google.rpc details, by name."""
    found = {}
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = details.Status.FromString(value)
            assert status.code == error.code().value[0], (status.code, error.code())
            assert status.message == error.details(), (status.message, error.details())
            for detail in status.details:
                kind = detail.type_url.removeprefix("type.googleapis.com/google.rpc.")
                found[kind] = getattr(details, kind).FromString(detail.value)
    return error.code(), found


def refused(call, request):
    """Makes a call that must fail, and returns its code and details."""
    try:
        answer = call(request, timeout=60)
    except grpc.RpcError as error:
        return fault(error)
    raise AssertionError(f"taken: {answer}")
