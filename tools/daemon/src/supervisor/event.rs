//! What can happen to the daemon, and what it then does. [`super::Supervisor::apply`] turns one into the other.

use std::cmp::Ordering;
use std::path::PathBuf;
use std::time::Duration;

use delta_lease::{HostEvent, Past, Publication};
use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, ResourceName, SpaceName};
use holdfast_io::seal::SealedFire;
use holdfast_io::stop::Stop;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::{FireTimeout, IoTimeout};
use holdfast_io::units::Geometry;
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::SetEventFlags;
use holdfast_protocol::header::Header;
use holdfast_protocol::request::{Message, Request};
use nix::sys::signal::Signal;
use paxos_lease::request::Force;
use paxos_lease::{Ask, Mode, Standing};

use super::index::{IndexEnd, IndexRequest};
use super::killpath::Program;
use crate::state_file::{FenceRecord, Guarded, StateFile};

/// A connection of a client, numbered in the order of arrival and never again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// A piece of work on disk that runs beside the supervisor and reports back once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// A resource of a lockspace: the key of a lease in this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseKey {
    /// Its lockspace.
    pub space: SpaceName,
    /// Its name there.
    pub resource: ResourceName,
}

impl std::fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.space, self.resource)
    }
}

/// A lease area on a device. It is the same place whoever names it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Device or file.
    pub path: PathBuf,
    /// Byte offset of the area.
    pub offset: u64,
    /// Those of whoever named it: by these it is opened, and by no others.
    pub by: Rights,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.path, self.offset).cmp(&(&other.path, other.offset))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A path is a client's to name, and a line of the log is not.
        write!(f, "{}:{}", self.path.as_os_str().as_encoded_bytes().escape_ascii(), self.offset)
    }
}

/// Where a reply goes: the connection, and the header it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The connection that asked.
    pub client: ClientId,
    /// The header it asked with.
    pub header: Header,
}

/// What came of preparing a lease's devices.
#[derive(Debug)]
pub struct Prepared {
    /// The new fences taken, whatever came of it: what is written through them later is under them.
    pub fences: Vec<FenceRecord>,
    /// The answer and the reason, if the lease cannot be used.
    pub result: Result<(), (ResultCode, String)>,
}

impl Prepared {
    /// Nothing was done.
    #[must_use]
    pub const fn refused(code: ResultCode, why: String) -> Self {
        Prepared { fences: Vec::new(), result: Err((code, why)) }
    }
}

/// How a lease task's attempt to acquire ended.
#[derive(Debug)]
pub enum AcquireEnd<L> {
    /// The lease is ours: what release needs, and its version.
    Ours {
        /// What release needs.
        held: L,
        /// The version of this ownership.
        lver: Lver,
        /// The sizes of its area.
        geometry: Geometry,
        /// Its value, if it was acquired with one.
        value: Option<Vec<u8>>,
    },
    /// It is not. `undoing`: the task still undoes what it wrote and reports [`Event::TaskDone`] when that is over.
    Refused {
        /// The answer to the client.
        code: ResultCode,
        /// Who holds it, since when, until when: for the log and for people.
        why: String,
        /// Whether trying again later could change the answer.
        may_change: bool,
        /// Whether the task goes on undoing.
        undoing: bool,
    },
}

/// How the delta lease of a lockspace was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostTo {
    /// The host_id is another's, or free, or counts no more: what was granted under it may be another host's by now.
    Another,
    /// It cannot be renewed any more, and others must see it silent first.
    Nobody,
}

/// What has happened.
#[derive(Debug)]
pub enum Event<L> {
    /// A connection came in.
    Connected {
        /// Its number.
        client: ClientId,
        /// The pid at its other end when it connected.
        pid: i32,
        /// Whose rights it may ask for.
        rights: Rights,
    },
    /// A whole request came in.
    Request {
        /// From whom.
        client: ClientId,
        /// What.
        message: Message,
    },
    /// A connection asked to be registered; its process was looked up (`None`: it could not be).
    Registered {
        /// Which connection.
        client: ClientId,
        /// The process to guard.
        process: Option<Guarded>,
    },
    /// A connection is at its end: the peer closed it, or half of it.
    Closed {
        /// Which.
        client: ClientId,
    },
    /// A registered process has exited.
    Exited {
        /// The connection it registered.
        client: ClientId,
    },
    /// Nothing is left of the process group that a registered process led.
    GroupGone {
        /// The connection it registered.
        client: ClientId,
    },
    /// Nothing that a registered process, its group or its heirs have written is in flight now.
    WritesOver {
        /// The connection it registered.
        client: ClientId,
        /// They were waited for after all of these had exited. Otherwise some of them may live, and write on.
        exited: bool,
    },
    /// A client that lives gives back a lease, and what its rings wrote was waited for.
    WritesDrained {
        /// The connection it registered.
        client: ClientId,
        /// Nothing of it is in flight, as far as its devices show. Otherwise they were never seen idle.
        idle: bool,
    },
    /// The watchdog is armed, or cannot be.
    Armed {
        /// Whether it keeps what is to be sealed, as read back; or why not.
        result: Result<(), String>,
        /// The device's own timeout as read back, if there is a device.
        device_seconds: Option<u32>,
        /// It cannot be stopped.
        stays_on: bool,
    },
    /// At the start of the daemon: a watchdog that cannot be stopped counts, and nothing that it guarded is left.
    CountsOn,
    /// The watchdog was petted; the clock was read again after it (W1).
    Petted {
        /// Whether the device took it.
        result: Result<(), String>,
        /// Until when it was to keep this host alive.
        until: LocalInstant,
    },
    /// The join is about to write its delta sector at this generation, through these fences. It goes on when the state
    /// file names them and the watchdog is armed.
    JoinFenced {
        /// Which lockspace.
        space: SpaceName,
        /// The generation that the join will write.
        generation: Generation,
        /// The fences held.
        fences: Vec<FenceRecord>,
    },
    /// A join ended.
    Joined {
        /// Which lockspace.
        space: SpaceName,
        /// The generation and the start of the last good renewal; or the answer and the reason.
        result: Result<Join, (ResultCode, String)>,
    },
    /// A renewal succeeded.
    Renewed {
        /// Which lockspace.
        space: SpaceName,
        /// Taken before the renewal's write was issued (D2 counts from here).
        started_at: LocalInstant,
        /// How long its I/O took.
        took: Took,
    },
    /// A renewal failed.
    RenewalFailed {
        /// Which lockspace.
        space: SpaceName,
        /// What happened.
        why: String,
        /// The delta lease is lost: final.
        lost: Option<LostTo>,
        /// The same as a number.
        code: ResultCode,
    },
    /// Of a lockspace that is being left without a write, nothing but a renewal of its delta sector can still land.
    Reaped {
        /// Which.
        space: SpaceName,
    },
    /// A lockspace is left: its tasks have ended, and all its writes are reaped.
    Left {
        /// Which.
        space: SpaceName,
    },
    /// The devices of a lease task are open and fenced.
    DeviceReady {
        /// Which task.
        task: TaskId,
        /// The new fences taken, and whether the lease can be used: or else the answer and the reason.
        prepared: Prepared,
    },
    /// A disk of a lease that is in use was missing, is back, and has its fence. It is used once the state file names that.
    Fenced {
        /// In which lockspace.
        space: SpaceName,
        /// The fence.
        fence: FenceRecord,
        /// To be set then.
        saved: Stop,
    },
    /// An acquire task ended.
    Acquired {
        /// Which task.
        task: TaskId,
        /// How.
        end: AcquireEnd<L>,
    },
    /// A release task has an answer; `done` when it has also come to its end.
    Released {
        /// Which task.
        task: TaskId,
        /// 0, or what went wrong.
        code: ResultCode,
        /// What went wrong, in words.
        why: Option<String>,
        /// Whether nothing more is to come.
        done: bool,
    },
    /// A conversion came to its end, with all that it had to undo.
    Converted {
        /// Which task.
        task: TaskId,
        /// How.
        end: Converted<L>,
    },
    /// A request record was written, and this owner is to be called; or there is none; or it was not written.
    Asked {
        /// Who wanted it.
        to: ReplyTo,
        /// The lease.
        key: LeaseKey,
        /// The owner; or the answer and the reason.
        result: Result<Option<HostTerm>, (ResultCode, String)>,
    },
    /// Other hosts were seen to call us.
    Called {
        /// In which lockspace.
        space: SpaceName,
        /// Each of them.
        calls: Vec<Call>,
    },
    /// The generation of the host for which an event is was looked up.
    EventAimed {
        /// Who asked.
        to: ReplyTo,
        /// What is to be told to whom.
        set: SetEvent,
    },
    /// The request record of a lease was read.
    Examined {
        /// The lease.
        key: LeaseKey,
        /// The version at which we held it.
        lver: Lver,
        /// What is asked for; or why that is not known.
        found: Result<Option<Force>, String>,
    },
    /// How a held lease stands on disk was read.
    Verified {
        /// The lease.
        key: LeaseKey,
        /// The version at which we held it.
        lver: Lver,
        /// And how.
        mode: Mode,
        /// What the disk says; or why that is not known.
        found: Result<Standing, String>,
    },
    /// A task that went on after its answer came to its end.
    TaskDone {
        /// Which.
        task: TaskId,
    },
    /// The device of an index is open and fenced.
    IndexReady {
        /// Which task.
        task: TaskId,
        /// The new fences taken, and whether the lease can be used: or else the answer and the reason.
        prepared: Prepared,
    },
    /// Work on an index has an answer.
    IndexDone {
        /// Which task.
        task: TaskId,
        /// How it ended.
        end: IndexEnd,
        /// Whether nothing more is to come; else [`Event::TaskDone`] follows.
        over: bool,
    },
    /// Time has passed.
    Tick,
    /// SIGTERM or SIGINT.
    ShutdownSignal,
    /// The configuration was read again.
    Reloaded(Reloaded),
}

/// What of the configuration can change while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// For lockspaces that are added without an io_timeout of their own.
    pub io_timeout: IoTimeout,
    /// From SIGTERM to SIGKILL.
    pub kill_grace: Duration,
    /// A lease outlives the descriptor of its connection until its process is gone: of clients that connect from now on.
    pub strict_clients: bool,
}

/// What another host's delta sector says to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who calls.
    pub from: HostTerm,
    /// The event that it tells, if any.
    pub event: HostEvent,
}

/// SET_EVENT, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetEvent {
    /// In which lockspace.
    pub space: SpaceName,
    /// For which host.
    pub host_id: HostId,
    /// And which generation of it.
    pub generation: u64,
    /// The event.
    pub event: u64,
    /// What the sender adds.
    pub data: u64,
    /// How.
    pub flags: SetEventFlags,
}

/// A join that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// Our generation.
    pub generation: Generation,
    /// The start of the last good renewal.
    pub started_at: LocalInstant,
    /// The sizes of its area.
    pub geometry: Geometry,
}

/// How long a renewal's two I/Os took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// The read of the area.
    pub read: Duration,
    /// The write of our sector.
    pub write: Duration,
}

/// What to join.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Its name.
    pub space: SpaceName,
    /// Our host_id in it.
    pub host_id: HostId,
    /// Where it lies.
    pub place: Place,
    /// Our io_timeout there.
    pub io_timeout: IoTimeout,
    /// What the seal says of our watchdog.
    pub fire: SealedFire,
    /// Our earlier terms there (P1).
    pub past: Past,
    /// How the join is asked to end.
    pub stop: Stop,
}

/// What to acquire.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Which lease.
    pub key: LeaseKey,
    /// Where it lies, on 1 to 4 disks.
    pub places: Vec<Place>,
    /// The version it must have, if the client says so.
    pub expected_lver: Option<Lver>,
    /// A new number of hosts, if the client says so.
    pub num_hosts: Option<u32>,
    /// Give up at once on an owner that no longer renews but is not dead.
    pub nowait: bool,
    /// Exclusively, or shared.
    pub mode: Mode,
    /// With its value.
    pub value: bool,
    /// It outlives its client, as an orphan.
    pub persistent: bool,
    /// What an orphan there means.
    pub orphans: Orphans,
}

/// What an acquire makes of a lease that a former client left behind (spec A 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// It stands in the way.
    Refused,
    /// It is taken over, if there is one.
    Adopted,
    /// It is taken over, and nothing else would do.
    Demanded,
}

/// What to convert, and how.
#[derive(Debug)]
pub struct ConvertRequest<L> {
    /// Which lease.
    pub key: LeaseKey,
    /// As it is held.
    pub held: L,
    /// As it is to be held.
    pub mode: Mode,
    /// A value to be written before it is shared.
    pub value: Option<Vec<u8>>,
    /// Give up at once on an owner that no longer renews but is not dead.
    pub nowait: bool,
}

/// A request to another host.
#[derive(Clone, Debug)]
pub struct AskRequest {
    /// Who wants it.
    pub to: ReplyTo,
    /// The lease.
    pub key: LeaseKey,
    /// Where it lies, on 1 to 4 disks.
    pub places: Vec<Place>,
    /// What is asked for.
    pub ask: Ask,
}

/// How a conversion ended.
#[derive(Debug)]
pub struct Converted<L> {
    /// The lease as it is held now. `None`: it is no longer ours.
    pub held: Option<(L, Mode, Lver)>,
    /// The answer to the client.
    pub code: ResultCode,
    /// Why it was not converted.
    pub why: Option<String>,
}

/// How to end a guarded process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Which connection's process.
    pub client: ClientId,
    /// With what.
    pub signal: Signal,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect<L> {
    /// Send bytes.
    Reply {
        /// To whom.
        client: ClientId,
        /// What.
        bytes: Vec<u8>,
    },
    /// The request just answered is over: the connection's next one may be read.
    Next {
        /// Which connection.
        client: ClientId,
    },
    /// Close a connection when its replies are sent.
    Close {
        /// Which.
        client: ClientId,
    },
    /// Nothing is known of a connection any more, nor of its process.
    Forget {
        /// Which.
        client: ClientId,
    },
    /// Look up the process behind a connection and report [`Event::Registered`]; watch it from now on.
    Identify {
        /// Which connection.
        client: ClientId,
    },
    /// A registered process has exited that led a process group: report [`Event::GroupGone`] when all of it has.
    WatchGroup {
        /// Which connection.
        client: ClientId,
    },
    /// The connection of a registered process is at its end, or the process itself after that: report
    /// [`Event::WritesOver`] when nothing that it, its group or its heirs wrote is in flight any more.
    WatchWrites {
        /// Which connection.
        client: ClientId,
        /// All of these have exited.
        exited: bool,
    },
    /// A client that lives gives back a lease: report [`Event::WritesDrained`] when what it wrote through an io_uring is no longer
    /// in flight, or after a bounded time. At once where it has no ring.
    DrainWrites {
        /// Which connection.
        client: ClientId,
    },
    /// Answer from the disk or from what was observed of other hosts, without the supervisor.
    Answer {
        /// To whom.
        to: ReplyTo,
        /// What was asked.
        request: Request,
    },
    /// Write the state file; nothing that follows may happen before it is safe in the run directory.
    Save(StateFile),
    /// Open the watchdog, which arms it.
    Arm(FireTimeout),
    /// Pet it, read the clock again, report [`Event::Petted`].
    Pet {
        /// The earliest of the instants up to which lockspaces vouch for this host: a watchdog that is told an instant is
        /// told this one (D3).
        until: LocalInstant,
    },
    /// Reset this host now (W1).
    Fire,
    /// Disarm and close it.
    Disarm,
    /// Join a lockspace.
    StartJoin(JoinRequest),
    /// The state file names generation and fences, and the watchdog is armed: the join may write. Or it may not: then it
    /// was asked to stop, and goes on to find that out.
    AllowJoin {
        /// Which lockspace.
        space: SpaceName,
    },
    /// Lease sectors of this lockspace may be written before this instant (D2).
    SetLimit {
        /// Which lockspace.
        space: SpaceName,
        /// D2's instant.
        until: LocalInstant,
    },
    /// No lease sector of this lockspace may be written any more (D2, final).
    CloseLimit {
        /// Which lockspace.
        space: SpaceName,
    },
    /// Tasks of this lockspace that undo, share or release something come to their end: what they are for is over.
    EndTasks {
        /// Which.
        space: SpaceName,
    },
    /// End renewal, wait for tasks and writes, give the delta lease back if told to, report [`Event::Left`].
    Leave {
        /// Which lockspace.
        space: SpaceName,
        /// Whether the delta lease is given back.
        free: bool,
    },
    /// Open and fence the device of a lease, report [`Event::DeviceReady`].
    OpenDevice {
        /// The task.
        task: TaskId,
        /// The lease.
        request: LeaseRequest,
    },
    /// The state file names a fence: what waited for that goes on.
    FenceSaved {
        /// What waits.
        saved: Stop,
    },
    /// Acquire; report [`Event::Acquired`].
    StartAcquire {
        /// The task.
        task: TaskId,
        /// The lease.
        request: LeaseRequest,
        /// How the task is asked to end.
        stop: Stop,
    },
    /// Release; report [`Event::Released`].
    StartRelease {
        /// The task.
        task: TaskId,
        /// The lease.
        key: LeaseKey,
        /// What release needs.
        held: L,
        /// Its new name.
        rename: Option<ResourceName>,
        /// A value to be written before.
        value: Option<Vec<u8>>,
    },
    /// Convert a lease; report [`Event::Converted`].
    StartConvert {
        /// The task.
        task: TaskId,
        /// The lease.
        request: ConvertRequest<L>,
        /// How the task is asked to end.
        stop: Stop,
    },
    /// Open and fence the device of an index; report [`Event::IndexReady`].
    OpenIndex {
        /// The task.
        task: TaskId,
        /// The index, and what is to be done with it.
        request: IndexRequest,
    },
    /// Work on an index; report [`Event::IndexDone`].
    StartIndex {
        /// The task.
        task: TaskId,
        /// The index, and what is to be done with it.
        request: IndexRequest,
        /// How the task is asked to end.
        stop: Stop,
    },
    /// Write a request record; report [`Event::Asked`].
    Ask(AskRequest),
    /// Read the request record of a lease; report [`Event::Examined`].
    Examine {
        /// The lease.
        key: LeaseKey,
        /// The version at which it is held.
        lver: Lver,
        /// As it is held.
        held: L,
    },
    /// Look up in which generation the host is that an event is for; comes back as [`Event::EventAimed`].
    FindGeneration {
        /// Who asked.
        to: ReplyTo,
        /// What is to be told to whom.
        set: SetEvent,
    },
    /// Send something to a connection that has asked for no reply. One that does not take it comes to its end; a client, whose
    /// life its connection is, only misses it.
    Tell {
        /// To whom.
        client: ClientId,
        /// What.
        bytes: Vec<u8>,
    },
    /// Read how a held lease stands on disk; report [`Event::Verified`].
    Verify {
        /// The lease.
        key: LeaseKey,
        /// As it is held.
        held: L,
    },
    /// What our delta sector says to others from its next renewal on.
    Publish {
        /// In which lockspace.
        space: SpaceName,
        /// What.
        publication: Publication,
    },
    /// Run what a client wants to be run in its place.
    RunProgram {
        /// Whose.
        client: ClientId,
        /// What.
        program: Program,
    },
    /// Signal a guarded process.
    Kill(Kill),
    /// Answer with the whole state as JSON, hosts included.
    AnswerStatus {
        /// To whom.
        to: ReplyTo,
    },
    /// The daemon's work is done.
    Exit,
}

impl<L> Effect<L> {
    /// Whose latest request this answers or has answered from the disk, or who waits for no answer.
    pub(super) const fn answers(&self) -> Option<ClientId> {
        match self {
            Self::Next { client } | Self::Close { client } | Self::Identify { client } => Some(*client),
            Self::Answer { to, .. } | Self::AnswerStatus { to } => Some(to.client),
            _ => None,
        }
    }
}
