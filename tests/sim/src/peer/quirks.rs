//! What real sanlock does otherwise than Holdfast, each behaviour under a name of its own.
//!
//! All on is real sanlock. One off is a real sanlock with that one behaviour put right, so that a violation can be traced:
//! the seed that breaks a rule is run again with each quirk off, and the ones without which it does not break are its
//! causes.
//!
//! | quirk | source | what is done with it off |
//! | --- | --- | --- |
//! | ForgetsInPhase1 | spec D 4.6 step 1 | bal and inp of the same lver are kept |
//! | ClearsReleased | 4.6 step 1 | RELEASED stays for the rest of its lver, and a lver so given up is not won again |
//! | ZeroesOnRetract | 4.8 | the dblock is kept, RELEASED added |
//! | BlindLeaderWrite | 4.7 | the leader is read once more before it is written, and never put back to an older lver |
//! | OverlappingWrites | 1.5, 3.4 | I6: a write waits for the one before it to the same sector |
//! | NoFence | 6.5 | a restarted daemon waits for the writes of the one before it |
//! | NoWriteLimit | 6.3 | D2: nothing is written past 8 io_timeouts but renewals |
//! | NewGenerationAtOnce | 3.3 step 3 | P1: its own name in its sector is waited out like a stranger's |
//! | FreesUnderABallot | 6.3 step 1, 3.5 | the host_id is freed when every acquire has ended and every write is over |
//! | DisarmsAtOnce | 6.3 step 1 | D3: the watchdog is told after the last write is over |
//! | TrustsAnyFree | 4.4 b, 3.6 | a sector of an older generation, free or silent, says nothing |
//! | JudgesByOldLook | 3.6, `host_is_live` | a shared holder's silence is counted up to the last look, not up to now |
//! | NoMargin | 4.4 e, 3.3 step 4 | D1: drift of the clocks and a tick of the watchdog on top of 8 io_timeouts + 60 s |
//! | ZeroesDeadHolder | 4.9 | only the mode block of a dead shared holder is cleared |

/// One behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quirk {
    /// Phase 1 of a ballot clears bal and inp, although a value of theirs may be committed.
    ForgetsInPhase1,
    /// Phase 1 clears RELEASED, although others may have taken it for the end of the lver.
    ClearsReleased,
    /// A retract, and a refused shared acquire, write a dblock of zeros.
    ZeroesOnRetract,
    /// Whoever ends phase 2 writes the leader without a look at it.
    BlindLeaderWrite,
    /// A sector is written although an older write to it is still in flight.
    OverlappingWrites,
    /// A restarted daemon writes although writes of the one before it are in flight.
    NoFence,
    /// Leases are written past 8 io_timeouts.
    NoWriteLimit,
    /// A host_id found under the own name is taken at once, whatever still runs under the older generation.
    NewGenerationAtOnce,
    /// The host_id is freed while an acquire of its own still runs, or a write of it is in flight.
    FreesUnderABallot,
    /// The watchdog is told that all is well while writes are still in flight.
    DisarmsAtOnce,
    /// A delta sector seen free, or silent, under an older generation ends newer ones too.
    TrustsAnyFree,
    /// Takes a shared holder for dead when it has not looked at it for long, not when it has seen it silent for long.
    JudgesByOldLook,
    /// Takes over after 8 io_timeouts + 60 s, with nothing on top for drift and ticks.
    NoMargin,
    /// Zeroes the whole dblock sector of a dead shared holder.
    ZeroesDeadHolder,
}

impl Quirk {
    /// Every one.
    pub const ALL: [Quirk; 14] = [
        Quirk::ForgetsInPhase1,
        Quirk::ClearsReleased,
        Quirk::ZeroesOnRetract,
        Quirk::BlindLeaderWrite,
        Quirk::OverlappingWrites,
        Quirk::NoFence,
        Quirk::NoWriteLimit,
        Quirk::NewGenerationAtOnce,
        Quirk::FreesUnderABallot,
        Quirk::DisarmsAtOnce,
        Quirk::TrustsAnyFree,
        Quirk::JudgesByOldLook,
        Quirk::NoMargin,
        Quirk::ZeroesDeadHolder,
    ];

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// Which behaviours a peer has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Quirks(u32);

impl Quirks {
    /// Real sanlock.
    pub const REAL: Quirks = Quirks((1 << Quirk::ALL.len()) - 1);
    /// None: a host that keeps Holdfast's rules, in sanlock's bytes and at sanlock's times.
    pub const NONE: Quirks = Quirks(0);

    /// Whether `quirk` is on.
    #[must_use]
    pub const fn has(self, quirk: Quirk) -> bool {
        self.0 & quirk.bit() != 0
    }

    /// The same with `quirk` off.
    #[must_use]
    pub const fn without(self, quirk: Quirk) -> Self {
        Quirks(self.0 & !quirk.bit())
    }

    /// The same with `quirk` on.
    #[must_use]
    pub const fn with(self, quirk: Quirk) -> Self {
        Quirks(self.0 | quirk.bit())
    }

    /// The rules that are not demanded of a host with these quirks. The rules about time (D1 to D3, W1,
    /// P1) are never demanded of a peer. What is left is demanded of it like of anyone: I3, that only its owner frees a
    /// leader, that nothing but its areas is written, and above all S1.
    #[must_use]
    pub fn excused(self) -> Vec<&'static str> {
        let any = |quirks: &[Quirk]| quirks.iter().any(|q| self.has(*q));
        let rules = [
            // The sector of a dead shared holder, all of it.
            ("I1", any(&[Quirk::ZeroesDeadHolder])),
            // A dblock of zeros; an older dblock, or delta sector, that lands over a newer one.
            ("I2", any(&[Quirk::ZeroesOnRetract, Quirk::OverlappingWrites, Quirk::NoFence])),
            // After a dblock of zeros a ballot number may be used once more.
            ("I4", any(&[Quirk::ZeroesOnRetract, Quirk::OverlappingWrites, Quirk::NoFence])),
            // A committed value is forgotten, and another committed.
            (
                "I5",
                any(&[
                    Quirk::ForgetsInPhase1,
                    Quirk::ZeroesOnRetract,
                    Quirk::OverlappingWrites,
                    Quirk::NoFence,
                    Quirk::ZeroesDeadHolder,
                ]),
            ),
            ("I6", any(&[Quirk::OverlappingWrites, Quirk::NoFence])),
        ];
        rules.into_iter().filter_map(|(rule, excused)| excused.then_some(rule)).collect()
    }
}

impl std::fmt::Debug for Quirks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(Quirk::ALL.into_iter().filter(|q| self.has(*q))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quirk_is_a_switch_of_its_own() {
        for quirk in Quirk::ALL {
            let one_off = Quirks::REAL.without(quirk);
            assert!(Quirk::ALL.into_iter().all(|q| one_off.has(q) == (q != quirk)));
            assert_eq!(one_off.with(quirk), Quirks::REAL);
        }
    }

    #[test]
    fn without_quirks_nothing_is_excused() {
        assert!(Quirks::NONE.excused().is_empty());
        assert_eq!(Quirks::REAL.excused(), ["I1", "I2", "I4", "I5", "I6"]);
    }
}
