//! The network between the members of a [`super::World`]: order is kept, and a rule of the test decides what is lost.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec;
use raft::eraftpb::Message;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Deliver,
    /// Lost, and nobody is told; but a snapshot's loss is reported, as the transport promises.
    Drop,
    /// Kept until [`Wire::release`].
    Hold,
    /// Delivered twice in a row.
    Twice,
}

type Rule = Box<dyn FnMut(u64, &Message) -> Fate>;

/// A message and the member that sent it, which need not be its `from`.
pub(crate) type Sent = (u64, Message);

#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) in_flight: VecDeque<Sent>,
    held: Vec<Sent>,
    rule: Option<Rule>,
    /// Members without any connection.
    pub(crate) cut: BTreeSet<u64>,
}

impl Wire {
    /// From now on `rule` decides, by sender and message.
    pub(crate) fn intercept(&mut self, rule: impl FnMut(u64, &Message) -> Fate + 'static) {
        self.rule = Some(Box::new(rule));
    }

    /// Everything is delivered again; what was held is next.
    pub(crate) fn release(&mut self) {
        self.rule = None;
        self.in_flight.extend(self.held.drain(..));
    }

    /// Everything is delivered again; what was held is lost.
    pub(crate) fn forget(&mut self) {
        self.rule = None;
        self.held.clear();
    }

    /// Takes a message on its way, in the form in which it would arrive.
    pub(crate) fn send(&mut self, from: u64, message: &Message) {
        let mut bytes = BytesMut::new();
        codec::encode_message(message, &mut bytes);
        let copy = codec::decode_message(Bytes::from(bytes)).expect("what was encoded can be decoded");
        self.in_flight.push_back((from, copy));
    }

    /// The next message to arrive and its fate. Held ones are put aside here.
    pub(crate) fn next(&mut self) -> Option<(u64, Message, Fate)> {
        loop {
            let (from, message) = self.in_flight.pop_front()?;
            match self.rule.as_mut().map_or(Fate::Deliver, |rule| rule(from, &message)) {
                Fate::Hold => self.held.push((from, message)),
                fate => return Some((from, message, fate)),
            }
        }
    }

    pub(crate) fn is_cut(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&a) || self.cut.contains(&b)
    }
}
