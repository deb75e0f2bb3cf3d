//! Whole clusters of kvd in one thread: the real core, log, snapshots and store over a simulated disk, network and
//! clock.
//!
//! ```text
//!   seed --> Plan (shape, limits, faults)
//!              |
//!              v
//!   World: one clock, one queue of events, one generator
//!     |            |             |             |
//!   Member       Net          Clients       Nemesis
//!   real Core,   delays,      history of    crashes, partitions,
//!   Wal, Snap,   losses,      what was      slow and failing disks, ...
//!   MemDisk      snapshots    told
//!     |                          |
//!   invariants/ (each turn)    oracle (at the end)
//! ```
//!
//! # Contract
//! - A seed decides everything: the same seed gives the same trace, bit for bit, on every machine. There is no clock,
//!   no thread, no hash order and no other source of chance in here.
//! - Every member runs the code that `kvd` runs, from [`kvd_node::driver`] on; what the threads and the transport do
//!   there is done here, under the same rules, at other moments.
//! - Raft's properties are checked after each turn ([`invariants`]), what clients were told at the end ([`oracle`]).
//!   Then everything is healed, and the cluster must agree and serve within a bound.
//! - A fault counts when it has had an effect; a run of many seeds in which a kind had none fails ([`Sum::verdict`]).
//! - That all this would notice something is shown by planting bugs ([`Bug`], [`gate`]).
//! - A seed that fails is made smaller ([`minimise`]).

mod calls;
pub mod clients;
mod clock;
mod disk;
mod fault;
pub mod gate;
pub mod history;
pub mod invariants;
pub mod machine;
mod member;
pub mod minimise;
pub mod nemesis;
pub mod net;
mod operator;
pub mod oracle;
mod plan;
mod power;
mod process;
mod rng;
mod rot;
mod runs;
mod shadow;
mod trace;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};

pub use fault::Fault;
pub use kvd_mutation::Bug;
pub use plan::Plan;
pub use rng::Rng;
pub use runs::{Sum, run};
pub use trace::{Level, Micros, Trace};
pub use world::World;

/// How simulations are run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What of the trace is printed.
    pub print: Level,
    /// The bug that is planted.
    pub bug: Option<Bug>,
    /// The plan, in place of the one that the seed draws.
    pub plan: Option<Plan>,
}

/// How a simulation ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The hash over the whole trace.
    pub hash: u64,
    /// The lines of the trace.
    pub lines: u64,
    /// What went wrong.
    pub failure: Option<String>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// How often each fault was brought about.
    pub faults: BTreeMap<Fault, u64>,
    /// The faults of the plan that did not happen.
    pub missed: Vec<Fault>,
    /// When it ended.
    pub ended_at: Micros,
    /// How it was set up.
    pub plan: Plan,
}

thread_local! {
    /// What the last panic within a simulation said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static SIMULATING: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic within a simulation is not printed when it happens: it is the outcome's failure, with its place.
pub fn keep_panics_quiet() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if SIMULATING.get() {
            PANIC.set(Some(info.to_string().replace('\n', " ")));
        } else {
            before(info);
        }
    }));
}

/// Runs the simulation of a seed. A panic of the code under test is a failure like any other.
pub fn simulate(seed: u64, settings: &Settings) -> Outcome {
    kvd_mutation::select(settings.bug);
    SIMULATING.set(true);
    let run = panic::catch_unwind(AssertUnwindSafe(|| World::new(seed, settings).run()));
    SIMULATING.set(false);
    kvd_mutation::select(None);
    run.unwrap_or_else(|cause| {
        let said = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default();
        let text = PANIC.take().unwrap_or(said);
        Outcome {
            hash: 0,
            lines: 0,
            failure: Some(format!("panic: {text}")),
            counts: BTreeMap::new(),
            faults: BTreeMap::new(),
            missed: Vec::new(),
            ended_at: Micros::MAX,
            plan: settings.plan.clone().unwrap_or_else(|| Plan::draw(&mut Rng::new(seed))),
        }
    })
}
