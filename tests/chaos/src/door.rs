//! Clients' ways in: one trait, and what an answer means for the history.

pub mod http;
pub mod redis;

use kvd_linearizability::{Action, Op, Outcome};

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Whether the key was there.
    pub existed: Option<bool>,
    /// What it held.
    pub read: Option<String>,
    /// The length or number afterwards.
    pub number: Option<i64>,
    /// The store's revision.
    pub revision: Option<u64>,
    /// The revision of the key's last write.
    pub mod_revision: Option<u64>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done(Told),
    /// The condition did not hold.
    Refused(Told),
    /// Nothing was done.
    Nothing,
    /// Nobody knows.
    Unknown,
    /// An answer that no healthy member gives, in words.
    Wrong(String),
}

/// A client of one member.
pub trait Door: Send {
    /// Asks once. `tag` is what the key's entity tag was for the value that a condition names.
    fn ask(&mut self, key: &str, action: &Action, tag: Option<u64>) -> Answer;

    /// Whether this door can carry the action.
    fn can(&self, action: &Action) -> bool;
}

impl Answer {
    /// Writes the answer into the operation. The error is a wrong answer.
    ///
    /// # Errors
    /// [`Answer::Wrong`].
    pub fn note(self, op: &mut Op, now: u64) -> Result<(), String> {
        op.returned = Some(now);
        op.outcome = match self {
            Answer::Done(told) => {
                note(op, told);
                Outcome::Ok
            }
            Answer::Refused(told) => {
                note(op, told);
                Outcome::Refused
            }
            Answer::Nothing => Outcome::Fail,
            // A read that has no answer has no effect either.
            Answer::Unknown if matches!(op.action, Action::Get | Action::StaleGet) => Outcome::Fail,
            Answer::Unknown => {
                op.returned = None;
                Outcome::Unknown
            }
            Answer::Wrong(what) => return Err(format!("{op}: {what}")),
        };
        Ok(())
    }
}

fn note(op: &mut Op, told: Told) {
    let Told { existed, read, number, revision, mod_revision } = told;
    (op.existed, op.read, op.number, op.revision, op.mod_revision) =
        (existed, read, number, revision, mod_revision);
}
