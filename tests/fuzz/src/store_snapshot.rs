//! The store's part of a snapshot's body. Option 1 in the first byte: magic and version are put in front.

use kvd_kvstore::snapshot::{self, VERSION, View};
use kvd_node::View as _;

use crate::input::Input;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut bytes = Vec::new();
    if input.byte() & 1 != 0 {
        bytes.extend_from_slice(b"KVDS");
        bytes.extend_from_slice(&VERSION.to_le_bytes());
    }
    bytes.extend_from_slice(input.rest());
    let Ok(store) = snapshot::read(&mut bytes.as_slice()) else { return };
    let mut again = Vec::new();
    View::new(store).write(&mut again).expect("memory takes what is written");
    assert_eq!(again, bytes, "a store has one form");
}
