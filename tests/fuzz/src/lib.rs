//! Everything in kvd that parses bytes from outside, as functions of bytes.
//!
//! # Contract
//! A [`Target`] takes any input: it returns, or it found a bug. Bugs are panics (of the code under test, or of an oracle
//! here: two readers of the same bytes that disagree, a refusal that changed something, a term that goes back) and
//! memory beyond [`Target::memory`].
//!
//! # Who calls it
//! - `tests/fuzz/run`: libFuzzer, which keeps inputs that reach new code. The binary is `main.rs`.
//! - `cargo test -p kvd-fuzz`: every committed seed and regression, and mutations of them; no libFuzzer.
//!
//! # Inputs
//! `corpus/TARGET/` has the seeds. Those that are made of real files are made by [`seeds`], and a test compares.
//! `regressions/TARGET/` has an input for each bug that was found, under a name that says what it was.
//!
//! A checksum stops a fuzzer at the door. So files come as a plan with a body: after a byte of options the target
//! corrects checksums, places and lengths unless it is told to leave them, and what lies behind them is fuzzed too.

// Nothing in here ends but by a return or a finding, and an expectation that fails is one.
#![allow(clippy::expect_used)]

mod commands;
mod flags;
mod frames;
mod http_path;
mod input;
mod log_image;
mod member;
mod node_snapshot;
mod peer_url;
mod raft_message;
#[path = "../../../crates/raftpb/tests/reference/mod.rs"]
mod reference;
mod requests;
pub mod seeds;
mod server_answer;
mod snap_file;
mod store_snapshot;
mod wal_dir;
mod wal_records;

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The longest input, in bytes: room for two short segments, and short enough for thousands of runs a second.
pub const MAX_INPUT: usize = 8 << 10;

/// Something that takes bytes from outside.
pub struct Target {
    /// As in `corpus/NAME`.
    pub name: &'static str,
    /// The most memory, in bytes, that any input of at most [`MAX_INPUT`] may take at once.
    pub memory: usize,
    run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "commands", memory: 2 << 20, run: commands::run },
    Target { name: "flags", memory: 4 << 20, run: flags::run },
    Target { name: "frames", memory: 1 << 20, run: frames::run },
    Target { name: "http_path", memory: 64 << 10, run: http_path::run },
    Target { name: "member", memory: 24 << 20, run: member::run },
    Target { name: "node_snapshot", memory: 8 << 20, run: node_snapshot::run },
    Target { name: "peer_url", memory: 64 << 10, run: peer_url::run },
    Target { name: "raft_message", memory: 8 << 20, run: raft_message::run },
    Target { name: "requests", memory: 1 << 20, run: requests::run },
    Target { name: "server_answer", memory: 64 << 10, run: server_answer::run },
    Target { name: "snap_file", memory: 8 << 20, run: snap_file::run },
    Target { name: "store_snapshot", memory: 2 << 20, run: store_snapshot::run },
    Target { name: "wal_dir", memory: 8 << 20, run: wal_dir::run },
    Target { name: "wal_records", memory: 8 << 20, run: wal_records::run },
];

/// One at a time: the allocator counts for the whole process.
static RUNNING: Mutex<()> = Mutex::new(());

impl Target {
    /// The target of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs one input.
    ///
    /// # Panics
    /// If there is a bug.
    pub fn run(&self, input: &[u8]) {
        let _one_at_a_time = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let input = &input[..input.len().min(MAX_INPUT)];
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        (self.run)(input);
        let taken = ALLOCATOR.peak_usage().saturating_sub(before);
        assert!(taken <= self.memory, "{taken} bytes of memory; {} may take {}", self.name, self.memory);
    }
}
