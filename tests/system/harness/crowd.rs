//! Connections that nobody needs: as many as there are, saying what no client says.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_client::protocol::command::Command;
use holdfast_client::protocol::header::{HEADER_SIZE, Header};

use super::{AT_MOST, Daemon};

/// What each of them says, in turn.
const SAYINGS: [fn() -> Vec<u8>; 6] = [
    // One byte less than a header.
    || Header::request(Command::Version).encode()[..31].to_vec(),
    // Nothing.
    Vec::new,
    // Four billion leases, of which not one follows.
    || Header { data: u32::MAX, length: u32::MAX, ..Header::request(Command::Acquire) }.encode().to_vec(),
    // A length below the header's own.
    || Header { length: 5, ..Header::request(Command::AddLockspace) }.encode().to_vec(),
    // Not the protocol.
    || b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n".to_vec(),
    // Answers that are not read.
    || [Header::request(Command::Version).encode(); 64].concat(),
];

/// They stay as they are until this is dropped.
pub struct Crowd(Vec<UnixStream>);

impl Crowd {
    /// Comes in; `clients` of them, with all that one could say.
    pub fn of(daemon: &Daemon, clients: usize) -> Crowd {
        Crowd::saying(&SAYINGS, daemon, clients)
    }

    /// The same, and each has sent all of a header but its last byte.
    pub fn of_headers_cut_short(daemon: &Daemon, clients: usize) -> Crowd {
        Crowd::saying(&SAYINGS[..1], daemon, clients)
    }

    fn saying(sayings: &[fn() -> Vec<u8>], daemon: &Daemon, clients: usize) -> Crowd {
        let socket = daemon.run_dir.join("sanlock.sock");
        let sayings = sayings.iter().cycle().take(clients);
        Crowd(
            sayings
                .map(|say| {
                    let mut stream = UnixStream::connect(&socket).unwrap();
                    stream.write_all(&say()).unwrap();
                    stream
                })
                .collect(),
        )
    }

    /// Of those with all that one could say, the last kind has asked for 64 answers. How many each of them gets, once it reads.
    pub fn answers(self) -> Vec<usize> {
        let asked = self.0.into_iter().skip(SAYINGS.len() - 1).step_by(SAYINGS.len());
        asked
            .map(|mut stream| {
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut answers = vec![0; 64 * 32];
                stream.read_exact(&mut answers).map_or(0, |()| answers.len() / 32)
            })
            .collect()
    }
}

/// Clients that ask how the daemon is, each again as soon as it has its answer. They go on until this is dropped.
pub struct Inquirers {
    enough: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

/// So many threads read answers, of so many connections each in turn.
const READERS: usize = 4;

impl Inquirers {
    /// `clients` of them, all registered.
    pub fn of(daemon: &Daemon, clients: usize) -> Inquirers {
        let (register, ask) = (Header::request(Command::Register), Header::request(Command::HoldfastStatus));
        let socket = daemon.run_dir.join("sanlock.sock");
        let mut streams: Vec<UnixStream> = (0..clients)
            .map(|_| {
                let mut stream = UnixStream::connect(&socket).unwrap();
                stream.set_read_timeout(Some(AT_MOST * 4)).unwrap();
                stream.write_all(&[register.encode(), ask.encode()].concat()).unwrap();
                stream
            })
            .collect();
        let enough = Arc::new(AtomicBool::new(false));
        let threads = (0..READERS).map(|_| {
            let (mut own, enough) = (streams.split_off(streams.len() - clients / READERS), Arc::clone(&enough));
            std::thread::spawn(move || {
                let mut answers = 0;
                while !enough.load(Ordering::Acquire) {
                    let stream = &mut own[answers % (clients / READERS)];
                    take_answer(stream);
                    stream.write_all(&ask.encode()).unwrap();
                    answers += 1;
                }
                answers
            })
        });
        let threads = threads.collect();
        Inquirers { enough, threads }
    }

    /// How many answers they got in all.
    pub fn answers(self) -> usize {
        self.enough.store(true, Ordering::Release);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

fn take_answer(stream: &mut UnixStream) {
    let mut header = [0; HEADER_SIZE];
    stream.read_exact(&mut header).unwrap();
    let header = Header::decode(&header);
    let mut document = vec![0; header.length as usize - HEADER_SIZE];
    stream.read_exact(&mut document).unwrap();
}
