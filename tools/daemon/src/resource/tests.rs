//! A lease on three disks: the files of this machine, without a supervisor.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use delta_lease::format::plan as plan_lockspace;
use delta_lease::{DeltaSector, HostBitmap, SectorView};
use holdfast_io::bytes::array_at;
use holdfast_io::identity::Machine;
use holdfast_io::ids::SpaceName;
use holdfast_io::leader::LeaderKind;
use holdfast_io::seal::{AreaUuid, SealedFire};
use holdfast_io::sys::linux::{Access, BlockFile};
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::IoTimeout;
use holdfast_io::units::{Geometry, SectorSize};

use super::*;
use crate::note::Note;
use crate::supervisor::event::Orphans;
use crate::watchdog::Choice;

const MIB: u64 = 1 << 20;

struct Rig {
    dir: tempfile::TempDir,
    shared: Rc<SpaceShared>,
}

fn key() -> LeaseKey {
    LeaseKey { space: SpaceName::new(b"LS").unwrap(), resource: ResourceName::new(b"r").unwrap() }
}

fn geometry() -> Geometry {
    Geometry::default_for(SectorSize::B512)
}

/// Runs it as the daemon's main loop does.
fn local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(MIB).unwrap();
            file
        };
        let LeaseKey { space, resource } = key();
        let (space_file, machine) = (file("space"), Machine::from_ids("m", "", "b"));
        for write in plan_lockspace(geometry(), space, IoTimeout::DEFAULT, None) {
            space_file.write_all_at(&write.bytes, write.offset_in_area).unwrap();
        }
        let (uuid, writer) =
            (AreaUuid::random(), paxos_lease::format::Writer { machine, fire: SealedFire::NoWatchdog });
        for copy in 1..=3 {
            let place = Some(paxos_lease::Place { copy, copies: 3 });
            let lease =
                paxos_lease::format::NewLease { geometry: geometry(), space, resource, num_hosts: None, uuid, place };
            let file = file(&format!("disk{copy}"));
            for write in paxos_lease::format::plan(&lease, &writer).unwrap() {
                file.write_all_at(&write.bytes, write.offset_in_area).unwrap();
            }
        }
        let linux = Linux::new(Choice::None, dir.path().to_owned()).unwrap();
        let area = DeltaArea { at: LeaseOffset(0), geometry: geometry(), space, uuid: AreaUuid::random() };
        let term = HostTerm { host_id: HostId::new(1).unwrap(), generation: Generation(1) };
        let me = Me { term, machine, fire: SealedFire::NoWatchdog, io_timeout: IoTimeout::DEFAULT };
        let opened = linux.open(&dir.path().join("space"), &Rights::Ours).unwrap();
        let shared = Rc::new(SpaceShared::new(area, opened, me, &linux));
        shared.limit.set(LocalInstant::NEVER);
        Rig { dir, shared }
    }

    fn path(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("disk{n}"))
    }

    fn request(&self) -> LeaseRequest {
        LeaseRequest {
            key: key(),
            places: (1..=3).map(|n| Place { path: self.path(n), offset: 0, by: Rights::Ours }).collect(),
            expected_lver: None,
            num_hosts: None,
            nowait: true,
            mode: Mode::Exclusive,
            value: false,
            persistent: false,
            orphans: Orphans::Refused,
        }
    }

    /// Takes the lease as the daemon does.
    async fn acquire(&self) -> Held {
        let (notes, mut inbox) = Notes::channel();
        let opened = open_all(&self.shared, &self.request().places).await;
        prepare(&self.shared, opened, &self.request()).await.result.unwrap();
        run_acquire(Rc::clone(&self.shared), TaskId(1), self.request(), Stop::new(), notes).await;
        let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
        match *event {
            Event::Acquired { end: AcquireEnd::Ours { held, .. }, .. } => held,
            other => panic!("not acquired: {other:?}"),
        }
    }

    fn states(&self) -> Vec<String> {
        let disk = self.shared.disk_of(key()).unwrap();
        let states = disk.states().unwrap();
        states.as_array().unwrap().iter().map(|state| state["state"].as_str().unwrap().to_owned()).collect()
    }

    fn sector(&self, n: usize, sector: usize) -> Vec<u8> {
        std::fs::read(self.path(n)).unwrap()[sector * 512..][..512].to_vec()
    }
}

/// The third disk is not there when the lease is taken. It is back before the second is lost.
#[test]
fn a_disk_that_was_missing_when_a_lease_was_taken_counts_once_it_is_back() {
    local(async {
        let rig = Rig::new();
        let hidden = rig.dir.path().join("hidden");
        std::fs::rename(rig.path(3), &hidden).unwrap();
        let held = rig.acquire().await;
        assert_eq!(rig.states(), ["member", "member", "unknown"]);
        std::fs::rename(&hidden, rig.path(3)).unwrap();

        let (notes, mut inbox) = Notes::channel();
        mend(&rig.shared, key(), &notes);
        let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
        let Event::Fenced { fence, saved, .. } = *event else { panic!("no fence") };
        assert_eq!((fence.path, fence.locked), (rig.path(3), true));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(rig.states()[2], "unknown", "not before the state file names the fence");
        saved.set();
        let begun = rig.shared.clock().now();
        while rig.states()[2] != "member" {
            assert!(rig.shared.clock().now().since(begun) < Duration::from_secs(20), "{:?}", rig.states());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What it has missed of our own sector it gets with the next look at the lease.
        assert_ne!(rig.sector(3, 2), rig.sector(1, 2));
        run_verify(Rc::clone(&rig.shared), key(), &held, notes.clone()).await;
        assert_eq!(rig.sector(3, 2), rig.sector(1, 2));

        // The second is replaced, and with it a copy is none.
        std::fs::write(rig.path(2), vec![0; usize::try_from(MIB).unwrap()]).unwrap();
        let what = Release { key: key(), held, rename: None, value: None };
        run_release(Rc::clone(&rig.shared), TaskId(2), what, notes).await;
        let leader = LeaderRecord::parse(&array_at(&rig.sector(3, 0), 0));
        assert!(leader.is_free() && leader.lver == Lver(1), "{leader:?}");
    });
}

/// What comes back in the place of a disk is another one, or one that the lease has already.
#[test]
fn a_disk_that_comes_back_as_something_else_is_not_used() {
    local(async {
        for strange in [0, 2] {
            let rig = Rig::new();
            std::fs::remove_file(rig.path(3)).unwrap();
            rig.acquire().await;
            match strange {
                0 => std::fs::write(rig.path(3), vec![0; usize::try_from(MIB).unwrap()]).unwrap(),
                n => std::os::unix::fs::symlink(rig.path(n), rig.path(3)).unwrap(),
            }
            let before = std::fs::read(rig.path(3)).unwrap();
            let (notes, mut inbox) = Notes::channel();
            mend(&rig.shared, key(), &notes);
            if strange == 0 {
                let Some(Note::Event(event)) = inbox.recv().await else { panic!("no event") };
                let Event::Fenced { saved, .. } = *event else { panic!("no fence") };
                saved.set();
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_ne!(rig.states()[2], "member");
            assert!(std::fs::read(rig.path(3)).unwrap() == before, "nothing was written");
        }
    });
}

/// Another daemon on this machine has the lock on one of three disks.
#[test]
fn a_fence_that_somebody_holds_on_one_disk_of_three_is_not_waited_for() {
    local(async {
        let rig = Rig::new();
        let others = BlockFile::open(&rig.path(2), Access::ReadWrite).unwrap();
        assert_eq!(LeaseFile::try_fence(&others, 2 * 512, 512).unwrap(), FenceOutcome::Held);
        let begun = rig.shared.clock().now();
        rig.acquire().await;
        let took = rig.shared.clock().now().since(begun);
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert_eq!(rig.states(), ["member", "unknown", "member"]);
    });
}

#[test]
fn an_owner_of_whom_nothing_says_that_it_is_over_is_told_with_what_can_be_done() {
    let rig = Rig::new();
    let owner = HostTerm { host_id: HostId::new(4).unwrap(), generation: Generation(1) };
    let refusal = Refusal { kind: RefusalKind::Silent, leader: None, owner: Some(owner), earliest: None, undo: None };
    let why = local(async {
        rig.shared.look_at(owner).await.unwrap();
        explain(&rig.shared, &refusal, rig.shared.clock().now())
    });
    assert!(why.contains("shows generation 0, an older one") && why.contains("format it anew"), "{why}");
}

/// Host 4 has renewed, and calls host 1 or does not: what a look at that instant shows.
fn seen_renewing(rig: &Rig, timestamp: u64, calls: bool, at: LocalInstant) {
    let host_id = HostId::new(4).unwrap();
    let leader = LeaderRecord {
        owner_id: 4,
        owner_generation: Generation(7),
        resource_name: ResourceName::new(b"the-other-host").unwrap(),
        timestamp: RemoteTimestamp(timestamp),
        io_timeout: 10,
        ..LeaderRecord::formatted(LeaderKind::Delta, geometry(), key().space)
    };
    let mut bitmap = HostBitmap::EMPTY;
    if calls {
        bitmap.insert(rig.shared.me.term.host_id);
    }
    let bytes = DeltaSector { leader, bitmap, seal: None }.encode(SectorSize::B512);
    rig.shared.hosts.borrow_mut().observe_sector(&SectorView { host_id, bytes, read_started: at, read_ended: at });
}

fn seconds(n: u64) -> LocalInstant {
    LocalInstant::from_nanos(n * 1_000_000_000)
}

#[test]
fn a_refusal_names_the_owner_and_says_when_its_lease_can_change_hands() {
    let rig = Rig::new();
    seen_renewing(&rig, 50, false, seconds(1000));
    let owner = HostTerm { host_id: HostId::new(4).unwrap(), generation: Generation(7) };
    let earliest = rig.shared.hosts.borrow().earliest_takeover(owner.host_id).unwrap();
    let told = |kind, at| {
        let refusal = Refusal { kind, leader: None, owner: Some(owner), earliest: Some(earliest), undo: None };
        explain(&rig.shared, &refusal, seconds(at))
    };
    let left = |at| format!("{:.1} s", earliest.since(seconds(at)).as_secs_f64());
    assert_eq!(
        told(RefusalKind::Alive, 1005),
        format!(
            "held by host the-other-host ({owner}), last seen renewing 5.0 s ago; should it fall silent now, the lease could \
             change hands in {}",
            left(1005)
        )
    );
    // It has missed a renewal, and is silent already.
    assert_eq!(
        told(RefusalKind::Silent, 1040),
        format!(
            "held by host the-other-host ({owner}), last seen renewing 40.0 s ago; if it stays silent, the lease can change \
             hands in {}",
            left(1040)
        )
    );
    assert!(earliest > seconds(1000 + 140), "8 io_timeouts and the watchdog's 60 s at least: {earliest:?}");
}

/// As sanlock tells it: the look that has shown the call, and anew after six of our io_timeouts, with a renewal alone.
#[test]
fn a_call_is_told_with_the_look_that_showed_it_and_anew_after_six_io_timeouts() {
    let rig = Rig::new();
    let other = HostId::new(4).unwrap();
    for (timestamp, calls, at, told, heard) in [
        (50, false, 1000, None, 0),
        (60, true, 1010, Some(1010), 1),
        (60, true, 1015, Some(1010), 0),
        (80, true, 1030, Some(1010), 1),
        (80, true, 1080, Some(1010), 0),
        (130, true, 1081, Some(1081), 1),
        (150, false, 1200, Some(1081), 0),
    ] {
        seen_renewing(&rig, timestamp, calls, seconds(at));
        assert_eq!(rig.shared.calls().len(), heard, "at {at}");
        assert_eq!(rig.shared.called_at(other), told.map(seconds), "at {at}");
    }
}
