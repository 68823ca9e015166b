//! A daemon on a simulated host: the product's own restart, supervisor, works and lease tasks, and an administrator who
//! asks it to join, and now and then to leave.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use holdfast_daemon::daemon::succeed;
use holdfast_daemon::supervisor::event::{ClientId, Event};
use holdfast_daemon::supervisor::{Report, Settings, Supervisor};
use holdfast_daemon::watchdog::Kind;
use holdfast_daemon::works::{Works, WorksError};
use holdfast_io::clock::{Clock, First, LocalInstant, first_of};
use holdfast_io::identity::Machine;
use holdfast_io::ids::{HostId, HostName, SpaceName};
use holdfast_io::seal::SealedFire;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::{FireTimeout, IoTimeout, Timing};
use holdfast_protocol::command::{AddLockspaceFlags, RemLockspaceFlags};
use holdfast_protocol::header::Header;
use holdfast_protocol::payload::{Disk, Lockspace};
use holdfast_protocol::request::{Message, Request};
use holdfast_protocol::text::{DiskPath, Name48};

use crate::checkers::{Area, Checkers};
use crate::coverage::Phase;
use crate::dice::Dice;
use crate::disk::SimDisk;
use crate::executor::Sim;
use crate::host::{Process, Seat, SimHost};
use crate::machine::{Desk, SimMachine};

/// What all hosts of a run share.
pub struct World {
    /// The run.
    pub sim: Sim,
    /// The disks, the lockspace's first.
    pub disks: Vec<SimDisk>,
    /// Who watches.
    pub checkers: Rc<Checkers>,
    /// The lockspace, at the beginning of the first disk.
    pub space: SpaceName,
    /// The resources.
    pub resources: Vec<ResourceAt>,
    /// How the hosts behave at the moment.
    pub habits: Cell<Habits>,
}

/// A resource and where it lies.
#[derive(Clone, Debug)]
pub struct ResourceAt {
    /// Its name.
    pub name: &'static str,
    /// Its disk's path.
    pub path: String,
    /// Byte offset there.
    pub offset: u64,
    /// As the checkers know it.
    pub area: Area,
    /// Its other copies, where it lies on several disks.
    pub more: Vec<CopyAt>,
}

/// Another copy of a resource.
#[derive(Clone, Debug)]
pub struct CopyAt {
    /// Its disk's path.
    pub path: String,
    /// Byte offset there.
    pub offset: u64,
    /// As the checkers know it.
    pub area: Area,
}

/// How hosts behave: part of the scenario.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Programs that want leases of one daemon at one time.
    pub programs: u64,
    /// How long a client runs, at least and at most.
    pub shortest_run: Duration,
    /// At most.
    pub longest_run: Duration,
    /// The longest a host does not want a lease.
    pub longest_pause: Duration,
    /// Of a thousand clients, how many SIGKILL does not end.
    pub unkillable: u32,
    /// Of a thousand clients, how many have a last write that takes long.
    pub slow_writes: u32,
    /// Of a thousand clients, how many have more than one process.
    pub families: u32,
    /// Of a thousand looks of the administrator (one a renewal interval), how many end in leaving.
    pub leaves: u32,
    /// Of a thousand acquires, how many wait for their turn.
    pub waits: u32,
    /// Of a thousand programs, how many share their lease.
    pub shares: u32,
    /// Of a thousand programs with one lease, how many change how they hold it.
    pub converts: u32,
    /// Which hosts want a lease, a bit for each.
    pub wants: u64,
    /// The longest that a host stays down, or without a daemon.
    pub absence: Duration,
}

/// A host's settings, which it keeps over reboots.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Its host_id.
    pub host_id: HostId,
    /// Its io_timeout.
    pub io_timeout: IoTimeout,
    /// Its fire timeout.
    pub fire: FireTimeout,
}

impl Config {
    /// The intervals that follow.
    #[must_use]
    pub const fn timing(&self) -> Timing {
        Timing::new(self.io_timeout, self.fire)
    }
}

/// The administrator, as a client of the daemon.
const ADMIN: ClientId = ClientId(0);

/// How long after a join that did not succeed, or a loss, the next is asked for, at most.
const LONGEST_RETRY: Duration = Duration::from_secs(3);

/// Starts a daemon in a seat; `None`: the host is down, or there is one.
#[must_use]
pub fn start(
    world: &Rc<World>,
    host: &SimHost,
    seat: Seat,
    config: Config,
    name: HostName,
    dice: Dice,
) -> Option<SimMachine> {
    let process = host.start_daemon(seat, config.host_id)?;
    world.checkers.process_starts(process.writer, process.clock.clone());
    world.checkers.phase(process.writer, Phase::Starting);
    let machine = SimMachine::new(process.clone());
    let daemon = Daemon {
        world: Rc::clone(world),
        machine: machine.clone(),
        identity: host.machine(),
        config,
        name,
        dice: RefCell::new(dice),
    };
    world.sim.spawn(process.group, "daemon", async move {
        let why = match daemon.run().await {
            Ok(()) => "its work is done".to_owned(),
            Err(why) => why,
        };
        daemon.machine.process().host.daemon_exits(daemon.machine.process(), &why);
        // The process ends with all its tasks; this one must not go on as if nothing had happened.
        std::future::pending::<()>().await;
    });
    Some(machine)
}

struct Daemon {
    world: Rc<World>,
    machine: SimMachine,
    identity: Machine,
    config: Config,
    name: HostName,
    dice: RefCell<Dice>,
}

impl Daemon {
    fn settings(&self) -> Settings {
        let grace = Timing::longest_kill_grace(self.config.fire);
        Settings {
            host_name: self.name.to_string(),
            io_timeout: self.config.io_timeout,
            fire_timeout: self.config.fire,
            sealed: SealedFire::Within(self.config.fire),
            watchdog: Kind::Device,
            kill_grace: grace.min(Duration::from_secs(10)),
            strict_clients: false,
            boot_id: self.machine.process().host.boot_id(),
            report: Report::default(),
        }
    }

    async fn run(&self) -> Result<(), String> {
        let Process { host, seat, writer, group, clock, port } = self.machine.process().clone();
        let settled = async {
            // A dead predecessor is gone when its last thread is, and so is its hold on the watchdog.
            while host.watchdog_is_open(seat) {
                clock.sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        let settings = self.settings();
        let proven = succeed(&self.machine, &settings, settled).await.map_err(|e| e.to_string())?;
        let supervisor = Supervisor::new(settings, proven);
        let mut works = Works::new(supervisor, self.machine.clone(), self.identity, self.name);
        port.listen(works.notes(), group);
        let mut desk = Desk::new(&self.machine, self.world.space);
        let failed = |e: WorksError| e.to_string();
        works
            .handle(&mut desk, Event::Connected { client: ADMIN, pid: 1, rights: Rights::Ours })
            .await
            .map_err(failed)?;
        let mut visit = LocalInstant::EARLIEST;
        while !desk.exit {
            match first_of(works.next(), clock.sleep_until(visit)).await {
                First::A(turn) => works.take(&mut desk, turn).await.map_err(failed)?,
                First::B(()) => {
                    if let Some(request) = self.administrate(&works) {
                        let header = Header::request(request.command());
                        let message = Message { header, command: request.command(), request };
                        works.handle(&mut desk, Event::Request { client: ADMIN, message }).await.map_err(failed)?;
                    }
                    visit = clock.now().after(self.until_next_visit(&works));
                }
            }
            self.world.checkers.phase(writer, Phase::of(works.supervisor.standing(&self.world.space)));
        }
        Ok(())
    }

    /// What the administrator asks for, if anything.
    fn administrate(&self, works: &Works<SimMachine>) -> Option<Request> {
        let (life, _) = works.supervisor.standing(&self.world.space);
        let lockspace = self.lockspace()?;
        match life {
            None => {
                let io_timeout = u32::from(self.config.io_timeout.seconds());
                Some(Request::AddLockspace { flags: AddLockspaceFlags::ASYNC, io_timeout, lockspace })
            }
            Some("active") if self.dice.borrow_mut().chance(self.world.habits.get().leaves) => {
                Some(Request::RemLockspace { flags: RemLockspaceFlags::ASYNC, lockspace })
            }
            Some(_) => None,
        }
    }

    fn until_next_visit(&self, works: &Works<SimMachine>) -> Duration {
        let most = match works.supervisor.standing(&self.world.space).0 {
            None => LONGEST_RETRY,
            Some(_) => self.config.timing().renewal_interval(),
        };
        self.dice.borrow_mut().between(Duration::from_millis(100), most)
    }

    fn lockspace(&self) -> Option<Lockspace> {
        let path = DiskPath::new(self.world.disks.first()?.path().to_string()).ok()?;
        let name = Name48::new(self.world.space.to_string()).ok()?;
        Some(Lockspace::new(name, self.config.host_id.get(), Disk::new(path, 0)))
    }
}
