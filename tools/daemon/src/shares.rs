//! Something of which there is only so much - connections, bytes of replies that nobody has read yet - and who has how much of it.
//!
//! No user may take more than half, and all together leave an eighth to root and to the daemon's own user, who are
//! held to the whole alone: an administrator gets in whoever else is there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use nix::unistd::getuid;

/// All of it. Cloned, it is the same.
#[derive(Clone)]
pub struct Shares(Rc<Inner>);

struct Inner {
    most: usize,
    ours: u32,
    taken: Cell<usize>,
    by: RefCell<BTreeMap<u32, usize>>,
}

/// A part of it, given back when it is dropped.
pub struct Share {
    of: Rc<Inner>,
    uid: u32,
    amount: usize,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoShare {
    /// All is taken that this user could have.
    Taken,
    /// This very user has all that one user may.
    TheirsTaken,
}

impl Shares {
    /// So much, for all together.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let (taken, by) = (Cell::default(), RefCell::default());
        Shares(Rc::new(Inner { most, ours: getuid().as_raw(), taken, by }))
    }

    /// A share for a user.
    ///
    /// # Errors
    /// [`NoShare`].
    pub fn ask(&self, uid: u32, amount: usize) -> Result<Share, NoShare> {
        let Inner { most, taken, .. } = &*self.0;
        let all = taken.get().saturating_add(amount);
        let trusted = self.trusts(uid);
        if !trusted && self.of(uid).saturating_add(amount) > most / 2 {
            return Err(NoShare::TheirsTaken);
        }
        let most = if trusted { *most } else { most - most / 8 };
        if all > most { Err(NoShare::Taken) } else { Ok(self.take(uid, amount)) }
    }

    /// A share whatever is left: for what somebody is about to give back as much for, or what is too little to matter.
    #[must_use]
    pub fn take(&self, uid: u32, amount: usize) -> Share {
        self.0.taken.set(self.0.taken.get() + amount);
        *self.0.by.borrow_mut().entry(uid).or_default() += amount;
        Share { of: Rc::clone(&self.0), uid, amount }
    }

    /// How much a user has.
    #[must_use]
    pub fn of(&self, uid: u32) -> usize {
        self.0.by.borrow().get(&uid).copied().unwrap_or(0)
    }

    /// How much is taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.get()
    }

    /// How much there is.
    #[must_use]
    pub fn most(&self) -> usize {
        self.0.most
    }

    /// Whether what `owner` has and does not use is to go, for `uid` that was told there is none.
    #[must_use]
    pub fn yields(&self, none: NoShare, owner: u32, uid: u32) -> bool {
        match none {
            NoShare::TheirsTaken => owner == uid,
            NoShare::Taken => self.trusts(uid) || !self.trusts(owner),
        }
    }

    fn trusts(&self, uid: u32) -> bool {
        uid == 0 || uid == self.0.ours
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.taken.set(self.of.taken.get() - self.amount);
        let mut by = self.of.by.borrow_mut();
        if let Some(theirs) = by.get_mut(&self.uid) {
            *theirs -= self.amount;
            if *theirs == 0 {
                by.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test runs as these.
    const ALICE: u32 = 4_000_001;
    const BOB: u32 = 4_000_002;

    fn take_all(shares: &Shares, uid: u32) -> (Vec<Share>, NoShare) {
        let mut taken = Vec::new();
        loop {
            match shares.ask(uid, 1) {
                Ok(share) => taken.push(share),
                Err(none) => return (taken, none),
            }
        }
    }

    #[test]
    fn a_user_at_his_limit_is_refused_while_another_and_root_get_in() {
        let shares = Shares::new(16);
        let (alices, none) = take_all(&shares, ALICE);
        assert_eq!((alices.len(), none), (8, NoShare::TheirsTaken));
        let (bobs, none) = take_all(&shares, BOB);
        assert_eq!((bobs.len(), none), (6, NoShare::Taken));
        let (roots, none) = take_all(&shares, 0);
        assert_eq!((roots.len(), none), (2, NoShare::Taken));
        let yields = |none, owner, to| shares.yields(none, owner, to);
        assert!(yields(NoShare::TheirsTaken, ALICE, ALICE) && !yields(NoShare::TheirsTaken, BOB, ALICE));
        assert!(
            yields(NoShare::Taken, ALICE, BOB) && yields(NoShare::Taken, ALICE, 0) && !yields(NoShare::Taken, 0, ALICE)
        );
        drop(bobs);
        assert_eq!((shares.taken(), shares.of(BOB)), (10, 0));
        let ours = getuid().as_raw();
        assert_eq!(take_all(&shares, ours).0.len(), 6, "the daemon's own user is held to no half");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_what_is_forced_counts() {
        let shares = Shares::new(16);
        let forced = shares.take(ALICE, 100);
        assert_eq!(shares.ask(BOB, 1).err(), Some(NoShare::Taken));
        drop(forced);
        let big = shares.ask(BOB, 8).ok();
        assert_eq!(shares.ask(BOB, 1).err(), Some(NoShare::TheirsTaken));
        drop(big);
        assert!(shares.ask(BOB, usize::MAX).is_err() && shares.ask(BOB, 8).is_ok());
        assert_eq!(shares.taken(), 0);
    }
}
