//! Time, the second seam.
//!
//! All our waiting is measured on one local clock that counts through suspend (`CLOCK_BOOTTIME`), so that a laptop lid
//! or a paused host shows up as elapsed time and never as a lease that is still young. Lease code is generic over
//! [`Clock`]; only the daemon and the tools name [`BootClock`], only the simulator another one.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A point on this host's own clock: nanoseconds since its boot, suspend included. Ordered, and subtractable; it is
/// never compared with anything another host wrote.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LocalInstant(u64);

impl LocalInstant {
    /// Before everything.
    pub const EARLIEST: LocalInstant = LocalInstant(0);
    /// After everything: a deadline that never comes.
    pub const NEVER: LocalInstant = LocalInstant(u64::MAX);

    /// From nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        LocalInstant(nanos)
    }

    /// Nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is the later one.
    #[must_use]
    pub const fn since(self, earlier: LocalInstant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The instant `wait` later; saturates at [`LocalInstant::NEVER`].
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        LocalInstant(self.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The instant `wait` earlier; saturates at boot.
    #[must_use]
    pub fn before(self, wait: Duration) -> Self {
        LocalInstant(self.0.saturating_sub(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Whole seconds, the unit of a timestamp on disk; never 0, which means "free" there.
    #[must_use]
    pub const fn disk_seconds(self) -> u64 {
        let seconds = self.0 / 1_000_000_000;
        if seconds == 0 { 1 } else { seconds }
    }

    /// The milliseconds that [`LocalInstant::disk_seconds`] cuts off, kept in the seal.
    #[must_use]
    pub const fn disk_millis(self) -> u16 {
        // Below 1000 by construction, so the cast keeps every bit.
        #[allow(clippy::cast_possible_truncation)]
        {
            (self.0 / 1_000_000 % 1000) as u16
        }
    }
}

impl fmt::Debug for LocalInstant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == LocalInstant::NEVER {
            return f.write_str("never");
        }
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}

/// A source of time and of waiting.
pub trait Clock {
    /// Now.
    fn now(&self) -> LocalInstant;
    /// How much of the time that this clock has counted the machine was suspended in: nothing ran, and no watchdog
    /// counted. Only its growth means something.
    fn suspended(&self) -> Duration;
    /// Resolves at `at` or later, never earlier.
    fn sleep_until(&self, at: LocalInstant) -> impl Future<Output = ()>;
    /// Resolves once `wait` has passed.
    fn sleep(&self, wait: Duration) -> impl Future<Output = ()> {
        self.sleep_until(self.now().after(wait))
    }
}

impl<C: Clock> Clock for &C {
    fn now(&self) -> LocalInstant {
        (**self).now()
    }
    fn suspended(&self) -> Duration {
        (**self).suspended()
    }
    fn sleep_until(&self, at: LocalInstant) -> impl Future<Output = ()> {
        (**self).sleep_until(at)
    }
}

/// Reads `CLOCK_BOOTTIME`. The kernel has had it since 2.6.39; should the call fail all the same, the answer is
/// [`LocalInstant::NEVER`], at which every lease counts as expired: nothing is written, nothing petted.
#[must_use]
pub fn boot_now() -> LocalInstant {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) {
        Ok(t) => instant_of(t),
        Err(_) => LocalInstant::NEVER,
    }
}

/// Reads `CLOCK_MONOTONIC`, nanoseconds: wdmd's clock, and the one that stands still in suspend. Should the call fail, the
/// answer is 0, before everything.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    let read = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    read.map_or(0, |t| instant_of(t).as_nanos())
}

fn instant_of(t: TimeSpec) -> LocalInstant {
    let seconds = u64::try_from(t.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec()).unwrap_or(0);
    LocalInstant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// The real clock: `CLOCK_BOOTTIME`, with one thread that sleeps on a timerfd for all waiters of this instance. A
/// renewal thread has an instance of its own, so that no lock is shared with the request path.
#[derive(Clone)]
pub struct BootClock {
    timers: Arc<Timers>,
    _thread: Arc<StopOnDrop>,
}

struct Timers {
    fd: TimerFd,
    waiting: Mutex<Waiting>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    by_instant: BTreeMap<(LocalInstant, u64), Waker>,
}

struct StopOnDrop(Arc<Timers>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.arm(LocalInstant::from_nanos(1));
    }
}

impl BootClock {
    /// Starts the waiting thread.
    ///
    /// # Errors
    /// No timerfd or no thread to be had.
    pub fn new() -> std::io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC)?;
        let timers = Arc::new(Timers { fd, waiting: Mutex::default(), stop: AtomicBool::new(false) });
        let for_thread = Arc::clone(&timers);
        std::thread::Builder::new().name("timer".into()).stack_size(64 * 1024).spawn(move || for_thread.run())?;
        Ok(BootClock { _thread: Arc::new(StopOnDrop(Arc::clone(&timers))), timers })
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the timerfd; an instant in the past fires at once.
    fn arm(&self, at: LocalInstant) {
        let spec = TimeSpec::from_duration(Duration::from_nanos(at.as_nanos().max(1)));
        // The only documented failures are a bad descriptor and a bad time; neither can be made here.
        let set = self.fd.set(Expiration::OneShot(spec), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        debug_assert!(set.is_ok(), "timerfd_settime: {set:?}");
    }

    fn run(&self) {
        while !self.stop.load(Ordering::Acquire) {
            if self.fd.wait().is_err() {
                continue; // EINTR
            }
            let now = boot_now();
            let mut due = Vec::new();
            {
                let mut waiting = self.lock();
                while let Some(first) = waiting.by_instant.first_entry() {
                    if first.key().0 > now {
                        self.arm(first.key().0);
                        break;
                    }
                    due.push(first.remove());
                }
            }
            due.into_iter().for_each(Waker::wake);
        }
    }
}

impl Clock for BootClock {
    fn now(&self) -> LocalInstant {
        boot_now()
    }

    /// Should a clock fail, who waits for time awake waits for ever.
    fn suspended(&self) -> Duration {
        boot_now().since(LocalInstant(monotonic_nanos()))
    }

    fn sleep_until(&self, at: LocalInstant) -> impl Future<Output = ()> {
        Sleep { timers: Arc::clone(&self.timers), at, id: None }
    }
}

struct Sleep {
    timers: Arc<Timers>,
    at: LocalInstant,
    id: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if boot_now() >= self.at {
            return Poll::Ready(());
        }
        if self.at == LocalInstant::NEVER {
            return Poll::Pending;
        }
        let timers = Arc::clone(&self.timers);
        let mut waiting = timers.lock();
        let id = *self.id.get_or_insert_with(|| {
            waiting.next_id += 1;
            waiting.next_id
        });
        waiting.by_instant.insert((self.at, id), cx.waker().clone());
        if waiting.by_instant.first_key_value().is_some_and(|(k, _)| *k == (self.at, id)) {
            timers.arm(self.at);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.timers.lock().by_instant.remove(&(self.at, id));
        }
    }
}

/// What a race of two futures brought first.
pub enum First<A, B> {
    /// The first one was done (also when both were).
    A(A),
    /// The second one was.
    B(B),
}

/// Waits for whichever is done first and drops the other. When both are ready the first one counts: an I/O that
/// completed has its result even if its deadline has passed meanwhile.
pub async fn first_of<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> First<A, B> {
    let mut a = std::pin::pin!(a);
    let mut b = std::pin::pin!(b);
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(value) = a.as_mut().poll(cx) {
            return Poll::Ready(First::A(value));
        }
        b.as_mut().poll(cx).map(First::B)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_end_in_their_order_and_never_early() {
        let clock = BootClock::new().unwrap();
        let start = clock.now();
        let late = clock.sleep_until(start.after(Duration::from_millis(40)));
        let soon = clock.sleep_until(start.after(Duration::from_millis(10)));
        let first = pollster::block_on(first_of(late, soon));
        assert!(matches!(first, First::B(())));
        assert!(clock.now().since(start) >= Duration::from_millis(10));
    }

    #[test]
    fn a_dropped_sleep_leaves_nothing_behind() {
        let clock = BootClock::new().unwrap();
        let never = clock.sleep_until(clock.now().after(Duration::from_secs(3600)));
        let now = clock.sleep_until(clock.now());
        assert!(matches!(pollster::block_on(first_of(never, now)), First::B(())));
        assert!(clock.timers.lock().by_instant.is_empty());
    }

    #[test]
    fn a_timestamp_on_disk_is_never_zero() {
        assert_eq!(LocalInstant::from_nanos(5).disk_seconds(), 1);
        assert_eq!(LocalInstant::from_nanos(7_654_321_000).disk_seconds(), 7);
        assert_eq!(LocalInstant::from_nanos(7_654_321_000).disk_millis(), 654);
    }
}
