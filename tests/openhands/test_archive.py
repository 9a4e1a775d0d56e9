"""Archives of state directories: every kind, and those that mean harm."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import stat
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from storage.errors import InvalidInput
from storage.openhands.archive import ArchiveTree
from storage.openhands.reader import open_home
from storage.openhands.source import Limits
from tests.openhands.conftest import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.openhands.conftest import StateDirectory


def filled(state: StateDirectory) -> StateDirectory:
    state.conversation("c1")
    state.conversation("c2", user="alice")
    state.write("sessions/c1/agent_state.pkl", bytes(range(256)) * 50)
    state.write("settings.json", {"language": "en"})
    return state


@pytest.mark.parametrize("kind", ["tar", "gztar", "bztar", "xztar", "zip"])
@pytest.mark.parametrize("below", [False, True])
def test_an_archive_reads_like_its_folder(state: StateDirectory, tmp_path: Path, kind: str, below: bool) -> None:
    filled(state)
    archive = shutil.make_archive(
        str(tmp_path / "archive"), kind, root_dir=tmp_path if below else state.root, base_dir="home" if below else None
    )
    from_folder, from_archive = read(state.root), read(tmp_path / archive)
    assert from_archive.content == from_folder.content
    assert [record.fields.values for record in from_archive.conversations] == [
        record.fields.values for record in from_folder.conversations
    ]
    assert [account.settings for account in from_archive.accounts] == [{"language": "en"}]
    assert from_archive.flaws == []


def test_the_ending_of_the_name_does_not_matter(state: StateDirectory, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "xztar", filled(state).root)
    (tmp_path / archive).rename(tmp_path / "backup")
    assert len(read(tmp_path / "backup").conversations) == 2


@pytest.mark.skipif(sys.version_info < (3, 14), reason="zstd is in the standard library from Python 3.14 on")
def test_a_zstd_archive_is_read(state: StateDirectory, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "zstdtar", filled(state).root)
    assert len(read(tmp_path / archive).conversations) == 2


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="zstd is in the standard library from Python 3.14 on")
def test_a_zstd_archive_is_refused_with_what_to_do_where_it_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(InvalidInput, match=r"zstd -d a\.tar\.zst"), open_home(tmp_path / "a.tar.zst"):
        pass


def test_modification_times_come_from_the_archive(state: StateDirectory, tmp_path: Path) -> None:
    os.utime(state.write("sessions/c1/agent_state.pkl", "x"), (1_000_000_000, 1_000_000_000))
    for kind in ("tar", "zip"):
        archive = shutil.make_archive(str(tmp_path / kind), kind, state.root)
        created = read(tmp_path / archive).only.fields.values["created_at"]
        assert created.isoformat().startswith("2001-09-09T01:46:40")


# ---- archives that mean harm


Member = tuple[str, bytes]


def tar_of(path: Path, *members: tarfile.TarInfo | Member) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD: Member = ("sessions/c1/events/0.json", b"{}")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "sessions/../../evil", "sessions/c1/../../../evil", "C:/evil"]
)
@pytest.mark.parametrize("make", ["tar", "zip"])
def test_a_member_that_points_outside_is_skipped(tmp_path: Path, name: str, make: str) -> None:
    path = tmp_path / "inner" / "archive"
    path.parent.mkdir()
    if make == "tar":
        tar_of(path, (name, b"evil"), GOOD)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"evil")
            archive.writestr(*GOOD)
    found = read(path)
    assert list(found.content) == ["sessions/c1/events/0.json"]
    assert "unsafe-member" in found.codes
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["archive", "inner"]


def test_a_member_that_lies_endlessly_deep_is_skipped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "home.tar", "w") as archive:
        for name in ("sessions/c1/" + "d/" * 50 + "f", "sessions/c1/" + "d/" * 5_000 + "f", "sessions/" + "9" * 5_000):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    reading = read(tmp_path / "home.tar")
    assert [len(file.path.split("/")) for file in reading.only.files] == [53]
    assert "unsafe-member" in reading.codes
    assert all(len(flaw.path) < 300 or flaw.code == "unknown-file" for flaw in reading.flaws)


def test_a_folder_deeper_than_python_calls_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "home.tar", "w") as archive:
        for folder in ("sessions/c1/", "workspace/"):
            archive.addfile(tarfile.TarInfo(folder + "d/" * 1_500 + "f"))
    with open_home(tmp_path / "home.tar", Limits(depth=2_000)) as home:
        (record,) = home.conversations()
        assert len(record.files) == len(list(home.loose_files())) == 1


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "a.tar.gz",
        special("sessions/c1/events/1.json", tarfile.SYMTYPE, "/etc/passwd"),
        special("sessions/c2", tarfile.SYMTYPE, "/etc"),
        ("sessions/c2/passwd", b"not through the link"),
        special("sessions/c1/events/2.json", tarfile.LNKTYPE, "../../../etc/passwd"),
        GOOD,
    )
    found = read(path)
    assert found.content == {
        "sessions/c1/events/0.json": b"{}",
        "sessions/c2/passwd": b"not through the link",
    }
    assert found.codes.count("link") == 3


def test_a_link_in_a_zip_file_is_not_followed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("sessions/c1/events/1.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr(*GOOD)
    found = read(tmp_path / "a.zip")
    assert (list(found.content), found.codes) == ([GOOD[0]], ["link", "metadata-missing"])


def test_a_second_name_of_a_file_that_is_in_the_archive_is_that_file(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar.gz", GOOD, special("./sessions/c1/copy", tarfile.LNKTYPE, "./" + GOOD[0]))
    found = read(path)
    assert found.content == {GOOD[0]: b"{}", "sessions/c1/copy": b"{}"}


def test_pipes_and_devices_in_an_archive_are_skipped(tmp_path: Path) -> None:
    path = tar_of(
        tmp_path / "a.tar.gz",
        special("sessions/c1/p", tarfile.FIFOTYPE),
        special("sessions/c1/d", tarfile.CHRTYPE),
        GOOD,
    )
    assert read(path).codes == ["metadata-missing", "special-file", "special-file"]


def test_a_file_cannot_be_used_as_a_folder(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar.gz", GOOD, (GOOD[0] + "/inside", b"x"), ("sessions/c1", b"x"))
    found = read(path)
    assert found.content == {GOOD[0]: b"{}"}
    assert found.codes == ["metadata-missing", "unsafe-member", "unsafe-member"]


def test_of_two_members_with_one_name_the_later_counts(tmp_path: Path) -> None:
    assert read(tar_of(tmp_path / "a.tar.gz", (GOOD[0], b"old"), GOOD)).content == {GOOD[0]: b"{}"}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(total_bytes=100_000), "unpacks to more than"),
        (Limits(members=2), "more than 2 members"),
        (Limits(expansion=10, expansion_grace_bytes=1000), "bomb"),
    ],
)
@pytest.mark.parametrize("make", ["tar", "zip"])
def test_an_archive_that_breaks_a_limit_is_refused(tmp_path: Path, limits: Limits, message: str, make: str) -> None:
    members = [(f"sessions/c1/events/{number}.json", bytes(60_000)) for number in range(3)]
    path = tmp_path / "bomb"
    if make == "tar":
        tar_of(path, *members)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in members:
                archive.writestr(*member)
    with pytest.raises(InvalidInput, match=message), open_home(path, limits):
        pass


@pytest.mark.parametrize("make", ["tar", "zip"])
def test_a_member_over_the_limit_is_skipped(tmp_path: Path, make: str) -> None:
    big = ("sessions/c1/events/1.json", bytes(5000))
    if make == "tar":
        tar_of(tmp_path / "a", big, GOOD)
    else:
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            archive.writestr(*big)
            archive.writestr(*GOOD)
    with open_home(tmp_path / "a", Limits(file_bytes=1000)) as home:
        assert [file.path for file in next(home.conversations()).files] == [GOOD[0]]
        assert [flaw.code for flaw in home.flaws] == ["file-too-large"]


def test_a_header_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 5 * 1024**3
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf() + bytes(10_000))
    with pytest.raises(InvalidInput, match="damaged or hostile"), open_home(tmp_path / "a.tar.gz"):
        pass


def test_what_comes_before_the_damage_is_read(state: StateDirectory, tmp_path: Path) -> None:
    for number in range(40):
        state.write(f"sessions/c{number:02}/agent_state.pkl", os.urandom(20_000))
    whole = shutil.make_archive(str(tmp_path / "whole"), "gztar", state.root)
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes((tmp_path / whole).read_bytes()[:400_000])
    found = read(cut)
    assert 10 < len(found.conversations) < 40
    assert all(len(content) == 20_000 for content in found.content.values())
    assert found.codes.count("damaged-archive") == 1


def test_a_damaged_member_of_a_zip_file_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("sessions/c1/agent_state.pkl", b"find-me-and-break-me")
        archive.writestr(*GOOD)
    path.write_bytes(path.read_bytes().replace(b"find-me", b"lost-me"))
    found = read(path)
    assert (list(found.content), found.codes) == ([GOOD[0]], ["metadata-missing", "unreadable-file"])


@pytest.mark.parametrize(
    "content", [b"", b"not an archive" * 100, b"PK\x03\x04broken", b"\x1f\x8bbroken", lzma.compress(b"no tar" * 200)]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidInput, match="is not an archive that can be read"), open_home(tmp_path / "a"):
        pass


def test_an_empty_archive_holds_no_state(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no OpenHands state"), open_home(tar_of(tmp_path / "a.tar.gz")):
        pass


def test_nothing_is_left_in_the_temporary_folder(
    state: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "xztar", filled(state).root)
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    with open_home(archive) as home:
        assert len(list(home.conversations())) == 2
        assert list(private.iterdir()) == []
    assert list(private.iterdir()) == []


def test_a_missing_folder_and_file_of_an_archive_are_missing(tmp_path: Path) -> None:
    with ArchiveTree(tar_of(tmp_path / "a.tar.gz", GOOD), Limits()) as tree:
        missing: list[Callable[[str], object]] = [tree.entries, tree.read]
        for ask in missing:
            with pytest.raises(FileNotFoundError):
                ask("sessions/nowhere")
