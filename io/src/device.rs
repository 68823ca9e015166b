//! One device: deadlines, the table of I/O in flight, and I6, over any engine that can move bytes.
//!
//! The real disk and the simulator's disk differ in their [`Engine`] alone; every rule stands here, once:
//! - **I6**: at most one write is outstanding for a sector. The next is issued only after the first is reaped.
//! - **D2**: past the instant set in the [`WriteLimit`] no write is issued any more. The engine asks once more, right
//!   before it hands an I/O to the kernel, so an I/O that waited in a queue is not issued late.
//! - A caller that stops waiting (deadline, or its future dropped) takes back an I/O that has not begun, and leaves one
//!   that has: it stays in the table, with its buffer, until the engine reports its end.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use nix::errno::Errno;

use crate::clock::{Clock, First, LocalInstant, first_of};
use crate::disk::{Disk, IoError, IoErrorKind, Op, ReadDisk};
use crate::planted::{Bug, planted};
use crate::sys::aligned::AlignedBuf;

/// Something that moves bytes to and from one device.
pub trait Engine {
    /// What to call the device.
    fn path(&self) -> &Arc<str>;

    /// Takes an I/O. The engine must call [`Io::start`] before it touches the device, and [`Started::complete`] when the
    /// device is done with the buffer, however late. It may block for neither.
    fn submit(&self, io: Io);
}

impl<E: Engine> Engine for Arc<E> {
    fn path(&self) -> &Arc<str> {
        (**self).path()
    }
    fn submit(&self, io: Io) {
        (**self).submit(io);
    }
}

/// The instant from which a lockspace's lease sectors may no longer be written (D2), shared by everything that writes
/// them. Raised by each successful renewal; the write check needs no lock.
#[derive(Clone, Debug)]
pub struct WriteLimit(Arc<AtomicU64>);

impl WriteLimit {
    /// No limit: for `init`, and for the renewal of the delta lease itself.
    #[must_use]
    pub fn none() -> Self {
        Self::until(LocalInstant::NEVER)
    }

    /// Writes may be issued before `instant`.
    #[must_use]
    pub fn until(instant: LocalInstant) -> Self {
        WriteLimit(Arc::new(AtomicU64::new(instant.as_nanos())))
    }

    /// Moves the limit. D2 is final: a lost join must be closed with [`WriteLimit::close`] before the next begins.
    pub fn set(&self, instant: LocalInstant) {
        self.0.store(instant.as_nanos(), Ordering::Release);
    }

    /// Nothing may be written from now on.
    pub fn close(&self) {
        self.set(LocalInstant::EARLIEST);
    }

    /// The instant in force.
    #[must_use]
    pub fn instant(&self) -> LocalInstant {
        LocalInstant::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// A device as lease code sees it.
pub struct Device<E, C> {
    engine: E,
    clock: C,
    limit: WriteLimit,
    table: Arc<Table>,
}

impl<E: Engine, C: Clock> Device<E, C> {
    /// A device over `engine`, whose writes are limited by `limit`.
    pub fn new(engine: E, clock: C, limit: WriteLimit) -> Self {
        Device { engine, clock, limit, table: Arc::default() }
    }

    /// The engine beneath.
    pub const fn engine(&self) -> &E {
        &self.engine
    }

    /// How many writes are still on their way.
    #[must_use]
    pub fn writes_in_flight(&self) -> usize {
        self.table.lock().flights.values().filter(|f| f.op == Op::Write).count()
    }

    fn error(&self, op: Op, offset: u64, len: usize, kind: IoErrorKind) -> IoError {
        IoError { path: Arc::clone(self.engine.path()), op, offset, len, kind }
    }

    /// Issues one I/O and waits for its end or its deadline.
    async fn run(&self, what: Move, at: u64, deadline: LocalInstant) -> Result<AlignedBuf, IoErrorKind> {
        let (op, len) = (what.op(), what.len());
        let range = at..at.saturating_add(len as u64);
        let enter = poll_fn(|cx| self.table.enter(op, &range, cx));
        let flight = match first_of(enter, self.clock.sleep_until(deadline)).await {
            First::A(id) => Flight { table: &self.table, id },
            First::B(()) => return Err(IoErrorKind::NotIssued),
        };
        let limit = if op == Op::Write { self.limit.clone() } else { WriteLimit::none() };
        self.engine.submit(Io { table: Arc::clone(&self.table), id: flight.id, what, at, not_after: deadline, limit });
        let landed = poll_fn(|cx| self.table.poll_end(flight.id, cx));
        let end = match first_of(landed, self.clock.sleep_until(deadline)).await {
            First::A(end) => end,
            First::B(()) if flight.take_back() => return Err(IoErrorKind::NotIssued),
            First::B(()) => return Err(IoErrorKind::OutcomeUnknown),
        };
        match end {
            End::Done(Ok(moved), Some(buf)) if moved == len => Ok(buf),
            End::Done(Ok(found), _) => Err(IoErrorKind::Short { found }),
            End::Done(Err(errno), _) => Err(IoErrorKind::Failed(errno)),
            End::Late => Err(IoErrorKind::NotIssued),
            End::Refused => Err(IoErrorKind::Refused),
        }
    }
}

impl<E: Engine, C: Clock> ReadDisk for Device<E, C> {
    fn path(&self) -> &Arc<str> {
        self.engine.path()
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        let read = self.run(Move::Read { len, buf: None }, at, deadline).await;
        read.map_err(|kind| self.error(Op::Read, at, len, kind))
    }
}

impl<E: Engine, C: Clock> Disk for Device<E, C> {
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        let len = data.len();
        let written = self.run(Move::Write(data), at, deadline).await;
        written.map(drop).map_err(|kind| self.error(Op::Write, at, len, kind))
    }

    async fn reaped(&self) {
        poll_fn(|cx| self.table.poll_no_writes(cx)).await;
    }
}

/// The table of I/O in flight on one device.
#[derive(Default)]
struct Table {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last_id: u64,
    flights: BTreeMap<u64, Entry>,
    /// Whoever waits for some flight to leave the table.
    waiting: Vec<Waker>,
}

struct Entry {
    op: Op,
    range: Range<u64>,
    begun: bool,
    /// The caller has gone: nobody will collect the end.
    left: bool,
    end: Option<End>,
    waker: Option<Waker>,
}

/// How a flight ended.
enum End {
    /// The device is done with the buffer.
    Done(Result<usize, Errno>, Option<AlignedBuf>),
    /// Its deadline had passed before it began.
    Late,
    /// D2 forbade it before it began.
    Refused,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// I6: a write enters once no older write to any of its sectors is outstanding. Reads always enter.
    fn enter(&self, op: Op, range: &Range<u64>, cx: &mut Context<'_>) -> Poll<u64> {
        let mut inner = self.lock();
        let blocked = op == Op::Write
            && !planted(Bug::I6Off)
            && inner.flights.values().any(|f| f.op == Op::Write && overlap(&f.range, range));
        if blocked {
            inner.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        inner.last_id += 1;
        let id = inner.last_id;
        let entry = Entry { op, range: range.clone(), begun: false, left: false, end: None, waker: None };
        inner.flights.insert(id, entry);
        Poll::Ready(id)
    }

    fn poll_end(&self, id: u64, cx: &mut Context<'_>) -> Poll<End> {
        let mut inner = self.lock();
        let Some(entry) = inner.flights.get_mut(&id) else { return Poll::Ready(End::Late) };
        if let Some(end) = entry.end.take() {
            inner.remove(id);
            return Poll::Ready(end);
        }
        entry.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_no_writes(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.flights.values().any(|f| f.op == Op::Write) {
            inner.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The engine's last question before the device: may this still begin? `false` has ended it.
    fn begin(&self, id: u64, verdict: Result<(), End>) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.flights.get_mut(&id) else { return false };
        match verdict {
            Ok(()) => {
                entry.begun = true;
                true
            }
            Err(end) => {
                inner.end(id, end);
                false
            }
        }
    }
}

impl Inner {
    fn remove(&mut self, id: u64) {
        self.flights.remove(&id);
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn end(&mut self, id: u64, end: End) {
        let Some(entry) = self.flights.get_mut(&id) else { return };
        if entry.left {
            return self.remove(id);
        }
        entry.end = Some(end);
        if let Some(waker) = entry.waker.take() {
            waker.wake();
        }
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The caller's side of a flight: dropping it gives up waiting.
struct Flight<'a> {
    table: &'a Table,
    id: u64,
}

impl Flight<'_> {
    /// Takes back an I/O that has not begun. `false`: it has, and may land at any time.
    fn take_back(&self) -> bool {
        let mut inner = self.table.lock();
        match inner.flights.get_mut(&self.id) {
            Some(entry) if entry.begun && entry.end.is_none() => {
                entry.left = true;
                false
            }
            // Ended while we were being told of the deadline, or not begun: either way nothing is on its way now.
            // An end that nobody collected is reported as unknown by the caller only if it had begun.
            Some(entry) => {
                let begun = entry.begun;
                inner.remove(self.id);
                !begun
            }
            None => true,
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.take_back();
    }
}

/// What an I/O moves. A read has its buffer from when it begins: one that waits in a queue holds no memory.
enum Move {
    Read { len: usize, buf: Option<AlignedBuf> },
    Write(AlignedBuf),
}

impl Move {
    const fn op(&self) -> Op {
        match self {
            Move::Read { .. } => Op::Read,
            Move::Write(_) => Op::Write,
        }
    }

    fn len(&self) -> usize {
        match self {
            Move::Read { len, .. } => *len,
            Move::Write(data) => data.len(),
        }
    }
}

/// An I/O on its way to an engine.
pub struct Io {
    table: Arc<Table>,
    id: u64,
    what: Move,
    at: u64,
    not_after: LocalInstant,
    limit: WriteLimit,
}

impl Io {
    /// Read or write.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.what.op()
    }

    /// Byte offset on the device.
    #[must_use]
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Bytes to move.
    #[must_use]
    pub fn len(&self) -> usize {
        self.what.len()
    }

    /// Whether there is nothing to move: never (an I/O moves at least one byte).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When its caller stops waiting for it.
    #[must_use]
    pub const fn not_after(&self) -> LocalInstant {
        self.not_after
    }

    /// Must be called right before the device is touched. `None`: the caller took the I/O back, its deadline or D2's
    /// instant has passed; the device must not be touched. A freeze between this check and the system call is what
    /// the watchdog is for: frozen for longer than D3 allows, the host is reset.
    #[must_use]
    pub fn start(self, now: LocalInstant) -> Option<Started> {
        let verdict = if now >= self.limit.instant() && !planted(Bug::WriteAfterExpiry) {
            Err(End::Refused)
        } else if now >= self.not_after {
            Err(End::Late)
        } else {
            Ok(())
        };
        if self.table.begin(self.id, verdict) { Some(Started(self)) } else { None }
    }
}

/// An I/O that the device is working on.
pub struct Started(Io);

impl Started {
    /// Read or write.
    #[must_use]
    pub const fn op(&self) -> Op {
        self.0.what.op()
    }

    /// Bytes to move.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.what.len()
    }

    /// Whether there is nothing to move: never (an I/O moves at least one byte).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Byte offset on the device.
    #[must_use]
    pub const fn at(&self) -> u64 {
        self.0.at
    }

    /// The bytes: to be filled by a read, to be written by a write.
    pub fn buf(&mut self) -> &mut AlignedBuf {
        match &mut self.0.what {
            Move::Read { len, buf } => buf.get_or_insert_with(|| AlignedBuf::zeroed(*len)),
            Move::Write(data) => data,
        }
    }

    /// What a read brought, where the device has it in a buffer of its own: of the length asked for.
    pub fn put(&mut self, bytes: AlignedBuf) {
        if let Move::Read { len, buf } = &mut self.0.what {
            assert_eq!(bytes.len(), *len, "all of it");
            *buf = Some(bytes);
        }
    }

    /// The device is done with the buffer: bytes moved, or the kernel's error.
    pub fn complete(self, result: Result<usize, Errno>) {
        let Io { table, id, what, .. } = self.0;
        let buf = match what {
            Move::Write(buf) => Some(buf),
            Move::Read { buf, .. } => buf,
        };
        table.lock().end(id, End::Done(result, buf));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootClock;
    use crate::mem::HeldEngine;
    use std::time::Duration;

    fn buf(byte: u8) -> AlignedBuf {
        AlignedBuf::from_slice(&[byte; 512])
    }

    fn soon(clock: &BootClock) -> LocalInstant {
        clock.now().after(Duration::from_millis(20))
    }

    fn later(clock: &BootClock) -> LocalInstant {
        clock.now().after(Duration::from_secs(3600))
    }

    #[test]
    fn i6_a_second_write_is_issued_only_after_the_first_was_reaped() {
        let clock = BootClock::new().unwrap();
        let device = Device::new(HeldEngine::new(4096), clock.clone(), WriteLimit::none());
        let first = pollster::block_on(device.write(0, buf(1), soon(&clock)));
        assert_eq!(first.unwrap_err().kind, IoErrorKind::OutcomeUnknown);
        let second = pollster::block_on(device.write(0, buf(2), soon(&clock)));
        assert_eq!(second.unwrap_err().kind, IoErrorKind::NotIssued);
        assert_eq!(device.engine().held(), 1, "the second never reached the engine");

        device.engine().release_all();
        let engine = device.engine();
        let third = async {
            let write = device.write(0, buf(3), later(&clock));
            let land = async {
                while engine.held() == 0 {
                    clock.sleep(Duration::from_millis(1)).await;
                }
                engine.release_all();
                std::future::pending::<()>().await;
            };
            match first_of(write, land).await {
                First::A(result) => result,
                First::B(()) => unreachable!(),
            }
        };
        pollster::block_on(third).unwrap();
        assert_eq!(device.engine().byte(0), 3);
    }

    #[test]
    fn i6_writes_to_other_sectors_do_not_wait() {
        let clock = BootClock::new().unwrap();
        let device = Device::new(HeldEngine::new(4096), clock.clone(), WriteLimit::none());
        assert!(pollster::block_on(device.write(0, buf(1), soon(&clock))).is_err());
        let other = pollster::block_on(device.write(512, buf(2), soon(&clock)));
        assert_eq!(other.unwrap_err().kind, IoErrorKind::OutcomeUnknown, "issued, and held by the engine");
        let across = pollster::block_on(device.write(0, AlignedBuf::zeroed(1024), soon(&clock)));
        assert_eq!(across.unwrap_err().kind, IoErrorKind::NotIssued);
        assert_eq!(device.writes_in_flight(), 2);
    }

    #[test]
    fn d2_nothing_is_issued_past_the_write_limit() {
        let clock = BootClock::new().unwrap();
        let limit = WriteLimit::until(clock.now());
        let device = Device::new(HeldEngine::new(4096), clock.clone(), limit.clone());
        device.engine().pass_through();
        let refused = pollster::block_on(device.write(0, buf(1), later(&clock))).unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::Refused);
        assert!(!refused.may_have_landed());
        assert_eq!(device.engine().byte(0), 0);
        pollster::block_on(device.read(0, 512, later(&clock))).unwrap();

        limit.set(later(&clock));
        pollster::block_on(device.write(0, buf(1), later(&clock))).unwrap();
        assert_eq!(device.engine().byte(0), 1);
    }

    #[test]
    fn a_write_that_waits_in_a_queue_past_its_deadline_never_lands() {
        let clock = BootClock::new().unwrap();
        let engine = HeldEngine::new(4096);
        engine.queue_only();
        let device = Device::new(engine, clock.clone(), WriteLimit::none());
        let late = pollster::block_on(device.write(0, buf(9), soon(&clock))).unwrap_err();
        assert_eq!(late.kind, IoErrorKind::NotIssued);
        device.engine().start_queued();
        device.engine().release_all();
        assert_eq!(device.engine().byte(0), 0);
        assert_eq!(device.writes_in_flight(), 0);
    }

    #[test]
    fn a_caller_that_stops_waiting_leaves_its_buffer_with_the_write() {
        let clock = BootClock::new().unwrap();
        let device = Device::new(HeldEngine::new(4096), clock.clone(), WriteLimit::none());
        let gone = pollster::block_on(first_of(clock.sleep(Duration::from_millis(5)), async {
            // Polled second, so the write is issued before the sleep can end.
            device.write(0, buf(5), later(&clock)).await
        }));
        assert!(matches!(gone, First::A(())));
        assert_eq!(device.writes_in_flight(), 1);
        device.engine().release_all();
        pollster::block_on(device.reaped());
        assert_eq!(device.engine().byte(0), 5, "late, and whole");
    }
}
