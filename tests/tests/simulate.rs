//! Random runs: each seed makes up hosts, disk and mishaps, and no rule may break in any of them.
//!
//! - `HOLDFAST_SEED=n`: that seed alone, twice (it must be the same run both times), with what happened in it.
//! - `HOLDFAST_SEEDS=from..to`: these seeds instead of the usual ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use holdfast_sim::checkers::Counts;
use holdfast_sim::cluster::{Outcome, Plan, run};

const USUAL: Range<u64> = 0..2000;

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn seeds() -> Range<u64> {
    let Some(text) = var("HOLDFAST_SEEDS") else { return USUAL };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("HOLDFAST_SEEDS is {text:?}, expected FROM..TO"))
}

fn commit() -> String {
    let head = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    head.ok()
        .filter(|o| o.status.success())
        .map_or_else(|| "unknown commit".into(), |o| format!("commit {}", String::from_utf8_lossy(&o.stdout).trim()))
}

/// Each run reads areas of a MiB again and again. glibc gives buffers of that size back to the kernel at once, which
/// takes more time than the run itself, until it has seen a larger one freed; then it keeps them.
fn keep_freed_memory() {
    drop(std::hint::black_box(vec![1u8; 30 << 20]));
}

/// One seed; a failure names it and says how to see it again.
fn run_one(seed: u64) -> Outcome {
    let replay = || {
        format!(
            "{}, replay: HOLDFAST_SEED={seed} cargo test -p holdfast-tests --test simulate one_seed -- --nocapture",
            commit()
        )
    };
    match catch_unwind(AssertUnwindSafe(|| run(seed, &Plan::of_seed(seed)))) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(violation)) => panic!("{violation}\nseed {seed}, {}", replay()),
        Err(_) => panic!("seed {seed} panicked, {}", replay()),
    }
}

#[test]
fn no_seed_breaks_a_rule() {
    if var("HOLDFAST_SEED").is_some() {
        return;
    }
    keep_freed_memory();
    let mut all = Counts::default();
    let seeds = seeds();
    for seed in seeds.clone() {
        all += run_one(seed).counts;
    }
    println!("seeds {seeds:?}: {all:?}");
    // Runs in which nothing happens prove nothing: what must have been exercised, and by how much at least.
    let runs = seeds.end - seeds.start;
    assert!(all.holds > 2 * runs, "leases were held: {all:?}");
    assert!(all.takeovers > runs / 20, "and taken over from the dead: {all:?}");
    assert!(all.resets > runs / 20 && all.crashes > runs / 2 && all.lost > runs / 10, "hosts failed: {all:?}");
    assert!(all.landed_late > runs, "writes landed late: {all:?}");
}

#[test]
fn one_seed_is_one_run_bit_for_bit() {
    let seed = var("HOLDFAST_SEED").map_or(1, |s| s.parse().expect("HOLDFAST_SEED is a number"));
    let first = run_one(seed);
    println!("seed {seed}: {first:?}\n{:#?}", Plan::of_seed(seed));
    assert_eq!(run_one(seed), first);
}
