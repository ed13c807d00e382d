"""What the journal and syslog are told, by datagrams that a socket in their place receives."""

import logging
import os
import socket
from contextlib import closing
from datetime import UTC, datetime

import pytest

from ioflt.audit.chain import Head
from ioflt.audit.event import Actor, Event, to_json
from ioflt.audit.sinks import SocketSink

EVENT = Event(datetime(2026, 3, 1, tzinfo=UTC), Actor("user:a\nb", 1000, 7), "key add", reason="x\ny")
HEAD = Head(3, "ab" * 32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


def listen(path):
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(10)
    return made


def test_the_journal_gets_fields_of_one_line_each(path):
    with listen(path) as journal:
        with closing(SocketSink("journal", path)) as sink:
            sink.tell(EVENT, HEAD)
        lines = journal.recv(1 << 16).decode().splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    assert len(lines) == len(fields)
    assert fields["IOFLT_EVENT"].encode() == to_json(EVENT)
    assert fields["IOFLT_HEAD"] == str(HEAD)
    assert fields["SYSLOG_IDENTIFIER"] == "ioflt"
    assert fields["MESSAGE"] == f"key add on {os.uname().nodename} by user:a\\nb: done: x\\ny."


def test_syslog_gets_one_line(path):
    with listen(path) as syslog:
        with closing(SocketSink("syslog", path)) as sink:
            sink.tell(EVENT, HEAD)
        line = syslog.recv(1 << 16)
    assert line.startswith(b"<86>ioflt[%d]: key add on " % os.getpid())
    assert line.endswith(b" head=%s event=%s" % (str(HEAD).encode(), to_json(EVENT)))
    assert b"\n" not in line


@pytest.mark.allow_log("events are")
def test_nobody_there_is_said_once_and_whoever_comes_is_told(path, caplog):
    with closing(SocketSink("syslog", path)) as sink:
        for _ in range(3):
            sink.tell(EVENT, HEAD)
        for _ in range(2):  # started again meanwhile
            with listen(path) as syslog:
                sink.tell(EVENT, HEAD)
                assert syslog.recv(1 << 16)
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [message.startswith("events are no longer told") for message in said] == [True, False]


@pytest.mark.allow_log("events are")
def test_a_full_queue_holds_up_nobody(path):
    with listen(path) as syslog, closing(SocketSink("syslog", path)) as sink:
        for _ in range(5000):  # far more than a queue takes
            sink.tell(EVENT, HEAD)
        assert syslog.recv(1 << 16)
