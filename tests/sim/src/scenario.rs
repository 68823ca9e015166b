//! Scenarios that several test files play.

use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::disk::Op;

use crate::checkers::Violation;
use crate::cluster::{Cluster, Plan};
use crate::daemon::Sabotage;
use crate::disk::{Fate, HostIndex, PathLoss};
use crate::executor::Nanos;

/// What a takeover looked like.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// True time at which the owner's last good renewal began to be written.
    pub renewed: Nanos,
    /// True time at which the owner's host was reset.
    pub reset: Nanos,
    /// True time at which the taker's client ran.
    pub taken: Nanos,
    /// The silence that the taker saw by its own clock, at most: from the landing of that write on.
    pub silence: Duration,
    /// What D1 asks for.
    pub needed: Duration,
}

/// The latest that an owner can be reset, and the earliest that a taker can come.
///
/// The owner's clock is slow, the taker's fast, each by all the drift that is allowed. The owner loses its path right after
/// a renewal. Its daemon pets the watchdog up to the last moment before D2's instant, then freezes, and is killed a device
/// timeout and nearly a tick later, which pets it once more (D3); the watchdog then fires with all the lag of its
/// counter. Its client writes on all the while. The taker looks at the owner's sector every tenth of a second.
///
/// # Errors
/// The violation that the checkers found.
pub fn worst_case(seed: u64, sabotage: Sabotage) -> Result<Takeover, Box<Violation>> {
    let mut plan = Plan::quiet(2);
    plan.ppm = vec![-500, 500];
    plan.sabotage = sabotage;
    plan.habits.longest_pause = Duration::from_millis(100);
    let timing = plan.hosts[0].timing();
    let cluster = Cluster::new(seed, &plan).unwrap_or_else(|e| unreachable!("fixed names: {e}"));
    let (owner, disk) = (cluster.members[0].host.clone(), cluster.world.disk.clone());
    cluster.start(0);
    expect(cluster.run_until(timing.host_dead(), |c| c.holds(0))?, "the first host gets the free lease");
    cluster.start(1);
    // Until the taker has joined, and refuses itself for a while already.
    cluster.run_for(timing.host_dead())?;

    // The next renewal is the last: the path goes with its acknowledgement.
    let last = std::rc::Rc::new(std::cell::Cell::new(None));
    let seen = std::rc::Rc::clone(&last);
    disk.set_script(move |io| {
        let renewal = io.writer.host == HostIndex(0) && io.op == Op::Write && seen.get().is_none();
        renewal.then(|| {
            seen.set(Some(io.began));
            Fate::Done(Duration::from_millis(1))
        })
    });
    expect(cluster.run_until(timing.host_dead(), |_| last.get().is_some())?, "the owner renews");
    cluster.run_for(Duration::from_millis(2))?;
    let renewed = last.get().unwrap_or_default();
    disk.lose_path(HostIndex(0), PathLoss::Hangs);

    // D2's instant by the owner's slow clock, a little less; then a device timeout, a little less.
    let slow = |wait: Duration| wait.mul_f64(1.000_5);
    let little = Duration::from_millis(2);
    let d2 = renewed + crate::dice::nanos(slow(timing.id_renewal_fail()) - little);
    cluster.run_for(Duration::from_nanos(d2 - cluster.sim.now()))?;
    owner.pet();
    owner.freeze();
    // Its counter lags: nearly a tick past its timeout it has not fired, and the close pets it once more.
    cluster.run_for(slow(timing.fire_timeout.device_limit()) + Duration::from_millis(990))?;
    expect(owner.is_up(), "the watchdog has not fired yet");
    owner.crash_daemon();
    while owner.is_up() {
        cluster.run_for(Duration::from_millis(1))?;
    }
    let reset = cluster.sim.now();
    expect(cluster.run_until(timing.host_dead(), |c| c.holds(1))?, "the second host takes the lease over");
    let taken = cluster.sim.now();
    let fast = |true_time: Nanos| LocalInstant::from_nanos(true_time).since(LocalInstant::EARLIEST).mul_f64(1.000_5);
    let silence = fast(taken).saturating_sub(fast(renewed));
    Ok(Takeover { renewed, reset, taken, silence, needed: timing.silence_for_takeover() })
}

fn expect(is: bool, what: &str) {
    assert!(is, "scenario: {what}");
}
