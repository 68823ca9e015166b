//! In which order a host wrote its own sector, where that sector has copies on several disks.
//!
//! A write that reached a few disks only may show up beside a later one: (lver, mbal, bal) cannot tell which of the two came
//! first, since a host that did not see its own write may have gone on below it, and they say nothing of the mode block. The
//! stamp can: nobody else writes there (I1), and each write has the next one.
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 144 | u64 | generation | of the writer |
//! | 152 | u64 | count | of its writes under that generation, from 1 |
//!
//! Under the seal's CRC. Absent (zeros) on leases with one copy, and where sanlock wrote.

use holdfast_io::bytes::{put_u64, u64_at};
use holdfast_io::ids::Generation;
use holdfast_io::seal;

use crate::dblock::MODE_END;

const GENERATION: usize = MODE_END;
const COUNT: usize = GENERATION + 8;
const _: () = assert!(COUNT + 8 <= seal::OFFSET, "the stamp stands between mode block and seal");

/// A later write has a greater one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The writer's.
    pub generation: Generation,
    /// Its how-manieth write, from 1.
    pub count: u64,
}

impl Stamp {
    /// Of a sector whose seal was verified. Without one the bytes may be anything.
    #[must_use]
    pub fn of_sealed(sector: &[u8]) -> Self {
        Stamp { generation: Generation(u64_at(sector, GENERATION)), count: u64_at(sector, COUNT) }
    }

    /// The next one of a writer of this generation.
    pub(super) fn next(self, generation: Generation) -> Self {
        let count = if self.generation == generation { self.count } else { 0 };
        Stamp { generation, count: count.saturating_add(1) }
    }

    /// Into a sector that is sealed afterwards.
    pub(super) fn put_into(self, sector: &mut [u8]) {
        put_u64(sector, GENERATION, self.generation.0);
        put_u64(sector, COUNT, self.count);
    }
}
