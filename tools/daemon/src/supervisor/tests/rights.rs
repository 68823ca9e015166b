//! What a client names is opened by its own rights, however late that is.

use std::sync::Arc;

use holdfast_io::sys::rights::Credentials;
use holdfast_protocol::command::RequestFlags;

use super::*;

fn of_user(uid: u32) -> Rights {
    Rights::Of(Arc::new(Credentials { uid, gid: uid, groups: vec![uid] }))
}

impl World {
    fn client_with(&mut self, client: u64, rights: Rights) -> &mut Self {
        self.client(client);
        self.apply(Event::Connected { client: ClientId(client), pid: 77, rights }).ask(client, Request::Register);
        let process = Guarded { pid: 77, start_time: 7, connection_inode: client, group: false };
        self.apply(Event::Registered { client: ClientId(client), process: Some(process) })
    }

    /// Those of the latest place that is to be opened.
    fn opens_by(&self) -> Rights {
        let place = |e: &Effect<u32>| match e {
            Effect::StartJoin(request) => Some(request.place.clone()),
            Effect::OpenDevice { request, .. } => request.places.first().cloned(),
            Effect::Ask(request) => request.places.first().cloned(),
            Effect::OpenIndex { request, .. } => Some(request.place.clone()),
            _ => None,
        };
        self.log.iter().rev().find_map(place).unwrap().by
    }
}

#[test]
fn whatever_is_opened_for_a_client_is_opened_by_the_rights_of_who_asks() {
    let mut w = World::joined();
    assert_eq!(w.client(1).acquire(1, &["R"], AcquireFlags::NONE).opens_by(), Rights::Ours);
    w.device_ready().ours().client_with(2, of_user(2));
    assert_eq!(w.acquire(2, &["S"], AcquireFlags::NONE).opens_by(), of_user(2));
    w.device_ready().ours();

    let join = Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout: 1, lockspace: wire_space("new", 1) };
    assert_eq!(w.ask(2, join).opens_by(), of_user(2));
    let ask = |resource| Request::AskOwner { flags: RequestFlags::NONE, force_mode: 1, resource };
    assert_eq!(w.ask(1, ask(wire_lease("LS", "T"))).opens_by(), Rights::Ours);
    assert_eq!(w.ask(2, ask(wire_lease("LS", "T"))).opens_by(), of_user(2));
}

#[test]
fn an_acquire_that_waits_for_its_turn_goes_on_by_the_rights_that_it_began_with() {
    let mut w = World::joined();
    w.client_with(2, of_user(2)).acquire(2, &["R"], AcquireFlags::WAIT).device_ready().theirs();
    w.log.retain(|e| !matches!(e, Effect::OpenDevice { .. }));
    w.renewed(0).pass(1);
    assert_eq!(w.opens_by(), of_user(2));
}

#[test]
fn a_place_is_the_same_whoever_names_it() {
    let mut w = World::joined();
    w.client_with(2, of_user(2));
    let join = Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout: 1, lockspace: wire_space("LS", 1) };
    assert_eq!(w.ask(2, join).codes(2).last(), Some(&ResultCode::EEXIST.number()));
}

#[test]
fn a_killpath_is_run_by_the_rights_of_whoever_named_it() {
    let mut w = World::joined();
    w.client_with(7, of_user(7)).killpath(7, "/bin/kp").hold(7, "R").pass(9);
    let run = w.log.iter().find_map(|e| match e {
        Effect::RunProgram { program, .. } => Some(program.by.clone()),
        _ => None,
    });
    assert_eq!(run, Some(of_user(7)));
}
