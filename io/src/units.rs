//! Sizes and places on a lease device, each unit with a type of its own.
//!
//! A lease area is `align` bytes long and made of `sector`-sized sectors. Only five combinations exist; each one
//! fixes how many hosts the area can serve. Source: spec D 1.1 and 1.2.

use std::fmt;

const MIB: u64 = 1024 * 1024;

/// The device's addressable unit, the largest write that is atomic: 512 or 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SectorSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl SectorSize {
    /// Bytes in one sector.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            SectorSize::B512 => 512,
            SectorSize::B4096 => 4096,
        }
    }

    /// From a number of bytes, as it stands in a leader record or comes from a device.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            512 => Some(SectorSize::B512),
            4096 => Some(SectorSize::B4096),
            _ => None,
        }
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes())
    }
}

/// The length of one lease area: 1, 2, 4 or 8 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlignSize {
    /// 1 MiB.
    M1,
    /// 2 MiB.
    M2,
    /// 4 MiB.
    M4,
    /// 8 MiB.
    M8,
}

impl AlignSize {
    /// Every size, smallest first.
    pub const ALL: [AlignSize; 4] = [AlignSize::M1, AlignSize::M2, AlignSize::M4, AlignSize::M8];

    /// Bytes in one area.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            AlignSize::M1 => MIB,
            AlignSize::M2 => 2 * MIB,
            AlignSize::M4 => 4 * MIB,
            AlignSize::M8 => 8 * MIB,
        }
    }

    /// From a number of bytes.
    #[must_use]
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.bytes() == bytes)
    }

    /// The bit that stands for this size in a leader record and in the socket structs (spec D 1.2).
    #[must_use]
    pub const fn flag(self) -> u32 {
        match self {
            AlignSize::M1 => 0x10,
            AlignSize::M2 => 0x20,
            AlignSize::M4 => 0x40,
            AlignSize::M8 => 0x80,
        }
    }

    /// The size that a flag word names; with several bits set the smallest counts, as in sanlock.
    #[must_use]
    pub fn from_flags(flags: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|a| flags & a.flag() != 0)
    }
}

impl fmt::Display for AlignSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.bytes() / MIB)
    }
}

/// One of the five legal pairs of sector and area size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Geometry {
    sector: SectorSize,
    align: AlignSize,
}

/// A pair of sizes that no lease area can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no lease area has sectors of {sector} bytes and a length of {align}: use 512/1M, 4096/1M, 4096/2M, 4096/4M or 4096/8M"
)]
pub struct GeometryError {
    /// The sector size asked for.
    pub sector: SectorSize,
    /// The area length asked for.
    pub align: AlignSize,
}

impl Geometry {
    /// Every legal pair.
    pub const ALL: [Geometry; 5] = [
        Geometry { sector: SectorSize::B512, align: AlignSize::M1 },
        Geometry { sector: SectorSize::B4096, align: AlignSize::M1 },
        Geometry { sector: SectorSize::B4096, align: AlignSize::M2 },
        Geometry { sector: SectorSize::B4096, align: AlignSize::M4 },
        Geometry { sector: SectorSize::B4096, align: AlignSize::M8 },
    ];

    /// # Errors
    /// [`GeometryError`] for a pair that is not in [`Geometry::ALL`].
    pub fn new(sector: SectorSize, align: AlignSize) -> Result<Self, GeometryError> {
        let wanted = Geometry { sector, align };
        if Self::ALL.contains(&wanted) { Ok(wanted) } else { Err(GeometryError { sector, align }) }
    }

    /// What sanlock chooses when it is told nothing: 1 MiB areas for 512-byte sectors, 8 MiB for 4096 (spec D 1.2).
    #[must_use]
    pub const fn default_for(sector: SectorSize) -> Self {
        match sector {
            SectorSize::B512 => Geometry { sector, align: AlignSize::M1 },
            SectorSize::B4096 => Geometry { sector, align: AlignSize::M8 },
        }
    }

    /// The size of a sector.
    #[must_use]
    pub const fn sector(self) -> SectorSize {
        self.sector
    }

    /// The length of an area.
    #[must_use]
    pub const fn align(self) -> AlignSize {
        self.align
    }

    /// Hosts that an area of this shape has room for (spec D 1.1).
    #[must_use]
    pub const fn max_hosts(self) -> u32 {
        match (self.sector, self.align) {
            (SectorSize::B512, _) | (SectorSize::B4096, AlignSize::M8) => 2000,
            (SectorSize::B4096, AlignSize::M1) => 250,
            (SectorSize::B4096, AlignSize::M2) => 500,
            (SectorSize::B4096, AlignSize::M4) => 1000,
        }
    }

    /// Sectors in one area.
    #[must_use]
    pub const fn sectors(self) -> u32 {
        match (self.sector, self.align) {
            (SectorSize::B512, _) | (SectorSize::B4096, AlignSize::M8) => 2048,
            (SectorSize::B4096, AlignSize::M1) => 256,
            (SectorSize::B4096, AlignSize::M2) => 512,
            (SectorSize::B4096, AlignSize::M4) => 1024,
        }
    }

    /// The length of one area as a buffer length.
    #[must_use]
    pub const fn area_len(self) -> usize {
        self.sectors() as usize * self.sector.bytes()
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.sector, self.align)
    }
}

/// Where a lease area begins: bytes from the start of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseOffset(pub u64);

impl LeaseOffset {
    /// The device offset in bytes of sector `index` of the area that begins here. Saturates at the end of the
    /// address space, which no device reaches: the read that follows fails with its path and offset.
    #[must_use]
    pub const fn sector(self, index: SectorIndex, size: SectorSize) -> u64 {
        self.0.saturating_add(index.0 as u64 * size.bytes() as u64)
    }
}

impl fmt::Display for LeaseOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of a sector inside its lease area, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorIndex(pub u32);

impl SectorIndex {
    /// Where this sector begins inside its area, as a buffer index.
    #[must_use]
    pub const fn at(self, size: SectorSize) -> usize {
        self.0 as usize * size.bytes()
    }
}

impl fmt::Display for SectorIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_geometries_and_no_sixth() {
        let mut legal = 0;
        for sector in [SectorSize::B512, SectorSize::B4096] {
            for align in AlignSize::ALL {
                if let Ok(g) = Geometry::new(sector, align) {
                    legal += 1;
                    assert_eq!(g.area_len() as u64, align.bytes());
                    assert!(g.max_hosts() + 2 <= g.sectors(), "leader, request and one dblock a host fit");
                }
            }
        }
        assert_eq!(legal, 5);
        assert!(Geometry::new(SectorSize::B512, AlignSize::M8).is_err());
    }

    #[test]
    fn the_smallest_of_several_align_bits_counts() {
        assert_eq!(AlignSize::from_flags(0xC1), Some(AlignSize::M4));
        assert_eq!(AlignSize::from_flags(0x01), None);
    }
}
