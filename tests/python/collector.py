"""A collector of traces: takes OTLP over HTTP, decodes it with OpenTelemetry's own messages, and prints each span as JSON.

    collector.py PORT [REFUSALS]

PORT 0 is any; which one it is, is the first line. The first REFUSALS requests are answered 503 and told to come again at once."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def attributes(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def told(resource, scope, span):
    return {
        "resource": attributes(resource.attributes),
        "scope": scope.name,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "attributes": attributes(span.attributes),
        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "message": span.status.message,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    refusals = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if Handler.refusals > 0:
            Handler.refusals -= 1
            return self.answer(503, b"", {"retry-after": "0"})
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            return self.answer(404, b"")
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            for part in group.scope_spans:
                for span in part.spans:
                    line = told(group.resource, part.scope, span) | {"tenant": self.headers.get("x-tenant")}
                    print(json.dumps(line), flush=True)
        self.answer(200, ExportTraceServiceResponse().SerializeToString())

    def answer(self, status, body, headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # What is started again takes the port that it had.
    allow_reuse_address = True


Handler.refusals = int(sys.argv[2]) if len(sys.argv) > 2 else 0
server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
