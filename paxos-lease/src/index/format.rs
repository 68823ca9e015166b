//! Making an index: a plan of writes in the order in which they must be done.
//!
//! | write | after a crash before the next one |
//! | --- | --- |
//! | zero the header's sector | no index here for either program, whatever there was |
//! | zero the entries | the same |
//! | those of the lease `rindex_lease` ([`crate::format::plan`]) | the same |
//! | header | an empty index, and its lease |
//!
//! An index that is formatted over others' resources lists none of them; a rebuild lists them again. Source: spec D 5.

use holdfast_io::identity::Machine;
use holdfast_io::ids::ResourceName;
use holdfast_io::seal::{AreaUuid, Seal};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::SectorIndex;

use super::codec::{ENTRY_LEN, Entry, Header};
use super::lease_name;
use super::slots::Slots;
use crate::format::{FormatError, FormatWrite, NewLease, Writer, plan as plan_lease};

/// The writes that make an index and its lease, in order; offsets count from its start.
///
/// # Errors
/// [`FormatError`]; not with as many hosts as fit.
pub fn plan(header: &Header, writer: &Writer) -> Result<Vec<FormatWrite>, FormatError> {
    let (geometry, space) = (header.geometry, header.index.space);
    let lease =
        NewLease { geometry, space, resource: lease_name(), num_hosts: None, uuid: AreaUuid::random(), place: None };
    let behind = geometry.align().bytes();
    let of_lease = plan_lease(&lease, writer)?;
    let of_lease = of_lease.into_iter().map(|w| FormatWrite { offset_in_area: behind + w.offset_in_area, ..w });
    let mut writes = plan_area(header, writer, &[]);
    // Before the header, which makes it an index.
    let last = writes.len() - 1;
    writes.splice(last..last, of_lease);
    Ok(writes)
}

/// The writes of the index alone, in order. `listed`: names of resources in its first places. Their leases, and its own, are there
/// before this begins.
#[must_use]
pub fn plan_area(header: &Header, writer: &Writer, listed: &[ResourceName]) -> Vec<FormatWrite> {
    let size = header.geometry.sector().bytes();
    let mut entries = AlignedBuf::zeroed(header.geometry.area_len() - size);
    if let Some(slots) = Slots::of(header) {
        for ((slot, name), place) in slots.all().zip(listed).zip(entries.chunks_exact_mut(ENTRY_LEN)) {
            place.copy_from_slice(&Entry::of(*name, slots.area(slot)).encode());
        }
    }
    let Machine { machine, boot } = writer.machine;
    let seal = Seal { fire: writer.fire, machine, boot, area: header.uuid, millis: 0, sector: SectorIndex(0) };
    vec![
        FormatWrite { offset_in_area: 0, bytes: AlignedBuf::zeroed(size), what: "blank index header" },
        FormatWrite { offset_in_area: size as u64, bytes: entries, what: "index entries" },
        FormatWrite { offset_in_area: 0, bytes: header.sector(&seal), what: "index header" },
    ]
}
