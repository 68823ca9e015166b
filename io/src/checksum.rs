//! The two checksums on disk.
//!
//! sanlock's own is CRC-32C with the register started at 0xFFFFFFFE and no final inversion (spec D 2.1). The seal adds
//! an ordinary CRC-32 (crc32fast) over the whole sector.

const SANLOCK: crc::Algorithm<u32> = crc::Algorithm {
    width: 32,
    poly: 0x1EDC_6F41,
    // 0xFFFFFFFE in the reflected register: the crate takes it unreflected.
    init: 0x7FFF_FFFF,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0xE8C7_BB34,
    residue: 0,
};

const TABLE: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&SANLOCK);

/// The checksum that sanlock keeps in leader records and dblocks.
#[must_use]
pub fn lease_crc(bytes: &[u8]) -> u32 {
    TABLE.checksum(bytes)
}

/// The seal's CRC-32 (IEEE) over several pieces in order.
#[must_use]
pub fn seal_crc(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_values_of_the_real_program_hold() {
        assert_eq!(lease_crc(b"123456789"), 0xE8C7_BB34);
        assert_eq!(lease_crc(&[0; 48]), 0xCB5A_D842);
        assert_eq!(lease_crc(&[0; 168]), 0x7E11_FBD1);
    }
}
