//! Laying out a resource's area, and clearing it: plans of writes in the order in which they must be done.
//!
//! | plan | write | after a crash before the next one |
//! | --- | --- | --- |
//! | [`plan`] | zero the leader sector | no lease here for either program |
//! | | request record, dblocks, tail with the area's UUID | the same, whatever part of it landed |
//! | | leader record | the lease exists |
//! | [`clear`] | cleared leader record | the lease is gone |
//! | | everything behind it | the same |
//!
//! A format over an old area begins at lver 0 again, so I2 holds between two formats only: whoever forces one answers
//! for nobody using the old lease. Source: spec D 4.1.

use holdfast_io::bytes::put;
use holdfast_io::clock::LocalInstant;
use holdfast_io::identity::Machine;
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::leader::{LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, Seal, SealedFire, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{Geometry, SectorIndex};

use crate::copies::Place;
use crate::layout::{LEADER, REQUEST, uuid_sector};
use crate::request::RequestRecord;

/// One write of a plan. Each is done, and on the medium, before the next begins; one that is longer than a sector may
/// tear between sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatWrite {
    /// Bytes from the start of the area.
    pub offset_in_area: u64,
    /// What to write.
    pub bytes: AlignedBuf,
    /// For progress and errors.
    pub what: &'static str,
}

/// Who formats, for the seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writer {
    /// Its machine.
    pub machine: Machine,
    /// Its watchdog; a tool that joins nothing has none.
    pub fire: SealedFire,
}

/// The lease that is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLease {
    /// Its shape.
    pub geometry: Geometry,
    /// Its lockspace.
    pub space: SpaceName,
    /// Its name.
    pub resource: ResourceName,
    /// Dblocks in use; `None` for as many as fit.
    pub num_hosts: Option<u32>,
    /// The area's new UUID.
    pub uuid: AreaUuid,
    /// Which copy this is; `None`: the only one.
    pub place: Option<Place>,
}

/// A lease that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// More hosts than fit, or none.
    #[error("num_hosts {found} does not fit an area of {geometry}, expected 1 to {}", .geometry.max_hosts())]
    NumHosts {
        /// Asked for.
        found: u32,
        /// The area's shape.
        geometry: Geometry,
    },
}

/// The writes that make a lease, in order.
///
/// # Errors
/// [`FormatError`].
pub fn plan(lease: &NewLease, writer: &Writer) -> Result<Vec<FormatWrite>, FormatError> {
    let formatted = record(LeaderKind::Paxos, lease)?;
    let blank = AlignedBuf::zeroed(lease.geometry.sector().bytes());
    Ok(vec![
        FormatWrite { offset_in_area: 0, bytes: blank, what: "blank leader sector" },
        rest(lease, writer),
        FormatWrite { offset_in_area: 0, bytes: leader_sector(lease, writer, &formatted), what: "leader record" },
    ])
}

/// The writes that clear a lease, in order.
///
/// # Errors
/// [`FormatError`].
pub fn clear(lease: &NewLease, writer: &Writer, now: LocalInstant) -> Result<Vec<FormatWrite>, FormatError> {
    let cleared = LeaderRecord { write_timestamp: now.disk_seconds(), ..record(LeaderKind::Cleared, lease)? };
    let leader = leader_sector(lease, writer, &cleared);
    Ok(vec![FormatWrite { offset_in_area: 0, bytes: leader, what: "cleared leader record" }, rest(lease, writer)])
}

fn record(kind: LeaderKind, lease: &NewLease) -> Result<LeaderRecord, FormatError> {
    let most = lease.geometry.max_hosts();
    let num_hosts = lease.num_hosts.unwrap_or(most);
    if num_hosts == 0 || num_hosts > most {
        return Err(FormatError::NumHosts { found: num_hosts, geometry: lease.geometry });
    }
    Ok(LeaderRecord {
        resource_name: lease.resource,
        num_hosts: u64::from(num_hosts),
        ..LeaderRecord::formatted(kind, lease.geometry, lease.space)
    })
}

fn seal_of(lease: &NewLease, writer: &Writer, sector: SectorIndex) -> Seal {
    let Machine { machine, boot } = writer.machine;
    Seal { fire: writer.fire, machine, boot, area: lease.uuid, millis: 0, sector }
}

fn leader_sector(lease: &NewLease, writer: &Writer, record: &LeaderRecord) -> AlignedBuf {
    let mut sector = AlignedBuf::zeroed(lease.geometry.sector().bytes());
    put(&mut sector, 0, &record.encode());
    seal::write(&mut sector, SealedKind::Plain, &seal_of(lease, writer, LEADER));
    sector
}

/// Everything behind the leader: request record, zero dblocks, and a tail that holds the UUID in a sector that is zero
/// but for its seal.
fn rest(lease: &NewLease, writer: &Writer) -> FormatWrite {
    let size = lease.geometry.sector();
    let mut bytes = AlignedBuf::zeroed(lease.geometry.area_len() - size.bytes());
    let mut sealed = |at: SectorIndex, content: &[u8]| {
        let from = at.at(size) - size.bytes();
        let sector = &mut bytes[from..from + size.bytes()];
        put(sector, 0, content);
        seal::write(sector, SealedKind::Plain, &seal_of(lease, writer, at));
    };
    sealed(REQUEST, &RequestRecord::formatted().encode());
    let mut tail = vec![0; size.bytes()];
    if let Some(place) = lease.place {
        place.put_into(&mut tail);
    }
    sealed(uuid_sector(lease.geometry), &tail);
    FormatWrite { offset_in_area: size.bytes() as u64, bytes, what: "request record, dblocks and tail" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{machine, uuid};
    use holdfast_io::bytes::{is_zero, u32_at};
    use holdfast_io::leader::{Decoded, Expected};

    fn lease(space: &[u8], resource: &[u8], geometry: Geometry) -> NewLease {
        let (space, resource) = (SpaceName::new(space).unwrap(), ResourceName::new(resource).unwrap());
        NewLease { geometry, space, resource, num_hosts: None, uuid: uuid(), place: None }
    }

    fn writer() -> Writer {
        Writer { machine: machine(1), fire: SealedFire::NoWatchdog }
    }

    fn apply(area: &mut [u8], write: &FormatWrite) {
        let at = usize::try_from(write.offset_in_area).unwrap();
        area[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }

    fn leader(area: &[u8]) -> Decoded<LeaderRecord> {
        let bytes = holdfast_io::bytes::array_at(area, 0);
        LeaderRecord::decode(&bytes, LeaderKind::Paxos, &Expected::default()).unwrap()
    }

    #[test]
    fn g3_formatted_and_cleared_leaders_have_the_checksums_of_the_real_program() {
        let [small, .., big] = Geometry::ALL;
        let checksum = |writes: Vec<FormatWrite>, at: usize| u32_at(&writes[at].bytes, 168);
        assert_eq!(checksum(plan(&lease(b"LS1", b"RES1", small), &writer()).unwrap(), 2), 0x1d6a_1592);
        assert_eq!(checksum(plan(&lease(b"LS2", b"RES2", big), &writer()).unwrap(), 2), 0xcdc6_46e7);
        assert_eq!(checksum(plan(&lease(b"LS1", b"rindex_lease", small), &writer()).unwrap(), 2), 0x074b_2932);
        let now = LocalInstant::from_nanos(1_000_000_000);
        assert_eq!(checksum(clear(&lease(b"LSX", b"CL", small), &writer(), now).unwrap(), 0), 0x26d9_b6f2);
    }

    #[test]
    fn a_formatted_area_is_what_the_real_program_makes_but_for_the_seals() {
        for geometry in Geometry::ALL {
            let mut area = vec![0xAA; geometry.area_len()];
            plan(&lease(b"LS", b"R", geometry), &writer()).unwrap().iter().for_each(|w| apply(&mut area, w));
            assert!(matches!(leader(&area), Decoded::Record(r) if r.num_hosts == u64::from(geometry.max_hosts())));
            for (i, sector) in area.chunks_exact(geometry.sector().bytes()).enumerate() {
                let at = SectorIndex(u32::try_from(i).unwrap());
                if at == LEADER || at == REQUEST || at == uuid_sector(geometry) {
                    let seal = seal::read(sector, SealedKind::Plain, at).unwrap().unwrap();
                    assert_eq!(seal.area, uuid());
                    assert!(is_zero(&sector[seal::END..]));
                    assert!(at != uuid_sector(geometry) || is_zero(&sector[..seal::OFFSET]));
                } else {
                    assert!(is_zero(sector), "sector {at} of {geometry}");
                }
            }
        }
    }

    #[test]
    fn a_crash_at_any_write_of_a_format_leaves_no_lease_and_after_the_last_a_whole_one() {
        let new = lease(b"LS", b"NEW", Geometry::ALL[0]);
        let old = lease(b"LS", b"OLD", Geometry::ALL[0]);
        let mut used = vec![0; old.geometry.area_len()];
        plan(&old, &writer()).unwrap().iter().for_each(|w| apply(&mut used, w));
        let writes = plan(&new, &writer()).unwrap();
        for done in 1..writes.len() {
            let mut area = used.clone();
            writes[..done].iter().for_each(|w| apply(&mut area, w));
            assert_eq!(leader(&area), Decoded::Blank, "after {done} writes");
        }
        let cleared = clear(&old, &writer(), LocalInstant::from_nanos(1)).unwrap();
        for done in 1..=cleared.len() {
            let mut area = used.clone();
            cleared[..done].iter().for_each(|w| apply(&mut area, w));
            assert!(matches!(leader(&area), Decoded::Cleared(_)), "after {done} writes");
        }
    }

    #[test]
    fn hosts_that_do_not_fit_are_refused() {
        let geometry = Geometry::ALL[1];
        for found in [0, 251] {
            let bad = NewLease { num_hosts: Some(found), ..lease(b"LS", b"R", geometry) };
            assert_eq!(plan(&bad, &writer()), Err(FormatError::NumHosts { found, geometry }));
        }
    }
}
