//! A resource index as plain data: its header and the entries in use. Source: spec D 2.7 and 2.8.

use holdfast_io::bytes::{array_at, is_zero, u32_at, u64_at};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::units::SectorIndex;

use super::area::View;
use super::report::{Damage, Index, IndexEntry};

const ENTRY: usize = 64;
const ENTRY_NAME: usize = 16;
const MAJOR: u32 = 1;

/// The index in an area.
pub fn read(view: &View, damage: &mut Vec<Damage>) -> Index {
    let first = SectorIndex(0);
    let header = view.sector(first);
    let (version, rx_offset) = (u32_at(header, 4), u64_at(header, 24));
    let wrong = view
        .unreadable(first)
        .or_else(|| (version >> 16 != MAJOR).then(|| format!("version 0x{version:x}, expected {MAJOR}.x")))
        .or_else(|| (rx_offset != view.offset).then(|| format!("says it stands at {rx_offset}")));
    damage.extend(wrong.map(|reason| view.damage(first, "index header".into(), reason)));
    let mut entries = Vec::new();
    for number in 1..view.geometry.sectors() {
        let index = SectorIndex(number);
        if let Some(reason) = view.unreadable(index) {
            damage.push(view.damage(index, "index entries".into(), reason));
        }
        for (place, entry) in view.sector(index).chunks_exact(ENTRY).enumerate() {
            if !is_zero(&entry[..8]) || entry[ENTRY_NAME] != 0 {
                let per_sector = view.geometry.sector().bytes() / ENTRY;
                entries.push(IndexEntry {
                    index: (number as usize - 1) * per_sector + place,
                    at: view.at(index) + (place * ENTRY) as u64,
                    name: ResourceName::from_field(&array_at(entry, ENTRY_NAME)).to_string(),
                    res_offset: u64_at(entry, 0),
                    flags: u32_at(entry, 8),
                });
            }
        }
    }
    Index {
        lockspace: SpaceName::from_field(&array_at(header, 32)).to_string(),
        max_resources: u32_at(header, 16),
        rx_offset,
        entries,
    }
}
