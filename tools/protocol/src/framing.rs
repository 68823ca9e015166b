//! Requests out of a byte stream, however it is cut up (A 2, 12).
//!
//! [`RequestReader`] is given bytes by [`push`](RequestReader::push) and gives [`Incoming`] values by
//! [`next`](RequestReader::next): None means "push more". How long a payload is follows from the command and the
//! counts inside the payload, never from `length`, which shipped clients get wrong. `length` is believed in two
//! places only, as sanlock does: for the size of a SET_LVB value, and for how much of a refused request is still to
//! come and to be thrown away.
//!
//! What a malformed request gets: a header we do not serve is swallowed and reported as `Ignored`, and what follows
//! it is read as the next header; ACQUIRE of more than 8 resources, RELEASE of more than 256, or a value above 4096
//! bytes gets E2BIG; a `length` that ends before a value could begin gets ENOMEM; a resource with 0 or more than 4 disks gets ERANGE; a payload cut off by the end of the stream
//! gets ENOTCONN ([`eof`](RequestReader::eof)). The refusal comes as soon as the bytes that cause it are there, so the
//! sequence of values does not depend on how the stream was cut.
//!
//! Memory: the largest request is [`MAX_MESSAGE`], 34,392 bytes; the reader holds less than that whenever `next` has
//! returned None. A caller that then reads at most [`room`](RequestReader::room) bytes from its socket, and takes out
//! everything before it reads again, never makes it hold more than [`MAX_BUFFERED`], 64 KiB, whatever the peer sends.
//! Bytes of a refused request are dropped as they come.
//!
//! Differences from sanlock, all on the side of staying in step: the rest of *every* refused request is thrown away
//! (sanlock does so for ACQUIRE and RELEASE, and reads a refused READ_RESOURCE's disks as headers); a negative count
//! of an ACQUIRE is refused (taken as 0 there); RELEASE has a limit (none there); a partial header delays nobody.

use crate::codes::ResultCode;
use crate::command::{Command, ReleaseFlags};
use crate::header::{HEADER_SIZE, Header, HeaderFault};
use crate::payload::{
    Disk, Host, HostEvent, KillPath, Lockspace, MAX_DISKS, MAX_RESOURCES, Options, ResourceHead, Rindex, RindexEntry,
};
use crate::request::{Message, OWN_MULTIPLE, Request};

/// Most resources one RELEASE may name. sanlock has no limit; its library sends at most 8.
pub const MAX_RELEASE: usize = 256;
/// Most bytes of a lease's value: one sector.
pub const MAX_LVB: usize = 4096;
/// The largest request: an ACQUIRE of 8 resources on 4 disks each.
pub const MAX_MESSAGE: usize =
    HEADER_SIZE + MAX_RESOURCES * (ResourceHead::SIZE + MAX_DISKS * Disk::SIZE) + Options::SIZE;
/// What a reader holds at most, if its caller heeds [`RequestReader::room`].
pub const MAX_BUFFERED: usize = 64 * 1024;

/// What came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole request.
    Request(Message),
    /// A header that gets no answer: to be logged, no more.
    Ignored {
        /// As received.
        header: Header,
        /// Why it was ignored.
        why: HeaderFault,
    },
    /// A request that cannot be served; [`Refusal::encode`] is the answer.
    Refused(Refusal),
}

/// A request refused by its framing alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As received.
    pub header: Header,
    /// The command the header names.
    pub command: Command,
    /// E2BIG, ENOMEM, ERANGE or ENOTCONN.
    pub code: ResultCode,
    /// Payload bytes that `length` says are still to come; the reader throws them away.
    pub unread: u32,
    /// The structure this command's reply carries even when it fails, as far as it was received.
    pub echo: Vec<u8>,
}

impl Refusal {
    /// The reply: header, and the structure where the command has one.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let data2 = if self.command.echoes_data2() { self.header.data2 } else { 0 };
        let mut out = self.header.answer(self.code, data2, self.echo.len()).encode().to_vec();
        out.extend_from_slice(&self.echo);
        out
    }
}

/// What the bytes after a header say about the size of the payload.
enum Need {
    /// Not decided yet, or not all there.
    More,
    /// This many bytes, all there.
    Whole(usize),
    /// Refused after this many bytes.
    Refuse(ResultCode, usize),
}

fn exactly(size: usize, available: usize) -> Need {
    if available < size { Need::More } else { Need::Whole(size) }
}

/// The size of a payload, by command and by the counts inside it.
fn need(command: Command, header: &Header, available: &[u8]) -> Need {
    let size = match command {
        Command::Acquire => return need_acquire(header.data, available),
        Command::Release => match release_count(header) {
            Some(count) => count * ResourceHead::SIZE,
            None => return Need::Refuse(ResultCode::E2BIG, 0),
        },
        Command::Request | Command::WriteResource | Command::ReadResource | Command::ReadResourceOwners => {
            return need_resources(1, 0, available);
        }
        Command::Explain => return need_padded(need_resources(1, 0, available), available.len()),
        Command::SetLvb => match value_length(header) {
            Some(length) if length > MAX_LVB => return Need::Refuse(ResultCode::E2BIG, 0),
            Some(length) => ResourceHead::SIZE + length,
            None if available.len() < ResourceHead::SIZE => return Need::More,
            None => return Need::Refuse(ResultCode::ENOMEM, ResourceHead::SIZE),
        },
        Command::AddLockspace
        | Command::RemLockspace
        | Command::ExamineLockspace
        | Command::HostStatus
        | Command::InqLockspace
        | Command::WriteLockspace
        | Command::ReadLockspace
        | Command::GetHosts
        | Command::EndEvent
        | Command::SetConfig
        | Command::Renewal => Lockspace::SIZE,
        Command::ConfirmDead => (Lockspace::SIZE + Host::SIZE).next_multiple_of(OWN_MULTIPLE),
        Command::Align => Disk::SIZE,
        Command::ExamineResource | Command::GetLvb | Command::Convert => ResourceHead::SIZE,
        Command::KillPath => KillPath::SIZE,
        Command::RegEvent | Command::SetEvent => Lockspace::SIZE + HostEvent::SIZE,
        Command::FormatRindex | Command::RebuildRindex => Rindex::SIZE,
        Command::UpdateRindex | Command::LookupRindex | Command::CreateResource | Command::DeleteResource => {
            Rindex::SIZE + RindexEntry::SIZE
        }
        Command::Register
        | Command::Shutdown
        | Command::Status
        | Command::LogDump
        | Command::Inquire
        | Command::Restrict
        | Command::GetLockspaces
        | Command::Version
        | Command::ShutdownWait
        | Command::HoldfastStatus => 0,
    };
    exactly(size, available.len())
}

/// How long the value of a SET_LVB is, by its header; None: shorter than nothing. `length` is signed there.
fn value_length(header: &Header) -> Option<usize> {
    let around = i32::try_from(HEADER_SIZE + ResourceHead::SIZE).unwrap_or(i32::MAX);
    usize::try_from(i64::from(header.length.cast_signed()) - i64::from(around)).ok()
}

/// The same, up to the next multiple of [`OWN_MULTIPLE`].
fn need_padded(need: Need, available: usize) -> Need {
    match need {
        Need::Whole(size) => exactly(size.next_multiple_of(OWN_MULTIPLE), available),
        other => other,
    }
}

/// How many heads a RELEASE carries; None if it is more than we take. ORPHAN and RENAME fix it whatever `data` says.
fn release_count(header: &Header) -> Option<usize> {
    let flags = ReleaseFlags::from_bits(header.cmd_flags);
    if flags.contains(ReleaseFlags::ALL) {
        Some(0)
    } else if flags.contains(ReleaseFlags::ORPHAN) {
        Some(1)
    } else if flags.contains(ReleaseFlags::RENAME) {
        Some(2)
    } else {
        usize::try_from(header.data).ok().filter(|count| *count <= MAX_RELEASE)
    }
}

fn need_acquire(count: u32, available: &[u8]) -> Need {
    match usize::try_from(count) {
        Ok(count) if count <= MAX_RESOURCES => need_resources(count, Options::SIZE, available),
        _ => Need::Refuse(ResultCode::E2BIG, 0),
    }
}

/// `count` resources, each with as many disks as its head says, and `tail` bytes after them.
fn need_resources(count: usize, tail: usize, available: &[u8]) -> Need {
    let mut end = 0;
    for _ in 0..count {
        let Some(head) = available.get(end..).and_then(|rest| rest.first_chunk()) else { return Need::More };
        end += ResourceHead::SIZE;
        match usize::try_from(ResourceHead::decode(head).num_disks) {
            Ok(disks @ 1..=MAX_DISKS) => end += disks * Disk::SIZE,
            _ => return Need::Refuse(ResultCode::ERANGE, end),
        }
    }
    exactly(end + tail, available.len())
}

/// The structure at the end of a command's reply that sanlock sends even on failure, as far as `payload` has it.
fn echo(command: Command, payload: &[u8]) -> Vec<u8> {
    let (skip, size) = match command {
        Command::ReadLockspace => (0, Lockspace::SIZE),
        Command::ReadResource | Command::ReadResourceOwners => (0, ResourceHead::SIZE),
        Command::UpdateRindex | Command::LookupRindex | Command::CreateResource | Command::DeleteResource => {
            (Rindex::SIZE, RindexEntry::SIZE)
        }
        _ => return Vec::new(),
    };
    let mut bytes: Vec<u8> = payload.iter().skip(skip).take(size).copied().collect();
    bytes.resize(size, 0);
    bytes
}

/// Reads requests from one connection's bytes.
#[derive(Debug, Default)]
pub struct RequestReader {
    buffer: Vec<u8>,
    /// Bytes of `buffer` already dealt with.
    start: usize,
    /// Bytes of a refused request still to be thrown away.
    discard: u32,
    /// RESTRICT ALL is in force.
    restricted: bool,
}

impl RequestReader {
    /// A reader at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes may be pushed within [`MAX_BUFFERED`]; never 0 after `next` has returned None.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_BUFFERED.saturating_sub(self.pending().len())
    }

    /// Bytes of a refused request that are still expected, and will be thrown away.
    #[must_use]
    pub fn discarding(&self) -> u32 {
        self.discard
    }

    /// Stop throwing away: the next byte begins a header. `length` may have promised more than was ever sent; sanlock
    /// gives up after about 20 ms without a byte, and so should whoever owns the clock.
    pub fn stop_discarding(&mut self) {
        self.discard = 0;
    }

    /// RESTRICT ALL was granted: every later header is ignored.
    pub fn restrict_all(&mut self) {
        self.restricted = true;
    }

    fn pending(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or(&[])
    }

    fn consume(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.buffer.len());
    }

    fn throw_away(&mut self) {
        let held = u32::try_from(self.pending().len()).unwrap_or(u32::MAX);
        let now = held.min(self.discard);
        self.discard -= now;
        self.consume(usize::try_from(now).unwrap_or(usize::MAX));
    }

    /// The next thing the pushed bytes make up; None when more are needed.
    #[expect(clippy::should_implement_trait, reason = "None means push more, not the end")]
    pub fn next(&mut self) -> Option<Incoming> {
        self.throw_away();
        let header = Header::decode(self.pending().first_chunk()?);
        let served = if self.restricted { Err(HeaderFault::Restricted) } else { header.command() };
        let command = match served {
            Ok(command) => command,
            Err(why) => {
                self.consume(HEADER_SIZE);
                return Some(Incoming::Ignored { header, why });
            }
        };
        let payload = self.pending().get(HEADER_SIZE..)?;
        match need(command, &header, payload) {
            Need::More => None,
            Need::Whole(size) => {
                let request = Request::decode(command, &header, payload.get(..size)?)?;
                self.consume(HEADER_SIZE + size);
                Some(Incoming::Request(Message { header, command, request }))
            }
            Need::Refuse(code, size) => {
                let echo = echo(command, payload.get(..size)?);
                // Of a `length` below zero nothing is still to come.
                let announced = if header.length.cast_signed() < 0 { 0 } else { header.announced_payload() };
                let unread = announced.saturating_sub(u32::try_from(size).unwrap_or(u32::MAX));
                self.consume(HEADER_SIZE + size);
                self.discard = unread;
                Some(Incoming::Refused(Refusal { header, command, code, unread, echo }))
            }
        }
    }

    /// The stream has ended, and `next` has returned None: what to answer to a request whose payload was cut off.
    pub fn eof(&mut self) -> Option<Incoming> {
        self.throw_away();
        let header = Header::decode(self.pending().first_chunk()?);
        let command = if self.restricted { None } else { header.command().ok() }?;
        let echo = echo(command, self.pending().get(HEADER_SIZE..)?);
        self.consume(usize::MAX);
        Some(Incoming::Refused(Refusal { header, command, code: ResultCode::ENOTCONN, unread: 0, echo }))
    }
}

#[cfg(test)]
mod tests;
