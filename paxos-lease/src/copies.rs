//! A lease on several disks: 2 to 4 copies of its area, of which a majority is enough (spec D 4.12, and beyond it).
//!
//! [`Copies`] is a [`Disk`] itself: what reads and writes a lease does so as on one disk, in the addresses of the first.
//! - **A write** goes to all copies and counts once a majority has it. The others get it too, if they can: it is *not over* with
//!   the answer, and may land there at any later time. I6 holds on each disk by itself.
//! - **A read** asks all, and needs a majority. What they say together stands in `merge.rs`. A sector is no atomic register
//!   any more: what one read has seen of a write that does not count yet, the next may not see. The rules of this crate bear that,
//!   since they conclude only from what is final once true; Disk Paxos itself asks for no more of its disks.
//! - **A copy** is what was formatted as one: the same UUID, lockspace and sizes as the others, by its own word one of as many. An
//!   area that does not say so is none, sanlock's above all: several of those may be named as one lease, and others by
//!   another host. A disk that was replaced holds none, and is never written to. One that was away for a while is a copy, and older than the others.
//!   It counts all the same: what was written meanwhile is on a majority, of which every other majority has a part. We
//!   bring our own sector and the leader record up to date by writing them, as always; not the sectors of others, for
//!   they may be writing them at this moment, and an old block of ours over a new one of theirs would be the end of I2.
//! - **Nobody waits for the slow**: once a majority has answered the others get [`PATIENCE`]; whoever exceeds it is waited for again
//!   once it has answered in time, or once in every `CHANCE` I/Os.
//! - **A disk that fails** is written to all the same, but not read before it was looked at anew.
//! - **What a slow disk has missed of our own sector** it gets once what was on its way there is over ([`Copies::catch_up`]): a write that
//!   waits for an older one (I6) ends with whoever waits for it, and the loss of another disk would make the older one count.
//! - **Our own sector** has a stamp (`stamp.rs`), from which everybody sees which of its copies is the latest.
//! - **No sector of another host's is written** on several disks, not even under I1's exception: such a write could land on
//!   one of them long after the lease was given back, on what the host's next generation has written.
//!
//! The single disk is the case of one copy, in which nothing of all this happens.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_io::bytes::array_at;
use holdfast_io::clock::{Clock, LocalInstant, first_of};
use holdfast_io::disk::{Disk, IoError, IoErrorKind, Op, ReadDisk};
use holdfast_io::ids::{HostTerm, Lver};
use holdfast_io::planted::{Bug, planted};
use holdfast_io::seal::{self, AreaUuid, SealedKind};
use holdfast_io::sys::aligned::AlignedBuf;
use holdfast_io::units::{LeaseOffset, SectorIndex};
use tracing::warn;

use crate::dblock::Dblock;
use crate::layout::{FIRST_DBLOCK, dblock_of};

mod merge;
mod place;
mod remarks;
mod stamp;

pub use place::{MOST, Place};

use merge::{Found, Merged, Own, Shape, classify, merge, newest};
use remarks::carry_passed_over;
pub(crate) use remarks::{Slot, Tag, ValueRemarks, is_passed_over, pass_over};
pub(crate) use stamp::is_of_another_lockspace;
use stamp::{Lockspace, Stamp};

/// How long the slower disks are waited for once a majority has answered.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// How many I/Os a disk that was late once is not waited for, before it is again.
const CHANCE: u32 = 8;

/// One copy: a disk, and where on it.
pub struct Copy<D> {
    /// The disk.
    pub disk: D,
    /// Where the area begins.
    pub at: LeaseOffset,
}

/// The copies of a lease.
pub struct Copies<D, C> {
    list: Vec<Copy<D>>,
    path: Arc<str>,
    clock: C,
    me: Option<HostTerm>,
    lockspace: Option<Lockspace>,
    state: RefCell<State>,
}

struct State {
    shape: Option<Shape>,
    standing: Vec<Standing>,
    /// For so many I/Os it has not answered in time; 0: it did when it was asked last.
    late: Vec<u32>,
    /// Our own sector as we wrote it last, whatever became of it.
    own: Option<OwnSector>,
    /// What the next of our writes of it is to say of the value, if that is another thing than the last one.
    value: Option<ValueRemarks>,
    /// The value that the lease is to have from our RELEASED of this version on.
    next: Option<(Lver, Tag)>,
    /// Each disk of which we do not know that it has `own` as we wrote it last.
    behind: Vec<bool>,
    /// The latest of our own stamps that was written, or seen on any disk: the next is greater.
    last: Stamp,
    /// Slots to which writes of this generation may be on their way that were begun before these disks were opened as they are.
    earlier: u64,
}

/// Our own sector as we wrote it last, or found it at first.
struct OwnSector {
    bytes: Vec<u8>,
    /// It is on a majority.
    counts: bool,
}

/// What is known of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing yet.
    Unknown,
    /// It is one.
    Copy,
    /// It was one when it answered last, and nothing else has been found there since. It is written, so that it misses nothing if it is
    /// still there, and read no more before all of it has been looked at again.
    Failed,
    /// It is none.
    None(String),
}

/// How one of the disks stands, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// It was not read yet, or did not answer.
    Unknown,
    /// It is used.
    Member,
    /// It is a copy that did not answer in time when it was asked last.
    Late,
    /// It was a copy, and has failed.
    Failed,
    /// What stands there is none, and why.
    None(String),
}

type Answer = Result<AlignedBuf, IoError>;

impl<D: Disk, C: Clock> Copies<D, C> {
    /// The copies of a lease as `me` uses them, in a lockspace with this UUID: the same disks for every host. `None`: to be read
    /// only.
    ///
    /// # Panics
    /// Without any, or with more than [`MOST`].
    #[must_use]
    pub fn new(list: Vec<Copy<D>>, clock: C, me: Option<(HostTerm, AreaUuid)>) -> Self {
        assert!((1..=MOST).contains(&list.len()), "1 to {MOST} copies");
        let names: Vec<&str> = list.iter().map(|copy| &**copy.disk.path()).collect();
        let path = Arc::from(names.join(" + "));
        let (standing, late) = (vec![Standing::Unknown; list.len()], vec![0; list.len()]);
        let behind = vec![false; list.len()];
        let (own, value, next, last) = (None, None, None, Stamp::default());
        let state = State { shape: None, standing, late, own, value, next, behind, last, earlier: 0 };
        let (me, lockspace) = me.map(|(me, lockspace)| (me, Lockspace::of(lockspace))).unzip();
        Copies { list, path, clock, me, lockspace, state: RefCell::new(state) }
    }

    /// Each of them.
    #[must_use]
    pub fn list(&self) -> &[Copy<D>] {
        &self.list
    }

    /// How each of them stands.
    #[must_use]
    pub fn states(&self) -> Vec<CopyState> {
        let state = self.state.borrow();
        let each = state.standing.iter().zip(&state.late).map(|(standing, late)| match standing {
            Standing::Unknown => CopyState::Unknown,
            Standing::Copy | Standing::Failed if *late > 0 => CopyState::Late,
            Standing::Copy => CopyState::Member,
            Standing::Failed => CopyState::Failed,
            Standing::None(why) => CopyState::None(why.clone()),
        });
        each.collect()
    }

    /// More than half of them.
    fn majority(&self) -> usize {
        if planted(Bug::MinorityCounts) { 1 } else { self.list.len() / 2 + 1 }
    }

    /// The byte offset in the area of an address on the first disk.
    fn in_area(&self, op: Op, at: u64, len: usize) -> Result<u64, IoError> {
        at.checked_sub(self.list[0].at.0).ok_or_else(|| self.too_few(op, at, len, 0))
    }

    fn too_few(&self, op: Op, at: u64, len: usize, done: usize) -> IoError {
        let kind = IoErrorKind::Minority { done, disks: self.list.len() };
        IoError { path: Arc::clone(&self.path), op, offset: at, len, kind }
    }

    /// Reads from those copies of which `asks` holds, and remembers who was late.
    async fn read_from(
        &self,
        area_offset: u64,
        len: usize,
        deadline: LocalInstant,
        asks: impl Fn(&Standing) -> bool,
        enough: impl Fn(&[Option<Answer>]) -> bool,
    ) -> Vec<Option<Answer>> {
        let asked: Vec<bool> = self.state.borrow().standing.iter().map(asks).collect();
        let reads = self.list.iter().zip(&asked).map(|(copy, asked)| {
            let read = || Box::pin(copy.disk.read(copy.at.0 + area_offset, len, deadline)) as Pending<'_, Answer>;
            asked.then(read)
        });
        let answers = self.gather(reads.collect(), enough).await;
        self.note(&asked, &answers, Op::Read);
        answers
    }

    /// Runs I/Os side by side until there is no use in waiting any longer.
    async fn gather<T>(
        &self,
        ios: Vec<Option<Pending<'_, T>>>,
        enough: impl Fn(&[Option<T>]) -> bool,
    ) -> Vec<Option<T>> {
        let mut gathered = Gathered { results: ios.iter().map(|_| None).collect(), ios };
        poll_fn(|cx| {
            let moved = gathered.poll(cx);
            if gathered.all_over() || (moved && enough(&gathered.results)) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        // Late for good only as long as each further chance is missed, too: it may have been slow once.
        let late: Vec<bool> = self.state.borrow().late.iter().map(|n| *n > 0 && n % CHANCE != 0).collect();
        if gathered.waits_for_prompt(&late) {
            let prompt = poll_fn(|cx| {
                gathered.poll(cx);
                if gathered.waits_for_prompt(&late) { Poll::Pending } else { Poll::Ready(()) }
            });
            first_of(prompt, self.clock.sleep(PATIENCE)).await;
        }
        gathered.results
    }

    /// Who answered, and who did not.
    fn note<T>(&self, asked: &[bool], answers: &[Option<Result<T, IoError>>], op: Op) {
        let mut state = self.state.borrow_mut();
        for (i, answer) in answers.iter().enumerate().filter(|(i, _)| asked[*i]) {
            let was = state.late[i] > 0;
            state.late[i] = if answer.is_none() { state.late[i].saturating_add(1) } else { 0 };
            match answer {
                Some(Err(error)) => {
                    warn!(disk = %self.list[i].disk.path(), %error, "a disk of several failed");
                    if state.standing[i] == Standing::Copy {
                        state.standing[i] = Standing::Failed;
                    }
                }
                None if !was => {
                    warn!(disk = %self.list[i].disk.path(), %op, "a disk of several is slow: not waited for")
                }
                _ => {}
            }
        }
    }

    /// A read from the beginning of the area on: what the copies are is found out anew.
    async fn read_beginning(&self, at: u64, len: usize, deadline: LocalInstant) -> Answer {
        let known = self.state.borrow().shape;
        // The leader record alone of copies that are known.
        if known.is_some_and(|shape| len < shape.geometry.area_len()) {
            let shape = self.shape(deadline).await?;
            return self.read_known(&shape, at, len, deadline).await;
        }
        self.read_whole(at, len, deadline).await
    }

    async fn read_whole(&self, at: u64, len: usize, deadline: LocalInstant) -> Answer {
        let enough = |answers: &[Option<Answer>]| self.agreed(answers).is_some_and(|found| found.complete);
        let answers = self.read_from(0, len, deadline, |_| true, enough).await;
        match self.agreed(&answers) {
            Some(found) => {
                self.learn(&found);
                if found.shape.is_some_and(|shape| self.is_superseded(&shape, &found.bytes)) {
                    warn!(disks = %self.path, "our own sector is of a later generation of ours: was the lockspace made anew, and this lease not?");
                    return Err(self.too_few(Op::Read, at, len, 0));
                }
                Ok(found.bytes)
            }
            None => Err(self.why_not(&answers, at, len)),
        }
    }

    /// What a majority of the copies are, if they agree.
    fn agreed(&self, answers: &[Option<Answer>]) -> Option<Beginning> {
        let found: Vec<Option<Found>> =
            answers.iter().map(|a| a.as_ref().and_then(|a| a.as_ref().ok()).map(|bytes| classify(bytes))).collect();
        let bytes = |i: usize| answers[i].as_ref().and_then(|a| a.as_ref().ok());
        for kind in found.iter().flatten().filter(|kind| !matches!(kind, Found::Alone(_))) {
            let standing: Vec<Standing> = (0..found.len()).map(|i| self.standing_of(i, kind, &found)).collect();
            let members: Vec<&AlignedBuf> =
                (0..found.len()).filter(|i| standing[*i] == Standing::Copy).filter_map(bytes).collect();
            if members.len() < self.majority() {
                continue;
            }
            return Some(match kind {
                Found::Lease(shape, _) => {
                    self.note_stamps(shape, SectorIndex(0), &members);
                    let Merged { bytes, complete } = self.merged(shape, SectorIndex(0), &members);
                    Beginning { shape: Some(*shape), standing, bytes, complete }
                }
                _ => Beginning { shape: None, standing, bytes: newest(&members)?.clone(), complete: true },
            });
        }
        None
    }

    /// Whether copy `i` is what `kind` is.
    fn standing_of(&self, i: usize, kind: &Found, found: &[Option<Found>]) -> Standing {
        let Some(its) = &found[i] else { return Standing::Unknown };
        match (kind, its) {
            (Found::Lease(shape, _), Found::Lease(other, place)) => {
                let copies = u8::try_from(self.list.len()).unwrap_or(u8::MAX);
                let named = |f: &Found| *f == Found::Lease(*shape, *place);
                if place.copies != copies {
                    Standing::None(format!("it is one of {} copies, not of {copies}", place.copies))
                } else if shape != other {
                    Standing::None(format!("it is another lease: {other:?}, expected {shape:?}"))
                } else if found[..i].iter().flatten().any(named) {
                    Standing::None(format!("copy {} is named twice", place.copy))
                } else {
                    Standing::Copy
                }
            }
            (_, Found::Alone(why)) => Standing::None((*why).to_owned()),
            (Found::Damaged(_), Found::Damaged(_)) => Standing::Copy,
            (a, b) if a == b => Standing::Copy,
            (_, other) => Standing::None(format!("it is none: {other:?}")),
        }
    }

    fn learn(&self, found: &Beginning) {
        let mut state = self.state.borrow_mut();
        for (i, standing) in found.standing.iter().enumerate() {
            if let (Standing::None(why), false) = (standing, state.standing[i] == *standing) {
                warn!(disk = %self.list[i].disk.path(), offset = self.list[i].at.0, why, "not a copy of this lease: not used");
            }
        }
        let Some(shape) = found.shape else { return };
        // Whoever did not answer this time is what it was, if it was a copy of this very lease.
        let before = state.shape.replace(shape);
        let same = before == Some(shape);
        if !same && before.is_some() {
            // Formatted anew: what we said there was of another lease.
            (state.own, state.value, state.next) = (None, None, None);
            state.behind.fill(false);
        }
        for (stands, found) in state.standing.iter_mut().zip(&found.standing) {
            let was = matches!(stands, Standing::Copy | Standing::Failed);
            *stands = match found {
                Standing::Unknown if same && was => Standing::Failed,
                found => found.clone(),
            };
        }
    }

    /// Why a majority does not agree: an area that is no copy by its own word, the first failure, or that there is none.
    fn why_not(&self, answers: &[Option<Answer>], at: u64, len: usize) -> IoError {
        let alone = |(copy, answer): (&Copy<D>, &Option<Answer>)| {
            let Found::Alone(why) = classify(answer.as_ref()?.as_ref().ok()?) else { return None };
            let (path, kind) = (Arc::clone(copy.disk.path()), IoErrorKind::NoCopy(why));
            Some(IoError { path, op: Op::Read, offset: copy.at.0, len, kind })
        };
        let no_copy = self.list.iter().zip(answers).filter(|_| at == self.list[0].at.0).find_map(alone);
        let done = answers.iter().flatten().filter(|a| a.is_ok()).count();
        let failed = answers.iter().flatten().find_map(|a| a.as_ref().err()).cloned();
        // One that ends too early tells its reader to ask for less.
        let short = |e: &&IoError| matches!(e.kind, IoErrorKind::Short { .. });
        let short = answers.iter().flatten().filter_map(|a| a.as_ref().err()).find(short).cloned();
        let failed = failed.filter(|_| done < self.majority());
        short.or(no_copy).or(failed).unwrap_or_else(|| self.too_few(Op::Read, at, len, done))
    }

    fn merged(&self, shape: &Shape, from: SectorIndex, copies: &[&AlignedBuf]) -> Merged {
        let state = self.state.borrow();
        let own = state.own.as_ref();
        let written = own.map(|own| own.bytes.as_slice());
        let own = Own { me: self.me, lockspace: self.lockspace, written, counts: own.is_some_and(|own| own.counts) };
        merge(shape, from, copies, self.majority(), own)
    }

    /// Sectors of copies that are known to be some.
    async fn read_known(&self, shape: &Shape, at: u64, len: usize, deadline: LocalInstant) -> Answer {
        let size = shape.geometry.sector().bytes() as u64;
        let offset = self.in_area(Op::Read, at, len)?;
        let from = SectorIndex(u32::try_from(offset / size).unwrap_or(u32::MAX));
        let read = |answers: &[Option<Answer>]| {
            let good: Vec<&AlignedBuf> = answers.iter().flatten().filter_map(|a| a.as_ref().ok()).collect();
            self.note_stamps(shape, from, &good);
            (good.len() >= self.majority()).then(|| self.merged(shape, from, &good))
        };
        let enough = |answers: &[Option<Answer>]| read(answers).is_some_and(|m| m.complete);
        let member = |standing: &Standing| *standing == Standing::Copy;
        let answers = self.read_from(offset, len, deadline, member, enough).await;
        read(&answers).map(|merged| merged.bytes).ok_or_else(|| self.why_not(&answers, at, len))
    }

    /// What the copies have in common, read anew if it is not known, or if too few of them are known to be any.
    async fn shape(&self, deadline: LocalInstant) -> Result<Shape, IoError> {
        let (known, members) = {
            let state = self.state.borrow();
            (state.shape, state.standing.iter().filter(|s| **s == Standing::Copy).count())
        };
        if let Some(shape) = known.filter(|_| members >= self.majority()) {
            return Ok(shape);
        }
        let at = self.list[0].at.0;
        let len = match known {
            Some(shape) => shape.geometry.area_len(),
            None => match classify(&self.read_whole(at, 4096, deadline).await?) {
                Found::Longer(geometry) => geometry.area_len(),
                _ => return Err(self.too_few(Op::Read, at, 4096, 0)),
            },
        };
        self.find_shape(known, at, len, deadline).await
    }

    /// Looks at all of it again, if one of the disks is not used: it may be well by now, or there at last. What it says then counts like
    /// what any disk says that was away for a while.
    ///
    /// # Errors
    /// Nothing new is known.
    pub async fn look_again(&self, deadline: LocalInstant) -> Result<(), IoError> {
        let (known, all) = {
            let state = self.state.borrow();
            (state.shape, state.standing.iter().all(|standing| *standing == Standing::Copy))
        };
        let Some(shape) = known.filter(|_| !all) else { return Ok(()) };
        let (at, len) = (self.list[0].at.0, shape.geometry.area_len());
        self.find_shape(known, at, len, deadline).await.map(drop)
    }

    /// Reads all of it, which is to be what it was before, if that is known.
    async fn find_shape(
        &self,
        known: Option<Shape>,
        at: u64,
        len: usize,
        deadline: LocalInstant,
    ) -> Result<Shape, IoError> {
        self.read_whole(at, len, deadline).await?;
        // Whoever asks works on the lease that was there: one that was formatted since is found by the next acquire.
        let now = self.state.borrow().shape;
        match (known, now) {
            (Some(known), Some(now)) if known != now => {
                let mut state = self.state.borrow_mut();
                // And what was found of each disk is said of the other lease.
                (state.shape, state.standing) = (Some(known), vec![Standing::Unknown; self.list.len()]);
                Err(self.too_few(Op::Read, at, len, 0))
            }
            (_, Some(now)) => Ok(now),
            (_, None) => Err(self.too_few(Op::Read, at, len, 0)),
        }
    }

    /// Writes our own sector, as we wrote it last, to each disk that may not have it, and on which nothing of ours is on its way. Nobody waits
    /// longer than [`PATIENCE`]: what is begun then goes on, and what a disk has missed is written the next time.
    ///
    /// The caller sees to it that nothing else of its own works on the lease meanwhile, so what is written is the latest (I2): it is
    /// issued at the first poll of this future, behind nothing (I6), and whatever is written later waits for it. It says what
    /// the other disks have been told already, so a crash, a hang or a late landing leaves one more disk that says it, or not. D2 holds as
    /// for every write: the disk refuses it by itself.
    pub async fn catch_up(&self, deadline: LocalInstant) {
        let Some((at, bytes)) = self.own_sector() else { return };
        let idle = |i: &usize| poll_once(self.list[*i].disk.reaped());
        let due: Vec<usize> = self.behind().into_iter().filter(idle).collect();
        let written = RefCell::new(Vec::new());
        let write = |i: usize| {
            let (copy, bytes, written) = (&self.list[i], bytes.clone(), &written);
            Some(Box::pin(async move {
                if copy.disk.write(copy.at.0 + at, bytes, deadline).await.is_ok() {
                    written.borrow_mut().push(i);
                }
            }) as Pending<'_, ()>)
        };
        let mut gathered = Gathered { results: vec![None; due.len()], ios: due.iter().map(|i| write(*i)).collect() };
        let all = poll_fn(|cx| {
            gathered.poll(cx);
            if gathered.all_over() { Poll::Ready(()) } else { Poll::Pending }
        });
        first_of(all, self.clock.sleep(PATIENCE)).await;
        let mut state = self.state.borrow_mut();
        written.borrow().iter().for_each(|i| state.behind[*i] = false);
    }

    /// The copies that may not have our own sector as we wrote it last.
    fn behind(&self) -> Vec<usize> {
        let state = self.state.borrow();
        let is_copy = |i: &usize| matches!(state.standing[*i], Standing::Copy | Standing::Failed);
        (0..self.list.len()).filter(|i| state.behind[*i]).filter(is_copy).collect()
    }

    /// Our own sector as we wrote it last, and where in the area it stands.
    fn own_sector(&self) -> Option<(u64, AlignedBuf)> {
        let (state, me) = (self.state.borrow(), self.me?);
        let (shape, own) = (state.shape?, state.own.as_ref()?);
        let mut bytes = AlignedBuf::zeroed(own.bytes.len());
        bytes.copy_from_slice(&own.bytes);
        Some((dblock_of(me.host_id).at(shape.geometry.sector()) as u64, bytes))
    }

    /// Our own sector gets its stamp; it is what we wrote last from now on, whatever becomes of it.
    ///
    /// `None`: it is another host's (I1), or not sealed, and is not written.
    fn stamped(&self, shape: &Shape, index: SectorIndex, mut sector: AlignedBuf) -> Option<AlignedBuf> {
        let me = self.me?;
        let own = dblock_of(me.host_id);
        let of_a_host = index >= FIRST_DBLOCK && index.0 < FIRST_DBLOCK.0 + shape.geometry.max_hosts();
        if index != own {
            return (!of_a_host).then_some(sector);
        }
        let seal = seal::read(&sector, SealedKind::Dblock, index).ok()??;
        let mut state = self.state.borrow_mut();
        let stamp = state.last.next(self.lockspace?, me.generation);
        stamp.put_into(&mut sector);
        let mut said = state.value.take().unwrap_or_else(|| self.said_of_value(&state));
        let dblock = Dblock::parse(&array_at(&sector, 0));
        if let Some(next) = state.next.take_if(|(lver, _)| dblock.is_released() && *lver == dblock.lver) {
            said.settled = Some(next);
        }
        said.put_into(&mut sector);
        if let Some(before) = &state.own {
            carry_passed_over(&before.bytes, &mut sector);
        }
        seal::write(&mut sector, SealedKind::Dblock, &seal);
        state.last = stamp;
        state.own = Some(OwnSector { bytes: sector.to_vec(), counts: false });
        state.behind.fill(true);
        Some(sector)
    }

    /// What our own sector says of the value as we wrote it last, or found it. An earlier generation of ours has nothing on its way any
    /// more (P1).
    fn said_of_value(&self, state: &State) -> ValueRemarks {
        let Some(own) = state.own.as_ref().map(|own| own.bytes.as_slice()) else { return ValueRemarks::default() };
        let mut said = ValueRemarks::of_sealed(own);
        if self.me.is_some_and(|me| Stamp::of_sealed(own).generation != me.generation) {
            said.only(0);
        }
        said
    }

    /// What the next write of our own sector is to say of the value: to be changed, and handed to [`Copies::say_of_value`].
    pub(crate) fn value_remarks(&self) -> ValueRemarks {
        let mut state = self.state.borrow_mut();
        let mut said = state.value.unwrap_or_else(|| self.said_of_value(&state));
        if self.list.iter().all(|copy| poll_once(copy.disk.reaped())) {
            // A disk that cannot be used now may have been open before, with a write on its way.
            if state.standing.iter().all(|standing| *standing == Standing::Copy) {
                state.earlier = 0;
            }
            said.only(state.earlier);
        }
        said
    }

    /// The next write of our own sector says this of the value; and that which says RELEASED at the version of `next`, that this is the
    /// lease's.
    pub(crate) fn say_of_value(&self, said: ValueRemarks, next: Option<(Lver, Tag)>) {
        let mut state = self.state.borrow_mut();
        (state.value, state.next) = (Some(said), next);
    }

    /// Reads a sector of which each copy is good by itself that `is_good`; `None`: none of a majority is.
    pub(crate) async fn read_good(
        &self,
        at: u64,
        len: usize,
        deadline: LocalInstant,
        is_good: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<AlignedBuf>, IoError> {
        self.shape(deadline).await?;
        let offset = self.in_area(Op::Read, at, len)?;
        let read = |answers: &[Option<Answer>]| {
            let good = |answer: &&AlignedBuf| is_good(answer);
            answers.iter().flatten().flatten().find(good).cloned()
        };
        let member = |standing: &Standing| *standing == Standing::Copy;
        let answers = self.read_from(offset, len, deadline, member, |answers| read(answers).is_some()).await;
        let answered = answers.iter().flatten().filter(|answer| answer.is_ok()).count();
        match read(&answers) {
            None if answered < self.majority() => Err(self.why_not(&answers, at, len)),
            found => Ok(found),
        }
    }

    /// Our own sector in sectors that were read from `from` on.
    fn own_in<'b>(&self, shape: &Shape, from: SectorIndex, bytes: &'b [u8]) -> Option<(Stamp, &'b [u8])> {
        let (size, own) = (shape.geometry.sector(), dblock_of(self.me?.host_id));
        let begin = SectorIndex(own.0.checked_sub(from.0)?).at(size);
        let sector = bytes.get(begin..begin + size.bytes())?;
        let sealed = seal::read(sector, SealedKind::Dblock, own).ok()??;
        (sealed.area == shape.uuid).then(|| (Stamp::of_sealed(sector), sector))
    }

    /// What stands of ours on any disk: a write that did not count, before this was opened anew, has used its stamp up.
    fn note_stamps(&self, shape: &Shape, from: SectorIndex, copies: &[&AlignedBuf]) {
        let found = copies.iter().filter_map(|bytes| self.own_in(shape, from, bytes)).map(|(stamp, _)| stamp);
        let mut state = self.state.borrow_mut();
        let last = std::iter::once(state.last).chain(found).max_by_key(|stamp| stamp.rank(self.lockspace));
        state.last = last.unwrap_or_default();
    }

    /// Takes our own sector as it was found for what we wrote last, if we have written nothing yet. Whether it is of a later
    /// generation than ours.
    fn is_superseded(&self, shape: &Shape, area: &[u8]) -> bool {
        let (Some(me), Some((found, sector))) = (self.me, self.own_in(shape, SectorIndex(0), area)) else {
            return false;
        };
        // What was found may be on this disk alone: it does not count yet.
        let mut state = self.state.borrow_mut();
        if state.own.is_none() {
            state.own = Some(OwnSector { bytes: sector.to_vec(), counts: false });
            state.earlier = self.said_of_value(&state).in_flight;
        }
        drop(state);
        found.rank(self.lockspace) >= (true, me.generation.next(), 0)
    }

    /// Whether so many writes are enough, or can never be.
    fn decided(&self, answers: &[Option<Result<(), IoError>>], asked: usize) -> bool {
        let done = answers.iter().flatten().filter(|a| a.is_ok()).count();
        let failed = answers.iter().flatten().filter(|a| a.is_err()).count();
        done >= self.majority() || asked - failed < self.majority()
    }

    /// What a write on too few disks is to its caller: it may be on the medium, unless none has begun it.
    fn write_failed(&self, answers: Vec<Option<Result<(), IoError>>>, at: u64, len: usize) -> IoError {
        let done = answers.iter().flatten().filter(|a| a.is_ok()).count();
        let open = answers.iter().any(Option::is_none);
        let errors: Vec<IoError> = answers.into_iter().flatten().filter_map(Result::err).collect();
        let landing = errors.iter().find(|e| e.may_have_landed()).cloned();
        match (landing, errors.into_iter().next()) {
            (Some(error), _) => error,
            (None, Some(error)) if done == 0 && !open => error,
            _ => self.too_few(Op::Write, at, len, done),
        }
    }
}

/// What the copies turned out to be.
struct Beginning {
    shape: Option<Shape>,
    standing: Vec<Standing>,
    bytes: AlignedBuf,
    complete: bool,
}

impl<D: Disk, C: Clock> ReadDisk for Copies<D, C> {
    fn path(&self) -> &Arc<str> {
        &self.path
    }

    async fn read(&self, at: u64, len: usize, deadline: LocalInstant) -> Result<AlignedBuf, IoError> {
        if let [only] = self.list.as_slice() {
            return only.disk.read(at, len, deadline).await;
        }
        if self.in_area(Op::Read, at, len)? == 0 {
            return self.read_beginning(at, len, deadline).await;
        }
        let shape = self.shape(deadline).await?;
        self.read_known(&shape, at, len, deadline).await
    }
}

impl<D: Disk, C: Clock> Disk for Copies<D, C> {
    /// Crash, hang or pause here: some copies have it, others not or not yet. Unless a majority has it, it does not count, and whoever
    /// sees it sees a write that is under way, as on one disk before it lands. Past D2's instant each disk refuses by itself.
    async fn write(&self, at: u64, data: AlignedBuf, deadline: LocalInstant) -> Result<(), IoError> {
        if let [only] = self.list.as_slice() {
            return only.disk.write(at, data, deadline).await;
        }
        let shape = self.shape(deadline).await?;
        let len = data.len();
        let offset = self.in_area(Op::Write, at, len)?;
        let index = u32::try_from(offset / shape.geometry.sector().bytes() as u64).unwrap_or(u32::MAX);
        let data = self.stamped(&shape, SectorIndex(index), data).ok_or_else(|| self.too_few(Op::Write, at, len, 0))?;
        let own = self.me.is_some_and(|me| SectorIndex(index) == dblock_of(me.host_id));
        let members: Vec<bool> =
            self.state.borrow().standing.iter().map(|s| matches!(s, Standing::Copy | Standing::Failed)).collect();
        let writes = self.list.iter().zip(&members).map(|(copy, member)| {
            let write = || {
                Box::pin(copy.disk.write(copy.at.0 + offset, data.clone(), deadline))
                    as Pending<'_, Result<(), IoError>>
            };
            member.then(write)
        });
        let asked = members.iter().filter(|m| **m).count();
        let answers = self.gather(writes.collect(), |answers| self.decided(answers, asked)).await;
        self.note(&members, &answers, Op::Write);
        if own {
            let mut state = self.state.borrow_mut();
            let has = |answer: &Option<Result<(), IoError>>| matches!(answer, Some(Ok(())));
            answers.iter().zip(&mut state.behind).for_each(|(answer, behind)| *behind = !has(answer));
        }
        let done = answers.iter().flatten().filter(|a| a.is_ok()).count();
        if done < self.majority() {
            return Err(self.write_failed(answers, at, len));
        }
        if let Some(written) = self.state.borrow_mut().own.as_mut().filter(|_| own) {
            written.counts = true;
        }
        Ok(())
    }

    /// On a majority of the disks. On the others a write may still be on its way: what is concluded once this resolves does not
    /// depend on them, see the file's head.
    async fn reaped(&self) {
        if let [only] = self.list.as_slice() {
            return only.disk.reaped().await;
        }
        let reaped = self.list.iter().map(|copy| Some(Box::pin(copy.disk.reaped()) as Pending<'_, ()>));
        let mut gathered = Gathered { results: vec![None; self.list.len()], ios: reaped.collect() };
        poll_fn(|cx| {
            gathered.poll(cx);
            let over = gathered.results.iter().flatten().count();
            if over >= self.majority() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn copies(&self) -> usize {
        self.list.len()
    }
}

type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Whether a future is over at once.
fn poll_once(future: impl Future<Output = ()>) -> bool {
    std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// I/Os that run side by side, and what has come of them.
struct Gathered<'a, T> {
    ios: Vec<Option<Pending<'a, T>>>,
    results: Vec<Option<T>>,
}

impl<T> Gathered<'_, T> {
    /// Whether one of them is over that was not before.
    fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        for (io, result) in self.ios.iter_mut().zip(&mut self.results) {
            let Some(Poll::Ready(value)) = io.as_mut().map(|io| io.as_mut().poll(cx)) else { continue };
            (*io, *result, moved) = (None, Some(value), true);
        }
        moved
    }

    fn all_over(&self) -> bool {
        self.ios.iter().all(Option::is_none)
    }

    /// Whether one that was in time before is still under way.
    fn waits_for_prompt(&self, late: &[bool]) -> bool {
        self.ios.iter().zip(late).any(|(io, late)| io.is_some() && !late)
    }
}
