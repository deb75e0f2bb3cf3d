//! Requests at the Redis door, cut anywhere.
//!
//! ```text
//! limits u8 (as a power of two) | size of the pieces u8 | the bytes of a connection
//! ```

use bytes::{Bytes, BytesMut};
use kvd_resp_api::parse::{Limits, Parser, ProtocolError};

use crate::input::Input;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let most = 1_usize << (input.byte() % 20);
    let size = usize::from(input.byte()) + 1;
    let bytes = input.rest();
    let limits = Limits { arguments: most, argument_bytes: most, line_bytes: most, request_bytes: 4 * most };
    let whole = requests(limits, [bytes]);
    assert_eq!(whole, requests(limits, bytes.chunks(size)), "where a connection is cut makes no difference");
    for request in whole.0 {
        assert!((1..=most).contains(&request.len()), "a request has arguments, and no more than it may");
        assert!(request.iter().all(|argument| argument.len() <= most));
    }
}

/// The requests before the first error, and the error.
fn requests<'a>(
    limits: Limits,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Vec<Bytes>>, Option<ProtocolError>) {
    let (mut parser, mut buffer, mut requests) = (Parser::new(limits), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer) {
                Ok(Some(request)) => requests.push((0..request.len()).map(|at| request.keep(at)).collect()),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}
