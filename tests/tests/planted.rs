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

/// What `./test` runs without any bug: each bug must be found within as many.
const BUDGET: u64 = 1500;

/// Where a bug was found.
struct Found {
    bug: Bug,
    seed: u64,
    step: u64,
    rule: &'static str,
}

fn find(bug: Bug) -> Option<Found> {
    (0..BUDGET).find_map(|seed| {
        let plan = Plan { bug: Some(bug), ..Plan::of_seed(seed) };
        let violation = run_untold(&plan).err()?;
        assert!(run_untold(&Plan::of_seed(seed)).is_ok(), "seed {seed} is good without the bug");
        Some(Found { bug, seed, step: violation.step, rule: violation.rule })
    })
}

#[test]
fn every_planted_bug_is_found() {
    std::panic::set_hook(Box::new(|_| ()));
    let wanted = std::env::var("HOLDFAST_BUG").ok();
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|b| wanted.as_ref().is_none_or(|w| format!("{b:?}") == *w)).collect();
    let (next, found, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match find(*bug) {
                        Some(it) => {
                            println!(
                                "{:24} seed {:5} step {:6} {}",
                                format!("{:?}", it.bug),
                                it.seed,
                                it.step,
                                it.rule
                            );
                            found.lock().unwrap().push(it);
                        }
                        None => {
                            println!("{:24} MISSED", format!("{bug:?}"));
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
    assert_eq!(found.into_inner().unwrap().len(), bugs.len());
}
