//! wdmd: the process that pets the watchdog for sanlock (spec D 6.5; cli-and-watchdog 9.5).
//!
//! It outlives the sanlock daemon, and so does what a daemon that died has told it: that entry counts on and cannot be
//! cleared, and the host is reset.
//!
//! The device is set to 60 s. Every 10 s all entries are tested; one that expires within 10 s fails. Then the device is
//! closed uncleanly, which pets it a last time, and tested every second; once all entries pass again it is opened again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::ids::HostId;

use super::WFT;
use crate::host::{Process, Seat, SimHost};

/// Its seat: a host's watchdog that no other daemon opens.
pub const SEAT: Seat = Seat(100);
/// Seconds between two tests, and how long before its expiry an entry fails.
const INTERVAL: u64 = 10;

/// One host's wdmd, over all its boots.
pub struct Wdmd {
    host: SimHost,
    /// The boot in which it runs.
    boot: Cell<u32>,
    /// Process of the daemon -> when its lockspace expires; 0 is "not tested".
    entries: RefCell<BTreeMap<u32, u64>>,
}

impl Wdmd {
    /// A wdmd that does not run yet.
    #[must_use]
    pub fn new(host: &SimHost) -> Rc<Self> {
        Rc::new(Wdmd { host: host.clone(), boot: Cell::new(0), entries: RefCell::default() })
    }

    /// Runs from now on in this boot, if it does not yet.
    pub fn run(self: &Rc<Self>, host_id: HostId) {
        let boot = self.host.boot_number();
        if self.boot.replace(boot) == boot {
            return;
        }
        self.entries.borrow_mut().clear();
        let Some(process) = self.host.start_daemon(SEAT, host_id) else { return };
        let wdmd = Rc::clone(self);
        self.host.sim().spawn(process.group, "wdmd", async move { wdmd.tests(&process).await });
    }

    /// TEST_LIVE: the lockspace of daemon `process` expires at second `expire`; 0 ends the test.
    pub fn test_live(&self, process: u32, expire: u64) {
        self.entries.borrow_mut().insert(process, expire);
    }

    async fn tests(&self, process: &Process) {
        assert!(self.host.open_watchdog(process), "nobody else opens it");
        let _ = self.host.set_watchdog(SEAT, u32::try_from(WFT).unwrap_or(60));
        let clock = &process.clock;
        let mut open = true;
        loop {
            let now = clock.now().as_nanos() / 1_000_000_000;
            let good = self.entries.borrow().values().all(|expire| *expire == 0 || now + INTERVAL < *expire);
            if good || open {
                // KEEPALIVE, or the unclean close.
                self.host.pet(SEAT);
            }
            if open && !good {
                self.host.note(|| "wdmd closes the watchdog".into());
            }
            open = good;
            // It has real-time priority: it wakes when it is due.
            let wait = Duration::from_secs(if good { INTERVAL } else { 1 });
            self.host.sim().sleep(clock.rate().true_wait(wait)).await;
        }
    }
}
