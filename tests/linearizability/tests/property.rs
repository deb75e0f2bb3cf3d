//! Random histories: of a simulated register, which are right, and of nobody, which are mostly wrong.
#![allow(clippy::unwrap_used)]

mod common;

use common::brute_force;
use kvd_linearizability::wgl::{Verdict, check_key};
use kvd_linearizability::{Action, Condition, History, Limits, Model, Op, Outcome, State, check, order};
use proptest::prelude::*;

/// What a client does, and how long it and its answer take.
#[derive(Debug, Clone)]
struct Intent {
    what: u8,
    /// The value of a condition, counted back from the newest.
    back: usize,
    before: u64,
    after: u64,
    /// Whether the client hears nothing, and if so whether it was done.
    lost: Option<bool>,
}

fn intents(most: usize) -> impl Strategy<Value = Vec<Intent>> {
    let lost = prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)];
    let one = (0u8..8, 0usize..3, 1u64..40, 1u64..40, lost)
        .prop_map(|(what, back, before, after, lost)| Intent { what, back, before, after, lost });
    prop::collection::vec(one, 1..most)
}

/// Lets a register do these in turn: each happens at a moment of its own, between its call and its return.
fn simulate(intents: &[Intent]) -> History {
    let (mut model, mut state) = (Model::default(), State::ABSENT);
    let (mut revision, mut modified) = (1, 0);
    let mut values: Vec<String> = Vec::new();
    let mut ops = Vec::new();
    for (number, intent) in intents.iter().enumerate() {
        let moment = 100 + 10 * number as u64;
        let new = format!("v{number}");
        let old = values.iter().rev().nth(intent.back).cloned();
        let action = match (intent.what, old) {
            (0..=2, _) => Action::Put { value: new, condition: None },
            (3, Some(old)) => Action::Put { value: new, condition: Some(Condition::Value(old)) },
            (3, None) => Action::Put { value: new, condition: Some(Condition::Absent) },
            (4, _) => Action::Delete,
            _ => Action::Get,
        };
        if let Action::Put { value, .. } = &action {
            values.push(value.clone());
        }
        let mut op = Op::new(number as u64, "k", action, moment - intent.before);
        op.returned = Some(moment + intent.after);
        op.outcome = Outcome::Ok;
        let held = model.value(state).map(str::to_owned);
        if intent.lost != Some(false) {
            match &op.action {
                Action::Get => (op.existed, op.read) = (Some(held.is_some()), held.clone()),
                Action::Delete => op.existed = Some(held.is_some()),
                Action::Put { .. } if model.step(state, &op).is_none() => op.outcome = Outcome::Refused,
                _ => {}
            }
            state = model.step(state, &op).unwrap();
            if op.may_write() && op.outcome == Outcome::Ok {
                revision += 1;
                modified = if op.action == Action::Delete { 0 } else { revision };
            }
            op.revision = Some(revision);
            op.mod_revision = op.read.as_ref().map(|_| modified);
        }
        if intent.lost.is_some() {
            op.outcome = Outcome::Unknown;
            (op.returned, op.existed, op.read, op.revision, op.mod_revision) = (None, None, None, None, None);
        }
        ops.push(op);
    }
    History::new(Some(1), ops)
}

/// Replays an order that the search found.
fn is_witness(ops: &[Op], order: &[usize]) -> bool {
    let (mut model, mut state) = (Model::default(), State::ABSENT);
    for (place, number) in order.iter().enumerate() {
        let Some(next) = model.step(state, &ops[*number]) else { return false };
        state = next;
        // Nothing that happened earlier was called after this one had returned.
        let returned = match ops[*number].outcome {
            Outcome::Unknown => u64::MAX,
            _ => ops[*number].returned.unwrap(),
        };
        if order[..place].iter().any(|earlier| ops[*earlier].called > returned) {
            return false;
        }
    }
    (0..ops.len()).all(|number| ops[number].outcome == Outcome::Unknown || order.contains(&number))
}

fn search(ops: &[Op]) -> Verdict {
    check_key(&ops.iter().collect::<Vec<_>>(), &Limits::default())
}

fn any_op() -> impl Strategy<Value = Op> {
    (0u8..9, 0u8..3, 0u8..3, 0u64..12, 0u64..6, any::<bool>(), 0u8..6).prop_map(
        |(what, value, other, called, takes, flag, outcome)| {
            let name = |n: u8| ["a", "b", "c"][usize::from(n % 3)].to_owned();
            let (value, other) = (name(value), name(other));
            let action = match what {
                0 | 1 => Action::Put { value: value.clone(), condition: None },
                2 if flag => Action::Put { value: value.clone(), condition: Some(Condition::Absent) },
                2 => Action::Put { value: value.clone(), condition: Some(Condition::Value(other)) },
                3 => Action::Delete,
                4 => Action::Append { value: value.clone() },
                _ => Action::Get,
            };
            let mut op = Op::new(0, "k", action, called);
            op.returned = Some(called + takes);
            op.outcome = match (outcome, &op.action) {
                (0, _) => Outcome::Unknown,
                (1, Action::Put { condition: Some(_), .. }) => Outcome::Refused,
                _ => Outcome::Ok,
            };
            match &op.action {
                Action::Get if op.outcome == Outcome::Ok => {
                    op.existed = Some(what != 5);
                    op.read = (what != 5).then_some(value);
                }
                Action::Delete if op.outcome == Outcome::Ok => op.existed = Some(flag),
                _ => {}
            }
            op
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn what_a_register_did_passes(intents in intents(60)) {
        let history = simulate(&intents);
        let report = check(&history, &Limits::default());
        prop_assert!(report.passed(), "{report}\n{history:#?}");
        match search(&history.ops) {
            Verdict::Linearizable(order) => prop_assert!(is_witness(&history.ops, &order)),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn the_search_agrees_with_the_definition(ops in prop::collection::vec(any_op(), 1..8)) {
        match search(&ops) {
            Verdict::Linearizable(order) => {
                prop_assert!(is_witness(&ops, &order), "{order:?}");
                prop_assert!(brute_force(&ops));
            }
            Verdict::Violation { .. } => prop_assert!(!brute_force(&ops)),
            Verdict::Unknown(why) => prop_assert!(false, "{why}"),
        }
    }

    #[test]
    fn a_read_that_is_made_wrong_is_caught(intents in intents(8), which in any::<prop::sample::Index>(), to in 0usize..8) {
        let mut history = simulate(&intents);
        let reads: Vec<usize> = (0..history.ops.len()).filter(|i| history.ops[*i].existed.is_some() && history.ops[*i].action == Action::Get).collect();
        prop_assume!(!reads.is_empty());
        let read = &mut history.ops[reads[which.index(reads.len())]];
        let other = Some(format!("v{to}")).filter(|_| to < 7);
        prop_assume!(other != read.read);
        (read.existed, read.read) = (Some(other.is_some()), other);
        let wrong = !brute_force(&history.ops);
        prop_assert_eq!(wrong, matches!(search(&history.ops), Verdict::Violation { .. }));
        // With its revisions the answer is wrong in any case, unless somebody had no answer and may be the reason.
        let certain = history.ops.iter().all(|op| op.outcome != Outcome::Unknown);
        prop_assert!(!certain || order::check(&history).is_err(), "{history:#?}");
        prop_assert_eq!(wrong && check(&history, &Limits::default()).passed(), false);
    }
}
