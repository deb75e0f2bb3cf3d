//! The command-line client of kvd.
//!
//! It stands outside the cluster. It speaks HTTP to the members' client ports, with a client of its own, and it reads
//! members' files, with the crates that own their formats; of the member itself it uses nothing.
//!
//! | command | does |
//! |---|---|
//! | `put KEY VALUE`, `get KEY` | one write, one linearizable read, at the first endpoint that takes a connection |
//! | `member list`, `add`, `remove`, `promote`, `change` | who belongs to the cluster ([`cluster`]) |
//! | `leader transfer` | who leads it |
//! | `status` | one line a member: its role, how far it is, whether it is ready |
//! | `bench put`, `get`, `mixed`, `fill` | load in a closed or an open loop: throughput and latency ([`mod@bench`]) |
//! | `wal dump`, `wal verify` | a member's log, record by record, or checked as a whole ([`files`]) |
//! | `snap inspect`, `snap verify` | its snapshots |
//!
//! Nothing is retried once a request was sent: the answer is the server's, or the outcome is unknown and said to be.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub mod bench;
pub mod cluster;
mod commands;
mod endpoint;
pub mod files;
pub mod http;
mod report;
pub mod resp;

pub use bench::Bench;
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
    /// Measure: throughput and latency over HTTP or Redis's protocol
    #[command(subcommand)]
    Bench(Bench),
    /// Read a member's log; it may run meanwhile
    #[command(subcommand)]
    Wal(files::Wal),
    /// Read a member's snapshots; it may run meanwhile
    #[command(subcommand)]
    Snap(files::Snap),
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It writes.
    Put,
    /// It reads.
    Get,
}

/// Why a command failed. The program prints it and ends with [`Error::exit_code`].
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
    #[error("not ready: {0} of the members; the table says why")]
    NotReady(usize),
    /// A measurement without a single acknowledged request.
    #[error("nothing was acknowledged; {0}")]
    NothingAcknowledged(String),
    /// The runtime could not be started, or stdout could not be written.
    #[error("local failure")]
    Local(#[from] io::Error),
    /// The log ends in a write that was cut off.
    #[error(
        "{} is torn at offset {}: {}; nothing of that write was acknowledged: starting the member cuts it, and keeps a copy",
        .0.file.display(), .0.offset, .0.finding
    )]
    Torn(kvd_wal::TornTail),
    /// The log is damaged, or could not be read.
    #[error(transparent)]
    Wal(#[from] kvd_wal::Error),
    /// A directory of snapshots could not be read.
    #[error(transparent)]
    Snap(#[from] kvd_snap::Error),
    /// No snapshot that the log can be opened at has a file.
    #[error(
        "no snapshot that the log in {} has on record, committed, is there: restore its file, or remove this member and \
         add it under a new id", dir.display()
    )]
    NoSnapshot {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Some snapshots are damaged.
    #[error(
        "damaged snapshots: {0}; a member that starts sets them aside and uses an older one, with more of its log"
    )]
    DamagedSnapshots(usize),
    /// Some snapshots could not be read.
    #[error("snapshots that could not be read: {0}")]
    UnreadableSnapshots(usize),
    /// A path leads to nothing that can be read.
    #[error("found no {wanted} in {}, where {names} would be; give a member's data directory", path.display())]
    NothingThere {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// By which names.
        names: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What the program ends with: 2 if files could not be read, as for bad flags; 1 for everything else, damage among it;
    /// 0 if it is only that nobody reads on, as `head` does.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Local(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Error::Wal(error) if !files::is_damage(error) => 2,
            Error::Snap(error) if !error.is_corruption() => 2,
            Error::NothingThere { .. } | Error::Read { .. } | Error::UnreadableSnapshots(_) => 2,
            _ => 1,
        }
    }
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
    match cli.command {
        Command::Put { key, value } => block_on(commands::put(&cli.endpoints, &key, value.as_bytes()))?,
        Command::Get { key } => block_on(commands::get(&cli.endpoints, &key, out))?,
        Command::Member(command) => block_on(cluster::member(&cli.endpoints, command, out))?,
        Command::Leader(command) => block_on(cluster::leader(&cli.endpoints, command, out))?,
        Command::Status { output } => block_on(cluster::status(&cli.endpoints, output.format, out))?,
        Command::Bench(bench) => {
            let report = block_on(bench::run(&cli.endpoints, &bench))??;
            if bench.clients().json {
                writeln!(out, "{}", report.json())?;
            } else {
                write!(out, "{}", report.table())?;
            }
            match report.acknowledged() {
                0 => Err(Error::NothingAcknowledged(report.errors_in_words())),
                _ => Ok(()),
            }
        }
        Command::Wal(command) => files::wal(&command, out),
        Command::Snap(command) => files::snap(&command, out),
    }
}

/// Runs what needs the network.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
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
        let Command::Bench(bench) = cli.command else { panic!("not bench put") };
        let (clients, timing) = (bench.clients(), bench.timing().unwrap());
        assert_eq!(
            (clients.clients, clients.pipeline, clients.value_bytes, clients.keys),
            (64, 1, 256, 100_000)
        );
        assert_eq!((timing.seconds, timing.warmup, timing.rate, timing.zipf), (10.0, 2.0, None, None));
        assert_eq!((bench.name(), bench.read_percent(), bench.stale()), ("put", 0, false));
    }

    #[test]
    fn endpoints_are_a_list_and_may_stand_anywhere() {
        let cli = parse("kvctl bench put --endpoints http://127.0.0.1:1,http://[::1]:2 --json").unwrap();
        let endpoints: Vec<String> = cli.endpoints.iter().map(Endpoint::to_string).collect();
        assert_eq!(endpoints, ["http://127.0.0.1:1", "http://[::1]:2"]);
    }

    #[test]
    fn flags_out_of_bounds_are_refused() {
        for flags in [
            "put --clients 0",
            "put --clients 10001",
            "put --pipeline 0",
            "put --pipeline 10001",
            "put --seconds -1",
            "put --seconds NaN",
            "put --seconds 86401",
            "put --keys 0",
            "put --rate 0",
            "put --rate 10000001",
            "put --zipf 0",
            "put --zipf 11",
            "put --stale",
            "mixed --read-percent 101",
            "fill --seconds 1",
        ] {
            assert!(parse(&format!("kvctl bench {flags}")).is_err(), "{flags}");
        }
        for flags in [
            "put --clients 1",
            "put --clients 10000",
            "put --pipeline 10000",
            "put --seconds 0.5",
            "put --seconds 86400",
            "put --keys 1",
            "put --rate 0.1",
            "put --rate 10000000",
            "get --zipf 0.99 --stale",
            "mixed --read-percent 100",
            "fill --protocol redis",
        ] {
            assert!(parse(&format!("kvctl bench {flags}")).is_ok(), "{flags}");
        }
        assert!(parse("kvctl --endpoints nowhere status").is_err());
    }
}
