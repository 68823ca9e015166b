//! Every operation on a lease on three disks, with one of them in trouble at every step (acquire, release and values exclusively:
//! `copies.rs`).

use holdfast_io::ids::Lver;
use holdfast_io::stop::Stop;

use super::copies::{acquired, devices, driven, given_back, media, owned};
use super::{held, refused};
use crate::acquire::{Options, RefusalKind};
use crate::ask::{Ask, ask, asked_of};
use crate::convert::{Sharing, exclude, share};
use crate::copies::Copies;
use crate::release::{Held, Mode, retract};
use crate::request::Force;
use crate::standing::{Standing, standing};
use crate::tend::tend;
use crate::testing::{Fate, ManualClock, Medium, Said, TestDevice, lease, me, term};

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
