//! Named scenarios: each is one way in which two hosts could come to write under one lease, played to its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::bytes::u64_at;
use holdfast_io::clock::LocalInstant;
use holdfast_io::disk::Op;
use holdfast_io::planted::Bug;
use holdfast_io::timing::IoTimeout;
use holdfast_sim::checkers::Violation;
use holdfast_sim::cluster::Cluster;
use holdfast_sim::coverage::Fault;
use holdfast_sim::disk::{Facts, Fate, HostIndex, PathLoss, SimDisk};
use holdfast_sim::executor::Nanos;
use holdfast_sim::host::{Seat, SimHost};
use holdfast_sim::machine::StopAt;
use holdfast_sim::plan::{Plan, Trouble, Whom};
use holdfast_sim::scenario::{
    a_host_wakes_whose_host_id_was_taken, a_host_wakes_whose_host_id_was_taken_with_something_to_give_back,
    a_late_join_over_a_settled_host, a_paused_owner_is_taken_over, a_pet_that_comes_too_late,
    a_write_on_a_further_device, play,
};

const RESOURCE: u64 = 1024 * 1024;
const LONG: Duration = Duration::from_secs(600);
const SEAT: Seat = Seat(0);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn cluster(plan: &Plan) -> Cluster {
    Cluster::new(plan, true).unwrap()
}

fn disk(cluster: &Cluster) -> &SimDisk {
    &cluster.world.disks[0]
}

fn host(cluster: &Cluster, n: usize) -> &SimHost {
    &cluster.members[n].host
}

/// Every client of a host ends.
fn end_clients(cluster: &Cluster, n: usize) {
    while host(cluster, n).guests().kill_one() {}
}

/// One host that holds the lease and `others` that have joined and want it.
fn held_by_the_first(plan: &Plan) -> Cluster {
    let cluster = cluster(plan);
    cluster.start(0);
    assert!(until(&cluster, |c| c.holds(0)), "the first host gets the free lease");
    (1..plan.hosts.len()).for_each(|i| cluster.start(i));
    run(&cluster, seconds(120));
    cluster
}

#[track_caller]
fn until(cluster: &Cluster, condition: impl Fn(&Cluster) -> bool) -> bool {
    cluster.run_until(LONG, condition).unwrap_or_else(|violation| panic!("{violation}"))
}

#[track_caller]
fn run(cluster: &Cluster, time: Duration) {
    cluster.run_for(time).unwrap_or_else(|violation| panic!("{violation}"));
}

/// Bytes of a sector of the resource.
fn sector(cluster: &Cluster, index: usize) -> Vec<u8> {
    let size = disk(cluster).sector().bytes();
    let at = usize::try_from(RESOURCE).unwrap() + index * size;
    disk(cluster).bytes(at..at + size)
}

fn is_write(io: &Facts, host: usize, cluster_sector: usize, index: u64) -> bool {
    io.op == Op::Write && io.writer.host == HostIndex(host) && io.at == RESOURCE + index * cluster_sector as u64
}

/// lver and timestamp of the leader on disk.
fn leader(cluster: &Cluster) -> (u64, u64) {
    let sector = sector(cluster, 0);
    (u64_at(&sector, 48), u64_at(&sector, 152))
}

/// I6: the phase 1 write is given up and still in flight. Whatever the host writes next to its dblock has to wait: else
/// the old block could land over a value that has been committed since.
#[test]
fn a_late_phase_1_write_never_lands_over_phase_2() {
    let cluster = cluster(&Plan::quiet(1));
    let size = disk(&cluster).sector().bytes();
    let writes = Rc::new(Cell::new(0));
    let count = Rc::clone(&writes);
    disk(&cluster).set_script(move |io| {
        let own = is_write(io, 0, size, 2);
        count.set(count.get() + u32::from(own));
        (own && count.get() == 1).then_some(Fate::Held)
    });
    cluster.start(0);
    assert!(until(&cluster, |_| writes.get() == 1), "phase 1 begins");
    run(&cluster, seconds(300));
    assert_eq!(writes.get(), 1, "nothing else is written to the dblock while that write is out");
    assert!(!cluster.holds(0));

    assert_eq!(disk(&cluster).release(|_| true), 1);
    assert!(until(&cluster, |c| c.holds(0)), "and once it is over the lease can be had");
    let dblock = sector(&cluster, 2);
    assert_eq!(u64_at(&dblock, 0), u64_at(&dblock, 8), "mbal = bal: phase 2 is what stands there");
}

/// Spec D 8, quirk 19: a host that published another's value lands its leader write when the lease has long moved on. The
/// record on disk is then outdated, and the dblocks must tell.
#[test]
fn a_late_leader_write_over_a_newer_lver_frees_nothing_and_gives_nothing() {
    let mut plan = Plan::quiet(3);
    plan.habits.longest_run = seconds(5);
    plan.habits.wants = 0;
    let cluster = cluster(&plan);
    (0..3).for_each(|i| cluster.start(i));
    run(&cluster, seconds(120));
    let size = disk(&cluster).sector().bytes();

    // Host 0 commits lver 1 but is held up in the read of its phase 2; host 1 finds the value and publishes it, and that
    // leader write is held up for very long.
    let (reads, publishes) = (Cell::new(0), Rc::new(Cell::new(false)));
    let published = Rc::clone(&publishes);
    disk(&cluster).set_script(move |io| {
        let blocks = io.op == Op::Read && io.writer.host == HostIndex(0) && io.at == RESOURCE + 2 * size as u64;
        if blocks && io.len > size {
            reads.set(reads.get() + 1);
            return (reads.get() == 2).then_some(Fate::Held);
        }
        let late = is_write(io, 1, size, 0) && !published.get();
        late.then(|| {
            published.set(true);
            Fate::Held
        })
    });
    cluster.change_habits(|h| h.wants = 0b001);
    let held_up = |c: &Cluster| {
        !disk(c).in_flight(|io| io.writer.host == HostIndex(0) && io.len > size && io.at > RESOURCE).is_empty()
    };
    assert!(until(&cluster, held_up), "host 0 reads in phase 2");
    cluster.change_habits(|h| h.wants = 0b010);
    assert!(until(&cluster, |_| publishes.get()), "host 1 publishes lver 1 for host 0");
    cluster.change_habits(|h| h.wants = 0);
    disk(&cluster).release(|io| io.writer.host == HostIndex(0));
    assert!(until(&cluster, |c| c.holds(0)), "host 0 publishes it, too, and holds the lease");
    assert!(until(&cluster, |c| leader(c) == (1, 0)), "and releases it");

    cluster.change_habits(|h| h.wants = 0b100);
    assert!(until(&cluster, |c| leader(c) == (2, 0)), "host 2 takes lver 2 and releases it");
    cluster.change_habits(|h| h.longest_run = LONG * 100);
    // Programs that were made before that come to their end.
    run(&cluster, seconds(20));
    assert!(until(&cluster, |c| c.holds(2) && leader(c).0 > 2), "and takes a later one");
    let newest = leader(&cluster).0;
    assert_eq!(disk(&cluster).release(|io| io.writer.host == HostIndex(1)), 1);
    assert!(until(&cluster, |c| leader(c).0 == 1), "the late write lands over the newer lver");

    // S1 is the checkers' part: all three want the lease now, and host 2 has it.
    cluster.change_habits(|h| h.wants = 0b111);
    run(&cluster, seconds(300));
    assert!(cluster.holds(2) && !cluster.holds(0) && !cluster.holds(1));
    // And once it is over, the lease goes on above that lver.
    end_clients(&cluster, 2);
    assert!(until(&cluster, |c| leader(c).0 > newest && (0..3).any(|i| c.holds(i))));
    assert!(leader(&cluster).0 > newest, "{:?}", leader(&cluster));
}

/// D3: the daemon freezes, its client writes on. Nobody may have the lease before the watchdog has ended that host.
#[test]
fn a_frozen_owner_is_reset_before_anyone_takes_over() {
    let cluster = held_by_the_first(&Plan::quiet(2));
    host(&cluster, 0).freeze(SEAT);
    assert!(until(&cluster, |c| c.holds(1)), "the second host takes over");
    assert_eq!(cluster.world.checkers.counts().resets, 1);
    assert!(!host(&cluster, 0).is_up());
}

/// D1 and D3 meet: the latest reset and the earliest takeover, with clocks as far apart as they may be.
#[test]
fn takeover_comes_at_the_computed_instant_and_not_before() {
    let mut margins = Vec::new();
    for seed in 0..16 {
        let seen = worst_case(seed, A4, None).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(seen.taken > seen.reset, "{seen:?}");
        assert!(seen.silence >= seen.needed, "{seen:?}");
        assert!(seen.silence < seen.needed + seconds(2), "the instant can be relied on: {seen:?}");
        margins.push(seen.taken - seen.reset);
    }
    // What is left is the tick that a Holdfast taker waits and a real sanlock does not, and the taker's own next try.
    margins.sort_unstable();
    assert!(margins[8] < 2_000_000_000, "the case is as tight as it is meant to be: {margins:?}");
}

/// I6 across processes: the daemon dies while a write of its dblock is in flight. Its successor writes nothing before that
/// write is over.
#[test]
fn a_successor_writes_nothing_before_its_predecessors_write_is_over() {
    let mut plan = Plan::quiet(1);
    plan.habits.longest_run = seconds(1);
    // The dead process is gone at once, and with it its watchdog: nothing but the fence holds its successor back.
    plan.hosts[0].rings = true;
    let cluster = cluster(&plan);
    let size = disk(&cluster).sector().bytes();
    let begun = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&begun);
    disk(&cluster).set_script(move |io| {
        if io.op == Op::Write {
            seen.borrow_mut().push(io.writer.process);
        }
        (is_write(io, 0, size, 2) && io.writer.process == 1).then_some(Fate::Held)
    });
    cluster.start(0);
    assert!(until(&cluster, |c| !disk(c).in_flight(|io| is_write(io, 0, size, 2)).is_empty()));
    host(&cluster, 0).crash_daemon(SEAT, Fault::Crash);
    cluster.start_daemon(0);
    run(&cluster, seconds(20));
    assert!(begun.borrow().iter().all(|process| *process == 1), "the successor waits at the fence");

    assert_eq!(disk(&cluster).release(|_| true), 1);
    assert!(until(&cluster, |c| c.holds(0)), "then it joins and acquires");
    assert!(begun.borrow().contains(&2));
    assert_eq!(cluster.world.checkers.counts().resets, 0);
}

/// The same, with a write that is never over: the predecessor's watchdog is still armed, nobody pets it, and it ends the
/// matter.
#[test]
fn a_write_that_is_never_over_is_ended_by_the_watchdog() {
    let mut plan = Plan::quiet(1);
    plan.habits.longest_run = seconds(1);
    let cluster = cluster(&plan);
    let size = disk(&cluster).sector().bytes();
    disk(&cluster).set_script(move |io| (is_write(io, 0, size, 2) && io.writer.boot == 1).then_some(Fate::Never));
    cluster.start(0);
    assert!(until(&cluster, |c| !disk(c).in_flight(|io| is_write(io, 0, size, 2)).is_empty()));
    host(&cluster, 0).crash_daemon(SEAT, Fault::Crash);
    cluster.start_daemon(0);
    assert!(until(&cluster, |c| !host(c, 0).is_up()), "the watchdog fires");
    cluster.start(0);
    assert!(until(&cluster, |c| c.holds(0)), "and the host starts anew");
}

/// P1: a client outlives its daemon. Nobody else gets the lease while it may write; the successor ends it first.
#[test]
fn a_client_that_outlives_its_daemon_keeps_its_lease_until_it_is_gone() {
    let cluster = held_by_the_first(&Plan::quiet(2));
    host(&cluster, 0).crash_daemon(SEAT, Fault::Crash);
    assert!(cluster.holds(0), "the client runs on");
    run(&cluster, seconds(20));
    assert!(cluster.holds(0) && !cluster.holds(1));
    cluster.start_daemon(0);
    assert!(until(&cluster, |c| c.holds(1) || c.holds(0) && c.world.checkers.counts().holds > 1));
    assert_eq!(cluster.world.checkers.counts().resets, 0, "the successor was in time");
}

/// The same without a state file: nobody knows whom to end, so the successor lets the watchdog alone and waits, and the
/// watchdog ends the client with its host.
#[test]
fn a_successor_without_a_state_file_lets_the_watchdog_fire() {
    let cluster = held_by_the_first(&Plan::quiet(2));
    host(&cluster, 0).crash_daemon(SEAT, Fault::Crash);
    host(&cluster, 0).lose_state_file(SEAT);
    cluster.start_daemon(0);
    assert!(until(&cluster, |c| c.holds(1)), "the other host takes over");
    assert_eq!(cluster.world.checkers.counts().resets, 1);
}

/// P1 under another name: the generation may not rise, so the successor waits out its own predecessor (D1).
#[test]
fn a_successor_under_another_name_waits_out_its_predecessor() {
    let cluster = held_by_the_first(&Plan::quiet(1));
    let timing = Plan::quiet(1).daemons[0].config.timing();
    host(&cluster, 0).crash_daemon(SEAT, Fault::Crash);
    let died = cluster.sim.now();
    cluster.rename(0);
    cluster.start_daemon(0);
    assert!(until(&cluster, |c| c.world.checkers.counts().joins == 2));
    let waited = Duration::from_nanos(cluster.sim.now() - died);
    assert!(waited >= timing.silence_for_takeover() - timing.renewal_interval(), "{waited:?}");
    assert_eq!(cluster.world.checkers.counts().resets, 0, "nothing is guarded meanwhile");
}

/// D2: a host that cannot reach the disk ends its clients in time, leaves the watchdog, and joins again later.
#[test]
fn a_host_without_its_path_ends_its_clients_and_is_not_reset() {
    for how in [PathLoss::Fails, PathLoss::Hangs] {
        let cluster = held_by_the_first(&Plan::quiet(2));
        disk(&cluster).lose_path(HostIndex(0), how);
        assert!(until(&cluster, |c| !c.holds(0)), "{how:?}");
        assert!(until(&cluster, |c| c.holds(1)), "{how:?}: the other host takes over");
        disk(&cluster).restore_path(HostIndex(0));
        let joins = cluster.world.checkers.counts().joins;
        assert!(until(&cluster, |c| c.world.checkers.counts().joins > joins), "{how:?}: joins anew");
        let counts = cluster.world.checkers.counts();
        assert_eq!((counts.lost, counts.resets), (1, 0), "{how:?}");
    }
}

/// D3: where a client cannot be ended, the watchdog ends it with its host.
#[test]
fn a_client_that_cannot_be_killed_goes_down_with_its_host() {
    let mut plan = Plan::quiet(2);
    plan.habits.unkillable = 1000;
    let cluster = held_by_the_first(&plan);
    disk(&cluster).lose_path(HostIndex(0), PathLoss::Hangs);
    assert!(until(&cluster, |c| c.holds(1)));
    assert_eq!(cluster.world.checkers.counts().resets, 1);
}

/// A client is given the lease by a released leader at once, without any waiting.
#[test]
fn a_released_lease_changes_hands_without_waiting() {
    let cluster = held_by_the_first(&Plan::quiet(2));
    cluster.change_habits(|h| h.wants = 0b10);
    end_clients(&cluster, 0);
    assert!(cluster.run_until(seconds(5), |c| c.holds(1)).unwrap());
}

/// What a takeover looked like.
#[derive(Clone, Copy, Debug)]
struct Takeover {
    /// True time at which the owner's host was reset.
    reset: Nanos,
    /// True time at which the taker's client ran.
    taken: Nanos,
    /// The silence that the taker saw by its own clock, at most: from the landing of that write on.
    silence: Duration,
    /// What D1 asks for.
    needed: Duration,
}

/// The drift that A4 allows, in parts per million.
const A4: i32 = 500;

/// The latest that an owner can be reset, and the earliest that a taker can come.
///
/// The owner's clock is slow, the taker's fast, each by `ppm`: all the drift that is allowed, or more. The owner loses its path right after
/// a renewal. Its daemon pets the watchdog up to the last moment before D2's instant, then freezes, and is killed a device
/// timeout and nearly a tick later, which pets it once more (D3); the watchdog then fires with all the lag of its
/// counter. Its client writes on all the while. The taker looks at the owner's sector every tenth of a second.
///
/// # Errors
/// The violation that the checkers found.
fn worst_case(seed: u64, ppm: i32, bug: Option<Bug>) -> Result<Takeover, Box<Violation>> {
    let mut plan = Plan::quiet(2);
    plan.seed = seed;
    (plan.hosts[0].ppm, plan.hosts[1].ppm) = (-ppm, ppm);
    let apart = 1.0 + f64::from(ppm) / 1e6;
    plan.bug = bug;
    holdfast_io::planted::plant(bug);
    plan.habits.longest_pause = Duration::from_millis(100);
    let timing = plan.daemons[0].config.timing();
    let cluster = cluster(&plan);
    if ppm > A4 {
        cluster.world.checkers.without_spec();
    }
    let (owner, disk) = (host(&cluster, 0).clone(), disk(&cluster).clone());
    cluster.start(0);
    must(cluster.run_until(timing.host_dead(), |c| c.holds(0))?, "the first host gets the free lease");
    cluster.start(1);
    // Until the taker has joined, and refuses itself for a while already.
    cluster.run_for(timing.host_dead())?;

    // The next renewal is the last: the path goes with its acknowledgement.
    let last = Rc::new(Cell::new(None));
    let seen = Rc::clone(&last);
    disk.set_script(move |io| {
        let renewal = io.writer.host == HostIndex(0) && io.op == Op::Write && seen.get().is_none();
        renewal.then(|| {
            seen.set(Some(io.began));
            Fate::Done(Duration::from_millis(1))
        })
    });
    must(cluster.run_until(timing.host_dead(), |_| last.get().is_some())?, "the owner renews");
    cluster.run_for(Duration::from_millis(2))?;
    let renewed = last.get().unwrap_or_default();
    disk.lose_path(HostIndex(0), PathLoss::Fails);

    // D2's instant by the owner's slow clock, a little less; then a device timeout, a little less.
    let slow = |wait: Duration| wait.mul_f64(apart);
    let little = Duration::from_millis(2);
    let d2 = renewed + holdfast_sim::dice::nanos(slow(timing.id_renewal_fail()) - little);
    cluster.run_for(Duration::from_nanos(d2 - cluster.sim.now()))?;
    owner.pet(SEAT);
    owner.freeze(SEAT);
    // Its counter lags: nearly a tick past its timeout it has not fired, and the close pets it once more.
    cluster.run_for(slow(timing.fire_timeout.device_limit()) + Duration::from_millis(990))?;
    must(owner.is_up(), "the watchdog has not fired yet");
    owner.crash_daemon(SEAT, Fault::Crash);
    while owner.is_up() {
        cluster.run_for(Duration::from_millis(1))?;
    }
    let reset = cluster.sim.now();
    must(cluster.run_until(timing.host_dead(), |c| c.holds(1))?, "the second host takes the lease over");
    let taken = cluster.sim.now();
    let fast = |true_time: Nanos| LocalInstant::from_nanos(true_time).since(LocalInstant::EARLIEST).mul_f64(apart);
    let silence = fast(taken).saturating_sub(fast(renewed));
    Ok(Takeover { reset, taken, silence, needed: timing.silence_for_takeover() })
}

fn must(is: bool, what: &str) {
    assert!(is, "scenario: {what}");
}

/// D1's tick left out: the taker comes a second too early, and that alone is found.
#[test]
fn d1_a_takeover_one_tick_early_is_found() {
    let found: Vec<_> = (0..16).filter_map(|seed| worst_case(seed, A4, Some(Bug::ExpiryOneTickEarly)).err()).collect();
    holdfast_io::planted::plant(None);
    assert!(found.len() > 8, "only {} of 16 runs found it", found.len());
    found.iter().for_each(|violation| assert_eq!(violation.rule, "D1", "{violation}"));
}

/// A4 is what D1's drift is measured for: with clocks that run apart by forty times as much, the taker comes while the owner's client
/// still writes.
#[test]
fn s1_clocks_apart_beyond_the_bound_are_found() {
    let found: Vec<_> = (0..16).filter_map(|seed| worst_case(seed, 40 * A4, None).err()).collect();
    assert!(found.len() > 8, "only {} of 16 runs found it", found.len());
    found.iter().for_each(|violation| assert_eq!(violation.rule, "S1", "{violation}"));
}

/// P1 (b): what a join wrote that failed is no predecessor's.
#[test]
fn p1_a_late_join_over_a_settled_host_is_waited_out_like_a_strangers() {
    play(None, a_late_join_over_a_settled_host).unwrap_or_else(|violation| panic!("{violation}"));
}

/// W1: a pet past D2's instant.
#[test]
fn w1_a_pet_that_comes_too_late_resets_the_host_at_once() {
    let took = play(None, a_pet_that_comes_too_late).unwrap_or_else(|violation| panic!("{violation}"));
    assert!(took < seconds(3), "at once: {took:?}");
}

/// The same, and the daemon dies before its device has fired: its end pets once more, by the shortest timeout that there is.
#[test]
fn w1_a_daemon_that_dies_after_a_late_pet_puts_off_its_reset_once_and_no_longer() {
    let mut plan = Plan::quiet(1);
    plan.daemons[0].config.io_timeout = IoTimeout::new(1).unwrap();
    plan.hosts[0].steps = 5;
    let cluster = held_by_the_first(&plan);
    // It pets every 12.5 s, and its device counts 25: woken 10 s after it stopped at a pet it is past the instant, and not reset yet.
    cluster.strike(Whom::Daemon(0), Trouble::Stop { at: StopAt::Pet, lasts: LONG, killed: false });
    assert!(until(&cluster, |c| host(c, 0).is_frozen(SEAT)));
    run(&cluster, seconds(10));
    host(&cluster, 0).thaw(SEAT);
    run(&cluster, seconds(3));
    host(&cluster, 0).crash_daemon(SEAT, Fault::Crash);
    let died = cluster.sim.now();
    assert!(until(&cluster, |c| !host(c, 0).is_up()));
    let took = Duration::from_nanos(cluster.sim.now() - died);
    assert!(took > seconds(4) && took < seconds(7), "{took:?}");
}

/// A7: a host that its hypervisor pauses, clock and watchdog with it, wakes when another has taken its lease over: two
/// hosts write. No lease protects against that, and the checkers say so; but its daemon finds it out with its next renewal.
#[test]
fn a7_a_paused_host_that_was_taken_over_ends_its_client_with_its_next_renewal() {
    let took = play(None, a_paused_owner_is_taken_over).unwrap_or_else(|violation| panic!("{violation}"));
    let Plan { daemons, .. } = Plan::quiet(2);
    assert!(took < daemons[0].config.timing().renewal_interval() + seconds(2), "{took:?}");
}

/// A7, and two hosts with one host_id: the one that stood still finds out, and writes nothing more.
#[test]
fn a7_a_host_whose_host_id_was_taken_while_it_stood_still_writes_nothing_more_when_it_has_seen_that() {
    play(None, a_host_wakes_whose_host_id_was_taken).unwrap_or_else(|violation| panic!("{violation}"));
    let undoing = a_host_wakes_whose_host_id_was_taken_with_something_to_give_back;
    play(None, undoing).unwrap_or_else(|violation| panic!("{violation}"));
}

/// A7, and two hosts with one host_id: the one that stood still writes over the sector of the other, which took its host_id and
/// a lease under the next generation. Nobody can see that generation end while the host that woke has the host_id.
#[test]
fn a7_what_a_later_generation_held_waits_until_the_host_that_woke_gives_its_host_id_back() {
    let mut plan = Plan::quiet(2);
    plan.daemons[1].config.host_id = plan.daemons[0].config.host_id;
    plan.habits.programs = 1;
    let cluster = held_by_the_first(&plan);
    disk(&cluster).set_script(|io| (io.op == Op::Write && io.writer.host == HostIndex(0)).then_some(Fate::Held));
    let renews = |c: &Cluster| !disk(c).in_flight(|io| io.op == Op::Write).is_empty();
    assert!(until(&cluster, renews), "it renews");
    host(&cluster, 0).stand_still(true);
    disk(&cluster).clear_script();
    assert!(until(&cluster, |c| c.holds(1)), "the second host takes over its host_id, and the lease");
    let area = cluster.world.resources[0].area;
    let waits = |c: &Cluster| c.world.checkers.outlives_its_generation(area);
    assert!(!waits(&cluster));
    assert_eq!(disk(&cluster).release(|_| true), 1);
    host(&cluster, 0).go_on();
    assert!(until(&cluster, |c| !c.holds(0) && !c.holds(1)), "both find out");

    cluster.world.checkers.forget_progress();
    run(&cluster, LONG);
    assert!(waits(&cluster) && !cluster.world.checkers.progress().held.contains(&area));
    cluster.change_habits(|habits| habits.leaves = 1000);
    let had = |c: &Cluster| c.world.checkers.progress().held.contains(&area);
    assert!(until(&cluster, had), "and it is had again");
}

/// A7, and two hosts with one host_id: the one that stood still writes over its successor's sector, and has its host_id again. What it
/// is granted from then on is its own.
#[test]
fn a7_a_host_that_has_its_host_id_again_keeps_what_it_is_granted_from_then_on() {
    let mut plan = Plan::quiet(3);
    plan.daemons[1].config.host_id = plan.daemons[0].config.host_id;
    (plan.habits.programs, plan.habits.wants) = (1, 0b001);
    let cluster = held_by_the_first(&plan);
    let own = |io: &Facts| io.op == Op::Write && io.writer.host == HostIndex(0);
    disk(&cluster).set_script(move |io| own(io).then_some(Fate::Held));
    let renews = |c: &Cluster| !disk(c).in_flight(own).is_empty();
    assert!(until(&cluster, renews), "it renews");
    host(&cluster, 0).stand_still(true);
    disk(&cluster).clear_script();
    cluster.change_habits(|h| h.wants = 0b100);
    let generation = |c: &Cluster| u64_at(&disk(c).bytes(0..512), 40);
    assert!(until(&cluster, |c| c.holds(2) && generation(c) == 2), "the others take over the lease, and the host_id");
    cluster.change_habits(|h| h.wants = 0);
    end_clients(&cluster, 2);
    assert!(until(&cluster, |c| !c.holds(2)), "which is given back");

    assert_eq!(disk(&cluster).release(|_| true), 1);
    host(&cluster, 0).go_on();
    assert!(until(&cluster, |c| !c.holds(0)), "what it had is lost");
    assert_eq!(generation(&cluster), 1, "its host_id is its own again");
    cluster.change_habits(|h| h.wants = 0b001);
    assert!(until(&cluster, |c| c.holds(0)), "and it is granted the lease");
    run(&cluster, LONG);
    assert!(cluster.holds(0));
    assert_eq!(cluster.world.checkers.outliver(), None);
}

/// A suspended host wakes past its instant: its clock counted on, so its daemon ends everything at its first turn.
#[test]
fn a_suspended_host_wakes_and_ends_its_clients_before_they_write() {
    let cluster = held_by_the_first(&Plan::quiet(2));
    host(&cluster, 0).stand_still(false);
    assert!(until(&cluster, |c| c.holds(1)), "the second host takes over");
    host(&cluster, 0).go_on();
    run(&cluster, seconds(30));
    assert!(!cluster.holds(0) && cluster.holds(1));
    assert_eq!(cluster.world.checkers.counts().excused, 0);
}

/// A suspended host whose daemon is stopped as it wakes, taken over long since: its clients go on, and that is A7's. Its
/// watchdog ends them, or the daemon's next turn.
#[test]
fn a7_a_daemon_that_is_stopped_as_its_host_wakes_ends_nobody_in_time() {
    let mut plan = Plan::quiet(2);
    plan.habits.longest_run = seconds(1_000_000);
    let cluster = held_by_the_first(&plan);
    host(&cluster, 0).stand_still(false);
    assert!(until(&cluster, |c| c.holds(1)), "the second host takes over");
    let stop = Trouble::Stop { at: StopAt::Effect(0), lasts: seconds(5), killed: false };
    cluster.strike(Whom::Daemon(0), stop);
    host(&cluster, 0).go_on();
    assert!(until(&cluster, |c| c.world.checkers.counts().excused > 0), "two hosts write, and it is excused");
    assert!(until(&cluster, |c| !c.holds(0)), "and is over");
}

/// The first host shares the lease and stands still as a whole; the second wants it exclusively.
fn shared_by_one_that_stands_still() -> Cluster {
    let mut plan = Plan::quiet(2);
    (plan.habits.shares, plan.habits.wants) = (1000, 0b01);
    let cluster = held_by_the_first(&plan);
    host(&cluster, 0).stand_still(true);
    cluster.change_habits(|h| (h.shares, h.wants) = (0, 0b10));
    cluster
}

/// A7, and I1's exception: a sharer that stood still is found dead, and its claim cleared by a write that is slow. It wakes and
/// clears its claim itself before that lands.
#[test]
fn a7_a_sharer_that_wakes_gives_back_what_is_being_cleared_for_it() {
    let cluster = shared_by_one_that_stands_still();
    let size = disk(&cluster).sector().bytes();
    let own = Rc::new(Cell::new(0));
    let seen = Rc::clone(&own);
    disk(&cluster).set_script(move |io| {
        seen.set(seen.get() + u32::from(is_write(io, 0, size, 2)));
        is_write(io, 1, size, 2).then_some(Fate::Held)
    });
    assert!(until(&cluster, |c| !disk(c).in_flight(|io| is_write(io, 1, size, 2)).is_empty()), "it is cleared");
    host(&cluster, 0).go_on();
    run(&cluster, Duration::from_millis(400));
    end_clients(&cluster, 0);
    assert!(until(&cluster, |_| own.get() > 0), "and cleared by its owner");
    run(&cluster, Duration::from_millis(100));
    assert_eq!(disk(&cluster).release(|_| true), 1);
    run(&cluster, seconds(60));
    assert!(cluster.world.checkers.counts().excused > 0);
}

/// The same, between the read of its sector and the write that clears the claim.
#[test]
fn a7_a_sharer_that_wakes_writes_what_was_just_read_to_be_cleared() {
    let cluster = shared_by_one_that_stands_still();
    let size = disk(&cluster).sector().bytes();
    let reads =
        move |io: &Facts, at| io.op == Op::Read && io.writer.host == HostIndex(1) && (io.at, io.len) == (at, size);
    let (own, foreign, read) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (seen, slow, mut looked) = ((Rc::clone(&own), Rc::clone(&foreign)), Rc::clone(&read), false);
    disk(&cluster).set_script(move |io| {
        seen.0.set(seen.0.get() + u32::from(is_write(io, 0, size, 2)));
        seen.1.set(seen.1.get() + u32::from(is_write(io, 1, size, 2)));
        // What follows the look that shows it dead.
        let last = looked && reads(io, RESOURCE + 2 * size as u64);
        looked = reads(io, 0);
        slow.set(slow.get() || last);
        last.then_some(Fate::Done(seconds(4)))
    });
    assert!(until(&cluster, |_| read.get()), "its sector is read, to be cleared as it stands");
    run(&cluster, Duration::from_millis(3500));
    host(&cluster, 0).go_on();
    run(&cluster, Duration::from_millis(400));
    end_clients(&cluster, 0);
    assert!(until(&cluster, |_| own.get() > 0), "it is cleared by its owner");
    assert_eq!(foreign.get(), 0, "before the other's write begins");
    assert!(until(&cluster, |_| foreign.get() > 0), "which does");
    run(&cluster, seconds(60));
    assert!(cluster.world.checkers.counts().excused > 0);
}

/// I1's exception: a sharer is dead, and its claim is being cleared when the daemon dies that does so.
#[test]
fn i1_a_claim_may_be_cleared_by_a_write_that_outlives_its_daemon() {
    let mut plan = Plan::quiet(2);
    (plan.habits.shares, plan.habits.wants) = (1000, 0b01);
    let cluster = held_by_the_first(&plan);
    host(&cluster, 0).reset();
    cluster.change_habits(|h| (h.shares, h.wants) = (0, 0b10));
    let size = disk(&cluster).sector().bytes();
    disk(&cluster).set_script(move |io| is_write(io, 1, size, 2).then_some(Fate::Held));
    assert!(until(&cluster, |c| !disk(c).in_flight(|io| is_write(io, 1, size, 2)).is_empty()), "it is cleared");
    host(&cluster, 1).crash_daemon(SEAT, Fault::Crash);
    assert_eq!(disk(&cluster).release(|_| true), 1);
    run(&cluster, seconds(1));
    assert_eq!(sector(&cluster, 2)[128..144], [0; 16]);
}

/// The fence on a further device.
#[test]
fn i6_a_write_on_a_further_device_holds_its_successor_back() {
    play(None, a_write_on_a_further_device).unwrap_or_else(|violation| panic!("{violation}"));
}

/// A bit of a dblock that nobody ever wrote flips, and makes it look like a shared holder's. It must be taken for damage:
/// else its sector is written, over whatever its host may have begun meanwhile (I1).
#[test]
fn i1_a_flipped_bit_in_a_blank_dblock_makes_up_no_shared_holder() {
    let mut plan = Plan::quiet(2);
    plan.habits.longest_run = seconds(2);
    let cluster = cluster(&plan);
    let size = disk(&cluster).sector().bytes() as u64;
    disk(&cluster).damage(RESOURCE + 3 * size, 128, 1);
    cluster.start(0);
    run(&cluster, seconds(120));
    assert!(!cluster.holds(0), "a damaged area is refused");
    assert_eq!(cluster.world.checkers.counts().holds, 0);
    disk(&cluster).repair();
    assert!(until(&cluster, |c| c.holds(0)), "and can be used again once it is whole");
}
