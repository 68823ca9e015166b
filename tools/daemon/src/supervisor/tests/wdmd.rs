//! Under wdmd, which is told an instant: joins wait for it, renewals move it on, and a late telling needs no reset.

use super::*;

fn under_wdmd() -> World {
    World { daemon: Supervisor::new(Settings { watchdog: Kind::Wdmd, ..settings() }, Vec::new()), ..World::new() }
}

impl World {
    fn add_with(&mut self, client: u64, space: &str, io_timeout: u32) -> &mut Self {
        let lockspace = wire_space(space, 1);
        let request = Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout, lockspace };
        self.apply(Event::Connected { client: ClientId(client), pid: 50, rights: Rights::Ours }).ask(client, request)
    }

    fn armed_by_wdmd(&mut self) -> &mut Self {
        self.apply(Event::Armed { result: Ok(()), device_seconds: Some(60), stays_on: false })
    }

    /// Until when wdmd was last told that this host is well, seconds from now.
    fn wdmd_told(&self) -> Option<u64> {
        let told = self.log.iter().rev().find_map(|e| match e {
            Effect::Pet { until } => Some(*until),
            _ => None,
        });
        told.map(|until| until.since(self.now).as_secs())
    }

    fn took(&mut self) -> &mut Self {
        self.unanswered_pets = 0;
        let until = self.log.iter().rev().find_map(|e| match e {
            Effect::Pet { until } => Some(*until),
            _ => None,
        });
        self.apply(Event::Petted { result: Ok(()), until: until.expect("wdmd was told") })
    }

    fn allowed(&self) -> usize {
        self.count(|e| matches!(e, Effect::AllowJoin { .. }))
    }

    fn joined_at(&mut self, space: &str, started_at: LocalInstant) -> &mut Self {
        let geometry = Geometry::default_for(SectorSize::B512);
        let join = Join { generation: Generation(1), started_at, geometry };
        self.apply(Event::Joined { space: name(space), result: Ok(join) })
    }

    fn renewed_now(&mut self, space: &str) -> &mut Self {
        let started_at = self.now;
        self.apply(Event::Renewed { space: name(space), started_at, took: Took::default() })
    }
}

/// One lockspace, joined with an io_timeout of 10 s.
fn joined() -> World {
    let mut w = under_wdmd();
    w.add_with(900, "LS", 10).fenced("LS", 1).armed_by_wdmd().took();
    let now = w.now;
    w.joined_at("LS", now);
    w
}

#[test]
fn d3_a_join_writes_only_when_wdmd_has_taken_an_instant_that_is_early_enough() {
    let mut w = under_wdmd();
    w.add_with(900, "LS", 10).fenced("LS", 1).armed_by_wdmd();
    assert_eq!((w.wdmd_told(), w.allowed()), (Some(80), 0), "eight io_timeouts from when it may write at the earliest");
    w.took();
    assert_eq!(w.allowed(), 1);
    // Another one, with less time: what was told is too late for it.
    w.wait(1000).add_with(901, "M", 2).fenced("M", 1);
    assert_eq!((w.wdmd_told(), w.allowed()), (Some(16), 1));
    w.took();
    assert_eq!(w.allowed(), 2);
    // A third one is under the earliest of them, and waits for nothing but that it is taken.
    w.wait(1000).add_with(902, "N", 10).fenced("N", 1);
    assert_eq!((w.wdmd_told(), w.allowed()), (Some(15), 2));
    w.took();
    assert_eq!(w.allowed(), 3);
}

#[test]
fn a_join_for_which_wdmd_took_nothing_is_refused_and_what_is_joined_stays() {
    let mut w = joined();
    w.wait(1000).add_with(901, "M", 10).fenced("M", 1);
    w.apply(Event::Petted { result: Err("wdmd hangs".into()), until: LocalInstant::NEVER });
    assert_eq!(w.allowed(), 2, "allowed to find out that it was stopped");
    assert!(w.daemon.spaces[&name("M")].stop.is_set() && !w.daemon.spaces[&name("M")].may_write);
    assert_eq!(w.daemon.spaces[&name("M")].veto, Some(ResultCode::WATCHDOG_ERROR));
    assert!(w.daemon.is_active(&name("LS")));
}

#[test]
fn d3_each_renewal_is_told_at_once_and_never_more_than_it_is_worth() {
    let mut w = joined();
    for _ in 0..5 {
        w.pass(20).renewed_now("LS");
        assert_eq!(w.wdmd_told(), Some(80));
        w.took();
    }
    w.pass(79);
    assert!(w.wdmd_told().unwrap() <= 1, "until the last renewal's instant and no longer");
    let told = w.count(|e| matches!(e, Effect::Pet { .. }));
    assert!((20..60).contains(&told), "every five seconds and with each renewal: {told}");
    w.pass(60);
    assert_eq!(w.leaves(), [false]);
    assert_eq!(w.count(|e| matches!(e, Effect::Pet { .. })), told, "nothing is told of a lockspace that is lost");
    assert_eq!(w.count(|e| matches!(e, Effect::Fire)), 0);
}

#[test]
fn w1_what_wdmd_is_told_late_needs_no_reset() {
    let mut w = joined();
    w.wait(79_000).apply(Event::Tick);
    assert!(matches!(w.log.last(), Some(Effect::Pet { .. })));
    w.wait(5000).took();
    assert_eq!(w.count(|e| matches!(e, Effect::Fire)), 0, "it was told an instant that is over");
}

#[test]
fn a_join_that_outlasts_its_own_lease_is_good_for_a_while_only() {
    let mut w = under_wdmd();
    w.add_with(900, "LS", 2).fenced("LS", 1).armed_by_wdmd().took();
    w.pass(15);
    assert!(w.wdmd_told().unwrap() <= 1);
    for _ in 0..30 {
        w.pass(2);
        assert!(w.wdmd_told().is_some_and(|left| (14..=20).contains(&left)), "{:?}", w.wdmd_told());
    }
    // It began its last renewal two seconds ago: less than the while.
    let started_at = w.now.before(Duration::from_secs(2));
    w.joined_at("LS", started_at);
    assert_eq!(w.wdmd_told(), Some(14), "told at once");
}

#[test]
fn an_io_timeout_of_one_second_is_refused_under_wdmd_before_anything_is_begun() {
    let mut w = under_wdmd();
    w.add_with(900, "LS", 1);
    assert_eq!(w.count(|e| matches!(e, Effect::StartJoin(_))), 0);
    let refusals = w.daemon.snapshot(w.now)["refusals"].to_string();
    assert!(refusals.contains("an io_timeout of 1 s cannot be kept under wdmd"), "{refusals}");
    w.add_with(901, "M", 2);
    assert_eq!(w.count(|e| matches!(e, Effect::StartJoin(_))), 1);
}

#[test]
fn the_state_file_says_that_wdmd_keeps_the_watchdog_before_it_is_told_and_until_it_is_cleared() {
    let mut w = under_wdmd();
    let saved = |w: &World| {
        let last = w.log.iter().rev().find_map(|e| match e {
            Effect::Save(state) => Some((state.watchdog_armed, state.watchdog)),
            _ => None,
        });
        last.expect("a state file")
    };
    w.add_with(900, "LS", 10).fenced("LS", 1);
    assert_eq!(saved(&w), (true, Some(Kind::Wdmd)));
    assert!(w.wdmd_told().is_none());
    w.armed_by_wdmd().took();
    let now = w.now;
    w.joined_at("LS", now);
    w.ask(900, Request::RemLockspace { flags: RemLockspaceFlags::NONE, lockspace: wire_space("LS", 1) });
    w.apply(Event::Left { space: name("LS") });
    let disarmed = w.log.iter().position(|e| matches!(e, Effect::Disarm)).expect("it is disarmed");
    assert!(w.log[disarmed..].iter().any(|e| matches!(e, Effect::Save(_))), "saved after it");
    assert_eq!(saved(&w), (false, None));
}
