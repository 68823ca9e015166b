"""What must stand on the disk for each lease of a walk: a second decoder, and a model to compare with.

Read with O_DIRECT, past every cache, and decoded from the offsets of spec D 2;
nothing is shared with the product's codec or with a daemon's answers.
"""

import mmap
import os
import struct

from puppet import SHARED, crc

LEADER, REQUEST, DBLOCK = (0x06152010, 0x00060004), (0x08292011, 0x00010001), 128
VALUE_SECTOR = 2002  # spec D 4.10


class Lease:
    """One lease as it must be: what is on the disk of it, host by host."""

    def __init__(self):
        self.lver = 0
        self.owner = 0  # host_id that has it exclusively, or 0
        self.sharing = set()  # host_ids
        self.request = (0, 0)  # lver asked for, force_mode
        self.value = b""

    def shown(self):
        return {"lver": self.lver, "owner": self.owner, "sharing": sorted(self.sharing), "request": self.request,
                "value": self.value.hex()}


class Disk:
    """The areas of a walk's leases."""

    def __init__(self, path, sector, align, hosts):
        self.sector, self.align, self.hosts = sector, align, hosts
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, align)
        self.formatted = {}

    def area(self, at):
        """All of a lease's area: bytes."""
        found = os.preadv(self.fd, [self.buffer], at * self.align)
        assert found == self.align, f"{found} of {self.align} bytes at {at * self.align}"
        return self.buffer[:]

    def sector_of(self, area, number):
        return area[number * self.sector:(number + 1) * self.sector]

    def lease(self, at):
        """What stands at area `at`, as `Lease.shown` has it; AssertionError where no lease can look like that."""
        area = self.area(at)
        leader = self.sector_of(area, 0)
        assert struct.unpack_from("<II", leader) == LEADER, f"leader record of {at}: {leader[:8].hex()}"
        assert struct.unpack_from("<I", leader, 168)[0] == crc(leader[:168]), f"leader record of {at}: checksum"
        owner, generation, lver = struct.unpack_from("<QQQ", leader, 32)
        timestamp = struct.unpack_from("<Q", leader, 152)[0]
        assert not timestamp or generation == 1, f"leader record of {at}: generation {generation}"
        request = self.sector_of(area, 1)
        assert struct.unpack_from("<II", request) == REQUEST, f"request record of {at}: {request[:8].hex()}"
        value = self.sector_of(area, VALUE_SECTOR)
        self._nothing_else(at, area)
        return {"lver": lver, "owner": owner if timestamp else 0, "sharing": self._sharing(at, area, lver),
                "request": struct.unpack_from("<QI", request, 8), "value": value.rstrip(b"\0").hex()}

    def _sharing(self, at, area, lver):
        found = []
        for host in self.hosts:
            own = self.sector_of(area, host + 1)
            mbal, bal, inp, _, _, of = struct.unpack_from("<6Q", own)
            flags, _, generation = struct.unpack_from("<IIQ", own, DBLOCK)
            where = f"dblock of host {host} of {at}"
            assert struct.unpack_from("<I", own, 48)[0] == crc(own[:48]) or not any(own), f"{where}: checksum"
            assert bal <= mbal and of <= lver and (inp in self.hosts or not bal), f"{where}: {own[:48].hex()}"
            if flags & SHARED:
                assert generation == 1, f"{where}: shared in generation {generation}"
                found.append(host)
        return found

    def _nothing_else(self, at, area):
        """No byte outside the sectors of these hosts and the value changes from what formatting left there."""
        first, value, after = (n * self.sector for n in (max(self.hosts) + 2, VALUE_SECTOR, VALUE_SECTOR + 1))
        rest = area[first:value], area[after:]
        assert self.formatted.setdefault(at, rest) == rest, f"area {at}: bytes outside of anything that a host may write"
