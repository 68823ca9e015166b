"""Formatting and reading: every pair of sizes, every place, what is there and what is not."""

from . import set_of
from .walk import MIB, SPACE

areas = set_of("areas")

ALIGN = [n * MIB for n in (1, 2, 4, 8)]
SECTOR = [512, 4096]


@areas
def every_pair_of_sizes(walk):
    walk.start()
    a, path = walk.who("A"), walk.path("large")
    walk.a = a
    for align in ALIGN + [0, 1, 3 * MIB, 16 * MIB]:
        for sector in SECTOR + [0, 1, 520, 8192]:
            size = {"align": align, "sector": sector}
            a.write_lockspace(SPACE, path, offset=0, iotimeout=2, **size)
            a.read_lockspace(path, offset=0, **size)
            a.write_resource(SPACE, b"r", [(path, 16 * MIB)], **size)
            a.read_resource(path, 16 * MIB, **size)
            a.read_resource_owners(SPACE, b"r", [(path, 16 * MIB)], **size)


@areas
def sizes_that_are_not_the_areas(walk):
    a, path = walk.a, walk.path("large")
    for written in ((MIB, 512), (MIB, 4096), (8 * MIB, 4096)):
        a.write_lockspace(SPACE, path, align=written[0], sector=written[1])
        a.write_resource(SPACE, b"r", [(path, 16 * MIB)], align=written[0], sector=written[1])
        a.read_lockspace(path)
        a.read_resource(path, 16 * MIB)
        for align in ALIGN:
            for sector in SECTOR:
                a.read_lockspace(path, align=align, sector=sector)
                a.read_resource(path, 16 * MIB, align=align, sector=sector)
                a.read_resource_owners(SPACE, b"r", [(path, 16 * MIB)], align=align, sector=sector)


@areas
def offsets_off_the_grid_and_beyond_the_end(walk):
    a, path = walk.a, walk.path("large")
    for offset in (1, 511, 512, 4096, MIB - 512, MIB, 3 * MIB, 63 * MIB, 64 * MIB, 64 * MIB - 512, 1 << 40, (1 << 63) - 1, -1):
        a.write_lockspace(SPACE, path, offset=offset, iotimeout=1)
        a.read_lockspace(path, offset=offset)
        a.write_resource(SPACE, b"r", [(path, offset)])
        a.read_resource(path, offset=offset)
        a.read_resource_owners(SPACE, b"r", [(path, offset)])
        a.read_lockspace(path, offset=offset, align=2 * MIB, sector=4096)


@areas
def large_sectors_at_offsets_of_small_ones(walk):
    a, path = walk.a, walk.path("large")
    for offset in (512, MIB - 512, 4096):
        a.write_resource(SPACE, b"r", [(path, offset)], align=2 * MIB, sector=4096)
        a.read_resource(path, offset, align=2 * MIB, sector=4096)


@areas
def numbers_of_hosts_and_io_timeouts(walk):
    a, path = walk.a, walk.path("large")
    for hosts in (0, 1, 7, 250, 251, 500, 2000, 2001, 100000):
        for align, sector in ((MIB, 512), (MIB, 4096), (2 * MIB, 4096)):
            size = {"align": align, "sector": sector}
            a.write_lockspace(SPACE, path, max_hosts=hosts, **size)
            a.read_lockspace(path, **size)
            a.write_resource(SPACE, b"r", [(path, 16 * MIB)], max_hosts=hosts, **size)
            a.read_resource_owners(SPACE, b"r", [(path, 16 * MIB)], **size)
            a.write_resource(SPACE, b"r", [(path, 16 * MIB)], num_hosts=hosts, **size)
            a.read_resource(path, 16 * MIB, **size)
    for io_timeout in (0, 1, 5, 10, 60, 255):
        a.write_lockspace(SPACE, path, iotimeout=io_timeout)
        a.read_lockspace(path)


@areas
def cleared_and_written_again(walk):
    a, path = walk.a, walk.path("large")
    disks = [(path, 32 * MIB)]
    a.write_resource(SPACE, b"r", disks, clear=True)
    a.read_resource(path, 32 * MIB)
    a.write_resource(SPACE, b"r", disks)
    a.read_resource(path, 32 * MIB)
    a.read_resource_owners(SPACE, b"r", disks)
    a.read_resource_owners(SPACE, b"x", disks)
    a.read_resource_owners(b"X", b"r", disks)
    a.write_resource(SPACE, b"r", disks, clear=True)
    a.read_resource(path, 32 * MIB)
    a.read_resource_owners(SPACE, b"r", disks)
    a.write_resource(b"", b"", disks, clear=True)
    a.write_resource(b"NEW", b"name", disks, clear=False)
    a.read_resource(path, 32 * MIB)


@areas
def one_kind_is_not_the_other(walk):
    a = walk.a
    a.read_lockspace(walk.path("leases"))
    a.read_resource(walk.path("space"))
    a.read_resource_owners(SPACE, b"r0", [(walk.path("space"), 0)])
    a.read_lockspace(walk.path("blank"))
    a.read_resource(walk.path("blank"))
    a.read_resource_owners(SPACE, b"r0", [(walk.path("blank"), 0)])
    a.read_lockspace(walk.path("space"))
    a.read_resource(walk.path("leases"), 5 * MIB)
    a.get_alignment(walk.path("space"))
    a.get_alignment(walk.path("leases"))


@areas
def several_areas_of_one_disk(walk):
    a, path = walk.a, walk.path("large")
    for count in (2, 3, 4):
        disks = [(path, (40 + at) * MIB) for at in range(count)]
        a.write_resource(SPACE, b"several", disks)
        a.read_resource_owners(SPACE, b"several", disks)
        a.read_resource(*disks[-1])
    a.write_resource(SPACE, b"several", [(path, 40 * MIB), (walk.path("nowhere"), 0)])
    a.read_resource_owners(SPACE, b"several", [(path, 40 * MIB), (walk.path("nowhere"), 0)])
    a.write_resource(SPACE, b"several", [(path, 40 * MIB), (path, 40 * MIB)])


def formatted_and_read(walk, device, align, sector):
    """Both kinds of area in one place, and a place beyond the end."""
    a, size = walk.a, {"align": align, "sector": sector}
    a.write_lockspace(SPACE, device, iotimeout=1, **size)
    a.read_lockspace(device, **size)
    a.write_resource(SPACE, b"r", [(device, 0)], **size)
    a.read_resource(device, **size)
    a.read_resource_owners(SPACE, b"r", [(device, 0)], **size)
    a.write_resource(SPACE, b"r", [(device, 1 << 30)], **size)


@areas
def on_devices(walk):
    """What a device's own sectors are decides what it is formatted with if nothing is said."""
    walk.devices = {sector: walk.device(file, sector) for sector, file in ((512, "space2"), (4096, "large"))}
    for own, device in walk.devices.items():
        walk.a.get_alignment(device)
        walk.a.write_lockspace(SPACE, device, iotimeout=1)
        walk.a.write_resource(SPACE, b"r", [(device, 512)])
        for sector in SECTOR:
            for align in ALIGN if sector >= own else []:
                formatted_and_read(walk, device, align, sector)


@areas
def small_sectors_on_a_device_of_large_ones(walk):
    for align in ALIGN:
        formatted_and_read(walk, walk.devices[4096], align, 512)
