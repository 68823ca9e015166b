//! Whose turn it is at an index, and when a lockspace's end comes in between.

use super::*;
use crate::supervisor::index::{IndexEnd, IndexRequest, IndexWork};
use holdfast_protocol::command::{Command, RindexFlags};
use holdfast_protocol::payload::{Rindex, RindexEntry};

const NO_FLAGS: RindexFlags = RindexFlags::NONE;

fn index_of(space: &str) -> Rindex {
    let disk = Disk::new(DiskPath::new("/dev/res").unwrap(), 0);
    Rindex { lockspace_name: Name48::new(space).unwrap(), disk, ..Rindex::default() }
}

fn entry(name: &str, offset: u64) -> RindexEntry {
    RindexEntry { name: Name48::new(name).unwrap(), offset, ..RindexEntry::default() }
}

fn done() -> IndexEnd {
    IndexEnd { code: ResultCode::OK, entry: entry("", 7), why: None }
}

impl World {
    fn about(&mut self, client: u64, command: Command, name: &str, flags: RindexFlags) -> &mut Self {
        let (index, entry) = (index_of("LS"), entry(name, 3 << 20));
        self.ask(client, Request::RindexEntry { command, flags, hosts: (0, 0), index, entry })
    }

    fn create(&mut self, client: u64, name: &str) -> &mut Self {
        self.about(client, Command::CreateResource, name, NO_FLAGS)
    }

    fn index_task(&self) -> (TaskId, IndexRequest) {
        let opened = |e: &Effect<u32>| match e {
            Effect::OpenIndex { task, request } => Some((*task, request.clone())),
            _ => None,
        };
        self.log.iter().rev().find_map(opened).unwrap()
    }

    fn index_ready(&mut self) -> &mut Self {
        let (task, _) = self.index_task();
        self.apply(Event::IndexReady { task, prepared: Prepared { fences: vec![fence()], result: Ok(()) } })
    }

    fn index_done(&mut self, over: bool) -> &mut Self {
        let (task, _) = self.index_task();
        self.apply(Event::IndexDone { task, end: done(), over })
    }

    fn started(&self) -> usize {
        self.count(|e| matches!(e, Effect::StartIndex { .. }))
    }

    fn removed(&mut self) -> &mut Self {
        let flags = RemLockspaceFlags::ASYNC;
        self.ask(1, Request::RemLockspace { flags, lockspace: wire_space("LS", 1) })
    }
}

#[test]
fn work_on_an_index_begins_once_its_fence_is_in_the_state_file_and_is_answered_with_an_entry() {
    let mut w = World::joined();
    w.create(1, "R");
    let work = IndexWork::Create { name: "R".parse().unwrap(), num_hosts: 0 };
    assert_eq!((w.index_task().1.work, w.started()), (work, 0));
    w.index_ready();
    let saved = w.index(|e| matches!(e, Effect::Save(state) if !state.lockspaces[0].fences.is_empty()));
    assert!(saved < w.index(|e| matches!(e, Effect::StartIndex { .. })));
    assert!(w.codes(1).is_empty());
    w.index_done(true);
    let replies = w.log.iter().filter_map(|e| match e {
        Effect::Reply { bytes, .. } => Some(bytes.len()),
        _ => None,
    });
    assert_eq!((w.codes(1), replies.collect::<Vec<_>>()), (vec![0], vec![32 + 64]));
}

#[test]
fn one_at_a_time_works_on_the_indexes_of_a_lockspace_and_a_lookup_waits_for_nobody() {
    let mut w = World::joined();
    w.client(2).create(1, "R").index_ready().create(2, "S");
    assert_eq!(w.codes(2), [ResultCode::EBUSY.number()]);
    w.about(2, Command::LookupRindex, "R", NO_FLAGS);
    assert_eq!(w.count(|e| matches!(e, Effect::Answer { .. })), 1);
    // Answered, but a write of it is still on its way.
    w.index_done(false).create(2, "S");
    assert_eq!((w.codes(1), w.codes(2)), (vec![0], vec![ResultCode::EBUSY.number(); 2]));
    let (task, _) = w.index_task();
    w.apply(Event::TaskDone { task }).create(2, "S").index_ready();
    assert_eq!(w.started(), 2);
}

#[test]
fn nobody_here_gets_a_lease_that_is_being_worked_on_nor_works_on_one_that_somebody_has() {
    let mut w = World::joined();
    w.client(2).about(1, Command::DeleteResource, "R", NO_FLAGS);
    for resource in ["R", "rindex_lease"] {
        w.acquire(2, &[resource], AcquireFlags::NONE);
    }
    assert_eq!(w.codes(2), [ResultCode::EBUSY.number(); 2]);
    w.acquire(2, &["other"], AcquireFlags::NONE);
    assert_eq!(w.count(|e| matches!(e, Effect::OpenDevice { .. })), 1);
    w.index_ready().index_done(true);

    let mut w = World::joined();
    w.client(2).hold(2, "R").about(1, Command::DeleteResource, "R", NO_FLAGS);
    assert_eq!(w.codes(1), [ResultCode::EBUSY.number()]);
    w.create(1, "other").index_ready().index_done(true).hold(2, "rindex_lease").create(1, "more");
    assert_eq!(w.codes(1)[1..], [0, ResultCode::EBUSY.number()]);
}

#[test]
fn without_its_lockspace_an_index_is_left_alone_unless_that_is_what_is_asked_for() {
    let mut w = World::new();
    w.client(1);
    for flags in [NO_FLAGS, RindexFlags::NO_LOCKSPACE] {
        w.create(1, "R").about(1, Command::DeleteResource, "R", flags);
    }
    w.about(1, Command::LookupRindex, "R", NO_FLAGS).about(1, Command::UpdateRindex, "R", RindexFlags::ADD);
    assert_eq!(w.codes(1), [ResultCode::ENOENT.number(); 6]);
    w.about(1, Command::LookupRindex, "R", RindexFlags::NO_LOCKSPACE);
    w.about(1, Command::UpdateRindex, "R", RindexFlags::ADD | RindexFlags::NO_LOCKSPACE);
    assert_eq!(w.count(|e| matches!(e, Effect::Answer { .. })), 2);
    // Where it is joined, it is under its lease all the same.
    w.join("LS").about(1, Command::UpdateRindex, "R", RindexFlags::ADD | RindexFlags::NO_LOCKSPACE);
    assert_eq!(w.count(|e| matches!(e, Effect::OpenIndex { .. })), 1);
}

#[test]
fn a_lockspace_is_not_taken_away_from_work_on_its_index() {
    let mut w = World::joined();
    w.create(1, "R").index_ready().removed();
    assert_eq!((w.codes(1), w.leaves()), (vec![ResultCode::EBUSY.number()], vec![]));
    w.index_done(true).removed();
    assert_eq!(w.codes(1)[1..], [0, 0]);
    assert_eq!(w.leaves(), [true]);
}

#[test]
fn d2_a_lost_lockspace_is_left_once_work_on_its_index_has_ended() {
    let mut w = World::joined();
    w.create(1, "R").index_ready().pass(9);
    let stopped = w.log.iter().any(|e| matches!(e, Effect::StartIndex { stop, .. } if stop.is_set()));
    assert!(stopped && w.leaves().is_empty(), "its writes may still land");
    w.create(1, "S");
    assert_eq!(w.codes(1), [ResultCode::ENOSPC.number()], "nothing new begins");
    w.index_done(false);
    assert!(w.leaves().is_empty());
    let (task, _) = w.index_task();
    w.apply(Event::TaskDone { task });
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn work_that_still_opens_its_device_when_the_lockspace_is_lost_is_forgotten() {
    let mut w = World::joined();
    w.create(1, "R").pass(9);
    assert_eq!((w.codes(1), w.leaves()), (vec![ResultCode::ENOSPC.number()], vec![false]));
    w.index_ready();
    assert_eq!(w.started(), 0);
}

#[test]
fn work_whose_device_is_open_too_late_does_not_begin() {
    let mut w = World::joined();
    w.create(1, "R");
    let (task, _) = w.index_task();
    w.apply(Event::IndexReady { task, prepared: Prepared::refused(ResultCode::RINDEX_MAGIC, "none there".into()) });
    assert_eq!((w.codes(1), w.started()), (vec![ResultCode::RINDEX_MAGIC.number()], 0));
}
