"""Empty buckets of the S3 servers that the tests run, and a store in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import botocore.session
import pytest

from storage.files.backends.retries import Retries
from tests.servers.seaweedfs import ACCESS_KEY, REGION, SECRET_KEY

BUCKET = "files-of-the-tests"

QUICK = Retries(attempts=6, first_pause_s=0.01, longest_pause_s=0.1)
"""As many attempts as by default, without the time between them that a real service needs to recover."""


@cache
def client(url: str) -> Any:
    """botocore's own client: what other programs do with a bucket. One for each server: it is slow to make."""
    return botocore.session.get_session().create_client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
    )


@cache
def client_with_bucket(url: str) -> Any:
    """The client, after it has made the bucket."""
    s3 = client(url)
    with suppress(s3.exceptions.BucketAlreadyExists, s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET)
    return s3


@contextmanager
def empty_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, with the credentials for it in the environment.

    Always the same one: SeaweedFS gives each bucket seven volumes, so one for every test would soon fill the disk.
    """
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_S3_ENDPOINT", "AWS_S3_BUCKET", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    s3 = client_with_bucket(url)
    while found := s3.list_objects_v2(Bucket=BUCKET).get("Contents"):
        keys = [{"Key": each["Key"]} for each in found if each["Key"].isprintable()]
        if keys:
            s3.delete_objects(Bucket=BUCKET, Delete={"Objects": keys, "Quiet": True})
        for each in found:
            if not each["Key"].isprintable():  # some tests make keys that no XML can carry
                s3.delete_object(Bucket=BUCKET, Key=each["Key"])
    yield BUCKET
