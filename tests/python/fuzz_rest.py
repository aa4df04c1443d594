"""Runs schemathesis on a live server by its own document: fuzz_rest.py ADDRESS SCHEMA STREAM [KEY].

SCHEMA and STREAM are ids that exist: half of the generated ids are replaced by them, so that requests get past the look-up.
The document is made stricter than it is for clients: a member of an answer that it does not name is a failure.
"""

import os
import random
import sys
import tempfile

import schemathesis
from schemathesis.cli import schemathesis as cli

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
]

# 501 is documented where a later version will do it; 412 answers an If-Match that is no ETag; 409, 413 and 415 refuse as well.
CONFIG = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 501]
"""

address, schema_id, stream_id = sys.argv[1:4]
key = sys.argv[4] if len(sys.argv) > 4 else None
chance = random.Random(1)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    for schema in raw_schema["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if path_parameters and "id" in path_parameters and chance.random() < 0.5:
        path = context.operation.path
        known = schema_id if "/schemas" in path else stream_id if "/streams" in path else path_parameters["id"]
        return {**path_parameters, "id": known}
    return path_parameters


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and isinstance(body.get("schema_id"), str) and chance.random() < 0.5:
        return {**body, "schema_id": schema_id}
    return body


with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    with open("schemathesis.toml", "w") as config:
        config.write(CONFIG)
    arguments = ["run", f"http://{address}/openapi.json", "--checks", ",".join(CHECKS), "--seed", "20261125"]
    arguments += ["--generation-deterministic", "--no-color", "--continue-on-failure"]
    arguments += ["--max-examples", "20", "--no-shrink", "--phases", "examples,coverage,fuzzing,stateful"]
    # A tail has no end.
    arguments += ["--exclude-operation-id", "tailRecords"]
    arguments += ["--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "30"]
    if key:
        arguments += ["--header", f"x-api-key:{key}"]
    cli(arguments)
