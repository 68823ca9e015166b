//! Finding lease areas: by the magic of their first sector, and where that is damaged by what stands behind it.
//!
//! Areas begin at multiples of 1 MiB; what is between them is skipped by each area's own length. A lockspace repeats
//! its shape in every host's sector, so any of them will do. A resource whose leader is gone is known by its request
//! record in sector 1, which tells the sector size; its length then comes from the area's own tail seal or, failing
//! that, from the area found before it.

use holdfast_io::bytes::{array_at, u32_at};
use holdfast_io::leader::{self, Decoded, LeaderKind, LeaderRecord};
use holdfast_io::units::{Geometry, SectorSize};
use paxos_lease::index::codec;
use paxos_lease::request::RequestRecord;

/// Distance between places where an area may begin.
pub const STEP: u64 = 1 << 20;
/// Bytes looked at in each such place: four sectors of 4096, 32 of 512.
pub const HEAD: usize = 16 * 1024;

/// What begins somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A lockspace.
    Lockspace,
    /// A resource, cleared ones included.
    Resource,
    /// A resource index.
    Index,
}

/// An area that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Its shape.
    pub geometry: Geometry,
    /// Whether the length is a guess, because no record that tells it can be read.
    pub guessed: bool,
}

/// What begins with these bytes. `before` is the shape of the area found last, for a guess.
#[must_use]
pub fn recognise(head: &[u8], before: Option<Geometry>) -> Option<Found> {
    if head.len() < 512 {
        return None;
    }
    by_magic(head, before).or_else(|| by_delta_sectors(head)).or_else(|| by_request(head, before))
}

fn by_magic(head: &[u8], before: Option<Geometry>) -> Option<Found> {
    let magic = u32_at(head, 0);
    let (kind, geometry) = if magic == codec::MAGIC {
        (Kind::Index, codec::geometry(&array_at(head, 0)))
    } else {
        let kind = match LeaderKind::of_magic(magic)? {
            LeaderKind::Delta => Kind::Lockspace,
            LeaderKind::Paxos | LeaderKind::Cleared => Kind::Resource,
        };
        (kind, LeaderRecord::parse(&array_at(head, 0)).geometry())
    };
    if let Some(geometry) = geometry {
        return Some(Found { kind, geometry, guessed: false });
    }
    // The magic is there, the sizes are not: another sector of a lockspace tells them.
    let sure = by_delta_sectors(head).filter(|_| kind == Kind::Lockspace);
    sure.or_else(|| by_request(head, before).filter(|_| kind == Kind::Resource)).or(Some(Found {
        kind,
        geometry: before.unwrap_or(Geometry::default_for(SectorSize::B512)),
        guessed: true,
    }))
}

fn by_delta_sectors(head: &[u8]) -> Option<Found> {
    let geometry = head.chunks_exact(512).skip(1).find_map(|sector| {
        let record = array_at::<{ leader::LEN }>(sector, 0);
        let (found, expected) = LeaderRecord::checksums(&record);
        let record = LeaderRecord::parse(&record);
        if record.kind() == Some(LeaderKind::Delta) && found == expected { record.geometry() } else { None }
    })?;
    Some(Found { kind: Kind::Lockspace, geometry, guessed: false })
}

fn by_request(head: &[u8], before: Option<Geometry>) -> Option<Found> {
    [SectorSize::B512, SectorSize::B4096].into_iter().find_map(|size| {
        let at = size.bytes();
        let sector = head.get(at..at + at);
        let there = sector.is_some_and(|s| matches!(RequestRecord::decode(s), Ok((Decoded::Record(_), _))));
        let geometry = before.filter(|g| g.sector() == size).unwrap_or(Geometry::default_for(size));
        // 512-byte sectors leave no choice of length.
        there.then_some(Found { kind: Kind::Resource, geometry, guessed: size == SectorSize::B4096 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_io::ids::SpaceName;
    use holdfast_io::units::AlignSize;

    fn lockspace(geometry: Geometry) -> Vec<u8> {
        let record = LeaderRecord::formatted(LeaderKind::Delta, geometry, SpaceName::new(b"LS").unwrap()).encode();
        let mut head = vec![0; HEAD];
        for sector in head.chunks_exact_mut(geometry.sector().bytes()) {
            sector[..leader::LEN].copy_from_slice(&record);
        }
        head
    }

    #[test]
    fn a_lockspace_is_found_without_its_first_sector() {
        for geometry in Geometry::ALL {
            let mut head = lockspace(geometry);
            let whole = Some(Found { kind: Kind::Lockspace, geometry, guessed: false });
            assert_eq!(recognise(&head, None), whole);
            head[..geometry.sector().bytes()].fill(0);
            assert_eq!(recognise(&head, None), whole);
        }
    }

    #[test]
    fn a_resource_is_found_by_its_request_record() {
        let mut head = vec![0; HEAD];
        head[4096..4104].copy_from_slice(&[0x11, 0x20, 0x29, 0x08, 1, 0, 1, 0]);
        let before = Geometry::new(SectorSize::B4096, AlignSize::M2).unwrap();
        let found = recognise(&head, Some(before)).unwrap();
        assert_eq!((found.kind, found.geometry, found.guessed), (Kind::Resource, before, true));
    }

    #[test]
    fn zeros_and_noise_are_no_area() {
        assert_eq!(recognise(&vec![0; HEAD], None), None);
        assert_eq!(recognise(&vec![0xA5; HEAD], None), None);
        assert_eq!(recognise(&[0x10, 0x20, 0x21, 0x12], None), None);
    }
}
