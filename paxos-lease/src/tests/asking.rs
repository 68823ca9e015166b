//! Requests: who is asked, and who is not.

use holdfast_io::bytes::put;
use holdfast_io::disk::Op::Read;
use holdfast_io::ids::Lver;
use holdfast_io::stop::Stop;

use super::held;
use crate::acquire::{Options, acquire};
use crate::ask::{Ask, Asked, ask, asked_of};
use crate::error::{AreaError, AskError};
use crate::layout::REQUEST;
use crate::release::{Held, Mode, release};
use crate::request::{Force, RequestError, RequestRecord};
use crate::testing::{ManualClock, Medium, Said, TestDevice, device, lease, me, term};

const NEXT: Ask = Ask { lver: None, force: Some(Force::Kill) };

fn owned(mode: Mode) -> (Medium, ManualClock, TestDevice, Held) {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let (disk, held) = taken(&medium, &clock, 1, mode);
    (medium, clock, disk, held)
}

fn taken(medium: &Medium, clock: &ManualClock, by: u64, mode: Mode) -> (TestDevice, Held) {
    let disk = device(by, medium, clock);
    let options = Options { mode, ..Options::default() };
    let end = pollster::block_on(acquire(&disk, clock, &Said::nothing(), &lease(), &me(by), &options, &Stop::new()));
    (disk, held(end))
}

fn given_back(disk: &TestDevice, clock: &ManualClock, held: Held, by: u64) {
    pollster::block_on(release(disk, clock, held, &me(by))).unwrap();
}

fn asks(medium: &Medium, clock: &ManualClock, what: Ask) -> Result<Asked, AskError> {
    pollster::block_on(ask(&device(2, medium, clock), clock, &lease(), &me(2), what))
}

fn is_asked(disk: &TestDevice, clock: &ManualClock, held: &Held, whom: u64) -> Result<Option<Force>, AreaError> {
    pollster::block_on(asked_of(disk, clock, held, &me(whom)))
}

/// As sanlock writes it: the rest of the sector is zeros.
fn unsealed(medium: &Medium, lver: u64, force: Force) {
    let record = RequestRecord { lver: Lver(lver), force_mode: force.number(), ..RequestRecord::formatted() };
    let mut sector = vec![0; 512];
    put(&mut sector, 0, &record.encode());
    medium.write(lease().at.sector(REQUEST, lease().geometry_hint.sector()), &sector);
}

#[test]
fn an_owner_that_is_asked_by_name_hears_it_once_it_looks() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    assert_eq!(is_asked(&disk, &clock, &held, 1), Ok(None));
    assert_eq!(asks(&medium, &clock, NEXT), Ok(Asked::Owner(term(1, 1))));
    disk.engine().forget_steps();
    assert_eq!(is_asked(&disk, &clock, &held, 1), Ok(Some(Force::Kill)));
    assert_eq!(disk.engine().steps().iter().map(|(op, _)| *op).collect::<Vec<_>>(), [Read]);
    let graceful = Ask { lver: Some(Lver(2)), force: Some(Force::Graceful) };
    assert_eq!(asks(&medium, &clock, graceful), Ok(Asked::Owner(term(1, 1))));
    assert_eq!(is_asked(&disk, &clock, &held, 1), Ok(Some(Force::Graceful)));
}

#[test]
fn a_request_that_was_for_an_earlier_owner_is_for_no_later_one() {
    let (medium, clock, disk, first) = owned(Mode::Exclusive);
    let far = Ask { lver: Some(Lver(1000)), force: Some(Force::Kill) };
    assert_eq!(asks(&medium, &clock, far), Ok(Asked::Owner(term(1, 1))));
    given_back(&disk, &clock, first, 1);
    let (third, held) = taken(&medium, &clock, 3, Mode::Exclusive);
    assert_eq!(is_asked(&third, &clock, &held, 3), Ok(None), "another host");
    given_back(&third, &clock, held, 3);
    let (disk, again) = taken(&medium, &clock, 1, Mode::Exclusive);
    assert_eq!(is_asked(&disk, &clock, &again, 1), Ok(None), "the same host, for another client");
}

#[test]
fn a_request_of_sanlocks_is_for_whoever_has_an_earlier_version_unless_it_stood_there_before() {
    let (medium, clock, disk, first) = owned(Mode::Exclusive);
    unsealed(&medium, 1, Force::Kill);
    assert_eq!(is_asked(&disk, &clock, &first, 1), Ok(None), "that version is reached");
    unsealed(&medium, 1000, Force::Kill);
    assert_eq!(is_asked(&disk, &clock, &first, 1), Ok(Some(Force::Kill)));
    given_back(&disk, &clock, first, 1);
    let (disk, later) = taken(&medium, &clock, 1, Mode::Exclusive);
    assert_eq!(is_asked(&disk, &clock, &later, 1), Ok(None), "it was for somebody else");
    unsealed(&medium, 1000, Force::Graceful);
    assert_eq!(is_asked(&disk, &clock, &later, 1), Ok(Some(Force::Graceful)), "this one is new");
}

#[test]
fn nobody_is_asked_for_a_lease_that_is_free_or_shared() {
    let (medium, clock) = (Medium::formatted(5), ManualClock::jumping());
    let before = medium.sector(REQUEST);
    assert_eq!(asks(&medium, &clock, NEXT), Ok(Asked::Free));
    let (disk, held) = taken(&medium, &clock, 1, Mode::Shared);
    assert_eq!(asks(&medium, &clock, NEXT), Ok(Asked::Free));
    assert_eq!(medium.sector(REQUEST), before, "nothing is written");
    unsealed(&medium, 1000, Force::Kill);
    assert_eq!(is_asked(&disk, &clock, &held, 1), Ok(None));
}

#[test]
fn versions_that_are_reached_or_less_than_another_asked_for_are_refused() {
    let (medium, clock, _disk, _held) = owned(Mode::Exclusive);
    let at = |lver| Ask { lver: Some(Lver(lver)), ..NEXT };
    assert!(matches!(asks(&medium, &clock, at(1)), Err(AskError::Reached { found: Lver(1), .. })));
    assert_eq!(asks(&medium, &clock, at(9)), Ok(Asked::Owner(term(1, 1))));
    assert!(matches!(asks(&medium, &clock, at(8)), Err(AskError::Outbid { found: Lver(9), .. })));
    assert_eq!(asks(&medium, &clock, at(9)), Ok(Asked::Owner(term(1, 1))));
    assert_eq!(asks(&medium, &clock, Ask { lver: Some(Lver(0)), force: None }), Ok(Asked::Cleared));
    assert_eq!(asks(&medium, &clock, at(8)), Ok(Asked::Owner(term(1, 1))));
}

#[test]
fn a_damaged_record_asks_for_nothing_and_is_not_written_over() {
    let (medium, clock, disk, held) = owned(Mode::Exclusive);
    assert_eq!(asks(&medium, &clock, NEXT), Ok(Asked::Owner(term(1, 1))));
    medium.damage(REQUEST, 9);
    let before = medium.sector(REQUEST);
    let wrong = |e: AreaError| matches!(e, AreaError::Request { source: RequestError::Seal(_), .. });
    assert!(wrong(is_asked(&disk, &clock, &held, 1).unwrap_err()));
    assert!(matches!(asks(&medium, &clock, NEXT), Err(AskError::Area(e)) if wrong(e.clone())));
    assert_eq!(medium.sector(REQUEST), before);
}
