"""An upload to Google Cloud Storage that becomes a file only when it is told to."""

from __future__ import annotations

from google.cloud.storage.fileio import BlobWriter


class Upload(BlobWriter):  # type: ignore[misc]
    """Google's BlobWriter without its finalizer.

    Python closes a file object that nobody holds any more, and closing this one ends the upload: what was sent until
    then would become the file. So a write whose source broke, and whose upload could not be deleted in an outage, would
    replace the file by its beginning as soon as the outage is over and the garbage is collected.
    """

    def __del__(self) -> None:
        """Nothing is sent; Google removes an upload that was not ended after a week."""
