//! Runs sections: hands their units to threads, counts images, keeps failures.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::plant::Plant;

/// What to run, and how much of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Draws the samples.
    pub seed: u64,
    /// Of the damage that is enumerated (lengths, bits, sectors), every n-th image is opened. 1 is all.
    pub every: u64,
    /// How many subsets are drawn where there are too many to have them all.
    pub samples: u64,
    /// Threads.
    pub jobs: usize,
    /// Only the image of this name.
    pub only: Option<String>,
    /// A bug, to see that it is caught.
    pub plant: Option<Plant>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { seed: 0, every: 1, samples: 64, jobs: 1, only: None, plant: None }
    }
}

/// A kind of image.
pub struct Section {
    /// For the command line.
    pub name: &'static str,
    /// What its images are.
    pub about: &'static str,
    pub(crate) units: fn(&Settings) -> Vec<Unit>,
}

/// A part of a section that one thread does.
pub(crate) type Unit = Box<dyn Fn(&mut Sink<'_>) + Send + Sync>;

/// Units that share the numbers below `count`.
pub(crate) fn shared(count: u64, run: fn(&mut Sink<'_>, Range<u64>)) -> Vec<Unit> {
    let part = count.div_ceil(16);
    let parts = (0..16).map(|n| n * part..count.min((n + 1) * part));
    parts.map(|part| Box::new(move |sink: &mut Sink<'_>| run(sink, part.clone())) as Unit).collect()
}

/// An image that did not do as it should.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The image's name within its section.
    pub image: String,
    /// What is wrong.
    pub what: String,
}

/// What came of a section.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How many images were opened.
    pub images: u64,
    /// What they were, or what came of them, counted.
    pub counts: BTreeMap<&'static str, u64>,
    /// How many failed.
    pub failed: u64,
    /// The first ones that did.
    pub failures: Vec<Failure>,
    /// Time that threads spent.
    pub time: Duration,
}

/// Failures that are kept for each section.
const KEPT: usize = 10;

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.images += other.images;
        self.failed += other.failed;
        self.time += other.time;
        for (what, n) in other.counts {
            *self.counts.entry(what).or_default() += n;
        }
        self.failures.extend(other.failures);
        self.failures.truncate(KEPT);
    }
}

/// Where a unit reports its images.
pub(crate) struct Sink<'a> {
    pub(crate) settings: &'a Settings,
    outcome: Outcome,
}

impl Sink<'_> {
    /// Checks an image, unless another one is wanted. A panic is a failure.
    pub(crate) fn image(
        &mut self,
        name: impl Fn() -> String,
        check: impl FnOnce(&mut Counts<'_>) -> Result<(), String>,
    ) {
        if self.settings.only.as_ref().is_some_and(|only| *only != name()) {
            return;
        }
        self.outcome.images += 1;
        let counts = AssertUnwindSafe(&mut self.outcome.counts);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let AssertUnwindSafe(counts) = counts;
            check(&mut Counts(counts))
        }));
        let what = match result {
            Ok(Ok(())) => return,
            Ok(Err(what)) => what,
            Err(panic) => format!("panic: {}", describe(&*panic)),
        };
        self.outcome.failed += 1;
        if self.outcome.failures.len() < KEPT {
            self.outcome.failures.push(Failure { image: name(), what });
        }
    }

    /// A section that cannot be set up: a failure of its own.
    pub(crate) fn setup<T>(&mut self, what: &str, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|error| {
                self.outcome.failed += 1;
                let failure = Failure { image: format!("{what}/setup"), what: error };
                self.outcome.failures.push(failure);
            })
            .ok()
    }
}

/// Counts what images are.
pub(crate) struct Counts<'a>(&'a mut BTreeMap<&'static str, u64>);

impl Counts<'_> {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

fn describe(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words")
}

/// Runs sections, and returns what came of each, in their order.
pub fn run(sections: &[&Section], settings: &Settings) -> Vec<Outcome> {
    let units = sections.iter().enumerate().flat_map(|(at, section)| {
        let units = (section.units)(settings).into_iter();
        units.map(move |unit| (at, unit))
    });
    let queue: Mutex<VecDeque<(usize, Unit)>> = Mutex::new(units.collect());
    let outcomes = Mutex::new(vec![Outcome::default(); sections.len()]);
    let work = || {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((at, unit)) = next else { break };
            let mut sink = Sink { settings, outcome: Outcome::default() };
            let begun = Instant::now();
            unit(&mut sink);
            sink.outcome.time = begun.elapsed();
            outcomes.lock().unwrap_or_else(PoisonError::into_inner)[at].add(sink.outcome);
        }
    };
    thread::scope(|scope| {
        for _ in 0..settings.jobs.max(1) {
            scope.spawn(work);
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}
