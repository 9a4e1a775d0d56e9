"""docs/cli.md: every command and option, from the commands' own help."""

from __future__ import annotations

from storage.cli import app


def page() -> str:
    """The whole page."""
    text = app.generate_docs(output_format="markdown", usage_name="storage")
    # What `storage --help` ends with holds for every command; the generator leaves it out.
    return f"{text.strip()}\n\n## For every command\n\n{app.help_epilogue or ''}"
