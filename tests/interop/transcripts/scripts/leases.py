"""Exclusive leases in a joined lockspace."""

import time

import wire
from render import records
from stage import SOON

from . import set_of

leases = set_of("leases")


def hold(stage, client, number, within=3.0, flags=0, owner="holder", **more):
    """Acquires one lease for its registered connection."""
    payload = stage.lease(number, **more) + wire.options(owner)
    return client.first.ask("acquire", payload, flags=flags, data=1, data2=wire.SELF, within=within)


def silently_until(stage, result, ask):
    """Asks until the answer is this one, for some seconds; the last answer. Nothing of it is told."""
    told, end = stage.lines, time.monotonic() + SOON
    while True:
        stage.lines = []
        answer = ask()
        if answer == result or time.monotonic() > end:
            stage.lines = told
            return answer
        time.sleep(0.02)


def until(stage, result, ask):
    """Asks until the answer is this one, in silence, and then once more for all to hear."""
    silently_until(stage, result, ask)
    return ask()


@leases
def stage_joined(stage):
    stage.client().first.ask("add_lockspace", stage.space(), within=10.0, data=1)


@leases
def acquire_and_release(stage):
    client, n = stage.client(), stage.fresh()
    a = client.register()
    hold(stage, client, n)
    a.ask("inquire", data2=wire.SELF)
    a.ask("read_resource", stage.lease(n))
    a.ask("read_resource_owners", stage.lease(n))
    a.ask("release", stage.named(n), data=1, data2=wire.SELF)
    a.ask("inquire", data2=wire.SELF)
    a.ask("release", stage.named(n), data=1, data2=wire.SELF)
    a.ask("read_resource", stage.lease(n))
    a.ask("read_resource_owners", stage.lease(n))
    a.stands()


@leases
def held_by_another_client(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    hold(stage, a, n)
    hold(stage, b, n)
    hold(stage, b, n, flags=wire.OWNER_NOWAIT)
    hold(stage, b, n, lver=1)
    b.first.ask("inquire", data2=a.pid)
    b.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    b.first.ask("release", stage.named(n), data=1, data2=a.pid)
    hold(stage, b, n)
    b.first.ask("inquire", data2=wire.SELF)


@leases
def acquired_again_by_its_holder(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n)
    hold(stage, a, n)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def acquired_for_another_process(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.known()
    b.first.ask("acquire", stage.lease(n) + wire.options("for A"), data=1, data2=a.pid)
    a.first.ask("inquire", data2=wire.SELF)
    b.first.ask("release", flags=wire.RELEASE_ALL, data2=a.pid)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def several_at_once(stage):
    a, numbers = stage.client(), [stage.fresh() for _ in range(3)]
    a.register()
    a.first.ask("acquire", b"".join(map(stage.lease, numbers)) + wire.options(), data=3, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("release", stage.named(numbers[1]), data=1, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    hold(stage, a, numbers[1])
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("release", stage.named(numbers[0]) + stage.named(99) + stage.named(numbers[2]), data=3, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def all_or_none(stage):
    a, b, one, two = stage.client(), stage.client(), stage.fresh(), stage.fresh()
    a.register()
    b.register()
    hold(stage, b, two)
    a.first.ask("acquire", stage.lease(one) + stage.lease(two) + wire.options(), data=2, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("acquire", stage.lease(one) + stage.lease(one) + wire.options(), data=2, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def all_of_them_released(stage):
    a, numbers = stage.client(), [stage.fresh() for _ in range(2)]
    a.register()
    a.first.ask("acquire", b"".join(map(stage.lease, numbers)) + wire.options(), data=2, data2=wire.SELF)
    a.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def acquire_where_nothing_fits(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, name="WRONG")
    hold(stage, a, n, space="OTHER")
    hold(stage, a, n, lver=5)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    payload = stage.lease(n, lver=7, flags=wire.LVER)
    a.first.ask("acquire", payload + wire.options(), data=1, data2=wire.SELF)
    blank = wire.resource("LS", "new", [(stage.path("blank"), 0)])
    a.first.ask("acquire", blank + wire.options(), data=1, data2=wire.SELF)
    nowhere = wire.resource("LS", "new", [("/nowhere", 0)])
    a.first.ask("acquire", nowhere + wire.options(), data=1, data2=wire.SELF)
    beyond = wire.resource("LS", "new", [(stage.path("blank"), 1 << 40)])
    a.first.ask("acquire", beyond + wire.options(), data=1, data2=wire.SELF)
    crooked = wire.resource("LS", "new", [(stage.path("leases"), 100)])
    a.first.ask("acquire", crooked + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def acquire_of_a_version(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    a.first.ask("acquire", stage.lease(n, flags=wire.LVER) + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    a.first.ask("acquire", stage.lease(n, lver=1, flags=wire.LVER) + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def num_hosts_changed_by_an_acquire(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    a.first.ask("acquire", stage.lease(n, flags=wire.NUM_HOSTS, data32=10) + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    stage.lines.append(f"num_hosts on disk {stage.read_disk('leases', n << 20, 24)[16:].hex()}")


@leases
def names_with_spaces_and_colons(stage):
    a, b = stage.client(), stage.client()
    a.register()
    disks = [(stage.path("blank"), 1 << 20)]
    a.first.ask("write_resource", wire.resource("LS", "a:b", disks))
    a.first.ask("acquire", wire.resource("LS", "a:b", disks) + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def the_end_of_a_connection_releases(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    hold(stage, a, n)
    a.first.close()
    a.actor.end()
    # It is given back within moments; until then somebody else is refused.
    silently_until(stage, 0, lambda: hold(stage, b, n))
    b.first.ask("inquire", data2=wire.SELF)


@leases
def convert_between_modes(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n)
    a.first.ask("convert", stage.named(n), data2=wire.SELF)
    a.first.ask("convert", stage.named(n, flags=wire.SHARED), data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("convert", stage.named(n, flags=wire.SHARED), data2=wire.SELF)
    a.first.ask("read_resource_owners", stage.lease(n))
    a.first.ask("convert", stage.named(n), data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("convert", stage.named(99), data2=wire.SELF)
    a.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)
    a.first.ask("read_resource_owners", stage.lease(n))


@leases
def rename_on_release(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n)
    payload = stage.named(n) + wire.resource("LS", "renamed", num_disks=1)
    a.first.ask("release", payload, flags=wire.RELEASE_RENAME, data=2, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    a.first.ask("read_resource", wire.resource("", "", [(stage.path("leases"), n << 20)]))
    a.first.ask("acquire", stage.lease(n) + wire.options(), data=1, data2=wire.SELF)
    a.first.ask("acquire", stage.lease(n, name="renamed") + wire.options(), data=1, data2=wire.SELF)


@leases
def values(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("get_lvb", stage.named(n))
    a.first.ask("set_lvb", stage.named(n) + b"a value of 21 bytes..")
    a.first.ask("get_lvb", stage.named(n))
    a.first.ask("set_lvb", stage.named(n) + b"x" * 600)
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    a.first.ask("get_lvb", stage.named(n))
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("get_lvb", stage.named(n))


@leases
def values_of_a_lease_acquired_without(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n)
    a.first.ask("set_lvb", stage.named(n) + b"value")
    a.first.ask("get_lvb", stage.named(n))
    a.first.ask("get_lvb", stage.named(99))


@leases
def orphans(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    payload = stage.lease(n, flags=wire.PERSISTENT) + wire.options("holder")
    a.first.ask("acquire", payload, data=1, data2=wire.SELF)
    a.first.close()
    a.actor.end()
    until(stage, -117, lambda: b.first.ask("acquire", payload, data=1, data2=wire.SELF))
    shared = stage.lease(n, flags=wire.PERSISTENT | wire.SHARED) + wire.options()
    b.first.ask("acquire", shared, flags=wire.ACQUIRE_ORPHAN, data=1, data2=wire.SELF)
    b.first.ask("acquire", payload, flags=wire.ACQUIRE_ORPHAN, data=1, data2=wire.SELF)
    b.first.ask("inquire", data2=wire.SELF)
    b.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)


@leases
def only_an_orphan_without_a_value(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, flags=wire.ACQUIRE_ORPHAN_ONLY)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def no_orphan_there(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, flags=wire.ACQUIRE_ORPHAN_ONLY | wire.ACQUIRE_LVB)
    hold(stage, a, n, flags=wire.ACQUIRE_ORPHAN)
    a.first.ask("release", flags=wire.RELEASE_ALL, data2=wire.SELF)


@leases
def orphan_released(stage):
    a, b, n = stage.client(), stage.client(), stage.fresh()
    a.register()
    b.register()
    payload = stage.lease(n, flags=wire.PERSISTENT) + wire.options("holder")
    a.first.ask("acquire", payload, data=1, data2=wire.SELF)
    a.first.close()
    a.actor.end()
    release = lambda: b.first.ask("release", stage.named(n), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)
    stage.lines.append(f"released: {silently_until(stage, 1, release)}")
    b.first.ask("release", stage.named(n), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)
    b.first.ask("release", wire.resource("LS", ""), flags=wire.RELEASE_ORPHAN, data=1, data2=wire.SELF)


@leases
def requests(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    a.first.ask("request", stage.lease(n), flags=wire.NEXT_LVER, data=wire.GRACEFUL)
    hold(stage, a, n)
    a.first.ask("request", stage.lease(n), data=wire.GRACEFUL)
    a.first.ask("request", stage.lease(n, lver=1), data=wire.GRACEFUL)
    a.first.ask("request", stage.lease(n, lver=9), data=0)
    a.first.ask("request", stage.lease(n, lver=5), data=0)
    a.first.ask("request", stage.lease(n), data=0)
    stage.lines.append("request on disk " + stage.read_disk("leases", (n << 20) + 512, 20).hex())
    a.first.ask("request", wire.resource("LS", "r0"), data=wire.FORCE)
    a.first.ask("examine_lockspace", stage.space())
    a.first.ask("examine_resource", stage.named(n))


@leases
def requests_that_mean_nothing(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n)
    a.first.ask("request", stage.lease(n, lver=9), data=3)
    a.first.ask("inquire", data2=wire.SELF)


@leases
def config(stage):
    client = stage.client()
    for command in (0, wire.USED, wire.NOT_USED, wire.USED_BY_ORPHANS, wire.UNUSED_BY_ORPHANS, 99):
        client.connect().ask("set_config", wire.lockspace("LS"), data=command)


@leases
def events(stage):
    client = stage.client()
    a = client.connect()
    a.ask("reg_event", wire.lockspace("LS") + wire.host_event(0))
    a.stands()
    client.connect().ask("set_event", wire.lockspace("LS") + wire.host_event(0, 1, 5))
    client.connect().ask("set_event", wire.lockspace("LS") + wire.host_event(2001, 1, 5))
    tell = lambda *event, **flags: client.connect().ask("set_event", wire.lockspace("LS") + wire.host_event(*event), **flags)
    tell(2, 1, 5, 7)
    tell(3, 2, 5, 8)
    tell(3, 1, 6)
    tell(3, 1, 6, flags=wire.REPLACE_EVENT)
    tell(2, 0, 6, flags=wire.CUR_GENERATION)
    tell(4, 0, 0)
    tell(2, 1, 9, flags=wire.CLEAR_HOSTID)
    tell(1, 1, 7, flags=wire.REPLACE_EVENT | wire.ALL_HOSTS)
    tell(2, 1, 9, flags=wire.CLEAR_EVENT)
    tell(2, 1, 10)
    a.send(b"\1\0\0\0", "the end of events")
    client.connect().ask("end_event", wire.lockspace("LS"))
    a.stands()


def left_behind(stage):
    """The names of the orphans on the daemon's lists."""
    return [rest[48:96].rstrip(b"\0").decode() for _, string, rest in records(stage.status(0))
            if string.startswith(b"list=orphan ")]


def orphan(stage, number, flags=0):
    """A lease whose client acquired it persistently and has gone, as the daemon has seen: whoever shares it before shares it still."""
    a = stage.client()
    a.register()
    payload = stage.lease(number, flags=wire.PERSISTENT | flags) + wire.options("gone")
    a.first.ask("acquire", payload, data=1, data2=wire.SELF)
    a.first.close()
    a.actor.end()
    end = time.monotonic() + SOON
    while f"r{number}" not in left_behind(stage):
        if time.monotonic() > end:
            raise TimeoutError(f"r{number} is no orphan")
        time.sleep(0.02)


@leases
def orphan_that_is_shared(stage):
    n, b = stage.fresh(), stage.client()
    b.register()
    orphan(stage, n, wire.SHARED)
    shared = stage.lease(n, flags=wire.SHARED) + wire.options()
    until(stage, -117, lambda: b.first.ask("acquire", shared, data=1, data2=wire.SELF))
    hold(stage, b, n, flags=wire.ACQUIRE_ORPHAN)
    b.first.ask("acquire", shared, flags=wire.ACQUIRE_ORPHAN, data=1, data2=wire.SELF)
    b.first.ask("inquire", data2=wire.SELF)
    b.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    b.first.ask("read_resource_owners", stage.lease(n))


@leases
def orphan_adopted_and_left_again(stage):
    n, b = stage.fresh(), stage.client()
    b.register()
    orphan(stage, n)
    until(stage, -117, lambda: hold(stage, b, n))
    payload = stage.lease(n, flags=wire.PERSISTENT) + wire.options("again")
    b.first.ask("acquire", payload, flags=wire.ACQUIRE_ORPHAN, data=1, data2=wire.SELF)
    c = stage.client()
    c.register()
    hold(stage, c, n)
    b.first.close()
    b.actor.end()
    until(stage, -117, lambda: hold(stage, c, n))
    hold(stage, c, n, flags=wire.ACQUIRE_ORPHAN_ONLY | wire.ACQUIRE_LVB)
    c.first.ask("inquire", data2=wire.SELF)


@leases
def values_of_an_adopted_orphan(stage):
    n, b = stage.fresh(), stage.client()
    a = stage.client()
    a.register()
    b.register()
    payload = stage.lease(n, flags=wire.PERSISTENT) + wire.options("gone")
    a.first.ask("acquire", payload, flags=wire.ACQUIRE_LVB, data=1, data2=wire.SELF)
    a.first.ask("set_lvb", stage.named(n) + b"left behind")
    a.first.close()
    a.actor.end()
    until(stage, -117, lambda: hold(stage, b, n))
    hold(stage, b, n, flags=wire.ACQUIRE_ORPHAN | wire.ACQUIRE_LVB)
    b.first.ask("get_lvb", stage.named(n))
    b.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    hold(stage, b, n, flags=wire.ACQUIRE_LVB)
    b.first.ask("get_lvb", stage.named(n))


@leases
def values_and_conversions(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("set_lvb", stage.named(n) + b"before")
    a.first.ask("convert", stage.named(n, flags=wire.SHARED), data2=wire.SELF)
    stage.lines.append("value on disk " + stage.read_disk("leases", (n << 20) + 2002 * 512, 16).hex())
    a.first.ask("get_lvb", stage.named(n))
    a.first.ask("set_lvb", stage.named(n) + b"while shared")
    a.first.ask("get_lvb", stage.named(n))
    a.first.ask("convert", stage.named(n), data2=wire.SELF)
    a.first.ask("get_lvb", stage.named(n))
    a.first.ask("release", stage.named(n), data=1, data2=wire.SELF)
    stage.lines.append("value on disk " + stage.read_disk("leases", (n << 20) + 2002 * 512, 16).hex())


@leases
def values_are_whole_whatever_data_says(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, flags=wire.ACQUIRE_LVB)
    a.first.ask("set_lvb", stage.named(n) + b"0123456789")
    for most in (4, 512, 513, 4096):
        a.first.ask("get_lvb", stage.named(n), data=most)
    stage.client().first.ask("get_lvb", stage.named(n))


@leases
def releases_that_are_wrong(stage):
    a, n, m = stage.client(), stage.fresh(), stage.fresh()
    a.register()
    hold(stage, a, n)
    a.first.ask("release", stage.named(n, space="OTHER"), data=1, data2=wire.SELF)
    a.first.ask("release", stage.named(n, name="other"), data=1, data2=wire.SELF)
    a.first.ask("release", stage.named(n) * 2, data=2, data2=wire.SELF)
    a.first.ask("inquire", data2=wire.SELF)
    hold(stage, a, m)
    a.first.ask("release", flags=wire.RELEASE_ALL, data=0, data2=wire.SELF)
    a.first.ask("release", flags=wire.RELEASE_ALL, data=0, data2=wire.SELF)


@leases
def renames_that_are_wrong(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    a.first.ask("release", stage.named(n) + stage.named(n, name="new"), flags=wire.RELEASE_RENAME, data=2, data2=wire.SELF)
    hold(stage, a, n)
    a.first.ask("release", stage.named(n) + stage.named(n, name="new", space="OTHER"), flags=wire.RELEASE_RENAME, data=2,
                data2=wire.SELF)
    a.first.ask("read_resource", wire.resource("", "", [(stage.path("leases"), n << 20)]))


@leases
def owner_names(stage):
    a, n = stage.client(), stage.fresh()
    a.register()
    hold(stage, a, n, owner="x" * 48)
    a.first.ask("acquire", wire.options("second"), data=0, data2=wire.SELF)
    stage.wait_for_workers()
    stage.client().connect().ask("status", data=2)


@leases
def config_of_a_joined_lockspace(stage):
    client = stage.client()
    client.connect().ask("set_config", wire.lockspace("LS"), data=wire.USED)
    client.connect().ask("status", data=3)
    client.connect().ask("set_config", wire.lockspace("LS"), data=wire.USED_BY_ORPHANS)
    client.connect().ask("status", data=3)
    client.connect().ask("set_config", wire.lockspace("LS"), data=wire.NOT_USED)
    client.connect().ask("set_config", wire.lockspace("LS"), data=wire.UNUSED_BY_ORPHANS)
    client.connect().ask("status", data=3)
