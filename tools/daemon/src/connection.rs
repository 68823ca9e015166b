//! One client connection: bytes in, requests to the supervisor one at a time, replies out.
//!
//! A connection has a buffer of its own, so a slow or malicious client delays nobody else. While a request runs the
//! socket is still read, as far as the buffer allows: that is how the end of a client is noticed at once, and with it
//! the end of a wait on its behalf. Limits: [`holdfast_protocol::framing::MAX_BUFFERED`] bytes in, one reply out: the next
//! request is taken up once the reply before it has left, so whoever never reads is kept waiting, and not in memory.

use std::cell::Cell;
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
    stop: Rc<Notify>,
    ending: Rc<Ending>,
    busy: Rc<Cell<bool>>,
    untaken: Rc<Cell<usize>>,
}

enum Outgoing {
    Bytes(Vec<u8>),
    /// Nobody has asked for these at this moment.
    Told(Vec<u8>),
    /// Everything before this is the reply to one request: the next may be taken up.
    Next,
    Close,
}

/// The end of the writer: what is not read by then is not read.
#[derive(Default)]
struct Ending {
    patience: Cell<Duration>,
    begun: Notify,
}

/// What may wait for a listener to take it.
const MOST_UNTAKEN: usize = 64;

/// How long the last replies may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Connection {
    /// Starts serving a connection.
    #[must_use]
    pub fn start(client: ClientId, stream: UnixStream, notes: &Notes, clock: &BootClock) -> Self {
        let (out, queue) = mpsc::unbounded_channel();
        let (next, stop) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (ending, busy) = (Rc::new(Ending::default()), Rc::new(Cell::new(false)));
        let untaken = Rc::new(Cell::new(0));
        let left = Rc::clone(&untaken);
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
            shown_busy: Rc::clone(&busy),
            registered: false,
            listening: false,
        };
        let stopped = Rc::clone(&stop);
        tokio::task::spawn_local(async move {
            let _ = first_of(stopped.notified(), reader.run()).await;
        });
        let (over, clock) = (Rc::clone(&ending), clock.clone());
        tokio::task::spawn_local(async move {
            let enough = async {
                over.begun.notified().await;
                clock.sleep(over.patience.get()).await;
            };
            let _ = first_of(enough, write_all(write, queue, next, left)).await;
        });
        Connection { out, stop, ending, busy, untaken }
    }

    /// Sends what nobody waits for; `false`: too much of it was not taken, and this is not sent.
    #[must_use]
    pub fn tell(&self, bytes: Vec<u8>) -> bool {
        let room = self.untaken.get() < MOST_UNTAKEN;
        if room && self.out.send(Outgoing::Told(bytes)).is_ok() {
            self.untaken.set(self.untaken.get() + 1);
            return true;
        }
        false
    }

    /// Sends bytes.
    pub fn send(&self, bytes: Vec<u8>) {
        // A writer that is gone had a peer that is gone: its end is reported by the reader.
        let _ = self.out.send(Outgoing::Bytes(bytes));
    }

    /// The running request is over.
    pub fn next(&self) {
        self.busy.set(false);
        let _ = self.out.send(Outgoing::Next);
    }

    /// Whether a request of it is with the supervisor. One whose reply is not read is no longer.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Closes it once everything is sent. Its end is not reported: the main loop has asked for it.
    pub fn close(&self) {
        let _ = self.out.send(Outgoing::Close);
        self.stop.notify_one();
        self.last_words();
    }

    /// Nothing more is to be sent: a peer that does not read holds its socket only so long.
    pub fn last_words(&self) {
        self.ending.patience.set(LAST_WORDS);
        self.ending.begun.notify_one();
    }

    /// Drops it, whatever is not sent yet. Its end is not reported: the main loop has decided it.
    pub fn cut(&self) {
        self.ending.patience.set(Duration::ZERO);
        self.ending.begun.notify_one();
        self.stop.notify_one();
    }
}

async fn write_all(
    mut write: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    next: Rc<Notify>,
    untaken: Rc<Cell<usize>>,
) {
    let mut broken = false;
    while let Some(outgoing) = queue.recv().await {
        match outgoing {
            // Without a peer replies go nowhere, but the reader has still to come to its end.
            Outgoing::Bytes(bytes) => broken = broken || write.write_all(&bytes).await.is_err(),
            Outgoing::Told(bytes) => {
                broken = broken || write.write_all(&bytes).await.is_err();
                untaken.set(untaken.get() - 1);
            }
            Outgoing::Next => next.notify_one(),
            Outgoing::Close => break,
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
    /// A request is with the supervisor, or its reply has not left.
    busy: bool,
    /// A request is with the supervisor, for the main loop to see.
    shown_busy: Rc<Cell<bool>>,
    registered: bool,
    /// It has asked for events, and is no client: whatever it sends from now on is its end (spec A 9).
    listening: bool,
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
                Read::Some if self.listening => break,
                Read::Some => {}
                Read::Next => self.busy = false,
                Read::Silence => self.requests.stop_discarding(),
                Read::Eof => break,
            }
        }
        // A registered connection at its end is a client at its end, whatever it still wanted. Any other one may have
        // sent its last requests and closed its half: they are served, replies going as far as they get.
        while !self.registered && !self.listening {
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
                self.busy = true;
                let _ = self.out.send(Outgoing::Bytes(refusal.encode()));
                let _ = self.out.send(Outgoing::Next);
            }
            Incoming::Ignored { why, .. } => tracing::debug!(client = self.client.0, %why, "header ignored"),
        }
    }

    fn hand_over(&mut self, message: Message) {
        self.registered |= message.command == Command::Register;
        // Refused, the connection is closed.
        self.listening |= message.command == Command::RegEvent && !self.registered;
        if let Request::Restrict { flags } = &message.request
            && flags.contains(RestrictFlags::ALL)
        {
            self.requests.restrict_all();
        }
        self.busy = true;
        self.shown_busy.set(true);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::Note;
    use holdfast_protocol::header::Header;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream as Plain;

    fn on_a_loop(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    /// A connection with two requests sent on it, and the other end.
    fn pair(notes: &Notes) -> (Connection, Plain) {
        let (ours, mut theirs) = Plain::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let connection =
            Connection::start(ClientId(1), UnixStream::from_std(ours).unwrap(), notes, &BootClock::new().unwrap());
        let version = Header::request(Command::Version).encode();
        theirs.write_all(&version).unwrap();
        theirs.write_all(&version).unwrap();
        (connection, theirs)
    }

    async fn drained(mut theirs: Plain) -> Vec<u8> {
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).map(|_| all)
        });
        read.await.unwrap().unwrap()
    }

    fn is_request(note: Option<Note>) -> bool {
        matches!(note, Some(Note::Event(event)) if matches!(*event, Event::Request { .. }))
    }

    #[test]
    fn the_next_request_is_taken_up_only_once_the_reply_before_it_was_read() {
        on_a_loop(async {
            let (notes, mut inbox) = Notes::channel();
            let (connection, theirs) = pair(&notes);
            assert!(is_request(inbox.recv().await));
            assert!(connection.is_busy());
            connection.send(vec![0; 8 << 20]);
            connection.next();
            assert!(!connection.is_busy());
            // Far more turns than it takes to hand a request over.
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert!(inbox.try_recv().is_err());
            let reader = tokio::task::spawn_local(drained(theirs));
            assert!(is_request(inbox.recv().await));
            connection.close();
            assert_eq!(reader.await.unwrap().len(), 8 << 20);
        });
    }

    #[test]
    fn a_client_that_went_away_during_its_request_is_gone_once_that_is_answered() {
        on_a_loop(async {
            let (notes, mut inbox) = Notes::channel();
            let (connection, theirs) = pair(&notes);
            drop(theirs);
            for _ in 0..2 {
                assert!(is_request(inbox.recv().await));
                connection.next();
            }
            let Some(Note::Event(event)) = inbox.recv().await else { panic!("nothing") };
            assert!(matches!(*event, Event::Closed { .. }));
        });
    }

    #[test]
    fn a_connection_that_is_cut_goes_although_its_reply_is_not_read() {
        on_a_loop(async {
            let (notes, mut inbox) = Notes::channel();
            let (connection, theirs) = pair(&notes);
            assert!(is_request(inbox.recv().await));
            connection.send(vec![0; 8 << 20]);
            connection.next();
            while !connection.out.is_closed() {
                connection.cut();
                tokio::task::yield_now().await;
            }
            assert!(drained(theirs).await.len() < 8 << 20);
        });
    }
}
