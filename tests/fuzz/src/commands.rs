//! Commands of the store, decoded and applied: pieces, each a command.

use bytes::Bytes;
use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::{Kv, Shared, snapshot};
use kvd_node::{StateMachine as _, View as _};

use crate::input::Input;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut commands = Vec::new();
    while !input.is_empty() {
        commands.push(Bytes::copy_from_slice(input.piece()));
    }
    for bytes in &commands {
        if let Ok(command) = Command::decode(bytes.clone()) {
            assert_eq!(Command::decode(command.clone().encode()), Ok(command));
        }
        if let Some(response) = Response::decode(bytes.clone()) {
            assert_eq!(Response::decode(response.clone().encode()), Some(response));
        }
    }
    let (together, one_by_one) = (Shared::new(), Shared::new());
    let mut member = Kv::new(together.clone());
    let responses = member.apply(&commands, 1);
    let mut other = Kv::new(one_by_one.clone());
    let again: Vec<_> =
        commands.iter().flat_map(|command| other.apply(std::slice::from_ref(command), 1)).collect();
    assert_eq!(responses, again, "a batch is its commands in order");
    assert!(responses.iter().all(|response| Response::decode(response.clone()).is_some()));
    assert_eq!(*together.read(), *one_by_one.read());
    let mut bytes = Vec::new();
    member.freeze().write(&mut bytes).expect("memory takes what is written");
    let restored = snapshot::read(&mut bytes.as_slice()).expect("what was written can be read");
    assert_eq!(restored, *together.read(), "whatever was applied fits into a snapshot");
}
