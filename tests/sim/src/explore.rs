//! Exhaustion: every order in which a few hosts' I/Os can take effect, on the product's own lease code.
//!
//! A *step* is one sector read, one write, one look at another host, or one misfortune: an I/O that nobody waits for any
//! longer, a late write that lands or never does, a daemon that dies, a host that is found dead, a daemon that starts
//! again. A *schedule* is a sequence of steps to the end, when nobody has anything left to do. All of them are explored.
//!
//! What is not explored twice, or not at all:
//! - **Commuting steps.** Two schedules that lead to the same state are the same from there on. A state is the medium,
//!   all that each host has been told since it started, the writes on their way, and what the rules below remember. So
//!   steps of different hosts on different sectors may come in any order at the price of one; how many schedules the
//!   states stand for is counted ([`Report::schedules`]).
//! - **Equal histories.** What a host does depends on what it has been told alone. The lease code runs once for each such
//!   history, and is looked up after that ([`Report::histories`]).
//! - **The past of who has no future.** All that a host has been told is forgotten once it will do nothing more.
//! - **What a host does by itself** between two I/Os is no step: nobody can see it. A delay is no step either: a host that
//!   is not chosen is delayed. For the same reason a sleep ends at once, if no write of the sleeper is on its way;
//!   while one is, it ends when that write does, or by a deadline ([`Setup::timeouts`]).
//! - **Ballots without end.** Hosts can outrun each other for ever. A schedule in which a host begins more than
//!   [`Setup::ballots`] ballots is cut off, and counted ([`Report::cut`]).
//! - **Sectors that nobody writes** are read along with the others; so is a host's own, while no write of its is on its way.
//! - **Looks in vain.** Whoever waits for an owner that has died, but is not found dead yet, looks once in vain at the most.
//! - **One misfortune of a kind**: one host may die, once; a number of I/Os may pass their deadlines ([`Setup::timeouts`]). An I/O
//!   that fails at once is one that passes its deadline and is over before its host goes on.
//! - **Not played**: hosts that leave, requests to stop, looks that fail, writes that D2 refuses, two misfortunes of the same host in a row. The
//!   seeds have those.
//! - Hosts are *not* taken for symmetric: ballot numbers order them.
//!
//! States are told apart by 128 bits of hash.
//!
//! Rules: **S1** one holder at a time; **I1** to **I5** for every sector that lands; and at every end: nobody is stuck, and a
//! lease that nobody holds can be acquired, by the second attempt.

mod histories;
mod host;
mod world;

use std::fmt;

use histories::Histories;
use world::{Step, World, formatted};

/// Looked up, and never gone through: its order decides nothing.
#[allow(clippy::disallowed_types)]
type Table<K, V> = std::collections::HashMap<K, V>;

/// What happens to a host's daemon, at some point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// It dies, and with it its host: once its client is over it is found dead (D1). Its writes may still land.
    Death,
    /// It dies alone, and starts again once its client is over and (I6) its writes are.
    Restart,
}

/// What a host is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// How often it tries to acquire the lease.
    pub attempts: u32,
    /// It gives the lease back at some point; otherwise it keeps it.
    pub releases: bool,
    /// It holds the lease when all begins.
    pub owner: bool,
    /// It waits for an owner that may be dead, until that is sure.
    pub waits: bool,
}

impl Part {
    /// Acquires the lease, and keeps it.
    pub const ACQUIRES: Part = Part { attempts: 1, releases: false, owner: false, waits: false };
    /// Has the lease, and gives it back.
    pub const RELEASES: Part = Part { releases: true, ..Part::OWNS };
    /// Has the lease, and keeps it.
    pub const OWNS: Part = Part { owner: true, ..Part::ACQUIRES };
}

/// What is explored.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The hosts.
    pub parts: Vec<Part>,
    /// What may happen to which host.
    pub crash: Option<(usize, Crash)>,
    /// How many I/Os may go on past their deadlines, each to take effect at any later time or never.
    pub timeouts: u32,
    /// Ballots of each host.
    pub ballots: u32,
    /// I6. Without it a write is issued although an older one is on its way, and a daemon starts again beside the writes of
    /// the one before; then nothing is looked for but a disagreement, S1 or I5.
    pub i6: bool,
}

/// What the exploration came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states.
    pub states: u64,
    /// Different schedules to an end, or to where they are cut off; at most 2^128 - 1.
    pub schedules: u128,
    /// States in which schedules are cut off: too many ballots.
    pub cut: u64,
    /// States in which nobody has anything left to do.
    pub ends: u64,
    /// Steps of the longest schedule.
    pub longest: usize,
    /// Ends at which somebody holds the lease.
    pub held: u64,
    /// Different histories of single hosts.
    pub histories: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { states, schedules, cut, ends, longest, held, histories } = self;
        write!(
            f,
            "{schedules} schedules through {states} states and {histories} histories, the longest of {longest} steps; {ends} ends, \
             the lease held at {held} of them; cut off at {cut}"
        )
    }
}

/// A schedule that breaks a rule.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}\n{}", .schedule.join("\n"))]
pub struct Broken {
    /// Which rule, and how.
    pub what: String,
    /// The steps that lead to it.
    pub schedule: Vec<String>,
}

/// Explores all schedules.
///
/// # Errors
/// The first schedule that breaks a rule.
///
/// # Panics
/// `i6: false` in a build that cannot break rules on purpose.
pub fn explore(setup: &Setup) -> Result<Report, Box<Broken>> {
    crate::plant((!setup.i6).then_some(holdfast_io::planted::Bug::I6Off));
    let (mut histories, medium) = formatted(setup.parts.len());
    let start = World::new(setup, &mut histories, medium);
    let (known, path, report) = (Table::new(), Vec::new(), Report::default());
    let mut explorer = Explorer { setup, histories, known, path, report };
    let explored = explorer.from(&start);
    crate::plant(None);
    match explored {
        Ok(schedules) => {
            let (states, histories) = (explorer.known.len() as u64, explorer.histories.count() as u64);
            Ok(Report { schedules, states, histories, ..explorer.report })
        }
        Err(what) => Err(explorer.tell(start, what)),
    }
}

struct Explorer<'a> {
    setup: &'a Setup,
    histories: Histories,
    /// States that have been explored, and the number of schedules from there.
    known: Table<u128, u128>,
    path: Vec<Step>,
    report: Report,
}

impl Explorer<'_> {
    /// How many schedules there are from here. On an error the path leads to it.
    fn from(&mut self, world: &World) -> Result<u128, String> {
        if let Some(what) = world.broken() {
            return Err(what.to_owned());
        }
        let state = world.fingerprint();
        if let Some(schedules) = self.known.get(&state) {
            return Ok(*schedules);
        }
        self.report.longest = self.report.longest.max(self.path.len());
        let steps = world.steps(self.setup, &self.histories);
        let schedules = if world.is_cut(self.setup) {
            self.report.cut += 1;
            1
        } else if steps.is_empty() {
            self.report.ends += 1;
            self.report.held += u64::from(world.is_held());
            world.check_end(self.setup, &mut self.histories)?;
            1
        } else {
            self.branch(world, &steps)?
        };
        self.known.insert(state, schedules);
        Ok(schedules)
    }

    fn branch(&mut self, world: &World, steps: &[Step]) -> Result<u128, String> {
        let mut schedules: u128 = 0;
        for step in steps {
            let mut next = world.clone();
            next.take(*step, &mut self.histories);
            self.path.push(*step);
            schedules = schedules.saturating_add(self.from(&next)?);
            self.path.pop();
        }
        Ok(schedules)
    }

    fn tell(&mut self, mut world: World, what: String) -> Box<Broken> {
        let mut schedule = Vec::new();
        for step in &self.path {
            schedule.push(world.tell(*step, &self.histories));
            world.take(*step, &mut self.histories);
        }
        Box::new(Broken { what, schedule })
    }
}
