//! Requests: owners elsewhere are asked, and clients here let go.

use super::*;
use crate::supervisor::event::{AskRequest, ReplyTo};
use delta_lease::Publication;
use holdfast_io::ids::{HostId, HostTerm};
use holdfast_protocol::command::{KillPathFlags, RequestFlags};
use holdfast_protocol::payload::KillPath;
use holdfast_protocol::text::KillText;
use paxos_lease::Ask;
use paxos_lease::request::Force;

fn owner() -> HostTerm {
    HostTerm { host_id: HostId::new(2).unwrap(), generation: Generation(5) }
}

impl World {
    fn asks(&mut self, client: u64, flags: RequestFlags, force_mode: u32, lver: u64) -> &mut Self {
        let mut resource = wire_lease("LS", "R");
        resource.head.lver = lver;
        self.ask(client, Request::AskOwner { flags, force_mode, resource })
    }

    fn asked(&self) -> Vec<AskRequest> {
        let asked = |e: &Effect<u32>| match e {
            Effect::Ask(request) => Some(request.clone()),
            _ => None,
        };
        self.log.iter().filter_map(asked).collect()
    }

    fn to(&self) -> ReplyTo {
        self.asked().last().unwrap().to
    }

    /// Whom our sector calls.
    fn calls(&self) -> Vec<Vec<u64>> {
        let bits = |p: &Publication| p.bitmap.hosts().map(HostId::get).collect();
        let published = |e: &Effect<u32>| match e {
            Effect::Publish { publication, .. } => Some(bits(publication)),
            _ => None,
        };
        self.log.iter().filter_map(published).collect()
    }

    fn looks(&self) -> usize {
        self.count(|e| matches!(e, Effect::Examine { .. }))
    }

    fn examined(&mut self, resource: &str, lver: u64, force: Option<Force>) -> &mut Self {
        let key = crate::supervisor::event::LeaseKey { space: name("LS"), resource: resource.parse().unwrap() };
        self.apply(Event::Examined { key, lver: Lver(lver), found: Ok(force) })
    }

    fn with_killpath(&mut self) -> &mut Self {
        let text = |text: &str| KillText::new(text).unwrap();
        let killpath = KillPath { path: text("/bin/kp"), args: text("one") };
        let request = Request::KillPath { flags: KillPathFlags::PID, killpath };
        let header = Header { data2: u32::MAX, ..Header::request(request.command()) };
        let message = Message { header, command: request.command(), request };
        self.apply(Event::Request { client: ClientId(1), message })
    }
}

#[test]
fn what_is_asked_for_is_what_the_client_says() {
    let mut w = World::joined();
    w.asks(1, RequestFlags::NEXT_LVER, 1, 0).asks(1, RequestFlags::NEXT_LVER, 2, 7).asks(1, RequestFlags::NONE, 0, 0);
    let asked: Vec<Ask> = w.asked().iter().map(|a| a.ask).collect();
    let ask = |lver: Option<u64>, force| Ask { lver: lver.map(Lver), force };
    assert_eq!(
        asked,
        [ask(None, Some(Force::Kill)), ask(Some(7), Some(Force::Graceful)), ask(Some(0), None)],
        "a version that is named is the one"
    );
    w.asks(1, RequestFlags::NONE, 3, 1);
    assert_eq!(w.codes(1), [-22], "sanlock knows two ways of asking");
}

#[test]
fn an_owner_that_was_written_to_is_called_for_six_io_timeouts() {
    let mut w = World::joined();
    w.asks(1, RequestFlags::NEXT_LVER, 1, 0);
    let (to, key) = (w.to(), w.asked()[0].key);
    assert_eq!(w.codes(1), [] as [i32; 0], "answered when it is written");
    w.apply(Event::Asked { to, key, result: Ok(Some(owner())) });
    assert_eq!((w.codes(1), w.calls()), (vec![0], vec![vec![2]]));
    for _ in 0..5 {
        w.wait(1000).renewed(0);
    }
    assert_eq!(w.calls().len(), 1);
    w.wait(1000).renewed(0);
    assert_eq!(w.calls(), [vec![2], vec![]]);
}

#[test]
fn nobody_is_called_where_nothing_was_written() {
    let mut w = World::joined();
    w.asks(1, RequestFlags::NEXT_LVER, 1, 0);
    let (to, key) = (w.to(), w.asked()[0].key);
    w.apply(Event::Asked { to, key, result: Ok(None) });
    w.apply(Event::Asked { to, key, result: Err((ResultCode::REQUEST_OLD, "reached".into())) });
    assert_eq!((w.codes(1), w.calls().len()), (vec![0, -272], 0));
}

#[test]
fn a_host_that_is_called_looks_at_what_it_holds_exclusively() {
    let mut w = World::joined();
    w.hold(1, "R").hold(1, "S").acquire_shared(1, "SH").device_ready().ours().acquire(1, &["NOT"], AcquireFlags::NONE);
    w.apply(Event::Called { space: name("LS"), calls: Vec::new() });
    assert_eq!(w.looks(), 2);
    let lockspace = wire_space("LS", 0);
    w.ask(900, Request::ExamineLockspace { lockspace });
    assert_eq!((w.looks(), w.codes(900).last()), (4, Some(&0)));
    w.ask(900, Request::ExamineResource { resource: wire_lease("LS", "S").head });
    assert_eq!((w.looks(), w.codes(900).last()), (5, Some(&0)));
    w.ask(900, Request::ExamineResource { resource: wire_lease("LS", "SH").head });
    assert_eq!((w.looks(), w.codes(900).last()), (5, Some(&0)), "who shares is asked by nobody");
}

#[test]
fn a_client_is_asked_once_and_ended_once() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").hold(2, "S");
    w.examined("R", 3, None);
    assert_eq!(w.signals(1), []);
    w.examined("R", 3, Some(Force::Graceful)).examined("R", 3, Some(Force::Graceful));
    assert_eq!(w.signals(1), [Signal::SIGTERM]);
    w.examined("R", 3, Some(Force::Kill)).examined("R", 3, Some(Force::Kill)).examined("R", 3, Some(Force::Graceful));
    assert_eq!(w.signals(1), [Signal::SIGTERM, Signal::SIGKILL]);
    assert_eq!(w.signals(2), [], "nobody else");
    assert_eq!(w.count(|e| matches!(e, Effect::StartRelease { .. })), 0, "S1: the lease is its own until it is gone");
}

#[test]
fn a_request_is_for_no_other_hold_and_for_no_orphan() {
    let mut w = World::joined();
    w.hold(1, "R").examined("R", 2, Some(Force::Kill)).examined("OTHER", 3, Some(Force::Kill));
    w.release_all(1).examined("R", 3, Some(Force::Kill));
    assert_eq!(w.signals(1), []);
    let mut w = World::orphaned();
    w.examined("R", 3, Some(Force::Kill));
    assert_eq!(w.count(|e| matches!(e, Effect::Kill(_))), 0, "never a signal to nobody");
}

#[test]
fn restricted_signals_are_replaced_here_too_and_a_killpath_is_run_without_the_pid() {
    let mut w = World::joined();
    w.ask(1, Request::Restrict { flags: RestrictFlags::SIGKILL }).hold(1, "R").examined("R", 3, Some(Force::Kill));
    assert_eq!(w.signals(1), [Signal::SIGTERM]);
    let mut w = World::joined();
    w.with_killpath().hold(1, "R").examined("R", 3, Some(Force::Graceful));
    let run = w.log.iter().find_map(|e| match e {
        Effect::RunProgram { program, .. } => Some(program.arguments.clone()),
        _ => None,
    });
    assert_eq!((w.signals(1), run), (vec![], Some(vec!["one".into()])));
    w.examined("R", 3, Some(Force::Kill));
    assert_eq!(w.signals(1), [Signal::SIGKILL]);
    let mut w = World::joined();
    let both = RestrictFlags::SIGKILL | RestrictFlags::SIGTERM;
    w.ask(1, Request::Restrict { flags: both }).hold(1, "R").examined("R", 3, Some(Force::Graceful));
    w.examined("R", 3, Some(Force::Kill));
    assert_eq!(w.signals(1), [Signal::SIGKILL, Signal::SIGTERM], "each by the other, and that is the end of it");
}

#[test]
fn what_a_client_said_before_it_acquired_is_how_it_is_asked() {
    let mut w = World::joined();
    w.hold(1, "R").with_killpath().ask(1, Request::Restrict { flags: RestrictFlags::SIGTERM });
    w.examined("R", 3, Some(Force::Graceful));
    assert_eq!((w.signals(1), w.count(|e| matches!(e, Effect::RunProgram { .. }))), (vec![Signal::SIGTERM], 0));
    w.hold(1, "S").examined("S", 3, Some(Force::Graceful));
    assert_eq!(w.count(|e| matches!(e, Effect::RunProgram { .. })), 1, "of what it acquired since");
    let mut w = World::orphaned();
    w.ask(2, Request::Restrict { flags: RestrictFlags::SIGKILL }).acquire(2, &["R"], AcquireFlags::ORPHAN);
    w.examined("R", 3, Some(Force::Kill));
    assert_eq!(w.signals(2), [Signal::SIGTERM], "an adopter is asked in its own way, and not in that of the dead");
}

/// Of two leases that somebody asks for in one call one is an orphan with a killpath, and the other takes its time.
#[test]
fn who_adopts_an_orphan_is_asked_in_its_own_way_before_all_of_its_call_is_granted() {
    let mut w = World::joined();
    w.client(2).with_killpath().persists(1, AcquireFlags::NONE, LeaseFlags::NONE).device_ready().ours();
    w.exited(1).closed(1).examined("R", 3, Some(Force::Kill));
    w.log.clear();
    w.acquire(2, &["R", "S"], AcquireFlags::ORPHAN).examined("R", 3, Some(Force::Kill));
    assert_eq!(w.signals(2), [Signal::SIGKILL], "what was asked of nobody is asked anew");
    assert_eq!(w.count(|e| matches!(e, Effect::RunProgram { .. })), 0, "and nothing of the dead client's is run");
}
