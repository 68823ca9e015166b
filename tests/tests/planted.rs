//! The proof that the simulator can fail: every planted bug is found within the seeds of an ordinary run, and by the rule
//! that it breaks.
//!
//! A checker that never fires is worth nothing. Each bug of [`holdfast_io::planted`] breaks one rule of the product's own
//! code; the rig must report it, and the seed that found it must be good without the bug. Where another rule would speak first
//! about the same run - the written specification, mostly - it is left out, to hear the one that is meant. Bugs that take an
//! instant which no seed hits often are found by a scenario made for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_io::planted::Bug;
use holdfast_sim::checkers::Violation;
use holdfast_sim::cluster::run_untold;
use holdfast_sim::plan::{Plan, Wishes};
use holdfast_sim::scenario::{
    a_host_wakes_whose_host_id_was_taken, a_host_wakes_whose_host_id_was_taken_with_something_to_give_back,
    a_late_join_over_a_settled_host, a_paused_owner_is_taken_over, a_pet_that_comes_too_late,
    a_write_on_a_further_device, a_write_that_outlives_its_daemon, play,
};

/// What `./test` runs without any bug: each bug must be found within as many seeds.
const BUDGET: u64 = 20_000;
/// The same, with copies on three disks.
const BUDGET_OF_COPIES: u64 = 1000;

/// The rule by which a bug is to be found, and those that are left out to hear it.
struct Wanted {
    rule: &'static str,
    /// How an assertion of the program's own begins.
    says: &'static str,
    without: &'static [&'static str],
}

const fn by(rule: &'static str) -> Wanted {
    Wanted { rule, says: "", without: &[] }
}

const fn beside_spec(rule: &'static str) -> Wanted {
    Wanted { rule, says: "", without: &["spec"] }
}

const fn asserted(says: &'static str) -> Wanted {
    Wanted { rule: "assertion", says, without: &[] }
}

const fn wanted(bug: Bug) -> Wanted {
    match bug {
        Bug::I6Off => by("I6"),
        Bug::DeadForGood => by("D1"),
        Bug::LimitLeftOpen | Bug::SuccessorOverlooked => by("P1"),
        Bug::LivingClaimCleared => by("I1"),
        Bug::LivingDamagePassedOver => by("D1"),
        Bug::ExpiryOneTickEarly | Bug::SilenceEndToEnd | Bug::LifeFromDamage | Bug::CloneBelieved => by("D1"),
        Bug::BrokenSealAccepted => by("D1"),
        Bug::RenewalCountsFromTheEnd => Wanted { rule: "D2", says: "", without: &["W1", "D3"] },
        Bug::WriteAfterExpiry | Bug::ClockStopsInSuspend => by("D2"),
        Bug::ExpiredRevived => Wanted { rule: "D2", says: "", without: &["W1", "D3"] },
        Bug::ExpiryAtTicksOnly => asserted("D2"),
        Bug::WatchdogOnlyWithClients | Bug::DeviceGetsSealedTimeout | Bug::PetsForTheDead => by("D3"),
        Bug::PetAfterDeadline => by("W1"),
        Bug::GenerationOverLiveClients => Wanted { rule: "P1", says: "", without: &["D3"] },
        Bug::FreedWithWritesInFlight | Bug::UnconfirmedJoinBelieved => by("P1"),
        // The successor begins its generation beside the write, before it writes over it.
        Bug::I6NotAcrossRestart | Bug::FenceOnLockspaceOnly => by("P1"),
        Bug::SettlingSkipped => beside_spec("I2"),
        Bug::RetractForgets | Bug::BallotFromEmptyBlock => beside_spec("I2"),
        Bug::Phase2ReadSkipped | Bug::OwnValueFirst => beside_spec("I5"),
        Bug::StaleLeaderAccepted => asserted("I2"),
        // It gives back what it took for its own.
        Bug::GenerationNotCompared => Wanted { without: &["spec"], ..asserted("only what we own and wrote ourselves") },
        Bug::GoneWithoutItsWrites => beside_spec("S1"),
        Bug::GoneAtEndOfConnection | Bug::ReleasedIgnored => beside_spec("S1"),
        Bug::SharersOverlooked | Bug::ClaimDroppedInBallot | Bug::LossOverlooked => by("S1"),
        Bug::MinorityCounts => Wanted { rule: "I5", says: "", without: &["I2", "I4"] },
        Bug::FirstCopyBelieved => Wanted { rule: "I5", says: "", without: &["I2", "I4"] },
        Bug::StampIgnored => by("S1"),
        // Not in `Bug::ALL`: the watchdog makes up for it, see tests/vm.
        Bug::NobodyIsEnded => by("tests/vm"),
    }
}

/// In what clusters a bug can be found at all.
fn wishes(bug: Bug) -> Wishes {
    match bug {
        Bug::MinorityCounts | Bug::FirstCopyBelieved | Bug::StampIgnored => {
            Wishes { disks: Some(3), ..Wishes::default() }
        }
        _ => Wishes::default(),
    }
}

/// Where a bug was found.
struct Found {
    /// The seed, or the name of the scenario.
    by: String,
    violation: Box<Violation>,
}

fn by_scenario(bug: Bug) -> Option<Found> {
    let (by, played) = match bug {
        Bug::PetAfterDeadline => ("a_pet_that_comes_too_late", play(Some(bug), a_pet_that_comes_too_late).map(drop)),
        Bug::FenceOnLockspaceOnly => ("a_write_on_a_further_device", play(Some(bug), a_write_on_a_further_device)),
        Bug::I6NotAcrossRestart => {
            ("a_write_that_outlives_its_daemon", play(Some(bug), a_write_that_outlives_its_daemon))
        }
        Bug::UnconfirmedJoinBelieved => {
            ("a_late_join_over_a_settled_host", play(Some(bug), a_late_join_over_a_settled_host))
        }
        Bug::SuccessorOverlooked => {
            ("a_host_wakes_whose_host_id_was_taken", play(Some(bug), a_host_wakes_whose_host_id_was_taken))
        }
        Bug::LimitLeftOpen => (
            "a_host_wakes_whose_host_id_was_taken_with_something_to_give_back",
            play(Some(bug), a_host_wakes_whose_host_id_was_taken_with_something_to_give_back),
        ),
        Bug::LossOverlooked => {
            ("a_paused_owner_is_taken_over", play(Some(bug), a_paused_owner_is_taken_over).map(drop))
        }
        _ => return None,
    };
    let violation = played.expect_err("the scenario breaks a rule with its bug");
    Some(Found { by: by.to_owned(), violation })
}

fn find(bug: Bug) -> Option<Found> {
    by_scenario(bug).or_else(|| {
        let budget = if wishes(bug).disks.is_some() { BUDGET_OF_COPIES } else { BUDGET };
        (0..budget).find_map(|seed| {
            let good = Plan::of_wishes(seed, wishes(bug));
            let plan = Plan { bug: Some(bug), unspoken: wanted(bug).without, ..good.clone() };
            let violation = run_untold(&plan).err()?;
            assert!(run_untold(&good).is_ok(), "seed {seed} is good without the bug");
            Some(Found { by: format!("seed {seed}"), violation })
        })
    })
}

/// The specification, too, is held against the product's own runs.
#[test]
fn a_run_that_leaves_the_specification_is_found() {
    let found = (0..BUDGET).find_map(|seed| {
        let plan = Plan { bug: Some(Bug::RetractForgets), unspoken: &["I2", "I5"], ..Plan::of_seed(seed) };
        run_untold(&plan).err()
    });
    let found = found.expect("a lease that is given up and not freed is no step of it");
    assert_eq!(found.rule, "spec", "{found}");
}

/// The scenario is good without its bug; those of `faults.rs` are played there.
#[test]
fn a_write_that_outlives_its_daemon_breaks_no_rule_by_itself() {
    a_write_that_outlives_its_daemon().unwrap();
}

#[test]
fn every_planted_bug_is_found_by_the_rule_that_it_breaks() {
    std::panic::set_hook(Box::new(|_| ()));
    let only = std::env::var("HOLDFAST_BUG").ok();
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|b| only.as_ref().is_none_or(|o| format!("{b:?}") == *o)).collect();
    let (next, bad) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wanted = wanted(*bug);
                    let Some(Found { by, violation }) = find(*bug) else {
                        println!("{bug:26?} MISSED");
                        bad.lock().unwrap().push(format!("{bug:?} missed"));
                        continue;
                    };
                    let Violation { step, rule, what, .. } = *violation;
                    println!(
                        "{:26} {by:28} step {step:6} {rule} {}",
                        format!("{bug:?}"),
                        what.lines().next().unwrap_or("")
                    );
                    if rule != wanted.rule || !what.starts_with(wanted.says) {
                        bad.lock().unwrap().push(format!("{bug:?} by {rule} ({what}), not by {}", wanted.rule));
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let bad = bad.into_inner().unwrap();
    assert!(bad.is_empty(), "within {BUDGET} seeds: {bad:#?}");
}
