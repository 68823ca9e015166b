//! What stands against an acquire on this host is said in words, with the name of who has the lease.

use super::*;

impl World {
    fn refusals(&self) -> Vec<(i64, String, String)> {
        let snapshot = self.daemon.snapshot(self.now);
        let of = |r: &serde_json::Value| {
            let text = |field: &str| r[field].as_str().unwrap().to_owned();
            (r["code"].as_i64().unwrap(), text("about"), text("why"))
        };
        snapshot["refusals"].as_array().unwrap().iter().map(of).collect()
    }

    fn acquire_as(&mut self, client: u64, owner: &str, resource: &str, flags: AcquireFlags) -> &mut Self {
        let resources = vec![wire_lease("LS", resource)];
        let options = Options { owner_name: Name48::new(owner).unwrap(), ..Options::default() };
        self.ask(client, Request::Acquire { flags, target: Target::This, resources, options })
    }
}

#[test]
fn who_holds_a_lease_here_is_named_to_whoever_is_refused_it() {
    let mut w = World::joined();
    w.client(2).acquire_as(1, "vm-one", "R", AcquireFlags::NONE);
    w.acquire_as(2, "vm-two", "R", AcquireFlags::NONE);
    let (code, about, why) = w.refusals().pop().unwrap();
    assert_eq!((code, about.as_str()), (i64::from(ResultCode::EBUSY.number()), "lease LS:R"));
    assert!(why.contains("opening here") && why.contains("process 101 (vm-one)"), "{why}");
    w.device_ready().ours().acquire_as(2, "vm-two", "R", AcquireFlags::NONE);
    let (code, _, why) = w.refusals().pop().unwrap();
    assert_eq!(code, i64::from(ResultCode::EEXIST.number()));
    assert!(why.contains("held here, Exclusive, by process 101 (vm-one)"), "{why}");
    w.release_all(1).acquire_as(2, "vm-two", "R", AcquireFlags::NONE);
    assert_eq!(w.refusals().pop().unwrap().0, i64::from(ResultCode::EAGAIN.number()));
}

#[test]
fn an_acquire_that_does_not_begin_is_explained_and_names_who_asked() {
    let mut w = World::joined();
    let resources = vec![wire_lease("XX", "R")];
    let options = Options { owner_name: Name48::new("vm-one").unwrap(), ..Options::default() };
    w.ask(1, Request::Acquire { flags: AcquireFlags::NONE, target: Target::This, resources, options });
    let expected = "lockspace XX is not joined, for process 101 (vm-one)".to_owned();
    assert_eq!(w.refusals(), [(i64::from(ResultCode::ENOSPC.number()), "lease XX:R".to_owned(), expected)]);
}

#[test]
fn an_acquire_that_waits_for_a_lease_of_this_host_is_explained_once() {
    let mut w = World::joined();
    w.client(2).hold(1, "R").acquire_as(2, "vm-two", "R", AcquireFlags::WAIT);
    assert_eq!(w.refusals().len(), 1);
    w.renewed(0).pass(3);
    assert_eq!(w.refusals().len(), 1, "{:?}", w.refusals());
}
