//! Every operation on a lease on three disks, with one of them in trouble at every step (acquire, release and values exclusively:
//! `copies.rs`).

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use holdfast_io::ids::{Lver, ResourceName};
use holdfast_io::leader::LeaderError;
use holdfast_io::stop::Stop;

use super::copies::{acquired, all, devices, driven, given_back, media, owned};
use super::{held, refused};
use crate::acquire::{Acquired, Options, RefusalKind, acquire};
use crate::area::LeaseAt;
use crate::ask::{Ask, ask, asked_of};
use crate::convert::{Sharing, exclude, share};
use crate::copies::Copies;
use crate::error::{AcquireError, AcquireFailed, AreaError, ReleaseError};
use crate::release::{Held, Mode, rename, retract};
use crate::request::Force;
use crate::standing::{Standing, standing};
use crate::tend::tend;
use crate::testing::{Fate, ManualClock, Medium, Paced, Said, TestDevice, device, lease, me, term};

type Disks = Copies<TestDevice, ManualClock>;

/// More I/Os than any operation here makes on one disk.
const STEPS: usize = 16;

/// What becomes of one disk of three.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    bad: usize,
    /// I/Os before it.
    step: usize,
    fate: Fate,
    /// From there on, or once.
    lasts: bool,
}

impl Trouble {
    /// Each there is: it fails, fails though it did it, or hangs.
    fn all() -> impl Iterator<Item = Trouble> {
        let fates = [Fate::Fails, Fate::DoneButFails, Fate::Held];
        (0..3 * STEPS * fates.len() * 2).map(move |n| Trouble {
            bad: n % 3,
            step: n / 3 % STEPS,
            fate: fates[n / (3 * STEPS) % fates.len()],
            lasts: n / (3 * STEPS * fates.len()) == 0,
        })
    }

    /// Counted from now.
    fn begins(self, disks: &Disks) {
        let engine = disks.list()[self.bad].disk.engine();
        let first = engine.steps().len() + self.step;
        (first..first + if self.lasts { 60 } else { 1 }).for_each(|n| engine.fate(n, self.fate));
    }
}

/// What was held back lands.
fn lands(disks: &Disks) {
    disks.list().iter().for_each(|copy| copy.disk.engine().release());
}

/// A world in which host 1 holds the lease exclusively.
fn with_an_owner() -> (Vec<Medium>, ManualClock, Disks, Held) {
    let (media, clock) = (media(3), ManualClock::waiting());
    let disks = devices(1, &media, &clock);
    let held = owned(&disks, &clock, 1);
    (media, clock, disks, held)
}

/// Host 2 is refused because these share the lease.
fn is_shared_by(media: &[Medium], clock: &ManualClock, sharers: &[u64], trouble: Trouble) {
    let disks = devices(2, media, clock);
    let refusal = refused(acquired(&disks, clock, 2, Mode::Exclusive));
    let expected = RefusalKind::SharedHolders(sharers.iter().map(|n| term(*n, 1)).collect());
    assert_eq!(refusal.kind, expected, "{trouble:?}");
    if let Some(duty) = refusal.undo {
        driven(clock, retract(&disks, clock, duty, &me(2))).unwrap();
    }
}

/// Host 2 gets it now, at a version of its own, and gives it back.
fn is_free(media: &[Medium], clock: &ManualClock, after: Lver, trouble: Trouble) {
    let disks = devices(2, media, clock);
    let held = owned(&disks, clock, 2);
    assert!(held.lver() > after, "{trouble:?}");
    given_back(&disks, clock, 2, held);
}

#[test]
fn a_lease_is_shared_beside_another_and_given_back_with_one_disk_in_trouble_at_any_step() {
    for trouble in Trouble::all() {
        let (media, clock) = (media(3), ManualClock::waiting());
        let (disks, others) = (devices(1, &media, &clock), devices(3, &media, &clock));
        let beside = held(acquired(&others, &clock, 3, Mode::Shared));
        trouble.begins(&disks);
        let shared = held(acquired(&disks, &clock, 1, Mode::Shared));
        let lver = shared.lver();
        is_shared_by(&media, &clock, &[1, 3], trouble);
        given_back(&disks, &clock, 1, shared);
        is_shared_by(&media, &clock, &[3], trouble);
        lands(&disks);
        is_shared_by(&media, &clock, &[3], trouble);
        given_back(&others, &clock, 3, beside);
        is_free(&media, &clock, lver, trouble);
    }
}

#[test]
fn an_owner_that_begins_to_share_is_a_sharer_with_one_disk_in_trouble_at_any_step() {
    for trouble in Trouble::all() {
        let (media, clock, disks, held) = with_an_owner();
        trouble.begins(&disks);
        let shared = driven(&clock, share(&disks, &clock, Sharing::new(held), &me(1))).unwrap();
        let lver = shared.lver();
        is_shared_by(&media, &clock, &[1], trouble);
        lands(&disks);
        is_shared_by(&media, &clock, &[1], trouble);
        given_back(&disks, &clock, 1, shared);
        lands(&disks);
        is_free(&media, &clock, lver, trouble);
    }
}

#[test]
fn a_sharer_becomes_the_owner_with_one_disk_in_trouble_at_any_step() {
    for trouble in Trouble::all() {
        let (media, clock) = (media(3), ManualClock::waiting());
        let disks = devices(1, &media, &clock);
        let shared = held(acquired(&disks, &clock, 1, Mode::Shared));
        trouble.begins(&disks);
        let (said, options) = (Said::nothing(), Options::default());
        let taken =
            held(driven(&clock, exclude(&disks, &clock, &said, &mut shared.clone(), &me(1), &options, &Stop::new())));
        assert_eq!(taken.lver(), Lver(2), "{trouble:?}");
        for mode in [Mode::Exclusive, Mode::Shared] {
            let refusal = refused(acquired(&devices(2, &media, &clock), &clock, 2, mode));
            assert_eq!(refusal.kind, RefusalKind::Alive, "{trouble:?}");
        }
        lands(&disks);
        let refusal = refused(acquired(&devices(2, &media, &clock), &clock, 2, Mode::Shared));
        assert_eq!(refusal.kind, RefusalKind::Alive, "{trouble:?}");
        given_back(&disks, &clock, 1, taken);
        lands(&disks);
        is_free(&media, &clock, Lver(2), trouble);
    }
}

/// Whoever asks has one disk in trouble, and the owner misses another when it looks.
#[test]
fn an_owner_hears_a_request_with_one_disk_in_trouble_at_any_step_and_any_other_away() {
    for trouble in Trouble::all() {
        let (media, clock, _, held) = with_an_owner();
        let asking = devices(2, &media, &clock);
        trouble.begins(&asking);
        let force = Some(Force::Graceful);
        driven(&clock, ask(&asking, &clock, &lease(), &me(2), Ask { lver: None, force })).unwrap();
        for away in 0..3 {
            let disks = devices(1, &media, &clock);
            (0..STEPS).for_each(|n| disks.list()[away].disk.engine().fate(n, Fate::Fails));
            let found = driven(&clock, asked_of(&disks, &clock, &held, &me(1))).unwrap();
            assert_eq!(found, force, "{trouble:?}, without disk {away}");
        }
        lands(&asking);
        let disks = devices(1, &media, &clock);
        assert_eq!(driven(&clock, asked_of(&disks, &clock, &held, &me(1))).unwrap(), force, "{trouble:?}");
    }
}

#[test]
fn a_holder_finds_its_lease_its_own_and_keeps_it_with_one_disk_in_trouble_at_any_step() {
    for trouble in Trouble::all() {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let (media, clock) = (media(3), ManualClock::waiting());
            let disks = devices(1, &media, &clock);
            let held = held(acquired(&disks, &clock, 1, mode));
            trouble.begins(&disks);
            for _ in 0..3 {
                let found = driven(&clock, standing(&disks, &clock, &held, &me(1))).unwrap();
                assert_eq!(found, Standing::Ours, "{trouble:?}");
                driven(&clock, tend(&disks, &clock, &held, &me(1), found)).unwrap();
            }
            assert!(driven(&clock, asked_of(&disks, &clock, &held, &me(1))).unwrap().is_none());
            lands(&disks);
            given_back(&disks, &clock, 1, held);
            lands(&disks);
            is_free(&media, &clock, Lver(1), trouble);
        }
    }
}

/// The lease, under the name that it is given.
fn renamed() -> LeaseAt {
    LeaseAt { resource: ResourceName::new(b"renamed").unwrap(), ..lease() }
}

/// Host `n` asks for the lease under a name.
fn acquired_as(disks: &Disks, clock: &ManualClock, n: u64, name: &LeaseAt) -> Result<Acquired, AcquireFailed> {
    driven(clock, acquire(disks, clock, &Said::nothing(), name, &me(n), &Options::default(), &Stop::new()))
}

fn is_by_another_name(result: Result<Acquired, AcquireFailed>) -> bool {
    let Err(AcquireFailed { error: AcquireError::Area(AreaError::Leader { source, .. }), .. }) = result else {
        return false;
    };
    matches!(*source, LeaderError::Resource { .. })
}

/// Whichever disk is away, the lease is had under this name, and under the other it is not there.
fn is_named(media: &[Medium], clock: &ManualClock, (name, other): (&LeaseAt, &LeaseAt), what: &str) {
    for away in 0..3 {
        let media: Vec<Medium> = media.iter().map(Medium::copy_of).collect();
        let disks = devices(2, &media, clock);
        (0..8 * STEPS).for_each(|n| disks.list()[away].disk.engine().fate(n, Fate::Fails));
        assert!(is_by_another_name(acquired_as(&disks, clock, 2, other)), "{what}, without disk {away}");
        // A proposal that somebody has left is published for him first.
        let held = (0..3).find_map(|_| match acquired_as(&disks, clock, 2, name).unwrap() {
            Acquired::Ours(held) => Some(held),
            Acquired::Theirs(refusal) => {
                assert_eq!(refusal.kind, RefusalKind::CommittedOther, "{what}, without disk {away}");
                None
            }
        });
        assert!(held.is_some_and(|held| held.lver() > Lver(1)), "{what}, without disk {away}");
    }
}

#[test]
fn a_lease_is_given_back_under_another_name_with_one_disk_in_trouble_at_any_step_and_any_away_afterwards() {
    for trouble in Trouble::all() {
        let (media, clock, disks, first) = with_an_owner();
        trouble.begins(&disks);
        driven(&clock, rename(&disks, &clock, first, &me(1), renamed().resource)).unwrap();
        let names = (&renamed(), &lease());
        is_named(&media, &clock, names, &format!("{trouble:?}"));
        // What was held lands over what the next owner has written; it keeps the lease, and the lease its name.
        let next = devices(2, &media, &clock);
        let owner = held(acquired_as(&next, &clock, 2, &renamed()));
        lands(&disks);
        let third = devices(3, &media, &clock);
        let refusal = refused(acquired_as(&third, &clock, 3, &renamed()));
        assert_eq!(refusal.kind, RefusalKind::Alive, "{trouble:?}");
        given_back(&next, &clock, 2, owner);
        is_named(&media, &clock, names, &format!("{trouble:?}, afterwards"));
    }
}

/// Polled so many times, or to its end.
fn polled<F: Future>(future: std::pin::Pin<&mut F>, clock: &ManualClock, times: usize) -> Option<F::Output> {
    let (mut future, mut context) = (future, Context::from_waker(Waker::noop()));
    (0..times).find_map(|_| {
        clock.advance(Duration::from_millis(1));
        match future.as_mut().poll(&mut context) {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    })
}

/// On several disks others go on from RELEASED. One that does so while the lease is being renamed gets it under the name that it then
/// has, or not at all.
#[test]
fn a_lease_that_another_host_takes_while_it_is_renamed_has_the_name_that_its_owner_was_told() {
    const ENOUGH: usize = 10_000;
    let paced = |n: u64, media: &[Medium], clock: &ManualClock| {
        all(media.iter().map(|medium| Paced(device(n, medium, clock))).collect(), clock, term(n, 1))
    };
    let mut refused_by_name = 0;
    for (first, second) in (0..24).flat_map(|first| (0..24).map(move |second| (first, second))) {
        let what = format!("{first} steps, {second} of the other's");
        let (media, clock, _, held) = with_an_owner();
        let (ours, theirs) = (paced(1, &media, &clock), paced(2, &media, &clock));
        let (me, other, said, stop) = (me(1), me(2), Said::nothing(), Stop::new());
        let (name, options) = (lease(), Options::default());
        let mut renaming = pin!(rename(&ours, &clock, held, &me, renamed().resource));
        let mut taking = pin!(acquire(&theirs, &clock, &said, &name, &other, &options, &stop));
        let mut end = polled(renaming.as_mut(), &clock, first);
        let mut other_end = polled(taking.as_mut(), &clock, second);
        let end = end.take().or_else(|| polled(renaming, &clock, ENOUGH)).expect("it ends");
        let other_end = other_end.take().or_else(|| polled(taking, &clock, ENOUGH)).expect("it ends");
        let names = match end {
            Ok(()) => (renamed(), lease()),
            Err(failed) => {
                assert!(matches!(failed.error, ReleaseError::NotRenamed { .. }) && failed.undo.is_none(), "{what}");
                (lease(), renamed())
            }
        };
        let plain = devices(2, &media, &clock);
        let undo = match other_end {
            Ok(Acquired::Ours(held)) => {
                assert_eq!(held.lease, names.0, "{what}");
                given_back(&plain, &clock, 2, held);
                None
            }
            Ok(Acquired::Theirs(refusal)) => refusal.undo,
            Err(AcquireFailed { error, undo }) => {
                refused_by_name += 1;
                assert!(matches!(error, AcquireError::Area(AreaError::Leader { .. })), "{error}, {what}");
                undo
            }
        };
        // Of what it cannot undo under its old name nobody needs to know.
        let _ = undo.map(|duty| driven(&clock, retract(&plain, &clock, duty, &other)));
        is_named(&media, &clock, (&names.0, &names.1), &what);
    }
    assert!(refused_by_name > 0, "the other was never late");
}
