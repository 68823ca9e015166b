//! Telling whoever started the daemon how it is: sd_notify(3), one datagram to the socket that `NOTIFY_SOCKET` names.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Clients are served, and what is joined at the start is joined, or cannot be.
pub(super) const READY: &str = "READY=1";
/// What stands before words for people.
pub(super) const STATUS: &str = "STATUS=";

/// Tells it, if anybody wants to know. Who cannot be told goes without, and the log says so.
pub(super) fn tell(state: &str) {
    if let Err(error) = send(state) {
        tracing::warn!(%error, state, "$NOTIFY_SOCKET cannot be told");
    }
}

fn send(state: &str) -> io::Result<()> {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
}
