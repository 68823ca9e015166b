//! From a plan that breaks a rule to a smaller one that breaks the same rule.
//!
//! Everything that a plan consists of is taken away or made plain, piece by piece; what still breaks the rule is kept, and
//! tried again until nothing more can go: mishaps (in halves, quarters, and so on down to single ones, as in Zeller's
//! delta debugging), the time after the violation, hosts, daemons and the second disk, fault rates, habits, clocks.
//!
//! Each try is a run. A run is chaotic - one read less, and every later draw falls otherwise - so that a piece may be kept
//! that has no part in the failure. The result is small, not smallest.

use std::time::Duration;

use crate::checkers::Violation;
use crate::cluster::run_untold;
use crate::disk::FaultRates;
use crate::plan::{HostPlan, Mishap, Plan, Trouble, Whom};

/// What came of it.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smaller plan.
    pub plan: Plan,
    /// What it breaks, without a timeline.
    pub violation: Box<Violation>,
    /// How many runs that took.
    pub runs: u32,
}

/// Makes a plan smaller that breaks a rule as `violation` says, in at most `most` runs.
#[must_use]
pub fn shrink(plan: &Plan, violation: Box<Violation>, most: u32) -> Shrunk {
    let mut search = Search { best: plan.clone(), violation, runs: 0, most };
    loop {
        let before = search.kept();
        search.end_sooner();
        search.fewer_mishaps();
        search.fewer_parts();
        search.plainer();
        if search.kept() == before || search.spent() {
            let Search { best, violation, runs, .. } = search;
            return Shrunk { plan: best, violation, runs };
        }
    }
}

struct Search {
    best: Plan,
    violation: Box<Violation>,
    runs: u32,
    most: u32,
}

impl Search {
    fn spent(&self) -> bool {
        self.runs >= self.most
    }

    /// The best plan as text: a plan is plain data, and this tells whether a round has changed anything.
    fn kept(&self) -> String {
        format!("{:?}", self.best)
    }

    /// Runs a smaller plan and keeps it if it still breaks the rule.
    fn keeps(&mut self, smaller: Plan) -> bool {
        if self.spent() {
            return false;
        }
        self.runs += 1;
        match run_untold(&smaller) {
            Err(violation) if same(&violation, &self.violation) => {
                (self.best, self.violation) = (smaller, violation);
                true
            }
            _ => false,
        }
    }

    /// As [`Search::keeps`], for a change that may be none.
    fn tries(&mut self, change: impl FnOnce(&mut Plan) -> bool) -> bool {
        let mut smaller = self.best.clone();
        change(&mut smaller) && self.keeps(smaller)
    }

    /// Nothing happens after the violation; and what happens in the liveness phase may do so after less.
    fn end_sooner(&mut self) {
        let end = Duration::from_secs_f64(self.violation.at).saturating_add(Duration::from_millis(1));
        self.tries(|plan| {
            plan.mishaps.retain(|m| m.at <= end);
            let shorter = end < plan.safety;
            plan.safety = plan.safety.min(end);
            shorter
        });
        while self.tries(|plan| {
            let half = plan.safety / 2;
            plan.safety = half;
            plan.mishaps.retain(|m| m.at <= half);
            half > Duration::from_secs(1)
        }) {}
    }

    /// Delta debugging: without each of so many parts, then of twice as many.
    fn fewer_mishaps(&mut self) {
        let mut parts = 1;
        while !self.best.mishaps.is_empty() && !self.spent() {
            let size = self.best.mishaps.len().div_ceil(parts);
            let less = (0..self.best.mishaps.len()).step_by(size).any(|from| {
                self.tries(|plan| {
                    let to = plan.mishaps.len().min(from + size);
                    plan.mishaps.drain(from..to).next().is_some()
                })
            });
            match less {
                true => parts = (parts - 1).max(1),
                false if size == 1 => break,
                false => parts *= 2,
            }
        }
    }

    fn fewer_parts(&mut self) {
        self.tries(|plan| std::mem::take(&mut plan.two_disks));
        self.tries(|plan| std::mem::replace(&mut plan.copies, 1) > 1);
        // From the last: what comes before keeps its index.
        for daemon in (0..self.best.daemons.len()).rev() {
            self.tries(|plan| without_daemon(plan, daemon));
        }
        for host in (0..self.best.hosts.len()).rev() {
            self.tries(|plan| without_host(plan, host));
        }
    }

    fn plainer(&mut self) {
        for step in PLAINER {
            self.tries(step);
        }
        for host in 0..self.best.hosts.len() {
            for step in PLAINER_HOST {
                self.tries(|plan| step(&mut plan.hosts[host]));
            }
        }
        for mishap in 0..self.best.mishaps.len() {
            self.tries(|plan| plain_crash(&mut plan.mishaps[mishap]));
        }
    }
}

/// Whether it is the same failure. The program's own assertions are one rule, but not one failure: numbers aside, their
/// texts must agree.
fn same(one: &Violation, other: &Violation) -> bool {
    let words = |what: &str| what.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    one.rule == other.rule && (one.rule != "assertion" || words(&one.what) == words(&other.what))
}

fn replace<T: PartialEq>(place: &mut T, plain: T) -> bool {
    let changes = *place != plain;
    *place = plain;
    changes
}

/// Habits and disks without what makes them remarkable, one thing at a time.
const PLAINER: [fn(&mut Plan) -> bool; 15] = [
    |p| replace(&mut p.rates.error, 0),
    |p| replace(&mut p.rates.late_per_mille, 0),
    |p| replace(&mut p.rates.never, 0),
    |p| replace(&mut p.rates.torn, 0),
    |p| replace(&mut p.rates.queued, 0),
    |p| replace(&mut p.rates.damaged, 0),
    |p| replace(&mut p.rates.latency, FaultRates::NONE.latency),
    |p| replace(&mut p.habits.families, 0),
    |p| replace(&mut p.habits.slow_writes, 0),
    |p| replace(&mut p.habits.unkillable, 0),
    |p| replace(&mut p.habits.leaves, 0),
    |p| replace(&mut p.habits.waits, 0),
    |p| replace(&mut p.habits.shares, 0),
    |p| replace(&mut p.habits.converts, 0),
    |p| replace(&mut p.habits.longest_pause, Duration::from_secs(1)),
];

/// Hosts without what makes them remarkable; a host that is broken on purpose may not have to be.
const PLAINER_HOST: [fn(&mut HostPlan) -> bool; 5] = [
    |h| replace(&mut h.ppm, 0),
    |h| replace(&mut h.steps, 1),
    |h| replace(&mut h.punctual, true),
    |h| replace(&mut h.no_watchdog, false),
    |h| replace(&mut h.rings, false),
];

fn plain_crash(mishap: &mut Mishap) -> bool {
    let Trouble::Crash { loses_state, renamed } = &mut mishap.what else { return false };
    std::mem::take(loses_state) | std::mem::take(renamed)
}

/// Without a daemon and what strikes it; all others go by other indices then. `false`: it is the last one.
fn without_daemon(plan: &mut Plan, gone: usize) -> bool {
    if plan.daemons.len() < 2 || gone >= plan.daemons.len() {
        return false;
    }
    plan.daemons.remove(gone);
    plan.mishaps.retain(|m| m.whom != Whom::Daemon(gone));
    for mishap in &mut plan.mishaps {
        mishap.whom = match mishap.whom {
            Whom::Daemon(n) => Whom::Daemon(n - usize::from(n > gone)),
            // Whoever holds the lease, and if nobody does, somebody.
            Whom::Holder(n) => Whom::Holder((n - usize::from(n > gone)).min(plan.daemons.len() - 1)),
            Whom::NextHolder => Whom::NextHolder,
        };
    }
    // A bit for each daemon: those above move down, and of `u64::MAX` (all of them) all stay set.
    let (below, top, wants) = ((1u64 << gone.min(63)) - 1, 1u64 << 63, plan.habits.wants);
    plan.habits.wants = (wants & below) | ((wants >> 1) & !below) | (wants & top);
    true
}

/// Without a host that has no daemon any more. `false`: it has one, or is the last one.
fn without_host(plan: &mut Plan, gone: usize) -> bool {
    if plan.hosts.len() < 2 || gone >= plan.hosts.len() || plan.daemons.iter().any(|d| d.host == gone) {
        return false;
    }
    plan.hosts.remove(gone);
    plan.daemons.iter_mut().filter(|d| d.host > gone).for_each(|d| d.host -= 1);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Wishes;

    fn without_watchdogs(seed: u64) -> Plan {
        let mut plan = Plan::of_wishes(seed, Wishes { hosts: Some(3), ..Wishes::default() });
        plan.hosts.iter_mut().for_each(|h| h.no_watchdog = true);
        plan
    }

    #[test]
    fn a_failing_plan_becomes_smaller_and_still_breaks_its_rule() {
        let fails = |seed| run_untold(&without_watchdogs(seed)).err().map(|violation| (seed, violation));
        let (seed, violation) = (0..200).find_map(fails).expect("hosts without watchdogs break a rule");
        let (plan, rule) = (without_watchdogs(seed), violation.rule);
        let shrunk = shrink(&plan, violation, 300);
        let size = |plan: &Plan| (plan.mishaps.len(), plan.daemons.len(), plan.hosts.len(), plan.safety);
        println!("seed {seed}, {rule}, {} runs: {:?} -> {:?}", shrunk.runs, size(&plan), size(&shrunk.plan));
        println!("{:#?}\n{}", shrunk.plan, shrunk.violation);

        let again = run_untold(&shrunk.plan).expect_err("it still fails");
        assert_eq!((again.rule, again.step), (rule, shrunk.violation.step));
        assert!(shrunk.plan.mishaps.len() <= plan.mishaps.len() && shrunk.plan.safety <= plan.safety);
        assert!(shrunk.runs <= 300);
    }

    #[test]
    fn a_daemon_that_goes_takes_its_mishaps_along_and_the_others_keep_theirs() {
        let mut plan = Plan::quiet(3);
        plan.habits.wants = 0b101;
        let strikes = |n| [Whom::Daemon(n), Whom::Holder(n)].map(|whom| (whom, Trouble::PowerCut));
        let mishap = |(whom, what)| Mishap { at: Duration::ZERO, whom, what };
        plan.mishaps = (0..3).flat_map(strikes).map(mishap).collect();
        assert!(!without_host(&mut plan, 1), "it has a daemon");
        assert!(without_daemon(&mut plan, 1));
        let whom: Vec<Whom> = plan.mishaps.iter().map(|m| m.whom).collect();
        use Whom::{Daemon, Holder};
        assert_eq!(whom, [Daemon(0), Holder(0), Holder(1), Daemon(1), Holder(1)]);
        assert_eq!(plan.habits.wants, 0b11);
        assert!(without_host(&mut plan, 1));
        assert_eq!(plan.daemons.iter().map(|d| d.host).collect::<Vec<_>>(), [0, 1]);
        assert!(without_daemon(&mut plan, 1) && !without_daemon(&mut plan, 0), "the last one stays");
        assert!(run_untold(&plan).is_ok());
    }

    #[test]
    fn assertions_are_one_failure_only_if_their_words_agree() {
        let violation = |rule, what: &str| Violation {
            seed: 0,
            rule,
            what: what.into(),
            at: 0.0,
            step: 0,
            timeline: String::new(),
        };
        assert!(same(&violation("assertion", "left: 1"), &violation("assertion", "left: 23")));
        assert!(!same(&violation("assertion", "I3"), &violation("assertion", "no row")));
        assert!(same(&violation("S1", "a"), &violation("S1", "b")));
        assert!(!same(&violation("S1", "a"), &violation("D3", "a")));
    }
}
