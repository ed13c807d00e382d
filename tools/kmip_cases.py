"""Runs the OASIS KMIP test cases (*.xml) of a folder, with all below it, through ioflt's codec and client.

Codec: every message goes XML → TTLV → object → TTLV and XML → TTLV → XML → TTLV, and must stay the same.
Playback: our client sends each request to a server that knows the case. The server compares what comes with
the case's request, and answers with the case's response, which the client must take as what it is.

Variables are bound as OASIS means them: `$UNIQUE_IDENTIFIER_0` and its like stand for one value throughout a
case, given by whoever sends it first; `$NOW`, also with seconds added, is the sender's time.

Failed files are named with the reason. The last line is "N passed, N failed"; the exit code is 0 when all
passed, and 1 when one failed, or when there is none.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol, TypeVar
from xml.etree.ElementTree import Element  # defusedxml parses

from ioflt.crypto.rng import random_bytes
from ioflt.errors import IofltError
from ioflt.wire.frame import Pause
from ioflt.wire.kmip import messages, ttlv, xml
from ioflt.wire.kmip.connection import Answer, ClientConnection, ServerConnection
from ioflt.wire.kmip.enumerations import ResultStatus
from ioflt.wire.kmip.messages import PAYLOADS, RequestMessage, ResponseMessage
from ioflt.wire.kmip.structure import Structure
from ioflt.wire.kmip.ttlv import Item

MESSAGES = ("RequestMessage", "ResponseMessage")

#: A row of messages without a root, as some cases are, with text and comments between them.
ROW = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*\?>)?(?:\s|#[^\n<]*|<!--.*?-->)*<(?:Request|Response)Message\b",
    re.DOTALL,
)
DECLARATION = re.compile(rb"^(?:\xef\xbb\xbf)?\s*<\?xml[^>]*\?>")

#: The highest major version whose messages are read.
MAX_MAJOR = 2

NOW = re.compile(r"\$NOW([+-][0-9]+)?", re.ASCII)

Bindings = dict[str, str]


class Failed(IofltError):
    """Why a case fails."""


def cases(top: Path, trouble: Callable[[OSError], None]) -> Iterator[Path]:
    """The files of cases at or below `top`, in order. Links are followed; no folder is read twice.

    `trouble` is told of folders that cannot be looked into.
    """
    if not top.is_dir():
        yield top
        return
    been: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(top, onerror=trouble, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in been:
            below.clear()
            continue
        been.add((here.st_dev, here.st_ino))
        below.sort()
        yield from (Path(folder, name) for name in sorted(files) if name.lower().endswith(".xml"))


def read(path: Path) -> bytes:
    """The document, or as much of it as shows that it is too large."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait, a device might never end
            raise Failed("not a regular file")
        with path.open("rb") as file:
            return file.read(xml.MAX_DOCUMENT + 1)
    except OSError as error:
        raise Failed(error.strerror or "it cannot be read") from None


def load(path: Path) -> list[Element]:
    """The messages of a case, in order."""
    document = read(path)
    if ROW.match(document):
        document = b"<KMIP>" + DECLARATION.sub(b"", document) + b"</KMIP>"
    found = [element for element in xml.parse(document).iter() if element.tag in MESSAGES]
    if not found:
        raise Failed("no message in it")
    for number, element in enumerate(found, 1):
        major = element.find("*/ProtocolVersion/ProtocolVersionMajor")
        told = "" if major is None else major.get("value", "")
        if told.isdecimal() and int(told[:9]) > MAX_MAJOR:
            raise Failed(f"message {number} is of KMIP {told[:9]}; versions up to {MAX_MAJOR} are read")
    return found


def leaves(element: Element) -> Iterator[Element]:
    """Elements whose values are variables."""
    return (leaf for leaf in element.iter() if leaf.get("value", "").startswith("$"))


def fill(element: Element, known: Bindings) -> Element:
    """A copy with a value for each variable; new ones are made up and remembered."""
    filled = copy.deepcopy(element)
    for leaf in leaves(filled):
        name = leaf.get("value", "")
        now = NOW.fullmatch(name)
        if now:
            moment = datetime.fromtimestamp(int(time.time()) + int(now[1] or 0), UTC)
            leaf.set("value", moment.isoformat())
        else:
            leaf.set("value", known.setdefault(name, invent(leaf.get("type", ""))))
    return filled


def invent(kind: str) -> str:
    """A value for a variable of that type."""
    if kind == "TextString":
        return str(uuid.uuid4())
    if kind in ("ByteString", "BigInteger"):
        return random_bytes(32).hex()
    if kind == "Boolean":
        return "true"
    return str(int.from_bytes(random_bytes(2), "big"))


def expect(template: Element, item: Item, known: Bindings, whose: str) -> None:
    """Compare what came with what the case has; variables that are new get the value that came."""
    filled = copy.deepcopy(template)
    bind(filled, xml.encode(item), known)
    difference = differ(xml.decode(filled), item)
    if difference:
        raise Failed(f"{whose} {difference}")


def bind(template: Element, actual: Element, known: Bindings) -> None:
    name = template.get("value", "")
    if name.startswith("$"):
        value = actual.get("value", "")
        template.set("value", value if NOW.fullmatch(name) else known.setdefault(name, value))
    for inner, other in zip(template, actual, strict=False):
        bind(inner, other, known)


def differ(wanted: Item, item: Item) -> str | None:
    """Where two items first differ, without their values."""
    if (wanted.tag, wanted.type) != (item.tag, item.type):
        return f"has a {item.name}, not a {wanted.name}"
    if not isinstance(wanted.value, tuple) or not isinstance(item.value, tuple):
        return None if wanted.value == item.value else f"has another {item.name}"
    for mine, other in zip(wanted.value, item.value, strict=False):
        difference = differ(mine, other)
        if difference:
            return difference
    if len(wanted.value) != len(item.value):
        return f"has {len(item.value)} fields in its {item.name}, not {len(wanted.value)}"
    return None


def check_codec(element: Element) -> None:
    """All conversions of one message, there and back."""
    item = xml.decode(element)
    data = ttlv.write(item)
    parsed = ttlv.parse(data)
    if parsed != item:
        raise Failed(f"XML → TTLV → item: it {differ(item, parsed)}")
    again = messages.read(parsed).write()
    if again != item or ttlv.write(again) != data:
        raise Failed(f"TTLV → object → TTLV: it {differ(item, again)}")
    shown = xml.decode(xml.parse(xml.to_text(item).encode()))
    if shown != item:
        raise Failed(f"TTLV → XML → TTLV: it {differ(item, shown)}")


class Playback:
    """One client and one server, joined by nothing but bytes."""

    def __init__(self) -> None:
        self._client, self._server = ClientConnection(), ServerConnection()
        self._clients: Bindings = {}
        self._servers: Bindings = {}

    def exchange(self, request: Element, response: Element | None) -> None:
        """One request and its response."""
        message = messages.read(xml.decode(fill(request, self._clients)))
        if not isinstance(message, RequestMessage):
            raise Failed("a response where a request is due")
        server: Side[RequestMessage] = self._server
        came = deliver(self._client.send(message), server)
        expect(request, came.write(), self._servers, "our request")
        if response is None:  # the case ends before the server answers
            self._client, self._server = ClientConnection(), ServerConnection()
            return
        reply = messages.read(xml.decode(fill(response, self._servers)))
        if not isinstance(reply, ResponseMessage):
            raise Failed("a request where a response is due")
        client: Side[Answer] = self._client
        answer = deliver(self._server.send(reply), client)
        expect(response, answer.message.write(), self._clients, "what our client took")
        if len(answer.items) != len(message.items):
            raise Failed("answers of another number than requests")
        for asked, item in zip(message.items, answer.items, strict=True):
            done = item is not None and item.status == ResultStatus.SUCCESS
            typed = message.header.version.major == 1 and asked.operation in PAYLOADS
            if item is not None and done and typed and not isinstance(item.payload, Structure):
                raise Failed("our client did not take the payload as what it is")


Event = TypeVar("Event", covariant=True)


class Side(Protocol[Event]):
    """One side of a connection."""

    def receive_data(self, data: bytearray) -> None: ...
    def next_event(self) -> Event | Literal[Pause.NEED_DATA, Pause.CLOSED]: ...


def deliver(data: bytearray, side: Side[Event]) -> Event:
    """The one event that the bytes make, when they come in two pieces."""
    side.receive_data(data[:11])
    if side.next_event() is not Pause.NEED_DATA:
        raise Failed("a message before all its bytes came")
    side.receive_data(data[11:])
    event = side.next_event()
    if isinstance(event, Pause):
        raise Failed("the message is not whole")
    return event


def run(path: Path) -> None:
    """One case. Raises IofltError."""
    case = load(path)
    known: Bindings = {}
    for number, element in enumerate(case, 1):
        with naming(f"message {number}"):
            check_codec(fill(element, known))
    playback = Playback()
    following = [*case[1:], None]
    for number, (element, after) in enumerate(zip(case, following, strict=True), 1):
        if element.tag == "RequestMessage":
            answered = after is not None and after.tag == "ResponseMessage"
            with naming(f"message {number} and its answer"):
                playback.exchange(element, after if answered else None)
        elif number == 1 or case[number - 2].tag == "ResponseMessage":
            raise Failed(f"message {number}: a response that answers nothing")


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors of the block say where it was."""
    try:
        yield
    except IofltError as error:
        raise Failed(f"{where}: {error}") from None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="folder of XML test cases, or one case")
    directory: Path = parser.parse_args().directory
    passed = 0
    failures: list[tuple[Path, str]] = []

    def trouble(error: OSError) -> None:
        failures.append((Path(error.filename), error.strerror or ""))

    for path in cases(directory, trouble):
        reason = judge(path)
        if reason is None:
            passed += 1
        else:
            failures.append((path, reason))
    for path, reason in sorted(failures):
        name = path.relative_to(directory) if path != directory else path
        print(one_line(f"{name}: {reason}"))
    failed = len(failures)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def judge(path: Path) -> str | None:
    """Why the case fails."""
    try:
        run(path)
    except IofltError as error:
        return str(error)
    except Exception as error:  # whatever a case does, the others run
        return f"{type(error).__name__}, a bug"
    return None


def one_line(text: str) -> str:
    """The text as one line that any terminal takes: names of files may be any bytes."""
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    encoding = sys.stdout.encoding or "utf-8"
    return plain.encode(encoding, "backslashreplace").decode(encoding)


if __name__ == "__main__":
    sys.exit(main())
