//! Lines that clients can cause at will, those with the target [`AT_WILL`]: of each place that logs them so many are let through
//! in a while; the others are counted, and summed up in one line.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_daemon::log_ring::AT_WILL;
use holdfast_io::clock::{LocalInstant, boot_now};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// What "a while" is.
const WHILE: Duration = Duration::from_secs(10);
/// Lines let through in it, of one place.
const MOST: u32 = 50;

/// The limit. Cloned, it is the same.
#[derive(Clone, Default)]
pub struct Limit(Arc<Mutex<BTreeMap<Site, Count>>>);

/// A place in the source.
type Site = (&'static str, u32);

struct Count {
    /// The present while.
    since: LocalInstant,
    through: u32,
    /// Not let through since it was last summed up.
    more: u64,
    summed_up: LocalInstant,
    /// What its lines say.
    like: String,
}

/// What was not logged.
#[derive(Debug, PartialEq, Eq)]
pub struct More {
    /// How many lines.
    pub lines: u64,
    /// What they say.
    pub like: String,
}

impl Limit {
    /// What is to be summed up by now; `all`: at the end, whenever it was last done.
    pub fn sum_up(&self, now: LocalInstant, all: bool) -> Vec<More> {
        let mut sites = self.lock();
        let due = sites.values_mut().filter(|site| site.more > 0 && (all || now.since(site.summed_up) >= WHILE));
        let more = |site: &mut Count| {
            site.summed_up = now;
            More { lines: std::mem::take(&mut site.more), like: site.like.clone() }
        };
        due.map(more).collect()
    }

    fn lets_through(&self, site: Site, now: LocalInstant, like: impl FnOnce() -> String) -> bool {
        let mut sites = self.lock();
        let count = sites.entry(site).or_insert_with(|| Count {
            since: now,
            through: 0,
            more: 0,
            summed_up: LocalInstant::EARLIEST,
            like: like(),
        });
        if now.since(count.since) >= WHILE {
            (count.since, count.through) = (now, 0);
        }
        if count.through < MOST {
            count.through += 1;
            return true;
        }
        if count.more == 0 {
            count.summed_up = now;
        }
        count.more += 1;
        false
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Site, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn site_of(place: &'static Metadata<'static>) -> Site {
    (place.file().unwrap_or_default(), place.line().unwrap_or_default())
}

/// The words of a line, without its values.
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let place = event.metadata();
        place.target() != AT_WILL
            || self.lets_through(site_of(place), boot_now(), || {
                let mut words = Words(String::new());
                event.record(&mut words);
                words.0
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = ("here.rs", 1);

    fn at(seconds: u64) -> LocalInstant {
        LocalInstant::EARLIEST.after(Duration::from_secs(1000 + seconds))
    }

    /// How many of so many lines are let through.
    fn through(limit: &Limit, site: Site, now: LocalInstant, lines: u32) -> u32 {
        (0..lines).map(|_| u32::from(limit.lets_through(site, now, || "refused".into()))).sum()
    }

    #[test]
    fn a_flood_from_one_place_is_cut_and_summed_up_and_no_other_place_with_it() {
        let limit = Limit::default();
        assert_eq!(through(&limit, SITE, at(0), 10_000), MOST);
        assert_eq!(through(&limit, ("here.rs", 2), at(0), MOST), MOST);
        assert_eq!(limit.sum_up(at(1), false), [], "not yet");
        let more = |lines| vec![More { lines, like: "refused".into() }];
        assert_eq!(limit.sum_up(at(10), false), more(10_000 - u64::from(MOST)));
        assert_eq!(limit.sum_up(at(30), false), []);
        assert_eq!(through(&limit, SITE, at(30), MOST + 7), MOST, "a new while");
        assert_eq!(limit.sum_up(at(31), true), more(7), "the end");
    }

    #[test]
    fn a_flood_that_never_pauses_is_summed_up_all_the_same() {
        let limit = Limit::default();
        let summed_up: Vec<u64> = (0..60)
            .flat_map(|second| {
                through(&limit, SITE, at(second), 100);
                limit.sum_up(at(second), false)
            })
            .map(|more| more.lines)
            .collect();
        assert!((4..=6).contains(&summed_up.len()), "{summed_up:?}");
    }

    #[test]
    fn only_lines_at_will_are_limited() {
        use tracing_subscriber::layer::SubscriberExt;
        let limit = Limit::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(limit.clone()), || {
            for lease in 0..200 {
                tracing::info!(target: AT_WILL, lease, "refused");
                tracing::info!(lease, "acquired");
            }
        });
        assert_eq!(limit.sum_up(boot_now(), true), [More { lines: 200 - u64::from(MOST), like: "refused".into() }]);
    }
}
