//! One client connection: bytes in, requests to the supervisor one at a time, replies out.
//!
//! A connection has a buffer of its own, so a slow or malicious client delays nobody else. While a request runs the
//! socket is still read, as far as the buffer allows: that is how the end of a client is noticed at once, and with it
//! the end of a wait on its behalf. Limits: [`holdfast_protocol::framing::MAX_BUFFERED`] bytes in, one reply out: the next
//! request is taken up once the reply before it has left, so whoever never reads is kept waiting, and not in memory. What all
//! of them have not read is limited as well: a long reply beyond that is a refusal instead. A client's connection is not cut for
//! it, whatever it does: it is the life of its leases (S1).

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock, First, first_of};
use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{Command, RestrictFlags};
use holdfast_protocol::framing::{Incoming, RequestReader};
use holdfast_protocol::header::{HEADER_SIZE, Header};
use holdfast_protocol::request::{Message, Request};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};

use crate::log_ring::AT_WILL;
use crate::note::Notes;
use crate::shares::{Share, Shares};
use crate::supervisor::event::{ClientId, Event};

/// How the main loop reaches a connection.
#[derive(Clone)]
pub struct Connection {
    out: mpsc::UnboundedSender<Outgoing>,
    stop: Rc<Notify>,
    ending: Rc<Ending>,
    busy: Rc<Cell<bool>>,
    untaken: Rc<Cell<usize>>,
    unread: Unread,
}

/// Who is behind a connection, and what its replies take until they are read.
#[derive(Clone)]
pub struct Unread {
    /// The user.
    pub uid: u32,
    /// Bytes, of all connections.
    pub bytes: Shares,
}

enum Outgoing {
    Bytes(Vec<u8>, Share),
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

impl Ending {
    fn begin(&self, patience: Duration) {
        self.patience.set(patience);
        self.begun.notify_one();
    }

    async fn ends(&self, clock: &BootClock) {
        self.begun.notified().await;
        // Told again, it has another time, or none.
        while let First::A(()) = first_of(self.begun.notified(), clock.sleep(self.patience.get())).await {}
    }
}

/// A reply up to this size is always sent.
const SHORT: usize = 4096;

/// What may wait for a listener to take it.
const MOST_UNTAKEN: usize = 64;

/// How long the last replies may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Connection {
    /// Starts serving a connection, whose place is given back once both its tasks are over.
    #[must_use]
    pub fn start(
        client: ClientId,
        stream: UnixStream,
        (seat, unread): (Rc<Share>, Unread),
        notes: &Notes,
        clock: &BootClock,
    ) -> Self {
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
            unread: unread.clone(),
            next: Rc::clone(&next),
            clock: clock.clone(),
            busy: false,
            shown_busy: Rc::clone(&busy),
            registered: false,
            listening: false,
        };
        let (stopped, place) = (Rc::clone(&stop), Rc::clone(&seat));
        tokio::task::spawn_local(async move {
            let _ = first_of(stopped.notified(), reader.run()).await;
            drop(place);
        });
        let (over, clock) = (Rc::clone(&ending), clock.clone());
        tokio::task::spawn_local(async move {
            let _ = first_of(over.ends(&clock), write_all(write, queue, next, left)).await;
            drop(seat);
        });
        Connection { out, stop, ending, busy, untaken, unread }
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

    /// Sends a reply; where too much is unread already, and it is a long one, that instead.
    pub fn send(&self, bytes: Vec<u8>) {
        let (bytes, share) = self.unread.fit(bytes);
        // A writer that is gone had a peer that is gone: its end is reported by the reader.
        let _ = self.out.send(Outgoing::Bytes(bytes, share));
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
        self.ending.begin(LAST_WORDS);
    }

    /// Nothing more is to be sent: it is closed once what there is has left, and a peer that does not read holds its socket only so
    /// long.
    #[must_use]
    pub fn last_words(self) -> Leaving {
        self.ending.begin(LAST_WORDS);
        Leaving { ending: Rc::downgrade(&self.ending), stop: self.stop }
    }

    /// Drops it, whatever is not sent yet. Its end is not reported: the main loop has decided it.
    pub fn cut(&self) {
        self.ending.begin(Duration::ZERO);
        self.stop.notify_one();
    }
}

/// A connection that is gone but for its last words. It keeps nothing open: the writer ends with the last that can give it more.
pub struct Leaving {
    ending: Weak<Ending>,
    stop: Rc<Notify>,
}

impl Leaving {
    /// Nothing will be written any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending.strong_count() == 0
    }

    /// Drops what is not sent yet.
    pub fn cut(&self) {
        if let Some(ending) = self.ending.upgrade() {
            ending.begin(Duration::ZERO);
        }
        self.stop.notify_one();
    }
}

impl Unread {
    fn fit(&self, mut reply: Vec<u8>) -> (Vec<u8>, Share) {
        if reply.len() > SHORT {
            match self.bytes.ask(self.uid, reply.len()) {
                Ok(share) => return (reply, share),
                Err(none) => {
                    let Unread { uid, bytes } = self;
                    let (unread, theirs) = (bytes.taken(), bytes.of(*uid));
                    tracing::warn!(target: AT_WILL, uid, ?none, unread, theirs, "a reply is refused: too many are not read");
                    reply = refused(&reply);
                }
            }
        }
        let share = self.bytes.take(self.uid, reply.len());
        (reply, share)
    }
}

/// A reply without what it would have brought.
fn refused(reply: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_SIZE];
    header.copy_from_slice(&reply[..HEADER_SIZE]);
    Header::decode(&header).answer(ResultCode::ENOMEM, 0, 0).encode().to_vec()
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
            Outgoing::Bytes(bytes, _until_written) => broken = broken || write.write_all(&bytes).await.is_err(),
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
    unread: Unread,
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
                let (bytes, share) = self.unread.fit(refusal.encode());
                let _ = self.out.send(Outgoing::Bytes(bytes, share));
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
    use holdfast_io::clock::boot_now;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream as Plain;

    fn on_a_loop(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    /// A connection with two requests sent on it, and the other end.
    fn pair(notes: &Notes) -> (Connection, Plain) {
        let seats = Shares::new(1);
        pair_of(notes, &seats, &Shares::new(64 << 20))
    }

    fn pair_of(notes: &Notes, seats: &Shares, bytes: &Shares) -> (Connection, Plain) {
        let (ours, mut theirs) = Plain::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (stream, clock) = (UnixStream::from_std(ours).unwrap(), BootClock::new().unwrap());
        let (seat, unread) = (Rc::new(seats.take(0, 1)), Unread { uid: 0, bytes: bytes.clone() });
        let connection = Connection::start(ClientId(1), stream, (seat, unread), notes, &clock);
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
    fn what_is_not_read_is_limited_and_a_long_reply_beyond_that_is_a_refusal() {
        on_a_loop(async {
            let (notes, mut inbox) = Notes::channel();
            let (seats, bytes) = (Shares::new(2), Shares::new(9 << 20));
            let reply = || {
                let mut reply = Header::request(Command::LogDump).answer(ResultCode::OK, 0, 8 << 20).encode().to_vec();
                reply.resize(32 + (8 << 20), b'x');
                reply
            };
            let (first, unread) = pair_of(&notes, &seats, &bytes);
            assert!(is_request(inbox.recv().await));
            first.send(reply());
            let (second, reads) = pair_of(&notes, &seats, &bytes);
            assert!(is_request(inbox.recv().await));
            second.send(reply());
            second.close();
            let answer = Header::decode(drained(reads).await[..].try_into().unwrap());
            assert_eq!((answer.data.cast_signed(), answer.length), (ResultCode::ENOMEM.number(), 32));
            while seats.taken() > 1 {
                tokio::task::yield_now().await;
            }

            // What is not read is given back with the connection, and the connection counts for as long as its writer is there.
            let first = first.last_words();
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert_eq!((seats.taken(), bytes.taken(), first.is_over()), (1, 32 + (8 << 20), false));
            first.cut();
            while seats.taken() + bytes.taken() > 0 || !first.is_over() {
                tokio::task::yield_now().await;
            }
            drop(unread);
        });
    }

    #[test]
    fn a_connection_whose_peer_has_said_all_is_closed_as_soon_as_its_last_words_have_left() {
        on_a_loop(async {
            let (notes, mut inbox) = Notes::channel();
            let (connection, theirs) = pair(&notes);
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            for _ in 0..2 {
                assert!(is_request(inbox.recv().await));
                connection.send(Header::request(Command::Version).answer(ResultCode::OK, 0, 0).encode().to_vec());
                connection.next();
            }
            let Some(Note::Event(event)) = inbox.recv().await else { panic!("nothing") };
            assert!(matches!(*event, Event::Closed { .. }));
            let begun = boot_now();
            let leaving = connection.last_words();
            assert_eq!(drained(theirs).await.len(), 64);
            assert!(boot_now().since(begun) < LAST_WORDS / 2, "nobody waits for those who do not read");
            while !leaving.is_over() {
                tokio::task::yield_now().await;
            }
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
