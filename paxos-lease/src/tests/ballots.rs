//! Ballots, won and lost: what other hosts write between our steps. Steps of an undisturbed acquire: 0 read area, 1 write
//! dblock, 2 read dblocks, 3 write dblock, 4 read dblocks, 5 read leader, 6 write leader.

use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::disk::Op::{Read, Write};
use holdfast_io::ids::{Lver, RemoteTimestamp};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::stop::Stop;

use super::{FREE, failed, held, refused, run};
use crate::acquire::{Options, RefusalKind, acquire};
use crate::area::Me;
use crate::dblock::{Dblock, Inp};
use crate::error::{AcquireError, AreaError};
use crate::layout::dblock_of;
use crate::liveness::{Gone, Verdict};
use crate::release::{release, retract};
use crate::testing::{
    ALIVE, Fate, Kind, ManualClock, Medium, Said, announced, ballot, device, host, leader_at, lease, me, proposed, term,
};

fn free_at(lver: u64) -> LeaderRecord {
    LeaderRecord { timestamp: RemoteTimestamp::FREE, ..leader_at(lver, term(2, 1), 2) }
}

/// A lease that is free at lver 5, and a host 1 to acquire it.
fn free() -> (Medium, ManualClock, crate::testing::TestDevice) {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&free_at(5));
    let disk = device(1, &medium, &clock);
    (medium, clock, disk)
}

#[test]
fn outrun_in_phase_1_a_host_waits_milliseconds_and_goes_above_the_ballot_that_outran_it() {
    let (medium, clock, disk) = free();
    disk.engine().before(2, |m| m.put_dblock(2, announced(6, 90_002)));
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(held.dblock.mbal, ballot(92_001));
    let slept = clock.slept();
    assert_eq!(slept.len(), 1);
    assert!((Duration::from_millis(2)..=Duration::from_millis(4)).contains(&slept[0]));
    let again = [(Read, Kind::Leader)];
    assert_eq!(disk.engine().steps(), [&FREE[..3], &again, &FREE[1..]].concat());
    assert_eq!(medium.leader().owner(), Some(term(1, 1)));
}

#[test]
fn i2_i3_outrun_in_phase_2_a_host_keeps_bal_and_inp_and_raises_mbal_alone() {
    let (_medium, clock, disk) = free();
    disk.engine().before(4, |m| m.put_dblock(2, announced(6, 8_002)));
    // Step 6 is the next phase 1 write, 7 the read after it.
    disk.engine().before(7, |m| {
        let mine = m.dblock(1);
        assert_eq!((mine.mbal, mine.bal, mine.lver), (ballot(10_001), ballot(1), Lver(6)));
        assert_eq!(mine.inp.owner(), Some(term(1, 1)));
    });
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(held.dblock.bal, ballot(10_001));
    assert_eq!(disk.engine().steps()[5..7], [(Read, Kind::Leader), (Write, Kind::Own)]);
}

#[test]
fn outrun_by_a_later_lver_a_host_reads_the_lease_anew() {
    let (medium, clock, disk) = free();
    disk.engine().before(2, |m| {
        m.put_leader(&leader_at(6, term(2, 1), 2));
        m.put_dblock(2, announced(7, 2));
    });
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(held.lver(), Lver(7), "its owner has begun lver 7, so 6 is over");
    assert_eq!(medium.dblock(1).lver, Lver(7));
}

#[test]
fn i5_a_value_found_in_phase_1_is_committed_and_published_for_its_owner() {
    let (medium, clock, disk) = free();
    medium.put_dblock(2, proposed(6, 2, term(2, 1)));
    let refusal = refused(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::CommittedOther, Some(term(2, 1))));
    assert!(refusal.undo.is_none(), "nobody can take our block for our own claim");
    let leader = medium.leader();
    assert_eq!((leader.lver, leader.owner(), leader.write_id), (Lver(6), Some(term(2, 1)), 1));
    assert_eq!(leader.timestamp, RemoteTimestamp(56), "the owner's own");
    assert_eq!(disk.engine().steps(), FREE);
}

#[test]
fn a_committed_value_that_is_published_already_is_not_published_again() {
    let (medium, clock, disk) = free();
    medium.put_dblock(2, proposed(6, 2, term(2, 1)));
    let released = LeaderRecord { timestamp: RemoteTimestamp::FREE, ..leader_at(6, term(2, 1), 2) };
    disk.engine().before(5, move |m| m.put_leader(&released));
    let refusal = refused(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(refusal.kind, RefusalKind::CommittedOther);
    assert_eq!(medium.leader(), released, "publishing would resurrect what its owner gave back");
    assert_eq!(disk.engine().steps(), FREE[..6]);
}

#[test]
fn our_value_published_by_another_is_ours_and_the_leader_stays_that_hosts() {
    let (medium, clock, disk) = free();
    disk.engine().before(4, |m| {
        let ours = m.dblock(1).inp;
        m.put_dblock(3, Dblock { inp: ours, ..proposed(6, 2003, term(1, 1)) });
    });
    disk.engine().before(5, |m| m.put_leader(&leader_at(6, term(1, 1), 3)));
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!((held.lver(), held.leader.write_id), (Lver(6), 3));
    let steps = [&FREE[..5], &[(Read, Kind::Leader), (Read, Kind::Dblocks)]].concat();
    assert_eq!(disk.engine().steps(), steps);
    assert_eq!(medium.leader().write_id, 3);
}

#[test]
fn a_ballot_that_another_host_won_is_lost() {
    let (medium, clock, disk) = free();
    disk.engine().before(2, |m| {
        m.put_dblock(2, proposed(6, 2002, term(2, 1)));
        m.put_leader(&leader_at(6, term(2, 1), 2));
    });
    let refusal = refused(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::LostBallot, Some(term(2, 1))));
    assert!(refusal.undo.is_none());
    assert_eq!(medium.leader().owner(), Some(term(2, 1)));
}

#[test]
fn a_lease_that_moves_on_by_more_than_one_lver_is_read_anew() {
    let (_medium, clock, disk) = free();
    disk.engine().before(2, |m| {
        m.put_dblock(2, announced(6, 2002));
        m.put_leader(&leader_at(8, term(2, 1), 2));
    });
    let refusal = refused(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::Alive, Some(term(2, 1))));
    assert_eq!(refusal.leader.unwrap().lver, Lver(8));
}

/// Host 1 proposes itself for lver 6, is outrun and gives up: RELEASED. Host 3 has adopted the value and publishes it;
/// host 4 reads RELEASED beside it, takes lver 6 for over, and acquires lver 7. Host 1, back again in between, must not
/// hold lver 6, though it wins the ballot for it.
#[test]
fn released_is_final_for_its_lver_even_if_the_same_host_wins_it_later() {
    let (medium, clock, disk) = free();
    let given_up = proposed(6, 1, term(1, 1)).released();
    medium.put_dblock(1, given_up);
    // Phase 2's write must not take the word back.
    disk.engine().before(4, |m| assert!(m.dblock(1).is_released()));
    disk.engine().before(7, |m| assert_eq!((m.leader().lver, m.leader().num_hosts), (Lver(6), m.leader().max_hosts)));
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(held.lver(), Lver(7), "lver 6 was committed for us, and passed over");
    assert_eq!(medium.leader().num_hosts, free_at(5).num_hosts);
    assert!(!medium.dblock(1).is_released());
    assert_eq!(disk.engine().steps(), [FREE, FREE].concat());
}

/// The record of lver 6, which host 1 gave up, is held up on its way. Host 3 passes lver 6 over and raises num_hosts; host 9, which
/// that lets in, holds the lease when the record lands. Host 3 then finds its own lver 7, which it has given up as well.
#[test]
fn s1_a_record_of_a_version_that_was_given_up_is_relied_upon_by_nobody() {
    let (medium, clock, disk) = free();
    medium.put_dblock(1, proposed(6, 1, term(1, 1)).released());
    disk.engine().fate(6, Fate::Held);
    failed(run(&disk, &clock, &Said::nothing(), Options::default()));
    let takes = |n, num_hosts| {
        let options = Options { num_hosts, ..Options::default() };
        let (disk, said) = (device(n, &medium, &clock), Said::of(term(9, 1), &[ALIVE]));
        pollster::block_on(acquire(&disk, &clock, &said, &lease(), &me(n), &options, &Stop::new()))
    };
    let raised = held(takes(3, Some(9)));
    pollster::block_on(release(&device(3, &medium, &clock), &clock, raised, &me(3))).unwrap();
    assert_eq!(held(takes(9, None)).lver(), Lver(8));

    // Host 1 has gone on: it was outrun at lver 7.
    medium.put_dblock(1, announced(7, 1));
    disk.engine().release();
    assert_eq!((medium.leader().lver, medium.leader().owner()), (Lver(6), Some(term(1, 1))), "it has landed late");
    let refusal = refused(takes(3, None));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::CommittedOther, Some(term(9, 1))));
}

/// Host 1 is in its second generation, and publishes for its first what that proposed; held up again. Host 3 has its second generation, too,
/// when that lands.
#[test]
fn s1_a_record_that_a_later_generation_publishes_for_an_earlier_one_is_relied_upon_by_nobody() {
    let (medium, clock, disk) = free();
    let takes = |disk: &_, n, generation, num_hosts, said: &Said| {
        let (options, me) = (Options { num_hosts, ..Options::default() }, Me { term: term(n, generation), ..me(n) });
        pollster::block_on(acquire(disk, &clock, said, &lease(), &me, &options, &Stop::new()))
    };
    medium.put_dblock(1, proposed(6, 1, term(1, 1)));
    disk.engine().fate(6, Fate::Held);
    failed(takes(&disk, 1, 2, None, &Said::nothing()));
    let (third, gone) = (device(3, &medium, &clock), Said::of(term(1, 1), &[Verdict::Gone(Gone::Silent); 4]));
    assert_eq!(refused(takes(&third, 3, 1, Some(9), &gone)).kind, RefusalKind::CommittedOther);
    let raised = held(takes(&third, 3, 1, Some(9), &gone));
    pollster::block_on(release(&third, &clock, raised, &me(3))).unwrap();
    let ninth = device(9, &medium, &clock);
    assert_eq!(held(takes(&ninth, 9, 1, None, &Said::nothing())).lver(), Lver(8));

    medium.put_dblock(1, announced(7, 1));
    disk.engine().release();
    assert_eq!((medium.leader().lver, medium.leader().write_generation), (Lver(6), 2), "it has landed late");
    let again = device(3, &medium, &clock);
    let refusal = refused(takes(&again, 3, 2, None, &Said::of(term(9, 1), &[ALIVE; 4])));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::CommittedOther, Some(term(9, 1))));
}

/// Host 2 has passed lver 6 over and raised num_hosts at lver 7 when our record of lver 6 lands.
#[test]
fn s1_a_larger_num_hosts_on_which_our_record_has_fallen_does_not_become_smaller() {
    for moved_on in [proposed(7, 2, term(2, 1)).released(), announced(8, 2)] {
        let (medium, clock, disk) = free();
        medium.put_dblock(1, proposed(6, 1, term(1, 1)).released());
        disk.engine().before(6, move |m| {
            m.put_dblock(2, moved_on);
            m.put_leader(&LeaderRecord { num_hosts: 9, ..free_at(7) });
        });
        let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
        assert_eq!(held.lver(), Lver(8), "{moved_on:?}");
        assert_eq!(held.leader.num_hosts, held.leader.max_hosts, "{moved_on:?}");
    }
}

#[test]
fn a_retracted_value_that_another_publishes_is_passed_over_as_well() {
    let (medium, clock, disk) = free();
    medium.put_dblock(1, proposed(6, 1, term(1, 1)).released());
    disk.engine().before(2, |m| {
        m.put_dblock(3, Dblock { inp: m.dblock(1).inp, ..proposed(6, 4003, term(1, 1)) });
        m.put_leader(&leader_at(6, term(1, 1), 3));
    });
    assert_eq!(held(run(&disk, &clock, &Said::nothing(), Options::default())).lver(), Lver(7));
}

#[test]
fn another_hosts_retracted_value_is_committed_and_passed_over() {
    let (medium, clock, disk) = free();
    medium.put_dblock(2, proposed(6, 2, term(2, 1)).released());
    assert_eq!(held(run(&disk, &clock, &Said::nothing(), Options::default())).lver(), Lver(7));
    assert_eq!(medium.leader().owner(), Some(term(1, 1)));
}

/// A late write puts the leader record of lver 5 over that of lver 7, which host 3 holds. The owner at lver 5 lives, has
/// long released it, and its dblock has moved on. sanlock would be outrun by host 3's dblock for ever.
#[test]
fn a_leader_record_that_landed_late_is_recognised_and_the_true_owner_published_again() {
    let (medium, clock, said) = (Medium::formatted(5), ManualClock::jumping(), Said::of(term(2, 1), &[ALIVE]));
    medium.put_leader(&leader_at(5, term(2, 1), 4));
    medium.put_dblock(2, proposed(4, 2, term(2, 1)).released());
    medium.put_dblock(3, proposed(7, 2003, term(3, 1)));
    let refusal = refused(run(&device(1, &medium, &clock), &clock, &said, Options::default()));
    assert_eq!((refusal.kind, refusal.owner), (RefusalKind::CommittedOther, Some(term(3, 1))));
    assert_eq!((medium.leader().lver, medium.leader().owner()), (Lver(7), Some(term(3, 1))));
    assert!(said.asked.borrow().is_empty(), "the owner of lver 5 tells nothing about lver 7");

    let refusal = refused(run(&device(1, &medium, &clock), &clock, &said, Options::default()));
    assert_eq!(
        (refusal.kind, refusal.owner),
        (RefusalKind::Alive, Some(term(3, 1))),
        "now the right one is asked about"
    );
}

#[test]
fn behind_an_outdated_leader_an_lver_that_nobody_won_is_free_to_win() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 1), 4));
    medium.put_dblock(3, announced(7, 2003));
    assert_eq!(held(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default())).lver(), Lver(7));
}

#[test]
fn an_outdated_leader_that_lands_during_a_ballot_does_not_stop_its_winner() {
    let (medium, clock, disk) = free();
    disk.engine().before(5, |m| m.put_leader(&leader_at(5, term(4, 1), 3)));
    assert_eq!(held(run(&disk, &clock, &Said::nothing(), Options::default())).lver(), Lver(6));
    assert_eq!(medium.leader().owner(), Some(term(1, 1)));
}

#[test]
fn two_values_committed_for_one_lver_are_reported_and_not_hidden() {
    let (medium, clock, disk) = free();
    disk.engine().before(5, |m| m.put_leader(&leader_at(6, term(4, 1), 4)));
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    assert!(matches!(failed.error, AcquireError::Disagreement { lver: Lver(6), .. }));
    assert_eq!(medium.leader().owner(), Some(term(4, 1)));
}

#[test]
fn a_dblock_damaged_during_a_ballot_ends_it_and_is_never_skipped() {
    for (step, to_undo) in [(2, false), (4, true)] {
        let (medium, clock, disk) = free();
        medium.put_host(4, announced(1, 4), Some(1));
        disk.engine().before(step, |m| m.damage(dblock_of(host(4)), 0));
        let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
        assert!(matches!(failed.error, AcquireError::Area(AreaError::Dblock { host_id, .. }) if host_id == host(4)));
        assert_eq!(failed.undo.is_some(), to_undo, "a proposal of ours that others may adopt has to be retracted");
        assert_eq!(medium.leader(), free_at(5));
    }
}

#[test]
fn i1_a_foreign_write_to_our_dblock_ends_the_acquire() {
    let (_medium, clock, disk) = free();
    disk.engine().before(2, |m| m.put_dblock(1, announced(6, 2001)));
    let error = failed(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert!(matches!(error, AcquireError::Area(AreaError::ForeignWrite { host_id, .. }) if host_id == host(1)));
}

#[test]
fn i1_an_acquire_writes_its_own_dblock_and_the_leader_and_nothing_else() {
    let (_medium, clock, disk) = free();
    disk.engine().before(4, |m| m.put_dblock(2, announced(6, 8_002)));
    held(run(&disk, &clock, &Said::nothing(), Options::default()));
    let writes: Vec<_> = disk.engine().steps().into_iter().filter(|s| s.0 == Write).map(|s| s.1).collect();
    assert!(writes.iter().all(|k| matches!(k, Kind::Own | Kind::Leader)), "{writes:?}");
}

#[test]
fn i4_a_number_is_never_used_twice_even_after_a_write_that_failed() {
    let (medium, clock, disk) = free();
    disk.engine().fate(3, Fate::DoneButFails);
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    let first = medium.dblock(1);
    assert_eq!(first.bal, ballot(1), "phase 2's write landed after all");
    pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert!(held.dblock.bal > first.bal);
}

#[test]
fn i6_a_write_in_doubt_hands_over_a_duty() {
    for (step, kind) in [(1, "phase 1"), (3, "phase 2"), (6, "leader")] {
        for fate in [Fate::Fails, Fate::DoneButFails, Fate::Held] {
            let (_medium, clock, disk) = free();
            disk.engine().fate(step, fate);
            let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
            assert!(failed.undo.is_some(), "{kind}");
        }
    }
}

#[test]
fn a_stop_between_two_ballots_hands_over_the_proposal() {
    let (_medium, clock, disk) = free();
    let stop = Stop::new();
    let ask = stop.clone();
    disk.engine().before(4, move |m| {
        m.put_dblock(2, announced(6, 8_002));
        ask.set();
    });
    let options = Options::default();
    let refusal =
        refused(pollster::block_on(acquire(&disk, &clock, &Said::nothing(), &lease(), &me(1), &options, &stop)));
    assert_eq!(refusal.kind, RefusalKind::Stopped);
    assert_eq!(refusal.undo.unwrap().lver(), Lver(6));
}

#[test]
fn numbers_that_are_used_up_are_an_error() {
    let (medium, clock, disk) = free();
    medium.put_dblock(2, Dblock { inp: Inp::default(), ..announced(3, u64::MAX) });
    assert!(matches!(
        failed(run(&disk, &clock, &Said::nothing(), Options::default())),
        AcquireError::UsedUp { field: "mbal", .. }
    ));
    medium.put_dblock(2, announced(u64::MAX, 2));
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    assert!(matches!(error, AcquireError::UsedUp { field: "lver", .. }));
}

#[test]
fn a_living_shared_holder_keeps_the_lease_from_an_exclusive_owner_who_gives_it_back() {
    let (medium, clock, disk) = free();
    medium.put_host(2, proposed(5, 2, term(2, 1)).released(), Some(1));
    medium.put_host(3, announced(4, 3), Some(8));
    let at = |s| clock.now().after(Duration::from_secs(s));
    let said = Said::of(term(2, 1), &[Verdict::Alive { earliest: at(140) }])
        .and(term(3, 8), &[Verdict::Silent { earliest: at(20) }]);
    let earliest = at(140);
    let refusal = refused(run(&disk, &clock, &said, Options::default()));
    assert_eq!(refusal.kind, RefusalKind::SharedHolders(vec![term(2, 1), term(3, 8)]));
    assert_eq!((refusal.owner, refusal.earliest), (Some(term(2, 1)), Some(earliest)));
    assert!(refusal.undo.is_none(), "it was released");
    let leader = medium.leader();
    assert!(leader.is_free() && leader.lver == Lver(6));
    assert!(medium.dblock(1).is_released());
    assert!(medium.host(2).mode.is_shared() && medium.host(3).mode.is_shared());
    let shared = [(Read, Kind::OtherHost(2)), (Read, Kind::OtherHost(3))];
    let release = [(Write, Kind::Own), (Read, Kind::Leader), (Write, Kind::Leader)];
    assert_eq!(disk.engine().steps(), [&FREE[..], &shared, &release].concat());
}

#[test]
fn i1_i2_the_mode_block_of_a_dead_shared_holder_is_cleared_and_its_ballot_kept() {
    let (medium, clock, disk) = free();
    let dead = proposed(5, 2, term(2, 1)).released();
    medium.put_host(2, dead, Some(1));
    let said = Said::of(term(2, 1), &[Verdict::Gone(Gone::Silent)]);
    held(run(&disk, &clock, &said, Options::default()));
    assert_eq!(medium.dblock(2), dead);
    assert!(!medium.host(2).mode.is_shared());
    let cleared = [(Read, Kind::OtherHost(2)), (Read, Kind::OtherHost(2)), (Write, Kind::OtherHost(2))];
    assert_eq!(disk.engine().steps(), [&FREE[..], &cleared].concat(), "after our own leader write");
}

#[test]
fn i2_a_claim_is_cleared_as_it_stands_after_its_host_was_found_gone() {
    let (medium, clock, disk) = free();
    medium.put_host(2, announced(5, 2), Some(1));
    let last_word = announced(7, 252);
    // It takes its claim back and tries for the next version before it leaves.
    disk.engine().before(8, move |medium| medium.put_host(2, last_word, None));
    let said = Said::of(term(2, 1), &[Verdict::Gone(Gone::Free)]);
    held(run(&disk, &clock, &said, Options::default()));
    assert_eq!(medium.dblock(2), last_word);
    assert_eq!(disk.engine().steps(), [&FREE[..], &[(Read, Kind::OtherHost(2)); 2]].concat());
}

#[test]
fn an_older_claim_of_a_living_host_does_not_count_and_is_left_to_that_host() {
    let (medium, clock, disk) = free();
    medium.put_host(2, announced(5, 2), Some(1));
    let said = Said::of(term(2, 1), &[Verdict::Gone(Gone::NewerGeneration)]);
    held(run(&disk, &clock, &said, Options::default()));
    assert!(medium.host(2).mode.is_shared());
}

#[test]
fn a_mode_block_that_cannot_be_cleared_leaves_the_lease_to_be_retracted() {
    let (medium, clock, disk) = free();
    medium.put_host(2, announced(5, 2), Some(1));
    let said = Said::of(term(2, 1), &[Verdict::Gone(Gone::Free)]);
    disk.engine().fate(9, Fate::Held);
    let failed = run(&disk, &clock, &said, Options::default()).unwrap_err();
    let again = pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap_err();
    assert!(!medium.leader().is_free(), "nobody begins lver 7 while the write may still land");
    disk.engine().release();
    pollster::block_on(retract(&disk, &clock, again.undo.unwrap(), &me(1))).unwrap();
    assert!(medium.leader().is_free());
}
