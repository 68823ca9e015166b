//! What a host's sector says on several disks beside its dblock and its claim, and goes on saying whatever else is written there.
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 56 | u64 | lver | of the value of the lease as the host has set it, or found it and vouches for it: the version under which it was set |
//! | 64 | u32 | crc | CRC-32 of that value, a whole sector |
//! | 68 | u32 | slot | where it stands; 0: there is none |
//! | 72 | u64 | in flight | bit n - 1: a write of this host to slot n may be on its way to one of the disks |
//! | 80 | u64 | passed at | the version under which this host, its exclusive owner, has passed claims over |
//! | 256 | 250 B | passed over | whose: bit (n - 1) % 8 of byte (n - 1) / 8 for host n |
//!
//! Under the seal's CRC. Absent (zeros) on leases with one copy. A slot is a sector behind that of the area's UUID, slot 1 the
//! first. What the values are for stands in `value.rs`; the claims in `standing.rs`.

use holdfast_io::bytes::{put, put_u32, put_u64, u32_at, u64_at};
use holdfast_io::ids::{HostId, Lver};
use holdfast_io::seal;
use holdfast_io::units::{Geometry, SectorIndex};

use crate::dblock::{self, MODE};
use crate::layout::{uuid_sector, value_sector};

const VALUE: usize = dblock::LEN;
const IN_FLIGHT: usize = VALUE + 16;
const PASSED_AT: usize = IN_FLIGHT + 8;
const _: () = assert!(PASSED_AT + 8 <= MODE, "before the mode block");

const PASSED_OVER: usize = seal::END;
const PASSED_END: usize = PASSED_OVER + (holdfast_io::ids::MAX_HOSTS as usize).div_ceil(8);
const _: () = assert!(PASSED_END <= 512, "a bit for every host");

/// A sector for a value, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

impl Slot {
    /// Those of an area: none where sanlock has no room for a value either, and never more than there are bits for.
    pub(crate) fn all(geometry: Geometry) -> impl Iterator<Item = Slot> {
        let behind = geometry.sectors() - uuid_sector(geometry).0 - 1;
        (1..=value_sector(geometry).map_or(0, |_| behind.min(u64::BITS))).map(Slot)
    }

    /// Whether an area has it.
    pub(crate) fn is_in(self, geometry: Geometry) -> bool {
        self.0 as usize <= Slot::all(geometry).count()
    }

    /// Where it is.
    pub(crate) fn sector(self, geometry: Geometry) -> SectorIndex {
        SectorIndex(uuid_sector(geometry).0 + self.0)
    }

    const fn bit(self) -> u64 {
        1 << (self.0 - 1)
    }
}

/// Which value: where it stands, and what it sums up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) slot: Slot,
    pub(crate) crc: u32,
}

impl Tag {
    fn read(sector: &[u8], at: usize) -> Option<Self> {
        let slot = u32_at(sector, at + 4);
        (1..=u64::BITS).contains(&slot).then(|| Tag { slot: Slot(slot), crc: u32_at(sector, at) })
    }

    fn put(self, sector: &mut [u8], at: usize) {
        put_u32(sector, at, self.crc);
        put_u32(sector, at + 4, self.slot.0);
    }
}

/// What a host says of the value of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ValueRemarks {
    /// Which value the lease has, and under which version it was set, by this host or by another for which it vouches.
    pub(crate) settled: Option<(Lver, Tag)>,
    /// Slots to which writes of the host may be on their way.
    pub(crate) in_flight: u64,
}

impl ValueRemarks {
    /// Of a sector whose seal was verified.
    pub(crate) fn of_sealed(sector: &[u8]) -> Self {
        let settled = Tag::read(sector, VALUE + 8).map(|tag| (Lver(u64_at(sector, VALUE)), tag));
        ValueRemarks { settled, in_flight: u64_at(sector, IN_FLIGHT) }
    }

    /// Into a sector that is sealed afterwards.
    pub(super) fn put_into(self, sector: &mut [u8]) {
        if let Some((lver, tag)) = self.settled {
            put_u64(sector, VALUE, lver.0);
            tag.put(sector, VALUE + 8);
        }
        put_u64(sector, IN_FLIGHT, self.in_flight);
    }

    /// Whether a write of the host to this slot may be on its way.
    pub(crate) const fn may_write(&self, slot: Slot) -> bool {
        self.in_flight & slot.bit() != 0
    }

    /// It may be from now on.
    pub(crate) const fn writes(&mut self, slot: Slot) {
        self.in_flight |= slot.bit();
    }

    /// All are over but, at most, these.
    pub(crate) const fn only(&mut self, slots: u64) {
        self.in_flight &= slots;
    }
}

/// Says in a sector, which is sealed afterwards, that as owner of `at` its host has passed over the claims of these.
pub(crate) fn pass_over(sector: &mut [u8], at: Lver, hosts: impl Iterator<Item = HostId>) {
    put_u64(sector, PASSED_AT, at.0);
    hosts.for_each(|host| {
        let (at, bit) = passed_over_at(host);
        sector[at] |= bit;
    });
}

/// Whether a sector whose seal was verified says so of a claim that `host` has had since `since`: a claim is older than the version under
/// which it is passed over.
pub(crate) fn is_passed_over(sector: &[u8], host: HostId, since: Lver) -> bool {
    let (at, bit) = passed_over_at(host);
    sector[at] & bit != 0 && Lver(u64_at(sector, PASSED_AT)) > since
}

const fn passed_over_at(host: HostId) -> (usize, u8) {
    let slot = host.slot() as usize;
    (PASSED_OVER + slot / 8, 1 << (slot % 8))
}

/// Whoever passes others over says so anew; until then the last time stands: a host that stood still may look for it late.
pub(super) fn carry_passed_over(from: &[u8], to: &mut [u8]) {
    if u64_at(to, PASSED_AT) == 0 {
        put_u64(to, PASSED_AT, u64_at(from, PASSED_AT));
        put(to, PASSED_OVER, &from[PASSED_OVER..PASSED_END]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SMALL, host};

    #[test]
    fn what_is_said_of_values_reads_back() {
        let mut said = ValueRemarks { settled: Some((Lver(7), Tag { slot: Slot(3), crc: 0xabcd })), in_flight: 0 };
        said.writes(Slot(44));
        let mut sector = vec![0; 512];
        said.put_into(&mut sector);
        assert_eq!(ValueRemarks::of_sealed(&sector), said);
        assert!(said.may_write(Slot(44)) && !said.may_write(Slot(3)));
        assert_eq!(ValueRemarks::of_sealed(&[0; 512]), ValueRemarks::default());
    }

    #[test]
    fn a_claim_is_passed_over_under_a_later_version_than_its_own() {
        let mut sector = vec![0; 512];
        pass_over(&mut sector, Lver(9), [host(1), host(2000)].into_iter());
        assert!(is_passed_over(&sector, host(1), Lver(8)) && is_passed_over(&sector, host(2000), Lver(8)));
        assert!(!is_passed_over(&sector, host(1), Lver(9)) && !is_passed_over(&sector, host(3), Lver(8)));
        let mut next = vec![0; 512];
        carry_passed_over(&sector, &mut next);
        assert_eq!(next, sector);
        let mut anew = vec![0; 512];
        pass_over(&mut anew, Lver(11), std::iter::once(host(5)));
        carry_passed_over(&sector, &mut anew);
        assert!(is_passed_over(&anew, host(5), Lver(9)) && !is_passed_over(&anew, host(1), Lver(8)));
    }

    #[test]
    fn a_slot_is_behind_what_anybody_else_uses() {
        let slots: Vec<_> = Geometry::ALL.iter().map(|g| Slot::all(*g).count()).collect();
        assert_eq!(slots, [44, 0, 0, 0, 44]);
        let last = Slot::all(SMALL).last().map(|slot| slot.sector(SMALL).0);
        assert_eq!(last, Some(SMALL.sectors() - 1));
    }
}
