//! What a seed makes up: hosts, disks, habits, and everything that will go wrong and when. A plan is plain data, so that it
//! can be shown, changed by hand, and made smaller ([`crate::shrink`]).

use std::ops::Range;
use std::time::Duration;

use holdfast_io::ids::HostId;
use holdfast_io::planted::Bug;
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::{AlignSize, Geometry, SectorSize};

use crate::daemon::{Config, Habits};
use crate::dice::{Dice, Stream};
use crate::disk::{FaultRates, PathLoss};
use crate::host::Seat;
use crate::machine::StopAt;
use crate::mixed;
use crate::peer::PeerPlan;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of everything that is decided on the way.
    pub seed: u64,
    /// Sizes of all areas.
    pub geometry: Geometry,
    /// The hosts.
    pub hosts: Vec<HostPlan>,
    /// The daemons on them.
    pub daemons: Vec<DaemonPlan>,
    /// Whether there is a second resource, on a second disk.
    pub two_disks: bool,
    /// On how many disks the first resource lies: 1, or 3 of which a majority is enough.
    pub copies: u8,
    /// The disk that is lost for good once the faults are over, where a lease lies on several: what one disk knew alone is gone then.
    pub lost: Option<usize>,
    /// Whoever shares a lease goes on with that to the end of the run, and every host must come to share it.
    pub sharers_stay: bool,
    /// How hosts behave.
    pub habits: Habits,
    /// How the disks behave while they are faulty.
    pub rates: FaultRates,
    /// Length of the safety phase.
    pub safety: Duration,
    /// What goes wrong beside the disks, in order.
    pub mishaps: Vec<Mishap>,
    /// The rule that is broken on purpose.
    pub bug: Option<Bug>,
    /// Rules that are not looked at: for tests that want to hear of another.
    pub unspoken: &'static [&'static str],
}

/// One host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Which machine it says it is.
    pub machine: u64,
    /// What its clock gains, in parts per million.
    pub ppm: i32,
    /// The steps in which its watchdogs count, in seconds.
    pub steps: u32,
    /// Whether they fire at the last instant that is allowed.
    pub punctual: bool,
    /// They never fire: a broken host, for runs that must fail.
    pub no_watchdog: bool,
    /// Its daemons do their I/O through rings: one that is killed is gone at once, and its writes land later.
    pub rings: bool,
}

/// One daemon.
#[derive(Clone, Debug)]
pub struct DaemonPlan {
    /// On which host.
    pub host: usize,
    /// In which seat.
    pub seat: Seat,
    /// Its settings.
    pub config: Config,
    /// Its host name.
    pub name: String,
    /// It is real sanlock, and how that is.
    pub peer: Option<PeerPlan>,
}

/// Whom something strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// This daemon, or its host.
    Daemon(usize),
    /// A daemon whose host holds a lease, or this one if none does: there it hurts.
    Holder(usize),
    /// The first daemon from then on whose host holds a lease; nobody, if none does before the faults end.
    NextHolder,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mishap {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// To whom.
    pub whom: Whom,
    /// What.
    pub what: Trouble,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The daemon is killed; its successor may have lost its state file, or go by another name.
    Crash {
        /// The state file is gone as well.
        loses_state: bool,
        /// Its successor has another name.
        renamed: bool,
    },
    /// The daemon stands still, and goes on or is killed.
    Freeze {
        /// For how long.
        lasts: Duration,
        /// Killed then.
        killed: bool,
    },
    /// The daemon stops between a decision and what follows from it.
    Stop {
        /// Where.
        at: StopAt,
        /// For how long, from when it stops at the latest.
        lasts: Duration,
        /// Killed then, and not gone on.
        killed: bool,
    },
    /// The daemon is killed while a lease write of it is in flight, which lands later.
    CrashInWrite {
        /// When it lands.
        lasts: Duration,
    },
    /// The host loses power.
    PowerCut,
    /// The host loses power, and nobody boots it for so long.
    Dark {
        /// For how long.
        lasts: Duration,
    },
    /// The host loses its path to a disk.
    Path {
        /// Which disk.
        disk: usize,
        /// All hosts do.
        everyone: bool,
        /// How that shows.
        how: PathLoss,
        /// For how long.
        lasts: Duration,
    },
    /// The host as a whole stands still.
    Still {
        /// For how long.
        lasts: Duration,
        /// Its clock too (paused by a hypervisor), or not (asleep).
        clock_too: bool,
    },
    /// A sector of a disk is damaged.
    Damage {
        /// Which area: 0 the lockspace, then the resources.
        area: usize,
        /// Which of the host's own sectors, or (0) the leader.
        own: bool,
        /// Which byte.
        byte: usize,
        /// Which bit.
        bit: u8,
    },
    /// Somebody kills a client.
    KillClient,
    /// The disks work for a while.
    Calm,
    /// The disks are faulty again.
    Storm,
}

/// Longer than any run.
const STAYS: Duration = Duration::from_secs(1_000_000);

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.index(from.len())]
}

/// So many seconds.
#[must_use]
pub const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn x(seconds: u64) -> IoTimeout {
    IoTimeout::new(seconds).unwrap_or(IoTimeout::DEFAULT)
}

fn fire(seconds: u64) -> FireTimeout {
    FireTimeout::new(seconds).unwrap_or(FireTimeout::SANLOCK)
}

fn id(n: usize) -> HostId {
    u32::try_from(n).ok().and_then(HostId::from_slot).unwrap_or_else(|| unreachable!("a few hosts"))
}

fn geometry(sector: SectorSize) -> Geometry {
    Geometry::new(sector, AlignSize::M1).unwrap_or_else(|e| unreachable!("{e}"))
}

/// How a seed's runs are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// So many hosts; `None`: two or three.
    pub hosts: Option<usize>,
    /// So many disks; `None`: one or two. On three the first resource has copies on all of them.
    pub disks: Option<usize>,
    /// At least one of the hosts is real sanlock, and this can go wrong beside all that goes wrong at any host.
    pub peers: Option<mixed::Faults>,
}

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Few hosts with short timeouts, and a fault or two: most of the runs, since most of what can break breaks so.
    Brief,
    /// All hosts want the lease all the time: ballots meet.
    Hot,
    /// Timeouts of any length, long clients, many faults.
    Long,
}

impl Plan {
    /// The plan that a seed makes.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        Self::of_wishes(seed, Wishes::default())
    }

    /// The plan that a seed makes, as wished.
    #[must_use]
    pub fn of_wishes(seed: u64, wishes: Wishes) -> Self {
        let mut dice = Dice::new(seed, Stream::Scenario);
        let kind = match dice.below(100) {
            0..=74 => Kind::Brief,
            75..=84 => Kind::Hot,
            _ => Kind::Long,
        };
        let sector = if dice.chance(50) { SectorSize::B512 } else { SectorSize::B4096 };
        let more = if kind == Kind::Brief { dice.index(5) / 4 } else { dice.index(2) };
        let count = wishes.hosts.unwrap_or(2 + more);
        let mut hosts: Vec<HostPlan> = (0..count).map(|n| HostPlan::of(&mut dice, n)).collect();
        let mut rings = Dice::new(seed, Stream::Rings);
        hosts.iter_mut().for_each(|host| host.rings = rings.chance(300));
        let mut daemons = daemons(&mut dice, count, kind);
        if let Some(faults) = wishes.peers {
            mixed::cast(&mut daemons, seed, faults);
        }
        for daemon in &daemons {
            // A device that cannot count so short is refused, and its host never joins.
            let most = u32::try_from(daemon.config.fire.device_limit().as_secs()).unwrap_or(1);
            let steps = &mut hosts[daemon.host].steps;
            *steps = (*steps).min(most);
        }
        let longest = daemons.iter().map(|d| d.config.timing().host_dead()).max().unwrap_or_default();
        let mut habits = habits(&mut dice, longest, kind);
        // A peer may take exclusively what others share (docs/compatibility.md, M3): that has scenarios of its own.
        if wishes.peers.is_none() {
            let mut dice = Dice::new(seed, Stream::Sharing);
            habits.shares = pick(&mut dice, &[0, 0, 300, 800]);
            habits.converts = if habits.shares == 0 { 0 } else { pick(&mut dice, &[0, 300]) };
        }
        let x = |d: &DaemonPlan| u64::from(d.config.io_timeout.seconds());
        let mut rates = rates(&mut dice, seconds(daemons.iter().map(x).min().unwrap_or(10)), kind);
        let two_disks = wishes.disks.map_or_else(|| dice.chance(300), |n| n > 1);
        // Joining takes two of the slowest io_timeouts: what goes wrong before that has its own share of the runs.
        let slowest = daemons.iter().map(x).max().unwrap_or(10);
        let calm = if dice.chance(250) { Duration::ZERO } else { seconds(slowest * 2 + 4) };
        let mut safety = calm
            + match kind {
                Kind::Brief => longest * 12 / 10,
                Kind::Hot => seconds(12),
                Kind::Long => longest * 14 / 10,
            }
            // What real sanlock holds can be taken after a minute at the earliest.
            + if wishes.peers.is_some() { longest } else { Duration::ZERO };
        let mut mishaps = mishaps(&mut dice, daemons.len(), calm..safety, longest, kind);
        if kind == Kind::Brief {
            safety += falls_silent(seed, &mut mishaps, calm, longest);
        }
        if wishes.peers.is_some_and(|faults| !faults.damage) {
            rates.damaged = 0;
            mishaps.retain(|m| !matches!(m.what, Trouble::Damage { .. }));
        }
        let copies = if wishes.disks.is_some_and(|n| n > 2) { 3 } else { 1 };
        let (mut two_disks, mut lost, mut sharers_stay) = (two_disks, None, false);
        if copies > 1 {
            let mut dice = Dice::new(seed, Stream::Copies);
            for mishap in &mut mishaps {
                if let Trouble::Path { disk, .. } = &mut mishap.what {
                    *disk = dice.index(3);
                }
            }
            // Not the first, which has the lockspace; and no lease lies on that disk alone, or whoever waits for it would never get on.
            lost = dice.chance(500).then(|| 1 + dice.index(2));
            two_disks &= lost.is_none();
            sharers_stay = lost.is_some() && habits.shares > 0 && dice.chance(700);
            if sharers_stay {
                habits = Habits { shares: 1000, converts: 0, shortest_run: STAYS, longest_run: STAYS, ..habits };
            }
        }
        let (geometry, unspoken, bug) = (geometry(sector), &[][..], None);
        Plan {
            seed,
            geometry,
            hosts,
            daemons,
            two_disks,
            copies,
            lost,
            sharers_stay,
            habits,
            rates,
            safety,
            mishaps,
            bug,
            unspoken,
        }
    }

    /// A plan without faults for named scenarios: `count` hosts with io_timeout 10 and fire timeout 60.
    #[must_use]
    pub fn quiet(count: usize) -> Self {
        let config = |n| Config { host_id: id(n), io_timeout: x(10), fire: fire(60) };
        Plan {
            seed: 11,
            geometry: geometry(SectorSize::B4096),
            hosts: (0..count).map(HostPlan::plain).collect(),
            daemons: (0..count)
                .map(|n| DaemonPlan { host: n, seat: Seat(0), config: config(n), name: format!("host{n}"), peer: None })
                .collect(),
            two_disks: false,
            copies: 1,
            lost: None,
            sharers_stay: false,
            habits: Habits {
                programs: 2,
                shortest_run: seconds(1_000_000),
                longest_run: seconds(1_000_000),
                longest_pause: seconds(1),
                unkillable: 0,
                slow_writes: 0,
                families: 0,
                leaves: 0,
                waits: 0,
                shares: 0,
                converts: 0,
                wants: u64::MAX,
                absence: seconds(10),
            },
            rates: FaultRates::NONE,
            safety: seconds(1000),
            mishaps: Vec::new(),
            bug: None,
            unspoken: &[],
        }
    }

    /// D1's silence of the slowest daemon.
    #[must_use]
    pub fn longest_silence(&self) -> Duration {
        self.daemons.iter().map(|d| d.config.timing().silence_for_takeover()).max().unwrap_or_default()
    }

    /// Within this time after the faults have ended every daemon must have joined, and each resource been held anew: what is
    /// under way late lands, a host boots (up to 2 minutes), waits out its own former term, joins, waits out the owner,
    /// and lets a client that holds the lease run to its end.
    #[must_use]
    pub fn liveness_bound(&self) -> Duration {
        let run = if self.sharers_stay { Duration::ZERO } else { self.habits.longest_run };
        let client = run + self.habits.longest_pause;
        seconds(240) + self.rates.late.1 + self.longest_silence() * 3 + client
    }
}

impl HostPlan {
    /// A host with nothing remarkable.
    #[must_use]
    pub fn plain(n: usize) -> Self {
        HostPlan { machine: 0xAA00 + n as u64, ppm: 0, steps: 1, punctual: true, no_watchdog: false, rings: false }
    }

    fn of(dice: &mut Dice, n: usize) -> Self {
        HostPlan {
            ppm: pick(dice, &[-500, -80, 0, 30, 500]),
            steps: pick(dice, &[1, 1, 1, 2, 5]),
            punctual: dice.chance(700),
            ..Self::plain(n)
        }
    }
}

/// One daemon a host, as a rule; sometimes two on one host, or two with one host_id or one name.
fn daemons(dice: &mut Dice, hosts: usize, kind: Kind) -> Vec<DaemonPlan> {
    let (timeouts, fires): (&[u64], &[u64]) = match kind {
        Kind::Brief => (&[1, 1, 2], &[4, 4, 6, 10]),
        Kind::Hot | Kind::Long => (&[1, 2, 2, 3, 5, 10], &[4, 8, 10, 20, 60]),
    };
    let same = Config { host_id: id(0), io_timeout: x(pick(dice, timeouts)), fire: fire(pick(dice, fires)) };
    let mixed = dice.chance(300);
    let mut daemons: Vec<DaemonPlan> = (0..hosts)
        .map(|host| {
            let (io_timeout, fire) = match mixed {
                false => (same.io_timeout, same.fire),
                true => (x(pick(dice, timeouts)), fire(pick(dice, fires))),
            };
            let config = Config { host_id: id(host), io_timeout, fire };
            DaemonPlan { host, seat: Seat(0), config, name: format!("host{host}"), peer: None }
        })
        .collect();
    if dice.chance(120) {
        // A second daemon: on a host that has one, or on a host of its own number.
        let twin = daemons[dice.index(daemons.len())].clone();
        let config = if dice.chance(600) { twin.config } else { Config { host_id: id(hosts), ..twin.config } };
        let name = if dice.chance(500) { twin.name } else { "other".into() };
        daemons.push(DaemonPlan { seat: Seat(1), config, name, ..twin });
    } else if dice.chance(80) {
        // Two hosts that were given one host_id, and perhaps one name.
        let (config, name) = (daemons[0].config, daemons[0].name.clone());
        daemons[1].config.host_id = config.host_id;
        if dice.chance(500) {
            daemons[1].name = name;
        }
    }
    daemons
}

fn habits(dice: &mut Dice, longest: Duration, kind: Kind) -> Habits {
    let millis = Duration::from_millis;
    let (longest_run, longest_pause) = match kind {
        Kind::Brief => (pick(dice, &[seconds(1), longest * 2, longest * 2]), pick(dice, &[millis(300), seconds(2)])),
        Kind::Hot => (pick(dice, &[millis(50), seconds(1)]), millis(100)),
        Kind::Long => {
            (pick(dice, &[seconds(3), seconds(40), longest * 2, longest * 2]), pick(dice, &[seconds(1), seconds(10)]))
        }
    };
    Habits {
        programs: if kind == Kind::Brief { 1 } else { 2 },
        shortest_run: Duration::from_millis(1),
        longest_run,
        longest_pause,
        unkillable: pick(dice, &[0, 0, 100, 500]),
        slow_writes: pick(dice, &[0, 200, 600]),
        families: pick(dice, &[0, 300, 700]),
        leaves: pick(dice, &[0, 0, 100]),
        waits: pick(dice, &[0, 300, 700]),
        shares: 0,
        converts: 0,
        wants: u64::MAX,
        absence: longest,
    }
}

fn rates(dice: &mut Dice, x: Duration, kind: Kind) -> FaultRates {
    if dice.chance(150) {
        return FaultRates::NONE;
    }
    FaultRates {
        latency: (Duration::from_micros(50), pick(dice, &[Duration::from_millis(20), seconds(1), x / 2])),
        error: pick(dice, &[0, 10, 60]),
        late_per_mille: pick(dice, if kind == Kind::Hot { &[5, 20, 50] } else { &[0, 20, 80] }),
        late: (x / 2, x * pick(dice, &[2, 8, 40])),
        never: pick(dice, &[0, 0, 4]),
        torn: 300,
        queued: pick(dice, &[0, 10]),
        damaged: pick(dice, &[0, 0, 10]),
    }
}

fn mishaps(dice: &mut Dice, daemons: usize, when: Range<Duration>, longest: Duration, kind: Kind) -> Vec<Mishap> {
    let mean = match kind {
        Kind::Brief => pick(dice, &[4, 8, 12]),
        Kind::Hot => pick(dice, &[3, 8, 20]),
        Kind::Long => pick(dice, &[8, 20, 50]),
    };
    let mean = seconds(mean);
    let mut mishaps = Vec::new();
    let mut at = when.start;
    loop {
        at += dice.between(Duration::from_millis(1), mean * 2);
        if at >= when.end {
            return mishaps;
        }
        let n = dice.index(daemons);
        let whom = if dice.chance(700) { Whom::Holder(n) } else { Whom::Daemon(n) };
        mishaps.push(Mishap { at, whom, what: trouble(dice, longest) });
    }
}

/// In some runs a holder falls silent, for long enough that what it holds is taken over: the most delicate step of all, and a
/// rare one otherwise. By how much longer such a run is.
fn falls_silent(seed: u64, mishaps: &mut Vec<Mishap>, calm: Duration, longest: Duration) -> Duration {
    let mut dice = Dice::new(seed, Stream::Silence);
    if !dice.chance(200) {
        return Duration::ZERO;
    }
    let lasts = longest + seconds(5);
    let what = match dice.below(8) {
        4.. => Trouble::Dark { lasts },
        0 => Trouble::Freeze { lasts, killed: dice.chance(500) },
        1 => Trouble::Path { disk: 0, everyone: false, how: PathLoss::Fails, lasts },
        2 => Trouble::Path { disk: 0, everyone: false, how: PathLoss::Hangs, lasts },
        3 => Trouble::Still { lasts, clock_too: dice.chance(500) },
    };
    let at = calm + dice.between(Duration::from_millis(1), seconds(3));
    let place = mishaps.partition_point(|m| m.at <= at);
    mishaps.insert(place, Mishap { at, whom: Whom::NextHolder, what });
    if dice.chance(600) {
        // What it has said of the lease is lost with it: whoever takes that over must pass it over.
        let (byte, bit) = (dice.index(256), u8::try_from(dice.below(8)).unwrap_or(0));
        let what = Trouble::Damage { area: 1 + dice.index(2), own: true, byte, bit };
        mishaps.insert(place, Mishap { at, whom: Whom::NextHolder, what });
    }
    longest / 5 + seconds(8)
}

fn trouble(dice: &mut Dice, longest: Duration) -> Trouble {
    let least = Duration::from_millis(500);
    let lasts = if dice.chance(500) { dice.skewed(least, longest) } else { dice.between(least, longest) };
    match dice.below(20) {
        0..=4 => Trouble::Crash { loses_state: dice.chance(100), renamed: dice.chance(100) },
        5..=7 => Trouble::Freeze { lasts, killed: dice.chance(300) },
        8 => {
            let at =
                if dice.chance(500) { StopAt::Pet } else { StopAt::Effect(u32::try_from(dice.below(12)).unwrap_or(0)) };
            Trouble::Stop { at, lasts, killed: dice.chance(500) }
        }
        18 => Trouble::CrashInWrite { lasts },
        9 => Trouble::PowerCut,
        which @ 10..=13 => {
            let how = if dice.chance(500) { PathLoss::Fails } else { PathLoss::Hangs };
            Trouble::Path { disk: dice.index(2), everyone: which == 13, how, lasts }
        }
        14 => Trouble::Still { lasts, clock_too: dice.chance(500) },
        15 => Trouble::Damage {
            area: dice.index(3),
            own: dice.chance(700),
            byte: if dice.chance(300) { 128 } else { dice.index(256) },
            bit: u8::try_from(dice.below(8)).unwrap_or(0),
        },
        16 => Trouble::KillClient,
        17 => Trouble::Calm,
        _ => Trouble::Storm,
    }
}
