//! Persistent leases: what becomes of them, and of their lockspace, when their client goes.

use super::*;

fn persistent(resource: &str, flags: LeaseFlags) -> Resource {
    let mut resource = wire_lease("LS", resource);
    resource.head.flags = LeaseFlags::PERSISTENT | flags;
    resource
}

impl World {
    pub(super) fn persists(&mut self, client: u64, flags: AcquireFlags, mode: LeaseFlags) -> &mut Self {
        let (resources, options) = (vec![persistent("R", mode)], Options::default());
        self.ask(client, Request::Acquire { flags, target: Target::This, resources, options })
    }

    /// Client 1 acquired R persistently and is gone.
    pub(super) fn orphaned() -> Self {
        let mut w = World::joined();
        w.client(2).persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours().exited(1).closed(1);
        w.log.clear();
        w
    }

    fn release_orphans(&mut self, name: &str) -> &mut Self {
        let resources = vec![ResourceHead::named(Name48::new("LS").unwrap(), Name48::new(name).unwrap())];
        self.ask(2, Request::Release { flags: ReleaseFlags::ORPHAN, target: Target::This, resources })
    }

    pub(super) fn set_config(&mut self, config: u32) -> &mut Self {
        self.ask(900, Request::SetConfig { config, lockspace: wire_space("LS", 0) })
    }
}

#[test]
fn a_persistent_lease_stays_this_hosts_when_its_client_goes() {
    let mut w = World::orphaned();
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0);
    w.acquire(2, &["R"], AcquireFlags::NONE).persists(2, AcquireFlags::ORPHAN, LeaseFlags::SHARED);
    assert_eq!(w.codes(2), [-117, -117], "nobody gets it by accident, nor in another mode");
    w.persists(2, AcquireFlags::ORPHAN, LeaseFlags::NONE);
    assert_eq!(w.codes(2), [-117, -117, 0]);
    assert_eq!(w.count(|e| matches!(e, Effect::OpenDevice { .. })), 0, "it was ours all the time");
    let saved = w.index(|e| matches!(e, Effect::Save(s) if s.guarded.iter().any(|g| g.pid == 102)));
    let granted = w.log.iter().rposition(|e| matches!(e, Effect::Reply { .. })).unwrap();
    assert!(saved < granted, "P1: the one who has it now is named before it is told");
}

#[test]
fn an_adopted_lease_is_persistent_only_if_that_is_asked_for_again() {
    let mut w = World::orphaned();
    w.acquire(2, &["R"], AcquireFlags::ORPHAN_ONLY);
    assert_eq!(w.codes(2), [0]);
    w.exited(2).closed(2);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);
}

#[test]
fn where_there_is_no_orphan_it_is_demanded_in_vain_and_wished_for_without_harm() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::ORPHAN_ONLY);
    assert_eq!(w.codes(1), [-2]);
    w.acquire(1, &["R"], AcquireFlags::ORPHAN).device_ready().ours();
    assert_eq!(w.codes(1), [-2, 0]);
}

#[test]
fn a_lease_that_is_shared_here_and_that_nobody_has_left_behind_is_no_orphan() {
    let mut w = World::joined();
    w.client(2).acquire_shared(1, "R").device_ready().ours();
    w.persists(2, AcquireFlags::ORPHAN_ONLY, LeaseFlags::SHARED);
    assert_eq!(w.codes(2), [-2]);
}

#[test]
fn orphans_are_given_back_by_name_or_all_and_counted() {
    let mut w = World::orphaned();
    w.release_orphans("other").release_orphans("R");
    assert_eq!(w.codes(2), [0, 1]);
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 1);
    w.release_orphans("R").released();
    assert_eq!(w.codes(2), [0, 1, 0], "one that is being given back is none any more");
    let mut w = World::orphaned();
    w.release_orphans("");
    assert_eq!(w.codes(2), [1]);
}

#[test]
fn a_lockspace_is_left_with_its_orphans_unless_they_are_said_to_use_it() {
    let leave = |w: &mut World| {
        w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace: wire_space("LS", 1) });
        w.pass(1);
        w.leaves()
    };
    assert_eq!(leave(&mut World::orphaned()), [true]);
    let mut w = World::orphaned();
    w.set_config(4);
    assert_eq!(leave(&mut w), [] as [bool; 0]);
    w.set_config(8).pass(1);
    assert_eq!(w.leaves(), [true]);
}

#[test]
fn d3_a_lost_lockspace_that_is_used_by_whom_we_cannot_see_is_not_left_and_not_petted_for() {
    let mut w = World::joined();
    w.set_config(1);
    w.pass(9);
    let pets = w.count(|e| matches!(e, Effect::Pet { .. }));
    w.pass(20);
    assert_eq!(w.leaves(), [] as [bool; 0]);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), pets, "its host is reset");
    w.set_config(4);
    assert_eq!(w.codes(900).last(), Some(&-28), "what is lost is not put to use");
    w.set_config(2).pass(1);
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn s1_a_lease_that_an_orphan_shares_is_converted_by_nobody() {
    let mut w = World::joined();
    let mut lease = wire_lease("LS", "R");
    lease.head.flags = LeaseFlags::SHARED | LeaseFlags::PERSISTENT;
    let (flags, target, options) = (AcquireFlags::NONE, Target::This, Options::default());
    w.ask(1, Request::Acquire { flags, target, resources: vec![lease], options }).device_ready().ours();
    w.client(2).acquire_shared(2, "R").exited(1).closed(1);
    w.convert(2, "R", Mode::Exclusive);
    assert_eq!(w.codes(2).last(), Some(&ResultCode::EAGAIN.number()));
}

#[test]
fn d3_a_persistent_client_that_dies_with_its_lockspace_leaves_an_orphan_that_may_be_used() {
    let mut w = World::joined();
    w.persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours();
    w.set_config(4).pass(9).exited(1).closed(1).pass(1);
    assert_eq!(w.leaves(), [] as [bool; 0]);
    w.set_config(8).pass(1);
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn configuration_of_what_is_not_there_or_not_known_is_refused() {
    let mut w = World::joined();
    w.set_config(3);
    w.ask(900, Request::SetConfig { config: 1, lockspace: wire_space("NONE", 0) });
    assert_eq!(w.codes(900), [-22, -2]);
}

#[test]
fn an_orphan_that_a_refused_acquire_adopted_is_an_orphan_again() {
    let mut w = World::joined();
    w.client(2).client(3).persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours().exited(1).closed(1);
    w.hold(3, "EX");
    w.log.clear();
    w.acquire(2, &["R", "EX"], AcquireFlags::ORPHAN);
    assert_eq!((w.codes(2), w.releases()), (vec![-17], 0));
    w.acquire(3, &["R"], AcquireFlags::ORPHAN_ONLY);
    assert_eq!(w.codes(3), [0]);
}

#[test]
fn a_lease_whose_acquire_was_never_granted_leaves_no_orphan() {
    let mut w = World::joined();
    w.client(2).hold(2, "EX");
    let resources = vec![persistent("R", LeaseFlags::NONE), wire_lease("LS", "EX")];
    let request =
        Request::Acquire { flags: AcquireFlags::NONE, target: Target::This, resources, options: Options::default() };
    w.log.clear();
    w.ask(1, request).device_ready().ours();
    assert_eq!(w.releases(), 1, "EX is another's: R is given back");
    let mut w = World::joined();
    w.persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().exited(1).closed(1);
    w.ours();
    assert_eq!(w.releases(), 1, "its client went before it was told");
}

#[test]
fn a_persistent_sharer_leaves_an_orphan_when_all_others_have_gone() {
    let mut w = World::joined();
    w.client(2).persists(1, AcquireFlags::NONE, LeaseFlags::SHARED).device_ready().ours().acquire_shared(2, "R");
    w.exited(1).closed(1);
    w.log.clear();
    w.release(2, "R");
    assert_eq!((w.codes(2), w.releases()), (vec![0], 0));
    w.release_orphans("R");
    assert_eq!((w.codes(2), w.releases()), (vec![0, 1], 1));
}

#[test]
fn what_a_sharer_left_behind_is_adopted_beside_the_others_who_share_it() {
    let share = |w: &mut World, client, flags| {
        w.persists(client, flags, LeaseFlags::SHARED);
    };
    let mut w = World::joined();
    share(w.client(2).client(3), 1, AcquireFlags::NONE);
    w.device_ready().ours().acquire_shared(2, "R").exited(1).closed(1);
    share(&mut w, 3, AcquireFlags::ORPHAN);
    w.log.clear();
    w.release(2, "R").release(3, "R");
    assert_eq!(w.releases(), 1, "nobody has left it behind any more");
    let mut w = World::joined();
    share(w.client(2).client(3), 1, AcquireFlags::NONE);
    share(w.device_ready().ours(), 2, AcquireFlags::NONE);
    w.exited(1).closed(1).exited(2).closed(2);
    share(&mut w, 3, AcquireFlags::ORPHAN);
    w.log.clear();
    w.release(3, "R");
    assert_eq!(w.releases(), 0, "another left it behind, too, and what he used it for nobody has adopted");
    w.client(4).acquire_shared(4, "R");
    assert_eq!(w.codes(4), [-117]);
    let mut w = World::joined();
    share(w.client(2).client(3), 1, AcquireFlags::NONE);
    w.device_ready().ours().acquire_shared(2, "R").exited(1).closed(1).acquire_shared(3, "R");
    w.log.clear();
    w.release(2, "R").release(3, "R");
    assert_eq!(w.releases(), 0, "but for whoever asked to adopt it");
}

#[test]
fn p1_a_successor_hears_of_a_use_that_nobody_can_see_end_before_anybody_relies_on_it() {
    let unseen = |e: &Effect<u32>| matches!(e, Effect::Save(s) if s.lockspaces.iter().any(|l| l.unseen));
    let mut w = World::joined();
    w.set_config(1);
    assert!(w.index(unseen) < w.index(|e| matches!(e, Effect::Reply { .. })));
    let mut w = World::joined();
    w.persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours();
    assert_eq!(w.count(unseen), 0, "its process is named");
    w.exited(1).closed(1);
    assert_eq!(w.count(unseen), 1, "what it left behind is used by whom we cannot see");
    let mut w = World::joined();
    w.set_config(4).persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours();
    let granted = w.log.iter().rposition(|e| matches!(e, Effect::Reply { .. })).unwrap();
    assert!(w.index(unseen) < granted, "where orphans are in use, a daemon may die before it sees one");
}
