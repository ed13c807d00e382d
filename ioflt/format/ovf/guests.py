"""Names of guest operating systems: vSphere's ("debian10_64Guest") in an OVF, VMX's ("debian10-64") in a VMX.

The VMX name follows from vSphere's by rule; the way back needs the list. Both are observations, VMware
publishes no such table: an unknown name becomes "other", which every product accepts.
"""

from __future__ import annotations

import re
from typing import Final

_IRREGULAR: Final = {
    "windows7Server64Guest": "windows7srv-64",
    "windows8Server64Guest": "windows8srv-64",
    "windows9Server64Guest": "windows9srv-64",
    "windows2019srv_64Guest": "windows2019srv-64",
    "vmwarePhoton64Guest": "vmware-photon-64",
}

_KNOWN: Final = (
    *("otherGuest", "otherGuest64", "otherLinuxGuest", "otherLinux64Guest"),
    *(f"other{n}xLinux{bits}Guest" for n in (24, 26, 3, 4, 5, 6) for bits in ("", "64")),
    *(
        f"{name}{bits}Guest"
        for name in ("ubuntu", "centos", "fedora", "opensuse", "asianux3_")
        for bits in ("", "64")
    ),
    *(f"debian{n}{bits}Guest" for n in range(5, 13) for bits in ("", "_64")),
    *(f"rhel{n}{bits}Guest" for n in range(5, 10) for bits in ("", "_64")),
    *(f"centos{n}_64Guest" for n in range(7, 10)),
    *("sles11_64Guest", "sles12_64Guest", "sles15_64Guest", "freebsdGuest", "freebsd64Guest"),
    *("winXPProGuest", "winNetStandardGuest", "winLonghornGuest", "winLonghorn64Guest"),
    *("windows7Guest", "windows7_64Guest", "windows8Guest", "windows8_64Guest"),
    *("windows9Guest", "windows9_64Guest", *_IRREGULAR),
)

# CIM_OperatingSystem.OSType numbers, for envelopes that have nothing better
_CIM: Final = {
    36: "otherlinux",
    79: "rhel5",
    80: "rhel5-64",
    93: "ubuntu",
    94: "ubuntu-64",
    95: "debian5",
    96: "debian5-64",
    101: "otherlinux-64",
    102: "other-64",
    106: "centos",
    107: "centos-64",
}


def vmx_name(os_type: str | None, os_id: int) -> str:
    """The value of `guestOS` for an OVF's `vmw:osType`, or else for its CIM number."""
    if os_type is None:
        return _CIM.get(os_id, "other")
    if os_type in _IRREGULAR:
        return _IRREGULAR[os_type]
    return re.sub(r"_?64$", "-64", os_type.replace("Guest", "").lower())


_TYPES: Final = {vmx_name(os_type, 1): os_type for os_type in _KNOWN}


def os_type(name: str) -> str:
    """The OVF's `vmw:osType` for a VMX's `guestOS`; "otherGuest" or "otherGuest64" for a name not known."""
    return _TYPES.get(name.lower(), "otherGuest64" if name.endswith("-64") else "otherGuest")
