//! Who changed what, and who was refused what: each has its line in the log, with the process that asked.

use std::io::Write;
use std::sync::{Arc, Mutex};

use holdfast_protocol::command::AcquireFlags;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is logged meanwhile, a line for each event.
fn logged(doing: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).without_time();
    tracing::subscriber::with_default(subscriber.finish(), doing);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

/// The one line with all of these words.
fn one<'a>(lines: &'a [String], words: &[&str]) -> &'a str {
    let found: Vec<_> = lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert_eq!(found.len(), 1, "{words:?} in {lines:#?}");
    found[0]
}

/// The target by which the log limits what clients can cause at will.
fn at_will(line: &str) -> bool {
    line.contains(crate::log_ring::AT_WILL)
}

fn shared(client: u64, w: &mut World) -> &mut World {
    let mut resource = wire_lease("LS", "R");
    resource.head.flags = LeaseFlags::SHARED;
    let (flags, options) = (AcquireFlags::NONE, Options::default());
    w.ask(client, Request::Acquire { flags, target: Target::This, resources: vec![resource], options })
}

#[test]
fn who_gives_a_lease_back_is_named_with_its_version() {
    let mut w = World::joined();
    w.hold(1, "R");
    let lines = logged(|| {
        w.release_all(1).released();
    });
    assert!(!at_will(one(&lines, &["released", "lease=LS:R", "pid=101", "lver=3"])));
}

#[test]
fn one_of_several_who_share_a_lease_here_is_named_when_it_gives_it_back() {
    let mut w = World::joined();
    w.client(2);
    shared(1, &mut w).device_ready().ours();
    shared(2, &mut w);
    let lines = logged(|| {
        w.release_all(2);
    });
    assert!(!at_will(one(&lines, &["others on this host have it still", "LS:R", "pid=102", "lver=3", "holds=1"])));
}

#[test]
fn a_lease_that_was_got_too_late_is_told_of() {
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE).device_ready();
    let lines = logged(|| {
        w.pass(9).ours();
    });
    assert!(!at_will(one(&lines, &["got too late", "LS:R", "pid=101", "lver=3", "lost=true"])));
    let mut w = World::joined();
    w.acquire(1, &["R"], AcquireFlags::NONE).device_ready().closed(1);
    let lines = logged(|| {
        w.ours();
    });
    one(&lines, &["got too late", "LS:R", "pid=101", "lost=false"]);
}

#[test]
fn what_a_lost_lockspace_takes_from_an_acquire_that_is_not_over_is_told_of() {
    let mut w = World::joined();
    w.acquire(1, &["R", "S"], AcquireFlags::NONE).device_ready().ours().device_ready();
    let lines = logged(|| {
        w.apply(Event::Verified {
            key: LeaseKey { space: name("LS"), resource: "R".parse().unwrap() },
            lver: Lver(3),
            mode: Mode::Exclusive,
            found: Ok(Standing::Lost(Loss::Freed { lver: Lver(3) })),
        });
        w.ours();
    });
    one(&lines, &["granted to nobody", "lease=LS:R", "pid=101", "lost before it was granted"]);
}

#[test]
fn who_asks_for_the_end_of_a_lockspace_or_of_the_daemon_is_named() {
    let mut w = World::joined();
    w.apply(Event::Connected { client: ClientId(7), pid: 77, rights: Rights::Ours });
    let remove = Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) };
    let lines = logged(|| {
        w.ask(7, remove);
    });
    assert!(!at_will(one(&lines, &["asked to leave", "lockspace=LS", "pid=77"])));
    let mut w = World::joined();
    w.apply(Event::Connected { client: ClientId(7), pid: 77, rights: Rights::Ours });
    let lines = logged(|| {
        w.ask(7, Request::Shutdown { force: false }).ask(7, Request::Shutdown { force: true });
    });
    assert!(at_will(one(&lines, &["shutdown ignored", "pid=77"])));
    assert!(!at_will(one(&lines, &["shutdown asked for", "pid=77", "force=true"])));
}

#[test]
fn every_refusal_names_who_was_refused_what_and_may_be_cut_in_a_flood() {
    let mut w = World::joined();
    let lines = logged(|| {
        w.add(7, "LS");
        let remove = Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("XX", 1) };
        w.ask(7, remove);
        let heads = vec![wire_lease("LS", "R").head];
        w.ask(1, Request::Release { flags: ReleaseFlags::NONE, target: Target::This, resources: heads.clone() });
        w.ask(7, Request::Release { flags: ReleaseFlags::NONE, target: Target::Pid(4711), resources: heads });
        let (flags, resource) = (AcquireFlags::NONE, wire_lease("LS", "R").head);
        w.ask(1, Request::Convert { flags, target: Target::This, resource });
        w.client(2).acquire(1, &["R"], AcquireFlags::NONE).acquire(2, &["R"], AcquireFlags::NONE);
        w.ask(2, Request::SetConfig { config: 99, lockspace: wire_space("LS", 1) });
    });
    for words in [
        ["refused", "lockspace LS", "add_lockspace", "pid=50", "it is there already"].as_slice(),
        &["refused", "lockspace XX", "rem_lockspace", "pid=50", "it is not joined"],
        &["not released", "LS:R", "pid=101", "code=-1"],
        &["refused", "lease LS:R", "release", "pid=50", "no client of that pid"],
        &["refused", "lease LS:R", "convert", "pid=101", "does not hold it"],
        &["not acquired", "LS:R", "pid=102", "opening here"],
        &["not configured", "lockspace=LS", "pid=102", "config=99"],
    ] {
        assert!(at_will(one(&lines, words)), "{words:?}");
    }
    assert!(!lines.iter().any(|line| line.contains(": configured")), "{lines:#?}");
}

#[test]
fn a_lockspace_of_the_configuration_that_is_refused_again_and_again_is_one_refusal() {
    let mut w = World::joined();
    w.client(2).acquire(1, &["R"], AcquireFlags::NONE).acquire(2, &["R"], AcquireFlags::NONE);
    for _ in 0..super::super::MOST_REFUSALS {
        w.add(0, "LS").pass(5).renewed(0);
    }
    // Whoever else asks is told the same.
    w.apply(Event::Connected { client: ClientId(9), pid: 99, rights: Rights::Ours });
    let join = Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout: 1, lockspace: wire_space("LS", 1) };
    w.ask(9, join);
    let told = w.daemon.snapshot(w.now)["refusals"].clone();
    assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
}
