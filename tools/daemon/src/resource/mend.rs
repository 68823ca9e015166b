//! The disks of a lease on several that could not be opened, or fenced, when it was taken.
//!
//! A majority was enough then. With one more disk gone since, the lease could not even be given back, although by now the missing one
//! may be well again. So it is tried now and then while the lease is held, given back or converted, by tasks of their own for which
//! nobody waits: an open may hang for good, and is then the only one of its kind.
//!
//! It is written only when everything holds that holds when a lease is taken: it has its fence, the state file names that (P1), it is no disk
//! that the lease has already (S1), no older write to it can be on its way under another number (I6), and what stands there is the copy that it
//! should be (`paxos_lease::copies`). What it has missed is on a majority, of which every other has a part, so it counts at once like a
//! disk that was away for a while: for reads, and for each write that it acknowledges. What it has of our own sector is older than what we
//! wrote last and says so by its stamp (I2); `paxos_lease::tend` brings it up to date.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_io::clock::{Clock, First, first_of};
use holdfast_io::disk::Disk;
use holdfast_io::stop::{Stop, Waited};
use holdfast_io::sys::linux::NodeId;
use holdfast_io::units::LeaseOffset;
use holdfast_protocol::codes::ResultCode;

use super::{SpaceShared, fence, open_one};
use crate::codes;
use crate::lease_disk::{self, LeaseDisk};
use crate::note::Notes;
use crate::platform::{LeaseFile, Platform};
use crate::supervisor::event::{Event, LeaseKey, Place};

/// A missing disk is tried again after so many io_timeouts.
const TRY_EVERY: u32 = 5;

/// Tries each missing disk of a lease that is due, and returns.
pub(super) fn mend<P: Platform>(shared: &Rc<SpaceShared<P>>, key: LeaseKey, notes: &Notes<P>) {
    let Some(disk) = shared.disk_of(key).filter(|_| !shared.over.is_set()) else { return };
    for (number, place) in disk.to_be_tried(shared.clock().now()) {
        let (its, disk, notes) = (Rc::clone(shared), Rc::clone(&disk), notes.clone());
        let task = async move {
            match tried(&its, key, (&disk, number), &place, &notes).await {
                Ok(()) => tracing::info!(lease = %key, path = %place.path.display(), "a missing disk is back"),
                Err((_, why)) => tracing::debug!(lease = %key, why, "a missing disk is not back"),
            }
            disk.tried(number, its.clock().now().after(try_every(&its)));
        };
        shared.platform().spawn(task);
    }
}

/// Does `work`, and tries missing disks meanwhile.
pub(super) async fn mending<P: Platform, T>(
    shared: &Rc<SpaceShared<P>>,
    key: LeaseKey,
    notes: &Notes<P>,
    work: impl Future<Output = T>,
) -> T {
    if shared.disk_of(key).is_none_or(|disk| disk.copies.copies() == 1) {
        return work.await;
    }
    let tries = async {
        let clock = shared.clock();
        while shared.over.sleep_until(clock, clock.now().after(try_every(shared))).await == Waited::Elapsed {
            mend(shared, key, notes);
        }
        std::future::pending::<()>().await;
    };
    match first_of(work, tries).await {
        First::A(done) => done,
        First::B(()) => unreachable!("it never ends"),
    }
}

fn try_every<P: Platform>(shared: &SpaceShared<P>) -> Duration {
    Duration::from_secs(u64::from(shared.me.io_timeout.seconds())) * TRY_EVERY
}

async fn tried<P: Platform>(
    shared: &SpaceShared<P>,
    key: LeaseKey,
    (disk, number): (&Rc<LeaseDisk<P>>, usize),
    place: &Place,
    notes: &Notes<P>,
) -> Result<(), (ResultCode, String)> {
    let file = open_one(shared, place).await?;
    if let Some(fence) = fence(shared, &file, place).await? {
        let saved = Stop::new();
        notes.event(Event::Fenced { space: key.space, fence, saved: saved.clone() });
        // As long as the lockspace is there, that comes; nothing is written before.
        first_of(shared.over.wait(), saved.wait()).await;
    }
    takes_its_place(shared, key, (disk, number), &file, place)?;
    disk.copies.look_again(shared.deadline()).await.map_err(|e| (codes::of_io(&e), codes::chain(&e)))
}

/// From here on the disk is read and, once it has been found to be a copy, written. What is asked and what is done are one step.
fn takes_its_place<P: Platform>(
    shared: &SpaceShared<P>,
    key: LeaseKey,
    (disk, number): (&Rc<LeaseDisk<P>>, usize),
    file: &Arc<P::File>,
    place: &Place,
) -> Result<(), (ResultCode, String)> {
    let refused = |why: &str| Err((ResultCode::EAGAIN, format!("{}: {why}", place.path.display())));
    let in_use = shared.disk_of(key).is_some_and(|now| Rc::ptr_eq(&now, disk));
    if shared.over.is_set() || !in_use {
        return refused("the lease is not on these disks any more");
    }
    let (node, mut areas) = (file.node(), disk.areas().collect::<Vec<_>>());
    areas.push((node, place.offset));
    let nodes: Vec<NodeId> = areas.iter().map(|(node, _)| *node).collect();
    if lease_disk::names_one_twice(&nodes) {
        return refused("one disk under two names is no majority of two");
    }
    if shared.may_be_renumbered(key, &areas) {
        return refused("an older write of ours may be on its way to it, under the number that it had");
    }
    disk.is_back(number, node, shared.device_on(file, LeaseOffset(place.offset)));
    Ok(())
}
