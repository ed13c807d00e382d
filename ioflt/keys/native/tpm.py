"""Sealing 32 bytes to this machine's TPM 2.0, under the state of its PCRs and, if wanted, a PIN.

The sealed object lies in the provider's file, under a storage key that the TPM derives anew each time from
its owner seed: nothing is kept in the TPM. What goes to and from it is encrypted under a session that is
salted with that storage key. tpm2-pytss is the extra `tpm`; it is imported when a TPM is needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ioflt.crypto.secret import Secret
from ioflt.errors import AuthenticationError, KeyNotUsable, ProviderUnavailable

if TYPE_CHECKING:
    from tpm2_pytss import ESAPI, ESYS_TR

#: Where the TPM is unless the slot says otherwise: the kernel's resource manager.
DEVICE = "device:/dev/tpmrm0"

#: The PCR of the secure-boot policy and the certificates that verified the boot.
PCRS = (7,)

#: The reason of the error that a wrong PIN gives.
WRONG_PIN = "wrong PIN"

_STORAGE_KEY = "ecc256:aes128cfb"
_RC_FORMAT_ONE = 0x080
_RC_FMT1_MASK = 0x0BF
_POLICY_FAIL, _AUTH_FAIL, _BAD_AUTH = 0x09D, 0x08E, 0x0A2
_PCR_CHANGED, _LOCKOUT = 0x128, 0x921
_MARSHALLING = 9  # the library that reads the sealed object


def seal(tcti: str, pcrs: Sequence[int], pin: Secret | None, key: Secret) -> tuple[bytes, bytes]:
    """The sealed object's public and private part. Raises ProviderUnavailable, KeyNotUsable."""
    with _errors(tcti), _connected(tcti) as tpm, _storage_key(tpm) as parent:
        tss = _tss()
        policy = _policy_digest(tpm, pcrs, pin is not None)
        attributes = tss.TPMA_OBJECT.FIXEDTPM | tss.TPMA_OBJECT.FIXEDPARENT
        if pin is None:
            attributes |= tss.TPMA_OBJECT.NODA  # nothing to guess, so nothing to lock out
        template = tss.TPM2B_PUBLIC.parse("keyedhash", objectAttributes=attributes, authPolicy=policy)
        sensitive = tss.TPM2B_SENSITIVE_CREATE(
            tss.TPMS_SENSITIVE_CREATE(
                userAuth=tss.TPM2B_AUTH(b"" if pin is None else bytes(pin.view())),
                data=tss.TPM2B_SENSITIVE_DATA(bytes(key.view())),
            )
        )
        with _session(tpm, parent, tss.TPM2_SE.HMAC) as session:
            private, public, *_ = tpm.create(
                parent, sensitive, template, session1=tss.ESYS_TR.PASSWORD, session2=session
            )
        return public.marshal(), private.marshal()


def unseal(tcti: str, pcrs: Sequence[int], pin: Secret | None, public: bytes, private: bytes) -> Secret:
    """What `seal` got.

    Raises AuthenticationError when this TPM, the state of its PCRs or the PIN is not that of the seal,
    KeyNotUsable when the TPM takes no PIN for a while, ProviderUnavailable.
    """
    with _errors(tcti), _connected(tcti) as tpm, _storage_key(tpm) as parent:
        tss = _tss()
        made = tss.TPM2B_PUBLIC.unmarshal(public)[0], tss.TPM2B_PRIVATE.unmarshal(private)[0]
        sealed = tpm.load(parent, made[1], made[0])
        with _flushed(tpm, sealed), _session(tpm, parent, tss.TPM2_SE.POLICY) as session:
            if pin is not None:
                tpm.tr_set_auth(sealed, tss.TPM2B_AUTH(bytes(pin.view())))
            _apply_policy(tpm, session, pcrs, pin is not None)
            return Secret(bytes(tpm.unseal(sealed, session1=session)))


def _tss() -> Any:  # noqa: ANN401 a module without types
    """tpm2-pytss, which is optional and loads the TSS libraries."""
    # Its libraries would write what failed to standard error too; `_errors` says it in our words.
    os.environ.setdefault("TSS2_LOG", "all+none")
    try:
        import tpm2_pytss
    except ImportError as error:
        raise ProviderUnavailable("a TPM needs the package tpm2-pytss") from error
    return tpm2_pytss


@contextlib.contextmanager
def _errors(tcti: str) -> Iterator[None]:
    """Errors of the TPM as ours."""
    tss = _tss()
    try:
        yield
    except tss.TSS2_Exception as error:
        code = int(error.rc) & 0xFFFF
        kind = code & _RC_FMT1_MASK if code & _RC_FORMAT_ONE else code
        layer = int(error.rc) >> 16
        if layer and layer != _MARSHALLING:  # not the TPM but a library above it says so
            raise ProviderUnavailable(f"the TPM at {tcti}: {error}") from error
        if kind in (_POLICY_FAIL, _PCR_CHANGED):
            raise AuthenticationError("the machine's state (PCRs) is not that of the seal") from error
        if kind in (_AUTH_FAIL, _BAD_AUTH):
            raise AuthenticationError(WRONG_PIN) from error
        if code == _LOCKOUT:
            raise KeyNotUsable("the TPM takes no PIN for a while: too many were wrong") from error
        raise AuthenticationError("this TPM does not open the seal", str(error)) from error


@contextlib.contextmanager
def _connected(tcti: str) -> Iterator[ESAPI]:
    tss = _tss()
    name, _, config = tcti.partition(":")
    # Named in full: without a name the library would look into the environment.
    with tss.TCTILdr(name, config) as loaded, tss.ESAPI(loaded) as tpm:
        yield tpm


@contextlib.contextmanager
def _flushed(tpm: ESAPI, handle: ESYS_TR) -> Iterator[ESYS_TR]:
    """A TPM without resource manager has room for three objects and as many sessions."""
    try:
        yield handle
    finally:
        tpm.flush_context(handle)


@contextlib.contextmanager
def _storage_key(tpm: ESAPI) -> Iterator[ESYS_TR]:
    tss = _tss()
    flags = tss.TPMA_OBJECT
    template = tss.TPM2B_PUBLIC.parse(
        _STORAGE_KEY,
        objectAttributes=flags.RESTRICTED
        | flags.DECRYPT
        | flags.FIXEDTPM
        | flags.FIXEDPARENT
        | flags.SENSITIVEDATAORIGIN
        | flags.USERWITHAUTH
        | flags.NODA,
    )
    try:
        handle, *_ = tpm.create_primary(tss.TPM2B_SENSITIVE_CREATE(), template, tss.ESYS_TR.OWNER)
    except tss.TSS2_Exception as error:
        if int(error.rc) & _RC_FMT1_MASK in (_AUTH_FAIL, _BAD_AUTH):
            raise KeyNotUsable(
                "the TPM's owner hierarchy has a password, which ioflt does not know"
            ) from error
        raise
    with _flushed(tpm, handle):
        yield handle


@contextlib.contextmanager
def _session(tpm: ESAPI, salt_key: ESYS_TR, kind: object) -> Iterator[ESYS_TR]:
    """A session that encrypts the secret on its way to the TPM or back."""
    tss = _tss()
    session = tpm.start_auth_session(
        tpm_key=salt_key,
        bind=tss.ESYS_TR.NONE,
        session_type=kind,
        symmetric=tss.TPMT_SYM_DEF(
            algorithm=tss.TPM2_ALG.AES,
            keyBits=tss.TPMU_SYM_KEY_BITS(sym=128),
            mode=tss.TPMU_SYM_MODE(sym=tss.TPM2_ALG.CFB),
        ),
        auth_hash=tss.TPM2_ALG.SHA256,
    )
    with _flushed(tpm, session):
        crypt = tss.TPMA_SESSION.ENCRYPT | tss.TPMA_SESSION.CONTINUESESSION  # it is ours to flush
        if kind == tss.TPM2_SE.HMAC:
            crypt |= tss.TPMA_SESSION.DECRYPT
        tpm.trsess_set_attributes(session, crypt)
        yield session


def _policy_digest(tpm: ESAPI, pcrs: Sequence[int], with_pin: bool) -> object:
    tss = _tss()
    session = tpm.start_auth_session(
        tpm_key=tss.ESYS_TR.NONE,
        bind=tss.ESYS_TR.NONE,
        session_type=tss.TPM2_SE.TRIAL,
        symmetric=tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
        auth_hash=tss.TPM2_ALG.SHA256,
    )
    with _flushed(tpm, session):
        _apply_policy(tpm, session, pcrs, with_pin)
        return tpm.policy_get_digest(session)


def _apply_policy(tpm: ESAPI, session: ESYS_TR, pcrs: Sequence[int], with_pin: bool) -> None:
    tss = _tss()
    selection = tss.TPML_PCR_SELECTION.parse("sha256:" + ",".join(map(str, pcrs)))
    tpm.policy_pcr(session, tss.TPM2B_DIGEST(), selection)
    if with_pin:
        tpm.policy_auth_value(session)
