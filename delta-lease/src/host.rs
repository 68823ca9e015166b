//! Who we are in a lockspace.

use holdfast_io::clock::LocalInstant;
use holdfast_io::identity::Machine;
use holdfast_io::ids::{HostId, HostName};
use holdfast_io::seal::{AreaUuid, Seal, SealedFire};
use holdfast_io::timing::{IoTimeout, Timing};

use crate::sector::index_of;

/// The host that joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalHost {
    /// The host_id it asks for.
    pub host_id: HostId,
    /// Its name.
    pub name: HostName,
    /// Machine and boot.
    pub machine: Machine,
    /// Its io_timeout in this lockspace.
    pub io_timeout: IoTimeout,
    /// What its watchdog promises.
    pub fire: SealedFire,
}

impl LocalHost {
    /// Its intervals, as others will judge it.
    #[must_use]
    pub const fn timing(&self) -> Timing {
        Timing::new(self.io_timeout, self.fire.judged())
    }

    /// The seal of its sector, written at `now`.
    #[must_use]
    pub const fn seal(&self, area: AreaUuid, now: LocalInstant) -> Seal {
        Seal {
            fire: self.fire,
            machine: self.machine.machine,
            boot: self.machine.boot,
            area,
            millis: now.disk_millis(),
            sector: index_of(self.host_id),
        }
    }
}
