"""The calls that random sequences are made of. Each draw makes one call, or a few that belong together."""

import re
import struct

import wire

DRAWS = {}  # each with how often it is drawn, relative to the others
LEASES = 6
EXCLUSIVE = (4, 5)  # leases that nobody shares or leaves behind: these can be asked for


def draw(weight):
    def add(function):
        DRAWS[function] = weight
        return function
    return add


# Leases.

@draw(20)
def acquire(caller):
    asking, target = caller.speaker()
    first, count = caller.number(), caller.pick(1, 1, 1, 1, 2, 3)
    payload = b"".join(_wanted(caller, first + n) for n in range(count))
    flags = caller.flags(ACQUIRE_LVB=20, ACQUIRE_ORPHAN=20, OWNER_NOWAIT=30) | caller.odd_bits()
    if flags & wire.ACQUIRE_LVB and caller.one_in(3):
        flags |= wire.ACQUIRE_ORPHAN_ONLY  # without LVB it does not count with sanlock (only_an_orphan_without_a_value)
    asking.ask("acquire", payload + wire.options(caller.pick("one", "two", "")), flags=flags, data=count, data2=target)


def _wanted(caller, number):
    """A lease as an acquire names it."""
    number %= LEASES
    flags = caller.flags(SHARED=40, PERSISTENT=15, LVER=10, NUM_HOSTS=5) | caller.odd_bits()
    lver = caller.pick(0, 0, 0, 1, 2, 1000, 1 << 63) if flags & wire.LVER else 0
    if number in EXCLUSIVE:
        flags &= ~(wire.SHARED | wire.PERSISTENT)
    if flags & wire.SHARED and flags & wire.PERSISTENT:
        caller.left_shared.add(f"r{number}")
    if caller.joined and caller.one_in(10):
        disks = [(caller.stage.path("blank"), (number & 1) << 20)]
        return wire.resource("OTHER", f"o{number & 1}", disks, flags=flags, lver=lver)
    hosts = caller.pick(1, 10, 2000) if flags & wire.NUM_HOSTS else 0
    return caller.lease(number, flags=flags, lver=lver, data32=hosts)


@draw(14)
def release(caller):
    asking, target = caller.speaker()
    number, kind = caller.number(), caller.pick("plain", "plain", "plain", "all", "orphan", "two")
    if kind == "all":
        asking.ask("release", flags=wire.RELEASE_ALL, data2=target)
    elif kind == "orphan":
        asking.ask("release", caller.named(number), flags=wire.RELEASE_ORPHAN, data=1, data2=target)
        caller.settle()
    else:
        numbers = [number] if kind == "plain" else [number, (number + 1) % LEASES]
        flags = caller.odd_bits()
        asking.ask("release", b"".join(map(caller.named, numbers)), flags=flags, data=len(numbers), data2=target)


@draw(2)
def release_oddly(caller):
    """With more leases than its flags ask for, with several of them, or with a flag that means nothing."""
    asking, target = caller.speaker()
    flags, count, sent = caller.pick((1, 1, 1), (1, 2, 1), (3, 2, 0), (5, 1, 0), (2, 3, 3), (4, 2, 2), (6, 2, 2), (8, 1, 1), (8, 2, 2))
    names = [caller.stage.named(99)] * 2 if flags & wire.RELEASE_RENAME else []
    payload = b"".join((names + [caller.named(caller.number()) for _ in range(3)])[:sent])
    asking.ask("release", payload, flags=flags, data=count, data2=target)
    caller.settle()


@draw(7)
def inquire(caller):
    asking, target = caller.speaker()
    asking.ask("inquire", flags=caller.odd_bits(), data2=target)


@draw(5)
def share(caller):
    asking, target = caller.speaker()
    number = caller.number()
    if number not in EXCLUSIVE:
        payload = caller.named(number, flags=wire.SHARED)
        asking.ask("convert", payload, flags=caller.flags(OWNER_NOWAIT=30), data2=target)


@draw(5)
def take_for_itself(caller):
    asking, target = caller.speaker()
    number, flags = caller.number(), caller.flags(OWNER_NOWAIT=30)
    payload = caller.named(number)
    # Beside another sharer of the same host this is a known difference (conversion_beside_another_sharer).
    if sum(held.name == f"r{number}" for held in caller.resources()) < 2:
        asking.ask("convert", payload, flags=flags, data2=target)


@draw(5)
def value(caller):
    asking, _ = caller.speaker()
    number = caller.number()
    if caller.one_in(2):
        length = caller.pick(1, 16, 512, 513)
        asking.ask("set_lvb", caller.named(number) + bytes([caller.dice.randrange(1, 256)]) * length)
    else:
        asking.ask("get_lvb", caller.named(number), data=caller.pick(0, 8), data2=caller.pick(0, 0, 8, 512))


@draw(2)
def rename_and_back(caller):
    """Of a lease that is held exclusively; of any other the name stays, and nothing is given back."""
    client, number = caller.client(), caller.number()
    mine = [held for held in caller.resources() if held[:4] == ("LS", f"r{number}", "held", client.pid)]
    if not mine or mine[0].shared:
        client.first.ask("release", caller.named(99) * 2, flags=wire.RELEASE_RENAME, data=2, data2=wire.SELF)
        return
    names = [caller.stage.named(number), caller.stage.named(number, name="renamed")]
    renamed = caller.stage.lease(number, name="renamed") + wire.options("two")
    client.first.ask("release", names[0] + names[1], flags=wire.RELEASE_RENAME, data=2, data2=wire.SELF)
    client.first.ask("acquire", renamed, data=1, data2=wire.SELF)
    client.first.ask("release", names[1] + names[0], flags=wire.RELEASE_RENAME, data=2, data2=wire.SELF)


@draw(2)
def end(caller):
    client = caller.client()
    if caller.may_end([client]):
        client.first.close()
        client.actor.end()
        caller.replace(client)


@draw(3)
def ask_for(caller):
    """Asks for a lease, and has the daemon look whom that is for."""
    asking, number = caller.fresh(), caller.pick(*EXCLUSIVE)
    # No far version: with sanlock that is for later owners, too (docs/compatibility.md).
    payload = caller.stage.lease(number, lver=caller.pick(0, 0, 0, 1, 2))
    asking.ask("request", payload, flags=caller.flags(NEXT_LVER=70), data=caller.pick(wire.FORCE, wire.GRACEFUL))
    caller.gone(asking)
    _examine(caller, caller.stage.named(number))


@draw(2)
def take_back_what_was_asked(caller):
    asking = caller.fresh()
    asking.ask("request", caller.stage.lease(caller.pick(*EXCLUSIVE)), data=0)
    caller.gone(asking)


@draw(2)
def ask_in_vain(caller):
    asking = caller.fresh()
    # Not with a force_mode of 0: a known difference (a_request_that_is_taken_back_whatever_the_name).
    asking.ask("request", caller.pick(caller.stage.lease(4, name="wrong"), caller.stage.lease(4, space="OTHER"),
                                      wire.resource("LS", "r4", [("/nowhere", 0)]), wire.resource("LS", "r4")),
               flags=caller.flags(NEXT_LVER=50), data=caller.pick(1, 2))
    caller.gone(asking)


@draw(2)
def examine(caller):
    _examine(caller, caller.named(caller.number()) if caller.one_in(2) else None)


def _examine(caller, lease):
    """Whoever is asked for is ended, and replaced."""
    asked = _asked_for(caller, lease)
    if any(client in caller.spared for client in asked) or not caller.may_end(asked):
        return
    asking = next(client for client in caller.clients if client not in asked).connect()
    if lease:
        asking.ask("examine_resource", lease)
    else:
        asking.ask("examine_lockspace", caller.stage.space())
    caller.gone(asking)
    for client in asked:
        client.ended()
        caller.replace(client)


def _asked_for(caller, lease):
    """The clients that hold what the request records on the disk are for."""
    asked = []
    for number in EXCLUSIVE:
        lver, force = struct.unpack("<8xQI", caller.stage.read_disk("leases", (number << 20) + 512, 20))
        if lease in (None, caller.stage.named(number)) and force:
            asked += [held.pid for held in caller.resources()
                      if held[:3] == ("LS", f"r{number}", "held") and held.lver < lver]
    return [client for client in caller.clients if client.pid in asked]


# What clients say of themselves.

@draw(3)
def restrict(caller):
    either = wire.RESTRICT_SIGKILL, wire.RESTRICT_SIGTERM
    caller.client().first.ask("restrict", flags=caller.pick(0, *either, sum(either)), data2=wire.SELF)


@draw(2)
def killpath(caller):
    client = caller.client()
    caller.spared.add(client)  # where it is asked for gracefully, from the next acquire on
    client.first.ask("killpath", wire.field("/bin/true", 128) + wire.field(caller.pick("", "one two"), 128),
                     flags=caller.pick(0, 1), data2=wire.SELF)


# What stands on the disk.

@draw(6)
def read(caller):
    asking, _ = caller.speaker()
    flags = caller.pick(0, 0, 0, wire.SECTOR_512 | wire.ALIGN_1M, wire.SECTOR_4K | wire.ALIGN_8M, wire.ALIGN_2M)
    asking.ask(caller.pick("read_resource", "read_resource_owners"), caller.lease(caller.number(), flags=flags))


@draw(4)
def read_lockspace(caller):
    asking, _ = caller.speaker()
    flags = caller.pick(0, 0, 0, wire.SECTOR_512 | wire.ALIGN_1M, wire.SECTOR_4K | wire.ALIGN_8M, wire.SECTOR_4K,
                        wire.ALIGN_2M)
    offset = caller.pick(0, 0, 0, 0, 100, 1 << 20, 1 << 40)
    asking.ask("read_lockspace", caller.space(offset=offset, flags=flags))


@draw(2)
def align(caller):
    asking, _ = caller.speaker()
    path = caller.pick(caller.stage.path("space"), caller.stage.path("blank"), "/nowhere", "/", "")
    asking.ask("align", wire.disk(path, caller.pick(0, 0, 5, 1 << 20)))


@draw(3)
def format_and_read(caller):
    asking = caller.fresh()
    disks = [(caller.stage.path("blank"), caller.pick(4, 5, 6, 7) << 20)]
    sizes = caller.pick(0, 0, wire.SECTOR_512 | wire.ALIGN_1M, wire.ALIGN_4M)
    lease = wire.resource("LS", caller.pick("x", "y"), disks, flags=sizes)
    hosts = {"data": caller.pick(0, 0, 7, 5000), "data2": caller.pick(0, 3)}
    asking.ask("write_resource", lease, flags=caller.flags(CLEAR=30), **hosts)
    asking.ask("read_resource", wire.resource(caller.pick("", "LS"), caller.pick("", "x"), disks))
    caller.gone(asking)


# Lockspaces and their hosts.

@draw(3)
def inq_lockspace(caller):
    asking, _ = caller.speaker()
    asking.ask("inq_lockspace", caller.space(), flags=caller.pick(0, 0, wire.WAIT))


@draw(3)
def hosts(caller):
    name = caller.pick("LS", "LS", "OTHER", "NONE", "")
    caller.fresh().ask("get_hosts", wire.lockspace(name, caller.pick(0, 1, 2, 2000, 2001)))


@draw(2)
def host_status(caller):
    caller.fresh().ask("host_status", wire.lockspace(caller.pick("LS", "OTHER", "NONE")), length=32)


@draw(2)
def lockspaces(caller):
    lines, caller.stage.lines = caller.stage.lines, []
    caller.fresh().ask("get_lockspaces")
    # Where a struct has a gap, sanlock tells now and then of its memory.
    caller.stage.lines = lines + [re.sub(r" pad=\d+", " pad=<gap>", line) for line in caller.stage.lines]


@draw(2)
def config(caller):
    command = caller.pick(wire.USED, wire.NOT_USED, wire.USED_BY_ORPHANS, wire.UNUSED_BY_ORPHANS, 0, 16)
    caller.fresh().ask("set_config", wire.lockspace(caller.pick("LS", "LS", "NONE")), data=command)


@draw(2)
def rem_in_vain(caller):
    asking = caller.fresh()
    space = caller.pick(caller.stage.space("NONE"), caller.stage.space("LS", 2), caller.stage.space(offset=512))
    asking.ask("rem_lockspace", space, flags=caller.flags(ASYNC=30, UNUSED=30))
    caller.gone(asking)


@draw(2)
def add_in_vain(caller):
    asking = caller.fresh()
    space = caller.pick(caller.stage.space(), caller.stage.space("LS", 2), caller.stage.space("LS", 1, "blank"),
                        caller.stage.space("OTHER", 1), caller.stage.space("", 1), caller.stage.space("LS", 0))
    asking.ask("add_lockspace", space, flags=caller.flags(ASYNC=30), data=1)
    caller.gone(asking)


@draw(2)
def join_or_leave(caller):
    """OTHER, in one of four sequences: it takes seconds."""
    if not caller.joins:
        return
    used = any(held.space == "OTHER" for held in caller.resources())
    asking, other = caller.fresh(), caller.stage.space("OTHER", 3, "space2")
    if not caller.joined:
        asking.ask("add_lockspace", other, within=10.0, data=1)
        hosts_of_it = lambda: caller.stage.look("get_hosts", wire.lockspace("OTHER"))[24:28]
        caller.until(lambda: hosts_of_it() == bytes(4), "the hosts of OTHER are not known", 10.0)
        caller.joined = True
    else:
        asking.ask("rem_lockspace", other, flags=wire.UNUSED if used else caller.flags(UNUSED=50), within=10.0)
        caller.joined = used
    caller.gone(asking)


# Events. None is for this host: when it hears of one is a matter of instants.

@draw(2)
def listen(caller):
    """From the beginning to the end at once."""
    listening, asking, name = caller.fresh(), caller.fresh(), caller.pick("LS", "LS", "LS", "NONE", "")
    result = listening.ask("reg_event", wire.lockspace(name) + wire.host_event(0))
    listening.stands()
    if result == 0:
        listening.send(b"\1\0\0\0", "the end of events")
    asking.ask("end_event", wire.lockspace(name))
    listening.stands()
    caller.gone(listening)


@draw(3)
def tell(caller):
    asking, told = caller.fresh(), wire.lockspace(caller.pick("LS", "LS", "LS", "NONE"))
    event = wire.host_event(caller.pick(2, 3, 2000), caller.pick(0, 1), caller.pick(1, 5), caller.pick(0, 7))
    # Another within six seconds is refused, and later not: this one replaces what was there, and one follows at once.
    asking.ask("set_event", told + event, flags=wire.REPLACE_EVENT | caller.flags(CUR_GENERATION=30))
    event = wire.host_event(caller.pick(0, 2, 2001), caller.pick(0, 1), caller.pick(0, 5, 9), caller.pick(0, 7))
    asking.ask("set_event", told + event, flags=caller.flags(REPLACE_EVENT=30, CLEAR_HOSTID=20, CLEAR_EVENT=20))
    caller.gone(asking)


# The daemon.

@draw(3)
def version(caller):
    asking, _ = caller.speaker()
    head = {"flags": caller.pick(0, 7), "data": caller.pick(0, 3), "data2": caller.pick(0, 4), "seq": caller.pick(0, 9)}
    asking.ask("version", **head)


@draw(5)
def status(caller):
    caller.settle()
    lines, caller.stage.lines = caller.stage.lines, []
    caller.fresh().ask("status", data=caller.pick(0, 0, 2, 3, 1, 4, 9))
    caller.stage.lines = lines + _comparable(caller.stage.lines)


def _comparable(lines):
    """STATUS without what differs: name_of_a_registered_connection, restricted_by_whoever_adopts_an_orphan."""
    for what, instead in ((r"(client .* data32=[A-Z] .*)name=.*? ", r"\1name=<name> "),
                          (r"(list=\w+ flags=)([0-9a-f]+)", _unrestricted)):
        lines = [re.sub(what, instead, line) for line in lines]
    return lines


def _unrestricted(found):
    """Of a resource's flags those that say nothing of what is restricted."""
    return f"{found.group(1)}{int(found.group(2), 16) & ~0x18:x}"


@draw(1)
def log(caller):
    lines, caller.stage.lines = caller.stage.lines, []
    caller.fresh().ask("log_dump")
    caller.stage.lines = lines + [line for line in caller.stage.lines if "lines of the form" in line]


# What no client of sanlock's sends.

@draw(3)
def not_understood(caller):
    """It is passed over: what comes after it is answered."""
    asking = caller.client().first
    odd = caller.pick({"magic": 7}, {"version": 0x10000}, {"command": 0}, {"command": 41}, {"command": 1 << 31})
    asking.request(odd.pop("command", "get_lockspaces"), **odd)
    asking.ask("version")


@draw(2)
def nothing_is_heard_any_more(caller):
    asking = caller.fresh()
    asking.ask("restrict", flags=wire.RESTRICT_ALL, data2=wire.SELF)
    asking.request(caller.pick("version", "get_lockspaces"))
    asking.stands()
    caller.gone(asking)


@draw(3)
def more_than_belongs(caller):
    asking = caller.fresh()
    command, payload = caller.pick(("inq_lockspace", caller.stage.space()), ("get_lvb", caller.stage.named(0)),
                                   ("align", wire.disk("/nowhere")), ("version", b""))
    asking.ask(command, payload + bytes(caller.pick(32, 64)), length=caller.pick(None, 0, 32, 0xFFFFFFFF))
    asking.ask("version", length=caller.pick(32, 4, 0))
    caller.gone(asking)


@draw(4)
def cut_short(caller):
    """Part of a payload, and the end."""
    asking, client = caller.fresh(), caller.client()
    event = wire.lockspace("LS") + wire.host_event(2)
    command, payload, more = caller.pick(
        ("add_lockspace", caller.stage.space(), {}), ("inq_lockspace", caller.stage.space(), {}),
        ("rem_lockspace", caller.stage.space(), {}), ("align", wire.disk("x"), {}), ("set_event", event, {}),
        ("request", caller.stage.lease(4), {}), ("write_resource", caller.stage.lease(4), {}),
        ("examine_resource", caller.stage.named(4), {}), ("examine_lockspace", caller.stage.space(), {}),
        ("set_lvb", caller.stage.named(0) + b"value", {}), ("get_lvb", caller.stage.named(0), {}),
        ("acquire", caller.stage.lease(0) + wire.options(), {"data": 1, "data2": client.pid}),
        ("acquire", caller.stage.lease(1) * 2 + wire.options(), {"data": 2, "data2": client.pid}),
        # Of several releases sanlock does those that came whole: one is cut.
        ("release", caller.stage.named(0), {"data": 1, "data2": client.pid}))
    length = min(len(payload) - 1, caller.pick(0, 1, 100, 127, 1000, 1 << 20))
    head = wire.header(command, length=32 + len(payload), **more)
    asking.send(head + payload[:length], f"{command} and {length} bytes")
    asking.half_close()
    asking.reply()
    caller.gone(asking)


@draw(3)
def wrong_counts(caller):
    asking, client = caller.fresh(), caller.client()
    count = caller.pick(0, 9, 66)
    disks = caller.pick(0, 1, 5)
    what = caller.pick("acquire", "acquire", "request", "read_resource")
    if what == "acquire" and caller.one_in(2):
        asking.ask("acquire", caller.stage.lease(0) * min(count, 9) + wire.options(), data=count, data2=client.pid)
    elif what == "acquire":
        lease = wire.resource("LS", "none", [("/nowhere", 0)] * disks)
        asking.ask("acquire", lease + wire.options(), data=1, data2=client.pid)
    else:
        # Without disks, not with five (more_disks_than_a_lease_can_have).
        asking.ask(what, wire.resource("LS", "r0"))
    asking.ask("version")
    caller.gone(asking)


@draw(2)
def value_of_another_length(caller):
    """The length that a header tells is the value's, and nothing else is."""
    asking = caller.fresh()
    length = caller.pick(160, 161, 168, 160 + 512, 160 + 4096, 160 + 4097)
    request = wire.header("set_lvb", length=length) + caller.stage.named(caller.number()) + b"8 bytes."
    asking.send(request, f"set_lvb of length {length}")
    asking.half_close()
    asking.reply()
    caller.gone(asking)


@draw(2)
def not_registered(caller):
    asking = caller.fresh()
    named = caller.stage.named(0)
    command, payload = caller.pick(("inquire", b""), ("release", named), ("convert", named))
    asking.ask(command, payload, data=int(command == "release"), data2=wire.SELF)
    asking.ask("version")
    caller.gone(asking)
