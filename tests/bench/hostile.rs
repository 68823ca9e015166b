//! What a thousand hostile connections cost a client: an acquire and its release with them and without, in turns, in one
//! run. `cargo bench -p holdfast --bench hostile`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../system/harness/mod.rs"]
mod harness;

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

fn main() {
    let disk = tempfile::tempdir().unwrap();
    let area = Area::file(disk.path(), "leases");
    let mut machine = Machine::boot();
    let daemon = machine.daemon("first", "--watchdog none");
    daemon.format(&area);
    daemon.join(&area, 1);
    let mut client = daemon.connection().register().unwrap();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        pairs(&daemon, &mut client, &area, &mut alone);
        let crowd = Crowd::of(&daemon, 1000);
        pairs(&daemon, &mut client, &area, &mut beside);
        drop(crowd);
    }
    let (alone, beside) = (median(alone), median(beside));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!(
        "acquire and release, median of {}: alone {alone:.2?}, beside 1000 hostile connections {beside:.2?}, ratio {ratio:.2}",
        ROUNDS * PAIRS
    );
}
