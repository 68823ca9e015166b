//! What a thousand hostile connections cost a client: an acquire and its release with them and without, in turns, in one
//! run. `cargo bench -p holdfast --bench hostile`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../system/harness/mod.rs"]
mod harness;

use std::process::ExitCode;
use std::time::Duration;

use harness::{Area, Crowd, Daemon, Machine, boot_now};
use holdfast_client::blocking::Registered;

const ROUNDS: usize = 8;
const PAIRS: usize = 50;

fn pairs(daemon: &Daemon, client: &mut Registered, area: &Area, into: &mut Vec<Duration>) {
    for _ in 0..PAIRS {
        let begun = boot_now();
        daemon.take_and_give_back(client, area, "one");
        into.push(boot_now().since(begun));
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// More than this is more than a client should notice.
const MOST: f64 = 2.0;

fn main() -> ExitCode {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let mut client = daemon.connection().register().unwrap();
    let (mut alone, mut cut, mut sorts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        pairs(&daemon, &mut client, &area, &mut alone);
        let crowd = Crowd::of_headers_cut_short(&daemon, 1000);
        pairs(&daemon, &mut client, &area, &mut cut);
        drop(crowd);
        let crowd = Crowd::of(&daemon, 1000);
        pairs(&daemon, &mut client, &area, &mut sorts);
        drop(crowd);
    }
    let alone = median(alone);
    println!("acquire and release, median of {}: alone {alone:.2?}", ROUNDS * PAIRS);
    let worst = [("with 31 bytes of a header each", cut), ("of all sorts", sorts)].map(|(which, times)| {
        let median = median(times);
        let ratio = median.as_secs_f64() / alone.as_secs_f64();
        println!("  beside 1000 connections {which}: {median:.2?}, ratio {ratio:.2}");
        ratio
    });
    match worst.iter().all(|ratio| *ratio <= MOST) {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("more than {MOST} times what it takes alone");
            ExitCode::FAILURE
        }
    }
}
