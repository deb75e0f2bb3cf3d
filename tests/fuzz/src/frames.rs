//! Frames of a peer's stream, cut anywhere, and the messages in them.
//!
//! ```text
//! limit u8 (as a power of two) | size of the pieces u8 | the stream
//! ```

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec::{decode_message, encode_message, message_len};
use kvd_transport::codec::{Decoder, Frame};

use crate::input::Input;
use crate::reference;

pub(crate) fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let limit = 1_u32 << (input.byte() % 32);
    let size = usize::from(input.byte()) + 1;
    let stream = Bytes::copy_from_slice(input.rest());
    let whole = frames(limit, [stream.clone()]);
    let cut = frames(limit, stream.chunks(size).map(|piece| stream.slice_ref(piece)));
    assert_eq!(whole, cut, "where a stream is cut makes no difference");
    for frame in whole.0 {
        let Frame::Message(bytes) = frame else { continue };
        assert!(bytes.len() <= limit as usize);
        reference::compare_message(&bytes);
        let Ok(message) = decode_message(bytes) else { continue };
        let mut again = BytesMut::new();
        encode_message(&message, &mut again);
        assert_eq!(message_len(&message), again.len());
        assert_eq!(decode_message(again.freeze()), Ok(message), "a message survives its encoding");
    }
}

/// The frames before the first error, and whether there was one.
fn frames(limit: u32, chunks: impl IntoIterator<Item = Bytes>) -> (Vec<Frame>, bool) {
    let mut decoder = Decoder::new(limit);
    let mut frames = Vec::new();
    for mut chunk in chunks {
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}
