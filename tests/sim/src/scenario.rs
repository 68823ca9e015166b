//! Scenarios that several test files play, with a rule broken on purpose or not.

use std::time::Duration;

use holdfast_io::disk::Op;
use holdfast_io::planted::Bug;
use holdfast_io::timing::IoTimeout;

use crate::checkers::Violation;
use crate::cluster::Cluster;
use crate::coverage::Fault;
use crate::disk::{Fate, HostIndex, Landed};
use crate::host::Seat;
use crate::machine::StopAt;
use crate::plan::{Plan, Trouble, Whom, seconds};

const LONG: Duration = Duration::from_secs(600);
const SEAT: Seat = Seat(0);

/// Plays a scenario with this rule broken, or none.
///
/// # Errors
/// The violation that the checkers found.
pub fn play<T>(bug: Option<Bug>, scenario: impl FnOnce() -> Result<T, Box<Violation>>) -> Result<T, Box<Violation>> {
    crate::plant(bug);
    let played = scenario();
    crate::plant(None);
    played
}

fn cluster(plan: &Plan) -> Cluster {
    Cluster::new(plan, true).unwrap_or_else(|e| unreachable!("fixed names: {e}"))
}

fn must(is: bool, what: &str) {
    assert!(is, "scenario: {what}");
}

/// W1: the daemon stops between the decision to pet and the pet, past D2's instant. The pet comes, and the host must be
/// reset at once. How long that took.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_pet_that_comes_too_late() -> Result<Duration, Box<Violation>> {
    let mut plan = Plan::quiet(1);
    plan.daemons[0].config.io_timeout = IoTimeout::new(2).unwrap_or(IoTimeout::DEFAULT);
    let cluster = cluster(&plan);
    cluster.start(0);
    must(cluster.run_until(LONG, |c| c.holds(0))?, "the host gets the free lease");
    let host = cluster.members[0].host.clone();
    let lasts = plan.daemons[0].config.timing().id_renewal_fail() + seconds(2);
    cluster.strike(Whom::Daemon(0), Trouble::Stop { at: StopAt::Pet, lasts, killed: false });
    must(cluster.run_until(LONG, |_| host.is_frozen(SEAT))?, "it stops");
    must(cluster.run_until(LONG, |_| !host.is_frozen(SEAT))?, "it goes on");
    let woke = cluster.sim.now();
    must(cluster.run_until(LONG, |_| !host.is_up())?, "and is reset");
    Ok(Duration::from_nanos(cluster.sim.now() - woke))
}

/// I6 on a further device: the daemon dies under a write there, which its ring carries on, and its successor must wait for
/// that write, although the process is gone and nothing is in flight on the lockspace's own device.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_write_on_a_further_device() -> Result<(), Box<Violation>> {
    let mut plan = Plan::quiet(1);
    plan.two_disks = true;
    plan.habits.longest_run = seconds(1);
    let cluster = cluster(&plan);
    cluster.members[0].host.uses_rings();
    cluster.start(0);
    must(cluster.run_until(LONG, |c| c.holds(0))?, "the host gets the free leases");
    let further = cluster.world.disks[1].clone();
    further.set_script(|io| (io.op == Op::Write && io.writer.process == 1).then_some(Fate::Held));
    let held = |_: &Cluster| !further.in_flight(|io| io.op == Op::Write).is_empty();
    must(cluster.run_until(LONG, held)?, "a write is held back");
    cluster.members[0].host.crash_daemon(SEAT, Fault::Crash);
    cluster.start_daemon(0);
    cluster.run_for(seconds(20))?;
    let waits = cluster.world.checkers.counts().joins == 1;
    if !waits {
        // Whoever does not wait goes on until it writes beside that write.
        cluster.run_for(LONG)?;
    }
    must(waits, "the successor waits");
    further.clear_script();
    must(further.release(|_| true) > 0, "the write lands");
    must(cluster.run_until(LONG, |c| c.world.checkers.counts().joins == 2)?, "and the successor joins");
    Ok(())
}

/// I6 across a restart: the daemon dies under a lease write, which its ring carries on. Its process is gone at once, its watchdog
/// with it, and nothing but the fence tells the successor to wait.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_write_that_outlives_its_daemon() -> Result<(), Box<Violation>> {
    let mut plan = Plan::quiet(1);
    plan.habits.longest_run = seconds(1);
    plan.hosts[0].rings = true;
    let cluster = cluster(&plan);
    let disk = cluster.world.disks[0].clone();
    let area = 1024 * 1024;
    disk.set_script(move |io| (io.op == Op::Write && io.at >= area && io.writer.process == 1).then_some(Fate::Held));
    cluster.start(0);
    let held = |_: &Cluster| !disk.in_flight(|io| io.op == Op::Write).is_empty();
    must(cluster.run_until(LONG, held)?, "a lease write is held back");
    cluster.members[0].host.crash_daemon(SEAT, Fault::Crash);
    cluster.start_daemon(0);
    cluster.run_for(LONG)?;
    let waits = cluster.world.checkers.counts().joins == 1;
    must(waits || !cluster.members[0].host.is_up(), "the successor waits, until the watchdog ends it");
    Ok(())
}

/// P1 (b): two hosts have one host_id. The write with which one of them joins is given up, the other joins and takes the
/// lease, and the write lands over its delta sector. What stands there now is the first one's, of its own boot, and must not be
/// taken for a predecessor's: the other still holds the lease under that very generation.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_late_join_over_a_settled_host() -> Result<(), Box<Violation>> {
    let mut plan = Plan::quiet(2);
    plan.daemons[1].config.host_id = plan.daemons[0].config.host_id;
    let cluster = cluster(&plan);
    let disk = cluster.world.disks[0].clone();
    disk.set_script(|io| (io.op == Op::Write && io.writer.host == HostIndex(1)).then_some(Fate::Held));
    cluster.start(1);
    let on_its_way = |_: &Cluster| !disk.in_flight(|io| io.op == Op::Write).is_empty();
    must(cluster.run_until(LONG, on_its_way)?, "its write is held back");
    disk.clear_script();
    cluster.start(0);
    must(cluster.run_until(LONG, |c| c.holds(0))?, "the other host joins, and gets the free lease");
    must(disk.release(|io| io.writer.host == HostIndex(1)) > 0, "the write lands");
    cluster.run_for(LONG)?;
    must(cluster.world.checkers.counts().joins > 2, "both have tried again");
    Ok(())
}

/// A7: a host is paused as a whole while its client holds a lease, which another takes over, and goes on. Until it looks at the
/// lease both write. How long that took.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_paused_owner_is_taken_over() -> Result<Duration, Box<Violation>> {
    let cluster = cluster(&Plan::quiet(2));
    cluster.start(0);
    must(cluster.run_until(LONG, |c| c.holds(0))?, "the host gets the free lease");
    cluster.start(1);
    let paused = cluster.members[0].host.clone();
    paused.stand_still(true);
    must(cluster.run_until(LONG, |c| c.holds(1))?, "the other host takes it over");
    let excused = || cluster.world.checkers.counts().excused;
    must(excused() == 0, "while the first one stands still only one writes");
    paused.go_on();
    let woke = cluster.sim.now();
    must(cluster.run_until(LONG, |_| excused() > 0)?, "two hosts write");
    must(cluster.run_until(LONG, |c| !c.holds(0))?, "the first one ends its client");
    let took = Duration::from_nanos(cluster.sim.now() - woke);
    must(cluster.holds(1) && paused.is_up(), "and nothing else");
    Ok(took)
}

/// P1: a host stands still, and another takes its host_id, and its lease. It wakes, and its next renewal shows it that.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_host_wakes_whose_host_id_was_taken() -> Result<(), Box<Violation>> {
    let mut plan = Plan::quiet(2);
    plan.daemons[1].config.host_id = plan.daemons[0].config.host_id;
    let cluster = cluster(&plan);
    cluster.start(0);
    must(cluster.run_until(LONG, |c| c.holds(0))?, "the host gets the free lease");
    let slept = cluster.members[0].host.clone();
    slept.stand_still(true);
    cluster.start(1);
    must(cluster.run_until(LONG, |c| c.holds(1))?, "the other host takes over its host_id, and the lease");
    slept.go_on();
    must(cluster.run_until(LONG, |c| !c.holds(0))?, "the first one ends its client");
    cluster.run_for(LONG)?;
    must(cluster.holds(1), "and the other goes on");
    Ok(())
}

/// P1: the same, with a lease that it gives back when it falls asleep, on a disk that does not take that.
///
/// # Errors
/// The violation that the checkers found.
pub fn a_host_wakes_whose_host_id_was_taken_with_something_to_give_back() -> Result<(), Box<Violation>> {
    let mut plan = Plan::quiet(2);
    plan.daemons[1].config.host_id = plan.daemons[0].config.host_id;
    (plan.habits.shortest_run, plan.habits.longest_run) = (seconds(5), seconds(5));
    let cluster = cluster(&plan);
    cluster.start(0);
    must(cluster.run_until(LONG, |c| c.holds(0))?, "the host gets the free lease");
    let (disk, area) = (cluster.world.disks[0].clone(), 1024 * 1024);
    let fails = Fate::Fails { after: Duration::from_millis(5), landed: Landed::Nothing };
    disk.set_script(move |io| (io.op == Op::Write && io.at >= area && io.writer.host == HostIndex(0)).then_some(fails));
    must(cluster.run_until(LONG, |c| !c.holds(0))?, "its client ends");
    cluster.run_for(seconds(3))?;
    let slept = cluster.members[0].host.clone();
    slept.stand_still(true);
    cluster.start(1);
    must(cluster.run_until(LONG, |c| c.world.checkers.counts().joins == 2)?, "the other host takes over its host_id");
    slept.go_on();
    cluster.run_for(LONG)?;
    Ok(())
}
