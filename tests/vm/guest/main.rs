//! What runs in the hosts of `tests/vm` beside the product: the agent that carries out what the harness says, and the
//! programs whose work must be done by one host at a time.
//!
//! Everything is said in lines: the agent's and the harness's are JSON, those of the programs are for whoever reads the timeline.
// A guest sleeps, and goes by its host's clock: nothing here is simulated.
#![allow(clippy::disallowed_methods)]

mod agent;
mod ring;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Carry out what comes through a port, and say what comes of it.
    Agent {
        /// A virtio-serial port.
        port: PathBuf,
    },
    /// Take a lease and write to a disk under it, until killed.
    Guarded {
        #[command(flatten)]
        under: work::Under,
        /// Milliseconds between two writes.
        #[arg(long, default_value_t = 20)]
        every: u64,
        /// Write through io_uring.
        #[arg(long)]
        ring: bool,
    },
    /// Take a lease, raise a counter on a disk by one, give the lease back, and so on.
    Count {
        #[command(flatten)]
        under: work::Under,
        /// For so many seconds.
        #[arg(long)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Agent { port } => agent::serve(&port),
        What::Guarded { under, every, ring } => work::guarded(&under, Duration::from_millis(every), ring),
        What::Count { under, seconds } => work::count(&under, Duration::from_secs(seconds)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}
