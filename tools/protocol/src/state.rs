//! The record stream of STATUS, HOST_STATUS and RENEWAL (A 11), to encode and to decode.
//!
//! A record is 80 fixed bytes (`type flags data32 pad data64 name str_len pad`), then `str_len` bytes of text, then a
//! lockspace (type 3) or a resource with its disks (type 4). The text is `key=value key=value ..` and a NUL, which
//! `str_len` counts. The stream ends with the connection. Errors name the byte of the stream where a record could
//! not be read.

use crate::payload::{Lockspace, Resource};
use crate::text::Name48;

/// What a record is about, and what `data32`, `data64` and `name` mean in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// The daemon; name: our host name.
    Daemon,
    /// A connection; data32: its pid or -1; name: its display name.
    Client,
    /// A lockspace; data64: our host_id in it.
    Lockspace,
    /// A lease; data32: its holder's pid; data64: its lver.
    Resource,
    /// A host; data32: host_id; data64: timestamp.
    Host,
    /// A renewal; data64: timestamp.
    Renewal,
}

impl StateKind {
    const ALL: [Self; 6] = [Self::Daemon, Self::Client, Self::Lockspace, Self::Resource, Self::Host, Self::Renewal];

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Daemon => 1,
            Self::Client => 2,
            Self::Lockspace => 3,
            Self::Resource => 4,
            Self::Host => 5,
            Self::Renewal => 6,
        }
    }

    /// The keys of its text, in the order sanlock 3.8.5 prints them.
    #[must_use]
    pub const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Daemon => DAEMON_KEYS,
            Self::Client => CLIENT_KEYS,
            Self::Lockspace => LOCKSPACE_KEYS,
            Self::Resource => &["list", "flags", "sector_size", "align_size", "lver", "reused", "res_id", "token_id"],
            Self::Host => HOST_KEYS,
            Self::Renewal => &["timestamp", "read_ms", "write_ms", "next_timeouts", "next_errors"],
        }
    }
}

const DAEMON_KEYS: &[&str] = &[
    "our_host_name",
    "use_watchdog",
    "high_priority",
    "mlock_level",
    "quiet_fail",
    "debug_renew",
    "debug_clients",
    "debug_cmds",
    "renewal_history_size",
    "gid",
    "uid",
    "sh_retries",
    "max_sectors_kb_ignore",
    "max_sectors_kb_align",
    "max_sectors_kb_num",
    "max_worker_threads",
    "write_init_io_timeout",
    "use_aio",
    "kill_grace_seconds",
    "helper_pid",
    "helper_kill_fd",
    "helper_full_count",
    "helper_last_status",
    "monotime",
    "version_str",
    "version_num",
    "version_hex",
    "smproto_hex",
];
const CLIENT_KEYS: &[&str] = &[
    "ci",
    "fd",
    "pid",
    "flags",
    "restricted",
    "cmd_active",
    "cmd_last",
    "pid_dead",
    "kill_count",
    "kill_last",
    "suspend",
    "need_free",
];
const LOCKSPACE_KEYS: &[&str] = &[
    "list",
    "space_id",
    "io_timeout",
    "sector_size",
    "align_size",
    "host_generation",
    "renew_fail",
    "space_dead",
    "killing_pids",
    "used_retries",
    "external_used",
    "used_by_orphans",
    "renewal_read_extend_sec",
    "set_max_sectors_kb",
    "corrupt_result",
    "acquire_last_result",
    "renewal_last_result",
    "acquire_last_attempt",
    "acquire_last_success",
    "renewal_last_attempt",
    "renewal_last_success",
];
const HOST_KEYS: &[&str] =
    &["last_check", "last_live", "last_req", "owner_id", "owner_generation", "timestamp", "io_timeout", "owner_name"];

/// The text of a record, its NUL included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateText(Vec<u8>);

impl StateText {
    /// Text from pairs, in their order.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let words: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{}={}", k.as_ref(), v.as_ref())).collect();
        let mut bytes = words.join(" ").into_bytes();
        bytes.push(0);
        Self(bytes)
    }

    /// Text exactly as it stood on the wire.
    #[must_use]
    pub fn from_raw(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// All bytes, the NUL included.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.0
    }

    /// The pairs in their order. A word without `=` belongs to the value before it: host names may contain spaces.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or(&[]);
        let text = String::from_utf8_lossy(text);
        let mut pairs: Vec<(String, String)> = Vec::new();
        for word in text.split(' ') {
            match (word.split_once('='), pairs.last_mut()) {
                (Some((key, value)), _) => pairs.push((key.to_owned(), value.to_owned())),
                (None, Some((_, value))) => *value = format!("{value} {word}"),
                (None, None) => {}
            }
        }
        pairs
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        self.pairs().into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// The structure after the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateBody {
    /// None: daemon, client, host and renewal records.
    None,
    /// Of a lockspace record.
    Lockspace(Lockspace),
    /// Of a resource record.
    Resource(Resource),
}

/// One record. `kind` and `body` go together; the constructors see to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRecord {
    /// What it is about.
    pub kind: StateKind,
    /// 0.
    pub flags: u32,
    /// By kind.
    pub data32: u32,
    /// By kind.
    pub data64: u64,
    /// By kind.
    pub name: Name48,
    /// The two words of padding, kept.
    pub pads: [u32; 2],
    /// Keys and values.
    pub text: StateText,
    /// What follows.
    pub body: StateBody,
}

/// A stream that is not one of records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It ends inside a record.
    #[error("status stream ends inside the record at byte {offset}: {found} bytes of its {part}")]
    Truncated {
        /// Where the record starts.
        offset: usize,
        /// Which part is cut.
        part: &'static str,
        /// How much of it is there.
        found: usize,
    },
    /// A record of no known type, so that its end is unknown.
    #[error("status record at byte {offset} has type {found}, expected 1 to 6")]
    Kind {
        /// Where the record starts.
        offset: usize,
        /// The type found.
        found: u32,
    },
}

impl StateRecord {
    /// Bytes before the text.
    pub const HEAD_SIZE: usize = 80;

    fn new(kind: StateKind, name: Name48, text: StateText, body: StateBody) -> Self {
        Self { kind, flags: 0, data32: 0, data64: 0, name, pads: [0; 2], text, body }
    }

    /// The daemon's record.
    #[must_use]
    pub fn daemon(host_name: Name48, text: StateText) -> Self {
        Self::new(StateKind::Daemon, host_name, text, StateBody::None)
    }

    /// A connection's record; pid -1 is none.
    #[must_use]
    pub fn client(pid: i32, name: Name48, text: StateText) -> Self {
        Self { data32: pid.cast_unsigned(), ..Self::new(StateKind::Client, name, text, StateBody::None) }
    }

    /// A lockspace's record.
    #[must_use]
    pub fn lockspace(lockspace: Lockspace, text: StateText) -> Self {
        let (name, data64) = (lockspace.name, lockspace.host_id);
        Self { data64, ..Self::new(StateKind::Lockspace, name, text, StateBody::Lockspace(lockspace)) }
    }

    /// A lease's record. The version stands in the record, not in the resource, as sanlock has it.
    #[must_use]
    pub fn resource(pid: i32, lver: u64, resource: Resource, text: StateText) -> Self {
        let name = resource.head.name;
        Self {
            data32: pid.cast_unsigned(),
            data64: lver,
            ..Self::new(StateKind::Resource, name, text, StateBody::Resource(resource))
        }
    }

    /// A host's record.
    #[must_use]
    pub fn host(host_id: u32, timestamp: u64, text: StateText) -> Self {
        Self { data32: host_id, data64: timestamp, ..Self::new(StateKind::Host, Name48::EMPTY, text, StateBody::None) }
    }

    /// A renewal's record.
    #[must_use]
    pub fn renewal(timestamp: u64, text: StateText) -> Self {
        Self { data64: timestamp, ..Self::new(StateKind::Renewal, Name48::EMPTY, text, StateBody::None) }
    }

    /// `data32` as the pid it is in client and resource records.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.data32.cast_signed()
    }

    /// Appends the bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let words = |out: &mut Vec<u8>, words: &[u32]| words.iter().for_each(|w| out.extend(w.to_le_bytes()));
        words(out, &[self.kind.number(), self.flags, self.data32, self.pads[0]]);
        out.extend(self.data64.to_le_bytes());
        out.extend(self.name.raw());
        words(out, &[u32::try_from(self.text.0.len()).unwrap_or(u32::MAX), self.pads[1]]);
        out.extend_from_slice(&self.text.0);
        match &self.body {
            StateBody::None => {}
            StateBody::Lockspace(lockspace) => lockspace.encode(out),
            StateBody::Resource(resource) => resource.encode(out),
        }
    }

    /// Every record of a whole stream.
    pub fn decode_stream(stream: &[u8]) -> Result<Vec<Self>, StateError> {
        let mut rest = stream;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let offset = stream.len() - rest.len();
            records.push(Self::split_from(&mut rest, offset)?);
        }
        Ok(records)
    }

    fn split_from(bytes: &mut &[u8], offset: usize) -> Result<Self, StateError> {
        let cut = |part, found| StateError::Truncated { offset, part, found };
        let (head, mut rest) = bytes.split_first_chunk::<80>().ok_or(cut("80-byte head", bytes.len()))?;
        let word =
            |at: usize| head.get(at..).and_then(|from| from.first_chunk()).map_or(0, |four| u32::from_le_bytes(*four));
        let number = word(0);
        let kind = StateKind::ALL.into_iter().find(|kind| kind.number() == number);
        let kind = kind.ok_or(StateError::Kind { offset, found: number })?;
        let length = usize::try_from(word(72)).unwrap_or(usize::MAX);
        let (text, after) = rest.split_at_checked(length).ok_or(cut("text", rest.len()))?;
        rest = after;
        let missing = cut("structure", rest.len());
        let body = match kind {
            StateKind::Lockspace => StateBody::Lockspace(Lockspace::split_from(&mut rest).ok_or(missing)?),
            StateKind::Resource => StateBody::Resource(Resource::split_from(&mut rest).ok_or(missing)?),
            _ => StateBody::None,
        };
        *bytes = rest;
        let name = head.get(24..).and_then(|from| from.first_chunk()).copied().unwrap_or([0; 48]);
        Ok(Self {
            kind,
            flags: word(4),
            data32: word(8),
            data64: u64::from(word(16)) | u64::from(word(20)) << 32,
            name: Name48::from_raw(name),
            pads: [word(12), word(76)],
            text: StateText::from_raw(text.to_vec()),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use proptest::prelude::*;

    fn record() -> impl Strategy<Value = StateRecord> {
        let body = prop_oneof![
            Just(None),
            testing::lockspace().prop_map(|l| Some((StateKind::Lockspace, StateBody::Lockspace(l)))),
            testing::resource().prop_map(|r| Some((StateKind::Resource, StateBody::Resource(r)))),
        ];
        let plain =
            prop::sample::select(vec![StateKind::Daemon, StateKind::Client, StateKind::Host, StateKind::Renewal]);
        let text = proptest::collection::vec(any::<u8>(), 0..60).prop_map(StateText::from_raw);
        (plain, body, any::<[u32; 4]>(), any::<u64>(), testing::name(), text).prop_map(
            |(plain, body, [flags, data32, pad, pad2], data64, name, text)| {
                let (kind, body) = body.unwrap_or((plain, StateBody::None));
                StateRecord { kind, flags, data32, data64, name, pads: [pad, pad2], text, body }
            },
        )
    }

    proptest! {
        #[test]
        fn any_stream_of_records_reads_back(records in proptest::collection::vec(record(), 0..5)) {
            let mut stream = Vec::new();
            records.iter().for_each(|record| record.encode(&mut stream));
            prop_assert_eq!(StateRecord::decode_stream(&stream), Ok(records));
        }

        #[test]
        fn any_cut_of_a_stream_is_an_error_or_fewer_records(record in record(), cut: prop::sample::Index) {
            let mut stream = Vec::new();
            record.encode(&mut stream);
            let at = cut.index(stream.len());
            let result = StateRecord::decode_stream(&stream[..at]);
            let refused = matches!(result, Err(StateError::Truncated { offset: 0, .. }));
            prop_assert!(at == 0 || refused);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(mut stream in proptest::collection::vec(any::<u8>(), 0..400), kind in 0..8_u8) {
            if let Some(head) = stream.first_chunk_mut::<4>() {
                *head = [kind, 0, 0, 0];
            }
            let _ = StateRecord::decode_stream(&stream);
        }
    }

    #[test]
    fn text_keeps_its_order_and_a_value_may_contain_a_space() {
        let text = StateText::from_pairs([("owner_id", "1"), ("owner_name", "host of mine"), ("x", "")]);
        assert_eq!(text.raw(), b"owner_id=1 owner_name=host of mine x=\0");
        assert_eq!(text.get("owner_name").as_deref(), Some("host of mine"));
        assert_eq!(text.get("x").as_deref(), Some(""));
        assert_eq!(text.get("y"), None);
    }

    #[test]
    fn an_unknown_type_is_named_with_its_place() {
        let mut stream = Vec::new();
        StateRecord::daemon(Name48::EMPTY, StateText::default()).encode(&mut stream);
        stream.extend([9; 80]);
        assert_eq!(StateRecord::decode_stream(&stream), Err(StateError::Kind { offset: 80, found: 0x0909_0909 }));
    }
}
