//! Whether what clients were told can be true.
//!
//! A [`History`] lists what clients asked a key-value store for, when, and what they were told. Three checks, each of
//! which may find a violation that the others cannot see:
//!
//! | check | asks | takes | needs |
//! |---|---|---|---|
//! | [`wgl`] | is there *any* order of each key's operations that explains all answers? | exponential time at worst, hence a limit | nothing but values |
//! | [`order`] | do the answers agree with the order that the store's revisions *claim*? | O(n log n) | revisions in the answers, values that are put once |
//! | [`duplicates`] | was an append or an increment applied twice, or lost? | O(reads of a key × its appends) | keys that are only appended to, or only counted |
//!
//! A key's register is linearizable on its own if and only if the whole is (Herlihy and Wing 1990, locality), so `wgl`
//! takes one key at a time. `order` looks at all keys together: kvd gives every change of the store one revision.
//!
//! A check has one of three results: pass, violation, or *unknown*: the limit was reached, or the history lacks what
//! the check needs. Unknown is never a pass; [`Report::exit_code`] is 0 only if every key was explained.
//!
//! # Order of calls
//! ```
//! use kvd_linearizability::{History, Limits, check};
//!
//! let text = r#"{"format":"kvd-history","version":1}
//! {"client":1,"key":"k","op":"put","value":"a","called":1,"returned":2,"outcome":"ok"}
//! {"client":2,"key":"k","op":"get","called":3,"returned":4,"outcome":"ok","existed":false}
//! "#;
//! let history = History::parse(text.as_bytes()).unwrap();
//! let report = check(&history, &Limits::default());
//! assert_eq!(report.violations.len(), 1, "a stale read: it missed a write that had been acknowledged");
//! ```

pub mod duplicates;
mod history;
mod model;
pub mod order;
mod report;
pub mod wgl;

pub use history::{Action, Condition, FormatError, Header, History, Op, Outcome};
pub use model::{Model, State};
pub use report::{Limits, Report, Violation, check};
