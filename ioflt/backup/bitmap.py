"""Changed blocks for NBD clients: a dirty bitmap of qcow2 over a disk of any format, served beside it.

The qcow2 file has the bitmap and no data: its external data file is the disk itself (`data_file_raw`).
QEMU marks as dirty what is written, so the file is made over a null device, and the changed areas are written
there. It stays in the private directory of its export, and says which blocks changed, not what is in them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ioflt.errors import NotFoundError, PeerError
from ioflt.format.cbt.sidecar import BLOCK

#: What the bitmap is called, and what NBD clients ask for.
NAME: Final = "changed"
CONTEXT: Final = f"qemu:dirty-bitmap:{NAME}"

#: Large clusters keep the file small: 16 MiB for a disk of 1 TiB.
_CLUSTER: Final = 512 << 10
#: Bytes that are marked by one request; qemu-io has a buffer of that size.
_STEP: Final = 64 << 20

_TIMEOUT_S: Final = 600.0


def make(directory: Path, capacity: int, areas: Iterable[tuple[int, int]]) -> Path:
    """A qcow2 file in that directory, over a disk of that size, with these areas (start, length) dirty.

    Raises NotFoundError when a program is not installed, PeerError.
    """
    path, dummy = directory / "changes.qcow2", directory / "dummy"
    options = f"cluster_size={_CLUSTER},data_file={dummy},data_file_raw=on"
    _run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), str(capacity)])
    dummy.unlink()
    over_nothing = f"driver=qcow2,file.driver=file,file.filename={_escaped(path)}"
    over_nothing += f",data-file.driver=null-co,data-file.size={capacity}"
    _run(["qemu-img", "bitmap", "--image-opts", "--add", "-g", str(BLOCK), over_nothing, NAME])
    writes = "".join(
        f"write -q {at} {min(_STEP, start + length - at)}\n"
        for start, length in areas
        for at in range(start, start + length, _STEP)
    )
    _run(["qemu-io", "--image-opts", over_nothing], writes)
    return path


def image_options(bitmap: Path, image: Path, image_format: str) -> str:
    """What QEMU opens: the bitmap's file over the image."""
    return (
        f"driver=qcow2,file.driver=file,file.filename={_escaped(bitmap)},data-file.driver={image_format}"
        f",data-file.file.driver=file,data-file.file.filename={_escaped(image)}"
    )


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")


def _run(command: list[str], given: str = "") -> None:
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, cwd="/"
        )
    except FileNotFoundError:
        raise NotFoundError(f"{command[0]} is not installed, or not in the PATH") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"{command[0]} does not end") from None
    if done.returncode != 0 or done.stderr or "failed" in done.stdout:
        raise PeerError(f"{command[0]} failed: {(done.stderr or done.stdout).strip() or done.returncode}")
