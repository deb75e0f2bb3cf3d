//! The `kvd` binary: flags in, a composed member out, an exit code at the end.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | reads flags and `KVD_*` variables, and checks what can be checked without touching anything |
//! | [`compose`] | listeners, directory, node, transport, door: opened in this order, closed in the reverse one |
//! | [`peers`] | whom a member can reach that was away while the cluster changed |
//! | [`recover`] | `kvd recover`: a cluster of its own out of one member's directory |
//! | [`metrics`] | what `/metrics` shows |

pub mod compose;
pub mod config;
pub mod metrics;
pub mod peers;
pub mod recover;
