//! Release and retract.

use holdfast_io::clock::Clock;
use holdfast_io::device::WriteLimit;
use holdfast_io::disk::IoErrorKind;
use holdfast_io::disk::Op::{Read, Write};
use holdfast_io::ids::{Lver, RemoteTimestamp};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::stop::Stop;

use super::{content, held, run};
use crate::acquire::{Options, acquire};
use crate::copies::{Copies, Copy};
use crate::dblock::Dblock;
use crate::error::{AreaError, ReleaseError};
use crate::release::{Held, release, rename, retract};
use crate::testing::{
    ALIVE, Fate, Kind, ManualClock, Medium, Said, Step, TestDevice, announced, ballot, device, leader_at, lease,
    limited_device, me, proposed, term,
};
use crate::value::{has_room, read_value, write_value};

const RELEASE: [Step; 3] = [(Write, Kind::Own), (Read, Kind::Leader), (Write, Kind::Leader)];

fn holding() -> (Medium, ManualClock, TestDevice, Held) {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    disk.engine().forget_steps();
    (medium, clock, disk, held)
}

#[test]
fn a_release_is_three_ios_and_leaves_a_free_leader_and_a_released_dblock() {
    let (medium, clock, disk, held) = holding();
    let (leader, dblock) = (held.leader, held.dblock);
    pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap();
    assert_eq!(disk.engine().steps(), RELEASE);
    assert_eq!(medium.leader(), LeaderRecord { timestamp: RemoteTimestamp::FREE, ..leader });
    assert_eq!(medium.dblock(1), dblock.released(), "the checksummed part is as it was (G5)");
}

#[test]
fn a_value_is_a_sector_of_the_area_that_its_holder_reads_and_writes() {
    let (medium, clock, _, held) = holding();
    let disk = Copies::new(vec![Copy { disk: device(1, &medium, &clock), at: lease().at }], clock.clone(), None);
    assert!(has_room(&held));
    let read = || pollster::block_on(read_value(&disk, &clock, &held, &me(1))).unwrap();
    assert_eq!(read(), vec![0; 512]);
    pollster::block_on(write_value(&disk, &clock, &held, &me(1), b"a value")).unwrap();
    let mut expected = b"a value".to_vec();
    expected.resize(512, 0);
    assert_eq!(read(), expected);
    pollster::block_on(write_value(&disk, &clock, &held, &me(1), b"")).unwrap();
    assert_eq!(read(), vec![0; 512], "zeros follow it");
}

#[test]
fn a_lease_is_renamed_by_the_write_that_frees_it_and_only_where_that_is_ours() {
    let (medium, clock, disk, held) = holding();
    let (leader, name) = (held.leader, "renamed".parse().unwrap());
    pollster::block_on(rename(&disk, &clock, held, &me(1), name)).unwrap();
    assert_eq!(disk.engine().steps(), RELEASE);
    let expected = LeaderRecord { timestamp: RemoteTimestamp::FREE, resource_name: name, ..leader };
    assert_eq!(medium.leader(), expected);

    let (medium, clock, disk, held) = holding();
    let theirs = LeaderRecord { write_id: 3, ..held.leader };
    medium.put_leader(&theirs);
    let failed = pollster::block_on(rename(&disk, &clock, held, &me(1), name)).unwrap_err();
    assert!(matches!(failed.error, ReleaseError::NotRenamed { by: 3, .. }) && failed.undo.is_none());
    assert_eq!(medium.leader(), theirs);
    assert!(medium.dblock(1).is_released(), "given back all the same");
}

#[test]
fn a_leader_that_another_host_wrote_is_left_alone() {
    let (medium, clock, disk, held) = holding();
    let theirs = LeaderRecord { write_id: 3, ..held.leader };
    medium.put_leader(&theirs);
    pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap();
    assert_eq!(disk.engine().steps(), RELEASE[..2]);
    assert_eq!(medium.leader(), theirs);
    assert!(medium.dblock(1).is_released());
}

#[test]
fn a_leader_that_is_not_the_one_we_hold_by_is_left_alone_and_named() {
    type Change = fn(&mut LeaderRecord);
    let changes: [(Change, &str); 4] = [
        (|l| l.lver = Lver(9), "lver"),
        (|l| l.timestamp = RemoteTimestamp::FREE, "timestamp"),
        (|l| l.owner_generation = holdfast_io::ids::Generation(4), "owner"),
        (|l| l.reserved1 = 5, "another field"),
    ];
    for (change, name) in changes {
        let (medium, clock, disk, held) = holding();
        let mut other = held.leader;
        change(&mut other);
        medium.put_leader(&other);
        let failed = pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap_err();
        assert!(failed.undo.is_none(), "not ours to try again");
        match failed.error {
            ReleaseError::Lver { found, expected, .. } => {
                assert_eq!((name, found, expected), ("lver", Lver(9), Lver(1)))
            }
            ReleaseError::Record { field, .. } => assert_eq!(field, name),
            other => panic!("{other:?}"),
        }
        assert_eq!(medium.leader(), other);
    }
}

#[test]
fn a_release_that_fails_anywhere_is_finished_by_its_duty() {
    for step in 0..3 {
        for fate in [Fate::Fails, Fate::DoneButFails] {
            let (medium, clock, disk, held) = holding();
            disk.engine().fate(step, fate);
            let failed = pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap_err();
            pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
            assert!(medium.leader().is_free() && medium.dblock(1).is_released(), "step {step}");
        }
    }
}

/// The leader write of a release is stuck. Were the lease released again meanwhile, another host could take it between
/// the first write's landing and the second's, and lose it to the second.
#[test]
fn i6_a_release_is_not_repeated_while_its_leader_write_may_still_land() {
    let (medium, clock, disk, held) = holding();
    disk.engine().fate(2, Fate::Held);
    let failed = pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap_err();
    let ReleaseError::Area(AreaError::Io(e)) = &failed.error else { panic!("{:?}", failed.error) };
    assert_eq!(e.kind, IoErrorKind::OutcomeUnknown);

    let started = clock.now();
    let again = pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap_err();
    assert!(matches!(again.error, ReleaseError::StillInFlight { .. }));
    assert_eq!(clock.now().since(started).as_secs(), 10, "one I/O deadline, then it is asked again");
    assert_eq!(disk.engine().steps().len(), 3, "nothing read, nothing written");

    disk.engine().release();
    assert!(medium.leader().is_free());
    let taken = leader_at(2, term(2, 1), 2);
    medium.put_leader(&taken);
    pollster::block_on(retract(&disk, &clock, again.undo.unwrap(), &me(1))).unwrap();
    assert_eq!(medium.leader(), taken, "the next owner's record is not ours to touch");
}

#[test]
fn i2_a_retract_keeps_the_whole_dblock_and_adds_released() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    disk.engine().fate(4, Fate::Fails);
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    let before = medium.dblock(1);
    assert_eq!((before.mbal, before.bal), (ballot(1), ballot(1)));
    disk.engine().forget_steps();
    pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    assert_eq!(medium.dblock(1), before.released());
    let steps = [(Read, Kind::Own), (Write, Kind::Own), (Read, Kind::Leader)];
    assert_eq!(disk.engine().steps(), steps, "the leader is of another lver: not touched");
}

#[test]
fn a_retract_after_a_leader_write_in_doubt_frees_the_lease() {
    for fate in [Fate::DoneButFails, Fate::Fails] {
        let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
        let disk = device(1, &medium, &clock);
        disk.engine().fate(6, fate);
        let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
        pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
        assert!(medium.leader().is_free() && medium.dblock(1).is_released());
    }
}

#[test]
fn a_retract_of_what_never_reached_the_disk_writes_nothing() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    disk.engine().fate(1, Fate::Fails);
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    let before = content(&medium);
    pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    assert_eq!(content(&medium), before);
}

#[test]
fn a_retracted_value_that_another_published_is_left_in_the_leader_for_the_next_taker() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    disk.engine().fate(4, Fate::Fails);
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    let published = leader_at(1, term(1, 1), 3);
    medium.put_leader(&published);
    pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap();
    assert_eq!(medium.leader(), published);

    // Host 2 takes it at once, though host 1 lives.
    let (host_2, said, options) = (device(2, &medium, &clock), Said::nothing(), Options::default());
    let acquired = pollster::block_on(acquire(&host_2, &clock, &said, &lease(), &me(2), &options, &Stop::new()));
    assert_eq!(held(acquired).lver(), Lver(2));
}

/// A host has given up an lver for which its proposal stands. It runs that ballot once more, publishes itself, goes on to the
/// next lver, and its first write there fails. What it has published it must take back: nobody else can.
#[test]
fn a_retract_frees_what_was_published_on_the_way_to_a_later_lver() {
    let given_up = |medium: &Medium| medium.put_dblock(1, proposed(1, 1, term(1, 1)).released());
    let acquires = |disk: &TestDevice, clock: &ManualClock| run(disk, clock, &Said::nothing(), Options::default());
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    given_up(&medium);
    let disk = device(1, &medium, &clock);
    assert_eq!(held(acquires(&disk, &clock)).lver(), Lver(2));
    let steps = disk.engine().steps();
    let published = steps.iter().position(|step| *step == (Write, Kind::Leader)).unwrap();
    let next = published + steps[published..].iter().position(|step| *step == (Write, Kind::Own)).unwrap();

    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    given_up(&medium);
    let disk = device(1, &medium, &clock);
    disk.engine().fate(next, Fate::Fails);
    let undo = acquires(&disk, &clock).unwrap_err().undo.unwrap();
    assert!(!medium.leader().is_free(), "it stands there as the owner of lver 1");
    pollster::block_on(retract(&disk, &clock, undo, &me(1))).unwrap();
    assert!(medium.leader().is_free() && medium.leader().lver == Lver(1));
    held(pollster::block_on(acquire(
        &device(2, &medium, &clock),
        &clock,
        &Said::of(term(1, 1), &[ALIVE]),
        &lease(),
        &me(2),
        &Options::default(),
        &Stop::new(),
    )));
}

/// Another host has published this one as the owner of an lver. It goes on to the next, and its first write there fails: nobody
/// but itself can say that it is done with the one before.
#[test]
fn a_retract_gives_up_what_another_published_on_the_way_to_a_later_lver() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    medium.put_dblock(1, proposed(1, 1, term(1, 1)));
    medium.put_leader(&leader_at(1, term(1, 1), 2));
    let disk = device(1, &medium, &clock);
    disk.engine().fate(1, Fate::Fails);
    let undo = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err().undo.unwrap();
    pollster::block_on(retract(&disk, &clock, undo, &me(1))).unwrap();
    assert!(medium.dblock(1).is_released() && medium.dblock(1).lver == Lver(1));
    let (host_2, said) = (device(2, &medium, &clock), Said::of(term(1, 1), &[ALIVE]));
    let options = Options::default();
    let acquired = pollster::block_on(acquire(&host_2, &clock, &said, &lease(), &me(2), &options, &Stop::new()));
    assert_eq!(held(acquired).lver(), Lver(2));
}

#[test]
fn d2_past_the_write_limit_a_release_writes_nothing_and_keeps_its_duty() {
    let (medium, clock, _, held) = holding();
    let before = content(&medium);
    let disk = limited_device(1, &medium, &clock, WriteLimit::until(clock.now()));
    let failed = pollster::block_on(release(&disk, &clock, held, &me(1))).unwrap_err();
    let again = pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap_err();
    again.undo.unwrap().abandon();
    assert_eq!(content(&medium), before);
}

/// Two columns, one sector: phase 1 of host 1 is held up; its caller gives up; the retract waits for it.
#[test]
fn late_phase_1_write_never_lands_over_a_later_write_of_the_same_host() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    disk.engine().fate(1, Fate::Held);
    let failed = run(&disk, &clock, &Said::nothing(), Options::default()).unwrap_err();
    let again = pollster::block_on(retract(&disk, &clock, failed.undo.unwrap(), &me(1))).unwrap_err();
    disk.engine().release();
    assert_eq!(medium.dblock(1), announced(1, 1));
    pollster::block_on(retract(&disk, &clock, again.undo.unwrap(), &me(1))).unwrap();
    assert_eq!(medium.dblock(1), announced(1, 1).released());
    let held = held(run(&disk, &clock, &Said::nothing(), Options::default()));
    assert_eq!(held.lver(), Lver(2), "lver 1 was given up, for good");
    assert_eq!(held.dblock, Dblock { inp: held.dblock.inp, ..proposed(2, 4001, term(1, 1)) });
}
