"""Two hosts that live and one that died: who is seen how, and who gets what from whom.

The area begins with a third host, killed with SIGKILL while it held leases.
"""

from . import set_of
from .walk import MIB, SPACE

hosts = set_of("hosts")

FREE, LIVE, FAIL, DEAD, UNKNOWN = 2, 3, 4, 5, 1
DEAD_ID, DEAD_EX, DEAD_SH = 3, 30, 31


def is_seen(state):
    return lambda outcome: outcome[0] == "ok" and outcome[1][0]["flags"] == state


@hosts
def a_host_of_which_nothing_was_heard(walk):
    walk.start("other")
    walk.start()
    a, c = walk.a, walk.c = walk.who("A"), walk.who("C", "other")
    c.begin("add_lockspace", SPACE, 2, walk.path("space"), iotimeout=1)
    walk.join(a, 1)
    a.get_hosts(SPACE, DEAD_ID)
    c.finish()
    a.get_hosts(SPACE, 1)
    a.get_hosts(SPACE, 4)
    walk.until(is_seen(LIVE), a, "get_hosts", SPACE, host_id=2)
    walk.until(is_seen(LIVE), c, "get_hosts", SPACE, host_id=1)
    a.read_resource_owners(*walk.lease(DEAD_EX))
    a.read_resource_owners(*walk.lease(DEAD_SH))


@hosts
def a_host_that_fails(walk):
    walk.until(is_seen(FAIL), walk.a, "get_hosts", SPACE, DEAD_ID)
    walk.until(is_seen(LIVE), walk.a, "get_hosts", SPACE, 2)


@hosts
def a_lease_whose_owner_may_be_dead(walk):
    """Once it is seen to be silent it is waited for: the call ends when its owner counts as dead."""
    d = walk.d = walk.who("D")
    d_fd = d.register()
    d.begin("acquire", *walk.lease(DEAD_EX), slkfd=d_fd)


@hosts
def held_by_another_host(walk):
    a, c = walk.a, walk.c
    fd, other = walk.fd, walk.other = a.register(), c.register()
    for holder, held, asker, asked in ((c, other, a, fd), (a, fd, c, other)):
        holder.acquire(*walk.lease(0), slkfd=held)
        asker.acquire(*walk.lease(0), slkfd=asked)
        asker.acquire(*walk.lease(0), slkfd=asked, shared=True)
        asker.acquire(*walk.lease(0), slkfd=asked, version=1)
        asker.read_resource_owners(*walk.lease(0))
        asker.release(*walk.lease(0), slkfd=asked)
        asker.inquire(slkfd=asked)
        holder.release(*walk.lease(0), slkfd=held)
        asker.acquire(*walk.lease(0), slkfd=asked)
        asker.release(*walk.lease(0), slkfd=asked)
        asker.read_resource(walk.path("leases"))


@hosts
def shared_by_two_hosts(walk):
    a, c, fd, other = walk.a, walk.c, walk.fd, walk.other
    for first, its, second, other_s in ((c, other, a, fd), (a, fd, c, other)):
        first.acquire(*walk.lease(1), slkfd=its, shared=True)
        second.acquire(*walk.lease(1), slkfd=other_s)
        second.acquire(*walk.lease(1), slkfd=other_s, shared=True)
        first.acquire(*walk.lease(1), slkfd=its)
        first.inquire(slkfd=its)
        first.read_resource_owners(*walk.lease(1))
        second.read_resource_owners(*walk.lease(1))
        first.release(*walk.lease(1), slkfd=its)
        second.read_resource_owners(*walk.lease(1))
        second.release(*walk.lease(1), slkfd=other_s)
        first.read_resource_owners(*walk.lease(1))


@hosts
def values_from_host_to_host(walk):
    a, c, fd, other = walk.a, walk.c, walk.fd, walk.other
    for writer, its, reader, other_s, value in ((c, other, a, fd, b"from C"), (a, fd, c, other, b"from A")):
        writer.acquire(*walk.lease(2), slkfd=its, lvb=True)
        writer.set_lvb(*walk.lease(2), value)
        writer.release(*walk.lease(2), slkfd=its)
        reader.acquire(*walk.lease(2), slkfd=other_s, lvb=True)
        reader.get_lvb(*walk.lease(2), 8)
        reader.release(*walk.lease(2), slkfd=other_s)


@hosts
def asked_for_by_another_host(walk):
    """A graceful request ends the owner with SIGTERM, a forced one with SIGKILL; a version that is over is refused."""
    for holder_at, asker in (("other", walk.a), ("host", walk.c)):
        for action, number in ((2, 3), (1, 4)):
            holder = walk.who(f"holder {number} at {holder_at}", holder_at)
            fd = holder.register()
            holder.acquire(*walk.lease(number), slkfd=fd)
            version = 1 if holder_at == "other" else 2
            asker.request(*walk.lease(number), action=action, version=version)
            asker.request(*walk.lease(number), action=action)
            # A daemon that has just looked at the requests of a host may not look at its next one: it is asked again.
            holder.ended(lambda: walk.unsaid(asker, "request", *walk.lease(number), action=action))
            walk.until(lambda outcome: outcome == ("ok", []), asker, "read_resource_owners", *walk.lease(number))


@hosts
def asked_for_while_it_is_shared(walk):
    a, c = walk.a, walk.c
    a.acquire(*walk.lease(5), slkfd=walk.fd, shared=True)
    a.request(*walk.lease(5))
    a.release(*walk.lease(5), slkfd=walk.fd)
    c.read_resource_owners(*walk.lease(5))


@hosts
def a_host_that_is_dead(walk):
    a, c, d = walk.a, walk.c, walk.d
    d.finish()
    a.read_resource_owners(*walk.lease(DEAD_EX))
    c.read_resource_owners(*walk.lease(DEAD_EX))
    walk.until(is_seen(DEAD), a, "get_hosts", SPACE, DEAD_ID)
    a.acquire(*walk.lease(DEAD_SH), slkfd=walk.fd)
    a.inquire(slkfd=walk.fd)
    a.read_resource_owners(*walk.lease(DEAD_SH))


rivals = set_of("rivals")


@rivals
def a_host_id_that_is_used(walk):
    """Watched for as long as its owner could be silent, then refused; one that was given back is free at once."""
    walk.start("other")
    walk.start()
    a, c, space = walk.who("A"), walk.who("C", "other"), walk.path("space")
    c.add_lockspace(SPACE, 2, space, iotimeout=1)
    a.add_lockspace(SPACE, 2, space, iotimeout=1)
    a.inq_lockspace(SPACE, 2, space)
    c.rem_lockspace(SPACE, 2, space)
    walk.join(a, 2)
    a.get_hosts(SPACE)
