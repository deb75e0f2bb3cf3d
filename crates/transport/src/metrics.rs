//! What the transport counts. Names are etcd's where etcd has one; peers are labelled by their decimal id.

use kvd_raftpb::peers::CallError;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::outbox::Class;

type One = [(&'static str, String); 1];
type Two = [(&'static str, String); 2];

/// The transport's series. Cloning gives another handle to the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    sent_bytes: Family<One, Counter>,
    received_bytes: Family<One, Counter>,
    sent_failures: Family<One, Counter>,
    received_failures: Family<One, Counter>,
    active_peers: Family<Two, Gauge>,
    messages_sent: Family<Two, Counter>,
    messages_received: Family<Two, Counter>,
    posts: Family<Two, Counter>,
    streams: Family<Two, Gauge>,
    dropped: Family<Two, Counter>,
    refused_frames: Family<Two, Counter>,
    refused_requests: Family<One, Counter>,
    snapshots_sent: Family<Two, Counter>,
    snapshots_received: Family<Two, Counter>,
    dial_failures: Family<One, Counter>,
    calls: Family<Two, Counter>,
    calls_answered: Family<Two, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    /// Messages for somebody who is not a member. They get no label: ids from outside must not grow the page.
    pub(crate) unknown_recipients: Counter,
}

/// Why a message was dropped before it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// The queue of its peer and class is full.
    QueueFull,
    /// The peer has not dialled this class's stream, or lost it, and nothing can be posted at the moment.
    NoStream,
    /// Posting it failed. The peer may have it.
    NotPosted,
    /// Its frame would be longer than the limit.
    TooLarge,
    /// The transport is stopping, or the peer was removed.
    Stopped,
}

impl DropReason {
    const ALL: [(DropReason, &'static str); 5] = [
        (DropReason::QueueFull, "queue_full"),
        (DropReason::NoStream, "no_stream"),
        (DropReason::NotPosted, "not_posted"),
        (DropReason::TooLarge, "too_large"),
        (DropReason::Stopped, "stopped"),
    ];
}

/// Why a frame was dropped after it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// Its length is beyond the limit; the stream was closed too.
    TooLong,
    /// It does not parse, or holds an unknown type.
    Malformed,
    /// Its message is from another member than the stream.
    Sender,
    /// Its message is for another member.
    Recipient,
    /// A snapshot's message, which belongs on a connection of its own.
    Snapshot,
    /// It came in a post, after what was sent later, and its order matters.
    Overtaken,
}

impl FrameFault {
    const ALL: [(FrameFault, &'static str); 6] = [
        (FrameFault::TooLong, "too_long"),
        (FrameFault::Malformed, "malformed"),
        (FrameFault::Sender, "wrong_sender"),
        (FrameFault::Recipient, "wrong_recipient"),
        (FrameFault::Snapshot, "snapshot"),
        (FrameFault::Overtaken, "overtaken"),
    ];
}

/// The way that a message took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// The stream of appends.
    Append,
    /// The stream of everything else.
    Message,
    /// A post.
    Pipeline,
    /// A snapshot's connection.
    Snapshot,
}

impl Path {
    const ALL: [(Path, &'static str); 4] = [
        (Path::Append, "msgapp"),
        (Path::Message, "message"),
        (Path::Pipeline, "pipeline"),
        (Path::Snapshot, "snapshot"),
    ];

    pub(crate) fn of(class: Class) -> Path {
        match class {
            Class::Append => Path::Append,
            Class::Message => Path::Message,
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    NotDone,
    Unknown,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 3] =
        [(Outcome::Ok, "ok"), (Outcome::NotDone, "not_done"), (Outcome::Unknown, "unknown")];

    pub(crate) fn of<T>(result: &Result<T, CallError>) -> Outcome {
        match result {
            Ok(_) => Outcome::Ok,
            Err(CallError::NotDone { .. }) => Outcome::NotDone,
            Err(CallError::Unknown { .. }) => Outcome::Unknown,
        }
    }
}

/// The numbers of one peer, looked up once: the hot path only adds.
#[derive(Debug)]
pub(crate) struct PeerMetrics {
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) active: Gauge,
    pub(crate) dial_failures: Counter,
    sent_failures: Counter,
    received_failures: Counter,
    messages_sent: [Counter; Path::ALL.len()],
    messages_received: [Counter; Path::ALL.len()],
    posts: [Counter; 2],
    streams: [Gauge; Class::ALL.len()],
    dropped: [Counter; DropReason::ALL.len()],
    refused: [Counter; FrameFault::ALL.len()],
    snapshots_sent: [Counter; 2],
    snapshots_received: [Counter; 2],
    calls: [Counter; Outcome::ALL.len()],
    calls_answered: [Counter; Outcome::ALL.len()],
}

impl PeerMetrics {
    pub(crate) fn dropped(&self, reason: DropReason, messages: usize) {
        self.sent_failures.inc_by(messages as u64);
        self.dropped[reason as usize].inc_by(messages as u64);
    }

    pub(crate) fn sent(&self, path: Path, messages: usize) {
        self.messages_sent[path as usize].inc_by(messages as u64);
    }

    pub(crate) fn received(&self, path: Path) {
        self.messages_received[path as usize].inc();
    }

    pub(crate) fn posted(&self, ok: bool) {
        self.posts[usize::from(ok)].inc();
    }

    pub(crate) fn stream(&self, class: Class, attached: bool) {
        self.streams[class as usize].set(attached.into());
    }

    pub(crate) fn refused(&self, fault: FrameFault) {
        self.received_failures.inc();
        self.refused[fault as usize].inc();
    }

    pub(crate) fn snapshot_sent(&self, ok: bool) {
        self.snapshots_sent[usize::from(ok)].inc();
    }

    pub(crate) fn called(&self, outcome: Outcome) {
        self.calls[outcome as usize].inc();
    }

    pub(crate) fn answered(&self, outcome: Outcome) {
        self.calls_answered[outcome as usize].inc();
    }

    pub(crate) fn snapshot_received(&self, ok: bool) {
        self.snapshots_received[usize::from(ok)].inc();
    }
}

impl Metrics {
    /// Registers every series. Call it once for each registry.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry;
        let network = r.sub_registry_with_prefix("etcd_network");
        network.register_with_unit(
            "peer_sent",
            "Bytes written to a peer's streams and snapshots",
            Unit::Bytes,
            self.sent_bytes.clone(),
        );
        network.register_with_unit(
            "peer_received",
            "Bytes read from a peer's streams and snapshots",
            Unit::Bytes,
            self.received_bytes.clone(),
        );
        network.register(
            "peer_sent_failures",
            "Messages to a peer that were dropped",
            self.sent_failures.clone(),
        );
        network.register(
            "peer_received_failures",
            "Frames from a peer that were refused",
            self.received_failures.clone(),
        );
        network.register(
            "active_peers",
            "1 while the peer's message stream is read",
            self.active_peers.clone(),
        );
        let own = r.sub_registry_with_prefix("kvd_transport");
        own.register("messages_sent", "Messages written to a peer, by path", self.messages_sent.clone());
        own.register(
            "messages_received",
            "Messages delivered from a peer, by path",
            self.messages_received.clone(),
        );
        own.register("posts", "Posts to a peer without a stream, by outcome", self.posts.clone());
        own.register("streams", "1 while the peer holds the stream to it", self.streams.clone());
        own.register("messages_dropped", "Messages that were not sent, by reason", self.dropped.clone());
        own.register(
            "frames_refused",
            "Frames that were not delivered, by reason",
            self.refused_frames.clone(),
        );
        own.register(
            "requests_refused",
            "Requests that were refused, by status",
            self.refused_requests.clone(),
        );
        own.register("snapshots_sent", "Snapshots sent, by outcome", self.snapshots_sent.clone());
        own.register("snapshots_received", "Snapshots received, by outcome", self.snapshots_received.clone());
        own.register("calls", "Calls to a peer, by outcome", self.calls.clone());
        own.register("calls_answered", "Calls of a peer, by outcome", self.calls_answered.clone());
        own.register("dial_failures", "Dials that brought no stream", self.dial_failures.clone());
        own.register(
            "unknown_recipients",
            "Messages that were not sent, their recipient being no member",
            self.unknown_recipients.clone(),
        );
        own.register(
            "connections_refused",
            "Connections closed at once because there were too many",
            self.connections_refused.clone(),
        );
        own.register("connections", "Connections that the listener holds", self.connections.clone());
    }

    pub(crate) fn peer(&self, local: u64, id: u64) -> PeerMetrics {
        let id = id.to_string();
        let one = |label| [(label, id.clone())];
        let two = |label, other, value: &str| [(label, id.clone()), (other, value.to_owned())];
        let outcomes = OUTCOMES.map(|outcome| two("Peer", "Outcome", outcome));
        PeerMetrics {
            sent_bytes: self.sent_bytes.get_or_create_owned(&one("To")),
            received_bytes: self.received_bytes.get_or_create_owned(&one("From")),
            active: self.active_peers.get_or_create_owned(&active_labels(local, &id)),
            dial_failures: self.dial_failures.get_or_create_owned(&one("To")),
            sent_failures: self.sent_failures.get_or_create_owned(&one("To")),
            received_failures: self.received_failures.get_or_create_owned(&one("From")),
            messages_sent: Path::ALL
                .map(|(_, name)| self.messages_sent.get_or_create_owned(&two("To", "Path", name))),
            messages_received: Path::ALL
                .map(|(_, name)| self.messages_received.get_or_create_owned(&two("From", "Path", name))),
            posts: OUTCOMES.map(|name| self.posts.get_or_create_owned(&two("To", "Outcome", name))),
            streams: Class::ALL
                .map(|class| self.streams.get_or_create_owned(&two("To", "Stream", class.name()))),
            dropped: DropReason::ALL
                .map(|(_, name)| self.dropped.get_or_create_owned(&two("To", "Reason", name))),
            refused: FrameFault::ALL
                .map(|(_, name)| self.refused_frames.get_or_create_owned(&two("From", "Reason", name))),
            snapshots_sent: outcomes.clone().map(|labels| self.snapshots_sent.get_or_create_owned(&labels)),
            calls: Outcome::ALL.map(|(_, name)| self.calls.get_or_create_owned(&two("To", "Outcome", name))),
            calls_answered: Outcome::ALL
                .map(|(_, name)| self.calls_answered.get_or_create_owned(&two("From", "Outcome", name))),
            snapshots_received: outcomes.map(|labels| self.snapshots_received.get_or_create_owned(&labels)),
        }
    }

    /// Forgets the series of a peer that is gone, so that their number stays in proportion to the members.
    pub(crate) fn forget_peer(&self, local: u64, id: u64) {
        let id = id.to_string();
        let one = |label| [(label, id.clone())];
        let two = |label, other, value: &str| [(label, id.clone()), (other, value.to_owned())];
        self.sent_bytes.remove(&one("To"));
        self.received_bytes.remove(&one("From"));
        self.active_peers.remove(&active_labels(local, &id));
        self.dial_failures.remove(&one("To"));
        self.sent_failures.remove(&one("To"));
        self.received_failures.remove(&one("From"));
        for (_, name) in DropReason::ALL {
            self.dropped.remove(&two("To", "Reason", name));
        }
        for (_, name) in Path::ALL {
            self.messages_sent.remove(&two("To", "Path", name));
            self.messages_received.remove(&two("From", "Path", name));
        }
        for class in Class::ALL {
            self.streams.remove(&two("To", "Stream", class.name()));
        }
        for (_, name) in FrameFault::ALL {
            self.refused_frames.remove(&two("From", "Reason", name));
        }
        for (_, name) in Outcome::ALL {
            self.calls.remove(&two("To", "Outcome", name));
            self.calls_answered.remove(&two("From", "Outcome", name));
        }
        for outcome in OUTCOMES {
            self.posts.remove(&two("To", "Outcome", outcome));
            self.snapshots_sent.remove(&two("Peer", "Outcome", outcome));
            self.snapshots_received.remove(&two("Peer", "Outcome", outcome));
        }
    }

    pub(crate) fn refused_request(&self, status: u16) {
        self.refused_requests.get_or_create(&[("Status", status.to_string())]).inc();
    }
}

/// How a snapshot ended, indexed by whether it went well.
const OUTCOMES: [&str; 2] = ["failed", "ok"];

fn active_labels(local: u64, id: &str) -> Two {
    [("Local", local.to_string()), ("Remote", id.to_owned())]
}
