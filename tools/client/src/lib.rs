//! The client library: what a program says to the lease daemon of its host, `holdfastd` or sanlock.
//!
//! Two faces over one implementation: [`blocking`] on a std socket and [`asynchronous`] on a tokio socket have the
//! same calls, built by the same `calls` (request bytes out, reply bytes to a value), which know no socket.
//!
//! ```no_run
//! use holdfast_client::{Endpoint, blocking::Connection};
//! # fn main() -> Result<(), holdfast_client::ClientError> {
//! let endpoint = Endpoint::from_environment();
//! let version = Connection::open(&endpoint)?.version()?;
//! let client = Connection::open(&endpoint)?.register()?;
//! # Ok(()) }
//! ```
//!
//! A *registered* connection is a client's identity: leases belong to it, they are given up when its last descriptor
//! closes, and it survives `exec` once [`inherit_on_exec`](blocking::Registered::inherit_on_exec) was called. Calls
//! after which the daemon closes the connection take it by value. Errors say which call, at which socket, and what a
//! person can do about it. The daemon's death never raises SIGPIPE here.
#![forbid(unsafe_code)]

pub mod asynchronous;
pub mod blocking;
mod calls;
mod endpoint;
mod error;

pub use calls::{Confirmation, Hosts, InquireAnswer, LockspaceFound, LockspacePresence};
pub use endpoint::{DEFAULT_RUN_DIR, Endpoint, RUN_DIR_VARIABLE};
pub use error::ClientError;
pub use holdfast_protocol as protocol;
