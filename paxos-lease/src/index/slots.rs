//! Where the places of an index are: pure arithmetic, every offset checked against what the index has.
//!
//! ```text
//!  index          + area           + 2 areas        + 3 areas
//!  |--------------|----------------|----------------|--- ...
//!  | header,      | rindex_lease   | slot 0's       | slot 1's
//!  | entries      |                | resource       | resource
//! ```
//!
//! A resource's area follows from its slot alone; what its entry says of it is for people (spec D 2.8).
//! Units: bytes from the start of the device, sectors from the start of the index.

use holdfast_io::units::{Geometry, LeaseOffset, SectorIndex, SectorSize};

use super::codec::{ENTRY_LEN, Header};

/// Places for resources where nothing else is asked for.
pub const DEFAULT_RESOURCES: u32 = 4096;
/// Areas before the first resource's: the index and its lease.
const BEFORE: u64 = 2;

/// Places that an index of this shape may have (spec D 2.7).
#[must_use]
pub const fn most_resources(geometry: Geometry) -> u32 {
    use holdfast_io::units::AlignSize;
    match geometry.align() {
        AlignSize::M1 => 16_000,
        AlignSize::M2 => 32_000,
        AlignSize::M4 => 64_000,
        AlignSize::M8 => 128_000,
    }
}

/// One place in an index, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// An offset that is no resource's of an index (-277).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSlot {
    /// Not where areas begin.
    #[error("offset {found} is no multiple of the area length {expected}")]
    Unaligned {
        /// As given.
        found: u64,
        /// Bytes.
        expected: u64,
    },
    /// Before the first resource's area, or behind the last one's.
    #[error("offset {found} is none of the {count} resources', which are at {first} to {last}")]
    OutOfRange {
        /// As given.
        found: u64,
        /// Of the first resource's area.
        first: u64,
        /// Of the last one's.
        last: u64,
        /// How many there can be.
        count: u32,
    },
}

/// The places of one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    index: LeaseOffset,
    geometry: Geometry,
    count: u32,
}

impl Slots {
    /// Those of an index with this header. `None`: it stands so far out that its resources would be behind the end of every
    /// device.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        let areas = BEFORE + u64::from(header.max_resources);
        header.index.at.0.checked_add(areas * header.geometry.align().bytes())?;
        Some(Slots { index: header.index.at, geometry: header.geometry, count: header.max_resources })
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Slot> + use<> {
        (0..self.count).map(Slot)
    }

    /// Place number `number`, if there is one.
    #[must_use]
    pub fn at(&self, number: u32) -> Option<Slot> {
        (number < self.count).then_some(Slot(number))
    }

    /// Where the lease that guards the index is.
    #[must_use]
    pub const fn lease(&self) -> LeaseOffset {
        LeaseOffset(self.index.0 + self.geometry.align().bytes())
    }

    /// Where the resource of a place is.
    #[must_use]
    pub const fn area(&self, slot: Slot) -> LeaseOffset {
        LeaseOffset(self.index.0 + (BEFORE + slot.0 as u64) * self.geometry.align().bytes())
    }

    /// The place whose resource is at `offset`.
    ///
    /// # Errors
    /// [`NoSlot`].
    pub fn slot(&self, offset: u64) -> Result<Slot, NoSlot> {
        let align = self.geometry.align().bytes();
        if !offset.is_multiple_of(align) {
            return Err(NoSlot::Unaligned { found: offset, expected: align });
        }
        let (first, last) = (self.area(Slot(0)).0, self.area(Slot(self.count - 1)).0);
        let number = offset.checked_sub(first).filter(|from_first| from_first.is_multiple_of(align));
        let slot = number.and_then(|from_first| u32::try_from(from_first / align).ok()).and_then(|n| self.at(n));
        slot.ok_or(NoSlot::OutOfRange { found: offset, first, last, count: self.count })
    }

    /// The sector of a place's entry, from the start of the index, and the entry's first byte in it.
    #[must_use]
    pub fn entry(&self, slot: Slot) -> (SectorIndex, usize) {
        let per_sector = entries_per_sector(self.geometry.sector());
        let in_sector = (slot.0 % per_sector) as usize;
        (SectorIndex(1 + slot.0 / per_sector), in_sector * ENTRY_LEN)
    }

    /// Sectors that entries are in.
    #[must_use]
    pub fn entry_sectors(&self) -> u32 {
        self.count.div_ceil(entries_per_sector(self.geometry.sector()))
    }
}

/// How many entries stand in a sector.
const fn entries_per_sector(sector: SectorSize) -> u32 {
    match sector {
        SectorSize::B512 => 8,
        SectorSize::B4096 => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::super::IndexAt;
    use super::*;
    use holdfast_io::ids::SpaceName;
    use holdfast_io::seal::AreaUuid;

    const MIB: u64 = 1 << 20;

    fn header(geometry: Geometry, at: u64, resources: u32) -> Header {
        let index = IndexAt { at: LeaseOffset(at), space: SpaceName::new(b"LS").unwrap() };
        Header::new(index, geometry, resources, AreaUuid::NONE)
    }

    #[test]
    fn the_entries_of_the_most_resources_fit_their_area() {
        for geometry in Geometry::ALL {
            let slots = Slots::of(&header(geometry, 0, u32::MAX)).unwrap();
            assert!(slots.entry_sectors() < geometry.sectors(), "{geometry}");
            let (sector, at) = slots.entry(Slot(slots.count() - 1));
            assert!(sector.0 <= slots.entry_sectors() && at + ENTRY_LEN <= geometry.sector().bytes());
        }
    }

    #[test]
    fn g8_slots_are_where_the_real_program_has_them() {
        let slots = Slots::of(&header(Geometry::ALL[0], 8 * MIB, 0)).unwrap();
        assert_eq!((slots.lease().0, slots.area(Slot(0)).0, slots.area(Slot(1)).0), (9 * MIB, 10 * MIB, 11 * MIB));
        assert_eq!(slots.entry(Slot(1)), (SectorIndex(1), 64));
        assert_eq!(slots.entry(Slot(8)), (SectorIndex(2), 0));
    }

    #[test]
    fn every_slot_is_found_again_by_its_offset_and_no_other_offset_is_one() {
        for geometry in Geometry::ALL {
            let align = geometry.align().bytes();
            for index in [0, align, 3 * align, 8 * MIB] {
                let slots = Slots::of(&header(geometry, index, 5)).unwrap();
                for slot in slots.all() {
                    let area = slots.area(slot);
                    assert_eq!(slots.slot(area.0), Ok(slot));
                    for off in [1, 512, align - 1] {
                        let expected = NoSlot::Unaligned { found: area.0 + off, expected: align };
                        assert_eq!(slots.slot(area.0 + off), Err(expected));
                    }
                }
                let past = [0, index, index + align, index + 7 * align, 1 << 40, u64::MAX - (align - 1)];
                for offset in past {
                    assert!(matches!(slots.slot(offset), Err(NoSlot::OutOfRange { .. })), "{offset}");
                }
                assert!(slots.slot(u64::MAX).is_err());
            }
        }
    }

    /// An index need not stand at a multiple of its area's length; then no offset is both one of its areas and aligned.
    #[test]
    fn an_index_between_two_areas_has_no_slot_that_could_be_named() {
        let slots = Slots::of(&header(Geometry::ALL[0], 512, 5)).unwrap();
        for offset in (0..9).map(|n| n * MIB).chain((0..9).map(|n| n * MIB + 512)) {
            assert!(slots.slot(offset).is_err());
        }
    }

    #[test]
    fn an_index_at_the_end_of_the_address_space_has_no_slots() {
        assert_eq!(Slots::of(&header(Geometry::ALL[4], u64::MAX - 4095, 3)), None);
    }
}
