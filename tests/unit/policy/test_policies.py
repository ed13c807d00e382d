"""What policies may become, what they make of VMs, and where VMs depart from them."""

from __future__ import annotations

import dataclasses

import pytest

from ioflt.errors import ExistsError, NotFoundError, UsageError
from ioflt.policy import changes, crypto
from ioflt.policy.bundled import BUNDLED, DATASTORE_DEFAULT, OF_STATE, VM_ENCRYPTION
from ioflt.policy.compliance import Departure, Facts, departures
from ioflt.policy.crypto import CryptoSpec
from ioflt.policy.model import CBT, Filter, StoragePolicy, check, encryption
from ioflt.types import HomeState

GOLD = StoragePolicy("Gold", "0f0e0d0c-0b0a-4908-8706-050403020100", "", (encryption(),), "corp", "thick")
SILVER = StoragePolicy("Silver", "0f0e0d0c-0b0a-4908-8706-050403020101")
FOUND = Facts("/ds/web 01", encrypted=True, providers=("corp",), thick=True)


def test_the_bundled_ones_are_vmwares() -> None:
    assert VM_ENCRYPTION.id == "4d5f673c-536f-11e6-beb8-9e71128cae77"
    assert VM_ENCRYPTION.filters == (
        Filter("vmwarevmcrypt@ENCRYPTION", (("AllowCleartextFilters", "False"),)),
    )
    for state, policy in OF_STATE.items():
        assert check(policy).encrypts == (state is HomeState.ENCRYPTED)


def test_policies_come_and_go() -> None:
    own = changes.add(changes.add((), GOLD), SILVER)
    assert changes.named(own, "Gold") is GOLD
    assert changes.named(own, DATASTORE_DEFAULT.name) is DATASTORE_DEFAULT
    assert changes.named(own, "Bronze") is None
    assert changes.remove(own, "Gold") == (SILVER,)
    with pytest.raises(NotFoundError, match="no policy Bronze"):
        changes.remove(own, "Bronze")


@pytest.mark.parametrize("policy", BUNDLED)
def test_the_bundled_ones_stay(policy: StoragePolicy) -> None:
    with pytest.raises(UsageError, match="comes with ioflt"):
        changes.remove((), policy.name)
    with pytest.raises(ExistsError):
        changes.add((), dataclasses.replace(GOLD, name=policy.name))
    with pytest.raises(ExistsError):
        changes.add((), dataclasses.replace(GOLD, id=policy.id))


@pytest.mark.parametrize("name", ["Gold", "gold"])
def test_no_two_have_one_name(name: str) -> None:
    with pytest.raises(ExistsError, match="a policy Gold already"):
        changes.add((GOLD,), dataclasses.replace(SILVER, name=name))


def test_one_is_found_by_its_name_or_id_and_a_wrong_name_tells_the_nearest() -> None:
    assert changes.find((GOLD,), GOLD.name) is changes.find((GOLD,), GOLD.id) is GOLD
    assert changes.find((), VM_ENCRYPTION.id) is VM_ENCRYPTION
    with pytest.raises(NotFoundError, match=r"^no policy gold; did you mean Gold\?$"):
        changes.find((GOLD, SILVER), "gold")
    with pytest.raises(NotFoundError, match=r"^no policy xyzzy$"):
        changes.find((GOLD, SILVER), "xyzzy")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (dataclasses.replace(SILVER, provider="corp"), "need the encryption filter"),
        (dataclasses.replace(SILVER, provisioning="thin"), "need the encryption filter"),
        (dataclasses.replace(SILVER, integrity=True), "need the encryption filter"),
        (dataclasses.replace(SILVER, recovery_slot=True), "need the encryption filter"),
        (dataclasses.replace(GOLD, filters=(encryption(), encryption())), "comes once"),
        (dataclasses.replace(GOLD, filters=(Filter("x@Y"),)), "no filter x@Y"),
        (dataclasses.replace(GOLD, filters=(Filter(encryption().id),)), "has the properties"),
        (dataclasses.replace(GOLD, filters=(Filter(CBT, (("a", "True"),)),)), "properties none"),
        (dataclasses.replace(GOLD, filters=(Filter(CBT), encryption())), "sees clear text"),
    ],
)
def test_no_policy_contradicts_itself(policy: StoragePolicy, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        changes.add((), policy)


@pytest.mark.parametrize(
    ("source", "encrypts", "spec", "state"),
    [
        (HomeState.CLEAR, True, CryptoSpec.ENCRYPT, HomeState.ENCRYPTED),
        (HomeState.CLEAR, False, CryptoSpec.NO_OP, HomeState.CLEAR),
        (HomeState.ENCRYPTED, True, CryptoSpec.NO_OP, HomeState.ENCRYPTED),
        (HomeState.ENCRYPTED, False, CryptoSpec.DECRYPT, HomeState.CLEAR),
    ],
)
def test_the_default_table_is_vspheres(
    source: HomeState, encrypts: bool, spec: CryptoSpec, state: HomeState
) -> None:
    assert crypto.default_spec(source, encrypts=encrypts) is spec
    assert crypto.after(source, spec) is state


def test_a_vm_that_keeps_to_its_policy_has_no_departures() -> None:
    assert departures(GOLD, FOUND) == []
    assert departures(SILVER, Facts("/ds/vm", encrypted=False)) == []
    assert departures(VM_ENCRYPTION, dataclasses.replace(FOUND, providers=("a", "b"), thick=False)) == []


@pytest.mark.parametrize(
    ("policy", "fields", "departure"),
    [
        (
            GOLD,
            {"encrypted": False, "providers": ()},
            Departure("encryption", "encrypted", "clear", "ioflt policy assign Gold '/ds/web 01'"),
        ),
        (
            DATASTORE_DEFAULT,
            {},
            Departure(
                "encryption", "clear", "encrypted", "ioflt policy assign 'Datastore Default' '/ds/web 01'"
            ),
        ),
        (
            GOLD,
            {"providers": ("corp", "local")},
            Departure("provider", "corp", "corp, local", "ioflt vm recrypt '/ds/web 01' --provider corp"),
        ),
        (
            GOLD,
            {"thick": False},
            Departure("provisioning of new files", "thick", "thin", "ioflt policy assign Gold '/ds/web 01'"),
        ),
        (
            dataclasses.replace(GOLD, provisioning="thin"),
            {},
            Departure("provisioning of new files", "thin", "thick", "ioflt policy assign Gold '/ds/web 01'"),
        ),
        (
            dataclasses.replace(GOLD, integrity=True),
            {},
            Departure("integrity", "tags", "none", "ioflt vm recrypt '/ds/web 01' --deep --integrity"),
        ),
        (
            dataclasses.replace(GOLD, filters=(encryption(), Filter(CBT))),
            {"untracked": ("a b.raw",)},
            Departure(
                "changed blocks of a b.raw",
                "tracked",
                "not tracked",
                "ioflt cbt enable '/ds/web 01' 'a b.raw'",
            ),
        ),
        (
            GOLD,
            {"clear_files": ("iso/a b.iso",)},
            Departure(
                "file iso/a b.iso",
                "encrypted",
                "clear",
                "ioflt vm encrypt '/ds/web 01' --disk 'iso/a b.iso'",
            ),
        ),
        (
            dataclasses.replace(GOLD, recovery_slot=True),
            {"without_slot": ("a", "b")},
            Departure("recovery slot", "in each file", "none in a, b", "ioflt recovery add '/ds/web 01'"),
        ),
    ],
)
def test_each_departure_is_named_with_what_mends_it(
    policy: StoragePolicy, fields: dict[str, object], departure: Departure
) -> None:
    assert departures(policy, dataclasses.replace(FOUND, **fields)) == [departure]  # type: ignore[arg-type]
