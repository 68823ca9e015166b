"""What happens to hosts, and what must come of it: one function each, named as a sentence.

What is expected is an order and margins, in the harness's clock, never a time of day. The computed instant is D1's:
HOST_DEAD after the last renewal of the host that is gone.
"""

import time

from lab import HOST_DEAD

BOOT = 120
SOON = 60


def three_hosts_fight_for_a_lease_and_every_round_counts(lab):
    """(1) Three hosts raise a counter under one lease; then one leaves, one reboots cleanly, and both come back."""
    first, second, third = nodes = lab.cluster(3)
    seconds = 25
    counts = [(n, n.begin(f"vm-guest count --lease LS:two:/dev/vda:{2 << 20} --disk /dev/vdb --block 1 --host {n.number} "
                          f"--seconds {seconds}")) for n in nodes]
    rounds = {}
    for node, begun in counts:
        status, output = node.finish(begun, seconds + SOON)
        lab.expect(status == 0, f"{node.name} counts: {output.strip()[-200:]}")
        rounds[node.name] = int(output.rsplit("rounds=", 1)[1])
    counted = [w.count for w in lab.observer.writes]
    lab.expect(counted == list(range(1, sum(rounds.values()) + 1)), f"the counter is exact: {rounds}")
    lab.expect(min(rounds.values()) > 0, f"nobody starves: {rounds}")
    second.run("holdfast lockspace remove LS:2:/dev/vda:0", SOON)
    lab.expect("LS" not in second.run("holdfast lockspace list"), "a host has left")
    second.join()
    third.run("killall -TERM holdfast; while pidof holdfast >/dev/null; do sleep 0.1; done", SOON)
    begun = time.monotonic()
    third.begin("reboot -f")
    third.wait_up(since=begun)
    lab.expect(not lab.timeline.all("h3", "monitor", "^WATCHDOG"), "a clean reboot is no watchdog's")
    third.start_daemon()
    third.join(within=SOON)
    lab.expect_one_owner_at_a_time()


def the_lease_of_a_host_that_lost_its_power_is_taken_over(lab):
    """(2) The owner's power is cut. Its lease changes hands at the computed instant and not before."""
    owner, heir = lab.cluster(2)
    owner.guest()
    owner.wait_guest(SOON)
    heir.guest()
    cut = owner.cut_power()
    taken = taken_over(lab, owner, heir, since=cut.at)
    lab.margin("taken over after the power was cut", taken - cut.at)
    lab.expect_one_owner_at_a_time()


def a_guest_whose_host_gets_only_errors_is_ended_without_a_reset(lab):
    """(3) The owner's lease disk answers with errors. Its guest is ended by the ladder, and the host lives on."""
    owner, heir = lab.cluster(2)
    owner.guest()
    owner.wait_guest(SOON)
    heir.guest()
    owner.leases().fail()
    begun = owner.say("fault", "every request to the lease disk fails").at
    ended = lab.timeline.wait("h1", "guest", "^ended", HOST_DEAD, begun).at
    taken = taken_over(lab, owner, heir, since=begun)
    lab.margin("the guest ended before the takeover", taken - ended)
    lab.measured("the guest ended so long after its last renewal had landed", ended - lab.renewals.last(1, before=begun))
    lab.expect(not owner.was_reset(begun), "the host is not reset")
    owner.leases().release()
    owner.say("fault", "over")
    owner.join()
    lab.expect_one_owner_at_a_time()


def a_host_whose_guest_hangs_on_its_disk_is_reset_by_its_watchdog_before_the_takeover(lab):
    """(4) Nothing is answered any more, on either disk: the guest cannot be ended, and the watchdog resets the host."""
    owner, heir = lab.cluster(2)
    owner.guest()
    owner.wait_guest(SOON)
    heir.guest()
    for path in owner.paths:
        path.hold()
    begun = owner.say("fault", "nothing is answered any more").at
    reset = owner.wait_reset(HOST_DEAD, begun).at
    for path in owner.paths:
        path.release()
    taken = taken_over(lab, owner, heir, since=begun)
    lab.margin("reset before the takeover", taken - reset)
    owner.wait_up(since=reset)
    late = owner.guests().land()
    lab.measured("writes of the reset host that landed after the takeover", late)
    lab.expect_one_owner_at_a_time(late=late)
    owner.start_daemon()
    owner.join(within=SOON)


def taken_over(lab, owner, heir, since):
    """When the heir's guest wrote first; not before the computed instant of its owner's last renewal, and soon after."""
    renewed = lab.renewals.last(owner.number, before=since + HOST_DEAD)
    lab.timeline.wait(heir.name, "guest", "^acquired", HOST_DEAD + SOON, since)
    until = time.monotonic() + SOON
    while not lab.observer.first_by(heir.name, since) and time.monotonic() < until:
        time.sleep(0.05)
    taken = lab.observer.first_by(heir.name, since)
    lab.expect(taken is not None, f"{heir.name} writes")
    last = lab.observer.last_by(owner.name, before=taken.landed)
    lab.guarded(owner, lab.observer.first_by(owner.name).landed, last.landed, f"{owner.name} writes")
    lab.guarded(heir, taken.landed, time.monotonic(), f"{heir.name} writes")
    lab.margin("taken over after the computed instant", taken.landed - (renewed + HOST_DEAD))
    lab.margin("between the last write of one and the first of the other", taken.landed - last.landed)
    return taken.landed


SHORT = [
    three_hosts_fight_for_a_lease_and_every_round_counts,
    the_lease_of_a_host_that_lost_its_power_is_taken_over,
    a_guest_whose_host_gets_only_errors_is_ended_without_a_reset,
    a_host_whose_guest_hangs_on_its_disk_is_reset_by_its_watchdog_before_the_takeover,
]
