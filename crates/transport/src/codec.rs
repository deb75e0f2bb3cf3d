//! Frames: how messages lie in a stream and at the head of a snapshot.
//!
//! ```text
//! +----------------+---------------------------+
//! | length: u32 LE | prost raft.Message        |   length bytes
//! +----------------+---------------------------+
//! | 0 0 0 0        |                               a heartbeat: the stream is alive and idle
//! +----------------+
//! ```
//!
//! The length is held against the limit before memory is taken, and then memory is taken as bytes arrive: a peer that
//! announces much and sends little costs little. Each frame is copied into an allocation of exactly its length, because
//! the payloads of its entries go on sharing it for as long as the log keeps them; a slice of the socket's read buffer
//! would keep the whole buffer alive instead.
//!
//! ```
//! use kvd_transport::codec::{Decoder, Frame, encode_frame};
//!
//! let mut message = raft::eraftpb::Message::default();
//! message.to = 2;
//! let mut stream = bytes::BytesMut::new();
//! encode_frame(&message, 1000, &mut stream)?;
//! let Some(Frame::Message(bytes)) = Decoder::new(1000).next(&mut stream.freeze())? else { panic!() };
//! assert_eq!(kvd_raftpb::codec::decode_message(bytes)?, message);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvd_raftpb::codec::encode_message;
use raft::eraftpb::Message;

/// A frame with nothing in it.
pub const HEARTBEAT: [u8; 4] = [0; 4];

/// Memory that is taken for a frame on the word of its length alone, in bytes. Ordinary appends fit and are read into
/// one allocation.
const TRUSTED_BYTES: usize = 256 << 10;

/// A message whose frame would be longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes is longer than the limit of {max}")]
pub struct TooLong {
    /// Length of the message, in bytes.
    pub len: u64,
    /// The limit, in bytes.
    pub max: u32,
}

/// Appends a message's frame to `out`.
///
/// # Errors
/// [`TooLong`], if the message's encoding is longer than `max` bytes; then nothing is appended.
pub fn encode_frame(message: &Message, max: u32, out: &mut BytesMut) -> Result<(), TooLong> {
    let start = out.len();
    out.put_u32_le(0);
    encode_message(message, out);
    let len = out.len() - start - 4;
    match u32::try_from(len) {
        Ok(short) if short <= max => {
            out[start..start + 4].copy_from_slice(&short.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(TooLong { len: len as u64, max })
        }
    }
}

/// What a stream consists of.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Nothing but a sign of life.
    Heartbeat,
    /// The bytes of a message.
    Message(Bytes),
}

/// Takes frames out of chunks that were cut anywhere. One for each connection: its state never survives a reconnect.
#[derive(Debug)]
pub struct Decoder {
    max: u32,
    head: [u8; 4],
    head_len: usize,
    body: Vec<u8>,
    body_len: usize,
}

impl Decoder {
    /// A decoder that takes messages of at most `max` bytes.
    pub fn new(max: u32) -> Decoder {
        Decoder { max, head: [0; 4], head_len: 0, body: Vec::new(), body_len: 0 }
    }

    /// Takes the next frame from the front of `chunk`; `None` when `chunk` is used up before the frame is whole. Memory is
    /// taken as bytes arrive, never on the word of a length.
    ///
    /// # Errors
    /// [`TooLong`]: the stream cannot be read on.
    pub fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Frame>, TooLong> {
        if self.head_len < 4 {
            let n = chunk.len().min(4 - self.head_len);
            self.head[self.head_len..self.head_len + n].copy_from_slice(&chunk[..n]);
            chunk.advance(n);
            self.head_len += n;
            if self.head_len < 4 {
                return Ok(None);
            }
            let len = u32::from_le_bytes(self.head);
            if len > self.max {
                return Err(TooLong { len: len.into(), max: self.max });
            }
            if len == 0 {
                self.head_len = 0;
                return Ok(Some(Frame::Heartbeat));
            }
            self.body_len = len as usize;
            self.body = Vec::with_capacity(self.body_len.min(TRUSTED_BYTES));
        }
        let missing = self.body_len - self.body.len();
        let n = chunk.len().min(missing);
        if self.body.capacity() - self.body.len() < n {
            // At least doubles, so that copying stays linear, and never exceeds the frame.
            self.body.reserve_exact(n.max(self.body.len()).min(missing));
        }
        self.body.extend_from_slice(&chunk[..n]);
        chunk.advance(n);
        if n < missing {
            return Ok(None);
        }
        self.head_len = 0;
        let body = std::mem::take(&mut self.body).into_boxed_slice();
        Ok(Some(Frame::Message(Bytes::from(body))))
    }

    /// True between frames: a stream that ends elsewhere was cut.
    pub fn at_boundary(&self) -> bool {
        self.head_len == 0
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::*;

    fn message(payload: usize) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.to = 2;
        message.from = 1;
        message.context = vec![7; payload].into();
        message
    }

    fn frame(message: &Message) -> Bytes {
        let mut out = BytesMut::new();
        encode_frame(message, u32::MAX, &mut out).unwrap();
        out.freeze()
    }

    #[test]
    fn golden_bytes() {
        // type 8, to 2, from 1, context "\x07", after a length of 9.
        assert_eq!(&frame(&message(1))[..], [9, 0, 0, 0, 8, 8, 16, 2, 24, 1, 98, 1, 7]);
    }

    #[test]
    fn frames_survive_a_cut_at_every_byte() {
        let mut stream = BytesMut::new();
        stream.extend_from_slice(&frame(&message(3)));
        stream.extend_from_slice(&HEARTBEAT);
        stream.extend_from_slice(&frame(&message(40)));
        let stream = stream.freeze();
        for cut in 0..=stream.len() {
            let mut decoder = Decoder::new(1000);
            let mut got = Vec::new();
            for mut chunk in [stream.slice(..cut), stream.slice(cut..)] {
                while let Some(frame) = decoder.next(&mut chunk).unwrap() {
                    got.push(frame);
                }
                assert!(chunk.is_empty());
            }
            assert!(decoder.at_boundary());
            let want = [
                Frame::Message(frame(&message(3)).slice(4..)),
                Frame::Heartbeat,
                Frame::Message(frame(&message(40)).slice(4..)),
            ];
            assert_eq!(got, want, "cut at {cut}");
        }
    }

    #[test]
    fn a_truncated_frame_is_never_delivered() {
        let whole = frame(&message(20));
        for len in 1..whole.len() {
            let mut decoder = Decoder::new(1000);
            assert_eq!(decoder.next(&mut whole.slice(..len)).unwrap(), None);
            assert!(!decoder.at_boundary());
        }
    }

    #[test]
    fn the_limit_holds_on_both_sides() {
        let message = message(100);
        let whole = frame(&message);
        let len = u32::try_from(whole.len() - 4).unwrap();
        for (max, fits) in [(len - 1, false), (len, true), (len + 1, true)] {
            let mut out = BytesMut::from(&b"before"[..]);
            assert_eq!(encode_frame(&message, max, &mut out).is_ok(), fits);
            assert_eq!(out.len(), if fits { 6 + whole.len() } else { 6 });
            let got = Decoder::new(max).next(&mut whole.clone());
            assert_eq!(got.is_ok(), fits);
        }
    }

    #[test]
    fn memory_follows_the_bytes_and_not_the_announced_length() {
        let mut decoder = Decoder::new(u32::MAX);
        let mut chunk = Bytes::from_static(&[0, 0, 0, 255, 1, 2, 3]);
        assert_eq!(decoder.next(&mut chunk).unwrap(), None);
        assert!(decoder.body.capacity() <= TRUSTED_BYTES);

        for len in [TRUSTED_BYTES - 1, TRUSTED_BYTES, TRUSTED_BYTES + 1, 3 * TRUSTED_BYTES] {
            let mut decoder = Decoder::new(u32::MAX);
            let mut head = Bytes::from(u32::try_from(len).unwrap().to_le_bytes().to_vec());
            assert_eq!(decoder.next(&mut head).unwrap(), None);
            let mut sent = 0;
            let body = loop {
                let n = 1000.min(len - sent);
                sent += n;
                match decoder.next(&mut Bytes::from(vec![9; n])).unwrap() {
                    Some(Frame::Message(body)) => break body,
                    Some(Frame::Heartbeat) => panic!("no heartbeat was sent"),
                    None => assert!(decoder.body.capacity() <= len),
                }
            };
            assert_eq!(body.len(), len);
        }
    }
}
