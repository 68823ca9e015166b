//! One area's bytes with what is known about them, and its way into the report.

use holdfast_io::bytes::{array_at, is_zero};
use holdfast_io::leader;
use holdfast_io::seal::{self, AreaUuid, Seal, SealedKind};
use holdfast_io::units::{Geometry, SectorIndex};
use paxos_lease::Place;

use super::find::{Found, Kind};
use super::read::Pieces;
use super::report::{Area, Content, CopyReport, Damage, SealReport, hex};
use super::{index, lockspace, resource};

/// An area that was read, as far as it could be.
pub struct View {
    /// Where it begins on the device.
    pub offset: u64,
    /// Its shape.
    pub geometry: Geometry,
    /// The index of the sector that carries the area's own seal.
    pub tail: SectorIndex,
    pieces: Pieces,
}

impl View {
    /// The bytes of a sector; zeros where it could not be read.
    pub fn sector(&self, index: SectorIndex) -> &[u8] {
        let size = self.geometry.sector();
        &self.pieces.bytes[index.at(size)..][..size.bytes()]
    }

    /// The bytes of a sector in which a leader record may stand.
    pub fn record(&self, index: SectorIndex) -> [u8; leader::LEN] {
        array_at(self.sector(index), 0)
    }

    /// Where a sector begins on the device.
    pub fn at(&self, index: SectorIndex) -> u64 {
        self.offset.saturating_add(index.at(self.geometry.sector()) as u64)
    }

    /// Why a sector could not be read.
    pub fn unreadable(&self, index: SectorIndex) -> Option<String> {
        self.pieces.hole_at(self.at(index)).map(|hole| format!("cannot be read: {}", hole.reason))
    }

    /// A line for the damage list about a whole sector.
    pub fn damage(&self, index: SectorIndex, record: String, reason: String) -> Damage {
        let bytes = self.sector(index);
        let readable = self.unreadable(index).is_none();
        Damage { offset: self.at(index), length: bytes.len() as u64, record, reason, hex: readable.then(|| hex(bytes)) }
    }

    /// The area's own seal, and tail sectors that cannot be read. What stands in the other tail sectors is nobody's:
    /// real programs preserve it, so it is no damage.
    pub fn check_tail(&self, damage: &mut Vec<Damage>) {
        for index in (self.tail.0..self.geometry.sectors()).map(SectorIndex) {
            if let Some(reason) = self.unreadable(index) {
                damage.push(self.damage(index, "unused tail".into(), reason));
            }
        }
        if self.unreadable(self.tail).is_none()
            && let Err(error) = seal::read(self.sector(self.tail), SealedKind::Plain, self.tail)
        {
            damage.push(self.damage(self.tail, "area seal".into(), error.to_string()));
        }
    }

    /// The UUID that every seal in the area must carry; `None` if the area's own seal cannot be read.
    pub fn uuid(&self) -> Option<AreaUuid> {
        if self.unreadable(self.tail).is_some() {
            return None;
        }
        let seal = seal::read(self.sector(self.tail), SealedKind::Plain, self.tail).ok()?;
        Some(seal.map_or(AreaUuid::NONE, |s| s.area))
    }

    /// What is wrong with a seal that was made for another area, or for an earlier format of this one.
    pub fn wrong_area(&self, seal: &Seal) -> Option<String> {
        let expected = self.uuid().filter(|uuid| *uuid != seal.area)?;
        Some(format!("sealed for lease area {}, but stands in area {}", seal.area.0, expected.0))
    }

    /// The seal of the tail sector, or of an index's header, if it is whole.
    fn area_seal(&self, kind: Kind) -> Option<Seal> {
        let at = if kind == Kind::Index { SectorIndex(0) } else { self.tail };
        seal::read(self.sector(at), SealedKind::Plain, at).ok().flatten()
    }
}

/// The area that begins at `offset`, read into `pieces`.
pub fn area(offset: u64, found: Found, pieces: Pieces) -> Area {
    let geometry = found.geometry;
    let tail = tail_of(found.kind, geometry);
    let view = View { offset, geometry, tail, pieces };
    let mut damage = Vec::new();
    if found.guessed {
        let reason = format!("no record tells the area's length: {} is assumed", geometry.align());
        damage.push(view.damage(SectorIndex(0), "leader".into(), reason));
    }
    let content = match found.kind {
        Kind::Lockspace => Content::Lockspace(lockspace::read(&view, &mut damage)),
        Kind::Resource => Content::Resource(Box::new(resource::read(&view, &mut damage))),
        Kind::Index => Content::Index(index::read(&view, &mut damage)),
    };
    let seal = view.area_seal(found.kind);
    Area {
        offset,
        length: geometry.align().bytes(),
        sector_size: geometry.sector().bytes(),
        max_hosts: geometry.max_hosts(),
        copy: seal
            .filter(|_| found.kind == Kind::Resource)
            .and_then(|_| Place::of_sealed(view.sector(tail)))
            .map(|place| CopyReport { number: place.copy, of: place.copies }),
        area_uuid: seal.filter(|s| !s.area.0.is_nil()).map(|s| s.area.0.to_string()),
        formatted_by: seal.map(SealReport::from),
        content,
        damage: merge(damage),
        raw: view.pieces.bytes,
        geometry,
    }
}

/// Neighbouring sectors with the same complaint become one entry, or a wiped lockspace would fill the screen.
fn merge(damage: Vec<Damage>) -> Vec<Damage> {
    let mut merged: Vec<Damage> = Vec::new();
    for next in damage {
        let blank = |d: &Damage| d.hex.as_deref().is_none_or(str::is_empty);
        match merged.last_mut() {
            Some(last)
                if last.reason == next.reason
                    && last.offset + last.length == next.offset
                    && blank(last)
                    && blank(&next) =>
            {
                last.length += next.length;
                let first = last.record.split(" to ").next().unwrap_or_default().to_owned();
                last.record = format!("{first} to {}", next.record);
            }
            _ => merged.push(next),
        }
    }
    merged
}

/// The sector in which the area's own seal stands.
const fn tail_of(kind: Kind, geometry: Geometry) -> SectorIndex {
    match kind {
        Kind::Resource => paxos_lease::layout::uuid_sector(geometry),
        Kind::Lockspace | Kind::Index => delta_lease::layout::tail_index(geometry),
    }
}

/// Whether nothing but zeros was read, and all of it could be read.
#[must_use]
pub fn is_blank(pieces: &Pieces) -> bool {
    pieces.is_whole() && is_zero(&pieces.bytes)
}
