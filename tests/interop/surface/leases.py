"""Leases of one host: taking, giving back, asking, values, and what is refused."""

from . import set_of
from .walk import MIB, SPACE

leases = set_of("leases")
large = set_of("sectors")


@leases
def taken_and_given_back(walk):
    walk.start()
    a, b = walk.a, walk.b = walk.who("A"), walk.who("B")
    fd, other = walk.fd, walk.other = a.register(), b.register()
    a.acquire(*walk.lease(0), slkfd=fd)
    walk.join(a, 1)
    for number, name in ((0, None), (1, None)):
        a.read_resource(walk.path("leases"), number * MIB)
        a.acquire(*walk.lease(number, name), slkfd=fd)
        a.read_resource(walk.path("leases"), number * MIB)
        a.read_resource_owners(*walk.lease(number))
    a.inquire(slkfd=fd)
    a.inquire(pid=a.pid)
    b.inquire(pid=a.pid)
    b.inquire(slkfd=other)
    a.release(*walk.lease(0), slkfd=fd)
    a.release(*walk.lease(0), slkfd=fd)
    a.read_resource_owners(*walk.lease(0))
    a.inquire(slkfd=fd)
    a.release(*walk.lease(1), pid=a.pid)
    a.inquire(slkfd=fd)


@leases
def held_by_another_process(walk):
    a, b, fd, other = walk.a, walk.b, walk.fd, walk.other
    a.acquire(*walk.lease(0), slkfd=fd)
    a.acquire(*walk.lease(0), slkfd=fd)
    a.acquire(*walk.lease(0), slkfd=fd, shared=True)
    a.acquire(*walk.lease(0), slkfd=fd, version=2)
    b.acquire(*walk.lease(0), slkfd=other)
    b.acquire(*walk.lease(0), slkfd=other, shared=True)
    b.acquire(*walk.lease(0), pid=b.pid)
    b.acquire(SPACE, b"r0", [(walk.path("nowhere"), 0)], slkfd=other)
    b.release(*walk.lease(0), slkfd=other)
    b.release(*walk.lease(0), pid=b.pid)
    b.inquire(slkfd=other)
    b.release(*walk.lease(0), pid=a.pid)
    b.acquire(*walk.lease(0), pid=a.pid)
    a.inquire(slkfd=fd)
    a.release(SPACE, b"r0", [(walk.path("nowhere"), 77)], slkfd=fd)
    a.inquire(slkfd=fd)


@leases
def shared_by_two_processes(walk):
    a, b, fd, other = walk.a, walk.b, walk.fd, walk.other
    a.acquire(*walk.lease(2), slkfd=fd, shared=True)
    a.acquire(*walk.lease(2), slkfd=fd, shared=True)
    b.acquire(*walk.lease(2), slkfd=other, shared=True)
    b.acquire(*walk.lease(2), slkfd=other)
    a.inquire(slkfd=fd)
    b.inquire(slkfd=other)
    a.read_resource_owners(*walk.lease(2))
    a.release(*walk.lease(2), slkfd=fd)
    b.acquire(*walk.lease(2), slkfd=other)
    b.release(*walk.lease(2), slkfd=other)
    b.release(*walk.lease(2), slkfd=other)
    a.release(*walk.lease(2), slkfd=fd)
    a.inquire(slkfd=fd)
    a.read_resource_owners(*walk.lease(2))
    b.acquire(*walk.lease(2), slkfd=other)
    b.inquire(slkfd=other)
    b.release(*walk.lease(2), slkfd=other)


@leases
def versions(walk):
    a, fd = walk.a, walk.fd
    for version in (1, 7, 0, None, 1, 2, -1, "2", 2.0, (1 << 64) - 1, 1 << 64):
        a.acquire(*walk.lease(3), slkfd=fd, version=version)
        a.inquire(slkfd=fd)
        a.release(*walk.lease(3), slkfd=fd)
    a.read_resource(walk.path("leases"), 3 * MIB)


@leases
def leases_that_are_not_there(walk):
    a, fd = walk.a, walk.fd
    leases_file, blank = walk.path("leases"), walk.path("blank")
    for shared in (False, True):
        for space, name, path, offset in ((SPACE, b"wrong", leases_file, 4 * MIB), (b"WRONG", b"r4", leases_file, 4 * MIB),
                                          (SPACE, b"r4", blank, 0), (SPACE, b"r4", walk.path("nowhere"), 0),
                                          (SPACE, b"r4", walk.directory, 0), (SPACE, b"r4", leases_file, 4 * MIB + 512),
                                          (SPACE, b"r4", leases_file, 4 * MIB + 1), (SPACE, b"r4", leases_file, 1 << 40),
                                          (SPACE, b"r4", leases_file, (1 << 63) - 1), (SPACE, b"r4", walk.path("space"), 0),
                                          (SPACE, b"r4", "", 0), (SPACE, b"r4", "/dev/null", 0), (b"", b"r4", leases_file, 4 * MIB),
                                          (SPACE, b"r4", walk.path("short"), 0)):
            a.acquire(space, name, [(path, offset)], slkfd=fd, shared=shared)
    a.write_resource(SPACE, b"r4", [(leases_file, 4 * MIB)], clear=True)
    a.acquire(*walk.lease(4), slkfd=fd)
    a.acquire(SPACE, b"r4", [(leases_file, 4 * MIB)] * 5, slkfd=fd)
    a.acquire(SPACE, b"r4", [], slkfd=fd)
    a.inquire(slkfd=fd)


SIZES = ((MIB, 4096), (2 * MIB, 4096), (4 * MIB, 4096), (8 * MIB, 4096), (MIB, 512))


def held_in_each_size(walk, space, sizes):
    """A lease of each of these sizes, taken and given back."""
    a, fd, path = walk.a, walk.fd, walk.path("large")
    for at, (align, sector) in enumerate(sizes):
        name, disks, size = b"size%d" % at, [(path, 8 * at * MIB)], {"align": align, "sector": sector}
        a.write_resource(space, name, disks, **size)
        for shared in (False, True):
            a.acquire(space, name, disks, slkfd=fd, shared=shared)
            a.inquire(slkfd=fd)
            a.read_resource_owners(space, name, disks, **size)
            a.release(space, name, disks, slkfd=fd)


@leases
def leases_of_other_sectors_than_their_lockspace(walk):
    held_in_each_size(walk, SPACE, SIZES)


def inquired(walk, names):
    """Each has a process of its own: the binding does not survive all of what INQUIRE says."""
    for name, file, at in names:
        who = walk.who(f"N{at}")
        fd, disks = who.register(), [(walk.path(file), at * MIB if file == "large" else 0)]
        who.write_resource(SPACE, name, disks)
        who.acquire(SPACE, name, disks, slkfd=fd)
        who.read_resource(*disks[0])
        who.inquire(slkfd=fd)


@leases
def names_and_paths_that_need_care(walk):
    inquired(walk, ((b"with:colon", "large", 40), (b"with\\backslash", "large", 41), (b"\xc3\xa9", "large", 42),
                    (b"slash/dot.", "large", 43), (b"n" * 47, "large", 44), (b"odd1", "colon:file", 45),
                    (b"odd2", "back\\slash", 46)))


@leases
def a_space_in_a_name_or_path(walk):
    inquired(walk, ((b"with space", "large", 47), (b"odd3", "space file", 48)))


@leases
def a_name_of_48_bytes(walk):
    inquired(walk, ((b"n" * 48, "large", 49),))


@leases
def values(walk):
    a, b, fd = walk.a, walk.b, walk.fd
    lease = walk.lease(5)
    a.set_lvb(*lease, b"nobody holds it")
    a.get_lvb(*lease, 16)
    a.acquire(*lease, slkfd=fd)
    a.set_lvb(*lease, b"held without a value")
    a.get_lvb(*lease, 16)
    a.release(*lease, slkfd=fd)
    a.acquire(*lease, slkfd=fd, lvb=True)
    a.get_lvb(*lease, 16)
    for value in (b"", b"v", b"x" * 512, b"x" * 513, b"x" * 4096, b"x" * 4097, b"a\0b"):
        a.set_lvb(*lease, value)
        a.get_lvb(*lease, 16)
    for size in (1, 512, 513, 4096, 0, -1, 4097, 1 << 31):
        a.get_lvb(*lease, size)
    b.set_lvb(*lease, b"by another process")
    b.get_lvb(*lease, size=32)
    a.set_lvb(SPACE, b"r5", [(walk.path("nowhere"), 0)], b"by another path")
    a.get_lvb(SPACE, b"r5", [(walk.path("nowhere"), 0)], 16)
    a.set_lvb(b"WRONG", b"r5", lease[2], b"v")
    a.get_lvb(SPACE, b"wrong", lease[2], 1)
    a.release(*lease, slkfd=fd)
    a.get_lvb(*lease, 16)
    b.acquire(*lease, slkfd=walk.other, lvb=True)
    b.get_lvb(lockspace=SPACE, resource=b"r5", disks=lease[2], size=20)
    b.set_lvb(lockspace=SPACE, resource=b"r5", disks=lease[2], data=b"z")
    b.release(*lease, slkfd=walk.other)


@leases
def values_of_sharers(walk):
    a, b, fd, lease = walk.a, walk.b, walk.fd, walk.lease(6)
    a.acquire(*lease, slkfd=fd, shared=True, lvb=True)
    b.acquire(*lease, slkfd=walk.other, shared=True, lvb=True)
    a.set_lvb(*lease, b"shared")
    b.get_lvb(*lease, 8)
    a.release(*lease, slkfd=fd)
    b.release(*lease, slkfd=walk.other)
    a.acquire(*lease, slkfd=fd, lvb=True)
    a.get_lvb(*lease, 8)
    a.release(*lease, slkfd=fd)


@leases
def requests_of_ones_own(walk):
    a, fd = walk.a, walk.fd
    for action in (1, 2):
        a.request(*walk.lease(7), action=action)
        a.request(*walk.lease(7), action=action, version=1)
        a.request(b"WRONG", *walk.lease(7)[1:], action=action)
        a.request(SPACE, b"wrong", walk.lease(7)[2], action=action)
        a.request(SPACE, b"r7", [(walk.path("blank"), 0)], action=action)
        a.request(SPACE, b"r7", [(walk.path("nowhere"), 0)], action=action)
        a.request(SPACE, b"r7", [], action=action)
    a.acquire(*walk.lease(7), slkfd=fd)
    for version in (0, 1, -1, "2", 1 << 64):
        a.request(*walk.lease(7), version=version)
    a.request(*walk.lease(7), action=0, version=0)
    a.request(*walk.lease(7), action=0)
    a.release(*walk.lease(7), slkfd=fd)


@leases
def requests_with_an_action_that_means_nothing(walk):
    a = walk.a
    a.acquire(*walk.lease(7), slkfd=walk.fd)
    for action in (3, 7, -1):
        a.request(*walk.lease(7), action=action)
    a.release(*walk.lease(7), slkfd=walk.fd)


@leases
def a_lease_on_several_areas_of_one_disk(walk):
    a, fd = walk.a, walk.fd
    disks = [(walk.path("large"), (50 + at) * MIB) for at in range(3)]
    for count in (2, 3):
        a.write_resource(SPACE, b"several", disks[:count])
        a.acquire(SPACE, b"several", disks[:count], slkfd=fd)
        a.inquire(slkfd=fd)
        a.read_resource_owners(SPACE, b"several", disks[:count])
        a.release(SPACE, b"several", disks[:count], slkfd=fd)
        a.request(SPACE, b"several", disks[:count])


@leases
def a_lease_on_three_disks(walk):
    """In a lockspace that each daemon has formatted itself."""
    a, fd, space = walk.a, walk.fd, b"OWN"
    a.write_lockspace(space, walk.path("own"), iotimeout=1)
    a.add_lockspace(space, 1, walk.path("own"), iotimeout=1)
    disks = [(walk.path("copy%d" % number), 0) for number in range(3)]
    a.write_resource(space, b"copied", disks)
    for value in (b"first", b"second"):
        a.acquire(space, b"copied", disks, slkfd=fd, lvb=True)
        a.get_lvb(space, b"copied", disks, size=16)
        a.set_lvb(space, b"copied", disks, value)
        a.inquire(slkfd=fd)
        a.read_resource_owners(space, b"copied", disks)
        a.release(space, b"copied", disks, slkfd=fd)
        a.read_resource_owners(space, b"copied", disks)
    a.acquire(space, b"copied", disks, slkfd=fd, shared=True, lvb=True)
    a.get_lvb(space, b"copied", disks, size=16)
    a.convert(space, b"copied", disks, slkfd=fd, shared=False)
    a.request(space, b"copied", disks)
    a.convert(space, b"copied", disks, slkfd=fd, shared=True)
    a.release(space, b"copied", disks, slkfd=fd)
    a.acquire(space, b"copied", disks, slkfd=fd, version=7)
    a.rem_lockspace(space, 1, walk.path("own"))


@leases
def many_leases(walk):
    a, fd = walk.a, walk.fd
    for number in range(10, 28):
        a.acquire(*walk.lease(number), slkfd=fd)
    a.inquire(slkfd=fd)
    for number in range(10, 28, 2):
        a.release(*walk.lease(number), slkfd=fd)
    a.acquire(*walk.lease(12), slkfd=fd)
    a.inquire(slkfd=fd)


@leases
def a_client_that_goes(walk):
    """Its leases are given back, and a new connection does not have them."""
    a, b = walk.a, walk.b
    a.close_fd(walk.fd)
    walk.until(lambda outcome: outcome[0] == "raised", b, "inquire", pid=a.pid)
    walk.until(lambda outcome: outcome[0] == "ok", b, "acquire", *walk.lease(12), slkfd=walk.other)
    fd = a.register()
    a.inquire(slkfd=fd)
    a.release(*walk.lease(13), slkfd=fd)
    b.release(*walk.lease(12), slkfd=walk.other)
    a.close_fd(fd)


@leases
def joined_under_another_host_id(walk):
    a = walk.a
    walk.until(lambda outcome: outcome[0] == "ok", a, "rem_lockspace", SPACE, 1, walk.path("space"))
    walk.join(a, 2000)
    fd = a.register()
    a.acquire(*walk.lease(20), slkfd=fd)
    a.read_resource_owners(*walk.lease(20))
    a.release(*walk.lease(20), slkfd=fd)


@leases
def a_lease_without_a_name(walk):
    walk.a.acquire(SPACE, b"", [(walk.path("leases"), 4 * MIB)], pid=walk.a.pid)


@leases
def formatted_under_its_holder(walk):
    """The last of its set: a host whose sector was overwritten loses its lockspace."""
    a = walk.a
    fd = a.register()
    a.acquire(*walk.lease(8), slkfd=fd)
    a.write_resource(*walk.lease(8))
    a.write_lockspace(SPACE, walk.path("space"), iotimeout=1)


@large
def in_a_lockspace_of_large_sectors(walk):
    """Lockspace and leases on sectors of 4096 bytes, of every size an area can have."""
    walk.start()
    a = walk.a = walk.who("A")
    walk.fd = a.register()
    a.write_lockspace(b"LARGE", walk.path("blank"), iotimeout=1, align=8 * MIB, sector=4096)
    a.add_lockspace(b"LARGE", 2000, walk.path("blank"), iotimeout=1)
    a.get_lockspaces()
    walk.until(lambda outcome: outcome[0] == "ok", a, "get_hosts", b"LARGE")
    held_in_each_size(walk, b"LARGE", [(8 * MIB, 4096)])


@large
def leases_of_smaller_areas(walk):
    """They have no sector for a host_id that large."""
    held_in_each_size(walk, b"LARGE", SIZES)


@large
def values_of_large_sectors(walk):
    a, fd = walk.a, walk.fd
    lease = (b"LARGE", b"valued", [(walk.path("large"), 48 * MIB)])
    a.write_resource(*lease, align=8 * MIB, sector=4096)
    for value in (b"x" * 4096, b"y" * 513, b"x" * 4097):
        a.acquire(*lease, slkfd=fd, lvb=True)
        a.set_lvb(*lease, value)
        a.get_lvb(*lease, 4096)
        a.release(*lease, slkfd=fd)


@large
def under_a_host_id_that_has_room_in_smaller_areas(walk):
    a = walk.a
    a.rem_lockspace(b"LARGE", 2000, walk.path("blank"))
    a.add_lockspace(b"LARGE", 250, walk.path("blank"), iotimeout=1)
    held_in_each_size(walk, b"LARGE", SIZES[:4])


@large
def a_value_that_has_no_place_in_its_area(walk):
    a, fd = walk.a, walk.fd
    lease = (b"LARGE", b"placeless", [(walk.path("large"), 56 * MIB)])
    a.write_resource(*lease, align=MIB, sector=4096)
    a.acquire(*lease, slkfd=fd, lvb=True)
    a.set_lvb(*lease, b"value")
    a.release(*lease, slkfd=fd)
