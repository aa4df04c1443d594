"""An S3 store that others wrote (moto), and what others (boto3, pyarrow) see in it.

serve: a store with the bucket `ttdust`; prints its address and runs until stdin ends.
list ADDRESS: keys and lengths of all objects, as JSON.
rows ADDRESS: the sequence numbers in all Parquet files, as JSON.
"""

import json
import logging
import sys

ACCESS = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


def client(address):
    import boto3

    return boto3.client("s3", endpoint_url=f"http://{address}", **ACCESS)


def serve():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = ":".join(map(str, server.get_host_and_port()))
    client(address).create_bucket(Bucket="ttdust")
    print(address, flush=True)
    sys.stdin.read()
    server.stop()


def objects(address):
    pages = client(address).get_paginator("list_objects_v2").paginate(Bucket="ttdust")
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def rows(address):
    from pyarrow import fs, parquet

    store = fs.S3FileSystem(
        access_key="test", secret_key="test", region="us-east-1", endpoint_override=address, scheme="http"
    )
    found = []
    for key in objects(address):
        if key.endswith(".parquet"):
            found += parquet.read_table(f"ttdust/{key}", filesystem=store, columns=["_seq"])["_seq"].to_pylist()
    return sorted(found)


if sys.argv[1] == "serve":
    serve()
else:
    print(json.dumps({"list": objects, "rows": rows}[sys.argv[1]](sys.argv[2])))
