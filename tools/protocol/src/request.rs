//! Requests: typed, out of a header and its payload, and back to the bytes a client sends (A 5, 6).
//!
//! [`Message`] is what the daemon gets: the header as it came (its echo is the reply's) and the [`Request`]. The
//! client builds a `Request` and calls [`Request::encode`], which writes a header with an exact `length`.

use crate::command::{
    AcquireFlags, AddLockspaceFlags, Command, InqLockspaceFlags, KillPathFlags, ReleaseFlags, RemLockspaceFlags,
    RequestFlags, RestrictFlags, RindexFlags, SetEventFlags, WriteResourceFlags,
};
use crate::header::{HEADER_SIZE, Header, length_of};
use crate::payload::{
    Disk, Host, HostEvent, KillPath, Lockspace, Options, Resource, ResourceHead, Rindex, RindexEntry,
};

/// Which registered client a command is about (A 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The connection the command comes over.
    This,
    /// The first registered connection of this process.
    Pid(u32),
}

impl Target {
    const fn from_data2(data2: u32) -> Self {
        if data2 == u32::MAX { Self::This } else { Self::Pid(data2) }
    }
    const fn data2(self) -> u32 {
        match self {
            Self::This => u32::MAX,
            Self::Pid(pid) => pid,
        }
    }
}

/// A request with the header it came under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// As received.
    pub header: Header,
    /// The command the header names.
    pub command: Command,
    /// The request itself.
    pub request: Request,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Become a client that may own leases. No reply.
    Register,
    /// Limit this connection.
    Restrict {
        /// How.
        flags: RestrictFlags,
    },
    /// Join a lockspace.
    AddLockspace {
        /// Whether to wait.
        flags: AddLockspaceFlags,
        /// Seconds; 0 is the daemon's own.
        io_timeout: u32,
        /// Which, where, and as which host_id.
        lockspace: Lockspace,
    },
    /// Leave a lockspace.
    RemLockspace {
        /// Whether to wait, and whether only if unused.
        flags: RemLockspaceFlags,
        /// Which.
        lockspace: Lockspace,
    },
    /// Is this lockspace joined?
    InqLockspace {
        /// Whether to wait for the end of a join or leave.
        flags: InqLockspaceFlags,
        /// Which: name, path and offset; host_id if not 0.
        lockspace: Lockspace,
    },
    /// Take leases, all or none.
    Acquire {
        /// Orphans, value, patience.
        flags: AcquireFlags,
        /// For whom.
        target: Target,
        /// Which; at most eight.
        resources: Vec<Resource>,
        /// The client's display name.
        options: Options,
    },
    /// Give leases back. No disks are sent.
    Release {
        /// Which kind.
        flags: ReleaseFlags,
        /// Whose.
        target: Target,
        /// Which; none with [`ReleaseFlags::ALL`].
        resources: Vec<ResourceHead>,
    },
    /// Which leases does a client own?
    Inquire {
        /// Which client.
        target: Target,
    },
    /// The daemon's lockspaces.
    GetLockspaces,
    /// The hosts of a lockspace.
    GetHosts {
        /// Its name; a host_id that is not 0 asks for that host alone.
        lockspace: Lockspace,
    },
    /// Everything, as a record stream.
    Status {
        /// 0 all; 1 stops after the daemon, 2 after clients, 3 after lockspaces.
        stop_after: u32,
    },
    /// The daemon's version.
    Version,
    /// End the daemon; no reply.
    Shutdown {
        /// Even if lockspaces are joined: ends every holder.
        force: bool,
    },
    /// End the daemon; the reply comes when it is over.
    ShutdownWait {
        /// As in Shutdown.
        force: bool,
    },
    /// What lockspace lies there?
    ReadLockspace {
        /// Where.
        lockspace: Lockspace,
    },
    /// Format a lockspace.
    WriteLockspace {
        /// `data`: a number sanlock ignores.
        max_hosts: u32,
        /// `data2`: seconds; 0 is 10.
        io_timeout: u32,
        /// Name, place, geometry flags.
        lockspace: Lockspace,
    },
    /// What resource lies there?
    ReadResource {
        /// Where; names are checked if not empty.
        resource: Resource,
    },
    /// Format or clear a resource.
    WriteResource {
        /// Whether to clear.
        flags: WriteResourceFlags,
        /// `data`: how many hosts it has room for. The C library puts its `max_hosts` here (A 6).
        num_hosts: u32,
        /// `data2`: not looked at by the daemon. The C library puts its `num_hosts` here.
        unused: u32,
        /// Names, place, geometry flags.
        resource: Resource,
    },
    /// What to run before this client is killed.
    KillPath {
        /// Whether the pid is appended.
        flags: KillPathFlags,
        /// Program and arguments.
        killpath: KillPath,
    },
    /// Holdfast: who owns this lease, since when, and when it could expire? Padded: see [`OWN_MULTIPLE`].
    Explain {
        /// Which.
        resource: Resource,
    },
    /// Holdfast: everything, as JSON.
    HoldfastStatus,
    /// Holdfast: a host is dead, says an operator. Padded: see [`OWN_MULTIPLE`]. The reply carries the reason of a refusal.
    ConfirmDead {
        /// Its name.
        lockspace: Lockspace,
        /// Which host, by the record that is its last: host_id, generation and timestamp.
        host: Host,
    },
    /// Change a lease between shared and exclusive. No disks are sent.
    Convert {
        /// OWNER_NOWAIT alone has a meaning.
        flags: AcquireFlags,
        /// Whose.
        target: Target,
        /// Which; its SHARED flag is the mode asked for.
        resource: ResourceHead,
    },
    /// Ask a lease's owner to give it up.
    AskOwner {
        /// Whether a version of 0 is the next one.
        flags: RequestFlags,
        /// `data`: 1 force, 2 graceful; 0 takes a request back.
        force_mode: u32,
        /// Which.
        resource: Resource,
    },
    /// Look for requests to every lease held in a lockspace.
    ExamineLockspace {
        /// Its name.
        lockspace: Lockspace,
    },
    /// Look for a request to one lease.
    ExamineResource {
        /// Which.
        resource: ResourceHead,
    },
    /// The alignment of a disk.
    Align {
        /// Its path.
        disk: Disk,
    },
    /// Who owns a resource, by what is on the disk.
    ReadResourceOwners {
        /// Which.
        resource: Resource,
    },
    /// Set the value of a held lease.
    SetLvb {
        /// Which.
        resource: ResourceHead,
        /// The value.
        value: Vec<u8>,
    },
    /// Get the value of a held lease.
    GetLvb {
        /// `data2`: so many bytes; 0 is a sector.
        length: u32,
        /// Which.
        resource: ResourceHead,
    },
    /// The daemon's recent log lines.
    LogDump,
    /// The hosts of a lockspace, as a record stream.
    HostStatus {
        /// Its name.
        lockspace: Lockspace,
    },
    /// A lockspace's renewals, as a record stream.
    Renewal {
        /// Its name.
        lockspace: Lockspace,
    },
    /// Mark a lockspace as used, or not.
    SetConfig {
        /// `data`: 1 used, 2 not; 4 used by orphans, 8 not.
        config: u32,
        /// Its name.
        lockspace: Lockspace,
    },
    /// Turn this connection into a source of events.
    RegEvent {
        /// Its lockspace's name.
        lockspace: Lockspace,
        /// Not looked at.
        event: HostEvent,
    },
    /// End event connections that said so.
    EndEvent {
        /// Their lockspace's name.
        lockspace: Lockspace,
    },
    /// Send an event to another host, or clear it.
    SetEvent {
        /// How.
        flags: SetEventFlags,
        /// In which lockspace.
        lockspace: Lockspace,
        /// To whom, and what.
        event: HostEvent,
    },
    /// Format a resource index.
    FormatRindex {
        /// Where.
        index: Rindex,
    },
    /// Rebuild a resource index from the leases.
    RebuildRindex {
        /// Whether the lockspace must be joined.
        flags: RindexFlags,
        /// Where.
        index: Rindex,
    },
    /// One of the four commands about an entry of a resource index.
    RindexEntry {
        /// UPDATE_RINDEX, LOOKUP_RINDEX, CREATE_RESOURCE or DELETE_RESOURCE.
        command: Command,
        /// How.
        flags: RindexFlags,
        /// CREATE_RESOURCE: `data` and `data2`, max_hosts and num_hosts.
        hosts: (u32, u32),
        /// Where.
        index: Rindex,
        /// Which.
        entry: RindexEntry,
    },
}

/// The payload of a command of our own is zero-padded to a multiple of this many bytes, the size of a header.
///
/// A sanlock daemon does not know the command, swallows its header and reads the payload as further headers. Were the
/// last of them incomplete, its whole main loop, watchdog included, would block until 16 more bytes or the end of the
/// connection came (seen on 3.8.5). Whole ones it swallows too. Every future command of ours must keep to this.
pub const OWN_MULTIPLE: usize = HEADER_SIZE;

fn pad(payload: &mut Vec<u8>) {
    payload.resize(payload.len().next_multiple_of(OWN_MULTIPLE), 0);
}

/// `cmd_flags`, `data` and `data2` of a request header.
type Words = (u32, u32, u32);

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

impl Request {
    /// The command this request is sent as.
    #[must_use]
    pub const fn command(&self) -> Command {
        match self {
            Self::Register => Command::Register,
            Self::Restrict { .. } => Command::Restrict,
            Self::AddLockspace { .. } => Command::AddLockspace,
            Self::RemLockspace { .. } => Command::RemLockspace,
            Self::InqLockspace { .. } => Command::InqLockspace,
            Self::Acquire { .. } => Command::Acquire,
            Self::Release { .. } => Command::Release,
            Self::Inquire { .. } => Command::Inquire,
            Self::GetLockspaces => Command::GetLockspaces,
            Self::GetHosts { .. } => Command::GetHosts,
            Self::Status { .. } => Command::Status,
            Self::Version => Command::Version,
            Self::Shutdown { .. } => Command::Shutdown,
            Self::ShutdownWait { .. } => Command::ShutdownWait,
            Self::ReadLockspace { .. } => Command::ReadLockspace,
            Self::WriteLockspace { .. } => Command::WriteLockspace,
            Self::ReadResource { .. } => Command::ReadResource,
            Self::WriteResource { .. } => Command::WriteResource,
            Self::KillPath { .. } => Command::KillPath,
            Self::Explain { .. } => Command::Explain,
            Self::HoldfastStatus => Command::HoldfastStatus,
            Self::ConfirmDead { .. } => Command::ConfirmDead,
            Self::Convert { .. } => Command::Convert,
            Self::AskOwner { .. } => Command::Request,
            Self::ExamineLockspace { .. } => Command::ExamineLockspace,
            Self::ExamineResource { .. } => Command::ExamineResource,
            Self::Align { .. } => Command::Align,
            Self::ReadResourceOwners { .. } => Command::ReadResourceOwners,
            Self::SetLvb { .. } => Command::SetLvb,
            Self::GetLvb { .. } => Command::GetLvb,
            Self::LogDump => Command::LogDump,
            Self::HostStatus { .. } => Command::HostStatus,
            Self::Renewal { .. } => Command::Renewal,
            Self::SetConfig { .. } => Command::SetConfig,
            Self::RegEvent { .. } => Command::RegEvent,
            Self::EndEvent { .. } => Command::EndEvent,
            Self::SetEvent { .. } => Command::SetEvent,
            Self::FormatRindex { .. } => Command::FormatRindex,
            Self::RebuildRindex { .. } => Command::RebuildRindex,
            Self::RindexEntry { command, .. } => *command,
        }
    }

    fn words(&self) -> Words {
        match self {
            Self::Restrict { flags } => (flags.bits(), 0, u32::MAX),
            Self::AddLockspace { flags, io_timeout, .. } => (flags.bits(), *io_timeout, 0),
            Self::RemLockspace { flags, .. } => (flags.bits(), 0, 0),
            Self::InqLockspace { flags, .. } => (flags.bits(), 0, 0),
            Self::Acquire { flags, target, resources, .. } => (flags.bits(), count(resources.len()), target.data2()),
            Self::Release { flags, target, resources } => (flags.bits(), count(resources.len()), target.data2()),
            Self::Inquire { target } => (0, 0, target.data2()),
            Self::Status { stop_after } => (0, *stop_after, 0),
            Self::Shutdown { force } | Self::ShutdownWait { force } => (0, u32::from(*force), 0),
            Self::WriteLockspace { max_hosts, io_timeout, .. } => (0, *max_hosts, *io_timeout),
            Self::WriteResource { flags, num_hosts, unused, .. } => (flags.bits(), *num_hosts, *unused),
            Self::KillPath { flags, .. } => (flags.bits(), 0, u32::MAX),
            Self::Convert { flags, target, .. } => (flags.bits(), 0, target.data2()),
            Self::AskOwner { flags, force_mode, .. } => (flags.bits(), *force_mode, 0),
            Self::GetLvb { length, .. } => (0, 0, *length),
            Self::SetConfig { config, .. } => (0, *config, 0),
            Self::SetEvent { flags, .. } => (flags.bits(), 0, 0),
            Self::RebuildRindex { flags, .. } => (flags.bits(), 0, 0),
            Self::RindexEntry { flags, hosts, .. } => (flags.bits(), hosts.0, hosts.1),
            _ => (0, 0, 0),
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        match self {
            Self::AddLockspace { lockspace, .. }
            | Self::RemLockspace { lockspace, .. }
            | Self::InqLockspace { lockspace, .. }
            | Self::GetHosts { lockspace }
            | Self::ReadLockspace { lockspace }
            | Self::ExamineLockspace { lockspace }
            | Self::HostStatus { lockspace }
            | Self::Renewal { lockspace }
            | Self::SetConfig { lockspace, .. }
            | Self::EndEvent { lockspace }
            | Self::WriteLockspace { lockspace, .. } => lockspace.encode(out),
            Self::RegEvent { lockspace, event } | Self::SetEvent { lockspace, event, .. } => {
                lockspace.encode(out);
                event.encode(out);
            }
            Self::Align { disk } => disk.encode(out),
            Self::Convert { resource, .. } | Self::ExamineResource { resource } | Self::GetLvb { resource, .. } => {
                resource.encode(out);
            }
            Self::SetLvb { resource, value } => {
                resource.encode(out);
                out.extend_from_slice(value);
            }
            Self::FormatRindex { index } | Self::RebuildRindex { index, .. } => index.encode(out),
            Self::RindexEntry { index, entry, .. } => {
                index.encode(out);
                entry.encode(out);
            }
            Self::Acquire { resources, options, .. } => {
                resources.iter().for_each(|resource| resource.encode(out));
                options.encode(out);
            }
            Self::Release { resources, .. } => resources.iter().for_each(|head| head.encode(out)),
            Self::ReadResource { resource }
            | Self::ReadResourceOwners { resource }
            | Self::AskOwner { resource, .. }
            | Self::WriteResource { resource, .. } => resource.encode(out),
            Self::Explain { resource } => {
                resource.encode(out);
                pad(out);
            }
            Self::ConfirmDead { lockspace, host } => {
                lockspace.encode(out);
                host.encode(out);
                pad(out);
            }
            Self::KillPath { killpath, .. } => killpath.encode(out),
            Self::Register
            | Self::Restrict { .. }
            | Self::Inquire { .. }
            | Self::GetLockspaces
            | Self::Status { .. }
            | Self::Version
            | Self::Shutdown { .. }
            | Self::ShutdownWait { .. }
            | Self::LogDump
            | Self::HoldfastStatus => {}
        }
    }

    /// The bytes to send: header, with an exact `length`, and payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        self.encode_payload(&mut payload);
        let (cmd_flags, data, data2) = self.words();
        let length = length_of(payload.len());
        let mut out = Header { cmd_flags, length, data, data2, ..Header::request(self.command()) }.encode().to_vec();
        out.append(&mut payload);
        out
    }

    /// The request under `header`, whose payload `framing` has cut to size. None: it was not cut to size.
    pub(crate) fn decode(command: Command, header: &Header, payload: &[u8]) -> Option<Self> {
        let bits = header.cmd_flags;
        let target = Target::from_data2(header.data2);
        let mut rest = payload;
        Some(match command {
            Command::Register => Self::Register,
            Command::Restrict => Self::Restrict { flags: RestrictFlags::from_bits(bits) },
            Command::Acquire => Self::Acquire {
                flags: AcquireFlags::from_bits(bits),
                target,
                resources: (0..header.data).map(|_| Resource::split_from(&mut rest)).collect::<Option<_>>()?,
                options: Options::split_from(&mut rest)?,
            },
            Command::Release => Self::Release {
                flags: ReleaseFlags::from_bits(bits),
                target,
                resources: std::iter::from_fn(|| ResourceHead::split_from(&mut rest)).collect(),
            },
            Command::Inquire => Self::Inquire { target },
            Command::GetLockspaces => Self::GetLockspaces,
            Command::Status => Self::Status { stop_after: header.data },
            Command::Version => Self::Version,
            Command::LogDump => Self::LogDump,
            Command::Shutdown => Self::Shutdown { force: header.data == 1 },
            Command::ShutdownWait => Self::ShutdownWait { force: header.data == 1 },
            Command::HoldfastStatus => Self::HoldfastStatus,
            Command::Align => Self::Align { disk: Disk::split_from(&mut rest)? },
            Command::KillPath => {
                let killpath = KillPath::split_from(&mut rest)?;
                Self::KillPath { flags: KillPathFlags::from_bits(bits), killpath }
            }
            Command::Convert | Command::ExamineResource | Command::SetLvb | Command::GetLvb => {
                Self::decode_head(command, header, &mut rest)?
            }
            Command::ReadResource
            | Command::WriteResource
            | Command::ReadResourceOwners
            | Command::Request
            | Command::Explain => Self::decode_resource(command, header, Resource::split_from(&mut rest)?),
            Command::FormatRindex
            | Command::RebuildRindex
            | Command::UpdateRindex
            | Command::LookupRindex
            | Command::CreateResource
            | Command::DeleteResource => Self::decode_index(command, header, &mut rest)?,
            _ => Self::decode_lockspace(command, header, &mut rest)?,
        })
    }

    fn decode_head(command: Command, header: &Header, rest: &mut &[u8]) -> Option<Self> {
        let resource = ResourceHead::split_from(rest)?;
        Some(match command {
            Command::Convert => Self::Convert {
                flags: AcquireFlags::from_bits(header.cmd_flags),
                target: Target::from_data2(header.data2),
                resource,
            },
            Command::SetLvb => Self::SetLvb { resource, value: rest.to_vec() },
            Command::GetLvb => Self::GetLvb { length: header.data2, resource },
            _ => Self::ExamineResource { resource },
        })
    }

    fn decode_resource(command: Command, header: &Header, resource: Resource) -> Self {
        match command {
            Command::ReadResource => Self::ReadResource { resource },
            Command::ReadResourceOwners => Self::ReadResourceOwners { resource },
            Command::WriteResource => Self::WriteResource {
                flags: WriteResourceFlags::from_bits(header.cmd_flags),
                num_hosts: header.data,
                unused: header.data2,
                resource,
            },
            Command::Request => {
                Self::AskOwner { flags: RequestFlags::from_bits(header.cmd_flags), force_mode: header.data, resource }
            }
            _ => Self::Explain { resource },
        }
    }

    fn decode_index(command: Command, header: &Header, rest: &mut &[u8]) -> Option<Self> {
        let (index, flags) = (Rindex::split_from(rest)?, RindexFlags::from_bits(header.cmd_flags));
        Some(match command {
            Command::FormatRindex => Self::FormatRindex { index },
            Command::RebuildRindex => Self::RebuildRindex { flags, index },
            _ => Self::RindexEntry {
                command,
                flags,
                hosts: (header.data, header.data2),
                index,
                entry: RindexEntry::split_from(rest)?,
            },
        })
    }

    fn decode_lockspace(command: Command, header: &Header, rest: &mut &[u8]) -> Option<Self> {
        let (lockspace, bits) = (Lockspace::split_from(rest)?, header.cmd_flags);
        Some(match command {
            Command::AddLockspace => {
                Self::AddLockspace { flags: AddLockspaceFlags::from_bits(bits), io_timeout: header.data, lockspace }
            }
            Command::RemLockspace => Self::RemLockspace { flags: RemLockspaceFlags::from_bits(bits), lockspace },
            Command::InqLockspace => Self::InqLockspace { flags: InqLockspaceFlags::from_bits(bits), lockspace },
            Command::GetHosts => Self::GetHosts { lockspace },
            Command::ReadLockspace => Self::ReadLockspace { lockspace },
            Command::WriteLockspace => {
                Self::WriteLockspace { max_hosts: header.data, io_timeout: header.data2, lockspace }
            }
            Command::ExamineLockspace => Self::ExamineLockspace { lockspace },
            Command::HostStatus => Self::HostStatus { lockspace },
            Command::Renewal => Self::Renewal { lockspace },
            Command::SetConfig => Self::SetConfig { config: header.data, lockspace },
            Command::EndEvent => Self::EndEvent { lockspace },
            Command::RegEvent => Self::RegEvent { lockspace, event: HostEvent::split_from(rest)? },
            Command::SetEvent => {
                let event = HostEvent::split_from(rest)?;
                Self::SetEvent { flags: SetEventFlags::from_bits(bits), lockspace, event }
            }
            Command::ConfirmDead => Self::ConfirmDead { lockspace, host: Host::split_from(rest)? },
            _ => return None,
        })
    }
}
