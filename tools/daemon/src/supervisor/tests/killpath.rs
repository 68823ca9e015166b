//! Killpath: what is run in a client's place, and when it is ended all the same.

use super::*;
use holdfast_protocol::command::KillPathFlags;
use holdfast_protocol::payload::KillPath;
use holdfast_protocol::text::KillText;

impl World {
    pub(super) fn killpath(&mut self, client: u64, path: &str) -> &mut Self {
        let killpath = KillPath { path: KillText::new(path).unwrap(), args: KillText::new("one").unwrap() };
        let request = Request::KillPath { flags: KillPathFlags::PID, killpath };
        let header = Header { data2: u32::MAX, ..Header::request(request.command()) };
        let message = Message { header, command: request.command(), request };
        self.apply(Event::Request { client: ClientId(client), message })
    }

    fn programs(&self) -> Vec<String> {
        let shown = |e: &Effect<u32>| match e {
            Effect::RunProgram { program, .. } => Some(format!("{:?} {:?}", program.path, program.arguments)),
            _ => None,
        };
        self.log.iter().filter_map(shown).collect()
    }
}

#[test]
fn a_killpath_is_run_once_and_its_client_has_its_grace_to_give_everything_back() {
    let mut w = World::joined();
    w.client(2).killpath(1, "/bin/kp").hold(1, "R").hold(2, "OTHER");
    w.log.clear();
    w.pass(9);
    assert_eq!(w.programs(), [r#""/bin/kp" ["one", "101"]"#]);
    w.pass(3);
    assert_eq!((w.programs().len(), w.signals(1).len()), (1, 0), "no signal while grace lasts");
    assert!(w.signals(2).contains(&Signal::SIGTERM), "of those without one");
    w.release_all(1);
    w.exited(2).closed(2).pass(1);
    assert_eq!((w.signals(1).len(), w.leaves()), (0, vec![false]), "it survives");
}

#[test]
fn a_client_whose_killpath_does_not_help_is_ended_after_its_grace() {
    let mut w = World::joined();
    w.killpath(1, "/bin/kp").hold(1, "R");
    w.log.clear();
    w.pass(8 + GRACE + 1);
    assert_eq!((w.programs().len(), w.signals(1).first()), (1, Some(&Signal::SIGKILL)));
}

#[test]
fn whoever_wants_a_lockspace_to_be_left_waits_for_no_killpath() {
    let mut w = World::joined();
    w.killpath(1, "/bin/kp").hold(1, "R");
    w.log.clear();
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace: wire_space("LS", 1) });
    assert_eq!((w.programs().len(), w.signals(1)), (0, vec![Signal::SIGKILL]));
}

#[test]
fn a_killpath_can_be_taken_back_and_is_nobody_elses_to_set() {
    let mut w = World::joined();
    w.killpath(1, "/bin/kp").killpath(1, "").hold(1, "R").killpath(900, "/bin/kp");
    assert_eq!(w.codes(900).last(), Some(&-16));
    w.log.clear();
    w.pass(9);
    assert_eq!((w.programs().len(), w.signals(1).first()), (0, Some(&Signal::SIGTERM)));
}
