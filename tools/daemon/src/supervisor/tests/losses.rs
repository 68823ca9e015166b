//! Leases that are lost while they are held.

use super::sharing::shared;
use super::*;
use holdfast_protocol::command::LockspaceUse;

const TAKEN: Loss = Loss::Taken { owner: None, lver: Lver(4) };
const FREED: Loss = Loss::Freed { lver: Lver(3) };

impl World {
    fn verified(&mut self, resource: &str, lver: u64, mode: Mode, found: Result<Standing, String>) -> &mut Self {
        let key = LeaseKey { space: name("LS"), resource: resource.parse().unwrap() };
        self.apply(Event::Verified { key, lver: Lver(lver), mode, found })
    }

    fn lost(&mut self, resource: &str, mode: Mode, loss: Loss) -> &mut Self {
        self.verified(resource, 3, mode, Ok(Standing::Lost(loss)))
    }

    fn looks_at_leases(&self) -> usize {
        self.count(|e| matches!(e, Effect::Verify { .. }))
    }

    fn state_of(&self, resource: &str) -> Option<String> {
        let leases = self.daemon.snapshot(self.now)["leases"].as_array().unwrap().clone();
        let found = leases.into_iter().find(|l| l["resource"] == resource)?;
        found["state"].as_str().map(str::to_owned)
    }

    /// Renewals go on.
    fn pass_renewing(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.renewed(0).pass(1);
        }
        self
    }

    fn is_up(&self) -> bool {
        self.count(|e| matches!(e, Effect::CloseLimit { .. })) == 0
    }
}

#[test]
fn every_renewal_looks_at_what_is_held_and_never_twice_at_once() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").share(2, "S").acquire(1, &["NOT"], AcquireFlags::NONE);
    w.renewed(0);
    assert_eq!(w.looks_at_leases(), 2);
    w.renewed(0);
    assert_eq!(w.looks_at_leases(), 2, "neither look is over");
    w.verified("R", 3, Mode::Exclusive, Ok(Standing::Ours)).verified("S", 3, Mode::Shared, Err("EIO".into()));
    w.renewed(0);
    assert_eq!(w.looks_at_leases(), 4);
    w.pass(9).renewed(0);
    assert_eq!(w.looks_at_leases(), 4, "a lost lockspace has nothing to look at");
}

#[test]
fn s1_who_uses_a_lease_that_was_taken_is_killed_at_once_and_nobody_else_is() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").hold(2, "S").lost("R", Mode::Exclusive, TAKEN);
    assert_eq!((w.signals(1), w.signals(2)), (vec![Signal::SIGKILL], vec![]));
    assert_eq!(w.state_of("R").as_deref(), Some("lost"));
    let releases = w.releases();
    w.closed(1).exited(1);
    assert_eq!((w.state_of("R"), w.releases()), (None, releases), "nothing is written for it");
    w.pass_renewing(60);
    assert!(w.is_up());
    assert_eq!(w.state_of("S").as_deref(), Some("held"));
}

#[test]
fn who_uses_a_lease_that_is_only_free_has_its_grace() {
    let mut w = World::joined();
    w.hold(1, "R").lost("R", Mode::Exclusive, FREED);
    assert_eq!(w.signals(1), [Signal::SIGTERM]);
    w.pass_renewing(GRACE - 1);
    assert!(w.signals(1).iter().all(|s| *s == Signal::SIGTERM));
    w.pass_renewing(2);
    assert_eq!(w.signals(1).last(), Some(&Signal::SIGKILL));
    w.release_all(1);
    let signals = w.signals(1).len();
    assert_eq!(w.codes(1).last(), Some(&0), "it gives back what it no longer uses");
    w.pass_renewing(5);
    assert_eq!(w.signals(1).len(), signals, "and is left alone");
}

#[test]
fn d3_a_user_of_a_lost_lease_that_does_not_end_costs_the_lockspace() {
    let mut w = World::joined();
    w.hold(1, "R").lost("R", Mode::Exclusive, TAKEN).pass_renewing(9);
    assert!(w.is_up());
    w.pass_renewing(2);
    assert!(!w.is_up());
    let pets = w.count(|e| matches!(e, Effect::Pet { .. }));
    w.pass_renewing(60);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), pets, "the watchdog does the rest");
}

#[test]
fn a_lost_lease_is_nobody_elses_here_while_anything_of_its_user_runs() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").lost("R", Mode::Exclusive, FREED);
    w.acquire(2, &["R"], AcquireFlags::NONE);
    assert_eq!(w.codes(2).last(), Some(&ResultCode::EAGAIN.number()));
    w.closed(1);
    assert_eq!(w.state_of("R").as_deref(), Some("lost"), "its process runs on");
    w.acquire(2, &["R"], AcquireFlags::NONE);
    assert_eq!(w.codes(2).last(), Some(&ResultCode::EAGAIN.number()));
    w.exited(1).hold(2, "R");
    assert_eq!((w.codes(2).last(), w.state_of("R").as_deref()), (Some(&0), Some("held")));
}

#[test]
fn all_who_share_a_lost_claim_are_ended_and_the_other_leases_of_one_are_given_back_as_ever() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").share(1, "S").acquire_shared(2, "S").lost("S", Mode::Shared, Loss::ClaimCleared);
    assert_eq!((w.signals(1), w.signals(2)), (vec![Signal::SIGKILL], vec![Signal::SIGKILL]));
    let releases = w.releases();
    w.closed(1).exited(1);
    assert_eq!(w.releases(), releases + 1, "R");
    w.released().closed(2).exited(2);
    assert_eq!(w.releases(), releases + 2, "and of S the claim, which may stand on the disks still");
    w.released();
    assert_eq!((w.state_of("R"), w.state_of("S")), (None, None));
}

#[test]
fn news_of_another_hold_is_no_news() {
    let mut w = World::joined();
    w.hold(1, "R").verified("R", 2, Mode::Exclusive, Ok(Standing::Lost(TAKEN)));
    w.verified("R", 3, Mode::Shared, Ok(Standing::Lost(TAKEN))).verified("NOT", 3, Mode::Shared, Ok(Standing::Ours));
    w.convert(1, "R", Mode::Shared).lost("R", Mode::Exclusive, TAKEN);
    w.verified("R", 3, Mode::Exclusive, Ok(Standing::Outdated)).verified("R", 3, Mode::Exclusive, Err("EIO".into()));
    assert_eq!(w.signals(1), []);
}

#[test]
fn a_lost_orphan_is_forgotten_unless_somebody_unseen_may_use_it() {
    let mut w = World::orphaned();
    w.lost("R", Mode::Exclusive, TAKEN);
    assert_eq!((w.state_of("R"), w.is_up(), w.releases()), (None, true, 0));
    let mut w = World::orphaned();
    w.set_config(LockspaceUse::UsedByOrphans.number()).lost("R", Mode::Exclusive, TAKEN).pass(60);
    assert!(!w.is_up());
    assert_eq!(w.leaves(), [] as [bool; 0], "somebody may use it");
    w.set_config(LockspaceUse::Unused.number()).pass(1);
    assert_eq!(w.leaves(), [false]);
}

#[test]
fn s1_an_acquire_is_not_granted_with_what_was_lost_meanwhile() {
    let mut w = World::joined();
    w.acquire(1, &["A", "B"], AcquireFlags::NONE).device_ready().ours().device_ready();
    w.lost("A", Mode::Exclusive, FREED).ours();
    assert_eq!(w.codes(1), [] as [i32; 0], "B is given back first");
    w.released();
    assert_eq!(w.codes(1), [ResultCode::EAGAIN.number()]);
    let signals = w.signals(1).len();
    w.pass_renewing(30);
    assert_eq!((w.signals(1).len(), w.is_up()), (signals, true), "it has nothing of it, and lives");
}

#[test]
fn s1_who_is_to_be_killed_at_once_is_when_its_lockspace_is_lost_as_well() {
    let mut w = World::joined();
    w.set_config(LockspaceUse::Used.number()).hold(1, "R").lost("R", Mode::Exclusive, TAKEN);
    assert!(!w.is_up());
    assert_eq!(w.signals(1), [Signal::SIGKILL]);
}

#[test]
fn a_waiting_acquire_that_gave_back_a_lost_lease_is_nobody_to_be_ended() {
    let mut w = World::joined();
    w.client(2).share(1, "A");
    let resources = vec![shared("A"), wire_lease("LS", "B")];
    let options = Options::default();
    w.ask(2, Request::Acquire { flags: AcquireFlags::WAIT, target: Target::This, resources, options });
    w.device_ready().lost("A", Mode::Shared, FREED).theirs();
    w.log.clear();
    w.pass_renewing(20);
    assert_eq!(w.signals(2), []);
}

#[test]
fn a_lockspace_that_is_left_ends_its_users_whatever_they_lost() {
    let mut w = World::joined();
    w.hold(1, "R").lost("R", Mode::Exclusive, FREED);
    let lockspace = wire_space("LS", 1);
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace }).pass(1);
    assert_eq!(w.signals(1).last(), Some(&Signal::SIGKILL));
    assert_eq!(w.leaves(), [] as [bool; 0]);
    w.closed(1).exited(1).pass(1);
    assert_eq!(w.leaves(), [true]);
}
