//! Which copy of how many an area is, as its format says: then no two hosts can take different sets of disks for the lease,
//! whose majorities might not meet.
//!
//! | offset | size | field | meaning |
//! | --- | --- | --- | --- |
//! | 256 | u8 | copies | on so many disks the lease was formatted; 0 where on one |
//! | 257 | u8 | copy | which of them this is, from 1; 0 where there is one |
//!
//! In the sector of the area's UUID, under the CRC of its seal. An area that sanlock formatted does not say.

use holdfast_io::seal;

const COPIES: usize = seal::END;
const COPY: usize = COPIES + 1;

/// More disks no lease has (spec A 3).
pub const MOST: usize = 4;

/// The place of a copy among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which one, from 1.
    pub copy: u8,
    /// Of how many, at least 2.
    pub copies: u8,
}

impl Place {
    /// Of a UUID sector whose seal was verified; `None`: it is the only copy, or nothing is known.
    #[must_use]
    pub fn of_sealed(sector: &[u8]) -> Option<Self> {
        let place = Place { copy: sector[COPY], copies: sector[COPIES] };
        (place.copies != 0).then_some(place)
    }

    /// Into a UUID sector that is sealed afterwards.
    pub(crate) fn put_into(self, sector: &mut [u8]) {
        sector[COPIES] = self.copies;
        sector[COPY] = self.copy;
    }
}
