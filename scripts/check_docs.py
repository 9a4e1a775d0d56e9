"""Keeps the documentation true: it fails when a page and the code disagree.

The reference in docs/cli.md is generated from the commands themselves. Every command line that a page shows
is parsed by the real command line parser, and so is every one of scripts/demo; every link to a file must lead
somewhere.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import CycloptsError

from storage.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[1]
REFERENCE = REPOSITORY / "docs" / "cli.md"
DEMO = REPOSITORY / "scripts" / "demo"
RENEW = "run scripts/check-docs --write"

HEADER = "<!-- Made by scripts/check-docs --write from the commands' own help. Edit storage/cli/ instead. -->\n\n"

SHELL_BLOCK = re.compile(r"^```(?:console|shell|bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEMO_COMMAND = re.compile(r"^show (.+)$", re.MULTILINE)
FILE_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
# What ends the part of a shell line that is one command's own arguments.
SHELL_OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}


def reference() -> str:
    """The text that docs/cli.md must have."""
    text = app.generate_docs(output_format="markdown", usage_name="storage")
    # What `storage --help` ends with holds for every command; the generator leaves it out.
    text = f"{text.strip()}\n\n## For every command\n\n{app.help_epilogue or ''}"
    return HEADER + "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def pages() -> list[Path]:
    """The pages that people read."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("**/*.md"))]


def shown_commands(text: str) -> Iterator[list[str]]:
    """The command lines in a page's shell blocks.

    A block with prompts (`$ `) shows output as well, and only its prompted lines are commands.
    """
    for block in SHELL_BLOCK.findall(text):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in prompted or lines:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.commenters = "#"
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word not in SHELL_OPERATORS:
                    words.append(word)
                    continue
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []


def wrong_with_command(words: list[str]) -> str | None:
    """Why a command line that a page or the demo shows would not work; None when it would, or is not ours."""
    program, *arguments = words
    if program == "storage":
        if arguments[:1] == ["--help"] or arguments[-1:] == ["--help"]:
            return None
        try:
            app.parse_args(arguments, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            return f"`{shlex.join(words)}` is refused: {error}"
    elif program.startswith(("./scripts/", "scripts/", ".ci/")) and not os.access(REPOSITORY / program, os.X_OK):
        return f"`{program}` is not an executable file of this project"
    return None


def wrong_with_page(page: Path) -> Iterator[str]:
    """Everything that a page says and the project does not keep."""
    text = page.read_text(encoding="utf-8")
    # The generated reference shows usage lines, not commands.
    for words in shown_commands(text) if page != REFERENCE else ():
        if wrong := wrong_with_command(words):
            yield wrong
    for target in FILE_LINK.findall(text):
        if not (page.parent / target).exists():
            yield f"the link to {target} leads nowhere"


def main() -> int:
    """Check everything, or write the reference first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write docs/cli.md before checking")
    os.chdir(REPOSITORY)  # pages name files relative to it
    expected = reference()
    if parser.parse_args().write:
        REFERENCE.parent.mkdir(exist_ok=True)
        REFERENCE.write_text(expected, encoding="utf-8")

    found = REFERENCE.read_text(encoding="utf-8") if REFERENCE.exists() else ""
    difference = difflib.unified_diff(
        found.splitlines(), expected.splitlines(), "docs/cli.md", "the commands' help", lineterm="", n=1
    )
    wrong = 0
    for line in difference:
        print(line)
        wrong = 1
    if wrong:
        print(f"docs/cli.md: not what the commands say; {RENEW}")
    for page in pages():
        name = page.relative_to(REPOSITORY)
        if not page.exists():
            print(f"{name}: is missing")
            wrong = 1
            continue
        for complaint in wrong_with_page(page):
            print(f"{name}: {complaint}")
            wrong = 1
    for line in DEMO_COMMAND.findall(DEMO.read_text(encoding="utf-8")):
        if refusal := wrong_with_command(shlex.split(line)):
            print(f"scripts/demo: {refusal}")
            wrong = 1
    if not wrong:
        print(f"{len(pages())} pages agree with the code")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
