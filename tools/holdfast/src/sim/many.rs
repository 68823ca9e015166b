//! Many seeds. Each thread takes the next one, makes its plan and runs it; nothing of a run is shared.
//!
//! A broken rule ends the taking. Seeds are taken in order, so that everything below the lowest seed that broke a rule has
//! been run by then: which one is reported does not depend on the threads.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use holdfast_io::clock::{LocalInstant, boot_now};
use holdfast_sim::checkers::Counts;
use holdfast_sim::cluster::{self, Outcome};
use holdfast_sim::coverage::Coverage;

use super::one::Broken;
use super::{Args, Error, Making, Seeds, quiet, tell};

/// How often a terminal is told how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Many {
    pub(super) making: Making,
    pub(super) seeds: Seeds,
    /// For how long, at most.
    pub(super) time: Option<Duration>,
    pub(super) threads: usize,
}

/// What came of some runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub runs: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// Virtual time of all of them.
    pub virtual_time: Duration,
    /// What happened in them.
    pub counts: Counts,
    /// Which fault struck in which phase.
    pub coverage: Coverage,
    /// The lowest seed that broke a rule.
    pub broken: Option<u64>,
}

impl Tally {
    /// One more run without a broken rule.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.steps += outcome.steps;
        self.virtual_time += Duration::from_nanos(outcome.end);
        self.counts += outcome.counts;
        self.coverage.merge(&outcome.coverage);
    }

    fn breaks(&mut self, seed: u64) {
        self.runs += 1;
        self.broken = Some(self.broken.map_or(seed, |lower| lower.min(seed)));
    }

    fn merge(&mut self, other: Tally) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.counts += other.counts;
        self.coverage.merge(&other.coverage);
        other.broken.into_iter().for_each(|seed| self.broken = Some(self.broken.map_or(seed, |s| s.min(seed))));
    }
}

/// What the threads share.
struct Shared {
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
}

impl Many {
    /// Runs them all and reports. `false`: a rule was broken.
    pub fn run(self, args: &Args) -> Result<bool, Error> {
        let begun = boot_now();
        if !args.json && self.seeds.to.is_none() {
            progress(&format!("seeds from {} on, on {} threads\n", self.seeds.from, self.threads));
        }
        let tally = self.tally(begun)?;
        let elapsed = boot_now().since(begun);
        // The run again, with its story.
        let broken = tally.broken.and_then(|seed| Broken::of(&self.making.plan(seed)));
        let report =
            tell::Many { many: self, tally: &tally, elapsed, broken: broken.as_ref(), coverage: args.coverage };
        tell::print(if args.json { report.json() } else { report.text() });
        Ok(tally.broken.is_none())
    }

    fn tally(self, begun: LocalInstant) -> Result<Tally, Error> {
        let shared =
            Shared { next: AtomicU64::new(self.seeds.from), done: AtomicU64::new(0), stop: AtomicBool::new(false) };
        std::thread::scope(|scope| {
            // Nothing is ever sent: the channel is closed when the last thread is done.
            let (alive, over) = mpsc::channel::<()>();
            let threads: Vec<_> = (0..self.threads)
                .map(|_| {
                    let (alive, shared) = (alive.clone(), &shared);
                    scope.spawn(move || {
                        let _alive = alive;
                        self.work(shared, begun)
                    })
                })
                .collect();
            drop(alive);
            watch(&over, &shared, begun);
            let mut all = Tally::default();
            for thread in threads {
                all.merge(thread.join().map_err(|_| Error::Failed)?);
            }
            Ok(all)
        })
    }

    fn work(self, shared: &Shared, begun: LocalInstant) -> Tally {
        let mut tally = Tally::default();
        while !shared.stop.load(Relaxed) && self.time.is_none_or(|most| boot_now().since(begun) < most) {
            let seed = shared.next.fetch_add(1, Relaxed);
            // Past the last one, or past all numbers.
            if seed < self.seeds.from || self.seeds.to.is_some_and(|to| seed >= to) {
                break;
            }
            match quiet::quietly(|| cluster::run_untold(&self.making.plan(seed))).0 {
                Ok(outcome) => tally.add(&outcome),
                Err(_) => {
                    tally.breaks(seed);
                    shared.stop.store(true, Relaxed);
                }
            }
            shared.done.fetch_add(1, Relaxed);
        }
        tally
    }
}

/// Tells a terminal how far it is, until all threads are done.
fn watch(over: &mpsc::Receiver<()>, shared: &Shared, begun: LocalInstant) {
    let terminal = std::io::stderr().is_terminal();
    while over.recv_timeout(PROGRESS) == Err(RecvTimeoutError::Timeout) {
        if terminal {
            let (done, seconds) = (shared.done.load(Relaxed), boot_now().since(begun).as_secs());
            progress(&format!("\r{done} seeds in {seconds} s "));
        }
    }
    if terminal {
        progress("\r\x1b[K");
    }
}

fn progress(text: &str) {
    // Whoever does not read this does not want it.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(threads: usize, sabotage: bool) -> Many {
        let making = Making { sabotage, ..Making::default() };
        // One that breaks a rule is among the first few hundred.
        let to = Some(if sabotage { 400 } else { 40 });
        Many { making, seeds: Seeds { from: 0, to }, time: None, threads }
    }

    #[test]
    fn a_seed_is_one_run_on_every_thread() {
        let outcomes = || (0..10).map(|seed| cluster::run_untold(&Making::default().plan(seed)).unwrap()).collect();
        let (one, other) = std::thread::scope(|scope| {
            let (one, other) = (scope.spawn(outcomes), scope.spawn(outcomes));
            (one.join().unwrap(), other.join().unwrap())
        });
        let (one, other): (Vec<Outcome>, Vec<Outcome>) = (one, other);
        assert_eq!(one, other);
    }

    #[test]
    fn the_sum_does_not_depend_on_the_number_of_threads() {
        let alone = many(1, false).tally(boot_now()).unwrap();
        assert_eq!((alone.runs, alone.broken), (40, None));
        assert_eq!(many(3, false).tally(boot_now()).unwrap(), alone);
    }

    #[test]
    fn the_lowest_seed_that_breaks_a_rule_is_the_one_reported() {
        let alone = many(1, true).tally(boot_now()).unwrap();
        assert!(alone.broken.is_some());
        for _ in 0..3 {
            assert_eq!(many(4, true).tally(boot_now()).unwrap().broken, alone.broken);
        }
    }

    #[test]
    fn time_that_is_up_ends_the_taking() {
        let endless = Many { seeds: Seeds { from: 5, to: None }, time: Some(Duration::ZERO), ..many(2, false) };
        assert_eq!(endless.tally(boot_now()).unwrap(), Tally::default());
        let last = Many { seeds: Seeds { from: u64::MAX, to: None }, ..many(2, false) };
        assert_eq!(last.tally(boot_now()).unwrap().runs, 1, "there is no seed after the last");
    }
}
