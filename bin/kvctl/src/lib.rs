//! The command-line client of kvd.
//!
//! It stands outside the cluster: it speaks HTTP to the members' client ports and uses no crate of kvd.
//!
//! | command | does |
//! |---|---|
//! | `put KEY VALUE`, `get KEY` | one write, one linearizable read, at the first endpoint that takes a connection |
//! | `member list`, `add`, `remove`, `promote`, `change` | who belongs to the cluster ([`cluster`]) |
//! | `leader transfer` | who leads it |
//! | `status` | one line a member: its role, how far it is, whether it is ready |
//! | `bench put` | a closed loop of writes: throughput and latency ([`mod@bench`]) |
//!
//! Nothing is retried once a request was sent: the answer is the server's, or the outcome is unknown and said to be.

use std::io::{self, Write};

use clap::{Args, Parser, Subcommand};

pub mod bench;
pub mod cluster;
mod commands;
mod endpoint;
pub mod http;
mod report;

pub use endpoint::{Endpoint, EndpointError};
pub use report::Report;

/// Command line of `kvctl`.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, about = "Command-line client of kvd")]
pub struct Cli {
    /// Client URLs of members, separated by commas
    #[arg(
        long,
        global = true,
        env = "KVCTL_ENDPOINTS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:9121"
    )]
    pub endpoints: Vec<Endpoint>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What `kvctl` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a key; returns once the write is committed and applied
    Put {
        /// The key
        key: String,
        /// Its new value
        value: String,
    },
    /// Read a key, linearizably; the value goes to stdout as it is
    Get {
        /// The key
        key: String,
    },
    /// Say who belongs to the cluster
    #[command(subcommand)]
    Member(cluster::Member),
    /// Say who leads it
    #[command(subcommand)]
    Leader(cluster::Leader),
    /// Say of each member what its role is, how far it is, and whether it is ready
    Status {
        /// How to print it
        #[command(flatten)]
        output: cluster::Output,
    },
    /// Measure
    #[command(subcommand)]
    Bench(Bench),
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Writes in a closed loop: each client waits for its answer before it sends the next
    Put(BenchPut),
}

/// Flags of `bench put`.
#[derive(Debug, Clone, Args)]
pub struct BenchPut {
    /// Clients, each with a connection of its own and one request in flight, spread over the endpoints in turn
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub clients: u32,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds before those, not measured
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub warmup: f64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=64 << 20))]
    pub value_bytes: u32,
    /// Different keys that are written, chosen at random and equally often
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Between nothing and a day: all that a measurement can reasonably take.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds, 0 to 86400".to_owned()),
    }
}

/// Why a command failed. The program prints it and ends with 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint takes a connection; nothing was sent.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The last endpoint that was tried.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
    /// A request was sent, its answer did not arrive.
    #[error("no answer from {endpoint}; whether the request took effect is unknown")]
    NoAnswer {
        /// Where it was sent.
        endpoint: Endpoint,
        /// Why.
        source: http::Error,
    },
    /// The server said no.
    #[error("{endpoint} answered {status}{}", text_of(.body))]
    Status {
        /// Which server.
        endpoint: Endpoint,
        /// HTTP status code.
        status: u16,
        /// The reason in words.
        body: Vec<u8>,
    },
    /// `get` of a key that is absent.
    #[error("no such key: {0}")]
    NoSuchKey(String),
    /// The answer is not what this client understands.
    #[error("{endpoint} answered with what is no JSON: is it a kvd, and of this version?")]
    NotUnderstood {
        /// Which server.
        endpoint: Endpoint,
    },
    /// `status` found a member that is not ready.
    #[error("members that are not ready: {0}")]
    NotReady(usize),
    /// A measurement without a single acknowledged write.
    #[error("nothing was acknowledged; {0}")]
    NothingAcknowledged(String),
    /// The runtime could not be started, or stdout could not be written.
    #[error("local failure")]
    Local(#[from] io::Error),
}

fn text_of(body: &[u8]) -> String {
    // A problem document says it in words, and has a code for programs.
    if let Ok(problem) = serde_json::from_slice::<serde_json::Value>(body)
        && let (Some(detail), Some(code)) = (problem["detail"].as_str(), problem["code"].as_str())
    {
        return format!(" ({code}): {detail}");
    }
    match String::from_utf8_lossy(body).trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

/// Runs one command; its output goes to `out`.
///
/// # Errors
/// See [`Error`].
pub fn run(cli: Cli, out: &mut dyn Write) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Put { key, value } => commands::put(&cli.endpoints, &key, value.as_bytes()).await,
            Command::Get { key } => commands::get(&cli.endpoints, &key, out).await,
            Command::Member(command) => cluster::member(&cli.endpoints, command, out).await,
            Command::Leader(command) => cluster::leader(&cli.endpoints, command, out).await,
            Command::Status { output } => cluster::status(&cli.endpoints, output.format, out).await,
            Command::Bench(Bench::Put(flags)) => {
                let report = bench::put(&cli.endpoints, &flags).await;
                if flags.json {
                    writeln!(out, "{}", report.json())?;
                } else {
                    write!(out, "{}", report.table())?;
                }
                match report.acknowledged() {
                    0 => Err(Error::NothingAcknowledged(report.errors_in_words())),
                    _ => Ok(()),
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn bench_put_has_its_defaults() {
        let cli = parse("kvctl bench put").unwrap();
        assert_eq!(cli.endpoints.len(), 1);
        let Command::Bench(Bench::Put(flags)) = cli.command else { panic!("not bench put") };
        assert_eq!((flags.clients, flags.value_bytes, flags.keys), (64, 256, 100_000));
        assert_eq!((flags.seconds, flags.warmup), (10.0, 2.0));
    }

    #[test]
    fn endpoints_are_a_list_and_may_stand_anywhere() {
        let cli = parse("kvctl bench put --endpoints http://127.0.0.1:1,http://[::1]:2 --json").unwrap();
        let endpoints: Vec<String> = cli.endpoints.iter().map(Endpoint::to_string).collect();
        assert_eq!(endpoints, ["http://127.0.0.1:1", "http://[::1]:2"]);
    }

    #[test]
    fn flags_out_of_bounds_are_refused() {
        for flags in
            ["--clients 0", "--clients 10001", "--seconds -1", "--seconds NaN", "--seconds 86401", "--keys 0"]
        {
            assert!(parse(&format!("kvctl bench put {flags}")).is_err(), "{flags}");
        }
        for flags in ["--clients 1", "--clients 10000", "--seconds 0.5", "--seconds 86400", "--keys 1"] {
            assert!(parse(&format!("kvctl bench put {flags}")).is_ok(), "{flags}");
        }
        assert!(parse("kvctl --endpoints nowhere status").is_err());
    }
}
