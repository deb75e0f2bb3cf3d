//! Load, and what it meets.
//!
//! All clients share one thread, and a request's bytes are made once and only patched afterwards, because the clients
//! usually run on the machine that they measure. Each client has a connection of its own, with up to `--pipeline`
//! requests in flight; the clients are spread over the endpoints in turn.
//!
//! - **Closed loop** (the default): a client sends the next request when it has room for it. So it sends less while the
//!   server is slow, and the percentiles say what these clients saw. Counted are answers that arrive within the measured
//!   seconds; a latency goes from just before its request is sent.
//! - **Open loop** (`--rate`): requests arrive on a schedule, whatever became of those before them, and whichever client
//!   has room takes the next. A latency goes from the instant at which its request was *due*: if the server stalls for a
//!   second, the requests of that second waited, and are counted as having waited. Counted are requests that were due
//!   within the measured seconds, also if their answers come later. Those that no client had room for, until 100 ms after
//!   the end, are errors.
//!
//! A latency ends just after the last byte of the answer is read. Only a 2xx, or what is no error of Redis's, is an
//! acknowledgement. A read of a key that is absent is one too, and counted apart as well. Everything else is an error, by its
//! status or its cause.
//!
//! A client that lost its connection opens another one at the same endpoint, 50 ms later. Requests whose answer is
//! still missing 10 s after the end are given up and counted.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use tokio::task::{JoinSet, LocalSet};

mod client;
mod keys;
mod requests;
mod schedule;

use client::Client;
use keys::{Keys, Zipf};
use requests::{Outcome, Requests};
use schedule::{Pace, Schedule};

use crate::{Endpoint, Operation, Report};

/// How long the last answers are waited for after the end; and in a fill, how long any answer is.
const GRACE: Duration = Duration::from_secs(10);

/// What can be measured.
#[derive(Debug, Clone, Subcommand)]
pub enum Bench {
    /// Writes
    Put {
        /// The clients and what they ask for.
        #[command(flatten)]
        clients: Clients,
        /// How long and how fast.
        #[command(flatten)]
        timing: Timing,
    },
    /// Linearizable reads, or stale ones; `fill` writes the keys first
    Get {
        /// The clients and what they ask for.
        #[command(flatten)]
        clients: Clients,
        /// How long and how fast.
        #[command(flatten)]
        timing: Timing,
        /// How current.
        #[command(flatten)]
        reading: Reading,
    },
    /// Reads and writes
    Mixed {
        /// The clients and what they ask for.
        #[command(flatten)]
        clients: Clients,
        /// How long and how fast.
        #[command(flatten)]
        timing: Timing,
        /// How current.
        #[command(flatten)]
        reading: Reading,
        /// How many of a hundred requests read
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
        read_percent: u32,
    },
    /// Writes each key once, in order; takes as long as it takes
    Fill {
        /// The clients and what they ask for.
        #[command(flatten)]
        clients: Clients,
    },
}

/// The clients, and what they ask for.
#[derive(Debug, Clone, Args)]
pub struct Clients {
    /// Clients, each with a connection of its own, spread over the endpoints in turn
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Requests that each client has in flight at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pipeline: u32,
    /// What the clients speak; if it is not given, what the endpoint's URL says (http:// or redis://)
    #[arg(long)]
    pub protocol: Option<Protocol>,
    /// Different keys, chosen at random
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Bytes of each value that is written
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub value_bytes: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// How long and how fast.
#[derive(Debug, Clone, Args)]
pub struct Timing {
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds before those, not measured
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub warmup: f64,
    /// Requests a second that arrive on a schedule (open loop), instead of one after the other (closed loop)
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// Choose keys by Zipf's law with this exponent, such as 0.99, instead of equally often
    #[arg(long, value_parser = exponent)]
    pub zipf: Option<f64>,
}

/// How current reads have to be.
#[derive(Debug, Clone, Args)]
pub struct Reading {
    /// Read what the member has, at once, instead of linearizably
    #[arg(long)]
    pub stale: bool,
}

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1, as kvd's `--port` takes it
    Http,
    /// Redis's protocol
    Redis,
}

/// Between nothing and a day: all that a measurement can reasonably take.
fn seconds(text: &str) -> Result<f64, String> {
    within(text, 0.0, 86_400.0).ok_or_else(|| "a number of seconds, 0 to 86400".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 0.1, 10_000_000.0).ok_or_else(|| "requests a second, 0.1 to 10000000".to_owned())
}

fn exponent(text: &str) -> Result<f64, String> {
    within(text, 0.01, 10.0).ok_or_else(|| "an exponent, 0.01 to 10".to_owned())
}

fn within(text: &str, least: f64, most: f64) -> Option<f64> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

impl Bench {
    /// The clients, which every kind of load has.
    pub fn clients(&self) -> &Clients {
        match self {
            Bench::Put { clients, .. }
            | Bench::Get { clients, .. }
            | Bench::Mixed { clients, .. }
            | Bench::Fill { clients } => clients,
        }
    }

    /// How long and how fast; a fill takes as long as it takes.
    pub fn timing(&self) -> Option<&Timing> {
        match self {
            Bench::Put { timing, .. } | Bench::Get { timing, .. } | Bench::Mixed { timing, .. } => {
                Some(timing)
            }
            Bench::Fill { .. } => None,
        }
    }

    /// Of a hundred requests, so many read.
    pub fn read_percent(&self) -> u32 {
        match self {
            Bench::Put { .. } | Bench::Fill { .. } => 0,
            Bench::Get { .. } => 100,
            Bench::Mixed { read_percent, .. } => *read_percent,
        }
    }

    /// Whether reads take what the member has.
    pub fn stale(&self) -> bool {
        match self {
            Bench::Get { reading, .. } | Bench::Mixed { reading, .. } => reading.stale,
            Bench::Put { .. } | Bench::Fill { .. } => false,
        }
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Bench::Put { .. } => "put",
            Bench::Get { .. } => "get",
            Bench::Mixed { .. } => "mixed",
            Bench::Fill { .. } => "fill",
        }
    }

    fn protocol_at(&self, endpoint: &Endpoint) -> Protocol {
        self.clients().protocol.unwrap_or(endpoint.protocol())
    }

    fn keys(&self) -> Keys {
        let count = self.clients().keys;
        match self.timing() {
            None => Keys::Once(Rc::default(), count),
            Some(Timing { zipf: Some(exponent), .. }) => Keys::Zipf(Zipf::new(count, *exponent)),
            Some(_) => Keys::Uniform(count),
        }
    }
}

/// The measured part of the run.
#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    fn has(&self, instant: Instant) -> bool {
        (self.from..self.until).contains(&instant)
    }
}

/// What all clients of a run share.
struct Shared {
    window: Window,
    /// Whether requests count by when they were due, rather than by when they were answered.
    open: bool,
    /// Requests that were sent, without an answer yet.
    in_flight: Cell<u64>,
    report: RefCell<Report>,
}

impl Shared {
    fn answered(&self, operation: Operation, due: Instant, answered: Instant, outcome: &Outcome) {
        self.in_flight.set(self.in_flight.get() - 1);
        if !self.window.has(if self.open { due } else { answered }) {
            return;
        }
        let mut report = self.report.borrow_mut();
        match outcome {
            Outcome::Done => report.acknowledge(operation, answered - due),
            Outcome::Absent => {
                report.acknowledge(operation, answered - due);
                report.absent();
            }
            Outcome::Refused(kind) => report.error(kind, 1),
        }
    }

    /// Counts requests, or attempts to connect, that got no answer. In an open loop also those that were in flight at the
    /// end: they were due before it.
    fn error(&self, kind: &str, count: u64, now: Instant) {
        if count > 0 && (self.window.has(now) || self.open && now >= self.window.from) {
            self.report.borrow_mut().error(kind, count);
        }
    }
}

/// Runs a measurement and reports.
///
/// # Errors
/// If the kernel gives no timer for an open loop.
pub async fn run(endpoints: &[Endpoint], bench: &Bench) -> io::Result<Report> {
    let Clients { clients, pipeline, .. } = *bench.clients();
    let begin = Instant::now();
    let (warmup, measured, rate) = match bench.timing() {
        Some(timing) => {
            (Duration::from_secs_f64(timing.warmup), Duration::from_secs_f64(timing.seconds), timing.rate)
        }
        // Not a bound: a fill ends with its keys, or for want of answers.
        None => (Duration::ZERO, Duration::from_secs(100 * 86_400), None),
    };
    let from = begin + warmup;
    let window = Window { from, until: from + measured };
    let report = RefCell::new(Report::new(endpoints, bench));
    let shared = Rc::new(Shared { window, open: rate.is_some(), in_flight: Cell::new(0), report });
    let pace = match rate {
        Some(rate) => Pace::Open(Rc::new(Schedule::new(begin, rate, clients as usize))),
        None => Pace::Closed,
    };
    let keys = bench.keys();

    let run = async {
        let mut tasks = JoinSet::new();
        for (number, endpoint) in (0..clients).zip(endpoints.iter().cycle()) {
            let client = Client {
                number: number as usize,
                endpoint: endpoint.clone(),
                requests: Requests::new(endpoint, bench, keys.clone(), number),
                pipeline: pipeline as usize,
                pace: pace.clone(),
                shared: Rc::clone(&shared),
            };
            tasks.spawn_local(client.run());
        }
        if io::stderr().is_terminal() {
            tokio::task::spawn_local(progress(Rc::clone(&shared), begin));
        }
        if let Pace::Open(schedule) = &pace {
            schedule.keep_time(window.until).await?;
        }
        if !all_end(&mut tasks, &shared, bench.timing().is_none()).await {
            // Ended with their set, when it is dropped.
            let what = format!("no answer within {} s", GRACE.as_secs());
            shared.report.borrow_mut().error(&what, shared.in_flight.get().max(1));
        }
        if let Pace::Open(schedule) = &pace {
            let left = schedule.left_behind(window.from, window.until);
            shared.report.borrow_mut().error("never sent: no client had room", left);
        }
        if bench.timing().is_none() {
            shared.report.borrow_mut().took(begin.elapsed());
        }
        Ok(())
    };
    LocalSet::new().run_until(run).await.map(|()| shared.report.borrow().clone())
}

/// Waits for the clients; false if some are still without an answer after the time that they have.
async fn all_end(tasks: &mut JoinSet<()>, shared: &Shared, is_fill: bool) -> bool {
    let mut deadline = if is_fill { Instant::now() } else { shared.window.until } + GRACE;
    let mut acknowledged = 0;
    loop {
        match tokio::time::timeout_at(deadline.into(), tasks.join_next()).await {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => {
                let now = shared.report.borrow().acknowledged();
                if !is_fill || now == acknowledged {
                    return false;
                }
                acknowledged = now;
                deadline += GRACE;
            }
        }
    }
}

/// One line a second on stderr.
async fn progress(shared: Rc<Shared>, begin: Instant) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.tick().await;
    shared.report.borrow_mut().watch();
    loop {
        ticks.tick().await;
        let recent = shared.report.borrow_mut().recent();
        let line = if Instant::now() < shared.window.from { "warm-up" } else { recent.as_str() };
        // If nobody reads it, that is no reason to stop.
        let _ = writeln!(io::stderr(), "{:4.0} s  {line}", begin.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser;

    /// What stands after `kvctl bench`.
    pub(crate) fn load(line: &str) -> Bench {
        #[derive(Parser)]
        struct Line {
            #[command(subcommand)]
            bench: Bench,
        }
        Line::parse_from(["bench"].into_iter().chain(line.split_whitespace())).bench
    }
}
