"""The worked examples of the SPEC files are what the code does."""

import re
from pathlib import Path

import ioflt
from ioflt.crypto.kdf import hkdf
from ioflt.crypto.mac import tag
from ioflt.crypto.secret import Secret
from ioflt.keys.native.file import SLOT_KINDS
from ioflt.keys.sealed import file as cache_file
from ioflt.wire.control import messages as control
from ioflt.wire.frame import write_frame
from ioflt.wire.keyd import messages, replies, requests, values
from ioflt.wire.keyd.connection import ClientConnection

ROOT = Path(ioflt.__file__).parent
KEYS = (ROOT / "keys" / "SPEC.md").read_text()
KEYD = (ROOT / "wire" / "keyd" / "SPEC.md").read_text()
CONTROL = (ROOT / "wire" / "control" / "SPEC.md").read_text()


def told(name):
    (value,) = re.findall(rf"^{re.escape(name)} +(\S+)$", KEYS, re.MULTILINE)
    return value


def test_the_key_tree():
    kdk = Secret(bytes.fromhex(told("KDK")))
    kek = hkdf(kdk, "kek", told("key id").encode())
    assert kek == Secret(bytes.fromhex(told("KEK")))
    for label in ("dek-wrap", "vmx-keysafe", "mac/home-record"):
        assert hkdf(kek, label) == Secret(bytes.fromhex(told(label)))
    assert tag(hkdf(kek, "mac/home-record"), b"abc").hex() == told("its MAC of the text abc")


def test_a_sealed_cache():
    own = Secret(bytes.fromhex(told("CK")))
    for label in ("cache/wrap", "cache/mac"):
        assert hkdf(own, label) == Secret(bytes.fromhex(told(label)))
    _, _, example = KEYS.partition("stand for a wrapped one:\n")
    data = bytes.fromhex(example.partition("```")[0])
    content, mac = cache_file.parse(data)
    assert cache_file.signed(content) + tag(hkdf(own, "cache/mac"), cache_file.signed(content)) == data
    assert data.endswith(mac)
    assert (content.days, content.seen, content.seal.credential) == (30, 1_800_000_000, b"ZZZZ")
    assert [(key.key_id, key.fetched) for key in content.keys] == [("id-1", 1_799_990_000)]


def test_the_conversation():
    client = ClientConnection()
    frames = [
        client.hello(),
        write_frame(messages.Request(2, requests.NewKey())),
        write_frame(messages.Reply(2, replies.Made(values.Key("local", "a.b")))),
    ]
    lines = [line for line in KEYD.splitlines() if re.fullmatch(r"[0-9a-f]{8} [0-9a-f ]+", line)]
    assert [bytes.fromhex(line) for line in lines] == frames


def test_every_message_and_kind_is_named():
    asked, answered = requests.RequestBody.__args__, replies.ReplyBody.__args__
    controls = (*control.RequestBody.__args__, *control.ReplyBody.__args__)
    for spec, kinds in ((KEYD, (*asked, *answered)), (CONTROL, controls)):
        for kind in kinds:
            assert f"`{kind.__struct_config__.tag}`" in spec
    for kind in SLOT_KINDS:
        assert f"| `{kind}` |" in KEYS
