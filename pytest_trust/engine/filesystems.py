"""What kind of file system a directory lies on. Standard library only."""

from __future__ import annotations

import re
from pathlib import Path

_NETWORK = frozenset(
    "9p afs beegfs ceph cifs coda gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 "
    "ocfs2 orangefs panfs pvfs2 smb3 smbfs virtiofs wekafs".split()
)


def between_machines(directory: Path, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether another machine may use the directory at the same time, by the kernel's list of mounts.

    File systems in user space (sshfs, s3fs, juicefs) count as shared. False where there is no list of mounts.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    places = [directory.resolve(), *directory.resolve().parents]
    kinds = {}
    for line in lines:  # a later mount hides an earlier one at the same path
        _, where, kind, *_ = line.split(" ")
        kinds[Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), where))] = kind
    kind = next((kinds[place] for place in places if place in kinds), "")
    return kind in _NETWORK or kind.startswith("fuse.")
