//! A resource index as plain data: its header and the entries in use. Source: spec D 2.7 and 2.8.

use holdfast_io::bytes::array_at;
use holdfast_io::units::{LeaseOffset, SectorIndex, SectorSize};
use paxos_lease::index::codec::{self, ENTRY_LEN, Entry, HEADER_LEN, Header};
use paxos_lease::index::{IndexAt, Slots};

use super::area::View;
use super::report::{Damage, Index, IndexEntry};

/// The index in an area.
pub fn read(view: &View, damage: &mut Vec<Damage>) -> Index {
    let first = SectorIndex(0);
    let bytes: [u8; HEADER_LEN] = array_at(view.sector(first), 0);
    let space = codec::space_name(&bytes);
    let mut whole = [0; SectorSize::B4096.bytes()];
    whole[..view.sector(first).len()].copy_from_slice(view.sector(first));
    let header = Header::decode(&whole, &IndexAt { at: LeaseOffset(view.offset), space });
    let wrong = view.unreadable(first).or_else(|| header.as_ref().err().map(reason));
    damage.extend(wrong.map(|reason| view.damage(first, "index header".into(), reason)));
    let slots = header.as_ref().ok().and_then(Slots::of);
    let mut entries = Vec::new();
    for number in 1..view.geometry.sectors() {
        let sector = SectorIndex(number);
        if let Some(reason) = view.unreadable(sector) {
            damage.push(view.damage(sector, "index entries".into(), reason));
        }
        for (place, bytes) in view.sector(sector).chunks_exact(ENTRY_LEN).enumerate() {
            let entry = Entry::parse(&array_at(bytes, 0));
            if entry.is_free() {
                continue;
            }
            let index = (number as usize - 1) * (view.geometry.sector().bytes() / ENTRY_LEN) + place;
            let slot = slots.and_then(|slots| slots.at(u32::try_from(index).ok()?).map(|slot| slots.area(slot)));
            if let Some(area) = slot.filter(|area| area.0 != entry.res_offset) {
                let reason = format!("entry {index} names offset {}, its place is {}", entry.res_offset, area.0);
                damage.push(view.damage(sector, "index entry".into(), reason));
            }
            entries.push(IndexEntry {
                index,
                at: view.at(sector) + (place * ENTRY_LEN) as u64,
                name: entry.name.to_string(),
                res_offset: entry.res_offset,
                flags: entry.flags,
            });
        }
    }
    Index {
        lockspace: space.to_string(),
        max_resources: codec::max_resources(&bytes),
        rx_offset: codec::rx_offset(&bytes),
        entries,
    }
}

/// What is wrong with a header, with what is behind it.
fn reason(error: &codec::HeaderError) -> String {
    holdfast_daemon::codes::chain(error)
}
