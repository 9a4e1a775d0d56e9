"""Which bucket at which endpoint, with whose credentials: by arguments, the seed system's variables, AWS's chain."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from storage.errors import ConfigurationError, FileAccessDenied

DEFAULT_REGION: Final = "us-east-1"
"""What the AWS tools assume where none is configured; servers other than AWS mostly take any."""

CREDENTIALS_LIFETIME: Final = timedelta(minutes=5)
"""How long obstore may use what it was given before it asks again. botocore renews temporary credentials 15 minutes
before they end, so nothing that is handed out ends within this time."""


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """Where a bucket is.

    Attributes:
        bucket: its name.
        region: that requests are signed for.
        url: of the bucket itself, without a `/` behind.
        virtual_hosted: whether the bucket is part of the host's name, or of the path.
        is_aws: whether this is AWS itself, and not a compatible server.
    """

    bucket: str
    region: str
    url: str
    virtual_hosted: bool
    is_aws: bool

    @classmethod
    def resolve(cls, bucket: str | None, endpoint_url: str | None, region: str | None) -> S3Endpoint:
        """The endpoint by arguments, and where they are None by the environment.

        `AWS_S3_BUCKET`, `AWS_S3_ENDPOINT` and `AWS_S3_SECURE` are the seed system's; then come `AWS_ENDPOINT_URL_S3`,
        `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_DEFAULT_REGION` and the profile of the AWS tools.

        Raises:
            ConfigurationError: no bucket is named, or the endpoint is no http(s) URL.
        """
        name = bucket or os.environ.get("AWS_S3_BUCKET")
        if not name:
            raise ConfigurationError("no bucket is named; set file_store_path (or AWS_S3_BUCKET) to the bucket's name")
        where = (
            region
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or _session().get_config_variable("region")
            or DEFAULT_REGION
        )
        given = (
            endpoint_url
            or _seed_endpoint()
            or os.environ.get("AWS_ENDPOINT_URL_S3")
            or os.environ.get("AWS_ENDPOINT_URL")
        )
        if given:
            parts = urlsplit(given)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
                raise ConfigurationError(
                    "the S3 endpoint must be a URL such as https://s3.example.org:9000, without credentials"
                )
            return cls(name, where, f"{given.rstrip('/')}/{name}", virtual_hosted=False, is_aws=False)
        host = f"s3.{where}.amazonaws.com" + (".cn" if where.startswith("cn-") else "")
        if "." in name:  # the certificate is for one label below the host only
            return cls(name, where, f"https://{host}/{name}", virtual_hosted=False, is_aws=True)
        return cls(name, where, f"https://{name}.{host}", virtual_hosted=True, is_aws=True)

    @property
    def client_url(self) -> str:
        """The endpoint as obstore takes it: with the bucket only where it is part of the host's name."""
        return self.url if self.virtual_hosted else self.url.removesuffix(f"/{self.bucket}")


class AwsCredentials:
    """The credentials that botocore's chain finds: environment, profile, SSO, web identity, container, instance.

    Looked up once and renewed by botocore; in a thread, because most of the chain asks the disk or the network.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._found: Any = None

    def frozen(self) -> Any:
        """Access key, secret key and token at this moment (botocore's ReadOnlyCredentials). Blocks.

        Raises:
            FileAccessDenied: the chain found none, or could not renew them.
        """
        from botocore.exceptions import BotoCoreError

        try:
            with self._guard:
                if self._found is None:
                    self._found = _session().get_credentials()
                if self._found is not None:
                    return self._found.get_frozen_credentials()
        except BotoCoreError as error:
            raise FileAccessDenied(f"the AWS credentials could not be loaded ({type(error).__name__})") from error
        raise FileAccessDenied(
            "no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role"
        )

    async def __call__(self) -> dict[str, Any]:
        """As obstore asks for them."""
        frozen = await asyncio.to_thread(self.frozen)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LIFETIME,
        }


def _session() -> Any:
    try:
        import botocore.session
    except ImportError as error:
        raise ConfigurationError("S3 needs the extra `s3`: pip install 'agent-storage[s3]'") from error
    return botocore.session.get_session()


def _seed_endpoint() -> str | None:
    """AWS_S3_ENDPOINT, with the scheme that AWS_S3_SECURE says (https, unless it is `false`)."""
    endpoint = os.environ.get("AWS_S3_ENDPOINT")
    if not endpoint:
        return None
    secure = os.environ.get("AWS_S3_SECURE", "true").strip().lower() != "false"
    return f"{'https' if secure else 'http'}://{endpoint.removeprefix('https://').removeprefix('http://')}"
