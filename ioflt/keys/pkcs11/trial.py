"""Trying a pkcs11 provider out, step by step, up to its key."""

from __future__ import annotations

from ioflt.errors import IofltError
from ioflt.keys.pkcs11.file import Pkcs11File
from ioflt.keys.pkcs11.provider import pin_in
from ioflt.keys.pkcs11.token import Token
from ioflt.keys.trial import Step, Tell


def try_out(file: Pkcs11File, tell: Tell) -> bool:
    """Load the module and find the token; where the PIN is in a file log in and find the key.

    Whether all of it went well. The last try that the token allows is not made.
    """
    token = Token(file)
    step = "load the module"
    try:
        tell(Step("", step, token.load()))
        step = "find the token"
        what, tries = token.find()
        tell(Step("", step, what))
        if file.pin_file is not None:
            step = "log in"
            with pin_in(file.pin_file, file.name) as pin:
                token.log_in(pin, tries, by_hand=False)
            tell(Step("", step, "done"))
            step = "find the key"
            tell(Step("", step, token.find_key()))
    except IofltError as error:
        tell(Step("", step, "failed", str(error)))
        return False
    finally:
        token.close()
    return True
