//! The `kvd` binary: flags in, a composed member out, an exit code at the end.
//!
//! | module | does |
//! |---|---|
//! | [`config`] | reads flags and `KVD_*` variables, and checks what can be checked without touching anything |
//! | [`compose`] | listeners, directory, node, transport, door: opened in this order, closed in the reverse one |
//! | [`metrics`] | what `/metrics` shows |

pub mod compose;
pub mod config;
pub mod metrics;
