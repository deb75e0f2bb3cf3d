//! Small histories that are right or wrong in one thing.

use super::*;
use kvd_kvstore::store::{Deleted, Written};

fn put(key: &'static str, value: &'static str, revision: u64, version: u64) -> (Bytes, Bytes) {
    let command = Command::Put { key: key.into(), value: value.into() };
    (command.encode(), Response::Put(Written { revision, version }).encode())
}

fn delete(key: &'static str, revision: u64, existed: bool) -> (Bytes, Bytes) {
    (Command::Delete { key: key.into() }.encode(), Response::Delete(Deleted { revision, existed }).encode())
}

fn notes(effects: &[(Bytes, Bytes)]) -> Notes {
    let applied = (10..).zip(effects.iter().map(|effect| vec![effect.clone()])).collect();
    Notes { applied, conflict: None }
}

/// Called, returned, asked, told.
type Line = (u64, u64, Asked, Told);

fn history(lines: &[Line]) -> Vec<Op> {
    let op = |(called, returned, asked, told): &Line| Op {
        client: 0,
        member: 1,
        life: 1,
        asked: asked.clone(),
        called: *called,
        returned: (*returned > 0).then_some(*returned),
        told: (*returned > 0).then(|| told.clone()),
        returned_at: *returned * 1000,
        age: None,
    };
    lines.iter().map(op).collect()
}

fn asked_put(value: &'static str) -> Asked {
    Asked::Put { key: "k".into(), value: value.into() }
}

fn asked_delete() -> Asked {
    Asked::Delete { key: "k".into() }
}

fn asked_read() -> Asked {
    Asked::Read { key: "k".into() }
}

fn record(value: &'static str, create_revision: u64, mod_revision: u64, version: u64) -> Option<Record> {
    Some(Record { value: value.into(), create_revision, mod_revision, version })
}

fn verdict(lines: &[Line], effects: &[(Bytes, Bytes)]) -> String {
    judge(&history(lines), &notes(effects)).err().unwrap_or_else(|| "right".into())
}

#[test]
fn a_history_that_happened_is_right() {
    let effects = [
        put("k", "a", 2, 1),
        put("k", "b", 3, 2),
        delete("k", 4, true),
        delete("k", 4, false),
        put("k", "c", 5, 1),
    ];
    let lines = [
        (1, 2, asked_put("a"), Told::Put((2, 1))),
        (3, 0, asked_put("b"), Told::Nothing),
        (4, 5, asked_read(), Told::Read((3, record("b", 2, 3, 2)))),
        (6, 7, asked_delete(), Told::Delete((4, true))),
        (8, 9, asked_delete(), Told::Delete((4, false))),
        (10, 11, asked_read(), Told::Read((4, None))),
        (12, 13, asked_put("c"), Told::Nothing),
        (14, 15, asked_put("d"), Told::NotDone("no leader".into())),
        (16, 17, asked_read(), Told::Read((5, record("c", 5, 5, 1)))),
    ];
    assert_eq!(verdict(&lines, &effects), "right");
}

#[test]
fn a_lost_write_is_noticed() {
    let lines = [(1, 2, asked_put("a"), Told::Put((2, 1)))];
    assert!(verdict(&lines, &[]).contains("acknowledged at revision 2, and not there"));
    assert!(verdict(&lines, &[put("k", "b", 2, 1)]).contains("acknowledged at revision 2, and not there"));
    let lines = [(1, 2, asked_delete(), Told::Delete((3, true)))];
    assert!(verdict(&lines, &[put("k", "b", 2, 1)]).contains("acknowledged at revision 3, and not there"));
}

#[test]
fn what_happened_twice_or_against_its_answer_is_noticed() {
    let twice = [put("k", "a", 2, 1), put("k", "a", 3, 2)];
    assert!(verdict(&[(1, 0, asked_put("a"), Told::Nothing)], &twice).contains("applied twice"));
    let lines = [(1, 2, asked_put("a"), Told::NotDone("no leader".into()))];
    assert!(verdict(&lines, &twice[..1]).contains("it was done, although"));
    let deleted = [put("k", "a", 2, 1), delete("k", 3, true)];
    assert!(verdict(&[(1, 0, asked_put("a"), Told::Nothing)], &deleted).contains("that nobody asked for"));
}

#[test]
fn a_response_that_the_order_does_not_give_is_noticed() {
    assert!(verdict(&[], &[put("k", "a", 2, 2)]).contains("version 2 instead of 1"));
    assert!(verdict(&[], &[put("k", "a", 3, 1)]).contains("answered with"));
    assert!(verdict(&[], &[delete("k", 2, true)]).contains("a delete says"));
}

#[test]
fn a_read_of_the_past_is_noticed_unless_it_is_said_to_be_stale() {
    let effects = [put("k", "a", 2, 1), put("k", "b", 3, 2)];
    let old = || Told::Read((2, record("a", 2, 2, 1)));
    let puts = [(1, 2, asked_put("a"), Told::Put((2, 1))), (3, 5, asked_put("b"), Told::Put((3, 2)))];
    let with = |called, asked| [puts[0].clone(), puts[1].clone(), (called, 7, asked, old())];
    assert!(verdict(&with(6, asked_read()), &effects).contains("not linearizable"));
    assert_eq!(verdict(&with(4, asked_read()), &effects), "right", "at the same time");
    assert_eq!(verdict(&with(6, Asked::StaleRead { key: "k".into() }), &effects), "right");
}

#[test]
fn writes_keep_to_real_time() {
    let effects = [put("k", "b", 2, 1), put("k", "a", 3, 2)];
    let lines = [(1, 2, asked_put("a"), Told::Put((3, 2))), (3, 4, asked_put("b"), Told::Put((2, 1)))];
    assert!(verdict(&lines, &effects).contains("not linearizable"));
}

#[test]
fn a_stale_read_shows_something_that_was_and_does_not_go_back() {
    let effects = [put("k", "a", 2, 1), put("k", "b", 3, 2)];
    let stale = || Asked::StaleRead { key: "k".into() };
    let puts = [(1, 2, asked_put("a"), Told::Put((2, 1))), (3, 4, asked_put("b"), Told::Put((3, 2)))];
    let with = |first: Told, second: Told| {
        let mut lines = puts.to_vec();
        lines.extend([(5, 6, stale(), first), (7, 8, stale(), second)]);
        lines
    };
    let (a, b) = (Told::Read((2, record("a", 2, 2, 1))), Told::Read((3, record("b", 2, 3, 2))));
    assert_eq!(verdict(&with(a.clone(), b.clone()), &effects), "right");
    assert!(verdict(&with(b, a.clone()), &effects).contains("shows revision 2 after 3"));
    assert!(verdict(&with(a, Told::Read((3, None))), &effects).contains("at revision 3 it is"));
    let never = Told::Read((4, record("b", 2, 3, 2)));
    assert!(verdict(&with(never.clone(), never), &effects).contains("never was"));
}

#[test]
fn a_stale_read_that_says_how_old_it_may_be_is_held_to_it() {
    let effects = [put("k", "a", 2, 1), put("k", "b", 3, 2)];
    let puts = [(1, 2, asked_put("a"), Told::Put((2, 1))), (3, 4, asked_put("b"), Told::Put((3, 2)))];
    let read = (5, 6, Asked::StaleRead { key: "k".into() }, Told::Read((2, record("a", 2, 2, 1))));
    let notes = notes(&effects);
    let verdict = |age: Option<Micros>, later: Micros| {
        let mut history = history(&[puts[0].clone(), puts[1].clone(), read.clone()]);
        history[2].returned_at = history[1].returned_at + later;
        history[2].age = age;
        judge(&history, &notes).err().unwrap_or_default()
    };
    let age = 40 * MS;
    assert_eq!(verdict(None, 3600 * MS), "", "it says nothing");
    assert_eq!(verdict(Some(age), age + WITHIN), "", "just in time");
    assert!(verdict(Some(age), age + WITHIN + 1).contains("3 was acknowledged before that"));
}
