//! What is shown: for people, or one JSON object.
//!
//! JSON of many seeds: `seeds` (`from`, `to`), `threads`, `runs`, `seconds`, `seeds_per_second`, and as for one seed `steps`,
//! `virtual_seconds`, `counts`, `coverage` (fault, phase, how often), `violation` (null, or `seed`, `rule`, `what`, `at_s`,
//! `step`, `place`, `replay`, `timeline`). One seed: `seed`, `hosts`, `daemons`, `disks`, `mishaps` and the fields above, of which a
//! run that broke a rule has `violation` alone; `timeline` and `shrunk` (`runs`, `mishaps`, `plan`, `violation`) if asked for.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use holdfast_sim::checkers::{Counts, Row, columns};
use holdfast_sim::cluster::{Outcome, Story};
use holdfast_sim::coverage::{Coverage, Fault, Phase};
use holdfast_sim::plan::Plan;
use serde_json::{Map, Value, json};

use super::many::Tally;
use super::one::{Broken, Smaller};

/// How many rows of the past a broken rule is shown with, unless all are asked for.
const LATEST: usize = 200;

/// Prints to a reader who may have gone (`| head`) and has then seen what it wanted.
pub fn print(text: String) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// What is said about many seeds.
pub struct Many<'a> {
    pub(super) many: super::Many,
    pub(super) tally: &'a Tally,
    pub(super) elapsed: Duration,
    pub(super) broken: Option<&'a Broken>,
    pub(super) coverage: bool,
}

impl Many<'_> {
    fn per_second(&self) -> f64 {
        // Of nothing in no time: 0.
        f64::from(u32::try_from(self.tally.runs).unwrap_or(u32::MAX)) / self.elapsed.as_secs_f64().max(1e-3)
    }

    /// For people.
    pub fn text(&self) -> String {
        let (super::Seeds { from, to }, tally) = (self.many.seeds, self.tally);
        let to = to.map(|to| to.to_string()).unwrap_or_default();
        let mut text = format!(
            "seeds {from}..{to}: {} runs in {:.1} s on {} threads, {:.0} seeds/s\n",
            tally.runs,
            self.elapsed.as_secs_f64(),
            self.many.threads,
            self.per_second(),
        );
        text += &sums(tally, self.coverage);
        text += &match (self.broken, tally.broken) {
            (Some(broken), Some(seed)) => {
                let replay = self.many.making.replay(seed);
                format!("{}\nagain: {replay}\nsmaller: {replay} --shrink\n", broken.text(false))
            }
            (None, Some(seed)) => format!("seed {seed} broke a rule, and then did not: the simulator is not exact\n"),
            (_, None) => "no rule was broken\n".into(),
        };
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let tally = self.tally;
        let violation = match (self.broken, tally.broken) {
            (Some(broken), Some(seed)) => broken.json(&self.many.making.replay(seed), false),
            (None, Some(seed)) => json!({ "seed": seed }),
            (_, None) => Value::Null,
        };
        let mut object = json!({
            "seeds": { "from": self.many.seeds.from, "to": self.many.seeds.to },
            "threads": self.many.threads,
            "runs": tally.runs,
            "seconds": rounded(self.elapsed.as_secs_f64()),
            "seeds_per_second": rounded(self.per_second()),
            "violation": violation,
        });
        extend(&mut object, sums_json(tally));
        format!("{object:#}\n")
    }
}

/// What is said about one seed.
pub struct One<'a> {
    pub(super) one: &'a super::One<'a>,
    pub(super) plan: &'a Plan,
    pub(super) story: &'a Story,
    pub(super) result: &'a Result<Outcome, Broken>,
    pub(super) smaller: Option<&'a Smaller>,
}

impl One<'_> {
    /// For people.
    pub fn text(&self) -> String {
        let args = self.one.args;
        let mut text = format!("seed {}: {}\n", self.one.seed, size(self.plan));
        match self.result {
            Ok(outcome) => {
                if args.timeline {
                    text += &columns(&self.story.columns, self.story.rows.iter());
                }
                text += &sums(&tally(outcome), args.coverage);
                text += "no rule was broken\n";
                text += if args.shrink { "there is nothing to make smaller\n" } else { "" };
            }
            Err(broken) if self.smaller.is_none() => {
                let _ = writeln!(text, "{}\nagain: {}", broken.text(args.timeline), self.replay());
            }
            Err(broken) => {
                let _ = writeln!(text, "{}", broken.headline());
            }
        }
        if let Some(Smaller { plan, runs, broken }) = self.smaller {
            let _ = write!(text, "\nmade smaller by {runs} runs: {}\n{plan:#?}\n\n", size(plan));
            text += &broken.text(args.timeline);
        }
        if let Some(path) = &args.svg {
            let _ = writeln!(text, "drawn: {}", path.display());
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let args = self.one.args;
        let mut object = json!({
            "seed": self.one.seed,
            "hosts": self.plan.hosts.len(),
            "daemons": self.plan.daemons.len(),
            "disks": disks(self.plan),
            "mishaps": self.plan.mishaps.len(),
            "violation": Value::Null,
        });
        match self.result {
            Ok(outcome) => extend(&mut object, sums_json(&tally(outcome))),
            Err(broken) => object["violation"] = broken.json(&self.replay(), args.timeline),
        }
        if args.timeline {
            object["timeline"] = self.story.rows.iter().map(row).collect();
        }
        if let Some(Smaller { plan, runs, broken }) = self.smaller {
            let violation = broken.json(&self.replay(), args.timeline);
            let (mishaps, plan) = (plan.mishaps.len(), format!("{plan:#?}"));
            object["shrunk"] = json!({ "runs": runs, "mishaps": mishaps, "plan": plan, "violation": violation });
        }
        format!("{object:#}\n")
    }

    fn replay(&self) -> String {
        self.one.making.replay(self.one.seed)
    }
}

impl Broken {
    fn headline(&self) -> String {
        let violation = &self.violation;
        let place = self.place.as_ref().map(|place| format!(" (at {place})")).unwrap_or_default();
        let (rule, seed, at, step) = (violation.rule, violation.seed, violation.at, violation.step);
        format!("{rule} WAS BROKEN by seed {seed} at {at:.6} s, step {step}: {}{place}", violation.what)
    }

    fn text(&self, all: bool) -> String {
        format!("{}\n{}", self.headline(), columns(&self.story.columns, self.rows(all)))
    }

    fn rows(&self, all: bool) -> impl Iterator<Item = &Row> {
        let rows = &self.story.rows;
        rows.iter().skip(if all { 0 } else { rows.len().saturating_sub(LATEST) })
    }

    fn json(&self, replay: &str, all: bool) -> Value {
        let violation = &self.violation;
        json!({
            "seed": violation.seed,
            "rule": violation.rule,
            "what": violation.what,
            "at_s": violation.at,
            "step": violation.step,
            "place": self.place,
            "replay": replay,
            "timeline": self.rows(all).map(row).collect::<Value>(),
        })
    }
}

fn tally(outcome: &Outcome) -> Tally {
    let mut tally = Tally::default();
    tally.add(outcome);
    tally
}

fn disks(plan: &Plan) -> usize {
    if plan.copies > 1 { usize::from(plan.copies) } else { 1 + usize::from(plan.two_disks) }
}

fn size(plan: &Plan) -> String {
    let number = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (hosts, daemons) = (number(plan.hosts.len(), "host"), number(plan.daemons.len(), "daemon"));
    let (disks, mishaps) = (number(disks(plan), "disk"), number(plan.mishaps.len(), "mishap"));
    format!("{hosts}, {daemons}, {disks}, {mishaps} in {:.0} s", plan.safety.as_secs_f64())
}

fn row(row: &Row) -> Value {
    json!({ "t": rounded(Duration::from_nanos(row.at).as_secs_f64()), "host": row.host.map(|h| h.0), "what": row.what })
}

/// To the microsecond: more digits would be noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

/// What the runs did, on a few lines.
fn sums(tally: &Tally, all: bool) -> String {
    let Counts {
        holds,
        takeovers,
        landed,
        landed_late,
        resets,
        crashes,
        joins,
        lost,
        excused,
        followed,
        spent,
        made_anew,
    } = tally.counts;
    let mut text = format!("simulated: {}, {} steps\n", span(tally.virtual_time), tally.steps);
    let _ = writeln!(text, "leases held {holds} times, {takeovers} takeovers; {joins} joins, {lost} ended by D2");
    let _ = writeln!(
        text,
        "{resets} resets by watchdog, {crashes} crashes; {landed} sectors landed, {landed_late} of them late"
    );
    let _ = writeln!(text, "the written specification was followed to the end in {followed} runs");
    if spent > 0 {
        let _ = writeln!(
            text,
            "{spent} ballots over damaged sectors; {made_anew} of these made anew for hosts that are gone"
        );
    }
    if excused > 0 {
        let _ = writeln!(text, "{excused} times excused: a host that stood still as a whole (A7)");
    }
    text += &if all { format!("\n{}\n", tally.coverage) } else { covered(&tally.coverage) };
    text
}

fn covered(coverage: &Coverage) -> String {
    let pairs = Fault::ALL.iter().flat_map(|f| Phase::ALL.iter().map(|p| (*f, *p)));
    let (of, met) = (Fault::ALL.len() * Phase::ALL.len(), pairs.filter(|(f, p)| coverage.count(*f, *p) > 0).count());
    let never: Vec<&str> = Fault::ALL.iter().filter(|f| coverage.of_fault(**f) == 0).map(|f| f.word()).collect();
    let never = if never.is_empty() { String::new() } else { format!("; never: {}", never.join(", ")) };
    let (all, struck) = (Fault::ALL.len(), Fault::ALL.iter().filter(|f| coverage.of_fault(**f) > 0).count());
    format!("{struck} of {all} kinds of fault, in {met} of {of} pairs of fault and phase (--coverage: all){never}\n")
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} days {hours} h"),
    }
}

fn sums_json(tally: &Tally) -> Value {
    let Counts {
        holds,
        takeovers,
        landed,
        landed_late,
        resets,
        crashes,
        joins,
        lost,
        excused,
        followed,
        spent,
        made_anew,
    } = tally.counts;
    let phases = |fault: Fault| -> Map<String, Value> {
        let counted = Phase::ALL.iter().map(|phase| (phase, tally.coverage.count(fault, *phase)));
        counted.filter(|(_, n)| *n > 0).map(|(phase, n)| (phase.word().to_owned(), n.into())).collect()
    };
    let coverage: Map<String, Value> = Fault::ALL.iter().map(|f| (f.word().to_owned(), phases(*f).into())).collect();
    json!({
        "steps": tally.steps,
        "virtual_seconds": rounded(tally.virtual_time.as_secs_f64()),
        "counts": {
            "holds": holds, "takeovers": takeovers, "landed": landed, "landed_late": landed_late, "resets": resets,
            "crashes": crashes, "joins": joins, "lost": lost, "excused": excused, "followed": followed,
            "ballots_over_damage": spent, "made_anew": made_anew,
        },
        "coverage": coverage,
    })
}

fn extend(object: &mut Value, with: Value) {
    if let (Value::Object(object), Value::Object(with)) = (object, with) {
        object.extend(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_never_struck_are_named() {
        let mut coverage = Coverage::default();
        Fault::ALL.iter().skip(1).for_each(|fault| coverage.add(*fault, Phase::Holding));
        assert_eq!(
            covered(&coverage),
            format!(
                "{0} of {1} kinds of fault, in {0} of {2} pairs of fault and phase (--coverage: all); never: read fails\n",
                Fault::ALL.len() - 1,
                Fault::ALL.len(),
                Fault::ALL.len() * Phase::ALL.len()
            )
        );
    }

    #[test]
    fn virtual_time_is_told_in_what_people_count() {
        assert_eq!(span(Duration::from_secs(61)), "1 min 1 s");
        assert_eq!(span(Duration::from_secs(3_660)), "1 h 1 min");
        assert_eq!(span(Duration::from_secs(90_000)), "1 days 1 h");
    }
}
