//! The watchdog: armed before the first delta write, petted while every lockspace under D3 is fresh, disarmed when the
//! last one is left.
//!
//! - **D3** a lockspace counts from before its first delta write until [`super::Event::Left`], with or without clients.
//! - **W1** after every pet the clock is read again; if a deadline had passed by then, the shortest timeout is set and
//!   the host resets at once: the process was frozen between the check and the pet, and the pet came too late.
//!
//! A pet that the device did not take counts as not made: the device goes on counting, which is the safe side.

use std::time::Duration;

use holdfast_io::clock::LocalInstant;
use holdfast_io::planted::{Bug, planted};

use super::Supervisor;
use super::event::Effect;

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
    /// Petting has stopped and that was said.
    silent: bool,
}

impl Default for Care {
    fn default() -> Self {
        Care {
            armed: false,
            arming: false,
            device_seconds: None,
            next_pet: LocalInstant::NEVER,
            last_pet: None,
            fired: false,
            silent: false,
        }
    }
}

impl Care {
    /// Whether the device may be counting, as the state file must say before it does.
    pub(super) const fn may_count(&self) -> bool {
        self.armed || self.arming
    }

    /// Four pets in one timeout of the device, so that one late pet is not a reset; at least ten a second would be noise.
    fn interval(&self) -> Duration {
        match self.device_seconds {
            Some(seconds) => Duration::from_millis(u64::from(seconds) * 250).max(Duration::from_millis(100)),
            None => Duration::MAX,
        }
    }
}

impl<L: Clone + std::fmt::Debug> Supervisor<L> {
    /// A join is about to write. Not before: opening the watchdog pets it, and until a join has seen that nobody of this
    /// machine's own boot may still be behind its host_id, that would be petting for the dead.
    pub(super) fn want_armed(&mut self) {
        if self.care.armed {
            self.allow_joins();
        } else if !self.care.arming {
            self.care.arming = true;
            self.save();
            self.effects.push(Effect::Arm(self.settings.fire_timeout));
        }
    }

    pub(super) fn armed(&mut self, result: Result<(), String>, device_seconds: Option<u32>, now: LocalInstant) {
        self.care.arming = false;
        match result {
            Ok(()) => {
                self.care = Care { armed: true, device_seconds, last_pet: Some(now), ..Care::default() };
                self.care.next_pet = now.after(self.care.interval());
                self.allow_joins();
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
        if !self.spaces.values().any(super::Space::is_under_d3) {
            self.care = Care::default();
            self.effects.push(Effect::Disarm);
            self.save();
            return;
        }
        if now < self.care.next_pet {
            return;
        }
        self.care.next_pet = now.after(self.care.interval());
        let stale: Vec<String> = self
            .spaces
            .iter()
            .filter(|(_, s)| !s.is_fresh(now))
            .map(|(n, s)| format!("{n} ({})", s.life.word()))
            .collect();
        if stale.is_empty() {
            self.care.silent = false;
            self.effects.push(Effect::Pet);
        } else if !self.care.silent {
            self.care.silent = true;
            tracing::error!(lockspaces = stale.join(", "), "the watchdog is no longer petted");
        }
    }

    /// The clock was read again after a pet (W1). `expire` has run on that clock already.
    pub(super) fn petted(&mut self, result: Result<(), String>, now: LocalInstant) {
        if let Err(why) = result {
            tracing::error!(why, "the watchdog was not petted");
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
