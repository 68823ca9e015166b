//! One client connection: bytes in, requests to the supervisor one at a time, replies out.
//!
//! A connection has a buffer of its own, so a slow or malicious client delays nobody else. While a request runs the
//! socket is still read, as far as the buffer allows: that is how the end of a client is noticed at once, and with it
//! the end of a wait on its behalf. Limits: [`holdfast_protocol::framing::MAX_BUFFERED`] bytes in, one reply out.

use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock, First, first_of};
use holdfast_protocol::command::{Command, RestrictFlags};
use holdfast_protocol::framing::{Incoming, RequestReader};
use holdfast_protocol::request::{Message, Request};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};

use crate::note::Notes;
use crate::supervisor::event::{ClientId, Event};

/// How the main loop reaches a connection.
#[derive(Clone)]
pub struct Connection {
    out: mpsc::UnboundedSender<Outgoing>,
    next: Rc<Notify>,
    stop: Rc<Notify>,
}

enum Outgoing {
    Bytes(Vec<u8>),
    Close,
}

impl Connection {
    /// Starts serving a connection.
    #[must_use]
    pub fn start(client: ClientId, stream: UnixStream, notes: &Notes, clock: &BootClock) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let (next, stop) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (read, write) = stream.into_split();
        let reader = Reader {
            client,
            read,
            requests: RequestReader::new(),
            notes: notes.clone(),
            out: out.clone(),
            next: Rc::clone(&next),
            clock: clock.clone(),
            busy: false,
            registered: false,
        };
        let stopped = Rc::clone(&stop);
        tokio::task::spawn_local(async move {
            let _ = first_of(stopped.notified(), reader.run()).await;
        });
        tokio::task::spawn_local(write_all(write, queue));
        Connection { out, next, stop }
    }

    /// Sends bytes.
    pub fn send(&self, bytes: Vec<u8>) {
        // A writer that is gone had a peer that is gone: its end is reported by the reader.
        let _ = self.out.send(Outgoing::Bytes(bytes));
    }

    /// The running request is over.
    pub fn next(&self) {
        self.next.notify_one();
    }

    /// Closes it once everything is sent. Its end is not reported: the main loop has asked for it.
    pub fn close(&self) {
        let _ = self.out.send(Outgoing::Close);
        self.stop.notify_one();
    }
}

async fn write_all(mut write: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(Outgoing::Bytes(bytes)) = queue.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

struct Reader {
    client: ClientId,
    read: OwnedReadHalf,
    requests: RequestReader,
    notes: Notes,
    out: mpsc::UnboundedSender<Outgoing>,
    next: Rc<Notify>,
    clock: BootClock,
    /// A request is with the supervisor.
    busy: bool,
    registered: bool,
}

/// Silence after which the rest of a refused request is taken to have been sent (spec A 2).
const DISCARD_SILENCE: Duration = Duration::from_millis(20);

enum Read {
    Some,
    Eof,
    Next,
    Silence,
}

impl Reader {
    async fn run(mut self) {
        loop {
            self.serve();
            match self.wait().await {
                Read::Some => {}
                Read::Next => self.busy = false,
                Read::Silence => self.requests.stop_discarding(),
                Read::Eof => break,
            }
        }
        // A registered connection at its end is a client at its end, whatever it still wanted. Any other one may have
        // sent its last requests and closed its half: they are served, replies going as far as they get.
        while !self.registered {
            self.serve();
            if !self.busy {
                if let Some(incoming) = self.requests.eof() {
                    self.take(incoming);
                }
                break;
            }
            self.next.notified().await;
            self.busy = false;
        }
        self.notes.event(Event::Closed { client: self.client });
    }

    /// Hands over requests until one is running or none is complete.
    fn serve(&mut self) {
        while !self.busy {
            match self.requests.next() {
                Some(incoming) => self.take(incoming),
                None => return,
            }
        }
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Request(message) => self.hand_over(message),
            Incoming::Refused(refusal) => {
                tracing::debug!(client = self.client.0, code = refusal.code.number(), "request refused by its framing");
                let _ = self.out.send(Outgoing::Bytes(refusal.encode()));
            }
            Incoming::Ignored { why, .. } => tracing::debug!(client = self.client.0, %why, "header ignored"),
        }
    }

    fn hand_over(&mut self, message: Message) {
        self.registered |= message.command == Command::Register;
        if let Request::Restrict { flags } = &message.request
            && flags.contains(RestrictFlags::ALL)
        {
            self.requests.restrict_all();
        }
        self.busy = true;
        self.notes.event(Event::Request { client: self.client, message });
    }

    async fn wait(&mut self) -> Read {
        let room = self.requests.room();
        let discarding = self.requests.discarding() > 0;
        let (next, clock, busy) = (Rc::clone(&self.next), self.clock.clone(), self.busy);
        let input = async {
            if room == 0 {
                std::future::pending::<()>().await;
            }
            loop {
                if self.read.readable().await.is_err() {
                    return Read::Eof;
                }
                let mut buf = vec![0; room.min(16 * 1024)];
                match self.read.try_read(&mut buf) {
                    Ok(0) => return Read::Eof,
                    Ok(n) => {
                        self.requests.push(&buf[..n]);
                        return Read::Some;
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return Read::Eof,
                }
            }
        };
        let other = async {
            if busy {
                next.notified().await;
                Read::Next
            } else if discarding {
                clock.sleep(DISCARD_SILENCE).await;
                Read::Silence
            } else {
                std::future::pending().await
            }
        };
        match first_of(input, other).await {
            First::A(read) | First::B(read) => read,
        }
    }
}
