"""What random calls found to differ, in as few as show it: alike since then, or deliberate (differences.py)."""

import os
import re
import struct
import time

import wire

from device import Device
from puppet import DELTA, Puppet, record
from render import records

from . import set_of
from .contests import falls_silent, renewed
from .damage import changed, with_changed
from .hangs import acquire, named, of
from .leases import hold, orphan, until

edges = set_of("edges")
LONG = 10.0


def client_of(stage):
    client = stage.client()
    client.known()
    return client


def resources(client):
    """What STATUS says of resources."""
    stage = client.stage
    stage.wait_for_workers()
    told, stage.lines = stage.lines, []
    client.connect().ask("status")
    lines, of_resources = [], False
    for line in stage.lines:
        if re.search(r"<   \w", line):
            of_resources = "<   resource " in line
        lines += [line] * of_resources
    stage.lines = told + lines


@edges
def stage_joined_to_find(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)


@edges
def status_lists_the_newest_first(stage):
    a, b, n = client_of(stage), client_of(stage), [stage.fresh() for _ in range(3)]
    orphan(stage, n[2])
    hold(stage, a, n[0])
    hold(stage, b, n[1])
    until(stage, -117, lambda: hold(stage, a, n[2]))
    resources(a)
    a.first.ask("release", wire.resource("LS", ""), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)


@edges
def status_counts_the_times_that_a_lease_was_acquired(stage):
    a, n = client_of(stage), stage.fresh()
    for _ in range(2):
        hold(stage, a, n)
        a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    hold(stage, a, n)
    resources(a)


@edges
def status_of_an_orphan_that_is_shared(stage):
    a, n = client_of(stage), stage.fresh()
    orphan(stage, n, wire.SHARED)
    until(stage, -117, lambda: hold(stage, a, n))
    resources(a)
    a.first.ask("release", wire.resource("LS", ""), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)


@edges
def status_of_a_holder_that_restricts_signals(stage):
    for flags in (wire.RESTRICT_SIGKILL, wire.RESTRICT_SIGTERM):
        a, n = client_of(stage), stage.fresh()
        a.first.ask("restrict", flags=flags, data2=wire.SELF)
        hold(stage, a, n)
        resources(a)
        a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)


@edges
def status_of_a_lease_with_a_new_value(stage):
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("set_lvb", stage.named(n) + b"new")
    resources(a)


@edges
def status_of_a_client_whose_killpath_is_told_its_pid(stage):
    a = client_of(stage)
    for flags in (1, 0):
        a.first.ask("killpath", wire.field("/bin/true", 128) + wire.field("", 128), flags=flags, data2=wire.SELF)
        stage.wait_for_workers()
        a.connect().ask("status", data=2)


@edges
def status_beside_a_connection_that_listens(stage):
    a = stage.client()
    listening = a.connect()
    listening.ask("reg_event", wire.lockspace("LS") + wire.host_event(0))
    a.connect().ask("status", data=2)
    listening.send(b"\1\0\0\0", "the end of events")
    a.connect().ask("end_event", wire.lockspace("LS"))


@edges
def in_use_whatever_the_host_id(stage):
    """Whether a lockspace is in use is asked before whether there is one."""
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n)
    a.first.ask("rem_lockspace", stage.space(host_id=2), flags=wire.UNUSED)


@edges
def a_request_that_is_taken_back_whatever_the_name(stage):
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n)
    a.first.ask("request", stage.lease(n), flags=wire.NEXT_LVER, data=wire.GRACEFUL)
    a.first.ask("request", stage.lease(n, name="wrong"), data=0)
    stage.lines.append("request on disk " + stage.read_disk("leases", (n << 20) + 512, 20).hex())


@edges
def flags_of_a_lease_that_mean_nothing(stage):
    a, n = stage.client().first, stage.fresh()
    a.ask("read_resource", stage.lease(n, flags=0x1000))
    a.ask("read_resource_owners", stage.lease(n, flags=0x1000))


@edges
def a_sharer_that_leaves_its_lease_behind_beside_another(stage):
    a, b, n = client_of(stage), client_of(stage), stage.fresh()
    for client, flags in ((a, wire.SHARED | wire.PERSISTENT), (b, wire.SHARED)):
        client.first.ask("acquire", stage.lease(n, flags=flags) + wire.options(), data=1, data2=wire.SELF)
    a.first.close()
    a.actor.end()
    stage.until_status_has(f" pid={a.pid} ".encode(), False)
    b.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    b.first.ask("release", stage.named(n), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)


def asked_for(stage, before, after, force):
    """A client that restricts signals before it acquires, and again after that; then it is asked for."""
    a, b, n = client_of(stage), stage.client().first, stage.fresh()
    a.first.ask("restrict", flags=before, data2=wire.SELF)
    hold(stage, a, n)
    a.first.ask("restrict", flags=after, data2=wire.SELF)
    b.ask("request", stage.lease(n), flags=wire.NEXT_LVER, data=force)
    b.ask("examine_resource", stage.named(n))
    a.ended()


@edges
def restricted_once_it_holds_a_lease_and_asked_for(stage):
    asked_for(stage, 0, wire.RESTRICT_SIGKILL, wire.FORCE)


@edges
def no_longer_restricted_and_asked_for(stage):
    asked_for(stage, wire.RESTRICT_SIGTERM, 0, wire.GRACEFUL)


@edges
def restricted_to_no_signal_and_asked_for(stage):
    both = wire.RESTRICT_SIGKILL | wire.RESTRICT_SIGTERM
    asked_for(stage, both, both, wire.FORCE)


@edges
def a_value_with_a_length_that_cannot_be(stage):
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    b = stage.client()
    for length in (0, 159, 0xFFFFFFFF):
        c = b.connect()
        c.request("set_lvb", stage.named(n), length=length)
        c.half_close()
        c.reply()


@edges
def releases_of_which_one_is_whole(stage):
    a, b, n = client_of(stage), stage.client().first, stage.fresh()
    hold(stage, a, n)
    b.request("release", stage.named(n), data=2, data2=a.pid)
    b.half_close()
    b.reply()
    a.first.ask("inquire", data2=wire.SELF)


@edges
def values_of_the_length_that_is_asked_for(stage):
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("set_lvb", stage.named(n) + b"value")
    for length in (3, 16, wire.SELF):
        a.first.ask("get_lvb", stage.named(n), data2=length)
    a.first.ask("get_lvb", stage.named(99), data2=16, within=0.3)


@edges
def more_of_a_value_than_there_is(stage):
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("get_lvb", stage.named(n), data2=5000)


@edges
def a_value_of_no_bytes(stage):
    """sanlock waits for one, whose first it takes from the next request."""
    a, n = client_of(stage), stage.fresh()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("set_lvb", stage.named(n), within=0.5)
    a.first.close()


@edges
def restricted_by_whoever_adopts_an_orphan(stage):
    a, n = client_of(stage), stage.fresh()
    orphan(stage, n)
    a.first.ask("restrict", flags=wire.RESTRICT_SIGKILL, data2=wire.SELF)
    until(stage, 0, lambda: hold(stage, a, n, flags=wire.ACQUIRE_ORPHAN))
    resources(a)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)


@edges
def killpaths_of_who_was_asked_for(stage):
    """The one that it had when it acquired is run, and a later one is not."""
    for before, after in (("old", "new"), ("", "new"), ("old", "")):
        a, b, n = client_of(stage), stage.client().first, stage.fresh()
        told = {word: stage.path(f"{word}{n}") for word in ("old", "new")}
        for word in (before, None, after):
            if word is None:
                hold(stage, a, n)
                continue
            path, arguments = ("/usr/bin/touch", told[word]) if word else ("", "")
            a.first.ask("killpath", wire.field(path, 128) + wire.field(arguments, 128), data2=wire.SELF)
        b.ask("request", stage.lease(n), flags=wire.NEXT_LVER, data=wire.GRACEFUL)
        b.ask("examine_resource", stage.named(n))
        if not before:
            a.ended()
        until_time = time.monotonic() + LONG
        while before and not os.path.exists(told[before]) and time.monotonic() < until_time:
            time.sleep(0.02)
        stage.lines.append(f"run: {[word for word, path in told.items() if os.path.exists(path)]}")


@edges
def all_of_them_and_another_flag(stage):
    for flags in (wire.RELEASE_ALL | wire.RELEASE_ORPHAN, wire.RELEASE_ALL | wire.RELEASE_RENAME):
        a, n = client_of(stage), stage.fresh()
        hold(stage, a, n)
        a.first.ask("release", flags=flags, data2=wire.SELF)
        a.first.ask("inquire", data2=wire.SELF)


@edges
def more_disks_than_a_lease_can_have(stage):
    """sanlock takes the disks for headers, and waits for the second half of the last: nobody is served meanwhile."""
    a, b = stage.client().first, stage.client().first
    a.ask("read_resource", wire.resource("", "", [(stage.path("leases"), 0)] * 5))
    a.ask("version", within=0.5)
    b.ask("version", within=0.5)
    a.close()


@edges
def busy_from_the_header_on(stage):
    a, b, c = client_of(stage), stage.client().first, stage.client().first
    b.request("release", data=1, data2=a.pid)
    time.sleep(0.2)
    c.ask("inquire", data2=a.pid)
    c.ask("acquire", stage.lease(0) * 9 + wire.options(), data=9, data2=a.pid)
    b.half_close()
    b.reply()


damaged = set_of("edges_damaged")


@damaged
def stage_joined_to_find_damage(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)


@damaged
def leaders_that_are_sealed_and_mean_nothing(stage):
    a = client_of(stage)
    for what, at, data in (("flags", 8, b"\xff"), ("no sector size", 12, bytes(4))):
        n = stage.fresh()
        stage.lines.append(f"-- {what}")
        stage.write_disk("leases", n << 20, changed(stage.read_disk("leases", n << 20, 200), at, data, True))
        hold(stage, a, n)


@damaged
def a_first_sector_that_is_damaged(stage):
    """sanlock believes of it the sizes."""
    a = stage.client().first
    other = lambda: a.ask("add_lockspace", stage.space("OTHER", 3, "space2"), within=LONG, data=1)
    with_changed(stage, "space2", 0, (("a bit of the generation", 40, b"\1"),), other)
    a.ask("rem_lockspace", stage.space("OTHER", 3, "space2"), within=LONG)


@damaged
def a_sector_that_is_sealed_and_means_nothing(stage):
    a = stage.client().first
    other = lambda: a.ask("add_lockspace", stage.space("OTHER", 4, "space2"), within=LONG, data=1)
    with_changed(stage, "space2", 3 * 512, (("flags", 8, b"\xff", True),), other)
    a.ask("rem_lockspace", stage.space("OTHER", 4, "space2"), within=LONG)


@damaged
def a_lockspace_in_a_file_that_ends_within_it(stage):
    a, whole = stage.client().first, stage.read_disk("space2", 0, 1 << 20)
    for length in (4096, (1 << 20) - 512):
        with open(stage.path(f"cut{length}"), "wb") as file:
            file.write(whole[:length])
        space = wire.lockspace("OTHER", 5, stage.path(f"cut{length}"))
        a.ask("read_lockspace", space)
        if a.ask("add_lockspace", space, within=LONG, data=1) == 0:
            a.ask("rem_lockspace", space, within=LONG)


@damaged
def owned_by_a_generation_that_its_host_has_not_had(stage):
    """As after a lockspace that was formatted anew, and its leases not."""
    a, n = client_of(stage), stage.fresh()
    Puppet(stage, host_id=4).owns(n)
    hold(stage, a, n, flags=wire.OWNER_NOWAIT)


lists = set_of("edges_lists")


@lists
def stage_joined_to_find_lists(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)
    time.sleep(2.5)


@lists
def held_then_begun_then_given_back_then_left_behind(stage):
    """The order of STATUS with two of each list. What is begun waits for a silent host, what is given back for a disk."""
    a, b, c, d = (client_of(stage) for _ in range(4))
    n, puppet = [stage.fresh() for _ in range(5)], falls_silent(stage)
    with Device(stage) as device:
        for number in (0, 1):
            a.first.ask("write_resource", of(device, number), within=LONG)
            acquire(b, of(device, number))
        left = [stage.lease(number, flags=wire.PERSISTENT) for number in n[:2]]
        b.first.ask("acquire", b"".join(left) + wire.options(), data=2, data2=wire.SELF)
        for number in n[2:4]:
            puppet.owns(number)
        hold(stage, a, n[4])
        device.writes_hang()
        b.first.close()
        b.actor.end()
        stage.until_status_has(b"list=orphan ")
        for client, number in ((c, n[2]), (d, n[3])):
            client.first.request("acquire", stage.lease(number) + wire.options(), data=1, data2=wire.SELF)
            time.sleep(0.2)
        acquire(a, stage.lease(stage.fresh()))
        stage.lines += [listed(string, rest) for _, string, rest in records(stage.status(0)) if string.startswith(b"list=")]
        device.goes_on()
        puppet.stands(0)
        for client in (c, d):
            client.first.reply(LONG)


def listed(string, rest):
    """A line for a resource, or a lockspace: its list and its name."""
    name = rest[48:96] if string.find(b" token_id=") > 0 else rest[:48]
    return f"{string.split()[0].decode()} {name.rstrip(bytes(1)).decode()}"


just_joined = set_of("edges_just_joined")


@just_joined
def hosts_right_after_a_join(stage):
    client = stage.client()
    client.first.ask("add_lockspace", stage.space(), within=LONG, data=1)
    client.connect().ask("get_hosts", wire.lockspace("LS"))
    client.connect().ask("host_status", wire.lockspace("LS"), length=32)


as_host_3 = set_of("edges_as_host_3")


@as_host_3
def fewer_hosts_than_our_own_are_asked_for(stage):
    stage.client().first.ask("add_lockspace", stage.space(host_id=3), within=LONG, data=1)
    a, n = client_of(stage), stage.fresh()
    a.first.ask("acquire", stage.lease(n, flags=wire.NUM_HOSTS, data32=2) + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)


hanging = set_of("edges_hanging")


@hanging
def stage_joined_to_find_what_hangs(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)


@hanging
def an_exclusive_lease_on_a_disk_whose_writes_hang(stage):
    a = client_of(stage)
    with Device(stage) as device:
        a.first.ask("write_resource", of(device, 0), within=LONG)
        device.writes_hang()
        acquire(a, of(device, 0))
        device.goes_on()


@hanging
def conversions_on_a_disk_whose_writes_hang(stage):
    for flags in (wire.SHARED, 0):
        a = client_of(stage)
        with Device(stage) as device:
            a.first.ask("write_resource", of(device, 0), within=LONG)
            acquire(a, of(device, 0, flags=wire.SHARED - flags))
            device.writes_hang()
            a.first.ask("convert", named(0, flags=flags), data2=wire.SELF)
            device.goes_on()


@hanging
def status_of_a_lease_whose_release_hangs(stage):
    a, b = client_of(stage), stage.client()
    with Device(stage) as device:
        a.first.ask("write_resource", of(device, 0), within=LONG)
        acquire(a, of(device, 0))
        device.writes_hang()
        a.first.close()
        a.actor.end()
        time.sleep(1.0)
        resources(b)
        device.goes_on()


failing = set_of("edges_failing")


@failing
def conversions_on_a_disk_that_fails(stage):
    """The last of its set."""
    stage.client().first.ask("add_lockspace", stage.space(), within=LONG, data=1)
    a = client_of(stage)
    with Device(stage) as device:
        a.first.ask("write_resource", of(device, 0), within=LONG)
        acquire(a, of(device, 0))
        device.fails()
        a.first.ask("convert", named(0, flags=wire.SHARED), data2=wire.SELF)


lost = set_of("edges_lost")


@lost
def status_of_a_lockspace_that_is_lost(stage):
    """The last of its set. Its client has a killpath that ends nobody, and holds on."""
    a, b, n = client_of(stage), stage.client(), stage.fresh()
    a.first.ask("killpath", wire.field("/bin/true", 128) + wire.field("", 128), data2=wire.SELF)
    b.first.ask("add_lockspace", stage.space(), within=LONG, data=1)
    hold(stage, a, n)
    renewed(stage)
    timestamp = struct.unpack("<Q", stage.read_disk("space", 152, 8))[0]
    stage.write_disk("space", 0, record(DELTA, "LS", "puppet", 2, 1, timestamp, io_timeout=1).ljust(512, b"\0"))
    time.sleep(4)
    b.connect().ask("status", data=3)
    b.connect().ask("get_hosts", wire.lockspace("LS"))
