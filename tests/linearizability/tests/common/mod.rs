//! Histories in a short notation, and the definition of linearizability carried out literally.
//!
//! ```text
//! 1-2 put a @2            called at 1, returned at 2, revision 2
//! 3-4 get = a @5/2        read a, at revision 5, last written at revision 2
//! 3-4 get = nothing       found nothing;    `stale` in place of `get` for a stale read
//! 5-? put b               outcome unknown
//! 5-6 put b fail          nothing done
//! 7-8 put c if a          a compare-and-swap that was done;  `if absent`;  `refused` at the end if it was not
//! 7-8 delete true         it was there
//! 9-10 append x; = 4      the length afterwards
//! 9-10 incr 1 = 3         the number afterwards
//! 1-2 other: put a        of the key `other`, not `k`
//! ```
#![allow(dead_code)] // each of the test binaries uses some of it
#![allow(clippy::unwrap_used)] // a malformed history is a bug of the test

use kvd_linearizability::{Action, Condition, History, Model, Op, Outcome, State};

/// A history from lines in the notation above; revisions begin at 1.
pub(crate) fn history(text: &str) -> History {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    History::new(None, (0..).zip(lines).map(|(client, line)| op(client, line)).collect())
}

fn op(client: u64, line: &str) -> Op {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let (called, returned) = words.remove(0).split_once('-').unwrap();
    let key = match words[0].strip_suffix(':') {
        Some(key) => {
            words.remove(0);
            key
        }
        None => "k",
    };
    let revisions = words.pop_if(|word| word.starts_with('@')).map(|word| &word[1..]);
    let mut outcome = if returned == "?" { Outcome::Unknown } else { Outcome::Ok };
    match words.last() {
        Some(&"fail") => outcome = Outcome::Fail,
        Some(&"refused") => outcome = Outcome::Refused,
        _ => {}
    }
    let (mut existed, mut read, mut number) = (None, None, None);
    let action = match words[..] {
        ["put", value, ref rest @ ..] => {
            let condition = match rest {
                ["if", "absent", ..] => Some(Condition::Absent),
                ["if", old, ..] => Some(Condition::Value((*old).to_owned())),
                _ => None,
            };
            Action::Put { value: value.to_owned(), condition }
        }
        ["get" | "stale", ref rest @ ..] => {
            if let ["=", value] = rest {
                read = Some((*value).to_owned()).filter(|value| value != "nothing");
                existed = Some(read.is_some());
            }
            if words[0] == "get" { Action::Get } else { Action::StaleGet }
        }
        ["delete", ref rest @ ..] => {
            existed = rest.first().and_then(|word| word.parse().ok());
            Action::Delete
        }
        ["append", value, ref rest @ ..] => {
            number = rest.get(1).map(|number| number.parse().unwrap());
            Action::Append { value: value.to_owned() }
        }
        ["incr", by, ref rest @ ..] => {
            number = rest.get(1).map(|number| number.parse().unwrap());
            Action::Increment { by: by.parse().unwrap() }
        }
        _ => panic!("{line}"),
    };
    let (revision, mod_revision) = match revisions.map(|text| text.split_once('/').unwrap_or((text, ""))) {
        Some((revision, modified)) => (Some(revision.parse().unwrap()), modified.parse().ok()),
        None => (None, None),
    };
    let op = Op::new(client, key, action, called.parse().unwrap());
    Op { returned: returned.parse().ok(), outcome, existed, read, number, revision, mod_revision, ..op }
}

/// Whether there is an order of some of the operations, all of those with an answer among them, that keeps real time
/// and explains the answers: by trying every one.
pub(crate) fn brute_force(ops: &[Op]) -> bool {
    let ops: Vec<&Op> = ops
        .iter()
        .filter(|op| op.outcome != Outcome::Fail && op.action != Action::StaleGet)
        .filter(|op| !(op.outcome == Outcome::Unknown && op.action == Action::Get))
        .collect();
    extend(&ops, &mut vec![false; ops.len()], State::ABSENT, &mut Model::default())
}

fn extend(ops: &[&Op], happened: &mut Vec<bool>, state: State, model: &mut Model) -> bool {
    let is_open = |happened: &[bool], i: usize| !happened[i] && ops[i].outcome != Outcome::Unknown;
    if (0..ops.len()).all(|i| !is_open(happened, i)) {
        return true;
    }
    for i in 0..ops.len() {
        // It may come next unless something that has an answer and is still to come returned before it was called.
        let too_early = (0..ops.len())
            .any(|j| j != i && is_open(happened, j) && ops[j].returned.unwrap() < ops[i].called);
        if happened[i] || too_early {
            continue;
        }
        if let Some(next) = model.step(state, ops[i]) {
            happened[i] = true;
            if extend(ops, happened, next, model) {
                return true;
            }
            happened[i] = false;
        }
    }
    false
}
