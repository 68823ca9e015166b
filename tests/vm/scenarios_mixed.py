"""Clusters of Holdfast and real sanlock, each of which must wait until what the other has lost its host for cannot run any more.

sanlock knows one fire timeout, wdmd's 60 s, and waits as long for whoever is silent. Holdfast waits as long for a host of
sanlock's, whose sector has no seal, and for one of its own as long as that has sealed. See docs/compatibility.md.
"""

from extras import SANLOCK, with_extra
from lab import HOST_DEAD, WDMD_FIRE_TIMEOUT, Node
from sanlock import HOST_DEAD as SANLOCK_HOST_DEAD
from sanlock import SanlockNode
from scenarios import SOON, taken_over


class WdmdNode(Node):
    """A host of ours whose watchdog wdmd has."""

    def start_daemon(self, options="--watchdog wdmd", fire_timeout=WDMD_FIRE_TIMEOUT):
        self.start_wdmd()
        return super().start_daemon(options, fire_timeout)


def owner_and_heir(lab, *kinds):
    """Two hosts that have joined: a guest of the first has the lease, one of the second waits for it."""
    owner, heir = nodes = lab.boot(2, kinds)
    for node in nodes:
        node.start_daemon()
        node.join()
    owner.guest()
    owner.wait_guest(SOON)
    heir.guest()
    lab.timeline.wait(heir.name, "guest", "^refused", SOON)
    lab.expect_true_clocks()
    return owner, heir


@with_extra(SANLOCK)
def holdfast_takes_over_from_a_sanlock_host_that_lost_its_power(lab):
    """(10) The power of a host with real sanlock is cut. Holdfast waits out wdmd's 60 s, which no sector names."""
    owner, heir = owner_and_heir(lab, SanlockNode, Node)
    cut = owner.cut_power()
    taken = taken_over(lab, owner, heir, cut.at, SANLOCK_HOST_DEAD)
    lab.margin("taken over after the power was cut", taken - cut.at)
    lab.expect_one_owner_at_a_time()


@with_extra(SANLOCK)
def sanlock_takes_over_from_a_holdfast_host_that_lost_its_power(lab):
    """(10) The power of a Holdfast host, whose watchdog wdmd has, is cut. sanlock takes over, and not before Holdfast would."""
    owner, heir = owner_and_heir(lab, WdmdNode, SanlockNode)
    cut = owner.cut_power()
    taken = taken_over(lab, owner, heir, cut.at, SANLOCK_HOST_DEAD)
    lab.margin("taken over after the power was cut", taken - cut.at)
    lab.expect_one_owner_at_a_time()


@with_extra(SANLOCK)
def a_sanlock_host_that_hangs_is_reset_by_wdmd_before_holdfast_takes_over(lab):
    """(10) Nothing is answered to a sanlock host any more: its guest cannot be ended, wdmd lets the host be reset, then Holdfast takes over."""
    owner, heir = owner_and_heir(lab, SanlockNode, Node)
    reset_before_the_takeover(lab, owner, heir, SANLOCK_HOST_DEAD)


@with_extra(SANLOCK)
def a_holdfast_host_that_hangs_is_reset_long_before_sanlock_takes_over(lab):
    """(10) The same the other way round; Holdfast has the watchdog itself, and 10 s for it, of which sanlock knows nothing."""
    owner, heir = owner_and_heir(lab, Node, SanlockNode)
    renewed, reset = reset_before_the_takeover(lab, owner, heir, SANLOCK_HOST_DEAD)
    lab.margin("reset before its own host_dead", renewed + HOST_DEAD - reset)


def reset_before_the_takeover(lab, owner, heir, host_dead):
    """When the owner's last renewal landed, and when its watchdog reset it."""
    for path in owner.paths:
        path.hold()
    begun = owner.say("fault", "nothing is answered any more").at
    reset = owner.wait_reset(host_dead, begun).at
    for path in owner.paths:
        path.release()
    renewed = lab.renewals.last(owner.number, before=reset)
    taken = taken_over(lab, owner, heir, begun, host_dead)
    lab.margin("reset before the takeover", taken - reset)
    owner.wait_up(since=reset)
    late = owner.guests().land()
    lab.expect_one_owner_at_a_time(late=late)
    return renewed, reset


SCENARIOS = [
    holdfast_takes_over_from_a_sanlock_host_that_lost_its_power,
    sanlock_takes_over_from_a_holdfast_host_that_lost_its_power,
    a_sanlock_host_that_hangs_is_reset_by_wdmd_before_holdfast_takes_over,
    a_holdfast_host_that_hangs_is_reset_long_before_sanlock_takes_over,
]
