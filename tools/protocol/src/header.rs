//! The 32-byte header before every request and every reply (A 2).
//!
//! Eight little-endian u32: magic, version, cmd, cmd_flags, length, seq, data, data2. In a reply `data` is the
//! result as i32. `length` is 32 plus the payload *usually*: shipped clients get it wrong, so nothing here or in
//! `framing` sizes a payload by it. Decoding never fails; [`Header::command`] says whether a request is one to answer.

use crate::codes::ResultCode;
use crate::command::Command;

/// Size of a header in bytes.
pub const HEADER_SIZE: usize = 32;
/// The first word of every header.
pub const MAGIC: u32 = 0x0428_2010;
/// The version we send: major 0 (high half), minor 1 (low half).
pub const VERSION: u32 = 0x0000_0001;

/// One header, in either direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// Protocol version, major in the high half. Requests with a higher major are ignored.
    pub version: u32,
    /// Command number; a reply echoes it.
    pub cmd: u32,
    /// The command's flag word; a reply echoes it.
    pub cmd_flags: u32,
    /// 32 plus payload bytes, as the sender believes.
    pub length: u32,
    /// Free for the sender; a reply echoes it.
    pub seq: u32,
    /// Argument of a request; result (as i32) of a reply.
    pub data: u32,
    /// Argument or target pid of a request; count or second value of a reply.
    pub data2: u32,
}

/// Why a header is swallowed without an answer (A 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The first word is not the magic number: most likely the payload of a malformed request.
    #[error("header magic is {found:#010x}, expected {MAGIC:#010x}")]
    Magic {
        /// The word found.
        found: u32,
    },
    /// A major version above ours.
    #[error("protocol version {found:#010x} has a major number above 0")]
    Version {
        /// The version found.
        found: u32,
    },
    /// No command has this number.
    #[error("unknown command number {found:#x}")]
    UnknownCommand {
        /// The number found.
        found: u32,
    },
    /// The connection asked, with RESTRICT ALL, never to be listened to again.
    #[error("the connection is restricted: no further command is served")]
    Restricted,
}

impl Header {
    /// A request header of `command` with everything else zero and a length of 32.
    #[must_use]
    pub fn request(command: Command) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            cmd: command.number(),
            cmd_flags: 0,
            length: 32,
            seq: 0,
            data: 0,
            data2: 0,
        }
    }

    /// The header that answers this request: cmd, flags and seq echoed, our version, the given result.
    #[must_use]
    pub fn answer(&self, result: ResultCode, data2: u32, payload: usize) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            cmd: self.cmd,
            cmd_flags: self.cmd_flags,
            length: length_of(payload),
            seq: self.seq,
            data: result.wire(),
            data2,
        }
    }

    /// The command of a request, or why it gets no answer.
    ///
    /// VERSION is answered whatever version the header claims: it is how a client finds out.
    pub fn command(&self) -> Result<Command, HeaderFault> {
        if self.magic != MAGIC {
            return Err(HeaderFault::Magic { found: self.magic });
        }
        let command = Command::from_number(self.cmd);
        if self.version >> 16 > 0 && command != Some(Command::Version) {
            return Err(HeaderFault::Version { found: self.version });
        }
        command.ok_or(HeaderFault::UnknownCommand { found: self.cmd })
    }

    /// The result carried by a reply.
    #[must_use]
    pub fn result(&self) -> ResultCode {
        ResultCode::from_wire(self.data)
    }

    /// Payload bytes announced by `length`. A hint: see the module's words on `length`.
    #[must_use]
    pub fn announced_payload(&self) -> u32 {
        self.length.saturating_sub(32)
    }

    /// Eight words from their 32 bytes.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let mut words = [0_u32; 8];
        for (word, four) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*four);
        }
        let [magic, version, cmd, cmd_flags, length, seq, data, data2] = words;
        Self { magic, version, cmd, cmd_flags, length, seq, data, data2 }
    }

    /// The 32 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let words = [self.magic, self.version, self.cmd, self.cmd_flags, self.length, self.seq, self.data, self.data2];
        let mut bytes = [0; HEADER_SIZE];
        for (four, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *four = word.to_le_bytes();
        }
        bytes
    }
}

/// The `length` word for a payload of `bytes`. Saturates; no payload we build comes near 4 GiB.
pub(crate) fn length_of(bytes: usize) -> u32 {
    u32::try_from(bytes.saturating_add(HEADER_SIZE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_32_bytes_decode_and_encode_to_themselves(bytes: [u8; 32]) {
            prop_assert_eq!(Header::decode(&bytes).encode(), bytes);
        }
    }

    #[test]
    fn version_is_answered_at_any_protocol_version_and_nothing_else_is() {
        let mut header = Header::request(Command::Version);
        header.version = 0x0002_0000;
        assert_eq!(header.command(), Ok(Command::Version));
        header.cmd = Command::Status.number();
        assert_eq!(header.command(), Err(HeaderFault::Version { found: 0x0002_0000 }));
        for accepted in [0, 1, 0xffff] {
            header.version = accepted;
            assert_eq!(header.command(), Ok(Command::Status));
        }
    }

    #[test]
    fn the_magic_is_looked_at_before_the_command() {
        let mut header = Header::request(Command::Version);
        header.magic = 7;
        header.cmd = 99;
        assert_eq!(header.command(), Err(HeaderFault::Magic { found: 7 }));
        header.magic = MAGIC;
        assert_eq!(header.command(), Err(HeaderFault::UnknownCommand { found: 99 }));
    }
}
