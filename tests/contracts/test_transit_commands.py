"""The commands of the transit provider and keyd's use of it, against OpenBao."""

import pytest

from ioflt.keys.client import KeyClient
from ioflt.testing.openbao import OpenBao


@pytest.fixture(scope="module")
def bao(authority, tmp_path_factory):
    server = OpenBao.start(tmp_path_factory.mktemp("bao"), authority)
    server.make_key("ioflt")
    yield server
    server.kill()


def test_from_nothing_to_a_vm_on_another_host(ioflt, bao, authority, tmp_path, short_tmp):
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(bao.token("ioflt"))
    create = ("provider", "create", "transit", "corp", "--url", bao.url, "--key", "ioflt")
    create = (*create, "--ca", authority.path, "--token-file", token)
    ioflt(*create)
    tried = ioflt("provider", "test", "corp").stdout.splitlines()
    assert [line.partition(":")[0] for line in tried] == ["make a key", "get it back"]
    vm = tmp_path / "ds" / "web01"
    vm.mkdir(parents=True)
    (vm / "web01.img").write_bytes(b"plaintext" * 10_000)
    configuration = '.encoding = "UTF-8"\ndisplayName = "web01"\nscsi0:0.fileName = "web01.vmdk"\n'
    (vm / "web01.vmx").write_text(configuration)
    ioflt("datastore", "init", tmp_path / "ds")
    ioflt("vm", "register", "--clear", vm)
    ioflt("vm", "encrypt", vm)
    with KeyClient.connect() as keys:
        (status,) = keys.status().providers
        assert (status.kind, status.state, status.slots) == ("transit", "ready", ("token",))
        assert keys.warnings() == []
    ioflt("keyd", "stop")

    elsewhere = short_tmp / "elsewhere"
    elsewhere.mkdir()
    try:
        locked = ioflt("check", tmp_path / "ds", code=13, home=elsewhere)
        assert "no provider corp is configured here" in locked.stdout
        ioflt(*create, home=elsewhere)
        ioflt("check", tmp_path / "ds", home=elsewhere)
        ioflt("vm", "decrypt", vm, home=elsewhere)
        assert (vm / "web01.img").read_bytes() == b"plaintext" * 10_000
        assert (vm / "web01.vmx").read_text() == configuration
        ioflt("vm", "encrypt", vm, home=elsewhere)
    finally:
        ioflt("keyd", "stop", home=elsewhere)

    token.write_text("s.another")
    refused = ioflt("provider", "test", "corp", code=4)
    assert "it refuses the token" in refused.stderr
    assert "hint: see that the server answers there, and that the file lets you in" in refused.stderr

    bao.kill()
    gone = ioflt("vm", "decrypt", vm, code=4)
    assert f"the key server of corp: 127.0.0.1:{bao.port}: Connection refused" in gone.stderr
    assert "hint: try each step: ioflt provider test corp" in gone.stderr
