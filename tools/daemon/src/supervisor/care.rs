//! The watchdog: armed before the first delta write, petted while every lockspace under D3 is fresh, disarmed when the
//! last one is left.
//!
//! - **D3** a lockspace counts from before its first delta write until [`super::Event::Left`], with or without clients.
//! - **W1** after every pet the clock is read again; if a deadline had passed by then, the shortest timeout is set and
//!   the host resets at once: the process was frozen between the check and the pet, and the pet came too late.
//!
//! A device that cannot be stopped (`nowayout`) is petted on when the last lockspace is left: nothing is guarded then, so there is nothing
//! that a pet could keep alive for too long, and the alternative is a host that is reset for nothing. It is given up when the daemon ends.
//!
//! A pet that the device did not take counts as not made: the device goes on counting, which is the safe side.
//!
//! wdmd is not petted but told an instant (`wdmd.rs`), so three things are otherwise under it:
//! - It is told again with every renewal, not only now and then: its device's timeout is no measure of what it was told.
//! - A join may write only once wdmd was told an instant that is early enough for it: what it was told before may be later.
//! - W1 needs no reset: whenever the telling arrives, it says the instant that was true when it was decided, or is told again.

use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::planted::{Bug, planted};

use super::Supervisor;
use super::event::Effect;
use crate::watchdog::Kind;

/// What is known of the watchdog.
#[derive(Debug)]
pub struct Care {
    /// It is open and counting.
    pub armed: bool,
    /// Its arming has been asked for.
    arming: bool,
    /// The device's own timeout as read back.
    pub device_seconds: Option<u32>,
    /// When the next pet is due.
    pub next_pet: LocalInstant,
    /// When the last pet was known good.
    pub last_pet: Option<LocalInstant>,
    /// It was set to fire and must never be petted again.
    pub fired: bool,
    /// It cannot be stopped.
    pub stays_on: bool,
    /// It is petted with nothing to guard, and that was said.
    idle: bool,
    /// Petting has stopped and that was said.
    silent: bool,
    /// Until when the last pet was to keep this host alive, whether it was taken or not.
    asked: Option<LocalInstant>,
}

/// wdmd is told at least so often: it may have ended, or this host have been suspended. What is good for a while only
/// (`spaces.rs`) is then never near its end.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// What is gained by telling it earlier: its unit.
const WORTH_TELLING: Duration = Duration::from_secs(1);

impl Default for Care {
    fn default() -> Self {
        Care {
            armed: false,
            arming: false,
            device_seconds: None,
            next_pet: LocalInstant::NEVER,
            last_pet: None,
            fired: false,
            stays_on: false,
            idle: false,
            silent: false,
            asked: None,
        }
    }
}

impl Care {
    /// Whether the device may be counting, as the state file must say before it does.
    pub(super) const fn may_count(&self) -> bool {
        self.armed || self.arming
    }

    /// Four pets in one timeout of the device, so that one late pet is not a reset; at least ten a second would be noise.
    fn interval(&self, kind: Kind) -> Duration {
        match self.device_seconds {
            Some(_) if kind == Kind::Wdmd => TELL_EVERY,
            Some(seconds) => Duration::from_millis(u64::from(seconds) * 250).max(Duration::from_millis(100)),
            None => Duration::MAX,
        }
    }
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// A join is about to write. Not before: opening the watchdog pets it, and until a join has seen that nobody of this
    /// machine's own boot may still be behind its host_id, that would be petting for the dead.
    pub(super) fn want_armed(&mut self, now: LocalInstant) {
        if self.care.armed {
            self.allow_all_joins(now);
        } else if !self.care.arming {
            self.care.arming = true;
            self.save();
            self.effects.push(Effect::Arm(self.settings.fire_timeout));
        }
    }

    /// A device that counts is enough for any join. wdmd is told first, and what it took allows joins.
    fn allow_all_joins(&mut self, now: LocalInstant) {
        if !self.is_told() {
            self.allow_joins(LocalInstant::EARLIEST, now);
        }
    }

    fn is_told(&self) -> bool {
        self.settings.watchdog == Kind::Wdmd
    }

    pub(super) fn armed(
        &mut self,
        result: Result<(), String>,
        device_seconds: Option<u32>,
        stays_on: bool,
        now: LocalInstant,
    ) {
        self.care.arming = false;
        match result {
            Ok(()) => {
                self.care = Care { armed: true, device_seconds, stays_on, last_pet: Some(now), ..Care::default() };
                self.care.next_pet = now.after(self.care.interval(self.settings.watchdog));
                self.allow_all_joins(now);
            }
            Err(why) => {
                self.save();
                self.refuse_joins(&why);
            }
        }
    }

    /// Pets when it is due and everything is fresh, disarms when nothing is left.
    pub(super) fn step_care(&mut self, now: LocalInstant) {
        if !self.care.armed || self.care.fired {
            return;
        }
        let needed = self.spaces.values().any(|s| s.is_under_d3() || s.waits_for_watchdog());
        if !needed && (self.shutdown.is_some() || !self.care.stays_on) {
            self.put_down();
            return;
        }
        if !needed && !self.care.idle {
            tracing::warn!(
                "nothing is guarded, but the watchdog cannot be stopped (nowayout): it is petted until the daemon ends"
            );
        }
        self.care.idle = !needed;
        let until = self.vouched_until(now);
        if now < self.care.next_pet && !self.is_worth_telling(until, now) {
            return;
        }
        self.care.next_pet = now.after(self.care.interval(self.settings.watchdog));
        let stale: Vec<String> = self
            .spaces
            .iter()
            .filter(|(_, s)| !s.is_fresh(now))
            .map(|(n, s)| format!("{n} ({})", s.life.word()))
            .collect();
        if stale.is_empty() {
            self.care.silent = false;
            self.care.asked = Some(until);
            self.effects.push(Effect::Pet { until });
        } else if !self.care.silent {
            self.care.silent = true;
            tracing::error!(lockspaces = stale.join(", "), "the watchdog is no longer petted");
        }
    }

    /// Nothing is under D3, and nothing will be before it is armed again. A device that was set to fire is left to it.
    pub(super) fn put_down(&mut self) {
        if self.care.armed && !self.care.fired {
            self.care = Care::default();
            self.effects.push(Effect::Disarm);
            self.save();
        }
    }

    /// The earliest instant up to which a lockspace vouches for this host.
    fn vouched_until(&self, now: LocalInstant) -> LocalInstant {
        let counted = self.spaces.values().filter(|s| s.is_under_d3() || s.waits_for_watchdog());
        counted.map(|s| s.vouched_until(now)).min().unwrap_or(LocalInstant::EARLIEST)
    }

    /// Whether wdmd has to be told, or should be, before it is due: a join waits for it, the instant is earlier than what it
    /// was last told (after a join that took long), or a renewal has moved it on.
    fn is_worth_telling(&self, until: LocalInstant, now: LocalInstant) -> bool {
        let moved = |asked: LocalInstant| until < asked || until >= asked.after(WORTH_TELLING);
        self.is_told()
            && self.spaces.values().all(|s| s.is_fresh(now))
            && (self.care.asked.is_none_or(moved) || self.spaces.values().any(super::Space::waits_for_watchdog))
    }

    /// The clock was read again after a pet (W1). `expire` has run on that clock already.
    pub(super) fn petted(&mut self, result: Result<(), String>, until: LocalInstant, now: LocalInstant) {
        if let Err(why) = result {
            tracing::error!(why, "the watchdog was not petted");
            if self.is_told() {
                self.refuse_joins(&why);
            }
            return;
        }
        if self.is_told() {
            self.care.last_pet = Some(now);
            self.allow_joins(until, now);
            return;
        }
        // Fresh when the pet was decided, stale now: we were frozen in between, and this pet has prolonged the life of a
        // host that must already be dying.
        if self.spaces.values().any(|s| !s.is_fresh(now)) && !planted(Bug::PetAfterDeadline) {
            tracing::error!("a pet came after a lockspace's deadline: this host resets now (W1)");
            self.care.fired = true;
            self.care.next_pet = LocalInstant::NEVER;
            self.effects.push(Effect::Fire);
        } else {
            self.care.last_pet = Some(now);
        }
    }
}
