//! Formatting what is a copy of a lease on several disks.
//!
//! One of three copies that becomes a lease of its own leaves two, which are a majority: a host that is told of the new lease alone and one
//! that still names all three would both have it (S1). So a copy is overwritten, or cleared, only together with so many others that those
//! which are left are no majority of what they say they are. Whether that lease is in use anywhere, or the others are there at all, cannot be
//! told here: whoever knows has `holdfast init --force`.

use holdfast_io::disk::{IoErrorKind, ReadDisk};
use holdfast_io::leader::{Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{self, AreaUuid, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;
use paxos_lease::Place;
use paxos_lease::layout::uuid_sector;

use super::{Context, Refused, ToFormat, leader_bytes, refuse_io};

impl Context {
    /// Refuses a format after which a majority of some lease's copies would be left.
    pub(super) async fn must_leave_no_majority(&self, disks: &[ToFormat]) -> Result<(), Refused> {
        let mut copies: Vec<(&ToFormat, AreaUuid, Place)> = Vec::new();
        for disk in disks {
            copies.extend(self.copy_at(disk).await?.map(|(uuid, place)| (disk, uuid, place)));
        }
        for (disk, uuid, place) in &copies {
            let (of, needed) = (place.copies, place.copies / 2 + 1);
            let of_it = |number: &u8| copies.iter().any(|(_, its, p)| its == uuid && p.copy == *number);
            let named = (1..=of).filter(of_it).count();
            if named < usize::from(needed) {
                let why = format!(
                    "{}:{} is copy {} of {of} of a lease on several disks: it is formatted or cleared only together with \
                     others of them, {needed} in all, so that no majority is left; {named} named. Where those are gone, \
                     holdfast init --force overwrites it",
                    disk.file.path(),
                    disk.offset,
                    place.copy
                );
                return Err((ResultCode::EBUSY, why));
            }
        }
        Ok(())
    }

    /// Which copy of how many an area says it is. A damaged leader record does not make it none: the others may be well.
    async fn copy_at(&self, disk: &ToFormat) -> Result<Option<(AreaUuid, Place)>, Refused> {
        let Some(first) = self.read_there(disk, disk.offset, 4096).await? else { return Ok(None) };
        let (nothing, record) = (Expected { space: None, resource: None, host_id: None }, leader_bytes(&first));
        if let Ok(Decoded::Blank | Decoded::Cleared(_)) = LeaderRecord::decode(&record, LeaderKind::Paxos, &nothing) {
            return Ok(None);
        }
        let geometry = LeaderRecord::parse(&record).geometry().filter(|g| g.sector() >= disk.file.sector());
        let Some(geometry) = geometry else { return Ok(None) };
        let (at, size) = (uuid_sector(geometry), geometry.sector());
        let offset = LeaseOffset(disk.offset).sector(at, size);
        let Some(sector) = self.read_there(disk, offset, size.bytes()).await? else { return Ok(None) };
        let Ok(Some(seal)) = seal::read(&sector, SealedKind::Plain, at) else { return Ok(None) };
        Ok(Place::of_sealed(&sector).map(|place| (seal.area, place)))
    }

    /// `None`: the device ends before that.
    async fn read_there(&self, disk: &ToFormat, at: u64, len: usize) -> Result<Option<AlignedBuf>, Refused> {
        match disk.device.read(at, len, self.by()).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if matches!(e.kind, IoErrorKind::Short { .. }) => Ok(None),
            Err(e) => Err(refuse_io(e)),
        }
    }
}
