"""The bytes of sanlock's socket protocol, spelled out a second time (spec A 2, 3, 5).

Nothing here is shared with the product's own codec: a mistake there must not
cancel itself out here. All integers are little-endian.
"""

import struct

MAGIC, VERSION = 0x04282010, 1
HEADER = struct.Struct("<8I")
DISK, RESOURCE, LOCKSPACE, OPTIONS, HOST, RENTRY = 1040, 128, 1104, 56, 32, 64
SELF = 0xFFFFFFFF  # target: the connection itself

COMMANDS = {
    "register": 1, "add_lockspace": 2, "rem_lockspace": 3, "shutdown": 4, "status": 5, "log_dump": 6,
    "acquire": 7, "release": 8, "inquire": 9, "restrict": 10, "request": 11, "align": 12,
    "examine_lockspace": 13, "examine_resource": 14, "host_status": 15, "inq_lockspace": 16,
    "killpath": 17, "write_lockspace": 18, "write_resource": 19, "read_lockspace": 20,
    "read_resource": 21, "get_lockspaces": 22, "get_hosts": 23, "read_resource_owners": 24,
    "set_lvb": 25, "get_lvb": 26, "convert": 27, "version": 28, "shutdown_wait": 29, "reg_event": 30,
    "end_event": 31, "set_event": 32, "set_config": 33, "renewal": 34, "format_rindex": 35,
    "update_rindex": 36, "lookup_rindex": 37, "create_resource": 38, "delete_resource": 39,
    "rebuild_rindex": 40,
}
NAMES = {number: name for name, number in COMMANDS.items()}
STREAMS = ("status", "host_status", "renewal")

# Flag words (spec A 3).
LVER, NUM_HOSTS, SHARED, PERSISTENT = 1, 2, 4, 8
ALIGN_1M, ALIGN_2M, ALIGN_4M, ALIGN_8M, SECTOR_512, SECTOR_4K = 0x10, 0x20, 0x40, 0x80, 0x100, 0x200
ASYNC, UNUSED, WAIT, CLEAR = 1, 2, 1, 1
ACQUIRE_LVB, ACQUIRE_ORPHAN, ACQUIRE_ORPHAN_ONLY, OWNER_NOWAIT = 1, 2, 4, 8
RELEASE_ALL, RELEASE_RENAME, RELEASE_ORPHAN = 1, 2, 4
RESTRICT_ALL, RESTRICT_SIGKILL, RESTRICT_SIGTERM = 1, 2, 4
NEXT_LVER, FORCE, GRACEFUL = 1, 1, 2
CUR_GENERATION, CLEAR_HOSTID, CLEAR_EVENT, REPLACE_EVENT, ALL_HOSTS = 1, 2, 4, 8, 0x10
USED, NOT_USED, USED_BY_ORPHANS, UNUSED_BY_ORPHANS = 1, 2, 4, 8


def field(text, size):
    """A string field: zero padded, cut at its end, without a NUL where it is full."""
    data = text if isinstance(text, bytes) else text.encode()
    return data[:size].ljust(size, b"\0")


def header(command, flags=0, data=0, data2=0, length=32, seq=0, magic=MAGIC, version=VERSION):
    """A request's 32 bytes; `command` by name or number."""
    number = COMMANDS.get(command, command)
    return HEADER.pack(magic, version, number, flags, length, seq, data & 0xFFFFFFFF, data2 & 0xFFFFFFFF)


def disk(path, offset=0):
    """1040 bytes."""
    return field(path, 1024) + struct.pack("<QII", offset, 0, 0)


def lockspace(name, host_id=0, path="", offset=0, flags=0):
    """1104 bytes."""
    return field(name, 48) + struct.pack("<QII", host_id, flags, 0) + disk(path, offset)


def resource(space, name, disks=(), lver=0, flags=0, data32=0, num_disks=None):
    """128 bytes and 1040 for each disk."""
    count = len(disks) if num_disks is None else num_disks
    head = field(space, 48) + field(name, 48) + struct.pack("<QQIIII", lver, 0, data32, 0, flags, count)
    return head + b"".join(disk(*each) for each in disks)


def options(owner_name=""):
    """56 bytes."""
    return field(owner_name, 48) + bytes(8)


def host_event(host_id, generation=0, event=0, data=0):
    """32 bytes."""
    return struct.pack("<4Q", host_id, generation, event, data)


def rindex(space, path, offset=0, flags=0, max_resources=0):
    """1104 bytes."""
    return struct.pack("<IIQ", flags, max_resources, 0) + field(space, 48) + disk(path, offset)


def rentry(name="", offset=0, flags=0):
    """64 bytes."""
    return field(name, 48) + struct.pack("<QII", offset, flags, 0)


def signed(word):
    """A result as the i32 it is."""
    return word - (1 << 32) if word >= 1 << 31 else word
