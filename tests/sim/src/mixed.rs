//! Clusters of Holdfast and real sanlock hosts: what goes wrong at the peers, and by what a rule breaks.
//!
//! Everything that can go wrong goes wrong at the Holdfast hosts, always. What goes wrong at the peers beside it is said by
//! [`Faults`]: so the assumptions are found under which a mixed cluster keeps S1.
//!
//! A violation is traced to its causes by [`causes`]: the same seed with one quirk of the peers off at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_io::ids::HostId;
use holdfast_io::timing::FireTimeout;

use crate::checkers::Violation;
use crate::cluster::run_untold;
use crate::dice::{Dice, Stream};
use crate::disk::FaultRates;
use crate::host::Seat;
use crate::peer::PeerPlan;
use crate::peer::quirks::{Quirk, Quirks};
use crate::plan::{DaemonPlan, Plan, Wishes, seconds};

/// What can go wrong at the peers beside all that goes wrong at any host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// I/O that a peer has given up may be done at any later time.
    pub late: bool,
    /// A daemon that died may be started again under the same name in the same boot.
    pub same_name: bool,
    /// Peers share leases that other peers take exclusively. Otherwise a peer shares only where it is the only one.
    pub shared: bool,
    /// Damaged sectors are read. Part of what decides is not under sanlock's checksums.
    pub damage: bool,
}

impl Faults {
    /// Everything that the model knows.
    pub const ALL: Faults = Faults { late: true, same_name: true, shared: true, damage: true };

    /// The most that can go wrong at a peer while S1 is still promised: see docs/compatibility.md.
    pub const PROMISED: Faults = Faults { late: false, same_name: false, shared: false, damage: false };
}

/// Makes peers of some of the daemons, and leaves at least one that is not; each has its host for itself.
pub fn cast(daemons: &mut Vec<DaemonPlan>, seed: u64, faults: Faults) {
    daemons.retain(|d| d.seat == Seat(0));
    for daemon in daemons.iter_mut() {
        let slot = u32::try_from(daemon.host).ok();
        daemon.config.host_id = slot.and_then(HostId::from_slot).unwrap_or(daemon.config.host_id);
        daemon.name = format!("host{}", daemon.host);
    }
    let mut dice = dice(seed);
    let count = daemons.len();
    let (most, first) = (count.saturating_sub(1).max(1), dice.index(count));
    let peers = 1 + dice.index(most);
    for n in 0..peers {
        make_peer(&mut daemons[(first + n) % count], PeerPlan::REAL);
    }
    put_under(daemons, seed, faults);
}

/// Makes a peer of a daemon.
pub const fn make_peer(daemon: &mut DaemonPlan, peer: PeerPlan) {
    daemon.config.fire = FireTimeout::SANLOCK;
    daemon.peer = Some(peer);
}

fn dice(seed: u64) -> Dice {
    Dice::new(seed ^ 0x6d69_7865_6421, Stream::Scenario)
}

/// What can go wrong at the peers from now on is this.
fn put_under(daemons: &mut [DaemonPlan], seed: u64, faults: Faults) {
    let shares = Dice::new(seed ^ 0x7368_6172, Stream::Scenario).chance(300);
    let may_share = faults.shared || daemons.iter().filter(|d| d.peer.is_some()).count() == 1;
    for peer in daemons.iter_mut().filter_map(|d| d.peer.as_mut()) {
        let Faults { late, same_name, .. } = faults;
        let shared = if shares && may_share { 300 } else { 0 };
        *peer = PeerPlan { late, same_name, shared, ..*peer };
    }
}

/// The plan that a seed makes: at least one host of each kind.
#[must_use]
pub fn plan(seed: u64, faults: Faults) -> Plan {
    Plan::of_wishes(seed, Wishes { peers: Some(faults), ..Wishes::default() })
}

/// A run in which three hosts want the lease all the time, on a disk that is slow and fails: ballots meet.
#[must_use]
pub fn crowded(seed: u64, faults: Faults) -> Plan {
    let mut plan = Plan::of_wishes(seed, Wishes { hosts: Some(3), peers: Some(faults), ..Wishes::default() });
    let mut dice = Dice::new(seed ^ 0x6372_6f77, Stream::Scenario);
    let x = plan.daemons.iter().map(|d| u64::from(d.config.io_timeout.seconds())).min().map_or(seconds(10), seconds);
    let pick = |dice: &mut Dice| Duration::from_millis([5, 50, 1000][dice.index(3)]);
    (plan.habits.longest_run, plan.habits.longest_pause) = (pick(&mut dice), pick(&mut dice));
    plan.rates = FaultRates {
        latency: (Duration::from_micros(50), [Duration::from_millis(20), seconds(1), x / 2][dice.index(3)]),
        error: [0, 5, 20][dice.index(3)],
        late_per_mille: [0, 5, 20][dice.index(3)],
        late: (x / 2, x * 4),
        ..plan.rates
    };
    plan.safety = seconds(100);
    plan
}

/// The same plan with these quirks in all of its peers.
#[must_use]
pub fn with(mut plan: Plan, quirks: Quirks) -> Plan {
    plan.daemons.iter_mut().filter_map(|d| d.peer.as_mut()).for_each(|peer| peer.quirks = quirks);
    plan
}

/// The quirks without which this plan does not break the rule that it breaks; the violation.
///
/// A quirk that is off changes the run from where it first shows, so one seed is a hint, and many seeds are the proof.
#[must_use]
pub fn causes(plan: &Plan) -> Option<(Box<Violation>, Vec<Quirk>)> {
    let violation = run_untold(plan).err()?;
    let quirks = plan.daemons.iter().find_map(|d| d.peer).map_or(Quirks::NONE, |peer| peer.quirks);
    let without = |quirk: &Quirk| run_untold(&with(plan.clone(), quirks.without(*quirk))).is_ok();
    Some((violation, Quirk::ALL.into_iter().filter(|q| quirks.has(*q)).filter(without).collect()))
}

/// What peers did in a run, beside what every run counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfPeers {
    /// How often they broke a rule that they are excused from.
    pub excused: BTreeMap<&'static str, u64>,
    /// How often a ballot of theirs was outrun.
    pub outruns: u64,
}
