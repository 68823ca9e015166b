//! The story, from the first byte formatted to the last daemon's end.
//!
//! Computed instants come from two sides that do not speak to each other: host1's own, from the renewal it wrote last,
//! and the waiting hosts', from what they saw on the disk. Each is told when it is computed, and held against what was
//! measured later; a difference to the wrong side is a fault, which fails the demonstration as an overlap does.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use delta_lease::DeltaError;
use holdfast_client::LockspacePresence;
use holdfast_client::protocol::text::TextError;
use holdfast_client::protocol::{AddLockspaceFlags, Disk, DiskPath, InqLockspaceFlags, Lockspace, Name48};
use holdfast_daemon::procfs::ProcError;
use holdfast_io::clock::{BootClock, LocalInstant, boot_now};
use holdfast_io::sys::linux::{FileKind, OpenError};
use holdfast_io::sys::process::ProcessError;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use serde_json::{Value, json};

use super::cluster::{Cluster, ClusterError, FIRE_TIMEOUT, Got, IO_TIMEOUT};
use super::failover::Measured;
use super::place::Place;
use super::program::{LOCKSPACE, RESOURCE, RESOURCE_OFFSET};
use super::records::{self, DamagedFile};
use super::tell::{TellError, Teller};
use super::verdict;

/// host1 starts first and is the one whose daemon is frozen.
pub const FIRST: u64 = 1;
/// The hosts that wait for it.
pub const OTHERS: [u64; 2] = [2, 3];
/// When the daemon is frozen, counted from the start.
const FREEZE_AT: Duration = Duration::from_secs(8);
/// What may take a moment, a start or a stop for one, on a machine that has other things to do.
pub const MOMENT: Duration = Duration::from_secs(20);

/// Why the story has no end.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// Processes and daemons.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// One process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// /proc.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// Standard output.
    #[error(transparent)]
    Tell(#[from] TellError),
    /// A path too long for the wire.
    #[error("path of the lease areas: {0}")]
    Path(#[from] TextError),
    /// The disk file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// host1's sector.
    #[error("host1's sector: {0}")]
    Delta(#[from] DeltaError),
    /// host1's sector without a seal, or not a record.
    #[error("host1's sector at offset {offset} of {path}: {found}")]
    Sector {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong with it.
        found: String,
    },
    /// The shared file.
    #[error("{}: {source}", path.display())]
    Shared {
        /// Its path.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// Its content.
    #[error(transparent)]
    Records(#[from] DamagedFile),
    /// A timer or a child.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// `holdfast init` said no.
    #[error("holdfast init failed: {said}")]
    Init {
        /// What it said.
        said: String,
    },
    /// A daemon's JSON lacks what must be there.
    #[error("host{host}'s daemon did not say {what}: {found}")]
    Answer {
        /// Whose.
        host: u64,
        /// What is missing.
        what: &'static str,
        /// What it said.
        found: String,
    },
}

/// One demonstration.
pub struct Story<'a> {
    pub(super) cluster: Cluster,
    pub(super) teller: &'a Teller,
    pub(super) start: LocalInstant,
    pub(super) place: &'a Place,
    pub(super) sabotage: bool,
    pub(super) clock: BootClock,
    pub(super) timing: Timing,
    /// What each waiting host last said of host1.
    pub(super) views: BTreeMap<u64, String>,
    /// What went to the wrong side of a computed instant.
    pub(super) faults: Vec<String>,
}

impl<'a> Story<'a> {
    /// Gets ready. To be called on the main thread, before any other was started.
    ///
    /// # Errors
    /// No threads, no timers.
    pub fn new(teller: &'a Teller, place: &'a Place, sabotage: bool) -> Result<Self, StoryError> {
        let cluster = Cluster::new(place)?;
        let clock = BootClock::new().map_err(|source| StoryError::System { what: "make a timer", source })?;
        let (Some(io), Some(fire)) = (IoTimeout::new(IO_TIMEOUT.into()), FireTimeout::new(FIRE_TIMEOUT.into())) else {
            return Err(StoryError::System { what: "use these timeouts", source: nix::errno::Errno::EINVAL.into() });
        };
        let (timing, start) = (Timing::new(io, fire), boot_now());
        let (views, faults) = (BTreeMap::new(), Vec::new());
        Ok(Story { cluster, teller, start, place, sabotage, clock, timing, views, faults })
    }

    /// Plays it; whether the proof holds.
    ///
    /// # Errors
    /// [`StoryError`]: it could not be played to its end.
    pub fn play(mut self) -> Result<bool, StoryError> {
        self.format()?;
        self.start_hosts()?;
        self.join()?;
        self.first_owner()?;
        self.refusals()?;
        self.wait_in_line()?;
        let computed = self.freeze()?;
        let (fired, after_freeze) = self.reset(&computed)?;
        let (taker, takeover) = self.takeover(&computed)?;
        self.hand_over(taker)?;
        self.shut_down()?;
        let measured = Measured { fired, after_freeze, taker, takeover };
        let bytes = self.shared()?;
        let proof = records::check(&bytes)?;
        verdict::tell(&self, &computed, &measured, &proof)
    }

    pub(super) fn t(&self, at: LocalInstant) -> f64 {
        self.teller.seconds(at)
    }

    pub(super) fn shared(&self) -> Result<Vec<u8>, StoryError> {
        let path = self.place.shared();
        std::fs::read(&path).map_err(|source| StoryError::Shared { path, source })
    }

    /// How many records stand in the shared file.
    pub(super) fn written(&self) -> u64 {
        std::fs::metadata(self.place.shared()).map_or(0, |found| found.len() / records::LEN as u64)
    }

    fn format(&self) -> Result<(), StoryError> {
        let system = |source| StoryError::System { what: "run holdfast init", source };
        let path = self.place.disk.display().to_string().replace('\\', "\\\\").replace(':', "\\:");
        let output = Command::new(std::env::current_exe().map_err(system)?)
            .args(["init", "--create", "-o", &IO_TIMEOUT.to_string(), "-s", &format!("{LOCKSPACE}:0:{path}:0")])
            .args(["-r", &format!("{LOCKSPACE}:{RESOURCE}:{path}:{RESOURCE_OFFSET}")])
            .stdin(Stdio::null())
            .output()
            .map_err(system)?;
        if !output.status.success() {
            return Err(StoryError::Init { said: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
        }
        let kind = match self.place.kind {
            FileKind::Block => "a block device",
            FileKind::LocalFile => "a file on a local file system",
            FileKind::RemoteFile => "a file on a network or user-space file system",
        };
        let disk = self.place.disk.display();
        let text = format!(
            "the shared device is {disk}, {kind}, read and written with O_DIRECT\n\
             `holdfast init`: lockspace {LOCKSPACE}, resource {RESOURCE}, io_timeout {IO_TIMEOUT} s\n\
             the guarded programs append to {}",
            self.place.shared().display()
        );
        self.teller.now(None, "format", &text, json!({ "disk": disk.to_string() }))?;
        Ok(())
    }

    fn start_hosts(&mut self) -> Result<(), StoryError> {
        for id in 1..=3 {
            self.cluster.start_host(id, self.place.of_host(id))?;
        }
        for id in 1..=3 {
            // Before its first moment there is no socket; one that stays away is what the time limit is for.
            self.cluster.until(format!("host{id}'s daemon answers"), MOMENT, |cluster| {
                let started = cluster.host(id).is_some_and(|host| host.daemon.is_some());
                let answers = started && cluster.ask(id, |mut daemon| daemon.version()).is_ok();
                Ok::<_, StoryError>(answers.then_some(()))
            })?;
        }
        let text = format!(
            "three hosts, each a tree of processes below a fake watchdog, each with a daemon of its own\n\
             a watchdog that is not petted in time kills its whole tree; fire timeout, sealed on disk: {}",
            self.timing.fire_timeout
        );
        self.teller.now(None, "started", &text, Value::Null)?;
        if self.sabotage {
            let text = "SABOTAGE: host1's program is started outside of host1's tree. Its watchdog still fires and\n\
                        kills the daemon, and with it the kill ladder, but reaches the program no more: a host\n\
                        whose watchdog is wired to nothing. Nothing else is changed. The check at the end has\n\
                        to find out.";
            self.teller.now(Some(FIRST), "sabotage", text, Value::Null)?;
        }
        Ok(())
    }

    pub(super) fn lockspace(&self, id: u64) -> Result<Lockspace, TextError> {
        let path = DiskPath::new(self.place.disk.as_os_str().as_bytes())?;
        Ok(Lockspace::new(Name48::new(LOCKSPACE)?, id, Disk::new(path, 0)))
    }

    fn join(&mut self) -> Result<(), StoryError> {
        for id in 1..=3 {
            let lockspace = self.lockspace(id)?;
            self.cluster
                .ask(id, |mut daemon| daemon.add_lockspace(AddLockspaceFlags::ASYNC, IO_TIMEOUT.into(), lockspace))?;
        }
        for id in 1..=3 {
            let lockspace = self.lockspace(id)?;
            self.cluster.until(format!("host{id} joins the lockspace"), MOMENT, |cluster| {
                let asked = lockspace.clone();
                let found = cluster.ask(id, |mut daemon| daemon.inq_lockspace(InqLockspaceFlags::NONE, asked))?;
                Ok::<_, StoryError>((found == LockspacePresence::Joined).then_some(()))
            })?;
            let status = self.status(id)?;
            let device = status.pointer("/watchdog/device_timeout_s").and_then(Value::as_u64).unwrap_or(0);
            let generation = status.pointer("/lockspaces/0/generation").and_then(Value::as_u64).unwrap_or(0);
            let text =
                format!("joined as host_id {id}, generation {generation}; its watchdog is armed with {device} s");
            self.teller.now(
                Some(id),
                "joined",
                &text,
                json!({ "generation": generation, "device_timeout_s": device }),
            )?;
        }
        Ok(())
    }

    pub(super) fn status(&self, id: u64) -> Result<Value, StoryError> {
        let bytes = self.cluster.ask(id, |mut daemon| daemon.holdfast_status())?;
        serde_json::from_slice(&bytes).map_err(|e| StoryError::Answer {
            host: id,
            what: "its status",
            found: e.to_string(),
        })
    }

    fn first_owner(&mut self) -> Result<(), StoryError> {
        match self.sabotage {
            true => self.cluster.start_outsider()?,
            false => self.cluster.order(FIRST, "start")?,
        }
        let got = self.await_lease(&[FIRST], MOMENT)?.1;
        self.cluster.until("host1's program writes", MOMENT, |_| {
            Ok::<_, StoryError>(
                (std::fs::metadata(self.place.shared()).is_ok_and(|found| found.len() > 0)).then_some(()),
            )
        })?;
        let text = format!("its program owns the lease at lver {} and writes to the shared file, every 5 ms", got.lver);
        self.teller.tell(got.at, Some(FIRST), "acquired", &text, json!({ "lver": got.lver }))?;
        Ok(())
    }

    /// Waits until one of these hosts has a lease.
    pub(super) fn await_lease(&mut self, of: &[u64], limit: Duration) -> Result<(u64, Got), StoryError> {
        self.cluster.until(format!("one of hosts {of:?} gets the lease"), limit, |cluster| {
            Ok(of.iter().find_map(|id| Some((*id, cluster.host(*id)?.got?))))
        })
    }

    fn refusals(&mut self) -> Result<(), StoryError> {
        for id in OTHERS {
            self.cluster.order(id, "start")?;
            let refused = self.cluster.until(format!("host{id} is refused"), MOMENT, |cluster| {
                Ok::<_, StoryError>(cluster.host(id).and_then(|host| host.refused.clone()))
            })?;
            let owner =
                |field: &str| refused.explained.pointer(&format!("/owner/{field}")).cloned().unwrap_or_default();
            let seconds = |field: &str| owner(field).as_f64().unwrap_or(0.0) / 1000.0;
            let (ago, possible) = (seconds("host/last_renewal_seen_ms_ago"), seconds("host/takeover_possible_in_ms"));
            let name = owner("host/name");
            let name = name.as_str().unwrap_or("an unknown host").to_owned();
            let text = format!(
                "refused: {}\n\
                 {name} (host_id {}, generation {}) owns {RESOURCE} at lver {} and was seen renewing {ago:.2} s ago;\n\
                 should it fall silent now, the lease could change hands in {possible:.2} s, and not before",
                refused.why,
                owner("host_id"),
                owner("generation"),
                refused.explained.get("lver").cloned().unwrap_or_default(),
            );
            let fields = json!({ "owner": name, "renewed_s_ago": ago, "takeover_possible_in_s": possible });
            self.teller.tell(refused.at, Some(id), "refused", &text, fields)?;
        }
        Ok(())
    }

    fn wait_in_line(&mut self) -> Result<(), StoryError> {
        for id in OTHERS {
            self.cluster.order(id, "wait")?;
            let at = self.cluster.until(format!("host{id} waits"), MOMENT, |cluster| {
                Ok::<_, StoryError>(cluster.host(id).and_then(|host| host.waiting))
            })?;
            self.teller.tell(
                at,
                Some(id),
                "waiting",
                "its program now waits for the lease, as long as it takes",
                Value::Null,
            )?;
        }
        Ok(self.cluster.wait_until(self.start.after(FREEZE_AT))?)
    }
}
