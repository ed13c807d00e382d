"""A token: SoftHSM2 with a directory of its own, and a module around it that misbehaves when told to."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "user-1234 é"
SO_PIN = "so-5678"


@dataclass
class SoftHsm:
    """SoftHSM2 with tokens in a directory of its own. pkcs11-tool (OpenSC) looks at it from outside."""

    directory: Path

    @classmethod
    def make(cls, directory: Path, *labels: str) -> SoftHsm:
        directory.mkdir()
        made = cls(directory)
        made.tokens.mkdir()
        made.configuration.write_text(f"directories.tokendir = {made.tokens}\nlog.level = ERROR\n")
        for label in labels:
            made.add(label)
        return made

    @property
    def tokens(self) -> Path:
        return self.directory / "tokens"

    @property
    def configuration(self) -> Path:
        return self.directory / "softhsm2.conf"

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def add(self, label: str) -> None:
        """One more token."""
        self._run(
            "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN
        )

    def tool(self, token: str, *arguments: str) -> str:
        """What pkcs11-tool prints, logged in to a token."""
        command = ("pkcs11-tool", "--module", MODULE, "--token-label", token, "--login", "--pin", PIN)
        return self._run(*command, *arguments)

    def make_key(self, token: str, label: str, *arguments: str, kind: str = "AES:32") -> None:
        """A key as an administrator makes it."""
        usage = arguments or ("--usage-decrypt", "--sensitive")
        self.tool(token, "--keygen", "--key-type", kind, "--label", label, *usage)

    def make_key_that_signs(self, token: str, label: str) -> None:
        """A key that pkcs11-tool does not make: it gives all of them both encryption and decryption."""
        script = (
            "import sys, pkcs11; from pkcs11 import Attribute, KeyType, MechanismFlag;"
            "token = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]);"
            "token.open(rw=True, user_pin=sys.argv[3]).generate_key(KeyType.AES, 256, label=sys.argv[4],"
            " store=True, capabilities=MechanismFlag.SIGN, template={Attribute.SENSITIVE: True})"
        )
        self._run(sys.executable, "-c", script, MODULE, token, PIN, label)

    def delete_key(self, token: str, label: str) -> None:
        self.tool(token, "--delete-object", "--type", "secrkey", "--label", label)

    def keys(self, token: str) -> list[str]:
        """The labels of its secret keys."""
        lines = self.tool(token, "--list-objects", "--type", "secrkey").splitlines()
        return sorted(line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("label:"))

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def build_moody_module(directory: Path) -> Path:
    """A module that is SoftHSM2's, except for the functions that files in $MOODY say something about."""
    module = directory / "moody.so"
    compiler = sysconfig.get_config_var("CC").split()[0]
    source = Path(__file__).with_name("moody_module.c")
    subprocess.run(
        [
            compiler,
            "-shared",
            "-fPIC",
            "-Wall",
            "-Werror",
            f'-DREAL="{MODULE}"',
            "-o",
            module,
            source,
            "-ldl",
        ],
        check=True,
    )
    return module
