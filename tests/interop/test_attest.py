"""A report of `ioflt attest` in the hands of an auditor: Python, openssl and cryptsetup, nothing of ioflt."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ioflt import paths
from ioflt.cli.main import cli
from ioflt.datastore import lifecycle, registration
from ioflt.datastore.volume import Volume
from ioflt.keys.client import KeyClient
from ioflt.types import HomeState
from tests.operations.keyd.test_events import events

pytestmark = pytest.mark.interop("cryptsetup", "openssl")

VERIFIER = Path(__file__).parents[2] / "tools" / "verify_attest.py"
VMX = '.encoding = "UTF-8"\ndisplayName = "web"\nscsi0:0.fileName = "web.vmdk"\n'
ODD = os.fsdecode(b"n\xf6tes \x1b.txt")


class Audit:
    """The datastore `ds` with the encrypted VM `web` and the clear `plain`; its report, and the key."""

    def __init__(self, top: Path) -> None:
        self.ds, self.report, self.key = top / "ds", top / "report", top / "key.pem"
        with KeyClient.connect() as keys:
            Volume.init(self.ds, HomeState.ENCRYPTED, keys)
            for name in ("web", "plain"):
                (self.ds / name).mkdir()
                (self.ds / name / "web.vmx").write_text(VMX)
                (self.ds / name / "web-flat.vmdk").write_bytes(b"plain as day" * 1000)
            (self.ds / "plain" / "logs").mkdir()
            (self.ds / "plain" / "logs" / ODD).write_text("x")
            (self.ds / "readme").write_text("of the datastore")
            with Volume.open(self.ds, keys) as volume:
                for name in ("web", "plain"):
                    registration.register(volume, name, clear=True)
                lifecycle.encrypt(volume, "web")
        run("attest", str(self.ds), "--out", str(self.report))
        self.key.write_text(run("attest", "--public-key"))

    def verify(self, *more: Path) -> tuple[int, str]:
        """By a Python that finds no ioflt, nor anything else beside its own library."""
        command = [sys.executable, "-I", "-S", VERIFIER, self.report, self.key, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert not done.stderr
        return done.returncode, done.stdout

    def content(self) -> dict[str, object]:
        found = json.loads(self.report.read_bytes().split(b"\n")[3])
        assert isinstance(found, dict)
        return found


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def audit(ioflt_home: Path, tmp_path: Path) -> Audit:
    return Audit(tmp_path)


@pytest.mark.root
def test_a_vm_that_cannot_be_looked_at_is_reported_as_that_and_all_others_as_ever(
    audit: Audit, tmp_path: Path
) -> None:
    (audit.ds / "web").chmod(0)
    audit.report.unlink()
    lacking = "-dac_override,-dac_read_search"
    limited = ["setpriv", "--bounding-set", lacking, "--inh-caps", lacking, sys.executable, "-m", "ioflt"]
    done = subprocess.run(
        [*limited, "attest", audit.ds, "--out", audit.report], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "web: cannot be looked at" in done.stderr) == (13, True), done.stderr
    datastore = audit.content()["datastore"]
    assert isinstance(datastore, dict)
    plain, web = datastore["vms"]
    assert (web["name"], web["state"], web["files"]) == ("web", "unreadable", [])
    assert "Permission denied" in web["problem"]
    assert plain["files"]
    code, said = audit.verify()
    assert code == 0
    assert "PROBLEM" in said
    code, said = audit.verify(audit.ds)  # who may look finds what the report lacks
    assert code == 1
    assert "DIFFERS: web/web-flat.vmdk" in said


def test_a_report_holds(audit: Audit) -> None:
    code, said = audit.verify(audit.ds)
    assert code == 0, said
    assert "web-flat.vmdk" in said
    assert "each file of the report is there" in said
    assert "\x1b" not in said


def test_it_tells_ciphertext_from_what_is_clear(audit: Audit) -> None:
    datastore = audit.content()["datastore"]
    assert isinstance(datastore, dict)
    plain, web = datastore["vms"]
    assert {one["path"]: one["stored_as"] for one in web["files"]} == {
        "web-flat.vmdk": "container",
        "web.vmx": "sealed VMX",
    }
    assert {one["stored_as"] for one in plain["files"]} == {"clear"}
    assert [one["path"] for one in datastore["files"]] == ["readme"]
    me = f"user:{pwd.getpwuid(os.geteuid()).pw_name}"
    assert [one["who"] for one in web["could_read"]] == [me]
    assert [one["who"] for one in web["did_read"]] == [me]
    assert (plain["could_read"], plain["did_read"], plain["keys"]) == (None, [], [])


def test_it_is_an_event_and_the_head_is_signed(audit: Audit) -> None:
    statement = json.loads(audit.report.read_bytes().split(b"\n")[1])
    (told,) = [one for one in events(paths.find()) if one.operation == "attest"]
    assert told.changes[0].after == statement["report"]
    assert run("events", "verify", "--head", statement["head"])
    assert (paths.find().state / "attest.key").stat().st_mode & 0o7777 == 0o600


def test_no_byte_of_it_can_be_another(audit: Audit) -> None:
    data = audit.report.read_bytes()
    for place in {*range(0, len(data), len(data) // 40), *range(16), len(data) - 1, data.index(b"signature")}:
        audit.report.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        code, said = audit.verify()
        assert code == 1, place
        assert "NOT VERIFIED" in said


def test_another_hosts_key_does_not_verify_it(audit: Audit, tmp_path: Path) -> None:
    private = tmp_path / "other"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", audit.key], check=True)
    code, said = audit.verify()
    assert (code, "signature does not verify" in said) == (1, True)


def test_a_container_that_was_swapped(audit: Audit) -> None:
    disk = audit.ds / "web" / "web-flat.vmdk"
    run("vm", "clone", str(audit.ds / "web"), str(audit.ds / "other"))
    shutil.copy(audit.ds / "other" / "web-flat.vmdk", disk)
    shutil.rmtree(audit.ds / "other")
    assert audit.verify(audit.ds) == (1, _only(audit, "web/web-flat.vmdk: its header is another one"))


def test_a_container_that_is_clear_now(audit: Audit) -> None:
    (audit.ds / "web" / "web-flat.vmdk").write_bytes(b"plain as day" * 1000)
    assert audit.verify(audit.ds) == (1, _only(audit, "web/web-flat.vmdk: its header is another one"))


def test_a_clear_file_that_was_added(audit: Audit) -> None:
    (audit.ds / "web" / "deep").mkdir()
    (audit.ds / "web" / "deep" / "dump").write_bytes(b"plain as day")
    assert audit.verify(audit.ds) == (1, _only(audit, "web/deep/dump: is not in the report"))


def test_a_file_that_is_gone_and_a_vmx_that_was_changed(audit: Audit) -> None:
    (audit.ds / "readme").unlink()
    with (audit.ds / "web" / "web.vmx").open("ab") as vmx:
        vmx.write(b"#\n")
    gone, changed = "readme: is in the report, and not there", "web/web.vmx: its content is another one"
    assert audit.verify(audit.ds) == (1, _only(audit, gone, changed))


def _only(audit: Audit, *findings: str) -> str:
    return audit.verify()[1] + "".join(f"DIFFERS: {one}\n" for one in findings)
