"""An S3-compatible server on loopback, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


@contextmanager
def s3() -> Iterator[dict[str, Any]]:
    """Options of a client for it; it has a bucket `checkpoints`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = KEYS | {"endpoint_url": f"http://{host}:{port}"}
    try:
        client = boto3.client("s3", **options)
        client.create_bucket(Bucket="checkpoints")
        client.close()
        yield options
    finally:
        server.stop()
