//! The seal: what a Holdfast host adds to a sector that sanlock neither reads nor keeps.
//!
//! | offset | size | field | meaning, unit |
//! | --- | --- | --- | --- |
//! | 200 | u32 | magic | 0x4C534648 ("HFSL") |
//! | 204 | u8 | version | 1 |
//! | 205 | u8 | flags | bit 0: the writer's host has no watchdog |
//! | 206 | u8 | fire_timeout | seconds; 60 is assumed where bit 0 is set |
//! | 207 | u8 | reserved | 0 |
//! | 208 | u64 | machine | hash of the writer's machine id |
//! | 216 | u64 | boot | hash of the writer's boot id |
//! | 224 | 16 B | area | UUID of the lease area; all zero where the area was formatted by sanlock |
//! | 240 | u16 | millis | milliseconds beside the record's whole seconds |
//! | 242 | u16 | reserved | 0 |
//! | 244 | u32 | sector | index of this sector in its area |
//! | 248 | u32 | check | CRC-32 over \[200,248), in a dblock sector over \[0,52) as well |
//! | 252 | u32 | crc | CRC-32 over the whole sector without these four bytes |
//!
//! Absent means that sanlock wrote the sector. sanlock zero-fills this range in delta, leader and request sectors, so
//! there anything but zeros or a valid seal is damage. In dblock sectors sanlock may leave heap bytes here, an old
//! seal of ours among them, hence the check of its own that binds a seal to the dblock beside it: where the check
//! holds, the sector is ours and a wrong CRC is damage (a flipped mode bit); where it does not hold, there is no seal.

use crate::bytes::{array_at, is_zero, put, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::checksum::seal_crc;
use crate::identity::{BootHash, MachineHash};
use crate::planted::{Bug, planted};
use crate::timing::FireTimeout;
use crate::units::SectorIndex;

const MAGIC: u32 = 0x4C53_4648;
/// The version that this program writes and reads.
pub const VERSION: u8 = 1;
const NO_WATCHDOG: u8 = 0x01;

/// Where the seal begins in its sector.
pub const OFFSET: usize = 200;
const VERSION_AT: usize = OFFSET + 4;
const FLAGS: usize = VERSION_AT + 1;
const FIRE: usize = FLAGS + 1;
const RESERVED_8: usize = FIRE + 1;
const MACHINE: usize = RESERVED_8 + 1;
const BOOT: usize = MACHINE + 8;
const AREA: usize = BOOT + 8;
const MILLIS: usize = AREA + 16;
const RESERVED_16: usize = MILLIS + 2;
const SECTOR: usize = RESERVED_16 + 2;
const CHECK: usize = SECTOR + 4;
const CRC: usize = CHECK + 4;
/// Where it ends.
pub const END: usize = CRC + 4;
const _: () = assert!(END == 256, "the seal ends where the delta bitmap begins");

/// The part of a dblock that the seal's own check covers: all of it but nothing else of the sector.
const DBLOCK: std::ops::Range<usize> = 0..52;

/// The area's UUID; [`AreaUuid::NONE`] in areas that sanlock formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AreaUuid(pub uuid::Uuid);

impl AreaUuid {
    /// No UUID is known for the area.
    pub const NONE: AreaUuid = AreaUuid(uuid::Uuid::nil());

    /// A new random one.
    #[must_use]
    pub fn random() -> Self {
        AreaUuid(uuid::Uuid::new_v4())
    }
}

/// The kinds of sector that carry a seal, by how the range is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedKind {
    /// Delta, leader, request and tail sectors, which sanlock zero-fills.
    Plain,
    /// Dblock sectors, where sanlock may leave anything.
    Dblock,
}

/// What the watchdog of the writer's host promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SealedFire {
    /// Reset at the latest this long after D2's instant.
    Within(FireTimeout),
    /// No watchdog: judged with sanlock's 60 s, and said loudly wherever the host is shown.
    NoWatchdog,
}

impl SealedFire {
    /// The fire timeout by which the host is to be judged.
    #[must_use]
    pub const fn judged(self) -> FireTimeout {
        match self {
            SealedFire::Within(t) => t,
            SealedFire::NoWatchdog => FireTimeout::SANLOCK,
        }
    }
}

/// A seal's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seal {
    /// What the writer's watchdog promises.
    pub fire: SealedFire,
    /// Which machine wrote.
    pub machine: MachineHash,
    /// In which boot of it.
    pub boot: BootHash,
    /// The lease area this sector belongs to.
    pub area: AreaUuid,
    /// Milliseconds beside the record's timestamp, 0 to 999.
    pub millis: u16,
    /// The sector's own place.
    pub sector: SectorIndex,
}

/// A seal that is there and wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Neither zeros nor a seal.
    #[error("bytes 200..256 hold neither zeros nor a seal (magic 0x{found:08x}, expected 0x{MAGIC:08x})")]
    Foreign {
        /// What stands in the place of the magic.
        found: u32,
    },
    /// The seal's own check fails.
    #[error("seal check 0x{found:08x} does not match 0x{expected:08x} computed from the seal")]
    Check {
        /// On disk.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// The CRC over the sector fails.
    #[error("sector CRC 0x{found:08x} in the seal does not match 0x{expected:08x} computed from the sector")]
    Crc {
        /// On disk.
        found: u32,
        /// Computed.
        expected: u32,
    },
    /// Written by a newer program.
    #[error("seal version {found} is not known here (expected {VERSION})")]
    Version {
        /// On disk.
        found: u8,
    },
    /// A flag, reserved field or value with no meaning in this version.
    #[error("seal field {field} has the value 0x{found:x}, which has no meaning in version {VERSION}")]
    Field {
        /// Its name.
        field: &'static str,
        /// On disk.
        found: u64,
    },
    /// The sector stands in another place than it was written for.
    #[error("the seal was written for sector {found} of its area, but stands in sector {expected}")]
    Misplaced {
        /// In the seal.
        found: SectorIndex,
        /// Where it was read.
        expected: SectorIndex,
    },
}

impl SealError {
    /// Whether the sector is not what was written there, and not only written by a program that is not known here.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        match self {
            SealError::Foreign { .. }
            | SealError::Check { .. }
            | SealError::Crc { .. }
            | SealError::Misplaced { .. } => true,
            SealError::Version { .. } | SealError::Field { .. } => false,
        }
    }
}

/// Writes the seal into a sector whose other bytes are final.
///
/// # Panics
/// If the sector is shorter than 512 bytes: sectors come from [`crate::units::SectorSize`].
pub fn write(sector: &mut [u8], kind: SealedKind, seal: &Seal) {
    assert!(sector.len() >= 512, "a sector has at least 512 bytes");
    let (flags, fire) = match seal.fire {
        SealedFire::Within(t) => (0, t.seconds()),
        SealedFire::NoWatchdog => (NO_WATCHDOG, FireTimeout::SANLOCK.seconds()),
    };
    put_u32(sector, OFFSET, MAGIC);
    sector[VERSION_AT] = VERSION;
    sector[FLAGS] = flags;
    sector[FIRE] = fire;
    sector[RESERVED_8] = 0;
    put_u64(sector, MACHINE, seal.machine.0);
    put_u64(sector, BOOT, seal.boot.0);
    put(sector, AREA, seal.area.0.as_bytes());
    put_u16(sector, MILLIS, seal.millis);
    put_u16(sector, RESERVED_16, 0);
    put_u32(sector, SECTOR, seal.sector.0);
    let check = own_check(sector, kind);
    put_u32(sector, CHECK, check);
    let crc = whole_crc(sector);
    put_u32(sector, CRC, crc);
}

/// Reads the seal of a sector; `Ok(None)` where sanlock wrote it.
///
/// # Errors
/// [`SealError`]: the sector is damaged, misplaced, or newer than this program.
///
/// # Panics
/// If the sector is shorter than 512 bytes.
pub fn read(sector: &[u8], kind: SealedKind, at: SectorIndex) -> Result<Option<Seal>, SealError> {
    assert!(sector.len() >= 512, "a sector has at least 512 bytes");
    let magic = u32_at(sector, OFFSET);
    let (check, own) = (u32_at(sector, CHECK), own_check(sector, kind));
    match kind {
        SealedKind::Plain if is_zero(&sector[OFFSET..END]) => return Ok(None),
        SealedKind::Plain if magic != MAGIC => return Err(SealError::Foreign { found: magic }),
        SealedKind::Plain if check != own => return Err(SealError::Check { found: check, expected: own }),
        SealedKind::Dblock if magic != MAGIC || check != own => return Ok(None),
        _ => {}
    }
    // A newer version may cover other bytes: said by name, before its CRC is held against it.
    if sector[VERSION_AT] != VERSION {
        return Err(SealError::Version { found: sector[VERSION_AT] });
    }
    let (crc, whole) = (u32_at(sector, CRC), whole_crc(sector));
    if crc != whole && !planted(Bug::BrokenSealAccepted) {
        return Err(SealError::Crc { found: crc, expected: whole });
    }
    let seal = fields(sector)?;
    if seal.sector != at {
        return Err(SealError::Misplaced { found: seal.sector, expected: at });
    }
    Ok(Some(seal))
}

fn fields(sector: &[u8]) -> Result<Seal, SealError> {
    let field = |field, found| Err(SealError::Field { field, found });
    let (flags, fire) = (sector[FLAGS], sector[FIRE]);
    if flags & !NO_WATCHDOG != 0 {
        return field("flags", u64::from(flags));
    }
    let Some(fire_timeout) = FireTimeout::new(u64::from(fire)) else {
        return field("fire_timeout", u64::from(fire));
    };
    let millis = u16_at(sector, MILLIS);
    if millis > 999 {
        return field("millis", u64::from(millis));
    }
    Ok(Seal {
        fire: if flags & NO_WATCHDOG != 0 { SealedFire::NoWatchdog } else { SealedFire::Within(fire_timeout) },
        machine: MachineHash(u64_at(sector, MACHINE)),
        boot: BootHash(u64_at(sector, BOOT)),
        area: AreaUuid(uuid::Uuid::from_bytes(array_at(sector, AREA))),
        millis,
        sector: SectorIndex(u32_at(sector, SECTOR)),
    })
}

fn own_check(sector: &[u8], kind: SealedKind) -> u32 {
    match kind {
        SealedKind::Plain => seal_crc(&[&sector[OFFSET..CHECK]]),
        SealedKind::Dblock => seal_crc(&[&sector[OFFSET..CHECK], &sector[DBLOCK]]),
    }
}

fn whole_crc(sector: &[u8]) -> u32 {
    seal_crc(&[&sector[..CRC], &sector[END..]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_seal() -> impl Strategy<Value = Seal> {
        (any::<bool>(), 4u64..=60, any::<u64>(), any::<u64>(), any::<[u8; 16]>(), 0u16..1000, any::<u32>()).prop_map(
            |(none, fire, machine, boot, area, millis, sector)| Seal {
                fire: if none { SealedFire::NoWatchdog } else { SealedFire::Within(FireTimeout::new(fire).unwrap()) },
                machine: MachineHash(machine),
                boot: BootHash(boot),
                area: AreaUuid(uuid::Uuid::from_bytes(area)),
                millis,
                sector: SectorIndex(sector),
            },
        )
    }

    const KINDS: [SealedKind; 2] = [SealedKind::Plain, SealedKind::Dblock];

    proptest! {
        #[test]
        fn what_is_sealed_reads_back(seal in any_seal(), mut sector in proptest::collection::vec(any::<u8>(), 512)) {
            for kind in KINDS {
                write(&mut sector, kind, &seal);
                prop_assert_eq!(read(&sector, kind, seal.sector), Ok(Some(seal)));
            }
        }

        #[test]
        fn every_flipped_bit_of_a_plain_sector_is_seen(seal in any_seal(), bit in 0usize..4096) {
            let mut sector = vec![0x5A; 512];
            write(&mut sector, SealedKind::Plain, &seal);
            sector[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&sector, SealedKind::Plain, seal.sector).is_err());
        }

        #[test]
        fn no_sector_makes_the_reader_panic(sector in proptest::collection::vec(any::<u8>(), 512)) {
            for kind in KINDS {
                let _ = read(&sector, kind, SectorIndex(3));
            }
        }
    }

    fn example() -> Seal {
        Seal {
            fire: SealedFire::Within(FireTimeout::SANLOCK),
            machine: MachineHash(1),
            boot: BootHash(2),
            area: AreaUuid::NONE,
            millis: 999,
            sector: SectorIndex(7),
        }
    }

    #[test]
    fn zeros_mean_that_sanlock_wrote_the_sector() {
        for kind in KINDS {
            assert_eq!(read(&[0; 512], kind, SectorIndex(0)), Ok(None));
        }
    }

    #[test]
    fn an_old_seal_beside_a_new_dblock_does_not_count() {
        let mut sector = vec![0; 512];
        write(&mut sector, SealedKind::Dblock, &example());
        sector[0] ^= 1; // sanlock wrote another mbal and left our bytes behind it
        assert_eq!(read(&sector, SealedKind::Dblock, SectorIndex(7)), Ok(None));
    }

    #[test]
    fn a_flipped_mode_bit_in_a_sealed_dblock_sector_is_damage() {
        let mut sector = vec![0; 512];
        write(&mut sector, SealedKind::Dblock, &example());
        sector[128] ^= 1;
        assert!(matches!(read(&sector, SealedKind::Dblock, SectorIndex(7)), Err(SealError::Crc { .. })));
    }

    #[test]
    fn a_sector_in_the_wrong_place_is_named() {
        let mut sector = vec![0; 512];
        write(&mut sector, SealedKind::Plain, &example());
        let misplaced = read(&sector, SealedKind::Plain, SectorIndex(8));
        assert_eq!(misplaced, Err(SealError::Misplaced { found: SectorIndex(7), expected: SectorIndex(8) }));
    }
}
