"""Another host, made of sectors alone: what a daemon knows of hosts is what stands on the disk (spec D 2.2 to 2.5)."""

import multiprocessing
import struct
import time

import past_cache

DELTA, PAXOS = (0x12212010, 0x00030004), (0x06152010, 0x00060004)
ALIGN_1M, SECTOR = 0x10, 512
RELEASED, SHARED = 1, 1


def crc(data):
    """CRC-32C with sanlock's initial register and without a final inversion (spec D 2.1)."""
    register = 0xFFFFFFFE
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register


def record(kind, space, name, owner, generation, timestamp, lver=0, io_timeout=0, num_hosts=0, writer=0, flags=0):
    """A leader record: 200 bytes of a sector."""
    head = struct.pack("<4I5Q", *kind, ALIGN_1M | flags, SECTOR, num_hosts, 1 if kind == DELTA else 2000,
                       owner, generation, lver)
    body = head + space.encode().ljust(48, b"\0") + name.encode().ljust(48, b"\0") + struct.pack("<QQ", timestamp, 0)
    return body + struct.pack("<IHHQQQ", crc(body), 0, io_timeout, writer, generation if writer else 0, timestamp)


def dblock(mbal, bal=0, inp=(0, 0, 0), lver=0, flags=0, shared_by=0):
    """A host's sector of a lease, its mode block included."""
    body = struct.pack("<6Q", mbal, bal, *inp, lver)
    sector = body + struct.pack("<II", crc(body), flags)
    return sector.ljust(128, b"\0") + struct.pack("<IIQ", SHARED if shared_by else 0, 0, shared_by)


def request(lver, force, magic=0x08292011, version=0x00010001):
    """A request record."""
    return struct.pack("<IIQII", magic, version, lver, force, 0)


def _renew(path, at, sector, period):
    timestamp = int(time.monotonic())
    while True:
        timestamp += 1
        past_cache.write(path, at, sector(timestamp).ljust(SECTOR, b"\0"))
        time.sleep(period)


class Puppet:
    """Host `host_id` of a stage's lockspace LS; it lives as long as `live` lets it."""

    def __init__(self, stage, host_id=2, generation=1):
        self.stage, self.host_id, self.generation = stage, host_id, generation
        self.process = None
        self.called = ()

    def _delta(self, timestamp):
        own = record(DELTA, "LS", "puppet", self.host_id, self.generation, timestamp, io_timeout=1)
        bitmap = sum(1 << (host - 1) for host in self.called)
        return own.ljust(256, b"\0") + bitmap.to_bytes(256, "little")

    def stands(self, timestamp):
        """Its sector, which does not change."""
        self.stage.write_disk("space", (self.host_id - 1) * SECTOR, self._delta(timestamp).ljust(SECTOR, b"\0"))

    def live(self):
        """It renews, several times a second: nobody who looks takes it for silent."""
        context = multiprocessing.get_context("fork")
        at = (self.host_id - 1) * SECTOR
        self.process = context.Process(target=_renew, args=(self.stage.path("space"), at, self._delta, 0.2), daemon=True)
        self.process.start()

    def die(self):
        if self.process:
            self.process.kill()
            self.process.join()
            self.process = None

    def owns(self, number, lver=1, writer=None, flags=0):
        """It holds a lease exclusively."""
        leader = record(PAXOS, "LS", f"r{number}", self.host_id, self.generation, 77, lver, 0, 2000,
                        self.host_id if writer is None else writer, flags)
        self.stage.write_disk("leases", number << 20, leader)
        self.says(number, dblock(self.host_id, self.host_id, (self.host_id, self.generation, 77), lver))

    def shares(self, number, lver=1):
        """It holds a lease in shared mode: the leader record is free."""
        leader = record(PAXOS, "LS", f"r{number}", self.host_id, self.generation, 0, lver, 0, 2000, self.host_id)
        self.stage.write_disk("leases", number << 20, leader)
        own = dblock(self.host_id, self.host_id, (self.host_id, self.generation, 77), lver, RELEASED, self.generation)
        self.says(number, own)

    def says(self, number, sector):
        self.stage.write_disk("leases", (number << 20) + (self.host_id + 1) * SECTOR, sector.ljust(SECTOR, b"\0"))

    def asks(self, number, lver, force):
        """It wants a lease of the daemon's: the request record, and from its next renewal on the bit of the owner."""
        self.stage.write_disk("leases", (number << 20) + SECTOR, request(lver, force).ljust(SECTOR, b"\0"))
        self.die()
        self.called = (1,)
        self.live()
