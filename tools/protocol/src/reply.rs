//! Replies: typed, encoded by the daemon under the request's header and decoded by the client (A 5).
//!
//! A reply is a header whose `data` is the result, and for some commands a payload. STATUS and its kind answer with a
//! bare header and then a stream of records that ends with the connection: [`ReplyPayload::UntilEof`]. REGISTER and
//! SHUTDOWN have no reply at all. Errors: a reply of another command or size than the request's is [`ReplyError`];
//! a failure the daemon reports is not an error here but the reply's [`result`](Reply::result).

use crate::codes::ResultCode;
use crate::command::Command;
use crate::header::{Header, MAGIC};
use crate::payload::{Host, Lockspace, ResourceHead};

/// The largest reply payload a client accepts.
pub const MAX_REPLY: usize = 16 * 1024 * 1024;

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A result and no more.
    Result(ResultCode),
    /// VERSION: 0xMMmmpp00.
    Version {
        /// Major, minor, patch, zero.
        version: u32,
    },
    /// INQUIRE.
    Inquire {
        /// The result.
        result: ResultCode,
        /// How many leases the client owns.
        count: u32,
        /// The STATE string without its NUL; none is sent when this is empty and the count is 0.
        state: Vec<u8>,
    },
    /// GET_LOCKSPACES.
    Lockspaces {
        /// The result.
        result: ResultCode,
        /// All of them.
        lockspaces: Vec<Lockspace>,
    },
    /// GET_HOSTS.
    Hosts {
        /// The result.
        result: ResultCode,
        /// All asked for.
        hosts: Vec<Host>,
    },
    /// READ_LOCKSPACE. The structure is sent even with a failure.
    Lockspace {
        /// The result.
        result: ResultCode,
        /// The io_timeout stored on disk, in seconds.
        io_timeout: u32,
        /// What was found.
        lockspace: Lockspace,
    },
    /// READ_RESOURCE. The structure is sent even with a failure.
    Resource {
        /// The result.
        result: ResultCode,
        /// What was found.
        resource: ResourceHead,
    },
    /// The header before a stream of records.
    Stream {
        /// The result; the stream is empty if it is a failure.
        result: ResultCode,
    },
    /// SHUTDOWN_WAIT at the daemon's end: a header with nothing but magic, version and length.
    ShutdownDone,
    /// Holdfast's own commands.
    Json {
        /// The result.
        result: ResultCode,
        /// The document; empty with a failure, or the words of CONFIRM_DEAD's.
        body: Vec<u8>,
    },
    /// The reply of any other command.
    Other {
        /// The result, or for some a positive number.
        result: ResultCode,
        /// `data2`.
        data2: u32,
        /// The payload.
        payload: Vec<u8>,
    },
}

/// How much follows a reply's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyPayload {
    /// This many bytes.
    Exact(usize),
    /// Everything until the daemon closes the connection.
    UntilEof,
}

/// A reply that does not belong to the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Not a reply of this protocol.
    #[error("reply has magic {found:#010x}, expected {MAGIC:#010x}")]
    Magic {
        /// The word found.
        found: u32,
    },
    /// An answer to something else.
    #[error("reply is for command {found}, expected {expected}")]
    Command {
        /// The number found.
        found: u32,
        /// The number sent.
        expected: u32,
    },
    /// More than we are willing to hold.
    #[error("reply announces {found} bytes, more than {MAX_REPLY}")]
    TooLong {
        /// The number announced.
        found: u64,
    },
    /// The payload is not what the header says.
    #[error("reply to {command} has {found} bytes of payload, expected {expected}")]
    Size {
        /// The command's name.
        command: &'static str,
        /// Bytes there.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
}

impl Command {
    /// Whether the daemon ever answers it.
    #[must_use]
    pub const fn has_reply(self) -> bool {
        !matches!(self, Self::Register | Self::Shutdown)
    }
}

impl ReplyPayload {
    /// What follows `header`, the reply to `command`.
    pub fn of(command: Command, header: &Header) -> Result<Self, ReplyError> {
        if header.magic != MAGIC {
            return Err(ReplyError::Magic { found: header.magic });
        }
        let ended = command == Command::ShutdownWait && header.cmd == 0;
        if header.cmd != command.number() && !ended {
            return Err(ReplyError::Command { found: header.cmd, expected: command.number() });
        }
        let announced = match command {
            Command::Status | Command::HostStatus | Command::Renewal => return Ok(Self::UntilEof),
            Command::LogDump => header.data,
            // With an error its length is what was asked for, and nothing follows.
            Command::GetLvb if header.data != 0 => 0,
            _ => header.announced_payload(),
        };
        match usize::try_from(announced) {
            Ok(bytes) if bytes <= MAX_REPLY => Ok(Self::Exact(bytes)),
            _ => Err(ReplyError::TooLong { found: u64::from(announced) }),
        }
    }
}

impl Reply {
    /// The result in it; what `data` holds.
    #[must_use]
    pub fn result(&self) -> ResultCode {
        match self {
            Self::Result(result)
            | Self::Inquire { result, .. }
            | Self::Lockspaces { result, .. }
            | Self::Hosts { result, .. }
            | Self::Lockspace { result, .. }
            | Self::Resource { result, .. }
            | Self::Stream { result }
            | Self::Json { result, .. }
            | Self::Other { result, .. } => *result,
            Self::Version { .. } | Self::ShutdownDone => ResultCode::OK,
        }
    }

    /// The bytes that answer the request under `request`. After a [`Reply::Stream`] the records follow.
    #[must_use]
    pub fn encode(&self, request: &Header) -> Vec<u8> {
        let mut payload = Vec::new();
        let data2 = self.encode_payload(request, &mut payload);
        let mut header = request.answer(self.result(), data2, payload.len());
        match self {
            Self::Version { .. } => (header.cmd_flags, header.seq) = (0, 0),
            Self::ShutdownDone => (header.cmd, header.cmd_flags, header.seq) = (0, 0, 0),
            _ => {}
        }
        let mut out = header.encode().to_vec();
        out.append(&mut payload);
        out
    }

    /// Appends the payload; the value is the header's `data2`.
    fn encode_payload(&self, request: &Header, out: &mut Vec<u8>) -> u32 {
        let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
        match self {
            Self::Result(_) | Self::Stream { .. } => {
                let echoes = Command::from_number(request.cmd).is_some_and(Command::echoes_data2);
                if echoes { request.data2 } else { 0 }
            }
            Self::Version { version } => *version,
            Self::Inquire { count, state, .. } => {
                if *count > 0 || !state.is_empty() {
                    out.extend_from_slice(state);
                    out.push(0);
                }
                *count
            }
            Self::Lockspaces { lockspaces, .. } => {
                lockspaces.iter().for_each(|lockspace| lockspace.encode(out));
                count(lockspaces.len())
            }
            Self::Hosts { hosts, .. } => {
                hosts.iter().for_each(|host| host.encode(out));
                count(hosts.len())
            }
            Self::Lockspace { io_timeout, lockspace, .. } => {
                lockspace.encode(out);
                *io_timeout
            }
            Self::Resource { resource, .. } => {
                resource.encode(out);
                0
            }
            Self::ShutdownDone => 0,
            Self::Json { body, .. } => {
                out.extend_from_slice(body);
                0
            }
            Self::Other { data2, payload, .. } => {
                out.extend_from_slice(payload);
                *data2
            }
        }
    }

    /// The reply to `command`, from its header and the payload that [`ReplyPayload::of`] asked for.
    pub fn decode(command: Command, header: &Header, payload: &[u8]) -> Result<Self, ReplyError> {
        let want = ReplyPayload::of(command, header)?;
        if let ReplyPayload::Exact(expected) = want {
            sized(command, payload.len(), expected)?;
        }
        let result = header.result();
        let data2 = header.data2;
        Ok(match command {
            Command::Status | Command::HostStatus | Command::Renewal => Self::Stream { result },
            Command::Version => Self::Version { version: data2 },
            Command::ShutdownWait if header.cmd == 0 => Self::ShutdownDone,
            Command::Inquire => {
                let state = payload.strip_suffix(&[0]).unwrap_or(payload).to_vec();
                Self::Inquire { result, count: data2, state }
            }
            Command::GetLockspaces => {
                let lockspaces = list(command, payload, Lockspace::SIZE, data2, Lockspace::split_from)?;
                Self::Lockspaces { result, lockspaces }
            }
            Command::GetHosts => {
                Self::Hosts { result, hosts: list(command, payload, Host::SIZE, data2, Host::split_from)? }
            }
            Command::ReadLockspace => {
                let lockspace = single(command, payload, Lockspace::SIZE, Lockspace::split_from)?;
                Self::Lockspace { result, io_timeout: data2, lockspace }
            }
            Command::ReadResource => {
                let resource = single(command, payload, ResourceHead::SIZE, ResourceHead::split_from)?;
                Self::Resource { result, resource }
            }
            Command::Explain | Command::HoldfastStatus | Command::ConfirmDead => {
                Self::Json { result, body: payload.to_vec() }
            }
            Command::LogDump | Command::GetLvb | Command::ReadResourceOwners => {
                Self::Other { result, data2, payload: payload.to_vec() }
            }
            _ if payload.is_empty() => Self::Result(result),
            _ => Self::Other { result, data2, payload: payload.to_vec() },
        })
    }
}

fn sized(command: Command, found: usize, expected: usize) -> Result<(), ReplyError> {
    if found == expected { Ok(()) } else { Err(ReplyError::Size { command: command.name(), found, expected }) }
}

fn single<T>(
    command: Command,
    payload: &[u8],
    size: usize,
    split: fn(&mut &[u8]) -> Option<T>,
) -> Result<T, ReplyError> {
    let wrong = ReplyError::Size { command: command.name(), found: payload.len(), expected: size };
    let mut rest = payload;
    split(&mut rest).filter(|_| rest.is_empty()).ok_or(wrong)
}

/// `count` structures that fill the payload; a failure reply may have none whatever its count.
fn list<T>(
    command: Command,
    payload: &[u8],
    size: usize,
    count: u32,
    split: fn(&mut &[u8]) -> Option<T>,
) -> Result<Vec<T>, ReplyError> {
    if payload.is_empty() {
        return Ok(Vec::new());
    }
    sized(command, payload.len(), usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(size))?;
    let mut rest = payload;
    Ok(std::iter::from_fn(|| split(&mut rest)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::HEADER_SIZE;
    use crate::testing;
    use proptest::prelude::*;

    /// Replies of every kind, with the command they answer.
    fn reply() -> impl Strategy<Value = (Command, Reply)> {
        let code = || any::<i32>().prop_map(ResultCode::new);
        let bytes = || proptest::collection::vec(1_u8.., 0..100);
        let few = 0..4_usize;
        prop_oneof![
            code().prop_map(|result| (Command::Acquire, Reply::Result(result))),
            any::<u32>().prop_map(|version| (Command::Version, Reply::Version { version })),
            (code(), 1_u32.., bytes())
                .prop_map(|(result, count, state)| (Command::Inquire, Reply::Inquire { result, count, state })),
            (code(), proptest::collection::vec(testing::lockspace(), few.clone()))
                .prop_map(|(result, lockspaces)| (Command::GetLockspaces, Reply::Lockspaces { result, lockspaces })),
            (code(), proptest::collection::vec(testing::host(), few))
                .prop_map(|(result, hosts)| (Command::GetHosts, Reply::Hosts { result, hosts })),
            (code(), any::<u32>(), testing::lockspace()).prop_map(|(result, io_timeout, lockspace)| {
                (Command::ReadLockspace, Reply::Lockspace { result, io_timeout, lockspace })
            }),
            (code(), testing::head())
                .prop_map(|(result, resource)| (Command::ReadResource, Reply::Resource { result, resource })),
            code().prop_map(|result| (Command::Status, Reply::Stream { result })),
            Just((Command::ShutdownWait, Reply::ShutdownDone)),
            (code(), bytes()).prop_map(|(result, body)| (Command::Explain, Reply::Json { result, body })),
            (code(), any::<u32>(), bytes()).prop_map(|(result, data2, payload)| (
                Command::ReadResourceOwners,
                Reply::Other { result, data2, payload }
            )),
        ]
    }

    #[test]
    fn nothing_follows_a_value_that_is_refused_whatever_the_header_says() {
        let asked = Header::request(Command::GetLvb);
        let payload = |result| ReplyPayload::of(Command::GetLvb, &asked.answer(result, 0, 16)).unwrap();
        assert!(matches!(payload(ResultCode::OK), ReplyPayload::Exact(16)));
        assert!(matches!(payload(ResultCode::ENOENT), ReplyPayload::Exact(0)));
    }

    proptest! {
        #[test]
        fn every_reply_decodes_to_what_was_encoded((command, reply) in reply(), seq: u32) {
            let request = Header { seq, cmd_flags: 5, ..Header::request(command) };
            let bytes = reply.encode(&request);
            let header = Header::decode(bytes.first_chunk().unwrap());
            let payload = &bytes[HEADER_SIZE..];
            if let ReplyPayload::Exact(size) = ReplyPayload::of(command, &header).unwrap() {
                prop_assert_eq!(size, payload.len());
            }
            let echoed = if matches!(reply, Reply::Version { .. } | Reply::ShutdownDone) { (0, 0) } else { (seq, 5) };
            prop_assert_eq!((header.seq, header.cmd_flags), echoed);
            prop_assert_eq!(Reply::decode(command, &header, payload), Ok(reply));
        }

        #[test]
        fn no_reply_makes_the_client_panic(words: [u32; 5], which in 0..Command::ALL.len(), payload: Vec<u8>) {
            let command = Command::ALL[which];
            let [version, cmd_flags, length, data, data2] = words;
            let header = Header { version, cmd_flags, length, data, data2, ..Header::request(command) };
            let _ = Reply::decode(command, &header, &payload);
        }
    }

    #[test]
    fn a_reply_to_another_command_or_of_another_size_is_refused() {
        let header = Header::request(Command::GetHosts).answer(ResultCode::OK, 2, 32);
        assert_eq!(ReplyPayload::of(Command::Acquire, &header), Err(ReplyError::Command { found: 23, expected: 7 }));
        assert_eq!(
            Reply::decode(Command::GetHosts, &header, &[0; 32]),
            Err(ReplyError::Size { command: "get_hosts", found: 32, expected: 64 })
        );
        let huge = Header { length: u32::MAX, ..header };
        assert_eq!(ReplyPayload::of(Command::GetHosts, &huge), Err(ReplyError::TooLong { found: 0xffff_ffdf }));
    }

    #[test]
    fn only_some_replies_repeat_data2() {
        let request = |command| Header { data2: 9, ..Header::request(command) };
        for (command, data2) in
            [(Command::Status, 9), (Command::EndEvent, 9), (Command::Acquire, 0), (Command::Restrict, 0)]
        {
            let bytes = Reply::Result(ResultCode::OK).encode(&request(command));
            assert_eq!(Header::decode(bytes.first_chunk().unwrap()).data2, data2, "{}", command.name());
        }
    }
}
