"""Who writes to the disk of the virtual machine, as the disk itself sees it: that cannot be fooled.

A guarded program writes its host, and the version (lver) of the lease under which it writes, into each block. The
version rises with each owner. So of the writes that land, in the one true order of the block server, none may be of an
older version than one before it, and all of one version are of one host: that is S1, seen from the storage.

A write that was asked for before the new owner's first write and lands after it is a late write: no program wrote when
it must not, but without fencing in the storage nothing can keep what is in flight from landing. It is told apart.
"""

import json
import struct
from dataclasses import dataclass

BLOCK = 4096
GENERATION = 40  # where a delta sector has its owner's: docs/on-disk-format.md


@dataclass(frozen=True)
class Write:
    """One that has landed."""

    host: str
    lver: int
    seq: int
    count: int
    asked: float
    landed: float


@dataclass(frozen=True)
class Overlap:
    """A write by an owner after a later owner's first."""

    write: Write
    after: Write

    def is_late(self):
        return self.write.asked < self.after.landed

    def __str__(self):
        what = "late write" if self.is_late() else "two owners"
        return (f"{what}: {self.write.host} wrote under version {self.write.lver} {self.write.landed - self.after.landed:.3f} s after "
                f"{self.after.host} had begun under {self.after.lver}; it was asked for {self.after.landed - self.write.asked:.3f} s before that")


class Observer:
    """Watches a disk, or what lies on it from some offset on."""

    def __init__(self, disk, at=0):
        self.writes, self.blocks, self.at = [], {}, at
        self.overlaps = []
        disk.watchers.append(self.landed)

    def landed(self, path, offset, data, asked, landed):
        line = data.split(b"\0")[0]
        if offset < self.at or not line.startswith(b"{"):
            return
        said = json.loads(line)
        write = Write(self.whose(path, said), said["lver"], said["seq"], said["count"], asked, landed)
        self.writes.append(write)
        block = self.blocks.setdefault((offset - self.at) // BLOCK, [])
        newest = block[-1] if block else None
        if newest is None or write.lver > newest.lver:
            block.append(write)
        elif write.lver < newest.lver or write.host != newest.host:
            self.overlaps.append(Overlap(write, newest))

    def whose(self, path, _said):
        """The host that it comes from, whatever it says."""
        return path.host

    def first_by(self, host, since=0.0, block=0):
        """The first write of a host's newest ownership since then, or None."""
        of_host = [w for w in self.blocks.get(block, []) if w.host == host and w.landed >= since]
        return of_host[-1] if of_host else None

    def last_by(self, host, before=float("inf")):
        """The last write by a host that landed before then, or None."""
        of_host = [w for w in self.writes if w.host == host and w.landed < before]
        return of_host[-1] if of_host else None

    def two_owners(self):
        return [overlap for overlap in self.overlaps if not overlap.is_late()]

    def late(self):
        return [overlap for overlap in self.overlaps if overlap.is_late()]


class Renewals:
    """When the delta sector of each host_id was last written, on a disk with a lockspace from some offset on, and under which
    generation."""

    def __init__(self, disk, at=0):
        self.times, self.generations, self.sector, self.at = {}, {}, disk.sector, at
        disk.watchers.append(self.landed)

    def landed(self, _path, offset, data, _asked, landed):
        if len(data) == self.sector and 0 <= offset - self.at < 2000 * self.sector:
            host_id = (offset - self.at) // self.sector + 1
            self.times.setdefault(host_id, []).append(landed)
            generation, = struct.unpack_from("<Q", data, GENERATION)
            self.generations.setdefault(host_id, []).append(generation)

    def last(self, host_id, before=float("inf")):
        """When the last one before then landed."""
        return max(at for at in self.times[host_id] if at < before)
