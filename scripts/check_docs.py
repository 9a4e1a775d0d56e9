"""Keeps the documentation true: it fails when a page and the code disagree.

The references (docs/cli.md, docs/configuration.md, the views in docs/reporting.md) are generated from the code itself.
Every command line that a page shows is parsed by the real command line parser, and so is every one of scripts/demo and
every one that a message of the library names; every link to a file must lead somewhere.
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

from scripts.named_commands import named_commands, refusal
from scripts.reference import commands, configuration, views
from storage.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[1]
DEMO = REPOSITORY / "scripts" / "demo"
RENEW = "run scripts/check-docs --write"

HEADER = "<!-- Made by scripts/check-docs --write from {source}, which is what to edit. -->\n\n"
BEGIN, END = "<!-- {name}:begin -->", "<!-- {name}:end -->"

SHELL_BLOCK = re.compile(r"^```(?:console|shell|bash|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEMO_COMMAND = re.compile(r"^show (.+)$", re.MULTILINE)
FILE_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
# What ends the part of a shell line that is one command's own arguments.
SHELL_OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}


def generated() -> dict[Path, str]:
    """The text that each generated page must have, those with a generated part among them."""
    docs = REPOSITORY / "docs"
    texts = {
        docs / "cli.md": HEADER.format(source="storage/cli/") + commands.page(),
        docs / "configuration.md": HEADER.format(source="storage/config.py") + configuration.page(),
    }
    reporting = docs / "reporting.md"
    if reporting.exists():
        texts[reporting] = with_part(reporting.read_text(encoding="utf-8"), "views", views.section())
    return {path: tidy(text) for path, text in texts.items()}


def tidy(text: str) -> str:
    """The text without blanks at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def with_part(text: str, name: str, part: str) -> str:
    """A page with the part between its two marks replaced; as it is if it has no such marks."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    return f"{before}{begin}\n\n{part}\n\n{end}{after}" if found and closed else text


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
    for words in shown_commands(text) if page.name != "cli.md" else ():
        if wrong := wrong_with_command(words):
            yield wrong
    for target in FILE_LINK.findall(text):
        if not (page.parent / target).exists():
            yield f"the link to {target} leads nowhere"


def wrong_with_references() -> Iterator[str]:
    """How what is generated differs from what is there."""
    for path, expected in generated().items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        name = str(path.relative_to(REPOSITORY))
        yield from difflib.unified_diff(found.splitlines(), expected.splitlines(), name, "the code", lineterm="", n=1)
        if found != expected:
            yield f"{name}: not what the code says; {RENEW}"


def wrong_with_pages() -> Iterator[str]:
    """What any page, or the demo, says and the project does not keep."""
    for page in pages():
        name = page.relative_to(REPOSITORY)
        for complaint in wrong_with_page(page) if page.exists() else ["is missing"]:
            yield f"{name}: {complaint}"
    for line in DEMO_COMMAND.findall(DEMO.read_text(encoding="utf-8")):
        if wrong := wrong_with_command(shlex.split(line)):
            yield f"scripts/demo: {wrong}"


def wrong_with_messages() -> Iterator[str]:
    """Commands that the library names and does not have."""
    for path in sorted((REPOSITORY / "storage").rglob("*.py")):
        for command in named_commands(path.read_text(encoding="utf-8")):
            if wrong := refusal(command):
                yield f"{path.relative_to(REPOSITORY)}: `{command}` is refused: {wrong}"


def main() -> int:
    """Check everything, or write the references first."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write what is generated before checking")
    os.chdir(REPOSITORY)  # pages name files relative to it
    if parser.parse_args().write:
        for path, text in generated().items():
            path.write_text(text, encoding="utf-8")
    wrong = [*wrong_with_references(), *wrong_with_pages(), *wrong_with_messages()]
    for line in wrong:
        print(line)
    if not wrong:
        print(f"{len(pages())} pages and the library's messages agree with the code")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
