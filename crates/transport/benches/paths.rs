//! Measures each path between two members against a bare TCP loop that carries the same frames, on loopback, in
//! alternating rounds on one thread.
//!
//! ```text
//! cargo bench -p kvd-transport --bench paths
//! ```
//! There are two bare loops. One writes frames that were encoded before, 1 MiB at a time, and counts the bytes that it
//! reads: what the sockets can do. The other encodes each message before, and decodes it after, as the transport has to:
//! what remains is the price of queues, HTTP and tasks.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kvd_raftpb::codec::decode_message;
use kvd_raftpb::node::{Member, Membership};
use kvd_transport::codec::{Decoder, Frame, encode_frame};
use kvd_transport::{Config, PeerHandler, Peers as _, SnapshotSink, SnapshotStore, Transport};
use raft::eraftpb::{Entry, Message, MessageType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 3;
/// Bytes in a round.
const ROUND_BYTES: usize = 64 << 20;
/// Messages that are sent together. Each has payloads of its own, or they would be encoded once for all.
const BURST: usize = 32;
/// Most messages, and most bytes, that are sent before the receiver has followed: half of what a queue takes.
const WINDOW: u64 = 2048;
const WINDOW_BYTES: usize = 32 << 20;
const SNAPSHOT_BYTES: u64 = 1 << 30;
const PINGS: usize = 2000;

#[derive(Default)]
struct Count {
    messages: AtomicU64,
    sent: AtomicU64,
    lost: AtomicU64,
    changed: Notify,
}

impl Count {
    async fn until(&self, messages: u64) {
        loop {
            let changed = self.changed.notified();
            if self.messages.load(Ordering::Relaxed) >= messages {
                return;
            }
            changed.await;
        }
    }
}

impl PeerHandler for Count {
    fn deliver(&self, _: u64, message: Message) {
        std::hint::black_box(&message);
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
    }
    fn report_unreachable(&self, _: u64) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
    fn report_snapshot(&self, _: u64, received: bool) {
        self.sent.fetch_add(u64::from(received), Ordering::Relaxed);
        self.lost.fetch_add(u64::from(!received), Ordering::Relaxed);
        self.changed.notify_one();
    }
    fn removed(&self) {}
    fn membership(&self) -> Option<Membership> {
        None
    }
}

/// A snapshot of zeros, which is not looked at where it arrives.
struct Zeros;

impl SnapshotStore for Zeros {
    fn open(&self, _: u64, _: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        Ok((SNAPSHOT_BYTES, Box::new(io::repeat(0).take(SNAPSHOT_BYTES))))
    }
    fn receive(&self, _: u64, _: u64) -> io::Result<Box<dyn SnapshotSink>> {
        Ok(Box::new(Nowhere))
    }
}

struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for Nowhere {
    fn install(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

struct Pair {
    a: Transport,
    b: Transport,
    at_a: Arc<Count>,
    at_b: Arc<Count>,
}

impl Pair {
    /// With streams, or with a second member that cannot dial the first, so that everything is posted.
    async fn start(streams: bool) -> Outcome<Pair> {
        let mut listeners = Vec::new();
        let mut members = Vec::new();
        for id in 1..=2 {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            let peer_urls = if streams || id == 2 { vec![url] } else { vec![] };
            members.push(Member { id, peer_urls, ..Member::default() });
            listeners.push(listener);
        }
        let members = Membership { cluster_id: 1, members, removed: vec![] };
        let mut transports = Vec::new();
        for (id, listener) in (1..).zip(listeners) {
            let config = Config { member_id: id, cluster_id: 1, ..Config::default() };
            let count = Arc::new(Count::default());
            let transport = Transport::start(config, count.clone(), Arc::new(Zeros), &members);
            transport.serve(listener);
            transports.push((transport, count));
        }
        let [(a, at_a), (b, at_b)] = <[_; 2]>::try_from(transports).map_err(|_| "two members")?;
        while streams && !(a.peers()[0].append_stream && a.peers()[0].message_stream) {
            tokio::task::yield_now().await;
        }
        Ok(Pair { a, b, at_a, at_b })
    }

    /// Sends so many messages and waits for the last.
    async fn carry(&self, burst: &[Message], frame: usize, count: u64) -> Outcome<Duration> {
        let window = WINDOW.min((WINDOW_BYTES / frame) as u64);
        let before = self.at_b.messages.load(Ordering::Relaxed);
        let start = Instant::now();
        let mut sent = 0;
        while sent < count {
            let n = (count - sent).min(burst.len() as u64);
            self.a.send(burst[..n as usize].to_vec());
            sent += n;
            self.at_b.until((before + sent).saturating_sub(window)).await;
        }
        self.at_b.until(before + count).await;
        let took = start.elapsed();
        match self.at_a.lost.load(Ordering::Relaxed) {
            0 => Ok(took),
            lost => Err(format!("{lost} reports of lost messages").into()),
        }
    }

    async fn snapshot(&self) -> Outcome<Duration> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (1, 2, 1);
        let metadata = message.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (1, 1);
        let before = self.at_a.sent.load(Ordering::Relaxed);
        let start = Instant::now();
        self.a.send(vec![message]);
        while self.at_a.sent.load(Ordering::Relaxed) == before {
            self.at_a.changed.notified().await;
        }
        Ok(start.elapsed())
    }

    /// The median time of one message from `send` to `deliver`, when nothing else is on its way.
    async fn latency(&self, message: &Message) -> Duration {
        let mut times = Vec::new();
        for _ in 0..PINGS {
            let before = self.at_b.messages.load(Ordering::Relaxed);
            let start = Instant::now();
            self.a.send(vec![message.clone()]);
            self.at_b.until(before + 1).await;
            times.push(start.elapsed());
        }
        median(times)
    }

    async fn stop(self) {
        self.a.stop().await;
        self.b.stop().await;
    }
}

fn append(entries: usize, payload: usize) -> Message {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (1, 1);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term, message.log_term) = (1, 2, 1, 1);
    // Copies of the payloads, not of the handles to them.
    let entries = (0..entries).map(|_| {
        entry.data = vec![7; payload].into();
        entry.clone()
    });
    message.set_entries(entries.collect::<Vec<_>>().into());
    message
}

fn heartbeat() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeatResponse);
    (message.from, message.to, message.term, message.commit) = (1, 2, 1, 1000);
    message
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Two ends of a connection.
async fn connection() -> Outcome<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (one, other) = (one?, other?.0);
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok((one, other))
}

/// Writes `chunk` until `total` bytes are written, and reads them at the other end.
async fn bare(chunk: Bytes, total: usize) -> Outcome<Duration> {
    let (mut one, mut other) = connection().await?;
    let start = Instant::now();
    let writer = tokio::spawn(async move {
        let mut left = total;
        while left > 0 {
            let n = left.min(chunk.len());
            one.write_all(&chunk[..n]).await?;
            left -= n;
        }
        Ok::<_, io::Error>(one)
    });
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    while read < total {
        read += other.read(&mut buffer).await?;
    }
    let took = start.elapsed();
    writer.await??;
    Ok(took)
}

/// Encodes messages and writes them, 1 MiB at a time, and decodes what comes out at the other end.
async fn bare_with_codec(burst: Vec<Message>, count: u64) -> Outcome<Duration> {
    let (mut one, mut other) = connection().await?;
    let start = Instant::now();
    let writer = tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        for i in 0..count {
            // The transport is given messages, so these are too.
            let message = burst[i as usize % burst.len()].clone();
            encode_frame(&message, u32::MAX, &mut buffer).map_err(io::Error::other)?;
            if buffer.len() >= 1 << 20 || i + 1 == count {
                one.write_all(&buffer.split()).await?;
            }
        }
        Ok::<_, io::Error>(one)
    });
    let mut decoder = Decoder::new(u32::MAX);
    let mut buffer = BytesMut::new();
    let mut read = 0;
    while read < count {
        buffer.reserve(64 << 10);
        other.read_buf(&mut buffer).await?;
        let mut chunk = buffer.split().freeze();
        while let Some(frame) = decoder.next(&mut chunk)? {
            if let Frame::Message(bytes) = frame {
                std::hint::black_box(decode_message(bytes)?);
                read += 1;
            }
        }
    }
    let took = start.elapsed();
    writer.await??;
    Ok(took)
}

/// Half the median time of one byte there and back.
async fn bare_latency() -> Outcome<Duration> {
    let (mut one, mut other) = connection().await?;
    let echo = tokio::spawn(async move {
        let mut byte = [0];
        while other.read_exact(&mut byte).await.is_ok() && other.write_all(&byte).await.is_ok() {}
    });
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let start = Instant::now();
        one.write_all(&[1]).await?;
        one.read_exact(&mut [0]).await?;
        times.push(start.elapsed() / 2);
    }
    drop(one);
    echo.await?;
    Ok(median(times))
}

/// A buffer of about 1 MiB, full of the message's frames.
fn frames(message: &Message) -> Outcome<(Bytes, usize)> {
    let mut out = BytesMut::new();
    encode_frame(message, u32::MAX, &mut out)?;
    let frame = out.len();
    while out.len() + frame <= 1 << 20 {
        encode_frame(message, u32::MAX, &mut out)?;
    }
    Ok((out.freeze(), frame))
}

/// The ratios are those of the times: bare, and bare with the codec.
fn show(what: &str, messages: u64, bytes: u64, took: Duration, bares: &[Duration]) {
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / (1 << 20) as f64;
    print!("{what:<34} {:>9.0} messages/s {:>6.0} MiB/s", messages as f64 / took.as_secs_f64(), rate(took));
    for bare in bares {
        print!("   {:>6.0} MiB/s {:>5.2}x", rate(*bare), took.as_secs_f64() / bare.as_secs_f64());
    }
    println!();
}

async fn path(what: &str, pair: &Pair, message: impl Fn() -> Message) -> Outcome<()> {
    let burst: Vec<Message> = (0..BURST).map(|_| message()).collect();
    let (chunk, frame) = frames(&burst[0])?;
    // Small messages are many: a round of them need not be as many bytes.
    let count = (ROUND_BYTES / frame).min(300_000) as u64;
    let total = count as usize * frame;
    pair.carry(&burst, frame, count / 10).await?;
    let (mut ours, mut theirs, mut with_codec) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(pair.carry(&burst, frame, count).await?);
        theirs.push(bare(chunk.clone(), total).await?);
        with_codec.push(bare_with_codec(burst.clone(), count).await?);
    }
    show(what, count, total as u64, median(ours), &[median(theirs), median(with_codec)]);
    Ok(())
}

async fn run() -> Outcome<()> {
    println!("{:<34} {:>9} {:>20}   {:>18}   {:>18}", "path", "", "the transport", "bare", "bare with codec");
    let pair = Pair::start(true).await?;
    path("append stream, 1 entry of 256 B", &pair, || append(1, 256)).await?;
    path("append stream, 100 entries of 256 B", &pair, || append(100, 256)).await?;
    path("append stream, 1 entry of 64 KiB", &pair, || append(1, 64 << 10)).await?;
    path("message stream", &pair, heartbeat).await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(pair.snapshot().await?);
        theirs.push(bare(vec![0; 128 << 10].into(), SNAPSHOT_BYTES as usize).await?);
    }
    show("snapshot", 1, SNAPSHOT_BYTES, median(ours), &[median(theirs)]);
    println!(
        "latency at idle: message {:?}, append {:?}; bare {:?}",
        pair.latency(&heartbeat()).await,
        pair.latency(&append(1, 256)).await,
        bare_latency().await?
    );
    pair.stop().await;

    let pair = Pair::start(false).await?;
    path("pipeline, 1 entry of 256 B", &pair, || append(1, 256)).await?;
    path("pipeline, 100 entries of 256 B", &pair, || append(100, 256)).await?;
    println!("latency at idle: posted append {:?}", pair.latency(&append(1, 256)).await);
    pair.stop().await;
    Ok(())
}

fn main() -> Outcome<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}
