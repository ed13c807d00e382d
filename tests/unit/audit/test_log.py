"""The log's files: what was appended is there in order, whatever happened in between."""

import errno
import os
import threading

import pytest

from ioflt.audit import log as log_module
from ioflt.audit.chain import Line, Walk
from ioflt.audit.log import EventLog, file_names
from ioflt.errors import BusyError, StorageError


def lines(directory):
    return b"".join((directory / name).read_bytes() for name in file_names(directory)).split(b"\n")


def verify(directory):
    """The events of a log without findings."""
    *whole, torn = lines(directory)
    walk = Walk()
    assert [finding for line in whole for finding in walk.line(line)] + walk.end(torn) == []
    return [Line.from_bytes(line).event for line in whole]


def append(log, *events):
    for event in events:
        log.sync(log.append(event).sequence)


def test_it_goes_on_where_it_ended(tmp_path):
    with EventLog(tmp_path) as log:
        append(log, b'"a"', b'"b"')
        head = log.head
    with EventLog(tmp_path) as log:
        assert (log.head, log.torn) == (head, None)
        append(log, b'"c"')
    assert verify(tmp_path) == [b'"a"', b'"b"', b'"c"']


def test_an_empty_log_keeps_its_first_line_for_the_first_event(tmp_path):
    EventLog(tmp_path).close()
    with EventLog(tmp_path) as log:
        append(log, b'"a"')
    assert verify(tmp_path) == [b'"a"']


def test_the_chain_goes_on_in_the_next_file(tmp_path):
    wanted = [b'"%d"' % n for n in range(30)]
    for event in wanted:
        with EventLog(tmp_path, file_size=300) as log:
            append(log, event)
    assert verify(tmp_path) == wanted
    assert file_names(tmp_path)[:3] == ["0001.jsonl", "0002.jsonl", "0003.jsonl"]
    assert all((tmp_path / name).stat().st_size < 600 for name in file_names(tmp_path))


@pytest.mark.parametrize(
    "rest", [b"{", b'{"seq":3,"prev":"0', b"\0" * 500, b"junk\nmore junk\n", b"junk\nmore"]
)
@pytest.mark.parametrize("file_size", [1 << 20, 1])
def test_what_is_no_line_at_the_end_is_set_aside(tmp_path, rest, file_size):
    with EventLog(tmp_path, file_size) as log:
        append(log, b'"a"', b'"b"')
    with (tmp_path / file_names(tmp_path)[-1]).open("ab") as file:
        file.write(rest)
    with EventLog(tmp_path, file_size) as log:
        assert log.torn.data == rest
        assert log.torn.file.read_bytes() == rest
        assert log.torn.file.name.startswith("torn-3-")
        append(log, b'"c"')
    assert verify(tmp_path) == [b'"a"', b'"b"', b'"c"']


def test_a_new_file_with_a_torn_first_line_follows_on_the_one_before(tmp_path):
    with EventLog(tmp_path) as log:
        append(log, b'"a"')
    (tmp_path / "0002.jsonl").write_bytes(b'{"seq":2')
    with EventLog(tmp_path) as log:
        append(log, b'"b"')
    assert verify(tmp_path) == [b'"a"', b'"b"']
    assert (tmp_path / "0002.jsonl").stat().st_size


def test_only_one_writes(tmp_path):
    with EventLog(tmp_path), pytest.raises(BusyError):
        EventLog(tmp_path)
    EventLog(tmp_path).close()


def test_many_threads_share_an_fsync(tmp_path, monkeypatch):
    syncs = []
    everyone = threading.Barrier(20)

    def fdatasync(fd, real=os.fdatasync):
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(log_module.os, "fdatasync", fdatasync)
    with EventLog(tmp_path) as log:

        def write(name):
            sequence = log.append(b'"%d"' % name).sequence
            everyone.wait()
            log.sync(sequence)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(syncs) <= 2  # one by the first, or by the thread that syncs what nobody waits for
    assert sorted(verify(tmp_path)) == sorted(b'"%d"' % n for n in range(20))


def test_a_line_that_nobody_waits_for_is_synced_too(tmp_path, monkeypatch):
    synced = threading.Event()
    monkeypatch.setattr(log_module.os, "fdatasync", lambda fd: synced.set())
    with EventLog(tmp_path) as log:
        log.append(b'"a"')
        assert synced.wait(10)


def test_no_space_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    with EventLog(tmp_path) as log:
        append(log, b'"a"')
        with monkeypatch.context() as patch:

            def half(fd, data, offset, real=os.pwrite):
                if len(data) < 60:
                    raise OSError(errno.ENOSPC, "")
                return real(fd, data[:40], offset)

            patch.setattr(log_module.os, "pwrite", half)
            with pytest.raises(StorageError) as raised:
                log.append(b'"b"')
            assert raised.value.errno == errno.ENOSPC
        append(log, b'"c"')
    assert verify(tmp_path) == [b'"a"', b'"c"']


def test_after_a_failed_fsync_nothing_is_taken(tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(errno.EIO, "")

    with EventLog(tmp_path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(log_module.os, "fdatasync", fail)
            with pytest.raises(StorageError):
                append(log, b'"a"')
        for _ in range(2):
            with pytest.raises(StorageError, match="cannot sync"):
                log.append(b'"b"')
