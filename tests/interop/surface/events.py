"""Events between two hosts, the walked one and a real one."""

from . import set_of
from .walk import SPACE

events = set_of("events")

CUR_GENERATION, CLEAR_HOSTID, CLEAR_EVENT, REPLACE_EVENT, ALL_HOSTS = 1, 2, 4, 8, 16


@events
def refused_without_a_lockspace(walk):
    walk.start("other")
    walk.start()
    a, c = walk.a, walk.c = walk.who("A"), walk.who("C", "other")
    a.reg_event(SPACE)
    a.end_event(-1, SPACE)
    a.set_event(SPACE, 1, 1, 1)
    c.begin("add_lockspace", SPACE, 2, walk.path("space"), iotimeout=1)
    walk.join(a, 1)
    c.finish()
    walk.until(lambda outcome: outcome[0] == "ok" and outcome[1][0]["flags"] == 3, a, "get_hosts", SPACE, 2)
    walk.until(lambda outcome: outcome[0] == "ok" and outcome[1][0]["flags"] == 3, c, "get_hosts", SPACE, 1)


@events
def registered_and_silent(walk):
    a = walk.a
    a.reg_event(b"WRONG")
    a.reg_event(b"")
    fd, again = a.reg_event(SPACE), a.reg_event(SPACE)
    a.get_event(fd)
    a.get_event(again)
    a.end_event(again, b"WRONG")
    a.get_event(again)
    a.end_event(again, SPACE)
    a.end_event(fd, SPACE)
    a.get_event(fd)
    a.end_event(fd, SPACE)
    a.end_event(-1, SPACE)


@events
def refused(walk):
    a = walk.a
    a.set_event(b"WRONG", 2, 1, 1)
    a.set_event(b"", 2, 1, 1)
    for host_id in (0, 2001, 1 << 40):
        a.set_event(SPACE, host_id, 1, 1)
        a.set_event(SPACE, host_id, 0, 1, flags=ALL_HOSTS)
        a.set_event(SPACE, host_id, 0, 0, flags=CLEAR_EVENT)
    for flags in (32, 1 << 30, 63):
        a.set_event(SPACE, 2000, 1, 0, flags=flags)


@events
def told_by_each_to_the_other(walk):
    for at, (receiver, sender, host_id) in enumerate(((walk.a, walk.c, 1), (walk.c, walk.a, 2))):
        fd = receiver.reg_event(SPACE)
        sender.set_event(SPACE, host_id, 1, 10 + at, data=5)
        sender.set_event(SPACE, host_id, 1, 20, data=6)
        walk.heard(receiver, fd, 10 + at)
        sender.set_event(SPACE, host_id, 0, 30, data=7, flags=CUR_GENERATION | REPLACE_EVENT)
        walk.heard(receiver, fd, 30)
        sender.set_event(SPACE, host_id, 0, 0, flags=CLEAR_HOSTID)
        sender.set_event(SPACE, host_id, 0, 0, flags=CLEAR_EVENT)
        sender.set_event(SPACE, host_id, 0, 40, flags=ALL_HOSTS | REPLACE_EVENT)
        walk.heard(receiver, fd, 40)
        receiver.end_event(fd, SPACE)
        sender.set_event(lockspace=SPACE, host_id=host_id, generation=0, event=0, data=0, flags=CLEAR_EVENT)


@events
def as_many_as_there_may_be(walk):
    a = walk.a
    fds = [a.reg_event(SPACE) for _ in range(33)]
    a.reg_event(SPACE)
    for fd in fds[:32]:
        a.end_event(fd, SPACE)
    fd = a.reg_event(SPACE)
    a.end_event(fd, SPACE)


@events
def a_lockspace_that_is_left(walk):
    a = walk.a
    fd = a.reg_event(SPACE)
    a.rem_lockspace(SPACE, 1, walk.path("space"))
    a.get_event(fd)
    a.end_event(fd, SPACE)
    a.set_event(SPACE, 1, 1, 1)
