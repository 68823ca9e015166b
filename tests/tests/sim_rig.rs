//! The proof that the simulator can fail: one planted bug for each rule that it checks.
//!
//! A checker that never fires is worth nothing. Every test here breaks one rule on purpose and demands that just this
//! rule is reported, with a timeline and the seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use holdfast_io::checksum::lease_crc;
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::disk::Disk;
use holdfast_io::ids::{Generation, HostId, HostTerm, Lver, RemoteTimestamp, ResourceName};
use holdfast_io::leader::{LeaderKind, LeaderRecord};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{AlignSize, Geometry, LeaseOffset, SectorSize};
use holdfast_sim::checkers::{Area, Checkers, Violation};
use holdfast_sim::cluster::{Plan, run};
use holdfast_sim::daemon::Sabotage;
use holdfast_sim::disk::{Fate, HostIndex, SimDisk, SimEngine};
use holdfast_sim::executor::{Sim, SimClock};
use holdfast_sim::host::{Process, SimHost};
use holdfast_sim::scenario::worst_case;

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
    Area::Paxos(RESOURCE, geometry())
}

fn rig() -> Rig {
    let sim = Sim::new(42);
    let disk = SimDisk::new(&sim, "disk", SectorSize::B512, vec![0; 3 * 1024 * 1024]);
    let checkers = Checkers::new(&sim);
    checkers.watch(Area::Delta(LeaseOffset(0), geometry()));
    checkers.watch(resource());
    disk.set_witness(checkers.clone());
    let hosts: Vec<SimHost> = (0..2)
        .map(|i| {
            let id = HostId::from_slot(u32::try_from(i).unwrap()).unwrap();
            let host = SimHost::new(&sim, &checkers, std::slice::from_ref(&disk), HostIndex(i), id, 0);
            host.boot(Duration::from_secs(1000));
            host
        })
        .collect();
    let daemons = hosts.iter().map(|h| h.start_daemon().unwrap()).collect();
    Rig { sim, disk, checkers, hosts, daemons }
}

impl Rig {
    fn device(&self, host: usize) -> Device<SimEngine, SimClock> {
        let daemon = &self.daemons[host];
        Device::new(daemon.engine(&self.disk), daemon.clock.clone(), WriteLimit::none())
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
fn d2_a_write_after_the_lease_is_lost_is_found() {
    let rig = rig();
    let clock = &rig.daemons[0].clock;
    rig.checkers.limit(HostIndex(0), clock.rate(), clock.now().after(Duration::from_secs(5)));
    rig.write(vec![(0, dblock_at(1), dblock(1, 0, 0, 1))]);
    assert!(rig.checkers.violation().is_none());
    rig.write(vec![(0, dblock_at(1), dblock(2001, 0, 0, 1))]);
    rig.must_be("D2");
}

#[test]
fn s1_two_clients_at_once_are_found() {
    let rig = rig();
    let first = rig.hosts[0].client_begins(resource());
    rig.hosts[0].client_over(first);
    let _second = rig.hosts[1].client_begins(resource());
    assert!(rig.checkers.violation().is_none());
    let _third = rig.hosts[0].client_begins(resource());
    rig.must_be("S1");
}

#[test]
fn s1_a_client_is_over_when_its_host_is_reset_and_not_when_its_daemon_dies() {
    let rig = rig();
    let _first = rig.hosts[0].client_begins(resource());
    rig.hosts[0].crash_daemon();
    assert_eq!(rig.checkers.held_by(HostIndex(0)), 1);
    rig.hosts[0].reset();
    let _second = rig.hosts[1].client_begins(resource());
    assert!(rig.checkers.violation().is_none());
}

/// Runs seeds under a broken rule until one is found out; how many it took.
fn found_by(rule: &str, most: u64, sabotage: Sabotage) -> u64 {
    for seed in 0..most {
        if let Err(violation) = run(seed, &Plan { sabotage, ..Plan::of_seed(seed) }) {
            assert_eq!(violation.rule, rule, "{violation}");
            assert!(run(seed, &Plan::of_seed(seed)).is_ok(), "seed {seed} is good without the sabotage");
            return seed + 1;
        }
    }
    panic!("{most} seeds did not find {sabotage:?} out");
}

#[test]
fn d3_switched_off_lets_two_clients_run() {
    let took = found_by("S1", 100, Sabotage { no_watchdog: true, ..Sabotage::default() });
    println!("found after {took} seeds");
}

#[test]
fn d1_cut_short_by_two_seconds_lets_two_clients_run() {
    let early = Sabotage { early: Duration::from_secs(2), ..Sabotage::default() };
    // The owner is looked at once a second, so not every run comes two whole seconds too early; one of them is margin.
    let found: Vec<_> = (0..16).filter_map(|seed| worst_case(seed, early).err()).collect();
    assert!(found.len() > 4, "only {} of 16 runs found it", found.len());
    found.iter().for_each(|violation| assert_eq!(violation.rule, "S1", "{violation}"));
}

#[test]
fn p1_ignored_by_a_successor_lets_two_clients_run() {
    let took = found_by("S1", 100, Sabotage { blind_successor: true, ..Sabotage::default() });
    println!("found after {took} seeds");
}

#[test]
fn i6_ignored_across_processes_is_found() {
    let took = found_by("I6", 300, Sabotage { no_fence: true, ..Sabotage::default() });
    println!("found after {took} seeds");
}

#[test]
fn the_deadline_of_a_device_is_on_its_hosts_own_clock() {
    let rig = rig();
    assert_eq!(rig.daemons[0].clock.now(), LocalInstant::from_nanos(1000 * S));
}
