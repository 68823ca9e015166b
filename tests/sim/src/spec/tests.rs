//! Runs written by hand, byte for byte: one that our hosts would make, and those that none of them may.

use std::collections::BTreeMap;

use holdfast_io::bytes::{put_u16, put_u32, put_u64};
use holdfast_io::checksum::lease_crc;
use holdfast_io::disk::Op;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver};
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorSize};

use super::accept::{Acceptor, Rejection};
use super::state::Sector;
use super::why::Why;
use crate::checkers::Area;
use crate::disk::{Facts, HostIndex, Writer};

const MIB: u64 = 1024 * 1024;

fn host_of(p: u64) -> HostIndex {
    HostIndex(usize::try_from(p).unwrap())
}
const S: u64 = 1_000_000_000;
/// 8 io_timeouts of 10 s and a fire timeout of 60 s.
const HOST_DEAD: u64 = 140 * S;

fn geometry() -> Geometry {
    Geometry::new(SectorSize::B512, AlignSize::M1).unwrap()
}

fn resource() -> Area {
    Area::Paxos(0, LeaseOffset(MIB), geometry())
}

fn id(p: u64) -> HostId {
    HostId::new(p).unwrap()
}

/// Three hosts, host_ids 1 to 3, each in its first process.
struct Run {
    acceptor: Acceptor,
    now: u64,
    last_id: u64,
    processes: BTreeMap<u64, u32>,
    deltas: BTreeMap<u64, Vec<u8>>,
}

/// mbal, bal, the proposed owner with its generation, lver, RELEASED. The owner asked at second 7.
fn dblock(lver: u64, mbal: u64, proposed: Option<(u64, u64, u64)>, released: bool) -> Vec<u8> {
    let mut sector = vec![0; 512];
    let (bal, owner, generation) = proposed.unwrap_or_default();
    let timestamp = if proposed.is_some() { 7 } else { 0 };
    for (at, field) in [(0, mbal), (8, bal), (16, owner), (24, generation), (32, timestamp), (40, lver)] {
        put_u64(&mut sector, at, field);
    }
    let crc = lease_crc(&sector[..48]);
    put_u32(&mut sector, 48, crc);
    put_u32(&mut sector, 52, u32::from(released));
    sector
}

fn record(magic: u32, fields: &[(usize, u64)]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    put_u32(&mut sector, 0, magic);
    fields.iter().for_each(|(at, field)| put_u64(&mut sector, *at, *field));
    let crc = lease_crc(&sector[..168]);
    put_u32(&mut sector, 168, crc);
    put_u16(&mut sector, 174, 10);
    sector
}

fn leader(lver: u64, owner: (u64, u64), timestamp: u64, writer: u64) -> Vec<u8> {
    record(0x0615_2010, &[(32, owner.0), (40, owner.1), (48, lver), (152, timestamp), (176, writer)])
}

fn delta(p: u64, generation: u64, timestamp: u64) -> Vec<u8> {
    record(0x1221_2010, &[(32, p), (40, generation), (152, timestamp)])
}

impl Run {
    fn new() -> Self {
        let hosts = (1..=3).map(|p| (host_of(p), id(p))).collect();
        let areas = [Area::Delta(0, LeaseOffset(0), geometry()), resource()];
        let mut run = Run {
            acceptor: Acceptor::new(&areas, &hosts),
            now: 1000 * S,
            last_id: 0,
            processes: BTreeMap::new(),
            deltas: BTreeMap::new(),
        };
        (1..=3).for_each(|p| run.renews(p, 1, 1).unwrap());
        run
    }

    fn facts(&mut self, p: u64, op: Op, at: u64, len: usize) -> Facts {
        self.last_id += 1;
        let process = *self.processes.entry(p).or_insert(1);
        let writer = Writer { host: host_of(p), boot: 1, process, host_id: id(p) };
        Facts { disk: 0, id: self.last_id, writer, op, at, len, began: self.now }
    }

    fn renews(&mut self, p: u64, generation: u64, timestamp: u64) -> Result<(), Rejection> {
        let at = (p - 1) * 512;
        let io = self.facts(p, Op::Write, at, 512);
        let new = delta(p, generation, timestamp);
        let old = self.deltas.insert(p, new.clone()).unwrap_or_else(|| vec![0; 512]);
        self.acceptor.issued(&io, &new, self.now)?;
        self.acceptor.landed(&io, at, &old, &new, self.now)?;
        self.acceptor.over(&io)
    }

    /// The whole area, in one go.
    fn reads(&mut self, p: u64) -> Result<(), Rejection> {
        let io = self.facts(p, Op::Read, MIB, 1 << 20);
        self.acceptor.read(&io, io.at, io.len as u64)
    }

    fn reads_sector(&mut self, p: u64, sector: u64) -> Result<(), Rejection> {
        let io = self.facts(p, Op::Read, MIB + sector * 512, 512);
        self.acceptor.read(&io, io.at, 512)
    }

    fn issues(&mut self, p: u64, sector: u64, bytes: &[u8]) -> Result<Facts, Rejection> {
        let io = self.facts(p, Op::Write, MIB + sector * 512, bytes.len());
        self.acceptor.issued(&io, bytes, self.now).map(|()| io)
    }

    fn lands(&mut self, io: &Facts) -> Result<(), Rejection> {
        self.acceptor.landed(io, io.at, &[], &[], self.now)?;
        self.acceptor.over(io)
    }

    fn writes(&mut self, p: u64, sector: u64, bytes: &[u8]) -> Result<(), Rejection> {
        let io = self.issues(p, sector, bytes)?;
        self.lands(&io)
    }

    fn writes_own(&mut self, p: u64, bytes: &[u8]) -> Result<(), Rejection> {
        self.writes(p, p + 1, bytes)
    }

    /// A ballot of `p` for `lver` with number `mbal`, for itself, in its generation; everything up to its decision.
    fn decides(&mut self, p: u64, generation: u64, lver: u64, mbal: u64) {
        self.reads(p).unwrap();
        self.writes_own(p, &dblock(lver, mbal, None, false)).unwrap();
        self.reads(p).unwrap();
        self.writes_own(p, &dblock(lver, mbal, Some((mbal, p, generation)), false)).unwrap();
        self.reads(p).unwrap();
    }

    /// And the client runs.
    fn acquires(&mut self, p: u64, generation: u64, lver: u64, mbal: u64) {
        self.decides(p, generation, lver, mbal);
        self.writes(p, 0, &leader(lver, (p, generation), 7, p)).unwrap();
        self.acceptor.holds(host_of(p), resource()).unwrap();
    }

    fn ends(&mut self, p: u64) {
        self.acceptor.ends(host_of(p), resource()).unwrap();
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(done: Result<T, Rejection>, expected: Why) {
    match done {
        Err(Rejection::Refused { why, .. }) if why == expected => {}
        other => panic!("{other:?}, expected {expected:?}"),
    }
}

#[test]
fn acquires_releases_and_the_next_hosts_turn_are_accepted() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.ends(1);
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)).unwrap();
    run.reads_sector(1, 0).unwrap();
    run.writes(1, 0, &leader(1, (1, 1), 0, 1)).unwrap();
    run.acquires(2, 1, 2, 2);
    assert!(run.renews(1, 1, 2).is_ok());
}

#[test]
fn nobody_begins_a_ballot_without_having_read_that_the_lver_before_is_over() {
    let mut run = Run::new();
    refused(run.writes_own(1, &dblock(1, 1, None, false)), Why::NotOver(Lver(0)));
    run.acquires(1, 1, 1, 1);
    run.reads(2).unwrap();
    refused(run.writes_own(2, &dblock(2, 2, None, false)), Why::NotOver(Lver(1)));
}

#[test]
fn a_living_owner_is_left_alone_until_it_was_silent_for_long_enough() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.acceptor.reset(HostIndex(1)).unwrap();
    run.reads(2).unwrap();
    run.now += HOST_DEAD;
    refused(run.writes_own(2, &dblock(2, 2, None, false)), Why::NotOver(Lver(1)));
    run.now += HOST_DEAD / 1000 + 2 * S;
    run.writes_own(2, &dblock(2, 2, None, false)).unwrap();
}

#[test]
fn a_term_that_ended_by_silence_writes_nothing_any_more() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.ends(1);
    run.reads(2).unwrap();
    run.now += 2 * HOST_DEAD;
    run.writes_own(2, &dblock(2, 2, None, false)).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)), Why::TermOver(id(1)));
}

#[test]
fn nobody_is_over_by_silence_whose_client_runs_or_whose_write_may_land() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.reads(2).unwrap();
    run.now += 2 * HOST_DEAD;
    refused(run.writes_own(2, &dblock(2, 2, None, false)), Why::StillHolds(id(1)));

    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.ends(1);
    let _late = run.issues(1, 2, &dblock(1, 1, Some((1, 1, 1)), true)).unwrap();
    run.reads(2).unwrap();
    run.now += 2 * HOST_DEAD;
    refused(run.writes_own(2, &dblock(2, 2, None, false)), Why::StillInFlight(id(1)));
}

#[test]
fn a_verdict_of_silence_stands_although_a_late_renewal_lands_before_it_is_acted_on() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.ends(1);
    run.reads(2).unwrap();
    run.now += 2 * HOST_DEAD;
    run.renews(1, 1, 9).unwrap();
    run.writes_own(2, &dblock(2, 2, None, false)).unwrap();
}

#[test]
fn p1_a_generation_does_not_rise_over_a_running_client() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    refused(run.renews(1, 2, 5), Why::StillHolds(id(1)));
}

#[test]
fn p1_a_newer_generation_frees_what_the_older_one_had() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.ends(1);
    run.renews(1, 2, 5).unwrap();
    run.acquires(2, 1, 2, 2);
}

#[test]
fn a_term_does_not_end_while_a_write_of_it_is_on_its_way() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    let _late = run.issues(1, 0, &leader(1, (1, 1), 7, 1)).unwrap();
    refused(run.renews(1, 1, 0), Why::StillInFlight(id(1)));
}

#[test]
fn phase_2_is_not_written_before_every_block_was_read() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    run.writes_own(1, &dblock(1, 1, None, false)).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)), Why::NotRead(id(2)));
    run.reads_sector(1, 3).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)), Why::NotRead(id(3)));
    run.reads_sector(1, 4).unwrap();
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)).unwrap();
}

#[test]
fn phase_2_is_not_written_by_a_host_that_saw_itself_outrun() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    run.reads(2).unwrap();
    run.writes_own(1, &dblock(1, 1, None, false)).unwrap();
    run.writes_own(2, &dblock(1, 2, None, false)).unwrap();
    run.reads(1).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)), Why::Outrun(id(2)));
}

#[test]
fn phase_2_takes_the_value_that_phase_1_found() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, 2, None, false)).unwrap();
    run.reads(2).unwrap();
    let own = Why::NotTheChoice(HostTerm { host_id: id(2), generation: Generation(1) });
    refused(run.writes_own(2, &dblock(1, 2, Some((2, 2, 1)), false)), own);
    run.writes_own(2, &dblock(1, 2, Some((2, 1, 1)), false)).unwrap();
}

#[test]
fn phase_2_follows_a_phase_1_that_landed() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    let failed = run.issues(1, 2, &dblock(1, 1, None, false)).unwrap();
    run.acceptor.over(&failed).unwrap();
    run.reads(1).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)), Why::Phase1Changes);
}

#[test]
fn a_successor_does_not_go_on_with_its_predecessors_ballot() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    run.writes_own(1, &dblock(1, 1, None, false)).unwrap();
    run.processes.insert(1, 2);
    run.reads(1).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)), Why::NoBallot);
}

#[test]
fn what_a_dead_process_reads_its_successor_does_not_know() {
    let mut run = Run::new();
    let late = run.facts(1, Op::Read, MIB, 1 << 20);
    run.processes.insert(1, 2);
    run.reads_sector(1, 4).unwrap();
    run.acceptor.read(&late, late.at, late.len as u64).unwrap();
    refused(run.writes_own(1, &dblock(1, 1, None, false)), Why::NotOver(Lver(0)));
}

#[test]
fn nothing_is_published_before_every_block_was_read_once_more() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    run.writes_own(1, &dblock(1, 1, None, false)).unwrap();
    run.reads(1).unwrap();
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), false)).unwrap();
    refused(run.writes(1, 0, &leader(1, (1, 1), 7, 1)), Why::NotDecided(Lver(1)));
    run.reads_sector(1, 0).unwrap();
    refused(run.writes(1, 0, &leader(1, (1, 1), 7, 1)), Why::NotDecided(Lver(1)));
    run.reads(1).unwrap();
    refused(run.writes(1, 0, &leader(1, (3, 1), 7, 1)), Why::NotTheDecision);
    refused(run.writes(1, 0, &leader(1, (1, 1), 8, 1)), Why::NotTheDecision);
    refused(run.writes(1, 0, &leader(1, (1, 1), 7, 2)), Why::NotTheWriter);
    run.writes(1, 0, &leader(1, (1, 1), 7, 1)).unwrap();
}

#[test]
fn a_client_runs_only_where_its_host_knows_the_lease_to_be_its_own() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    refused(run.acceptor.holds(HostIndex(2), resource()), Why::NotDecided(Lver(0)));
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)).unwrap();
    refused(run.acceptor.holds(HostIndex(1), resource()), Why::GivenUp(Lver(1)));
}

#[test]
fn a_host_gives_nothing_up_while_its_client_runs() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    refused(run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)), Why::StillHolds(id(1)));
    refused(run.writes(1, 0, &leader(1, (1, 1), 0, 1)), Why::StillHolds(id(1)));
}

#[test]
fn a_leader_is_freed_after_released_and_by_its_owners_own_hand() {
    let mut run = Run::new();
    run.acquires(1, 1, 1, 1);
    run.ends(1);
    refused(run.writes(1, 0, &leader(1, (1, 1), 0, 1)), Why::NotReleased);
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)).unwrap();
    refused(run.writes(1, 0, &leader(1, (1, 1), 0, 1)), Why::NotByItsHand);
    refused(run.writes(2, 0, &leader(1, (1, 1), 0, 2)), Why::NotReleased);
    run.reads_sector(1, 0).unwrap();
    run.writes(1, 0, &leader(1, (1, 1), 0, 1)).unwrap();
}

/// Host 2 publishes host 1's value, and host 1 gives the lver up: whoever reads both may go on, and nobody frees the
/// record.
#[test]
fn released_ends_an_lver_that_another_host_published() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, 2, None, false)).unwrap();
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, 2, Some((2, 1, 1)), false)).unwrap();
    run.reads(2).unwrap();
    run.writes(2, 0, &leader(1, (1, 1), 7, 2)).unwrap();
    run.reads(3).unwrap();
    refused(run.writes_own(3, &dblock(2, 3, None, false)), Why::NotOver(Lver(1)));
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)).unwrap();
    run.reads(1).unwrap();
    refused(run.writes(1, 0, &leader(1, (1, 1), 0, 1)), Why::NotByItsHand);
    run.reads_sector(3, 2).unwrap();
    run.writes_own(3, &dblock(2, 3, None, false)).unwrap();
}

/// Host 2, which decided for host 1, is held up: its record of lver 1 lands when lver 3 is held. The blocks know better.
#[test]
fn an_outdated_leader_record_is_told_by_the_blocks() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, 2, None, false)).unwrap();
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, 2, Some((2, 1, 1)), false)).unwrap();
    run.reads(2).unwrap();
    let late = run.issues(2, 0, &leader(1, (1, 1), 7, 2)).unwrap();
    run.writes(1, 0, &leader(1, (1, 1), 7, 1)).unwrap();
    run.acquires(1, 1, 2, 1);
    run.ends(1);
    run.acquires(1, 1, 3, 1);
    run.lands(&late).unwrap();
    run.reads(3).unwrap();
    refused(run.writes_own(3, &dblock(4, 3, None, false)), Why::NotOver(Lver(3)));
    run.writes_own(3, &dblock(3, 3, None, false)).unwrap();
    run.reads(3).unwrap();
    run.writes_own(3, &dblock(3, 3, Some((3, 1, 1)), false)).unwrap();
}

#[test]
fn i6_one_write_at_a_time_to_a_sector() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    let late = run.issues(1, 2, &dblock(1, 1, None, false)).unwrap();
    refused(run.issues(1, 2, &dblock(1, 2001, None, false)), Why::InFlight(Sector::Dblock(id(1))));
    run.lands(&late).unwrap();
    run.writes_own(1, &dblock(1, 2001, None, false)).unwrap();
}

#[test]
fn i6_ends_with_the_host_that_had_the_write_on_its_way() {
    let mut run = Run::new();
    run.reads(1).unwrap();
    let late = run.issues(1, 2, &dblock(1, 1, None, false)).unwrap();
    run.acceptor.reset(HostIndex(1)).unwrap();
    run.lands(&late).unwrap();
    run.renews(1, 2, 5).unwrap();
    run.acquires(1, 2, 1, 1);
}

#[test]
fn what_falls_or_is_forgotten_in_a_block_is_refused() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 2001);
    refused(run.writes_own(1, &dblock(1, 1, None, false)), Why::Falls);
    refused(run.writes_own(1, &dblock(1, 4001, None, false)), Why::Phase1Changes);
    refused(run.writes_own(1, &dblock(1, 4002, Some((2001, 1, 1)), false)), Why::NotItsNumber);
    refused(run.writes_own(1, &dblock(1, 2001, Some((2001, 3, 1)), false)), Why::SecondValue);
    run.writes_own(1, &dblock(1, 2001, Some((2001, 1, 1)), true)).unwrap();
    run.reads(1).unwrap();
    refused(run.writes_own(1, &dblock(1, 4001, Some((2001, 1, 1)), false)), Why::Phase1Changes);
    run.writes_own(1, &dblock(1, 4001, Some((2001, 1, 1)), true)).unwrap();
}

#[test]
fn i1_another_hosts_block_is_only_written_as_it_is() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    let foreign = run.writes(2, 2, &dblock(1, 2001, None, false));
    assert!(matches!(foreign, Err(Rejection::Foreign { .. })), "{foreign:?}");
    // With its mode block cleared, of which the specification knows nothing.
    run.writes(2, 2, &dblock(1, 1, Some((1, 1, 1)), false)).unwrap();
}

#[test]
fn what_is_no_record_is_refused() {
    let mut run = Run::new();
    let mut torn = dblock(1, 1, None, false);
    torn[0] ^= 2;
    assert!(matches!(run.writes_own(1, &torn), Err(Rejection::Record { .. })));
    let half = dblock(1, 1, Some((0, 1, 1)), false);
    assert!(matches!(run.writes_own(1, &half), Err(Rejection::Record { .. })));
    assert!(matches!(run.writes(1, 1, &[0; 512]), Err(Rejection::Record { .. })));
    assert!(matches!(run.writes(1, 2, &[0; 1024]), Err(Rejection::NotOneSector(1024))));
}

/// Host 2's ballot is decided by the very reading that shows it to be another's, which gave it up: nothing else need be
/// read before the next lver.
#[test]
fn the_reading_that_decides_also_tells_that_the_lver_is_over() {
    let mut run = Run::new();
    run.decides(1, 1, 1, 1);
    run.writes_own(1, &dblock(1, 1, Some((1, 1, 1)), true)).unwrap();
    run.reads(3).unwrap();
    run.writes_own(3, &dblock(1, 3, None, false)).unwrap();
    run.reads(3).unwrap();
    run.writes_own(3, &dblock(1, 3, Some((3, 1, 1)), false)).unwrap();
    run.reads(3).unwrap();
    let late = run.issues(3, 0, &leader(1, (1, 1), 7, 3)).unwrap();
    let higher = 2 + u64::from(geometry().max_hosts());
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, higher, None, false)).unwrap();
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(1, higher, Some((higher, 1, 1)), false)).unwrap();
    run.lands(&late).unwrap();
    run.reads(2).unwrap();
    run.writes_own(2, &dblock(2, 2, None, false)).unwrap();
}
