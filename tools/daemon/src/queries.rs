//! Requests answered from the disk, from what was observed of other hosts, or from the log: GET_HOSTS, HOST_STATUS, ALIGN,
//! READ_*, WRITE_*, LOG_DUMP, EXPLAIN, CONFIRM_DEAD, LOOKUP_RINDEX, FORMAT_RINDEX.
//!
//! They change nothing in the supervisor's state and each runs as a task of its own, so a disk that hangs delays only the
//! client that asked for it. Spec A 6.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use delta_lease::liveness::Observation;
use delta_lease::{DeltaArea, HostState as State};
use holdfast_io::clock::{BootClock, Clock, First, LocalInstant, first_of};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::{IoError, ReadDisk};
use holdfast_io::identity::Machine;
use holdfast_io::ids::{HostId, HostTerm, ResourceName, SpaceName};
use holdfast_io::leader::{self, Decoded, Expected, LeaderKind, LeaderRecord};
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::linux::{BlockFile, Engines, FileKind, NodeId};
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorSize};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{LeaseFlags, LockspaceFlags, WriteResourceFlags};
use holdfast_protocol::payload::{Disk as WireDisk, Host, HostState, Lockspace, Resource};
use holdfast_protocol::request::Request;
use holdfast_protocol::state::{StateRecord, StateText};
use holdfast_protocol::text::Name48;
use paxos_lease::copies::MOST as MOST_DISKS;
use paxos_lease::{Copies, Place};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use crate::codes;
use crate::lease_disk::{LeaseCopy, LeaseDisk, names_one_twice, side_by_side};
use crate::linux::Linux;
use crate::log_ring::LogRing;
use crate::nodes::Nodes;
use crate::platform::SharedDisk;
use crate::resource::SpaceShared;
use crate::supervisor::event::Place as NamedPlace;

mod confirm;
mod copies;
pub mod format;
mod index;

use format::{Bytes, Formats, Formatting, InUse};
pub use index::wire_entry;

/// How long opening a device, or a read of it, may take on behalf of a client.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Threads for all queries on one device: a hang in it costs these, however many ask.
const AT_ONCE: usize = 4;

/// An answer: result, data2, payload.
pub struct Answer {
    /// The result.
    pub code: ResultCode,
    /// `data2`.
    pub data2: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
    /// What went wrong, for the log.
    pub why: Option<String>,
}

impl Answer {
    fn ok(payload: Vec<u8>) -> Self {
        Answer { code: ResultCode::OK, data2: 0, payload, why: None }
    }

    fn of(result: Result<(), Refused>) -> Self {
        match result {
            Ok(()) => Self::ok(Vec::new()),
            Err((code, why)) => Answer { code, data2: 0, payload: Vec::new(), why: Some(why) },
        }
    }

    /// A failure.
    #[must_use]
    pub fn refused(code: ResultCode) -> Self {
        Answer { code, data2: 0, payload: Vec::new(), why: None }
    }
}

type Refused = (ResultCode, String);

/// A disk of a lease that is to be formatted.
struct ToFormat {
    file: Arc<BlockFile>,
    device: SharedDisk<Linux>,
    offset: u64,
}

impl ToFormat {
    /// Whether the device takes an area of these sizes, as far as that can be said before anything is written.
    fn has_room_for(&self, geometry: Geometry) -> Result<(), Refused> {
        let path = self.file.path();
        if self.file.sector() > geometry.sector() {
            let why = format!("{path} has larger sectors than {geometry}");
            return Err((ResultCode::EINVAL, why));
        }
        let end = self.offset.checked_add(geometry.align().bytes());
        if self.file.kind() == FileKind::Block && end.is_none_or(|end| end > self.file.len()) {
            return Err((ResultCode::EINVAL, format!("{path} ends before the area at {} does", self.offset)));
        }
        Ok(())
    }
}

/// What a query needs of the daemon.
#[derive(Clone)]
pub struct Context {
    /// The clock.
    pub clock: BootClock,
    /// The open devices.
    pub nodes: Arc<Nodes>,
    /// What reads and writes them.
    pub engines: Arc<Engines>,
    /// How long a device is waited for: [`PATIENCE`].
    pub patience: Duration,
    /// This machine, for the seals of what is formatted.
    pub machine: Machine,
    /// The lockspace that the request names, if it is joined.
    pub space: Option<Rc<SpaceShared>>,
    /// Every lockspace of this daemon: its area and its leases are not formatted.
    pub used: Rc<Vec<InUse>>,
    /// The formattings whose writes may still land.
    pub formats: Formats,
    /// The latest log lines.
    pub log: LogRing,
    /// Who asks.
    pub asking: Asking,
}

/// Who is behind a connection, as the kernel noted it when it was made.
#[derive(Clone, Debug)]
pub struct Asking {
    /// Its process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// Whose rights it may ask for.
    pub rights: Rights,
}

/// What a request would overwrite, whatever stands there: names and places.
#[must_use]
pub fn formats(request: &Request) -> Option<String> {
    let place = |disk: &WireDisk| format!("{}:{}", path_of(disk).unwrap_or_default().display(), disk.offset);
    Some(match request {
        Request::WriteLockspace { lockspace, .. } => format!("{} at {}", lockspace.name, place(&lockspace.disk)),
        Request::WriteResource { resource, .. } => {
            let places: Vec<String> = resource.disks.iter().map(place).collect();
            format!("{}:{} at {}", resource.head.lockspace_name, resource.head.name, places.join(", "))
        }
        Request::FormatRindex { index } => format!("index of {} at {}", index.lockspace_name, place(&index.disk)),
        _ => return None,
    })
}

/// Answers a request.
pub async fn answer(context: Context, request: Request) -> Answer {
    match request {
        Request::GetHosts { lockspace } => context.get_hosts(&lockspace),
        Request::HostStatus { .. } => context.host_status(),
        Request::LogDump => log_dump(&context.log),
        Request::Align { disk } => context.align(&disk).await,
        Request::ReadResourceOwners { resource } => context.read_owners(resource).await,
        Request::ReadLockspace { lockspace } => context.read_lockspace(lockspace).await,
        Request::WriteLockspace { io_timeout, lockspace, .. } => {
            Answer::of(context.write_lockspace(io_timeout, &lockspace).await)
        }
        Request::ReadResource { resource } => context.read_resource(resource).await,
        Request::WriteResource { flags, num_hosts, resource, .. } => {
            Answer::of(context.write_resource(flags, num_hosts, &resource).await)
        }
        Request::Explain { resource } => context.explain(&resource).await,
        Request::ConfirmDead { host, .. } => context.confirm_dead(&host).await,
        Request::FormatRindex { index } => Answer::of(context.format_rindex(&index).await),
        Request::RebuildRindex { index, .. } => context.rebuild_rindex(&index).await,
        Request::RindexEntry { command, flags, index, entry, .. } => {
            context.rindex_entry(command, flags, &index, &entry).await
        }
        other => {
            tracing::error!(command = ?other.command(), "a request came here that is not answered here");
            Answer::refused(ResultCode::ENOSYS)
        }
    }
}

impl Context {
    fn get_hosts(&self, asked: &Lockspace) -> Answer {
        let Some(space) = &self.space else { return Answer::refused(ResultCode::ENOENT) };
        let hosts = space.hosts.borrow();
        if hosts.last_scan().is_none() {
            return Answer::refused(ResultCode::EAGAIN);
        }
        let now = self.clock.now();
        let row = |id: HostId| -> Option<Host> {
            let seen = hosts.observation(id)?;
            let state = if id == space.me.term.host_id { State::Live } else { hosts.state(id, now)? };
            let io_timeout = seen.io_timeout().filter(|_| seen.was_used());
            Some(Host {
                host_id: id.get(),
                generation: seen.generation().map_or(0, |g| g.0),
                timestamp: seen.timestamp().map_or(0, |t| t.0),
                io_timeout: io_timeout.map_or(0, |t| u32::from(t.seconds())),
                flags: wire_state(state).number(),
            })
        };
        let rows: Vec<Host> = match asked.host_id {
            id if id != 0 => HostId::new(id).and_then(row).into_iter().collect(),
            _ => hosts.hosts().filter_map(|(id, _)| row(id)).filter(|h| h.timestamp != 0).collect(),
        };
        let mut payload = Vec::new();
        rows.iter().for_each(|h| h.encode(&mut payload));
        Answer { data2: u32::try_from(rows.len()).unwrap_or(u32::MAX), ..Answer::ok(payload) }
    }

    /// The hosts that were ever used, as a record stream.
    fn host_status(&self) -> Answer {
        let Some(space) = &self.space else { return Answer::refused(ResultCode::ENOSPC) };
        let hosts = space.hosts.borrow();
        let mut payload = Vec::new();
        for (id, seen) in hosts.hosts().filter(|(_, seen)| seen.was_used()) {
            host_record(id, seen, space.called_at(id)).encode(&mut payload);
        }
        Answer::ok(payload)
    }

    /// The alignment that areas on a device are given unless asked otherwise.
    async fn align(&self, disk: &WireDisk) -> Answer {
        let opened = match path_of(disk) {
            Some(path) => self.open(path).await,
            None => Err((ResultCode::ENODEV, "no path".to_owned())),
        };
        match opened {
            // Its result is the alignment, a positive number (spec A 5).
            Ok((file, _)) => {
                let align = default_geometry(&file).align().bytes();
                Answer { code: ResultCode::new(i32::try_from(align).unwrap_or(i32::MAX)), ..Answer::ok(Vec::new()) }
            }
            Err(refused) => Answer::of(Err(no_device(refused))),
        }
    }

    /// Who owns a lease by what is on the disk, whoever lives.
    async fn read_owners(&self, mut asked: Resource) -> Answer {
        let result = self.find_owners(&mut asked).await;
        let mut payload = Vec::new();
        asked.head.encode(&mut payload); // always sent, even with an error
        match result {
            Ok(owners) => {
                owners.iter().for_each(|owner| owner.encode(&mut payload));
                Answer { data2: u32::try_from(owners.len()).unwrap_or(u32::MAX), ..Answer::ok(payload) }
            }
            Err((code, why)) => Answer { code, data2: 0, payload, why: Some(why) },
        }
    }

    async fn find_owners(&self, asked: &mut Resource) -> Result<Vec<Host>, Refused> {
        let (disk, offset) = self.lease_disk(asked).await?;
        let first = disk.read(offset, 4096, self.by()).await.map_err(refuse_io)?;
        let at = |why: &str| format!("lease at offset {offset} of {}: {why}", disk.path());
        let bytes = leader_bytes(&first);
        let anything = Expected { space: None, resource: None, host_id: None };
        let geometry = match LeaderRecord::parse(&bytes).geometry() {
            Some(geometry) => geometry,
            // sanlock calls sizes of 0 a contradiction to those asked for, and other impossible ones damage.
            None => match LeaderRecord::decode(&bytes, LeaderKind::Paxos, &anything) {
                Err(e) => return Err((codes::of_leader(&e), at(&e.to_string()))),
                Ok(_) => return Err((ResultCode::EINVAL, at("impossible sizes"))),
            },
        };
        let sizes = asked.head.flags.bits() & size_flag_bits();
        if sizes & !size_flags(geometry) != 0 {
            return Err((ResultCode::EINVAL, at(&format!("its sizes are {geometry}, not those asked for"))));
        }
        // Names are checked, given or not, and no lease has an empty one.
        let space = SpaceName::new(asked.head.lockspace_name.as_bytes());
        let space = space.map_err(|e| (ResultCode::LEADER_LOCKSPACE, at(&e.to_string())))?;
        let resource = ResourceName::new(asked.head.name.as_bytes());
        let resource = resource.map_err(|e| (ResultCode::LEADER_RESOURCE, at(&e.to_string())))?;
        let expected = Expected { space: Some(space), resource: Some(resource), host_id: None };
        // Leader and dblocks in one read: of one instant, as far as a disk has any.
        let area = disk.read(offset, geometry.area_len(), self.by()).await.map_err(refuse_io)?;
        let leader = match LeaderRecord::decode(&leader_bytes(&area), LeaderKind::Paxos, &expected) {
            Ok(Decoded::Record(leader)) => leader,
            Ok(_) => return Err((ResultCode::LEADER_MAGIC, at("there is none, or no more"))),
            Err(e) => return Err((codes::of_leader(&e), at(&e.to_string()))),
        };
        let owners = paxos_lease::owners::read(&leader, geometry, &area, asked.disks.len())
            .map_err(|(host, e)| (ResultCode::DBLOCK_CHECKSUM, at(&format!("dblock of host_id {host}: {e}"))))?;
        asked.head.lver = leader.lver.0;
        if !owners.shared.is_empty() {
            asked.head.flags = asked.head.flags | LeaseFlags::SHARED;
        }
        let row = |term: &HostTerm, timestamp| Host {
            host_id: term.host_id.get(),
            generation: term.generation.0,
            timestamp,
            io_timeout: 0,
            flags: 0,
        };
        let exclusive = owners.exclusive.iter().map(|term| row(term, leader.timestamp.0));
        Ok(exclusive.chain(owners.shared.iter().map(|term| row(term, 0))).collect())
    }

    /// The disks of a lease, to be read only. Of several a majority is enough, and none is waited for once one is open.
    async fn lease_disk(&self, asked: &Resource) -> Result<(Copies<LeaseCopy<Linux>, BootClock>, u64), Refused> {
        let count = asked.disks.len();
        if !(1..=MOST_DISKS).contains(&count) {
            return Err((ResultCode::ENOENT, format!("{count} disks, expected 1 to {MOST_DISKS}")));
        }
        let no_path = || (ResultCode::ENOENT, "no path".to_owned());
        let paths: Vec<_> = asked.disks.iter().map(path_of).collect::<Option<_>>().ok_or_else(no_path)?;
        let opens = paths.iter().map(|path| self.open(path.clone())).collect();
        let ends = side_by_side(opens, count / 2 + 1, &self.clock, self.by()).await;
        let mut list = Vec::new();
        for ((disk, path), end) in asked.disks.iter().zip(&paths).zip(ends) {
            let copy = match end.unwrap_or_else(|| Err(not_in_time(path))) {
                Ok((file, device)) => LeaseCopy::Open(file.node(), Rc::new(device)),
                Err((code, _)) if count > 1 => LeaseCopy::missing(&self.place(path, disk.offset), code),
                Err(refused) => return Err(refused),
            };
            list.push((copy, LeaseOffset(disk.offset)));
        }
        Ok((LeaseDisk::new(list, &self.clock, None).copies, asked.disks[0].offset))
    }

    /// A device that cannot be opened is refused with the kernel's reason; who asks for a lockspace hears ENODEV (spec A 6).
    /// One that hangs is not waited for: the client may have gone long ago, and its connection with it.
    async fn open_file(&self, path: &Path, by: &Rights) -> Result<Arc<BlockFile>, Refused> {
        match first_of(self.nodes.open_apart(path, by), self.clock.sleep_until(self.by())).await {
            First::A(opened) => codes::opened(opened),
            First::B(()) => Err(not_in_time(path)),
        }
    }

    /// A place as who asks named it.
    fn place(&self, path: &Path, offset: u64) -> NamedPlace {
        NamedPlace { path: path.to_owned(), offset, by: self.asking.rights.clone() }
    }

    async fn open(&self, path: PathBuf) -> Result<(Arc<BlockFile>, SharedDisk<Linux>), Refused> {
        let file = self.open_file(&path, &self.asking.rights).await?;
        let device = self.device(&file);
        Ok((file, device))
    }

    fn device(&self, file: &Arc<BlockFile>) -> SharedDisk<Linux> {
        let engine = self.engines.shared(file, AT_ONCE, "query-io");
        Device::new(engine, self.clock.clone(), WriteLimit::none())
    }

    /// When whoever asks is told that a device does not answer.
    fn by(&self) -> LocalInstant {
        self.clock.now().after(self.patience)
    }

    async fn read_lockspace(&self, mut asked: Lockspace) -> Answer {
        let result = self.find_lockspace(&mut asked).await;
        let mut payload = Vec::new();
        asked.encode(&mut payload); // always sent, even with an error (spec A 5)
        match result {
            Ok(io_timeout) => Answer { data2: io_timeout, ..Answer::ok(payload) },
            Err((code, why)) => Answer { code, data2: 0, payload, why: Some(why) },
        }
    }

    async fn find_lockspace(&self, asked: &mut Lockspace) -> Result<u32, Refused> {
        let path = path_of(&asked.disk).ok_or((ResultCode::ENODEV, "no path".to_owned()))?;
        let (_, disk) = self.open(path).await.map_err(no_device)?;
        let expected = SpaceName::new(asked.name.as_bytes()).ok();
        let at = LeaseOffset(asked.disk.offset);
        let refuse = |e: delta_lease::DeltaError| {
            let sizes = matches!(e, delta_lease::DeltaError::SectorSize { .. });
            (if sizes { ResultCode::EINVAL } else { codes::of_delta(&e) }, codes::chain(&e))
        };
        let area = DeltaArea::open(&disk, &self.clock, at, IoTimeout::DEFAULT, expected).await.map_err(refuse)?;
        // What is asked for beyond the last host_id is not there.
        let room = u64::from(area.geometry.max_hosts());
        let host_id = HostId::new(asked.host_id.max(1)).filter(|id| id.get() <= room);
        let host_id = host_id.ok_or_else(|| (ResultCode::LEADER_MAGIC, format!("it has room for {room} hosts")))?;
        let view = delta_lease::read_host(&disk, &self.clock, &area, host_id, self.by()).await.map_err(refuse)?;
        let sector = view.decode(&area).map_err(|e| (codes::of_sector(&e), codes::chain(&e)))?;
        asked.name = Name48::from_raw(*area.space.field());
        asked.host_id = host_id.get();
        asked.flags = LockspaceFlags::from_bits(with_sizes(asked.flags.bits(), area.geometry));
        Ok(u32::from(sector.leader.io_timeout))
    }

    async fn read_resource(&self, mut asked: Resource) -> Answer {
        let result = self.find_resource(&mut asked).await;
        let mut payload = Vec::new();
        asked.head.encode(&mut payload);
        match result {
            Ok(()) => Answer::ok(payload),
            Err((code, why)) => Answer { code, data2: 0, payload, why: Some(why) },
        }
    }

    async fn find_resource(&self, asked: &mut Resource) -> Result<(), Refused> {
        let (leader, geometry) = self.read_leader(asked).await?;
        asked.head.lockspace_name = Name48::from_raw(*leader.space_name.field());
        asked.head.name = Name48::from_raw(*leader.resource_name.field());
        asked.head.lver = leader.lver.0;
        asked.head.flags = LeaseFlags::from_bits(with_sizes(asked.head.flags.bits(), geometry));
        Ok(())
    }

    async fn read_leader(&self, asked: &Resource) -> Result<(LeaderRecord, Geometry), Refused> {
        let (disk, offset) = self.lease_disk(asked).await?;
        let bytes = disk.read(offset, 4096, self.by()).await.map_err(refuse_io)?;
        let expected = Expected {
            space: SpaceName::new(asked.head.lockspace_name.as_bytes()).ok(),
            resource: ResourceName::new(asked.head.name.as_bytes()).ok(),
            host_id: None,
        };
        let at = |why: &str| format!("lease at offset {offset} of {}: {why}", disk.path());
        match LeaderRecord::decode(&leader_bytes(&bytes), LeaderKind::Paxos, &expected) {
            Ok(Decoded::Record(leader)) => {
                let geometry = leader.geometry().ok_or((ResultCode::LEADER_SECTOR_SIZE, at("impossible sizes")))?;
                Ok((leader, geometry))
            }
            Ok(Decoded::Blank) => Err((ResultCode::LEADER_MAGIC, at("nothing was ever formatted here"))),
            Ok(Decoded::Cleared(_)) => Err((ResultCode::LEADER_MAGIC, at("it was cleared"))),
            Err(e) => Err((codes::of_leader(&e), at(&e.to_string()))),
        }
    }

    async fn write_lockspace(&self, io_timeout: u32, asked: &Lockspace) -> Result<(), Refused> {
        let name = SpaceName::new(asked.name.as_bytes()).map_err(|e| (ResultCode::EINVAL, e.to_string()))?;
        let path = path_of(&asked.disk).ok_or((ResultCode::ENODEV, "no path".to_owned()))?;
        let (file, disk) = self.open(path).await.map_err(no_device)?;
        let geometry = geometry_of(asked.flags.bits(), &file)?;
        let io_timeout = match io_timeout {
            0 => IoTimeout::DEFAULT,
            n => IoTimeout::new(u64::from(n))
                .ok_or((ResultCode::EINVAL, format!("io_timeout {n}, expected 1 to 255")))?,
        };
        let seal = delta_lease::format::FormatSeal {
            uuid: AreaUuid::random(),
            machine: self.machine,
            fire: SealedFire::NoWatchdog,
        };
        let writes = delta_lease::format::plan(geometry, name, io_timeout, Some(&seal));
        let writes = writes.into_iter().map(|w| (w.offset_in_area, w.bytes)).collect();
        self.perform(disk, (asked.disk.offset, 1), geometry, writes).await
    }

    async fn write_resource(&self, flags: WriteResourceFlags, num_hosts: u32, asked: &Resource) -> Result<(), Refused> {
        let clear = flags.contains(WriteResourceFlags::CLEAR);
        let name = |field: &Name48| match field.as_bytes() {
            b"" if clear => Ok(b"cleared".to_vec()),
            bytes => Ok::<_, Refused>(bytes.to_vec()),
        };
        let invalid = |e: holdfast_io::ids::NameError| (ResultCode::EINVAL, e.to_string());
        let space = SpaceName::new(&name(&asked.head.lockspace_name)?).map_err(invalid)?;
        let resource = ResourceName::new(&name(&asked.head.name)?).map_err(invalid)?;
        let disks = self.disks_to_format(asked).await?;
        let geometry = geometry_of_all(asked.head.flags.bits(), &disks)?;
        self.must_leave_no_majority(&disks).await?;
        let fits = (1..=geometry.max_hosts()).contains(&num_hosts);
        let (uuid, copies) = (AreaUuid::random(), u8::try_from(disks.len()).unwrap_or(u8::MAX));
        let writer = paxos_lease::format::Writer { machine: self.machine, fire: SealedFire::NoWatchdog };
        let plan = |copy| {
            let place = (copies > 1).then_some(Place { copy, copies });
            let num_hosts = fits.then_some(num_hosts);
            let lease = paxos_lease::format::NewLease { geometry, space, resource, num_hosts, uuid, place };
            let writes = if clear {
                paxos_lease::format::clear(&lease, &writer, self.clock.now())
            } else {
                paxos_lease::format::plan(&lease, &writer)
            };
            writes.map_err(|e| (ResultCode::EINVAL, e.to_string()))
        };
        let plans = (1..=copies).map(plan).collect::<Result<Vec<_>, Refused>>()?;
        self.perform_on_all(disks, geometry, plans).await
    }

    /// Every disk of a lease that is to be formatted.
    async fn disks_to_format(&self, asked: &Resource) -> Result<Vec<ToFormat>, Refused> {
        let mut disks = Vec::new();
        for disk in &asked.disks {
            let path = path_of(disk).ok_or((ResultCode::ENOENT, "no path".to_owned()))?;
            let (file, device) = self.open(path).await?;
            disks.push(ToFormat { file, device, offset: disk.offset });
        }
        match disks.len() {
            0 => Err((ResultCode::ENOENT, "no path".to_owned())),
            1..=MOST_DISKS => Ok(disks),
            n => Err((ResultCode::ERANGE, format!("{n} disks, expected 1 to {MOST_DISKS}"))),
        }
    }

    /// The writes of a format, each on all disks before the next begins: a crash in between leaves no disk with a lease beside
    /// one that has none yet, but in the last step; then a majority may have it, and it is whole. Nothing is written before every
    /// area was found to be free for it and reserved, until all is done.
    async fn perform_on_all(
        &self,
        mut disks: Vec<ToFormat>,
        geometry: Geometry,
        plans: Vec<Vec<paxos_lease::format::FormatWrite>>,
    ) -> Result<(), Refused> {
        let pairs = |w: paxos_lease::format::FormatWrite| (w.offset_in_area, w.bytes);
        if let [plan] = plans.as_slice() {
            let ToFormat { device, offset, .. } = disks.remove(0);
            return self.perform(device, (offset, 1), geometry, plan.iter().cloned().map(pairs).collect()).await;
        }
        let nodes: Vec<NodeId> = disks.iter().map(|disk| disk.file.node()).collect();
        if names_one_twice(&nodes) {
            return Err((ResultCode::EINVAL, "one disk under two names is no two copies".to_owned()));
        }
        for disk in &disks {
            disk.has_room_for(geometry)?;
        }
        let opening = self.opening().await?;
        let reserved = disks.iter().map(|disk| self.reserve(&opening, &disk.file, (disk.offset, 1), geometry));
        let reserved = reserved.collect::<Result<Vec<_>, Refused>>()?;
        let steps = plans.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..steps {
            for ((disk, plan), formatting) in disks.iter().zip(&plans).zip(&reserved) {
                let writes = plan.get(step).cloned().map(pairs).into_iter().collect();
                let device = self.device(&disk.file);
                format::carry_out(device, &self.clock, Rc::clone(formatting), writes, format::DEADLINE).await?;
            }
        }
        Ok(())
    }

    /// Formats so many areas from an offset on, unless that could hit what is in use. sanlock formats whatever it is told to; a
    /// lockspace or a lease that this very daemon uses is refused all the same: the daemon would fall over its own client's
    /// mistake.
    async fn perform(
        &self,
        disk: SharedDisk<Linux>,
        (offset, areas): (u64, u64),
        geometry: Geometry,
        writes: Vec<(u64, AlignedBuf)>,
    ) -> Result<(), Refused> {
        let opening = self.opening().await?;
        // No await from here to the first write's submission: what is looked at is what counts.
        let formatting = self.reserve(&opening, disk.engine().file(), (offset, areas), geometry)?;
        format::carry_out(disk, &self.clock, formatting, writes, format::DEADLINE).await
    }

    /// Reserves so many areas from an offset on, unless that could hit what is in use; `opening`: [`Query::opening`], just now.
    fn reserve(
        &self,
        opening: &[(Bytes, String)],
        file: &BlockFile,
        (offset, areas): (u64, u64),
        geometry: Geometry,
    ) -> Result<Rc<Formatting>, Refused> {
        let size = geometry.sector().bytes() as u64;
        if !offset.is_multiple_of(size) {
            return Err((ResultCode::EINVAL, format!("offset {offset} is no multiple of the sector size {size}")));
        }
        let area = Bytes::of(file.node(), offset, areas * geometry.align().bytes());
        let in_the_way = opening.iter().find(|(other, _)| other.touches(&area)).map(|(_, what)| what.clone());
        if let Some(what) = in_the_way.or_else(|| self.used.iter().find_map(|used| used.in_the_way_of(&area))) {
            return Err((ResultCode::EBUSY, format!("{}:{offset} reaches into {what}", file.path())));
        }
        let formatting = self.formats.begin(area).map_err(|other| {
            let why = format!("a format of bytes {other} of {} is not over: its writes may still land", file.path());
            (ResultCode::EAGAIN, why)
        })?;
        Ok(Rc::new(formatting))
    }

    /// Where lockspaces are whose join has not found its area yet: their sizes are not known, so the largest counts. While one
    /// hangs in open(2) nobody knows what it will find. They are opened by the rights of who joins them: that somebody else may not
    /// open them says nothing.
    async fn opening(&self) -> Result<Vec<(Bytes, String)>, Refused> {
        let places: Vec<_> = self.used.iter().filter_map(InUse::opening).collect();
        let opens: Vec<_> = places.iter().map(|place| self.open_file(&place.path, &place.by)).collect();
        let all = opens.len();
        let mut found = Vec::new();
        for (place, end) in places.iter().zip(side_by_side(opens, all, &self.clock, self.by()).await) {
            match end.unwrap_or_else(|| Err(not_in_time(&place.path))) {
                Ok(file) => found.push(InUse::<Linux>::may_be_at(file.node(), place)),
                Err((ResultCode::IO_TIMEOUT, why)) => {
                    return Err((ResultCode::EAGAIN, format!("a lockspace is being joined: {why}")));
                }
                // What cannot be opened has not been joined either.
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// Who holds a lease, since when, and when it could change hands: as JSON.
    async fn explain(&self, asked: &Resource) -> Answer {
        let (leader, _) = match self.read_leader(asked).await {
            Ok(found) => found,
            Err((code, why)) => return Answer { code, data2: 0, payload: Vec::new(), why: Some(why) },
        };
        let mut document = serde_json::json!({
            "lockspace": leader.space_name.to_string(),
            "resource": leader.resource_name.to_string(),
            "lver": leader.lver.0,
            "held": !leader.is_free(),
        });
        if let (false, Some(owner)) = (leader.is_free(), leader.owner()) {
            document["owner"] = serde_json::json!({ "host_id": owner.host_id.get(), "generation": owner.generation.0 });
            if let Some(space) = &self.space {
                // The look is for freshness alone: without it the answer tells of the last renewal's.
                let looked = space.look_at(owner).await;
                document["owner"]["looked"] = serde_json::json!(looked.is_ok());
                let seen = host_facts(space, owner.host_id, self.clock.now());
                document["owner"]["host"] = seen.unwrap_or(serde_json::Value::Null);
                let judged = space.hosts.borrow().verdict(owner, self.clock.now());
                document["owner"]["verdict"] = serde_json::json!(format!("{judged:?}"));
            }
        }
        Answer::ok(document.to_string().into_bytes())
    }
}

/// What is known of a host, for a person.
#[must_use]
pub fn host_facts(space: &SpaceShared, id: HostId, now: LocalInstant) -> Option<serde_json::Value> {
    let hosts = space.hosts.borrow();
    let seen = hosts.observation(id)?;
    let own = id == space.me.term.host_id;
    let state = if own { State::Live } else { hosts.state(id, now)? };
    let seal = seen.seal();
    Some(serde_json::json!({
        "host_id": id.get(),
        "name": seen.name().map(|n| n.to_string()),
        "generation": seen.generation().map(|g| g.0),
        "timestamp": seen.timestamp().map(|t| t.0),
        "io_timeout_s": seen.io_timeout().map(|t| t.seconds()),
        "state": wire_state(state).name(),
        "own": own,
        "last_renewal_seen_ms_ago": seen.last_live().map(|t| now.since(t).as_millis()),
        "confirmed_dead": seen.is_confirmed_dead(),
        "takeover_possible_in_ms": seen.earliest_takeover().map(|t| t.since(now).as_millis()),
        "sealed": seal.is_some(),
        "watchdog": seal.map(|s| !matches!(s.fire, SealedFire::NoWatchdog)),
        "fire_timeout_s": seal.map(|s| s.fire.judged().seconds()),
        "damage": seen.damage.as_ref().map(ToString::to_string),
    }))
}

fn log_dump(log: &LogRing) -> Answer {
    let text = log.text();
    // Its result counts the bytes that follow (spec A 5).
    Answer { code: ResultCode::new(i32::try_from(text.len()).unwrap_or(i32::MAX)), ..Answer::ok(text) }
}

/// What is known of a host, as HOST_STATUS tells it: times of our clock but for the host's own timestamp.
fn host_record(id: HostId, seen: &Observation, called_at: Option<LocalInstant>) -> StateRecord {
    let timestamp = seen.timestamp().map_or(0, |t| t.0);
    let pairs = [
        ("last_check", seen.last_check.disk_seconds().to_string()),
        ("last_live", seen.last_live().map_or(0, LocalInstant::disk_seconds).to_string()),
        ("last_req", called_at.map_or(0, LocalInstant::disk_seconds).to_string()),
        ("owner_id", id.to_string()),
        ("owner_generation", seen.generation().map_or(0, |g| g.0).to_string()),
        ("timestamp", timestamp.to_string()),
        ("io_timeout", seen.io_timeout().map_or(0, |t| t.seconds()).to_string()),
        ("owner_name", seen.name().map_or_else(String::new, |n| n.to_string())),
    ];
    StateRecord::host(id.slot() + 1, timestamp, StateText::from_pairs(pairs))
}

fn wire_state(state: State) -> HostState {
    match state {
        State::Free => HostState::Free,
        State::Live => HostState::Live,
        State::Fail => HostState::Fail,
        State::Dead => HostState::Dead,
        // A sector that cannot be believed says nothing about its host.
        State::Unknown | State::Damaged => HostState::Unknown,
    }
}

fn not_in_time(path: &Path) -> Refused {
    (ResultCode::IO_TIMEOUT, format!("{} does not open in time", path.display()))
}

/// Why a lockspace's device cannot be used: that it is none, as sanlock says, or that it does not answer.
fn no_device((code, why): Refused) -> Refused {
    (if code == ResultCode::IO_TIMEOUT { code } else { ResultCode::ENODEV }, why)
}

fn refuse_io(e: IoError) -> Refused {
    (codes::of_io(&e), codes::chain(&e))
}

fn leader_bytes(sector: &[u8]) -> [u8; leader::LEN] {
    let mut bytes = [0; leader::LEN];
    bytes.copy_from_slice(&sector[..leader::LEN]);
    bytes
}

fn path_of(disk: &WireDisk) -> Option<PathBuf> {
    let bytes = disk.path.as_bytes();
    (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes.to_vec())))
}

const SECTOR_512: u32 = 0x100;
const SECTOR_4K: u32 = 0x200;

/// The flags by which a client is told an area's sizes.
fn size_flags(geometry: Geometry) -> u32 {
    let sector = match geometry.sector() {
        SectorSize::B512 => SECTOR_512,
        SectorSize::B4096 => SECTOR_4K,
    };
    sector | geometry.align().flag()
}

/// Every flag that says something of sizes.
fn size_flag_bits() -> u32 {
    Geometry::ALL.iter().map(|g| size_flags(*g)).fold(0, |all, bits| all | bits)
}

/// What a client has said in its flags comes back to it, with the sizes that were found in the place of those that it named.
fn with_sizes(flags: u32, geometry: Geometry) -> u32 {
    flags & !size_flag_bits() | size_flags(geometry)
}

/// The sizes that a client's flags ask for, if they do; both or none (spec D 1.2).
fn asked_sizes(flags: u32) -> Result<Option<Geometry>, Refused> {
    let sector = match flags & (SECTOR_512 | SECTOR_4K) {
        0 => None,
        f if f & SECTOR_512 != 0 => Some(SectorSize::B512),
        _ => Some(SectorSize::B4096),
    };
    match (sector, AlignSize::from_flags(flags)) {
        (None, None) => Ok(None),
        (Some(sector), Some(align)) => {
            Geometry::new(sector, align).map(Some).map_err(|e| (ResultCode::EINVAL, e.to_string()))
        }
        _ => Err((ResultCode::EINVAL, "sector and align flags go together".into())),
    }
}

fn default_geometry(file: &BlockFile) -> Geometry {
    Geometry::default_for(if file.kind() == FileKind::Block { file.sector() } else { SectorSize::B512 })
}

/// The sizes that a lease on several disks is to have: none of them may have larger sectors.
fn geometry_of_all(flags: u32, disks: &[ToFormat]) -> Result<Geometry, Refused> {
    let largest = disks.iter().max_by_key(|disk| default_geometry(&disk.file).sector());
    largest.map_or(Err((ResultCode::ENOENT, "no path".to_owned())), |disk| geometry_of(flags, &disk.file))
}

/// The sizes that a format is to have. sanlock answers sizes that do not go together with -1.
fn geometry_of(flags: u32, file: &BlockFile) -> Result<Geometry, Refused> {
    let asked = asked_sizes(flags).map_err(|(_, why)| (ResultCode::EPERM, why))?;
    Ok(asked.unwrap_or_else(|| default_geometry(file)))
}
