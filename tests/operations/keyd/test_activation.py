"""keyd on a socket that systemd listens on: the units that ship, and the programs of systemd as judges."""

import subprocess
import sys
from pathlib import Path

import pytest

from ioflt.keys.client import KeyClient
from ioflt.transport import unix
from tests.waiting import PATIENCE_S

UNITS = Path(__file__).parents[3] / "tools" / "systemd"


@pytest.mark.interop("systemd-socket-activate")
def test_the_first_client_starts_it_and_the_socket_outlives_it(where):
    command = [sys.executable, "-m", "ioflt", "keyd", "start", "--foreground"]
    served = [
        "systemd-socket-activate",
        f"--listen={where.keyd_socket}",
        "-E",
        f"IOFLT_HOME={where.run.parent}",
    ]
    with subprocess.Popen([*served, *command], stderr=subprocess.PIPE, text=True) as activator:
        try:
            assert "Listening" in activator.stderr.readline()
            with KeyClient(start=False) as keys:
                status = keys.status()
                assert status.pid == activator.pid, "it became keyd"
                keys.stop()
            assert activator.wait(PATIENCE_S) == 0
            assert where.keyd_socket.is_socket()
        finally:
            activator.kill()


@pytest.mark.interop("systemd-socket-activate")
def test_another_socket_than_ours_is_refused(where):
    command = [sys.executable, "-m", "ioflt", "keyd", "start", "--foreground"]
    elsewhere = where.run / "other.sock"
    served = ["systemd-socket-activate", f"--listen={elsewhere}", "-E", f"IOFLT_HOME={where.run.parent}"]
    with subprocess.Popen([*served, *command], stderr=subprocess.PIPE, text=True) as activator:
        try:
            assert "Listening" in activator.stderr.readline()
            unix.connect(elsewhere).close()
            assert activator.wait(PATIENCE_S) == 1
            assert "the socket that was handed over is" in activator.stderr.read()
        finally:
            activator.kill()


@pytest.mark.interop("systemd-analyze")
def test_systemd_finds_nothing_to_say_about_the_units(tmp_path):
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/ioflt", "/bin/true"))
    service = tmp_path / "ioflt-keyd.service"
    verify = ["systemd-analyze", "verify", "--man=no", service]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    backup = ["systemd-analyze", "verify", "--man=no", tmp_path / "ioflt-backup@web01.timer"]
    for kind in ("service", "timer"):
        (tmp_path / f"ioflt-backup@web01.{kind}").symlink_to(f"ioflt-backup@.{kind}")
    done = subprocess.run(backup, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    exposed = ["systemd-analyze", "security", "--offline=true", "--threshold=23", service]
    subprocess.run(exposed, capture_output=True, check=True)
