"""Where checkpoints are kept: a folder, or a bucket of an S3-compatible store. A file is there whole or not at all.

Two verbs must be atomic, and are on both: `write` of a file that only its writer names, and `create`, of which exactly one succeeds
when several try the same name (a hard link in a folder; a put with `If-None-Match: *` in a bucket).
"""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

Fill = Callable[[BinaryIO], object]
PROBE = "conditional-puts"


class Storage(Protocol):
    """Files by name, no folders. Every verb raises OSError when the storage can't be used now."""

    def names(self) -> list[str]:
        """All files there are now, in any order."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to read, seekable. Raises FileNotFoundError."""
        ...

    def write(self, name: str, fill: Fill) -> int:
        """A new file with what `fill` writes; its size in bytes. It is durable when this returns."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """The same with these bytes, unless there is a file of that name: then False, and nothing is changed."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def where(self, name: str) -> str:
        """The file as a message should name it."""
        ...


class Folder:
    """A directory, local or shared by a file system that has rename and hard links as POSIX says (NFS does)."""

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        return os.listdir(self.path)

    def open(self, name: str) -> BinaryIO:
        return open(self.path / name, "rb")

    def write(self, name: str, fill: Fill) -> int:
        temporary, size = self._temporary(name, fill)
        os.replace(temporary, self.path / name)
        self._sync()
        return size

    def create(self, name: str, data: bytes) -> bool:
        temporary, _ = self._temporary(f"{name}.{uuid.uuid4().hex}", lambda file: file.write(data))
        try:
            os.link(temporary, self.path / name)
        except (FileExistsError, FileNotFoundError):  # not found: whoever came first has tidied up after us already
            return False
        finally:
            temporary.unlink(missing_ok=True)
        self._sync()
        return True

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def where(self, name: str) -> str:
        return str(self.path / name)

    def _temporary(self, name: str, fill: Fill) -> tuple[Path, int]:
        temporary = self.path / f"{name}.tmp"
        try:
            with open(temporary, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                return temporary, file.tell()
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def _sync(self) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Bucket:
    """`s3://bucket/prefix`. `options` goes to boto3's client as it is (`endpoint_url`, `region_name`, `aws_access_key_id`, ...); what is
    left out comes from where AWS clients look. The store must honour conditional puts (AWS, MinIO, Ceph, R2 do); `create` checks it."""

    def __init__(self, url: str, options: Mapping[str, Any]):
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ValueError(f"{url}: needs boto3: pip install 'telltale-engine[s3]'") from error
        parts = urlsplit(url)
        self.bucket, self.prefix, self.url = parts.netloc, parts.path.strip("/"), url.rstrip("/")
        self._failures, self._refused, self._conditional = (BotoCoreError, ClientError), ClientError, False
        try:
            self._client = boto3.client("s3", **options)
        except (BotoCoreError, TypeError, ValueError) as error:
            raise ValueError(f"{url}: {error}") from error

    def names(self) -> list[str]:
        start = self._key("")
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
            return [item["Key"].removeprefix(start) for page in pages for item in page.get("Contents", ())]
        except self._failures as error:
            raise OSError(f"{self.url}: {error}") from error

    def open(self, name: str) -> BinaryIO:
        try:
            return io.BytesIO(self._client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read())
        except self._failures as error:
            missing = isinstance(error, self._refused) and error.response["Error"]["Code"] in ("NoSuchKey", "404")
            raise (FileNotFoundError if missing else OSError)(f"{self.where(name)}: {error}") from error

    def write(self, name: str, fill: Fill) -> int:
        file = io.BytesIO()
        fill(file)
        size = file.tell()
        file.seek(0)
        self._put(name, file)
        return size

    def create(self, name: str, data: bytes) -> bool:
        if not self._conditional:
            self._put(PROBE, b"")
            if self._put(PROBE, b"", IfNoneMatch="*"):
                raise OSError(f"{self.url}: the store overwrites what a put with If-None-Match must not; it can't keep checkpoints")
            self._conditional = True
        return self._put(name, data, IfNoneMatch="*")

    def delete(self, name: str) -> None:
        try:
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))
        except self._failures as error:
            raise OSError(f"{self.where(name)}: {error}") from error

    def where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _put(self, name: str, data: Any, **condition: str) -> bool:
        """Whether the object is there now with these bytes; False when the condition forbade it."""
        try:
            self._client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, **condition)
        except self._failures as error:
            if condition and isinstance(error, self._refused) and error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
                return False
            raise OSError(f"{self.where(name)}: {error}") from error
        return True

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def storage(place: str, options: Mapping[str, Any]) -> Storage:
    """The storage that `checkpoint.dir` names: a path, `file:///path` or `s3://bucket/prefix`. Raises ValueError for anything else."""
    parts = urlsplit(place)
    if parts.scheme == "s3" and parts.netloc:
        return Bucket(place, options)
    if options:
        raise ValueError("options are for s3://")
    if (folder := local(place)) is None:
        raise ValueError(f"{place}: neither a path, file:///path nor s3://bucket/prefix")
    return Folder(folder)


def local(place: str) -> Path | None:
    """The folder that such a place is; None where it is none."""
    parts = urlsplit(place)
    if parts.scheme == "file" and not parts.netloc:
        return Path(parts.path)
    return None if "://" in place else Path(place)
