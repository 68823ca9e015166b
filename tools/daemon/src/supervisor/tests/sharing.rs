//! Shared leases and conversions.

use super::*;
use crate::supervisor::event::ConvertRequest;

pub(super) fn shared(resource: &str) -> Resource {
    let mut resource = wire_lease("LS", resource);
    resource.head.flags = LeaseFlags::SHARED;
    resource
}

impl World {
    pub(super) fn acquire_shared(&mut self, client: u64, resource: &str) -> &mut Self {
        let (resources, options) = (vec![shared(resource)], Options::default());
        self.ask(client, Request::Acquire { flags: AcquireFlags::NONE, target: Target::This, resources, options })
    }

    pub(super) fn share(&mut self, client: u64, resource: &str) -> &mut Self {
        self.acquire_shared(client, resource).device_ready().ours()
    }

    pub(super) fn release(&mut self, client: u64, resource: &str) -> &mut Self {
        let resources = vec![shared(resource).head];
        self.ask(client, Request::Release { flags: ReleaseFlags::NONE, target: Target::This, resources })
    }

    pub(super) fn convert(&mut self, client: u64, resource: &str, mode: Mode) -> &mut Self {
        let mut resource = wire_lease("LS", resource).head;
        if mode == Mode::Shared {
            resource.flags = LeaseFlags::SHARED;
        }
        self.ask(client, Request::Convert { flags: AcquireFlags::NONE, target: Target::This, resource })
    }

    fn converted(&mut self, held: Option<(u32, Mode, Lver)>, code: ResultCode) -> &mut Self {
        let task = self.log.iter().rev().find_map(|e| match e {
            Effect::StartConvert { task, .. } => Some(*task),
            _ => None,
        });
        let end = Converted { held, code, why: code.is_error().then(|| "why".to_owned()) };
        self.apply(Event::Converted { task: task.unwrap(), end })
    }

    fn inquired(&mut self, client: u64) -> String {
        let before = self.log.len();
        self.ask(client, Request::Inquire { target: Target::This });
        let reply = self.log.drain(before..).find_map(|e| match e {
            Effect::Reply { bytes, .. } => Some(bytes[32..].to_vec()),
            _ => None,
        });
        String::from_utf8(reply.unwrap()).unwrap().trim_end_matches('\0').to_owned()
    }

    pub(super) fn releases(&self) -> usize {
        self.count(|e| matches!(e, Effect::StartRelease { .. }))
    }
}

#[test]
fn a_lease_that_this_host_shares_is_shared_by_more_clients_without_any_io() {
    let mut w = World::joined();
    w.client(2).share(1, "R");
    w.log.clear();
    w.acquire_shared(2, "R").acquire_shared(2, "R");
    assert_eq!(w.codes(2), [0, 0]);
    assert_eq!(w.count(|e| matches!(e, Effect::OpenDevice { .. } | Effect::StartAcquire { .. })), 0);
    let saved = w.index(|e| matches!(e, Effect::Save(s) if s.guarded.iter().any(|g| g.pid == 102)));
    assert!(saved < w.index(|e| matches!(e, Effect::Reply { .. })), "P1: named before it is granted");
    assert_eq!(w.inquired(1), "LS:R:/dev/res:0:SH");
    assert_eq!(w.inquired(2), "LS:R:/dev/res:0:SH LS:R:/dev/res:0:SH", "as often as it has it");
}

#[test]
fn the_last_token_gives_a_shared_lease_back() {
    let mut w = World::joined();
    w.client(2).share(1, "R").acquire_shared(2, "R").acquire_shared(2, "R");
    w.log.clear();
    w.release(1, "R").release(2, "R").release(1, "R");
    assert_eq!((w.codes(1), w.codes(2)), (vec![0, -1], vec![0]));
    assert_eq!(w.releases(), 0, "client 2 has it still");
    w.release(2, "R");
    assert_eq!((w.releases(), w.codes(2)), (1, vec![0]), "answered when it is given back");
    w.released();
    assert_eq!(w.codes(2), [0, 0]);
    assert_eq!(w.inquired(2), "");
}

#[test]
fn a_release_names_a_lease_as_often_as_it_is_to_be_given_up() {
    let mut w = World::joined();
    w.share(1, "R").acquire_shared(1, "R");
    w.log.clear();
    let resources = vec![shared("R").head; 3];
    w.ask(1, Request::Release { flags: ReleaseFlags::NONE, target: Target::This, resources });
    assert_eq!((w.releases(), w.codes(1)), (1, vec![]));
    w.released();
    assert_eq!(w.codes(1), [-1], "twice it had it, and not three times");
}

#[test]
fn a_client_that_goes_takes_its_own_tokens_with_it() {
    let mut w = World::joined();
    w.client(2).share(1, "R").acquire_shared(2, "R").acquire_shared(1, "R");
    w.log.clear();
    w.exited(1).closed(1);
    assert_eq!(w.releases(), 0);
    w.exited(2).closed(2);
    assert_eq!(w.releases(), 1);
}

#[test]
fn s1_an_exclusive_lease_is_shared_with_nobody_and_a_shared_one_not_taken_exclusively() {
    let mut w = World::joined();
    w.client(2).hold(1, "EX").share(1, "SH");
    w.log.clear();
    w.acquire_shared(2, "EX").acquire(2, &["SH"], AcquireFlags::NONE).acquire_shared(1, "EX");
    assert_eq!((w.codes(2), w.codes(1)), (vec![-17, -17], vec![-17]));
}

#[test]
fn what_a_refused_acquire_shared_is_given_up_and_what_the_client_shared_before_is_not() {
    let mut w = World::joined();
    w.client(2).share(1, "SH").hold(2, "EX");
    w.log.clear();
    let (resources, options) = (vec![shared("SH"), wire_lease("LS", "EX")], Options::default());
    w.ask(1, Request::Acquire { flags: AcquireFlags::NONE, target: Target::This, resources, options });
    assert_eq!((w.codes(1), w.releases()), (vec![-17], 0));
    assert_eq!(w.inquired(1), "LS:SH:/dev/res:0:SH");
}

#[test]
fn a_conversion_is_refused_where_there_is_nothing_to_convert_or_somebody_else_here_shares_it() {
    let mut w = World::joined();
    w.client(2).share(1, "SH").hold(1, "EX");
    w.log.clear();
    w.convert(1, "SH", Mode::Shared).convert(1, "EX", Mode::Exclusive).convert(2, "SH", Mode::Exclusive);
    assert_eq!((w.codes(1), w.codes(2)), (vec![-114, -114], vec![-2]));
    w.acquire_shared(2, "SH").convert(1, "SH", Mode::Exclusive);
    assert_eq!(w.codes(1), [-114, -114, -11], "S1 holds among the clients of one host, too");
    assert_eq!(w.count(|e| matches!(e, Effect::StartConvert { .. })), 0);
}

#[test]
fn a_conversion_changes_mode_and_version_when_its_task_says_so() {
    let mut w = World::joined();
    w.client(2).share(1, "R");
    w.log.clear();
    w.convert(1, "R", Mode::Exclusive);
    let asked = w.log.iter().find_map(|e| match e {
        Effect::StartConvert { request: ConvertRequest { mode, held, .. }, .. } => Some((*mode, *held)),
        _ => None,
    });
    assert_eq!(asked, Some((Mode::Exclusive, 7)));
    w.acquire_shared(2, "R").convert(1, "R", Mode::Exclusive);
    assert_eq!((w.codes(2), w.codes(1)), (vec![-16], vec![-16]), "one thing at a time");
    w.converted(Some((8, Mode::Exclusive, Lver(4))), ResultCode::OK);
    assert_eq!(w.codes(1), [-16, 0]);
    assert_eq!(w.inquired(1), "LS:R:/dev/res:0:4");
    w.convert(1, "R", Mode::Shared).converted(Some((9, Mode::Shared, Lver(4))), ResultCode::OK);
    assert_eq!(w.inquired(1), "LS:R:/dev/res:0:SH");
}

#[test]
fn a_refused_conversion_leaves_the_lease_as_it_was() {
    let mut w = World::joined();
    w.share(1, "R");
    w.log.clear();
    w.convert(1, "R", Mode::Exclusive).converted(Some((7, Mode::Shared, Lver(3))), ResultCode::EAGAIN);
    assert_eq!(w.codes(1), [-11]);
    assert_eq!(w.inquired(1), "LS:R:/dev/res:0:SH");
}

#[test]
fn a_client_that_goes_while_its_lease_is_converted_gives_it_back_afterwards() {
    let mut w = World::joined();
    w.share(1, "R").convert(1, "R", Mode::Exclusive);
    let before = w.releases();
    w.exited(1).closed(1);
    assert_eq!(w.releases(), before, "a task is at work on it");
    w.converted(Some((8, Mode::Exclusive, Lver(4))), ResultCode::OK);
    assert_eq!(w.releases(), before + 1);
    w.released();
    assert_eq!(w.count(|e| matches!(e, Effect::Forget { client: ClientId(1) })), 1);
}

#[test]
fn s1_a_lease_that_was_taken_from_under_its_holder_ends_him_at_once() {
    let mut w = World::joined();
    w.hold(1, "R");
    w.log.clear();
    w.convert(1, "R", Mode::Shared).converted(None, ResultCode::RELEASE_OWNER);
    assert_eq!(w.codes(1), [-251]);
    assert_eq!(w.signals(1), [Signal::SIGKILL], "another host may have it by now");
    assert_eq!(w.releases(), 0);
}

#[test]
fn d2_a_lockspace_that_is_lost_waits_for_a_conversion_to_end_and_for_every_sharer() {
    let mut w = World::joined();
    w.client(2).share(1, "R").acquire_shared(2, "R").share(1, "OTHER").convert(1, "OTHER", Mode::Exclusive);
    w.pass(9);
    assert!(!w.signals(1).is_empty() && !w.signals(2).is_empty());
    w.exited(1).closed(1).exited(2).closed(2).pass(1);
    assert_eq!(w.leaves(), [] as [bool; 0], "the conversion's writes may still be on their way");
    w.converted(Some((7, Mode::Shared, Lver(3))), ResultCode::ENOSPC).pass(1);
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn i2_a_conversion_that_ends_in_a_lockspace_whose_tasks_were_told_to_end_gives_nothing_back() {
    let mut w = World::joined();
    w.share(1, "R").convert(1, "R", Mode::Exclusive);
    let lockspace = wire_space("LS", 1);
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace }).exited(1).closed(1).pass(1);
    assert_eq!(w.count(|e| matches!(e, Effect::EndTasks { .. })), 1);
    let releases = w.releases();
    w.converted(Some((7, Mode::Shared, Lver(3))), ResultCode::ENOSPC).pass(1);
    assert_eq!((w.releases(), w.leaves()), (releases, vec![true]), "the freed host_id does");
}

#[test]
fn a_conversion_that_ends_in_a_lost_lockspace_is_refused_whatever_it_got() {
    let mut w = World::joined();
    w.share(1, "R");
    w.log.clear();
    w.convert(1, "R", Mode::Exclusive).pass(9).converted(Some((8, Mode::Exclusive, Lver(4))), ResultCode::OK);
    assert_eq!(w.codes(1), [-28], "D2: nothing is told to be had that is being lost");
}

#[test]
fn a_client_that_was_refused_and_has_nothing_survives_the_loss_of_the_lockspace() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE).device_ready();
    w.pass(9);
    assert_eq!(w.signals(1).first(), Some(&Signal::SIGTERM), "it may be granted R any moment");
    w.theirs();
    assert_eq!(w.codes(1), [-28]);
    let before = w.signals(1).len();
    w.pass(GRACE + 3);
    assert_eq!(w.signals(1).len(), before, "it has nothing: nobody ends it");
    assert_eq!(w.leaves(), [false]);
}
