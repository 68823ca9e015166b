//! What wants leases on a host: one program after the other, each a family of processes ([`crate::guests`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use holdfast_protocol::codes::ResultCode;
use holdfast_protocol::command::{AcquireFlags, LeaseFlags, ReleaseFlags};
use holdfast_protocol::payload::{Disk, Options, Resource, ResourceHead};
use holdfast_protocol::request::{Request, Target};
use holdfast_protocol::text::{DiskPath, Name48};

use crate::checkers::Area;
use crate::cluster::{Member, SPACE};
use crate::daemon::{ResourceAt, World};
use crate::dice::{Dice, Stream};
use crate::executor::{Group, Sim};
use crate::guests::{Leader, Manners};

/// How much longer a program waits, at most, before the next after one that got nothing.
const REFUSED: Duration = Duration::from_millis(2500);

/// Starts the programs of a daemon, which come and go for as long as the run lasts.
pub fn spawn(world: &Rc<World>, member: &Rc<Member>, number: usize) {
    for n in 0..world.habits.get().programs {
        let (world, member) = (Rc::clone(world), Rc::clone(member));
        let stream = Stream::Host(
            u8::try_from(128 + number * 4).unwrap_or(u8::MAX).saturating_add(u8::try_from(n).unwrap_or(0)),
        );
        let dice = RefCell::new(Dice::new(world.sim.seed(), stream));
        world.sim.clone().spawn(Group::RUN, "programs", async move {
            let mut refused = true;
            loop {
                let longest = world.habits.get().longest_pause;
                let (least, most) =
                    if refused { (longest / 2, longest * 2 + REFUSED) } else { (longest / 10, longest) };
                let pause = dice.borrow_mut().between(least, most);
                world.sim.sleep(pause).await;
                refused = world.habits.get().wants >> number & 1 == 0 || !one_program(&world, &member, &dice).await;
            }
        });
    }
}

/// One program, from its start to its end. `false`: it got no lease.
async fn one_program(world: &Rc<World>, member: &Member, dice: &RefCell<Dice>) -> bool {
    if !member.host.is_up() || member.host.still_since().is_some() {
        return false;
    }
    let Some(port) = member.host.port(member.seat) else { return false };
    let program = Program::of(world, dice);
    let pid = member.host.next_pid();
    let Some(leader) = member.host.guests().join(&port, pid, program.kind == Kind::Group, program.manners) else {
        return false;
    };
    let got = Rc::new(Cell::new(false));
    let host = member.host.clone();
    let (group, over) = (leader.group(), Over::default());
    let (sim, ended, gets) = (world.sim.clone(), over.clone(), Rc::clone(&got));
    world.sim.spawn(group, "program", async move {
        let _ends = ended;
        program.run(&leader, &sim, &gets, || host.next_pid()).await;
        leader.exits();
        std::future::pending::<()>().await;
    });
    over.wait().await;
    got.get()
}

/// The end of a task, whatever ends it.
#[derive(Clone, Default)]
struct Over(Rc<RefCell<Ends>>);

#[derive(Default)]
struct Ends {
    waker: Option<std::task::Waker>,
}

impl Over {
    /// Resolves once only the one who waits is left.
    async fn wait(self) {
        std::future::poll_fn(|cx| {
            if Rc::strong_count(&self.0) == 1 {
                return std::task::Poll::Ready(());
            }
            self.0.borrow_mut().waker = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(waker) = self.0.borrow_mut().waker.take() {
            waker.wake();
        }
    }
}

/// What comes out of a leader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing.
    Single,
    /// Processes that inherit its connection.
    Heirs,
    /// Members of its process group, as under `holdfast exec`.
    Group,
}

struct Program {
    kind: Kind,
    manners: Manners,
    resources: Vec<ResourceAt>,
    flags: AcquireFlags,
    runs: Duration,
    others_run: Duration,
    others: u64,
    /// It gives its leases back by itself, and asks again.
    rounds: u64,
    /// It closes its connection and goes on (under `holdfast exec` alone).
    closes: bool,
    /// It shares its leases.
    shares: bool,
    /// Half-way it changes how it holds its one lease.
    converts: bool,
}

impl Program {
    fn of(world: &World, dice: &RefCell<Dice>) -> Self {
        let habits = world.habits.get();
        let mut dice = dice.borrow_mut();
        let kind = match dice.chance(habits.families) {
            true if dice.chance(500) => Kind::Heirs,
            true => Kind::Group,
            false => Kind::Single,
        };
        let mut flags = if kind == Kind::Group { AcquireFlags::GROUP } else { AcquireFlags::NONE };
        if dice.chance(habits.waits) {
            flags = flags | AcquireFlags::WAIT;
        }
        if dice.chance(500) {
            flags = flags | AcquireFlags::OWNER_NOWAIT;
        }
        let mut resources = world.resources.clone();
        if resources.len() > 1 && dice.chance(600) {
            resources.remove(dice.index(2));
        }
        let slow = dice.chance(habits.slow_writes);
        let most = if slow { Duration::from_secs(40) } else { Duration::from_millis(20) };
        let manners = Manners {
            on_term: dice.chance(700).then(|| dice.skewed(Duration::from_millis(1), Duration::from_secs(4))),
            on_kill: (!dice.chance(habits.unkillable))
                .then(|| dice.skewed(Duration::from_micros(100), Duration::from_millis(50))),
            last_write: dice.skewed(Duration::from_millis(1), most),
            ring: dice.chance(400),
        };
        let least = habits.shortest_run.min(habits.longest_run);
        let runs = dice.skewed(least, habits.longest_run);
        let others_run = dice.skewed(least, habits.longest_run);
        let (others, rounds) = (1 + dice.below(2), 1 + dice.below(3));
        let (closes, shares) = (dice.chance(300), habits.shares > 0 && dice.chance(habits.shares));
        // Several processes do not stop writing at one instant.
        let alone = kind == Kind::Single && resources.len() == 1;
        let converts = habits.converts > 0 && dice.chance(habits.converts) && alone;
        Program { kind, manners, resources, flags, runs, others_run, others, rounds, closes, shares, converts }
    }

    async fn run(&self, leader: &Leader, sim: &Sim, got: &Cell<bool>, mut next_pid: impl FnMut() -> i32) -> Option<()> {
        leader.register().await?;
        let rounds = if self.kind == Kind::Single { self.rounds } else { 1 };
        for _ in 0..rounds {
            if leader.ask(self.acquire()).await? != ResultCode::OK {
                return None;
            }
            got.set(true);
            self.resources.iter().for_each(|r| self.uses(leader, r.area, self.shares));
            if self.kind != Kind::Single {
                for _ in 0..self.others {
                    leader.fork(next_pid(), self.kind == Kind::Heirs, self.others_run);
                }
            }
            if self.closes && self.kind == Kind::Group {
                leader.closes();
            }
            if self.converts {
                sim.sleep(self.runs / 2).await;
                self.convert(leader, sim).await?;
            }
            sim.sleep(self.runs).await;
            if self.kind == Kind::Single && self.rounds > 1 {
                sim.sleep(self.manners.last_write).await;
                leader.stops_writing();
                let all = Request::Release { flags: ReleaseFlags::ALL, target: Target::This, resources: Vec::new() };
                leader.ask(all).await?;
            }
        }
        Some(())
    }

    fn uses(&self, leader: &Leader, area: Area, shared: bool) {
        if shared { leader.reads(area) } else { leader.writes(area) }
    }

    /// Changes how it holds its lease. It stops writing before it asks to share it, and starts once it has it alone.
    async fn convert(&self, leader: &Leader, sim: &Sim) -> Option<()> {
        let at = self.resources.first()?;
        if !self.shares {
            sim.sleep(self.manners.last_write).await;
            leader.stops_writing();
        }
        let wanted = if self.shares { LeaseFlags::NONE } else { LeaseFlags::SHARED };
        let resource = ResourceHead { flags: wanted, ..head_of(at)? };
        let done = leader.ask(Request::Convert { flags: self.flags, target: Target::This, resource }).await?;
        match (self.shares, done == ResultCode::OK) {
            (true, true) => {
                leader.stops_writing();
                leader.writes(at.area);
            }
            (false, true) => leader.reads(at.area),
            // It shares it still, or does not know what it has.
            (true | false, false) => {}
        }
        Some(())
    }

    fn acquire(&self) -> Request {
        let resources = self.resources.iter().filter_map(|at| {
            let flags = if self.shares { LeaseFlags::SHARED } else { LeaseFlags::NONE };
            let head = ResourceHead { flags, ..head_of(at)? };
            let copies =
                [(&at.path, at.offset)].into_iter().chain(at.more.iter().map(|copy| (&copy.path, copy.offset)));
            let disk = |(path, offset): (&String, u64)| Some(Disk::new(DiskPath::new(path.clone()).ok()?, offset));
            Some(Resource::new(head, copies.map(disk).collect::<Option<_>>()?))
        });
        let options = Options::default();
        Request::Acquire { flags: self.flags, target: Target::This, resources: resources.collect(), options }
    }
}

fn head_of(at: &ResourceAt) -> Option<ResourceHead> {
    Some(ResourceHead::named(Name48::new(SPACE).ok()?, Name48::new(at.name).ok()?))
}
