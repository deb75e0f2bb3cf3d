//! A replicated counter: three members in one process, each on a thread of its own, disks in memory, no network.
//! `cargo run -p kvd-node --example counter`

use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};
use std::{error::Error, thread, time::Duration};

use bytes::Bytes;
use futures_channel::mpsc;
use futures_executor::block_on;
use kvd_node::{Config, Handle, Home, Membership, Start, StateMachine, View, cluster_id, initial_members};
use kvd_raftpb::peers::{PeerHandler, Peers};
use raft::eraftpb::Message;

/// A command adds its length. A frozen counter is a copy.
#[derive(Clone)]
struct Counter(u64);

impl StateMachine for Counter {
    type View = Counter;
    type Restored = u64;
    fn apply(&mut self, commands: &[Bytes], _index: u64) -> Vec<Bytes> {
        let add = |command: &Bytes| {
            self.0 += command.len() as u64;
            Bytes::from(self.0.to_string())
        };
        commands.iter().map(add).collect()
    }
    fn freeze(&mut self) -> Counter {
        self.clone()
    }
    fn restore(reader: &mut dyn Read) -> io::Result<u64> {
        let mut bytes = [0; 8];
        reader.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }
    fn install(&mut self, restored: u64) {
        self.0 = restored;
    }
}

impl View for Counter {
    fn write(self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.0.to_le_bytes())
    }
}

/// From a member into the others' queues. It carries no snapshots: nobody here falls that far behind.
struct Wires(u64, Arc<OnceLock<Vec<Handle>>>);

impl Peers for Wires {
    fn send(&self, messages: Vec<Message>) {
        let Some(handles) = self.1.get() else { return };
        messages.into_iter().for_each(|message| handles[message.to as usize - 1].deliver(self.0, message));
    }
    fn update(&self, _: &Membership) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let urls: Vec<String> = (1..=3).map(|id| format!("http://127.0.0.1:{id}")).collect();
    let start = Start::Initial { cluster_id: cluster_id(&urls), members: initial_members(&urls) };
    let (wires, mut handles) = (Arc::new(OnceLock::new()), Vec::new());
    for id in 1..=3 {
        let node = Home::open(kvd_vfs::MemDisk::new().disk(), "/".as_ref())?;
        let node = node.start(Config { segment_bytes: 1 << 20, ..Config::new(id) }, &start, Counter(0))?;
        handles.push(node.handle());
        let (peers, (clock, ticks)) = (Arc::new(Wires(id, wires.clone())), mpsc::unbounded());
        thread::spawn(move || block_on(node.run(peers, ticks)));
        let mut times = (1..).map(|tick| Duration::from_millis(10) * tick);
        let tick =
            move |time| (thread::sleep(Duration::from_millis(10)), clock.unbounded_send(time)).1.is_ok();
        thread::spawn(move || times.all(tick));
    }
    let _ = wires.set(handles.clone());
    for i in 0..9 {
        let counted = block_on(handles[i % 3].propose(Bytes::from_static(b"+"), Duration::from_secs(5)))?;
        println!("member {} counts {}", i % 3 + 1, String::from_utf8_lossy(&counted.response));
    }
    Ok(())
}
