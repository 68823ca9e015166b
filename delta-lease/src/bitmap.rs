//! The host_id bitmap in the second half of a delta sector: which hosts this one wants the attention of.
//!
//! | offset in sector | size | field |
//! | --- | --- | --- |
//! | 256 | 256 B | bit of host N: byte (N-1)/8, mask 1 << ((N-1)%8) |
//!
//! Written by renewals alone; acquire and release write zeros. sanlock covers it with no checksum, the seal does.
//! Bits above host 2000 have no meaning; they are kept as read. Source: spec D 2.3.

use std::fmt;

use holdfast_io::bytes::{array_at, put};
use holdfast_io::ids::{HostId, MAX_HOSTS};
use holdfast_io::seal;

/// Where the bitmap begins in its sector.
pub const OFFSET: usize = seal::END;
/// Its length in bytes.
pub const LEN: usize = 256;
const _: () = assert!(OFFSET + LEN == 512, "the bitmap ends with the smallest sector");
const _: () = assert!(LEN * 8 >= MAX_HOSTS as usize, "a bit for every host");

/// A set of hosts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HostBitmap([u8; LEN]);

impl Default for HostBitmap {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl HostBitmap {
    /// Nobody.
    pub const EMPTY: HostBitmap = HostBitmap([0; LEN]);

    /// The bitmap of a sector of at least 512 bytes.
    #[must_use]
    pub fn of_sector(sector: &[u8]) -> Self {
        HostBitmap(array_at(sector, OFFSET))
    }

    /// Stores it in a sector of at least 512 bytes.
    pub fn put_into(&self, sector: &mut [u8]) {
        put(sector, OFFSET, &self.0);
    }

    const fn place(host: HostId) -> (usize, u8) {
        let slot = host.slot() as usize;
        (slot / 8, 1 << (slot % 8))
    }

    /// Adds a host.
    pub fn insert(&mut self, host: HostId) {
        let (byte, mask) = Self::place(host);
        self.0[byte] |= mask;
    }

    /// Takes a host out.
    pub fn remove(&mut self, host: HostId) {
        let (byte, mask) = Self::place(host);
        self.0[byte] &= !mask;
    }

    /// Whether a host is in it.
    #[must_use]
    pub const fn contains(&self, host: HostId) -> bool {
        let (byte, mask) = Self::place(host);
        self.0[byte] & mask != 0
    }

    /// Whether no bit is set, meaningless ones included.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    /// The hosts in it, in order.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + '_ {
        (0..MAX_HOSTS).filter_map(HostId::from_slot).filter(|h| self.contains(*h))
    }
}

impl fmt::Debug for HostBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.hosts().map(HostId::get)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_3_is_bit_2_of_byte_256_as_the_real_program_writes_it() {
        let mut bitmap = HostBitmap::EMPTY;
        bitmap.insert(HostId::new(3).unwrap());
        let mut sector = [0; 512];
        bitmap.put_into(&mut sector);
        assert_eq!(sector[256], 0x04);
        assert_eq!(sector.iter().filter(|b| **b != 0).count(), 1);
        assert_eq!(HostBitmap::of_sector(&sector), bitmap);
    }

    #[test]
    fn every_host_has_a_bit_of_its_own() {
        let mut bitmap = HostBitmap::EMPTY;
        for slot in 0..MAX_HOSTS {
            let host = HostId::from_slot(slot).unwrap();
            assert!(!bitmap.contains(host));
            bitmap.insert(host);
            assert!(bitmap.hosts().eq([host]));
            bitmap.remove(host);
            assert!(bitmap.is_empty());
        }
    }
}
