"""Records on the disk that are damaged, met by an acquire and by a join."""

import struct

import wire

from puppet import crc

from . import set_of
from .leases import hold

damage = set_of("damage")
joins = set_of("damaged_spaces")
LONG = 10.0


def changed(record, at, data, sealed=False):
    """A leader record with other bytes at one place, and with the checksum that belongs to them if it is sealed."""
    record = record[:at] + data + record[at + len(data):]
    return record[:168] + struct.pack("<I", crc(record[:168])) + record[172:] if sealed else record


def with_changed(stage, name, offset, changes, ask):
    """Asks with each of these changes made to a record, and puts it back."""
    good = stage.read_disk(name, offset, 200)
    for what, *change in changes:
        stage.lines.append(f"-- {what}")
        stage.write_disk(name, offset, changed(good, *change))
        ask()
    stage.write_disk(name, offset, good)


@damage
def stage_joined_to_damage(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)


LEADERS = (
    ("no magic", 0, b"\1"), ("another major version", 4, b"\4\0\7\0"), ("a bit of the minor version", 4, b"\5\0\6\0"),
    ("a bit of the flags", 8, b"\x30"), ("a bit of the sector size", 12, b"\1\2"), ("no num_hosts", 16, bytes(8)),
    ("no num_hosts, sealed", 16, bytes(8), True), ("many num_hosts", 16, b"\xff" * 8), ("a bit of the owner", 32, b"\1"),
    ("a bit of the version", 48, b"\1"), ("another lockspace", 56, b"XX"), ("another lockspace, sealed", 56, b"XX", True),
    ("another name", 104, b"XX"), ("another name, sealed", 104, b"XX", True), ("a bit of the timestamp", 152, b"\1"),
    ("a bit of the checksum", 168, b"\1"))


@damage
def leases_whose_leader_is_damaged(stage):
    a, n = stage.client(), stage.fresh()
    a.register()

    def acquire():
        hold(stage, a, n)
        hold(stage, a, n, flags=wire.OWNER_NOWAIT)
        a.first.ask("acquire", stage.lease(n, flags=wire.SHARED) + wire.options(), data=1, data2=wire.SELF)

    with_changed(stage, "leases", n << 20, LEADERS, acquire)
    hold(stage, a, n)


@damage
def requests_for_leases_whose_leader_is_damaged(stage):
    a, n = stage.client().first, stage.fresh()
    ask = lambda: a.ask("request", stage.lease(n), flags=wire.NEXT_LVER, data=wire.GRACEFUL)
    with_changed(stage, "leases", n << 20, LEADERS[:4] + LEADERS[10:], ask)


@damage
def leases_whose_dblock_is_damaged(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    good = stage.read_disk("leases", (n << 20) + 1024, 512)
    for at in (0, 8, 16, 40, 48):
        stage.write_disk("leases", (n << 20) + 1024, good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1:])
        hold(stage, a, n)
    stage.write_disk("leases", (n << 20) + 1024, bytes(512))
    hold(stage, a, n)


OWN = (
    ("no magic", 0, b"\1"), ("another major version", 4, b"\4\0\7\0"), ("a bit of the minor version", 4, b"\5\0\3\0"),
    ("a bit of the flags", 8, b"\x30"), ("a bit of the sector size", 12, b"\1\2"), ("a bit of the generation", 40, b"\1"),
    ("another lockspace", 56, b"XX"), ("another lockspace, sealed", 56, b"XX", True), ("another owner", 104, b"XX"),
    ("a bit of the timestamp", 152, b"\1"), ("a bit of the checksum", 168, b"\1"))


@joins
def lockspaces_in_which_ones_own_sector_is_damaged(stage):
    a = stage.client().first
    ask = lambda: a.ask("add_lockspace", stage.space(host_id=2), within=LONG, data=1)
    with_changed(stage, "space", 512, OWN, ask)


FIRST = (("no magic", 0, b"\1"), ("another major version", 4, b"\4\0\7\0"), ("no sector size", 12, bytes(4)),
         ("a sector size that none has", 12, b"\7\0"), ("no sector size, sealed", 12, bytes(4), True),
         ("areas of 2M for sectors of 512", 8, b"\x20", True), ("of 4M", 8, b"\x40", True), ("of 8M", 8, b"\x80", True))


@joins
def lockspaces_in_which_the_first_sector_is_damaged(stage):
    """It tells whoever joins of the sizes."""
    a = stage.client().first
    ask = lambda: a.ask("add_lockspace", stage.space(host_id=2), within=LONG, data=1)
    with_changed(stage, "space", 0, FIRST, ask)


@joins
def lockspaces_whose_sizes_have_no_place_for_a_host(stage):
    a = stage.client().first
    ask = lambda: a.ask("add_lockspace", stage.space(host_id=300), within=LONG, data=1)
    with_changed(stage, "space", 0, (("1M and 4096", 8, b"\x10\0\0\0\0\x10", True),), ask)
