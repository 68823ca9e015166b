//! The resource index without its lease: looking something up, formatting one, and what is to be changed in one whose
//! lockspace is not joined here (the flag NO_LOCKSPACE). Nobody but the caller answers for the last: another host may be at
//! work on the index, as with sanlock.

use holdfast_io::clock::BootClock;
use holdfast_io::ids::{ResourceName, SpaceName};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::stop::Stop;
use holdfast_io::units::{AlignSize, LeaseOffset};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{Command, RindexFlags};
use holdfast_protocol::payload::{Rindex, RindexEntry};
use holdfast_protocol::text::Name48;
use paxos_lease::format::Writer;
use paxos_lease::index::{self, Found, Header, IndexAt, IndexError, Reader};
use tokio::task::spawn_local;

use super::format::Bytes;
use super::{Answer, Context, Refused, geometry_of, path_of};
use crate::codes;
use crate::linux::Linux;
use crate::platform::SharedDisk;
use crate::supervisor::index::{IndexEnd, IndexWork, entry_payload};

/// An entry as a client is told it.
#[must_use]
pub fn wire_entry(found: &Found) -> RindexEntry {
    RindexEntry { name: Name48::from_raw(*found.name.field()), offset: found.area.0, ..RindexEntry::default() }
}

fn refuse(e: &IndexError) -> Refused {
    (codes::of_index(e), codes::chain(e))
}

fn answer(command: Command, end: IndexEnd) -> Answer {
    Answer { code: end.code, data2: 0, payload: entry_payload(command, &end.entry), why: end.why }
}

fn ended(result: Result<RindexEntry, Refused>) -> IndexEnd {
    match result {
        Ok(entry) => IndexEnd { code: ResultCode::OK, entry, why: None },
        Err((code, why)) => IndexEnd::failed(code, why),
    }
}

impl Context {
    /// FORMAT_RINDEX: an empty index and its lease, over whatever is there but what this daemon uses.
    pub(super) async fn format_rindex(&self, asked: &Rindex) -> Result<(), Refused> {
        let space = SpaceName::new(asked.lockspace_name.as_bytes());
        let space = space.map_err(|e| (ResultCode::EINVAL, e.to_string()))?;
        let path = path_of(&asked.disk).ok_or((ResultCode::ENOENT, "no path".to_owned()))?;
        let (file, disk) = self.open(path).await?;
        let geometry = geometry_of(asked.flags.bits(), &file)?;
        let index = IndexAt { at: LeaseOffset(asked.disk.offset), space };
        let header = Header::new(index, geometry, asked.max_resources, AreaUuid::random());
        let writer = Writer { machine: self.machine, fire: SealedFire::NoWatchdog };
        let writes = index::format::plan(&header, &writer).map_err(|e| (ResultCode::EINVAL, e.to_string()))?;
        let writes = writes.into_iter().map(|w| (w.offset_in_area, w.bytes)).collect();
        self.perform(disk, (asked.disk.offset, 2), geometry, writes).await
    }

    /// LOOKUP_RINDEX, and UPDATE_RINDEX without its lockspace.
    pub(super) async fn rindex_entry(
        &self,
        command: Command,
        flags: RindexFlags,
        asked: &Rindex,
        entry: &RindexEntry,
    ) -> Answer {
        if command == Command::LookupRindex {
            return answer(command, self.lookup_rindex(asked, entry).await);
        }
        let end = match IndexWork::read(command, flags, 0, entry) {
            Ok(work) => self.change_rindex(asked, work).await,
            Err((code, why)) => IndexEnd::failed(code, why),
        };
        answer(command, end)
    }

    /// REBUILD_RINDEX without its lockspace.
    pub(super) async fn rebuild_rindex(&self, asked: &Rindex) -> Answer {
        answer(Command::RebuildRindex, self.change_rindex(asked, IndexWork::Rebuild).await)
    }

    async fn lookup_rindex(&self, asked: &Rindex, entry: &RindexEntry) -> IndexEnd {
        let name = ResourceName::from_field(entry.name.raw());
        let name = Some(name).filter(|name| !name.is_empty());
        let offset = Some(entry.offset).filter(|offset| *offset != 0);
        let disk = match self.index_disk(asked).await {
            Ok(disk) => disk,
            Err((code, why)) => return IndexEnd::failed(code, why),
        };
        match self.index_reader(&disk, asked).lookup(name, offset).await {
            Ok(Ok(found)) => ended(Ok(wire_entry(&found))),
            // What is there is told, too (spec A 6).
            Ok(Err(found)) => IndexEnd {
                code: ResultCode::RINDEX_DIFFERS,
                entry: wire_entry(&found),
                why: Some(format!("another resource is at offset {}", found.area.0)),
            },
            Err(e) => ended(Err(refuse(&e))),
        }
    }

    async fn index_disk(&self, asked: &Rindex) -> Result<SharedDisk<Linux>, Refused> {
        let path = path_of(&asked.disk).ok_or((ResultCode::ENOENT, "no path".to_owned()))?;
        let (_, disk) = self.open(path).await?;
        Ok(disk)
    }

    fn index_reader<'a>(
        &'a self,
        disk: &'a SharedDisk<Linux>,
        asked: &Rindex,
    ) -> Reader<'a, SharedDisk<Linux>, BootClock> {
        let space = SpaceName::from_field(asked.lockspace_name.raw());
        let index = IndexAt { at: LeaseOffset(asked.disk.offset), space };
        Reader { disk, clock: &self.clock, index, patience: self.patience }
    }

    /// One after the other, as far as this daemon is concerned, and no format meanwhile: what may still land keeps the index.
    async fn change_rindex(&self, asked: &Rindex, work: IndexWork) -> IndexEnd {
        let disk = match self.index_disk(asked).await {
            Ok(disk) => disk,
            Err((code, why)) => return IndexEnd::failed(code, why),
        };
        let area = Bytes::of(disk.engine().file().node(), asked.disk.offset, AlignSize::M8.bytes());
        let Ok(kept) = self.formats.begin(area) else {
            return IndexEnd::failed(ResultCode::EBUSY, "the index is being worked on, or formatted");
        };
        let reader = self.index_reader(&disk, asked);
        let done = match work {
            IndexWork::Add { name, offset } => index::add(&reader, name, offset).await.map(|f| wire_entry(&f)),
            IndexWork::Remove { name, offset } => {
                index::remove(&reader, name, offset).await.map(|()| RindexEntry::default())
            }
            IndexWork::Rebuild => index::rebuild(&reader, &Stop::new()).await.map(|_| RindexEntry::default()),
            IndexWork::Create { .. } | IndexWork::Delete { .. } => {
                return IndexEnd::failed(ResultCode::ENOENT, "the lockspace is not joined");
            }
        };
        if disk.writes_in_flight() > 0 {
            spawn_local(async move {
                holdfast_io::disk::Disk::reaped(&disk).await;
                drop(kept);
            });
        }
        ended(done.map_err(|e| refuse(&e)))
    }
}
