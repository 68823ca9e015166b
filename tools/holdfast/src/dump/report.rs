//! What was found on a device, as plain data: every view is made from this, and `--json` prints it as it is.
//!
//! The JSON is stable: fields are added, never renamed or given another meaning, unless `format` is raised. Numbers are
//! as they stand on disk; times are seconds of the writer's own clock, which no other host's clock can be compared
//! with. docs/on-disk-format.md describes it.

use serde::Serialize;

use holdfast_io::leader::LeaderRecord;
use holdfast_io::seal::{Seal, SealedFire};
use holdfast_io::units::Geometry;

/// The version of the JSON.
pub const FORMAT: u32 = 1;

/// Everything that one call of `holdfast dump` found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: u32,
    /// The device or file.
    pub path: String,
    /// `block device`, `file` or `file on a shared file system`.
    pub device: &'static str,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its own sector size.
    pub device_sector_size: usize,
    /// First byte looked at.
    pub from: u64,
    /// End of what was looked at.
    pub to: u64,
    /// Whether more of the device lies behind `to` that was not looked at.
    pub more: bool,
    /// The lease areas, in the order of their offsets.
    pub areas: Vec<Area>,
    /// Places outside of every area found that could not be read.
    pub unreadable: Vec<Damage>,
}

/// One lease area.
#[derive(Debug, Serialize)]
pub struct Area {
    /// Where it begins on the device.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its sector size.
    pub sector_size: usize,
    /// How many hosts fit.
    pub max_hosts: u32,
    /// The UUID in the seal of its first tail sector; absent in areas that sanlock formatted.
    pub area_uuid: Option<String>,
    /// Of a lease on several disks: which copy this is, of how many. A majority of them says who holds it, one alone does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyReport>,
    /// The seal of its first tail sector: by whom it was formatted.
    pub formatted_by: Option<SealReport>,
    /// What it is for.
    #[serde(flatten)]
    pub content: Content,
    /// What is wrong in it.
    pub damage: Vec<Damage>,
    /// The area's bytes, for the hex view.
    #[serde(skip)]
    pub raw: Vec<u8>,
    /// Its shape.
    #[serde(skip)]
    pub geometry: Geometry,
}

/// The place of a copy among the others.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CopyReport {
    /// Which one, from 1.
    pub number: u8,
    /// Of how many.
    pub of: u8,
}

/// The content of an area by its kind.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// A lockspace: one sector per host.
    Lockspace(Lockspace),
    /// A resource.
    Resource(Box<Resource>),
    /// A resource index.
    Index(Index),
}

/// A lockspace.
#[derive(Debug, Serialize)]
pub struct Lockspace {
    /// Its name.
    pub lockspace: String,
    /// Hosts that have ever joined, and hosts whose sectors are damaged.
    pub hosts: Vec<Host>,
    /// How many host ids nobody has ever used.
    pub never_used: u32,
}

/// One host's delta lease.
#[derive(Debug, Serialize)]
pub struct Host {
    /// Which host: the sector's place in the area, from 1.
    pub host_id: u32,
    /// `held`, `free` (given back) or `never used`.
    pub state: &'static str,
    /// Its name.
    pub name: String,
    /// The record, field by field.
    pub record: Leader,
    /// The event it announces, if any.
    pub event: Option<Event>,
    /// The hosts whose bit is set in its bitmap: they are asked to look at the event, or at their resources' requests.
    pub notifies: Vec<u32>,
    /// What its Holdfast daemon added; absent if sanlock wrote the sector.
    pub seal: Option<SealReport>,
    /// Whether the sector stands in the damage list.
    pub damaged: bool,
}

/// A host event.
#[derive(Debug, Serialize)]
pub struct Event {
    /// For this generation of the hosts notified; 0 any.
    pub generation: u64,
    /// The event.
    pub event: u64,
    /// Its data.
    pub data: u64,
}

/// A resource.
#[derive(Debug, Serialize)]
pub struct Resource {
    /// Its lockspace.
    pub lockspace: String,
    /// Its name.
    pub resource: String,
    /// Who may use it, as far as the bytes say.
    pub state: ResourceState,
    /// The exclusive owner, where there is one.
    pub owner: Option<Owner>,
    /// Hosts that share it.
    pub shared: Vec<Sharer>,
    /// The lease version.
    pub lver: u64,
    /// The leader record, field by field.
    pub record: Leader,
    /// The leader's seal.
    pub seal: Option<SealReport>,
    /// The request record; `mode` is `none` when nobody asks for the resource.
    pub request: Request,
    /// Every dblock that was ever used.
    pub dblocks: Vec<Dblock>,
    /// The value block, if it holds anything.
    pub value_block: Option<ValueBlock>,
    /// Whether the leader sector stands in the damage list.
    pub damaged: bool,
}

/// Who may use a resource, as far as the bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceState {
    /// Nobody.
    Free,
    /// The owner, unless it has died: offline data cannot tell.
    Held,
    /// The leader names an owner that has marked its own dblock RELEASED while another host wrote the leader: free.
    Released,
    /// The hosts in `shared`.
    Shared,
    /// The area was cleared: no lease is here until it is formatted anew.
    Cleared,
    /// The leader is damaged.
    Damaged,
}

/// The owner of a resource.
#[derive(Debug, Serialize)]
pub struct Owner {
    /// Its host id.
    pub host_id: u64,
    /// Its generation when it acquired.
    pub generation: u64,
    /// When it acquired, on its own clock.
    pub since: u64,
    /// Its name, if its lockspace is among the areas dumped.
    pub name: Option<String>,
    /// What that lockspace says about it.
    pub term: Term,
}

/// What a lockspace in the same dump says about a holder's host_id and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// The lockspace is not among the areas dumped, or the host's sector in it is damaged.
    Unknown,
    /// The host_id is held at this very generation: the lease counts while that host lives.
    Current,
    /// The host_id is held at a newer generation: this is a leftover, and the lease can be taken at once.
    Outdated,
    /// The host has left the lockspace: a leftover too.
    Left,
}

/// A host that shares a resource.
#[derive(Debug, Serialize)]
pub struct Sharer {
    /// Its host id.
    pub host_id: u32,
    /// Its generation when it acquired.
    pub generation: u64,
    /// Its name, if known.
    pub name: Option<String>,
    /// What its lockspace says.
    pub term: Term,
}

/// A request record.
#[derive(Debug, Default, Serialize)]
pub struct Request {
    /// The lease version asked for.
    pub lver: u64,
    /// `none`, `force`, `graceful`, or `unknown`.
    pub mode: &'static str,
    /// The mode as it stands on disk.
    pub force_mode: u32,
    /// The writer's seal.
    pub seal: Option<SealReport>,
}

/// One host's dblock.
#[derive(Debug, Serialize)]
pub struct Dblock {
    /// Whose.
    pub host_id: u32,
    /// Ballot in progress.
    pub mbal: u64,
    /// Ballot in which inp was proposed; 0 before phase 2.
    pub bal: u64,
    /// Proposed owner's host id.
    pub inp: u64,
    /// Proposed owner's generation.
    pub inp2: u64,
    /// Proposed acquire time.
    pub inp3: u64,
    /// The lease version the ballot is for.
    pub lver: u64,
    /// As it stands on disk.
    pub checksum: u32,
    /// The flags word.
    pub flags: u32,
    /// Whether its host has given back what it won.
    pub released: bool,
    /// What it means beside the leader.
    pub state: BallotState,
    /// The writer's seal.
    pub seal: Option<SealReport>,
    /// Whether the sector stands in the damage list.
    pub damaged: bool,
}

/// What a dblock means beside the leader's lver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BallotState {
    /// For an earlier version: history.
    Past,
    /// For the version that the leader shows: its ballot is over.
    Decided,
    /// For a later version, phase 1: a ballot was begun and nothing proposed yet.
    Preparing,
    /// For a later version, phase 2: an owner is proposed, perhaps chosen, and the leader not yet written.
    Proposing,
}

/// A value block.
#[derive(Debug, Serialize)]
pub struct ValueBlock {
    /// Where on the device.
    pub offset: u64,
    /// Bytes up to the last that is not zero.
    pub used: usize,
    /// Those bytes, hex.
    pub hex: String,
}

/// A resource index.
#[derive(Debug, Serialize)]
pub struct Index {
    /// Its lockspace.
    pub lockspace: String,
    /// How many resources it may list.
    pub max_resources: u32,
    /// Where it believes it stands.
    pub rx_offset: u64,
    /// The entries in use.
    pub entries: Vec<IndexEntry>,
}

/// An entry of a resource index.
#[derive(Debug, Serialize)]
pub struct IndexEntry {
    /// Its number, from 0.
    pub index: usize,
    /// Where the entry stands on the device.
    pub at: u64,
    /// The resource's name.
    pub name: String,
    /// The offset of the resource's area as stored.
    pub res_offset: u64,
    /// Its flags word.
    pub flags: u32,
}

/// A leader record's fields under sanlock's names; docs/on-disk-format.md says what each of them means.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Leader {
    pub magic: u32,
    pub version: u32,
    pub flags: u32,
    pub sector_size: u32,
    pub num_hosts: u64,
    pub max_hosts: u64,
    pub owner_id: u64,
    pub owner_generation: u64,
    pub lver: u64,
    pub space_name: String,
    pub resource_name: String,
    pub timestamp: u64,
    pub checksum: u32,
    pub io_timeout: u16,
    pub write_id: u64,
    pub write_generation: u64,
    pub write_timestamp: u64,
}

impl Leader {
    /// The fields of a record, with the checksum that stands on disk.
    #[must_use]
    pub fn of(record: &LeaderRecord, checksum: u32) -> Self {
        Leader {
            magic: record.magic,
            version: record.version,
            flags: record.flags,
            sector_size: record.sector_size,
            num_hosts: record.num_hosts,
            max_hosts: record.max_hosts,
            owner_id: record.owner_id,
            owner_generation: record.owner_generation.0,
            lver: record.lver.0,
            space_name: record.space_name.to_string(),
            resource_name: record.resource_name.to_string(),
            timestamp: record.timestamp.0,
            checksum,
            io_timeout: record.io_timeout,
            write_id: record.write_id,
            write_generation: record.write_generation,
            write_timestamp: record.write_timestamp,
        }
    }
}

/// A seal.
#[derive(Clone, Debug, Serialize)]
pub struct SealReport {
    /// Seconds within which the writer's watchdog resets it; absent without a watchdog.
    pub fire_timeout: Option<u8>,
    /// Hash of the writer's machine, hex.
    pub machine: String,
    /// Hash of its boot, hex.
    pub boot: String,
    /// The area's UUID as the writer knew it; absent where sanlock formatted the area.
    pub area_uuid: Option<String>,
    /// Milliseconds beside the record's timestamp.
    pub millis: u16,
    /// The sector's place in its area.
    pub sector: u32,
}

impl From<Seal> for SealReport {
    fn from(seal: Seal) -> Self {
        SealReport {
            fire_timeout: match seal.fire {
                SealedFire::Within(t) => Some(t.seconds()),
                SealedFire::NoWatchdog => None,
            },
            machine: format!("{:016x}", seal.machine.0),
            boot: format!("{:016x}", seal.boot.0),
            area_uuid: (!seal.area.0.is_nil()).then(|| seal.area.0.to_string()),
            millis: seal.millis,
            sector: seal.sector.0,
        }
    }
}

/// Something that is not as it must be.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// Where on the device.
    pub offset: u64,
    /// How many bytes are concerned.
    pub length: u64,
    /// Which record: `delta sector of host 3`, `leader`, `dblock of host 7`, ..
    pub record: String,
    /// What is wrong, on one line.
    pub reason: String,
    /// The bytes, hex, up to the last that is not zero; absent if they could not be read.
    pub hex: Option<String>,
}

impl Report {
    /// Everything wrong, inside areas and outside.
    pub fn all_damage(&self) -> impl Iterator<Item = &Damage> {
        self.areas.iter().flat_map(|a| &a.damage).chain(&self.unreadable)
    }

    /// The lockspace `name`, if it is among the areas.
    #[must_use]
    pub fn lockspace(&self, name: &str) -> Option<&Lockspace> {
        self.areas.iter().find_map(|a| match &a.content {
            Content::Lockspace(l) if l.lockspace == name => Some(l),
            _ => None,
        })
    }
}

/// Lower-case hex of the bytes up to the last that is not zero.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    bytes[..used].iter().map(|b| format!("{b:02x}")).collect()
}
