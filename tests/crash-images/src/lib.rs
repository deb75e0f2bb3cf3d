//! Crash images: what a crash, or damage, can leave on the disk, all of it, opened by the real code.
//!
//! The disk is [`kvd_vfs::MemDisk`], which keeps the rules that `docs/wal-format.md` states: sectors are written whole, in
//! any order; what was not synced may be lost; names are durable after their directory is synced. Under it run the real
//! `kvd-wal`, `kvd-snap` and `kvd_node::Home`.
//!
//! # The oracle
//! - What was acknowledged is within what is recovered, which is within what was submitted: byte for byte, without a gap,
//!   term, vote and commit index included.
//! - Damage to what was durable is refused, naming the file and the offset, and nothing is changed then; or it is one of the
//!   cases that the format documents list as undetectable, and gives exactly what they say.
//! - Nothing panics. The same image gives the same answer twice. What was recovered is durable, and can be appended to.
//!
//! # Names
//! Each image has a name within its section, and a failure prints the command that opens that image alone. What is drawn
//! is drawn from the seed.

mod boots;
mod crash;
mod damage;
mod log;
mod member;
mod names;
mod plant;
mod rng;
mod run;
mod saves;
mod snapshots;

pub use plant::Plant;
pub use run::{Failure, Outcome, Section, Settings, run};

/// All sections.
pub const SECTIONS: &[Section] = &[
    damage::TRUNCATIONS,
    damage::FLIPS,
    damage::ZEROS,
    damage::SEGMENTS,
    saves::SAVES,
    names::NAMES,
    names::REPAIR,
    snapshots::TRUNCATIONS,
    snapshots::FLIPS,
    snapshots::NAMES,
    boots::FIRST,
    boots::RESTART,
    boots::LIFE,
];
