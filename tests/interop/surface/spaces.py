"""Lockspaces: joining, asking and leaving, and what is refused on the way."""

from . import set_of
from .walk import MIB, OTHER_SPACE, SPACE

spaces = set_of("spaces")
SLOW = b"SLOW"


@spaces
def refused_before_anything_is_joined(walk):
    walk.start()
    a, space = walk.who("A"), walk.path("space")
    walk.a = a
    a.get_lockspaces()
    a.get_hosts(SPACE)
    a.inq_lockspace(SPACE, 1, space)
    a.inq_lockspace(SPACE, 1, space, wait=True)
    a.rem_lockspace(SPACE, 1, space)
    a.rem_lockspace(SPACE, 1, space, wait=False)
    a.rem_lockspace(SPACE, 1, space, unused=True)
    a.add_lockspace(SPACE, 0, space)
    a.add_lockspace(SPACE, 0, space, wait=False)
    a.add_lockspace(b"", 1, space)
    a.add_lockspace(SPACE, 1, "")
    walk.refused_join(a, SPACE, 1, walk.path("nowhere"))
    walk.refused_join(a, SPACE, 1, walk.directory)
    walk.refused_join(a, SPACE, 1, walk.path("blank"))
    walk.refused_join(a, SPACE, 1, walk.path("leases"))
    walk.refused_join(a, b"WRONG", 1, space)
    walk.refused_join(a, SPACE, 1, space, offset=MIB)
    walk.refused_join(a, SPACE, 1, space, offset=1)
    walk.refused_join(a, SPACE, 1, space, offset=1 << 40)
    a.get_lockspaces()


@spaces
def a_host_id_that_no_host_can_have(walk):
    a, space = walk.a, walk.path("space")
    for host_id in (2001, 1 << 40, -1):
        a.add_lockspace(SPACE, host_id, space)
        a.add_lockspace(SPACE, host_id, walk.path("nowhere"))
        a.add_lockspace(SPACE, host_id, walk.path("blank"))
        a.add_lockspace(SPACE, host_id, space, wait=False)
        a.inq_lockspace(SPACE, 0, space, wait=True)
        a.get_lockspaces()


@spaces
def an_io_timeout_that_no_host_can_keep(walk):
    a, space = walk.a, walk.path("space")
    for io_timeout in (-1, 1 << 30):
        a.add_lockspace(SPACE, 1, walk.path("nowhere"), iotimeout=io_timeout)
        a.write_lockspace(SPACE, walk.path("blank"), iotimeout=io_timeout)
        a.read_lockspace(walk.path("blank"))


@spaces
def joined_in_the_background(walk):
    """An area with a large io_timeout is joined slowly enough to ask about it meanwhile."""
    a, area = walk.a, walk.path("blank")
    a.write_lockspace(SLOW, area, iotimeout=4)
    fd = a.register()
    a.add_lockspace(SLOW, 1, area, iotimeout=4, wait=False)
    a.inq_lockspace(SLOW, 1, area)
    a.get_lockspaces()
    a.get_hosts(SLOW)
    a.add_lockspace(SLOW, 1, area, iotimeout=4, wait=False)
    a.add_lockspace(SLOW, 1, area, iotimeout=4)
    a.add_lockspace(SLOW, 2, area, iotimeout=4)
    a.acquire(SLOW, *walk.lease(0)[1:], slkfd=fd)
    a.reg_event(SLOW)
    a.set_event(SLOW, 1, 1, 1)
    a.inq_lockspace(SLOW, 1, area, wait=True)
    a.inq_lockspace(SLOW, 1, area)
    a.get_lockspaces()
    a.close_fd(fd)


@spaces
def left_while_it_is_being_joined(walk):
    a, b, area = walk.a, walk.who("B"), walk.path("blank")
    a.rem_lockspace(SLOW, 1, area)
    b.begin("add_lockspace", SLOW, 2, area, iotimeout=4)
    walk.until(lambda outcome: outcome == ("ok", None), a, "inq_lockspace", SLOW, 2, area)
    a.rem_lockspace(SLOW, 2, area)
    b.finish()
    a.inq_lockspace(SLOW, 2, area, wait=True)
    a.get_lockspaces()


@spaces
def joined_twice_and_by_other_words(walk):
    a, space = walk.a, walk.path("space")
    a.add_lockspace(SPACE, 1, space, iotimeout=1)
    a.add_lockspace(SPACE, 1, space)
    a.add_lockspace(SPACE, 1, space, wait=False)
    a.add_lockspace(SPACE, 1, space, iotimeout=9)
    a.add_lockspace(SPACE, 2, space)
    a.add_lockspace(SPACE, 1, walk.path("space2"))
    a.add_lockspace(SPACE, 1, space, offset=MIB)
    a.add_lockspace(OTHER_SPACE, 1, space)
    for host_id, path, offset in ((2, space, 0), (0, space, 0), (1, walk.path("space2"), 0), (1, space, MIB), (1, "", 0),
                                  (1 << 40, space, 0)):
        a.inq_lockspace(SPACE, host_id, path, offset=offset)
        a.inq_lockspace(SPACE, host_id, path, offset=offset, wait=True)
    a.inq_lockspace(OTHER_SPACE, 1, space)
    a.inq_lockspace(b"", 1, space)
    for host_id, path, offset in ((2, space, 0), (1, walk.path("space2"), 0), (1, space, MIB), (1, "", 0), (1 << 40, space, 0)):
        a.rem_lockspace(SPACE, host_id, path, offset=offset)
    a.rem_lockspace(OTHER_SPACE, 1, space)
    a.rem_lockspace(b"", 1, space)
    a.get_lockspaces()


@spaces
def two_lockspaces(walk):
    a = walk.a
    a.add_lockspace(OTHER_SPACE, 7, walk.path("space2"), 0, 1, True)
    a.get_lockspaces()
    walk.until(lambda outcome: outcome[0] == "ok", a, "get_hosts", OTHER_SPACE)
    a.get_hosts(OTHER_SPACE, 7)
    a.get_hosts(OTHER_SPACE, 1)
    a.get_hosts(OTHER_SPACE, 2000)
    a.get_hosts(OTHER_SPACE, 2001)
    a.get_hosts(OTHER_SPACE, host_id=1 << 40)
    walk.until(lambda outcome: outcome[0] == "ok", a, "get_hosts", SPACE)
    a.rem_lockspace(OTHER_SPACE, 7, walk.path("space2"), 0, True, False)
    a.get_lockspaces()


@spaces
def left_only_if_unused(walk):
    a, space = walk.a, walk.path("space")
    fd = a.register()
    a.acquire(*walk.lease(0), slkfd=fd)
    a.rem_lockspace(SPACE, 1, space, unused=True)
    a.rem_lockspace(SPACE, 1, space, wait=False, unused=True)
    a.inq_lockspace(SPACE, 1, space)
    a.release(*walk.lease(0), slkfd=fd)
    a.rem_lockspace(SPACE, 1, space, unused=True)
    a.inq_lockspace(SPACE, 1, space)
    a.inq_lockspace(SPACE, 1, space, wait=True)
    a.rem_lockspace(SPACE, 1, space, unused=True)
    a.get_lockspaces()
    a.get_hosts(SPACE)


@spaces
def left_in_the_background(walk):
    a, space = walk.a, walk.path("space")
    a.add_lockspace(SPACE, 1, space, iotimeout=1)
    a.rem_lockspace(SPACE, 1, space, wait=False)
    walk.until(lambda outcome: outcome == ("ok", False), a, "inq_lockspace", SPACE, 1, space, wait=True)
    a.get_lockspaces()
    a.rem_lockspace(SPACE, 1, space, wait=False)
    a.add_lockspace(SPACE, 1, space, iotimeout=1)
    a.get_lockspaces()
    walk.until(lambda outcome: outcome[0] == "ok", a, "get_hosts", SPACE)
    a.rem_lockspace(SPACE, 1, space)
