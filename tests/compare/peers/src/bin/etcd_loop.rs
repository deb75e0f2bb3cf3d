//! The closed loop of `kvctl bench put` and `kvctl bench get` against etcd.
//!
//! As there: one thread, every client on a connection of its own with one request in flight, the same keys in the same
//! order, answers counted that arrive within the measured seconds after the warm-up, latencies in microseconds to three
//! digits. The JSON has the same names. What differs is the protocol, which is etcd's gRPC by the `etcd-client` crate.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use etcd_client::Client;
use hdrhistogram::Histogram;
use tokio::task::{JoinSet, LocalSet};

type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
struct Flags {
    /// What each request does
    operation: Operation,
    /// Addresses of members, HOST:PORT, separated by commas; clients are spread over them in turn
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// Clients, each with one request in flight
    #[arg(long, default_value_t = 64)]
    clients: u32,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before those
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Different keys
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Operation {
    /// Writes keys chosen at random
    Put,
    /// Reads them, linearizably
    Get,
    /// Writes each key once, in order, and ends; takes as long as it takes
    Fill,
}

/// What all clients share.
struct Shared {
    operation: Operation,
    keys: u32,
    next: u32,
    from: Instant,
    until: Instant,
    latency: Histogram<u64>,
    errors: BTreeMap<String, u64>,
}

fn main() -> Result<(), Failure> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(run(flags)))
}

async fn run(flags: Flags) -> Result<(), Failure> {
    let mut connections = Vec::new();
    for (_, endpoint) in (0..flags.clients).zip(flags.endpoints.iter().cycle()) {
        connections.push(Client::connect([endpoint], None).await?);
    }
    let begun = Instant::now();
    let fill = flags.operation == Operation::Fill;
    let from = if fill { begun } else { begun + Duration::from_secs_f64(flags.warmup) };
    let measured = if fill { Duration::from_secs(86_400) } else { Duration::from_secs_f64(flags.seconds) };
    let shared = Rc::new(RefCell::new(Shared {
        operation: flags.operation,
        keys: flags.keys,
        next: 0,
        from,
        until: from + measured,
        latency: Histogram::new_with_bounds(1, 3_600_000_000, 3)?,
        errors: BTreeMap::new(),
    }));
    let mut clients = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        let mut random = Random((number as u64).wrapping_mul(0xD1B5_4A32_D192_ED03));
        let value: Vec<u8> = (0..flags.value_bytes).map(|_| random.next() as u8).collect();
        clients.spawn_local(client(connection, random, value, Rc::clone(&shared)));
    }
    while clients.join_next().await.is_some() {}

    let shared = shared.borrow();
    let seconds = if fill { begun.elapsed().as_secs_f64() } else { flags.seconds };
    let latency: serde_json::Map<String, serde_json::Value> =
        [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9), ("max", 100.0)]
            .map(|(name, percentile)| {
                (name.to_owned(), shared.latency.value_at_percentile(percentile).into())
            })
            .into_iter()
            .collect();
    let report = serde_json::json!({
        "clients": flags.clients,
        "seconds": seconds,
        "acknowledged": shared.latency.len(),
        "per_second": shared.latency.len() as f64 / seconds,
        "latency_us": latency,
        "errors": shared.errors,
    });
    println!("{report}");
    Ok(())
}

async fn client(connection: Client, mut random: Random, value: Vec<u8>, shared: Rc<RefCell<Shared>>) {
    let mut kv = connection.kv_client();
    let (operation, keys) = (shared.borrow().operation, shared.borrow().keys);
    loop {
        let sent = Instant::now();
        let number = {
            let mut shared = shared.borrow_mut();
            if sent >= shared.until || shared.next >= keys {
                return;
            }
            match operation {
                Operation::Fill => {
                    shared.next += 1;
                    shared.next - 1
                }
                Operation::Put | Operation::Get => (((random.next() >> 32) * u64::from(keys)) >> 32) as u32,
            }
        };
        let key = format!("bench-{number:010}");
        let answer = match operation {
            Operation::Put | Operation::Fill => kv.put(key, value.as_slice(), None).await.map(drop),
            Operation::Get => kv.get(key, None).await.map(drop),
        };
        let answered = Instant::now();
        let mut shared = shared.borrow_mut();
        if (shared.from..shared.until).contains(&answered) {
            match answer {
                Ok(()) => shared.latency.saturating_record((answered - sent).as_micros().max(1) as u64),
                Err(error) => *shared.errors.entry(error.to_string()).or_default() += 1,
            }
        }
    }
}

/// SplitMix64, as in `kvctl bench`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
