"""The resource index."""

import wire

from . import set_of
from stage import MIB

index = set_of("index")


def of(stage, space="LS", offset=0, **more):
    return wire.rindex(space, stage.path("blank"), offset, **more)


@index
def index_without_a_lockspace(stage):
    a = stage.client().first
    a.ask("format_rindex", of(stage), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("a"), length=1264)
    a.ask("create_resource", of(stage) + wire.rentry("a"))
    a.ask("rebuild_rindex", of(stage))


@index
def stage_joined_to_index(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)


@index
def index_not_there(stage):
    a = stage.client().first
    blank = of(stage, offset=4 * MIB)
    a.ask("lookup_rindex", blank + wire.rentry("a"), length=1264)
    a.ask("create_resource", blank + wire.rentry("a"))
    a.ask("update_rindex", blank + wire.rentry("a", MIB), flags=0x10000)
    a.ask("delete_resource", blank + wire.rentry("a"))


@index
def index_of_two(stage):
    a = stage.client().first
    a.ask("format_rindex", of(stage), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264)
    a.ask("create_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("create_resource", of(stage) + wire.rentry("two"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("two"), length=1264)
    a.ask("lookup_rindex", of(stage) + wire.rentry("", 2 * MIB), length=1264)
    a.ask("lookup_rindex", of(stage) + wire.rentry("none"), length=1264)
    a.ask("lookup_rindex", of(stage) + wire.rentry("", 77), length=1264)
    a.ask("read_resource", wire.resource("", "", [(stage.path("blank"), 3 * MIB)]))
    a.ask("delete_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("one"), length=1264)
    a.ask("delete_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264)
    a.ask("rebuild_rindex", of(stage), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry("two"), length=1264)


@index
def index_updated_by_hand(stage):
    a = stage.client().first
    a.ask("update_rindex", of(stage) + wire.rentry("by hand", 5 * MIB), flags=0x10000)
    a.ask("lookup_rindex", of(stage) + wire.rentry("by hand"), length=1264)
    a.ask("update_rindex", of(stage) + wire.rentry("by hand", 5 * MIB), flags=0x20000)
    a.ask("lookup_rindex", of(stage) + wire.rentry("by hand"), length=1264)
    a.ask("update_rindex", of(stage) + wire.rentry("crooked", 5 * MIB + 512), flags=0x10000)


@index
def index_of_another_lockspace(stage):
    a = stage.client().first
    a.ask("lookup_rindex", of(stage, "OTHER") + wire.rentry("two"), length=1264)


NO_LOCKSPACE, ADD, REM = 1, 0x10000, 0x20000


def make(stage, client, at=0, **more):
    """A new index at so many MiB, on a disk with nothing else; its connection."""
    with open(stage.path("blank"), "r+b") as disk:
        disk.truncate(0)
        disk.truncate(8 * MIB)
    client.first.ask("format_rindex", of(stage, offset=at * MIB, **more), within=10.0)
    return client.first


def entries(stage, at=0, count=10):
    """What stands in an index, byte for byte but for what Holdfast seals."""
    header = stage.read_disk("blank", at * MIB, 80)
    stage.lines.append(f"header {header.hex()}")
    for number in range(count):
        entry = stage.read_disk("blank", at * MIB + 512 + 64 * number, 64)
        if any(entry):
            stage.lines.append(f"entry {number} {entry.hex()}")


@index
def index_without_its_lockspace_asked_for(stage):
    a = make(stage, stage.client())
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264, flags=NO_LOCKSPACE)
    a.ask("update_rindex", of(stage) + wire.rentry("a", 3 * MIB), flags=NO_LOCKSPACE | ADD)
    entries(stage)
    a.ask("lookup_rindex", of(stage) + wire.rentry("a"), length=1264, flags=NO_LOCKSPACE)
    a.ask("update_rindex", of(stage) + wire.rentry("a", 3 * MIB), flags=NO_LOCKSPACE | REM)
    entries(stage)
    a.ask("lookup_rindex", of(stage) + wire.rentry("a"), length=1264, flags=NO_LOCKSPACE)
    a.ask("rebuild_rindex", of(stage), flags=NO_LOCKSPACE)


@index
def index_of_a_lockspace_that_is_not_joined(stage):
    a = make(stage, stage.client())
    a.ask("format_rindex", of(stage, "OTHER"), within=10.0)
    entry = of(stage, "OTHER") + wire.rentry("a", 3 * MIB)
    for flags in (0, NO_LOCKSPACE):
        a.ask("create_resource", entry, flags=flags)
        a.ask("delete_resource", entry, flags=flags)
    a.ask("update_rindex", entry, flags=ADD)
    a.ask("rebuild_rindex", of(stage, "OTHER"))
    a.ask("update_rindex", entry, flags=NO_LOCKSPACE | ADD)
    entries(stage)
    a.ask("lookup_rindex", of(stage, "OTHER") + wire.rentry("", 3 * MIB), length=1264, flags=NO_LOCKSPACE)
    a.ask("update_rindex", entry, flags=NO_LOCKSPACE)
    a.ask("rebuild_rindex", of(stage, "OTHER"), flags=NO_LOCKSPACE)
    entries(stage)


@index
def index_formats(stage):
    a = make(stage, stage.client())
    a.ask("format_rindex", wire.rindex("LS", "", 0))
    a.ask("format_rindex", wire.rindex("LS", "/nowhere/at/all", 0))
    a.ask("format_rindex", of(stage, offset=100))
    for flags in (wire.ALIGN_1M, wire.SECTOR_512, wire.ALIGN_2M | wire.SECTOR_512, wire.ALIGN_1M | wire.SECTOR_512,
                  wire.ALIGN_1M | wire.SECTOR_4K, wire.ALIGN_2M | wire.SECTOR_4K):
        a.ask("format_rindex", of(stage, flags=flags), within=10.0)
        entries(stage)
    for most in (0, 3, 16000, 20000, 0xFFFFFFFF):
        a.ask("format_rindex", of(stage, max_resources=most), within=10.0)
        entries(stage)


@index
def index_that_is_full(stage):
    a = make(stage, stage.client(), max_resources=2)
    for name in ("one", "two", "three"):
        a.ask("create_resource", of(stage) + wire.rentry(name), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264)
    a.ask("delete_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("lookup_rindex", of(stage) + wire.rentry(), length=1264)
    a.ask("create_resource", of(stage) + wire.rentry("three", 77), within=10.0, flags=ADD)
    entries(stage)


@index
def index_entries_by_name_and_offset(stage):
    a = make(stage, stage.client())
    for name in ("one", "two"):
        a.ask("create_resource", of(stage) + wire.rentry(name), within=10.0)
    for name, offset in (("one", 2 * MIB), ("two", 2 * MIB), ("none", 2 * MIB), ("", 3 * MIB), ("", 4 * MIB),
                         ("", 77), ("", 2 * MIB + 512), ("none", 77)):
        a.ask("lookup_rindex", of(stage) + wire.rentry(name, offset), length=1264)
    for name, offset in (("none", 0), ("none", 2 * MIB), ("", 2 * MIB), ("two", 77), ("two", 3 * MIB), ("two", 3 * MIB)):
        a.ask("delete_resource", of(stage) + wire.rentry(name, offset), within=10.0)
    entries(stage)


@index
def index_updates(stage):
    a = make(stage, stage.client())
    for name, offset, flags in (("a", 3 * MIB, 0), ("a", 3 * MIB, ADD | REM), ("a", 0, ADD), ("", 3 * MIB, ADD),
                                ("a", 3 * MIB + 512, ADD), ("a", 3 * MIB, ADD), ("a", 3 * MIB, ADD), ("a", 0, REM),
                                ("b", 4 * MIB, REM), ("", 3 * MIB, REM), ("a", 3 * MIB, REM)):
        a.ask("update_rindex", of(stage) + wire.rentry(name, offset), flags=flags)
        entries(stage)


@index
def index_with_numbers_of_hosts(stage):
    a = make(stage, stage.client())
    for number, (data, data2) in enumerate(((0, 0), (10, 5), (0, 5), (5, 0), (0, 5000), (5000, 2000))):
        a.ask("create_resource", of(stage) + wire.rentry(f"r{number}"), within=10.0, data=data, data2=data2)
        record = stage.read_disk("blank", (2 + number) * MIB, 172)
        stage.lines.append(record.hex())


@index
def index_that_says_otherwise(stage):
    a = make(stage, stage.client())
    whole = stage.read_disk("blank", 0, 80)
    for at, data in ((0, b"\0"), (4, b"\0\0\2\0"), (4, b"\7\0\1\0"), (24, b"\0\0\x10"), (32, b"OTHER")):
        stage.write_disk("blank", 0, whole[:at] + data + whole[at + len(data):] + bytes(432))
        a.ask("lookup_rindex", of(stage) + wire.rentry("a"), length=1264)
        a.ask("delete_resource", of(stage) + wire.rentry("a"))
        a.ask("update_rindex", of(stage) + wire.rentry("a", 3 * MIB), flags=ADD)
        a.ask("rebuild_rindex", of(stage))
        a.ask("create_resource", of(stage) + wire.rentry("a"))


@index
def index_without_its_lease(stage):
    a = make(stage, stage.client())
    stage.write_disk("blank", MIB, bytes(512))
    a.ask("create_resource", of(stage) + wire.rentry("a"))
    a.ask("delete_resource", of(stage) + wire.rentry("a"))
    a.ask("rebuild_rindex", of(stage))
    a.ask("lookup_rindex", of(stage) + wire.rentry("a"), length=1264)


@index
def index_on_no_device(stage):
    a = stage.client().first
    for path, offset in (("/nowhere/at/all", 0), ("", 0), (stage.path("blank"), 100)):
        index = wire.rindex("LS", path, offset)
        a.ask("lookup_rindex", index + wire.rentry("a"), length=1264)
        a.ask("create_resource", index + wire.rentry("a"))
        a.ask("delete_resource", index + wire.rentry("a"))
        a.ask("update_rindex", index + wire.rentry("a", 3 * MIB), flags=ADD)
        a.ask("rebuild_rindex", index)


@index
def index_rebuilt(stage):
    a = make(stage, stage.client(), max_resources=5)
    for name in ("one", "two", "three"):
        a.ask("create_resource", of(stage) + wire.rentry(name), within=10.0)
    stage.write_disk("blank", 512, bytes(64) + b"\xff" * 448)
    a.ask("rebuild_rindex", of(stage), within=10.0)
    entries(stage)
    a.ask("delete_resource", of(stage) + wire.rentry("two"), within=10.0)
    a.ask("rebuild_rindex", of(stage), within=10.0)
    entries(stage)


@index
def index_created_at_the_end_of_a_file(stage):
    a = make(stage, stage.client(), at=6)
    a.ask("create_resource", of(stage, offset=6 * MIB) + wire.rentry("a"), within=10.0)
    a.ask("lookup_rindex", of(stage, offset=6 * MIB) + wire.rentry("a"), length=1264)
    a.ask("rebuild_rindex", of(stage, offset=6 * MIB), within=10.0)
    entries(stage, at=6)


@index
def index_that_another_client_works_on(stage):
    a, b = stage.client(), stage.client()
    make(stage, a)
    b.register()
    lease = wire.resource("LS", "rindex_lease", [(stage.path("blank"), MIB)])
    b.first.ask("acquire", lease + wire.options("by hand"), data=1, data2=wire.SELF)
    a.first.ask("create_resource", of(stage) + wire.rentry("a"), within=10.0)
    b.first.ask("release", wire.resource("LS", "rindex_lease", num_disks=1), data=1, data2=wire.SELF)


@index
def index_with_a_name_twice(stage):
    a = make(stage, stage.client())
    for name in ("one", "one"):
        a.ask("create_resource", of(stage) + wire.rentry(name), within=10.0)
    entries(stage)


@index
def index_without_a_name(stage):
    a = make(stage, stage.client())
    a.ask("create_resource", of(stage) + wire.rentry(""), within=10.0)
    a.ask("format_rindex", of(stage, ""), within=10.0)
    a.ask("lookup_rindex", of(stage, "") + wire.rentry("a"), length=1264, flags=NO_LOCKSPACE)


@index
def index_deleted_where_it_is_not(stage):
    a = make(stage, stage.client())
    for name in ("one", "two"):
        a.ask("create_resource", of(stage) + wire.rentry(name), within=10.0)
    a.ask("delete_resource", of(stage) + wire.rentry("two", 2 * MIB), within=10.0)
    entries(stage)


@index
def index_updated_over_others(stage):
    a = make(stage, stage.client())
    for name, offset, flags in (("a", 3 * MIB, ADD), ("b", 3 * MIB, ADD), ("a", 4 * MIB, ADD), ("b", 3 * MIB, REM)):
        a.ask("update_rindex", of(stage) + wire.rentry(name, offset), flags=flags)
        entries(stage)


@index
def index_of_a_lease_in_use(stage):
    a, b = stage.client(), stage.client()
    make(stage, a)
    a.first.ask("create_resource", of(stage) + wire.rentry("a"), within=10.0)
    b.register()
    lease = wire.resource("LS", "a", [(stage.path("blank"), 2 * MIB)])
    b.first.ask("acquire", lease + wire.options("user"), data=1, data2=wire.SELF)
    a.first.ask("delete_resource", of(stage) + wire.rentry("a"), within=10.0)
    entries(stage)
    a.first.ask("read_resource", lease)


@index
def index_beside_others_leases(stage):
    """What stands in free places: a lockspace, and a lease that nobody has."""
    a = make(stage, stage.client(), at=4)
    a.ask("create_resource", of(stage, offset=4 * MIB) + wire.rentry("one"), within=10.0)
    stage.write_disk("blank", 6 * MIB, stage.read_disk("space2", 0, MIB))
    stage.write_disk("blank", 7 * MIB, stage.read_disk("leases", 0, MIB))
    stage.write_disk("blank", 4 * MIB + 512, bytes(64))
    a.ask("create_resource", of(stage, offset=4 * MIB) + wire.rentry("two"), within=10.0)
    entries(stage, at=4)


@index
def index_rebuilt_among_others_leases(stage):
    """A rebuild lists leases of its own lockspace."""
    a = make(stage, stage.client(), max_resources=4)
    a.ask("create_resource", of(stage) + wire.rentry("one"), within=10.0)
    a.ask("format_rindex", of(stage, "OTHER", max_resources=4), within=10.0)
    a.ask("rebuild_rindex", of(stage, "OTHER"), flags=NO_LOCKSPACE)
    entries(stage)
    a.ask("format_rindex", of(stage, max_resources=4), within=10.0)
    a.ask("rebuild_rindex", of(stage), within=10.0)
    entries(stage)


@index
def index_formatted_over_another_of_other_sizes(stage):
    """The old one's lease is in the way of nothing."""
    a = make(stage, stage.client(), flags=wire.ALIGN_2M | wire.SECTOR_4K)
    a.ask("format_rindex", of(stage), within=10.0)
    a.ask("create_resource", of(stage) + wire.rentry("one"), within=10.0)
    entries(stage)


range_of = set_of("index_range")


@range_of
def stage_joined_to_index_again(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)


@range_of
def index_offsets_out_of_range(stage):
    """The last of its set: sanlock's daemon does not live through it."""
    a = make(stage, stage.client())
    for name, offset in (("", MIB), ("x", MIB), ("", (2 + 4096) * MIB), ("x", 1 << 40), ("", 1 << 40)):
        a.ask("lookup_rindex", of(stage) + wire.rentry(name, offset), length=1264)
