//! Random runs: each seed makes up hosts, disks and mishaps, and no rule may break in any of them.
//!
//! - `HOLDFAST_SEED=n`: that seed alone, twice (it must be the same run both times), with what happened in it.
//! - `HOLDFAST_SEEDS=from..to`: these seeds instead of the usual ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;

use holdfast_sim::checkers::Counts;
use holdfast_sim::cluster::{Outcome, run, tell};
use holdfast_sim::coverage::{Coverage, Fault};
use holdfast_sim::plan::Plan;

const USUAL: Range<u64> = 20_000..21_000;

fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

fn seeds() -> Range<u64> {
    let Some(text) = var("HOLDFAST_SEEDS") else { return USUAL };
    let parsed = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("HOLDFAST_SEEDS is {text:?}, expected FROM..TO"))
}

/// One seed; a failure names it and says how to see it again.
fn run_one(seed: u64) -> Outcome {
    match run(&Plan::of_seed(seed)) {
        Ok(outcome) => outcome,
        Err(violation) => panic!("{violation}\nseed {seed}, replay: holdfast sim --seed {seed}"),
    }
}

#[test]
fn no_seed_breaks_a_rule() {
    if var("HOLDFAST_SEED").is_some() {
        return;
    }
    let mut all = Counts::default();
    let mut coverage = Coverage::default();
    let (mut steps, mut broken) = (0, Vec::new());
    let seeds = seeds();
    for seed in seeds.clone() {
        match run(&Plan::of_seed(seed)) {
            Ok(outcome) => {
                all += outcome.counts;
                coverage.merge(&outcome.coverage);
                steps += outcome.steps;
            }
            Err(violation) => {
                println!("{violation}\nreplay: holdfast sim --seed {seed}");
                broken.push(seed);
            }
        }
    }
    println!("seeds {seeds:?}: {steps} steps, {all:?}\n{coverage}");
    assert!(broken.is_empty(), "rules were broken by seeds {broken:?}");
    if seeds == USUAL {
        let missing: Vec<&Fault> = Fault::ALL.iter().filter(|fault| coverage.of_fault(**fault) == 0).collect();
        assert!(missing.is_empty(), "these never struck: {missing:?}");
        assert!(all.followed > 500, "the specification was followed to the end in {} of 1000 runs", all.followed);
        assert!(all.takeovers > 20, "{} takeovers", all.takeovers);
        assert!(all.made_anew > 0, "{} damaged sectors were made anew", all.made_anew);
    }
}

#[test]
fn one_seed_is_one_run_bit_for_bit() {
    let seed = var("HOLDFAST_SEED").map_or(1, |s| s.parse().expect("HOLDFAST_SEED is a number"));
    let first = run_one(seed);
    println!("seed {seed}: {first:?}\n{:#?}", Plan::of_seed(seed));
    assert_eq!(run_one(seed), first);
    for seed in seed..seed + 20 {
        let told = || tell(&Plan::of_seed(seed)).0.rows;
        assert!(told() == told(), "seed {seed} tells another story each time");
    }
}
