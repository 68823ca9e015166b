//! Entering a lease: each state that it can be found in, and each way of being refused.

use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::Op::{Read, Write};
use holdfast_io::ids::{Lver, RemoteTimestamp};
use holdfast_io::leader::{LeaderError, LeaderRecord, SHORT_HOLD};
use holdfast_io::mem::MemEngine;
use holdfast_io::seal::{AreaUuid, Seal, SealedFire};
use holdfast_io::stop::Stop;
use holdfast_io::units::{Geometry, SectorIndex};

use super::{FREE, content, failed, held, refused, run};
use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::area::Me;
use crate::dblock::{Dblock, DblockError, RELEASED};
use crate::error::{AcquireError, AreaError, Unread};
use crate::format::{NewLease, Writer, clear, plan};
use crate::layout::{dblock_of, uuid_sector};
use crate::liveness::{Gone, Verdict};
use crate::release::Mode;
use crate::testing::{
    Fate, Kind, ManualClock, Medium, SMALL, Said, announced, ballot, device, host, leader_at, lease, limited_device,
    machine, me, proposed, term, uuid,
};

const WAIT: Options =
    Options { mode: Mode::Exclusive, expected_lver: None, num_hosts: None, wait_for_silent: true, backoff_seed: 1 };

#[test]
fn a_free_lease_is_taken_in_seven_ios() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(disk.engine().steps(), FREE);
    assert_eq!(held.lver(), Lver(1));
    assert_eq!(medium.leader(), held.leader);
    assert_eq!(held.leader.owner(), Some(term(1, 1)));
    assert_eq!((held.leader.timestamp, held.leader.write_id), (RemoteTimestamp(1000), 1));
    let bal = ballot(1);
    assert_eq!(medium.dblock(1), Dblock { mbal: bal, bal, inp: held.dblock.inp, lver: Lver(1), flags: 0 });
}

#[test]
fn g4_a_held_leader_is_what_the_real_program_writes() {
    // LSX/R1, owner 1 generation 2, lver 5, timestamp 1384 (spec D, G4).
    let mut leader = leader_at(5, term(1, 2), 1);
    leader.space_name = "LSX".parse().unwrap();
    leader.resource_name = "R1".parse().unwrap();
    leader = LeaderRecord {
        num_hosts: 2000,
        timestamp: RemoteTimestamp(0x568),
        write_generation: 2,
        write_timestamp: 0x568,
        ..leader
    };
    assert_eq!(LeaderRecord::checksums(&leader.encode()).0, 0x488f_2656);
}

#[test]
fn what_we_write_is_sealed_with_the_areas_uuid() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    held(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    for (at, kind) in [
        (SectorIndex(0), holdfast_io::seal::SealedKind::Plain),
        (dblock_of(host(1)), holdfast_io::seal::SealedKind::Dblock),
    ] {
        let seal = holdfast_io::seal::read(&medium.sector(at), kind, at).unwrap().unwrap();
        assert_eq!((seal.area, seal.machine), (uuid(), machine(1).machine));
    }
}

#[test]
fn a_lease_left_over_from_this_or_an_earlier_generation_of_ours_is_taken_without_asking() {
    for generation in [0, 1] {
        let (medium, clock, said) = (Medium::formatted(5), ManualClock::jumping(), Said::nothing());
        medium.put_leader(&leader_at(5, term(1, generation), 1));
        medium.put_dblock(1, proposed(5, 2001, term(1, generation)));
        let held = held(run(&device(1, &medium, &clock), &clock, &said, Options::default()));
        assert_eq!(held.lver(), Lver(6));
        assert_eq!(held.dblock.mbal, ballot(4001), "above our own, of an older lver");
        assert!(said.asked.borrow().is_empty());
    }
}

#[test]
fn a_lease_of_a_later_generation_of_our_host_id_is_not_touched() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(1, 2), 1));
    let before = content(&medium);
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    assert!(
        matches!(error, AcquireError::Superseded { found, expected, .. } if found == term(1, 2) && expected == term(1, 1))
    );
    assert_eq!(content(&medium), before);
}

#[test]
fn a_living_owner_is_named_and_nothing_is_written() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 7), 2));
    let before = content(&medium);
    let disk = device(1, &medium, &clock);
    let earliest = clock.now().after(Duration::from_secs(140));
    let said = Said::of(term(2, 7), &[Verdict::Alive { earliest }]);
    let refusal = refused(run(&disk, &clock, &said, WAIT));
    assert_eq!(refusal.kind, RefusalKind::Alive);
    assert_eq!((refusal.owner, refusal.earliest), (Some(term(2, 7)), Some(earliest)));
    assert_eq!(refusal.leader, Some(medium.leader()));
    assert!(refusal.undo.is_none());
    assert_eq!(disk.engine().steps(), [(Read, Kind::Area)]);
    assert_eq!(content(&medium), before);
}

#[test]
fn a_silent_owner_is_not_waited_for_when_told_not_to() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 7), 2));
    let earliest = clock.now().after(Duration::from_secs(3));
    for (verdict, known) in [(Verdict::Silent { earliest }, Some(earliest)), (Verdict::Unknown, None)] {
        let said = Said::of(term(2, 7), &[verdict]);
        let refusal = refused(run(&device(1, &medium, &clock), &clock, &said, Options::default()));
        assert_eq!((refusal.kind, refusal.earliest), (RefusalKind::Silent, known));
        assert!(clock.slept().is_empty());
    }
}

#[test]
fn a_silent_owner_is_waited_for_and_its_lease_taken_once_it_is_gone_and_not_before() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 7), 2));
    let earliest = clock.now().after(Duration::from_millis(2500));
    let silent = Verdict::Silent { earliest };
    let said = Said::of(term(2, 7), &[silent, silent, silent, Verdict::Gone(Gone::Silent)]);
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &said, WAIT));
    assert_eq!(held.lver(), Lver(6));
    assert_eq!(clock.now(), earliest);
    let look = (Read, Kind::Leader);
    let steps = [&FREE[..1], &[look, look, look], &[look], &FREE[1..]].concat();
    assert_eq!(disk.engine().steps(), steps, "one look a second, one more before the ballot");
}

#[test]
fn a_lease_that_is_released_while_it_is_waited_for_is_taken_at_once() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let owned = leader_at(5, term(2, 7), 2);
    medium.put_leader(&owned);
    let said = Said::of(term(2, 7), &[Verdict::Unknown]);
    let disk = device(1, &medium, &clock);
    disk.engine().before(1, move |m| m.put_leader(&LeaderRecord { timestamp: RemoteTimestamp::FREE, ..owned }));
    assert_eq!(held(run(&disk, &clock, &said, WAIT)).lver(), Lver(6));
    assert_eq!(said.asked.borrow().len(), 1);
}

#[test]
fn an_owner_that_says_released_while_it_is_waited_for_is_over_where_another_published_it() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 7), 3));
    medium.put_dblock(2, proposed(5, 2, term(2, 7)));
    let said = Said::of(term(2, 7), &[Verdict::Unknown]);
    let disk = device(1, &medium, &clock);
    disk.engine().before(2, |m| m.put_dblock(2, proposed(5, 2, term(2, 7)).released()));
    assert_eq!(held(run(&disk, &clock, &said, WAIT)).lver(), Lver(6));
    assert_eq!(disk.engine().steps()[1..3], [(Read, Kind::Leader), (Read, Kind::OtherHost(2))]);
}

#[test]
fn a_stop_ends_the_wait_for_a_silent_owner() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 7), 2));
    let before = content(&medium);
    let (stop, asked) = (Stop::new(), Stop::new());
    let said = Said::of(term(2, 7), &[Verdict::Unknown]);
    let disk = device(1, &medium, &clock);
    let ask = stop.clone();
    disk.engine().before(1, move |_| ask.set());
    let result = pollster::block_on(acquire(&disk, &clock, &said, &lease(), &me(1), &WAIT, &stop));
    let refusal = refused(result);
    assert_eq!(refusal.kind, RefusalKind::Stopped);
    assert!(refusal.undo.is_none());
    assert_eq!(content(&medium), before);
    asked.set();
    let result = pollster::block_on(acquire(&disk, &clock, &said, &lease(), &me(1), &WAIT, &asked));
    assert!(refused(result).leader.is_none(), "stopped before it began: not even read");
}

#[test]
fn an_owner_that_gave_up_a_lease_which_another_published_is_not_asked_about() {
    let (medium, clock, said) = (Medium::formatted(5), ManualClock::jumping(), Said::nothing());
    medium.put_leader(&leader_at(5, term(2, 1), 3));
    medium.put_dblock(2, proposed(5, 2, term(2, 1)).released());
    assert_eq!(held(run(&device(1, &medium, &clock), &clock, &said, Options::default())).lver(), Lver(6));
    assert!(said.asked.borrow().is_empty());
}

#[test]
fn a_damaged_dblock_of_any_living_host_in_use_refuses_the_lease() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_dblock(4, proposed(1, 4, term(4, 1)));
    medium.damage(dblock_of(host(4)), 9);
    let before = content(&medium);
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    let AcquireError::Obscured { why: Unread::Alive, source: AreaError::Dblock { host_id, offset, .. }, .. } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((host_id, offset), (host(4), lease().at.0 + 5 * 512));
    assert_eq!(content(&medium), before);
}

#[test]
fn dblocks_behind_num_hosts_are_read_only_where_the_leader_is_not_its_owners_own() {
    let (medium, clock) = (Medium::formatted(3), ManualClock::jumping());
    medium.put_dblock(4, announced(1, 4));
    medium.damage(dblock_of(host(4)), 0);
    held(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    let by_another = LeaderRecord { num_hosts: 3, ..leader_at(5, term(1, 0), 3) };
    medium.put_leader(&by_another);
    medium.put_dblock(1, proposed(5, 1, term(1, 0)));
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    assert!(matches!(error, AcquireError::Obscured { why: Unread::Alive, .. }), "{error:?}");
}

#[test]
fn unknown_flags_refuse_the_lease_by_name() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_dblock(2, Dblock { flags: 0x8, ..Dblock::default() });
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    let unknown = DblockError::UnknownFlags { record: "dblock", found: 0x8 };
    assert!(matches!(error, AcquireError::Area(AreaError::Dblock { source, .. }) if source == unknown));

    let medium = Medium::formatted(5);
    let leader = medium.leader();
    medium.put_leader(&LeaderRecord { flags: leader.flags | 0x100, ..leader });
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    let unknown = Box::new(LeaderError::UnknownFlags { found: 0x100 });
    assert!(matches!(error, AcquireError::Area(AreaError::Leader { source, .. }) if source == unknown));
}

#[test]
fn a_sector_of_another_area_in_this_place_is_damage() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let at = dblock_of(host(2));
    let elsewhere = Seal {
        fire: SealedFire::NoWatchdog,
        machine: machine(2).machine,
        boot: machine(2).boot,
        area: AreaUuid::NONE,
        millis: 0,
        sector: at,
    };
    let sector = crate::dblock::HostSector { dblock: announced(900, 2), ..Default::default() };
    medium.write(lease().at.sector(at, SMALL.sector()), &sector.sector(SMALL.sector(), &elsewhere));
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    let AcquireError::Obscured { why: Unread::Alive, source: AreaError::Dblock { source, .. }, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source, DblockError::Area { found: AreaUuid::NONE, expected: uuid() });
    // Its version is one of the other area, and tells nothing of this one.
    let gone = Said::nothing().absence(2, &[Verdict::Gone(Gone::Free)]);
    assert_eq!(held(run(&device(1, &medium, &clock), &clock, &gone, Options::default())).lver(), Lver(2));
    assert_eq!(medium.dblock(2), announced(1, 2).released());
}

#[test]
fn a_damaged_seal_of_the_leader_or_of_the_uuid_refuses_the_lease() {
    for (at, record) in [(SectorIndex(0), "leader record"), (uuid_sector(SMALL), "area UUID")] {
        let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
        medium.damage(at, 210);
        let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
        assert!(matches!(error, AcquireError::Area(AreaError::Seal { record: found, .. }) if found == record));
    }
}

#[test]
fn an_lver_other_than_the_one_asked_for_is_an_error_and_nothing_is_written() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let before = content(&medium);
    let options = Options { expected_lver: Some(Lver(3)), ..Options::default() };
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), options));
    assert!(matches!(error, AcquireError::Lver { found: Lver(0), expected: Lver(3), .. }));
    assert_eq!(content(&medium), before);
}

#[test]
fn num_hosts_changes_with_the_lease_and_only_within_the_area() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    for (num_hosts, fits) in [(0, false), (2001, false), (7, true), (1, true)] {
        let options = Options { num_hosts: Some(num_hosts), ..Options::default() };
        let result = run(&device(1, &medium, &clock), &clock, &Said::nothing(), options);
        if fits {
            assert_eq!(held(result).leader.num_hosts, u64::from(num_hosts));
        } else {
            assert!(matches!(failed(result), AcquireError::NumHosts { found, .. } if found == num_hosts));
        }
    }
}

#[test]
fn short_hold_of_an_earlier_owner_is_cleared() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let leader = leader_at(5, term(1, 0), 1);
    medium.put_leader(&LeaderRecord { flags: leader.flags | SHORT_HOLD, ..leader });
    let held = held(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    assert_eq!(held.leader.flags & SHORT_HOLD, 0);
}

#[test]
fn our_own_shared_claim_is_not_erased_by_an_acquire() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_host(1, announced(1, 1), Some(1));
    let error = failed(run(&device(1, &medium, &clock), &clock, &Said::nothing(), Options::default()));
    assert!(matches!(error, AcquireError::AlreadyShared { .. }));
    let (restarted, disk) = (Me { term: term(1, 2), ..me(1) }, device(1, &medium, &clock));
    let (said, lease, options, stop) = (Said::nothing(), lease(), Options::default(), Stop::new());
    let again = acquire(&disk, &clock, &said, &lease, &restarted, &options, &stop);
    held(pollster::block_on(again));
    assert!(!medium.host(1).mode.is_shared(), "that of an earlier generation is over (P1)");
}

#[test]
fn a_read_that_fails_leaves_nothing_to_undo() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    disk.engine().fate(0, Fate::Fails);
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    assert!(matches!(failed.error, AcquireError::Area(AreaError::Io(_))) && failed.undo.is_none());
}

#[test]
fn d2_past_the_write_limit_nothing_is_written() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let before = content(&medium);
    let disk = limited_device(1, &medium, &clock, WriteLimit::until(clock.now()));
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    assert!(failed.undo.is_none(), "nothing landed, and nothing can");
    assert_eq!(content(&medium), before);
}

fn memory(geometry: Geometry, len: usize) -> (MemEngine, Device<MemEngine, ManualClock>, ManualClock) {
    let mut bytes = vec![0; len];
    let new = NewLease {
        geometry,
        space: lease().space,
        resource: lease().resource,
        num_hosts: None,
        uuid: uuid(),
        place: None,
    };
    for write in plan(&new, &Writer { machine: machine(9), fire: SealedFire::NoWatchdog }).unwrap() {
        let at = usize::try_from(lease().at.0 + write.offset_in_area).unwrap();
        bytes[at..at + write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let (engine, clock) = (MemEngine::with(bytes), ManualClock::jumping());
    (engine.clone(), Device::new(engine, clock.clone(), WriteLimit::none()), clock)
}

#[test]
fn the_leader_decides_about_the_shape_of_its_area_whatever_the_hint() {
    for real in Geometry::ALL {
        for geometry_hint in Geometry::ALL {
            let end = usize::try_from(lease().at.0).unwrap() + real.area_len();
            let (_, disk, clock) = memory(real, end);
            let hinted = crate::LeaseAt { geometry_hint, ..lease() };
            let (said, options) = (Said::nothing(), Options::default());
            match pollster::block_on(acquire(&disk, &clock, &said, &hinted, &me(1), &options, &Stop::new())) {
                Ok(Acquired::Ours(held)) => assert_eq!(held.geometry, real),
                other => panic!("{real} hinted as {geometry_hint}: {other:?}"),
            }
        }
    }
}

#[test]
fn places_without_a_usable_lease_are_told_apart() {
    let (engine, disk, clock) = memory(SMALL, 3 * 1024 * 1024);
    let run = || {
        let said = Said::nothing();
        let result =
            pollster::block_on(acquire(&disk, &clock, &said, &lease(), &me(1), &Options::default(), &Stop::new()));
        match failed(result) {
            AcquireError::Area(e) => e,
            other => panic!("{other:?}"),
        }
    };
    let at = usize::try_from(lease().at.0).unwrap();
    let new = NewLease {
        geometry: SMALL,
        space: lease().space,
        resource: "S".parse().unwrap(),
        num_hosts: None,
        uuid: uuid(),
        place: None,
    };
    let writer = Writer { machine: machine(9), fire: SealedFire::NoWatchdog };
    let write = |bytes: &[u8]| engine.bytes()[at..at + 512].copy_from_slice(bytes);
    write(&plan(&new, &writer).unwrap()[2].bytes);
    assert!(matches!(run(), AreaError::Leader { source, .. } if matches!(*source, LeaderError::Resource { .. })));
    write(&clear(&new, &writer, clock.now()).unwrap()[0].bytes);
    assert!(matches!(run(), AreaError::Cleared { .. }));
    write(&[0; 512]);
    assert!(matches!(run(), AreaError::Blank { .. }));
    write(&[0x55; 512]);
    assert!(matches!(run(), AreaError::Leader { source, .. } if matches!(*source, LeaderError::Magic { .. })));
}

#[test]
fn an_owner_that_is_gone_is_followed_after_one_more_look_at_the_leader() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_leader(&leader_at(5, term(2, 7), 2));
    let said = Said::of(term(2, 7), &[Verdict::Gone(Gone::NewerGeneration)]);
    let disk = device(1, &medium, &clock);
    assert_eq!(held(run(&disk, &clock, &said, Options::default())).lver(), Lver(6));
    assert_eq!(disk.engine().steps(), [&FREE[..1], &[(Read, Kind::Leader)], &FREE[1..]].concat());
    assert_eq!(disk.engine().steps()[2], (Write, Kind::Own));
    assert_eq!(medium.dblock(1).flags & RELEASED, 0);
}
