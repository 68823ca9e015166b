//! A host's sector is damaged: who is kept out by it, who goes on, and what is left there. Steps of an acquire that passes one over: 0 and 1
//! read area; 2 to 7 a ballot for the version that is spent, published; 8 read area; 9 to 14 a ballot for the one after it; 15 read the sector,
//! 16 write it.

use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::disk::Op::{Read, Write};
use holdfast_io::ids::{Lver, RemoteTimestamp};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::stop::Stop;

use super::{FREE, content, failed, held as taken, refused, run};
use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::convert::exclude;
use crate::dblock::{HostSector, ModeBlock};
use crate::error::{AcquireError, AcquireFailed, ReleaseError, Unread};
use crate::layout::dblock_of;
use crate::liveness::{Gone, Verdict};
use crate::release::{Held, Mode, release, retract};
use crate::testing::{
    ALIVE, Fate, Kind, ManualClock, Medium, Said, TestDevice, announced, device, host, leader_at, lease, me, proposed,
    term,
};

const GONE: Verdict = Verdict::Gone(Gone::Silent);
const WAITS: Options = Options { wait_for_silent: true, ..NOWAIT };
const NOWAIT: Options =
    Options { mode: Mode::Exclusive, expected_lver: None, num_hosts: None, wait_for_silent: false, backoff_seed: 1 };

/// A lease that is free at lver 5, whose host 4 has left its block there, and a bit of that has flipped.
fn damaged() -> (Medium, ManualClock, TestDevice) {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&LeaderRecord { timestamp: RemoteTimestamp::FREE, ..leader_at(5, term(2, 1), 2) });
    medium.put_dblock(4, proposed(6, 4, term(4, 1)));
    medium.damage(dblock_of(host(4)), 0);
    let disk = device(1, &medium, &clock);
    (medium, clock, disk)
}

/// Host 1 converts what it shares.
fn converted(disk: &TestDevice, clock: &ManualClock, shared: &mut Held) -> Result<Acquired, AcquireFailed> {
    pollster::block_on(exclude(disk, clock, &Said::nothing(), shared, &me(1), &NOWAIT, &Stop::new()))
}

/// Nobody is at work under host_id 4.
fn host_4_is_gone() -> Said {
    Said::nothing().absence(4, &[GONE])
}

#[test]
fn a_damaged_sector_of_a_host_that_is_gone_is_passed_over_and_made_anew() {
    let (medium, clock, disk) = damaged();
    let held = taken(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert_eq!((held.lver(), medium.leader().owner()), (Lver(7), Some(term(1, 1))));
    assert_eq!(medium.leader().num_hosts, 5, "as it was");
    let at = dblock_of(host(4));
    let Ok(holdfast_io::leader::Decoded::Record(anew)) = HostSector::decode(&medium.sector(at), at) else {
        panic!("it is whole")
    };
    assert_eq!((anew.dblock, anew.mode), (announced(6, 4).released(), ModeBlock::NONE));
    let repair = [(Read, Kind::OtherHost(4)), (Write, Kind::OtherHost(4))];
    assert_eq!(disk.engine().steps(), [&FREE[..1], &FREE, &FREE, &repair].concat());
    pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap();
    let (disk, two) = (device(2, &medium, &clock), me(2));
    let end = pollster::block_on(acquire(&disk, &clock, &Said::nothing(), &lease(), &two, &NOWAIT, &Stop::new()));
    assert_eq!(taken(end).lver(), Lver(8), "and nobody has to pass it over again");
}

#[test]
fn a_damaged_sector_of_a_host_that_may_live_is_never_passed_over() {
    let silent = Verdict::Silent { earliest: ManualClock::jumping().now().after(Duration::from_secs(9)) };
    for (verdict, expected) in [(ALIVE, Unread::Alive), (silent, Unread::Silent), (Verdict::Unknown, Unread::Unknown)] {
        let (medium, clock, disk) = damaged();
        let before = content(&medium);
        let error = failed(run(&disk, &clock, &Said::nothing().absence(4, &[verdict]), NOWAIT));
        assert!(matches!(error, AcquireError::Obscured { why, host_id, .. } if why == expected && host_id == host(4)));
        assert_eq!(content(&medium), before);
    }
}

#[test]
fn whoever_waits_for_silent_owners_waits_for_a_damaged_sectors_host_to_be_gone() {
    let (_medium, clock, disk) = damaged();
    let silent = Verdict::Silent { earliest: clock.now().after(Duration::from_secs(3)) };
    let said = Said::nothing().absence(4, &[silent, silent, silent, GONE]);
    assert_eq!(taken(run(&disk, &clock, &said, WAITS)).lver(), Lver(7));
    assert_eq!(clock.slept(), [Duration::from_secs(1); 3]);
    assert_eq!(disk.engine().steps()[..3], [FREE[0]; 3], "read anew after it");

    // It comes back while it is waited for.
    let (medium, clock, disk) = damaged();
    let before = content(&medium);
    let error = failed(run(&disk, &clock, &Said::nothing().absence(4, &[silent, ALIVE]), WAITS));
    assert!(matches!(error, AcquireError::Obscured { why: Unread::Alive, .. }));
    assert_eq!(content(&medium), before);
}

#[test]
fn bits_that_flip_on_their_way_are_read_again_and_what_changes_is_not_passed_over() {
    let (medium, clock, disk) = damaged();
    disk.engine().before(1, |m| m.put_dblock(4, announced(6, 4)));
    let acquired = taken(run(&disk, &clock, &Said::nothing(), NOWAIT));
    assert_eq!((acquired.lver(), medium.dblock(4)), (Lver(6), announced(6, 4)), "nothing was lost");

    let (medium, clock, disk) = damaged();
    disk.engine().before(1, |m| m.damage(dblock_of(host(4)), 1));
    let error = failed(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert!(matches!(error, AcquireError::Obscured { why: Unread::Changing, .. }));
    assert_eq!(medium.leader().lver, Lver(5));

    let (medium, clock, disk) = damaged();
    disk.engine().before(3, |m| m.damage(dblock_of(host(4)), 1));
    let error = failed(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert!(matches!(error, AcquireError::Area(_)), "damaged otherwise during the ballot: {error:?}");
    assert_eq!(medium.leader().lver, Lver(5));
}

#[test]
fn s1_the_version_of_which_a_damaged_sector_may_tell_is_given_up_before_it_is_had() {
    let (_medium, clock, disk) = damaged();
    disk.engine().before(3, |m| assert_eq!(m.dblock(1), announced(6, 1).released()));
    disk.engine().before(10, |m| assert_eq!(m.dblock(1), announced(7, 2001)));
    let held = taken(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert_eq!(held.lver(), Lver(7));
}

#[test]
fn s1_whoever_still_reads_what_is_damaged_for_us_is_no_second_owner() {
    // Host 3's path to the disk is sound: it commits what host 4 had proposed, and publishes it.
    let (medium, clock, disk) = damaged();
    disk.engine().before(6, |m| {
        m.put_dblock(3, proposed(6, 3, term(4, 1)));
        m.put_leader(&leader_at(6, term(4, 1), 3));
    });
    let said = host_4_is_gone().and(term(4, 1), &[GONE]);
    let held = taken(run(&disk, &clock, &said, NOWAIT));
    assert_eq!((held.lver(), medium.leader().owner()), (Lver(7), Some(term(1, 1))));
}

#[test]
fn s1_a_living_host_that_may_hold_a_later_version_keeps_a_damaged_lease() {
    let (medium, clock, disk) = damaged();
    medium.put_dblock(3, proposed(6, 3, term(3, 1)));
    let before = content(&medium);
    let refusal = refused(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::Alive, Some(term(3, 1))));
    assert_eq!(content(&medium), before);

    // It proposes during our ballot, which it outruns.
    let (medium, clock, disk) = damaged();
    disk.engine().before(3, |m| m.put_dblock(3, proposed(6, 4003, term(3, 1))));
    let refusal = refused(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::Alive, Some(term(3, 1))));
    assert_eq!((medium.leader().lver, medium.dblock(1).is_released()), (Lver(5), true));
    refusal.undo.unwrap().abandon();

    // It is gone as well: what it has committed is published, and over.
    let (medium, clock, disk) = damaged();
    medium.put_dblock(3, proposed(6, 3, term(3, 1)));
    let said = host_4_is_gone().and(term(3, 1), &[GONE]);
    disk.engine().before(9, |m| assert_eq!((m.leader().lver, m.leader().owner()), (Lver(6), Some(term(3, 1)))));
    assert_eq!(taken(run(&disk, &clock, &said, NOWAIT)).lver(), Lver(7));
    assert_eq!(medium.leader().owner(), Some(term(1, 1)));
}

#[test]
fn a_damaged_sector_that_may_be_of_a_later_version_than_the_leader_knows_is_not_passed_over() {
    let (medium, clock, disk) = damaged();
    medium.put_dblock(4, proposed(7, 4, term(4, 1)));
    medium.damage(dblock_of(host(4)), 0);
    let before = content(&medium);
    let error = failed(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
    assert!(matches!(error, AcquireError::Obscured { why: Unread::Later { next: Lver(6) }, .. }));
    assert_eq!(content(&medium), before);

    // No lease comes to 2^46: that number is what was damaged.
    medium.put_dblock(4, proposed(5, 4, term(4, 1)));
    medium.damage(dblock_of(host(4)), 40 + 5);
    assert_eq!(taken(run(&disk, &clock, &host_4_is_gone(), NOWAIT)).lver(), Lver(7));
}

#[test]
fn our_own_damaged_sector_keeps_nobody_out_who_does_not_share_the_lease() {
    let (medium, clock, disk) = damaged();
    medium.put_dblock(4, announced(1, 4));
    medium.put_host(1, proposed(5, 1, term(1, 0)).released(), None);
    medium.damage(dblock_of(host(1)), 9);
    assert_eq!(taken(run(&disk, &clock, &Said::nothing(), NOWAIT)).lver(), Lver(7));

    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let mut shared = taken(run(&disk, &clock, &Said::nothing(), Options { mode: Mode::Shared, ..NOWAIT }));
    medium.damage(dblock_of(host(1)), 9);
    let error = failed(converted(&disk, &clock, &mut shared));
    assert!(matches!(error, AcquireError::Obscured { why: Unread::Ours, .. }), "{error:?}");
}

#[test]
fn i2_our_own_damaged_sector_is_written_anew_as_we_left_it_when_we_give_a_shared_lease_back() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let mut shared = taken(run(&disk, &clock, &Said::nothing(), Options { mode: Mode::Shared, ..NOWAIT }));
    // A conversion that was refused has raised our block.
    medium.put_host(3, announced(1, 3).released(), Some(1));
    let refusal = refused(converted(&disk, &clock, &mut shared));
    assert_eq!(refusal.kind, RefusalKind::SharedHolders(vec![term(3, 1)]));
    let before = medium.host(1);
    assert!(before.dblock.lver > shared.lver() && before.mode.is_shared());
    medium.damage(dblock_of(host(1)), 9);
    pollster::block_on(release(&disk, &clock, shared, &me(1))).unwrap();
    assert_eq!((medium.dblock(1), medium.host(1).mode), (before.dblock, ModeBlock::NONE));
}

#[test]
fn i2_a_retract_writes_our_own_damaged_sector_anew_as_we_wrote_it_last() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    // The leader record is not written: the acquire leaves a proposal.
    disk.engine().fate(6, Fate::Fails);
    let undo = run(&disk, &clock, &Said::nothing(), NOWAIT).unwrap_err().undo.unwrap();
    let before = medium.dblock(1);
    medium.damage(dblock_of(host(1)), 9);
    pollster::block_on(retract(&disk, &clock, undo, &me(1))).unwrap();
    assert_eq!(medium.dblock(1), before.released());
}

#[test]
fn s1_whoever_cannot_make_the_sector_anew_does_not_get_the_lease() {
    // Its host is asked about once before each of the two ballots, and once before its sector would be written. It was paused as a whole, and
    // goes on with what is in its sector, if it can read that (A7).
    let (medium, clock, disk) = damaged();
    let before = medium.sector(dblock_of(host(4)));
    let said = Said::nothing().absence(4, &[GONE, GONE, ALIVE]);
    let end = run(&disk, &clock, &said, NOWAIT).unwrap_err();
    assert!(matches!(end.error, AcquireError::Obscured { why: Unread::Alive, .. }));
    assert_eq!((medium.leader().lver, medium.sector(dblock_of(host(4)))), (Lver(7), before));
    pollster::block_on(retract(&disk, &clock, end.undo.unwrap(), &me(1))).unwrap();
    assert!(medium.leader().is_free());

    // Somebody has written there since.
    let (medium, clock, disk) = damaged();
    disk.engine().before(15, |m| m.put_dblock(4, announced(7, 6004)));
    let end = run(&disk, &clock, &host_4_is_gone(), NOWAIT).unwrap_err();
    assert!(matches!(end.error, AcquireError::Obscured { why: Unread::Changing, .. }));
    assert_eq!(medium.dblock(4), announced(7, 6004), "I1");
    end.undo.unwrap().abandon();
}

#[test]
fn s1_what_a_sanlock_host_proposes_late_for_a_version_that_is_spent_keeps_the_lease() {
    // It had proposed itself and forgotten that; by a sound path it finds its own value in the damaged sector, and commits it beside ours.
    for step in [8, 10, 12] {
        let (medium, clock, disk) = damaged();
        disk.engine().before(step, |m| m.put_dblock(3, proposed(6, 2003, term(3, 1))));
        let refusal = refused(run(&disk, &clock, &host_4_is_gone(), NOWAIT));
        assert_eq!((refusal.kind, refusal.owner), (RefusalKind::Alive, Some(term(3, 1))));
        assert_eq!(medium.leader().lver, Lver(6), "nothing is published over it");
        pollster::block_on(retract(&disk, &clock, refusal.undo.unwrap(), &me(1))).unwrap();
    }
}

#[test]
fn what_an_earlier_generation_of_a_living_host_has_proposed_keeps_no_damaged_lease() {
    let (medium, clock, disk) = damaged();
    medium.put_dblock(3, proposed(6, 3, term(3, 1)));
    let said = host_4_is_gone().and(term(3, 1), &[Verdict::Gone(Gone::NewerGeneration)]);
    assert_eq!(taken(run(&disk, &clock, &said, NOWAIT)).lver(), Lver(7));
}

#[test]
fn a_version_that_was_spent_is_free_once_its_acquire_has_failed() {
    let (medium, clock, disk) = damaged();
    // The read of phase 1 for the version after it.
    disk.engine().fate(10, Fate::Fails);
    let undo = run(&disk, &clock, &host_4_is_gone(), NOWAIT).unwrap_err().undo.unwrap();
    assert_eq!((medium.leader().lver, medium.leader().is_free()), (Lver(6), false));
    pollster::block_on(retract(&disk, &clock, undo, &me(1))).unwrap();
    assert_eq!((medium.leader().lver, medium.leader().is_free()), (Lver(6), true));
    assert_eq!(medium.leader().num_hosts, medium.leader().max_hosts, "it may land late, and hides nobody");
}

#[test]
fn i2_numbers_go_on_above_what_was_lost_each_time_it_is() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let mut last = None;
    for _ in 0..4 {
        let held = taken(run(&disk, &clock, &Said::nothing(), NOWAIT));
        assert!(held.dblock.mbal > last, "{:?} after {last:?}", held.dblock.mbal);
        last = held.dblock.mbal;
        pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap();
        medium.damage(dblock_of(host(1)), 9);
    }
}

#[test]
fn whoever_commits_what_another_host_could_not_read_learns_that_its_version_was_spent() {
    // Host 2 has spent lver 6, and published itself, while we commit what host 4 had proposed.
    let (medium, clock, disk) = damaged();
    medium.put_dblock(4, proposed(6, 4, term(4, 1)));
    disk.engine().before(4, |m| m.put_dblock(2, proposed(6, 2, term(2, 1)).released()));
    disk.engine().before(5, |m| m.put_leader(&leader_at(6, term(2, 1), 2)));
    assert_eq!(taken(run(&disk, &clock, &Said::of(term(2, 1), &[GONE]), NOWAIT)).lver(), Lver(7));
}

#[test]
fn i6_a_sector_that_is_made_anew_late_is_waited_for_before_the_lease_is_given_back() {
    let (medium, clock, disk) = damaged();
    disk.engine().fate(16, Fate::Held);
    let undo = run(&disk, &clock, &host_4_is_gone(), NOWAIT).unwrap_err().undo.unwrap();
    let waits = pollster::block_on(retract(&disk, &clock, undo, &me(1))).unwrap_err();
    assert!(matches!(waits.error, ReleaseError::StillInFlight { .. }));
    assert!(!medium.leader().is_free());
    disk.engine().release();
    pollster::block_on(retract(&disk, &clock, waits.undo.unwrap(), &me(1))).unwrap();
    assert!(medium.leader().is_free());
    assert_eq!(medium.dblock(4), announced(6, 4).released());
}

#[test]
fn an_lver_that_is_asked_for_is_had_over_a_version_that_was_spent() {
    let (_medium, clock, disk) = damaged();
    let asked = Options { expected_lver: Some(Lver(5)), ..NOWAIT };
    assert_eq!(taken(run(&disk, &clock, &host_4_is_gone(), asked)).lver(), Lver(7));
}
