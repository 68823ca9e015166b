//! The rest of a process group whose leader has exited (S1: its members write as well as it did).

use std::time::Duration;

use holdfast_io::clock::{BootClock, Clock};

use crate::note::Notes;
use crate::procfs::{ProcessId, Procfs};
use crate::supervisor::event::{ClientId, Event};

/// Between two looks. The kernel tells of the exit of a process, but not of a group's.
const LOOK: Duration = Duration::from_millis(100);

/// Reports [`Event::GroupGone`] once nothing of the group runs any more. What cannot be seen is not gone.
pub async fn watch(leader: ProcessId, client: ClientId, notes: Notes, clock: BootClock) {
    let procfs = Procfs::default();
    while !procfs.group_of(leader).is_ok_and(|left| left.is_empty()) {
        clock.sleep(LOOK).await;
    }
    notes.event(Event::GroupGone { client });
}
