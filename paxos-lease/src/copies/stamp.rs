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
//! | 160 | u64 | lockspace | of which format of the lockspace that is a generation: its area's UUID, halves xored; 0 where it has none |
//!
//! Where a lockspace is made anew while its leases are kept, generations begin with 1 again: what was written before is older than
//! whatever is written since, and the numbers do not say so. Under the seal's CRC. Absent (zeros) on leases with one copy, and where sanlock wrote.

use holdfast_io::bytes::{put_u64, u64_at};
use holdfast_io::ids::Generation;
use holdfast_io::seal::{self, AreaUuid};

use crate::dblock::MODE_END;

const GENERATION: usize = MODE_END;
const COUNT: usize = GENERATION + 8;
const LOCKSPACE: usize = COUNT + 8;
/// Where the stamp ends.
pub(crate) const END: usize = LOCKSPACE + 8;
const _: () = assert!(END <= seal::OFFSET, "the stamp stands between mode block and seal");

/// Which format of a lockspace generations are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lockspace(u64);

impl Lockspace {
    pub(super) fn of(area: AreaUuid) -> Self {
        let (high, low) = area.0.as_u64_pair();
        Lockspace(high ^ low)
    }
}

/// Whether a host's sector was written before the lockspace was made anew, in which `ours` was. The seals of both were verified.
pub(crate) fn is_of_another_lockspace(theirs: &[u8], ours: &[u8]) -> bool {
    Stamp::of_sealed(theirs).is_of_another_lockspace(Stamp::of_sealed(ours))
}

/// A later write of a host has a greater one: whether it is of the lockspace as it is now, its generation, its count.
pub(super) type Rank = (bool, Generation, u64);

/// When a sector was written, by the count of its writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Where its generation was counted.
    pub(super) lockspace: Lockspace,
    /// The writer's.
    pub(super) generation: Generation,
    /// Its how-manieth write, from 1.
    pub(super) count: u64,
}

impl Stamp {
    /// Of a sector whose seal was verified. Without one the bytes may be anything.
    pub(super) fn of_sealed(sector: &[u8]) -> Self {
        let lockspace = Lockspace(u64_at(sector, LOCKSPACE));
        Stamp { lockspace, generation: Generation(u64_at(sector, GENERATION)), count: u64_at(sector, COUNT) }
    }

    /// Of a write in another format of the lockspace than `other`'s. A sector without a stamp says nothing of that.
    fn is_of_another_lockspace(self, other: Self) -> bool {
        let stamped = self != Stamp::default() && other != Stamp::default();
        stamped && self.lockspace != other.lockspace
    }

    /// `now`: the lockspace as it is; `None`: not known.
    pub(super) fn rank(self, now: Option<Lockspace>) -> Rank {
        (now.is_none_or(|now| now == self.lockspace), self.generation, self.count)
    }

    /// The next one of a writer of this generation.
    pub(super) fn next(self, lockspace: Lockspace, generation: Generation) -> Self {
        let same = (self.lockspace, self.generation) == (lockspace, generation);
        Stamp { lockspace, generation, count: if same { self.count.saturating_add(1) } else { 1 } }
    }

    /// Into a sector that is sealed afterwards.
    pub(super) fn put_into(self, sector: &mut [u8]) {
        put_u64(sector, GENERATION, self.generation.0);
        put_u64(sector, COUNT, self.count);
        put_u64(sector, LOCKSPACE, self.lockspace.0);
    }
}
