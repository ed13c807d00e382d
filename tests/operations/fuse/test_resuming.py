"""What goes on beside a mount: no error of it ends the mount."""

import errno
import os
import threading

import pytest
import trio

from ioflt.errors import KeyNotUsable
from ioflt.fuse import resuming


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(resuming, "RETRY_S", 0.0)


@pytest.mark.allow_log("cannot be resumed now")
def test_an_error_is_said_once_and_tried_again(volume, monkeypatch, caplog):
    homes, failures = volume.homes, [OSError(errno.EIO, os.strerror(errno.EIO)) for _ in range(3)]

    def sometimes():
        if failures:
            raise failures.pop()
        return homes()

    monkeypatch.setattr(volume, "homes", sometimes)
    trio.run(resuming.run, volume, None, threading.Event())  # to its end: nothing is interrupted
    assert not failures
    assert caplog.text.count("cannot be resumed now") == 1


def test_a_key_that_is_waited_for_is_not_used_for_anything_new(volume, monkeypatch):
    """Records that nobody verified name it: on key servers it would become active."""
    keys, key = volume.keys, volume.home("vm").standing().key

    def refused(_key):
        raise KeyNotUsable("may protect nothing new: it is Deactivated")

    monkeypatch.setattr(keys, "use_key", refused)
    assert trio.run(resuming._missing, keys, {key}) == set()
