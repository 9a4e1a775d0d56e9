"""The way in from OpenHands: state directories that its file-based stores wrote, read and moved into SQL."""

from __future__ import annotations
