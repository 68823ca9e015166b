//! The resource index: its header and entries, and what is done with an index and areas that say anything.
//!
//! Input of each: control bytes, then bytes to decode, or patches over a small device with an index on it.

use std::time::Duration;

use holdfast_io::bytes::{array_at, u32_at};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::identity::{BootHash, Machine, MachineHash};
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::mem::MemEngine;
use holdfast_io::seal::{AreaUuid, Seal, SealedFire};
use holdfast_io::stop::Stop;
use holdfast_io::units::{Geometry, LeaseOffset, SectorIndex, SectorSize};
use paxos_lease::format::{NewLease, Writer, plan};
use paxos_lease::index::codec::{ENTRY_LEN, Entry, HEADER_LEN, Header, MAGIC, rx_offset, space_name};
use paxos_lease::index::slots::most_resources;
use paxos_lease::index::{self, IndexAt, Reader, Slots};

use super::areas::{Leaps, patch};
use super::{Input, one_line};

/// A header. Control: 1 of the lockspace and at the offset that it names itself; then what to mend.
pub fn index_header(data: &[u8]) {
    let mut input = Input::new(data);
    let (control, mend) = (input.byte(), input.byte());
    let sector = input.sector(SectorSize::B4096, mend);
    let bytes: [u8; 4096] = array_at(&sector, 0);
    let raw: [u8; HEADER_LEN] = array_at(&bytes, 0);
    let own = control & 1 != 0;
    let space = if own { space_name(&raw) } else { SpaceName::from_field(&[b'x'; 48]) };
    let at = IndexAt { at: LeaseOffset(if own { rx_offset(&raw) } else { 1 << 20 }), space };
    match Header::decode(&bytes, &at) {
        Err(error) => one_line(&error),
        Ok(header) => {
            assert_eq!((u32_at(&raw, 0), space_name(&raw), rx_offset(&raw)), (MAGIC, at.space, at.at.0));
            assert!((1..=most_resources(header.geometry)).contains(&header.max_resources));
            again(&header);
            if let Some(slots) = Slots::of(&header) {
                places(&slots, header.geometry);
            }
        }
    }
    let entry: [u8; ENTRY_LEN] = array_at(&bytes, 512);
    let entry = Entry::parse(&entry);
    assert_eq!(Entry::parse(&entry.encode()), entry);
}

/// What was accepted means the same once it is written again.
fn again(header: &Header) {
    let Machine { machine, boot } = machine();
    let (fire, sector) = (SealedFire::NoWatchdog, SectorIndex(0));
    let sector = header.sector(&Seal { fire, machine, boot, area: header.uuid, millis: 0, sector });
    let mut bytes = [0; 4096];
    bytes[..sector.len()].copy_from_slice(&sector);
    assert_eq!(Header::decode(&bytes, &header.index).as_ref(), Ok(header));
}

/// Every place is in the index, and is found by its offset alone.
fn places(slots: &Slots, geometry: Geometry) {
    assert!(slots.entry_sectors() < geometry.sectors());
    for number in [0, 1, slots.count() - 1, slots.count()] {
        let Some(slot) = slots.at(number) else { continue };
        let (sector, at) = slots.entry(slot);
        assert!(sector.0 >= 1 && sector.0 <= slots.entry_sectors() && at + ENTRY_LEN <= geometry.sector().bytes());
        let area = slots.area(slot);
        assert!(slots.slot(area.0).is_err() || slots.slot(area.0) == Ok(slot));
        assert!(slots.slot(area.0.wrapping_add(1)).is_err());
    }
}

fn machine() -> Machine {
    Machine { machine: MachineHash(1), boot: BootHash(2) }
}

/// A device with an index of 4 places and two resources, patched, then listed anew: whatever stood there, each lease is listed
/// in its own place, and a second time changes nothing. Control: none; then patches.
pub fn index_rebuild(data: &[u8]) {
    let mut input = Input::new(data);
    let geometry = Geometry::ALL[1];
    let (Ok(space), area) = (SpaceName::new(b"LS"), geometry.area_len()) else { return };
    let mut bytes = vec![0; 6 * area];
    let at = IndexAt { at: LeaseOffset(0), space };
    let writer = Writer { machine: machine(), fire: SealedFire::NoWatchdog };
    let names = ["a", "b"].map(|name| ResourceName::new(name.as_bytes()).unwrap_or(ResourceName::empty()));
    let header = Header::new(at, geometry, 4, AreaUuid::NONE);
    let mut write = |from: usize, data: &[u8]| bytes[from..from + data.len()].copy_from_slice(data);
    for w in index::format::plan_area(&header, &writer, &names) {
        write(usize::try_from(w.offset_in_area).unwrap_or(0), &w.bytes);
    }
    for (n, resource) in names.into_iter().enumerate() {
        let lease = NewLease { geometry, space, resource, num_hosts: None, uuid: AreaUuid::NONE, place: None };
        for w in plan(&lease, &writer).into_iter().flatten() {
            write((2 + n) * area + usize::try_from(w.offset_in_area).unwrap_or(0), &w.bytes);
        }
    }
    patch(&mut bytes, geometry.sector(), &mut input, 8);
    let clock = Leaps::default();
    let memory = MemEngine::with(bytes);
    let disk = Device::new(memory.clone(), &clock, WriteLimit::none());
    let reader = Reader { disk: &disk, clock: &clock, index: at, patience: Duration::from_secs(10) };
    let first = pollster::block_on(index::rebuild(&reader, &Stop::new()));
    let Ok(first) = first.map_err(|e| one_line(&e)) else { return };
    let Ok(listed) = pollster::block_on(reader.read()) else { unreachable!("it was read a moment ago") };
    assert_eq!(listed.used().count(), first.listed);
    let own = |found: &index::Found| listed.entry(found.slot).res_offset == found.area.0 && !found.name.is_empty();
    assert!(listed.used().all(|found| own(&found)));
    let before = memory.bytes().clone();
    let second = pollster::block_on(index::rebuild(&reader, &Stop::new()));
    assert_eq!(second.map(|r| (r.listed, r.changed)), Ok((first.listed, 0)));
    assert!(*memory.bytes() == before, "nothing is written where nothing differs");
}
