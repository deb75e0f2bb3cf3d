//! The mutation gate: plants each bug and looks how many seeds it takes until something is noticed.
//!
//! A bug that nothing notices is a hole in the simulator: a fault that is too rare, or a property that is not checked.

use std::time::Instant;

use crate::{Bug, Settings, run};

/// What became of a planted bug.
#[derive(Debug)]
pub struct Caught {
    /// Which.
    pub bug: Bug,
    /// The first seed that noticed it, and what it said.
    pub by: Option<(u64, String)>,
    /// How long that took.
    pub seconds: f64,
}

impl Caught {
    /// The property that noticed it: the part of what it said before the colon.
    pub fn property(&self) -> &str {
        self.by.as_ref().map_or("", |(_, said)| property(said))
    }
}

/// The property that a failure names.
pub fn property(failure: &str) -> &str {
    failure.split(':').next().unwrap_or(failure)
}

/// Plants a bug in seeds 0 to `seeds`, until one of them notices.
pub fn plant(bug: Bug, seeds: u64, jobs: u64) -> Caught {
    let begun = Instant::now();
    let settings = Settings { bug: Some(bug), ..Settings::default() };
    let sum = run(0..seeds, jobs, &settings, true, |_, _| {});
    Caught { bug, by: sum.failed.into_iter().next(), seconds: begun.elapsed().as_secs_f64() }
}
