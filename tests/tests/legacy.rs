//! Areas of before there was an align flag: the images that real sanlock made of them, used by our own code. It leaves flags and version as
//! they were, as the real daemon does (docs/sanlock-observations.md): a program of that time goes on reading them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod images;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use delta_lease::{DeltaArea, Joined, LocalHost, Past, Publication};
use holdfast_io::bytes::array_at;
use holdfast_io::clock::{Clock, LocalInstant};
use holdfast_io::disk::{Disk, IoError, ReadDisk};
use holdfast_io::identity::Machine;
use holdfast_io::ids::{Generation, HostId, HostName, HostTerm, ResourceName};
use holdfast_io::leader::LeaderRecord;
use holdfast_io::seal::SealedFire;
use holdfast_io::stop::Stop;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::LeaseOffset;
use images::Image;
use paxos_lease::layout::LEADER;
use paxos_lease::{
    Acquired, Gone, Held, HostLiveness, LeaseAt, LivenessError, Me, Mode, Options, Sharing, Standing, Verdict, acquire,
    exclude, release, share, standing,
};

/// An image that is read and written.
struct Area {
    image: RefCell<Image>,
    path: Arc<str>,
    /// How many sectors were written of which the first 200 bytes are a leader record.
    leaders_written: Cell<u32>,
}

impl Area {
    fn of(name: &str) -> Self {
        Area { image: RefCell::new(images::read(name)), path: Arc::from(name), leaders_written: Cell::new(0) }
    }

    fn leader(&self, sector: u32) -> LeaderRecord {
        LeaderRecord::parse(&array_at(self.image.borrow().sector(sector), 0))
    }

    /// In whichever of its leader records, of which there are so many.
    fn is_of_then(&self, leaders: u32, version: u32, what: &str) {
        for sector in 0..leaders {
            let record = self.leader(sector);
            assert_eq!((record.flags, record.version), (0, version), "{}, {what}, sector {sector}", self.path);
        }
    }
}

impl ReadDisk for Area {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    async fn read(&self, at: u64, len: usize, _: LocalInstant) -> Result<AlignedBuf, IoError> {
        Ok(AlignedBuf::from_slice(&self.image.borrow().raw[usize::try_from(at).unwrap()..][..len]))
    }
}

impl Disk for Area {
    async fn write(&self, at: u64, data: AlignedBuf, _: LocalInstant) -> Result<(), IoError> {
        let mut image = self.image.borrow_mut();
        if image.kind == "delta" || at == 0 {
            self.leaders_written.set(self.leaders_written.get() + 1);
        }
        image.raw[usize::try_from(at).unwrap()..][..data.len()].copy_from_slice(&data);
        Ok(())
    }

    async fn reaped(&self) {}
}

/// Time that passes only for whoever waits.
struct Waits(Cell<LocalInstant>);

impl Waits {
    fn new() -> Self {
        Waits(Cell::new(LocalInstant::from_nanos(1_000_000_000_000)))
    }
}

impl Clock for Waits {
    fn now(&self) -> LocalInstant {
        self.0.get()
    }

    fn suspended(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep_until(&self, at: LocalInstant) {
        self.0.set(self.0.get().max(at));
    }
}

/// Whoever had the leases of these images is gone.
struct AllGone;

impl HostLiveness for AllGone {
    async fn verdict(&self, _: HostTerm) -> Result<Verdict, LivenessError> {
        Ok(Verdict::Gone(Gone::Silent))
    }

    async fn absence(&self, _: HostId) -> Result<Verdict, LivenessError> {
        Ok(Verdict::Gone(Gone::Silent))
    }
}

const SIZES: [&str; 2] = ["512-1m", "4096-8m"];
const LOCKSPACE_VERSION: u32 = 0x0003_0003;
const RESOURCE_VERSION: u32 = 0x0006_0003;

fn machine() -> Machine {
    Machine::from_ids("machine", "", "boot")
}

#[test]
fn a_lockspace_without_align_flags_is_joined_renewed_and_left_and_keeps_its_flags_and_version() {
    for size in SIZES {
        for state in ["", "-live", "-released"] {
            let (area, clock) = (Area::of(&format!("lockspace-legacy{state}-{size}")), Waits::new());
            let hosts = area.image.borrow().geometry.max_hosts();
            // Host 1 has had it in two of the images, host 3 never; the last host has the sector at the end.
            for host_id in [1, 3, hosts].map(|n| HostId::new(u64::from(n)).unwrap()) {
                let before = area.leader(host_id.slot());
                let found =
                    pollster::block_on(DeltaArea::open(&area, &clock, LeaseOffset(0), IoTimeout::DEFAULT, None));
                let found = found.unwrap();
                assert_eq!(found.geometry, area.image.borrow().geometry, "{}", area.path);
                let host = LocalHost {
                    host_id,
                    name: HostName::new(b"ours").unwrap(),
                    machine: machine(),
                    io_timeout: IoTimeout::DEFAULT,
                    fire: SealedFire::NoWatchdog,
                };
                let past = Past { predecessor: None, used: None };
                let stop = Stop::new();
                let joining = delta_lease::acquire(&area, &clock, &found, &host, past, &stop, async |_| ());
                let Joined::Ours(mut held) = pollster::block_on(joining).unwrap() else { panic!("{}", area.path) };
                area.is_of_then(hosts, LOCKSPACE_VERSION, "joined");
                let joined = area.leader(host_id.slot());
                assert_eq!(joined.owner_generation, Generation(before.owner_generation.0 + 1), "{}", area.path);

                clock.0.set(clock.now().after(host.timing().renewal_interval()));
                pollster::block_on(held.renew(&area, &clock, &Publication::default())).result.unwrap();
                area.is_of_then(hosts, LOCKSPACE_VERSION, "renewed");
                assert!(area.leader(host_id.slot()).timestamp.0 > joined.timestamp.0, "{}", area.path);
                // What we have written is sealed, and read as ours.
                let image = area.image.borrow();
                let sector = found.decode(host_id, image.sector(host_id.slot())).unwrap();
                assert!(sector.seal.is_some() && sector.holder().is_some(), "{}", area.path);
                drop(image);

                pollster::block_on(held.release(&area, &clock)).unwrap();
                area.is_of_then(hosts, LOCKSPACE_VERSION, "left");
                assert!(area.leader(host_id.slot()).is_free(), "{}", area.path);
            }
            assert!(area.leaders_written.get() >= 9, "{}", area.leaders_written.get());
        }
    }
}

fn won(end: Acquired) -> Held {
    match end {
        Acquired::Ours(held) => held,
        Acquired::Theirs(refusal) => panic!("{refusal:?}"),
    }
}

#[test]
fn a_lease_without_an_align_flag_is_held_shared_and_given_back_and_keeps_its_flags_and_version() {
    for size in SIZES {
        for state in ["", "-held", "-released", "-shared-two", "-request-force"] {
            let (area, clock) = (Area::of(&format!("resource-legacy{state}-{size}")), Waits::new());
            let geometry = area.image.borrow().geometry;
            let lease = LeaseAt {
                at: LeaseOffset(0),
                space: area.image.borrow().space(),
                resource: ResourceName::new(b"OLD").unwrap(),
                geometry_hint: geometry,
            };
            let term = HostTerm { host_id: HostId::new(3).unwrap(), generation: Generation(1) };
            let me = Me { term, machine: machine(), fire: SealedFire::NoWatchdog, io_timeout: IoTimeout::DEFAULT };
            let before = area.leader(LEADER.0).lver;
            let (options, stop) = (Options::default(), Stop::new());
            let kept = |what| {
                area.is_of_then(1, RESOURCE_VERSION, what);
                area.leader(LEADER.0)
            };

            let held = won(pollster::block_on(acquire(&area, &clock, &AllGone, &lease, &me, &options, &stop)).unwrap());
            assert_eq!(held.geometry, geometry, "{}", area.path);
            let leader = kept("acquired");
            assert!(leader.owner() == Some(term) && leader.lver > before, "{}", area.path);
            assert_eq!(pollster::block_on(standing(&area, &clock, &held, &me)).unwrap(), Standing::Ours);

            let mut shared = pollster::block_on(share(&area, &clock, Sharing::new(held), &me)).unwrap();
            assert!(kept("shared").is_free(), "{}", area.path);
            let held =
                won(pollster::block_on(exclude(&area, &clock, &AllGone, &mut shared, &me, &options, &stop)).unwrap());
            assert_eq!(kept("exclusive again").owner(), Some(term), "{}", area.path);
            pollster::block_on(release(&area, &clock, held, &me)).unwrap();
            assert!(kept("given back").is_free(), "{}", area.path);

            let options = Options { mode: Mode::Shared, ..options };
            let held = won(pollster::block_on(acquire(&area, &clock, &AllGone, &lease, &me, &options, &stop)).unwrap());
            assert!(kept("acquired to share").is_free(), "{}", area.path);
            pollster::block_on(release(&area, &clock, held, &me)).unwrap();
            assert!(kept("given back").is_free(), "{}", area.path);
            assert!(area.leaders_written.get() >= 6, "{}", area.leaders_written.get());
        }
    }
}
