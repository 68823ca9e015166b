//! Is a lockspace in use? Watched for two renewal periods of its slowest host: a living host writes its sector once in
//! each, whatever its name, its clock or its program.
//!
//! A change is proof of life and is never overridden. No change proves nothing about a host that hangs for longer than
//! that; it would find its lease gone when it comes back (its next renewal compares every byte), and its watchdog has
//! the last word as ever (D3).

use std::fmt;
use std::time::Duration;

use holdfast_io::bytes::array_at;
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::{IoError, ReadDisk};
use holdfast_io::leader::{self, LeaderRecord};
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};

use crate::dump::report::{Area, Content};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long one look may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A lockspace that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Its name.
    pub lockspace: String,
    /// Where its area begins.
    pub offset: u64,
    /// Which host's sector changed.
    pub host_id: u32,
    /// The name in it now.
    pub name: String,
    /// How long after the watch began it was seen.
    pub after: Duration,
}

impl fmt::Display for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Alive { lockspace, offset, host_id, name, after } = self;
        write!(
            f,
            "lockspace {lockspace} at offset {offset} is in use: host {host_id} ({name}) wrote its sector {:.1} s after the watch began; --force does not override that",
            after.as_secs_f64()
        )
    }
}

/// How long an area must be watched; `None` if it is no lockspace or no host ever joined.
#[must_use]
pub fn duration(area: &Area) -> Option<Duration> {
    let Content::Lockspace(space) = &area.content else { return None };
    let slowest = |h: &crate::dump::report::Host| {
        // A damaged sector may say anything; then at least the usual timeout counts.
        let stored = IoTimeout::new(u64::from(h.record.io_timeout & 0xFF));
        let stored = stored.unwrap_or(IoTimeout::DEFAULT);
        if h.damaged { stored.max(IoTimeout::DEFAULT) } else { stored }
    };
    let io_timeout = space.hosts.iter().map(slowest).max()?;
    Some(Timing::new(io_timeout, FireTimeout::SANLOCK).init_watch())
}

/// Watches a lockspace's area, whose bytes were `area.raw` when it was first read. `tick` is told the time left.
///
/// # Errors
/// The area cannot be read any more.
pub async fn watch<D: ReadDisk, C: Clock>(
    disk: &D,
    clock: &C,
    area: &Area,
    length: Duration,
    mut tick: impl FnMut(Duration),
) -> Result<Option<Alive>, IoError> {
    let started = clock.now();
    let first = &area.raw;
    loop {
        let read_from = clock.now();
        let now = disk.read(area.offset, first.len(), read_from.after(DEADLINE)).await?;
        if let Some(changed) = changed(area, first, &now) {
            return Ok(Some(alive(area, changed, &now, read_from.since(started))));
        }
        // The silence that counts ends where the last look began.
        let left = length.saturating_sub(read_from.since(started));
        if left.is_zero() {
            return Ok(None);
        }
        tick(left);
        clock.sleep_until(next_look(clock.now(), left)).await;
    }
}

fn next_look(now: LocalInstant, left: Duration) -> LocalInstant {
    now.after(LOOK_EVERY.min(left.max(Duration::from_millis(1))))
}

/// The index of the first host's sector that is not what it was.
fn changed(area: &Area, first: &[u8], now: &[u8]) -> Option<u32> {
    let pairs = first.chunks(area.sector_size).zip(now.chunks(area.sector_size));
    let mut hosts = (0..area.max_hosts).zip(pairs);
    hosts.find(|(_, (before, after))| before != after).map(|(slot, _)| slot)
}

fn alive(area: &Area, slot: u32, now: &[u8], after: Duration) -> Alive {
    let sector = &now[slot as usize * area.sector_size..];
    let record = LeaderRecord::parse(&array_at::<{ leader::LEN }>(sector, 0));
    Alive {
        lockspace: record.space_name.to_string(),
        offset: area.offset,
        host_id: slot + 1,
        name: record.host_name().to_string(),
        after,
    }
}
