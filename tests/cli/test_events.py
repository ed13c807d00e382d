"""Each command of the table of operations that changes something leaves an event, and none has a secret."""

from __future__ import annotations

import base64
import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from ioflt import paths
from ioflt.access.operations import OPERATIONS, base
from ioflt.audit import reader
from ioflt.audit.chain import Head
from ioflt.audit.event import Event
from ioflt.audit.sinks import SocketSink
from ioflt.cli.main import cli
from ioflt.crypto.secret import Secret
from ioflt.datastore.header import read_header
from ioflt.format.record import record as form
from ioflt.keys.client import KeyClient
from ioflt.keys.native.store import NativeStore
from ioflt.wire.keyd.values import MAX_REPORTS
from tests.cli import test_json as every
from tests.cli.test_json import PASSPHRASE

#: Commands after which everything is as it was.
LOOKS = {
    "backup exports", "backup list", "backup show", "backup verify", "completion", "datastore show", "events",
    "events verify", "folder list", "folder show", "health", "inspect", "key drill", "key list",
    "key locate", "key status", "keyd status", "permission explain", "permission list", "policy check",
    "policy list", "policy show", "provider list", "provider slot list", "role list", "role show",
    "service list", "testbed list", "vm list", "vm show",
}  # fmt: skip

#: Those that need a mount, a key server or a token, or change nothing in the script: tests/mounted,
#: tests/contracts and tests/operations look for their events.
ELSEWHERE = {
    "backup export",
    "backup hotadd",
    "mount",
    "umount",
    "backup mount",
    "provider create pkcs11",
    "key revoke",
    "key destroy",
    "provider cache",
}

#: Of each other command the event: its name, what it is about (kind and name), and a value that it changes.
SAYS = {
    "attest": ("attest", None, None, "attest.report"),
    "cbt disable": ("cbt disable", "vm", "web", 'config.disk("web.vmdk").changeTrackingEnabled'),
    "cbt enable": ("cbt enable", "vm", "web", 'config.disk("web.vmdk").changeTrackingEnabled'),
    "cbt query": ("cbt query", "vm", "web", 'changedBlocks("web.vmdk").since'),
    "check": ("check", "vm", "out", "file"),
    "datastore init": ("datastore init", "datastore", "DS", "datastore.keyId"),
    "datastore recrypt": ("datastore recrypt", "datastore", "DS", "datastore.keyId"),
    "datastore register": ("datastore register", "datastore", "DS", "rollback"),
    "disk extend": ("disk extend", "vm", "web", 'config.disk("web.vmdk").capacity'),
    "events set": ("events set", None, None, "events.sink"),
    "folder add": ("folder add", "vm", "DS/web", 'access.folder("tenant").lists'),
    "folder create": ("folder create", "folder", "folder:tenant", 'access.folder("tenant").lists'),
    "folder delete": ("folder delete", "folder", "folder:tenant", 'access.folder("tenant").lists'),
    "folder remove": ("folder remove", "vm", "DS/web", 'access.folder("tenant").lists'),
    "folder set": ("folder set", "folder", "folder:tenant", 'access.folder("tenant").provider'),
    "header backup": ("header backup", "vm", "web", "backup"),
    "header restore": ("header restore", "vm", "web", "restore"),
    "key add": ("key add", "key", "KEY", None),
    "key remove": ("key remove", "key", "KEY", None),
    "keyd lock": ("lock", None, None, "keyd.state"),
    "keyd start": ("keyd start", None, None, "keyd.version"),
    "keyd stop": ("keyd stop", None, None, None),
    "keyd unlock": ("unlock", None, None, None),
    "permission grant": (
        "permission grant", "folder", "folder:tenant",
        'access.permission("service:backup","folder:tenant").role',
    ),
    "permission revoke": (
        "permission revoke", "folder", "folder:tenant",
        'access.permission("service:backup","folder:tenant").role',
    ),
    "policy assign": ("policy assign", "vm", "web", "config.vmProfile"),
    "policy clone": ("policy create", "policy", "Silver", 'policy("Silver")'),
    "policy create": ("policy create", "policy", "Gold", 'policy("Gold")'),
    "policy remove": ("policy remove", "policy", "Silver", 'policy("Silver")'),
    "provider backup": ("provider backup", "provider", "*", "backup"),
    "provider create kmip": ("provider create kmip", "provider", "kms", "provider.servers"),
    "provider create native": ("provider create native", "provider", "*", "provider.kind"),
    "provider create transit": ("provider create transit", "provider", "bao", "provider.servers"),
    "provider default": ("provider default", "provider", "corp", "provider.default"),
    "provider passwd": ("provider passwd", "provider", "corp", None),
    "provider remove": ("provider remove", "provider", "*", "provider.kind"),
    "provider renew": ("provider renew", "provider", "kms", "provider.certificate"),
    "provider restore": ("provider restore", None, None, "restore"),
    "provider slot add": ("provider slot add", "provider", "corp", "provider.slot"),
    "provider slot remove": ("provider slot remove", "provider", "corp", "provider.slot"),
    "provider split": ("provider split", "provider", "spare", "shares"),
    "provider test": ("provider test", "provider", "spare", None),
    "provider trust": ("provider trust", "provider", "kms", "provider.trust"),
    "recovery add": ("recovery add", "vm", "web", 'config.recoverySlot("web-flat.vmdk")'),
    "recovery fill": ("recovery fill", "vm", "web", "fill"),
    "recovery remove": ("recovery remove", "vm", "web", 'config.recoverySlot("web-flat.vmdk")'),
    "role clone": ("role clone", "role", "day", 'access.role("day").privileges'),
    "role create": ("role create", "role", "night", 'access.role("night").privileges'),
    "role remove": ("role remove", "role", "day", 'access.role("day").privileges'),
    "service create": ("service create", "service", "backup", 'access.service("backup")'),
    "service remove": ("service remove", "service", "backup", 'access.service("backup")'),
    "setup": ("setup", None, None, "access.separateDuties"),
    "backup prune": ("backup prune", "datastore", "*", "backup"),
    "backup replicate": ("backup replicate", "datastore", "*", "replicate"),
    "backup restore": ("backup restore", "datastore", "DS", "restore"),
    "backup run": ("backup run", "vm", "web", "backup"),
    "vm clone": ("vm clone", "vm", "web", "clone"),
    "vm decrypt": ("vm decrypt", "vm", "out", "config.cryptoState"),
    "vm encrypt": ("vm encrypt", "vm", "web", "config.cryptoState"),
    "vm erase": ("vm erase", "vm", "other", "name"),
    "vm export": ("vm export", "vm", "web", "export"),
    "vm import": ("vm import", "vm", "out", "config.cryptoState"),
    "vm mark": ("vm mark", "vm", "web", "config.holdsKeys"),
    "vm move": ("vm move: rename", "vm", "copy", "path"),
    "vm recrypt": ("vm recrypt", "vm", "web", "config.keyId"),
    "vm recrypt --deep": ("vm recrypt: --deep", "vm", "web", "config.operation"),
    "vm register": ("vm register: --clear", "vm", "raw", "config.cryptoState"),
    "vmx export": ("vmx export", "vm", "web", "export"),
    "vmx import": ("vmx import", "vm", "web", "import"),
}  # fmt: skip

#: Of these a VM's datastore is not in the event, but in its name or known by its id.
NOWHERE = {"folder add", "folder remove", "vm mark"}

#: So that it changes something, too; and what prints nothing of note without a peer.
SCRIPT = (
    every.SCRIPT.replace("events set --sink none", "events set --sink journal")
    .replace("provider cache corp\n", "")
    .replace("backup list dest\n", "backup list dest\nbackup exports\n")
)


@pytest.fixture
def place(ioflt_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    every._prepare()
    return tmp_path


def events() -> list[Event]:
    return [each.event for each in reader.read(reader.on_disk(paths.find().events))]


class Session:
    """The commands of the script, one after the other."""

    def __init__(self) -> None:
        self.key = ""
        self.secrets: dict[str, bytes] = {}

    def run(self, line: str) -> tuple[str, list[Event]]:
        """The command of the line, and the events that it made."""
        words = shlex.split(line.replace("{key}", self.key))
        if words[0] == "!":
            subprocess.run(words[1:], check=True)
            return "", []
        before = len(events())
        if words[:2] == ["keyd", "start"]:  # an earlier command has started it
            cli.main(["keyd", "stop"], prog_name="ioflt", standalone_mode=False)
        cli.main(words, prog_name="ioflt", standalone_mode=False)
        if words[:2] == ["vm", "show"]:
            (own,) = form.parse(Path("ds/web/.ioflt").read_bytes()).record.keys
            self.key = str(own)
            self.secrets = secrets_of("ds/web/web-flat.vmdk")
        return every._named(words), events()[before:]


@pytest.mark.allow_log("rolled back, and accepted|no longer told")
def test_every_command_that_changes_something_says_so_and_nothing_secret(place: Path) -> None:
    session = Session()
    seen = set()
    for line in SCRIPT.strip().splitlines():
        command, made = session.run(line)
        seen.add(base(command.replace(" --deep", ":")))
        if not command or command in LOOKS:
            assert [each.operation for each in made if each.operation != "key use"] == [], line
        else:
            assert any(says(each, command, session.key, place) for each in made), (line, made)
    assert {base(name) for name in OPERATIONS} - seen == ELSEWHERE | {"completion", "key locate", "events"}
    check_for_secrets(session.secrets)
    for name in sorted({each.operation for each in events()}):  # each is a type that one may ask for
        cli.main(
            ["events", "--type", name, "--since", "2999-01-01"], prog_name="ioflt", standalone_mode=False
        )


@pytest.mark.allow_log("writes to the file")
def test_a_port_that_writes_to_a_file_is_an_event(place: Path) -> None:
    Path("ds/web/web.vmx").write_text('serial0.fileType = "file"\nserial0.fileName = "/var/log/web"\n')
    session = Session()
    session.run("datastore init ds --adopt-clear")
    _, made = session.run("vm encrypt ds/web")
    (told,) = (each for each in made if each.operation == "port warning")
    assert told.object is not None
    assert told.reason is not None
    assert (told.object.kind, told.object.shown, bool(told.object.id)) == ("vm", "web", True)
    assert told.changes[0].after == str(place / "ds/web/web.vmx")
    assert "serial0 writes to the file '/var/log/web'" in told.reason


def test_many_findings_of_a_check_leave_room_for_other_events(place: Path) -> None:
    session = Session()
    session.run("datastore init many")
    for number in range(130):
        os.mkfifo(f"many/pipe{number}")
    _, made = session.run("check many")
    assert len(made) == MAX_REPORTS
    assert {each.operation for each in made} == {"check"}
    (rest,) = (each for each in made if each.changes[0].path == "findings.notTold")
    assert rest.changes[0].after == "31"


def says(event: Event, command: str, key: str, place: Path) -> bool:
    """Whether it is the event of that command: what it is about, where that is, by which privileges."""
    operation, kind, shown, path = SAYS[command]
    if event.operation != operation:
        return False
    known = OPERATIONS.get(operation)
    assert event.privilege is not None or known is None or not known.needs, event
    if path is not None and path not in [change.path for change in event.changes]:
        return False
    if kind is None:
        return True
    about = event.object
    assert about is not None
    named = str(shown).replace("DS", str(place / "ds")).replace("KEY", key)
    in_datastore = event.datastore is not None or kind != "vm" or operation in NOWHERE
    is_it = shown == "*" or about.shown == named
    return is_it and about.kind == kind and bool(about.id) and in_datastore


def secrets_of(disk: str) -> dict[str, bytes]:
    """The passphrase, the keys of the providers from which KEKs are derived, and a disk's data key."""
    found = {"the passphrase": PASSPHRASE.encode()}
    store = NativeStore(paths.find().providers)
    with Secret(bytearray(PASSPHRASE.encode())) as passphrase:
        for name, own in (("corp", passphrase), ("spare", None)):
            with store.open(store.load(name), own) as kdk:
                found[f"what {name} derives its keys from"] = bytes(kdk.view())
    with open(disk, "rb") as file, KeyClient.connect() as keys:
        header = read_header(file.fileno())
        (token,) = header.tokens
        (dek,) = keys.unwrap([(token.key, token.blob, token.aad(header.uuid))])
        assert isinstance(dek, Secret)
        with dek:
            found["a data key"] = bytes(dek.view())
        found["a wrapped data key"] = token.blob
    return found


def check_for_secrets(secrets: dict[str, bytes]) -> None:
    """Neither the event log, nor keyd's own, nor what the sinks say has them, in any form."""
    where = paths.find()
    written = [*where.events.rglob("*.jsonl"), *where.logs.iterdir()]
    texts = {str(path): path.read_bytes() for path in written} | said_by_sinks(where.run)
    assert len(secrets) == 5
    assert {"keyd.log", "0001.jsonl"} <= {path.name for path in written}
    for what, secret in secrets.items():
        forms = [secret, secret.hex().encode(), secret.hex().upper().encode()]
        forms += [
            base64.b64encode(secret)[:-4],
            base64.urlsafe_b64encode(secret)[:-4],
            repr(secret)[2:-1].encode(),
        ]
        for place, text in texts.items():
            assert not any(form in text for form in forms), f"{what} is in {place}"


def said_by_sinks(directory: Path) -> dict[str, bytes]:
    """What the journal and syslog are told of these events."""
    said = {}
    for kind in ("journal", "syslog"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
            daemon.bind(str(directory / kind))
            sink = SocketSink(kind, directory / kind)
            lines = []
            for number, event in enumerate(events(), 1):
                sink.tell(event, Head(number, "0" * 64))
                lines.append(daemon.recv(1 << 20))
            sink.close()
        said[kind] = b"\n".join(lines)
        assert b"IOFLT_EVENT" in said[kind] or b"event=" in said[kind]
    return said
