use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::FIRST_REVISION;

fn do_all(store: &mut Store, operations: Vec<Operation>) -> Result<Done, Refusal> {
    store.transact(&Txn { compares: Vec::new(), operations }, &mut Vec::new())
}

fn put(key: &'static str, value: &'static str) -> Operation {
    Operation::Put { key: key.into(), value: value.into() }
}

fn delete(key: &'static str) -> Operation {
    Operation::Delete { key: key.into() }
}

fn increment(key: &'static str, by: i64) -> Operation {
    Operation::Increment { key: key.into(), by }
}

fn append(key: &'static str, suffix: &'static str, limit: u64) -> Operation {
    Operation::Append { key: key.into(), suffix: suffix.into(), limit }
}

#[test]
fn many_keys_take_one_revision_and_nothing_takes_none() {
    let mut store = Store::new();
    let done = do_all(&mut store, vec![put("a", "1"), put("b", "2"), put("a", "3")]).unwrap();
    assert_eq!(done, Done { revision: 2, succeeded: true, ..Done::default() });
    let a = store.get(b"a").unwrap();
    assert_eq!((&a.value[..], a.create_revision, a.mod_revision, a.version), (&b"3"[..], 2, 2, 1));
    let done = do_all(&mut store, vec![delete("x"), delete("y")]).unwrap();
    assert_eq!((done.revision, done.deleted), (2, 0));
    assert_eq!(do_all(&mut store, Vec::new()).unwrap().revision, 2);
    let done = do_all(&mut store, vec![delete("a"), delete("a"), delete("b"), put("a", "4")]).unwrap();
    assert_eq!((done.revision, done.deleted), (3, 2));
    assert_eq!((store.get(b"a").unwrap().create_revision, store.len()), (3, 1));
}

#[test]
fn compares_see_the_store_before_the_first_operation() {
    let mut store = Store::new();
    store.put(b"a", b"1");
    let compare = |key: &'static str, target| Compare { key: key.into(), target };
    for (target, holds) in [
        (Target::ModRevision(2), true),
        (Target::ModRevision(1), false),
        (Target::ModRevision(0), false),
        (Target::Exists(true), true),
        (Target::Exists(false), false),
    ] {
        let txn = Txn { compares: vec![compare("a", target)], operations: Vec::new() };
        assert_eq!(store.transact(&txn, &mut Vec::new()).unwrap().succeeded, holds, "{target:?}");
    }
    let absent = [compare("b", Target::ModRevision(0)), compare("b", Target::Exists(false))];
    let txn = Txn { compares: absent.to_vec(), operations: vec![put("b", "1"), put("c", "1")] };
    assert!(store.transact(&txn, &mut Vec::new()).unwrap().succeeded);
    let again = store.transact(&txn, &mut Vec::new()).unwrap();
    assert_eq!(again, Done { revision: 3, ..Done::default() });
    assert_eq!(store.get(b"c").unwrap().version, 1);
}

#[test]
fn numbers_are_added_to_and_checked() {
    let mut store = Store::new();
    assert_eq!(do_all(&mut store, vec![increment("n", 5), increment("n", -7)]).unwrap().numbers, [5, -2]);
    assert_eq!(store.get(b"n").unwrap().value, "-2");
    for bad in ["", " 1", "1 ", "+1", "01", "-0", "--1", "1.0", "x", "9223372036854775808", "\u{661}"] {
        store.put(b"n", bad.as_bytes());
        assert_eq!(do_all(&mut store, vec![increment("n", 1)]), Err(Refusal::NotANumber), "{bad:?}");
    }
    for (text, by, sum) in [
        ("9223372036854775806", 1, Ok(i64::MAX)),
        ("9223372036854775807", 0, Ok(i64::MAX)),
        ("9223372036854775807", 1, Err(Refusal::Overflow)),
        ("-9223372036854775808", -1, Err(Refusal::Overflow)),
        ("-9223372036854775808", i64::MAX, Ok(-1)),
    ] {
        store.put(b"n", text.as_bytes());
        assert_eq!(do_all(&mut store, vec![increment("n", by)]).map(|done| done.numbers[0]), sum);
    }
}

#[test]
fn a_value_grows_up_to_the_limit_that_the_command_names() {
    let mut store = Store::new();
    store.put(b"a", b"123");
    assert_eq!(do_all(&mut store, vec![append("a", "4", 5)]).unwrap().numbers, [4]);
    assert_eq!(do_all(&mut store, vec![append("a", "5", 5)]).unwrap().numbers, [5]);
    assert_eq!(do_all(&mut store, vec![append("a", "6", 5)]), Err(Refusal::TooLarge));
    assert_eq!(do_all(&mut store, vec![append("b", "", 0)]).unwrap().numbers, [0]);
    assert_eq!(store.get(b"b").unwrap().value, "");
    store.put(b"a", &vec![0; FORMAT_VALUE_BYTES - 1]);
    assert!(do_all(&mut store, vec![append("a", "x", u64::MAX)]).is_ok());
    assert_eq!(do_all(&mut store, vec![append("a", "x", u64::MAX)]), Err(Refusal::TooLarge));
}

#[test]
fn an_operation_that_cannot_be_done_undoes_those_before_it() {
    let mut store = Store::new();
    store.put(b"word", b"x");
    let before = store.clone();
    let all = Operation::DeleteRange { start: "".into(), end: "".into() };
    for first in [put("a", "1"), delete("word"), increment("n", 1), all] {
        let refused = do_all(&mut store, vec![first, put("word", "x"), increment("word", 1)]);
        assert_eq!(refused, Err(Refusal::NotANumber));
        assert_eq!(store, before);
    }
}

#[test]
fn a_cleared_store_is_handed_out_whole() {
    let mut store = Store::new();
    for i in 0..100u8 {
        store.put(&[i], b"v");
    }
    let txn = Txn {
        compares: Vec::new(),
        operations: vec![Operation::DeleteRange { start: "".into(), end: "".into() }],
    };
    let mut cleared = Vec::new();
    let done = store.transact(&txn, &mut cleared).unwrap();
    assert_eq!((done.revision, done.deleted, store.payload_bytes()), (102, 100, 0));
    assert_eq!((cleared.len(), cleared[0].len()), (1, 100));
    assert_eq!(store.transact(&txn, &mut cleared).unwrap().revision, 102, "there was nothing");
}

/// What a naive store keeps: value, create revision, mod revision, version.
type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64, u64, u64)>;

/// The contract again, step by step and without sharing anything.
fn naive(model: &mut Model, revision: &mut u64, txn: &Txn) -> Result<Done, Refusal> {
    let mut done = Done { revision: *revision, ..Done::default() };
    for compare in &txn.compares {
        let found = model.get(&compare.key[..]);
        let holds = match compare.target {
            Target::ModRevision(0) => found.is_none(),
            Target::ModRevision(wanted) => found.is_some_and(|record| record.2 == wanted),
            Target::Exists(exists) => found.is_some() == exists,
        };
        if !holds {
            return Ok(done);
        }
    }
    let next = *revision + 1;
    let mut changed = model.clone();
    let mut any = false;
    for operation in &txn.operations {
        let set = |changed: &mut Model, key: &[u8], value: Vec<u8>| {
            let record = changed.entry(key.to_vec()).or_insert((Vec::new(), next, 0, 0));
            let version = if record.2 == next { record.3 } else { record.3 + 1 };
            *record = (value, record.1, next, version);
        };
        let old = |key: &Bytes| changed.get(&key[..]).map(|record| record.0.clone());
        match operation {
            Operation::Put { key, value } => set(&mut changed, key, value.to_vec()),
            Operation::Increment { key, by } => {
                let text = String::from_utf8(old(key).unwrap_or(b"0".to_vec())).unwrap_or("no".into());
                let number: i64 = text.parse().map_err(|_| Refusal::NotANumber)?;
                if number.to_string() != text {
                    return Err(Refusal::NotANumber);
                }
                let sum = i128::from(number) + i128::from(*by);
                let sum = i64::try_from(sum).map_err(|_| Refusal::Overflow)?;
                set(&mut changed, key, sum.to_string().into_bytes());
                done.numbers.push(sum);
            }
            Operation::Append { key, suffix, limit } => {
                let value = [&old(key).unwrap_or_default()[..], suffix].concat();
                if value.len() as u64 > *limit {
                    return Err(Refusal::TooLarge);
                }
                done.numbers.push(value.len() as i64);
                set(&mut changed, key, value);
            }
            Operation::Delete { .. } | Operation::DeleteRange { .. } => {
                let len = changed.len();
                changed.retain(|name, _| match operation {
                    Operation::Delete { key } => name != key,
                    Operation::DeleteRange { start, end } => {
                        name[..] < start[..] || (!end.is_empty() && name[..] >= end[..])
                    }
                    _ => unreachable!(),
                });
                done.deleted += (len - changed.len()) as u64;
                any |= changed.len() < len;
                continue;
            }
        }
        any = true;
    }
    *model = changed;
    *revision = if any { next } else { *revision };
    Ok(Done { revision: *revision, succeeded: true, ..done })
}

fn transactions() -> impl Strategy<Value = Vec<Txn>> {
    // Few different keys, so that they meet; the empty key among them.
    let key = || prop::sample::select(vec!["", "a", "ab", "b", "c"]).prop_map(Bytes::from);
    let value = prop::sample::select(vec!["", "0", "7", "-3", "9223372036854775807", "x", "01"]);
    let value = || value.clone().prop_map(Bytes::from);
    let target = prop_oneof![
        (0..40u64).prop_map(Target::ModRevision),
        Just(Target::ModRevision(0)),
        any::<bool>().prop_map(Target::Exists),
    ];
    let compare = (key(), target).prop_map(|(key, target)| Compare { key, target });
    let operation = prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        2 => key().prop_map(|key| Operation::Delete { key }),
        1 => (key(), key()).prop_map(|(start, end)| Operation::DeleteRange { start, end }),
        2 => (key(), -3..4i64).prop_map(|(key, by)| Operation::Increment { key, by }),
        2 => (key(), value(), 0..24u64)
            .prop_map(|(key, suffix, limit)| Operation::Append { key, suffix, limit }),
    ];
    let txn = (prop::collection::vec(compare, 0..2), prop::collection::vec(operation, 0..5))
        .prop_map(|(compares, operations)| Txn { compares, operations });
    prop::collection::vec(txn, 0..60)
}

proptest! {
    #[test]
    fn behaves_like_a_naive_map(transactions in transactions()) {
        let mut store = Store::new();
        let (mut model, mut revision) = (Model::new(), FIRST_REVISION);
        for txn in transactions {
            let expected = naive(&mut model, &mut revision, &txn);
            prop_assert_eq!(store.transact(&txn, &mut Vec::new()), expected, "{:?}", txn);
            let found: Model = store
                .iter()
                .map(|(k, r)| (k.to_vec(), (r.value.to_vec(), r.create_revision, r.mod_revision, r.version)))
                .collect();
            prop_assert_eq!(&found, &model);
            prop_assert_eq!(store.revision(), revision);
            let bytes: usize = model.iter().map(|(key, record)| key.len() + record.0.len()).sum();
            prop_assert_eq!(store.payload_bytes(), bytes as u64);
        }
    }
}
