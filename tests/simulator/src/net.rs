//! The network: links with delays, and everything that goes wrong on them.
//!
//! A connection keeps its order within a class (appends, everything else), as the transport's streams do, and ends
//! with the process at either end. While [`Trouble::Reordering`] lasts neither holds.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec;
use kvd_raftpb::peers::{PeerHandler as _, SnapshotStore as _};
use raft::eraftpb::{Message, MessageType};

use crate::fault::Fault;
use crate::plan::{MS, SECOND};
use crate::trace::{Level, Micros};
use crate::world::{Event, World};

/// Something that is wrong with the network for a while.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// These directed links are dead.
    Cut(Vec<(u64, u64)>),
    /// So many messages in a thousand get lost.
    Loss(u64),
    /// So many messages in a thousand arrive twice.
    Duplicates(u64),
    /// Messages overtake each other, and may reach the next process of a member.
    Reordering,
    /// Messages take up to so much longer.
    Delay(Micros),
    /// So many snapshots in a thousand break off.
    BrokenSnapshots(u64),
}

/// Something that is wrong at the moment.
#[derive(Debug)]
pub struct Active {
    /// What.
    pub trouble: Trouble,
    /// The fault that it is.
    pub fault: Fault,
    /// Whether anything came of it yet.
    pub felt: bool,
}

/// The state of all links.
#[derive(Debug, Default)]
pub struct Net {
    /// What is wrong, by a number that says when it ends.
    pub troubles: BTreeMap<u64, Active>,
    /// When the last message of a (from, to, class) arrives.
    last: BTreeMap<(u64, u64, bool), Micros>,
}

/// A message on its way.
#[derive(Debug)]
pub struct Packet {
    from: u64,
    from_life: u64,
    to: u64,
    to_life: u64,
    strict: bool,
    kind: MessageType,
    bytes: Bytes,
}

/// A snapshot on its way: the message, and the body that is read at its arrival.
pub struct Transfer {
    from: u64,
    from_life: u64,
    to: u64,
    message: Message,
    body: Option<Box<dyn std::io::Read + Send>>,
}

impl World {
    /// The first trouble that is wanted, and what is wanted of it.
    fn any<T>(&self, of: impl Fn(&Trouble) -> Option<T>) -> Option<(u64, T)> {
        self.net.troubles.iter().find_map(|(number, active)| Some((*number, of(&active.trouble)?)))
    }

    /// Something came of a trouble: the fault has happened.
    fn feel(&mut self, number: u64) {
        if let Some(active) = self.net.troubles.get_mut(&number).filter(|active| !active.felt) {
            active.felt = true;
            let fault = active.fault;
            self.happened(fault);
        }
    }

    /// Whether a link is cut, for something that was to take it.
    pub(crate) fn is_cut(&mut self, from: u64, to: u64) -> bool {
        let of = |t: &Trouble| matches!(t, Trouble::Cut(links) if links.contains(&(from, to))).then_some(());
        let Some((number, ())) = self.any(of) else { return false };
        self.feel(number);
        true
    }
}

impl World {
    /// Carries out what a member's core asked to send.
    pub(crate) fn send(&mut self, m: usize, messages: Vec<Message>) {
        for message in messages {
            let member = &mut self.members[m];
            if let Err(violation) = member.durable.sent(member.id, &message) {
                self.fail(violation);
                return;
            }
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(m, message);
            } else {
                self.send_message(m, &message);
            }
        }
    }

    fn send_message(&mut self, m: usize, message: &Message) {
        let (from, to) = (self.members[m].id, message.to);
        let kind = message.get_msg_type();
        self.trace.add(
            Level::Detail,
            self.now,
            from,
            format_args!(
                "-> {to} {kind:?} term {} index {} log term {} commit {} entries {}{}",
                message.term,
                message.index,
                message.log_term,
                message.commit,
                message.entries.len(),
                if message.reject { " rejected" } else { "" },
            ),
        );
        if to == 0 || to as usize > self.members.len() {
            self.fail(format!("member {from} sends to {to}, which never was"));
            return;
        }
        let lost = self.any(|t| if let Trouble::Loss(n) = t { Some(*n) } else { None });
        if self.is_cut(from, to) {
            self.count("messages cut off");
            self.maybe_unreachable(m, to);
            return;
        }
        if let Some((number, _)) = lost.filter(|(_, n)| self.rng.permille(*n)) {
            self.feel(number);
            self.count("messages lost");
            self.maybe_unreachable(m, to);
            return;
        }
        let mut bytes = BytesMut::new();
        codec::encode_message(message, &mut bytes);
        let bytes = bytes.freeze();
        let twice = self.any(|t| if let Trouble::Duplicates(n) = t { Some(*n) } else { None });
        let copies = if let Some((number, _)) = twice.filter(|(_, n)| self.rng.permille(*n)) {
            self.feel(number);
            self.count("messages duplicated");
            2
        } else {
            1
        };
        let reordering = self.any(|t| matches!(t, Trouble::Reordering).then_some(()));
        let class = (from, to, kind == MessageType::MsgAppend);
        for _ in 0..copies {
            let mut at = self.now + self.delay();
            let last = self.net.last.get(&class).copied().unwrap_or(0);
            if let Some((number, ())) = reordering {
                at += self.rng.within(0..200 * MS);
                if at < last {
                    self.feel(number);
                    self.count("messages reordered");
                }
            } else {
                at = at.max(last + 1);
            }
            self.net.last.insert(class, at.max(last));
            let packet = Packet {
                from,
                from_life: self.members[m].life,
                to,
                to_life: self.members[(to - 1) as usize].life,
                strict: reordering.is_none(),
                kind,
                bytes: bytes.clone(),
            };
            self.at(at, Event::Arrive(packet));
        }
    }

    pub(crate) fn delay(&mut self) -> Micros {
        let longer = self.any(|t| if let Trouble::Delay(n) = t { Some(*n) } else { None });
        let extra = match longer {
            Some((number, most)) => {
                self.feel(number);
                self.count("messages delayed");
                self.rng.within(0..most)
            }
            None => 0,
        };
        extra + self.rng.within(100..2 * MS)
    }

    /// The transport may or may not notice that a message did not arrive.
    fn maybe_unreachable(&mut self, m: usize, to: u64) {
        if self.rng.permille(300) {
            let life = self.members[m].life;
            let at = self.now + self.rng.within(1..50 * MS);
            self.at(at, Event::Unreachable { member: m, life, to });
        }
    }

    /// A message arrives, if there is somebody.
    pub(crate) fn arrive(&mut self, packet: Packet) {
        let (from, to) = ((packet.from - 1) as usize, (packet.to - 1) as usize);
        let same = self.members[to].life == packet.to_life && self.members[from].life == packet.from_life;
        if self.is_cut(packet.from, packet.to) {
            self.count("messages cut off");
            return;
        }
        if self.is_turned_away(packet.from, packet.to) {
            return;
        }
        if self.members[to].running.is_none() || (packet.strict && !same) {
            if self.members[from].life == packet.from_life {
                self.maybe_unreachable(from, packet.to);
            }
            return;
        }
        let message = match codec::decode_message(packet.bytes) {
            Ok(message) => message,
            Err(error) => {
                self.fail(format!("{:?} of member {} cannot be decoded: {error}", packet.kind, packet.from));
                return;
            }
        };
        if let Some(run) = &self.members[to].running {
            run.handle.deliver(packet.from, message);
        }
        self.wake(to);
    }

    /// Whether the receiver knows that the sender was removed: it tells it so, and takes nothing from it.
    pub(crate) fn is_turned_away(&mut self, from: u64, to: u64) -> bool {
        let (sender, receiver) = ((from - 1) as usize, (to - 1) as usize);
        let Some(run) = &self.members[receiver].running else { return false };
        if run.handle.membership().removed.binary_search(&from).is_err() {
            return false;
        }
        self.count("messages of removed members turned away");
        if !self.is_cut(to, from) {
            let life = self.members[sender].life;
            let at = self.now + self.rng.within(MS..50 * MS);
            self.at(at, Event::Removed { member: sender, life });
        }
        true
    }

    fn send_snapshot(&mut self, m: usize, message: Message) {
        let (from, to) = (self.members[m].id, message.to);
        let metadata = message.get_snapshot().get_metadata();
        let (term, index) = (metadata.term, metadata.index);
        self.count("snapshots sent");
        self.trace.add(
            Level::Story,
            self.now,
            from,
            format_args!("sends its snapshot of term {term}, index {index} to {to}"),
        );
        let Some(run) = &self.members[m].running else { return };
        // The transport opens the file when it gets to it, and may come too late for that.
        let body = run.snapshotter.open(term, index).ok().map(|(_, body)| body);
        if body.is_none() {
            self.count("snapshots gone before they were sent");
        }
        let at = self.now + 5 * self.delay() + self.rng.within(0..300 * MS);
        let from_life = self.members[m].life;
        self.at(at, Event::Transfer(Box::new(Transfer { from, from_life, to, message, body })));
    }

    /// A snapshot has come through, or not.
    pub(crate) fn transfer(&mut self, transfer: Transfer) {
        let Transfer { from, from_life, to, message, body } = transfer;
        let (sender, receiver) = ((from - 1) as usize, (to - 1) as usize);
        let lives = self.members[sender].life == from_life && self.members[sender].running.is_some();
        let received = lives
            && !self.is_cut(from, to)
            && !self.is_cut(to, from)
            && !self.is_turned_away(from, to)
            && body.is_some_and(|body| self.receive_snapshot(receiver, &message, body))
            && self.members[receiver].running.is_some();
        self.notice_power_loss(receiver);
        let received = received && self.members[receiver].running.is_some();
        self.trace.add(
            Level::Story,
            self.now,
            to,
            format_args!("{} a snapshot of {from}", if received { "received" } else { "did not receive" }),
        );
        if received {
            self.count("snapshots received");
            if let Some(run) = &self.members[receiver].running {
                run.handle.deliver(from, message);
            }
            self.wake(receiver);
        } else {
            self.count("snapshots that broke off");
        }
        if lives {
            // The sender learns of the end by the answer, or because the connection breaks.
            let at = self.now + self.rng.within(100..if received { 20 * MS } else { SECOND });
            self.at(at, Event::SnapshotReport { member: sender, life: from_life, to, received });
        }
    }

    fn receive_snapshot(
        &mut self,
        receiver: usize,
        message: &Message,
        mut body: Box<dyn std::io::Read + Send>,
    ) -> bool {
        let broken = self.any(|t| if let Trouble::BrokenSnapshots(n) = t { Some(*n) } else { None });
        let breaks = broken.filter(|(_, n)| self.rng.permille(*n));
        if self.members[receiver].running.is_some() {
            self.arm_interruption(receiver);
        }
        let paused = self.members[receiver].paused_until > self.now;
        let Some(run) = self.members[receiver].running.as_mut().filter(|_| !paused) else { return false };
        let metadata = message.get_snapshot().get_metadata();
        let Ok(mut sink) = run.snapshotter.receive(metadata.term, metadata.index) else { return false };
        let mut bytes = Vec::new();
        if body.read_to_end(&mut bytes).is_err() {
            return false;
        }
        if let Some((number, _)) = breaks {
            self.feel(number);
            let some = self.rng.index(bytes.len());
            let _ = sink.write_all(&bytes[..some]);
            return false;
        }
        // Both are bounded in the transport by what the receiver takes.
        sink.write_all(&bytes).is_ok() && sink.install().is_ok()
    }
}
