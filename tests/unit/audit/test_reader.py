"""The log's files, by pieces or whole: what is read of them is the same."""

from datetime import UTC, datetime

import pytest

from ioflt.audit import reader
from ioflt.audit.event import Actor, Event, to_json
from ioflt.audit.log import EventLog

EVENT = Event(datetime(2026, 3, 1, tzinfo=UTC), Actor("user:alice", 1000, 7), "key add")


@pytest.fixture
def log(tmp_path):
    """Of five files with two events each."""
    with EventLog(tmp_path, file_size=300) as log:
        for _ in range(10):
            log.append(to_json(EVENT))
    return tmp_path


def by_pages(log, size):
    number, offset, found = 0, 0, {}
    while (page := reader.page(log, number, offset, size)).name:
        found[page.name] = found.get(page.name, b"") + page.data
        assert len(page.data) <= size
        assert page.files == 5
        number, offset = (number, offset + len(page.data)) if page.data else (number + 1, 0)
    return [reader.LogFile(*each) for each in found.items()]


@pytest.mark.parametrize("size", [1, 100, 1 << 20])
def test_pages_make_the_files(log, size):
    whole = list(reader.on_disk(log))
    assert len(whole) == 5
    assert by_pages(log, size) == whole


def test_beyond_the_end_there_is_nothing(log):
    assert reader.page(log, 0, 1 << 40, 10) == reader.Page("0001.jsonl", b"", 5)
    assert reader.page(log, 2**63 - 1, 0, 10) == reader.Page("", b"", 5)


def test_all_events_are_read_and_verified(log):
    files = list(reader.on_disk(log))
    assert [(each.sequence, each.event) for each in reader.read(files)] == [(n, EVENT) for n in range(1, 11)]
    found = reader.verify(files)
    assert (found.lines, found.torn, found.findings) == (10, 0, ())


class Over(Exception):
    """Nothing comes any more."""


def test_who_follows_gets_what_is_there_and_what_comes(tmp_path):
    got = []
    with EventLog(tmp_path, file_size=300) as log:
        meanwhile = iter([1, 3, 0])

        def wait():
            if (count := next(meanwhile, None)) is None:
                raise Over
            for _ in range(count):
                log.append(to_json(EVENT))

        log.append(to_json(EVENT))
        with pytest.raises(Over):
            got.extend(each.sequence for each in reader.follow(reader.pages(tmp_path), wait))
    assert len(list(tmp_path.glob("*.jsonl"))) > 1
    assert got == [1, 2, 3, 4, 5]


def test_who_follows_reads_no_half_of_a_line(tmp_path):
    got = []
    with EventLog(tmp_path) as log:
        log.append(to_json(EVENT))
    with (tmp_path / "0001.jsonl").open("ab") as file:
        file.write(b'{"seq":2,')
    again = iter([tmp_path])

    def wait():
        if (directory := next(again, None)) is None:
            raise Over
        with EventLog(directory) as log:  # it sets the half aside
            log.append(to_json(EVENT))

    with pytest.raises(Over):
        got.extend(each.sequence for each in reader.follow(reader.pages(tmp_path), wait))
    assert got == [1, 2]


def test_only_the_end_of_the_log_may_be_torn(log):
    with (log / "0005.jsonl").open("ab") as file:
        file.write(b"{")
    found = reader.verify(reader.on_disk(log))
    assert (found.torn, found.findings) == (1, ())
    with (log / "0002.jsonl").open("ab") as file:
        file.write(b"{")
    found = reader.verify(reader.on_disk(log))
    assert [(each.file, each.fault) for each in found.findings] == [("0002.jsonl", "cut short")]
