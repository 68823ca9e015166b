//! The daemon's own end: by request, and by a signal.

use super::*;

#[test]
fn a_gentle_shutdown_is_refused_while_a_lockspace_is_joined_and_a_forced_one_ends_holders() {
    let mut w = World::joined();
    w.hold(1, "R");
    w.apply(Event::Connected { client: ClientId(7), pid: 1 }).ask(7, Request::ShutdownWait { force: false });
    assert_eq!(w.codes(7), [ResultCode::EBUSY.number()]);
    assert!(w.signals(1).is_empty());
    w.ask(7, Request::ShutdownWait { force: true });
    assert_eq!(w.signals(1), [Signal::SIGKILL]);
    w.closed(1).exited(1).apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 1);
    assert_eq!(*w.codes(7).last().unwrap(), 0);
}

#[test]
fn a_signal_ends_nobody_and_is_followed_as_soon_as_nothing_is_guarded() {
    let mut w = World::joined();
    w.hold(1, "R").apply(Event::ShutdownSignal).renewed(0);
    assert!(w.signals(1).is_empty());
    assert!(matches!(w.daemon.spaces[&name("LS")].life, Life::Active { .. }));
    w.release_all(1);
    assert!(matches!(w.daemon.spaces[&name("LS")].life, Life::Active { .. }), "its lease is still being given back");
    w.released();
    assert!(w.signals(1).is_empty(), "a client without a lease is not ended either");
    assert_eq!(w.count(|e| matches!(e, Effect::Leave { free: true, .. })), 1, "at once, not with the next event");
    w.acquire(1, &["R"], AcquireFlags::NONE);
    assert_eq!(*w.codes(1).last().unwrap(), ResultCode::ENOSPC.number());
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 1);
}

#[test]
fn a_signal_is_over_after_three_minutes_in_which_something_was_guarded() {
    let mut w = World::joined();
    w.hold(1, "R").apply(Event::ShutdownSignal);
    for _ in 0..181 {
        w.renewed(0).pass(1);
    }
    w.release_all(1).released();
    assert!(matches!(w.daemon.spaces[&name("LS")].life, Life::Active { .. }));
    w.apply(Event::ShutdownSignal);
    assert!(!w.daemon.spaces[&name("LS")].life.is_active());
}

#[test]
fn a_signal_does_not_leave_a_lockspace_that_orphans_or_others_use() {
    let mut w = World::orphaned();
    w.apply(Event::ShutdownSignal);
    assert!(matches!(w.daemon.spaces[&name("LS")].life, Life::Active { .. }));
    let mut w = World::joined();
    w.set_config(1).apply(Event::ShutdownSignal);
    assert!(matches!(w.daemon.spaces[&name("LS")].life, Life::Active { .. }));
}

#[test]
fn a_lockspace_that_was_lost_is_lacking_and_one_that_was_removed_is_not() {
    let remove = || Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace: wire_space("LS", 1) };
    let all = [name("LS"), name("late")].into();
    let mut w = World::joined();
    w.daemon.want([name("LS"), name("late")], &all);
    assert!(!w.daemon.lacks(&name("LS")) && w.daemon.lacks(&name("late")) && !w.daemon.lacks(&name("other")));
    w.pass(9).apply(Event::Reaped { space: name("LS") }).apply(Event::Left { space: name("LS") });
    assert!(w.daemon.lacks(&name("LS")), "its instant has passed");

    w.join("LS").ask(900, remove());
    w.apply(Event::Left { space: name("LS") });
    assert!(!w.daemon.lacks(&name("LS")));
    w.daemon.want([], &all);
    assert!(!w.daemon.lacks(&name("LS")), "read again, and nothing new");
    w.daemon.want([name("LS")], &all);
    assert!(w.daemon.lacks(&name("LS")));
    w.ask(900, remove());
    assert!(!w.daemon.lacks(&name("LS")), "removed between two attempts");
    w.daemon.want([], &[name("LS")].into());
    assert!(!w.daemon.lacks(&name("late")), "no longer in the configuration");
}

#[test]
fn nothing_is_joined_again_while_a_signal_to_end_lasts() {
    let mut w = World::joined();
    w.daemon.want([name("late")], &[name("late")].into());
    w.hold(1, "R").apply(Event::ShutdownSignal);
    assert!(!w.daemon.lacks(&name("late")));
}
