//! `holdfast sim`: try to break it. Each seed makes up hosts, clocks, disks and everything that goes wrong; the daemon's own
//! code runs on them in virtual time, and no rule of docs/safety.md may break.
//!
//! | module | what |
//! | --- | --- |
//! | `many` | many seeds, on as many threads as wished |
//! | `one` | one seed: its story, as text or SVG, and its plan made smaller |
//! | `tell` | what is shown, for people and as JSON |
//! | `quiet` | panics of runs, which are results, not accidents of this command |
//!
//! A seed is a run, bit for bit, on every machine and every thread.
//!
//! Exit status: 0 no rule was broken; 1 one was, or what was asked for could not be written; 2 wrong usage.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use holdfast_sim::mixed::Faults;
use holdfast_sim::plan::{Plan, Wishes};
use uuid::Uuid;

mod many;
mod one;
mod quiet;
mod tell;

use many::Many;
use one::One;

/// How long seeds are drawn if nothing else is said.
const USUAL: Duration = Duration::from_secs(60);

/// Simulate hosts and disks that fail in every way, and check that no rule of safety ever breaks
///
/// The daemon's own code runs on simulated hosts, clocks and disks, in virtual time. A seed decides everything: what is
/// lost, late, torn, frozen, killed, reset, and when. Without --seed or --seeds, fresh seeds are drawn for a minute.
///
/// Exit status: 0 no rule was broken, 1 one was, 2 wrong usage.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Run this seed alone; a broken rule is shown with what led to it
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "minutes", "threads"])]
    seed: Option<u64>,
    /// Run these seeds: FROM..TO (TO is not run), FROM.. (until --minutes are over), or a number of seeds from 0
    #[arg(long, value_name = "SEEDS")]
    seeds: Option<Seeds>,
    /// Stop after so many minutes; without --seeds, the first seed is drawn, and printed
    #[arg(long, value_name = "M", value_parser = minutes)]
    minutes: Option<Duration>,
    /// So many hosts, 2 to 16 [default: 2 or 3, as the seed decides]
    #[arg(long, value_name = "H", value_parser = clap::value_parser!(u8).range(2..=16))]
    hosts: Option<u8>,
    /// So many disks, 1 to 3; on 3 the first lease has a copy on each [default: as the seed decides, 1 or 2]
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u8).range(1..=3))]
    disks: Option<u8>,
    /// Let some of the hosts behave as this program does, on one or two disks: nothing is promised of copies beside it
    #[arg(long, value_enum)]
    peers: Option<Peers>,
    /// Run on so many threads [default: as many as the machine runs at once]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Tell the whole story of the seed, though no rule is broken
    #[arg(long, requires = "seed")]
    timeline: bool,
    /// Draw the story of the seed (with --shrink: of the smaller plan) into this file, as SVG
    #[arg(long, value_name = "FILE", requires = "seed")]
    svg: Option<PathBuf>,
    /// Make the seed's plan as small as possible while it breaks the same rule, and print it
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Print how often each fault struck in each phase of a daemon
    #[arg(long)]
    coverage: bool,
    /// Let no watchdog ever fire: the checkers must find what comes of it
    #[arg(long)]
    sabotage: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Programs that hosts can be made to behave as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peers {
    /// sanlock, which shares lockspaces with us
    Sanlock,
}

/// `--seeds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seeds {
    from: u64,
    to: Option<u64>,
}

/// Not `--seeds`.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected FROM..TO with FROM below TO, FROM.., or a number of seeds above 0")]
struct NoSeeds;

impl FromStr for Seeds {
    type Err = NoSeeds;

    fn from_str(text: &str) -> Result<Self, NoSeeds> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| NoSeeds);
        let (from, to) = match text.split_once("..") {
            Some((from, "")) => (number(from)?, None),
            Some((from, to)) => (number(from)?, Some(number(to)?)),
            None => (0, Some(number(text)?)),
        };
        if to.is_some_and(|to| to <= from) {
            return Err(NoSeeds);
        }
        Ok(Seeds { from, to })
    }
}

fn minutes(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a number of minutes above 0 and up to 100000, such as 10 or 0.5";
    let minutes = text.parse::<f64>().map_err(|_| EXPECTED)?;
    if minutes > 0.0 && minutes <= 100_000.0 { Ok(Duration::from_secs_f64(minutes * 60.0)) } else { Err(EXPECTED) }
}

/// How plans are made: what beside the seed decides a run.
#[derive(Clone, Copy, Debug, Default)]
struct Making {
    wishes: Wishes,
    sabotage: bool,
}

impl Making {
    fn of(args: &Args) -> Self {
        let wishes = Wishes {
            hosts: args.hosts.map(usize::from),
            disks: args.disks.map(usize::from),
            peers: args.peers.map(|Peers::Sanlock| Faults::PROMISED),
        };
        Making { wishes, sabotage: args.sabotage }
    }

    fn plan(self, seed: u64) -> Plan {
        let mut plan = Plan::of_wishes(seed, self.wishes);
        if self.sabotage {
            plan.hosts.iter_mut().for_each(|host| host.no_watchdog = true);
        }
        plan
    }

    /// The command that runs a seed again.
    fn replay(self, seed: u64) -> String {
        let mut command = format!("holdfast sim --seed {seed}");
        if let Some(hosts) = self.wishes.hosts {
            command += &format!(" --hosts {hosts}");
        }
        if let Some(disks) = self.wishes.disks {
            command += &format!(" --disks {disks}");
        }
        command += if self.wishes.peers.is_some() { " --peers sanlock" } else { "" };
        command += if self.sabotage { " --sabotage" } else { "" };
        command
    }
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The picture cannot be written.
    #[error("{} cannot be written", path.display())]
    Svg {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A thread of this command ended by a panic that was no result of a run.
    #[error("the simulator itself failed; this is a mistake in it, and says nothing about the rules")]
    Failed,
}

/// Runs the subcommand.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<ExitCode, Error> {
    if args.disks > Some(2) && args.peers.is_some() {
        eprintln!(
            "holdfast: a lease with copies on several disks is not for sanlock (docs/compatibility.md): --disks 3 or --peers"
        );
        return Ok(ExitCode::from(2));
    }
    let making = Making::of(args);
    quiet::install();
    let good = match args.seed {
        Some(seed) => One { seed, making, args }.run()?,
        None => many(args, making).run(args)?,
    };
    Ok(ExitCode::from(u8::from(!good)))
}

fn many(args: &Args, making: Making) -> Many {
    let threads = args.threads.map(usize::from);
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    // A fresh seed of nine digits at most: it is to be typed again.
    let fresh = || Seeds { from: Uuid::new_v4().as_u64_pair().0 % 1_000_000_000, to: None };
    let seeds = args.seeds.unwrap_or_else(fresh);
    let time = if seeds.to.is_some() { args.minutes } else { Some(args.minutes.unwrap_or(USUAL)) };
    Many { making, seeds, time, threads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_or_a_number_of_them() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|s| (s.from, s.to)).ok();
        assert_eq!(seeds("5"), Some((0, Some(5))));
        assert_eq!(seeds("7..9"), Some((7, Some(9))));
        assert_eq!(seeds("7.."), Some((7, None)));
        for wrong in ["", "0", "..", "9..9", "9..7", "..5", "-1", "1..x", "99999999999999999999"] {
            assert_eq!(seeds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn minutes_may_be_parts_of_one() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        for wrong in ["", "0", "-1", "nan", "inf", "1e9", "two"] {
            assert!(minutes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_replay_command_says_all_that_decides_a_run() {
        let wishes = Wishes { hosts: Some(3), disks: Some(2), peers: Some(Faults::PROMISED) };
        let making = Making { wishes, sabotage: true };
        assert_eq!(making.replay(7), "holdfast sim --seed 7 --hosts 3 --disks 2 --peers sanlock --sabotage");
        assert_eq!(Making::default().replay(0), "holdfast sim --seed 0");
    }
}
