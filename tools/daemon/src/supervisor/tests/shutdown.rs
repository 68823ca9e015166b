//! The daemon's own end: by request, and by a signal.

use super::*;

#[test]
fn a_gentle_shutdown_is_refused_while_a_lockspace_is_joined_and_a_forced_one_ends_holders() {
    let mut w = World::joined();
    w.hold(1, "R");
    w.apply(Event::Connected { client: ClientId(7), pid: 1, rights: Rights::Ours })
        .ask(7, Request::ShutdownWait { force: false });
    assert_eq!(w.codes(7), [ResultCode::EBUSY.number()]);
    assert!(w.signals(1).is_empty());
    w.ask(7, Request::ShutdownWait { force: true });
    assert_eq!(w.signals(1), [Signal::SIGKILL]);
    w.closed(1).exited(1).apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 1);
    assert_eq!(*w.codes(7).last().unwrap(), 0);
}

#[test]
fn a_join_that_hangs_keeps_a_shutdown_for_a_while_and_no_longer() {
    for signal in [false, true] {
        let mut w = World::new();
        w.add(1, "LS").apply(Event::Connected { client: ClientId(7), pid: 1, rights: Rights::Ours });
        if signal {
            w.apply(Event::ShutdownSignal)
        } else {
            w.ask(7, Request::ShutdownWait { force: true })
        };
        w.pass(19);
        assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 0, "it may end by itself");
        assert!(w.daemon.next_wakeup(w.now) <= w.now.after(Duration::from_secs(1)));
        w.pass(1);
        assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 1);
        assert_eq!(w.codes(1), [ResultCode::EPERM.number()]);
        assert_eq!(w.codes(7), if signal { vec![] } else { vec![0] });
    }
}

#[test]
fn a_join_whose_write_hangs_is_left_to_the_successor_and_the_watchdog_is_stopped() {
    let mut w = World::new();
    w.add(1, "LS").fenced("LS", 1).armed();
    let failed = Err((ResultCode::IO_TIMEOUT, "its write does not end".to_owned()));
    w.apply(Event::Joined { space: name("LS"), result: failed }).apply(Event::ShutdownSignal).pass(20);
    let (stopped, ended) = (w.index(|e| matches!(e, Effect::Disarm)), w.index(|e| matches!(e, Effect::Exit)));
    assert!(stopped < ended);
    let saved = w.log.iter().rev().find_map(|e| if let Effect::Save(state) = e { Some(state) } else { None }).unwrap();
    assert!(!saved.watchdog_armed);
    let record = &saved.lockspaces[0];
    assert_eq!((record.generation, record.joined, record.over, record.fences.len()), (1, false, false, 1));
}

#[test]
fn a_lockspace_that_was_joined_is_waited_for_however_long_it_takes_to_leave() {
    let mut w = World::joined();
    w.add(2, "hangs").apply(Event::ShutdownSignal);
    for _ in 0..30 {
        w.renewed(0).pass(1);
    }
    assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 0);
    w.apply(Event::Left { space: name("LS") });
    assert_eq!(w.count(|e| matches!(e, Effect::Exit)), 1, "the other one has had its time");
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
