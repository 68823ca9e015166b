//! Shared leases: taking one, giving it back, and changing between the modes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::disk::Op::{Read, Write};
use holdfast_io::ids::{Generation, Lver};
use holdfast_io::leader::{LeaderRecord, SHORT_HOLD};
use holdfast_io::stop::Stop;

use super::{FREE, failed, held, refused, run};
use crate::acquire::{Acquired, Options, RefusalKind};
use crate::convert::{AfterShare, Sharing, exclude, share};
use crate::dblock::ModeBlock;
use crate::error::{AcquireError, AcquireFailed, ReleaseError};
use crate::release::{Held, Mode, release, retract};
use crate::testing::{
    Fate, Kind, ManualClock, Medium, Said, Step, TestDevice, announced, device, leader_at, me, proposed, term,
};

const SHARED: Options =
    Options { mode: Mode::Shared, expected_lver: None, num_hosts: None, wait_for_silent: false, backoff_seed: 3 };
/// RELEASED and a claim, and the leader record free.
const SHARE: [Step; 3] = [(Write, Kind::Own), (Read, Kind::Leader), (Write, Kind::Leader)];

fn sharing() -> (Medium, ManualClock, TestDevice, Held) {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), SHARED));
    (medium, clock, disk, held)
}

fn excluded(disk: &TestDevice, clock: &ManualClock, said: &Said, held: &Held) -> Result<Acquired, AcquireFailed> {
    disk.engine().forget_steps();
    pollster::block_on(exclude(disk, clock, said, &mut held.clone(), &me(1), &Options::default(), &Stop::new()))
}

fn claims(medium: &Medium, host: u64) -> bool {
    medium.host(host).mode.says(&ModeBlock::shared(Generation(1)))
}

#[test]
fn i2_a_shared_lease_is_given_back_as_it_stands_once_every_write_of_ours_is_over() {
    let (medium, clock, disk, held) = sharing();
    disk.engine().forget_steps();
    // Phase 1 of a conversion that nobody undoes: its lockspace is being left.
    disk.engine().fate(1, Fate::Held);
    let (said, options) = (Said::nothing(), Options::default());
    let end = pollster::block_on(exclude(&disk, &clock, &said, &mut held.clone(), &me(1), &options, &Stop::new()));
    end.unwrap_err().undo.unwrap().abandon();
    let failed = pollster::block_on(release(&disk, &clock, held.clone(), &me(1))).unwrap_err();
    assert!(matches!(failed.error, ReleaseError::StillInFlight { .. }), "{:?}", failed.error);
    assert!(claims(&medium, 1), "nothing was written");
    disk.engine().release();
    pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    assert_eq!((medium.dblock(1).lver, claims(&medium, 1)), (Lver(2), false));
}

#[test]
fn a_free_lease_is_shared_by_ten_ios_that_leave_a_claim_and_a_free_leader() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let short = Rc::new(Cell::new(false));
    let seen = Rc::clone(&short);
    disk.engine().before(9, move |medium| seen.set(medium.leader().flags & SHORT_HOLD != 0));
    let held = held(run(&disk, &clock, &Said::nothing(), SHARED));
    assert_eq!(disk.engine().steps(), [&FREE[..], &SHARE].concat());
    assert!(short.get(), "others are told that it is held for a moment only");
    assert_eq!((held.mode, held.lver()), (Mode::Shared, Lver(1)));
    let leader = medium.leader();
    assert!(leader.is_free() && leader.flags & SHORT_HOLD == 0 && leader.lver == Lver(1));
    assert!(claims(&medium, 1) && medium.dblock(1).is_released());
    assert_eq!(medium.dblock(1), held.dblock.released());
}

#[test]
fn hosts_share_a_lease_side_by_side_and_none_has_it_exclusively_meanwhile() {
    let (medium, clock, _, _first) = sharing();
    let other = device(2, &medium, &clock);
    let second = pollster::block_on(crate::acquire(
        &other,
        &clock,
        &Said::nothing(),
        &crate::testing::lease(),
        &me(2),
        &SHARED,
        &Stop::new(),
    ));
    let second = held(second);
    assert_eq!(second.lver(), Lver(2));
    assert!(claims(&medium, 1) && claims(&medium, 2));
    let third = device(3, &medium, &clock);
    let lease = crate::testing::lease();
    let exclusive = |options: Options| {
        pollster::block_on(crate::acquire(&third, &clock, &Said::nothing(), &lease, &me(3), &options, &Stop::new()))
    };
    let refusal = refused(exclusive(Options::default()));
    assert_eq!(refusal.kind, RefusalKind::SharedHolders(vec![term(1, 1), term(2, 1)]));
    assert!(medium.leader().is_free(), "and it stands in nobody's way");
    pollster::block_on(release(&other, &clock, second, &me(2))).unwrap();
    let refusal = refused(exclusive(Options::default()));
    assert_eq!(refusal.kind, RefusalKind::SharedHolders(vec![term(1, 1)]));
}

#[test]
fn a_shared_lease_is_given_back_by_a_write_of_our_own_sector_alone() {
    let (medium, clock, disk, held) = sharing();
    disk.engine().forget_steps();
    let (leader, dblock) = (medium.leader(), medium.dblock(1));
    pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap();
    assert_eq!(disk.engine().steps(), [(Read, Kind::Own), (Write, Kind::Own)]);
    assert!(medium.host(1).mode.says(&ModeBlock::NONE));
    assert_eq!((medium.leader(), medium.dblock(1)), (leader, dblock));
}

#[test]
fn i6_a_shared_release_that_may_still_land_is_a_duty_until_it_has() {
    let (medium, clock, disk, held) = sharing();
    disk.engine().forget_steps();
    disk.engine().fate(1, Fate::Held);
    let duty = pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap_err().undo.unwrap();
    let duty = pollster::block_on(retract(&disk, &clock, duty, &me(1))).unwrap_err().undo.unwrap();
    assert!(claims(&medium, 1), "for others we share it still");
    disk.engine().release();
    pollster::block_on(retract(&disk, &clock, duty, &me(1))).unwrap();
    assert!(!claims(&medium, 1));
}

#[test]
fn a_claim_in_a_sector_that_cannot_be_read_is_a_duty_until_it_can() {
    let (medium, clock, disk, held) = sharing();
    // The first I/O of a release reads our own sector.
    disk.engine().forget_steps();
    disk.engine().fate(0, Fate::Fails);
    disk.engine().fate(1, Fate::Fails);
    let duty = pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap_err().undo.unwrap();
    let duty = pollster::block_on(retract(&disk, &clock, duty, &me(1))).unwrap_err().undo.unwrap();
    assert!(claims(&medium, 1));
    pollster::block_on(retract(&disk, &clock, duty, &me(1))).unwrap();
    assert!(!claims(&medium, 1));
}

#[test]
fn a_living_exclusive_owner_is_no_sharer() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(4, term(2, 1), 2));
    medium.put_dblock(2, proposed(4, 2, term(2, 1)));
    let disk = device(1, &medium, &clock);
    let refusal = refused(run(&disk, &clock, &Said::nothing(), SHARED));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::Alive, Some(term(2, 1))));
    assert!(clock.slept().is_empty() && refusal.undo.is_none());
    assert!(!medium.host(1).mode.is_shared());
}

#[test]
fn whoever_is_about_to_share_is_waited_for_in_milliseconds_and_not_for_ever() {
    let about_to_share =
        LeaderRecord { flags: SHORT_HOLD | leader_at(4, term(2, 1), 2).flags, ..leader_at(4, term(2, 1), 2) };
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&about_to_share);
    medium.put_dblock(2, proposed(4, 2, term(2, 1)));
    let disk = device(1, &medium, &clock);
    // Our second look, after the first refusal: it has its claim by then.
    disk.engine().before(1, move |medium| {
        medium.put_host(2, proposed(4, 2, term(2, 1)).released(), Some(1));
        medium.put_leader(&LeaderRecord { timestamp: holdfast_io::ids::RemoteTimestamp::FREE, ..about_to_share });
    });
    let began = clock.now();
    held(run(&disk, &clock, &Said::nothing(), SHARED));
    assert!(clock.now().since(began) < Duration::from_millis(100), "{:?}", clock.slept());

    medium.put_leader(&LeaderRecord { lver: Lver(9), ..about_to_share });
    medium.put_host(1, announced(5, 1), None);
    let refusal = refused(run(&device(1, &medium, &clock), &clock, &Said::nothing(), SHARED));
    assert_eq!(refusal.kind, RefusalKind::SharedRetries);
}

#[test]
fn a_claim_that_may_still_land_is_taken_back_once_it_has() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    disk.engine().fate(7, Fate::Held);
    let failed = run(&disk, &clock, &Said::nothing(), SHARED).unwrap_err();
    assert!(matches!(failed.error, AcquireError::Share(ReleaseError::Area(_))));
    let duty = pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap_err().undo.unwrap();
    assert!(!medium.leader().is_free(), "nobody begins the next lver while the claim may still land");
    disk.engine().release();
    assert!(claims(&medium, 1));
    pollster::block_on(retract(&disk, &clock, duty, &me(1))).unwrap();
    assert!(!claims(&medium, 1) && medium.leader().is_free() && medium.dblock(1).is_released());
}

#[test]
fn an_exclusive_lease_is_shared_by_four_ios_at_the_same_lver() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    disk.engine().forget_steps();
    let shared = pollster::block_on(share(&disk, &clock, Sharing::new(held.clone()), &me(1))).unwrap();
    assert_eq!(disk.engine().steps(), [&[(Read, Kind::Leader)][..], &SHARE].concat());
    assert_eq!(shared, Held { mode: Mode::Shared, ..held });
    assert!(claims(&medium, 1) && medium.leader().is_free() && medium.dblock(1).is_released());
}

#[test]
fn sharing_that_may_still_land_is_tried_again_although_others_have_moved_on() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    disk.engine().forget_steps();
    disk.engine().fate(3, Fate::DoneButFails);
    let failed = pollster::block_on(share(&disk, &clock, Sharing::new(held), &me(1))).unwrap_err();
    // The leader record was freed all the same, and another host shares the lease by now.
    medium.put_leader(&LeaderRecord {
        timestamp: holdfast_io::ids::RemoteTimestamp::FREE,
        ..leader_at(2, term(2, 1), 2)
    });
    let AfterShare::Again(again) = failed.now else { panic!("{failed:?}") };
    assert!(!again.is_untouched(), "there is no way back to exclusive");
    let shared = pollster::block_on(share(&disk, &clock, again, &me(1))).unwrap();
    assert_eq!(shared.mode, Mode::Shared);
    assert!(claims(&medium, 1));
}

#[test]
fn s1_what_another_took_from_under_us_is_not_shared_and_our_sector_says_nothing_of_it() {
    for written_by in [1, 2] {
        let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
        let disk = device(1, &medium, &clock);
        let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
        medium.put_leader(&leader_at(2, term(2, 1), written_by));
        let failed = pollster::block_on(share(&disk, &clock, Sharing::new(held), &me(1))).unwrap_err();
        assert!(matches!((failed.error, failed.now), (ReleaseError::Lver { .. }, AfterShare::Lost)), "{written_by}");
        assert!(!claims(&medium, 1), "{written_by}");
    }
}

#[test]
fn s1_what_cannot_be_looked_at_before_it_is_shared_is_looked_at_again() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    medium.put_leader(&leader_at(2, term(2, 1), 2));
    disk.engine().forget_steps();
    disk.engine().fate(0, Fate::Fails);
    let failed = pollster::block_on(share(&disk, &clock, Sharing::new(held), &me(1))).unwrap_err();
    assert!(!claims(&medium, 1), "nothing is written blindly");
    let AfterShare::Again(sharing) = failed.now else { panic!("to be tried again, found {:?}", failed.now) };
    assert!(sharing.is_untouched(), "or left as exclusive as it is");
    let failed = pollster::block_on(share(&disk, &clock, sharing, &me(1))).unwrap_err();
    assert!(matches!(failed.now, AfterShare::Lost) && !claims(&medium, 1), "{:?}", failed.now);
}

#[test]
fn a_damaged_leader_record_costs_nobody_the_lease_that_is_shared_by_then() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    medium.damage(crate::layout::LEADER, 60);
    let failed = pollster::block_on(share(&disk, &clock, Sharing::new(held), &me(1))).unwrap_err();
    assert!(matches!(failed.now, AfterShare::Shared(Held { mode: Mode::Shared, .. })));
    assert!(claims(&medium, 1));
}

#[test]
fn s1_no_num_hosts_hides_a_host_that_shares_the_lease() {
    for mode in [Mode::Exclusive, Mode::Shared] {
        let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
        medium.put_host(3, announced(0, 3).released(), Some(1));
        let disk = device(1, &medium, &clock);
        let few = Options { mode, num_hosts: Some(1), ..Options::default() };
        let _ = run(&disk, &clock, &Said::nothing(), few);
        assert_eq!(medium.leader().num_hosts, 3, "{mode:?}");
        if mode == Mode::Exclusive {
            let refusal = refused(run(&disk, &clock, &Said::nothing(), Options::default()));
            assert_eq!(refusal.kind, RefusalKind::SharedHolders(vec![term(3, 1)]));
        }
    }
}

#[test]
fn a_lone_sharer_takes_the_lease_exclusively_and_shares_it_at_every_step_until_then() {
    let (medium, clock, disk, shared) = sharing();
    disk.engine().forget_steps();
    for step in 0..8 {
        disk.engine().before(step, |medium| assert!(claims(medium, 1)));
    }
    let exclusive = pollster::block_on(exclude(
        &disk,
        &clock,
        &Said::nothing(),
        &mut shared.clone(),
        &me(1),
        &SHARED,
        &Stop::new(),
    ));
    let exclusive = held(exclusive);
    assert_eq!(disk.engine().steps(), [&FREE[..], &[(Write, Kind::Own)]].concat());
    assert_eq!((exclusive.mode, exclusive.lver()), (Mode::Exclusive, Lver(2)));
    assert!(medium.host(1).mode.says(&ModeBlock::NONE));
    assert_eq!(medium.dblock(1), exclusive.dblock);
    assert!(!exclusive.dblock.is_released());
    assert_eq!(medium.leader(), exclusive.leader);
    pollster::block_on(release(&disk, &clock, exclusive, &me(1))).unwrap();
    assert!(medium.leader().is_free());
}

#[test]
fn a_sharer_among_living_ones_stays_a_sharer_and_leaves_the_lease_free() {
    let (medium, clock, disk, shared) = sharing();
    medium.put_host(2, announced(1, 2).released(), Some(1));
    let refusal = refused(excluded(&disk, &clock, &Said::nothing(), &shared));
    assert_eq!(refusal.kind, RefusalKind::SharedHolders(vec![term(2, 1)]));
    assert!(refusal.undo.is_none());
    assert!(claims(&medium, 1) && claims(&medium, 2));
    assert!(medium.leader().is_free() && medium.leader().lver == Lver(2) && medium.dblock(1).is_released());
    // And gives back what it has by what stands there now (I2).
    let dblock = medium.dblock(1);
    pollster::block_on(release(&disk, &clock, shared, &me(1))).unwrap();
    assert!(!claims(&medium, 1));
    assert_eq!(medium.dblock(1), dblock);
}

#[test]
fn a_conversion_that_fails_at_any_write_leaves_a_sharer() {
    // Reads in between: 0 area, 2 and 4 dblocks, 5 leader.
    for (step, fate) in [1, 3, 6, 7].into_iter().flat_map(|step| [(step, Fate::Fails), (step, Fate::DoneButFails)]) {
        let (medium, clock, disk, shared) = sharing();
        disk.engine().forget_steps();
        disk.engine().fate(step, fate);
        let said = Said::nothing();
        let failed =
            pollster::block_on(exclude(&disk, &clock, &said, &mut shared.clone(), &me(1), &SHARED, &Stop::new()));
        if let Some(duty) = failed.unwrap_err().undo {
            pollster::block_on(retract(&disk, &clock, duty, &me(1))).unwrap();
        }
        assert!(claims(&medium, 1), "step {step}");
        assert!(medium.leader().is_free() || medium.leader().write_id != 1, "step {step}: others may share it");
        // Whatever was left: the next try succeeds, and then it is exclusive.
        held(excluded(&disk, &clock, &Said::nothing(), &shared));
        assert!(!claims(&medium, 1), "step {step}");
    }
}

#[test]
fn whoever_was_taken_for_dead_and_lost_its_claim_converts_nothing() {
    let (medium, clock, disk, shared) = sharing();
    medium.put_dblock(1, medium.dblock(1));
    let error = failed(excluded(&disk, &clock, &Said::nothing(), &shared));
    assert!(matches!(error, AcquireError::ClaimGone { found: Generation(0), .. }));
    assert!(medium.leader().is_free());
}
