//! Formatting a lockspace's area (spec D 3.2): the writes, in the order that commits them.
//!
//! 1. Sector 0 is zeroed. Both programs read it first, so whatever was here is not a lockspace any more.
//! 2. All other sectors are written, in one large write which may tear between sectors: formatted leases for hosts 2 and
//!    up, the tail zero but for the area's UUID.
//! 3. Sector 0 is written with its lease: now it is a lockspace.
//!
//! A crash before 3, after any subset of the sectors of 2, leaves what neither program accepts; step 3 is one sector,
//! hence atomic. Each write must have *succeeded* before the next is issued: after one that failed or has an unknown
//! outcome, stop. Nobody may be using the area (the caller watches it before): a host that still did would find its
//! sector gone at its next renewal, and the UUID changed if it wrote it back.
//!
//! I/O: one sector, one area less a sector, one sector.
//!
//! Formatted leases are sealed like all others: the seal protects all bytes of each, places it in its area and tells an
//! area of this formatting from any before. sanlock neither reads nor minds that. `seal: None` gives, byte for byte, what
//! sanlock itself would write; such an area has no UUID.

use holdfast_io::identity::Machine;
use holdfast_io::ids::{HostId, SpaceName};
use holdfast_io::leader::{LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{Geometry, SectorIndex};

use crate::bitmap::HostBitmap;
use crate::layout::tail_index;
use crate::sector::{DeltaSector, index_of};

/// What the seals of a new area say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatSeal {
    /// The area's UUID, new and random.
    pub uuid: AreaUuid,
    /// Who formats.
    pub machine: Machine,
    /// What the formatter's watchdog promises; free leases promise nothing, so it is shown and never judged by.
    pub fire: SealedFire,
}

/// One write of a formatting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatWrite {
    /// Where, in bytes from the start of the area.
    pub offset_in_area: u64,
    /// What to write.
    pub bytes: AlignedBuf,
    /// What it does.
    pub what: FormatStep,
}

/// What a write of a formatting does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatStep {
    /// Makes whatever was here unusable.
    Invalidate,
    /// Everything but sector 0.
    Body,
    /// Makes it a lockspace.
    Commit,
}

/// The writes that make an area a lockspace, in order.
#[must_use]
pub fn plan(
    geometry: Geometry,
    space: SpaceName,
    io_timeout: IoTimeout,
    seal: Option<&FormatSeal>,
) -> Vec<FormatWrite> {
    let size = geometry.sector();
    let mut area = AlignedBuf::zeroed(geometry.area_len());
    for host in (0..geometry.max_hosts()).filter_map(HostId::from_slot) {
        let at = index_of(host).at(size);
        let lease = formatted(geometry, space, io_timeout, host, seal).encode(size);
        area[at..at + size.bytes()].copy_from_slice(&lease);
    }
    if let Some(seal) = seal {
        let tail = tail_index(geometry);
        let at = tail.at(size);
        seal::write(&mut area[at..at + size.bytes()], SealedKind::Plain, &seal.of(tail));
    }
    let (first, rest) = area.split_at(size.bytes());
    vec![
        FormatWrite { offset_in_area: 0, bytes: AlignedBuf::zeroed(size.bytes()), what: FormatStep::Invalidate },
        FormatWrite {
            offset_in_area: size.bytes() as u64,
            bytes: AlignedBuf::from_slice(rest),
            what: FormatStep::Body,
        },
        FormatWrite { offset_in_area: 0, bytes: AlignedBuf::from_slice(first), what: FormatStep::Commit },
    ]
}

fn formatted(
    geometry: Geometry,
    space: SpaceName,
    io_timeout: IoTimeout,
    host: HostId,
    seal: Option<&FormatSeal>,
) -> DeltaSector {
    let leader = LeaderRecord {
        io_timeout: u16::from(io_timeout.seconds()),
        ..LeaderRecord::formatted(LeaderKind::Delta, geometry, space)
    };
    DeltaSector { leader, bitmap: HostBitmap::EMPTY, seal: seal.map(|s| s.of(index_of(host))) }
}

impl FormatSeal {
    const fn of(&self, sector: SectorIndex) -> Seal {
        Seal {
            fire: self.fire,
            machine: self.machine.machine,
            boot: self.machine.boot,
            area: self.uuid,
            millis: 0,
            sector,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{DeltaArea, tail_uuid};
    use crate::testing::{area, format_seal, x};
    use holdfast_io::bytes::{is_zero, u32_at, u64_at};
    use holdfast_io::units::LeaseOffset;
    use proptest::prelude::*;

    fn space() -> SpaceName {
        SpaceName::new(b"LS1").unwrap()
    }

    fn apply(medium: &mut [u8], write: &FormatWrite) {
        let at = usize::try_from(write.offset_in_area).unwrap();
        medium[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    fn whole(geometry: Geometry, seal: Option<&FormatSeal>) -> Vec<u8> {
        let mut medium = vec![0xAA; geometry.area_len()];
        plan(geometry, space(), x(10), seal).iter().for_each(|w| apply(&mut medium, w));
        medium
    }

    #[test]
    fn without_a_seal_the_area_is_the_real_programs_byte_for_byte() {
        // Spec D 2.10, G1: all that is not zero in each host's sector.
        let mut golden = [0u8; 512];
        golden[..16].copy_from_slice(&[0x10, 0x20, 0x21, 0x12, 4, 0, 3, 0, 0x10, 0, 0, 0, 0, 2, 0, 0]);
        golden[0x18] = 1;
        golden[0x38..0x3B].copy_from_slice(b"LS1");
        golden[0xA8..0xB0].copy_from_slice(&[0x1E, 0x1E, 0xBA, 0x4D, 0, 0, 10, 0]);
        let plain = whole(Geometry::ALL[0], None);
        for sector in plain[..2000 * 512].chunks(512) {
            assert_eq!(sector, golden);
        }
        assert!(is_zero(&plain[2000 * 512..]));

        let sealed = whole(Geometry::ALL[0], Some(&format_seal()));
        for sector in sealed[..2000 * 512].chunks(512) {
            assert_eq!(sector[..200], golden[..200]);
            assert!(is_zero(&sector[256..]));
        }
    }

    #[test]
    fn every_sealed_sector_decodes_in_every_geometry() {
        for geometry in Geometry::ALL {
            let medium = whole(geometry, Some(&format_seal()));
            let place = DeltaArea { at: LeaseOffset(0), geometry, space: space(), uuid: format_seal().uuid };
            let size = geometry.sector();
            for host in place.hosts() {
                let at = index_of(host).at(size);
                let sector = place.decode(host, &medium[at..at + size.bytes()]).unwrap();
                assert!(sector.leader.is_free() && sector.leader.owner_id == 0);
                assert_eq!(sector.leader.stored_io_timeout(), Some(x(10)));
            }
            let tail = tail_index(geometry).at(size);
            let tail_sector = &medium[tail..tail + size.bytes()];
            assert_eq!(tail_uuid(tail_sector, geometry), Ok(format_seal().uuid));
            assert!(is_zero(&tail_sector[..200]) && is_zero(&tail_sector[256..]));
            assert!(is_zero(&medium[tail + size.bytes()..]));
            // The real dumper takes a sector for a lease that has these three (spec D 2.9).
            assert_eq!((u32_at(tail_sector, 0), u64_at(tail_sector, 32), u64_at(tail_sector, 40)), (0, 0, 0));
        }
    }

    #[test]
    fn three_writes_touch_the_area_and_nothing_else() {
        for geometry in Geometry::ALL {
            let size = geometry.sector().bytes();
            let writes = plan(geometry, space(), x(10), Some(&format_seal()));
            let places: Vec<_> = writes.iter().map(|w| (w.what, w.offset_in_area, w.bytes.len())).collect();
            let body = (FormatStep::Body, size as u64, geometry.area_len() - size);
            assert_eq!(places, [(FormatStep::Invalidate, 0, size), body, (FormatStep::Commit, 0, size)]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_crash_before_the_commit_leaves_nothing_that_is_a_lockspace(
            landed in prop::collection::vec(any::<bool>(), 2047),
            used: bool,
        ) {
            let geometry = Geometry::ALL[0];
            let old = FormatSeal { uuid: AreaUuid::NONE, ..format_seal() };
            let mut medium = if used { whole(geometry, Some(&old)) } else { vec![0; geometry.area_len()] };
            let writes = plan(geometry, space(), x(10), Some(&format_seal()));
            apply(&mut medium, &writes[0]);
            for (sector, _) in landed.iter().enumerate().filter(|(_, landed)| **landed) {
                medium[(sector + 1) * 512..(sector + 2) * 512]
                    .copy_from_slice(&writes[1].bytes[sector * 512..(sector + 1) * 512]);
            }
            let place = DeltaArea { at: LeaseOffset(0), ..area() };
            let host_1 = HostId::from_slot(0).unwrap();
            prop_assert!(place.decode(host_1, &medium[..512]).is_err());
            prop_assert!(is_zero(&medium[..512]), "no magic for sanlock either");
        }
    }
}
