//! What can go wrong between a client and its daemon: every variant names the socket, and the call if there was one.

use holdfast_protocol::{ReplyError, ResultCode, StateError};
use nix::errno::Errno;
use std::path::PathBuf;
use std::time::Duration;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon at {} (connect: {})", socket.display(), errno.desc())]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// ENOENT or ECONNREFUSED.
        errno: Errno,
    },
    /// The socket may not be used by us.
    #[error("not allowed to use the daemon at {} (connect: {}); its socket is open to its owner and group", socket.display(), errno.desc())]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
        /// EACCES or EPERM.
        errno: Errno,
    },
    /// The path cannot be a socket's: the kernel has room for 107 bytes.
    #[error("{} is too long for a socket path: {found} bytes, at most 107; choose a shorter run directory", socket.display())]
    PathTooLong {
        /// The socket.
        socket: PathBuf,
        /// Its length in bytes.
        found: usize,
    },
    /// A system call failed.
    #[error("{call}: {operation} on {} failed: {}", socket.display(), errno.desc())]
    Socket {
        /// The call.
        call: &'static str,
        /// What was tried.
        operation: &'static str,
        /// The socket.
        socket: PathBuf,
        /// Why it failed.
        errno: Errno,
    },
    /// The daemon was silent for too long.
    #[error("{call}: the daemon at {} did not answer within {}; it may still carry the request out", socket.display(), Seconds(*deadline))]
    Deadline {
        /// The call.
        call: &'static str,
        /// The socket.
        socket: PathBuf,
        /// How long it was given.
        deadline: Duration,
    },
    /// The daemon closed the connection before it had answered.
    #[error("{call}: the daemon at {} closed the connection after {found} of {expected} bytes of its answer", socket.display())]
    Closed {
        /// The call.
        call: &'static str,
        /// The socket.
        socket: PathBuf,
        /// Bytes received.
        found: usize,
        /// Bytes of the part that was awaited.
        expected: usize,
    },
    /// The answer is not one.
    #[error("{call}: the daemon at {} sent a wrong answer: {reason}", socket.display())]
    Reply {
        /// The call.
        call: &'static str,
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: ReplyError,
    },
    /// A status stream that cannot be read.
    #[error("{call}: the daemon at {} sent a stream that cannot be read: {reason}", socket.display())]
    Stream {
        /// The call.
        call: &'static str,
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: StateError,
    },
    /// The daemon said no.
    #[error("{call} refused by the daemon at {}: {code}", socket.display())]
    Refused {
        /// The call.
        call: &'static str,
        /// The socket.
        socket: PathBuf,
        /// Its answer.
        code: ResultCode,
    },
}

impl ClientError {
    /// The daemon's answer, if it was a refusal.
    #[must_use]
    pub fn refusal(&self) -> Option<ResultCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// From the errno of a connect.
    pub(crate) fn connect(socket: PathBuf, errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR => Self::NoDaemon { socket, errno },
            Errno::EACCES | Errno::EPERM => Self::NotAllowed { socket, errno },
            Errno::ENAMETOOLONG => Self::PathTooLong { found: socket.as_os_str().len(), socket },
            _ => Self::Socket { call: "connect", operation: "connect", socket, errno },
        }
    }
}

/// A duration as a person reads it: `5 s`, `0.25 s`.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_a_person_needs() {
        let socket = || PathBuf::from("/run/sanlock/sanlock.sock");
        assert_eq!(
            ClientError::connect(socket(), Errno::ENOENT).to_string(),
            "no daemon at /run/sanlock/sanlock.sock (connect: No such file or directory)"
        );
        assert_eq!(
            ClientError::Refused { call: "acquire", socket: socket(), code: ResultCode::new(-243) }.to_string(),
            "acquire refused by the daemon at /run/sanlock/sanlock.sock: another host, which is alive, holds the lease \
             (HELD_BY_LIVE_HOST, -243)"
        );
        let late = ClientError::Deadline { call: "acquire", socket: socket(), deadline: Duration::from_millis(2500) };
        assert_eq!(
            late.to_string(),
            "acquire: the daemon at /run/sanlock/sanlock.sock did not answer within 2.5 s; it may still carry the \
             request out"
        );
    }
}
