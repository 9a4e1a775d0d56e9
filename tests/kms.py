"""AWS KMS for tests: a server, credentials that it takes, and keys in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.servers.moto import REGION, MotoServer


@pytest.fixture(scope="module")
def kms_server() -> Iterator[MotoServer]:
    """A server for the tests of one module."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="module")
def kms_client(kms_server: MotoServer) -> Any:
    """A boto3 client, to make keys with and to look behind the scenes."""
    import boto3

    client = boto3.session.Session().client(
        "kms",
        endpoint_url=kms_server.url,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    yield client
    client.close()


@pytest.fixture
def kms(kms_client: Any, kms_server: MotoServer, aws_credentials: None) -> Any:
    """That client, with the gate open before and after the test."""
    kms_server.gate()
    yield kms_client
    kms_server.gate()


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials and a region that boto3 finds in the environment, and none from this machine."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-aws-credentials"),
    }.items():
        monkeypatch.setenv(name, value)
    # AWS's description of its services is the same for every client, and reading it costs more than a test.
    monkeypatch.setattr("botocore.session.create_loader", lambda _=None: _loader())


@cache
def _loader() -> Any:
    from botocore.loaders import Loader

    return Loader()


__all__ = ["aws_credentials", "kms", "kms_client", "kms_server", "new_key"]


def new_key(kms: Any, **options: Any) -> str:
    """The ARN of a new key."""
    arn: str = kms.create_key(**options)["KeyMetadata"]["Arn"]
    return arn
