//! Two hosts on one medium, interleaved at every I/O: whatever the order, one owner for each lver, and one at a time.
//!
//! The interleaver polls two futures in the order that a schedule says, one I/O a poll. A schedule is a number of bits:
//! all of a length are run, and after its end the hosts take turns until both are done.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_io::ids::{HostTerm, Lver, RemoteTimestamp};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::stop::Stop;

use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::convert::{Sharing, exclude, share};
use crate::dblock::Dblock;
use crate::entry::given_up;
use crate::release::{Mode, release, retract};
use crate::testing::{
    ALIVE, ManualClock, Medium, Paced, Said, device, leader_at, lease, let_others_run, me, proposed, term,
};

/// Polls `a` and `b`, one I/O each time, by the bits of `schedule`; time moves on a millisecond with each.
fn interleave(
    clock: &ManualClock,
    schedule: impl Fn(usize) -> bool,
    a: impl Future<Output = ()>,
    b: impl Future<Output = ()>,
) {
    let mut futures: [Option<Pin<&mut dyn Future<Output = ()>>>; 2] = [Some(pin!(a)), Some(pin!(b))];
    let mut context = Context::from_waker(Waker::noop());
    for step in 0..20_000 {
        if futures.iter().all(Option::is_none) {
            return;
        }
        let wanted = usize::from(schedule(step));
        let which = if futures[wanted].is_some() { wanted } else { 1 - wanted };
        let done = futures[which].as_mut().is_none_or(|f| f.as_mut().poll(&mut context) == Poll::Ready(()));
        if done {
            futures[which] = None;
        }
        clock.advance(Duration::from_millis(1));
    }
    panic!("neither host comes to an end");
}

/// Who holds the lease, by what the hosts themselves believe.
#[derive(Default)]
struct Believed {
    holder: Option<(HostTerm, Lver)>,
    owners: std::collections::BTreeMap<Lver, HostTerm>,
    acquired: u32,
}

impl Believed {
    fn acquires(&mut self, who: HostTerm, lver: Lver) {
        assert_eq!(self.holder, None, "S1: {who} acquires lver {lver} beside another holder");
        assert!(self.owners.last_key_value().is_none_or(|(last, _)| *last < lver), "I2: lver only rises");
        assert_eq!(self.owners.insert(lver, who), None, "I5: one owner for each lver");
        self.holder = Some((who, lver));
        self.acquired += 1;
    }
}

/// One host: acquires `rounds` times, whatever comes of it, and gives back what it got.
async fn contender(n: u64, medium: Medium, clock: ManualClock, believed: Rc<RefCell<Believed>>, rounds: u64) {
    let disk = Paced(device(n, &medium, &clock));
    let said = Said::of(term(1, 1), &[ALIVE]).and(term(2, 1), &[ALIVE]);
    let me = me(n);
    for round in 0..rounds {
        let options = Options { backoff_seed: n * 1000 + round, ..Options::default() };
        match acquire(&disk, &clock, &said, &lease(), &me, &options, &Stop::new()).await {
            Ok(Acquired::Ours(held)) => {
                believed.borrow_mut().acquires(me.term, held.lver());
                for _ in 0..round * 3 {
                    let_others_run().await;
                    assert_eq!(medium.dblock(n), held.dblock, "whoever holds keeps its block at its lver");
                }
                // Once the release begins, nothing is held any more.
                believed.borrow_mut().holder = None;
                release(&disk, &clock, held, &me).await.unwrap();
            }
            Ok(Acquired::Theirs(refusal)) => {
                assert!(!matches!(refusal.kind, RefusalKind::Stopped | RefusalKind::SharedHolders(_)));
                if let Some(duty) = refusal.undo {
                    retract(&disk, &clock, duty, &me).await.unwrap();
                }
            }
            Err(failed) => panic!("{}", failed.error),
        }
    }
}

/// A host that acquires and keeps what it got.
async fn keeper(n: u64, medium: Medium, clock: ManualClock, believed: Rc<RefCell<Believed>>) {
    let disk = Paced(device(n, &medium, &clock));
    let said = Said::of(term(1, 1), &[ALIVE]).and(term(2, 1), &[ALIVE]);
    let options = Options { backoff_seed: n, ..Options::default() };
    let me = me(n);
    match acquire(&disk, &clock, &said, &lease(), &me, &options, &Stop::new()).await.unwrap() {
        Acquired::Ours(held) => believed.borrow_mut().acquires(me.term, held.lver()),
        Acquired::Theirs(refusal) => {
            assert!(refusal.undo.is_none(), "a lost lver is decided");
            assert!(refusal.leader.is_some());
        }
    }
}

/// How far a schedule is free; all of them are run.
const FREE_STEPS: usize = 11;

fn all_schedules(medium: impl Fn() -> Medium, check: impl Fn(&Medium, &Believed)) {
    for bits in 0u32..1 << FREE_STEPS {
        let (medium, clock, believed) = (medium(), ManualClock::waiting(), Rc::default());
        let host = |n| keeper(n, medium.clone(), clock.clone(), Rc::clone(&believed));
        interleave(
            &clock,
            |step| if step < FREE_STEPS { bits >> step & 1 == 1 } else { step % 2 == 1 },
            host(1),
            host(2),
        );
        check(&medium, &believed.borrow());
    }
}

#[test]
fn i5_two_hosts_that_want_a_free_lease_agree_on_one_owner_in_every_order() {
    let formatted = Medium::formatted(2);
    let copy = || Medium::copy_of(&formatted);
    all_schedules(copy, |medium, believed| {
        assert_eq!(believed.acquired, 1, "one of them, and not none");
        let (owner, lver) = believed.holder.unwrap();
        assert_eq!((medium.leader().owner(), medium.leader().lver), (Some(owner), lver));
    });
}

/// Host 2 has given up lver 6 after proposing itself; host 1 has adopted the value. In no order may both go on with it.
#[test]
fn two_hosts_after_a_retracted_value_agree_on_one_owner_in_every_order() {
    let formatted = Medium::formatted(2);
    let free = LeaderRecord { timestamp: RemoteTimestamp::FREE, num_hosts: 2, ..leader_at(5, term(2, 1), 2) };
    formatted.put_leader(&free);
    let given_up = proposed(6, 2, term(2, 1)).released();
    formatted.put_dblock(2, given_up);
    formatted.put_dblock(1, Dblock { inp: given_up.inp, ..proposed(6, 2001, term(2, 1)) });
    all_schedules(
        || Medium::copy_of(&formatted),
        |_, believed| {
            assert!(believed.acquired <= 1);
            if let Some((_, lver)) = believed.holder {
                assert!(lver > Lver(6), "lver 6 belongs to a host that has given it up");
            }
        },
    );
}

#[test]
fn s1_two_hosts_hand_a_lease_back_and_forth_and_never_hold_it_together() {
    let (mut all, mut busiest) = (0, 0);
    for seed in 0u64..400 {
        let (medium, clock, believed) = (Medium::formatted(2), ManualClock::waiting(), Rc::default());
        let host = |n| contender(n, medium.clone(), clock.clone(), Rc::clone(&believed), 4);
        // Bursts of different lengths: a host is held up for a while, anywhere.
        let schedule = |step: usize| {
            let burst = step as u64 / (1 + seed % 7);
            (burst ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61 & 1 == 1
        };
        interleave(&clock, schedule, host(1), host(2));
        let acquired = believed.borrow().acquired;
        all += acquired;
        busiest = busiest.max(acquired);
    }
    assert!(all >= 800, "at least two of eight attempts succeed on average: {all}");
    assert!(busiest >= 6, "and in some orders most of them: {busiest}");
}

/// Who uses a lease in which mode, by what the hosts themselves believe.
#[derive(Default)]
struct Users {
    exclusive: Option<HostTerm>,
    shared: std::collections::BTreeSet<u64>,
    /// How often it was held exclusively, shared, shared by two, and converted to be exclusive.
    counts: [u32; 4],
}

impl Users {
    fn excludes(&mut self, who: HostTerm) {
        assert_eq!(self.exclusive, None, "S1: {who} beside another exclusive holder");
        assert!(self.shared.is_empty(), "S1: {who} beside shared holders {:?}", self.shared);
        self.exclusive = Some(who);
        self.counts[0] += 1;
    }

    fn shares(&mut self, who: HostTerm) {
        assert_eq!(self.exclusive, None, "S1: {who} shares beside an exclusive holder");
        self.shared.insert(who.host_id.get());
        self.counts[1] += 1;
        self.counts[2] += u32::from(self.shared.len() > 1);
    }

    fn ends(&mut self, who: HostTerm) {
        self.exclusive = self.exclusive.filter(|other| *other != who);
        self.shared.remove(&who.host_id.get());
    }
}

/// One host that takes the lease in one mode or the other, and changes its mode in between.
async fn user(n: u64, medium: Medium, clock: ManualClock, users: Rc<RefCell<Users>>, seed: u64) {
    let disk = Paced(device(n, &medium, &clock));
    let said = Said::of(term(1, 1), &[ALIVE]).and(term(2, 1), &[ALIVE]);
    let (me, stop) = (me(n), Stop::new());
    for round in 0..4 {
        let choice = seed.wrapping_mul(2 * n + 1).wrapping_add(round) % 4;
        let mode = if choice < 3 { Mode::Shared } else { Mode::Exclusive };
        let options = Options { mode, backoff_seed: n * 1000 + round, ..Options::default() };
        let mut held = match acquire(&disk, &clock, &said, &lease(), &me, &options, &stop).await {
            Ok(Acquired::Ours(held)) => held,
            Ok(Acquired::Theirs(refusal)) => {
                if let Some(duty) = refusal.undo {
                    retract(&disk, &clock, duty, &me).await.unwrap();
                }
                continue;
            }
            Err(failed) => panic!("{}", failed.error),
        };
        match mode {
            Mode::Exclusive => users.borrow_mut().excludes(me.term),
            Mode::Shared => users.borrow_mut().shares(me.term),
        }
        for _ in 0..choice * 3 {
            let_others_run().await;
        }
        if choice == 3 {
            users.borrow_mut().ends(me.term);
            held = share(&disk, &clock, Sharing::new(held), &me).await.unwrap();
            users.borrow_mut().shares(me.term);
        } else if choice > 0 {
            match exclude(&disk, &clock, &said, &mut held.clone(), &me, &options, &stop).await {
                Ok(Acquired::Ours(exclusive)) => {
                    users.borrow_mut().ends(me.term);
                    users.borrow_mut().excludes(me.term);
                    users.borrow_mut().counts[3] += 1;
                    held = exclusive;
                }
                Ok(Acquired::Theirs(refusal)) => {
                    if let Some(duty) = refusal.undo {
                        retract(&disk, &clock, duty, &me).await.unwrap();
                    }
                    assert!(medium.host(n).mode.is_shared(), "refused, it is shared as before");
                }
                Err(failed) => panic!("{}", failed.error),
            }
        }
        let_others_run().await;
        users.borrow_mut().ends(me.term);
        release(&disk, &clock, held, &me).await.unwrap();
    }
}

#[test]
fn s1_two_hosts_share_a_lease_convert_it_and_never_have_it_exclusively_beside_the_other() {
    let mut all = [0; 4];
    for seed in 0u64..600 {
        let (medium, clock, users) = (Medium::formatted(2), ManualClock::waiting(), Rc::default());
        let host = |n| user(n, medium.clone(), clock.clone(), Rc::clone(&users), seed);
        let schedule = |step: usize| {
            let burst = step as u64 / (1 + seed % 7);
            (burst ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 61 & 1 == 1
        };
        interleave(&clock, schedule, host(1), host(2));
        let counts = users.borrow().counts;
        all.iter_mut().zip(counts).for_each(|(all, one)| *all += one);
        // Whatever the order, nobody is left in anybody's way.
        let (leader, hosts) = (medium.leader(), [medium.host(1), medium.host(2)]);
        let owner = leader.owner().map(|owner| &hosts[owner.host_id.slot() as usize].dblock);
        assert!(leader.is_free() || owner.is_some_and(|dblock| given_up(&leader, dblock, 1)), "{leader:?}");
        assert!(hosts.iter().all(|host| !host.mode.is_shared()));
    }
    let [exclusive, shared, together, converted] = all;
    assert!(exclusive > 300 && shared > 600 && together > 60 && converted > 60, "{all:?}");
}
