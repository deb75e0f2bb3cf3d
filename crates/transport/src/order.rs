//! What keeps the order of a class when its messages change between stream and posts.
//!
//! A sender numbers its streams and posts of a class in the order in which they take messages from the queue, and says
//! the number ([`Place`]) in the head of each. The receiver remembers the newest that it has heard of ([`Inbound`]):
//!
//! - what is left in a stream is dropped once a later post has arrived: the sender has given the stream up;
//! - what an overtaken post carries is dropped if its order matters ([`order_matters`]), and delivered if not.
//!
//! So appends, and the answers to them, reach raft in the order in which they were sent, with gaps. That is what raft
//! needs: in version 0.7 a rejection that comes after a later acknowledgement takes `next_idx` below `matched`. A vote or
//! a heartbeat that comes late is no worse than one that was slow.

use std::sync::Mutex;

use raft::eraftpb::{Message, MessageType};

use crate::lock;

/// A place in the order of one sender and class. A later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    /// When the sender's transport started, in milliseconds of its clock since 1970: numbers begin anew with it.
    pub(crate) boot: u64,
    /// Counts streams and posts.
    pub(crate) number: u64,
}

/// Whether a message must not come after one that was sent later.
pub(crate) fn order_matters(message: &Message) -> bool {
    matches!(message.get_msg_type(), MessageType::MsgAppend | MessageType::MsgAppendResponse)
}

/// How far one sender has come in one class.
#[derive(Debug, Default)]
pub(crate) struct Inbound(Mutex<Place>);

impl Inbound {
    /// A stream of that place was dialled and answered just now. False if a later post has arrived.
    pub(crate) fn begin_stream(&self, place: Place) -> bool {
        let mut newest = lock(&self.0);
        // Another boot than before is a later one, even if the sender's clock has been set back: it answered just now.
        let current = place.boot != newest.boot || place >= *newest;
        if current {
            *newest = place;
        }
        current
    }

    /// Delivers what came in the stream of that place. `None`, and nothing is delivered, if a post has overtaken it.
    pub(crate) fn in_stream<T>(&self, place: Place, deliver: impl FnOnce() -> T) -> Option<T> {
        let newest = lock(&self.0);
        (*newest == place).then(deliver)
    }

    /// Delivers what came in the post of that place: all of it, or if the post was overtaken (the argument is true),
    /// what may be late.
    pub(crate) fn in_post(&self, place: Place, deliver: impl FnOnce(bool)) {
        let mut newest = lock(&self.0);
        let overtaken = place < *newest;
        if !overtaken {
            *newest = place;
        }
        deliver(overtaken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(boot: u64, number: u64) -> Place {
        Place { boot, number }
    }

    fn overtaken(inbound: &Inbound, place: Place) -> bool {
        let mut answer = false;
        inbound.in_post(place, |overtaken| answer = overtaken);
        answer
    }

    #[test]
    fn a_post_ends_the_stream_before_it_and_is_overtaken_by_the_stream_after_it() {
        let inbound = Inbound::default();
        assert!(inbound.begin_stream(place(5, 1)));
        assert!(inbound.in_stream(place(5, 1), || ()).is_some());
        assert!(!overtaken(&inbound, place(5, 2)));
        assert_eq!(inbound.in_stream(place(5, 1), || panic!("what is left is dropped")), None::<()>);
        assert!(!inbound.begin_stream(place(5, 1)));
        assert!(inbound.begin_stream(place(5, 4)));
        assert!(overtaken(&inbound, place(5, 3)));
        assert!(inbound.in_stream(place(5, 4), || ()).is_some());
    }

    #[test]
    fn posts_may_overtake_each_other() {
        let inbound = Inbound::default();
        assert!(!overtaken(&inbound, place(5, 2)));
        assert!(!overtaken(&inbound, place(5, 2)), "a second part of the same");
        assert!(overtaken(&inbound, place(5, 1)));
        assert!(!overtaken(&inbound, place(5, 3)));
    }

    #[test]
    fn a_restart_begins_anew() {
        let inbound = Inbound::default();
        assert!(!overtaken(&inbound, place(5, 9)));
        assert!(!overtaken(&inbound, place(6, 1)));
        assert!(overtaken(&inbound, place(5, 10)), "of the process before");
        // With a clock that was set back, a stream sets it right.
        assert!(overtaken(&inbound, place(3, 1)));
        assert!(inbound.begin_stream(place(3, 2)));
        assert!(!overtaken(&inbound, place(3, 3)));
    }
}
