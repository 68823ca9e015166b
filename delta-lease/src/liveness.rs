//! Which hosts live: a pure function of what was read, and when (spec D 3.6, D1).
//!
//! Nothing here does I/O or asks for the time. Instants are this host's own; another host's timestamp is looked at for
//! change alone. What a look can say about a sector that it shows:
//! - *changed* (also: seen for the first time): the change had happened by the end of the look;
//! - *unchanged*: it had not changed before the start of the look;
//! - *damaged*: nothing. It is counted and shown, and the host is neither alive nor dead by it.
//!
//! | state | when; x is the host's io_timeout |
//! | --- | --- |
//! | Free | timestamp 0 |
//! | Unknown | within 8x of the first look, no change seen since |
//! | Live | within 8x of the last change |
//! | Fail | later: it must have ended what it guards, or its watchdog is about to |
//! | Dead | silence *seen* for D1's time, or the operator's word for it: its leases may be taken |
//! | Damaged | its sector cannot be believed now |

use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::ids::{Generation, HostId, HostName, HostTerm, RemoteTimestamp};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::Seal;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::{IoTimeout, Timing};

use crate::error::SectorError;
use crate::layout::DeltaArea;
use crate::look::{AreaView, SectorView};
use crate::sector::DeltaSector;

/// A real host's renewals are up to 1.5 s apart more than its interval (spec D 3.4); with a little for the looking.
const RENEWAL_SLACK: Duration = Duration::from_secs(2);

/// How long a sector has been seen not to change, the one measure that D1 knows: from the end of the look that last saw
/// it change to the start of the latest look that saw it unchanged. Time in which nobody looked counts only once a look
/// has shown that nothing happened in it; the time that a look itself takes never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    changed_at: LocalInstant,
    unchanged_at: LocalInstant,
}

impl Silence {
    /// Begins at the end of a look that saw a change.
    #[must_use]
    pub const fn from(read_ended: LocalInstant) -> Self {
        Silence { changed_at: read_ended, unchanged_at: read_ended }
    }

    /// A look that began at `read_started` saw no change.
    pub fn confirm(&mut self, read_started: LocalInstant) {
        self.unchanged_at = self.unchanged_at.max(read_started);
    }

    /// The silence seen.
    #[must_use]
    pub const fn seen(&self) -> Duration {
        self.unchanged_at.since(self.changed_at)
    }

    /// The earliest start of a look that can show `needed` of it.
    #[must_use]
    pub fn ends(&self, needed: Duration) -> LocalInstant {
        self.changed_at.after(needed)
    }

    /// The end of the look that last saw a change.
    #[must_use]
    pub const fn changed_at(&self) -> LocalInstant {
        self.changed_at
    }
}

/// What is known about one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    last_good: Option<Good>,
    /// The end of the first look, good or bad.
    pub first_check: LocalInstant,
    /// The end of the latest look, good or bad.
    pub last_check: LocalInstant,
    /// What was wrong at the latest look, if it was.
    pub damage: Option<SectorError>,
    /// How many looks showed damage.
    pub damaged_looks: u64,
}

/// The latest look that showed a valid sector, and what led up to it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Good {
    sector: DeltaSector,
    silence: Silence,
    /// Whether a change was seen after the first look.
    stirred: bool,
    timing: Timing,
    /// D1's silence, the longest that any record of this generation called for: a holder that shortens its timeouts, or
    /// a late write of a rival with shorter ones, does not bring the instant forward.
    needed: Duration,
    /// The same of all records that were seen there, whatever their generation.
    longest: Duration,
    /// An operator has said that this very record is the last of its host ([`HostTable::confirm_dead`]).
    confirmed_dead: bool,
}

impl Observation {
    /// The sector as it was when last valid; `None` if it never was.
    #[must_use]
    pub fn sector(&self) -> Option<&DeltaSector> {
        self.last_good.as_ref().map(|g| &g.sector)
    }

    /// The host's name.
    #[must_use]
    pub fn name(&self) -> Option<HostName> {
        self.sector().map(DeltaSector::host_name).filter(|n| !n.is_empty())
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.sector().map(DeltaSector::generation)
    }

    /// Its last renewal by its own clock.
    #[must_use]
    pub fn timestamp(&self) -> Option<RemoteTimestamp> {
        self.sector().map(|s| s.leader.timestamp)
    }

    /// Its io_timeout, if it says.
    #[must_use]
    pub fn io_timeout(&self) -> Option<IoTimeout> {
        self.sector().and_then(|s| s.leader.stored_io_timeout())
    }

    /// Its seal, if it has one.
    #[must_use]
    pub fn seal(&self) -> Option<Seal> {
        self.sector().and_then(|s| s.seal)
    }

    /// Whether anybody ever joined under this host_id.
    #[must_use]
    pub fn was_used(&self) -> bool {
        self.sector().is_some_and(|s| s.leader.owner_id != 0)
    }

    /// The end of the look that last saw it change, or saw it first.
    #[must_use]
    pub fn last_live(&self) -> Option<LocalInstant> {
        self.last_good.as_ref().map(|g| g.silence.changed_at())
    }

    /// D1's computed instant, if it stays silent; `None` where nobody holds the lease.
    #[must_use]
    pub fn earliest_takeover(&self) -> Option<LocalInstant> {
        let held = self.last_good.as_ref().filter(|g| g.sector.holder().is_some())?;
        Some(held.silence.ends(held.needed))
    }

    /// Whether an operator has said that this host is dead, and nothing has spoken against it since.
    #[must_use]
    pub fn is_confirmed_dead(&self) -> bool {
        self.last_good.as_ref().is_some_and(|g| g.confirmed_dead)
    }

    fn new(read_ended: LocalInstant) -> Self {
        Observation { last_good: None, first_check: read_ended, last_check: read_ended, damage: None, damaged_looks: 0 }
    }

    fn look(&mut self, sector: Result<DeltaSector, SectorError>, look: Look, own: IoTimeout) {
        self.last_check = self.last_check.max(look.ended);
        match sector {
            Err(e) => {
                self.damaged_looks += 1;
                match &mut self.last_good {
                    Some(good) if planted(Bug::LifeFromDamage) => good.again(look),
                    _ => self.damage = Some(e),
                }
            }
            Ok(sector) => {
                self.damage = None;
                match &mut self.last_good {
                    Some(good) => good.look(sector, look, own),
                    first => *first = Some(Good::first(sector, look, own)),
                }
            }
        }
    }

    /// The very bytes of the latest look once more.
    fn look_again(&mut self, look: Look) {
        self.last_check = self.last_check.max(look.ended);
        match &mut self.last_good {
            Some(good) if self.damage.is_none() => good.again(look),
            _ => self.damaged_looks += 1,
        }
    }

    fn state(&self, now: LocalInstant) -> HostState {
        let Some(good) = self.last_good.as_ref().filter(|_| self.damage.is_none()) else { return HostState::Damaged };
        if good.sector.leader.is_free() {
            HostState::Free
        } else if good.confirmed_dead || good.is_dead() {
            HostState::Dead
        } else if now.since(good.silence.changed_at()) > good.timing.id_renewal_fail() {
            HostState::Fail
        } else if good.stirred {
            HostState::Live
        } else {
            HostState::Unknown
        }
    }
}

impl Good {
    fn first(sector: DeltaSector, look: Look, own: IoTimeout) -> Self {
        let timing = sector.timing(own);
        let needed = timing.silence_for_takeover();
        let silence = Silence::from(look.ended);
        Good { sector, silence, stirred: false, timing, needed, longest: needed, confirmed_dead: false }
    }

    fn look(&mut self, sector: DeltaSector, look: Look, own: IoTimeout) {
        if sector == self.sector {
            return self.again(look);
        }
        self.timing = sector.timing(own);
        let needed = self.timing.silence_for_takeover();
        let newer = sector.generation() > self.sector.generation();
        self.needed = if newer { needed } else { needed.max(self.needed) };
        self.longest = self.longest.max(needed);
        if planted(Bug::DeadForGood) && self.is_dead() {
            self.sector = sector;
            return;
        }
        // Looks may be reported out of order: one that ended earlier does not set the silence back.
        self.silence = Silence::from(look.ended.max(self.silence.changed_at()));
        self.stirred = true;
        // The word was for one record: who writes another is not dead, or is a later generation.
        if std::mem::take(&mut self.confirmed_dead) && !newer {
            let (host_id, generation) = (self.sector.leader.owner_id, self.sector.generation());
            let name = self.sector.host_name();
            tracing::error!(
                host_id, %generation, %name,
                "this host was confirmed dead and has written since: it is alive, or a write of it came late. What it held may have \
                 been taken meanwhile: stop its virtual machines at once"
            );
        }
        self.sector = sector;
    }

    /// From when on nobody can call this host alive: a renewal, and the little that it may be late, have passed without one.
    fn missed_renewal(&self) -> LocalInstant {
        let renewal = self.timing.renewal_interval() + self.timing.io_deadline() + RENEWAL_SLACK;
        self.silence.changed_at().after(renewal)
    }

    /// A look that saw no change.
    fn again(&mut self, look: Look) {
        self.silence.confirm(if planted(Bug::SilenceEndToEnd) { look.ended } else { look.started });
    }

    /// D1.
    fn is_dead(&self) -> bool {
        self.silence.seen() >= self.needed
    }
}

#[derive(Clone, Copy)]
struct Look {
    started: LocalInstant,
    ended: LocalInstant,
}

/// How a host stands (the table in the head of this file).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// Nobody holds the host_id.
    Free,
    /// Held, and not yet seen to change.
    Unknown,
    /// Held by a host that renews.
    Live,
    /// Not renewed for too long.
    Fail,
    /// Silent for D1's time.
    Dead,
    /// The sector cannot be believed.
    Damaged,
}

/// Whether the owner of a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerVerdict {
    /// It is: nothing guarded under that generation can write any more.
    Gone(GoneReason),
    /// Its last change is younger than a renewal takes.
    Alive {
        /// When it could be taken over, should it fall silent now.
        earliest: LocalInstant,
    },
    /// It misses renewals.
    Silent {
        /// When it can be taken over, if it stays silent.
        earliest: LocalInstant,
    },
    /// Nothing can be said; its leases must not be touched.
    Unknown(UnknownReason),
}

/// Why an owner is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// It gave its host_id back.
    Free,
    /// The host_id was taken anew since, which P1 allows only when the older generation is over.
    NewerGeneration {
        /// The generation on disk.
        found: Generation,
    },
    /// D1.
    Silent {
        /// The silence seen.
        seen: Duration,
    },
    /// An operator has said so ([`HostTable::confirm_dead`]).
    Confirmed,
}

/// Why nothing can be said about an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownReason {
    /// No look has shown its sector yet, or there is no such sector.
    NotSeen,
    /// Its sector is damaged.
    Damaged,
    /// Its sector shows an older generation: it was rolled back, formatted, or hit by a write that came too late.
    OlderGeneration {
        /// The generation on disk.
        found: Generation,
    },
}

/// Everything seen of one lockspace's hosts.
#[derive(Clone, Debug)]
pub struct HostTable {
    area: DeltaArea,
    own_io_timeout: IoTimeout,
    /// By slot.
    hosts: Vec<Option<Observation>>,
    /// Each sector as it was last looked at: most of them are the same at every look, and need no decoding then.
    image: Option<AlignedBuf>,
    last_scan: Option<LocalInstant>,
}

impl HostTable {
    /// An empty table. `own_io_timeout` stands in for hosts that store none.
    #[must_use]
    pub const fn new(area: DeltaArea, own_io_timeout: IoTimeout) -> Self {
        HostTable { area, own_io_timeout, hosts: Vec::new(), image: None, last_scan: None }
    }

    /// Takes in a look at the whole area.
    pub fn observe_area(&mut self, view: &AreaView) {
        self.image.get_or_insert_with(|| AlignedBuf::from_slice(view.bytes()));
        for host in self.area.hosts() {
            self.observe(host, view.sector(host), Look { started: view.read_started, ended: view.read_ended });
        }
        self.last_scan = self.last_scan.max(Some(view.read_ended));
    }

    /// Takes in a look at one host's sector.
    pub fn observe_sector(&mut self, view: &SectorView) {
        self.observe(view.host_id, &view.bytes, Look { started: view.read_started, ended: view.read_ended });
    }

    fn observe(&mut self, host: HostId, bytes: &[u8], look: Look) {
        assert!(look.started <= look.ended, "D1: a look ends after it starts");
        let Ok(slot) = usize::try_from(host.slot()) else { return };
        if self.hosts.len() <= slot {
            let room = usize::try_from(self.area.geometry.max_hosts()).unwrap_or(0);
            self.hosts.reserve(room.saturating_sub(self.hosts.len()));
            self.hosts.resize(slot + 1, None);
        }
        let at = slot * bytes.len();
        let image = self.image.get_or_insert_with(|| AlignedBuf::zeroed(self.area.geometry.area_len()));
        let image = &mut image[at..at + bytes.len()];
        let seen = match &mut self.hosts[slot] {
            Some(seen) if image == bytes => {
                seen.look_again(look);
                seen
            }
            seen => {
                if image != bytes {
                    image.copy_from_slice(bytes);
                }
                let seen = seen.get_or_insert_with(|| Observation::new(look.ended));
                seen.look(self.area.decode(host, bytes), look, self.own_io_timeout);
                seen
            }
        };
        if let Some(error) = seen.damage.as_ref().filter(|_| seen.damaged_looks % 100 == 1) {
            let (host_id, looks, offset) = (host.get(), seen.damaged_looks, self.area.offset_of(host));
            tracing::warn!(host_id, offset, looks, %error, "delta sector is damaged");
        }
    }

    /// The end of the latest look at the whole area.
    #[must_use]
    pub const fn last_scan(&self) -> Option<LocalInstant> {
        self.last_scan
    }

    /// Every host looked at, in order.
    pub fn hosts(&self) -> impl Iterator<Item = (HostId, &Observation)> {
        let ids = (0u32..).map_while(HostId::from_slot);
        ids.zip(&self.hosts).filter_map(|(id, seen)| Some((id, seen.as_ref()?)))
    }

    /// What is known about a host.
    #[must_use]
    pub fn observation(&self, host: HostId) -> Option<&Observation> {
        self.hosts.get(usize::try_from(host.slot()).ok()?)?.as_ref()
    }

    /// How a host stands; `None` before the first look.
    #[must_use]
    pub fn state(&self, host: HostId, now: LocalInstant) -> Option<HostState> {
        self.observation(host).map(|seen| seen.state(now))
    }

    /// D1's computed instant for a host that holds its lease.
    #[must_use]
    pub fn earliest_takeover(&self, host: HostId) -> Option<LocalInstant> {
        self.observation(host).and_then(Observation::earliest_takeover)
    }

    /// Whether the owner of a lease is over. The generation is looked at first: a freed record of an older one says
    /// nothing about a newer (it can be a late write), and a newer one ends an older whatever else the sector says.
    #[must_use]
    pub fn verdict(&self, owner: HostTerm, now: LocalInstant) -> OwnerVerdict {
        use OwnerVerdict::{Alive, Gone, Silent, Unknown};
        let Some(seen) = self.observation(owner.host_id) else { return Unknown(UnknownReason::NotSeen) };
        let Some(good) = seen.last_good.as_ref().filter(|_| seen.damage.is_none()) else {
            return Unknown(UnknownReason::Damaged);
        };
        let found = good.sector.generation();
        if found > owner.generation {
            return Gone(GoneReason::NewerGeneration { found });
        }
        if found < owner.generation {
            return Unknown(UnknownReason::OlderGeneration { found });
        }
        if good.sector.leader.is_free() {
            return Gone(GoneReason::Free);
        }
        if good.is_dead() {
            return Gone(GoneReason::Silent { seen: good.silence.seen() });
        }
        if good.confirmed_dead {
            return Gone(GoneReason::Confirmed);
        }
        let earliest = good.silence.ends(good.needed);
        if now < good.missed_renewal() { Alive { earliest } } else { Silent { earliest } }
    }

    /// Whether *nobody* is at work under a host_id, in whatever generation: its sector, held or free, has been seen not to change for D1's
    /// time, or an operator says so of what stands there. More than a verdict asks for: that a term is over is final, whoever has the
    /// host_id next; and what frees a host_id can be a late write over a record of a holder that will renew it (A7).
    ///
    /// `Gone` says what the sector shows; `Silent` is also said of a host_id that has been free for too short a time.
    #[must_use]
    pub fn absence(&self, host: HostId, now: LocalInstant) -> OwnerVerdict {
        use OwnerVerdict::{Alive, Gone, Silent, Unknown};
        if host.get() > u64::from(self.area.geometry.max_hosts()) {
            // It has no sector here: nobody can join under it.
            return Gone(GoneReason::Free);
        }
        let Some(seen) = self.observation(host) else { return Unknown(UnknownReason::NotSeen) };
        let Some(good) = seen.last_good.as_ref().filter(|_| seen.damage.is_none()) else {
            return Unknown(UnknownReason::Damaged);
        };
        let free = good.sector.leader.is_free();
        let (needed, silence, earliest) = (good.longest, good.silence.seen(), good.silence.ends(good.longest));
        match () {
            () if good.confirmed_dead => Gone(GoneReason::Confirmed),
            () if silence >= needed && free => Gone(GoneReason::Free),
            () if silence >= needed => Gone(GoneReason::Silent { seen: silence }),
            () if free || now >= good.missed_renewal() => Silent { earliest },
            () => Alive { earliest },
        }
    }

    /// Takes an operator's word that a host is over - its power is off, and nothing that it wrote is on its way - in place of
    /// the silence that D1 asks for. The word is for one record, generation and last renewal: as soon as the sector shows another,
    /// it counts for nothing, so a host that writes after all is refused its death, loudly. To be given right after a look.
    ///
    /// # Errors
    /// [`NotConfirmed`]: nothing was changed.
    pub fn confirm_dead(
        &mut self,
        host: HostTerm,
        renewed_at: RemoteTimestamp,
        now: LocalInstant,
    ) -> Result<(), NotConfirmed> {
        let slot = usize::try_from(host.host_id.slot()).unwrap_or(usize::MAX);
        let seen = self.hosts.get_mut(slot).and_then(Option::as_mut).ok_or(NotConfirmed::NotSeen)?;
        if let Some(damage) = &seen.damage {
            return Err(NotConfirmed::Damaged { reason: damage.to_string() });
        }
        let good = seen.last_good.as_mut().ok_or(NotConfirmed::NotSeen)?;
        let (generation, timestamp) = (good.sector.generation(), good.sector.leader.timestamp);
        if good.sector.holder().is_none() {
            return Err(NotConfirmed::Free);
        }
        if generation != host.generation {
            return Err(NotConfirmed::OtherGeneration { found: generation, expected: host.generation });
        }
        if timestamp != renewed_at {
            return Err(NotConfirmed::Renewed { found: timestamp, expected: renewed_at });
        }
        if now < good.missed_renewal() {
            return Err(NotConfirmed::TooEarly { wait: good.missed_renewal().since(now) });
        }
        good.confirmed_dead = true;
        Ok(())
    }
}

/// Why an operator's word that a host is dead is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotConfirmed {
    /// No look has shown its sector, or there is none.
    #[error("nothing is known of this host_id")]
    NotSeen,
    /// Its sector cannot be believed: whose death it is cannot be told.
    #[error("its delta sector is damaged: {reason}")]
    Damaged {
        /// Field, expected and found.
        reason: String,
    },
    /// Nobody holds the host_id.
    #[error("nobody holds this host_id: what its last holder had is over without anybody's word")]
    Free,
    /// Another generation than the one meant.
    #[error("the host_id is held under generation {found}, expected {expected}")]
    OtherGeneration {
        /// On disk.
        found: Generation,
        /// As meant.
        expected: Generation,
    },
    /// It has written since the operator looked.
    #[error("the host is alive: it has renewed at {found} of its clock since it was looked at (then: {expected})")]
    Renewed {
        /// On disk.
        found: RemoteTimestamp,
        /// As meant.
        expected: RemoteTimestamp,
    },
    /// It may be alive: not even a renewal has been missed.
    #[error("its last renewal is too fresh: a host without power misses one within {:.1} s from now", wait.as_secs_f64())]
    TooEarly {
        /// Until it has missed one.
        wait: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{area, at, host_id, sealed_sector};
    use holdfast_io::seal::SealedFire;
    use holdfast_io::sys::aligned::AlignedBuf;
    use holdfast_io::timing::FireTimeout;
    use holdfast_io::units::{AlignSize, Geometry, SectorSize};
    use proptest::prelude::*;

    const NANO: Duration = Duration::from_nanos(1);

    fn table() -> HostTable {
        HostTable::new(area(), IoTimeout::DEFAULT)
    }

    fn look(bytes: &AlignedBuf, started: LocalInstant, ended: LocalInstant) -> SectorView {
        SectorView { host_id: host_id(3), bytes: bytes.clone(), read_started: started, read_ended: ended }
    }

    fn bytes(generation: u64, timestamp: u64) -> AlignedBuf {
        sealed_sector(3, generation, timestamp).encode(SectorSize::B512)
    }

    fn term(generation: u64) -> HostTerm {
        HostTerm { host_id: host_id(3), generation: Generation(generation) }
    }

    /// D1's silence of `sealed_sector`: io_timeout 10, fire timeout 60.
    fn needed() -> Duration {
        Timing::new(IoTimeout::DEFAULT, FireTimeout::SANLOCK).silence_for_takeover()
    }

    #[test]
    fn d1_one_nanosecond_before_the_instant_is_not_dead_and_at_it_is() {
        let held = bytes(5, 1000);
        let changed_at = at(102);
        let mut table = table();
        table.observe_sector(&look(&held, at(100), changed_at));
        let instant = changed_at.after(needed());
        assert_eq!(table.earliest_takeover(host_id(3)), Some(instant));

        table.observe_sector(&look(&held, instant.before(NANO), at(400)));
        assert_eq!(table.verdict(term(5), at(10_000)), OwnerVerdict::Silent { earliest: instant });
        assert_eq!(table.state(host_id(3), at(10_000)), Some(HostState::Fail));

        table.observe_sector(&look(&held, instant, at(500)));
        let seen = needed();
        assert_eq!(table.verdict(term(5), at(10_000)), OwnerVerdict::Gone(GoneReason::Silent { seen }));
        assert_eq!(table.state(host_id(3), at(10_000)), Some(HostState::Dead));
    }

    #[test]
    fn d1_the_time_that_looks_take_is_no_silence() {
        // One look of 200 s that saw the change, one of 200 s that did not: 300 s apart by their far ends, 0 s seen.
        let held = bytes(5, 1000);
        let mut table = table();
        table.observe_sector(&look(&held, at(100), at(300)));
        table.observe_sector(&look(&held, at(290), at(600)));
        assert!(matches!(table.verdict(term(5), at(600)), OwnerVerdict::Silent { .. }));
        assert_ne!(table.state(host_id(3), at(600)), Some(HostState::Dead));
    }

    #[test]
    fn d1_a_slow_look_that_saw_a_change_begins_the_silence_at_its_end() {
        let mut table = table();
        table.observe_sector(&look(&bytes(5, 1000), at(100), at(100)));
        table.observe_sector(&look(&bytes(5, 1020), at(120), at(150)));
        assert_eq!(table.earliest_takeover(host_id(3)), Some(at(150).after(needed())));
        table.observe_sector(&look(&bytes(5, 1020), at(130).after(needed()), at(300)));
        assert!(matches!(table.verdict(term(5), at(300)), OwnerVerdict::Silent { .. }));
    }

    #[test]
    fn nobody_is_at_work_under_a_host_id_once_its_sector_has_been_silent_for_d1s_time_whether_it_is_held_or_free() {
        let mut table = table();
        let gone = |table: &HostTable| table.absence(host_id(3), at(10_000));
        assert_eq!(gone(&table), OwnerVerdict::Unknown(UnknownReason::NotSeen));
        table.observe_sector(&look(&bytes(5, 1000), at(99), at(100)));
        assert!(matches!(table.absence(host_id(3), at(101)), OwnerVerdict::Alive { .. }));
        // Given back: the term is over, but the record may be a late one of a host that stood still.
        table.observe_sector(&look(&bytes(5, 0), at(101), at(102)));
        let instant = at(102).after(needed());
        assert_eq!(table.verdict(term(5), at(10_000)), OwnerVerdict::Gone(GoneReason::Free));
        assert_eq!(gone(&table), OwnerVerdict::Silent { earliest: instant });
        table.observe_sector(&look(&bytes(5, 0), instant.before(NANO), at(400)));
        assert_eq!(gone(&table), OwnerVerdict::Silent { earliest: instant });
        table.observe_sector(&look(&bytes(5, 0), instant, at(400)));
        assert_eq!(gone(&table), OwnerVerdict::Gone(GoneReason::Free));
        // A damaged one says nothing, and a host_id without a sector has no hosts.
        let mut damaged = bytes(5, 0);
        damaged[9] ^= 1;
        table.observe_sector(&look(&damaged, at(500), at(501)));
        assert_eq!(gone(&table), OwnerVerdict::Unknown(UnknownReason::Damaged));
        let small = DeltaArea { geometry: Geometry::new(SectorSize::B4096, AlignSize::M1).unwrap(), ..area() };
        let small = HostTable::new(small, IoTimeout::DEFAULT);
        assert_eq!(small.absence(host_id(251), at(0)), OwnerVerdict::Gone(GoneReason::Free));
        assert_eq!(small.absence(host_id(250), at(0)), OwnerVerdict::Unknown(UnknownReason::NotSeen));
    }

    #[test]
    fn looks_reported_late_neither_shorten_nor_lengthen_what_was_seen() {
        let mut table = table();
        let far = at(160).after(needed());
        table.observe_sector(&look(&bytes(5, 1020), at(120), at(150)));
        table.observe_sector(&look(&bytes(5, 1020), far, far));
        table.observe_sector(&look(&bytes(5, 1020), at(155), at(156)));
        assert_eq!(table.state(host_id(3), far), Some(HostState::Dead), "it was seen silent, and still is");
        // An old content, from a look that ended before the last change was seen: a change, and no earlier one.
        table.observe_sector(&look(&bytes(5, 1000), at(100), at(110)));
        assert_eq!(table.earliest_takeover(host_id(3)), Some(at(150).after(needed())));
        assert_ne!(table.state(host_id(3), far), Some(HostState::Dead));
    }

    #[test]
    fn d1_time_in_which_nobody_looked_does_not_kill_by_itself() {
        let mut table = table();
        table.observe_sector(&look(&bytes(5, 1000), at(100), at(100)));
        assert!(matches!(table.verdict(term(5), at(100_000)), OwnerVerdict::Silent { .. }));
        assert_eq!(table.state(host_id(3), at(100_000)), Some(HostState::Fail));
        table.observe_sector(&look(&bytes(5, 99_000), at(100_000), at(100_000)));
        assert!(matches!(table.verdict(term(5), at(100_000)), OwnerVerdict::Alive { .. }));
    }

    #[test]
    fn a_host_goes_from_unknown_to_live_to_fail_to_dead() {
        let mut table = table();
        assert_eq!(table.state(host_id(3), at(1)), None);
        assert_eq!(table.verdict(term(5), at(1)), OwnerVerdict::Unknown(UnknownReason::NotSeen));
        table.observe_sector(&look(&bytes(5, 1000), at(100), at(100)));
        assert_eq!(table.state(host_id(3), at(180)), Some(HostState::Unknown));
        assert_eq!(table.state(host_id(3), at(181)), Some(HostState::Fail));
        table.observe_sector(&look(&bytes(5, 1020), at(120), at(120)));
        assert_eq!(table.state(host_id(3), at(200)), Some(HostState::Live));
        assert_eq!(table.state(host_id(3), at(200).after(NANO)), Some(HostState::Fail));
        let seen = table.observation(host_id(3)).unwrap();
        assert_eq!((seen.first_check, seen.last_check, seen.last_live()), (at(100), at(120), Some(at(120))));
        let far = at(120).after(needed());
        table.observe_sector(&look(&bytes(5, 1020), far, far));
        assert_eq!(table.state(host_id(3), far), Some(HostState::Dead));
        table.observe_sector(&look(&bytes(5, 1400), at(500), at(500)));
        assert_eq!(table.state(host_id(3), at(500)), Some(HostState::Live), "it came back");
    }

    #[test]
    fn a_word_that_a_host_is_dead_counts_for_one_record_once_a_renewal_was_missed_and_until_it_writes_again() {
        let (held, renewed) = (bytes(5, 1000), RemoteTimestamp(1000));
        let mut table = table();
        assert_eq!(table.confirm_dead(term(5), renewed, at(200)), Err(NotConfirmed::NotSeen));
        table.observe_sector(&look(&held, at(100), at(100)));
        let missed = at(100 + 20 + 10 + 2);
        let early = table.confirm_dead(term(5), renewed, missed.before(NANO));
        assert_eq!(early, Err(NotConfirmed::TooEarly { wait: NANO }));
        let other = NotConfirmed::OtherGeneration { found: Generation(5), expected: Generation(4) };
        assert_eq!(table.confirm_dead(term(4), renewed, missed), Err(other));
        let alive = NotConfirmed::Renewed { found: renewed, expected: RemoteTimestamp(980) };
        assert_eq!(table.confirm_dead(term(5), RemoteTimestamp(980), missed), Err(alive));
        assert!(
            matches!(table.verdict(term(5), missed), OwnerVerdict::Silent { .. }),
            "nothing refused has any effect"
        );

        assert_eq!(table.confirm_dead(term(5), renewed, missed), Ok(()));
        assert_eq!(table.verdict(term(5), missed), OwnerVerdict::Gone(GoneReason::Confirmed));
        assert_eq!(table.state(host_id(3), missed), Some(HostState::Dead));
        // A look that shows the same changes nothing, one that cannot be believed takes it back for as long.
        table.observe_sector(&look(&held, at(140), at(140)));
        assert_eq!(table.verdict(term(5), at(140)), OwnerVerdict::Gone(GoneReason::Confirmed));
        let mut damaged = held.clone();
        damaged[0x30] ^= 1;
        table.observe_sector(&look(&damaged, at(141), at(141)));
        assert_eq!(table.verdict(term(5), at(141)), OwnerVerdict::Unknown(UnknownReason::Damaged));
        assert!(matches!(table.confirm_dead(term(5), renewed, at(141)), Err(NotConfirmed::Damaged { .. })));
        table.observe_sector(&look(&held, at(142), at(142)));
        assert_eq!(table.verdict(term(5), at(142)), OwnerVerdict::Gone(GoneReason::Confirmed));
        // Whoever writes is not dead, and the word does not come back with its old record.
        table.observe_sector(&look(&bytes(5, 1020), at(150), at(150)));
        assert!(matches!(table.verdict(term(5), at(150)), OwnerVerdict::Alive { .. }));
        table.observe_sector(&look(&held, at(151), at(151)));
        assert!(matches!(table.verdict(term(5), at(151)), OwnerVerdict::Alive { .. }));
        table.observe_sector(&look(&bytes(5, 0), at(160), at(160)));
        assert_eq!(table.confirm_dead(term(5), RemoteTimestamp(0), at(900)), Err(NotConfirmed::Free));
    }

    #[test]
    fn an_owner_is_alive_for_a_renewal_and_two_seconds_then_silent() {
        let mut table = table();
        table.observe_sector(&look(&bytes(5, 1000), at(100), at(100)));
        let earliest = at(100).after(needed());
        let renewal_over = at(100 + 20 + 10 + 2);
        assert_eq!(table.verdict(term(5), renewal_over.before(NANO)), OwnerVerdict::Alive { earliest });
        assert_eq!(table.verdict(term(5), renewal_over), OwnerVerdict::Silent { earliest });
    }

    #[test]
    fn a_newer_generation_ends_an_older_and_an_older_says_nothing_about_a_newer() {
        let mut table = table();
        table.observe_sector(&look(&bytes(5, 1000), at(100), at(100)));
        let newer = GoneReason::NewerGeneration { found: Generation(5) };
        assert_eq!(table.verdict(term(4), at(100)), OwnerVerdict::Gone(newer));
        let older = OwnerVerdict::Unknown(UnknownReason::OlderGeneration { found: Generation(5) });
        assert_eq!(table.verdict(term(6), at(100)), older);

        table.observe_sector(&look(&bytes(5, 0), at(110), at(110)));
        assert_eq!(table.state(host_id(3), at(110)), Some(HostState::Free));
        assert_eq!(table.verdict(term(5), at(110)), OwnerVerdict::Gone(GoneReason::Free));
        assert_eq!(table.verdict(term(4), at(110)), OwnerVerdict::Gone(newer));
        assert_eq!(table.verdict(term(6), at(110)), older, "a late release of 5 does not free 6");
        assert_eq!(table.earliest_takeover(host_id(3)), None);
    }

    #[test]
    fn a_damaged_look_is_neither_a_change_nor_a_confirmation() {
        let held = bytes(5, 1000);
        let mut damaged = held.clone();
        damaged[300] ^= 1;
        let mut table = table();
        table.observe_sector(&look(&held, at(100), at(100)));
        let instant = at(100).after(needed());
        table.observe_sector(&look(&damaged, instant, instant));
        assert_eq!(table.state(host_id(3), instant), Some(HostState::Damaged));
        assert_eq!(table.verdict(term(5), instant), OwnerVerdict::Unknown(UnknownReason::Damaged));
        let seen = table.observation(host_id(3)).unwrap();
        assert_eq!((seen.damaged_looks, seen.last_live()), (1, Some(at(100))), "no change");
        assert!(seen.damage.is_some() && seen.sector().is_some());

        table.observe_sector(&look(&held, instant.before(NANO), at(900)));
        assert!(matches!(table.verdict(term(5), at(900)), OwnerVerdict::Silent { .. }), "no confirmation either");
        table.observe_sector(&look(&held, at(900), at(900)));
        assert!(matches!(table.verdict(term(5), at(900)), OwnerVerdict::Gone(GoneReason::Silent { .. })));
    }

    #[test]
    fn a_sector_that_was_never_valid_is_damaged_and_nobody_is_gone_by_it() {
        let mut table = table();
        table.observe_sector(&look(&AlignedBuf::zeroed(512), at(100), at(100)));
        assert_eq!(table.state(host_id(3), at(1000)), Some(HostState::Damaged));
        assert_eq!(table.verdict(term(1), at(1000)), OwnerVerdict::Unknown(UnknownReason::Damaged));
        let seen = table.observation(host_id(3)).unwrap();
        assert_eq!((seen.name(), seen.was_used()), (None, false));
    }

    #[test]
    fn shorter_timeouts_within_one_generation_do_not_bring_the_instant_forward() {
        let with = |generation, timestamp, x: u16, fire| {
            let mut sector = sealed_sector(3, generation, timestamp);
            sector.leader.io_timeout = x;
            if let Some(seal) = &mut sector.seal {
                seal.fire = SealedFire::Within(FireTimeout::new(fire).unwrap());
            }
            sector.encode(SectorSize::B512)
        };
        let mut table = table();
        table.observe_sector(&look(&with(5, 1000, 20, 60), at(100), at(100)));
        table.observe_sector(&look(&with(5, 1010, 1, 10), at(110), at(110)));
        let slow = Timing::new(IoTimeout::new(20).unwrap(), FireTimeout::SANLOCK).silence_for_takeover();
        assert_eq!(table.earliest_takeover(host_id(3)), Some(at(110).after(slow)));
        table.observe_sector(&look(&with(6, 1020, 1, 10), at(120), at(120)));
        let fast = Timing::new(IoTimeout::new(1).unwrap(), FireTimeout::new(10).unwrap()).silence_for_takeover();
        assert_eq!(table.earliest_takeover(host_id(3)), Some(at(120).after(fast)));
    }

    #[test]
    fn without_a_seal_or_a_watchdog_a_host_is_judged_with_sanlocks_60_seconds() {
        let mut unsealed = sealed_sector(3, 5, 1000);
        unsealed.seal = None;
        let mut bare = sealed_sector(3, 5, 1000);
        bare.seal = bare.seal.map(|s| Seal { fire: SealedFire::NoWatchdog, ..s });
        for mut sector in [unsealed, bare] {
            sector.leader.io_timeout = 0; // and with our own io_timeout where it stores none
            let mut table = table();
            table.observe_sector(&look(&sector.encode(SectorSize::B512), at(100), at(100)));
            assert_eq!(table.earliest_takeover(host_id(3)), Some(at(100).after(needed())));
        }
    }

    #[test]
    fn one_area_look_shows_every_host() {
        let rig = crate::testing::Rig::formatted(area().geometry);
        rig.put_sector(&sealed_sector(3, 5, 1000));
        let view = pollster::block_on(crate::look::read_area(&rig.disk, &rig.clock, &rig.area, LocalInstant::NEVER));
        let view = view.unwrap();
        let mut table = HostTable::new(rig.area, IoTimeout::DEFAULT);
        assert_eq!(table.last_scan(), None);
        table.observe_area(&view);
        assert_eq!(table.last_scan(), Some(view.read_ended));
        assert_eq!(table.hosts().count(), 2000);
        let used: Vec<_> = table.hosts().filter(|(_, seen)| seen.was_used()).map(|(id, _)| id).collect();
        assert_eq!(used, [host_id(3)]);
        assert_eq!(table.state(host_id(2000), view.read_ended), Some(HostState::Free));
        let seen = table.observation(host_id(3)).unwrap();
        assert_eq!(seen.name(), HostName::new(b"host").ok());
        assert_eq!(seen.generation(), Some(Generation(5)));
        assert_eq!(seen.timestamp(), Some(RemoteTimestamp(1000)));
        assert_eq!(seen.io_timeout(), Some(IoTimeout::DEFAULT));
        assert_eq!(seen.seal().map(|s| s.area), Some(rig.area.uuid));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Whatever looks are reported, in whatever order: nobody is dead before D1's silence lies between the end of a
        /// look that showed a change and the start of a look that showed the same content.
        #[test]
        fn d1_holds_for_any_looks_in_any_order(
            looks in prop::collection::vec((0u64..12, 0u64..48, 1u64..3, prop::bool::weighted(0.1)), 1..12),
        ) {
            let mut table = table();
            let mut shown = Vec::new();
            for (when, took, content, damaged) in looks {
                let started = when * 47;
                let mut sector = bytes(5, content);
                if damaged {
                    sector[400] ^= 1;
                } else {
                    shown.push((at(started), at(started + took), content));
                }
                table.observe_sector(&look(&sector, at(started), at(started + took)));
                if let OwnerVerdict::Gone(reason) = table.verdict(term(5), at(10_000)) {
                    let (_, _, last) = *shown.last().unwrap();
                    let run: Vec<_> = shown.iter().rev().take_while(|(_, _, c)| *c == last).collect();
                    let first_end = run.last().unwrap().1;
                    let latest_start = run.iter().map(|(started, _, _)| *started).max().unwrap();
                    prop_assert!(latest_start.since(first_end) >= needed(), "{reason:?}");
                }
            }
        }
    }
}
