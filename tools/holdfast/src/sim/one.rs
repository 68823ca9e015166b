//! One seed: its story, told or drawn, and its plan made smaller.

use std::path::Path;

use holdfast_sim::checkers::Violation;
use holdfast_sim::cluster::{self, Outcome, Story};
use holdfast_sim::plan::Plan;
use holdfast_sim::{shrink, svg};

use super::{Args, Error, Making, quiet, tell};

/// How many runs making a plan smaller may take.
const MOST_RUNS: u32 = 2000;

/// What is to be run.
pub struct One<'a> {
    pub(super) seed: u64,
    pub(super) making: Making,
    pub(super) args: &'a Args,
}

/// A run that broke a rule.
pub struct Broken {
    /// Which, and what led to it.
    pub violation: Box<Violation>,
    /// Its whole story.
    pub story: Story,
    /// Where the program's assertion stands, if it was one.
    pub place: Option<String>,
}

impl Broken {
    /// Of a plan that is known to break a rule; `None` if it does not.
    pub fn of(plan: &Plan) -> Option<Self> {
        let ((story, result), place) = quiet::quietly(|| cluster::tell(plan));
        result.err().map(|violation| Broken { violation, story, place })
    }
}

/// A plan that was made smaller.
pub struct Smaller {
    /// The plan.
    pub plan: Plan,
    /// How many runs that took.
    pub runs: u32,
    /// What it breaks.
    pub broken: Broken,
}

impl One<'_> {
    /// Runs it and reports. `false`: a rule was broken.
    pub fn run(&self) -> Result<bool, Error> {
        let plan = self.making.plan(self.seed);
        let ((story, result), place) = quiet::quietly(|| cluster::tell(&plan));
        let result = result.map_err(|violation| Broken { violation, story: story.clone(), place });
        let smaller = match &result {
            Err(broken) if self.args.shrink => smaller(&plan, broken),
            _ => None,
        };
        if let Some(path) = &self.args.svg {
            self.draw(path, smaller.as_ref().map_or(&story, |s| &s.broken.story), &result)?;
        }
        let report = tell::One { one: self, plan: &plan, story: &story, result: &result, smaller: smaller.as_ref() };
        tell::print(if self.args.json { report.json() } else { report.text() });
        Ok(result.is_ok())
    }

    fn draw(&self, path: &Path, story: &Story, result: &Result<Outcome, Broken>) -> Result<(), Error> {
        let end = match result {
            Ok(_) => "no rule was broken".to_owned(),
            Err(broken) => format!("{} was broken", broken.violation.rule),
        };
        let title = format!("{}: {end}", self.making.replay(self.seed));
        let written = std::fs::write(path, svg::draw(&title, story));
        written.map_err(|source| Error::Svg { path: path.to_owned(), source })
    }
}

fn smaller(plan: &Plan, broken: &Broken) -> Option<Smaller> {
    let (shrunk, _) = quiet::quietly(|| shrink::shrink(plan, broken.violation.clone(), MOST_RUNS));
    // Again, with its story.
    let broken = Broken::of(&shrunk.plan)?;
    Some(Smaller { plan: shrunk.plan, runs: shrunk.runs, broken })
}
