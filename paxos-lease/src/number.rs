//! Ballot numbers: unique for each host, above everything seen, and how long to wait after being outrun.
//!
//! Host h takes numbers that leave the remainder h when divided by the area's max_hosts (spec D 4.2), so that no two
//! hosts ever use the same one.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use holdfast_io::ids::HostId;

/// A ballot number. Never 0: that stands for "none" on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot(NonZeroU64);

impl Ballot {
    /// From its place on disk; `None` for 0.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(n) => Some(Ballot(n)),
            None => None,
        }
    }

    /// The number on disk.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The least number of host `host` above `seen`; `None` when the numbers are used up (only a damaged or hostile
    /// dblock can make them seem so).
    #[must_use]
    pub fn above(seen: Option<Ballot>, host: HostId, max_hosts: u32) -> Option<Self> {
        let step = u64::from(max_hosts);
        assert!(host.get() <= step, "host ids end at max_hosts: the leader record was checked");
        let seen = seen.map_or(0, Ballot::get);
        let near = (seen / step).checked_mul(step)?.checked_add(host.get())?;
        Self::new(if near > seen { near } else { near.checked_add(step)? })
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// Waits between two ballots: random, so that two hosts do not outrun each other for ever, doubling, bounded. The seed
/// comes from the caller; equal seeds give equal waits.
pub struct Backoff {
    state: u64,
    bound_ms: u64,
}

const SHORTEST_MS: u64 = 2;
const LONGEST_MS: u64 = 64;

impl Backoff {
    /// A sequence of waits.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Backoff { state: seed, bound_ms: 2 * SHORTEST_MS }
    }

    /// The next wait: 2 ms up to a bound that starts at 4 ms and doubles to 64 ms.
    pub fn next_wait(&mut self) -> Duration {
        let wait = SHORTEST_MS + self.splitmix64() % (self.bound_ms - SHORTEST_MS + 1);
        self.bound_ms = (self.bound_ms * 2).min(LONGEST_MS);
        Duration::from_millis(wait)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): plenty for spreading waits, and nothing else rests on it.
    const fn splitmix64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn above(seen: u64, host: u64, max_hosts: u32) -> Option<u64> {
        Ballot::above(Ballot::new(seen), HostId::new(host).unwrap(), max_hosts).map(Ballot::get)
    }

    #[test]
    fn the_numbers_of_a_host_that_is_alone_are_those_of_the_real_program() {
        assert_eq!(above(0, 1, 2000), Some(1));
        assert_eq!(above(1, 1, 2000), Some(2001));
        assert_eq!(above(2001, 1, 2000), Some(4001));
    }

    #[test]
    fn the_last_host_has_numbers_of_its_own() {
        assert_eq!(above(0, 2000, 2000), Some(2000));
        assert_eq!(above(2000, 2000, 2000), Some(4000));
        assert_eq!(above(3999, 2000, 2000), Some(4000));
        assert_eq!(above(250, 250, 250), Some(500));
    }

    #[test]
    fn numbers_that_are_used_up_are_not_wrapped_around() {
        assert_eq!(above(u64::MAX, 1, 2000), None);
        assert_eq!(above(u64::MAX - 1, 2000, 2000), None);
    }

    proptest! {
        #[test]
        fn a_number_is_above_what_was_seen_and_its_hosts_own(seen in 0..u64::MAX / 2, host in 1u64..=2000) {
            let number = above(seen, host, 2000).unwrap();
            prop_assert!(number > seen && number - seen <= 2000);
            prop_assert_eq!(number % 2000, host % 2000);
        }

        #[test]
        fn waits_are_milliseconds_within_their_bounds(seed: u64) {
            let mut backoff = Backoff::new(seed);
            for bound in [4, 8, 16, 32, 64, 64, 64] {
                let ms = backoff.next_wait().as_millis();
                prop_assert!((2..=bound).contains(&ms), "{} ms, bound {}", ms, bound);
            }
        }
    }

    #[test]
    fn one_seed_is_one_sequence_and_another_seed_another() {
        let waits = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..8).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
