"""Reading and formatting areas through a daemon."""

import wire

from . import set_of
from stage import MIB

areas = set_of("areas")


@areas
def align(stage):
    a = stage.client().first
    a.ask("align", wire.disk(stage.path("space")))
    a.ask("align", wire.disk(stage.path("leases"), 5))
    a.ask("align", wire.disk(stage.path("blank")))
    a.ask("align", wire.disk("/nowhere"))
    a.ask("align", wire.disk(""))
    a.ask("align", wire.disk("/"))


@areas
def read_lockspace(stage):
    a = stage.client().first
    a.ask("read_lockspace", stage.space("", 0))
    a.ask("read_lockspace", stage.space("LS", 7))
    a.ask("read_lockspace", stage.space("", 2000))
    a.ask("read_lockspace", stage.space("", 0, flags=wire.SECTOR_512 | wire.ALIGN_1M))


@areas
def read_lockspace_refused(stage):
    a = stage.client().first
    a.ask("read_lockspace", stage.space("WRONG", 1))
    a.ask("read_lockspace", stage.space("", 1, "blank"))
    a.ask("read_lockspace", stage.space("", 1, "leases"))
    a.ask("read_lockspace", wire.lockspace("", 1, ""))
    a.ask("read_lockspace", wire.lockspace("", 1, "/nowhere"))
    a.ask("read_lockspace", stage.space("", 1, flags=wire.SECTOR_4K | wire.ALIGN_8M))
    a.ask("read_lockspace", stage.space("", 1, flags=wire.SECTOR_4K))
    a.ask("read_lockspace", stage.space("", 1, offset=MIB))
    a.ask("read_lockspace", stage.space("", 1, offset=100))
    a.ask("read_lockspace", stage.space("", 1, offset=1 << 40))
    a.ask("read_lockspace", stage.space("", 2001))


@areas
def read_resource(stage):
    a = stage.client().first
    a.ask("read_resource", wire.resource("", "", [(stage.path("leases"), 0)]))
    a.ask("read_resource", wire.resource("", "", [(stage.path("leases"), MIB)], flags=wire.ALIGN_1M | wire.SECTOR_512))
    a.ask("read_resource", stage.lease(3, lver=9, data32=4))


@areas
def read_resource_refused(stage):
    a = stage.client().first
    a.ask("read_resource", stage.lease(3, space="WRONG"))
    a.ask("read_resource", stage.lease(3, name="WRONG"))
    a.ask("read_resource", wire.resource("", "", [(stage.path("blank"), 0)]))
    a.ask("read_resource", wire.resource("", "", [(stage.path("space"), 0)]))
    a.ask("read_resource", wire.resource("", "", [("/nowhere", 0)]))
    a.ask("read_resource", wire.resource("", "", [("", 0)]))
    a.ask("read_resource", wire.resource("", "", [(stage.path("leases"), 77)]))
    a.ask("read_resource", wire.resource("", "", [(stage.path("leases"), 1 << 40)]))
    a.ask("read_resource", wire.resource("", "", [(stage.path("leases"), 0)], flags=wire.SECTOR_4K | wire.ALIGN_8M))
    a.ask("read_resource", wire.resource("", ""))


@areas
def owners_of_a_free_lease(stage):
    a = stage.client().first
    a.ask("read_resource_owners", stage.lease(0))
    a.ask("read_resource_owners", wire.resource("", "", [(stage.path("leases"), 0)]))


@areas
def owners_refused(stage):
    a = stage.client().first
    a.ask("read_resource_owners", stage.lease(0, space="WRONG"))
    a.ask("read_resource_owners", stage.lease(0, name="WRONG"))
    a.ask("read_resource_owners", wire.resource("", "", [(stage.path("blank"), 0)]))
    a.ask("read_resource_owners", wire.resource("", "", [("/nowhere", 0)]))
    a.ask("read_resource_owners", stage.lease(0, flags=wire.SECTOR_4K | wire.ALIGN_8M))


@areas
def write_lockspace(stage):
    a = stage.client().first
    a.ask("write_lockspace", stage.space("NEW", 1, "blank"))
    a.ask("read_lockspace", stage.space("", 1, "blank"))
    a.ask("write_lockspace", stage.space("NEW", 1, "blank", MIB), data2=20)
    a.ask("read_lockspace", stage.space("", 1, "blank", MIB))
    a.ask("write_lockspace", stage.space("NEW", 1, "blank", flags=wire.SECTOR_512 | wire.ALIGN_1M))
    a.ask("read_lockspace", stage.space("", 1, "blank"))


@areas
def write_lockspace_refused(stage):
    a = stage.client().first
    a.ask("write_lockspace", stage.space("NEW", 1, "blank", flags=wire.SECTOR_512 | wire.ALIGN_8M))
    a.ask("write_lockspace", stage.space("NEW", 1, "blank", flags=wire.SECTOR_4K))
    a.ask("write_lockspace", wire.lockspace("NEW", 1, "/nowhere"))
    a.ask("write_lockspace", wire.lockspace("NEW", 1, ""))
    a.ask("write_lockspace", stage.space("NEW", 1, "blank", 100))


@areas
def write_lockspace_of_4096(stage):
    a = stage.client().first
    for align in (wire.ALIGN_1M, wire.ALIGN_2M, wire.ALIGN_4M, wire.ALIGN_8M):
        a.ask("write_lockspace", stage.space("NEW", 1, "blank", flags=wire.SECTOR_4K | align))
        a.ask("read_lockspace", stage.space("", 1, "blank"))


@areas
def write_resource(stage):
    a = stage.client().first
    disks = [(stage.path("blank"), 2 * MIB)]
    a.ask("write_resource", wire.resource("LS", "new", disks))
    a.ask("read_resource", wire.resource("", "", disks))
    a.ask("write_resource", wire.resource("LS", "new", disks), data=7, data2=5)
    a.ask("read_resource", wire.resource("LS", "new", disks))
    a.ask("write_resource", wire.resource("LS", "new", disks), data=5000)
    a.ask("read_resource", wire.resource("LS", "new", disks))


@areas
def write_resource_refused(stage):
    a = stage.client().first
    a.ask("write_resource", wire.resource("LS", "new", [("/nowhere", 0)]))
    a.ask("write_resource", wire.resource("LS", "new", [("", 0)]))
    a.ask("write_resource", wire.resource("LS", "new", [(stage.path("blank"), 100)]))
    a.ask("write_resource", wire.resource("LS", "new", [(stage.path("blank"), 0)], flags=wire.SECTOR_512 | wire.ALIGN_4M))


@areas
def clear_resource(stage):
    a = stage.client().first
    disks = [(stage.path("blank"), 3 * MIB)]
    a.ask("write_resource", wire.resource("LS", "gone", disks))
    a.ask("write_resource", wire.resource("LS", "gone", disks), flags=wire.CLEAR)
    a.ask("read_resource", wire.resource("LS", "gone", disks))
    a.ask("read_resource_owners", wire.resource("LS", "gone", disks))
    a.ask("write_resource", wire.resource("", "", [(stage.path("blank"), 4 * MIB)]), flags=wire.CLEAR)
    a.ask("read_resource", wire.resource("", "", [(stage.path("blank"), 4 * MIB)]))


def sized(stage, offset, flags, name="sized"):
    return wire.resource("LS", name, [(stage.path("blank"), offset)], flags=flags)


@areas
def lease_of_4096_and_8m(stage):
    a, flags = stage.client().first, wire.SECTOR_4K | wire.ALIGN_8M
    a.ask("write_resource", sized(stage, 0, flags))
    a.ask("read_resource", sized(stage, 0, 0))
    a.ask("read_resource", sized(stage, 0, flags))
    a.ask("read_resource_owners", sized(stage, 0, flags))
    a.ask("read_resource_owners", sized(stage, 0, 0))
    a.ask("read_resource_owners", sized(stage, 0, wire.SECTOR_512 | wire.ALIGN_1M))


@areas
def leases_of_4096_and_less(stage):
    a = stage.client().first
    for align in (wire.ALIGN_1M, wire.ALIGN_2M, wire.ALIGN_4M):
        flags = wire.SECTOR_4K | align
        a.ask("write_resource", sized(stage, 0, flags))
        a.ask("read_resource", sized(stage, 0, 0))
        a.ask("read_resource_owners", sized(stage, 0, flags))


@areas
def num_hosts_of_each_size(stage):
    a = stage.client().first
    for align, most in ((wire.ALIGN_1M, 250), (wire.ALIGN_2M, 500), (wire.ALIGN_4M, 1000), (wire.ALIGN_8M, 2000)):
        for asked in (most, most + 1):
            a.ask("write_resource", sized(stage, 0, wire.SECTOR_4K | align), data=asked)
            stage.lines.append(f"num_hosts on disk {stage.read_disk('blank', 0, 32)[16:].hex()}")


@areas
def formatted_bytes_of_a_lease(stage):
    a = stage.client().first
    a.ask("write_resource", sized(stage, 5 << 20, wire.SECTOR_512 | wire.ALIGN_1M))
    stage.lines.append(f"leader {stage.read_disk('blank', 5 << 20, 200).hex()}")
    a.ask("write_lockspace", stage.space("NEW", 0, "blank", 6 << 20))
    stage.lines.append(f"host 1 {stage.read_disk('blank', 6 << 20, 200).hex()}")
    stage.lines.append(f"host 2 {stage.read_disk('blank', (6 << 20) + 512, 200).hex()}")


@areas
def a_lease_that_is_damaged(stage):
    a, at = stage.client().first, 20 << 20
    good = stage.read_disk("leases", at, 200)
    for byte in (0, 4, 12, 56, 104, 160, 168):
        stage.write_disk("leases", at, good[:byte] + bytes([good[byte] ^ 0x10]) + good[byte + 1:])
        a.ask("read_resource", stage.lease(20))
        a.ask("read_resource_owners", stage.lease(20))
    stage.write_disk("leases", at, good)
    a.ask("read_resource", stage.lease(20))


@areas
def a_lockspace_that_is_damaged(stage):
    a = stage.client().first
    good = stage.read_disk("space2", 0, 200)
    for byte in (0, 4, 12, 56, 160, 168):
        stage.write_disk("space2", 0, good[:byte] + bytes([good[byte] ^ 0x10]) + good[byte + 1:])
        a.ask("read_lockspace", stage.space("", 1, "space2"))
    stage.write_disk("space2", 0, good)
    a.ask("read_lockspace", stage.space("", 1, "space2"))


@areas
def names_of_48_bytes(stage):
    a, disks = stage.client().first, [(stage.path("blank"), 7 << 20)]
    a.ask("write_resource", wire.resource("L" * 48, "R" * 48, disks))
    a.ask("read_resource", wire.resource("", "", disks))
    a.ask("read_resource", wire.resource("L" * 48, "R" * 48, disks))
    a.ask("read_resource", wire.resource("L" * 47, "R" * 48, disks))
    a.ask("read_resource_owners", wire.resource("L" * 48, "R" * 48, disks))
