//! Which socket is at the other end: asked of the kernel over `NETLINK_SOCK_DIAG`.
//!
//! The two ends of a unix connection are two sockets with two inodes. The daemon has its own end; what a client, and
//! every process that inherits the connection from it, shows in `/proc/PID/fd` is the inode of the *other* end. The
//! kernel tells it in the `UNIX_DIAG_PEER` attribute of a socket looked up by inode. It is asked once, when a client
//! registers, and noted in the state file: after the daemon's death its own end is gone and nobody could ask any more.
//!
//! | bytes of the answer | field |
//! | --- | --- |
//! | 0..16 | `nlmsghdr`: length u32, type u16, flags u16, sequence u32, port u32 |
//! | 16..32 | `unix_diag_msg`: family u8, type u8, state u8, pad u8, inode u32, cookie 2 x u32 |
//! | 32.. | attributes: length u16 (header of 4 included), type u16, payload, padded to 4 |
//!
//! All numbers are in the byte order of the machine. Limit: the kernel looks a socket up in the network namespace of
//! the asker, so a client in another one (a container that was given the socket file) is not found: an error, from
//! which the caller has to conclude "unknown", never "nobody". Source: sock_diag(7).

use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::procfs::{ProcError, socket_inode};

/// Why the other end is not known.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The descriptor is no socket.
    #[error("the inode of our own end is not known: {0}")]
    OwnEnd(#[source] ProcError),
    /// An inode of a socket has 32 bits.
    #[error("socket inode {found} has more than 32 bits")]
    InodeTooLarge {
        /// The inode found.
        found: u64,
    },
    /// A call on the netlink socket failed; a kernel without the module unix_diag answers `ENOENT`, to it or in its answer.
    #[error("sock_diag: {operation} failed: {source}")]
    Os {
        /// The call.
        operation: &'static str,
        /// Why.
        source: Errno,
    },
    /// The kernel refused the question.
    #[error("sock_diag: the kernel does not tell about socket inode {inode}: {source}")]
    Refused {
        /// Our own end.
        inode: u32,
        /// Why; `ENOENT` for a socket of another network namespace.
        source: Errno,
    },
    /// An answer that is not one to the question asked.
    #[error("sock_diag: expected {expected} in the answer about socket inode {inode}, found {found}")]
    Answer {
        /// Our own end.
        inode: u32,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: u64,
    },
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_UNIX: u8 = 1;
const UDIAG_SHOW_PEER: u32 = 0x4;
const UNIX_DIAG_PEER: u16 = 2;
const HEADER_LEN: usize = 16;
const ATTRIBUTES_AT: usize = HEADER_LEN + 16;
const REQUEST_LEN: usize = HEADER_LEN + 24;
/// We ask one question per socket, so any number will do.
const SEQUENCE: u32 = 1;

/// The inode of the other end of a connected unix socket; `None` when that end is closed already.
///
/// # Errors
/// The kernel cannot or will not tell. Then the holders of the other end are *unknown*.
pub fn peer_inode<Socket: AsFd>(connection: &Socket) -> Result<Option<u64>, SockDiagError> {
    let own = socket_inode(connection).map_err(SockDiagError::OwnEnd)?;
    let own = u32::try_from(own).map_err(|_wide| SockDiagError::InodeTooLarge { found: own })?;
    let failed = |operation| move |source| SockDiagError::Os { operation, source };
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
        .map_err(failed("socket"))?;
    // The kernel answers inside sendto; the limit is there so that no kernel's whim can stop the daemon.
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(2)).map_err(failed("setsockopt"))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request(own), &kernel, MsgFlags::empty()).map_err(failed("sendto"))?;
    let mut answer = [0; 512];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(failed("recv"))?;
    peer_in_answer(answer.get(..length).unwrap_or(&answer), own)
}

/// Asks about two sockets of our own, to find out whether the kernel answers such questions at all.
///
/// # Errors
/// It does not, and what to do about it: no client can be guarded on this host.
pub fn answers() -> Result<(), String> {
    let told = std::os::unix::net::UnixStream::pair().map_err(|e| e.to_string()).and_then(|(one, other)| {
        let peer = peer_inode(&one).map_err(|error| match error {
            SockDiagError::Refused { source: Errno::ENOENT, .. } | SockDiagError::Os { source: Errno::ENOENT, .. } => {
                format!("{error}. The kernel's module unix_diag is not loaded: `modprobe unix_diag`, at every boot")
            }
            _ => error.to_string(),
        })?;
        Ok((peer, socket_inode(&other).map_err(|e| e.to_string())?))
    })?;
    match told {
        (Some(peer), other) if peer == other => Ok(()),
        (peer, other) => {
            Err(format!("sock_diag: expected socket inode {other} as the other end of a pair, found {peer:?}"))
        }
    }
}

/// The question: one socket, looked up by its inode, with its peer.
#[expect(clippy::host_endian_bytes, reason = "netlink speaks the byte order of the machine")]
fn request(inode: u32) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    let mut at = 0;
    let mut put = |field: &[u8]| {
        bytes[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    };
    put(&40_u32.to_ne_bytes());
    put(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    put(&NLM_F_REQUEST.to_ne_bytes());
    put(&SEQUENCE.to_ne_bytes());
    put(&0_u32.to_ne_bytes()); // port: the kernel fills in ours
    put(&[AF_UNIX, 0, 0, 0]); // family, protocol, pad
    put(&u32::MAX.to_ne_bytes()); // states: every one
    put(&inode.to_ne_bytes());
    put(&UDIAG_SHOW_PEER.to_ne_bytes());
    put(&u64::MAX.to_ne_bytes()); // no cookie: the inode alone names the socket, and we hold it open
    assert!(at == REQUEST_LEN, "the whole request is filled in");
    bytes
}

/// The peer's inode in the kernel's answer about `inode`.
fn peer_in_answer(answer: &[u8], inode: u32) -> Result<Option<u64>, SockDiagError> {
    let wrong = |expected, found| SockDiagError::Answer { inode, expected, found };
    let short = || wrong("32 bytes or more", answer.len() as u64);
    let kind = u16_at(answer, 4).ok_or_else(short)?;
    if kind == NLMSG_ERROR {
        let code = u32_at(answer, HEADER_LEN).ok_or_else(short)?;
        // The kernel writes the errno negated.
        let source = Errno::from_raw(i32::from_ne_bytes_of(code).wrapping_neg());
        return Err(SockDiagError::Refused { inode, source });
    }
    if kind != SOCK_DIAG_BY_FAMILY {
        return Err(wrong("message type 20", u64::from(kind)));
    }
    let about = u32_at(answer, HEADER_LEN + 4).ok_or_else(short)?;
    if about != inode {
        return Err(wrong("the inode asked for", u64::from(about)));
    }
    let mut at = ATTRIBUTES_AT;
    while let (Some(length), Some(kind)) = (u16_at(answer, at), u16_at(answer, at + 2)) {
        if kind == UNIX_DIAG_PEER {
            let peer = u32_at(answer, at + 4).ok_or_else(short)?;
            // 0: the other end is closed, only its memory of the connection is left.
            return Ok((peer != 0).then_some(u64::from(peer)));
        }
        if length < 4 {
            return Err(wrong("an attribute of 4 bytes or more", u64::from(length)));
        }
        at += usize::from(length).next_multiple_of(4);
    }
    // A socket that is connected to nothing, or no longer, has no such attribute.
    Ok(None)
}

/// A signed number whose bits came as an unsigned one.
trait FromBits {
    fn from_ne_bytes_of(bits: u32) -> Self;
}

impl FromBits for i32 {
    #[expect(clippy::host_endian_bytes, reason = "there and back in one line: the order cancels out")]
    fn from_ne_bytes_of(bits: u32) -> Self {
        i32::from_ne_bytes(bits.to_ne_bytes())
    }
}

#[expect(clippy::host_endian_bytes, reason = "netlink speaks the byte order of the machine")]
fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[expect(clippy::host_endian_bytes, reason = "netlink speaks the byte order of the machine")]
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
#[expect(clippy::host_endian_bytes, reason = "netlink speaks the byte order of the machine")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn accepted() -> (UnixStream, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn the_accepted_end_finds_the_inode_of_the_connecting_end_and_the_reverse() {
        let (daemon_end, client_end) = accepted();
        let daemon_inode = socket_inode(&daemon_end).unwrap();
        let client_inode = socket_inode(&client_end).unwrap();
        assert_ne!(daemon_inode, client_inode);
        assert_eq!(peer_inode(&daemon_end).unwrap(), Some(client_inode));
        assert_eq!(peer_inode(&client_end).unwrap(), Some(daemon_inode));
    }

    #[test]
    fn a_kernel_that_tells_about_a_pair_of_our_own_answers() {
        assert_eq!(answers(), Ok(()));
    }

    #[test]
    fn a_closed_other_end_is_none() {
        let (daemon_end, client_end) = accepted();
        drop(client_end);
        assert_eq!(peer_inode(&daemon_end).unwrap(), None);
    }

    #[test]
    fn a_socket_the_kernel_does_not_know_as_unix_is_an_error_not_nobody() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = peer_inode(&udp).unwrap_err();
        assert!(matches!(error, SockDiagError::Refused { source: Errno::ENOENT, .. }), "{error}");
    }

    #[test]
    fn a_plain_file_has_no_other_end() {
        let error = peer_inode(&tempfile::tempfile().unwrap()).unwrap_err();
        assert!(matches!(error, SockDiagError::OwnEnd(_)), "{error}");
    }

    fn answer(inode: u32, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([AF_UNIX, 1, 1, 0]);
        bytes.extend(inode.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn the_peer_is_found_behind_other_attributes_of_odd_length() {
        let mut attributes = Vec::new();
        attributes.extend([5_u16.to_ne_bytes(), 0_u16.to_ne_bytes()].concat());
        attributes.extend([b'n', 0, 0, 0]);
        attributes.extend([8_u16.to_ne_bytes(), UNIX_DIAG_PEER.to_ne_bytes()].concat());
        attributes.extend(77_u32.to_ne_bytes());
        assert_eq!(peer_in_answer(&answer(5, &attributes), 5).unwrap(), Some(77));
        let error = peer_in_answer(&answer(6, &attributes), 5).unwrap_err().to_string();
        assert_eq!(error, "sock_diag: expected the inode asked for in the answer about socket inode 5, found 6");
    }

    #[test]
    fn an_attribute_without_length_ends_in_an_error_not_in_a_loop() {
        let error = peer_in_answer(&answer(5, &[0, 0, 9, 9]), 5).unwrap_err();
        assert!(matches!(error, SockDiagError::Answer { found: 0, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_whatever_makes_the_parser_fail_in_another_way_than_by_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..128),
            tail in proptest::collection::vec(any::<u8>(), 0..96),
        ) {
            let _either = peer_in_answer(&bytes, 7);
            let known = peer_in_answer(&answer(7, &tail), 7);
            let refused = matches!(known, Err(SockDiagError::Refused { .. }));
            prop_assert!(!refused, "an answer about the socket is not the kernel's refusal");
        }
    }
}
