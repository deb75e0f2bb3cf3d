//! Many seeds, on several threads, and what they come to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::fault::Fault;
use crate::{Outcome, Settings, simulate};

/// A kind of fault that so many seeds had in their plans must have happened in one of them.
const ENOUGH: u64 = 20;

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Sum {
    /// How many seeds were run.
    pub seeds: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Of each fault: how many plans had it, in how many of those seeds it happened, and how often in all.
    pub faults: BTreeMap<Fault, (u64, u64, u64)>,
    /// What went wrong, by seed.
    pub failed: BTreeMap<u64, String>,
    /// The hashes of all traces together, whatever the order.
    pub hash: u64,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        for (what, n) in &outcome.counts {
            *self.counts.entry(what).or_default() += n;
        }
        for fault in &outcome.plan.faults {
            self.faults.entry(*fault).or_default().0 += 1;
        }
        for (fault, n) in &outcome.faults {
            let (_, seeds, times) = self.faults.entry(*fault).or_default();
            *seeds += u64::from(outcome.plan.faults.contains(fault));
            *times += n;
        }
        if let Some(failure) = &outcome.failure {
            self.failed.insert(seed, failure.clone());
        }
        self.hash ^= outcome.hash;
    }

    /// # Errors
    /// If a seed failed, or a kind of fault that was planned often happened in no seed.
    pub fn verdict(&self) -> Result<(), String> {
        if let Some((seed, failure)) = self.failed.first_key_value() {
            return Err(format!(
                "{} of {} seeds failed, first {seed}: {failure}",
                self.failed.len(),
                self.seeds
            ));
        }
        let never = self.faults.iter().find(|(_, (planned, _, times))| *planned >= ENOUGH && *times == 0);
        match never {
            Some((fault, (planned, ..))) => {
                Err(format!("{fault} was planned in {planned} seeds and never happened"))
            }
            None => Ok(()),
        }
    }
}

/// Runs seeds on so many threads, and calls `failed` for each that fails. `stop_at_failure`: seeds above the first that
/// fails need not be run.
pub fn run(
    seeds: Range<u64>,
    jobs: u64,
    settings: &Settings,
    stop_at_failure: bool,
    failed: impl Fn(u64, &Outcome) + Sync,
) -> Sum {
    let (sum, next, end) =
        (Mutex::new(Sum::default()), AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        break;
                    }
                    let outcome = simulate(seed, settings);
                    if outcome.failure.is_some() {
                        failed(seed, &outcome);
                        if stop_at_failure {
                            end.fetch_min(seed, Ordering::Relaxed);
                        }
                    }
                    sum.lock().unwrap_or_else(|e| e.into_inner()).add(seed, &outcome);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_was_planned_often_and_never_happened_fails_the_run() {
        for (planned, times, fails) in
            [(ENOUGH - 1, 0, false), (ENOUGH, 0, true), (ENOUGH + 1, 0, true), (ENOUGH, 1, false)]
        {
            let faults = BTreeMap::from([(Fault::Kill, (planned, times, times))]);
            let sum = Sum { faults, ..Sum::default() };
            assert_eq!(sum.verdict().is_err(), fails, "{planned} {times}");
        }
    }
}
