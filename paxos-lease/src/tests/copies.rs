//! A lease on several disks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_io::bytes::u64_at;
use holdfast_io::clock::LocalInstant;
use holdfast_io::disk::{Disk, IoError, IoErrorKind, Op, ReadDisk};
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver};
use holdfast_io::leader::LeaderError;
use holdfast_io::seal::{self, AreaUuid, Seal, SealedKind};
use holdfast_io::stop::Stop;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::Geometry;
use nix::errno::Errno;

use super::held;
use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::area::Me;
use crate::ask::{Ask, ask, asked_of};
use crate::convert::{AfterShare, ShareFailed, Sharing, exclude, share};
use crate::copies::{Copies, Copy, Place};
use crate::error::{AcquireError, AcquireFailed, AreaError};
use crate::layout::{LEADER, REQUEST, dblock_of, uuid_sector};
use crate::liveness::{Gone, HostLiveness, LivenessError, Verdict};
use crate::release::{Held, Mode, Retract, release, retract};
use crate::request::Force;
use crate::standing::{Loss, Standing, standing};
use crate::tend::tend;
use crate::testing::{
    ALIVE, Fate, Kind, ManualClock, Medium, SMALL, Said, TestDevice, TestEngine, device, host, leader_at, lease,
    let_others_run, me, term, uuid,
};
use crate::value::{read_value, write_value};

/// The disks of a lease, as they were formatted.
pub(super) fn media(copies: u8) -> Vec<Medium> {
    (1..=copies).map(|copy| Medium::formatted_as(3, Some(Place { copy, copies }))).collect()
}

pub(super) fn all<D: Disk>(disks: Vec<D>, clock: &ManualClock, who: HostTerm) -> Copies<D, ManualClock> {
    let list = disks.into_iter().map(|disk| Copy { disk, at: lease().at }).collect();
    Copies::new(list, clock.clone(), Some((who, uuid())))
}

pub(super) fn devices(n: u64, media: &[Medium], clock: &ManualClock) -> Copies<TestDevice, ManualClock> {
    all(media.iter().map(|medium| device(n, medium, clock)).collect(), clock, term(n, 1))
}

/// Polls it to its end while time goes on: a disk that hangs must not end everything else by its deadline.
pub(super) fn driven<T>(clock: &ManualClock, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        clock.advance(Duration::from_millis(20));
    }
}

pub(super) fn acquired<D: Disk>(disks: &D, clock: &ManualClock, n: u64, mode: Mode) -> Result<Acquired, AcquireFailed> {
    let options = Options { mode, ..Options::default() };
    driven(clock, acquire(disks, clock, &Said::nothing(), &lease(), &me(n), &options, &Stop::new()))
}

pub(super) fn owned<D: Disk>(disks: &D, clock: &ManualClock, n: u64) -> Held {
    held(acquired(disks, clock, n, Mode::Exclusive))
}

pub(super) fn given_back<D: Disk>(disks: &D, clock: &ManualClock, n: u64, held: Held) {
    driven(clock, release(disks, clock, held, &me(n))).unwrap();
}

fn area_error(result: Result<Acquired, AcquireFailed>) -> AreaError {
    match result {
        Err(AcquireFailed { error: AcquireError::Area(error), undo: None }) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lease_is_taken_and_given_back_on_each_number_of_disks() {
    for copies in 2..=4 {
        let (media, clock) = (media(copies), ManualClock::waiting());
        let disks = devices(1, &media, &clock);
        let held = owned(&disks, &clock, 1);
        for medium in &media {
            assert_eq!((medium.leader().owner(), medium.leader().lver), (Some(term(1, 1)), Lver(1)));
            assert_eq!(medium.dblock(1), held.dblock);
        }
        given_back(&disks, &clock, 1, held);
        assert!(media.iter().all(|medium| medium.leader().is_free() && medium.dblock(1).is_released()));
        assert_eq!(owned(&devices(2, &media, &clock), &clock, 2).lver(), Lver(2));
    }
}

/// Any one disk of three, at each I/O of an acquire and a release: it fails, fails though it did it, or hangs.
#[test]
fn one_disk_of_three_may_fail_or_hang_at_any_step() {
    for bad in 0..3 {
        for step in 0..10 {
            for fate in [Fate::Fails, Fate::DoneButFails, Fate::Held] {
                let (media, clock) = (media(3), ManualClock::waiting());
                let disks = devices(1, &media, &clock);
                let engine = disks.list()[bad].disk.engine();
                (step..20).for_each(|n| engine.fate(n, fate));
                let held = owned(&disks, &clock, 1);
                let other = devices(2, &media, &clock);
                let refused = acquired(&other, &clock, 2, Mode::Exclusive);
                assert!(matches!(refused, Ok(Acquired::Theirs(r)) if r.kind == RefusalKind::Alive), "{bad} {step}");
                given_back(&disks, &clock, 1, held);
                // What was held lands now, over what the others know; the next owner sees what counts.
                disks.list().iter().for_each(|disk| disk.disk.engine().release());
                assert_eq!(owned(&other, &clock, 2).lver(), Lver(2), "disk {bad}, step {step}");
            }
        }
    }
}

/// A disk that misses one host's doings and is back for the next, while another is away: every order of absences.
#[test]
fn stale_disks_come_back_in_every_order() {
    for order in 0..3usize.pow(5) {
        let (media, clock) = (media(3), ManualClock::waiting());
        for round in 0..5 {
            let away = order / 3usize.pow(round) % 3;
            let n = u64::from(round % 2) + 1;
            let disks = devices(n, &media, &clock);
            let engine = disks.list()[away].disk.engine();
            (0..50).for_each(|step| engine.fate(step, Fate::Fails));
            let held = owned(&disks, &clock, n);
            assert_eq!(held.lver(), Lver(u64::from(round) + 1), "order {order}");
            given_back(&disks, &clock, n, held);
        }
    }
}

#[test]
fn two_disks_lost_of_three_are_an_error_that_says_so() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    for bad in &disks.list()[..2] {
        (0..50).for_each(|step| bad.disk.engine().fate(step, Fate::Fails));
    }
    assert!(matches!(area_error(acquired(&disks, &clock, 1, Mode::Exclusive)), AreaError::Io(_)));
    assert!(media.iter().all(|medium| medium.dblock(1).mbal.is_none()), "nothing was written");
}

#[test]
fn what_is_no_copy_is_not_used_and_not_written() {
    let clock = ManualClock::waiting();
    let foreign = [
        Medium::default(),
        Medium::formatted(3),
        Medium::formatted_as(3, Some(Place { copy: 3, copies: 4 })),
        Medium::formatted_as(3, Some(Place { copy: 1, copies: 3 })),
    ];
    for strange in foreign {
        let before = (strange.sector(LEADER), strange.sector(dblock_of(host(1))));
        let disks = [&media(3)[..2], std::slice::from_ref(&strange)].concat();
        let copies = devices(1, &disks, &clock);
        let held = owned(&copies, &clock, 1);
        given_back(&copies, &clock, 1, held);
        assert_eq!((strange.sector(LEADER), strange.sector(dblock_of(host(1)))), before);
        // And it cannot be one of the two that a majority needs.
        let copies = devices(1, &[media(3).remove(0), strange.clone(), strange], &clock);
        assert!(acquired(&copies, &clock, 1, Mode::Exclusive).is_err());
    }
}

#[test]
fn a_part_of_the_disks_is_not_taken_for_all_of_them() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let alone = area_error(acquired(&device(1, &media[0], &clock), &clock, 1, Mode::Exclusive));
    assert!(
        matches!(alone, AreaError::Copies { found: Some(Place { copy: 1, copies: 3 }), expected: 1, .. }),
        "{alone}"
    );
    assert!(acquired(&devices(1, &media[..2], &clock), &clock, 1, Mode::Exclusive).is_err());
}

#[test]
fn s1_areas_that_do_not_say_that_they_are_copies_are_none_together() {
    let clock = ManualClock::waiting();
    let unsealed = || {
        let medium = Medium::formatted(3);
        medium.put_leader(&medium.leader());
        medium.write(lease().at.sector(uuid_sector(SMALL), SMALL.sector()), &[0; 512]);
        medium
    };
    let alone = || Medium::formatted(3);
    for (copies, word) in
        [([unsealed(), unsealed(), unsealed()], "sanlock"), ([alone(), alone(), alone()], "only copy")]
    {
        let error = area_error(acquired(&devices(1, &copies, &clock), &clock, 1, Mode::Exclusive));
        assert!(error.to_string().contains(word), "{error}");
        assert!(matches!(error, AreaError::Io(IoError { kind: IoErrorKind::NoCopy(_), .. })), "{error:?}");
        assert!(copies.iter().all(|medium| medium.dblock(1).mbal.is_none()), "nothing was written");
    }
    // One that was formatted anew by sanlock is none beside two that are copies, and does not stop them.
    let again = [media(3), vec![unsealed()]].concat();
    held(acquired(&devices(1, &again[1..], &clock), &clock, 1, Mode::Exclusive));
    assert!(again[3].dblock(1).mbal.is_none());
}

#[test]
fn a_host_id_beyond_the_sectors_of_a_lease_is_refused_on_several_disks_as_on_one() {
    let clock = ManualClock::waiting();
    let few = |copies: u8| -> Vec<Medium> {
        let place = |copy| (copies > 1).then_some(Place { copy, copies });
        (1..=copies).map(|copy| Medium::formatted_with(Geometry::ALL[2], 3, place(copy))).collect()
    };
    let most = Geometry::ALL[2].max_hosts();
    let beyond = u64::from(most) + 1;
    assert!(beyond <= 2000, "{most}");
    let (alone, together) = (few(1), few(3));
    let one = area_error(acquired(&device(beyond, &alone[0], &clock), &clock, beyond, Mode::Exclusive));
    let three = area_error(acquired(&devices(beyond, &together, &clock), &clock, beyond, Mode::Exclusive));
    for error in [one, three] {
        let AreaError::Leader { source, .. } = error else { panic!("{error:?}") };
        assert!(matches!(*source, LeaderError::NumHosts { .. }), "{source:?}");
    }
}

#[test]
fn a_damaged_sector_on_one_disk_of_three_is_made_up_for_and_on_two_it_is_an_error() {
    for sector in [LEADER, dblock_of(host(2)), uuid_sector(SMALL)] {
        let (media, clock) = (media(3), ManualClock::waiting());
        given_back(&devices(2, &media, &clock), &clock, 2, owned(&devices(2, &media, &clock), &clock, 2));
        media[1].damage(sector, if sector == uuid_sector(SMALL) { 230 } else { 9 });
        let disks = devices(1, &media, &clock);
        let held = owned(&disks, &clock, 1);
        given_back(&disks, &clock, 1, held);
        media[2].damage(sector, if sector == uuid_sector(SMALL) { 230 } else { 9 });
        assert!(acquired(&devices(3, &media, &clock), &clock, 3, Mode::Exclusive).is_err() || sector == LEADER);
    }
}

/// Two of three disks in trouble at once, for which nothing is promised but that our own sector never says less than it did: one has
/// missed a version, one is gone, and the copy on the third is damaged in its seal, so that it could be sanlock's. Found by the
/// simulator (`--disks 3`, seed 30375).
#[test]
fn i2_a_copy_of_our_own_sector_that_has_lost_its_seal_is_not_overruled_by_an_older_one() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    given_back(&disks, &clock, 1, owned(&disks, &clock, 1));
    let [_, stale, gone] = disks.list() else { panic!("three disks") };
    let [stale, gone] = [stale, gone].map(|copy| copy.disk.engine());
    fails(stale, stale.steps().len());
    let shared = held(acquired(&disks, &clock, 1, Mode::Shared));
    assert_eq!((media[1].dblock(1).lver, media[0].dblock(1).lver), (Lver(1), Lver(2)));
    media[0].damage(dblock_of(host(1)), 229);
    fails(gone, gone.steps().len());
    (0..100).for_each(|step| stale.fate(step, Fate::Done));
    // The one that has failed is not read before it was looked at again.
    let failed = driven(&clock, release(&disks, &clock, shared, &me(1))).unwrap_err();
    driven(&clock, retract(&disks, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    assert!(media[..2].iter().all(|medium| medium.dblock(1).lver == Lver(2) && !medium.host(1).mode.is_shared()));
}

/// The same where it is opened anew, in the middle of a version that nobody has published: no number is used twice.
#[test]
fn i4_a_number_of_a_ballot_whose_sector_has_lost_its_seal_is_not_used_again() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    given_back(&disks, &clock, 1, owned(&disks, &clock, 1));
    let second = devices(1, &media, &clock);
    let engines: Vec<_> = second.list().iter().map(|copy| copy.disk.engine()).collect();
    fails(engines[1], 0);
    // The area, and phase 1: then everything fails.
    [0, 2].into_iter().for_each(|disk| fails(engines[disk], 2));
    assert!(acquired(&second, &clock, 1, Mode::Exclusive).is_err());
    let begun = media[0].dblock(1);
    assert_eq!((begun.lver, media[1].dblock(1).lver), (Lver(2), Lver(1)));
    media[0].damage(dblock_of(host(1)), 229);
    let third = devices(1, &media, &clock);
    fails(third.list()[2].disk.engine(), 0);
    assert_eq!(owned(&third, &clock, 1).lver(), Lver(2));
    assert!(media[0].dblock(1).mbal > begun.mbal, "{:?} after {begun:?}", media[0].dblock(1));
}

/// From an I/O on.
fn fails(engine: &TestEngine, step: usize) {
    (step..step + 50).for_each(|step| engine.fate(step, Fate::Fails));
}

#[test]
fn a_claim_that_was_taken_back_stands_in_nobodys_way_on_a_disk_that_was_away() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let shared = held(acquired(&disks, &clock, 1, Mode::Shared));
    let engine = disks.list()[0].disk.engine();
    let from = engine.steps().len();
    (from..from + 20).for_each(|step| engine.fate(step, Fate::Fails));
    given_back(&disks, &clock, 1, shared);
    assert!(media[0].host(1).mode.is_shared(), "the claim is still there");
    for away in 1..3 {
        let other = devices(2, &media, &clock);
        let engine = other.list()[away].disk.engine();
        (0..50).for_each(|step| engine.fate(step, Fate::Fails));
        let held = owned(&other, &clock, 2);
        given_back(&other, &clock, 2, held);
    }
}

/// The disks of generation `generation` of host `n`.
fn devices_of(n: u64, generation: u64, media: &[Medium], clock: &ManualClock) -> Copies<TestDevice, ManualClock> {
    all(media.iter().map(|medium| device(n, medium, clock)).collect(), clock, term(n, generation))
}

fn acquired_by<D: Disk>(disks: &D, clock: &ManualClock, who: HostTerm) -> Result<Acquired, AcquireFailed> {
    let me = Me { term: who, ..me(who.host_id.get()) };
    driven(clock, acquire(disks, clock, &Said::nothing(), &lease(), &me, &Options::default(), &Stop::new()))
}

/// Generation 7 proposes itself, takes that back, and gets neither onto more than one disk before it dies. Generation 8, which does not
/// see that disk, holds the same lver.
#[test]
fn s1_released_of_an_earlier_generation_does_not_end_what_a_later_one_holds_at_the_same_lver() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let seventh = devices_of(1, 7, &media, &clock);
    for other in &seventh.list()[1..] {
        // Phase 2 of its ballot, and its RELEASED.
        [3, 6].into_iter().for_each(|step| other.disk.engine().fate(step, Fate::Fails));
    }
    let undo = acquired_by(&seventh, &clock, term(1, 7)).err().and_then(|failed| failed.undo);
    let duty = undo.expect("its proposal is on one disk");
    let me = Me { term: term(1, 7), ..me(1) };
    assert!(driven(&clock, retract(&seventh, &clock, duty, &me)).is_err());
    let said = |medium: &Medium| (medium.dblock(1).bal.is_some(), medium.dblock(1).is_released());
    assert_eq!(media.iter().map(said).collect::<Vec<_>>(), [(true, true), (false, false), (false, false)]);

    let eighth = devices_of(1, 8, &media, &clock);
    (0..50).for_each(|step| eighth.list()[0].disk.engine().fate(step, Fate::Fails));
    let held = held(acquired_by(&eighth, &clock, term(1, 8)));
    assert_eq!(held.lver(), Lver(1));
    let refused = acquired(&devices(2, &media, &clock), &clock, 2, Mode::Exclusive);
    assert!(matches!(&refused, Ok(Acquired::Theirs(r)) if r.kind == RefusalKind::Alive), "{refused:?}");
}

/// The lockspace is made anew while the lease is kept: generation 1 follows 50.
#[test]
fn what_was_written_before_a_lockspace_was_made_anew_is_older_than_what_is_written_since() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let before = devices_of(1, 50, &media, &clock);
    let held = held(acquired_by(&before, &clock, term(1, 50)));
    driven(&clock, release(&before, &clock, held, &Me { term: term(1, 50), ..me(1) })).unwrap();

    let anew = |n| {
        let list = media.iter().map(|medium| Copy { disk: device(n, medium, &clock), at: lease().at }).collect();
        Copies::new(list, clock.clone(), Some((term(n, 1), AreaUuid(uuid::Uuid::from_u128(77)))))
    };
    let disks = anew(1);
    let away = disks.list()[0].disk.engine();
    (0..50).for_each(|step| away.fate(step, Fate::Fails));
    let shared = super::held(acquired(&disks, &clock, 1, Mode::Shared));
    assert!(!media[0].host(1).mode.is_shared(), "the first disk has what was written before");
    // Its claim is of a smaller generation than what stands there, and the later of the two.
    let refused = acquired(&anew(2), &clock, 2, Mode::Exclusive);
    assert!(
        matches!(&refused, Ok(Acquired::Theirs(r)) if matches!(r.kind, RefusalKind::SharedHolders(_))),
        "{refused:?}"
    );
    given_back(&disks, &clock, 1, shared);
}

#[test]
fn a_request_that_was_taken_back_is_not_heard_from_a_disk_that_was_away() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let held = owned(&devices(1, &media, &clock), &clock, 1);
    let asks = |lver, force, away: Option<usize>| {
        let other = devices(2, &media, &clock);
        if let Some(away) = away {
            (0..50).for_each(|step| other.list()[away].disk.engine().fate(step, Fate::Fails));
        }
        driven(&clock, ask(&other, &clock, &lease(), &me(2), Ask { lver, force })).unwrap();
    };
    let found = || driven(&clock, asked_of(&devices(1, &media, &clock), &clock, &held, &me(1))).unwrap();
    asks(None, Some(Force::Graceful), None);
    assert_eq!(found(), Some(Force::Graceful));
    asks(Some(Lver(0)), None, Some(2));
    assert_eq!(found(), None);
    // Nor does one of an earlier format of the area count, where there is no majority: the third disk is away, and has the word.
    let mut stranger = media[2].sector(REQUEST);
    let seal = seal::read(&stranger, SealedKind::Plain, REQUEST).unwrap().unwrap();
    let other = AreaUuid(uuid::Uuid::from_u128(5));
    seal::write(&mut stranger, SealedKind::Plain, &Seal { area: other, ..seal });
    media[0].write(lease().at.sector(REQUEST, SMALL.sector()), &stranger);
    assert_eq!(found(), Some(Force::Graceful), "the third is of this format, and asks for more than the second");
}

/// Where no majority says the same: a request for whoever had the lease before is none for who has it now, however far it asked to go, and
/// of two for the same owner the harder one is heard.
#[test]
fn a_request_for_the_owner_is_not_lost_beside_one_for_an_earlier_owner_or_a_milder_one() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let asks = |lver, force, on: &[usize]| {
        let other = devices(2, &media, &clock);
        for (n, copy) in other.list().iter().enumerate().filter(|(n, _)| !on.contains(n)) {
            // What is read there is read, and nothing is written: R area, R request, W request.
            copy.disk.engine().fate(2, Fate::Fails);
            assert!(n < 3);
        }
        driven(&clock, ask(&other, &clock, &lease(), &me(2), Ask { lver, force }))
    };
    let before = owned(&devices(1, &media, &clock), &clock, 1);
    asks(Some(Lver(10)), Some(Force::Graceful), &[0, 1, 2]).unwrap();
    given_back(&devices(1, &media, &clock), &clock, 1, before);
    let held = owned(&devices(1, &media, &clock), &clock, 1);
    assert_eq!(held.lver(), Lver(2));
    // It stands on all of them, and outbids nobody.
    asks(None, Some(Force::Graceful), &[1, 2]).unwrap();
    assert!(asks(None, Some(Force::Kill), &[2]).is_err(), "on one disk alone");
    let found = |away: usize| {
        let disks = devices(1, &media, &clock);
        (0..50).for_each(|step| disks.list()[away].disk.engine().fate(step, Fate::Fails));
        driven(&clock, asked_of(&disks, &clock, &held, &me(1))).unwrap()
    };
    assert_eq!(found(0), Some(Force::Kill), "milder on the second, harder on the third");
    assert_eq!(found(1), Some(Force::Kill), "of an earlier owner on the first");
    assert_eq!(found(2), Some(Force::Graceful));
}

/// The lockspace is made anew while host 1 shares a lease that is kept, and nobody of that time ever comes back.
#[test]
fn a_claim_of_before_the_lockspace_was_made_anew_stands_in_nobodys_way() {
    let (media, clock) = (media(3), ManualClock::waiting());
    held(acquired(&devices(1, &media, &clock), &clock, 1, Mode::Shared));
    let anew = |n| {
        let list = media.iter().map(|medium| Copy { disk: device(n, medium, &clock), at: lease().at }).collect();
        Copies::new(list, clock.clone(), Some((term(n, 1), AreaUuid(uuid::Uuid::from_u128(77)))))
    };
    let disks = anew(2);
    let taken = owned(&disks, &clock, 2);
    given_back(&disks, &clock, 2, taken);
    // A claim of today does stand in the way.
    held(acquired(&anew(3), &clock, 3, Mode::Shared));
    let refused = acquired(&disks, &clock, 2, Mode::Exclusive);
    assert!(matches!(&refused, Ok(Acquired::Theirs(r)) if r.kind == RefusalKind::SharedHolders(vec![term(3, 1)])));
}

/// The claim of a host that died stays where it is on several disks. A host that has joined since waits until it has seen that for itself,
/// if it may; it does not wait for one that lives.
#[test]
fn a_newcomer_waits_out_a_dead_sharer_on_several_disks_if_it_may_wait() {
    let (media, clock) = (media(3), ManualClock::waiting());
    held(acquired(&devices(1, &media, &clock), &clock, 1, Mode::Shared));
    let silent = Verdict::Silent { earliest: LocalInstant::NEVER };
    let takes = |wait_for_silent, said: &[Verdict]| {
        let (said, disks) = (Said::of(term(1, 1), said), devices(2, &media, &clock));
        let options = Options { wait_for_silent, ..Options::default() };
        driven(&clock, acquire(&disks, &clock, &said, &lease(), &me(2), &options, &Stop::new()))
    };
    let gone = Verdict::Gone(Gone::Silent);
    for (waits, said) in [(false, &[silent, gone][..]), (true, &[ALIVE, gone]), (true, &[silent, ALIVE])] {
        let refused = takes(waits, said);
        assert!(matches!(&refused, Ok(Acquired::Theirs(r)) if matches!(r.kind, RefusalKind::SharedHolders(_))));
    }
    held(takes(true, &[silent, Verdict::Unknown, gone]));
}

/// The third disk fails in one read and is back at once: what is written next is on it, too.
#[test]
fn a_disk_that_failed_once_is_written_all_the_same() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let engine = disks.list()[2].disk.engine();
    // The read of the blocks in phase 1.
    engine.fate(2, Fate::Fails);
    let held = owned(&disks, &clock, 1);
    assert_eq!(media[2].leader().owner(), Some(term(1, 1)));
    given_back(&disks, &clock, 1, held);
    assert!(media[2].leader().is_free() && media[2].dblock(1).is_released());
}

/// Its disk fails, and there is another lease in its place when it is looked at again: that one is not written.
#[test]
fn a_disk_that_failed_and_was_replaced_is_not_written() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let held = owned(&disks, &clock, 1);
    given_back(&disks, &clock, 1, held);
    let strange = Medium::formatted(3);
    media[2].become_copy_of(&strange);
    let held = owned(&disks, &clock, 1);
    assert_eq!((held.lver(), media[2].leader().lver), (Lver(2), Lver(0)));
}

/// A write of ours that did not count has used its stamp up, even for whoever opens the disks anew.
#[test]
fn no_two_writes_of_ours_have_one_stamp() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let first = devices(1, &media, &clock);
    // Phase 2 lands on the first disk alone.
    first.list()[1..].iter().for_each(|other| other.disk.engine().fate(3, Fate::Fails));
    assert!(acquired(&first, &clock, 1, Mode::Exclusive).is_err());
    let stamp = |medium: &Medium| {
        let sector = medium.sector(dblock_of(host(1)));
        (u64_at(&sector, 144), u64_at(&sector, 152))
    };
    assert_eq!([stamp(&media[0]), stamp(&media[1])], [(1, 2), (1, 1)]);
    let second = devices(1, &media, &clock);
    // It sees its own sector by the other two, and hears of the first too late to read it, but not too late to count on.
    let held = owned(&second, &clock, 1);
    assert!(media.iter().all(|medium| stamp(medium) > (1, 2)), "{:?}", stamp(&media[0]));
    given_back(&second, &clock, 1, held);
}

/// A disk that answers after all others.
struct Last {
    disk: TestDevice,
    last: bool,
}

impl ReadDisk for Last {
    fn path(&self) -> &Arc<str> {
        self.disk.path()
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        if self.last {
            let_others_run().await;
        }
        self.disk.read(at, len, deadline).await
    }
}

impl Disk for Last {
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        if self.last {
            let_others_run().await;
        }
        self.disk.write(at, data, deadline).await
    }

    async fn reaped(&self) {
        self.disk.reaped().await;
    }
}

/// A disk that did not answer once, and is the last to answer from then on, is waited for again after a while.
#[test]
fn a_disk_that_was_late_once_gets_another_chance() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let last = |(i, medium)| Last { disk: device(1, medium, &clock), last: i == 2 };
    let disks = all(media.iter().enumerate().map(last).collect(), &clock, term(1, 1));
    disks.list()[2].disk.disk.engine().fate(0, Fate::Held);
    for _ in 0..10 {
        let held = owned(&disks, &clock, 1);
        given_back(&disks, &clock, 1, held);
    }
    assert_eq!(media[2].leader().lver, Lver(10));
}

/// A7: it was paused as a whole, and others have found it dead. Nobody clears its claim here, and it finds out all the same.
#[test]
fn a7_a_sharer_whose_claim_was_passed_over_finds_that_it_has_lost_the_lease() {
    for away in [None, Some(0), Some(1), Some(2)] {
        let (media, clock) = (media(3), ManualClock::waiting());
        let paused = devices(1, &media, &clock);
        let shared = held(acquired(&paused, &clock, 1, Mode::Shared));
        let stands = || driven(&clock, standing(&paused, &clock, &shared, &me(1))).unwrap();
        assert_eq!(stands(), Standing::Ours);

        let others = devices(2, &media, &clock);
        if let Some(away) = away {
            (0..80).for_each(|step| others.list()[away].disk.engine().fate(step, Fate::Fails));
        }
        let dead = Said::of(term(1, 1), &[Verdict::Gone(Gone::Silent)]);
        let options = Options::default();
        let taken = driven(&clock, acquire(&others, &clock, &dead, &lease(), &me(2), &options, &Stop::new()));
        let taken = held(taken);
        assert_eq!(stands(), Standing::Lost(Loss::ClaimCleared), "{away:?}");
        // Nor does it go on when that owner has given the lease back, and had it again; whoever shares it after him is not meant.
        given_back(&others, &clock, 2, taken);
        assert_eq!(stands(), Standing::Lost(Loss::ClaimCleared), "{away:?}");
        let again = held(acquired(&others, &clock, 2, Mode::Shared));
        assert_eq!(stands(), Standing::Lost(Loss::ClaimCleared), "{away:?}");
        let third = devices(3, &media, &clock);
        let beside = held(acquired(&third, &clock, 3, Mode::Shared));
        assert_eq!(driven(&clock, standing(&third, &clock, &beside, &me(3))).unwrap(), Standing::Ours);
        assert_eq!(driven(&clock, standing(&others, &clock, &again, &me(2))).unwrap(), Standing::Ours);
        given_back(&third, &clock, 3, beside);
        given_back(&others, &clock, 2, again);

        // Nor does it become its owner, as if it had shared it all the while. Its claim is in others' way until it takes that back.
        let (hosts, stop) = (Said::nothing(), Stop::new());
        let failed =
            driven(&clock, exclude(&paused, &clock, &hosts, &mut shared.clone(), &me(1), &options, &stop)).unwrap_err();
        assert!(matches!(failed.error, AcquireError::ClaimGone { .. }), "{failed:?}");
        driven(&clock, retract(&paused, &clock, failed.undo.unwrap(), &me(1))).unwrap();
        assert!(matches!(acquired(&third, &clock, 3, Mode::Exclusive), Ok(Acquired::Theirs(_))));
        given_back(&paused, &clock, 1, shared);
        given_back(&third, &clock, 3, owned(&third, &clock, 3));
    }
}

/// Another host publishes the record for the one that is about to share the lease, and its last disk misses what it says from then on. For as long as
/// it shares the lease any one disk may go, and others share it too.
#[test]
fn a_lease_that_is_shared_can_be_shared_with_any_one_disk_away_whoever_published_it() {
    for away in 0..3 {
        let (media, clock) = (media(3), ManualClock::waiting());
        let disks = devices(1, &media, &clock);
        for copy in disks.list() {
            copy.disk.engine().before(5, |m| m.put_leader(&leader_at(1, term(1, 1), 2)));
        }
        (6..20).for_each(|step| disks.list()[2].disk.engine().fate(step, Fate::Fails));
        let shared = held(acquired(&disks, &clock, 1, Mode::Shared));
        let other = devices(2, &media, &clock);
        (0..50).for_each(|step| other.list()[away].disk.engine().fate(step, Fate::Fails));
        let also = held(acquired(&other, &clock, 2, Mode::Shared));
        assert_eq!((shared.lver(), also.lver()), (Lver(1), Lver(2)), "without disk {away}");
    }
}

/// P is paused as a whole. Its successor's record was published by a third host, which got it onto one disk before it died; that disk is lost.
#[test]
fn a7_a_paused_owner_finds_its_successor_though_that_was_published_on_one_disk_alone() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let paused = devices(1, &media, &clock);
    let before = owned(&paused, &clock, 1);

    let others = devices(2, &media, &clock);
    others.list()[0].disk.engine().before(6, |m| m.put_leader(&leader_at(2, term(2, 1), 3)));
    let (gone, options) = (Said::of(term(1, 1), &[Verdict::Gone(Gone::Silent)]), Options::default());
    let taken = held(driven(&clock, acquire(&others, &clock, &gone, &lease(), &me(2), &options, &Stop::new())));
    assert_eq!((taken.lver(), taken.leader.write_id), (Lver(2), 2));

    let lost = paused.list()[0].disk.engine();
    (lost.steps().len()..100).for_each(|step| lost.fate(step, Fate::Fails));
    let stands = driven(&clock, standing(&paused, &clock, &before, &me(1))).unwrap();
    assert!(matches!(stands, Standing::Lost(Loss::Taken { .. })), "{stands:?}");
    given_back(&others, &clock, 2, taken);
    assert!(media[1].leader().is_free());
}

/// The word that a lver is over waits for an older write to one disk, and whoever waited for it has gone. Once the older one has landed
/// the disk is told, and another one may go.
#[test]
fn what_a_slow_disk_has_missed_of_our_own_sector_is_written_there_once_it_can_be() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let slow = disks.list()[2].disk.engine();
    // Phase 2 hangs there.
    slow.fate(3, Fate::Held);
    let shared = held(acquired(&disks, &clock, 1, Mode::Shared));
    assert!(media[0].dblock(1).is_released() && media[0].host(1).mode.is_shared());
    let tended = || driven(&clock, tend(&disks, &clock, &shared, &me(1), Standing::Ours)).unwrap();
    let writes = || slow.steps().iter().filter(|step| **step == (Op::Write, Kind::Own)).count();
    let before = writes();
    tended();
    assert_eq!(writes(), before, "I6: nothing is issued while the older write is on its way");
    slow.release();
    assert!(!media[2].dblock(1).is_released());
    tended();
    assert_eq!(media[2].sector(dblock_of(host(1))), media[0].sector(dblock_of(host(1))));
    tended();
    assert_eq!(writes(), before + 1, "and that is it");
}

/// Writes that hung for long have landed over the leader record.
#[test]
fn a_record_that_fell_back_is_written_again_by_its_owner_and_freed_again_by_a_sharer() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    given_back(&disks, &clock, 1, owned(&disks, &clock, 1));
    let taken = owned(&disks, &clock, 1);
    let tended = |held: &Held| {
        let found = driven(&clock, standing(&disks, &clock, held, &me(1))).unwrap();
        driven(&clock, tend(&disks, &clock, held, &me(1), found)).unwrap();
        found
    };
    media.iter().for_each(|medium| medium.put_leader(&leader_at(1, term(3, 1), 3)));
    assert_eq!(tended(&taken), Standing::Outdated);
    assert!(media.iter().all(|medium| medium.leader() == taken.leader));
    assert_eq!(tended(&taken), Standing::Ours);

    let shared = driven(&clock, share(&disks, &clock, Sharing::new(taken), &me(1))).unwrap();
    media[..2].iter().for_each(|medium| medium.put_leader(&leader_at(2, term(1, 1), 2)));
    media[2].put_leader(&leader_at(1, term(3, 1), 3));
    assert_eq!(tended(&shared), Standing::Ours);
    assert!(media.iter().all(|medium| medium.leader().is_free() && medium.leader().lver == Lver(2)));
    // Another host's it leaves alone.
    let theirs = leader_at(3, term(2, 1), 2);
    media.iter().for_each(|medium| medium.put_leader(&theirs));
    tended(&shared);
    assert!(media.iter().all(|medium| medium.leader() == theirs));
}

fn value_of<D: Disk>(disks: &Copies<D, ManualClock>, clock: &ManualClock, n: u64, held: &Held) -> String {
    let value = driven(clock, read_value(disks, clock, held, &me(n))).unwrap();
    String::from_utf8(value).unwrap().trim_end_matches('\0').to_owned()
}

/// Any one disk of three, at each I/O of a whole round: it fails, fails though it did it, or hangs. The next owner finds the value, with
/// whichever disk away; and so does the one after him, who has set none.
#[test]
fn a_value_is_handed_on_though_one_disk_of_three_fails_or_hangs_at_any_step() {
    for bad in 0..3 {
        for step in 0..14 {
            for fate in [Fate::Fails, Fate::DoneButFails, Fate::Held] {
                let (media, clock) = (media(3), ManualClock::waiting());
                let disks = devices(1, &media, &clock);
                let first = owned(&disks, &clock, 1);
                assert_eq!(value_of(&disks, &clock, 1, &first), "");
                driven(&clock, write_value(&disks, &clock, &first, &me(1), b"old")).unwrap();
                given_back(&disks, &clock, 1, first);

                let engine = disks.list()[bad].disk.engine();
                let so_far = engine.steps().len();
                (step..24).for_each(|n| engine.fate(so_far + n, fate));
                let second = owned(&disks, &clock, 1);
                assert_eq!(value_of(&disks, &clock, 1, &second), "old");
                driven(&clock, write_value(&disks, &clock, &second, &me(1), b"new")).unwrap();
                given_back(&disks, &clock, 1, second);

                // The disk that missed things is away from the next two, and another one from the last.
                for n in [2, 3].into_iter().take(step % 3) {
                    let others = devices(n, &media, &clock);
                    (0..60).for_each(|step| others.list()[bad].disk.engine().fate(step, Fate::Fails));
                    let third = owned(&others, &clock, n);
                    assert_eq!(value_of(&others, &clock, n, &third), "new", "{bad} {step} {fate:?}");
                    given_back(&others, &clock, n, third);
                }
                // What was held lands now, over what others know.
                disks.list().iter().for_each(|disk| disk.disk.engine().release());
                let last = devices(2, &media, &clock);
                (0..60).for_each(|step| last.list()[(bad + 1) % 3].disk.engine().fate(step, Fate::Fails));
                let held = owned(&last, &clock, 2);
                assert_eq!(value_of(&last, &clock, 2, &held), "new", "{bad} {step} {fate:?}, another disk away");
            }
        }
    }
}

/// A value whose write hangs on one disk lands there when another host has set the next ones, the last of them without a third disk.
#[test]
fn a_value_that_lands_late_falls_on_nothing_that_counts() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let slow = devices(1, &media, &clock);
    let first = owned(&slow, &clock, 1);
    let engine = slow.list()[2].disk.engine();
    let so_far = engine.steps().len();
    // Its dblocks, its own sector, the value: from then on the disk hangs.
    (so_far + 2..so_far + 20).for_each(|step| engine.fate(step, Fate::Held));
    driven(&clock, write_value(&slow, &clock, &first, &me(1), b"one")).unwrap();
    given_back(&slow, &clock, 1, first);

    let quick = devices(2, &media, &clock);
    for (before, next) in [("one", "two"), ("two", "three")] {
        let held = owned(&quick, &clock, 2);
        assert_eq!(value_of(&quick, &clock, 2, &held), before);
        let engine = quick.list()[0].disk.engine();
        let so_far = engine.steps().len();
        (so_far..so_far + 20).filter(|_| next == "three").for_each(|step| engine.fate(step, Fate::Fails));
        driven(&clock, write_value(&quick, &clock, &held, &me(2), next.as_bytes())).unwrap();
        given_back(&quick, &clock, 2, held);
    }
    slow.list()[2].disk.engine().release();
    for away in 0..2 {
        let others = devices(3, &media, &clock);
        (0..60).for_each(|step| others.list()[away].disk.engine().fate(step, Fate::Fails));
        let held = owned(&others, &clock, 3);
        assert_eq!(value_of(&others, &clock, 3, &held), "three", "{away}");
        given_back(&others, &clock, 3, held);
    }
}

/// Its owner has died over saying so, on one disk alone. Once somebody has read it everybody does, whatever disks they see.
#[test]
fn a_value_that_somebody_has_read_is_what_the_next_one_finds() {
    // Whether the next owner sees it; whether he sets another, without a look; whether he dies.
    let cases = [(false, false), (false, true), (true, true)]
        .into_iter()
        .flat_map(|(sets, dies)| [(true, sets, dies), (false, sets, dies)]);
    for (sees, sets, dies) in cases {
        let value = if sees { "new" } else { "old" };
        let (media, clock) = (media(3), ManualClock::waiting());
        let disks = devices(1, &media, &clock);
        let first = owned(&disks, &clock, 1);
        driven(&clock, write_value(&disks, &clock, &first, &me(1), b"old")).unwrap();
        given_back(&disks, &clock, 1, first);
        let second = owned(&disks, &clock, 1);
        driven(&clock, write_value(&disks, &clock, &second, &me(1), b"new")).unwrap();
        for disk in &disks.list()[1..] {
            let engine = disk.disk.engine();
            engine.fate(engine.steps().len(), Fate::Fails);
        }
        assert!(driven(&clock, release(&disks, &clock, second, &me(1))).is_err());

        let dead = Said::of(term(1, 1), &[Verdict::Gone(Gone::Silent)]);
        let others = devices(2, &media, &clock);
        let away = if sees { 2 } else { 0 };
        (0..60).for_each(|step| others.list()[away].disk.engine().fate(step, Fate::Fails));
        let options = Options::default();
        let taken = held(driven(&clock, acquire(&others, &clock, &dead, &lease(), &me(2), &options, &Stop::new())));
        if sets {
            driven(&clock, write_value(&others, &clock, &taken, &me(2), b"another")).unwrap();
        } else {
            assert_eq!(value_of(&others, &clock, 2, &taken), value);
        }
        if !dies {
            given_back(&others, &clock, 2, taken);
        }
        for away in 0..3 {
            let third = devices(3, &media, &clock);
            (0..60).for_each(|step| third.list()[away].disk.engine().fate(step, Fate::Fails));
            let dead = Said::of(term(2, 1), &[Verdict::Gone(Gone::Silent)]);
            let taken = held(driven(&clock, acquire(&third, &clock, &dead, &lease(), &me(3), &options, &Stop::new())));
            let now = if sees || away > 0 { "new" } else { "old" };
            assert_eq!(value_of(&third, &clock, 3, &taken), now, "{away} away");
            given_back(&third, &clock, 3, taken);
        }
    }
}

/// Its disks stay open meanwhile.
#[test]
fn what_was_said_of_a_lease_is_not_said_of_the_one_that_is_formatted_in_its_place() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    for _ in 0..5 {
        let held = owned(&disks, &clock, 1);
        driven(&clock, write_value(&disks, &clock, &held, &me(1), b"old")).unwrap();
        given_back(&disks, &clock, 1, held);
    }
    for (medium, copy) in media.iter().zip(1..) {
        medium.become_copy_of(&Medium::formatted_anew(3, Some(Place { copy, copies: 3 })));
    }
    let held = owned(&disks, &clock, 1);
    assert_eq!(held.lver(), Lver(1));
    given_back(&disks, &clock, 1, held);
    let others = devices(2, &media, &clock);
    for value in ["", "new"] {
        let held = owned(&others, &clock, 2);
        assert_eq!(value_of(&others, &clock, 2, &held), value);
        driven(&clock, write_value(&others, &clock, &held, &me(2), b"new")).unwrap();
        given_back(&others, &clock, 2, held);
    }
}

/// More values than there are slots, while a disk is gone for good; and by others when its host is.
#[test]
fn no_disk_that_is_gone_uses_up_the_slots() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let mut before = String::new();
    for n in [1, 2] {
        let disks = devices(n, &media, &clock);
        (0..5000).for_each(|step| disks.list()[2].disk.engine().fate(step, Fate::Fails));
        for round in 0..60 {
            let held = owned(&disks, &clock, n);
            assert_eq!(value_of(&disks, &clock, n, &held), before);
            before = format!("{n} {round}");
            driven(&clock, write_value(&disks, &clock, &held, &me(n), before.as_bytes())).unwrap();
            given_back(&disks, &clock, n, held);
        }
    }
}

/// It is on a majority, its owner dies before he says so: the value that was is the lease's.
#[test]
fn a_value_counts_with_the_release_and_not_before() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let first = owned(&disks, &clock, 1);
    driven(&clock, write_value(&disks, &clock, &first, &me(1), b"old")).unwrap();
    given_back(&disks, &clock, 1, first);
    let second = owned(&disks, &clock, 1);
    driven(&clock, write_value(&disks, &clock, &second, &me(1), b"new")).unwrap();

    let dead = Said::of(term(1, 1), &[Verdict::Gone(Gone::Silent)]);
    let others = devices(2, &media, &clock);
    let options = Options::default();
    let taken = held(driven(&clock, acquire(&others, &clock, &dead, &lease(), &me(2), &options, &Stop::new())));
    assert_eq!(value_of(&others, &clock, 2, &taken), "old");
    // It counts with a claim to share the lease as well.
    driven(&clock, write_value(&others, &clock, &taken, &me(2), b"shared")).unwrap();
    let shared = driven(&clock, share(&others, &clock, Sharing::new(taken), &me(2))).unwrap();
    let beside = devices(3, &media, &clock);
    let third = held(acquired(&beside, &clock, 3, Mode::Shared));
    assert_eq!(value_of(&beside, &clock, 3, &third), "shared");
    assert_eq!(value_of(&others, &clock, 2, &shared), "shared");
}

/// RELEASED on one disk, with a value, is not acted upon: whoever came then would take the value that was, and outdo the new one.
#[test]
fn a_release_that_reached_one_disk_alone_loses_no_value() {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let first = owned(&disks, &clock, 1);
    driven(&clock, write_value(&disks, &clock, &first, &me(1), b"value")).unwrap();
    for disk in &disks.list()[1..] {
        let so_far = disk.disk.engine().steps().len();
        disk.disk.engine().fate(so_far, Fate::Fails);
    }
    let failed = driven(&clock, release(&disks, &clock, first, &me(1))).unwrap_err();
    assert!(media[0].dblock(1).is_released() && !media[1].dblock(1).is_released());
    let others = devices(2, &media, &clock);
    let refused = acquired(&others, &clock, 2, Mode::Exclusive);
    assert!(matches!(refused, Ok(Acquired::Theirs(_))), "{refused:?}");
    driven(&clock, retract(&disks, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    let next = owned(&others, &clock, 2);
    assert_eq!(value_of(&others, &clock, 2, &next), "value");
}

/// A seed's choices.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(Rc::new(Cell::new(seed)))
    }

    /// SplitMix64.
    fn below(&self, n: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A disk as one host sees it: others run before each I/O, and it goes wrong as the dice say.
struct Faulty {
    disk: TestDevice,
    dice: Dice,
    trouble: Rc<Trouble>,
    which: usize,
}

/// What goes wrong for one host.
#[derive(Default)]
struct Trouble {
    /// The faults are over.
    calm: Cell<bool>,
    down: RefCell<BTreeSet<usize>>,
}

impl Faulty {
    async fn before(&self, op: Op) -> Result<(), IoError> {
        for _ in 0..self.dice.below(4) {
            let_others_run().await;
        }
        if self.trouble.down.borrow().contains(&self.which) {
            let kind = IoErrorKind::Failed(Errno::EIO);
            return Err(IoError { path: Arc::clone(self.disk.path()), op, offset: 0, len: 0, kind });
        }
        if !self.trouble.calm.get() && self.dice.one_in(12) {
            let fate = [Fate::Fails, Fate::DoneButFails, Fate::Held][usize::try_from(self.dice.below(3)).unwrap()];
            let engine = self.disk.engine();
            engine.fate(engine.steps().len(), fate);
        }
        Ok(())
    }
}

impl ReadDisk for Faulty {
    fn path(&self) -> &Arc<str> {
        self.disk.path()
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        self.before(Op::Read).await?;
        self.disk.read(at, len, deadline).await
    }
}

impl Disk for Faulty {
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        self.before(Op::Write).await?;
        self.disk.write(at, data, deadline).await
    }

    async fn reaped(&self) {
        self.disk.reaped().await;
    }
}

/// Which generation of each host lives.
#[derive(Clone, Default)]
struct Living(Rc<RefCell<BTreeMap<u64, u64>>>);

impl HostLiveness for Living {
    async fn verdict(&self, of: HostTerm) -> Result<Verdict, LivenessError> {
        Ok(match self.0.borrow().get(&of.host_id.get()) {
            Some(generation) if *generation == of.generation.0 => Verdict::Alive { earliest: LocalInstant::NEVER },
            Some(_) => Verdict::Gone(Gone::NewerGeneration),
            None => Verdict::Gone(Gone::Silent),
        })
    }

    async fn absence(&self, host: HostId) -> Result<Verdict, LivenessError> {
        let lives = self.0.borrow().contains_key(&host.get());
        Ok(if lives { Verdict::Alive { earliest: LocalInstant::NEVER } } else { Verdict::Gone(Gone::Silent) })
    }
}

/// Who holds the lease, by what the hosts themselves believe.
#[derive(Default)]
struct Believed {
    exclusive: Option<HostTerm>,
    shared: BTreeSet<HostTerm>,
    owners: BTreeMap<Lver, HostTerm>,
    times: u32,
}

impl Believed {
    fn enters(&mut self, who: HostTerm, held: &Held, seed: u64) {
        assert_eq!(self.exclusive, None, "S1: {who} beside an exclusive holder, seed {seed}");
        self.times += 1;
        if held.mode == Mode::Shared {
            self.shared.insert(who);
            return;
        }
        assert!(self.shared.is_empty(), "S1: {who} exclusively beside {:?}, seed {seed}", self.shared);
        let before = self.owners.insert(held.lver(), who);
        assert_eq!(before, None, "I5: one owner of {}, seed {seed}", held.lver());
        self.exclusive = Some(who);
    }

    fn leaves(&mut self, who: HostTerm) {
        self.exclusive = self.exclusive.filter(|holder| *holder != who);
        self.shared.remove(&who);
    }
}

/// What the lease's value may be: a number, in eight bytes, greater with each that is set.
struct Values {
    possible: BTreeSet<u64>,
    last: u64,
}

impl Values {
    /// After that nobody reads an older one.
    fn read(&mut self, found: &[u8], seed: u64) {
        let found = u64_at(found, 0);
        assert!(self.possible.contains(&found), "the value is {found}, not of {:?}, seed {seed}", self.possible);
        self.is_at_least(found);
    }

    fn is_at_least(&mut self, value: u64) {
        self.possible.retain(|possible| *possible >= value);
    }
}

struct World {
    seed: u64,
    values: RefCell<Values>,
    dice: Dice,
    clock: ManualClock,
    media: Vec<Medium>,
    living: Living,
    believed: RefCell<Believed>,
}

type Disks = Rc<Copies<Faulty, ManualClock>>;

/// One term of a host: it takes the lease again and again, and gives it back.
async fn contender(world: Rc<World>, disks: Disks, who: HostTerm) {
    let me = Me { term: who, ..me(who.host_id.get()) };
    for _ in 0..12 {
        let mode = if world.dice.one_in(2) { Mode::Shared } else { Mode::Exclusive };
        let options = Options { mode, backoff_seed: world.dice.below(1 << 40), ..Options::default() };
        let end = acquire(&*disks, &world.clock, &world.living, &lease(), &me, &options, &Stop::new()).await;
        let undo = match end {
            Ok(Acquired::Ours(held)) => {
                world.believed.borrow_mut().enters(who, &held, world.seed);
                read(&world, &disks, &me, &held).await;
                for _ in 0..world.dice.below(60) {
                    let_others_run().await;
                }
                let Some(held) = converted(&world, &disks, &me, held).await else { continue };
                let set = set_anew(&world, &disks, &me, &held).await;
                world.believed.borrow_mut().leaves(who);
                let undo = release(&*disks, &world.clock, held, &me).await.err().and_then(|failed| failed.undo);
                undone(&world, &disks, &me, undo).await;
                set.into_iter().for_each(|value| world.values.borrow_mut().is_at_least(value));
                continue;
            }
            Ok(Acquired::Theirs(refusal)) => refusal.undo,
            Err(AcquireFailed { error, undo }) => {
                let foreign = matches!(error, AcquireError::Area(AreaError::ForeignWrite { .. }));
                assert!(
                    !foreign && !matches!(error, AcquireError::Disagreement { .. }),
                    "{error}, seed {}",
                    world.seed
                );
                undo
            }
        };
        undone(&world, &disks, &me, undo).await;
    }
}

/// Reads the value, perhaps. Where that fails nobody knows it.
async fn read(world: &World, disks: &Disks, me: &Me, held: &Held) {
    if world.dice.one_in(2) {
        return;
    }
    if let Ok(found) = read_value(disks, &world.clock, held, me).await {
        world.values.borrow_mut().read(&found, world.seed);
    }
}

/// Sets another value, perhaps: the lease's once it is given back.
async fn set_anew(world: &World, disks: &Disks, me: &Me, held: &Held) -> Option<u64> {
    if held.mode == Mode::Shared || world.dice.one_in(2) {
        return None;
    }
    world.values.borrow_mut().last += 1;
    let value = world.values.borrow().last;
    write_value(disks, &world.clock, held, me, &value.to_le_bytes()).await.ok()?;
    world.values.borrow_mut().possible.insert(value);
    Some(value)
}

/// Changes how it holds the lease, or not. `None`: it has it no more.
async fn converted(world: &World, disks: &Disks, me: &Me, held: Held) -> Option<Held> {
    let who = me.term;
    if world.dice.one_in(2) {
        return Some(held);
    }
    if held.mode == Mode::Exclusive {
        let set = set_anew(world, disks, me, &held).await;
        // It stops writing before it asks.
        world.believed.borrow_mut().leaves(who);
        let mut sharing = Sharing::new(held);
        loop {
            match share(&**disks, &world.clock, sharing, me).await {
                Ok(now) | Err(ShareFailed { now: AfterShare::Shared(now), .. }) => {
                    world.believed.borrow_mut().enters(who, &now, world.seed);
                    set.into_iter().for_each(|value| world.values.borrow_mut().is_at_least(value));
                    return Some(now);
                }
                Err(ShareFailed { now: AfterShare::Again(again), .. }) => sharing = again,
                Err(ShareFailed { now: AfterShare::Lost, .. }) => return None,
            }
            let_others_run().await;
        }
    }
    let options = Options { backoff_seed: world.dice.below(1 << 40), ..Options::default() };
    let undo = match exclude(&**disks, &world.clock, &world.living, &mut held.clone(), me, &options, &Stop::new()).await
    {
        Ok(Acquired::Ours(now)) => {
            world.believed.borrow_mut().leaves(who);
            world.believed.borrow_mut().enters(who, &now, world.seed);
            return Some(now);
        }
        Ok(Acquired::Theirs(refusal)) => refusal.undo,
        Err(failed) => failed.undo,
    };
    undone(world, disks, me, undo).await;
    Some(held)
}

async fn undone(world: &World, disks: &Disks, me: &Me, mut undo: Option<Retract>) {
    while let Some(duty) = undo {
        let_others_run().await;
        undo = retract(&**disks, &world.clock, duty, me).await.err().and_then(|failed| failed.undo);
    }
}

struct Player {
    who: HostTerm,
    disks: Disks,
    trouble: Rc<Trouble>,
    life: Option<Pin<Box<dyn Future<Output = ()>>>>,
    died: bool,
}

impl Player {
    fn start(world: &Rc<World>, n: u64, generation: u64) -> Self {
        let who = HostTerm { host_id: host(n), generation: Generation(generation) };
        world.living.0.borrow_mut().insert(n, generation);
        let trouble = Rc::new(Trouble::default());
        let faulty = |(which, medium)| Faulty {
            disk: device(n, medium, &world.clock),
            dice: world.dice.clone(),
            trouble: Rc::clone(&trouble),
            which,
        };
        let disks = Rc::new(all(world.media.iter().enumerate().map(faulty).collect(), &world.clock, who));
        let life = Some(Box::pin(contender(Rc::clone(world), Rc::clone(&disks), who)) as Pin<Box<_>>);
        Player { who, disks, trouble, life, died: false }
    }

    /// Nothing of it runs any more; what is on its way lands now, or never.
    fn dies(&mut self, world: &World) {
        (self.life, self.died) = (None, true);
        for copy in self.disks.list().iter().filter(|_| world.dice.one_in(2)) {
            copy.disk.disk.engine().release();
        }
        world.believed.borrow_mut().leaves(self.who);
        world.living.0.borrow_mut().remove(&self.who.host_id.get());
    }

    fn trouble(&self, world: &World) {
        let which = usize::try_from(world.dice.below(world.media.len() as u64)).unwrap();
        let mut down = self.trouble.down.borrow_mut();
        if !down.remove(&which) {
            down.insert(which);
        }
    }

    fn lets_land(&self, world: &World) {
        let which = usize::try_from(world.dice.below(world.media.len() as u64)).unwrap();
        self.disks.list()[which].disk.disk.engine().release();
    }
}

/// Three hosts that fight for a lease on `copies` disks, all of which fail, hang and go away, and which die and come back. How
/// often it was held.
fn play(seed: u64, copies: u8) -> u32 {
    let (dice, clock, living) = (Dice::new(seed), ManualClock::waiting(), Living::default());
    let media = media(copies);
    let values = RefCell::new(Values { possible: BTreeSet::from([0]), last: 0 });
    let believed = RefCell::default();
    let world = Rc::new(World { seed, values, dice: dice.clone(), clock, media, living, believed });
    let mut players: Vec<Player> = (1..=3).map(|n| Player::start(&world, n, 1)).collect();
    let mut context = Context::from_waker(Waker::noop());
    for step in 0.. {
        assert!(step < 200_000, "no end, seed {seed}");
        let calm = step > 6_000;
        let chosen = usize::try_from(dice.below(3)).unwrap();
        let player = &mut players[chosen];
        match dice.below(if calm { 100 } else { 400 }) {
            0 if calm => {
                player.trouble.down.borrow_mut().clear();
                player.trouble.calm.set(true);
            }
            0..4 => player.lets_land(&world),
            4..8 if !calm => player.trouble(&world),
            8 if !calm && player.life.is_some() => player.dies(&world),
            9..30 if !calm && player.life.is_none() => {
                *player = Player::start(&world, player.who.host_id.get(), player.who.generation.0 + 1);
            }
            _ => {}
        }
        let over = player.life.as_mut().is_some_and(|life| life.as_mut().poll(&mut context) == Poll::Ready(()));
        if over {
            player.life = None;
        }
        world.clock.advance(Duration::from_millis(20));
        if players.iter().all(|p| p.life.is_none()) && calm {
            break;
        }
    }
    // Whoever is dead has left something behind, who lives nothing: now that all is quiet the lease can be had.
    players.iter().for_each(|p| p.disks.list().iter().for_each(|d| d.disk.disk.engine().release()));
    for player in players.iter().filter(|p| p.died) {
        world.living.0.borrow_mut().remove(&player.who.host_id.get());
    }
    world.living.0.borrow_mut().remove(&1);
    let clock = ManualClock::waiting();
    let me = Me { term: term(1, 1000), ..me(1) };
    let disks = all(world.media.iter().map(|medium| device(1, medium, &clock)).collect(), &clock, me.term);
    let (lease, options, stop) = (lease(), Options::default(), Stop::new());
    // A proposal that somebody has left is published for him first: whoever asks again gets on.
    let tries = (0..8).find_map(|_| {
        match driven(&clock, acquire(&disks, &clock, &world.living, &lease, &me, &options, &stop)).unwrap() {
            Acquired::Ours(held) => Some(held),
            Acquired::Theirs(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::CommittedOther, "seed {seed}");
                None
            }
        }
    });
    let held = tries.expect("the lease is free");
    world.believed.borrow_mut().enters(me.term, &held, seed);
    let found = driven(&clock, read_value(&disks, &clock, &held, &me)).unwrap();
    world.values.borrow_mut().read(&found, seed);
    world.believed.borrow().times
}

/// So many runs for each number of disks; more of them in the long tests.
fn seeds() -> u64 {
    std::env::var("HOLDFAST_COPIES_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8)
}

#[test]
fn s1_hosts_that_fight_for_a_lease_on_several_disks_never_have_it_together() {
    for copies in 2..=4 {
        let times: u32 = (0..seeds()).map(|seed| play(seed, copies)).sum();
        assert!(u64::from(times) > 8 * seeds(), "the lease on {copies} disks was held {times} times");
    }
}
