//! Makes a failing run smaller: fewer faults, members and clients, a shorter time. The seed stays; the plan shrinks, greedily,
//! for as long as the run still breaks the same property.

use crate::gate::property;
use crate::plan::{MS, Plan, SECOND};
use crate::{Outcome, Settings, simulate};

/// The most runs that are spent on it.
const MOST_RUNS: usize = 300;

/// What came of it.
#[derive(Debug)]
pub struct Smaller {
    /// The smallest plan that still fails.
    pub plan: Plan,
    /// How it fails.
    pub failure: String,
    /// How many runs it took.
    pub runs: usize,
}

/// The next smaller plans, the largest steps first.
fn smaller(plan: &Plan, ended_at: u64) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut offer = |change: &dyn Fn(&mut Plan)| {
        let mut other = plan.clone();
        change(&mut other);
        let faults = std::mem::take(&mut other.faults);
        other.faults = faults.into_iter().filter(|fault| other.permits(*fault)).collect();
        if other != *plan {
            plans.push(other);
        }
    };
    // What comes after the failure does not matter; but heal soon, if it is only seen then.
    for duration in [ended_at.min(plan.duration) / 2, ended_at, plan.duration * 3 / 4] {
        let duration = duration.next_multiple_of(MS).max(SECOND);
        offer(&|plan| plan.duration = plan.duration.min(duration));
    }
    let half = plan.faults.len() / 2;
    if half > 0 {
        offer(&|plan| plan.faults.truncate(half));
        offer(&|plan| drop(plan.faults.drain(..half)));
    }
    for at in 0..plan.faults.len() {
        offer(&|plan| {
            plan.faults.remove(at);
        });
    }
    for members in [1, 2, 3] {
        offer(&|plan| plan.members = plan.members.min(members));
    }
    for clients in [0, 1, 2, plan.clients / 2] {
        offer(&|plan| plan.clients = plan.clients.min(clients));
    }
    offer(&|plan| plan.keys = 1);
    offer(&|plan| plan.value_bytes = 16);
    offer(&|plan| plan.think = plan.think.max(500 * MS));
    offer(&|plan| plan.snapshot_bytes = 64 << 20);
    offer(&|plan| plan.log_cache_bytes = 32 << 20);
    plans
}

/// Shrinks the plan of a run that failed.
pub fn minimise(seed: u64, settings: &Settings, outcome: &Outcome) -> Smaller {
    let failure = outcome.failure.clone().unwrap_or_default();
    let mut best = Smaller { plan: outcome.plan.clone(), failure, runs: 0 };
    let mut ended_at = outcome.ended_at;
    'again: loop {
        for plan in smaller(&best.plan, ended_at) {
            if best.runs == MOST_RUNS {
                return best;
            }
            best.runs += 1;
            let settings = Settings { plan: Some(plan.clone()), ..settings.clone() };
            let outcome = simulate(seed, &settings);
            if let Some(failure) = outcome.failure
                && property(&failure) == property(&best.failure)
            {
                (best.plan, best.failure, ended_at) = (plan, failure, outcome.ended_at);
                continue 'again;
            }
        }
        return best;
    }
}
