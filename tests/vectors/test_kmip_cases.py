"""The OASIS cases in the tree pass, and the tool says so when one does not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "kmip" / "oasis"
TOOLS = Path(__file__).parents[2] / "tools"


def run(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOLS / "kmip_cases.py", directory]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_pass() -> None:
    result = run(CASES)
    assert result.returncode == 0, result.stdout
    assert result.stdout == f"{len(list(CASES.rglob('*.xml')))} passed, 0 failed\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('value="Create"', 'value="Creates"', "bad value"),
        ("<BatchCount", "<BatchCounts", "unknown tag"),
        ("</KMIP>", "", "not XML"),
        ('BatchCount type="Integer" value="1"', 'BatchCount type="Integer" value="2"', "wrong batch count"),
        ('value="Success"', 'value="OperationUndone"', None),
    ],
)
def test_a_changed_case_is_named(tmp_path: Path, old: str, new: str, reason: str | None) -> None:
    name = "SKLC-M-1-14.xml"
    (tmp_path / "below").mkdir()
    text = (CASES / "v1.4" / name).read_text()
    assert old in text
    (tmp_path / "below" / name).write_text(text.replace(old, new))
    shutil.copy(CASES / "v1.4" / "SKLC-M-2-14.xml", tmp_path)
    result = run(tmp_path)
    last = result.stdout.splitlines()[-1]
    if reason is None:  # another story, and a consistent one
        assert (result.returncode, last) == (0, "2 passed, 0 failed")
        return
    assert (result.returncode, last) == (1, "1 passed, 1 failed")
    assert result.stdout.startswith(f"below/{name}: ")
    assert reason in result.stdout


def test_no_cases_is_a_failure(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.returncode, result.stdout) == (1, "0 passed, 0 failed\n")


HEADER = """
  <{side}Header>
    <ProtocolVersion>
      <ProtocolVersionMajor type="Integer" value="{major}"/>
      <ProtocolVersionMinor type="Integer" value="2"/>
    </ProtocolVersion>
    {more}
    <BatchCount type="Integer" value="1"/>
  </{side}Header>
"""

#: A case of our own: an id that the server gives, masks, dates, a vendor's attribute and extension.
OWN = """
# TIME 0
<RequestMessage>{request}
  <BatchItem>
    <Operation type="Enumeration" value="Register"/>
    <RequestPayload>
      <ObjectType type="Enumeration" value="0x00000002"/>
      <TemplateAttribute>
        <Attribute>
          <AttributeName type="TextString" value="Cryptographic   Usage Mask"/>
          <AttributeValue type="Integer" value="Encrypt|Decrypt 0x01000000"/>
        </Attribute>
        <Attribute>
          <AttributeName type="TextString" value="Activation Date"/>
          <AttributeValue type="DateTime" value="$NOW-3600"/>
        </Attribute>
        <Attribute>
          <AttributeName type="TextString" value="Key Value Location"/>
          <AttributeIndex type="Integer" value="1"/>
          <AttributeValue>
            <KeyValueLocationValue type="TextString" value="pkcs11:token=My%20Token"/>
            <KeyValueLocationType type="Enumeration" value="URI"/>
          </AttributeValue>
        </Attribute>
        <Attribute>
          <AttributeName type="TextString" value="x-Fresh"/>
          <AttributeValue type="Boolean" value="$FRESH"/>
        </Attribute>
      </TemplateAttribute>
      <SymmetricKey>
        <KeyBlock>
          <KeyFormatType type="Enumeration" value="Raw"/>
          <KeyValue>
            <KeyMaterial type="ByteString" value="0001020304050607 08090a0b0c0d0e0f"/>
          </KeyValue>
          <CryptographicAlgorithm type="Enumeration" value="AES"/>
          <CryptographicLength type="Integer" value="128"/>
        </KeyBlock>
      </SymmetricKey>
    </RequestPayload>
    <MessageExtension>
      <VendorIdentification type="TextString" value="ioflt"/>
      <CriticalityIndicator type="Boolean" value="false"/>
      <VendorExtension>
        <TTLV tag="0x540001" name="Ours" type="BigInteger" value="0080"/>
        <TTLV tag="0x540002" type="ByteString" value=""/>
      </VendorExtension>
    </MessageExtension>
  </BatchItem>
</RequestMessage>
<!-- <RequestMessage> -->
<ResponseMessage>{response}
  <BatchItem>
    <Operation type="Enumeration" value="Register"/>
    <ResultStatus type="Enumeration" value="Success"/>
    <ResponsePayload>
      <UniqueIdentifier type="TextString" value="$UNIQUE_IDENTIFIER_0"/>
    </ResponsePayload>
  </BatchItem>
</ResponseMessage>
# TIME 1, and nobody answers
<RequestMessage>{request}
  <BatchItem>
    <Operation type="Enumeration" value="Notify"/>
    <RequestPayload>
      <UniqueIdentifier type="TextString" value="$UNIQUE_IDENTIFIER_0"/>
    </RequestPayload>
  </BatchItem>
</RequestMessage>
"""


def own(major: int = 1) -> str:
    """The case without a root."""
    now = '<TimeStamp type="DateTime" value="$NOW"/>'
    return OWN.format(
        request=HEADER.format(side="Request", more="", major=major),
        response=HEADER.format(side="Response", more=now, major=major),
    )


FORMS = {
    "a root": f"<KMIP>{own()}</KMIP>".encode(),
    "a root of another name": f"<Case>{own()}</Case>".encode(),
    "a row": own().encode(),
    "a row with declaration": f'<?xml version="1.0"?>\n<!-- a\nrow -->{own()}'.encode(),
    "several cases": f"<Suite><Case>{own()}</Case><Case>{own()}</Case></Suite>".encode(),
    "a namespace": f'<KMIP xmlns="urn:oasis:tc:kmip:xmlns">{own()}</KMIP>'.encode(),
    "a byte order mark": f"\ufeff<KMIP>{own()}</KMIP>".encode(),
    "UTF-16": f'<?xml version="1.0" encoding="UTF-16"?><KMIP>{own()}</KMIP>'.encode("utf-16"),
    "lines of Windows": f"<KMIP>{own()}</KMIP>".replace("\n", "\r\n").encode(),
    "KMIP 2": f"<KMIP>{own(2)}</KMIP>".encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_case_in_another_form(tmp_path: Path, form: str) -> None:
    (tmp_path / "case.XML").write_bytes(FORMS[form])
    result = run(tmp_path)
    assert (result.returncode, result.stdout) == (0, "1 passed, 0 failed\n")


HOSTILE = {
    "nothing": (b"", "no element found"),
    "bytes": (bytes(range(256)), "not XML"),
    "no messages": (b"<html/>", "no message in it"),
    "cut": (f"<KMIP>{own()}".encode(), "no element found"),
    "deep": (b"<RequestMessage>" * 200_000 + b"</RequestMessage>" * 200_000, "nested too deeply"),
    "huge": (b"<KMIP>" + b" " * (16 << 20) + b"</KMIP>", "too large"),
    "an entity": (b'<!DOCTYPE k [<!ENTITY a "b">]><KMIP>&a;</KMIP>', "entities, which are not taken"),
    "a file": (b'<!DOCTYPE k [<!ENTITY a SYSTEM "/etc/passwd">]><KMIP>&a;</KMIP>', "entities"),
    "a response alone": (f"<KMIP>{own()[own().index('<ResponseMessage') :]}</KMIP>".encode(), "message 1"),
    "KMIP 3": (own(3).encode(), "message 1 is of KMIP 3; versions up to 2 are read"),
    "a tag of no table": (own().replace("KeyBlock", "KeyBrick").encode(), "unknown tag (KeyBrick)"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_case_gives_one_line(tmp_path: Path, what: str) -> None:
    document, reason = HOSTILE[what]
    (tmp_path / "case.xml").write_bytes(document)
    (tmp_path / "good.xml").write_text(own())
    result = run(tmp_path)
    line, last = result.stdout.splitlines()
    assert line.startswith("case.xml: ")
    assert reason in line
    assert (result.returncode, last, result.stderr) == (1, "1 passed, 1 failed", "")


def test_links_pipes_and_names(tmp_path: Path) -> None:
    (tmp_path / "below.xml").mkdir()
    (tmp_path / "below.xml" / "case.xml").write_text(own())
    (tmp_path / "linked.xml").symlink_to("below.xml/case.xml")
    (tmp_path / "again").symlink_to("below.xml")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.xml")
    (tmp_path / "endless.xml").symlink_to("/dev/zero")
    (tmp_path / "nowhere.xml").symlink_to("missing")
    (tmp_path / "turning.xml").symlink_to("turning.xml")
    (tmp_path / os.fsdecode(b"odd\n\xff.xml")).write_text("no")
    result = run(tmp_path)
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [
        "endless.xml",
        "nowhere.xml",
        r"odd\n\udcff.xml",
        "pipe.xml",
        "turning.xml",
        "2 passed, 5 failed",
    ]
    assert result.returncode == 1


def test_one_file_or_none(tmp_path: Path) -> None:
    (tmp_path / "case").write_text(own())
    assert run(tmp_path / "case").stdout == "1 passed, 0 failed\n"
    missing = run(tmp_path / "missing")
    assert missing.returncode == 1
    assert missing.stdout == f"{tmp_path}/missing: No such file or directory\n0 passed, 1 failed\n"


def test_the_malformed_vectors_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOLS / "make_kmip_vectors.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    there = Path(__file__).parent / "kmip" / "malformed"
    assert made == {path.name: path.read_bytes() for path in there.iterdir()}
