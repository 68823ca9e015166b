"""What happens to hosts, and what must come of it: one function each, named as a sentence.

What is expected is an order and margins, in the harness's clock, never a time of day. The computed instant is D1's:
`lab.computed()` after the last renewal of the host that is gone.
"""

import time

from extras import SANLOCK, with_extra
from lab import FIRE_TIMEOUT, HOST_DEAD, IO_TIMEOUT, RENEWAL_FAIL, WDMD_FIRE_TIMEOUT, Sabotage

SOON = 60
RENEWAL = 2 * IO_TIMEOUT
DEVICE_TIMEOUT = (FIRE_TIMEOUT - 2) / 2  # what the daemon asks of the device: half of what is sealed, less two ticks
NO_WATCHDOG = "--watchdog none --unsafe-no-watchdog"
EDGE = 0.3  # of an io_timeout: a write that is to be on the medium is three requests here, two of them flushes


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
    owner, heir = lab.owner_and_heir()
    cut = owner.cut_power()
    taken = taken_over(lab, owner, heir, since=cut.at)
    lab.margin("taken over after the power was cut", taken - cut.at)
    lab.expect_one_owner_at_a_time()


def a_guest_whose_host_gets_only_errors_is_ended_without_a_reset(lab):
    """(3) The owner's lease disk answers with errors. Its guest is ended by the ladder, and the host lives on."""
    owner, heir = lab.owner_and_heir()
    owner.leases().fail()
    begun = owner.say("fault", "every request to the lease disk fails").at
    taken = taken_over(lab, owner, heir, since=begun)
    lab.expect(not owner.was_reset(begun), "the host is not reset")
    ended = owner.guest_ended(begun)
    lab.expect(ended, "its guest is ended")
    lab.margin("the guest ended before the takeover", taken - ended.at)
    lab.measured("the guest ended so long after its last renewal had landed", ended.at - lab.renewals.last(1, before=begun))
    owner.leases().release()
    owner.say("fault", "over")
    owner.join()
    lab.expect_one_owner_at_a_time()


def a_host_whose_guest_hangs_on_its_disk_is_reset_by_its_watchdog_before_the_takeover(lab):
    """(4) Nothing is answered any more, on either disk: the guest cannot be ended, and the watchdog resets the host."""
    owner, heir = lab.owner_and_heir()
    begun = hang(owner, owner.paths)
    reset_before_takeover(lab, owner, heir, begun)
    owner.wait_up(since=begun)
    owner.start_daemon()
    owner.join()


@with_extra(SANLOCK)
def a_host_under_wdmd_whose_guest_hangs_is_reset_before_the_takeover(lab):
    """(4) The same where wdmd keeps the watchdog, with its 60 seconds."""
    lab.fire_timeout = WDMD_FIRE_TIMEOUT
    owner, heir = lab.owner_and_heir()
    begun = hang(owner, owner.paths)
    reset_before_takeover(lab, owner, heir, begun)


def a_write_through_io_uring_keeps_its_host_under_the_watchdog_after_its_guest_has_ended(lab):
    """(4) The lease disk fails, and the guest's disk hangs. The guest ends when asked; its write does not: the host is reset."""
    owner, heir = lab.owner_and_heir(guest="--ring")
    begun = hang(owner, [owner.guests()])
    lab.wait_for(lambda: owner.guests().held, SOON, "a write is in flight")
    owner.leases().fail()
    owner.say("fault", "every request to the lease disk fails")
    reset = reset_before_takeover(lab, owner, heir, begun)
    ended = owner.guest_ended(begun)
    lab.expect(ended, "its guest is ended")
    lab.margin("the guest ended before the reset", reset - ended.at)


def a_host_whose_daemon_is_killed_is_reset_by_its_watchdog(lab):
    """(5) Nobody starts the daemon again: its guest writes on until the watchdog fires."""
    owner, heir = lab.owner_and_heir()
    killed = owner.signal_daemon("KILL")
    reset_before_takeover(lab, owner, heir, killed.at)


def a_host_whose_daemon_is_frozen_is_reset_by_its_watchdog(lab):
    """(5) The daemon stands still: it renews no more, and pets no more."""
    owner, heir = lab.owner_and_heir()
    frozen = owner.signal_daemon("STOP")
    reset_before_takeover(lab, owner, heir, frozen.at)


def a_daemon_started_again_in_time_ends_what_its_predecessor_guarded_and_joins_at_once(lab):
    """(5) Killed and started again within the deadline: the guest is ended before the generation rises, and nothing is reset."""
    owner, heir = lab.owner_and_heir()
    killed = owner.signal_daemon("KILL")
    owner.start_daemon()
    owner.join()
    joined = time.monotonic()
    lab.timeline.wait(heir.name, "guest", "^acquired", HOST_DEAD, killed.at)
    taken = lab.wait_for(lambda: lab.observer.first_by(heir.name, killed.at), SOON, "the heir writes")
    lab.wait_for(lambda: lab.observer.last_by(heir.name).landed > taken.landed + 1, SOON, "and writes on")
    lab.expect_one_owner_at_a_time()
    ended = owner.guest_ended(killed.at)
    lab.expect(ended, "the guest was ended")
    lab.margin("the guest ended before the takeover", taken.landed - ended.at)
    lab.measured("joined again so long after the daemon was killed", joined - killed.at)
    lab.expect(not owner.was_reset(killed.at), "the host is not reset")


def a_daemon_started_again_waits_for_the_write_of_its_predecessor_that_is_in_flight(lab):
    """(5) A renewal hangs in the device as its daemon is killed; the next daemon begins its generation only once that has landed. Without a
    watchdog, which would not wait for so long: what is killed has it open until its write is over."""
    node, = lab.cluster(1, NO_WATCHDOG)
    node.leases().hold_next(("write",))
    lab.wait_for(lambda: node.leases().held, SOON, "a renewal is in flight")
    killed = node.say("fault", "its daemon gets SIGKILL, while a renewal is in flight")
    node.run("kill -KILL $(pidof holdfast)")
    node.serve("daemon", node.daemon_command(NO_WATCHDOG))
    # Whoever comes too early is heard by nobody: the socket is that of the dead one, as long as that has it open.
    add, joined = "holdfast lockspace add LS:1:/dev/vda:0", "holdfast lockspace list | grep -q LS"
    joining = node.begin(f"until timeout 1 sh -c '{joined}'; do timeout 1 {add}; done")
    lab.wait_for(lambda: time.monotonic() > killed.at + 3 * RENEWAL, SOON, "long enough to have joined, if it did not wait")
    node.leases().release()
    landed = node.say("fault", "the renewal lands").at
    node.finish(joining, SOON)
    lab.measured("joined so long after that", time.monotonic() - landed)
    generations = lab.renewals.generations[1]
    lab.expect(generations == sorted(generations), f"the generation in its sector never falls: {generations}")


def a_daemon_started_again_does_not_pet_for_a_guest_that_cannot_be_ended(lab):
    """(5) Killed and started again beside a guest that hangs in its disk: nobody vouches for it, and the host is reset."""
    owner, heir = lab.owner_and_heir()
    begun = hang(owner, [owner.guests()])
    owner.signal_daemon("KILL")
    owner.begin(f"exec {owner.daemon_command()}")
    owner.begin("until holdfast lockspace add LS:1:/dev/vda:0; do sleep 0.2; done")
    reset_before_takeover(lab, owner, heir, begun)


def a_daemon_started_again_too_late_finds_its_host_reset(lab):
    """(5) Killed, and to be started again after longer than the watchdog waits: it has fired by then."""
    owner, heir = lab.owner_and_heir()
    killed = owner.signal_daemon("KILL")
    owner.begin(f"sleep {FIRE_TIMEOUT}; holdfast daemon -e {owner.name} -o {IO_TIMEOUT}")
    reset = reset_before_takeover(lab, owner, heir, killed.at)
    lab.margin("reset before the daemon would have been there", killed.at + FIRE_TIMEOUT - reset)


def a_host_that_freezes_as_hardware_does_is_reset_before_the_takeover(lab):
    """(6) Its processor stands still while its watchdog counts. QEMU's counts with the processor, so the harness resets it."""
    owner, heir = lab.owner_and_heir()
    owner.freeze()
    frozen = owner.say("fault", "it stands still").at
    lab.wait_for(lambda: time.monotonic() > frozen + DEVICE_TIMEOUT, HOST_DEAD, "its watchdog's time")
    for path in owner.paths:
        path.sever()
    owner.reset()
    reset = owner.say("monitor", "RESET by the harness, for its watchdog").at
    taken = taken_over(lab, owner, heir, since=frozen)
    lab.margin("reset before the takeover", taken - reset)
    lab.expect_one_owner_at_a_time()


def a_host_paused_by_its_hypervisor_ends_its_guest_at_its_first_look_after_it_goes_on(lab):
    """(6) Paused until its lease has changed hands: its clocks and its watchdog stood still, so nothing in it knows. That breaks S1,
    by as many writes as it does before its daemon looks at its leases: once in a renewal interval. This is a known limit."""
    owner, heir = lab.owner_and_heir()
    owner.pause()
    paused = owner.say("fault", "paused by its hypervisor").at
    taken = taken_over(lab, owner, heir, since=paused)
    owner.go_on()
    resumed = owner.say("fault", "goes on").at
    lab.margin("paused until after the takeover", resumed - taken)
    ended = lab.timeline.wait(owner.name, "guest", "^ended", HOST_DEAD, resumed)
    lab.margin("its guest ended within two renewal intervals", 2 * 2 * IO_TIMEOUT - (ended.at - resumed))
    lab.measured("its guest wrote on for so long", ended.at - resumed)
    stale = [overlap for overlap in lab.observer.overlaps if overlap.write.landed > resumed]
    lab.measured("writes beside the new owner's", len(stale))
    lab.expect(all(overlap.write.landed <= ended.at for overlap in stale), "none once the guest has ended")
    lab.expect(lab.timeline.find(owner.name, "daemon", "lost|changed hands|no longer ours", resumed), "its daemon says why")
    lab.expect(not owner.guest_ended(0) or ended.at > resumed, "and not before")


def a_host_that_is_suspended_is_reset_by_its_watchdog_which_counts_on(lab):
    """(7) Suspended to idle: nothing runs, nobody pets, and this device counts on."""
    owner, heir = lab.owner_and_heir()
    owner.begin("echo freeze >/sys/power/state")
    suspended = owner.say("fault", "suspended")
    reset_before_takeover(lab, owner, heir, suspended.at)


def a_host_that_is_suspended_to_memory_is_taken_over_and_wakes_to_nothing(lab):
    """(7) Its watchdog's power is off as well. It wakes through its firmware, which starts it anew here, after the takeover."""
    owner, heir = lab.owner_and_heir()
    owner.begin("echo mem >/sys/power/state")
    suspended = lab.timeline.wait(owner.name, "monitor", "^SUSPEND", SOON)
    taken = taken_over(lab, owner, heir, since=suspended.at)
    owner.monitor_do("system_wakeup")
    woken = owner.say("fault", "woken").at
    owner.wait_up(since=woken)
    owner.start_daemon()
    owner.join()
    lab.wait_for(lambda: lab.observer.last_by(heir.name).landed > taken + HOST_DEAD / 2, HOST_DEAD, "the new owner writes on")
    lab.expect_one_owner_at_a_time()


def what_a_dead_host_had_in_flight_harms_nobody_when_it_lands_after_the_takeover(lab):
    """(8) A renewal and a ballot's write of the owner are on their way as its power is cut; they land after the takeover."""
    owner, heir = lab.owner_and_heir()
    owner.leases().hold(("write",))
    held = owner.say("fault", "its writes to the lease disk are on their way").at
    owner.begin(f"exec vm-guest guarded --lease LS:two:/dev/vda:{2 << 20} --disk /dev/vdb --block 1 --host {owner.number}")
    lab.wait_for(lambda: len(owner.leases().held) >= 2, SOON, "a renewal and a ballot are in flight")
    owner.cut_power()
    taken_over(lab, owner, heir, since=held)
    late = owner.leases().land()
    landed = owner.say("fault", f"{late} writes land").at
    lab.margin("writes in flight", late - 2)
    owner.leases().release()
    heir.run(f"holdfast exec --wait={2 * HOST_DEAD} --resource LS:two:/dev/vda:{2 << 20} -- true", 3 * HOST_DEAD)
    lab.wait_for(lambda: lab.observer.last_by(heir.name).landed > landed + RENEWAL, HOST_DEAD, "the new owner writes on")
    lab.expect(not heir.guest_ended(landed), "the new owner keeps its lease")
    lab.expect_one_owner_at_a_time()
    owner.start()
    owner.wait_up(since=landed)
    owner.start_daemon()
    owner.join()


def a_host_whose_acknowledgements_are_lost_is_taken_for_dead_only_once_it_is(lab):
    """(8) Its writes land, but it never hears so: it gives up at D2, and every renewal of it that landed counts for the others."""
    owner, heir = lab.owner_and_heir()
    owner.leases().lose_answers()
    begun = owner.say("fault", "nothing that it writes to the lease disk is acknowledged").at
    taken = taken_over(lab, owner, heir, since=begun)
    ended = owner.guest_ended(begun)
    reset = owner.was_reset(begun)
    lab.expect(ended or reset, "its guest is ended")
    lab.margin("that before the takeover", taken - (ended or reset).at)
    lab.expect_one_owner_at_a_time()


def a_torn_write_of_an_area_is_an_error_and_formatting_again_heals_it(lab):
    """(8) Of what `init` writes only the beginning reaches the disk."""
    node, = lab.boot(1)
    area = "LX:0:/dev/vda:4194304"
    node.leases().tear(3 * lab.sector)
    node.say("fault", "of each write only three sectors are done")
    status, said = node.finish(node.begin(f"holdfast init -s {area}"))
    lab.expect(status == 1 and "/dev/vda" in said, f"init says what failed, and where: {said.strip()}")
    node.leases().release()
    status, said = node.finish(node.begin("holdfast dump /dev/vda"))
    lab.expect(status in (0, 1) and said, f"dump reads what is there: status {status}")
    node.run(f"holdfast init --force -s {area}")
    node.start_daemon()
    node.run("holdfast lockspace add LX:1:/dev/vda:4194304", SOON)


def storage_that_hangs_for_less_than_the_deadline_ends_nothing(lab):
    """(9) All paths are down, and come back before D2's instant: the guest waits, and goes on."""
    owner, heir = lab.owner_and_heir()
    begun = hang(owner, owner.paths)
    renewed = lab.renewals.last(owner.number, before=begun)
    lab.wait_for(lambda: time.monotonic() > renewed + RENEWAL_FAIL - 2 * IO_TIMEOUT, HOST_DEAD, "four seconds are left")
    for path in owner.paths:
        path.release()
    back = owner.say("fault", "over").at
    lab.wait_for(lambda: lab.observer.last_by(owner.name).landed > back + HOST_DEAD, 2 * HOST_DEAD, "the owner writes on")
    lab.expect(not owner.was_reset(begun) and not owner.guest_ended(begun), "nothing was ended")
    lab.expect(not lab.observer.first_by(heir.name), "nothing was taken over")
    lab.expect_one_owner_at_a_time()


def a_lease_disk_that_is_pulled_out_and_pushed_back_costs_its_guests_but_no_reset(lab):
    """(9) The device is gone, and comes back as another: what was opened before never works again."""
    owner, heir = lab.owner_and_heir()
    begun = owner.say("fault", "the lease disk is pulled out").at
    owner.pull_disk(0)
    taken = taken_over(lab, owner, heir, since=begun)
    ended = owner.guest_ended(begun)
    lab.expect(ended, "its guest is ended")
    lab.margin("the guest ended before the takeover", taken - ended.at)
    owner.push_disk(0)
    owner.say("fault", "and pushed back")
    name = lab.wait_for(lambda: owner.run("cd /sys/block; grep -l leases vd*/serial || true").split("/")[0], SOON, "it is back")
    owner.run(f"holdfast lockspace add LS:{owner.number}:/dev/{name}:0", SOON)
    lab.expect(not owner.was_reset(begun), "the host is not reset")
    lab.expect_one_owner_at_a_time()


def storage_at_the_edge_of_io_timeout_ends_nothing(lab):
    """(9) Every answer takes most of an io_timeout, for a long time."""
    owner, heir = lab.owner_and_heir()
    owner.leases().slow(EDGE * IO_TIMEOUT)
    begun = owner.say("fault", f"every answer takes {EDGE * IO_TIMEOUT:g} s").at
    lab.wait_for(lambda: time.monotonic() > begun + lab.long_time, lab.long_time + SOON, "a long time")
    lab.expect(not owner.was_reset(begun) and not owner.guest_ended(begun), "nothing was ended")
    times = [at for at in lab.renewals.times[owner.number] if at >= begun]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    lab.margin("D2's instant after the longest time without a renewal", RENEWAL_FAIL - max(gaps))
    lab.expect(not lab.observer.first_by(heir.name), "nothing was taken over")
    lab.expect_one_owner_at_a_time()


def all_hosts_lose_the_storage_at_once_and_get_it_back(lab):
    """(14) Two hosts with guests that can be ended, one with a guest that hangs: that one is reset, the others are not."""
    first, second, third = nodes = lab.cluster(3)
    first.guest("one")
    second.guest("two")
    for node in (first, second):
        node.wait_guest(SOON)
    third.guest("one")
    begun = hang(first, first.paths)
    for node in (second, third):
        node.leases().fail()
        node.say("fault", "every request to the lease disk fails")
    reset = first.wait_reset(HOST_DEAD, begun)
    ended = lab.timeline.wait(second.name, "guest", "^ended", HOST_DEAD, begun)
    lab.measured("the hung host was reset so long after the fault", reset.at - begun)
    lab.measured("the guest of the other was ended so long after it", ended.at - begun)
    for node in nodes:
        for path in node.paths:
            path.release()
        node.say("fault", "over")
    lab.expect(not second.was_reset(begun) and not third.was_reset(begun), "who can end its guests is not reset")
    first.wait_up(since=begun)
    first.start_daemon()
    joins = [(node, node.begin(f"until holdfast lockspace add LS:{node.number}:/dev/vda:0; do sleep 0.5; done")) for node in nodes]
    for node, join in joins:
        lab.expect(node.finish(join, 2 * HOST_DEAD)[0] == 0, f"{node.name} is back")
    back = time.monotonic()
    for node, resource in ((first, "one"), (second, "two")):
        node.guest(resource)
        lab.timeline.wait(node.name, "guest", "^acquired", 2 * HOST_DEAD, back)
    lab.expect_one_owner_at_a_time()


def hang(node, paths):
    """Nothing is answered any more there, and what is asked is in flight."""
    for path in paths:
        path.hold(("read", "write"))
    return node.say("fault", f"no answer from {', '.join(path.disk.name for path in paths)}").at


def reset_before_takeover(lab, owner, heir, begun):
    """The watchdog resets the owner, and only then its lease changes hands, whatever was in flight; when that was."""
    taken = taken_over(lab, owner, heir, since=begun)
    # Whether or not it was reset: what it may do now shows whether it should have been.
    for path in owner.paths:
        path.release()
    late = owner.guests().land()
    reset = owner.was_reset(begun)
    lab.wait_for(lambda: lab.observer.last_by(heir.name).landed > taken + 1, SOON, "the new owner writes on")
    lab.measured("writes of the reset host that landed after the takeover", late)
    lab.expect_one_owner_at_a_time(late=late)
    lab.expect(reset, "the host was reset")
    lab.measured("reset so long after the fault", reset.at - begun)
    lab.margin("reset before the takeover", taken - reset.at)
    return reset.at


def taken_over(lab, owner, heir, since, host_dead=None):
    """When the heir's guest wrote first; not before the computed instant of its owner's last renewal, and soon after."""
    instant = lab.computed() if host_dead is None else host_dead
    lab.timeline.wait(heir.name, "guest", "^acquired", 2 * instant + SOON, since)
    taken = lab.wait_for(lambda: lab.observer.first_by(heir.name, since), SOON, "the heir writes")
    renewed = lab.renewals.last(owner.number, before=taken.landed)
    last = lab.observer.last_by(owner.name, before=taken.landed)
    lab.guarded(owner, lab.observer.first_by(owner.name).landed, last.landed, f"{owner.name} writes")
    lab.guarded(heir, taken.landed, time.monotonic(), f"{heir.name} writes")
    lab.margin("taken over after the computed instant", taken.landed - (renewed + instant))
    lab.margin("between the last write of one and the first of the other", taken.landed - last.landed)
    return taken.landed


SHORT = [
    three_hosts_fight_for_a_lease_and_every_round_counts,
    the_lease_of_a_host_that_lost_its_power_is_taken_over,
    a_guest_whose_host_gets_only_errors_is_ended_without_a_reset,
    a_host_whose_guest_hangs_on_its_disk_is_reset_by_its_watchdog_before_the_takeover,
]

ALL = SHORT + [
    a_host_under_wdmd_whose_guest_hangs_is_reset_before_the_takeover,
    a_write_through_io_uring_keeps_its_host_under_the_watchdog_after_its_guest_has_ended,
    a_host_whose_daemon_is_killed_is_reset_by_its_watchdog,
    a_host_whose_daemon_is_frozen_is_reset_by_its_watchdog,
    a_daemon_started_again_in_time_ends_what_its_predecessor_guarded_and_joins_at_once,
    a_daemon_started_again_waits_for_the_write_of_its_predecessor_that_is_in_flight,
    a_daemon_started_again_does_not_pet_for_a_guest_that_cannot_be_ended,
    a_daemon_started_again_too_late_finds_its_host_reset,
    a_host_that_freezes_as_hardware_does_is_reset_before_the_takeover,
    a_host_paused_by_its_hypervisor_ends_its_guest_at_its_first_look_after_it_goes_on,
    a_host_that_is_suspended_is_reset_by_its_watchdog_which_counts_on,
    a_host_that_is_suspended_to_memory_is_taken_over_and_wakes_to_nothing,
    what_a_dead_host_had_in_flight_harms_nobody_when_it_lands_after_the_takeover,
    a_host_whose_acknowledgements_are_lost_is_taken_for_dead_only_once_it_is,
    a_torn_write_of_an_area_is_an_error_and_formatting_again_heals_it,
    storage_that_hangs_for_less_than_the_deadline_ends_nothing,
    a_lease_disk_that_is_pulled_out_and_pushed_back_costs_its_guests_but_no_reset,
    storage_at_the_edge_of_io_timeout_ends_nothing,
    all_hosts_lose_the_storage_at_once_and_get_it_back,
]

# A defence off, the scenario that claims it must fail, and by what it sees.
SABOTAGED = [
    (a_host_whose_daemon_is_killed_is_reset_by_its_watchdog,
     Sabotage("the watchdog is not armed", "no two owners at once", options=NO_WATCHDOG)),
    (a_guest_whose_host_gets_only_errors_is_ended_without_a_reset,
     Sabotage("nobody is ended", "the host is not reset", bug="NobodyIsEnded")),
    (the_lease_of_a_host_that_lost_its_power_is_taken_over,
     Sabotage("takeover a tick of the watchdog's early", "after the computed instant", bug="ExpiryOneTickEarly")),
    (a_daemon_started_again_in_time_ends_what_its_predecessor_guarded_and_joins_at_once,
     Sabotage("restart without P1", "no two owners at once", bug="GenerationOverLiveClients")),
    (a_daemon_started_again_does_not_pet_for_a_guest_that_cannot_be_ended,
     Sabotage("a successor pets for the dead", "late writes|the host was reset", bug="PetsForTheDead")),
    (a_daemon_started_again_waits_for_the_write_of_its_predecessor_that_is_in_flight,
     Sabotage("no fence", "the generation in its sector never falls", bug="I6NotAcrossRestart")),
]
