"""A lease on three disks, of which any one may be lost, to everybody, at any moment, and come back with what it had.

The lockspace is on a disk of its own, which stays. Lost is a disk that answers with errors, or not at all: then what it was
sent lands when it is back.
"""

import time

from lab import GUESTS, HOST_DEAD, MIB, SPACE
from scenarios import SOON, taken_over

COPIES = ("/dev/vdc", "/dev/vdd", "/dev/vde")
RESOURCE = f"{SPACE}:three" + "".join(f":{device}:0" for device in COPIES)
KINDS = ("fail", "hold")


class Copies:
    """The three disks, and what becomes of them."""

    def __init__(self, lab):
        self.lab = lab
        self.disks = [lab.add_disk(f"copy{n}", MIB) for n in (1, 2, 3)]
        # sanlock's command line: `holdfast init` has one place for each lease.
        lab.here("direct", "init", "-r", f"{SPACE}:three" + "".join(f":{disk.file}:0" for disk in self.disks), name="sanlock")
        self.tripped = None

    def lose(self, which, kind, when=""):
        for path in self.paths(which):
            getattr(path, kind)()
        return self.lab.timeline.add("harness", "fault", f"copy {which + 1}: {kind} {when}".rstrip())

    def lose_at_first_write(self, which, kind, by, when):
        """Once the next write of a host to it has landed."""
        self.tripped = (by.name, which, kind, when)
        if self.trip not in self.disks[which].watchers:
            self.disks[which].watchers.append(self.trip)

    def trip(self, path, *_):
        if self.tripped and path.host == self.tripped[0] and path.disk is self.disks[self.tripped[1]]:
            (_, which, kind, when), self.tripped = self.tripped, None
            self.lose(which, kind, when)

    def restore(self, which):
        for path in self.paths(which):
            path.release()
        return self.lab.timeline.add("harness", "fault", f"copy {which + 1} is back")

    def paths(self, which):
        return [node.paths[2 + which] for node in self.lab.nodes]


def guest_of(node):
    return node.guest(options="", lease=RESOURCE)


def acquired(lab, node, since, within):
    """When its guest was granted the lease, and at which version."""
    event = lab.timeline.wait(node.name, "guest", "^acquired", within, since)
    return event.at, int(event.text.rsplit("=", 1)[1])


def writes_again(lab, node, since):
    """Its guest has written since then."""
    lab.wait_for(lambda: (last := lab.observer.last_by(node.name)) and last.landed >= since, HOST_DEAD + SOON, f"{node.name} writes")


def one_disk_of_three_is_lost_in_every_phase_and_the_lease_is_handed_on(lab):
    """(12) One of three disks is lost while the lease is held, given back or taken. It goes to the next host without a wait each time."""
    copies = Copies(lab)
    owner, heir = lab.cluster(2)
    pid = guest_of(owner)
    _, version = acquired(lab, owner, 0, SOON)
    for n, (kind, when) in enumerate((kind, when) for kind in KINDS for when in ("held", "released", "acquired")):
        which = n % 3
        since = time.monotonic()
        waiting = guest_of(heir)
        lab.timeline.wait(heir.name, "guest", "^refused", SOON, since)
        if when == "held":
            lost = copies.lose(which, kind, "while the lease is held").at
            writes_again(lab, owner, lost + HOST_DEAD)
        elif when == "released":
            copies.lose_at_first_write(which, kind, owner, "while the lease is given back")
        else:
            copies.lose_at_first_write(which, kind, heir, "while the lease is taken")
        owner.run(f"kill {pid}")
        ended = lab.timeline.wait(owner.name, "guest", "^ended", SOON, since).at
        at, found = acquired(lab, heir, since, HOST_DEAD + SOON)
        lab.measured(f"{when}, {kind}: so long after its guest's end the lease was the next host's", at - ended)
        lab.margin("and so much earlier than a takeover", HOST_DEAD - (at - ended))
        lab.expect(copies.tripped is None, f"copy {which + 1} was lost")
        lab.expect(found == version + 1, f"version {found} follows {version}")
        writes_again(lab, heir, at)
        copies.restore(which)
        owner, heir, pid, version = heir, owner, waiting, found
    lab.expect_one_owner_at_a_time()


def what_a_dead_host_held_on_three_disks_is_taken_over_with_one_of_them_lost(lab):
    """(12) The owner's power is cut, and one of the disks is lost with it. The others are enough, at the computed instant."""
    copies = Copies(lab)
    owner, heir = lab.cluster(2)
    guest_of(owner)
    owner.wait_guest(SOON)
    for which, kind in enumerate(KINDS):
        guest_of(heir)
        copies.lose(which, kind)
        cut = owner.cut_power()
        taken = taken_over(lab, owner, heir, cut.at)
        lab.margin(f"{kind}: taken over after the power was cut", taken - cut.at)
        copies.restore(which)
        owner.start()
        owner.wait_up(since=cut.at)
        owner.start_daemon()
        owner.join()
        owner, heir = heir, owner
    lab.expect_one_owner_at_a_time()


def with_two_of_three_disks_lost_nobody_takes_over_until_one_is_back(lab):
    """(12) Two disks are lost with the owner's power; the third was away when it acquired. It says that the lease is free: nobody believes it."""
    copies = Copies(lab)
    owner, heir = lab.cluster(2)
    copies.lose(0, "fail", "before the lease is acquired")
    guest_of(owner)
    owner.wait_guest(SOON)
    writes_again(lab, owner, 0)
    # At one instant, so that the owner cannot tell the first of them what it has missed.
    for path in copies.paths(1):
        path.hold()
    copies.lose(2, "fail")
    cut = owner.cut_power()
    copies.restore(0)
    # A program that is refused for want of disks ends with that.
    asking = heir.serve("guest", f"setsid sh -c 'until vm-guest guarded --lease {RESOURCE} --disk {GUESTS} --host {heir.number}; do sleep 0.5; done'")
    refused = lab.timeline.wait(heir.name, "guest", "failed|refused", SOON, cut.at)
    lab.expect(bool(refused), f"{heir.name} is told: {refused.text}")
    renewed = lab.renewals.last(owner.number)
    lab.wait_for(lambda: time.monotonic() > renewed + HOST_DEAD + 10, HOST_DEAD + 10, "host_dead has long passed")
    lab.expect(not lab.observer.first_by(heir.name, cut.at), "nobody takes over with one disk of three")
    back = copies.restore(2).at
    taken = taken_over(lab, owner, heir, cut.at)
    lab.margin("taken over after a second disk was back", taken - back)
    copies.restore(1)
    owner.start()
    owner.wait_up(since=cut.at)
    owner.start_daemon()
    owner.join()
    guest_of(owner)
    since = lab.timeline.wait(owner.name, "guest", "^refused", SOON, cut.at).at
    heir.run(f"kill -- -{asking}")
    _, version = acquired(lab, owner, since, SOON)
    lab.expect(version == 3, f"a third version, with all of the disks: {version}")
    lab.expect_one_owner_at_a_time()


SCENARIOS = [
    one_disk_of_three_is_lost_in_every_phase_and_the_lease_is_handed_on,
    what_a_dead_host_held_on_three_disks_is_taken_over_with_one_of_them_lost,
    with_two_of_three_disks_lost_nobody_takes_over_until_one_is_back,
]
