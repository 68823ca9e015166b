//! The proof that the simulator can fail: every planted bug is found within the seeds of an ordinary run.
//!
//! A checker that never fires is worth nothing. Each bug of [`holdfast_io::planted`] breaks one rule of the product's own
//! code; the rig must report it, and the seed that found it must be good without the bug.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_io::planted::Bug;
use holdfast_sim::cluster::run_untold;
use holdfast_sim::plan::Plan;
use holdfast_sim::scenario::{
    a_late_join_over_a_settled_host, a_pet_that_comes_too_late, a_write_on_a_further_device, play,
};

/// What `./test` runs without any bug: each bug must be found within as many seeds.
const BUDGET: u64 = 20_000;

/// Where a bug was found.
struct Found {
    /// The seed, or the name of the scenario.
    by: String,
    step: u64,
    rule: &'static str,
}

/// Bugs that take an instant which no seed hits often: the named scenario made for it is played first.
fn by_scenario(bug: Bug) -> Option<Found> {
    let (by, played) = match bug {
        Bug::PetAfterDeadline => ("a_pet_that_comes_too_late", play(Some(bug), a_pet_that_comes_too_late).map(drop)),
        Bug::FenceOnLockspaceOnly => ("a_write_on_a_further_device", play(Some(bug), a_write_on_a_further_device)),
        Bug::UnconfirmedJoinBelieved => {
            ("a_late_join_over_a_settled_host", play(Some(bug), a_late_join_over_a_settled_host))
        }
        _ => return None,
    };
    let violation = played.expect_err("the scenario breaks a rule with its bug");
    Some(Found { by: by.to_owned(), step: violation.step, rule: violation.rule })
}

fn find(bug: Bug) -> Option<Found> {
    by_scenario(bug).or_else(|| {
        (0..BUDGET).find_map(|seed| {
            let plan = Plan { bug: Some(bug), ..Plan::of_seed(seed) };
            let violation = run_untold(&plan).err()?;
            assert!(run_untold(&Plan::of_seed(seed)).is_ok(), "seed {seed} is good without the bug");
            Some(Found { by: format!("seed {seed}"), step: violation.step, rule: violation.rule })
        })
    })
}

#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| ()));
    let wanted = std::env::var("HOLDFAST_BUG").ok();
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|b| wanted.as_ref().is_none_or(|w| format!("{b:?}") == *w)).collect();
    let (next, found, missed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match find(*bug) {
                        Some(it) => {
                            println!("{:26} {:28} step {:6} {}", format!("{bug:?}"), it.by, it.step, it.rule);
                            found.fetch_add(1, Ordering::Relaxed);
                        }
                        None => {
                            println!("{:26} MISSED", format!("{bug:?}"));
                            missed.lock().unwrap().push(*bug);
                        }
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {BUDGET} seeds: {missed:?}");
    assert_eq!(found.into_inner(), bugs.len());
}
