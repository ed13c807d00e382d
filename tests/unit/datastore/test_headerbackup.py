"""The file of `ioflt header backup`, and restores of whole homes."""

from __future__ import annotations

import os
import re
import struct
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioflt.crypto.mac import sha256
from ioflt.datastore import headers
from ioflt.datastore.recovery import HEADER_AREA
from ioflt.errors import CorruptDataError, ExistsError, IofltError, ReadOnlyError, UsageError
from ioflt.format.headerbackup import archive
from ioflt.format.headerbackup.archive import HeaderBackup, SavedHeader
from ioflt.format.luks2 import header as luks2
from ioflt.format.luks2.layout import HEADERS_SIZE, STATE_OFFSET
from ioflt.types import HomeState
from tests.unit.datastore.stored import VMX, Stored, patch, snapshot

BODY = b"body" * 3000


@pytest.fixture
def stored(tmp_path: Path, ioflt_home: Path) -> Iterator[Stored]:
    made = Stored(tmp_path)
    made.put("a.vmdk", BODY)
    made.put("web.vmx", VMX)
    made.path("sub").mkdir()
    made.put("z.log", b"")
    yield made
    made.close()


def refused(stored: Stored, saved: HeaderBackup, reason: str) -> None:
    before = snapshot(stored.top)
    with pytest.raises(IofltError, match=reason) as caught:
        headers.restore(stored.volume, "web", saved)
    assert caught.value.file
    assert snapshot(stored.top) == before


# The file


def blocks() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda places: b"".join(
            (b"%d" % n).ljust(4096, b".") if n in places else bytes(4096) for n in range(200)
        ),
        st.sets(st.integers(0, 199), min_size=1, max_size=5),
    )


@given(st.binary(max_size=300), st.dictionaries(st.sampled_from(("a", "b/c", "ü", "\udcff", "z")), blocks()))
def test_what_is_written_is_read_again(record: bytes, areas: dict[str, bytes]) -> None:
    saved = HeaderBackup(record, tuple(SavedHeader.of(path, areas[path]) for path in sorted(areas)))
    data = archive.write(saved)
    assert archive.parse(data) == saved
    assert {one.path: one.area for one in saved.headers} == areas
    assert archive.write(archive.parse(data)) == data


@given(st.binary(max_size=500), st.booleans())
def test_any_bytes_are_a_backup_or_refused_by_name(data: bytes, headed: bool) -> None:
    if headed:
        data = archive.MAGIC + struct.pack(">I", 1) + data
        data += sha256(data)
    try:
        found = archive.parse(data)
    except CorruptDataError:
        return
    assert archive.write(found) == data


FIRST = b"\x80" + bytes(24)  # of the bitmap: only block 0
BLOCK = b"x" * 4096


def sealed(body: bytes) -> bytes:
    return body + sha256(body)


def entry(path: bytes, bitmap: bytes = bytes(25), data: bytes = b"") -> bytes:
    return struct.pack(">H25s", len(path), bitmap) + path + data


def head(count: int, version: int = 1, record: bytes = b"") -> bytes:
    return archive.MAGIC + struct.pack(">III", version, count, len(record)) + record


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bad magic"),
        (b"LUKS\xba\xbe" + bytes(100), "bad magic"),
        (archive.MAGIC, "truncated"),
        (sealed(head(0, record=b"record"))[:-1], "bad checksum"),
        (sealed(head(0, version=2)), "unknown version"),
        (head(0) + bytes(32), "bad checksum"),
        (sealed(head(1)), "truncated"),
        (sealed(head(0) + b"x"), "data behind the end"),
        (sealed(archive.MAGIC + struct.pack(">III", 1, 0, 1 << 30)), "truncated"),
        (sealed(head(1 << 31)), "truncated"),
        (sealed(head(1) + entry(b"../a")), "bad path"),
        (sealed(head(1) + entry(b"/etc/shadow")), "bad path"),
        (sealed(head(1) + entry(b"")), "bad path"),
        (sealed(head(2) + entry(b"b", FIRST, BLOCK) + entry(b"a", FIRST, BLOCK)), "paths not sorted"),
        (sealed(head(2) + entry(b"a", FIRST, BLOCK) * 2), "paths not sorted"),
        (sealed(head(1) + entry(b"a")), "no header"),
        (sealed(head(1) + entry(b"a", FIRST)), "truncated"),
        (sealed(head(1) + entry(b"a", FIRST, bytes(4096))), "zero block"),
    ],
)
def test_a_bad_file_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptDataError) as caught:
        archive.parse(data)
    assert caught.value.reason == reason


def test_a_small_file_stays_small_in_memory() -> None:
    """Ten thousand containers have eight GiB of header areas, nearly all of it zeros."""
    count = 1000
    data = sealed(head(count) + b"".join(entry(b"%04d" % n, FIRST, BLOCK) for n in range(count)))
    tracemalloc.start()
    try:
        found = archive.parse(data)
        assert archive.write(found) == data
        assert tracemalloc.get_traced_memory()[1] < 8 * len(data)
    finally:
        tracemalloc.stop()
    assert found.headers[7].area == BLOCK.ljust(HEADER_AREA, b"\0")


def test_an_oversized_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_SIZE", 100)
    with pytest.raises(CorruptDataError, match="too large"):
        archive.parse(bytes(101))


def test_the_bytes_in_the_specification() -> None:
    spec = (Path(archive.__file__).parent / "SPEC.md").read_text()
    (line,) = re.findall(r"^((?:[0-9a-f]{2} ){20}[0-9a-f]{2})$", spec, re.MULTILINE)
    assert archive.write(HeaderBackup(b"x", ())) == sealed(bytes.fromhex(line))
    source = Path(archive.__file__).read_text()
    raised = set(re.findall(r'(?:Malformed|Unsupported)Error\("([^"]+)"', source))
    assert raised
    assert all(f'"{reason}"' in spec for reason in raised)


# Homes


def test_a_backup_holds_headers_and_no_state(stored: Stored, tmp_path: Path) -> None:
    heard: list[int] = []
    saved = headers.backup(stored.volume, "web", heard.append)
    assert [one.path for one in saved.headers] == ["a.vmdk", "z.log"]
    headers.restore(stored.volume, "web", saved, heard.append)
    assert sum(heard) == 3 * len(saved.headers)
    headers.write_file(tmp_path / "out", saved)
    data = (tmp_path / "out").read_bytes()
    assert headers.read_file(tmp_path / "out") == saved
    assert len(data) < 64 << 10
    assert stored.path("a.vmdk").read_bytes()[STATE_OFFSET : STATE_OFFSET + 96] not in data
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ExistsError):
        headers.write_file(tmp_path / "out", saved)


def test_a_home_without_headers_and_record_comes_back(stored: Stored) -> None:
    saved = headers.backup(stored.volume, "web")
    before = stored.home.standing().record
    for name in ("a.vmdk", "z.log"):
        patch(stored.path(name), 0, os.urandom(HEADERS_SIZE))
    stored.path(".ioflt").unlink()
    done = headers.restore(stored.volume, "web", saved)
    assert done == headers.Restored(True, ("a.vmdk", "z.log"), ())
    assert (stored.read("a.vmdk"), stored.read("z.log")) == (BODY, b"")
    after = stored.home.standing().record
    assert before is not None
    assert after is not None
    assert after.home_id != before.home_id
    assert after == replace(before, home_id=after.home_id, generation=after.generation)
    assert stored.home.standing().problem is None


def test_a_file_that_is_gone_is_named(stored: Stored) -> None:
    saved = headers.backup(stored.volume, "web")
    stored.path("z.log").unlink()
    assert headers.restore(stored.volume, "web", saved) == headers.Restored(False, ("a.vmdk",), ("z.log",))


def test_one_other_file_keeps_all_from_being_changed(stored: Stored) -> None:
    saved = headers.backup(stored.volume, "web")
    stored.path("z.log").unlink()
    stored.put("z.log", b"new")
    patch(stored.path("a.vmdk"), 0, bytes(HEADERS_SIZE))
    refused(stored, saved, "another container")


def test_a_path_through_a_symlink_is_refused(stored: Stored, tmp_path: Path) -> None:
    saved = headers.backup(stored.volume, "web")
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "victim").write_bytes(bytes(2 << 20))
    stored.path("sub").rmdir()
    stored.path("sub").symlink_to(target)
    forged = replace(saved, headers=(replace(saved.headers[0], path="sub/victim"),))
    refused(stored, forged, "symbolic link")


def _other_home(stored: Stored) -> HeaderBackup:
    home = stored.volume.make_home("other", 0o755)
    stored.put("a.vmdk", BODY, home=home)
    return headers.backup(stored.volume, "other")


def _new_key(stored: Stored) -> HeaderBackup:
    saved = headers.backup(stored.volume, "web")
    record = stored.home.standing().record
    assert record is not None
    stored.home.store(replace(record, keys=(stored.keys.new_key(),)))
    return saved


def _decrypted(stored: Stored) -> HeaderBackup:
    saved = headers.backup(stored.volume, "web")
    record = stored.home.standing().record
    assert record is not None
    stored.home.store(replace(record, state=HomeState.CLEAR, keys=(), names=("web",)))
    return saved


def _forged_record(stored: Stored) -> HeaderBackup:
    saved = headers.backup(stored.volume, "web")
    stored.path(".ioflt").unlink()
    return replace(saved, record=saved.record.replace(b'"thick":false', b'"thick":true'))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_other_home, "another home"),
        (_new_key, "another key epoch"),
        (_decrypted, "another key epoch"),
        (_forged_record, "bad MAC"),
    ],
)
def test_a_backup_of_something_else_is_refused(
    stored: Stored, make: Callable[[Stored], HeaderBackup], reason: str
) -> None:
    refused(stored, make(stored), reason)


def test_a_header_that_stock_tools_would_not_open_is_refused(stored: Stored) -> None:
    saved = headers.backup(stored.volume, "web")
    one = saved.headers[0]
    found = luks2.parse(one.area)
    digest, other = found.metadata["digests"]["0"]["digest"].encode(), b64encode(bytes(32))
    forged = replace(found, text=found.text.replace(digest, other))
    area = b"".join(luks2.serialize(forged)) + one.area[HEADERS_SIZE:]
    changed = (SavedHeader.of(one.path, area), *saved.headers[1:])
    refused(stored, replace(saved, headers=changed), "wrong volume key")


def test_a_truncated_header_area_is_refused(stored: Stored) -> None:
    saved = headers.backup(stored.volume, "web")
    zeros = tuple(SavedHeader.of(one.path, bytes(HEADER_AREA)) for one in saved.headers)
    refused(stored, replace(saved, headers=zeros), "bad magic")


def test_what_cannot_be_backed_up(stored: Stored) -> None:
    _decrypted(stored)
    with pytest.raises(UsageError, match="a clear home"):
        headers.backup(stored.volume, "web")
    stored.path(".ioflt").unlink()
    with pytest.raises(ReadOnlyError, match="no record"):
        headers.backup(stored.volume, "web")


def test_a_damaged_container_is_named_by_a_backup(stored: Stored) -> None:
    patch(stored.path("a.vmdk"), 0, bytes(HEADERS_SIZE))
    with pytest.raises(CorruptDataError) as caught:
        headers.backup(stored.volume, "web")
    assert caught.value.file == str(stored.path("a.vmdk"))
