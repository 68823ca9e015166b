//! The proof that the checkers can fire: for each rule, sectors written by hand that break it.
//!
//! A checker that never fires is worth nothing. Every test here breaks one rule on purpose and demands that just this
//! rule is reported, with a timeline and the seed. The product's own rules, broken one by one: `planted.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_daemon::platform::Platform;
use holdfast_io::checksum::lease_crc;
use holdfast_io::clock::Clock;
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::{Disk, ReadDisk};
use holdfast_io::identity::MachineHash;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp, ResourceName};
use holdfast_io::leader::{LeaderKind, LeaderRecord};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::sys::rights::Rights;
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorSize};
use holdfast_sim::checkers::{Area, Checkers, Violation};
use holdfast_sim::cluster::run;
use holdfast_sim::coverage::Fault;
use holdfast_sim::dice::{Dice, Stream};
use holdfast_sim::disk::{Fate, HostIndex, SimDisk, SimEngine};
use holdfast_sim::executor::{Sim, SimClock};
use holdfast_sim::host::{Process, Seat, SimHost};
use holdfast_sim::machine::SimMachine;
use holdfast_sim::plan::Plan;

const MIB: u64 = 1024 * 1024;
const S: u64 = 1_000_000_000;

/// Two hosts, a lockspace at 0, a resource at 1 MiB, one more MiB that belongs to nobody.
struct Rig {
    sim: Sim,
    disk: SimDisk,
    checkers: Rc<Checkers>,
    hosts: Vec<SimHost>,
    daemons: Vec<Process>,
}

fn geometry() -> Geometry {
    Geometry::new(SectorSize::B512, AlignSize::M1).unwrap()
}

const RESOURCE: LeaseOffset = LeaseOffset(MIB);

fn resource() -> Area {
    Area::Paxos(0, RESOURCE, geometry())
}

fn rig() -> Rig {
    let sim = Sim::new(42);
    let disk = SimDisk::new(&sim, "disk", SectorSize::B512, &vec![0; 3 * 1024 * 1024]);
    let checkers = Checkers::new(&sim, true);
    checkers.watch(Area::Delta(0, LeaseOffset(0), geometry()));
    checkers.watch(resource());
    checkers.has_hosts(vec!["host 0 (host_id 1)".into(), "host 1 (host_id 2)".into()]);
    disk.set_witness(checkers.clone());
    let host = |i: usize| {
        let dice = Dice::new(42, Stream::Scenario);
        let disks = std::slice::from_ref(&disk);
        let host = SimHost::new(&sim, &checkers, disks, HostIndex(i), MachineHash(i as u64), 0, dice);
        host.boot(Duration::from_secs(1000));
        host
    };
    let hosts: Vec<SimHost> = (0..2).map(host).collect();
    let id = |i: usize| HostId::from_slot(u32::try_from(i).unwrap()).unwrap();
    let daemons = hosts.iter().enumerate().map(|(i, h)| h.start_daemon(Seat(0), id(i)).unwrap()).collect();
    Rig { sim, disk, checkers, hosts, daemons }
}

fn term(host_id: u64, generation: u64) -> HostTerm {
    HostTerm { host_id: HostId::new(host_id).unwrap(), generation: Generation(generation) }
}

impl Rig {
    fn device(&self, host: usize) -> Device<SimEngine, SimClock> {
        let daemon = &self.daemons[host];
        let engine = self.disk.engine(daemon.writer, 0, daemon.group, daemon.clock.clone());
        Device::new(engine, daemon.clock.clone(), WriteLimit::none())
    }

    /// The checkers hold the rules of time against this host's daemon as well.
    fn is_timed(&self, host: usize) {
        self.checkers.process_starts(self.daemons[host].writer, self.daemons[host].clock.clone());
    }

    /// Lets these hosts write these sectors, one after the other.
    fn write(&self, writes: Vec<(usize, u64, Vec<u8>)>) {
        let devices: Vec<_> = (0..2).map(|h| self.device(h)).collect();
        let clock = self.daemons[0].clock.clone();
        self.sim.spawn(holdfast_sim::executor::Group::RUN, "writes", async move {
            for (host, at, bytes) in writes {
                let deadline = clock.now().after(Duration::from_secs(10));
                devices[host].write(at, AlignedBuf::from_slice(&bytes), deadline).await.unwrap();
            }
        });
        self.sim.run_until(self.sim.now() + 30 * S);
    }

    /// Lets a host look at the first sectors of the lockspace.
    fn looks(&self, host: usize) {
        let (device, clock) = (self.device(host), self.daemons[host].clock.clone());
        self.sim.spawn(holdfast_sim::executor::Group::RUN, "look", async move {
            device.read(0, 2 * 512, clock.now().after(Duration::from_secs(10))).await.unwrap();
        });
        self.sim.run_until(self.sim.now() + S);
    }

    fn violation(&self) -> Box<Violation> {
        self.checkers.violation().expect("the planted bug is found")
    }

    #[track_caller]
    fn must_be(&self, rule: &str) {
        let found = self.violation();
        assert_eq!(found.rule, rule, "{found}");
        assert_eq!(found.seed, 42);
        assert!(found.timeline.contains("host 0 (host_id 1)") && found.timeline.contains("!!"), "{found}");
    }
}

fn dblock_at(host_id: u64) -> u64 {
    RESOURCE.0 + (host_id + 1) * 512
}

fn dblock(mbal: u64, bal: u64, owner: u64, lver: u64) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (at, field) in [(0, mbal), (8, bal), (16, owner), (24, owner), (32, owner * 9), (40, lver)] {
        sector[at..at + 8].copy_from_slice(&field.to_le_bytes());
    }
    let crc = lease_crc(&sector[..48]);
    sector[48..52].copy_from_slice(&crc.to_le_bytes());
    sector
}

fn leader(lver: u64, owner: u64, timestamp: u64) -> Vec<u8> {
    let mut record = LeaderRecord::formatted(LeaderKind::Paxos, geometry(), "LS".parse().unwrap());
    record.resource_name = "R".parse::<ResourceName>().unwrap();
    record.lver = Lver(lver);
    record.owner_id = owner;
    record.owner_generation = Generation(1);
    record.timestamp = RemoteTimestamp(timestamp);
    padded(&record)
}

fn delta(slot: u64, generation: u64) -> Vec<u8> {
    let mut record = LeaderRecord::formatted(LeaderKind::Delta, geometry(), "LS".parse().unwrap());
    let term = HostTerm { host_id: HostId::new(slot + 1).unwrap(), generation: Generation(generation) };
    record.owner_id = term.host_id.get();
    record.owner_generation = term.generation;
    record.timestamp = RemoteTimestamp(7);
    padded(&record)
}

/// A delta sector with a renewal of now, an io_timeout of `x` and no seal.
fn delta_at(slot: u64, generation: u64, clock: &SimClock, x: u16) -> Vec<u8> {
    let mut sector = delta(slot, generation);
    sector[152..160].copy_from_slice(&clock.now().disk_seconds().to_le_bytes());
    sector[174..176].copy_from_slice(&x.to_le_bytes());
    let crc = lease_crc(&sector[..168]);
    sector[168..172].copy_from_slice(&crc.to_le_bytes());
    sector
}

fn padded(record: &LeaderRecord) -> Vec<u8> {
    let mut sector = record.encode().to_vec();
    sector.resize(512, 0);
    sector
}

#[test]
fn a_run_without_a_bug_has_no_violation() {
    let rig = rig();
    rig.write(vec![
        (0, 0, delta(0, 1)),
        (0, 0, delta(0, 2)),
        (0, dblock_at(1), dblock(1, 0, 0, 1)),
        (0, dblock_at(1), dblock(1, 1, 1, 1)),
        (0, RESOURCE.0, leader(1, 1, 5)),
        (0, RESOURCE.0, leader(1, 1, 0)),
        (1, dblock_at(2), dblock(2002, 2002, 2, 2)),
        (1, RESOURCE.0, leader(2, 2, 5)),
    ]);
    assert!(rig.checkers.violation().is_none(), "{}", rig.violation());
    assert_eq!(rig.checkers.counts().landed, 8);
}

#[test]
fn i1_a_host_that_writes_anothers_dblock_is_found() {
    let rig = rig();
    rig.write(vec![(1, dblock_at(1), dblock(1, 0, 0, 1))]);
    rig.must_be("I1");
}

#[test]
fn i1_a_claim_of_a_living_host_that_is_cleared_is_found_and_one_of_a_host_that_has_left_may_be() {
    let mut claim = dblock(1, 1, 1, 1);
    claim[52] = 1;
    claim[128] = 1;
    claim[136] = 1;
    let mut cleared = claim.clone();
    cleared[128..144].fill(0);
    let shares = |rig: &Rig, now: u64| {
        rig.write(vec![(0, 0, delta(0, 1)), (0, dblock_at(1), claim.clone()), (0, 0, delta(0, now))]);
        rig.is_timed(1);
        assert!(rig.hosts[1].open_watchdog(&rig.daemons[1]));
        rig.write(vec![(1, 512, delta_at(1, 1, &rig.daemons[1].clock, 10))]);
    };
    let lives = rig();
    shares(&lives, 1);
    lives.looks(1);
    lives.write(vec![(1, dblock_at(1), cleared.clone())]);
    lives.must_be("I1");
    // Over, but its host may be writing there.
    let begins_anew = rig();
    shares(&begins_anew, 2);
    begins_anew.looks(1);
    begins_anew.write(vec![(1, dblock_at(1), cleared.clone())]);
    begins_anew.must_be("I1");
    let leaves = rig();
    shares(&leaves, 1);
    let mut free = delta(0, 1);
    free[152..160].fill(0);
    let crc = lease_crc(&free[..168]);
    free[168..172].copy_from_slice(&crc.to_le_bytes());
    leaves.hosts[1].pet(Seat(0));
    leaves.write(vec![(0, 0, free)]);
    leaves.looks(1);
    leaves.write(vec![(1, dblock_at(1), cleared.clone())]);
    assert!(leaves.checkers.violation().is_none(), "{}", leaves.violation());
}

#[test]
fn i1_a_host_that_writes_anothers_delta_sector_is_found() {
    let rig = rig();
    rig.write(vec![(1, 0, delta(0, 1))]);
    rig.must_be("I1");
}

#[test]
fn i2_a_ballot_number_that_falls_is_found() {
    let rig = rig();
    rig.write(vec![(0, dblock_at(1), dblock(2001, 0, 0, 3)), (0, dblock_at(1), dblock(1, 0, 0, 3))]);
    rig.must_be("I2");
}

#[test]
fn i2_a_generation_that_falls_is_found() {
    let rig = rig();
    rig.write(vec![(0, 0, delta(0, 3)), (0, 0, delta(0, 2))]);
    rig.must_be("I2");
}

#[test]
fn i3_a_value_without_a_ballot_is_found() {
    let rig = rig();
    rig.write(vec![(0, dblock_at(1), dblock(1, 0, 1, 1))]);
    rig.must_be("I3");
}

#[test]
fn i4_two_values_of_one_ballot_are_found() {
    let rig = rig();
    rig.write(vec![(0, dblock_at(1), dblock(1, 1, 1, 1)), (0, dblock_at(1), dblock(1, 1, 2, 1))]);
    rig.must_be("I4");
}

#[test]
fn i5_two_owners_of_one_version_are_found() {
    let rig = rig();
    rig.write(vec![(0, RESOURCE.0, leader(4, 1, 5)), (1, RESOURCE.0, leader(4, 2, 5))]);
    rig.must_be("I5");
}

#[test]
fn a_lease_freed_by_someone_else_is_found() {
    let rig = rig();
    rig.write(vec![(0, RESOURCE.0, leader(4, 1, 5)), (1, RESOURCE.0, leader(4, 1, 0))]);
    rig.must_be("release");
}

#[test]
fn a_write_outside_the_areas_is_found() {
    let rig = rig();
    rig.write(vec![(0, 2 * MIB, vec![1; 512])]);
    rig.must_be("outside");
}

#[test]
fn a_write_to_the_tail_of_an_area_is_found() {
    let rig = rig();
    rig.write(vec![(0, 2000 * 512, vec![1; 512])]);
    rig.must_be("outside");
}

/// Two `Device`s over one engine have two tables of I/O in flight: that is I6 switched off.
#[test]
fn i6_switched_off_is_found() {
    let rig = rig();
    rig.disk.set_script(|_| Some(Fate::Held));
    for mbal in [1, 2001] {
        let (device, clock) = (rig.device(0), rig.daemons[0].clock.clone());
        rig.sim.spawn(rig.daemons[0].group, "writer", async move {
            let deadline = clock.now().after(Duration::from_secs(1));
            let _ = device.write(dblock_at(1), AlignedBuf::from_slice(&dblock(mbal, 0, 0, 1)), deadline).await;
        });
    }
    rig.sim.run_until(30 * S);
    rig.must_be("I6");
}

/// And with one `Device`, as the daemon has it, the same two writes keep I6.
#[test]
fn i6_in_force_is_not_reported() {
    let rig = rig();
    rig.disk.set_script(|_| Some(Fate::Held));
    let device = Rc::new(rig.device(0));
    let ends = Rc::new(RefCell::new(Vec::new()));
    for mbal in [1, 2001] {
        let (device, clock, ends) = (Rc::clone(&device), rig.daemons[0].clock.clone(), Rc::clone(&ends));
        rig.sim.spawn(rig.daemons[0].group, "writer", async move {
            let deadline = clock.now().after(Duration::from_secs(1));
            let end = device.write(dblock_at(1), AlignedBuf::from_slice(&dblock(mbal, 0, 0, 1)), deadline).await;
            ends.borrow_mut().push(end.unwrap_err().may_have_landed());
        });
    }
    rig.sim.run_until(30 * S);
    assert!(rig.checkers.violation().is_none());
    ends.borrow_mut().sort_unstable();
    assert_eq!(ends.take(), [false, true]);
}

#[test]
fn d2_a_write_without_a_join_is_found() {
    let rig = rig();
    rig.is_timed(0);
    rig.write(vec![(0, dblock_at(1), dblock(1, 0, 0, 1))]);
    rig.must_be("D2");
}

#[test]
fn d3_a_delta_write_without_a_watchdog_is_found() {
    let rig = rig();
    rig.is_timed(0);
    rig.write(vec![(0, 0, delta(0, 1))]);
    rig.must_be("D3");
}

#[test]
fn d2_a_write_after_the_lease_is_lost_is_found() {
    let rig = rig();
    rig.is_timed(0);
    assert!(rig.hosts[0].open_watchdog(&rig.daemons[0]));
    rig.write(vec![(0, 0, delta_at(0, 1, &rig.daemons[0].clock, 1)), (0, dblock_at(1), dblock(1, 0, 0, 1))]);
    assert!(rig.checkers.violation().is_none(), "{}", rig.violation());
    // 8 s after its one renewal.
    rig.write(vec![(0, dblock_at(1), dblock(2001, 0, 0, 1))]);
    rig.must_be("D2");
}

#[test]
fn d1_a_takeover_without_silence_is_found() {
    let rig = rig();
    rig.write(vec![(1, 512, delta(1, 1)), (1, RESOURCE.0, leader(1, 2, 5))]);
    rig.is_timed(0);
    assert!(rig.hosts[0].open_watchdog(&rig.daemons[0]));
    rig.write(vec![(0, 0, delta_at(0, 1, &rig.daemons[0].clock, 1)), (0, dblock_at(1), dblock(1, 0, 0, 2))]);
    rig.must_be("D1");
}

#[test]
fn p1_a_generation_over_a_living_client_is_found() {
    let rig = rig();
    rig.is_timed(0);
    assert!(rig.hosts[0].open_watchdog(&rig.daemons[0]));
    rig.write(vec![(0, 0, delta_at(0, 1, &rig.daemons[0].clock, 1))]);
    let _client = rig.checkers.holds(HostIndex(0), term(1, 1), resource());
    rig.write(vec![(0, 0, delta_at(0, 2, &rig.daemons[0].clock, 2))]);
    rig.must_be("P1");
}

#[test]
fn s1_two_clients_at_once_are_found() {
    let rig = rig();
    let first = rig.checkers.holds(HostIndex(0), term(1, 1), resource());
    rig.checkers.holds_no_more(first);
    let _second = rig.checkers.holds(HostIndex(1), term(2, 1), resource());
    assert!(rig.checkers.violation().is_none());
    let _third = rig.checkers.holds(HostIndex(0), term(1, 1), resource());
    rig.must_be("S1");
}

#[test]
fn s1_a_client_is_over_when_its_host_is_reset_and_not_when_its_daemon_dies() {
    let rig = rig();
    let _first = rig.checkers.holds(HostIndex(0), term(1, 1), resource());
    rig.hosts[0].crash_daemon(Seat(0), Fault::Crash);
    assert_eq!(rig.checkers.held_by(HostIndex(0)), 1);
    rig.hosts[0].reset();
    let _second = rig.checkers.holds(HostIndex(1), term(2, 1), resource());
    assert!(rig.checkers.violation().is_none());
}

/// A host without a watchdog that fires is a broken host: the rules of time find it, and S1 does.
#[test]
fn d3_switched_off_is_found() {
    let broken = |seed| {
        let mut plan = Plan::of_seed(seed);
        plan.hosts.iter_mut().for_each(|h| h.no_watchdog = true);
        plan
    };
    let found = (0..200).find_map(|seed| run(&broken(seed)).err()).expect("within 200 seeds");
    assert!(["S1", "D3", "W1"].contains(&found.rule), "{found}");
    assert!(run(&Plan::of_seed(found.seed)).is_ok(), "the same seed is good with its watchdogs");
    println!("{} after {} seeds", found.rule, found.seed + 1);
}

/// A watchdog that cannot count so short is refused: that host never joins, and nobody gets the lease.
#[test]
fn a_cluster_in_which_nobody_gets_anywhere_is_found() {
    let mut plan = Plan::quiet(1);
    plan.habits.longest_run = Duration::from_secs(1);
    plan.hosts[0].steps = 1000;
    let found = run(&plan).expect_err("within the bound");
    assert_eq!(found.rule, "liveness", "{found}");
    assert!(found.what.contains("host 0 has not joined"), "{found}");
    plan.hosts[0].steps = 1;
    assert!(run(&plan).is_ok());
}

#[test]
fn a_sector_with_a_wrong_checksum_is_found() {
    for (at, mut sector, checked) in
        [(0, delta(0, 1), 100), (RESOURCE.0, leader(1, 1, 5), 100), (dblock_at(1), dblock(1, 0, 0, 1), 40)]
    {
        sector[checked] ^= 1;
        let rig = rig();
        rig.write(vec![(0, at, sector)]);
        rig.must_be("format");
    }
}

/// As on a real machine: what was written through an engine lies under the fences of the one description of its node (I6).
#[test]
fn a_disk_is_reached_through_one_open_file_for_as_long_as_an_engine_of_it_lives() {
    let rig = rig();
    let machine = SimMachine::new(rig.daemons[0].clone());
    let file = machine.open(Path::new("disk"), &Rights::Ours).unwrap();
    let (engine, known) = (machine.engine(&file, 1, "engine"), Arc::downgrade(&file));
    drop(file);
    assert!(known.upgrade().is_some());
    drop(engine);
    assert!(known.upgrade().is_none());
}
