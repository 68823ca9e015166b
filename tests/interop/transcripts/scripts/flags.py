"""Every flag of commands that have some, and flags of those that have none."""

import itertools
import time

import wire

from . import set_of
from .leases import hold, orphan

flags = set_of("flags")
WORDS = (0, 1, 2, 4, 8, 0x10, 1 << 31)
MODES = [sh | persistent for sh in (0, wire.SHARED) for persistent in (0, wire.PERSISTENT)]
# ORPHAN_ONLY without LVB is a known difference (only_an_orphan_without_a_value).
OF_ACQUIRE = [word for word in range(32) if word & wire.ACQUIRE_LVB or not word & wire.ACQUIRE_ORPHAN_ONLY]


@flags
def stage_joined_with_flags(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)
    time.sleep(3.2)  # until its hosts are known


@flags
def every_flag_of_an_acquire(stage):
    a, n = stage.client(), stage.fresh()
    a.known()
    for word, mode in itertools.product(OF_ACQUIRE, MODES):
        a.first.ask("acquire", stage.lease(n, flags=mode) + wire.options(), flags=word, data=1, data2=wire.SELF)
        a.first.ask("inquire", data2=wire.SELF)
        a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)


@flags
def every_flag_of_an_acquire_of_an_orphan(stage):
    b, n = stage.client(), stage.fresh()
    b.known()
    for left, word, mode in itertools.product((0, wire.SHARED), OF_ACQUIRE[:12], MODES):
        orphan(stage, n, left)
        stage.clients.pop()
        stage.until_status_has(b"list=orphan ")
        b.first.ask("acquire", stage.lease(n, flags=mode) + wire.options(), flags=word, data=1, data2=wire.SELF)
        b.first.ask("inquire", data2=wire.SELF)
        b.first.ask("get_lvb", stage.named(n))
        b.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
        b.first.ask("release", stage.named(n), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)
        stage.until_status_has(b"list=rem ", so=False)


@flags
def flags_and_counts_of_a_release(stage):
    """Not ALL with others (all_of_them_and_another_flag), nor fewer leases than flags ask for: sanlock waits for them."""
    a, n, m = stage.client(), stage.fresh(), stage.fresh()
    a.known()
    for word, count, sent in ((1, 0, 0), (1, 1, 1), (1, 2, 1), (2, 2, 2), (2, 3, 3), (4, 1, 1), (4, 2, 2), (6, 1, 1),
                              (6, 2, 2), (8, 1, 1), (8, 2, 2), (1 << 31, 2, 2)):
        hold(stage, a, n)
        hold(stage, a, m)
        payload = (stage.named(n) + stage.named(m, name="other") + stage.named(m))[:wire.RESOURCE * sent]
        a.first.ask("release", payload, flags=word, data=count, data2=wire.SELF)
        a.first.ask("inquire", data2=wire.SELF)
        # One that was renamed is put right on the disk.
        if word == wire.RELEASE_RENAME:
            stage.write_disk("leases", n << 20, bytes(512))
            a.first.ask("write_resource", stage.lease(n))
        a.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)


@flags
def every_flag_of_an_event(stage):
    a = stage.client().first
    events = ((2, 0, 5, 7), (2, 3, 6, 1), (0, 0, 0, 0), (3, 0, 0, 9), (2001, 1, 1, 1))
    for word, event in itertools.product(range(32), events):
        payload = wire.lockspace("LS") + wire.host_event(*event)
        a.ask("set_event", payload, flags=word | wire.REPLACE_EVENT)
        a.ask("set_event", payload, flags=word)


@flags
def every_config(stage):
    client = stage.client()
    for data in (0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 16, -1):
        client.connect().ask("set_config", wire.lockspace("LS"), data=data)
    for data, word in itertools.product((wire.NOT_USED, wire.UNUSED_BY_ORPHANS), WORDS):
        client.connect().ask("set_config", wire.lockspace("LS"), data=data, flags=word)


@flags
def flags_of_lockspaces(stage):
    a = stage.client().first
    for word in WORDS:
        for space in (stage.space(), stage.space("LS", 2)):
            a.ask("add_lockspace", space, flags=word, data=1)
            a.ask("inq_lockspace", space, flags=word)
        a.ask("rem_lockspace", stage.space("LS", 2), flags=word & ~wire.UNUSED)
        a.ask("examine_lockspace", stage.space(), flags=word, data=9)


@flags
def flags_of_areas(stage):
    a = stage.client().first
    lease, space = wire.resource("LS", "x", [(stage.path("blank"), 7 << 20)]), stage.space("NEW", 1, "blank", 6 << 20)
    for word in WORDS:
        for command in ("write_resource", "read_resource", "read_resource_owners"):
            a.ask(command, lease, flags=word)
        for command in ("write_lockspace", "read_lockspace"):
            a.ask(command, space, flags=word)
        a.ask("align", wire.disk(stage.path("blank")), flags=word)


@flags
def flags_of_whoever_holds_a_lease(stage):
    a, n = stage.client(), stage.fresh()
    a.known()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    for word in WORDS:
        a.first.ask("set_lvb", stage.named(n) + b"xyz", flags=word, data=3, data2=4)
        a.first.ask("get_lvb", stage.named(n), flags=word)
        a.first.ask("restrict", flags=word & ~wire.RESTRICT_ALL, data2=wire.SELF)
        a.first.ask("killpath", wire.field("/bin/true", 128) * 2, flags=word, data2=wire.SELF)
        a.first.ask("convert", stage.named(n, flags=word | wire.SHARED), flags=word, data2=wire.SELF)
        a.first.ask("convert", stage.named(n, flags=word & ~wire.SHARED), flags=word, data2=wire.SELF)
        a.first.ask("inquire", flags=word, data=7, data2=wire.SELF)


@flags
def flags_of_requests_for_a_free_lease(stage):
    a, n = stage.client().first, stage.fresh()
    for word, data in itertools.product(WORDS, (0, 1, 2)):
        for lease in (stage.lease(n), stage.lease(n, lver=1), stage.lease(n, lver=1, flags=wire.LVER)):
            a.ask("request", lease, flags=word, data=data)
        a.ask("examine_resource", stage.named(n), flags=word)


@flags
def flags_of_what_the_daemon_tells(stage):
    client = stage.client()
    for word in WORDS:
        client.first.ask("version", flags=word)
        client.connect().ask("get_hosts", wire.lockspace("LS", 1), flags=word, data=5)
        client.connect().ask("host_status", wire.lockspace("LS", 7), flags=word, length=32)
        client.connect().ask("get_lockspaces", flags=word, data=1)
        client.connect().ask("status", flags=word, data=1)
        listening = client.connect()
        listening.ask("reg_event", wire.lockspace("LS") + wire.host_event(1, 2, 3, 4), flags=word)
        listening.send(b"\1\0\0\0", "the end of events")
        client.connect().ask("end_event", wire.lockspace("LS"), flags=word)
        listening.stands()
