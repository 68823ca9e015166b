"""A lockspace that is left, or lost, while its leases are held: who is ended, how, and what is said meanwhile."""

import os

import past_cache
from sanlock_host import wait_until

from . import set_of
from .walk import MIB, PATIENCE, SPACE

ends = set_of("ends")


@ends
def left_over_its_holders(walk):
    """A removal ends who holds a lease at once, whatever killpath there is."""
    walk.start()
    a, space = walk.who("A"), walk.path("space")
    walk.a = a
    walk.join(a, 1)
    b = walk.who("B")
    fd = b.register()
    b.killpath(walk.path("never-run"), [], slkfd=fd)
    b.acquire(*walk.lease(0), slkfd=fd)
    a.rem_lockspace(SPACE, 1, space)
    b.ended()
    a.inq_lockspace(SPACE, 1, space)
    a.read_resource(walk.path("leases"))
    a.read_resource_owners(*walk.lease(0))


def lose(walk, until):
    """Overwrites this host's sector until its daemon has seen it: a renewal under way may write over it once more."""
    def is_seen():
        if until():
            return True
        past_cache.write(walk.path("space"), 0, bytes(512))
        return False

    wait_until("the lost lockspace is noticed", is_seen, PATIENCE)


def fence(walk, name):
    """A program that writes down what it was told: its path, and that of what it writes."""
    program, told = walk.path(name), walk.path(name + "-told")
    with open(program, "w", encoding="ascii") as file:
        file.write(f'#!/bin/sh\nfor each in "$@"; do echo "[$each]"; done >{told}.new\nmv {told}.new {told}\n')
    os.chmod(program, 0o755)
    return program, told


@ends
def a_lockspace_that_is_lost(walk):
    """Who holds a lease there is ended; a killpath runs in the place of a signal, and its holder has time to give back."""
    a, space = walk.a, walk.path("space")
    program, told = fence(walk, "fence")
    walk.join(a, 1)
    d, e = walk.who("D"), walk.who("E")
    plain, guarded = d.register(), e.register()
    e.killpath(program, ["one", "two words", "back\\slash", 'quo"te'], slkfd=guarded)
    d.acquire(*walk.lease(4), slkfd=plain)
    e.acquire(*walk.lease(5), slkfd=guarded)
    lose(walk, lambda: os.path.exists(told))
    with open(told, encoding="ascii") as file:
        walk.add("killpath was told " + repr(file.read()))
    d.ended()
    walk.e, walk.guarded = e, guarded
    e.inquire(slkfd=guarded)
    e.acquire(*walk.lease(6), slkfd=guarded)
    a.request(*walk.lease(5))
    a.write_resource(*walk.lease(7))
    e.killpath("/bin/false", [], slkfd=guarded)


@ends
def asked_about_while_it_is_lost(walk):
    a, space = walk.a, walk.path("space")
    a.inq_lockspace(SPACE, 1, space)
    a.get_lockspaces()
    a.get_hosts(SPACE)
    a.add_lockspace(SPACE, 1, space)
    a.rem_lockspace(SPACE, 1, space, unused=True)


@ends
def given_back_by_its_last_holder(walk):
    a, e, guarded = walk.a, walk.e, walk.guarded
    e.release(*walk.lease(5), slkfd=guarded)
    walk.until(lambda outcome: outcome == ("ok", False), a, "inq_lockspace", SPACE, 1, walk.path("space"), wait=True)
    e.inquire(slkfd=guarded)
    a.get_lockspaces()


@ends
def read_after_all(walk):
    walk.a.read_resource(walk.path("leases"), MIB)
    walk.a.get_lockspaces()
