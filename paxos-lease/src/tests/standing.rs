//! A held lease that is looked at: what counts as its loss, and what does not.

use holdfast_io::disk::Op::Read;
use holdfast_io::ids::Lver;
use holdfast_io::seal::AreaUuid;
use holdfast_io::stop::Stop;

use super::held;
use crate::acquire::{Options, acquire};
use crate::area::Me;
use crate::error::AreaError;
use crate::format::{NewLease, Writer, plan};
use crate::layout::LEADER;
use crate::release::{Held, Mode, release};
use crate::standing::{Loss, Standing, standing};
use crate::testing::{
    Kind, ManualClock, Medium, Said, TestDevice, announced, device, leader_at, lease, me, seal_of, term, uuid,
};

fn owned(mode: Mode) -> (Medium, ManualClock, TestDevice, Held) {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let disk = device(1, &medium, &clock);
    let options = Options { mode, ..Options::default() };
    let first = pollster::block_on(acquire(&disk, &clock, &Said::nothing(), &lease(), &me(1), &options, &Stop::new()));
    pollster::block_on(release(&disk, &clock, held(first), &me(1))).unwrap();
    let end = pollster::block_on(acquire(&disk, &clock, &Said::nothing(), &lease(), &me(1), &options, &Stop::new()));
    disk.engine().forget_steps();
    (medium, clock, disk, held(end))
}

fn look(disk: &TestDevice, clock: &ManualClock, held: &Held) -> Result<Standing, AreaError> {
    pollster::block_on(standing(disk, clock, held, &me(1)))
}

fn format(medium: &Medium, uuid: AreaUuid) {
    let new = NewLease {
        geometry: lease().geometry_hint,
        space: lease().space,
        resource: lease().resource,
        num_hosts: Some(5),
        uuid,
        place: None,
    };
    let Me { machine, fire, .. } = me(9);
    for write in plan(&new, &Writer { machine, fire }).unwrap() {
        medium.write(lease().at.0 + write.offset_in_area, &write.bytes);
    }
}

fn another() -> AreaUuid {
    AreaUuid(uuid::Uuid::from_bytes(*b"a second format!"))
}

#[test]
fn a_lease_that_is_left_alone_is_ours_and_that_costs_one_read_of_a_sector() {
    for (mode, kind) in [(Mode::Exclusive, Kind::Leader), (Mode::Shared, Kind::Own)] {
        let (_, clock, disk, held) = owned(mode);
        assert_eq!(look(&disk, &clock, &held), Ok(Standing::Ours));
        assert_eq!(disk.engine().steps(), [(Read, kind)]);
    }
}

#[test]
fn a_later_owner_or_another_at_our_lver_has_taken_it() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    assert_eq!(held.lver(), Lver(2));
    for (lver, owner) in [(3, term(2, 1)), (2, term(2, 1)), (2, term(1, 2)), (9, term(1, 1))] {
        medium.put_leader(&leader_at(lver, owner, 2));
        let loss = Loss::Taken { owner: Some(owner), lver: Lver(lver) };
        assert_eq!(look(&disk, &clock, &held), Ok(Standing::Lost(loss)));
        assert!(loss.is_anothers());
    }
}

#[test]
fn who_has_published_us_does_not_matter_and_a_free_record_does() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    let published = leader_at(2, term(1, 1), 3);
    medium.put_leader(&published);
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Ours));
    medium.put_leader(&holdfast_io::leader::LeaderRecord {
        timestamp: holdfast_io::ids::RemoteTimestamp::FREE,
        ..published
    });
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Lost(Loss::Freed { lver: Lver(2) })));
}

#[test]
fn a_late_write_over_our_record_is_no_loss_and_a_format_is_one() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    medium.put_leader(&leader_at(1, term(2, 1), 2));
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Outdated));
    assert_eq!(disk.engine().steps(), [(Read, Kind::Leader), (Read, Kind::Own)]);
    // As sanlock formats, and as we do.
    for uuid in [uuid(), another()] {
        format(&medium, uuid);
        assert_eq!(look(&disk, &clock, &held), Ok(Standing::Lost(Loss::Formatted)));
    }
}

#[test]
fn a_late_record_of_an_earlier_format_is_no_loss_either() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    let mut sector = medium.sector(LEADER);
    let seal = holdfast_io::seal::Seal { area: another(), ..seal_of(LEADER) };
    holdfast_io::seal::write(&mut sector, holdfast_io::seal::SealedKind::Plain, &seal);
    medium.write(lease().at.0, &sector);
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Outdated));
}

#[test]
fn a_claim_that_was_cleared_is_lost_and_an_exclusive_takers_record_says_nothing() {
    let (medium, clock, disk, held) = owned(Mode::Shared);
    let own = medium.dblock(1);
    medium.put_leader(&leader_at(3, term(2, 1), 2));
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Ours), "it has yet to look at those who share");
    medium.put_host(1, announced(7, 1), Some(1));
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Ours), "a conversion of ours that came to nothing");
    for (dblock, claim, loss) in
        [(own, None, Loss::ClaimCleared), (own, Some(2), Loss::ClaimCleared), (announced(0, 0), None, Loss::Formatted)]
    {
        medium.put_host(1, dblock, claim);
        assert_eq!(look(&disk, &clock, &held), Ok(Standing::Lost(loss)));
    }
    format(&medium, another());
    assert_eq!(look(&disk, &clock, &held), Ok(Standing::Lost(Loss::Formatted)));
}

#[test]
fn what_cannot_be_read_proves_nothing() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    medium.damage(LEADER, 40);
    assert!(matches!(look(&disk, &clock, &held), Err(AreaError::Leader { .. })));
    medium.write(lease().at.0, &[0; 512]);
    assert!(matches!(look(&disk, &clock, &held), Err(AreaError::Blank { .. })), "nobody can take it like this");
}
