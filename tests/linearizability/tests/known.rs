//! Histories that are right and histories that are wrong, each bad one named after its anomaly.
#![allow(clippy::unwrap_used)]

mod common;

use common::{brute_force, history};
use kvd_linearizability::order::Rule;
use kvd_linearizability::{History, Limits, Op, check, order};

fn violations(history: &History) -> Vec<&'static str> {
    let report = check(history, &Limits::default());
    assert!(report.unknown.is_empty(), "{report}");
    report.violations.iter().map(|violation| violation.check).collect()
}

/// Passes every check.
fn good(text: &str) {
    let history = history(text);
    let report = check(&history, &Limits::default());
    assert!(report.passed(), "{text}\n{report}");
    for key in ["k", "a", "b"] {
        let ops: Vec<Op> = history.ops.iter().filter(|op| op.key == key).cloned().collect();
        assert!(brute_force(&ops), "by definition:\n{text}");
    }
}

/// The search finds it (and the definition agrees), whether or not there are revisions.
fn not_linearizable(text: &str) {
    let mut history = history(text);
    assert!(!brute_force(&history.ops), "by definition:\n{text}");
    for op in &mut history.ops {
        (op.revision, op.mod_revision) = (None, None);
    }
    let found = violations(&history);
    assert!(found.contains(&"linearizable"), "{found:?}\n{text}");
}

/// The order of revisions contradicts the answers.
fn breaks(rule: Rule, text: &str) {
    breaks_from(None, rule, text);
}

fn breaks_from(base: Option<u64>, rule: Rule, text: &str) {
    let mut history = history(text);
    history.header.base_revision = base;
    let found = order::check(&history).unwrap_err().unwrap();
    assert_eq!(found.rule, rule, "{}\n{text}", found.what);
}

#[test]
fn one_after_the_other() {
    good(
        "1-2 put a @2
          3-4 get = a @2/2
          5-6 delete true @3
          7-8 get = nothing @3
          9-10 delete false @3
          11-12 put b @4",
    );
}

#[test]
fn concurrent_writes_may_happen_in_any_order() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let revision = |value| if value == first { 2 } else { 3 };
        good(&format!(
            "1-5 put a @{}
             1-5 put b @{}
             2-3 get = {first} @2/2
             4-6 get = {second} @3/3",
            revision("a"),
            revision("b")
        ));
    }
}

#[test]
fn operations_that_touch_are_concurrent() {
    good(
        "1-2 put a @2
          2-3 get = nothing @1",
    );
}

#[test]
fn an_unknown_write_may_happen_late_or_never() {
    good(
        "1-? put a
          2-3 get = nothing @1
          4-5 put b @2
          6-7 get = a @3/3",
    );
    good(
        "1-? put a
          2-3 get = nothing @1
          4-5 put b @2
          6-7 get = b @2/2",
    );
}

#[test]
fn an_unknown_delete_explains_an_absence() {
    good(
        "1-2 put a @2
          3-? delete
          4-5 get = a @2/2
          6-7 get = nothing @3",
    );
}

#[test]
fn a_failed_write_is_never_seen() {
    good(
        "1-2 put a fail
          3-4 get = nothing @1",
    );
}

#[test]
fn conditions_that_hold_and_conditions_that_do_not() {
    good(
        "1-2 put a if absent @2
          3-4 put b if absent refused @2
          5-6 put c if a @3
          7-8 put d if a refused @3
          9-10 get = c @3/3",
    );
}

#[test]
fn an_unknown_write_explains_a_condition() {
    good(
        "1-2 put a @2
          3-? put b
          4-5 put c if b @4
          6-7 put d if b refused @4",
    );
    good(
        "1-2 put a @2
          3-? put b
          4-5 put c if a refused @3",
    );
}

#[test]
fn logs_and_counters() {
    good(
        "1-2 append x; = 2
          1-3 append y; = 4
          4-? append z;
          5-6 get = x;y;z;",
    );
    good(
        "1-2 incr 1 = 1
          1-3 incr 2 = 3
          4-? incr 1
          5-6 get = 4
          7-8 incr 1 = 5",
    );
}

#[test]
fn keys_are_independent_but_share_revisions() {
    good(
        "1-2 a: put x @2
          1-2 b: put y @3
          3-4 a: get = x @3/2
          3-4 b: get = y @3/3",
    );
}

#[test]
fn a_stale_read_that_says_so_may_be_old_but_not_wrong() {
    good(
        "1-2 put a @2
          3-4 put b @3
          5-6 stale = a @2/2",
    );
    breaks(
        Rule::WrongRead,
        "1-2 put a @2
                             3-4 put b @3
                             5-6 stale = a @3/2",
    );
}

#[test]
fn stale_read() {
    let text = "1-2 put a @2
                3-4 put b @3
                5-6 get = a @2/2";
    not_linearizable(text);
    breaks(Rule::StaleRead, text);
}

#[test]
fn stale_read_of_nothing() {
    let text = "1-2 put a @2
                3-4 get = nothing @1";
    not_linearizable(text);
    breaks(Rule::StaleRead, text);
}

#[test]
fn stale_read_across_keys_is_seen_by_the_order_alone() {
    // Each key on its own is fine (nobody wrote `b`), the whole is, too; but the revision says that the read was served
    // from a state which had been left behind.
    breaks(
        Rule::StaleRead,
        "1-2 a: put x @2
                             3-4 b: get = nothing @1",
    );
}

#[test]
fn lost_write() {
    let text = "1-2 put a @2
                3-4 put b @3
                5-6 get = nothing @3";
    not_linearizable(text);
    breaks(Rule::Lost, text);
}

#[test]
fn lost_write_under_a_later_one() {
    // The write took a revision, and the next read shows the one before.
    let text = "1-2 put a @2
                3-4 put b @3
                5-6 get = a @3/2";
    not_linearizable(text);
    breaks(Rule::WrongRead, text);
}

#[test]
fn time_travel() {
    let text = "1-2 get = a @2/2
                3-4 put a @2";
    not_linearizable(text);
    breaks(Rule::Future, text);
}

#[test]
fn a_write_ordered_before_one_that_had_been_acknowledged() {
    breaks(
        Rule::RealTime,
        "1-2 put a @3
                            3-4 put b @2",
    );
}

#[test]
fn two_readers_see_two_writes_in_different_orders() {
    not_linearizable(
        "1-9 put a
                      1-9 put b
                      2-3 get = a
                      4-5 get = b
                      6-7 get = a",
    );
}

#[test]
fn new_then_old() {
    // The second reader sees what the first one has seen replaced.
    let text = "1-2 put a @2
                3-9 put b @3
                4-5 get = b @3/3
                6-7 get = a @2/2";
    not_linearizable(text);
    breaks(Rule::StaleRead, text);
}

#[test]
fn duplicate_apply() {
    // The retry of `put a` was applied again, over `b`.
    let text = "1-2 put a @2
                3-4 put b @3
                5-6 get = a @4/4";
    not_linearizable(text);
    breaks(Rule::AppliedTwice, text);
}

#[test]
fn duplicate_apply_of_an_unknown_write() {
    let text = "1-? put a
                2-3 get = a @2/2
                4-5 put b @3
                6-7 get = a @4/4";
    not_linearizable(text);
    breaks(Rule::AppliedTwice, text);
}

#[test]
fn duplicate_apply_that_nobody_reads() {
    // A put over itself: no read can tell, the count of revisions can.
    let text = "1-2 put a @2
                3-4 put b @4";
    breaks_from(Some(1), Rule::Phantom, text);
    let mut fine = history(&format!("{text}\n1-? put c"));
    fine.header.base_revision = Some(1);
    assert!(order::check(&fine).is_ok());
}

#[test]
fn resurrected_delete() {
    let text = "1-2 put a @2
                3-4 delete true @3
                5-6 get = a @3/2";
    not_linearizable(text);
    breaks(Rule::WrongRead, text);
}

#[test]
fn resurrected_unknown_delete() {
    let text = "1-2 put a @2
                3-? delete
                4-5 get = nothing @3
                6-7 get = a @3/2";
    not_linearizable(text);
    breaks(Rule::WrongRead, text);
}

#[test]
fn one_unknown_delete_explains_one_absence() {
    let text = "1-2 put a @2
                3-? delete
                4-5 get = nothing @3
                6-7 put b @4
                8-9 get = nothing @5";
    not_linearizable(text);
    breaks(Rule::Lost, text);
}

#[test]
fn an_absence_before_the_delete_was_asked_for() {
    let text = "1-2 put a @2
                3-4 get = nothing @3
                5-? delete";
    not_linearizable(text);
    breaks(Rule::Lost, text);
}

#[test]
fn read_of_failed_write() {
    let text = "1-2 put a fail
                3-4 get = a @2/2";
    not_linearizable(text);
    breaks(Rule::FailedWriteSeen, text);
}

#[test]
fn read_of_refused_write() {
    let text = "1-2 put a @2
                3-4 put b if c refused @2
                5-6 get = b @3/3";
    not_linearizable(text);
    breaks(Rule::FailedWriteSeen, text);
}

#[test]
fn read_of_nobodys_write() {
    let text = "1-2 put a @2
                3-4 get = b @3/3";
    not_linearizable(text);
    breaks(Rule::NeverWritten, text);
}

#[test]
fn read_of_another_keys_write() {
    let text = "1-2 other: put a @2
                3-4 get = a @2/2";
    breaks(Rule::NeverWritten, text);
    assert!(violations(&history(text)).contains(&"linearizable"));
}

#[test]
fn split_brain() {
    // Two leaders took one revision each for themselves.
    breaks(
        Rule::TwoOrders,
        "1-2 put a @2
                             1-2 put b @2",
    );
    not_linearizable(
        "1-2 put a
                      1-2 put b
                      3-4 get = a
                      5-6 get = b",
    );
}

#[test]
fn condition_that_did_not_hold_was_done() {
    let text = "1-2 put a @2
                3-4 put b @3
                5-6 put c if a @4";
    not_linearizable(text);
    breaks(Rule::WrongCondition, text);
}

#[test]
fn condition_that_held_was_refused() {
    let text = "1-2 put a @2
                3-4 put b if a refused @2";
    not_linearizable(text);
    breaks(Rule::Lost, text);
}

#[test]
fn two_winners_of_one_condition() {
    let text = "1-2 put a @2
                3-6 put b if a @3
                3-6 put c if a @4";
    not_linearizable(text);
    breaks(Rule::WrongCondition, text);
}

#[test]
fn unknown_condition_that_did_not_hold_was_done() {
    let text = "1-2 put a @2
                3-4 put b @3
                5-? put c if a
                6-7 get = c @4/4";
    not_linearizable(text);
    breaks(Rule::WrongCondition, text);
}

#[test]
fn delete_of_nothing_found_something() {
    let text = "1-2 delete true @2";
    not_linearizable(text);
    breaks(Rule::Lost, text);
}

#[test]
fn delete_of_something_found_nothing() {
    let text = "1-2 put a @2
                3-4 delete false @2";
    not_linearizable(text);
    breaks(Rule::Lost, text);
}

#[test]
fn a_revision_from_the_future() {
    breaks(
        Rule::Future,
        "1-2 put a @5
                          1-3 get = a @4/5",
    );
}

#[test]
fn append_twice() {
    let text = "1-2 append x;
                3-4 get = x;x;";
    not_linearizable(text);
    assert!(violations(&history(text)).contains(&"applied once"));
}

#[test]
fn append_lost() {
    let text = "1-2 append x;
                3-4 append y;
                5-6 get = y;";
    not_linearizable(text);
    assert!(violations(&history(text)).contains(&"applied once"));
}

#[test]
fn failed_append_is_there() {
    let text = "1-2 append x; fail
                3-4 get = x;";
    not_linearizable(text);
    assert!(violations(&history(text)).contains(&"applied once"));
}

#[test]
fn appends_in_two_orders() {
    let text = "1-9 append x;
                1-9 append y;
                2-3 get = x;
                4-5 get = y;x;";
    not_linearizable(text);
    assert!(violations(&history(text)).contains(&"applied once"));
}

#[test]
fn append_seen_too_early() {
    let text = "1-2 get = x;
                3-4 append x;";
    not_linearizable(text);
    assert!(violations(&history(text)).contains(&"applied once"));
}

#[test]
fn increment_twice() {
    let text = "1-2 incr 1
                3-4 get = 2";
    not_linearizable(text);
    assert!(violations(&history(text)).contains(&"applied once"));
}

#[test]
fn increment_lost() {
    for text in ["1-2 incr 1\n1-2 incr 1\n3-4 get = 1", "1-9 incr 1 = 1\n1-9 incr 1 = 1"] {
        not_linearizable(text);
        assert!(violations(&history(text)).contains(&"applied once"), "{text}");
    }
}

#[test]
fn values_that_are_put_twice_are_left_to_the_search() {
    let history = history("1-2 put a @2\n3-4 put a @3");
    assert_eq!(order::check(&history), Err(None));
    let report = check(&history, &Limits::default());
    assert!(report.placed.is_none() && report.passed());
}

#[test]
fn a_limit_is_not_a_pass() {
    // Ten concurrent writes, and a read that no order explains: every one has to be tried.
    let mut text: String = (0..10).map(|n| format!("1-9 put v{n}\n")).collect();
    text.push_str("10-11 get = v1\n12-13 get = v2");
    let history = history(&text);
    let tight = Limits { steps: 100, ..Limits::default() };
    let report = check(&history, &tight);
    assert_eq!((report.violations.len(), report.unknown.len(), report.exit_code()), (0, 1, 3), "{report}");
    assert!(!report.passed());
    assert_eq!(check(&history, &Limits::default()).exit_code(), 1);
}

#[test]
fn many_unknown_writes_do_not_multiply_the_search() {
    let mut text: String = (0..200).map(|n| format!("{n}-? put u{n}\n")).collect();
    for n in 0..200 {
        text.push_str(&format!(
            "{}-{} put w{n}\n{}-{} get = w{n}\n",
            1000 + 4 * n,
            1001 + 4 * n,
            1002 + 4 * n,
            1003 + 4 * n
        ));
    }
    text.push_str("2000-2001 get = u77\n2002-2003 get = w199");
    let report = check(&history(&text), &Limits::default());
    assert_eq!(report.exit_code(), 1, "{report}");
}
