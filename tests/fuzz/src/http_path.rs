//! The path of a request, up to the key or the member's id.

/// The door's own source: it is none of its public items.
#[path = "../../../crates/http-api/src/path.rs"]
#[allow(dead_code, unreachable_pub)]
mod door_path;

use door_path::{decode, member_id, reserved};

pub(crate) fn run(input: &[u8]) {
    let Ok(path) = std::str::from_utf8(input) else { return };
    let Some(decoded) = decode(path) else {
        assert!(path.contains('%'), "only an escape can be wrong");
        return;
    };
    assert!(decoded.len() <= path.len(), "an escape is longer than its byte");
    let escaped: String = decoded.iter().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(decode(&format!("/{escaped}")), Some(decoded.clone()), "an escaped key is the same key");
    if let Some((segment, rest)) = reserved(&decoded) {
        assert_eq!([segment.as_bytes(), rest].concat(), *decoded);
        assert!(rest.is_empty() || rest[0] == b'/');
    }
    if let Some(id) = member_id(&decoded) {
        assert!(decoded.ends_with(id.to_string().as_bytes()));
    }
}
