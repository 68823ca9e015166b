//! A shared disk with a fault model, as an [`Engine`]: deadlines, I6 and D2 are the daemon's own code above it.
//!
//! The true bytes are pristine: they hold what landed, sector by sector. Faults are an overlay of what happens to an
//! I/O on its way. The model, no wider than what the program assumes of storage:
//! - An I/O first waits in its process's queue, for a moment as a rule. It begins ([`Io::start`]) when a thread of that
//!   process takes it up: never while the process is frozen, never after its end.
//! - **Latency**: each I/O takes effect some time after it began and is acknowledged some time after that.
//! - **Tearing**: a sector is read and written at one instant. The sectors of a larger I/O may move at different
//!   instants of it, and only some of them before a reset.
//! - **Errors**: a read fails; a write fails with each of its sectors landed or not, finally.
//! - **Late or never**: an I/O that began may take effect at any later time, long past its deadline, or never. It may do
//!   so although its process has died. It is over only when it is acknowledged or its host is reset: what had not
//!   landed by then never does.
//! - **Path loss**, for one host: everything fails at once, or hangs until the path is back.
//! - **Damage**: a bit of a sector reads wrong, once, or until the sector is written anew. The checksums must find it.
//!
//! Not in the model: a misplaced or outdated sector, an acknowledged write that is lost, a write after a reset.
//!
//! A lock on a range of bytes belongs to the open file description that took it, and stays held until that is closed *and*
//! the last I/O issued through it is over: what the fence relies on. Locks of other hosts are other kernels' business.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use holdfast_io::clock::Clock;
use holdfast_io::device::{Engine, Io, Started};
use holdfast_io::disk::Op;
use holdfast_io::ids::HostId;
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::SectorSize;
use nix::errno::Errno;

use crate::coverage::Fault;
use crate::dice::{Dice, Stream, nanos};
use crate::executor::{Group, Nanos, Sim, SimClock};

/// Which host of the run, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIndex(pub usize);

/// Who issued an I/O: which process in which boot of which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    /// The host.
    pub host: HostIndex,
    /// Its boots are counted from 1.
    pub boot: u32,
    /// Its processes are counted from 1, over all boots.
    pub process: u32,
    /// The host_id whose sectors it may write.
    pub host_id: HostId,
}

/// An I/O as those who watch the disk see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which disk of the run, from 0.
    pub disk: usize,
    /// Number of the I/O on this disk.
    pub id: u64,
    /// Who issued it.
    pub writer: Writer,
    /// Read or write.
    pub op: Op,
    /// Byte offset.
    pub at: u64,
    /// Bytes.
    pub len: usize,
    /// True time at which it began.
    pub began: Nanos,
}

impl Facts {
    /// The bytes it moves.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.at..self.at + self.len as u64
    }
}

/// Watches a disk: the checkers.
pub trait Witness {
    /// An I/O begins. `beside` is another write of the same host and host_id in flight on one of its sectors, if it is a write.
    fn begins(&self, io: &Facts, beside: Option<&Facts>);
    /// What a write that begins is about to put there.
    fn writes(&self, io: &Facts, data: &[u8]);
    /// What a read brought, to a caller that may have given it up. `damaged`: the bytes of it that are not what is on the
    /// medium.
    fn read(&self, io: &Facts, bytes: &[u8], damaged: &[u64]);
    /// A sector of a write landed.
    fn landed(&self, io: &Facts, sector_at: u64, old: &[u8], new: &[u8]);
    /// Sectors of a read move: `len` bytes from `at` on.
    fn moved(&self, io: &Facts, at: u64, len: usize);
    /// Chance does something to an I/O of a host.
    fn fault(&self, host: HostIndex, fault: Fault);
    /// An I/O is over, whether its caller still waits or not; `how` in a word or two.
    fn over(&self, io: &Facts, how: &str);
}

/// What becomes of an I/O that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It takes effect within this time and is acknowledged.
    Done(Duration),
    /// It fails after this time.
    Fails {
        /// When.
        after: Duration,
        /// Which sectors of a write land all the same.
        landed: Landed,
    },
    /// It never takes effect and is never acknowledged.
    Never,
    /// It waits until [`SimDisk::release`].
    Held,
}

/// How much of a failed write is on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// Nothing.
    Nothing,
    /// Some sectors; of a single one, nothing.
    Part,
    /// All of it.
    All,
}

/// How likely each fault is, in parts per thousand of the I/Os.
#[derive(Clone, Copy, Debug)]
pub struct FaultRates {
    /// Usual latencies.
    pub latency: (Duration, Duration),
    /// Reads and writes that fail.
    pub error: u32,
    /// Reads and writes that take effect late, after a time out of [`FaultRates::late`].
    pub late_per_mille: u32,
    /// From when to when those take effect.
    pub late: (Duration, Duration),
    /// Those that never do.
    pub never: u32,
    /// I/Os of several sectors whose sectors move at different instants.
    pub torn: u32,
    /// I/Os that wait long in their process's queue.
    pub queued: u32,
    /// Reads in which a bit is wrong.
    pub damaged: u32,
}

impl FaultRates {
    /// A disk that always works, in 50 microseconds to 20 ms.
    pub const NONE: FaultRates = FaultRates {
        latency: (Duration::from_micros(50), Duration::from_millis(20)),
        error: 0,
        late_per_mille: 0,
        late: (Duration::from_secs(1), Duration::from_secs(2)),
        never: 0,
        torn: 300,
        queued: 0,
        damaged: 0,
    };
}

/// How a lost path shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathLoss {
    /// Everything that begins fails.
    Fails,
    /// Everything that begins hangs until the path is back.
    Hangs,
}

/// The disk itself. Clones are the same one.
#[derive(Clone)]
pub struct SimDisk(Rc<Medium>);

type Script = Box<dyn FnMut(&Facts) -> Option<Fate>>;

struct Hold {
    host: HostIndex,
    host_id: HostId,
    then: Box<dyn FnOnce(Facts)>,
}

struct Medium {
    sim: Sim,
    index: usize,
    path: Arc<str>,
    sector: SectorSize,
    /// The true bytes, in pieces of [`PIECE`].
    pieces: RefCell<Vec<AlignedBuf>>,
    /// Copies of whole pieces: handed out to reads, and brought up to date once nobody looks at them any more.
    copies: RefCell<BTreeMap<usize, Vec<Copied>>>,
    /// Every sector that landed, in order: where, and what was there before.
    landings: RefCell<Vec<(u64, Vec<u8>)>>,
    /// Sectors that read wrong until they are written anew: which byte, and which bits of it.
    damage: RefCell<BTreeMap<u64, (usize, u8)>>,
    locks: RefCell<Vec<Lock>>,
    dice: RefCell<Dice>,
    rates: Cell<FaultRates>,
    lost: RefCell<BTreeMap<HostIndex, PathLoss>>,
    opens_fail: Cell<bool>,
    stays_lost: Cell<bool>,
    prompt: RefCell<BTreeMap<HostIndex, Duration>>,
    script: RefCell<Option<Script>>,
    /// Whose next write to anything but the first area is held back, and who wants to know.
    holds: RefCell<Vec<Hold>>,
    witness: RefCell<Option<Rc<dyn Witness>>>,
    flights: RefCell<BTreeMap<u64, Flight>>,
    last_id: Cell<u64>,
}

/// A range locked by a description.
struct Lock {
    host: HostIndex,
    description: u64,
    range: Range<u64>,
    closed: bool,
}

/// So many sectors of an area, from its beginning, are ever used in a run.
const WATCHED: usize = 22;
/// Bytes in a piece: the length of the smallest lease area.
const PIECE: usize = 1024 * 1024;

/// A copy of a piece as it was after so many landings.
struct Copied {
    bytes: AlignedBuf,
    landings: usize,
}

struct Flight {
    facts: Facts,
    started: Started,
    /// The description through which it was issued; 0: none that carries locks.
    description: u64,
    /// A read of a whole piece: how its sectors are spread over parts, and how many landings each part has seen.
    salt: u64,
    seen: Vec<Option<usize>>,
    damaged: Vec<u64>,
    /// Waits for a release or for its path.
    held: bool,
    /// Ends with its host alone.
    lost: bool,
    /// Sectors that have moved.
    moved: usize,
}

impl SimDisk {
    /// A disk with this content, which works until [`SimDisk::set_rates`] says otherwise.
    #[must_use]
    pub fn new(sim: &Sim, path: &str, sector: SectorSize, bytes: &[u8]) -> Self {
        Self::of_pieces(sim, 0, path, sector, bytes.chunks(PIECE).map(AlignedBuf::from_slice).collect())
    }

    /// Disk number `index` of a run, with content in pieces of a MiB, the last of which may be shorter.
    #[must_use]
    pub fn of_pieces(sim: &Sim, index: usize, path: &str, sector: SectorSize, pieces: Vec<AlignedBuf>) -> Self {
        SimDisk(Rc::new(Medium {
            sim: sim.clone(),
            index,
            path: Arc::from(path),
            sector,
            pieces: RefCell::new(pieces),
            copies: RefCell::default(),
            landings: RefCell::default(),
            damage: RefCell::default(),
            locks: RefCell::default(),
            dice: RefCell::new(Dice::new(sim.seed(), Stream::Disk(u8::try_from(index).unwrap_or(u8::MAX)))),
            rates: Cell::new(FaultRates::NONE),
            lost: RefCell::default(),
            opens_fail: Cell::default(),
            stays_lost: Cell::default(),
            prompt: RefCell::default(),
            script: RefCell::default(),
            holds: RefCell::default(),
            witness: RefCell::default(),
            flights: RefCell::default(),
            last_id: Cell::new(0),
        }))
    }

    /// Who watches from now on.
    pub fn set_witness(&self, witness: Rc<dyn Witness>) {
        *self.0.witness.borrow_mut() = Some(witness);
    }

    /// How likely faults are from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.0.rates.set(rates);
    }

    /// Asked about each I/O that begins, before chance: `Some` decides what becomes of it.
    pub fn set_script(&self, script: impl FnMut(&Facts) -> Option<Fate> + 'static) {
        *self.0.script.borrow_mut() = Some(Box::new(script));
    }

    /// The next write of this host under this host_id that is not to its delta sector is held back until
    /// [`SimDisk::release`]; `then` hears of it.
    pub fn hold_next_lease_write(&self, host: HostIndex, host_id: HostId, then: impl FnOnce(Facts) + 'static) {
        self.0.holds.borrow_mut().push(Hold { host, host_id, then: Box::new(then) });
    }

    /// Chance alone decides again.
    pub fn clear_script(&self) {
        *self.0.script.borrow_mut() = None;
        self.0.holds.borrow_mut().clear();
    }

    /// A host loses its path to the disk.
    pub fn lose_path(&self, host: HostIndex, how: PathLoss) {
        self.0.lost.borrow_mut().insert(host, how);
    }

    /// The path is back; what hung on it goes on.
    pub fn restore_path(&self, host: HostIndex) {
        if self.0.stays_lost.get() {
            return;
        }
        if self.0.lost.borrow_mut().remove(&host).is_some() {
            self.release(|facts| facts.writer.host == host);
        }
    }

    /// No path that is lost now comes back.
    pub fn stay_lost(&self) {
        self.0.stays_lost.set(true);
    }

    /// From now on it cannot be opened by a host that has lost its path in the way of [`PathLoss::Fails`].
    pub fn fail_opens(&self) {
        self.0.opens_fail.set(true);
    }

    /// Whether this host can open it now.
    #[must_use]
    pub fn opens_for(&self, host: HostIndex) -> bool {
        !self.0.opens_fail.get() || self.0.lost.borrow().get(&host) != Some(&PathLoss::Fails)
    }

    /// From now on an I/O of this host is over within `patience`, or it fails without effect when nobody waits for it any
    /// more.
    pub fn is_prompt(&self, host: HostIndex, patience: Duration) {
        self.0.prompt.borrow_mut().insert(host, patience);
    }

    /// What becomes of an I/O issued at `issued`, if its host is one that [`SimDisk::is_prompt`] speaks of.
    fn in_time(&self, facts: &Facts, issued: Nanos, fate: Fate) -> Fate {
        let Some(patience) = self.0.prompt.borrow().get(&facts.writer.host).copied() else {
            return fate;
        };
        // Clocks are apart, and an end is seen a moment later.
        let left = nanos(patience * 9 / 10).saturating_sub(facts.began - issued);
        match fate {
            Fate::Done(within) | Fate::Fails { after: within, .. } if nanos(within) <= left => fate,
            _ => Fate::Fails { after: patience * 8 + Duration::from_secs(70), landed: Landed::Nothing },
        }
    }

    /// What it is called.
    #[must_use]
    pub fn path(&self) -> &Arc<str> {
        &self.0.path
    }

    /// Which disk of the run it is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Its sector size.
    #[must_use]
    pub fn sector(&self) -> SectorSize {
        self.0.sector
    }

    /// A copy of the true bytes, which lie within one piece.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let (piece, from) = (range.start / PIECE, range.start % PIECE);
        let pieces = self.0.pieces.borrow();
        let bytes = pieces.get(piece).and_then(|p| p.get(from..from + range.len()));
        bytes.map(<[u8]>::to_vec).unwrap_or_default()
    }

    /// From now on, and until it is written anew, the sector at `at` reads with these bits of its byte `byte` turned.
    pub fn damage(&self, at: u64, byte: usize, bits: u8) {
        self.0.damage.borrow_mut().insert(at, (byte, bits));
    }

    /// All damage is gone.
    pub fn repair(&self) {
        self.0.damage.borrow_mut().clear();
    }

    /// Tries to lock a range for an open file description of a host.
    #[must_use]
    pub fn try_lock(&self, host: HostIndex, description: u64, range: Range<u64>) -> bool {
        let mut locks = self.0.locks.borrow_mut();
        let flights = self.0.flights.borrow();
        locks.retain(|l| !l.closed || flights.values().any(|f| f.description == l.description));
        let other = |l: &&Lock| l.host == host && l.description != description;
        if locks.iter().filter(other).any(|l| l.range.start < range.end && range.start < l.range.end) {
            return false;
        }
        locks.push(Lock { host, description, range, closed: false });
        true
    }

    /// Gives a range back.
    pub fn unlock(&self, description: u64, range: &Range<u64>) {
        self.0.locks.borrow_mut().retain(|l| l.description != description || l.range != *range);
    }

    /// A description is closed: its locks go with the last I/O issued through it.
    pub fn close(&self, description: u64) {
        self.0.locks.borrow_mut().iter_mut().filter(|l| l.description == description).for_each(|l| l.closed = true);
    }

    /// I/Os in flight that `choose` chooses.
    pub fn in_flight(&self, choose: impl Fn(&Facts) -> bool) -> Vec<Facts> {
        self.0.flights.borrow().values().map(|f| f.facts).filter(|f| choose(f)).collect()
    }

    /// Whether an I/O of a host is in flight that never ends.
    #[must_use]
    pub fn has_lost(&self, host: HostIndex) -> bool {
        self.0.flights.borrow().values().any(|f| f.lost && f.facts.writer.host == host)
    }

    /// Lets those held I/Os take effect, each after a usual latency, that `choose` chooses. How many they were.
    pub fn release(&self, choose: impl Fn(&Facts) -> bool) -> usize {
        let mut released = Vec::new();
        for flight in self.0.flights.borrow_mut().values_mut().filter(|f| f.held && choose(&f.facts)) {
            flight.held = false;
            released.push(flight.facts);
        }
        for facts in &released {
            let latency = self.latency();
            self.schedule(facts, Fate::Done(latency));
        }
        released.len()
    }

    /// A host is reset: nothing of it is in flight any more, and nothing more of it lands.
    pub fn host_reset(&self, host: HostIndex) {
        let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut *self.0.flights.borrow_mut())
            .into_iter()
            .partition(|(_, f)| f.facts.writer.host == host);
        *self.0.flights.borrow_mut() = kept;
        self.0.locks.borrow_mut().retain(|l| l.host != host);
        drop(gone);
    }

    /// The disk as one process reaches it through one open file description (0: one that carries no locks).
    #[must_use]
    pub fn engine(&self, writer: Writer, description: u64, group: Group, clock: SimClock) -> SimEngine {
        SimEngine { disk: self.clone(), writer, description, group, clock, _file: None }
    }

    fn latency(&self) -> Duration {
        let (low, high) = self.0.rates.get().latency;
        self.0.dice.borrow_mut().skewed(low, high)
    }

    /// The I/O is taken up by its process: from here on it is the device's.
    fn begin(&self, io: Io, engine: &SimEngine, issued: Nanos) {
        let (op, at, len) = (io.op(), io.at(), io.len());
        let Some(mut started) = io.start(engine.clock.now()) else { return };
        self.0.last_id.set(self.0.last_id.get() + 1);
        let id = self.0.last_id.get();
        let facts = Facts { disk: self.0.index, id, writer: engine.writer, op, at, len, began: self.0.sim.now() };
        let beside = self.write_beside(&facts);
        self.tell(|w| w.begins(&facts, beside.as_ref()));
        if op == Op::Write {
            self.tell(|w| w.writes(&facts, started.buf()));
        }
        let description = engine.description;
        let flight = Flight {
            facts,
            started,
            description,
            salt: 0,
            seen: Vec::new(),
            damaged: Vec::new(),
            held: false,
            lost: false,
            moved: 0,
        };
        self.0.flights.borrow_mut().insert(id, flight);
        let fate = self.in_time(&facts, issued, self.fate(&facts));
        self.schedule(&facts, fate);
    }

    fn write_beside(&self, io: &Facts) -> Option<Facts> {
        let range = io.range();
        let beside = |f: &Facts| {
            f.op == Op::Write
                && (f.writer.host, f.writer.host_id) == (io.writer.host, io.writer.host_id)
                && f.range().start < range.end
                && range.start < f.range().end
        };
        let flights = self.0.flights.borrow();
        flights.values().map(|f| f.facts).find(|f| io.op == Op::Write && beside(f))
    }

    fn tell(&self, what: impl FnOnce(&dyn Witness)) {
        let witness = self.0.witness.borrow().clone();
        if let Some(witness) = witness {
            what(&*witness);
        }
    }

    fn fate(&self, facts: &Facts) -> Fate {
        let scripted = self.0.script.borrow_mut().as_mut().and_then(|script| script(facts));
        if let Some(fate) = scripted {
            return fate;
        }
        if facts.op == Op::Write && (self.0.index > 0 || facts.at >= PIECE as u64) {
            let mut holds = self.0.holds.borrow_mut();
            let whose = |h: &Hold| h.host == facts.writer.host && h.host_id == facts.writer.host_id;
            if let Some(at) = holds.iter().position(whose) {
                let hold = holds.swap_remove(at);
                drop(holds);
                (hold.then)(*facts);
                return Fate::Held;
            }
        }
        match self.0.lost.borrow().get(&facts.writer.host) {
            Some(PathLoss::Fails) => return Fate::Fails { after: Duration::from_millis(1), landed: Landed::Nothing },
            Some(PathLoss::Hangs) => return Fate::Held,
            None => {}
        }
        let (fate, fault) = self.draw(facts.op);
        if let Some(fault) = fault {
            self.tell(|w| w.fault(facts.writer.host, fault));
        }
        fate
    }

    fn draw(&self, op: Op) -> (Fate, Option<Fault>) {
        let rates = self.0.rates.get();
        let mut dice = self.0.dice.borrow_mut();
        let (low, high) = rates.latency;
        let by_op = |read, write| Some(if op == Op::Read { read } else { write });
        if dice.chance(rates.never) {
            (Fate::Never, Some(Fault::Never))
        } else if dice.chance(rates.late_per_mille) {
            (Fate::Done(dice.skewed(rates.late.0, rates.late.1)), by_op(Fault::LateRead, Fault::LateWrite))
        } else if dice.chance(rates.error) {
            let landed = [Landed::Nothing, Landed::Part, Landed::All][dice.index(3)];
            (Fate::Fails { after: dice.skewed(low, high), landed }, by_op(Fault::ReadFails, Fault::WriteFails))
        } else {
            (Fate::Done(dice.skewed(low, high)), None)
        }
    }

    /// Times the instants at which the sectors of an I/O move, and its end.
    fn schedule(&self, facts: &Facts, fate: Fate) {
        let id = facts.id;
        let sectors = facts.len / self.0.sector.bytes();
        let mut dice = self.0.dice.borrow_mut();
        let (within, parts, moving, result) = match fate {
            Fate::Never => {
                if let Some(flight) = self.0.flights.borrow_mut().get_mut(&id) {
                    flight.lost = true;
                }
                return;
            }
            Fate::Held => {
                if let Some(flight) = self.0.flights.borrow_mut().get_mut(&id) {
                    flight.held = true;
                }
                return;
            }
            Fate::Done(within) => {
                let torn = sectors > 1 && dice.chance(self.0.rates.get().torn);
                if torn {
                    self.tell(|w| w.fault(facts.writer.host, Fault::Torn));
                }
                let parts = if torn { 2 + dice.index(2) } else { 1 };
                (within, parts, parts, Ok(facts.len))
            }
            Fate::Fails { after, landed } => match landed {
                Landed::All if facts.op == Op::Write => (after, 1, 1, Err(Errno::EIO)),
                Landed::Part if facts.op == Op::Write && sectors > 1 => (after, 2, 1, Err(Errno::EIO)),
                _ => (after, 1, 0, Err(Errno::EIO)),
            },
        };
        let now = self.0.sim.now();
        let salt = dice.bits();
        for part in 0..moving {
            let instant = now.saturating_add(nanos(dice.between(Duration::ZERO, within)));
            let disk = self.clone();
            self.0.sim.call_at(Group::RUN, instant, move || disk.move_part(id, salt, part, parts));
        }
        let disk = self.clone();
        self.0.sim.call_at(Group::RUN, now.saturating_add(nanos(within)), move || disk.end(id, result));
    }

    /// Moves those sectors of an I/O that belong to part `part` of `parts`.
    fn move_part(&self, id: u64, salt: u64, part: usize, parts: usize) {
        let size = self.0.sector.bytes();
        let mut flights = self.0.flights.borrow_mut();
        let Some(flight) = flights.get_mut(&id) else { return };
        let (facts, sectors) = (flight.facts, flight.facts.len / size);
        let mine = |sector: &usize| part_of(*sector, salt, parts) == part;
        if facts.op == Op::Read {
            if facts.len == PIECE && facts.at.is_multiple_of(PIECE as u64) {
                flight.salt = salt;
                flight.seen.resize(parts, None);
                flight.seen[part] = Some(self.0.landings.borrow().len());
                flight.moved += if parts == 1 { sectors } else { (0..sectors).filter(mine).count() };
            } else {
                flight.moved += (0..sectors).filter(mine).filter(|s| self.read_sector(flight, *s)).count();
            }
            drop(flights);
            if parts == 1 {
                self.tell(|w| w.moved(&facts, facts.at, facts.len));
            } else {
                // Nobody looks at sectors further back.
                let moved = (0..sectors.min(WATCHED)).filter(mine);
                moved.for_each(|s| self.tell(|w| w.moved(&facts, facts.at + (s * size) as u64, size)));
            }
            return;
        }
        let landed: Vec<_> = (0..sectors).filter(mine).filter_map(|s| self.land(flight, s)).collect();
        flight.moved += landed.len();
        drop(flights);
        for (at, old, new) in landed {
            self.tell(|w| w.landed(&facts, at, &old, &new));
        }
    }

    /// A read of a whole piece takes a copy of it, without what has landed since its sectors moved.
    fn read_piece(&self, flight: &mut Flight) {
        let (at, size) = (flight.facts.at, self.0.sector.bytes());
        let Some(piece) = usize::try_from(at).ok().map(|at| at / PIECE) else { return };
        let pieces = self.0.pieces.borrow();
        let Some(medium) = pieces.get(piece).filter(|p| p.len() == PIECE) else { return };
        let (landings, mut copies) = (self.0.landings.borrow(), self.0.copies.borrow_mut());
        let copies = copies.entry(piece).or_default();
        let free = copies.iter().position(|c| !c.bytes.is_shared()).unwrap_or_else(|| {
            copies.push(Copied { bytes: AlignedBuf::from_slice(medium), landings: landings.len() });
            copies.len() - 1
        });
        let copy = &mut copies[free];
        let within =
            |landed: &u64| landed.checked_sub(at).and_then(|from| usize::try_from(from).ok()).filter(|f| *f < PIECE);
        for from in landings[copy.landings..].iter().filter_map(|(landed, _)| within(landed)) {
            copy.bytes[from..from + size].copy_from_slice(&medium[from..from + size]);
        }
        copy.landings = landings.len();
        let first = flight.seen.iter().flatten().min().copied().unwrap_or(0);
        // The latest first: what stays is what was there before the earliest.
        for (n, (landed, before)) in landings.iter().enumerate().skip(first).rev() {
            let Some(from) = within(landed) else { continue };
            let part = part_of(from / size, flight.salt, flight.seen.len());
            if flight.seen[part].is_some_and(|seen| n >= seen) {
                copy.bytes[from..from + size].copy_from_slice(before);
                copy.landings = copy.landings.min(first);
            }
        }
        flight.started.put(copy.bytes.clone());
    }

    /// `false`: the device ends before it.
    fn read_sector(&self, flight: &mut Flight, sector: usize) -> bool {
        let size = self.0.sector.bytes();
        let Some((piece, from)) = self.place(flight.facts.at, sector) else { return false };
        let pieces = self.0.pieces.borrow();
        let Some(medium) = pieces.get(piece).and_then(|p| p.get(from..from + size)) else { return false };
        flight.started.buf()[sector * size..(sector + 1) * size].copy_from_slice(medium);
        true
    }

    /// Puts a sector of a write on the medium: where, what was there, what is there now.
    fn land(&self, flight: &mut Flight, sector: usize) -> Option<(u64, Vec<u8>, Vec<u8>)> {
        let size = self.0.sector.bytes();
        let (piece, from) = self.place(flight.facts.at, sector)?;
        let mut pieces = self.0.pieces.borrow_mut();
        let medium = pieces.get_mut(piece)?;
        let old = medium.get(from..from + size)?.to_vec();
        let new = flight.started.buf()[sector * size..(sector + 1) * size].to_vec();
        medium[from..from + size].copy_from_slice(&new);
        let at = (piece * PIECE + from) as u64;
        self.0.landings.borrow_mut().push((at, old.clone()));
        self.0.damage.borrow_mut().remove(&at);
        Some((at, old, new))
    }

    fn place(&self, at: u64, sector: usize) -> Option<(usize, usize)> {
        let at = usize::try_from(at).ok()?.checked_add(sector * self.0.sector.bytes())?;
        Some((at / PIECE, at % PIECE))
    }

    /// What of a finished read is wrong: for good as long as the medium is damaged, and once by chance.
    fn spoil(&self, flight: &mut Flight) {
        let size = self.0.sector.bytes();
        let range = flight.facts.range();
        let damage: Vec<_> = self.0.damage.borrow().range(range.clone()).map(|(at, how)| (*at, *how)).collect();
        for (at, (byte, bits)) in damage {
            let from = usize::try_from(at - range.start).unwrap_or(usize::MAX);
            flight.started.buf()[from + byte] ^= bits;
            flight.damaged.push(at + byte as u64);
        }
        let mut dice = self.0.dice.borrow_mut();
        if dice.chance(self.0.rates.get().damaged) {
            self.tell(|w| w.fault(flight.facts.writer.host, Fault::DamagedRead));
            // Among the first sectors, where everything is that anybody uses.
            let sector = dice.index((flight.facts.len / size).min(8));
            let most = if dice.chance(500) { 256 } else { size };
            let (byte, bit) = (dice.index(most), dice.index(8));
            flight.started.buf()[sector * size + byte] ^= 1 << bit;
            flight.damaged.push(range.start + (sector * size + byte) as u64);
        }
    }

    /// The device is done with an I/O and says so.
    fn end(&self, id: u64, result: Result<usize, Errno>) {
        // Parts timed for this same instant may still be waiting for their turn: an I/O ends after its last sector.
        let open = {
            let flights = self.0.flights.borrow();
            let Some(flight) = flights.get(&id) else { return };
            result.is_ok() && self.on_device(&flight.facts) > flight.moved
        };
        if open {
            let disk = self.clone();
            return self.0.sim.call_at(Group::RUN, self.0.sim.now() + 1, move || disk.end(id, result));
        }
        let Some(mut flight) = self.0.flights.borrow_mut().remove(&id) else { return };
        let moved = result.map(|_| flight.moved * self.0.sector.bytes());
        if flight.facts.op == Op::Read && moved.is_ok() {
            if !flight.seen.is_empty() {
                self.read_piece(&mut flight);
            }
            self.spoil(&mut flight);
            let (facts, damaged) = (flight.facts, std::mem::take(&mut flight.damaged));
            self.tell(|w| w.read(&facts, flight.started.buf(), &damaged));
        }
        self.tell(|w| w.over(&flight.facts, if moved.is_ok() { "done" } else { "failed" }));
        flight.started.complete(moved);
    }

    /// Sectors of an I/O that exist: the device may end before it.
    fn on_device(&self, facts: &Facts) -> usize {
        let len: usize = self.0.pieces.borrow().iter().map(|p| p.len()).sum();
        let from = usize::try_from(facts.at).unwrap_or(usize::MAX).min(len);
        facts.len.min(len - from) / self.0.sector.bytes()
    }
}

/// Spreads the sectors of an I/O over its parts.
fn part_of(sector: usize, salt: u64, parts: usize) -> usize {
    if parts == 1 {
        return 0;
    }
    let hash = (sector as u64 ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    usize::try_from(hash % parts as u64).unwrap_or(0)
}

/// A disk as one process reaches it. Clones share nothing but the disk; each [`holdfast_io::device::Device`] over one
/// has its own table of I/O in flight.
#[derive(Clone)]
pub struct SimEngine {
    disk: SimDisk,
    writer: Writer,
    description: u64,
    group: Group,
    clock: SimClock,
    /// What closes the description when nobody has it any more.
    _file: Option<Rc<dyn Any>>,
}

impl SimEngine {
    /// As the threads of a real engine do, it keeps its file open: through one node goes one description, which has its fences.
    #[must_use]
    pub fn keeping_open(self, file: Rc<dyn Any>) -> Self {
        SimEngine { _file: Some(file), ..self }
    }

    /// The disk.
    #[must_use]
    pub const fn disk(&self) -> &SimDisk {
        &self.disk
    }
}

impl Engine for SimEngine {
    fn path(&self) -> &Arc<str> {
        &self.disk.0.path
    }

    fn submit(&self, io: Io) {
        let medium = &self.disk.0;
        let (low, high) = (Duration::from_secs(1), Duration::from_secs(120));
        let mut dice = medium.dice.borrow_mut();
        let long = dice.chance(medium.rates.get().queued);
        let queued = if long { dice.skewed(low, high) } else { Duration::from_micros(dice.below(100)) };
        drop(dice);
        if long {
            self.disk.tell(|w| w.fault(self.writer.host, Fault::Queued));
        }
        let (engine, issued) = (self.clone(), medium.sim.now());
        // In the process's group: a frozen process takes up no I/O, a dead one never does.
        medium.sim.call_after(self.group, queued, move || engine.disk.begin(io, &engine, issued));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::{ClockRate, Ended};
    use holdfast_io::clock::LocalInstant;
    use holdfast_io::device::{Device, WriteLimit};
    use holdfast_io::disk::{Disk, IoErrorKind, ReadDisk};
    use holdfast_io::sys::aligned::AlignedBuf;

    const RATE: ClockRate = ClockRate { true_at: 0, host_at: 0, ppm: 0 };
    const S: u64 = 1_000_000_000;

    struct Rig {
        sim: Sim,
        disk: SimDisk,
        group: Group,
        device: Rc<Device<SimEngine, SimClock>>,
    }

    fn rig(seed: u64) -> Rig {
        let sim = Sim::new(seed);
        let disk = SimDisk::new(&sim, "disk", SectorSize::B512, &[0; 8192]);
        let group = sim.new_group();
        let clock = SimClock::new(&sim, RATE);
        let writer = Writer { host: HostIndex(0), boot: 1, process: 1, host_id: HostId::new(1).unwrap() };
        let device = Device::new(disk.engine(writer, 7, group, clock.clone()), clock, WriteLimit::none());
        Rig { sim, disk, group, device: Rc::new(device) }
    }

    /// Writes `sectors` sectors of `byte` at 0 with a deadline 10 s from the start of the run; how it ended.
    fn write(rig: &Rig, byte: u8, sectors: usize) -> Rc<RefCell<Option<Result<(), IoErrorKind>>>> {
        let end = Rc::new(RefCell::new(None));
        let (device, result) = (Rc::clone(&rig.device), Rc::clone(&end));
        rig.sim.spawn(rig.group, "writer", async move {
            let data = AlignedBuf::from_slice(&vec![byte; sectors * 512]);
            let written = device.write(0, data, LocalInstant::from_nanos(10 * S)).await;
            *result.borrow_mut() = Some(written.map_err(|e| e.kind));
        });
        end
    }

    #[test]
    fn a_write_past_its_deadline_may_land_later() {
        let rig = rig(1);
        rig.disk.set_script(|_| Some(Fate::Held));
        let end = write(&rig, 7, 1);
        rig.sim.run_until(20 * S);
        assert_eq!(end.take(), Some(Err(IoErrorKind::OutcomeUnknown)));
        assert_eq!(rig.disk.bytes(0..1), [0]);
        assert_eq!(rig.disk.release(|_| true), 1);
        rig.sim.run_until(21 * S);
        assert_eq!(rig.disk.bytes(0..1), [7]);
        assert_eq!(rig.device.writes_in_flight(), 0);
    }

    #[test]
    fn a_write_lands_after_its_process_died_but_not_after_its_host_was_reset() {
        for reset in [false, true] {
            let rig = rig(1);
            rig.disk.set_script(|_| Some(Fate::Held));
            let _end = write(&rig, 7, 1);
            rig.sim.run_until(S);
            rig.sim.kill(rig.group);
            if reset {
                rig.disk.host_reset(HostIndex(0));
            }
            rig.disk.release(|_| true);
            rig.sim.run_until(2 * S);
            assert_eq!(rig.disk.bytes(0..1), [if reset { 0 } else { 7 }]);
        }
    }

    #[test]
    fn a_frozen_process_takes_up_no_io_and_a_late_one_is_not_issued() {
        let rig = rig(1);
        rig.disk.set_script(|_| Some(Fate::Done(Duration::from_millis(1))));
        let end = write(&rig, 7, 1);
        rig.sim.freeze(rig.group);
        rig.sim.run_until(30 * S);
        assert!(rig.disk.in_flight(|_| true).is_empty());
        rig.sim.thaw(rig.group);
        rig.sim.run_until(31 * S);
        assert_eq!(end.take(), Some(Err(IoErrorKind::NotIssued)));
        assert_eq!(rig.disk.bytes(0..1), [0]);
    }

    #[test]
    fn a_failed_write_of_several_sectors_lands_in_part_and_never_inside_one() {
        let (mut whole, mut torn) = (0, 0);
        for seed in 0..200 {
            let rig = rig(seed);
            let rates = FaultRates { error: 1000, ..FaultRates::NONE };
            rig.disk.set_rates(rates);
            let end = write(&rig, 7, 16);
            rig.sim.run_until(9 * S);
            assert_eq!(end.take(), Some(Err(IoErrorKind::Failed(Errno::EIO))));
            let bytes = rig.disk.bytes(0..8192);
            assert!(bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0])), "tore inside a sector");
            let landed = bytes.chunks(512).filter(|s| s[0] == 7).count();
            whole += usize::from(landed == 16);
            torn += usize::from(landed > 0 && landed < 16);
        }
        assert!(whole > 20 && torn > 20, "{whole} {torn}");
    }

    #[test]
    fn a_lost_path_hangs_or_fails_and_comes_back() {
        let rig = rig(4);
        rig.disk.lose_path(HostIndex(0), PathLoss::Hangs);
        let end = write(&rig, 7, 1);
        rig.sim.run_until(5 * S);
        assert_eq!(*end.borrow(), None);
        rig.disk.restore_path(HostIndex(0));
        rig.sim.run_until(6 * S);
        assert_eq!(end.take(), Some(Ok(())));
        rig.disk.lose_path(HostIndex(0), PathLoss::Fails);
        let end = write(&rig, 8, 1);
        rig.sim.run_until(7 * S);
        assert_eq!(end.take(), Some(Err(IoErrorKind::Failed(Errno::EIO))));
    }

    #[test]
    fn a_read_past_the_end_of_the_disk_is_short() {
        let rig = rig(5);
        let device = Rc::clone(&rig.device);
        let seen = Rc::new(RefCell::new(None));
        let result = Rc::clone(&seen);
        rig.sim.spawn(rig.group, "reader", async move {
            let read = device.read(4096, 8192, LocalInstant::from_nanos(10 * S)).await;
            *result.borrow_mut() = Some(read.map(drop).map_err(|e| e.kind));
        });
        assert_eq!(rig.sim.run_until(11 * S), Ended::Idle);
        assert_eq!(seen.take(), Some(Err(IoErrorKind::Short { found: 4096 })));
    }

    #[test]
    fn a_lock_is_held_until_its_description_is_closed_and_its_last_write_is_over() {
        let rig = rig(6);
        rig.disk.set_script(|_| Some(Fate::Held));
        let (host, range) = (HostIndex(0), 0..512);
        assert!(rig.disk.try_lock(host, 7, range.clone()));
        let _end = write(&rig, 7, 1);
        rig.sim.run_until(S);
        assert!(!rig.disk.try_lock(host, 8, 0..4096), "held by a living process");
        assert!(rig.disk.try_lock(HostIndex(1), 9, range.clone()), "another host's kernel knows nothing of it");
        rig.sim.kill(rig.group);
        rig.disk.close(7);
        assert!(!rig.disk.try_lock(host, 8, range.clone()), "its write is still in flight");
        rig.disk.release(|_| true);
        rig.sim.run_until(2 * S);
        assert!(rig.disk.try_lock(host, 8, range));
    }

    #[test]
    fn a_read_of_a_whole_piece_shows_each_sector_at_its_own_instant() {
        let sim = Sim::new(1);
        let disk = SimDisk::new(&sim, "disk", SectorSize::B512, &vec![0; PIECE]);
        let (group, clock) = (sim.new_group(), SimClock::new(&sim, RATE));
        let writer = Writer { host: HostIndex(0), boot: 1, process: 1, host_id: HostId::new(1).unwrap() };
        let device = Rc::new(Device::new(disk.engine(writer, 0, group, clock.clone()), clock, WriteLimit::none()));
        let mut mixed = 0;
        for byte in 1..=100u8 {
            let (reader, seen) = (Rc::clone(&device), Rc::new(RefCell::new(None)));
            let (writer, result) = (Rc::clone(&device), Rc::clone(&seen));
            let deadline = LocalInstant::NEVER;
            sim.spawn(group, "reader", async move {
                *result.borrow_mut() = reader.read(0, PIECE, deadline).await.ok();
            });
            sim.spawn(group, "writer", async move {
                let _ = writer.write(0, AlignedBuf::from_slice(&[byte; 32 * 512]), deadline).await;
            });
            sim.run_until(sim.now() + S);
            let bytes = seen.take().unwrap();
            let firsts: Vec<u8> = bytes[..32 * 512].chunks(512).map(|s| s[0]).collect();
            assert!(firsts.iter().all(|b| *b == byte || *b == byte - 1), "{firsts:?}");
            mixed += usize::from(firsts.contains(&byte) && firsts.contains(&(byte - 1)));
        }
        assert!(mixed > 5, "{mixed}");
    }

    #[test]
    fn damage_is_read_until_the_sector_is_written_anew() {
        let rig = rig(1);
        let read = |rig: &Rig| {
            let (device, seen) = (Rc::clone(&rig.device), Rc::new(RefCell::new(None)));
            let result = Rc::clone(&seen);
            rig.sim.spawn(rig.group, "reader", async move {
                *result.borrow_mut() = device.read(0, 512, LocalInstant::NEVER).await.ok();
            });
            rig.sim.run_until(rig.sim.now() + S);
            seen.take().unwrap()[3]
        };
        rig.disk.damage(0, 3, 0x10);
        assert_eq!((read(&rig), rig.disk.bytes(3..4)), (0x10, vec![0]));
        let _end = write(&rig, 7, 1);
        rig.sim.run_until(rig.sim.now() + S);
        assert_eq!(read(&rig), 7);
    }
}
