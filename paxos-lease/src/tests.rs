//! Tests of whole operations, on the clock and the medium of `testing.rs`.

mod asking;
mod ballots;
mod copies;
mod damage;
mod entries;
mod index;
mod interleave;
mod minority;
mod releases;
mod sharing;
mod standing;

use holdfast_io::disk::Op::{Read, Write};
use holdfast_io::stop::Stop;

use crate::acquire::{Acquired, Options, Refusal, acquire};
use crate::error::{AcquireError, AcquireFailed};
use crate::release::Held;
use crate::testing::{Kind, Medium, Said, Step, TestDevice, lease, me};

/// A free lease, undisturbed: the budget at the head of acquire.rs.
const FREE: [Step; 7] = [
    (Read, Kind::Area),
    (Write, Kind::Own),
    (Read, Kind::Dblocks),
    (Write, Kind::Own),
    (Read, Kind::Dblocks),
    (Read, Kind::Leader),
    (Write, Kind::Leader),
];

/// Host 1 acquires.
fn run(
    disk: &TestDevice,
    clock: &crate::testing::ManualClock,
    said: &Said,
    options: Options,
) -> Result<Acquired, AcquireFailed> {
    pollster::block_on(acquire(disk, clock, said, &lease(), &me(1), &options, &Stop::new()))
}

fn held(result: Result<Acquired, AcquireFailed>) -> Held {
    match result {
        Ok(Acquired::Ours(held)) => held,
        other => panic!("not ours: {other:?}"),
    }
}

fn refused(result: Result<Acquired, AcquireFailed>) -> Refusal {
    match result {
        Ok(Acquired::Theirs(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn failed(result: Result<Acquired, AcquireFailed>) -> AcquireError {
    result.expect_err("it must fail").error
}

/// Everything that hosts 1 to 5 and the leader say, to see that nothing was written.
fn content(medium: &Medium) -> Vec<Vec<u8>> {
    (0..7).map(|n| medium.sector(holdfast_io::units::SectorIndex(n))).collect()
}
