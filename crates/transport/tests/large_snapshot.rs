//! A snapshot that is larger than any memory that is taken for it. Alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as the test does")]

mod support;

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvd_transport::{Peers as _, SnapshotSink, SnapshotStore, Transport};
use raft::eraftpb::MessageType::MsgAppend;
use support::*;
use tokio::net::TcpListener;

const BYTES: u64 = 1 << 30;
const EXTRA_MEMORY: u64 = 64 << 20;
const BLOCK: usize = 64 << 10;

/// Makes the snapshot while it is read, and takes one apart while it is written: neither has it in memory.
struct Endless {
    received: Arc<Mutex<Option<u64>>>,
}

/// The bytes of a block: its number, over and over.
fn fill(block: &mut [u8], number: u64) {
    block.chunks_exact_mut(8).for_each(|eight| eight.copy_from_slice(&number.to_le_bytes()));
}

struct Source {
    block: Vec<u8>,
    at: u64,
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let within = (self.at % BLOCK as u64) as usize;
        if within == 0 {
            fill(&mut self.block, self.at / BLOCK as u64);
        }
        let left = usize::try_from(BYTES - self.at).unwrap_or(usize::MAX);
        let n = out.len().min(BLOCK - within).min(left);
        out[..n].copy_from_slice(&self.block[within..within + n]);
        self.at += n as u64;
        Ok(n)
    }
}

struct Sink {
    want: Source,
    scratch: Vec<u8>,
    received: Arc<Mutex<Option<u64>>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.scratch.len());
        self.want.read_exact(&mut self.scratch[..n])?;
        match self.scratch[..n] == bytes[..n] {
            true => Ok(n),
            false => Err(io::Error::other(format!("other bytes before {}", self.want.at))),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SnapshotSink for Sink {
    fn install(self: Box<Self>) -> io::Result<()> {
        *self.received.lock().unwrap() = Some(self.want.at);
        Ok(())
    }
}

impl SnapshotStore for Endless {
    fn open(&self, _: u64, _: u64) -> io::Result<(u64, Box<dyn Read + Send>)> {
        Ok((BYTES, Box::new(Source { block: vec![0; BLOCK], at: 0 })))
    }
    fn receive(&self, _: u64, _: u64) -> io::Result<Box<dyn SnapshotSink>> {
        let (want, scratch) = (Source { block: vec![0; BLOCK], at: 0 }, vec![0; BLOCK]);
        Ok(Box::new(Sink { want, scratch, received: self.received.clone() }))
    }
}

/// This process's memory, in bytes: what is resident now, or the most that was since [`forget_the_peak`].
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

fn forget_the_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[tokio::test]
async fn a_gibibyte_is_sent_in_little_memory_while_writes_go_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(None));
    let store = Arc::new(Endless { received: received.clone() });
    let (sender, receiver) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    let on_a = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let a_url = format!("http://{}", on_a.local_addr().unwrap());
    let b =
        Transport::start(config(2), receiver.clone(), store.clone(), &membership(&[(1, vec![a_url])], &[]));
    b.serve(listener);
    let a = Transport::start(config(1), sender.clone(), store, &membership(&[(2, vec![url])], &[]));
    a.serve(on_a);
    soon("the streams are up", async {
        while !a.peers()[0].append_stream {
            tokio::task::yield_now().await;
        }
    })
    .await;

    forget_the_peak();
    let before = memory("VmRSS:");
    let start = Instant::now();
    a.send(vec![snapshot(1, 2, 1, 1)]);
    let mut writes = 0;
    let wait = async {
        while sender.events().is_empty() {
            writes += 1;
            a.send(vec![append(1, 2, writes, 256)]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(300), wait).await.unwrap();
    let (took, extra) = (start.elapsed(), memory("VmHWM:").saturating_sub(before));
    println!("{took:?}, {} KiB of extra memory, {writes} writes beside", extra >> 10);
    assert_eq!(sender.events(), [Event::Snapshot(2, true)]);
    assert_eq!(*received.lock().unwrap(), Some(BYTES));
    assert!(extra < EXTRA_MEMORY, "{extra} bytes");
    receiver
        .until("the writes arrived too", |events| indexes(events, MsgAppend).len() as u64 == writes)
        .await;
    same(&receiver.delivered(MsgAppend), &(1..=writes).collect::<Vec<_>>());
    a.stop().await;
    b.stop().await;
}
