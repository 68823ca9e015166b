//! Every interval of the protocol, derived from the io_timeout and the fire timeout, each with its reason.
//!
//! Source: spec D 3.1 and 6; the guarantees D1-D3 of ARCHITECTURE.md. x is the io_timeout in seconds.
//!
//! | interval | formula | x = 5 | x = 10 | x = 20 |
//! | --- | --- | --- | --- | --- |
//! | io_deadline | x | 5 | 10 | 20 |
//! | renewal_interval | 2x | 10 | 20 | 40 |
//! | id_renewal_warn | 6x | 30 | 60 | 120 |
//! | id_renewal_fail | 8x | 40 | 80 | 160 |
//! | host_dead (fire timeout 60) | 8x + fire | 100 | 140 | 220 |
//! | silence_for_takeover | (host_dead + 1) * 1.001 | 101.101 | 141.141 | 221.221 |

use std::fmt;
use std::time::Duration;

use crate::planted::{Bug, planted};

/// How long one lease I/O may take, 1 to 255 seconds (one byte of it is kept on disk).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoTimeout(u8);

impl IoTimeout {
    /// What sanlock uses when it is told nothing.
    pub const DEFAULT: IoTimeout = IoTimeout(10);

    /// `None` for 0 and for anything above 255.
    #[must_use]
    pub fn new(seconds: u64) -> Option<Self> {
        u8::try_from(seconds).ok().filter(|s| *s > 0).map(IoTimeout)
    }

    /// Seconds.
    #[must_use]
    pub const fn seconds(self) -> u8 {
        self.0
    }

    const fn times(self, n: u32) -> Duration {
        Duration::from_secs(self.0 as u64 * n as u64)
    }
}

impl fmt::Display for IoTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// How long after D2's instant a host is reset at the latest, 4 to 60 seconds. Hosts without a seal are taken to
/// use 60, and real hosts assume 60 of everyone, so nothing above 60 can exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FireTimeout(u8);

impl FireTimeout {
    /// What real sanlock and wdmd use, always.
    pub const SANLOCK: FireTimeout = FireTimeout(60);

    /// `None` outside 4 to 60: the device gets less than half of it, and devices count whole seconds.
    #[must_use]
    pub fn new(seconds: u64) -> Option<Self> {
        u8::try_from(seconds).ok().filter(|s| (4..=60).contains(s)).map(FireTimeout)
    }

    /// Seconds.
    #[must_use]
    pub const fn seconds(self) -> u8 {
        self.0
    }

    /// The most the watchdog device itself may be set to, in whole seconds: half of what two of its ticks leave. A daemon
    /// that dies pets once more by the closing of its descriptor, at most one device timeout after the last pet proper
    /// (D3), and each of the two counts may lag behind by a tick.
    #[must_use]
    pub const fn device_limit(self) -> Duration {
        Duration::from_secs((self.0 as u64 - 2 * WATCHDOG_TICK.as_secs()) / 2)
    }
}

impl fmt::Display for FireTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

/// Clocks of two hosts may run apart by this much per second each: 500 parts per million, ten times what a bad
/// quartz does and what NTP will slew.
const DRIFT_PPM: u32 = 500;

/// The longest that a watchdog's own count of seconds may lag behind (one step of its counter).
pub const WATCHDOG_TICK: Duration = Duration::from_secs(1);

/// What wdmd does with an entry that expires at second E of its clock (spec B 9.5, and seen in wdmd of sanlock 3.8.5).
///
/// ```text
///  last test passed    the next one fails: closed, which pets a last time      reset at the latest
///  |-------------------|------------|------------------------------------------|
///  before E - 10       <= 11 s      before E + 1                               60 s and a tick later: before E + 62
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Wdmd;

impl Wdmd {
    /// The timeout of its device. It takes no other, so nothing else can be sealed.
    pub const FIRE: FireTimeout = FireTimeout::SANLOCK;
    /// An entry fails from this long before its expiry.
    pub const WARNING: Duration = Duration::from_secs(10);
    /// The longest between two tests: ten seconds, counted as a difference of whole seconds.
    pub const BETWEEN_TESTS: Duration = Duration::from_secs(11);
    /// How long before D2's instant an entry expires at the latest: what the last pet may come after the expiry, and the
    /// tick by which the device may lag. So the host is reset within the fire timeout from D2's instant (D3).
    pub const MARGIN: Duration = Duration::from_secs(Self::BETWEEN_TESTS.as_secs() - Self::WARNING.as_secs() + 1);
}

/// The intervals of one host, from its io_timeout and fire timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timing {
    /// The host's io_timeout.
    pub io_timeout: IoTimeout,
    /// The host's fire timeout, from its seal; [`FireTimeout::SANLOCK`] without one or without a watchdog.
    pub fire_timeout: FireTimeout,
}

impl Timing {
    /// The timing of a host with these two settings.
    #[must_use]
    pub const fn new(io_timeout: IoTimeout, fire_timeout: FireTimeout) -> Self {
        Timing { io_timeout, fire_timeout }
    }

    /// x: after this a read or write of a lease is given up; it may still land.
    #[must_use]
    pub const fn io_deadline(self) -> Duration {
        self.io_timeout.times(1)
    }

    /// 2x between the starts of two renewals: four attempts fit before the lease is lost.
    #[must_use]
    pub const fn renewal_interval(self) -> Duration {
        self.io_timeout.times(2)
    }

    /// 6x without a renewal: trouble worth a warning.
    #[must_use]
    pub const fn id_renewal_warn(self) -> Duration {
        self.io_timeout.times(6)
    }

    /// 8x without a renewal, counted from the start of the last good one: the lease is lost (D2).
    #[must_use]
    pub const fn id_renewal_fail(self) -> Duration {
        self.io_timeout.times(8)
    }

    /// 8x + fire timeout: by now the host is reset if it did not end what it guarded (D2 and D3 together).
    #[must_use]
    pub const fn host_dead(self) -> Duration {
        Duration::from_secs(self.io_timeout.0 as u64 * 8 + self.fire_timeout.0 as u64)
    }

    /// The silence a taker must itself have seen (D1): host_dead and one watchdog tick, as a clock that is fast by the
    /// drift bound shows what one that is slow by it counts.
    #[must_use]
    pub fn silence_for_takeover(self) -> Duration {
        let tick = if planted(Bug::ExpiryOneTickEarly) { Duration::ZERO } else { WATCHDOG_TICK };
        let exact = (self.host_dead() + tick) * (1_000_000 + DRIFT_PPM) / (1_000_000 - DRIFT_PPM);
        exact + Duration::from_nanos(1) // the division rounds down
    }

    /// How long a delta lease of another boot of this very machine is watched before it is taken (P1 a): one renewal
    /// interval and one I/O deadline of its holder, in which a living holder would have changed it.
    #[must_use]
    pub const fn other_boot_watch(self) -> Duration {
        self.io_timeout.times(3)
    }

    /// The wait between writing a delta sector and believing it: 2 * max(stored, own) io_timeout, so that a rival
    /// that read the sector before our write has finished, or given up, its own (Chockler and Malkhi, 2 delta).
    #[must_use]
    pub fn settle(stored: Option<IoTimeout>, own: IoTimeout) -> Duration {
        stored.map_or(own, |s| s.max(own)).times(2)
    }

    /// How long `init` watches a lockspace before it believes that nobody uses it: two renewal periods, a period of a
    /// real sanlock being up to 1.5 s longer than its interval (spec D 3.4).
    #[must_use]
    pub const fn init_watch(self) -> Duration {
        Duration::from_millis(self.io_timeout.0 as u64 * 4000 + 3000)
    }

    /// Whether wdmd can keep a host with this io_timeout alive at all: a renewal that takes its full I/O deadline must leave
    /// the entry passing its tests for a while, with its expiry rounded down to whole seconds. That is 2 s and more; at 2 s
    /// an entry fails a test now and then before the next renewal, and passes the one a second later.
    #[must_use]
    pub fn suits_wdmd(self) -> bool {
        self.id_renewal_fail() > Wdmd::WARNING + Wdmd::MARGIN + Duration::from_secs(1) + self.io_deadline()
    }

    /// The longest grace between SIGTERM and SIGKILL: two thirds of what the watchdog device leaves, so that SIGKILL
    /// still has a chance before the host is reset.
    #[must_use]
    pub fn longest_kill_grace(fire: FireTimeout) -> Duration {
        fire.device_limit() * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(x: u64) -> Timing {
        Timing::new(IoTimeout::new(x).unwrap(), FireTimeout::SANLOCK)
    }

    #[test]
    fn the_table_in_the_head_of_this_file_is_true() {
        let seconds = |d: Duration| d.as_millis();
        for (x, row) in [
            (5, [5_000, 10_000, 30_000, 40_000, 100_000, 101_101]),
            (10, [10_000, 20_000, 60_000, 80_000, 140_000, 141_141]),
            (20, [20_000, 40_000, 120_000, 160_000, 220_000, 221_221]),
        ] {
            let t = timing(x);
            let found = [
                t.io_deadline(),
                t.renewal_interval(),
                t.id_renewal_warn(),
                t.id_renewal_fail(),
                t.host_dead(),
                t.silence_for_takeover(),
            ]
            .map(seconds);
            assert_eq!(found, row, "x = {x}");
        }
    }

    #[test]
    fn a_taker_waits_out_d2_and_d3_with_clocks_apart() {
        for x in 1..=255 {
            for fire in 4..=60 {
                let t = Timing::new(IoTimeout::new(x).unwrap(), FireTimeout::new(fire).unwrap());
                // Petted at D2's instant, and once more by a close one device timeout and a tick later.
                let count = t.fire_timeout.device_limit() + WATCHDOG_TICK;
                let holder_gone = t.id_renewal_fail() + count * 2;
                assert!(holder_gone <= t.host_dead(), "even a real sanlock, which waits for no tick, is not too early");
                // The holder's clock slow, the taker's fast, each by the bound.
                let (silence, gone) = (t.silence_for_takeover().as_nanos(), (holder_gone + WATCHDOG_TICK).as_nanos());
                assert!(silence * 999_500 >= gone * 1_000_500, "{t:?}");
            }
        }
    }

    #[test]
    fn a_host_under_wdmd_is_reset_by_host_dead_and_an_io_timeout_of_one_second_is_too_short_for_it() {
        for x in 1..=255 {
            let t = timing(x);
            // The latest expiry that is told, counted like all others from the start of the last good renewal.
            let expiry = t.id_renewal_fail() - Wdmd::MARGIN;
            if !t.suits_wdmd() {
                assert_eq!(x, 1);
                continue;
            }
            let last_pet = expiry - Wdmd::WARNING + Wdmd::BETWEEN_TESTS;
            let reset = last_pet + Duration::from_secs(u64::from(Wdmd::FIRE.seconds())) + WATCHDOG_TICK;
            assert!(reset <= t.host_dead(), "io_timeout {x}");
        }
    }

    #[test]
    fn settling_takes_the_slower_of_the_two() {
        let (one, ten) = (IoTimeout::new(1).unwrap(), IoTimeout::DEFAULT);
        assert_eq!(Timing::settle(Some(ten), one), Duration::from_secs(20));
        assert_eq!(Timing::settle(Some(one), ten), Duration::from_secs(20));
        assert_eq!(Timing::settle(None, one), Duration::from_secs(2));
    }

    #[test]
    fn io_and_fire_timeouts_have_bounds() {
        assert_eq!(IoTimeout::new(0), None);
        assert_eq!(IoTimeout::new(256), None);
        assert_eq!(FireTimeout::new(61), None);
        assert_eq!(FireTimeout::new(3), None);
    }
}
