"""Empty buckets of the S3 servers that the tests run, and a store in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import botocore.session
import pytest

from tests.servers.seaweedfs import ACCESS_KEY, REGION, SECRET_KEY

BUCKET = "files-of-the-tests"


def client(url: str) -> Any:
    """botocore's own client: what other programs do with a bucket."""
    return botocore.session.get_session().create_client(
        "s3", endpoint_url=url, region_name=REGION, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
    )


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
    s3 = client(url)
    with suppress(s3.exceptions.BucketAlreadyExists, s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET)
    while found := s3.list_objects_v2(Bucket=BUCKET).get("Contents"):
        for each in found:  # one by one: some tests make keys that no XML can carry
            s3.delete_object(Bucket=BUCKET, Key=each["Key"])
    yield BUCKET
