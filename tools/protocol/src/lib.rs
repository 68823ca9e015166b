//! The wire between a client and the lease daemon: bytes to types and types to bytes, nothing else.
//!
//! It is sanlock's protocol (a client of one daemon is a client of the other), with two commands of our own
//! above it. No sockets, no clocks and no threads live here: the daemon pushes whatever it has read into a
//! [`RequestReader`] and takes requests out; the client library asks [`Request::encode`] for the bytes to send
//! and [`Reply::decode`] for what they brought back.
//!
//! - `header`: the 32 bytes before everything. - `command`: the numbers, how each is dispatched, its flag words.
//! - `payload`: the fixed structures. - `request` and `reply`: both directions, typed. - `framing`: requests out of a
//!   byte stream, in bounded memory. - `state`: the record stream of STATUS. - `strings`: the lease strings exactly as
//!   sanlock reads and prints them. - `arguments`: the same strings as a person types them, strictly. - `codes`: the
//!   one table of every result.
//!
//! All integers are little-endian. Nothing here panics on any input. Source: the protocol specification (A), and for
//! `strings`, `codes` and the refusals in `framing` the installed sanlock 3.8.5, asked through its library and socket.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod codes;
pub mod command;
pub mod framing;
pub mod header;
pub mod payload;
pub mod reply;
pub mod request;
pub mod state;
pub mod strings;
pub mod text;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod testing;

pub use codes::ResultCode;
pub use command::{
    AcquireFlags, AddLockspaceFlags, Class, Command, InqLockspaceFlags, KillPathFlags, LeaseFlags, LockspaceFlags,
    LockspaceUse, ReleaseFlags, RemLockspaceFlags, RestrictFlags, WriteResourceFlags,
};
pub use framing::{Incoming, Refusal, RequestReader};
pub use header::{HEADER_SIZE, Header, HeaderFault};
pub use payload::{
    Disk, EventCallback, Host, HostEvent, HostState, KillPath, Lockspace, Options, Resource, ResourceHead, Rindex,
    RindexEntry,
};
pub use reply::{Reply, ReplyError, ReplyPayload};
pub use request::{Message, Request, Target};
pub use state::{StateBody, StateError, StateKind, StateRecord, StateText};
pub use text::{DiskPath, FixedText, KillText, Name48};
