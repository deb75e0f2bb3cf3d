//! The head of a server's answer, as `kvctl` reads it; its endpoints; and the paths that it makes of keys.

use kvctl::Endpoint;
use kvctl::http::{encode_path, parse_head};

pub(crate) fn run(input: &[u8]) {
    let whole = parse_head(input);
    if let Ok(Some(_)) = whole {
        for len in 0..input.len() {
            // What is cut off may be missing, but is never understood as something else that ends earlier.
            if let Ok(Some(_)) = parse_head(&input[..len]) {
                break;
            }
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    let path = encode_path(text);
    assert!(path.is_ascii() && !path.contains(['\r', '\n', ' ']), "a key never ends the request line");
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
}
