//! Committed commands to changes of the store.
//!
//! # Contract
//!
//! The store after an entry, and the responses, are a function of the store before it and of the entry's bytes, and of
//! nothing else: no clock, no randomness, no configuration of this member. Bytes that are no command get a refusal,
//! the same on every member, and change nothing; nothing here panics on input.

use std::io::{self, Read};
use std::thread::{self, JoinHandle};

use bytes::{Bytes, BytesMut};
use kvd_node::StateMachine;

use crate::command::{Command, Refusal, Response};
use crate::snapshot::{self, View};
use crate::store::{Cleared, Shared, Store};

/// The most keys that are freed on the node's loop, which takes some 5 ms; half a second for each million of them would
/// cost a member its leader.
const FREED_INLINE: usize = 10_000;
/// What a response takes, more or less.
const RESPONSE_BYTES: usize = 16;

/// The state machine that the node's loop drives. Whoever reads the store holds a clone of the [`Shared`] that this
/// one was made with.
#[derive(Debug)]
pub struct Kv {
    store: Shared,
    /// Frees what a snapshot has replaced or a command has cleared, and then awaits the thread before it: there is one for
    /// each such store, and the last stands for all.
    freeing: Option<JoinHandle<()>>,
}

impl Kv {
    /// A state machine that writes to `store`. There is one for each store.
    #[must_use]
    pub fn new(store: Shared) -> Self {
        Self { store, freeing: None }
    }
}

impl StateMachine for Kv {
    type View = View;
    type Restored = Store;

    fn apply(&mut self, commands: &[Bytes], _index: u64) -> Vec<Bytes> {
        let mut cleared = Vec::new();
        let mut encoded = BytesMut::with_capacity(commands.len() * RESPONSE_BYTES);
        let mut store = self.store.write();
        let responses = commands
            .iter()
            .map(|command| apply(&mut store, command, &mut cleared).encode_in(&mut encoded))
            .collect();
        drop(store);
        for cleared in cleared {
            self.free(cleared.len(), cleared);
        }
        responses
    }

    fn freeze(&mut self) -> View {
        View::new(self.store.read().clone())
    }

    fn restore(reader: &mut dyn Read) -> io::Result<Store> {
        Ok(snapshot::read(reader)?)
    }

    fn install(&mut self, restored: Store) {
        let replaced = std::mem::replace(&mut *self.store.write(), restored);
        self.free(replaced.len(), replaced);
    }
}

impl Kv {
    /// Drops what holds so many keys, off the node's loop if that takes long.
    fn free<T: Send + 'static>(&mut self, keys: usize, what: T) {
        if keys <= FREED_INLINE {
            return;
        }
        let before = self.freeing.take();
        // Where there can be no thread, the closure is dropped here, and what it holds with it.
        let thread = thread::Builder::new().name("kvd-free".into()).spawn(move || {
            drop(what);
            join(before);
        });
        self.freeing = thread.ok();
    }
}

/// Awaits a thread that only drops a map of bytes, which does not panic.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        let _ = thread.join();
    }
}

impl Drop for Kv {
    fn drop(&mut self) {
        join(self.freeing.take());
    }
}

fn apply(store: &mut Store, command: &Bytes, cleared: &mut Vec<Cleared>) -> Response {
    match Command::decode(command.clone()) {
        Ok(Command::Sequence(commands)) => {
            Response::Sequence(commands.into_iter().map(|command| one(store, Ok(command), cleared)).collect())
        }
        command => one(store, command, cleared),
    }
}

fn one(store: &mut Store, command: Result<Command, Refusal>, cleared: &mut Vec<Cleared>) -> Response {
    match command {
        Ok(Command::Put { key, value }) => Response::Put(store.put(&key, &value)),
        Ok(Command::Delete { key }) => Response::Delete(store.delete(&key)),
        Ok(Command::Txn(txn)) => match store.transact(&txn, cleared) {
            Ok(done) => Response::Txn(done),
            Err(refusal) => Response::Refused(refusal),
        },
        // There is none in a sequence: decoding refuses it.
        Ok(Command::Sequence(_)) => Response::Refused(Refusal::UnknownKind),
        Err(refusal) => Response::Refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use kvd_node::View as _;
    use proptest::prelude::*;

    use super::*;
    use crate::store::{Deleted, Written};
    use crate::txn::{Operation, Txn};

    fn put(key: &'static str, value: &'static str) -> Bytes {
        Command::Put { key: key.into(), value: value.into() }.encode()
    }

    fn delete(key: &'static str) -> Bytes {
        Command::Delete { key: key.into() }.encode()
    }

    fn responses(encoded: Vec<Bytes>) -> Vec<Response> {
        encoded.into_iter().map(|bytes| Response::decode(bytes).unwrap()).collect()
    }

    #[test]
    fn each_command_gets_its_response_in_order() {
        let shared = Shared::new();
        let mut kv = Kv::new(shared.clone());
        let batch = [put("a", "1"), Bytes::from_static(b"\xff"), delete("b"), put("a", "2"), delete("a")];
        let expected = vec![
            Response::Put(Written { revision: 2, version: 1 }),
            Response::Refused(Refusal::Malformed),
            Response::Delete(Deleted { revision: 2, existed: false }),
            Response::Put(Written { revision: 3, version: 2 }),
            Response::Delete(Deleted { revision: 4, existed: true }),
        ];
        assert_eq!(responses(kv.apply(&batch, 7)), expected);
        assert_eq!(shared.read().revision(), 4);
        assert!(kv.apply(&[], 8).is_empty());
    }

    #[test]
    fn each_command_of_a_sequence_has_its_own_fate() {
        let shared = Shared::new();
        let add = |by| {
            let operations = vec![Operation::Increment { key: "n".into(), by }];
            Command::Txn(Txn { compares: Vec::new(), operations })
        };
        let put = |value: &'static str| Command::Put { key: "n".into(), value: value.into() };
        let sequence = Command::Sequence(vec![add(1), put("x"), add(1), put("5"), add(2)]);
        let mut got = responses(Kv::new(shared.clone()).apply(&[sequence.encode()], 7));
        let Some(Response::Sequence(got)) = got.pop() else { panic!("a sequence") };
        assert_eq!(got[2], Response::Refused(Refusal::NotANumber));
        assert!(matches!(&got[4], Response::Txn(done) if (done.revision, done.numbers[0]) == (5, 7)));
        assert_eq!((got.len(), shared.read().revision()), (5, 5));
    }

    #[test]
    fn the_store_does_not_keep_an_entry_alive() {
        let shared = Shared::new();
        let mut kv = Kv::new(shared.clone());
        let entry = Bytes::from([put("key", "value"), put("other", "value")].concat());
        let first = put("key", "value").len();
        kv.apply(&[entry.slice(..first), entry.slice(first..)], 1);
        assert_eq!(shared.read().len(), 2);
        assert!(entry.is_unique());
    }

    #[test]
    fn a_frozen_view_is_not_written_to_and_can_be_installed_elsewhere() {
        let shared = Shared::new();
        let mut kv = Kv::new(shared.clone());
        kv.apply(&[put("a", "1")], 1);
        let view = kv.freeze();
        kv.apply(&[put("a", "2"), put("b", "2")], 2);
        let mut bytes = Vec::new();
        view.write(&mut bytes).unwrap();

        let other = Shared::new();
        let mut follower = Kv::new(other.clone());
        follower.apply(&[put("gone", "x")], 1);
        follower.install(Kv::restore(&mut bytes.as_slice()).unwrap());
        assert_eq!(other.read().get(b"a").unwrap().value, "1");
        assert!(other.read().get(b"gone").is_none());
        assert_eq!(other.read().revision(), 2);
        let second = [put("a", "2"), put("b", "2")];
        follower.apply(&second, 2);
        assert_eq!(*other.read(), *shared.read());
    }

    #[test]
    fn a_large_store_is_replaced_like_a_small_one() {
        for keys in [FREED_INLINE - 1, FREED_INLINE, FREED_INLINE + 1] {
            let shared = Shared::new();
            let mut kv = Kv::new(shared.clone());
            for i in 0..keys {
                shared.write().put(&i.to_be_bytes(), b"");
            }
            kv.install(Store::new());
            assert_eq!(kv.freeing.is_some(), keys > FREED_INLINE);
            assert_eq!(*shared.read(), Store::new());
        }
    }

    #[test]
    fn a_large_store_is_cleared_like_a_small_one() {
        let clear = Txn {
            compares: Vec::new(),
            operations: vec![Operation::DeleteRange { start: "".into(), end: "".into() }],
        };
        let clear = Command::Txn(clear).encode();
        let shared = Shared::new();
        let mut kv = Kv::new(shared.clone());
        for keys in [FREED_INLINE, FREED_INLINE + 1, FREED_INLINE + 1] {
            for i in 0..keys {
                shared.write().put(&i.to_be_bytes(), b"");
            }
            let Response::Txn(done) = responses(kv.apply(std::slice::from_ref(&clear), 7)).remove(0) else {
                panic!("a transaction")
            };
            assert_eq!(done.deleted, keys as u64);
            assert_eq!(kv.freeing.is_some(), keys > FREED_INLINE);
            assert!(shared.read().is_empty());
        }
    }

    proptest! {
        #[test]
        fn members_agree_whatever_the_bytes(
            commands in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..24).prop_map(Bytes::from),
                    ("[ab]{0,2}", any::<Vec<u8>>())
                        .prop_map(|(k, v)| Command::Put { key: k.into(), value: v.into() }.encode()),
                    "[ab]{0,2}".prop_map(|k| Command::Delete { key: k.into() }.encode()),
                    ("[ab]{0,2}", -9..9i64).prop_map(|(k, by)| {
                        let put = Operation::Put { key: "a".into(), value: k.clone().into() };
                        let operations = vec![put, Operation::Increment { key: k.into(), by }];
                        Command::Txn(Txn { compares: Vec::new(), operations }).encode()
                    }),
                ],
                0..40,
            ),
            cut in any::<prop::sample::Index>(),
        ) {
            // The same commands, in one entry here and in two entries there.
            let (one, two) = (Shared::new(), Shared::new());
            let whole = Kv::new(one.clone()).apply(&commands, 9);
            let cut = cut.index(commands.len() + 1);
            let mut other = Kv::new(two.clone());
            let mut parts = other.apply(&commands[..cut], 3);
            parts.extend(other.apply(&commands[cut..], 4));
            prop_assert_eq!(whole.len(), commands.len());
            prop_assert_eq!(whole, parts);
            prop_assert_eq!(&*one.read(), &*two.read());
        }
    }
}
