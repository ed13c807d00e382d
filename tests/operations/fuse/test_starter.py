"""What `ioflt mount` does when the process that it starts never says a word."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ioflt.errors import PeerError
from ioflt.fuse import starter


@pytest.mark.parametrize("trap", ["", "trap '' TERM"], ids=["SIGTERM", "SIGKILL"])
def test_a_mount_that_hangs_is_ended(short_tmp: Path, monkeypatch: pytest.MonkeyPatch, trap: str) -> None:
    program = short_tmp / "hangs"
    program.write_text(f"#!/bin/sh\n{trap}\necho $$ > {short_tmp}/pid\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(starter, "READY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(starter, "GRACE_S", 0.2)
    for name in ("ds", "mnt"):
        (short_tmp / name).mkdir()
    with pytest.raises(PeerError, match="did not become ready"):
        starter.start(short_tmp / "ds", short_tmp / "mnt", read_only=False, allow_other=False)
    with pytest.raises(ProcessLookupError):
        os.kill(int((short_tmp / "pid").read_text()), 0)
